//! Counters of a run that can be read while it goes on.
//!
//! They are no part of the report: results are added up separately. Written by every session, read
//! by `progress_line` and `timeline`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measures::{LatencyHistogram, ProgressUpdate, latency_histogram};

/// Counters of the whole process since its start.
#[derive(Debug)]
pub(crate) struct LiveCounters {
    /// Publishers that have connected.
    pub(crate) publishing: AtomicU64,
    /// Viewers that have connected.
    pub(crate) watching: AtomicU64,
    /// Viewers that had connected and have ended.
    pub(crate) left: AtomicU64,
    /// Sessions that failed.
    pub(crate) failed: AtomicU64,
    /// Times that a lost session was started again, whether it came back or not.
    pub(crate) restarted: AtomicU64,
    /// Packets that viewers received.
    pub(crate) packets: AtomicU64,
    /// Bytes of the packets received.
    pub(crate) bytes: AtomicU64,
    /// Packets lost, ramp and warm-up included.
    pub(crate) lost: AtomicU64,
    /// Packets lost within the window.
    pub(crate) counted_lost: AtomicU64,
    /// Broken frames within the window.
    pub(crate) broken: AtomicU64,
    /// The first failure of the run, until it is shown.
    first_failure: Mutex<Option<String>>,
    latencies: Mutex<LatencyHistogram>,
}

impl LiveCounters {
    /// Counters at zero.
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            publishing: zero(),
            watching: zero(),
            left: zero(),
            failed: zero(),
            restarted: zero(),
            packets: zero(),
            bytes: zero(),
            lost: zero(),
            counted_lost: zero(),
            broken: zero(),
            first_failure: Mutex::default(),
            latencies: Mutex::new(latency_histogram()),
        }
    }

    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    /// Subtracts from a counter.
    pub(crate) fn subtract(counter: &AtomicU64, less: u64) {
        counter.fetch_sub(less, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Counts the end of a session of `whom` (publisher or viewer), if it failed. The reason of the
    /// first one is shown at once: the others often have the same.
    pub(crate) fn note_end(&self, whom: &str, failure: Option<&str>) {
        let Some(failure) = failure else { return };
        let mut first = self.first_failure.lock().expect("nobody panics while holding it");
        if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
            *first = Some(format!("{whom}: {failure}"));
        }
    }

    /// Takes the first failure of the run, once.
    pub(crate) fn take_first_failure(&self) -> Option<String> {
        self.first_failure.lock().expect("nobody panics while holding it").take()
    }

    /// Adds what a viewer counted since its last update.
    pub(crate) fn add_progress(&self, update: ProgressUpdate) {
        for (counter, more) in [
            (&self.packets, update.packets),
            (&self.bytes, update.bytes),
            (&self.lost, update.lost),
            (&self.counted_lost, update.counted_lost),
            (&self.broken, update.broken),
        ] {
            Self::add(counter, more);
        }
        if !update.latencies_us.is_empty() {
            let mut latencies = self.latencies.lock().expect("nobody panics while holding it");
            for latency in update.latencies_us {
                latencies.saturating_record(latency);
            }
        }
    }

    /// Takes the latencies since the last call.
    pub(crate) fn take_latencies(&self) -> LatencyHistogram {
        let mut latencies = self.latencies.lock().expect("nobody panics while holding it");
        std::mem::replace(&mut latencies, latency_histogram())
    }

    /// Viewers that are connected now.
    pub(crate) fn connected_viewers(&self) -> u64 {
        Self::read(&self.watching).saturating_sub(Self::read(&self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_of_the_first_failure_is_taken_once_and_all_are_counted() {
        let live = LiveCounters::new();
        live.note_end("viewer", None);
        assert_eq!(live.take_first_failure(), None);
        live.note_end("publisher", Some("404 Not Found"));
        live.note_end("viewer", Some("no media"));
        assert_eq!(live.take_first_failure().as_deref(), Some("publisher: 404 Not Found"));
        live.note_end("viewer", Some("no media"));
        assert_eq!(live.take_first_failure(), None);
        assert_eq!(LiveCounters::read(&live.failed), 3);
    }
}
