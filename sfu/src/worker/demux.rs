//! Whose datagram is it: by address for what was seen before, by ICE ufrag for STUN, else by the
//! worker that owns the address. Owns the maps of one worker; decides nothing about sessions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::session::{Budget, SessionKey};
use crate::transport::Path;

/// STUN checked per second for addresses that belong to no session here (quality B2). More is
/// dropped (`DropReason::StunRateLimited`).
pub(super) const UNKNOWN_STUN_PER_SECOND: u32 = 5_000;

/// Addresses remembered as belonging to another worker's session; at the limit all are forgotten and
/// learned anew from their next check.
pub(super) const STRAY_ADDRESSES_MAX: usize = 4_096;

/// Address and name maps of one worker.
#[derive(Debug)]
pub(super) struct Demux {
    by_path: HashMap<Path, SessionKey>,
    by_ufrag: HashMap<Box<str>, SessionKey>,
    strays: HashMap<SocketAddr, usize>,
    unknown_stun: Budget,
}

impl Default for Demux {
    fn default() -> Self {
        Self {
            by_path: HashMap::new(),
            by_ufrag: HashMap::new(),
            strays: HashMap::new(),
            unknown_stun: Budget::per_second(UNKNOWN_STUN_PER_SECOND),
        }
    }
}

impl Demux {
    /// The session that an address pair belongs to.
    pub(super) fn session_at(&self, path: Path) -> Option<SessionKey> {
        self.by_path.get(&path).copied()
    }

    /// The session that a check names.
    pub(super) fn session_named(&self, ufrag: &str) -> Option<SessionKey> {
        self.by_ufrag.get(ufrag).copied()
    }

    /// A check for this session was valid on this pair: it is its from now on.
    pub(super) fn learn_path(&mut self, path: Path, key: SessionKey) {
        if self.by_path.get(&path) != Some(&key) {
            self.by_path.insert(path, key);
            self.strays.remove(&path.remote);
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
    pub(super) fn forget(&mut self, key: SessionKey, ufrags: &[Box<str>]) {
        for ufrag in ufrags {
            self.by_ufrag.remove(ufrag);
        }
        self.by_path.retain(|_, owner| *owner != key);
    }

    /// Whether one more STUN message from an unknown address may be looked at now.
    pub(super) fn allow_unknown_stun(&mut self, now: Instant) -> bool {
        self.unknown_stun.take(now)
    }

    /// A valid check showed that another worker owns this address.
    pub(super) fn learn_stray(&mut self, remote: SocketAddr, worker: usize) {
        if self.strays.len() >= STRAY_ADDRESSES_MAX {
            self.strays.clear();
        }
        self.strays.insert(remote, worker);
    }

    /// The worker that owns this address, if it is not us.
    pub(super) fn stray_owner(&self, remote: SocketAddr) -> Option<usize> {
        self.strays.get(&remote).copied()
    }
}
