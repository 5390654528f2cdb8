//! The offer as it was written: sections and their attributes, without decisions.
//!
//! Owns reading. Malformed text is refused here (400); what is legal and cannot be served is
//! refused by `publish.rs`, `subscribe.rs` and `remote.rs` (422). Those three read the fields;
//! `answer.rs` mirrors the sections.
//!
//! `rtc-sdp` splits the text that `grammar.rs` has bounded and respelled. It takes every client's
//! offer that we have.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Cursor;

use rtc_sdp::description::common::Attribute;
use rtc_sdp::description::media::MediaDescription;
use rtc_sdp::description::session::SessionDescription;
use rtc_sdp::direction::Direction;

use super::exts::{self, OfferedExt};
use super::grammar::OfferText;
use super::payload::{self, Payload};
use super::plan::DeclaredSsrc;
use super::simulcast::{self, OfferedLayer};
use super::transport_lines::TransportLines;
use super::{Location, Malformed, RejectedSection, SdpError, Unacceptable};
use crate::codec::MediaKind;
use crate::ids::Role;

/// Longest `a=mid` in bytes; a longer one refuses the offer. A mid above 16 bytes is served without
/// the mid header extension.
const MID_BYTES_MAX: usize = 64;

/// Parsed offer. Its text never shows in `Debug`: it holds the peer's password.
pub struct Offer {
    /// All m-sections in order.
    pub(super) sections: Vec<Section>,
    /// Each `a=group:BUNDLE` with its mids.
    pub(super) bundles: Vec<Vec<String>>,
    /// Transport lines before the first m-section.
    pub(super) transport: TransportLines,
    /// `a=extmap-allow-mixed` before the first m-section.
    pub(super) allow_mixed: bool,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sections.iter().map(Section::to_string)).finish()
    }
}

impl Offer {
    /// Position of the m-line with this mid, from 0.
    pub fn m_line(&self, mid: &str) -> Option<usize> {
        self.sections.iter().position(|section| section.mid_or_index() == mid)
    }

    /// Reads a POST body.
    ///
    /// # Errors
    /// [`SdpError::Malformed`] when it is not SDP, is over a limit (quality B2), repeats a mid, or
    /// has an attribute that breaks its grammar.
    pub fn parse(OfferText { bytes, grammar }: OfferText<'_>) -> Result<Self, SdpError> {
        let text = grammar.read(bytes)?;
        let mut reader = Cursor::new(text.as_bytes());
        let sdp = SessionDescription::unmarshal(&mut reader)
            .map_err(|_| text.malformed_line(reader.position()))?;
        let session = &sdp.attributes;
        let mut mids = BTreeSet::new();
        let mut sections = Vec::with_capacity(sdp.media_descriptions.len());
        for (index, media) in sdp.media_descriptions.into_iter().enumerate() {
            let section = Section::read(index, media, session)?;
            if section.mid.as_ref().is_some_and(|mid| !mids.insert(mid.clone())) {
                return Err(section.malformed(Malformed::RepeatedMid));
            }
            sections.push(section);
        }
        let bundles = values(session, "group")
            .filter_map(|group| group.strip_prefix("BUNDLE"))
            .map(|mids| mids.split_whitespace().map(str::to_owned).collect())
            .collect();
        let transport =
            TransportLines::read(session).map_err(|cause| cause.at(Location::Session))?;
        Ok(Self { sections, bundles, transport, allow_mixed: has(session, "extmap-allow-mixed") })
    }
}

/// One m-section.
pub(super) struct Section {
    /// Position in the offer, from 0.
    index: usize,
    /// The first word of the `m=` line.
    pub(super) media: String,
    /// Audio or video; None for anything else.
    pub(super) kind: Option<MediaKind>,
    /// The protocol word of the `m=` line.
    pub(super) proto: String,
    /// The formats of the `m=` line.
    pub(super) formats: Vec<String>,
    /// `a=mid`
    pub(super) mid: Option<String>,
    /// Port 0 without `a=bundle-only`: disabled by the offerer (whip-whep C1).
    disabled: bool,
    /// Direction, with the session-level default.
    direction: Direction,
    /// Transport lines of this section.
    pub(super) transport: TransportLines,
    /// `a=bundle-only`
    pub(super) bundle_only: bool,
    /// `a=rtcp-mux` or `a=rtcp-mux-only`
    pub(super) rtcp_mux: bool,
    /// `a=rtcp-rsize`
    pub(super) rtcp_rsize: bool,
    /// `a=extmap-allow-mixed` here or session-wide.
    pub(super) allow_mixed: bool,
    /// Payload types in order; empty unless audio or video.
    pub(super) payloads: Vec<Payload>,
    /// Known header extensions.
    pub(super) exts: Vec<OfferedExt>,
    /// Simulcast streams that the peer can send.
    pub(super) layers: Vec<Vec<OfferedLayer>>,
    /// Declared SSRCs with their RTX.
    pub(super) ssrcs: Vec<DeclaredSsrc>,
}

/// Use of a section by a session of one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Port 0 in the answer: not media, or disabled.
    Reject,
    /// Kept without media: the section has a direction that this session does not have.
    Idle(MediaKind),
    /// Media flows.
    Live(MediaKind),
}

impl Section {
    fn read(
        index: usize,
        media: MediaDescription,
        session: &[Attribute],
    ) -> Result<Self, SdpError> {
        let name = media.media_name;
        let attributes = &media.attributes;
        let bundle_only = has(attributes, "bundle-only");
        let mut section = Self {
            index,
            kind: match name.media.as_str() {
                "audio" => Some(MediaKind::Audio),
                "video" => Some(MediaKind::Video),
                _ => None,
            },
            media: name.media,
            proto: name.protos.join("/"),
            formats: name.formats,
            mid: None,
            disabled: name.port.value == 0 && !bundle_only,
            direction: direction_of(attributes)
                .or_else(|| direction_of(session))
                .unwrap_or(Direction::SendRecv),
            transport: TransportLines::default(),
            bundle_only,
            rtcp_mux: has(attributes, "rtcp-mux") || has(attributes, "rtcp-mux-only"),
            rtcp_rsize: has(attributes, "rtcp-rsize"),
            allow_mixed: [attributes.as_slice(), session]
                .iter()
                .any(|a| has(a, "extmap-allow-mixed")),
            payloads: Vec::new(),
            exts: exts::parse(attributes, session),
            layers: Vec::new(),
            ssrcs: declared_ssrcs(attributes),
        };
        if let Some(mid) = values(attributes, "mid").next() {
            check_mid(mid).map_err(|cause| section.malformed(cause))?;
            section.mid = Some(mid.to_owned());
        }
        section.transport =
            TransportLines::read(attributes).map_err(|cause| section.malformed(cause))?;
        if let (Some(kind), false) = (section.kind, section.disabled) {
            section.payloads = payload::parse(kind, &section.formats, attributes)
                .map_err(|cause| section.malformed(cause))?;
            section.layers =
                simulcast::parse(attributes).map_err(|cause| section.malformed(cause))?;
        }
        Ok(section)
    }

    /// Use of this section, before any codec is looked at.
    ///
    /// # Errors
    /// [`SdpError::Unacceptable`] for media over anything but DTLS-SRTP (whip-whep C22), and for a
    /// publisher's media that is neither audio nor video (whip-whep C24). Data channels are not
    /// media.
    pub(super) fn intent(&self, role: Role) -> Result<Intent, Unacceptable> {
        let kind = match self.kind {
            _ if self.disabled => return Ok(Intent::Reject),
            Some(kind) => kind,
            None if role == Role::Publisher && self.media != "application" => {
                return Err(Unacceptable::NotAudioOrVideo);
            }
            None => return Ok(Intent::Reject),
        };
        // The answer repeats the offered profile; older ones mean the same with a fingerprint
        // (RFC 9429 section 5.1.2).
        let proto = self.proto.to_ascii_uppercase();
        if !proto.ends_with("RTP/SAVPF") && !proto.ends_with("RTP/SAVP") {
            return Err(Unacceptable::NotDtlsSrtp);
        }
        let one_way = match role {
            Role::Publisher => Direction::SendOnly,
            Role::Subscriber => Direction::RecvOnly,
        };
        let flows = self.direction == one_way || self.direction == Direction::SendRecv;
        Ok(if flows { Intent::Live(kind) } else { Intent::Idle(kind) })
    }

    /// Rejection of this section alone, for a viewer; what is no media has no reason to tell.
    pub(super) fn rejected(&self, cause: Unacceptable) -> Option<RejectedSection> {
        Some(RejectedSection {
            m_line: self.index,
            mid: self.mid_or_index(),
            kind: self.kind?,
            section: self.to_string(),
            cause,
        })
    }

    /// The mid for the plan: a lone section without BUNDLE need not have one.
    pub(super) fn mid_or_index(&self) -> String {
        self.mid.clone().unwrap_or_else(|| self.index.to_string())
    }

    /// Refusal of the offer because of this section.
    pub(super) fn unacceptable(&self, cause: Unacceptable) -> SdpError {
        SdpError::Unacceptable { at: Location::Section(self.to_string()), cause }
    }

    fn malformed(&self, cause: Malformed) -> SdpError {
        cause.at(Location::Section(self.to_string()))
    }

    /// The offered codecs, for an error text: `VP8, VP9`.
    pub(super) fn encodings(&self) -> String {
        const SHOWN_MAX: usize = 16;
        let mut names: Vec<String> = Vec::new();
        let kind = self.kind.into_iter().cycle();
        for name in self.payloads.iter().zip(kind).filter_map(|(one, kind)| one.described(kind)) {
            if names.len() < SHOWN_MAX && !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() { "no codec".into() } else { names.join(", ") }
    }
}

/// `m-section 2 (video, mid "1")`
impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m-section {} ({}", self.index.saturating_add(1), self.media)?;
        match &self.mid {
            Some(mid) => write!(f, ", mid {mid:?})"),
            None => write!(f, ")"),
        }
    }
}

/// Whether a flag attribute is there.
fn has(attributes: &[Attribute], key: &str) -> bool {
    attributes.iter().any(|attribute| attribute.key == key)
}

/// Values of every attribute of that name.
pub(super) fn values<'a>(
    attributes: &'a [Attribute],
    key: &'static str,
) -> impl Iterator<Item = &'a str> {
    attributes
        .iter()
        .filter(move |attribute| attribute.key == key)
        .filter_map(|attribute| attribute.value.as_deref())
}

fn direction_of(attributes: &[Attribute]) -> Option<Direction> {
    let mut directions = attributes.iter().map(|attribute| Direction::new(&attribute.key));
    directions.find(|direction| *direction != Direction::Unspecified)
}

/// A mid goes back into the answer, so it must be a token (RFC 8866 section 9).
fn check_mid(mid: &str) -> Result<(), Malformed> {
    let token = |b: u8| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&b);
    if mid.is_empty() || mid.len() > MID_BYTES_MAX || !mid.bytes().all(token) {
        return Err(Malformed::BadMid(MID_BYTES_MAX));
    }
    Ok(())
}

/// `a=ssrc` and `a=ssrc-group:FID`: media SSRCs in order with their RTX. The RTX of a group needs
/// no line of its own (whip-whep C7), and lines may repeat (whip-whep C6).
fn declared_ssrcs(attributes: &[Attribute]) -> Vec<DeclaredSsrc> {
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok());
    let groups: Vec<(u32, u32)> = values(attributes, "ssrc-group")
        .filter_map(|group| {
            let mut words = group.split_whitespace().skip_while(|word| *word != "FID").skip(1);
            Some((number(words.next())?, number(words.next())?))
        })
        .filter(|(media, rtx)| media != rtx)
        .collect();
    let declared = values(attributes, "ssrc").filter_map(|line| number(line.split(' ').next()));
    let mut ssrcs: Vec<DeclaredSsrc> = Vec::new();
    for ssrc in declared.chain(groups.iter().map(|(media, _)| *media)) {
        let known = ssrcs.iter().any(|seen| seen.ssrc == ssrc);
        if !known && !groups.iter().any(|(_, rtx)| *rtx == ssrc) {
            let rtx = groups.iter().find(|(media, _)| *media == ssrc).map(|(_, rtx)| *rtx);
            ssrcs.push(DeclaredSsrc { ssrc, rtx });
        }
    }
    ssrcs
}
