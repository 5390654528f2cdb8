//! A periodic timer that does not drift: tick n is due at start + n / rate.
//!
//! Never reads a clock. Used by both kinds of publishers, for video and audio.

use std::time::{Duration, Instant};

/// Maximum delay of a tick. A ticker that is later skips ticks instead of catching up.
const DELAY_MAX: Duration = Duration::from_millis(500);

/// A periodic timer.
pub(crate) struct Ticker {
    start: Instant,
    per_s: u32,
    count: u64,
}

impl Ticker {
    /// A ticker whose first tick is due at `start`.
    pub(crate) fn new(start: Instant, per_s: u32) -> Self {
        Self { start, per_s, count: 0 }
    }

    /// When the first tick was due.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// When the next tick is due.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + Duration::from_nanos(self.count * 1_000_000_000 / u64::from(self.per_s))
    }

    /// The number of the tick, if one is due. A ticker that is late by more than [`DELAY_MAX`]
    /// continues from now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        if now < self.deadline() {
            return None;
        }
        if now > self.deadline() + DELAY_MAX {
            let elapsed = now.saturating_duration_since(self.start);
            self.count = (elapsed.as_nanos() * u128::from(self.per_s) / 1_000_000_000) as u64;
        }
        self.count += 1;
        Some(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticker_keeps_its_rate_and_skips_ticks_that_are_long_past() {
        let start = Instant::now();
        let mut ticker = Ticker::new(start, 30);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(ticker.take(at(0)), Some(0));
        assert_eq!(ticker.take(at(33)), None);
        assert_eq!(ticker.take(at(34)), Some(1));
        assert_eq!(ticker.take(at(100)), Some(2), "a little late: catches up");
        assert_eq!(ticker.take(at(100)), Some(3));
        assert_eq!(ticker.take(at(10_000)), Some(300), "far behind: continues from now");
    }
}
