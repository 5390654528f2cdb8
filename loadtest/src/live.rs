//! What can be seen of a run while it runs: a few counters, and the line on stderr that shows them.
//!
//! Never part of the sums; `report` counts for itself. Written by every session, read by `run` for the line and the timeline.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::measures::{LatencyHistogram, ProgressUpdate, latency_histogram};

/// Counters of the whole process, all cumulative.
#[derive(Debug)]
pub(crate) struct Live {
    /// Publishers that are connected.
    pub(crate) publishing: AtomicU64,
    /// Viewers that have connected.
    pub(crate) watching: AtomicU64,
    /// Viewers that have left or were cut off.
    pub(crate) left: AtomicU64,
    /// Sessions that failed.
    pub(crate) failed: AtomicU64,
    /// Packets that viewers received.
    pub(crate) packets: AtomicU64,
    /// Their bytes.
    pub(crate) bytes: AtomicU64,
    /// Packets given up.
    pub(crate) lost: AtomicU64,
    /// Frames that were broken, ramp and warm-up included.
    pub(crate) broken: AtomicU64,
    latencies: Mutex<LatencyHistogram>,
}

impl Live {
    /// All zero.
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            publishing: zero(),
            watching: zero(),
            left: zero(),
            failed: zero(),
            packets: zero(),
            bytes: zero(),
            lost: zero(),
            broken: zero(),
            latencies: Mutex::new(latency_histogram()),
        }
    }

    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Adds what a viewer counted since its last update.
    pub(crate) fn add_progress(&self, update: ProgressUpdate) {
        for (counter, more) in [
            (&self.packets, update.packets),
            (&self.bytes, update.bytes),
            (&self.lost, update.lost),
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

    /// The latencies since the last call.
    pub(crate) fn take_latencies(&self) -> LatencyHistogram {
        let mut latencies_now = self.latencies.lock().expect("nobody panics while holding it");
        std::mem::replace(&mut latencies_now, latency_histogram())
    }

    /// Viewers that are there now.
    pub(crate) fn present(&self) -> u64 {
        Self::read(&self.watching).saturating_sub(Self::read(&self.left))
    }
}

/// The line on stderr: redrawn on a terminal, a new one every few seconds elsewhere.
pub(crate) struct Line {
    bar: Option<ProgressBar>,
    before: (Instant, u64),
    next: Instant,
}

impl Line {
    /// Between two lines where there is no terminal.
    const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

    /// An empty line.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, before: (now, 0), next: now + Self::PLAIN_INTERVAL }
    }

    /// Redraws; `phase` says what is going on.
    pub(crate) fn draw(&mut self, now: Instant, phase: &str, live: &Live) {
        if self.bar.is_none() && now < self.next {
            return;
        }
        self.next = now + Self::PLAIN_INTERVAL;
        let packets = Live::read(&live.packets);
        let passed = now.saturating_duration_since(self.before.0).as_secs_f64().max(0.001);
        let per_s = packets.saturating_sub(self.before.1) as f64 / passed;
        self.before = (now, packets);
        let text = format!(
            "{phase}: {} publishing, {} watching, {} failed, {per_s:.0} packets/s, {} lost, {} frames broken",
            Live::read(&live.publishing),
            live.present(),
            Live::read(&live.failed),
            Live::read(&live.lost),
            Live::read(&live.broken),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None => eprintln!("{text}"),
        }
    }

    /// Removes the line.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
