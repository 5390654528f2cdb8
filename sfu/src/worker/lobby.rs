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
    doors: DashMap<Box<str>, Door>,
}

#[derive(Debug)]
enum Door {
    /// Nobody owns it yet. The worker where a valid check lands adopts it, or the one it is meant
    /// for, if it was placed.
    Waiting { session: Box<NewSession>, placed: Option<usize> },
    /// A worker owns it; checks elsewhere are verified with the password and passed on.
    Owned { worker: usize, pwd: String },
}

/// What a Binding request at a worker's door leads to.
#[derive(Debug)]
pub enum Knock {
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
pub enum Home {
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
        self.doors.insert(ufrag, Door::Waiting { session, placed });
    }

    /// Names the owner of new credentials, after an ICE restart.
    pub fn own(&self, local: &IceCredentials, worker: usize) {
        let door = Door::Owned { worker, pwd: local.pwd.clone() };
        self.doors.insert(local.ufrag.as_str().into(), door);
    }

    /// A Binding request for `ufrag` came to `worker`.
    pub fn knock(&self, ufrag: &str, request: &StunView<'_>, worker: usize) -> Knock {
        let Entry::Occupied(mut entry) = self.doors.entry(ufrag.into()) else {
            return Knock::Unknown;
        };
        let pwd = match entry.get() {
            Door::Waiting { session, .. } => &session.local.pwd,
            Door::Owned { pwd, .. } => pwd,
        };
        if !request.verify_integrity(pwd.as_bytes()) {
            return Knock::BadIntegrity;
        }
        match entry.get() {
            Door::Owned { worker, .. } => return Knock::Elsewhere(*worker),
            Door::Waiting { placed: Some(placed), .. } if *placed != worker => {
                return Knock::Elsewhere(*placed);
            }
            Door::Waiting { .. } => {}
        }
        let owned = Door::Owned { worker, pwd: pwd.clone() };
        match entry.insert(owned) {
            Door::Waiting { session, .. } => Knock::Adopt(session),
            Door::Owned { .. } => Knock::Unknown,
        }
    }

    /// Changes a session that still waits; false if it does not. Its credentials may change.
    pub fn edit_waiting(&self, ufrag: &str, edit: impl FnOnce(&mut NewSession)) -> bool {
        let waiting = self.doors.remove_if(ufrag, |_, door| matches!(door, Door::Waiting { .. }));
        let Some((_, Door::Waiting { mut session, placed })) = waiting else { return false };
        edit(&mut session);
        self.wait(session, placed);
        true
    }

    /// Whether anybody answers to this ufrag.
    pub fn knows(&self, ufrag: &str) -> bool {
        self.doors.contains_key(ufrag)
    }

    /// Which worker has, or is to have, the session behind this ufrag.
    pub fn home(&self, ufrag: &str) -> Option<Home> {
        match *self.doors.get(ufrag)? {
            Door::Owned { worker, .. } | Door::Waiting { placed: Some(worker), .. } => {
                Some(Home::Worker(worker))
            }
            Door::Waiting { placed: None, .. } => Some(Home::Anywhere),
        }
    }

    /// Takes a session that still waits out; `None` if a worker owns it or nobody knows it.
    pub fn take_waiting(&self, ufrag: &str) -> Option<Box<NewSession>> {
        let waiting = self.doors.remove_if(ufrag, |_, door| matches!(door, Door::Waiting { .. }));
        match waiting {
            Some((_, Door::Waiting { session, .. })) => Some(session),
            _ => None,
        }
    }

    /// Forgets a ufrag.
    pub fn remove(&self, ufrag: &str) {
        self.doors.remove(ufrag);
    }

    /// Forgets the sessions of a worker that lost them.
    pub fn forget_worker(&self, lost: usize) {
        self.doors.retain(|_, door| !matches!(door, Door::Owned { worker, .. } if *worker == lost));
    }

    /// Ufrags known now.
    pub fn len(&self) -> usize {
        self.doors.len()
    }

    /// Whether no ufrag is known.
    pub fn is_empty(&self) -> bool {
        self.doors.is_empty()
    }
}
