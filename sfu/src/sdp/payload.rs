//! Payload types of one m-line: a codec with its retransmission and redundancy companions.
//!
//! Owns `a=rtpmap`, `a=fmtp` and `a=rtcp-fb`. Never decides which codec is used; that is
//! `publish.rs` and `subscribe.rs`, with `matching.rs`. Called by `offer.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rtc_sdp::description::common::Attribute;

use super::Malformed;
use super::matching::parameter;
use super::plan::{CodecFormat, Feedback};
use crate::codec::{Codec, MediaKind};

/// Payload types that RTCP multiplexing makes ambiguous (RFC 5761 section 4): never used, although
/// they may be offered (whip-whep C8).
const RTCP_CONFLICT: std::ops::RangeInclusive<u8> = 64..=95;

/// One payload type of an m-line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// 0 to 127.
    pub(super) pt: u8,
    /// `a=rtpmap` after the payload type, as offered: some receivers compare it as text
    /// (whip-whep C9), so the answer repeats it unchanged.
    pub(super) encoding: String,
    /// `a=fmtp` after the payload type, as offered; empty if there is none.
    pub(super) fmtp: String,
    purpose: Purpose,
    feedback: Feedback,
}

impl Payload {
    /// The payload type for an error text: its name, and what keeps it from being a codec that is
    /// forwarded. `None` for what is no codec by itself.
    pub(super) fn described(&self, kind: MediaKind) -> Option<String> {
        const COMPANIONS: [&str; 6] =
            ["rtx", "red", "ulpfec", "flexfec-03", "CN", "telephone-event"];
        const NAME_CHARS_SHOWN: usize = 40;
        let pt = self.pt;
        if self.encoding.is_empty() {
            return Some(format!("payload type {pt} without an a=rtpmap"));
        }
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-._+/".contains(&b);
        let encoding: String = self.encoding.chars().take(NAME_CHARS_SHOWN).collect();
        let name = encoding.split('/').next().unwrap_or_default();
        if COMPANIONS.iter().any(|one| one.eq_ignore_ascii_case(name))
            || !encoding.bytes().all(token)
        {
            return None;
        }
        let (Some(codec), Purpose::Other) = (Codec::from_name(name), self.purpose) else {
            return Some(name.to_owned());
        };
        let clock = encoding.split('/').nth(1).filter(|clock| !clock.is_empty());
        let usual = match codec {
            Codec::Opus => "WebRTC's Opus is opus/48000/2".to_owned(),
            _ => format!("write {}/{}", codec.name(), codec.clock_rate()),
        };
        Some(match clock {
            _ if codec.kind() != kind => format!("{name} in a section of another kind"),
            _ if RTCP_CONFLICT.contains(&pt) => {
                format!("{name} as payload type {pt}, which RTCP uses (RFC 5761); take 96 to 127")
            }
            None => format!("{name} without its clock rate; {usual}"),
            Some(_) => format!("{encoding}; {usual}"),
        })
    }

    /// `a=fmtp` for the answer to a publisher or a viewer: as offered, and for Opus with two
    /// channels in both directions.
    ///
    /// `stereo` is what the writer of a description can receive and `sprop-stereo` what it sends
    /// (RFC 7587 section 7.1), so that the offer's values say nothing about the answer. Without
    /// them Chromium sends and plays one channel (whip-whep C44).
    ///
    /// A publisher that says it sends one channel is not contradicted. GStreamer's `webrtcsink`
    /// gives the answer's parameters to its payloader, which fails when they are not its own.
    pub(super) fn answered_fmtp(&self, publisher: bool) -> Cow<'_, str> {
        const CHANNELS: [&str; 2] = ["stereo", "sprop-stereo"];
        let is = |name, value| parameter(&self.fmtp, name) == Some(value);
        if self.purpose != Purpose::Media(Codec::Opus) || CHANNELS.iter().all(|name| is(name, "1"))
        {
            return Cow::Borrowed(&self.fmtp);
        }
        let sent =
            if publisher && is("sprop-stereo", "0") { "sprop-stereo=0" } else { "sprop-stereo=1" };
        let name = |item: &str| item.split('=').next().unwrap_or_default().trim().to_lowercase();
        let others = self.fmtp.split(';').map(str::trim);
        let others = others.filter(|item| !item.is_empty() && !CHANNELS.contains(&&*name(item)));
        let items: Vec<_> = others.chain(["stereo=1", sent]).collect();
        Cow::Owned(items.join(";"))
    }
}

/// Content of a payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A codec that is forwarded.
    Media(Codec),
    /// Retransmissions (RFC 4588) of another payload type.
    Rtx { apt: u8 },
    /// Redundant audio (RFC 2198) whose blocks all have one payload type.
    Red { inner: u8 },
    /// Anything else: FEC, comfort noise, telephone events, codecs we do not know.
    Other,
}

/// A codec on one m-line with the payload types that belong to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CodecChoice<'o> {
    /// Which codec.
    pub(super) codec: Codec,
    /// Payload type of the codec itself.
    pub(super) media: &'o Payload,
    /// RTX with this codec as `apt`.
    pub(super) rtx: Option<&'o Payload>,
    /// RED around this codec, Opus only.
    pub(super) red: Option<&'o Payload>,
}

impl<'o> CodecChoice<'o> {
    /// Every forwarded codec among `payloads`, in offer order.
    pub(super) fn all(payloads: &'o [Payload]) -> impl Iterator<Item = Self> {
        payloads.iter().filter_map(|media| {
            let Purpose::Media(codec) = media.purpose else { return None };
            let companion =
                |purpose: Purpose| payloads.iter().find(|other| other.purpose == purpose);
            let rtx = companion(Purpose::Rtx { apt: media.pt });
            // RED is understood for Opus only: its inner payload types tell it apart.
            let red = companion(Purpose::Red { inner: media.pt }).filter(|_| codec == Codec::Opus);
            Some(Self { codec, media, rtx, red })
        })
    }

    /// Whether a payload type is this codec or one of its companions.
    pub(super) fn has(&self, payload: &Payload) -> bool {
        [Some(self.media), self.rtx, self.red].into_iter().flatten().any(|own| own.pt == payload.pt)
    }

    /// Codec as the matcher and the plans use it.
    pub(super) fn format(&self) -> CodecFormat {
        CodecFormat { codec: self.codec, fmtp: self.media.fmtp.clone() }
    }

    /// Offered feedback that is accepted; `transport-cc` only where its header extension was
    /// agreed.
    pub(super) fn feedback(&self, transport_cc: bool) -> Feedback {
        let offered = self.media.feedback;
        Feedback { transport_cc: offered.transport_cc && transport_cc, ..offered }
    }
}

/// Reads the payload types in the order of the `m=` line; a repeated one counts once.
///
/// # Errors
/// [`Malformed::BadPayloadType`] when a format is not a payload type.
pub(super) fn parse(
    kind: MediaKind,
    formats: &[String],
    attributes: &[Attribute],
) -> Result<Vec<Payload>, Malformed> {
    let mut encodings = BTreeMap::new();
    let mut fmtps = BTreeMap::new();
    let mut feedback: BTreeMap<u8, Feedback> = BTreeMap::new();
    let mut feedback_for_all = Feedback::default();
    for attribute in attributes {
        let Some((pt, rest)) = attribute.value.as_deref().and_then(|v| v.split_once(' ')) else {
            continue;
        };
        let number = pt.parse::<u8>();
        match (attribute.key.as_str(), number) {
            ("rtpmap", Ok(pt)) => _ = encodings.entry(pt).or_insert(rest.trim()),
            ("fmtp", Ok(pt)) => _ = fmtps.entry(pt).or_insert(rest.trim()),
            ("rtcp-fb", Ok(pt)) => add_feedback(feedback.entry(pt).or_default(), rest.trim()),
            ("rtcp-fb", Err(_)) if pt == "*" => add_feedback(&mut feedback_for_all, rest.trim()),
            _ => {}
        }
    }
    let mut payloads: Vec<Payload> = Vec::with_capacity(formats.len());
    for format in formats {
        let pt = format.parse::<u8>().ok().filter(|pt| *pt <= 127);
        let pt = pt.ok_or(Malformed::BadPayloadType)?;
        if payloads.iter().any(|seen| seen.pt == pt) {
            continue;
        }
        let encoding = encodings.get(&pt).copied().unwrap_or_else(|| static_encoding(pt));
        let fmtp = fmtps.get(&pt).copied().unwrap_or_default();
        payloads.push(Payload {
            pt,
            encoding: encoding.to_owned(),
            fmtp: fmtp.to_owned(),
            purpose: if RTCP_CONFLICT.contains(&pt) {
                Purpose::Other
            } else {
                purpose_of(kind, encoding, fmtp)
            },
            feedback: merge(feedback.get(&pt).copied().unwrap_or_default(), feedback_for_all),
        });
    }
    Ok(payloads)
}

/// The rtpmap of a static payload type that came without one (RFC 3551 section 6).
fn static_encoding(pt: u8) -> &'static str {
    match pt {
        0 => "PCMU/8000",
        8 => "PCMA/8000",
        9 => "G722/8000",
        _ => "",
    }
}

fn purpose_of(kind: MediaKind, encoding: &str, fmtp: &str) -> Purpose {
    let mut parts = encoding.split('/');
    let name = parts.next().unwrap_or_default();
    let clock = parts.next().and_then(|clock| clock.parse::<u32>().ok());
    let channels = parts.next().map(str::parse::<u8>);
    if name.eq_ignore_ascii_case("rtx") {
        return match parameter(fmtp, "apt").and_then(|apt| apt.parse().ok()) {
            Some(apt) => Purpose::Rtx { apt },
            None => Purpose::Other,
        };
    }
    if name.eq_ignore_ascii_case("red") && kind == MediaKind::Audio {
        let mut blocks = fmtp.split('/').map(|block| block.trim().parse::<u8>().ok());
        return match blocks.next().flatten() {
            Some(inner) if blocks.all(|block| block == Some(inner)) => Purpose::Red { inner },
            _ => Purpose::Other,
        };
    }
    // Opus always has two channels, the rest one; the number may be left out (whip-whep C9, G2).
    let codec = Codec::from_name(name).filter(|codec| {
        let expected = if *codec == Codec::Opus { 2 } else { 1 };
        codec.kind() == kind
            && clock == Some(codec.clock_rate())
            && channels.is_none_or(|channels| channels == Ok(expected))
    });
    codec.map_or(Purpose::Other, Purpose::Media)
}

fn add_feedback(feedback: &mut Feedback, value: &str) {
    match value {
        "nack" => feedback.nack = true,
        "nack pli" => feedback.pli = true,
        "ccm fir" => feedback.fir = true,
        "goog-remb" => feedback.remb = true,
        "transport-cc" => feedback.transport_cc = true,
        _ => {}
    }
}

fn merge(a: Feedback, b: Feedback) -> Feedback {
    Feedback {
        nack: a.nack || b.nack,
        pli: a.pli || b.pli,
        fir: a.fir || b.fir,
        remb: a.remb || b.remb,
        transport_cc: a.transport_cc || b.transport_cc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(kind: MediaKind, formats: &str, lines: &[&str]) -> Vec<Payload> {
        let formats: Vec<_> = formats.split(' ').map(str::to_owned).collect();
        let attributes: Vec<_> = lines
            .iter()
            .map(|line| {
                let (key, value) = line.split_once(':').unwrap();
                Attribute::new(key.into(), Some(value.into()))
            })
            .collect();
        parse(kind, &formats, &attributes).unwrap()
    }

    fn codecs(payloads: &[Payload]) -> Vec<(u8, Codec)> {
        CodecChoice::all(payloads).map(|c| (c.media.pt, c.codec)).collect()
    }

    /// whip-whep C9
    #[test]
    fn codec_names_ignore_case_and_channels_may_be_left_out() {
        let payloads = section(
            MediaKind::Audio,
            "96 97 98 99 9 100 101 102 103",
            &[
                "rtpmap:96 OPUS/48000",
                "rtpmap:97 Opus/48000/2",
                "rtpmap:98 opus/48000/1",
                "rtpmap:99 G722/8000/1",
                "rtpmap:100 PCMU/16000",
                "rtpmap:101 PCMU/8000/2",
                "rtpmap:102 multiopus/48000/6",
                "rtpmap:103 VP8/90000",
            ],
        );
        assert_eq!(
            codecs(&payloads),
            [(96, Codec::Opus), (97, Codec::Opus), (99, Codec::G722), (9, Codec::G722)]
        );
    }

    #[test]
    fn static_payload_types_need_no_rtpmap() {
        let payloads = section(MediaKind::Audio, "0 8 9 13", &[]);
        assert_eq!(codecs(&payloads), [(0, Codec::Pcmu), (8, Codec::Pcma), (9, Codec::G722)]);
        // A rtpmap wins over the static meaning.
        let payloads = section(MediaKind::Audio, "0", &["rtpmap:0 opus/48000/2"]);
        assert_eq!(codecs(&payloads), [(0, Codec::Opus)]);
    }

    /// whip-whep C8, RFC 5761 section 4
    #[test]
    fn payload_types_that_collide_with_rtcp_are_not_used() {
        let lines: Vec<String> =
            [35, 63, 64, 95, 96].iter().map(|pt| format!("rtpmap:{pt} VP8/90000")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let payloads = section(MediaKind::Video, "35 63 64 95 96", &lines);
        let pts: Vec<_> = codecs(&payloads).into_iter().map(|(pt, _)| pt).collect();
        assert_eq!(pts, [35, 63, 96]);
    }

    #[test]
    fn companions_are_found_by_apt_and_by_red_blocks() {
        let payloads = section(
            MediaKind::Audio,
            "111 63 64 110 60",
            &[
                "rtpmap:111 opus/48000/2",
                "rtpmap:63 red/48000/2",
                "fmtp:63 111/111",
                "rtpmap:110 red/48000/2",
                "fmtp:110 0/111",
                "rtpmap:60 rtx/48000",
                "fmtp:60 apt=111",
            ],
        );
        let choice = CodecChoice::all(&payloads).next().unwrap();
        assert_eq!(choice.red.map(|p| p.pt), Some(63));
        assert_eq!(choice.rtx.map(|p| p.pt), Some(60));
        // Video RED and RED without blocks cannot be told apart safely.
        let payloads = section(
            MediaKind::Video,
            "96 97",
            &["rtpmap:96 VP8/90000", "rtpmap:97 red/90000", "fmtp:97 96/96"],
        );
        assert_eq!(CodecChoice::all(&payloads).next().unwrap().red, None);
    }

    #[test]
    fn feedback_is_what_was_offered_and_we_know() {
        let payloads = section(
            MediaKind::Video,
            "96",
            &[
                "rtpmap:96 VP8/90000",
                "rtcp-fb:96 nack",
                "rtcp-fb:* nack pli",
                "rtcp-fb:96 transport-cc",
                "rtcp-fb:96 ccm tmmbr",
            ],
        );
        let choice = CodecChoice::all(&payloads).next().unwrap();
        let expected =
            Feedback { nack: true, pli: true, transport_cc: true, ..Feedback::default() };
        assert_eq!(choice.feedback(true), expected);
        assert!(!choice.feedback(false).transport_cc, "no extension, no transport-cc");
    }

    #[test]
    fn a_format_that_is_no_payload_type_is_refused() {
        let parse_formats = |format: &str| parse(MediaKind::Video, &[format.to_owned()], &[]);
        assert!(parse_formats("127").is_ok());
        assert!(parse_formats("128").is_err());
        assert!(parse_formats("webrtc-datachannel").is_err());
    }
}
