//! The table that finds a publisher's layer by SSRC. New entries are made only for packets that were
//! authenticated (quality B1).

use std::hint::black_box;

use crate::error::DropReason;
use crate::ids::{LayerIdx, TrackIdx};
use crate::sdp::PublishTrack;

/// SSRCs known of one publisher at a time (quality B2). At the limit those go first that another one
/// has replaced; if there is none the new one is dropped (`DropReason::TooManySsrcs`).
pub(super) const SSRCS_MAX: usize = 32;

/// Where a packet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Track index.
    pub track: TrackIdx,
    /// Layer index.
    pub layer: LayerIdx,
    /// It is a retransmission of that layer.
    pub rtx: bool,
}

/// What is known of a publisher's SSRCs. A linear scan: there are a handful.
#[derive(Debug, Default)]
pub(super) struct SsrcTable {
    known: Vec<(u32, Target)>,
    declared: Vec<(u32, TrackIdx)>,
}

impl SsrcTable {
    /// Takes the SSRCs that the offer declared.
    pub(super) fn declared<'a>(plans: impl Iterator<Item = &'a PublishTrack>) -> Self {
        let mut table = Self::default();
        for (track, plan) in TrackIdx::all().zip(plans) {
            for declared in plan.ssrcs.iter().take(SSRCS_MAX) {
                table.declared.push((declared.ssrc, track));
                table.declared.extend(declared.rtx.map(|rtx| (rtx, track)));
            }
        }
        table
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        black_box(self.known.first().map(|(ssrc, _)| *ssrc));
    }

    /// Where packets of this SSRC belong, if one came before.
    pub(super) fn known(&self, ssrc: u32) -> Option<Target> {
        self.known.iter().find(|(known, _)| *known == ssrc).map(|(_, target)| *target)
    }

    /// The track that the offer declared for this SSRC.
    pub(super) fn declared_track(&self, ssrc: u32) -> Option<TrackIdx> {
        self.declared.iter().find(|(known, _)| *known == ssrc).map(|(_, track)| *track)
    }

    /// Remembers where packets of this SSRC belong.
    ///
    /// # Errors
    /// [`DropReason::TooManySsrcs`] at the limit.
    pub(super) fn learn(&mut self, ssrc: u32, target: Target) -> Result<(), DropReason> {
        if self.known.len() >= SSRCS_MAX {
            let replaced = |(n, (_, old)): (usize, &(u32, Target))| {
                *old == target || self.known.iter().skip(n + 1).any(|(_, later)| later == old)
            };
            let index = self.known.iter().enumerate().position(replaced);
            self.known.remove(index.ok_or(DropReason::TooManySsrcs)?);
        }
        self.known.push((ssrc, target));
        Ok(())
    }

    /// Any media SSRC, to fill the media field of transport-wide feedback.
    pub(super) fn any_media(&self) -> Option<u32> {
        self.known.iter().find(|(_, target)| !target.rtx).map(|(ssrc, _)| *ssrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn target(layer: u8) -> Target {
        Target { track: TrackIdx(0), layer: LayerIdx(layer), rtx: false }
    }

    #[test]
    fn an_encoder_may_restart_for_ever_but_not_have_many_layers_at_once() {
        let mut table = SsrcTable::default();
        table.learn(1, target(1)).unwrap();
        for ssrc in 2..1_000 {
            table.learn(ssrc, target(0)).unwrap();
            assert_eq!(table.known(ssrc), Some(target(0)));
        }
        assert_eq!(table.known(1), Some(target(1)), "never replaced");
        let mut table = SsrcTable::default();
        for layer in 0..SSRCS_MAX as u8 {
            table.learn(layer.into(), target(layer)).unwrap();
        }
        assert_eq!(table.learn(99, target(99)), Err(DropReason::TooManySsrcs));
        assert_eq!(table.learn(100, target(5)), Ok(()));
        assert_eq!((table.known(5), table.known(100)), (None, Some(target(5))));
    }
}
