//! Names of media kinds and codecs.
//!
//! Owns no parsing: payload formats are in `rtp/codec/`, SDP matching in `sdp/`. Called everywhere.

use serde::Serialize;

/// Audio or video, as in the `m=` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// `m=audio`
    Audio,
    /// `m=video`
    Video,
}

/// A codec that Weir forwards. Payloads are never transcoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Codec {
    /// RFC 7587, always 48 kHz and two channels in SDP.
    Opus,
    /// RFC 3551 static payload type 0.
    Pcmu,
    /// RFC 3551 static payload type 8.
    Pcma,
    /// RFC 3551 static payload type 9; its RTP clock is 8 kHz although it samples at 16 kHz.
    G722,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184.
    H264,
    /// RFC 7798.
    H265,
    /// AV1 RTP payload specification 1.0.
    Av1,
}

impl Codec {
    /// The kind of `m=` line the codec belongs to.
    pub fn kind(self) -> MediaKind {
        match self {
            Self::Opus | Self::Pcmu | Self::Pcma | Self::G722 => MediaKind::Audio,
            Self::Vp8 | Self::Vp9 | Self::H264 | Self::H265 | Self::Av1 => MediaKind::Video,
        }
    }

    /// RTP clock rate in Hz.
    pub fn clock_rate(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::Pcmu | Self::Pcma | Self::G722 => 8_000,
            Self::Vp8 | Self::Vp9 | Self::H264 | Self::H265 | Self::Av1 => 90_000,
        }
    }

    /// The encoding name as written in `a=rtpmap` (RFC 8866 section 6.6).
    pub fn name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Av1 => "AV1",
        }
    }

    /// Finds a codec by its encoding name, ignoring case (whip-whep C9).
    pub fn from_name(name: &str) -> Option<Self> {
        const ALL: [Codec; 9] = [
            Codec::Opus,
            Codec::Pcmu,
            Codec::Pcma,
            Codec::G722,
            Codec::Vp8,
            Codec::Vp9,
            Codec::H264,
            Codec::H265,
            Codec::Av1,
        ];
        ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }
}
