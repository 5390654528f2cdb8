//! The address pair that we send on.
//!
//! Owns whether its limit of bytes is lifted, and the bytes sent since. Never looks at other pairs.
//! Called by `ice/mod.rs`. Next: `pair.rs`.

use crate::transport::FiveTuple;

/// Selected pair. Each turn's packets read it, so it holds a copy of what its `Pair` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selected {
    pub(super) path: FiveTuple,
    confirmation: Confirmation,
}

/// Reason why the limit of bytes is lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirmation {
    /// The limit holds, and each byte is counted in the pair.
    None,
    /// SRTP of the session was authenticated, which suffices with `Policy::srtp_confirms`.
    BySrtp,
    /// The peer has answered a check of ours from there.
    ByCheck {
        /// Bytes sent since, not yet added to the pair.
        unsettled_bytes: u64,
    },
}

impl Selected {
    /// Selects `path`. `answered` tells whether it has answered a check of ours. `before` is the pair
    /// selected until now: SRTP that was authenticated lifts the limit on each later pair, too.
    pub(super) fn new(path: FiveTuple, answered: bool, before: Option<Self>) -> Self {
        let by_srtp = before.is_some_and(|before| before.confirmation == Confirmation::BySrtp);
        let confirmation = match (answered, by_srtp) {
            (true, _) => Confirmation::ByCheck { unsettled_bytes: 0 },
            (false, true) => Confirmation::BySrtp,
            (false, false) => Confirmation::None,
        };
        Self { path, confirmation }
    }

    /// Whether any number of bytes may go to the pair.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmation != Confirmation::None
    }

    /// Whether the peer has answered a check of ours from there.
    pub(super) fn has_answered(&self) -> bool {
        matches!(self.confirmation, Confirmation::ByCheck { .. })
    }

    /// Lifts the limit, because SRTP of the session was authenticated.
    pub(super) fn confirm_by_srtp(&mut self) {
        if self.confirmation == Confirmation::None {
            self.confirmation = Confirmation::BySrtp;
        }
    }

    /// Counts bytes that went to the pair. Returns those that the caller must count in the pair now.
    pub(super) fn count_sent(&mut self, bytes: u64) -> u64 {
        match &mut self.confirmation {
            Confirmation::ByCheck { unsettled_bytes } => {
                *unsettled_bytes = unsettled_bytes.saturating_add(bytes);
                0
            }
            Confirmation::None | Confirmation::BySrtp => bytes,
        }
    }

    /// Bytes that the caller must count in the pair before another one is selected.
    pub(super) fn unsettled_bytes(&self) -> u64 {
        match self.confirmation {
            Confirmation::ByCheck { unsettled_bytes } => unsettled_bytes,
            Confirmation::None | Confirmation::BySrtp => 0,
        }
    }
}
