//! Demultiplexer of one worker: finds a datagram's session by address, by ICE ufrag for STUN, or
//! the worker that owns the address. Owns these maps; decides nothing about sessions. Called by
//! `dispatch.rs`. Next: `check_budget.rs`.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::keys::SessionKey;
use crate::limiter::PerSecondLimit;
use crate::transport::FiveTuple;

/// Addresses remembered as those of other workers' sessions. At the limit the oldest is forgotten,
/// and learned again from its next check.
pub(super) const STRAY_ADDRESSES_MAX: usize = 16_384;

/// Checks, and answers to checks of ours, that are passed on per second and address; more are dropped
/// (`DropReason::StunRateLimited`). None is verified here, so a few dozen would be used up by anybody in the name
/// of the address; at so many the session still gets enough of its client's.
pub(super) const STRAY_STUN_PER_SECOND: u32 = 1_000;

/// Maximum entries in the order of strays, with those already forgotten.
const STRAYS_ORDERED_MAX: usize = 2 * STRAY_ADDRESSES_MAX;

/// Pairs of sessions here remembered as claimed by a second session. At the limit a further one is
/// not remembered: it gets the pair when the session that holds it falls silent.
pub(super) const CONTENDERS_MAX: usize = 1_024;

/// Map that is read for each datagram. Its hash is seeded, but weaker against chosen keys than the
/// standard one. Unauthenticated clients cannot add keys: five-tuples (at most eight per session)
/// and strays are added after an authenticated check, and we choose the ufrags. A client with a
/// session can choose at most [`STRAY_ADDRESSES_MAX`] addresses, and does not know the seed.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Where a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In this worker.
    Here(SessionKey),
    /// In another one.
    Worker(usize),
}

/// Address of another worker's session.
#[derive(Debug)]
struct Stray {
    worker: usize,
    checks: PerSecondLimit,
    answers: PerSecondLimit,
    /// The session that claims a pair of this address last, which the other worker's keeps. It may be
    /// gone since.
    contender: Option<(FiveTuple, Home)>,
}

/// Address and ufrag maps of one worker.
#[derive(Debug, Default)]
pub(super) struct Demux {
    by_path: Map<FiveTuple, SessionKey>,
    by_ufrag: Map<Box<str>, SessionKey>,
    strays: Map<SocketAddr, Stray>,
    /// Stray addresses from the oldest to the newest.
    stray_order: VecDeque<SocketAddr>,
    /// Sessions whose check was valid on a pair that another one here keeps, the newest per pair.
    contenders: Map<FiveTuple, Home>,
}

impl Demux {
    /// The session that an address pair belongs to.
    pub(super) fn session_at(&self, path: FiveTuple) -> Option<SessionKey> {
        self.by_path.get(&path).copied()
    }

    /// The session that a check names by its ufrag.
    pub(super) fn session_named(&self, ufrag: &str) -> Option<SessionKey> {
        self.by_ufrag.get(ufrag).copied()
    }

    /// Records that a check for this session was valid on this pair: the pair leads to it from now
    /// on.
    pub(super) fn learn_path(&mut self, path: FiveTuple, key: SessionKey) {
        self.by_path.insert(path, key);
        self.contenders.remove(&path);
        self.forget_stray(path.remote);
    }

    /// Forgets that the pair leads to this session.
    pub(super) fn forget_path(&mut self, path: FiveTuple, key: SessionKey) {
        if self.by_path.get(&path) == Some(&key) {
            self.by_path.remove(&path);
            self.contenders.remove(&path);
        }
    }

    /// The session that claims a pair which another one keeps.
    pub(super) fn contender(&self, path: FiveTuple) -> Option<Home> {
        if self.by_path.contains_key(&path) {
            return self.contenders.get(&path).copied();
        }
        let (claimed, home) = self.strays.get(&path.remote)?.contender?;
        (claimed == path).then_some(home)
    }

    /// Records that a session claims a pair which another one keeps, in place of the one before.
    pub(super) fn contend(&mut self, path: FiveTuple, home: Home) {
        if self.by_path.contains_key(&path) {
            if self.contenders.len() < CONTENDERS_MAX || self.contenders.contains_key(&path) {
                self.contenders.insert(path, home);
            }
        } else if let Some(stray) = self.strays.get_mut(&path.remote) {
            stray.contender = Some((path, home));
        }
    }

    /// Records that a session here has this ufrag.
    pub(super) fn learn_ufrag(&mut self, ufrag: &str, key: SessionKey) {
        self.by_ufrag.insert(ufrag.into(), key);
    }

    /// Forgets a ufrag.
    pub(super) fn forget_ufrag(&mut self, ufrag: &str) {
        self.by_ufrag.remove(ufrag);
    }

    /// Forgets everything about a session.
    pub(super) fn forget(&mut self, key: SessionKey, ufrags: &[Box<str>], paths: &[FiveTuple]) {
        for ufrag in ufrags {
            self.by_ufrag.remove(ufrag);
        }
        for path in paths {
            self.forget_path(*path, key);
        }
        self.contenders.retain(|_, home| *home != Home::Here(key));
    }

    /// Records that another worker owns this address, as a valid check showed.
    pub(super) fn learn_stray(&mut self, remote: SocketAddr, worker: usize) {
        let limit = PerSecondLimit::per_second(STRAY_STUN_PER_SECOND);
        let stray = Stray { worker, checks: limit, answers: limit, contender: None };
        if self.strays.insert(remote, stray).is_none() {
            self.stray_order.push_back(remote);
        }
        while self.strays.len() > STRAY_ADDRESSES_MAX || self.stray_order.len() > STRAYS_ORDERED_MAX
        {
            let Some(oldest) = self.stray_order.pop_front() else { break };
            self.strays.remove(&oldest);
        }
    }

    /// The other worker that this address belongs to.
    pub(super) fn stray(&self, remote: SocketAddr) -> Option<usize> {
        self.strays.get(&remote).map(|stray| stray.worker)
    }

    /// Whether one more check from this address may be passed on now.
    pub(super) fn allow_stray_check(&mut self, now: Instant, remote: SocketAddr) -> bool {
        self.strays.get_mut(&remote).is_some_and(|stray| stray.checks.take(now))
    }

    /// Whether one more answer from this address may be passed on now.
    pub(super) fn allow_stray_answer(&mut self, now: Instant, remote: SocketAddr) -> bool {
        self.strays.get_mut(&remote).is_some_and(|stray| stray.answers.take(now))
    }

    /// Forgets that an address belongs to another worker.
    pub(super) fn forget_stray(&mut self, remote: SocketAddr) {
        // The entry in the order stays, and is skipped when it is the oldest.
        self.strays.remove(&remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: usize) -> FiveTuple {
        let [a, b] = (n as u16).to_be_bytes();
        FiveTuple::udp(None, SocketAddr::from(([192, 0, a, b], 9)))
    }

    #[test]
    fn one_contender_too_many_is_not_remembered() {
        let mut demux = Demux::default();
        let owner = SessionKey::new(1, 0);
        for n in 0..=CONTENDERS_MAX {
            demux.learn_path(path(n), owner);
            demux.contend(path(n), Home::Worker(1));
        }
        assert_eq!(demux.contender(path(CONTENDERS_MAX - 1)), Some(Home::Worker(1)));
        assert_eq!(demux.contender(path(CONTENDERS_MAX)), None);
        let session = SessionKey::new(3, 0);
        demux.contend(path(0), Home::Here(session));
        assert_eq!(demux.contender(path(0)), Some(Home::Here(session)), "the newest one claims");
        demux.forget(session, &[], &[]);
        assert_eq!(demux.contender(path(0)), None);
        demux.learn_path(path(1), session);
        assert_eq!(demux.contender(path(1)), None, "it was decided");
    }

    #[test]
    fn one_stray_too_many_replaces_the_oldest() {
        let (mut demux, now) = (Demux::default(), Instant::now());
        for n in 0..=STRAY_ADDRESSES_MAX {
            demux.learn_stray(path(n).remote, 1);
        }
        assert!(demux.stray(path(0).remote).is_none() && demux.stray(path(1).remote).is_some());
        demux.contend(path(1), Home::Worker(0));
        demux.contend(path(0), Home::Worker(0));
        assert_eq!([0, 1].map(|n| demux.contender(path(n))), [None, Some(Home::Worker(0))]);
        let remote = path(1).remote;
        let answers = (0..9_000).filter(|_| demux.allow_stray_answer(now, remote)).count();
        let checks = (0..9_000).filter(|_| demux.allow_stray_check(now, remote)).count();
        assert_eq!([answers, checks], [STRAY_STUN_PER_SECOND as usize; 2], "each has its own");
    }
}
