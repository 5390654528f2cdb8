//! Whether the peer is alive and still agrees to receive (RFC 7675).
//!
//! Owns when the peer last proved to be alive, and the schedule of consent checks. Never decides what
//! proves that: it depends on the policy. Called by `ice/mod.rs`. Next: `check.rs`.

use std::time::{Duration, Instant};

use super::check::{Check, random_u64};
use super::generation::Age;
use crate::transport::{Entropy, FiveTuple};

/// Time after which a session is over if nothing proved that the peer is alive (RFC 7675 section 5.1,
/// whip-whep C60).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Shortest time between consent checks (RFC 7675 section 5.1).
const CONSENT_MIN: Duration = Duration::from_secs(4);

/// Random time of up to this is added to [`CONSENT_MIN`].
const CONSENT_JITTER: Duration = Duration::from_secs(2);

/// Consent of one peer. What each packet from it writes stands at the end.
#[repr(C)]
pub(super) struct Consent {
    check: Option<Check>,
    /// When the next check begins; `None` until the first pair has answered.
    next_at: Option<Instant>,
    last_alive: Instant,
}

impl Consent {
    /// Consent of a peer that counts as alive from `now` on. Nothing is checked yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { check: None, next_at: None, last_alive: now }
    }

    /// When the peer last proved to be alive.
    pub(super) fn last_alive(&self) -> Instant {
        self.last_alive
    }

    /// Whether nothing proved for [`CONSENT_TIMEOUT`] that the peer is alive.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_alive) >= CONSENT_TIMEOUT
    }

    /// Notes that the peer proved to be alive.
    pub(super) fn on_alive(&mut self, now: Instant) {
        self.last_alive = now;
    }

    /// Check under way.
    pub(super) fn check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    /// Ends the check under way: it was answered.
    pub(super) fn end_check(&mut self) {
        self.check = None;
    }

    /// Plans the first check of a pair that has just answered a confirming one.
    pub(super) fn begin(&mut self, now: Instant) {
        self.check = None;
        self.next_at = Some(now + CONSENT_MIN + CONSENT_JITTER / 2);
    }

    /// Check whose next request is due. With its first request the check after it is planned.
    pub(super) fn due_check(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
    ) -> Option<&mut Check> {
        let check = self.check.as_mut().filter(|check| check.is_due(now))?;
        if check.is_unsent() {
            let share = random_u64(entropy) as u32 as f64 / f64::from(u32::MAX);
            self.next_at = Some(now + CONSENT_MIN + CONSENT_JITTER.mul_f64(share));
        }
        Some(check)
    }

    /// Ends the check under way. The authenticated request for a restart proves that the peer is alive.
    pub(super) fn restart(&mut self, now: Instant) {
        self.check = None;
        self.last_alive = now;
    }

    /// A pair of the present credentials was selected: those before are gone.
    pub(super) fn use_current_credentials(&mut self) {
        if let Some(check) = &mut self.check {
            check.age = Age::Current;
        }
    }

    /// When a request is due, a check begins, or consent expires.
    pub(super) fn next_timeout(&self) -> Instant {
        let check = self.check.as_ref().map(Check::next_at);
        let expiry = self.last_alive + CONSENT_TIMEOUT;
        [check, self.next_at].into_iter().flatten().fold(expiry, Instant::min)
    }

    /// Gives up a check without an answer, and begins the next one on the selected pair.
    pub(super) fn handle_timeout(&mut self, now: Instant, selected: Option<FiveTuple>, age: Age) {
        self.check.take_if(|check| check.is_spent(now));
        if self.next_at.is_some_and(|at| at <= now) {
            self.next_at = None;
            self.check = selected.map(|path| Check::new(path, now, age));
        }
    }
}
