//! Results and errors of the calls of `Sfu`, as plain values.
//!
//! Below everything else in `net/`: decides nothing and knows no session. Error texts are for the client and
//! say what to do; `api` gives each error its HTTP status.

use std::fmt;
use std::time::Duration;

use super::takeover::{CONTEST_TAKEOVERS, CONTEST_WINDOW};
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
    /// The stream has a live publisher that is not replaced: 409.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The machine has no address that a client could reach yet: 503 with `Retry-After` in seconds.
    #[error(
        "this server has no address to offer for media: the machine has only loopback addresses; it \
         takes sessions as soon as an interface has an address, or with --advertise ADDR"
    )]
    NoAddress {
        /// Seconds after which a new try makes sense.
        retry_after_s: u32,
    },
    /// The server is full or draining: 503 with `Retry-After` in seconds.
    #[error("server is full or stopping; try again in {retry_after_s} s")]
    Unavailable {
        /// Seconds after which a new try makes sense.
        retry_after_s: u32,
    },
}

/// Reason why a live stream takes no other publisher, and who holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this stream has a publisher, session {holder}, live for {live_s} s{cause}")]
pub struct Conflict {
    /// Public id of the publisher that holds the stream.
    pub holder: SessionId,
    /// Seconds since it took the stream.
    pub live_s: u64,
    /// Why it stays.
    pub cause: ConflictCause,
}

/// Reason why a publisher is not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictCause {
    /// [`Takeover::Reject`](crate::config::Takeover::Reject).
    Reject,
    /// The same, and nothing comes from the publisher: its session ends soon unless it returns.
    RejectWhileSilent {
        /// Seconds since something came from it.
        silent_s: u32,
        /// Seconds after which its session ends if it stays silent.
        retry_after_s: u32,
    },
    /// The stream changed hands too often.
    Contested {
        /// Seconds after which newcomers are taken again.
        retry_after_s: u32,
    },
}

impl Conflict {
    /// The same refusal when nothing came from the holder for `silent`; a silent session ends after
    /// `timeout`. The contest of a stream has a time of its own and stays as it is.
    pub(super) fn while_silent(self, silent: Duration, timeout: Duration) -> Self {
        let whole = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let cause = match self.cause {
            ConflictCause::Reject => ConflictCause::RejectWhileSilent {
                silent_s: whole(silent),
                retry_after_s: whole(timeout.saturating_sub(silent)).saturating_add(1),
            },
            cause @ (ConflictCause::RejectWhileSilent { .. } | ConflictCause::Contested { .. }) => {
                cause
            }
        };
        Self { cause, ..self }
    }
}

impl fmt::Display for ConflictCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject => f.write_str(
                ", and this server replaces no publisher (--takeover reject); stop that one, or \
                 publish under another name",
            ),
            Self::RejectWhileSilent { silent_s, retry_after_s } => write!(
                f,
                ", and this server replaces no publisher (--takeover reject); nothing came from that \
                 one for {silent_s} s: if it stays silent, its session ends in {retry_after_s} s, and \
                 a new publisher is taken then"
            ),
            Self::Contested { retry_after_s } => write!(
                f,
                ", and the name changed hands {CONTEST_TAKEOVERS} times within {} s: several \
                 programs publish under it and replace each other; stop all but one of them, or give \
                 each its own name; a new publisher is taken again in {retry_after_s} s",
                CONTEST_WINDOW.as_secs()
            ),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_publisher_is_told_when_a_silent_one_ends() {
        let conflict = |cause| Conflict { holder: SessionId(7), live_s: 60, cause };
        let (silent, timeout) = (Duration::from_millis(12_400), Duration::from_secs(30));
        let refused = conflict(ConflictCause::Reject).while_silent(silent, timeout);
        let cause = ConflictCause::RejectWhileSilent { silent_s: 12, retry_after_s: 18 };
        assert_eq!(refused.cause, cause);
        let text = refused.to_string();
        assert!(text.contains("nothing came from that one for 12 s"), "{text}");
        assert!(text.contains("ends in 18 s") && !text.contains("stop that one"), "{text}");
        let contested = conflict(ConflictCause::Contested { retry_after_s: 3 });
        assert_eq!(contested.while_silent(silent, timeout), contested);
        let over = conflict(ConflictCause::Reject).while_silent(2 * timeout, timeout);
        assert!(matches!(over.cause, ConflictCause::RejectWhileSilent { retry_after_s: 1, .. }));
    }
}
