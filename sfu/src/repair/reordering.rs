//! How late packets of one incoming SSRC come without being lost.
//!
//! Owns the lateness of the last few. Never sees holes; `nack_generator.rs` tells it which packets had only
//! been late, and waits so long before it asks. Source: quality A3.2.

use std::time::{Duration, Instant};

/// How late packets come on this path without being lost.
#[derive(Debug)]
pub(super) struct Reordering {
    /// The last latenesses in ms, rounded up; a ring once it is full.
    recent_ms: [u8; REORDER_SAMPLES],
    count: usize,
    allowance: Duration,
    last: Option<Instant>,
}

/// Latenesses remembered.
const REORDER_SAMPLES: usize = 64;

/// Longest wait before the first request; a path that reorders further pays with needless repeats.
pub(super) const MAX_ALLOWANCE: Duration = Duration::from_millis(20);

/// A path that has not reordered for so long has changed: the allowance returns to zero.
const REORDER_MEMORY: Duration = Duration::from_secs(30);

impl Default for Reordering {
    fn default() -> Self {
        Self { recent_ms: [0; REORDER_SAMPLES], count: 0, allowance: Duration::ZERO, last: None }
    }
}

impl Reordering {
    /// A packet came so late.
    pub(super) fn learn(&mut self, now: Instant, lateness: Duration) {
        if self.is_forgotten(now) {
            self.count = 0;
        }
        let ms = lateness.as_micros().div_ceil(1_000).min(u128::from(u8::MAX)) as u8;
        if let Some(slot) = self.recent_ms.get_mut(self.count % REORDER_SAMPLES) {
            *slot = ms;
        }
        self.count += 1;
        self.last = Some(now);

        let mut sorted = self.recent_ms;
        let known = self.count.min(REORDER_SAMPLES);
        let p95 = sorted
            .get_mut(..known)
            .map(|known_ms| *known_ms.select_nth_unstable((known * 95).div_ceil(100) - 1).1);
        self.allowance = Duration::from_millis(p95.unwrap_or_default().into()).min(MAX_ALLOWANCE);
    }

    /// How long a missing packet is waited for before it is asked for.
    pub(super) fn allowance(&self, now: Instant) -> Duration {
        if self.is_forgotten(now) { Duration::ZERO } else { self.allowance }
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) > REORDER_MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn reordering_is_forgotten_when_the_path_changes() {
        let start = Instant::now();
        let mut reordering = Reordering::default();
        assert_eq!(reordering.allowance(start), Duration::ZERO);
        for _ in 0..19 {
            reordering.learn(start, 3 * MS);
        }
        reordering.learn(start, 200 * MS);
        assert_eq!(reordering.allowance(start), 3 * MS, "95th percentile");
        reordering.learn(start, 200 * MS);
        assert_eq!(reordering.allowance(start), MAX_ALLOWANCE);
        assert_eq!(reordering.allowance(start + REORDER_MEMORY + MS), Duration::ZERO);
    }
}
