//! A connectivity check of ours under way.
//!
//! Called by `ice/mod.rs`.

use std::time::{Duration, Instant};

use crate::transport::FiveTuple;
use crate::transport::stun::TransactionId;

/// Requests of one check, each with its own transaction id; after the last one it has failed.
const CHECK_ATTEMPTS: usize = 7;

/// A check of ours under way: up to [`CHECK_ATTEMPTS`] requests on one path.
pub(super) struct Check {
    pub(super) path: FiveTuple,
    /// Signed with the present credentials, not with those before a restart.
    pub(super) current: bool,
    pub(super) attempts: usize,
    pub(super) next_at: Instant,
    pub(super) requests: [Option<(TransactionId, Instant)>; CHECK_ATTEMPTS],
}

impl Check {
    pub(super) fn new(path: FiveTuple, now: Instant, current: bool) -> Self {
        Self { path, current, attempts: 0, next_at: now, requests: [None; CHECK_ATTEMPTS] }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.attempts < CHECK_ATTEMPTS && now >= self.next_at
    }

    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.attempts >= CHECK_ATTEMPTS && now >= self.next_at
    }

    pub(super) fn sent(&mut self, now: Instant, id: TransactionId, rto: Duration) {
        if let Some(slot) = self.requests.get_mut(self.attempts) {
            *slot = Some((id, now));
        }
        self.next_at = now + rto * (1 << self.attempts.min(CHECK_ATTEMPTS));
        self.attempts += 1;
    }

    pub(super) fn sent_at(&self, id: &TransactionId) -> Option<Instant> {
        self.requests.iter().flatten().find(|(sent, _)| sent == id).map(|(_, at)| *at)
    }
}
