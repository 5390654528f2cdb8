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

/// Sessions remembered that claim one pair; one more replaces the one that claimed it least lately.
pub(super) const CONTENDERS_PER_PAIR: usize = 8;

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

/// Sessions whose check was valid on a pair that another one keeps, the latest first. Some may be gone.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contenders([Option<Home>; CONTENDERS_PER_PAIR]);

impl Contenders {
    fn add(&mut self, home: Home) {
        let known = self.0.iter().position(|other| *other == Some(home));
        let end = known.map_or(self.0.len(), |at| at + 1);
        if let Some(moved) = self.0.get_mut(..end) {
            moved.rotate_right(1);
        }
        if let Some(first) = self.0.first_mut() {
            *first = Some(home);
        }
    }

    /// The session that claimed the pair last.
    pub(super) fn latest(&self) -> Option<Home> {
        self.0.first().copied().flatten()
    }

    /// All of them.
    pub(super) fn all(self) -> impl Iterator<Item = Home> {
        self.0.into_iter().flatten()
    }

    fn forget(&mut self, home: Home) {
        if let Some(at) = self.0.iter().position(|other| *other == Some(home)) {
            if let Some(rest) = self.0.get_mut(at..) {
                rest.rotate_left(1);
            }
            if let Some(last) = self.0.last_mut() {
                *last = None;
            }
        }
    }
}

/// Address of another worker's session.
#[derive(Debug)]
struct Stray {
    worker: usize,
    checks: PerSecondLimit,
    answers: PerSecondLimit,
    /// The pair of this address that sessions claim and the other worker's keeps, and these sessions.
    claimed: Option<(FiveTuple, Contenders)>,
}

/// Address and ufrag maps of one worker.
#[derive(Debug, Default)]
pub(super) struct Demux {
    by_path: Map<FiveTuple, SessionKey>,
    by_ufrag: Map<Box<str>, SessionKey>,
    strays: Map<SocketAddr, Stray>,
    /// Stray addresses from the oldest to the newest.
    stray_order: VecDeque<SocketAddr>,
    /// Sessions that claim a pair which another one here keeps.
    contenders: Map<FiveTuple, Contenders>,
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

    /// The sessions that claim a pair which another one keeps.
    pub(super) fn contenders(&self, path: FiveTuple) -> Contenders {
        let claimed = match self.by_path.contains_key(&path) {
            true => self.contenders.get(&path).copied(),
            false => self
                .strays
                .get(&path.remote)
                .and_then(|stray| stray.claimed)
                .filter(|(pair, _)| *pair == path)
                .map(|(_, contenders)| contenders),
        };
        claimed.unwrap_or_default()
    }

    /// Records that a session claims a pair which another one keeps.
    pub(super) fn contend(&mut self, path: FiveTuple, home: Home) {
        if self.by_path.contains_key(&path) {
            if self.contenders.len() < CONTENDERS_MAX || self.contenders.contains_key(&path) {
                self.contenders.entry(path).or_default().add(home);
            }
        } else if let Some(stray) = self.strays.get_mut(&path.remote) {
            let claimed = stray.claimed.take_if(|(pair, _)| *pair == path);
            let (_, contenders) =
                stray.claimed.insert(claimed.unwrap_or((path, Contenders::default())));
            contenders.add(home);
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
        self.contenders.retain(|_, contenders| {
            contenders.forget(Home::Here(key));
            contenders.latest().is_some()
        });
    }

    /// Records that another worker owns this address, as a valid check showed.
    pub(super) fn learn_stray(&mut self, remote: SocketAddr, worker: usize) {
        if let Some(stray) = self.strays.get_mut(&remote).filter(|stray| stray.worker == worker) {
            stray.claimed = None;
            return;
        }
        let limit = PerSecondLimit::per_second(STRAY_STUN_PER_SECOND);
        let stray = Stray { worker, checks: limit, answers: limit, claimed: None };
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
        let latest = |demux: &Demux, n| demux.contenders(path(n)).latest();
        assert_eq!(latest(&demux, CONTENDERS_MAX - 1), Some(Home::Worker(1)));
        assert_eq!(latest(&demux, CONTENDERS_MAX), None);
        let session = SessionKey::new(3, 0);
        demux.contend(path(0), Home::Here(session));
        let all: Vec<_> = demux.contenders(path(0)).all().collect();
        assert_eq!(all, [Home::Here(session), Home::Worker(1)], "the latest first");
        demux.forget(session, &[], &[]);
        assert_eq!(latest(&demux, 0), Some(Home::Worker(1)));
        demux.learn_path(path(1), session);
        assert_eq!(latest(&demux, 1), None, "it was decided");
    }

    #[test]
    fn ninth_session_that_claims_a_pair_replaces_the_least_late() {
        let mut contenders = Contenders::default();
        let home = Home::Worker;
        (0..=CONTENDERS_PER_PAIR).for_each(|n| contenders.add(home(n)));
        contenders.add(home(2));
        let all: Vec<_> = contenders.all().collect();
        assert_eq!(all, [2, 8, 7, 6, 5, 4, 3, 1].map(home));
        contenders.forget(home(2));
        contenders.forget(home(0));
        contenders.forget(home(1));
        assert_eq!(contenders.all().collect::<Vec<_>>(), [8, 7, 6, 5, 4, 3].map(home));
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
        let latest = [0, 1].map(|n| demux.contenders(path(n)).latest());
        assert_eq!(latest, [None, Some(Home::Worker(0))]);
        let remote = path(1).remote;
        let answers = (0..9_000).filter(|_| demux.allow_stray_answer(now, remote)).count();
        let checks = (0..9_000).filter(|_| demux.allow_stray_check(now, remote)).count();
        assert_eq!([answers, checks], [STRAY_STUN_PER_SECOND as usize; 2], "each has its own");
    }
}
