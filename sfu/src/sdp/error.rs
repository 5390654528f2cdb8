//! Reasons for which an offer or a fragment is refused, and where in it the fault is.
//!
//! Owns the texts for the client: each names the line or the m-section, what was expected and what
//! to do, and none repeats a password. Never decides anything. Filled by every reader of `sdp/`.

use std::fmt;

use crate::codec::MediaKind;

/// Reason for which an offer or a fragment was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Not SDP, or over a limit: 400.
    #[error("{at}{cause}")]
    Malformed {
        /// Where the fault is.
        at: Location,
        /// What is wrong.
        cause: Malformed,
    },
    /// SDP that is understood and cannot be served: 422.
    #[error("{at}{cause}")]
    Unacceptable {
        /// Where the fault is.
        at: Location,
        /// What cannot be served.
        cause: Unacceptable,
    },
}

/// Place of a fault in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The body as a whole.
    Body,
    /// A line, counted from 1.
    Line(usize),
    /// An attribute before the first m-section.
    Session,
    /// An m-section, by a label such as `m-section 2 (video, mid "1")`.
    Section(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => Ok(()),
            Self::Line(number) => write!(f, "line {number}: "),
            Self::Session => write!(f, "before the first m-section: "),
            Self::Section(label) => write!(f, "{label}: "),
        }
    }
}

/// Fault in the text of a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The body is longer than the limit in bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The body is not UTF-8 from this byte on.
    #[error("the body is not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// The body has no line.
    #[error("the body is empty")]
    Empty,
    /// More of one thing than the limit.
    #[error("more than {max} {what}")]
    TooMany {
        /// The thing that is counted.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A control character other than a tab.
    #[error("control character U+{:04X}", u32::from(*.0))]
    ControlCharacter(char),
    /// A line that does not begin with a letter and `=`.
    #[error("not of the form `x=value`")]
    NotALine,
    /// A line that the parser refused; only its first two characters are shown.
    #[error("`{0}` is out of place or breaks its grammar (RFC 8866), or the offer ends here")]
    BadLine(String),
    /// A mid that another m-section has.
    #[error("its mid stands twice; give each m-section an a=mid of its own")]
    RepeatedMid,
    /// A mid that is no token, or too long.
    #[error("a=mid is 1 to {0} letters, digits or token marks")]
    BadMid(usize),
    /// A format on the `m=` line that is no payload type.
    #[error("a format of its m= line is not a payload type (0 to 127)")]
    BadPayloadType,
    /// An ICE credential that breaks its grammar.
    #[error("{attribute} must be {min} to {max} letters, digits, `+` or `/`")]
    BadIceCredential {
        /// `a=ice-ufrag` or `a=ice-pwd`.
        attribute: &'static str,
        /// Shortest length in bytes.
        min: usize,
        /// Longest length in bytes.
        max: usize,
    },
    /// A value of `a=setup` that RFC 8842 does not know.
    #[error("a=setup is none of actpass, active, passive")]
    BadSetup,
    /// A fingerprint that does not fit its hash function.
    #[error("a=fingerprint: {hash} needs {bytes} bytes of hex with colons")]
    BadFingerprint {
        /// Name of the hash function as offered.
        hash: String,
        /// Length of its digest.
        bytes: usize,
    },
    /// A rid that is too long or has a character outside the grammar.
    #[error("a=rid: an id is 1 to {0} letters, digits, `-` or `_`")]
    BadRid(usize),
    /// A rid that stands twice in one m-section.
    #[error("a=rid:{0} stands twice in one m-section")]
    RepeatedRid(String),
}

/// Property of an offer that this server does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// A publisher's m-section that is neither audio nor video.
    #[error("only audio and video are forwarded")]
    NotAudioOrVideo,
    /// Media over anything but DTLS-SRTP.
    #[error("offer UDP/TLS/RTP/SAVPF; plain RTP is not served")]
    NotDtlsSrtp,
    /// No offered codec is forwarded.
    #[error("it offers {offered}; offer one of {}", forwarded(*.kind))]
    NoCommonCodec {
        /// Names of the offered codecs.
        offered: String,
        /// Kind of the m-section.
        kind: MediaKind,
    },
    /// The viewer cannot decode what the publisher sends.
    #[error(
        "the publisher sends {published}, and the viewer offers {offered}: let the viewer offer \
         {published} too, or the publisher send what the viewer offers{}",
        of_parameters(parameters)
    )]
    NotThePublishersCodec {
        /// Name of the published codec.
        published: &'static str,
        /// Its parameters, if the viewer offers the codec with others; else empty.
        parameters: String,
        /// Names of the offered codecs.
        offered: String,
    },
    /// RTCP on a port of its own.
    #[error("add a=rtcp-mux; RTCP has no port of its own")]
    NoRtcpMux,
    /// Two or more m-sections that are not in one BUNDLE group.
    #[error(
        "one transport is served: give each m-section an a=mid, and list them all before the first \
         m-section, such as a=group:BUNDLE 0 1 for a=mid:0 and a=mid:1"
    )]
    NotBundled,
    /// A transport attribute that no level has.
    #[error("the offer has no {0}")]
    Missing(&'static str),
    /// `a=setup:holdconn`.
    #[error("a=setup:holdconn: offer actpass")]
    HoldConn,
    /// A WHIP offer without a sending m-section.
    #[error("a WHIP offer sends media: give an audio or video m-section a=sendonly")]
    NothingSent,
    /// More tracks or layers than one publisher may have.
    #[error(
        "{tracks} tracks with {layers} simulcast layers in all; send at most {tracks_max} tracks \
         and {layers_max} layers"
    )]
    TooManyTracks {
        /// Offered tracks.
        tracks: usize,
        /// Offered layers over all tracks.
        layers: usize,
        /// Limit of tracks.
        tracks_max: usize,
        /// Limit of layers.
        layers_max: usize,
    },
    /// A WHEP offer without a receiving m-section.
    #[error("a WHEP offer receives media: give an audio or video m-section a=recvonly")]
    NothingReceived,
    /// No m-section of a WHEP offer can be served, each for a reason of its own.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoneServed(Vec<RejectedSection>),
    /// No m-section of a WHEP offer takes a published track.
    #[error("the publisher sends {published}, which no m-section of the offer receives")]
    NoTrackReceived {
        /// The published codecs.
        published: String,
    },
}

fn of_parameters(parameters: &str) -> String {
    match parameters {
        "" => String::new(),
        some => format!("; the publisher's parameters are {some}"),
    }
}

/// Names of the codecs that are forwarded.
fn forwarded(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "opus/48000/2, PCMU/8000, PCMA/8000 or G722/8000",
        MediaKind::Video => "H264/90000, H265/90000, VP8/90000, VP9/90000 or AV1/90000",
    }
}

impl Unacceptable {
    /// Reason code for the API.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotAudioOrVideo => "not_audio_or_video",
            Self::NotDtlsSrtp => "not_dtls_srtp",
            Self::NoCommonCodec { .. } => "no_common_codec",
            Self::NotThePublishersCodec { .. } => "codec_not_negotiated",
            Self::NoRtcpMux => "no_rtcp_mux",
            Self::NotBundled => "not_bundled",
            Self::Missing(_) | Self::HoldConn => "no_transport",
            Self::NothingSent | Self::NothingReceived => "wrong_direction",
            Self::TooManyTracks { .. } => "too_many_tracks",
            Self::NoneServed(_) | Self::NoTrackReceived { .. } => "no_track",
        }
    }
}

/// An m-section of a viewer that is answered without media although it asked for it, while others are
/// served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedSection {
    /// Position in the offer, from 0.
    pub m_line: usize,
    /// `a=mid`, or the position if it has none.
    pub mid: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// The m-section, such as `m-section 2 (video, mid "1")`.
    pub section: String,
    /// Why it is not served.
    pub cause: Unacceptable,
}

/// `m-section 2 (video, mid "1"): offer …`
impl fmt::Display for RejectedSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.section, self.cause)
    }
}

impl Malformed {
    /// The refusal of a body with this fault.
    pub(super) fn at(self, at: Location) -> SdpError {
        SdpError::Malformed { at, cause: self }
    }
}

impl Unacceptable {
    /// The refusal of a whole offer for this reason.
    pub(super) fn whole(self) -> SdpError {
        SdpError::Unacceptable { at: Location::Body, cause: self }
    }
}
