//! Address pairs that passed an authenticated check.
//!
//! Owns the state of each pair: when something came from it, whether it was nominated or confirmed,
//! and how many bytes went both ways.
//! Never chooses the pair that we send on. Called by `ice/mod.rs`. Next: `selected.rs`.

use std::time::{Duration, Instant};

use super::consent::CONSENT_TIMEOUT;
use crate::error::DropReason;
use crate::transport::FiveTuple;
use crate::warm::warm;

/// Validated pairs of one session. One more replaces the pair that was idle longest, if that was
/// never nominated or is idle for [`CONSENT_TIMEOUT`]; else the check is dropped (quality B2).
pub const MAX_PAIRS: usize = 8;

/// Silence after which a selected pair is in doubt. A new check from another pair then makes that
/// one the target, nominated or not. Behind a NAT that gave the client a new port, some clients
/// never nominate again.
pub const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// STUN requests per second and pair; more are dropped unanswered (quality B2). Answers to our own
/// checks do not count: their transaction ids cannot be guessed.
pub const STUN_PER_SECOND: u32 = 50;

/// Bytes that we may send to an unconfirmed pair per byte that came from it, whatever they are for.
pub const UNCONFIRMED_FACTOR: u64 = 3;

/// Address pair that passed an authenticated check.
pub(super) struct Pair {
    path: FiveTuple,
    /// When something authenticated came from the pair.
    pub(super) last_seen: Instant,
    /// The peer has nominated the pair.
    pub(super) nominated: bool,
    /// The peer has answered a check of ours from the pair.
    confirmed: bool,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Begin of the second in which `requests` are counted.
    second: Instant,
    requests: u32,
}

impl Pair {
    fn new(path: FiveTuple, now: Instant) -> Self {
        Self {
            path,
            last_seen: now,
            nominated: false,
            confirmed: false,
            received_bytes: 0,
            sent_bytes: 0,
            second: now,
            requests: 0,
        }
    }

    /// Counts one more request; false when it is over [`STUN_PER_SECOND`].
    pub(super) fn allow_request(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.requests) = (now, 0);
        }
        self.requests = self.requests.saturating_add(1);
        self.requests <= STUN_PER_SECOND
    }

    /// Whether nothing authenticated came from the pair for [`DOUBT_AFTER`].
    pub(super) fn is_in_doubt(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_seen) >= DOUBT_AFTER
    }

    /// Bytes that the unconfirmed pair may still get, with `extra` beyond the factor.
    pub(super) fn allowance(&self, extra: u64) -> u64 {
        let budget = self.received_bytes.saturating_mul(UNCONFIRMED_FACTOR).saturating_add(extra);
        budget.saturating_sub(self.sent_bytes)
    }

    /// Counts a check of ours; false when it must not leave. An unconfirmed pair gets no more than
    /// [`UNCONFIRMED_FACTOR`] times what came from it, answers and checks included.
    pub(super) fn reserve_check(&mut self, bytes: usize) -> bool {
        let sent = self.sent_bytes.saturating_add(bytes as u64);
        if !self.confirmed && sent > self.received_bytes.saturating_mul(UNCONFIRMED_FACTOR) {
            return false;
        }
        self.sent_bytes = sent;
        true
    }

    pub(super) fn count_sent(&mut self, bytes: u64) {
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
    }

    pub(super) fn count_received(&mut self, bytes: usize) {
        self.received_bytes = self.received_bytes.saturating_add(bytes as u64);
    }
}

/// All pairs of a session; few, so a scan of a vector beats hashing.
#[derive(Default)]
pub(super) struct Pairs(Vec<Pair>);

impl Pairs {
    pub(super) fn get(&self, path: FiveTuple) -> Option<&Pair> {
        self.0.iter().find(|pair| pair.path == path)
    }

    pub(super) fn get_mut(&mut self, path: FiveTuple) -> Option<&mut Pair> {
        self.0.iter_mut().find(|pair| pair.path == path)
    }

    pub(super) fn contains(&self, path: FiveTuple) -> bool {
        self.0.iter().any(|pair| pair.path == path)
    }

    pub(super) fn is_confirmed(&self, path: FiveTuple) -> bool {
        self.0.iter().any(|pair| pair.path == path && pair.confirmed)
    }

    pub(super) fn set_confirmed(&mut self, path: FiveTuple, confirmed: bool) {
        if let Some(pair) = self.get_mut(path) {
            pair.confirmed = confirmed;
        }
    }

    /// Adds a pair that just passed its first check. At [`MAX_PAIRS`] it replaces an idle one, but
    /// never one of `kept`.
    pub(super) fn add(
        &mut self,
        path: FiveTuple,
        now: Instant,
        kept: [Option<FiveTuple>; 2],
    ) -> Result<(), DropReason> {
        if self.0.len() >= MAX_PAIRS {
            let (index, _) = self
                .0
                .iter()
                .enumerate()
                .filter(|(_, pair)| !kept.contains(&Some(pair.path)))
                .filter(|(_, pair)| {
                    let idle = now.saturating_duration_since(pair.last_seen);
                    !pair.nominated || idle >= CONSENT_TIMEOUT
                })
                .min_by_key(|(_, pair)| pair.last_seen)
                .ok_or(DropReason::TooManyPairs)?;
            self.0.swap_remove(index);
        }
        self.0.push(Pair::new(path, now));
        Ok(())
    }

    /// Reads what counting a packet needs, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        if let Some(pair) = self.0.first() {
            warm!(pair.path.protocol, pair.received_bytes);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
