//! Lobby: sessions that wait for their first check, and the owners of ufrags.
//!
//! Keyed by our ICE ufrag. Only STUN from unknown addresses is looked up here, never media, so the
//! map's locks are off the packet path. Written by the control plane and by the adopting worker.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::session::NewSession;
use crate::sdp::IceCredentials;
use crate::transport::stun::StunView;

/// Sessions by their ufrags.
#[derive(Debug, Default)]
pub struct Lobby {
    entries: DashMap<Box<str>, LobbyEntry>,
}

#[derive(Debug)]
enum LobbyEntry {
    /// No worker owns the session yet. The worker where a valid check arrives adopts it, or the
    /// worker on which it was placed.
    Waiting { session: Box<NewSession>, placed: Option<usize> },
    /// A worker owns the session; other workers verify checks with the password and pass them on.
    Owned { worker: usize, pwd: String },
}

/// Result of a Binding request at a worker.
#[derive(Debug)]
pub enum CheckOutcome {
    /// The session, which this worker adopts now.
    Adopt(Box<NewSession>),
    /// The worker to which the request is passed on.
    Elsewhere(usize),
    /// The ufrag is unknown.
    Unknown,
    /// The ufrag is known and the password wrong: the request is ignored.
    BadIntegrity,
}

/// Worker that owns, or will own, the session of a ufrag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The worker where its first check arrives.
    Anywhere,
    /// This worker.
    Worker(usize),
}

impl Lobby {
    /// Adds a session that waits for its first check. A viewer waits for the worker on which it was
    /// placed. A publisher waits for whichever worker its checks reach, so that its media does not
    /// cross threads.
    pub fn wait(&self, session: Box<NewSession>, placed: Option<usize>) {
        let ufrag = session.local.ufrag.as_str().into();
        self.entries.insert(ufrag, LobbyEntry::Waiting { session, placed });
    }

    /// Records the owner of new credentials, after an ICE restart.
    pub fn own(&self, local: &IceCredentials, worker: usize) {
        let entry = LobbyEntry::Owned { worker, pwd: local.pwd.clone() };
        self.entries.insert(local.ufrag.as_str().into(), entry);
    }

    /// Handles a Binding request for `ufrag` that arrived at `worker`.
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
        let Some(mut entry) = self.entries.get_mut(ufrag) else { return false };
        let LobbyEntry::Waiting { session, .. } = entry.value_mut() else { return false };
        edit(session);
        let is_renamed = session.local.ufrag != ufrag;
        // The guard must not be held while another entry is locked.
        drop(entry);
        if is_renamed
            && let Some((_, LobbyEntry::Waiting { session, placed })) = self.entries.remove(ufrag)
        {
            // Nobody was told the new ufrag yet, so that no check can miss the session meanwhile. One
            // under the old ufrag fails by its password from the edit on.
            self.wait(session, placed);
        }
        true
    }

    /// Whether a session has this ufrag.
    pub fn knows(&self, ufrag: &str) -> bool {
        self.entries.contains_key(ufrag)
    }

    /// The worker that owns, or will own, the session of this ufrag.
    pub fn owner(&self, ufrag: &str) -> Option<Owner> {
        match *self.entries.get(ufrag)? {
            LobbyEntry::Owned { worker, .. } | LobbyEntry::Waiting { placed: Some(worker), .. } => {
                Some(Owner::Worker(worker))
            }
            LobbyEntry::Waiting { placed: None, .. } => Some(Owner::Anywhere),
        }
    }

    /// Removes a session that still waits; `None` if a worker owns it or the ufrag is unknown.
    pub fn take_waiting(&self, ufrag: &str) -> Option<Box<NewSession>> {
        let waiting =
            self.entries.remove_if(ufrag, |_, entry| matches!(entry, LobbyEntry::Waiting { .. }));
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
        self.entries.retain(
            |_, entry| !matches!(entry, LobbyEntry::Owned { worker, .. } if *worker == lost),
        );
    }

    /// Number of known ufrags.
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
