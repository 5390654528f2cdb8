//! Counts freezes: gaps between shown frames that a viewer would notice.
//!
//! The definition is that of `freezeCount` in webrtc-stats. Never reads a clock. Called by
//! `receiver`.

use std::collections::VecDeque;
use std::time::Instant;

/// Number of gaps over which the mean is taken (webrtc-stats, `freezeCount`).
const GAPS_KEPT: usize = 30;

/// Time by which a gap must exceed the mean to be a freeze. It must also be at least three times
/// the mean.
const ABOVE_MEAN_S: f64 = 0.150;

/// Gaps between the frames of one viewer.
#[derive(Debug)]
pub(super) struct FreezeMeter {
    last_frame: Option<Instant>,
    /// The last gaps in seconds.
    gaps_s: VecDeque<f64>,
}

impl FreezeMeter {
    /// A meter that has seen no frame.
    pub(super) fn new() -> Self {
        Self { last_frame: None, gaps_s: VecDeque::with_capacity(GAPS_KEPT) }
    }

    /// Whether the time since the last frame is a freeze.
    pub(super) fn is_frozen(&self, now: Instant) -> bool {
        let Some(last) = self.last_frame else { return false };
        if self.gaps_s.is_empty() {
            return false;
        }
        let mean = self.gaps_s.iter().sum::<f64>() / self.gaps_s.len() as f64;
        let gap = now.saturating_duration_since(last).as_secs_f64();
        gap >= (3.0 * mean).max(mean + ABOVE_MEAN_S)
    }

    /// Notes a shown frame. Returns whether a freeze ended with it.
    pub(super) fn on_frame(&mut self, now: Instant) -> bool {
        let was_frozen = self.is_frozen(now);
        if let Some(last) = self.last_frame.replace(now) {
            if self.gaps_s.len() == GAPS_KEPT {
                self.gaps_s.pop_front();
            }
            self.gaps_s.push_back(now.saturating_duration_since(last).as_secs_f64());
        }
        was_frozen
    }
}
