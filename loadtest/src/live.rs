//! What can be seen of a run while it runs: a few counters and the line on stderr that shows them.
//!
//! Never part of the result; `report` counts for itself. Written by every session, drawn by `run`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Counters of the whole process, all cumulative.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Publishers that are connected.
    pub(crate) publishing: AtomicU64,
    /// Viewers that are connected.
    pub(crate) watching: AtomicU64,
    /// Sessions that failed.
    pub(crate) failed: AtomicU64,
    /// Packets that viewers received.
    pub(crate) packets: AtomicU64,
    /// Frames that were broken, ramp and warm-up included.
    pub(crate) broken: AtomicU64,
}

impl Live {
    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// The line on stderr. It draws nothing if stderr is no terminal.
pub(crate) struct Line {
    bar: ProgressBar,
    packets_before: u64,
}

impl Line {
    /// How often the line is redrawn.
    pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

    /// An empty line.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        Self { bar, packets_before: 0 }
    }

    /// Redraws; `phase` says what is going on. To be called every [`Self::INTERVAL`].
    pub(crate) fn draw(&mut self, phase: &str, live: &Live) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let packets = read(&live.packets);
        let per_s = (packets - self.packets_before) as f64 / Self::INTERVAL.as_secs_f64();
        self.packets_before = packets;
        self.bar.set_message(format!(
            "{phase}: {} publishing, {} watching, {} failed, {per_s:.0} packets/s, {} frames broken",
            read(&live.publishing),
            read(&live.watching),
            read(&live.failed),
            read(&live.broken),
        ));
        self.bar.tick();
    }

    /// Removes the line.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
