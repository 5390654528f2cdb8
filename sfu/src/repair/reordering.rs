//! Reordering on the path of one incoming SSRC: how late packets come without being lost.
//!
//! Owns the last few latenesses. Never sees missing packets: `nack_generator.rs` reports which
//! packets were only late, and waits that long before a request. Source: quality A3.2.

use std::time::{Duration, Instant};

/// Lateness of reordered packets on this path.
#[derive(Debug)]
pub(super) struct Reordering {
    /// Last latenesses in ms, rounded up; a ring buffer once it is full.
    recent_ms: [u8; REORDER_SAMPLES],
    count: usize,
    allowance: Duration,
    last: Option<Instant>,
}

/// Latenesses that are remembered.
const REORDER_SAMPLES: usize = 64;

/// Longest wait before the first request. A path that reorders further causes needless
/// retransmissions.
pub(super) const MAX_ALLOWANCE: Duration = Duration::from_millis(20);

/// Time without reordering after which the allowance returns to zero: the path has changed.
const REORDER_MEMORY: Duration = Duration::from_secs(30);

impl Default for Reordering {
    fn default() -> Self {
        Self { recent_ms: [0; REORDER_SAMPLES], count: 0, allowance: Duration::ZERO, last: None }
    }
}

impl Reordering {
    /// Records the lateness of a packet that was not lost.
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

    /// Time to wait for a missing packet before it is requested.
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
