//! Parses one opened packet into its description, once, for all viewers.

use std::time::Instant;

use crate::codec::MediaKind;
use crate::error::DropReason;
use crate::media::packet::{FORWARDED_EXTS_MAX, ForwardedExt, PacketMeta};
use crate::rtp::codec::{descriptor_prefix_len, peek};
use crate::rtp::ext::ExtKind;
use crate::rtp::packet::RtpHeader;
use crate::rtp::red::red_prefix_len;
use crate::sdp::PublishTrack;

/// Where the media lies in an opened packet, after RTX was unwrapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    /// Sequence number on the publisher's media line, extended.
    pub ext_seq: u64,
    /// RTP timestamp, continued over jumps.
    pub timestamp: u32,
    /// First payload byte in the packet.
    pub start: usize,
    /// Payload bytes without padding.
    pub len: usize,
}

/// Describes an opened packet.
///
/// # Errors
/// [`DropReason::RtpMalformed`] if its lengths do not hold together.
pub(super) fn describe(
    plan: &PublishTrack,
    header: &RtpHeader,
    plaintext: &[u8],
    incoming: &Incoming,
    now: Instant,
) -> Result<PacketMeta, DropReason> {
    let end = incoming.start + incoming.len;
    let payload = plaintext.get(incoming.start..end).ok_or(DropReason::RtpMalformed)?;
    let red = plan.red_pt == Some(header.payload_type);
    let codec = plan.format.codec;
    let (frame, prefix_len) = match red {
        true => (peek(codec, &[]), red_prefix_len(payload)),
        false => (peek(codec, payload), descriptor_prefix_len(codec, payload)),
    };
    let narrow = |number: usize| u16::try_from(number).map_err(|_| DropReason::RtpMalformed);
    Ok(PacketMeta {
        ext_seq: incoming.ext_seq,
        timestamp: incoming.timestamp,
        marker: header.marker,
        red,
        payload_start: narrow(incoming.start)?,
        payload_len: narrow(incoming.len)?,
        prefix_len: prefix_len.min(incoming.len).min(usize::from(u8::MAX)) as u8,
        frame,
        exts: forwarded_exts(plan, header, plaintext),
        arrival: now,
    })
}

/// Extensions that a viewer may get if it negotiated them too (whip-whep G10).
fn is_forwarded(kind: ExtKind, media: MediaKind) -> bool {
    match kind {
        ExtKind::AudioLevel => media == MediaKind::Audio,
        ExtKind::VideoOrientation | ExtKind::PlayoutDelay | ExtKind::DependencyDescriptor => {
            media == MediaKind::Video
        }
        ExtKind::AbsCaptureTime => true,
        ExtKind::Mid
        | ExtKind::Rid
        | ExtKind::RepairedRid
        | ExtKind::TransportCc
        | ExtKind::VideoLayersAllocation => false,
    }
}

fn forwarded_exts(
    plan: &PublishTrack,
    header: &RtpHeader,
    plaintext: &[u8],
) -> [Option<ForwardedExt>; FORWARDED_EXTS_MAX] {
    let mut found = [None; FORWARDED_EXTS_MAX];
    let elements = header.elements(plaintext).filter_map(|(id, data)| {
        let kind = plan.exts.kind(id).filter(|kind| is_forwarded(*kind, plan.kind))?;
        // The element lies inside the packet, so the difference of the addresses is its offset.
        let start = (data.as_ptr() as usize).checked_sub(plaintext.as_ptr() as usize)?;
        let (start, len) = (u16::try_from(start).ok()?, u8::try_from(data.len()).ok()?);
        Some(ForwardedExt { kind, start, len })
    });
    for (slot, ext) in found.iter_mut().zip(elements) {
        *slot = Some(ext);
    }
    found
}
