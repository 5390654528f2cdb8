//! One address pair that passed an authenticated check.
//!
//! Called by `ice/mod.rs`.

use std::time::{Duration, Instant};

use crate::transport::FiveTuple;

/// STUN requests per second and pair; more are dropped unanswered (quality B2). Answers to our own
/// checks do not count: their transaction ids cannot be guessed.
pub const STUN_PER_SECOND: u32 = 50;

/// An address pair that passed an authenticated check.
pub(super) struct Pair {
    pub(super) path: FiveTuple,
    pub(super) last_seen: Instant,
    pub(super) nominated: bool,
    pub(super) confirmed: bool,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) second: Instant,
    pub(super) in_second: u32,
}

impl Pair {
    pub(super) fn new(path: FiveTuple, now: Instant) -> Self {
        Self {
            path,
            last_seen: now,
            nominated: false,
            confirmed: false,
            received: 0,
            sent: 0,
            second: now,
            in_second: 0,
        }
    }

    /// Whether one more request fits into this second.
    pub(super) fn take_turn(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.in_second) = (now, 0);
        }
        self.in_second = self.in_second.saturating_add(1);
        self.in_second <= STUN_PER_SECOND
    }
}
