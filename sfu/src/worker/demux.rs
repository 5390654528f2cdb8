//! Whose datagram is it: by address for what was seen before, by ICE ufrag for STUN, else by the
//! worker that owns the address. Owns the maps of one worker; decides nothing about sessions.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::keys::SessionKey;
use crate::limiter::PerSecondLimit;
use crate::transport::FiveTuple;

/// Checks of sessions elsewhere that are verified per second, and plain Binding requests answered per
/// second (quality B2). More is dropped (`DropReason::StunRateLimited`). Unknown names cost neither.
pub(super) const FOREIGN_STUN_PER_SECOND: u32 = 5_000;

/// Addresses remembered as belonging to another worker's session; at the limit the oldest is forgotten
/// and learned anew from its next check.
pub(super) const STRAY_ADDRESSES_MAX: usize = 16_384;

/// Entries of the order of strays, those already forgotten included.
const STRAYS_ORDERED_MAX: usize = 2 * STRAY_ADDRESSES_MAX;

/// Map that is read for each datagram, with a hash that is seeded but weaker against chosen keys than the standard one.
/// Strangers cannot add keys: five-tuples (at most eight per session) and strays are added after an authenticated check,
/// and user fragments are our own. A client that has a session can choose at most [`STRAY_ADDRESSES_MAX`] addresses, and
/// does not know the seed.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Address and name maps of one worker.
#[derive(Debug)]
pub(super) struct Demux {
    by_path: Map<FiveTuple, SessionKey>,
    by_ufrag: Map<Box<str>, SessionKey>,
    strays: Map<SocketAddr, usize>,
    /// Strays from the oldest to the newest.
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

    /// The session that a check names.
    pub(super) fn session_named(&self, ufrag: &str) -> Option<SessionKey> {
        self.by_ufrag.get(ufrag).copied()
    }

    /// A check for this session was valid on this pair: it is its from now on.
    pub(super) fn learn_path(&mut self, path: FiveTuple, key: SessionKey) {
        self.by_path.insert(path, key);
        self.forget_stray(path.remote);
    }

    /// The pair is not this session's any more.
    pub(super) fn forget_path(&mut self, path: FiveTuple, key: SessionKey) {
        if self.by_path.get(&path) == Some(&key) {
            self.by_path.remove(&path);
        }
    }

    /// A session here answers to this ufrag.
    pub(super) fn learn_ufrag(&mut self, ufrag: &str, key: SessionKey) {
        self.by_ufrag.insert(ufrag.into(), key);
    }

    /// No session answers to this ufrag any more.
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

    /// Whether one more check of a session that is not here may be verified now.
    pub(super) fn allow_foreign_check(&mut self, now: Instant) -> bool {
        self.foreign_checks.take(now)
    }

    /// Whether one more plain Binding request may be answered now.
    pub(super) fn allow_plain_stun(&mut self, now: Instant) -> bool {
        self.plain_stun.take(now)
    }

    /// A valid check showed that another worker owns this address.
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

    /// The worker that owns this address, if it is not us.
    pub(super) fn stray_owner(&self, remote: SocketAddr) -> Option<usize> {
        self.strays.get(&remote).copied()
    }

    fn forget_stray(&mut self, remote: SocketAddr) {
        // Its place in the order stays and is skipped when it comes up.
        self.strays.remove(&remote);
    }
}
