//! Whether the peer is alive and still agrees to receive (RFC 7675).
//!
//! Owns when the peer last proved to be alive, and the schedule of consent checks. Never decides what
//! proves that. Called by `ice/mod.rs`. Next: `check.rs`.

use std::time::{Duration, Instant};

use super::check::{Check, random_u64};
use super::generation::Age;
use crate::transport::{Entropy, FiveTuple};

/// Time after which a session is over if nothing proved that the peer is alive (RFC 7675 section 5.1,
/// whip-whep C60).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Shortest time between consent checks of a viewer (RFC 7675 section 5.1).
const CONSENT_MIN: Duration = Duration::from_secs(4);

/// Random time of up to this is added to [`CONSENT_MIN`].
const CONSENT_JITTER: Duration = Duration::from_secs(2);

/// Time without a sign of life after which a publisher is checked, and again if it does not answer.
/// A publisher that is muted answers before it is shown as silent.
const QUIET: Duration = Duration::from_secs(2);

/// When consent is renewed by checks of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// All the time, from the first answer on: what we send to a viewer needs its consent.
    Always,
    /// When nothing else proves that the peer is alive, from the end of the handshake on.
    WhenQuiet,
}

/// Consent of one peer. What each packet from it writes stands at the end.
#[repr(C)]
pub(super) struct Consent {
    check: Option<Check>,
    /// When the next check begins at the earliest; `None` while none is planned.
    next_at: Option<Instant>,
    renewal: Renewal,
    /// When the last restart was since the peer last proved to be alive, if there was one.
    restarted: Option<Instant>,
    last_alive: Instant,
}

impl Consent {
    /// Consent of a peer that counts as alive from `now` on. Nothing is checked yet.
    pub(super) fn new(renewal: Renewal, now: Instant) -> Self {
        Self { check: None, next_at: None, renewal, restarted: None, last_alive: now }
    }

    /// When the peer last proved to be alive.
    pub(super) fn last_alive(&self) -> Instant {
        self.last_alive
    }

    /// Whether nothing proved for [`CONSENT_TIMEOUT`] that the peer is alive, and no restart gave it more time.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.expires_at()
    }

    /// Whether nothing proved for [`CONSENT_TIMEOUT`] that the peer agrees to receive on the selected pair.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        now >= self.stale_at()
    }

    /// When that is so.
    pub(super) fn stale_at(&self) -> Instant {
        self.last_alive + CONSENT_TIMEOUT
    }

    fn expires_at(&self) -> Instant {
        self.restarted.map_or(self.last_alive, |at| at.max(self.last_alive)) + CONSENT_TIMEOUT
    }

    /// Notes that the peer proved to be alive.
    pub(super) fn on_alive(&mut self, now: Instant) {
        self.last_alive = now;
        self.restarted = None;
    }

    /// Check under way.
    pub(super) fn check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    /// Ends the check under way: it was answered.
    pub(super) fn end_check(&mut self) {
        self.check = None;
    }

    /// Ends the check under way, if it is on this pair.
    pub(super) fn end_check_on(&mut self, path: FiveTuple) {
        self.check.take_if(|check| check.path == path);
    }

    /// A pair has just answered a check that confirms it: plans the first check of a viewer.
    pub(super) fn on_confirmed(&mut self, now: Instant) {
        if self.renewal == Renewal::Always {
            self.check = None;
            self.next_at = Some(now + CONSENT_MIN + CONSENT_JITTER / 2);
        }
    }

    /// The handshake is done, which proves that the peer is alive: plans the first check of a
    /// publisher.
    pub(super) fn on_connected(&mut self, now: Instant) {
        self.on_alive(now);
        if self.renewal == Renewal::WhenQuiet {
            self.next_at = Some(now + QUIET);
        }
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
            self.next_at = Some(match self.renewal {
                Renewal::Always => now + CONSENT_MIN + CONSENT_JITTER.mul_f64(share),
                Renewal::WhenQuiet => now + QUIET.mul_f64(1.0 + share / 4.0),
            });
        }
        Some(check)
    }

    /// Ends the check under way. The first restart since the peer last proved to be alive gives it the time of
    /// a consent for its new checks. It says nothing of the address that media goes to (RFC 7675), and later ones
    /// give no more: else requests alone would keep a stream at an address that its viewer has left.
    pub(super) fn restart(&mut self, now: Instant) {
        self.check = None;
        self.restarted.get_or_insert(now);
    }

    /// A pair of the present credentials was selected: those before are gone.
    pub(super) fn use_current_credentials(&mut self) {
        if let Some(check) = &mut self.check {
            check.age = Age::Current;
        }
    }

    /// When the next check begins.
    fn begins_at(&self) -> Option<Instant> {
        match self.renewal {
            Renewal::Always => self.next_at,
            Renewal::WhenQuiet => self.next_at.map(|at| at.max(self.last_alive + QUIET)),
        }
    }

    /// When a request is due, a check begins, or consent expires.
    pub(super) fn next_timeout(&self) -> Instant {
        let check = self.check.as_ref().map(Check::next_at);
        [check, self.begins_at()].into_iter().flatten().fold(self.expires_at(), Instant::min)
    }

    /// Gives up a check without an answer, and begins the next one on the selected pair.
    pub(super) fn handle_timeout(&mut self, now: Instant, selected: Option<FiveTuple>, age: Age) {
        self.check.take_if(|check| check.is_spent(now));
        if self.begins_at().is_some_and(|at| at <= now) {
            self.next_at = None;
            self.check = selected.map(|path| Check::new(path, now, age));
        }
    }
}
