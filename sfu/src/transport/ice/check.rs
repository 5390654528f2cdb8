//! A connectivity check of ours (RFC 8445 section 7.2).
//!
//! Owns its requests, their times and their repeats. Never builds or reads a message. Called by
//! `ice/mod.rs` and `consent.rs`.

use std::time::{Duration, Instant};

use super::generation::Age;
use crate::transport::stun::TransactionId;
use crate::transport::{Entropy, FiveTuple};

/// Requests of one check, each with its own transaction id; after the last one it has failed.
const CHECK_ATTEMPTS: usize = 7;

/// First wait for an answer while no round trip is known, and the least one. It doubles with each
/// attempt.
const CHECK_RTO: Duration = Duration::from_millis(50);

/// Longest first wait for an answer.
const CHECK_RTO_MAX: Duration = Duration::from_millis(200);

/// Check under way: up to [`CHECK_ATTEMPTS`] requests on one path.
pub(super) struct Check {
    pub(super) path: FiveTuple,
    /// Credentials that its requests are signed with.
    pub(super) age: Age,
    attempts: usize,
    next_at: Instant,
    requests: [Option<(TransactionId, Instant)>; CHECK_ATTEMPTS],
}

impl Check {
    /// Check whose first request is due at `now`.
    pub(super) fn new(path: FiveTuple, now: Instant, age: Age) -> Self {
        Self { path, age, attempts: 0, next_at: now, requests: [None; CHECK_ATTEMPTS] }
    }

    /// Whether no request was made yet.
    pub(super) fn is_unsent(&self) -> bool {
        self.attempts == 0
    }

    /// When the next request is due, or the check has failed.
    pub(super) fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Whether a request is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.attempts < CHECK_ATTEMPTS && now >= self.next_at
    }

    /// Whether the check has failed.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.attempts >= CHECK_ATTEMPTS && now >= self.next_at
    }

    /// Notes a request. `rtt` is the known round trip: the first wait is twice that, within bounds.
    pub(super) fn on_request(&mut self, now: Instant, id: TransactionId, rtt: Option<Duration>) {
        if let Some(slot) = self.requests.get_mut(self.attempts) {
            *slot = Some((id, now));
        }
        let rto = rtt.map_or(CHECK_RTO, |rtt| (rtt * 2).clamp(CHECK_RTO, CHECK_RTO_MAX));
        self.next_at = now + rto * (1 << self.attempts.min(CHECK_ATTEMPTS));
        self.attempts += 1;
    }

    /// When the request with this transaction id was sent.
    pub(super) fn sent_at(&self, id: &TransactionId) -> Option<Instant> {
        self.requests.iter().flatten().find(|(sent, _)| sent == id).map(|(_, at)| *at)
    }
}

/// Unpredictable number, for the tie breaker and the times of checks.
pub(super) fn random_u64(entropy: &mut dyn Entropy) -> u64 {
    let mut bytes = [0u8; 8];
    entropy.fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
