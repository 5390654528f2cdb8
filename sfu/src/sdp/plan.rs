//! Result of an offer and our answer, as plain data.
//!
//! Owns no text and no rules: `publish.rs` and `subscribe.rs` fill these values, the worker reads
//! them. Next: `offer.rs` for the input, `answer.rs` for the output.

use std::net::SocketAddr;

use super::error::RejectedSection;
use crate::codec::{Codec, MediaKind};
use crate::config::PublisherLimits;
use crate::rtp::ext::ExtKind;

/// Maximum tracks of one publisher or viewer (whip-whep C23). An offer that sends more is refused;
/// of one that receives more, the rest stays inactive.
pub const TRACKS_MAX: usize = 8;

/// Maximum layers of one publisher over all its tracks; an offer with more is refused. Each has
/// caches of its own (quality B2).
pub const PUBLISHER_LAYERS_MAX: usize = 16;

/// `a=fingerprint` of the peer: any one match suffices (whip-whep C4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Hash function of the certificate digest.
    pub algorithm: FingerprintAlgorithm,
    /// The digest bytes.
    pub digest: Vec<u8>,
}

/// Hash functions accepted in `a=fingerprint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FingerprintAlgorithm {
    /// `sha-256`
    Sha256,
    /// `sha-384`
    Sha384,
    /// `sha-512`
    Sha512,
}

/// Our DTLS role after the answer (whip-whep C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    /// Offer was actpass or active: we answered `passive`.
    Server,
    /// Offer was passive (FFmpeg 8): we answered `active` and send the ClientHello.
    Client,
}

/// ICE user fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// `a=ice-ufrag`
    pub ufrag: String,
    /// `a=ice-pwd`, a secret: hidden in `Debug`.
    pub pwd: String,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).field("pwd", &"***").finish()
    }
}

/// The peer's transport by its offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteTransport {
    /// The peer's ICE credentials.
    pub ice: IceCredentials,
    /// Accepted certificate digests, at least one.
    pub fingerprints: Vec<Fingerprint>,
    /// Our role.
    pub dtls_role: DtlsRole,
}

/// Our transport by our answer.
#[derive(Debug, Clone)]
pub struct LocalTransport {
    /// Our ICE credentials for this session.
    pub ice: IceCredentials,
    /// Our certificate's SHA-256 digest.
    pub fingerprint_sha256: [u8; 32],
    /// UDP host candidates, the best first: IPv4 before IPv6 (whip-whep C41).
    pub candidates: Vec<SocketAddr>,
    /// `o=` session id, decimal.
    pub session_id: u64,
    /// What a publisher may send, which its answer tells.
    pub publisher_limits: PublisherLimits,
}

/// A codec with the parameters that decide a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecFormat {
    /// Which codec.
    pub codec: Codec,
    /// The fmtp parameter line as offered (after the payload type), possibly empty.
    pub fmtp: String,
}

/// Which RTCP feedback was negotiated for a payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Feedback {
    /// `nack`
    pub nack: bool,
    /// `nack pli`
    pub pli: bool,
    /// `ccm fir`
    pub fir: bool,
    /// `goog-remb`
    pub remb: bool,
    /// `transport-cc`
    pub transport_cc: bool,
}

impl Feedback {
    /// Whether a keyframe can be requested at all, by PLI or by FIR.
    pub fn asks_keyframes(self) -> bool {
        self.pli || self.fir
    }
}

/// Header-extension ids of one m-line, as offered and accepted. At most 16.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtMap {
    entries: Vec<(ExtKind, u8)>,
    /// `a=extmap-allow-mixed` was agreed: two-byte headers may be used.
    pub allow_mixed: bool,
}

impl ExtMap {
    /// Records an accepted extension.
    pub fn insert(&mut self, kind: ExtKind, id: u8) {
        self.entries.push((kind, id));
    }

    /// The id of `kind` on this m-line.
    pub fn id(&self, kind: ExtKind) -> Option<u8> {
        self.entries.iter().find(|(k, _)| *k == kind).map(|(_, id)| *id)
    }

    /// The kind behind an id on this m-line.
    pub fn kind(&self, id: u8) -> Option<ExtKind> {
        self.entries.iter().find(|(_, i)| *i == id).map(|(kind, _)| *kind)
    }

    /// All accepted extensions.
    pub fn iter(&self) -> impl Iterator<Item = (ExtKind, u8)> + '_ {
        self.entries.iter().copied()
    }
}

/// An SSRC declared by `a=ssrc`, with the RTX SSRC of its `FID` group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclaredSsrc {
    /// The media SSRC.
    pub ssrc: u32,
    /// RTX SSRC, if an `a=ssrc-group:FID` names one.
    pub rtx: Option<u32>,
}

/// One published m-line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishTrack {
    /// `a=mid`
    pub mid: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// The one codec of the answer (whip-whep G1).
    pub format: CodecFormat,
    /// Payload type of the codec.
    pub pt: u8,
    /// Payload type of RTX.
    pub rtx_pt: Option<u8>,
    /// Payload type of RED (RFC 2198) wrapping this codec, audio only.
    pub red_pt: Option<u8>,
    /// Feedback we may send.
    pub feedback: Feedback,
    /// Accepted header extensions.
    pub exts: ExtMap,
    /// Accepted rids in the order of `a=simulcast`; empty without simulcast.
    pub rids: Vec<String>,
    /// Declared SSRCs, possibly none (whip-whep D5).
    pub ssrcs: Vec<DeclaredSsrc>,
}

impl PublishTrack {
    /// Whether packets of this payload type carry the track's media, bare or in RED.
    pub fn is_media(&self, payload_type: u8) -> bool {
        self.pt == payload_type || self.red_pt == Some(payload_type)
    }
}

/// Result of a WHIP offer and our answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPlan {
    /// The publisher's transport.
    pub transport: RemoteTransport,
    /// Published m-lines in offer order.
    pub tracks: Vec<PublishTrack>,
}

/// One codec that a viewer can receive on one m-line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeCodec {
    /// The codec as the viewer offered it.
    pub format: CodecFormat,
    /// The viewer's payload type.
    pub pt: u8,
    /// The viewer's RTX payload type.
    pub rtx_pt: Option<u8>,
    /// The viewer's RED payload type wrapping this codec.
    pub red_pt: Option<u8>,
    /// Feedback the viewer may send.
    pub feedback: Feedback,
}

/// One m-line of a viewer on which we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeTrack {
    /// `a=mid`
    pub mid: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// Takes the n-th published track of its kind (whip-whep G15).
    pub ordinal: usize,
    /// Every codec in the answer: all common ones, first the one that the publisher sends
    /// (whip-whep G6).
    pub codecs: Vec<SubscribeCodec>,
    /// Accepted header extensions.
    pub exts: ExtMap,
    /// Our SSRC, as declared in the answer.
    pub ssrc: u32,
    /// Our RTX SSRC; used only with a codec that has an `rtx_pt`.
    pub rtx_ssrc: u32,
}

/// Result of a WHEP offer and our answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribePlan {
    /// The viewer's transport.
    pub transport: RemoteTransport,
    /// Live m-lines in offer order (rejected and inactive ones are not here).
    pub tracks: Vec<SubscribeTrack>,
    /// M-lines that asked for media and are rejected, in offer order (whip-whep G5).
    pub rejected: Vec<RejectedSection>,
    /// M-lines that asked for a track that is not published, in offer order (whip-whep G14).
    pub idle: Vec<IdleSection>,
}

/// M-line of a viewer that is answered `inactive` because there is no such track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleSection {
    /// Position in the offer, from 0.
    pub m_line: usize,
    /// Audio or video.
    pub kind: MediaKind,
    /// Position among the viewer's m-lines of this kind: it asked for the publisher's track at the
    /// same one (whip-whep G15).
    pub ordinal: usize,
}

/// Published track, as the matcher needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTrack {
    /// Audio or video.
    pub kind: MediaKind,
    /// Codec of the track.
    pub format: CodecFormat,
}
