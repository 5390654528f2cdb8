//! ICE credentials of a session, now and before a restart (RFC 8445 section 9).
//!
//! Owns both pairs of credentials and how far the checks with them got. Never verifies a message.
//! Called by `ice/mod.rs`.

use crate::sdp::IceCredentials;

/// Which credentials a check is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// The present ones.
    Current,
    /// Those from before the restart.
    Previous,
}

/// How far the peer's checks with one set of credentials got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// No valid check came yet.
    Unchecked,
    /// A valid check came; none of them nominated a pair.
    Checked,
    /// A valid check nominated a pair.
    Nominated,
}

/// Credentials of both sides, and how far the checks with them got.
pub(super) struct Generation {
    pub(super) local: IceCredentials,
    pub(super) remote: IceCredentials,
    progress: Progress,
}

impl Generation {
    fn new(local: IceCredentials, remote: IceCredentials) -> Self {
        Self { local, remote, progress: Progress::Unchecked }
    }
}

/// Present credentials, and those from before a restart until a pair of the new ones is selected.
pub(super) struct Generations {
    current: Generation,
    previous: Option<Generation>,
}

impl Generations {
    /// Credentials of the first offer and answer.
    pub(super) fn new(local: IceCredentials, remote: IceCredentials) -> Self {
        Self { current: Generation::new(local, remote), previous: None }
    }

    /// Credentials of this age, while they are known.
    pub(super) fn get(&self, age: Age) -> Option<&Generation> {
        match age {
            Age::Current => Some(&self.current),
            Age::Previous => self.previous.as_ref(),
        }
    }

    /// Credentials that a check with this ufrag of ours is signed with.
    pub(super) fn by_local_ufrag(&self, ufrag: &str) -> Option<(Age, &Generation)> {
        if self.current.local.ufrag == ufrag {
            return Some((Age::Current, &self.current));
        }
        let previous = self.previous.as_ref().filter(|previous| previous.local.ufrag == ufrag)?;
        Some((Age::Previous, previous))
    }

    /// Age of the credentials that the selected pair was checked with.
    pub(super) fn selected_age(&self) -> Age {
        if self.previous.is_none() { Age::Current } else { Age::Previous }
    }

    /// Notes a valid check with the present credentials; returns how far they got before it.
    pub(super) fn on_check(&mut self, nominates: bool) -> Progress {
        let reached = if nominates { Progress::Nominated } else { Progress::Checked };
        let before = self.current.progress;
        if before != Progress::Nominated {
            self.current.progress = reached;
        }
        before
    }

    /// Begins a new generation. The old one stays known if a pair of it is selected.
    pub(super) fn restart(&mut self, local: IceCredentials, remote: IceCredentials, keep: bool) {
        let old = std::mem::replace(&mut self.current, Generation::new(local, remote));
        if keep {
            self.previous = Some(old);
        }
    }

    /// Forgets the credentials from before a restart: a pair was selected since.
    pub(super) fn forget_previous(&mut self) {
        self.previous = None;
    }
}
