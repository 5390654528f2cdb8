//! Lookup of a packet's track and layer.
//!
//! Reads header extensions and the table of SSRCs; accounts for nothing. Called by `publisher.rs`
//! for each packet.

use std::time::Instant;

use super::layer::Track;
use super::ssrcs::{SsrcTable, Target};
use crate::error::DropReason;
use crate::ids::{LayerIdx, TrackIdx};
use crate::rtp::ext::ExtKind;
use crate::rtp::packet::RtpHeader;
use crate::sdp::PublishTrack;

/// Finds a packet's track and layer: by its SSRC, if that is known. The track of an unknown SSRC is
/// found by the MID extension, then by the SSRC that the offer declared, then by a payload type
/// that only one m-line has, and its layer by the RID extension (whip-whep C58); then it is known.
pub(super) fn find_target(
    tracks: &mut [Track],
    ssrcs: &mut SsrcTable,
    now: Instant,
    header: &RtpHeader,
    index: u64,
    plaintext: &[u8],
) -> Result<Target, DropReason> {
    if let Some(target) = ssrcs.known(header.ssrc) {
        let track = tracks.get_mut(usize::from(target.track));
        let Track { plan, layers, .. } = track.ok_or(DropReason::UnknownTrack)?;
        let layer = layers.get_mut(usize::from(target.layer));
        let layer = layer.ok_or(DropReason::UnknownTrack)?;
        let fits = match target.rtx {
            true => plan.rtx_pt == Some(header.payload_type),
            // The number of a packet with another payload type still counts.
            false => plan.is_media(header.payload_type) || layer.ssrc() == Some(header.ssrc),
        };
        if !fits {
            return Err(DropReason::UnknownPayloadType);
        }
        if !target.rtx && layer.ssrc() != Some(header.ssrc) {
            // A late packet of an earlier SSRC, or the encoder returned to it.
            if !layer.is_silent(now) {
                return Err(DropReason::UnknownTrack);
            }
            layer.bind(header.ssrc, index);
        }
        return Ok(target);
    }
    let target = resolve(tracks, ssrcs, header, plaintext)?;
    ssrcs.learn(header.ssrc, target)?;
    let layer = tracks
        .get_mut(usize::from(target.track))
        .and_then(|track| track.layers.get_mut(usize::from(target.layer)))
        .ok_or(DropReason::UnknownTrack)?;
    if !target.rtx {
        layer.bind(header.ssrc, index);
    }
    Ok(target)
}

/// The transport-wide sequence number of a packet
/// (draft-holmer-rmcat-transport-wide-cc-extensions-01), where it was negotiated.
pub(super) fn transport_sequence(
    plan: &PublishTrack,
    header: &RtpHeader,
    plaintext: &[u8],
) -> Option<u16> {
    let id = plan.exts.id(ExtKind::TransportCc)?;
    let (_, data) = header.elements(plaintext).find(|(element, _)| *element == id)?;
    data.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

fn resolve(
    tracks: &[Track],
    ssrcs: &SsrcTable,
    header: &RtpHeader,
    plaintext: &[u8],
) -> Result<Target, DropReason> {
    let pt = header.payload_type;
    let takes = |plan: &PublishTrack| plan.is_media(pt) || plan.rtx_pt == Some(pt);
    let index = track_by_mid(tracks, header, plaintext)
        .or_else(|| ssrcs.declared_track(header.ssrc))
        .or_else(|| {
            let mut fitting = TrackIdx::all().zip(tracks).filter(|(_, track)| takes(&track.plan));
            let (index, _) = fitting.next()?;
            fitting.next().is_none().then_some(index)
        })
        .ok_or(DropReason::UnknownTrack)?;
    let plan = &tracks.get(usize::from(index)).ok_or(DropReason::UnknownTrack)?.plan;
    if !takes(plan) {
        return Err(DropReason::UnknownPayloadType);
    }
    let rtx = plan.rtx_pt == Some(pt);
    if plan.rids.is_empty() {
        // OBS sends a rid whatever the answer said (whip-whep C59): one layer, nothing to choose.
        return Ok(Target { track: index, layer: LayerIdx(0), rtx });
    }
    let kind = if rtx { ExtKind::RepairedRid } else { ExtKind::Rid };
    let layer = plan
        .exts
        .id(kind)
        .and_then(|id| header.elements(plaintext).find(|(element, _)| *element == id))
        .and_then(|(_, rid)| plan.rids.iter().position(|name| name.as_bytes() == rid))
        .ok_or(DropReason::UnknownTrack)?;
    Ok(Target { track: index, layer: LayerIdx(layer as u8), rtx })
}

fn track_by_mid(tracks: &[Track], header: &RtpHeader, plaintext: &[u8]) -> Option<TrackIdx> {
    // BUNDLE gives an extension one id in all sections, so the first section that has it is enough
    // (RFC 9143).
    let id = tracks.iter().find_map(|track| track.plan.exts.id(ExtKind::Mid))?;
    let (_, mid) = header.elements(plaintext).find(|(element, _)| *element == id)?;
    let index = tracks.iter().position(|track| track.plan.mid.as_bytes() == mid)?;
    Some(TrackIdx(index as u8))
}
