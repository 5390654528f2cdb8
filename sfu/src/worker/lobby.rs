//! Where sessions wait for their first check, and how a datagram at the wrong door finds its owner.
//!
//! Keyed by our ICE ufrag. Only STUN from unknown addresses looks here, never media, so the map's
//! locks are off the packet path. Written by the control plane and by the adopting worker.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::session::NewSession;
use crate::sdp::IceCredentials;
use crate::transport::stun::StunView;

/// Sessions behind their ufrags.
#[derive(Debug, Default)]
pub struct Lobby {
    entries: DashMap<Box<str>, LobbyEntry>,
}

#[derive(Debug)]
enum LobbyEntry {
    /// Nobody owns it yet. The worker where a valid check lands adopts it, or the one it is meant
    /// for, if it was placed.
    Waiting { session: Box<NewSession>, placed: Option<usize> },
    /// A worker owns it; checks elsewhere are verified with the password and passed on.
    Owned { worker: usize, pwd: String },
}

/// What a Binding request at a worker's door leads to.
#[derive(Debug)]
pub enum CheckOutcome {
    /// It is yours now.
    Adopt(Box<NewSession>),
    /// Pass it on to this worker.
    Elsewhere(usize),
    /// No such ufrag.
    Unknown,
    /// Right name, wrong password: stay silent, change nothing.
    BadIntegrity,
}

/// Where the session behind a ufrag belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// To the worker where its first check lands.
    Anywhere,
    /// To this one.
    Worker(usize),
}

impl Lobby {
    /// Lets a session wait for its first check: a viewer for the worker it was placed on, a publisher
    /// for whichever its checks reach, so that its media does not cross threads.
    pub fn wait(&self, session: Box<NewSession>, placed: Option<usize>) {
        let ufrag = session.local.ufrag.as_str().into();
        self.entries.insert(ufrag, LobbyEntry::Waiting { session, placed });
    }

    /// Names the owner of new credentials, after an ICE restart.
    pub fn own(&self, local: &IceCredentials, worker: usize) {
        let door = LobbyEntry::Owned { worker, pwd: local.pwd.clone() };
        self.entries.insert(local.ufrag.as_str().into(), door);
    }

    /// A Binding request for `ufrag` came to `worker`.
    pub fn check(&self, ufrag: &str, request: &StunView<'_>, worker: usize) -> CheckOutcome {
        let Entry::Occupied(mut entry) = self.entries.entry(ufrag.into()) else {
            return CheckOutcome::Unknown;
        };
        let pwd = match entry.get() {
            LobbyEntry::Waiting { session, .. } => &session.local.pwd,
            LobbyEntry::Owned { pwd, .. } => pwd,
        };
        if !request.verify_integrity(pwd.as_bytes()) {
            return CheckOutcome::BadIntegrity;
        }
        match entry.get() {
            LobbyEntry::Owned { worker, .. } => return CheckOutcome::Elsewhere(*worker),
            LobbyEntry::Waiting { placed: Some(placed), .. } if *placed != worker => {
                return CheckOutcome::Elsewhere(*placed);
            }
            LobbyEntry::Waiting { .. } => {}
        }
        let owned = LobbyEntry::Owned { worker, pwd: pwd.clone() };
        match entry.insert(owned) {
            LobbyEntry::Waiting { session, .. } => CheckOutcome::Adopt(session),
            LobbyEntry::Owned { .. } => CheckOutcome::Unknown,
        }
    }

    /// Changes a session that still waits; false if it does not. Its credentials may change.
    pub fn edit_waiting(&self, ufrag: &str, edit: impl FnOnce(&mut NewSession)) -> bool {
        let waiting =
            self.entries.remove_if(ufrag, |_, door| matches!(door, LobbyEntry::Waiting { .. }));
        let Some((_, LobbyEntry::Waiting { mut session, placed })) = waiting else { return false };
        edit(&mut session);
        self.wait(session, placed);
        true
    }

    /// Whether anybody answers to this ufrag.
    pub fn knows(&self, ufrag: &str) -> bool {
        self.entries.contains_key(ufrag)
    }

    /// Which worker has, or is to have, the session behind this ufrag.
    pub fn owner(&self, ufrag: &str) -> Option<Owner> {
        match *self.entries.get(ufrag)? {
            LobbyEntry::Owned { worker, .. } | LobbyEntry::Waiting { placed: Some(worker), .. } => {
                Some(Owner::Worker(worker))
            }
            LobbyEntry::Waiting { placed: None, .. } => Some(Owner::Anywhere),
        }
    }

    /// Takes a session that still waits out; `None` if a worker owns it or nobody knows it.
    pub fn take_waiting(&self, ufrag: &str) -> Option<Box<NewSession>> {
        let waiting =
            self.entries.remove_if(ufrag, |_, door| matches!(door, LobbyEntry::Waiting { .. }));
        match waiting {
            Some((_, LobbyEntry::Waiting { session, .. })) => Some(session),
            _ => None,
        }
    }

    /// Forgets a ufrag.
    pub fn remove(&self, ufrag: &str) {
        self.entries.remove(ufrag);
    }

    /// Forgets the sessions of a worker that lost them.
    pub fn forget_worker(&self, lost: usize) {
        self.entries
            .retain(|_, door| !matches!(door, LobbyEntry::Owned { worker, .. } if *worker == lost));
    }

    /// Ufrags known now.
    #[cfg(feature = "internals")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no ufrag is known.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
