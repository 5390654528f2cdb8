//! What an event loop measures of itself: waiting times at its sockets, delays of its timers, and
//! its CPU time.
//!
//! Written by `event_loop` and `media_session`, judged by `generator`.

use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

/// Messages and timers that a loop collects before it publishes them, because the lock and the copy
/// cost more than a message.
const PUBLISH_EVERY: u64 = 256;

/// An empty histogram for times up to one minute, with two significant digits.
fn histogram() -> Histogram<u32> {
    Histogram::new_with_max(60_000_000, 2).expect("these bounds are within the crate's")
}

/// Measurements of one event loop.
#[derive(Debug, Clone)]
pub(crate) struct LoopStats {
    /// Time from the kernel's receipt of a message to its reading, in microseconds.
    pub(crate) waited_us: Histogram<u32>,
    /// Time from a timer's deadline to its call, in microseconds.
    pub(crate) late_us: Histogram<u32>,
    /// Messages read, each of one or more datagrams.
    pub(crate) messages: u64,
    /// Datagrams read.
    pub(crate) datagrams: u64,
    /// Datagrams that the kernel refused to send.
    pub(crate) refused: u64,
}

impl LoopStats {
    /// Measurements of a loop that has done nothing.
    pub(crate) fn new() -> Self {
        let (waited_us, late_us) = (histogram(), histogram());
        Self { waited_us, late_us, messages: 0, datagrams: 0, refused: 0 }
    }

    /// Counts a message of `datagrams` that waited in the kernel for `waited`.
    pub(crate) fn on_read(&mut self, waited: Duration, datagrams: usize) {
        self.waited_us.saturating_record(micros(waited));
        self.messages += 1;
        self.datagrams += datagrams as u64;
    }

    /// Counts a timer that was called `late` after its deadline.
    pub(crate) fn on_timer(&mut self, late: Duration) {
        self.late_us.saturating_record(micros(late));
    }

    /// Counts a datagram that the kernel refused to send.
    pub(crate) fn on_send_refused(&mut self) {
        self.refused += 1;
    }

    /// Adds the measurements of another loop.
    pub(crate) fn add(&mut self, other: &Self) {
        // All histograms have the same bounds, so the addition cannot fail.
        let _ = self.waited_us.add(&other.waited_us);
        let _ = self.late_us.add(&other.late_us);
        self.messages += other.messages;
        self.datagrams += other.datagrams;
        self.refused += other.refused;
    }

    fn clear(&mut self) {
        self.waited_us.reset();
        self.late_us.reset();
        (self.messages, self.datagrams, self.refused) = (0, 0, 0);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Measurements of a loop that other threads can take.
#[derive(Debug, Default)]
pub(crate) struct SharedLoopStats(Mutex<Option<Published>>);

#[derive(Debug)]
struct Published {
    stats: LoopStats,
    /// CPU time of the loop's thread since its start.
    cpu: Duration,
}

impl SharedLoopStats {
    /// Moves `stats` here, once enough are collected. To be called on the loop's own thread, whose
    /// CPU time it reads.
    pub(crate) fn publish(&self, stats: &mut LoopStats) {
        if stats.messages + stats.late_us.len() < PUBLISH_EVERY {
            return;
        }
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let cpu = Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        );
        let mut guard = self.0.lock().expect("nobody panics while holding it");
        match &mut *guard {
            Some(published) => {
                published.stats.add(stats);
                published.cpu = cpu;
            }
            None => *guard = Some(Published { stats: stats.clone(), cpu }),
        }
        stats.clear();
    }

    /// Takes the measurements since the last call, and the CPU time of the thread since its start.
    pub(crate) fn take(&self) -> (LoopStats, Duration) {
        let mut guard = self.0.lock().expect("nobody panics while holding it");
        guard.as_mut().map_or_else(
            || (LoopStats::new(), Duration::ZERO),
            |published| (std::mem::replace(&mut published.stats, LoopStats::new()), published.cpu),
        )
    }
}
