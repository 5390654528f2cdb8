//! WHIP: which codec, layers and extensions of each offered section are accepted.
//!
//! Owns the choice for publishers (whip-whep C20, C24, D1 to D3, G1). Called by the control plane
//! for each POST; the worker reads the plan. Next: `answer.rs` for the text.

use rtc_sdp::direction::Direction;

use super::answer::{self, Accepted, Reply};
use super::offer::{Intent, Offer, Section};
use super::payload::CodecChoice;
use super::plan::{LocalTransport, PUBLISHER_LAYERS_MAX, PublishPlan, PublishTrack, TRACKS_MAX};
use super::{SdpError, Unacceptable, exts, simulcast};
use crate::codec::{Codec, MediaKind};
use crate::ids::Role;
use crate::rtp::ext::ExtKind;

/// Answers a WHIP offer: every section that sends becomes one track with one codec.
///
/// # Errors
/// [`SdpError::Unacceptable`] when nothing is sent, a section has no codec that we forward (the
/// whole offer then, RFC 9725 section 4.4.3), or the transport lacks something (whip-whep C21,
/// C22).
pub fn answer_publish(
    offer: &Offer,
    local: &LocalTransport,
) -> Result<(PublishPlan, String), SdpError> {
    let mut tracks = Vec::new();
    let mut replies = Vec::with_capacity(offer.sections.len());
    for section in &offer.sections {
        let intent =
            section.intent(Role::Publisher).map_err(|cause| section.unacceptable(cause))?;
        replies.push(match intent {
            Intent::Reject => Reply::Rejected,
            Intent::Idle(_) => Reply::idle(section),
            Intent::Live(kind) => {
                let (track, reply) = take(section, kind)?;
                tracks.push(track);
                Reply::Accepted(reply)
            }
        });
    }
    let layers: usize = tracks.iter().map(|track: &PublishTrack| track.rids.len().max(1)).sum();
    if tracks.len() > TRACKS_MAX || layers > PUBLISHER_LAYERS_MAX {
        let (tracks, tracks_max) = (tracks.len(), TRACKS_MAX);
        let layers_max = PUBLISHER_LAYERS_MAX;
        return Err(Unacceptable::TooManyTracks { tracks, layers, tracks_max, layers_max }.whole());
    }
    if tracks.is_empty() {
        return Err(Unacceptable::NothingSent.whole());
    }
    let (transport, answer) = answer::finish(offer, local, replies)?;
    Ok((PublishPlan { transport, tracks }, answer))
}

fn take(section: &Section, kind: MediaKind) -> Result<(PublishTrack, Accepted<'_>), SdpError> {
    // The order of the answer decides what a browser sends, so Opus comes before a PCMA that
    // stands first; otherwise the publisher's order counts.
    let codec = CodecChoice::all(&section.payloads)
        .find(|choice| choice.codec == Codec::Opus)
        .or_else(|| CodecChoice::all(&section.payloads).next())
        .ok_or_else(|| section.unacceptable(no_common_codec(section, kind)))?;
    let mid = section.mid_or_index();
    let exts = exts::agree(&section.exts, Role::Publisher, section.allow_mixed, &mid);
    let feedback = codec.feedback(exts.transport_cc());
    // Layers are told apart by the rid extension alone (whip-whep D5).
    let layers = match exts.map.id(ExtKind::Rid) {
        Some(_) => simulcast::choose(&section.layers, codec.media.pt),
        None => Vec::new(),
    };
    let reply = Accepted {
        direction: Direction::RecvOnly,
        codecs: vec![(codec, feedback)],
        first_leads: false,
        exts: exts.lines,
        lines: simulcast::answer_lines(&layers),
    };
    let track = PublishTrack {
        mid,
        kind,
        format: codec.format(),
        pt: codec.media.pt,
        rtx_pt: codec.rtx.map(|rtx| rtx.pt),
        red_pt: codec.red.map(|red| red.pt),
        feedback,
        exts: exts.map,
        rids: layers.iter().map(|layer| layer.rid.clone()).collect(),
        ssrcs: section.ssrcs.clone(),
    };
    Ok((track, reply))
}

/// Refusal of a section without a codec that is forwarded.
pub(super) fn no_common_codec(section: &Section, kind: MediaKind) -> Unacceptable {
    Unacceptable::NoCommonCodec { offered: section.encodings(), kind }
}
