//! Text of the answer: sections mirrored in order, our transport in each, candidates in the first.
//!
//! Owns the rules of whip-whep C30 to C43 that hold for every answer. Never chooses a codec:
//! sections come in decided. Called by `publish.rs` and `subscribe.rs`; `rtc-sdp` prints.
//!
//! Choices that the references leave open:
//! - A section without media stays in the BUNDLE group as `inactive` with port 9. The first
//!   section carries the transport, and some peers lose it with a port of 0 (whip-whep C9, G14).
//!   Port 0 is for sections that are not media, and for those that the offerer disabled.
//! - `a=ice-options:trickle` is there because PATCH takes candidates (whip-whep B1). `ice2` is
//!   not, since we do follow a later USE-CANDIDATE.
//! - Rejected sections carry ufrag, password and fingerprint too: GStreamer 1.22 refuses the
//!   answer otherwise.

use std::net::SocketAddr;

use rtc_sdp::description::common::{Address, Attribute, Bandwidth, ConnectionInformation};
use rtc_sdp::description::media::{MediaDescription, MediaName, RangedPort};
use rtc_sdp::description::session::{Origin, SessionDescription, TimeDescription};
use rtc_sdp::direction::Direction;

use super::offer::{Offer, Section};
use super::payload::{CodecChoice, Payload};
use super::plan::{DtlsRole, Feedback, LocalTransport, RemoteTransport};
use super::{SdpError, remote};
use crate::config::PublisherLimits;

/// `a=ice-options` of answers and of ICE restarts, which must agree (whip-whep B6).
pub(super) const ICE_OPTIONS: &str = "trickle";

/// Answer to one offered section.
pub(super) enum Reply<'o> {
    /// Port 0.
    Rejected,
    /// In the BUNDLE group.
    Accepted(Accepted<'o>),
}

/// Content of an accepted section.
pub(super) struct Accepted<'o> {
    /// `recvonly`, `sendonly` or `inactive`.
    pub(super) direction: Direction,
    /// The codecs, best first, with the feedback taken for each.
    pub(super) codecs: Vec<(CodecChoice<'o>, Feedback)>,
    /// Whether the first codec stands before all others, wherever the offer has it.
    pub(super) first_leads: bool,
    /// Values of `a=extmap`.
    pub(super) exts: Vec<String>,
    /// Further attributes: rids and simulcast, or msid and SSRCs.
    pub(super) lines: Vec<(&'static str, String)>,
}

impl<'o> Accepted<'o> {
    /// Payload types in the order of the offer, companions too: the first one is what a browser
    /// sends, so that RED before Opus means RED (RFC 3264 section 6.1).
    fn payloads(&self, section: &'o Section) -> Vec<&'o Payload> {
        let taken = |payload: &&Payload| self.codecs.iter().any(|(codec, _)| codec.has(payload));
        let mut payloads: Vec<&Payload> = section.payloads.iter().filter(taken).collect();
        if let Some((first, _)) = self.codecs.first().filter(|_| self.first_leads) {
            payloads.sort_by_key(|payload| !first.has(payload));
        }
        payloads
    }
}

impl<'o> Reply<'o> {
    /// Whether we receive media of this section.
    fn receives(&self) -> bool {
        matches!(self, Self::Accepted(reply) if reply.direction == Direction::RecvOnly)
    }

    /// Keeps a section without media. It still names a codec, as every accepted section must;
    /// without any it is rejected.
    pub(super) fn idle(section: &'o Section) -> Self {
        match CodecChoice::all(&section.payloads).next() {
            None => Self::Rejected,
            Some(codec) => Self::Accepted(Accepted {
                direction: Direction::Inactive,
                codecs: vec![(codec, Feedback::default())],
                first_leads: false,
                exts: Vec::new(),
                lines: Vec::new(),
            }),
        }
    }
}

/// `b=TIAS` (RFC 3890) of the whole session, because the limit is one for all tracks. Chromium takes
/// a `b=` of an m-section as its encoder's maximum instead of its own default (2.5 Mbit/s at 720p):
/// our limit would become its rate.
fn bandwidth(limits: PublisherLimits) -> Bandwidth {
    Bandwidth { experimental: false, bandwidth_type: "TIAS".into(), bandwidth: limits.bitrate.0 }
}

/// Decides the transport and prints the answer; `replies` has one entry per offered section.
///
/// # Errors
/// [`SdpError::Unacceptable`] as in `remote.rs`.
pub(super) fn finish(
    offer: &Offer,
    local: &LocalTransport,
    replies: Vec<Reply<'_>>,
) -> Result<(RemoteTransport, String), SdpError> {
    let accepted: Vec<&Section> = offer
        .sections
        .iter()
        .zip(&replies)
        .filter(|(_, reply)| matches!(reply, Reply::Accepted(_)))
        .map(|(section, _)| section)
        .collect();
    let receives = replies.iter().any(Reply::receives);
    let bundled = remote::bundle(offer, &accepted)?;
    let transport = remote::transport(offer, &bundled)?;
    let mut candidates = Some(candidate_lines(local));
    let media_descriptions = offer
        .sections
        .iter()
        .zip(replies)
        .map(|(section, reply)| {
            let lines = LocalLines { local, role: transport.dtls_role };
            match reply {
                Reply::Rejected => lines.rejected(section),
                Reply::Accepted(reply) => {
                    let mut media = lines.accepted(section, reply);
                    // SWC and FFmpeg read the first section only (whip-whep C40).
                    media.attributes.extend(candidates.take().into_iter().flatten());
                    media
                }
            }
        })
        .collect();
    let mut attributes = vec![flag("ice-lite"), value("ice-options", ICE_OPTIONS)];
    let mids: Vec<&str> = bundled.iter().filter_map(|section| section.mid.as_deref()).collect();
    if !offer.bundles.is_empty() && !mids.is_empty() {
        attributes.push(value("group", format!("BUNDLE {}", mids.join(" "))));
    }
    if offer.allow_mixed {
        attributes.push(flag("extmap-allow-mixed"));
    }
    let limits = receives.then_some(local.publisher_limits);
    attributes
        .extend(limits.map(|limits| value("maxprate", format!("{}.0", limits.packets_per_second))));
    let sdp = SessionDescription {
        origin: Origin {
            username: "-".into(),
            // RFC 9429 section 5.2.1 keeps the highest bit zero.
            session_id: local.session_id & (u64::MAX >> 1),
            session_version: 1,
            network_type: "IN".into(),
            address_type: "IP4".into(),
            unicast_address: "127.0.0.1".into(),
        },
        session_name: "-".into(),
        bandwidth: limits.map(bandwidth).into_iter().collect(),
        time_descriptions: vec![TimeDescription::default()],
        attributes,
        media_descriptions,
        ..SessionDescription::default()
    };
    Ok((transport, sdp.marshal()))
}

/// Our transport, as every m-section repeats it.
struct LocalLines<'l> {
    local: &'l LocalTransport,
    role: DtlsRole,
}

impl LocalLines<'_> {
    fn accepted(&self, section: &Section, reply: Accepted<'_>) -> MediaDescription {
        let mut attributes = self.transport(section);
        attributes.push(flag(&reply.direction.to_string()));
        attributes.push(flag("rtcp-mux"));
        attributes.push(flag("rtcp-mux-only"));
        if section.rtcp_rsize {
            attributes.push(flag("rtcp-rsize"));
        }
        if section.allow_mixed {
            attributes.push(flag("extmap-allow-mixed"));
        }
        attributes.extend(reply.exts.iter().map(|ext| value("extmap", ext)));
        let mut formats = Vec::new();
        for payload in reply.payloads(section) {
            formats.push(payload.pt.to_string());
            let publisher = reply.direction == Direction::RecvOnly;
            attributes.extend(payload_lines(payload, publisher));
            let own = reply.codecs.iter().find(|(codec, _)| codec.media.pt == payload.pt);
            attributes.extend(own.into_iter().flat_map(|(_, f)| feedback_lines(payload.pt, *f)));
        }
        attributes.extend(reply.lines.into_iter().map(|(key, line)| value(key, line)));
        media(section, 9, formats, attributes)
    }

    fn rejected(&self, section: &Section) -> MediaDescription {
        let mut attributes = self.transport(section);
        if section.kind.is_some() {
            attributes.push(flag("inactive"));
        }
        let formats = section.formats.iter().take(1).cloned().collect();
        media(section, 0, formats, attributes)
    }

    fn transport(&self, section: &Section) -> Vec<Attribute> {
        let hex: Vec<_> =
            self.local.fingerprint_sha256.iter().map(|byte| format!("{byte:02X}")).collect();
        let setup = match self.role {
            DtlsRole::Server => "passive",
            DtlsRole::Client => "active",
        };
        let mid = section.mid.as_ref().map(|mid| value("mid", mid));
        mid.into_iter()
            .chain([
                value("ice-ufrag", &self.local.ice.ufrag),
                value("ice-pwd", &self.local.ice.pwd),
                value("fingerprint", format!("sha-256 {}", hex.join(":"))),
                value("setup", setup),
            ])
            .collect()
    }
}

fn media(
    section: &Section,
    port: isize,
    formats: Vec<String>,
    attributes: Vec<Attribute>,
) -> MediaDescription {
    MediaDescription {
        media_name: MediaName {
            media: section.media.clone(),
            port: RangedPort { value: port, range: None },
            protos: vec![section.proto.clone()],
            formats,
        },
        connection_information: Some(ConnectionInformation {
            network_type: "IN".into(),
            address_type: "IP4".into(),
            address: Some(Address { address: "0.0.0.0".into(), ttl: None, range: None }),
        }),
        attributes,
        ..MediaDescription::default()
    }
}

fn payload_lines(payload: &Payload, publisher: bool) -> impl Iterator<Item = Attribute> {
    let line = |key: &str, rest: &str| {
        (!rest.is_empty()).then(|| value(key, format!("{} {rest}", payload.pt)))
    };
    let fmtp = payload.answered_fmtp(publisher);
    [line("rtpmap", &payload.encoding), line("fmtp", &fmtp)].into_iter().flatten()
}

fn feedback_lines(pt: u8, feedback: Feedback) -> impl Iterator<Item = Attribute> {
    [
        (feedback.nack, "nack"),
        (feedback.pli, "nack pli"),
        (feedback.fir, "ccm fir"),
        (feedback.remb, "goog-remb"),
        (feedback.transport_cc, "transport-cc"),
    ]
    .into_iter()
    .filter(|(taken, _)| *taken)
    .map(move |(_, name)| value("rtcp-fb", format!("{pt} {name}")))
}

fn candidate_lines(local: &LocalTransport) -> Vec<Attribute> {
    let lines = local.candidates.iter().enumerate();
    let mut lines: Vec<_> =
        lines.map(|(index, address)| value("candidate", candidate(index, *address))).collect();
    lines.push(flag("end-of-candidates"));
    lines
}

/// One UDP host candidate; `index` 0 is the best (RFC 8445 section 5.1.2.1).
pub(super) fn candidate(index: usize, address: SocketAddr) -> String {
    const HOST_TYPE_PREFERENCE: u32 = 126;
    const COMPONENT_RTP: u32 = 1;
    let local_preference = u16::MAX.saturating_sub(u16::try_from(index).unwrap_or(u16::MAX));
    let priority =
        (HOST_TYPE_PREFERENCE << 24) | (u32::from(local_preference) << 8) | (256 - COMPONENT_RTP);
    let (ip, port) = (address.ip(), address.port());
    format!("{} 1 udp {priority} {ip} {port} typ host", index.saturating_add(1))
}

fn flag(key: &str) -> Attribute {
    Attribute::new(key.into(), None)
}

fn value(key: &str, value: impl Into<String>) -> Attribute {
    Attribute::new(key.into(), Some(value.into()))
}
