//! `Sfu`: the one door for `api`. Control plane only; media never passes here.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::ids::{Role, SessionId, SessionSecret, StreamName};

/// A running media plane. Cheap to clone; every clone is the same server.
#[derive(Clone)]
pub struct Sfu {
    _shared: Arc<()>,
}

/// The media plane could not start; the text names the setting to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A session that was accepted: everything the `201` needs.
#[derive(Debug, Clone)]
pub struct Created {
    /// The capability in the session URL.
    pub secret: SessionSecret,
    /// The id for lists and logs.
    pub id: SessionId,
    /// The SDP answer, CRLF lines.
    pub answer: String,
    /// The strong ETag of this ICE session, quotes included.
    pub etag: String,
}

/// Why an offer was refused. The text is for the client and names what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not SDP, or over a limit of it: 400.
    #[error("{0}")]
    Malformed(String),
    /// SDP that we understand and cannot serve: 422.
    #[error("{0}")]
    Unacceptable(String),
    /// The stream has a live publisher and takeover is off: 409.
    #[error("stream is already being published")]
    Conflict,
    /// No room or draining: 503 with `Retry-After` seconds.
    #[error("server is full or stopping; try again in {retry_after_s} s")]
    Unavailable {
        /// Seconds after which a new try makes sense.
        retry_after_s: u32,
    },
}

/// The `If-Match` header of a PATCH, already parsed (whip-whep B1 to B5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// No such header.
    Missing,
    /// `*` or the quoted `"*"`.
    Any,
    /// A strong tag, quotes included.
    Tag(String),
}

/// What a PATCH did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    /// Candidates taken or ignored: 204, no body, no ETag.
    Trickled,
    /// ICE restarted: 200 with this body and new ETag.
    Restarted {
        /// `application/trickle-ice-sdpfrag`
        body: String,
        /// The new strong ETag, quotes included.
        etag: String,
    },
}

/// Why a PATCH was refused. The session is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// The fragment does not parse: 400.
    #[error("{0}")]
    Malformed(String),
    /// Stale ETag: 412.
    #[error("the ICE session has changed; If-Match names an older one")]
    StaleTag,
    /// `If-Match` is required and missing: 428 (strict mode only).
    #[error("If-Match is required")]
    TagRequired,
    /// Too many PATCHes: 429.
    #[error("too many PATCH requests")]
    RateLimited,
    /// The owning worker did not answer in time: 503.
    #[error("server is busy")]
    Unavailable,
}

impl Sfu {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`StartError`] names the setting to change.
    pub fn start(_config: crate::config::Config) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// Where media arrives (port known even if 0 was asked for).
    pub fn media_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// WHIP POST.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn publish(&self, _stream: StreamName, _offer: &[u8]) -> Result<Created, OfferError> {
        unimplemented!()
    }

    /// WHEP POST.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn subscribe(
        &self,
        _stream: StreamName,
        _offer: &[u8],
    ) -> Result<Created, OfferError> {
        unimplemented!()
    }

    /// PATCH on a session URL: trickle or ICE restart.
    ///
    /// # Errors
    /// See [`PatchError`].
    pub async fn patch(
        &self,
        _role: Role,
        _stream: &StreamName,
        _secret: &str,
        _fragment: &[u8],
        _if_match: IfMatch,
        _strict: bool,
    ) -> Result<Patched, PatchError> {
        unimplemented!()
    }

    /// DELETE on a session URL. True also for a session that ended within the tombstone time
    /// (whip-whep A25); false if it never was or is long gone.
    pub async fn delete(&self, _role: Role, _stream: &StreamName, _secret: &str) -> bool {
        unimplemented!()
    }

    /// Whether a session URL is live, for GET and HEAD.
    pub fn exists(&self, _role: Role, _stream: &StreamName, _secret: &str) -> bool {
        unimplemented!()
    }

    /// The public id behind a session URL, for `GET …/stats`.
    pub fn resolve(&self, _role: Role, _stream: &StreamName, _secret: &str) -> Option<SessionId> {
        unimplemented!()
    }

    /// Ends a session by its public id; false if there is none.
    pub async fn kick(&self, _id: SessionId) -> bool {
        unimplemented!()
    }

    /// All streams with a publisher or a viewer, sorted by name.
    pub async fn streams(&self) -> Vec<StreamInfo> {
        unimplemented!()
    }

    /// One stream.
    pub async fn stream(&self, _stream: &StreamName) -> Option<StreamInfo> {
        unimplemented!()
    }

    /// One session in detail.
    pub async fn session(&self, _id: SessionId) -> Option<SessionInfo> {
        unimplemented!()
    }

    /// Totals over all workers.
    pub async fn stats(&self) -> SfuStats {
        unimplemented!()
    }

    /// Whether new sessions are taken (false while draining or when full).
    pub fn ready(&self) -> bool {
        unimplemented!()
    }

    /// Refuses new sessions from now on; live ones go on.
    pub fn drain(&self) {
        unimplemented!()
    }

    /// Ends every session with close_notify and stops the workers.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}

/// One stream as `/api/v1/streams` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StreamInfo {
    /// Its name.
    pub name: StreamName,
    /// The live publisher, if any.
    pub publisher: Option<SessionInfo>,
    /// How many viewers are attached.
    pub viewers: usize,
    /// Public ids of the viewers, at most 1,000 of them.
    pub viewer_ids: Vec<SessionId>,
}

/// One session as `/api/v1/sessions/{id}` shows it. Never holds a secret or an address.
#[derive(Debug, Clone, Serialize)]
pub struct SessionInfo {
    /// Public id.
    pub id: SessionId,
    /// Publisher or subscriber.
    pub role: Role,
    /// Its stream.
    pub stream: StreamName,
    /// Connection state: `waiting_ice`, `waiting_dtls`, `connected`.
    pub state: &'static str,
    /// Seconds since the POST.
    pub age_s: f64,
    /// The worker that owns it.
    pub worker: usize,
    /// SRTP profile once connected.
    pub srtp_profile: Option<&'static str>,
    /// Round-trip time in milliseconds, from RTCP or our own checks.
    pub rtt_ms: Option<f64>,
    /// Bytes and packets of media since the start.
    pub tracks: Vec<TrackInfo>,
    /// The last decisions with their reasons, oldest first.
    pub decisions: Vec<DecisionInfo>,
}

/// One track of a session.
#[derive(Debug, Clone, Serialize)]
pub struct TrackInfo {
    /// `a=mid`
    pub mid: String,
    /// `audio` or `video`.
    pub kind: crate::codec::MediaKind,
    /// Codec in use, once known.
    pub codec: Option<crate::codec::Codec>,
    /// Layers (publisher) or the one outgoing line (subscriber).
    pub layers: Vec<LayerInfo>,
    /// Why this viewer gets what it gets: a reason code, e.g. `largest_live_layer`,
    /// `awaiting_keyframe`, `no_publisher`; `null` for a publisher.
    pub reason: Option<&'static str>,
}

/// One layer (simulcast encoding) of a track.
#[derive(Debug, Clone, Serialize)]
pub struct LayerInfo {
    /// `a=rid` of the publisher's layer, empty without simulcast.
    pub rid: String,
    /// SSRC on this connection.
    pub ssrc: u32,
    /// Packets received (publisher) or sent (subscriber).
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Bits per second over the last second.
    pub bitrate_bps: u64,
    /// Cumulative packets lost: not repaired (publisher), or reported by the viewer.
    pub lost: i64,
    /// Frames that began with a keyframe.
    pub keyframes: u64,
    /// PLI or FIR sent (publisher) or received (subscriber).
    pub keyframe_requests: u64,
    /// NACKed packets asked for (publisher) or by the viewer (subscriber).
    pub nacks: u64,
    /// Packets repaired: RTX received (publisher) or sent (subscriber).
    pub repairs: u64,
    /// Width and height in pixels of the last keyframe that told it.
    pub resolution: Option<(u16, u16)>,
}

/// One decision a viewer feels.
#[derive(Debug, Clone, Serialize)]
pub struct DecisionInfo {
    /// Seconds since the session began.
    pub at_s: f64,
    /// What was decided, e.g. `layer h`.
    pub decision: String,
    /// Reason code.
    pub reason: &'static str,
}

/// Totals over all workers; counters are cumulative.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SfuStats {
    /// Live publishers.
    pub publishers: u64,
    /// Live viewers.
    pub subscribers: u64,
    /// Live streams.
    pub streams: u64,
    /// Sessions accepted since start, by role: publisher, subscriber.
    pub sessions_total: [u64; 2],
    /// Sessions ended since start by reason label.
    pub closed_total: Vec<(&'static str, u64)>,
    /// RTP packets received from publishers.
    pub packets_in: u64,
    /// Their bytes on the wire.
    pub bytes_in: u64,
    /// RTP packets sent to viewers, RTX included.
    pub packets_out: u64,
    /// Their bytes on the wire.
    pub bytes_out: u64,
    /// RTX or repeated packets sent to viewers.
    pub repairs_out: u64,
    /// Keyframe requests sent to publishers.
    pub keyframe_requests: u64,
    /// Dropped packets by reason label.
    pub dropped_total: Vec<(&'static str, u64)>,
    /// Packets held in replay caches now.
    pub cache_packets: u64,
    /// Bytes held in replay caches now.
    pub cache_bytes: u64,
    /// Send calls to the kernel, and datagrams in them (their ratio is segments per message).
    pub send_calls: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Panics caught; each ended one session.
    pub panics: u64,
    /// Workers running.
    pub workers: u64,
    /// Forwarding latency, microseconds from kernel receive time (or read) to send: p50, p99, max
    /// of the last ten seconds; zero if nothing was forwarded.
    pub forward_latency_us: [u64; 3],
}
