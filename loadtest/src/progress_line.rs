//! The progress line on stderr: redrawn on a terminal; elsewhere a new line every few seconds.
//!
//! Called by `run`. Reads the counters of `live`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::live::LiveCounters;

/// Time between two lines where stderr is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// The progress line.
pub(crate) struct ProgressLine {
    /// `None` where stderr is not a terminal.
    bar: Option<ProgressBar>,
    /// When the packets were last read, and how many there were.
    before: (Instant, u64),
    next: Instant,
}

impl ProgressLine {
    /// An empty line.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, before: (now, 0), next: now + PLAIN_INTERVAL }
    }

    /// Draws the line; `step` says what the run is doing.
    pub(crate) fn draw(&mut self, now: Instant, step: &str, live: &LiveCounters) {
        if let Some(failure) = live.take_first_failure() {
            self.say(&format!("first failure: {failure}"));
        }
        if self.bar.is_none() && now < self.next {
            return;
        }
        self.next = now + PLAIN_INTERVAL;
        let packets = LiveCounters::read(&live.packets);
        let elapsed_s = now.saturating_duration_since(self.before.0).as_secs_f64().max(0.001);
        let per_s = packets.saturating_sub(self.before.1) as f64 / elapsed_s;
        self.before = (now, packets);
        let restarted = match LiveCounters::read(&live.restarted) {
            0 => String::new(),
            times => format!("{times} starts of lost sessions, "),
        };
        let text = format!(
            "{step}: {} publishing, {} watching, {} failed, {restarted}{per_s:.0} packets/s; in the window {} lost, {} frames broken",
            LiveCounters::read(&live.publishing),
            live.connected_viewers(),
            LiveCounters::read(&live.failed),
            LiveCounters::read(&live.counted_lost),
            LiveCounters::read(&live.broken),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None => eprintln!("{text}"),
        }
    }

    /// Writes a line that stays.
    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
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
