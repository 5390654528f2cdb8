//! Address pairs that passed an authenticated check.
//!
//! Owns the state of each pair: when something came from it, and what may be sent to it. Never chooses the pair that we send on. Called by `ice/mod.rs`.

use std::time::{Duration, Instant};

use super::consent::CONSENT_TIMEOUT;
use crate::error::DropReason;
use crate::limiter::PerSecondLimit;
use crate::transport::FiveTuple;
use crate::warm::warm;

/// Validated pairs of one session. One more replaces the pair that was idle longest among those where the
/// peer did not prove to be for [`CONSENT_TIMEOUT`]; if there is none, the check is dropped (quality B2).
/// Nomination keeps no pair: a listener can send old nominations from elsewhere.
pub const MAX_PAIRS: usize = 8;

/// Silence after which a selected pair is in doubt. A new check from another pair then makes that
/// one the target, nominated or not: behind a NAT that gave the client a new port, some clients
/// never nominate again. A publisher's media then moves the path to a target that has not answered.
pub const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// STUN requests per second and pair; more are dropped unanswered (quality B2). Answers to our own
/// checks do not count: their transaction ids cannot be guessed.
pub const STUN_PER_SECOND: u32 = 50;

/// Copies of requests per second and pair that are answered; more are dropped. A client repeats a request whose
/// answer was lost. Who sends copies in its name must not use up what its new requests need.
pub const COPIES_PER_SECOND: u32 = 10;

/// Bytes that we may send to an unconfirmed pair per byte that came from it, whatever they are for.
pub const UNCONFIRMED_FACTOR: u64 = 3;

/// The same for a publisher's pair once keys exist: its media pays for all feedback.
pub const CHANGED_PATH_FACTOR: u64 = 1;

/// Address pair that passed an authenticated check.
pub(super) struct Pair {
    path: FiveTuple,
    /// When its first check came.
    added: Instant,
    /// When a new check or something authenticated came from the pair.
    last_seen: Instant,
    /// When the peer last proved to be there: by SRTP, SRTCP, an answer or a handshake.
    proved: Option<Instant>,
    egress: Egress,
    requests: PerSecondLimit,
    copies: PerSecondLimit,
}

/// What may be sent to a pair.
enum Egress {
    /// Everything: the pair is confirmed.
    Open,
    /// A multiple of what came from it. Both numbers count since the pair was added or was last
    /// confirmed.
    Limited { received: u64, sent: u64 },
}

impl Egress {
    const NOTHING_YET: Self = Self::Limited { received: 0, sent: 0 };
}

impl Pair {
    fn new(path: FiveTuple, now: Instant) -> Self {
        Self {
            path,
            added: now,
            last_seen: now,
            proved: None,
            egress: Egress::NOTHING_YET,
            requests: PerSecondLimit::per_second(STUN_PER_SECOND),
            copies: PerSecondLimit::per_second(COPIES_PER_SECOND),
        }
    }

    /// Counts one more request; false when there were too many of its kind.
    pub(super) fn allow_request(&mut self, now: Instant, is_new: bool) -> bool {
        if is_new { self.requests.take(now) } else { self.copies.take(now) }
    }

    /// Notes a check that is no known copy.
    pub(super) fn on_new_check(&mut self, now: Instant) {
        self.last_seen = now;
    }

    /// Whether the pair was added or the peer proved to be there within `span`. Checks that come again
    /// do not count.
    pub(super) fn is_new(&self, now: Instant, span: Duration) -> bool {
        now.saturating_duration_since(self.added) < span || self.is_proved_within(now, span)
    }

    /// Notes that the peer proved to be there. Not even an old recording of it could have.
    pub(super) fn on_proof(&mut self, now: Instant) {
        self.last_seen = now;
        self.proved = Some(now);
    }

    /// Whether nothing new came from the pair for [`DOUBT_AFTER`].
    pub(super) fn is_in_doubt(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_seen) >= DOUBT_AFTER
    }

    /// Whether the peer proved within `span` to be there.
    pub(super) fn is_proved_within(&self, now: Instant, span: Duration) -> bool {
        self.proved.is_some_and(|at| now.saturating_duration_since(at) < span)
    }

    /// Whether the peer proved at `now` to be there.
    pub(super) fn is_proved_at(&self, now: Instant) -> bool {
        self.proved == Some(now)
    }

    /// Whether anything may be sent there.
    pub(super) fn is_confirmed(&self) -> bool {
        matches!(self.egress, Egress::Open)
    }

    /// Lifts the limit.
    pub(super) fn confirm(&mut self, now: Instant) {
        self.on_proof(now);
        self.egress = Egress::Open;
    }

    /// Sets the limit again, if it was lifted, and begins to count.
    pub(super) fn unconfirm(&mut self) {
        if self.is_confirmed() {
            self.egress = Egress::NOTHING_YET;
        }
    }

    /// Counts `bytes` as sent if they may leave and `spare` more could: at most `factor` times what
    /// came from the pair, unless it is confirmed.
    pub(super) fn reserve(&mut self, bytes: usize, factor: u64, spare: u64) -> bool {
        let Egress::Limited { received, sent } = &mut self.egress else { return true };
        let total = sent.saturating_add(bytes as u64);
        let allowed = total.saturating_add(spare) <= received.saturating_mul(factor);
        if allowed {
            *sent = total;
        }
        allowed
    }

    pub(super) fn count_received(&mut self, bytes: usize) {
        if let Egress::Limited { received, .. } = &mut self.egress {
            *received = received.saturating_add(bytes as u64);
        }
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
        self.get(path).is_some_and(Pair::is_confirmed)
    }

    /// Forgets a pair.
    pub(super) fn remove(&mut self, path: FiveTuple) {
        self.0.retain(|pair| pair.path != path);
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
                .filter(|(_, pair)| !pair.is_proved_within(now, CONSENT_TIMEOUT))
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
            warm!(pair.path.protocol, pair.proved);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
