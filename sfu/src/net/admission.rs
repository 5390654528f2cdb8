//! Admission of new sessions: the limits of the whole server, and draining.
//!
//! Owns the half-open places (`half_open.rs` says who gets one) and the draining flag. Never looks at an offer
//! or a stream. Called by `control.rs` for each POST and when a session connects or ends.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::half_open::{Full, HalfOpen};
use super::lock_order::{LockRank, OrderedMutex};
use super::outcome::OfferError;
use crate::config::Config;
use crate::ids::SessionId;

/// `Retry-After` of a refusal because the server is full or draining.
const RETRY_AFTER_S: u32 = 5;

const UNAVAILABLE: OfferError = OfferError::Unavailable { retry_after_s: RETRY_AFTER_S };

/// Reason why no new session is taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// The machine has no address that a client could reach.
    NoAddress,
    /// The server holds as many sessions as it may.
    Full,
    /// The server stops.
    Draining,
}

impl From<NotReady> for OfferError {
    fn from(reason: NotReady) -> Self {
        match reason {
            NotReady::NoAddress => Self::NoAddress { retry_after_s: RETRY_AFTER_S },
            NotReady::Full | NotReady::Draining => UNAVAILABLE,
        }
    }
}

/// Limits on sessions, and the half-open places that are taken.
#[derive(Debug)]
pub(super) struct Admission {
    sessions_max: usize,
    half_open_max: usize,
    draining: AtomicBool,
    half_open: OrderedMutex<HalfOpen>,
}

impl Admission {
    /// Limits of `config`, with nothing reserved.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            sessions_max: config.sessions_per_worker * config.workers,
            half_open_max: config.half_open_per_worker * config.workers,
            draining: AtomicBool::new(false),
            half_open: OrderedMutex::new(LockRank::HalfOpen, HalfOpen::default()),
        }
    }

    /// Whether a session may be added to `sessions`.
    pub(super) fn ready(&self, sessions: usize) -> Result<(), NotReady> {
        if self.draining.load(Ordering::Relaxed) {
            Err(NotReady::Draining)
        } else if sessions >= self.sessions_max {
            Err(NotReady::Full)
        } else {
            Ok(())
        }
    }

    /// Refuses all new sessions from now on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Reserves a half-open place. Returns the session that was evicted for it and must be ended.
    pub(super) fn reserve_half_open(
        &self,
        id: SessionId,
        network: Option<IpAddr>,
        now: Instant,
    ) -> Result<Option<SessionId>, OfferError> {
        let reserved = self.half_open.lock().reserve(id, network, self.half_open_max, now);
        reserved.map_err(|Full| UNAVAILABLE)
    }

    /// Notes that a check of a half-open session was answered, which came from the network `media`.
    pub(super) fn half_open_checked(&self, id: SessionId, media: Option<IpAddr>, now: Instant) {
        self.half_open.lock().checked(id, media, now);
    }

    /// Releases the place of a session that connected or ended; without effect if it has none.
    pub(super) fn release_half_open(&self, id: SessionId) {
        self.half_open.lock().release(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(workers: usize, sessions: usize, half_open: usize) -> Admission {
        Admission::new(&Config {
            workers,
            sessions_per_worker: sessions,
            half_open_per_worker: half_open,
            ..Config::default()
        })
    }

    fn network(n: u8) -> Option<IpAddr> {
        Some([192, 0, 2, n].into())
    }

    // quality B2
    #[test]
    fn session_beyond_the_limit_of_all_workers_is_refused() {
        let admission = admission(2, 3, 10);
        assert_eq!(admission.ready(5), Ok(()));
        assert_eq!(admission.ready(6), Err(NotReady::Full), "six are here, one more is too many");
    }

    #[test]
    fn draining_server_refuses_even_the_first_session() {
        let admission = admission(1, 10, 10);
        assert_eq!(admission.ready(0), Ok(()));
        admission.drain();
        assert_eq!(admission.ready(0), Err(NotReady::Draining));
        let refused = OfferError::from(NotReady::Draining);
        assert_eq!(refused, OfferError::Unavailable { retry_after_s: 5 });
    }

    // quality B2
    #[test]
    fn half_open_session_beyond_the_limit_evicts_one_of_the_heaviest_network() {
        let (admission, now) = (admission(2, 10, 2), Instant::now());
        for n in 0..4 {
            assert_eq!(admission.reserve_half_open(SessionId(n), network(1), now), Ok(None));
        }
        let own = admission.reserve_half_open(SessionId(4), network(1), now);
        assert_eq!(own, Ok(Some(SessionId(0))), "its own network has the most");
        let evicted = admission.reserve_half_open(SessionId(5), network(2), now);
        assert_eq!(evicted, Ok(Some(SessionId(1))), "the oldest of the other network");
        admission.release_half_open(SessionId(2));
        admission.release_half_open(SessionId(2));
        assert_eq!(
            admission.reserve_half_open(SessionId(6), network(3), now),
            Ok(None),
            "one is free"
        );
        assert_eq!(
            admission.reserve_half_open(SessionId(7), network(2), now),
            Ok(Some(SessionId(3)))
        );
    }

    // quality B2
    #[test]
    fn half_open_session_is_refused_while_all_places_are_taken_by_young_handshakes() {
        let (admission, now) = (admission(1, 10, 1), Instant::now());
        admission.reserve_half_open(SessionId(0), network(1), now).unwrap();
        admission.half_open_checked(SessionId(0), network(1), now);
        let refused = admission.reserve_half_open(SessionId(1), network(1), now);
        assert_eq!(refused, Err(UNAVAILABLE));
    }
}
