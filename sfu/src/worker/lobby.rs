//! Lobby: sessions that wait for their first check, and the owners of ufrags.
//!
//! Keyed by our ICE ufrag. Only STUN from unknown addresses is looked up here, never media, so the
//! map's locks are off the packet path. Written by the control plane and by the adopting worker.
//!
//! A ufrag is known to its client and to who can read its path. So each has a budget of its own for
//! checks that arrive at other workers: who floods one takes nothing from the others.

use std::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::session::NewSession;
use crate::limiter::PerSecondLimit;
use crate::sdp::IceCredentials;
use crate::transport::stun::StunView;

/// Checks of one ufrag that are verified per second whatever else arrives, and valid ones among all
/// that are passed on. A client needs one per address: its next check from there is known. More
/// need a part of the worker's shared budget (`check_budget.rs`), or are dropped.
pub const CHECKS_PER_UFRAG: u32 = 8;

/// Sessions by their ufrags.
#[derive(Debug, Default)]
pub struct Lobby {
    entries: DashMap<Box<str>, LobbyEntry>,
}

#[derive(Debug)]
struct LobbyEntry {
    place: Place,
    /// Checks that are verified.
    own_budget: PerSecondLimit,
    /// Valid checks that are passed on.
    passed: PerSecondLimit,
}

#[derive(Debug)]
enum Place {
    /// No worker owns the session yet. The worker where a valid check arrives adopts it, or the
    /// worker on which it was placed.
    Waiting { session: Box<NewSession>, placed: Option<usize> },
    /// A worker owns the session; other workers verify checks with the password and pass them on.
    Owned { worker: usize, pwd: String },
}

impl LobbyEntry {
    fn new(place: Place) -> Self {
        let limit = PerSecondLimit::per_second(CHECKS_PER_UFRAG);
        Self { place, own_budget: limit, passed: limit }
    }

    fn pwd(&self) -> &str {
        match &self.place {
            Place::Waiting { session, .. } => &session.local.pwd,
            Place::Owned { pwd, .. } => pwd,
        }
    }

    fn verify(
        &mut self,
        now: Instant,
        request: &StunView<'_>,
        shared: impl FnOnce() -> bool,
    ) -> Result<(), CheckRefusal> {
        if !self.own_budget.take(now) && !shared() {
            return Err(CheckRefusal::Limited);
        }
        match request.verify_integrity(self.pwd().as_bytes()) {
            true => Ok(()),
            false => Err(CheckRefusal::BadIntegrity),
        }
    }
}

/// Whose a valid Binding request at a worker is.
#[derive(Debug)]
pub enum CheckOutcome {
    /// The session, which this worker adopts now.
    Adopt(Box<NewSession>),
    /// This worker's.
    Elsewhere(usize),
}

/// Why a Binding request is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckRefusal {
    /// The ufrag is unknown.
    Unknown,
    /// The ufrag is known and the password wrong.
    BadIntegrity,
    /// The budgets for such checks are spent.
    Limited,
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
        self.entries.insert(ufrag, LobbyEntry::new(Place::Waiting { session, placed }));
    }

    /// Records the owner of new credentials, after an ICE restart.
    pub fn own(&self, local: &IceCredentials, worker: usize) {
        let place = Place::Owned { worker, pwd: local.pwd.clone() };
        self.entries.insert(local.ufrag.as_str().into(), LobbyEntry::new(place));
    }

    /// Handles a Binding request for `ufrag` that arrived at `worker`. Asks `shared` whether it may
    /// be verified when the ufrag's own budget is spent.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn check(
        &self,
        now: Instant,
        ufrag: &str,
        request: &StunView<'_>,
        worker: usize,
        shared: impl FnOnce() -> bool,
    ) -> Result<CheckOutcome, CheckRefusal> {
        let Entry::Occupied(mut entry) = self.entries.entry(ufrag.into()) else {
            return Err(CheckRefusal::Unknown);
        };
        let entry = entry.get_mut();
        entry.verify(now, request, shared)?;
        let elsewhere = match &entry.place {
            Place::Owned { worker, .. } => Some(*worker),
            Place::Waiting { placed, .. } => placed.filter(|placed| *placed != worker),
        };
        if let Some(worker) = elsewhere {
            return match entry.passed.take(now) {
                true => Ok(CheckOutcome::Elsewhere(worker)),
                false => Err(CheckRefusal::Limited),
            };
        }
        let owned = Place::Owned { worker, pwd: entry.pwd().to_owned() };
        match std::mem::replace(&mut entry.place, owned) {
            Place::Waiting { session, .. } => Ok(CheckOutcome::Adopt(session)),
            Place::Owned { .. } => Err(CheckRefusal::Unknown),
        }
    }

    /// Verifies a Binding request for `ufrag`, under the same budgets, and changes nothing.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn verify(
        &self,
        now: Instant,
        ufrag: &str,
        request: &StunView<'_>,
        shared: impl FnOnce() -> bool,
    ) -> Result<(), CheckRefusal> {
        let mut entry = self.entries.get_mut(ufrag).ok_or(CheckRefusal::Unknown)?;
        entry.verify(now, request, shared)
    }

    /// Changes a session that still waits; false if it does not. Its credentials may change.
    pub fn edit_waiting(&self, ufrag: &str, edit: impl FnOnce(&mut NewSession)) -> bool {
        let Some(mut entry) = self.entries.get_mut(ufrag) else { return false };
        let Place::Waiting { session, .. } = &mut entry.value_mut().place else { return false };
        edit(session);
        let is_renamed = session.local.ufrag != ufrag;
        // The guard must not be held while another entry is locked.
        drop(entry);
        if is_renamed
            && let Some((_, entry)) = self.entries.remove(ufrag)
            && let Place::Waiting { session, placed } = entry.place
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
        match self.entries.get(ufrag)?.place {
            Place::Owned { worker, .. } | Place::Waiting { placed: Some(worker), .. } => {
                Some(Owner::Worker(worker))
            }
            Place::Waiting { placed: None, .. } => Some(Owner::Anywhere),
        }
    }

    /// Removes a session that still waits; `None` if a worker owns it or the ufrag is unknown.
    pub fn take_waiting(&self, ufrag: &str) -> Option<Box<NewSession>> {
        let waiting =
            self.entries.remove_if(ufrag, |_, entry| matches!(entry.place, Place::Waiting { .. }));
        match waiting?.1.place {
            Place::Waiting { session, .. } => Some(session),
            Place::Owned { .. } => None,
        }
    }

    /// Forgets a ufrag.
    pub fn remove(&self, ufrag: &str) {
        self.entries.remove(ufrag);
    }

    /// Forgets the sessions of a worker that lost them.
    pub fn forget_worker(&self, lost: usize) {
        self.entries.retain(
            |_, entry| !matches!(entry.place, Place::Owned { worker, .. } if worker == lost),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::stun::{CheckRequest, IceRole, client_check};

    fn check(n: u32, ufrag: &str, pwd: &str) -> Vec<u8> {
        let mut transaction_id = [0; 12];
        transaction_id[..4].copy_from_slice(&n.to_be_bytes());
        let (remote_ufrag, role) = (ufrag, IceRole::Controlling);
        let (local_ufrag, priority, tie_breaker, key) = ("client", 0, 0, pwd.as_bytes());
        client_check(
            &CheckRequest {
                transaction_id,
                remote_ufrag,
                local_ufrag,
                priority,
                role,
                tie_breaker,
                key,
            },
            &[],
        )
    }

    #[test]
    fn each_ufrag_has_checks_of_its_own_and_valid_ones_are_passed_on_so_often() {
        let (lobby, now) = (Lobby::default(), Instant::now());
        let pwd = |name: &str| format!("{name}-password-of-22-chars");
        for ufrag in ["flooded", "honest"] {
            lobby.own(&IceCredentials { ufrag: ufrag.into(), pwd: pwd(ufrag) }, 1);
        }
        let run = |n: u32, ufrag: &str, pwd: &str, shared: bool| {
            let datagram = check(n, ufrag, pwd);
            let view = StunView::parse(&datagram).unwrap();
            lobby.check(now, ufrag, &view, 0, || shared)
        };
        let forged = |n, shared| run(n, "flooded", "wrong", shared);
        for n in 0..CHECKS_PER_UFRAG {
            assert!(matches!(forged(n, false), Err(CheckRefusal::BadIntegrity)));
        }
        assert!(
            matches!(forged(100, false), Err(CheckRefusal::Limited)),
            "one past its own budget"
        );
        assert!(matches!(forged(101, true), Err(CheckRefusal::BadIntegrity)), "with a shared one");
        for n in 0..CHECKS_PER_UFRAG {
            let outcome = run(n, "honest", &pwd("honest"), false);
            assert!(matches!(outcome, Ok(CheckOutcome::Elsewhere(1))), "{outcome:?}");
        }
        let outcome = run(50, "honest", &pwd("honest"), true);
        assert!(matches!(outcome, Err(CheckRefusal::Limited)), "one past what is passed on");
        assert!(matches!(run(51, "nobody", "x", true), Err(CheckRefusal::Unknown)));
    }
}
