//! Results and errors of the calls of `Sfu`, as plain values.
//!
//! Below everything else in `net/`: decides nothing and knows no session. Error texts are for the client and
//! say what to do; `api` gives each error its HTTP status.

use crate::ids::{SessionId, SessionSecret};
use crate::sdp::SdpError;

/// Session that was accepted: everything that the `201` needs.
#[derive(Debug, Clone)]
pub struct Created {
    /// Secret of the session URL; who knows it controls the session.
    pub secret: SessionSecret,
    /// Public id for lists and logs.
    pub id: SessionId,
    /// SDP answer with CRLF lines.
    pub answer: String,
    /// Strong ETag of this ICE session, quotes included.
    pub etag: String,
}

/// Reason why an offer was refused. The text is for the client and names what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not SDP, or beyond a limit of it: 400.
    #[error("{0}")]
    Malformed(String),
    /// SDP that is understood and cannot be served: 422.
    #[error("{0}")]
    Unacceptable(String),
    /// The stream has a live publisher and takeover is off: 409.
    #[error("stream is already being published")]
    Conflict,
    /// The server is full or draining: 503 with `Retry-After` in seconds.
    #[error("server is full or stopping; try again in {retry_after_s} s")]
    Unavailable {
        /// Seconds after which a new try makes sense.
        retry_after_s: u32,
    },
}

impl From<SdpError> for OfferError {
    fn from(error: SdpError) -> Self {
        match error {
            SdpError::Malformed { .. } => Self::Malformed(error.to_string()),
            SdpError::Unacceptable { .. } => Self::Unacceptable(error.to_string()),
        }
    }
}

/// Parsed `If-Match` header of a PATCH (whip-whep B1 to B5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// The header is missing.
    Missing,
    /// `*` or the quoted `"*"`.
    Any,
    /// Strong tag, quotes included.
    Tag(String),
}

/// Effect of a PATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    /// Candidates were taken or ignored: 204, no body, no ETag.
    Trickled,
    /// ICE was restarted: 200 with this body and the new ETag.
    Restarted {
        /// Body of type `application/trickle-ice-sdpfrag`.
        body: String,
        /// New strong ETag, quotes included.
        etag: String,
    },
}

/// Reason why a PATCH was refused. The session is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// The fragment does not parse: 400.
    #[error("{0}")]
    Malformed(String),
    /// The ETag is of an older ICE session: 412.
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

/// Reason why a client's request for information about its session was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// Too many requests: 429.
    #[error("too many requests for this session")]
    RateLimited,
}

/// Reason why a layer preference was refused. The text is for the client and names what exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// No video m-line of that name: 422.
    #[error(
        "mediaId {requested}: there is no video m-line of that index or mid; there are {known}"
    )]
    UnknownMedia {
        /// Name that the client sent.
        requested: String,
        /// Indices of the video m-lines.
        known: String,
    },
    /// The publisher has no such layer: 422.
    #[error("rid {requested}: the publisher has no such layer; {known}")]
    UnknownRid {
        /// Rid that the client sent.
        requested: String,
        /// Rids of the publisher.
        known: String,
    },
    /// The owning worker could not be reached: 503.
    #[error("server is busy")]
    Unavailable,
}
