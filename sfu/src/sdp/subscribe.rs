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
    IdleSection, LocalTransport, SourceTrack, SubscribeCodec, SubscribePlan, SubscribeTrack,
    TRACKS_MAX,
};
use super::publish::no_common_codec;
use super::{RejectedSection, SdpError, Unacceptable, exts};
use crate::codec::MediaKind;
use crate::ids::Role;
use crate::rtp::ssrc::SessionSsrcs;

/// Input of a viewer's answer beside the offer.
pub struct SubscribeOptions<'a> {
    /// The published tracks; None while there is no publisher. Every common codec is answered, and
    /// the worker picks among them when a publisher comes (whip-whep G6).
    pub source: Option<&'a [SourceTrack]>,
    /// Source of random SSRCs. One that it repeats is not used twice in an answer.
    pub random_ssrc: &'a mut dyn FnMut() -> u32,
    /// The id of the one MediaStream, also the CNAME: 1 to 64 token characters.
    pub msid: &'a str,
}

/// Answers a WHEP offer: the k-th section of a kind that receives gets the k-th published track
/// of that kind. What has no track stays `inactive`. A section that cannot be served is rejected
/// with its reason (or inactive, if it carries the transport), and the others are served
/// (whip-whep G5).
///
/// # Errors
/// [`SdpError::Unacceptable`] when no section can be served, or the transport lacks something
/// (whip-whep C22).
pub fn answer_subscribe(
    offer: &Offer,
    local: &LocalTransport,
    options: SubscribeOptions<'_>,
) -> Result<(SubscribePlan, String), SdpError> {
    let mut choices = choose(offer, options.source);
    reject_unreachable(offer, &mut choices);
    let mut tracks: Vec<SubscribeTrack> = Vec::new();
    let mut ssrcs = SessionSsrcs::default();
    let (mut rejected, mut idle) = (Vec::new(), Vec::new());
    let mut replies = Vec::with_capacity(offer.sections.len());
    for ((m_line, section), choice) in offer.sections.iter().enumerate().zip(choices) {
        let Take { kind, ordinal, codecs } = match choice {
            SectionChoice::Take(take) => take,
            SectionChoice::Idle(asked) => {
                idle.extend(asked.map(|(kind, ordinal)| IdleSection { m_line, kind, ordinal }));
                replies.push(Reply::idle(section));
                continue;
            }
            SectionChoice::Keep(cause) => {
                rejected.extend(section.rejected(cause));
                replies.push(Reply::idle(section));
                continue;
            }
            SectionChoice::Reject(cause) => {
                rejected.extend(cause.and_then(|cause| section.rejected(cause)));
                replies.push(Reply::Rejected);
                continue;
            }
        };
        let ssrc = ssrcs.choose(&mut *options.random_ssrc);
        let rtx_ssrc = ssrcs.choose(&mut *options.random_ssrc);
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
            first_leads: options.source.is_some(),
            exts: exts.lines,
        }));
    }
    if tracks.is_empty() {
        return Err(nothing_served(offer, rejected, options.source));
    }
    let (transport, answer) = answer::finish(offer, local, replies)?;
    Ok((SubscribePlan { transport, tracks, rejected, idle }, answer))
}

/// The refusal of an offer of which no section can be served.
fn nothing_served(
    offer: &Offer,
    rejected: Vec<RejectedSection>,
    source: Option<&[SourceTrack]>,
) -> SdpError {
    let receives =
        |section: &Section| matches!(section.intent(Role::Subscriber), Ok(Intent::Live(_)));
    match rejected.len() {
        0 if !offer.sections.iter().any(receives) => Unacceptable::NothingReceived,
        0 => Unacceptable::NoTrackReceived {
            published: source.map_or_else(|| "nothing".into(), describe),
        },
        _ => Unacceptable::NoneServed(rejected),
    }
    .whole()
}

/// Use of one section.
enum SectionChoice<'o> {
    /// A track is sent on it.
    Take(Take<'o>),
    /// It stays without media; with kind and position of the track that it asked for, if it did.
    Idle(Option<(MediaKind, usize)>),
    /// Nothing is sent on it for this reason, but it carries the transport of the others: Chromium
    /// refuses an answer in which the first section of a group has port 0.
    Keep(Unacceptable),
    /// Port 0; without a cause where nobody asked for media.
    Reject(Option<Unacceptable>),
}

/// A track that is sent on a section.
struct Take<'o> {
    kind: MediaKind,
    ordinal: usize,
    codecs: Vec<CodecChoice<'o>>,
}

/// Use of each section by its codecs.
fn choose<'o>(offer: &'o Offer, source: Option<&[SourceTrack]>) -> Vec<SectionChoice<'o>> {
    let mut receiving = Vec::new();
    let one = |section: &'o Section| {
        let kind = match section.intent(Role::Subscriber) {
            Ok(Intent::Reject) => return SectionChoice::Reject(None),
            Ok(Intent::Idle(_)) => return SectionChoice::Idle(None),
            Ok(Intent::Live(kind)) => kind,
            Err(cause) => return SectionChoice::Reject(Some(cause)),
        };
        if receiving.len() >= TRACKS_MAX {
            return SectionChoice::Idle(None);
        }
        // The k-th section keeps its track also when one before it cannot be served.
        let ordinal = receiving.iter().filter(|of| **of == kind).count();
        receiving.push(kind);
        match codecs(section, kind, ordinal, source) {
            Ok(Some(codecs)) => SectionChoice::Take(Take { kind, ordinal, codecs }),
            Ok(None) => SectionChoice::Idle(Some((kind, ordinal))),
            Err(cause) => SectionChoice::Reject(Some(cause)),
        }
    };
    offer.sections.iter().map(one).collect()
}

/// Rejects the sections that are not on the one transport that is served: of one BUNDLE group, or
/// without a group one section, with a picture if there is one.
fn reject_unreachable(offer: &Offer, choices: &mut [SectionChoice<'_>]) {
    let sections = || offer.sections.iter().zip(0_usize..);
    let takes = |index: usize, choices: &[SectionChoice<'_>]| match choices.get(index) {
        Some(SectionChoice::Take(take)) => Some(take.kind),
        _ => None,
    };
    for (section, index) in sections() {
        if !section.rtcp_mux && !section.bundle_only {
            reject(choices, index, Unacceptable::NoRtcpMux);
        }
    }
    let taken: Vec<_> =
        sections().filter_map(|(s, index)| Some((s, index, takes(index, choices)?))).collect();
    let in_group = |group: &[String], section: &Section| {
        section.mid.as_ref().is_some_and(|mid| group.contains(mid))
    };
    let group = offer
        .bundles
        .iter()
        .find(|group| taken.iter().any(|(section, ..)| in_group(group, section)));
    let alone = taken.iter().find(|(.., kind)| *kind == MediaKind::Video).or(taken.first());
    let alone = alone.map(|(_, index, _)| *index);
    for (section, index) in sections() {
        let reached = match group {
            Some(group) => in_group(group, section) || (taken.len() == 1 && alone == Some(index)),
            None => alone == Some(index),
        };
        if !reached {
            reject(choices, index, Unacceptable::NotBundled);
        }
        let owns = group.is_some_and(|group| group.first() == section.mid.as_ref());
        if let Some(choice) = choices.get_mut(index).filter(|_| owns && section.rtcp_mux)
            && let SectionChoice::Reject(Some(cause)) = choice
            && matches!(cause, Unacceptable::NotThePublishersCodec { .. })
        {
            *choice = SectionChoice::Keep(cause.clone());
        }
    }
}

/// Rejects a section; its cause is told where media was asked for.
fn reject(choices: &mut [SectionChoice<'_>], index: usize, cause: Unacceptable) {
    if let Some(choice) = choices.get_mut(index) {
        match choice {
            SectionChoice::Take(_) => *choice = SectionChoice::Reject(Some(cause)),
            SectionChoice::Idle(_) => *choice = SectionChoice::Reject(None),
            SectionChoice::Keep(_) | SectionChoice::Reject(_) => {}
        }
    }
}

/// The codecs to answer for the section's track, the published one first; None when there is no
/// such track.
fn codecs<'o>(
    section: &'o Section,
    kind: MediaKind,
    ordinal: usize,
    source: Option<&[SourceTrack]>,
) -> Result<Option<Vec<CodecChoice<'o>>>, Unacceptable> {
    let mut common: Vec<_> = CodecChoice::all(&section.payloads).collect();
    let Some(source) = source else {
        return match common.is_empty() {
            true => Err(no_common_codec(section, kind)),
            false => Ok(Some(common)),
        };
    };
    let Some(track) = source.iter().filter(|track| track.kind == kind).nth(ordinal) else {
        return Ok(None);
    };
    // `min_by_key` keeps the first of equal ranks: the viewer's own order.
    let ranks = common.iter().map(|choice| codec_matches(&track.format, &choice.format()));
    let ranked = ranks.enumerate().filter_map(|(index, rank)| Some((rank?, index)));
    let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) else {
        return Err(not_the_publishers_codec(track, section, &common));
    };
    let live = common.remove(best);
    common.insert(0, live);
    Ok(Some(common))
}

/// The names are enough unless the viewer offers the same codec, as of another profile.
fn not_the_publishers_codec(
    track: &SourceTrack,
    section: &Section,
    common: &[CodecChoice<'_>],
) -> Unacceptable {
    const PARAMETERS_CHARS_SHOWN: usize = 100;
    let codec = track.format.codec;
    let same = common.iter().any(|choice| choice.format().codec == codec);
    let shown = if same { PARAMETERS_CHARS_SHOWN } else { 0 };
    Unacceptable::NotThePublishersCodec {
        published: codec.name(),
        parameters: track.format.fmtp.chars().take(shown).collect(),
        offered: section.encodings(),
    }
}

/// `H264, opus`
fn describe(tracks: &[SourceTrack]) -> String {
    match tracks {
        [] => "nothing".into(),
        tracks => tracks.iter().map(|t| t.format.codec.name()).collect::<Vec<_>>().join(", "),
    }
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
