//! The table that finds a publisher's layer by SSRC. New entries are made only for packets that were
//! authenticated (quality B1).

use crate::error::DropReason;
use crate::sdp::PublishTrack;

/// SSRCs learned from one publisher (quality B2); more are dropped (`DropReason::TooManySsrcs`).
pub(super) const SSRCS_MAX: usize = 32;

/// Where a packet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Track index.
    pub track: u8,
    /// Layer index.
    pub layer: u8,
    /// It is a retransmission of that layer.
    pub rtx: bool,
}

/// What is known of a publisher's SSRCs. A linear scan: there are a handful.
#[derive(Debug, Default)]
pub(super) struct SsrcTable {
    known: Vec<(u32, Target)>,
    declared: Vec<(u32, u8)>,
}

impl SsrcTable {
    /// Takes the SSRCs that the offer declared.
    pub(super) fn declared<'a>(plans: impl Iterator<Item = &'a PublishTrack>) -> Self {
        let mut table = Self::default();
        for (track, plan) in (0u8..).zip(plans) {
            for declared in plan.ssrcs.iter().take(SSRCS_MAX) {
                table.declared.push((declared.ssrc, track));
                table.declared.extend(declared.rtx.map(|rtx| (rtx, track)));
            }
        }
        table
    }

    /// Where packets of this SSRC belong, if one came before.
    pub(super) fn known(&self, ssrc: u32) -> Option<Target> {
        self.known.iter().find(|(known, _)| *known == ssrc).map(|(_, target)| *target)
    }

    /// The track that the offer declared for this SSRC.
    pub(super) fn declared_track(&self, ssrc: u32) -> Option<u8> {
        self.declared.iter().find(|(known, _)| *known == ssrc).map(|(_, track)| *track)
    }

    /// Remembers where packets of this SSRC belong.
    ///
    /// # Errors
    /// [`DropReason::TooManySsrcs`] at the limit.
    pub(super) fn learn(&mut self, ssrc: u32, target: Target) -> Result<(), DropReason> {
        if self.known.len() >= SSRCS_MAX {
            return Err(DropReason::TooManySsrcs);
        }
        self.known.push((ssrc, target));
        Ok(())
    }

    /// Any media SSRC, to fill the media field of transport-wide feedback.
    pub(super) fn any_media(&self) -> Option<u32> {
        self.known.iter().find(|(_, target)| !target.rtx).map(|(ssrc, _)| *ssrc)
    }
}
