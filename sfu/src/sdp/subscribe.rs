//! WHEP: which published track is sent on which offered section, and in which codecs.
//!
//! Owns the choice for viewers (whip-whep C20, C38, G3 to G6, G14, G15). Called by the control
//! plane for each POST; the worker reads the plan. Next: `matching.rs` for the ranks, `answer.rs`
//! for the text.

use rtc_sdp::direction::Direction;

use super::answer::{self, Accepted, Reply};
use super::matching::codec_matches;
use super::offer::{Intent, Offer, Section};
use super::payload::CodecChoice;
use super::plan::{
    LocalTransport, SourceTrack, SubscribeCodec, SubscribePlan, SubscribeTrack, TRACKS_MAX,
};
use super::publish::no_common_codec;
use super::{SdpError, Unacceptable, exts};
use crate::codec::MediaKind;
use crate::ids::Role;

/// Input of a viewer's answer beside the offer.
pub struct SubscribeOptions<'a> {
    /// The published tracks; None while there is no publisher: then every common codec is
    /// answered, and the worker picks among them later (whip-whep G6).
    pub source: Option<&'a [SourceTrack]>,
    /// Source of random SSRCs, different at each call.
    pub ssrc_base: &'a mut dyn FnMut() -> u32,
    /// The id of the one MediaStream, also the CNAME: 1 to 64 token characters.
    pub msid: &'a str,
}

/// Answers a WHEP offer: the k-th section of a kind that receives gets the k-th published track
/// of that kind; what has no track stays `inactive`.
///
/// # Errors
/// [`SdpError::Unacceptable`] when nothing would be received, a section cannot take its track's
/// codec (the text names both sides, whip-whep G5), or the transport lacks something
/// (whip-whep C21, C22).
pub fn answer_subscribe(
    offer: &Offer,
    local: &LocalTransport,
    options: SubscribeOptions<'_>,
) -> Result<(SubscribePlan, String), SdpError> {
    let mut tracks: Vec<SubscribeTrack> = Vec::new();
    let mut replies = Vec::with_capacity(offer.sections.len());
    let mut receives = false;
    for section in &offer.sections {
        let kind = match section.intent(Role::Subscriber)? {
            Intent::Reject => {
                replies.push(Reply::Rejected);
                continue;
            }
            Intent::Idle(_) => {
                replies.push(Reply::idle(section));
                continue;
            }
            Intent::Live(kind) => kind,
        };
        receives = true;
        if tracks.len() >= TRACKS_MAX {
            replies.push(Reply::idle(section));
            continue;
        }
        let ordinal = tracks.iter().filter(|track| track.kind == kind).count();
        let Some(codecs) = codecs(section, kind, ordinal, options.source)? else {
            replies.push(Reply::idle(section));
            continue;
        };
        let ssrc = (options.ssrc_base)();
        let rtx_ssrc = (options.ssrc_base)();
        let mid = section.mid_or_index();
        let exts = exts::agree(&section.exts, Role::Subscriber, section.allow_mixed, &mid);
        let codecs: Vec<_> =
            codecs.into_iter().map(|c| (c, c.feedback(exts.transport_cc()))).collect();
        tracks.push(SubscribeTrack {
            mid,
            kind,
            ordinal,
            codecs: codecs.iter().map(|(c, feedback)| plan_codec(c, *feedback)).collect(),
            exts: exts.map,
            ssrc,
            rtx_ssrc,
        });
        let with_rtx = codecs.iter().any(|(codec, _)| codec.rtx.is_some());
        replies.push(Reply::Accepted(Accepted {
            direction: Direction::SendOnly,
            lines: source_lines(
                options.msid,
                &format!("{}{ordinal}", kind_name(kind)),
                ssrc,
                with_rtx.then_some(rtx_ssrc),
            ),
            codecs,
            exts: exts.lines,
        }));
    }
    if !receives {
        return Err(Unacceptable::NothingReceived.whole());
    }
    if tracks.is_empty() {
        let published = options.source.map_or_else(|| "nothing".into(), describe);
        return Err(Unacceptable::NoTrackReceived { published }.whole());
    }
    let (transport, answer) = answer::finish(offer, local, replies)?;
    Ok((SubscribePlan { transport, tracks }, answer))
}

/// The codecs to answer for the section's track; None when there is no such track.
fn codecs<'o>(
    section: &'o Section,
    kind: MediaKind,
    ordinal: usize,
    source: Option<&[SourceTrack]>,
) -> Result<Option<Vec<CodecChoice<'o>>>, SdpError> {
    let common = || CodecChoice::all(&section.payloads);
    let Some(source) = source else {
        let all: Vec<_> = common().collect();
        return if all.is_empty() { Err(no_common_codec(section, kind)) } else { Ok(Some(all)) };
    };
    let Some(track) = source.iter().filter(|track| track.kind == kind).nth(ordinal) else {
        return Ok(None);
    };
    // `min_by_key` keeps the first of equal ranks: the viewer's own order.
    let best = common()
        .filter_map(|choice| Some((codec_matches(&track.format, &choice.format())?, choice)))
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, choice)) => Ok(Some(vec![choice])),
        None => Err(section.unacceptable(Unacceptable::NotThePublishersCodec {
            published: describe(std::slice::from_ref(track)),
            offered: section.encodings(),
        })),
    }
}

/// `H264 (profile-level-id=42e01f), opus`, each format cut to a readable length.
fn describe(tracks: &[SourceTrack]) -> String {
    const FMTP_CHARS_SHOWN: usize = 100;
    let one = |track: &SourceTrack| {
        let fmtp: String = track.format.fmtp.chars().take(FMTP_CHARS_SHOWN).collect();
        let name = track.format.codec.name();
        if fmtp.is_empty() { name.to_owned() } else { format!("{name} ({fmtp})") }
    };
    if tracks.is_empty() {
        return "nothing".into();
    }
    tracks.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn plan_codec(choice: &CodecChoice<'_>, feedback: super::plan::Feedback) -> SubscribeCodec {
    SubscribeCodec {
        format: choice.format(),
        pt: choice.media.pt,
        rtx_pt: choice.rtx.map(|rtx| rtx.pt),
        red_pt: choice.red.map(|red| red.pt),
        feedback,
    }
}

/// The stream and the SSRCs of one track. Each SSRC of the FID group has a line of its own, or
/// Chromium refuses the answer (whip-whep C38).
fn source_lines(
    msid: &str,
    track: &str,
    ssrc: u32,
    rtx: Option<u32>,
) -> Vec<(&'static str, String)> {
    let mut lines = vec![("msid", format!("{msid} {track}"))];
    if let Some(rtx) = rtx {
        lines.push(("ssrc-group", format!("FID {ssrc} {rtx}")));
    }
    let ssrcs = [Some(ssrc), rtx].into_iter().flatten();
    lines.extend(ssrcs.map(|ssrc| ("ssrc", format!("{ssrc} cname:{msid}"))));
    lines
}

fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}
