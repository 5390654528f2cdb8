//! Replay window of one SSRC (RFC 3711 section 3.3.2).
//!
//! Owns which of the last [`REPLAY_WINDOW`] indices were accepted. Changes only in
//! [`ReplayWindow::accept`], which the receiver calls after authentication: a forged packet changes
//! nothing. Never authenticates a packet. Called by `receiver.rs`.

use crate::rtp::window::SeqWindow;
use crate::warm::warm;

/// Packets behind the newest that may still arrive; anything older is dropped. Wide, because OBS
/// answers a NACK by sending again on the primary SSRC (whip-whep C57).
pub const REPLAY_WINDOW: u64 = 1_024;

/// What the window says about an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplayCheck {
    /// Index that was not seen.
    New,
    /// Index that was accepted before.
    Seen,
    /// Index behind the window: whether it was seen is no longer known.
    Old,
}

/// The indices of one SSRC that were accepted, as far back as the window reaches.
#[derive(Debug, Clone)]
pub(super) struct ReplayWindow {
    newest: u64,
    accepted: SeqWindow<{ (REPLAY_WINDOW / 64) as usize }>,
}

impl ReplayWindow {
    /// Window whose first accepted index is `first`.
    pub(super) fn new(first: u64) -> Self {
        let mut window = Self { newest: first, accepted: SeqWindow::EMPTY };
        window.accept(first);
        window
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        warm!(self.check(self.newest));
    }

    /// Highest accepted index.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether an index is new; changes nothing.
    pub(super) fn check(&self, index: u64) -> ReplayCheck {
        if index > self.newest {
            ReplayCheck::New
        } else if self.newest - index >= REPLAY_WINDOW {
            ReplayCheck::Old
        } else {
            let seen = self.accepted.contains(index);
            if seen { ReplayCheck::Seen } else { ReplayCheck::New }
        }
    }

    /// Marks an index that [`check`](Self::check) found new.
    pub(super) fn accept(&mut self, index: u64) {
        if index > self.newest {
            self.accepted.clear(self.newest + 1..index);
            self.newest = index;
        }
        self.accepted.insert(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn index_at_the_edge_is_known_and_one_behind_it_is_old() {
        let mut window = ReplayWindow::new(5_000);
        assert_eq!(window.check(5_000 - REPLAY_WINDOW + 1), ReplayCheck::New);
        assert_eq!(window.check(5_000 - REPLAY_WINDOW), ReplayCheck::Old);
        window.accept(5_000 + REPLAY_WINDOW - 1);
        assert_eq!(window.check(5_000), ReplayCheck::Seen);
        window.accept(5_000 + REPLAY_WINDOW);
        assert_eq!(window.check(5_000), ReplayCheck::Old);
        assert_eq!(window.check(5_001), ReplayCheck::New);
    }

    #[test]
    fn window_agrees_with_a_set_over_a_long_disordered_run() {
        let mut state = 7u64;
        let mut window = ReplayWindow::new(0);
        let mut seen = BTreeSet::from([0u64]);
        let mut newest = 0u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let jump = (state >> 33) % 2_200;
            let index = (newest + 40).saturating_sub(if jump < 1_500 { jump % 60 } else { jump });
            let expected = if newest >= REPLAY_WINDOW + index {
                ReplayCheck::Old
            } else if seen.contains(&index) {
                ReplayCheck::Seen
            } else {
                ReplayCheck::New
            };
            assert_eq!(window.check(index), expected, "index {index}, newest {newest}");
            if expected == ReplayCheck::New {
                window.accept(index);
                seen.insert(index);
                newest = newest.max(index);
            }
        }
    }
}
