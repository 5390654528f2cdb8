//! Demultiplexer of one worker: finds a datagram's session by address, by ICE ufrag for STUN, or
//! the worker that owns the address. Owns these maps; decides nothing about sessions.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::keys::SessionKey;
use crate::limiter::PerSecondLimit;
use crate::transport::FiveTuple;

/// Checks of other workers' sessions that are verified per second, and plain Binding requests
/// answered per second (quality B2). More are dropped (`DropReason::StunRateLimited`). Unknown
/// ufrags do not count.
pub(super) const FOREIGN_STUN_PER_SECOND: u32 = 5_000;

/// Addresses remembered as those of other workers' sessions. At the limit the oldest is forgotten,
/// and learned again from its next check.
pub(super) const STRAY_ADDRESSES_MAX: usize = 16_384;

/// Maximum entries in the order of strays, with those already forgotten.
const STRAYS_ORDERED_MAX: usize = 2 * STRAY_ADDRESSES_MAX;

/// Map that is read for each datagram. Its hash is seeded, but weaker against chosen keys than the
/// standard one. Unauthenticated clients cannot add keys: five-tuples (at most eight per session)
/// and strays are added after an authenticated check, and we choose the ufrags. A client with a
/// session can choose at most [`STRAY_ADDRESSES_MAX`] addresses, and does not know the seed.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Address and ufrag maps of one worker.
#[derive(Debug)]
pub(super) struct Demux {
    by_path: Map<FiveTuple, SessionKey>,
    by_ufrag: Map<Box<str>, SessionKey>,
    strays: Map<SocketAddr, usize>,
    /// Stray addresses from the oldest to the newest.
    stray_order: VecDeque<SocketAddr>,
    foreign_checks: PerSecondLimit,
    plain_stun: PerSecondLimit,
}

impl Default for Demux {
    fn default() -> Self {
        Self {
            by_path: Map::default(),
            by_ufrag: Map::default(),
            strays: Map::default(),
            stray_order: VecDeque::new(),
            foreign_checks: PerSecondLimit::per_second(FOREIGN_STUN_PER_SECOND),
            plain_stun: PerSecondLimit::per_second(FOREIGN_STUN_PER_SECOND),
        }
    }
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
        self.forget_stray(path.remote);
    }

    /// Forgets that the pair leads to this session.
    pub(super) fn forget_path(&mut self, path: FiveTuple, key: SessionKey) {
        if self.by_path.get(&path) == Some(&key) {
            self.by_path.remove(&path);
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
    }

    /// Whether one more check of another worker's session may be verified now.
    pub(super) fn allow_foreign_check(&mut self, now: Instant) -> bool {
        self.foreign_checks.take(now)
    }

    /// Whether one more plain Binding request may be answered now.
    pub(super) fn allow_plain_stun(&mut self, now: Instant) -> bool {
        self.plain_stun.take(now)
    }

    /// Records that another worker owns this address, as a valid check showed.
    pub(super) fn learn_stray(&mut self, remote: SocketAddr, worker: usize) {
        if self.strays.insert(remote, worker).is_none() {
            self.stray_order.push_back(remote);
        }
        while self.strays.len() > STRAY_ADDRESSES_MAX || self.stray_order.len() > STRAYS_ORDERED_MAX
        {
            let Some(oldest) = self.stray_order.pop_front() else { break };
            self.strays.remove(&oldest);
        }
    }

    /// The worker that owns this address, if it is another one.
    pub(super) fn stray_owner(&self, remote: SocketAddr) -> Option<usize> {
        self.strays.get(&remote).copied()
    }

    fn forget_stray(&mut self, remote: SocketAddr) {
        // The entry in the order stays, and is skipped when it is the oldest.
        self.strays.remove(&remote);
    }
}
