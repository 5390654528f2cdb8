//! Table of a publisher's SSRCs and their layers. New entries are made only for packets that were
//! authenticated (quality B1).

use crate::error::DropReason;
use crate::ids::{LayerIdx, TrackIdx};
use crate::sdp::PublishTrack;
use crate::warm::warm;

/// Maximum SSRCs known of one publisher (quality B2). At the limit those that another SSRC has
/// replaced are removed first. If there is none, the new one is dropped
/// (`DropReason::TooManySsrcs`).
pub(super) const SSRCS_MAX: usize = 32;

/// Track and layer of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Track index.
    pub track: TrackIdx,
    /// Layer index.
    pub layer: LayerIdx,
    /// Whether the packet is a retransmission of that layer.
    pub rtx: bool,
}

/// Known SSRCs of a publisher. A linear scan: there are a handful.
#[derive(Debug, Default)]
pub(super) struct SsrcTable {
    known: Vec<(u32, Target)>,
    declared: Vec<(u32, TrackIdx)>,
}

impl SsrcTable {
    /// A table of the SSRCs that the offer declared.
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

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.known.first().map(|(ssrc, _)| *ssrc));
    }

    /// Track and layer of this SSRC, if a packet of it came before.
    pub(super) fn known(&self, ssrc: u32) -> Option<Target> {
        self.known.iter().find(|(known, _)| *known == ssrc).map(|(_, target)| *target)
    }

    /// The track that the offer declared for this SSRC.
    pub(super) fn declared_track(&self, ssrc: u32) -> Option<TrackIdx> {
        self.declared.iter().find(|(known, _)| *known == ssrc).map(|(_, track)| *track)
    }

    /// Records the track and layer of this SSRC.
    ///
    /// # Errors
    ///
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
    fn encoder_may_restart_any_number_of_times_but_not_have_many_layers_at_once() {
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
