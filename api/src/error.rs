//! Responses to refused requests: RFC 9457 problem details.
//!
//! Owns the mapping from the media plane's errors to statuses, as matches without a wildcard, so
//! that a new error cannot be forgotten. Never holds a secret or an address. Called by every
//! handler.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use weir_sfu::error::CloseReason;
use weir_sfu::net::{
    ConflictCause, LayerError, LookupError, NotReady, OfferError, PatchError, SessionEnd,
};

use crate::refused_offers::RefusalText;

/// A refusal: a status, a text that says what to do, and the headers that belong to it.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Why the session of a URL ended: member `reason`, for programs.
    reason: Option<CloseReason>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A refusal with `detail` as the text for the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), reason: None, headers: Vec::new() }
    }

    /// Adds a header that belongs to the refusal.
    pub fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds `Retry-After` (RFC 9110 section 10.2.3), in whole seconds and at least one.
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with(RETRY_AFTER, seconds.max(1))
    }

    /// 404 for a session URL that names no session (whip-whep A26).
    pub fn no_session() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "there is no such session: it has ended, or its URL is wrong; POST a new offer",
        )
    }

    /// 404 for a session URL whose session ended a short time ago: its client learns why, and whether to come
    /// again.
    pub fn ended(reason: CloseReason) -> Self {
        let ended = Self::new(StatusCode::NOT_FOUND, end_text(reason));
        Self { reason: Some(reason), ..ended }
    }

    /// 404 for a public id that names no session, for operators: they have no offer to post.
    pub fn unknown_session() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "there is no session of this id: it ended some time ago, or the id is wrong; GET \
             /api/v1/streams has the ids of those that live",
        )
    }

    /// 404 for a session that ended a moment ago, with the reason, for operators.
    pub fn session_ended(end: &SessionEnd) -> Self {
        let cause = end.cause.as_deref().map_or_else(String::new, |cause| format!(": {cause}"));
        let (label, text) = (end.reason.label(), end_text(end.reason));
        let detail = format!("this session ended {:.0} s ago ({label}): {text}{cause}", end.ago_s);
        Self { detail, ..Self::ended(end.reason) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": &self.detail,
        });
        if let Some(reason) = self.reason {
            body["reason"] = reason.label().into();
        }
        // A widely used player shows `json().error` of a 400 and looks at no other status
        // (whip-whep A16). Elsewhere people would read the same sentence twice.
        if self.status == StatusCode::BAD_REQUEST {
            body["error"] = self.detail.clone().into();
        }
        let mut response = (
            self.status,
            [(CONTENT_TYPE, "application/problem+json"), (CACHE_CONTROL, "no-store")],
            body.to_string(),
        )
            .into_response();
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(RefusalText(self.detail));
        response
    }
}

/// Text for the person whose session ended.
fn end_text(reason: CloseReason) -> &'static str {
    use CloseReason as R;
    match reason {
        R::Deleted => "the session was deleted at its URL",
        R::PeerClosed => "the client closed the connection",
        R::NoIce => {
            "no connectivity check arrived at the media port; open its UDP port in the firewall, and \
             advertise an address that clients can reach (--advertise)"
        }
        R::DtlsTimeout => "the encrypted connection (DTLS) was not ready in time",
        R::DtlsFailed => "the encrypted connection (DTLS) failed",
        R::FingerprintMismatch => {
            "the certificate of the connection (DTLS) is not the one that the offer named"
        }
        R::ConsentExpired => {
            "nothing arrived from the client any more; its network was interrupted"
        }
        R::TakenOver => "another publisher went live under this name",
        R::StreamEnded => "nobody publishes this stream any more",
        R::CodecNotNegotiated => {
            "the publisher now uses a codec that this session did not negotiate"
        }
        R::Kicked => "an operator ended this session",
        R::Shutdown => "the server stops",
        R::Panic | R::WorkerLost => "the server met an internal error",
        R::Evicted => "the session was not connected yet, and its place was needed; POST again",
    }
}

impl From<OfferError> for Problem {
    fn from(error: OfferError) -> Self {
        let detail = error.to_string();
        match error {
            // Never 406: players take that as a counter-offer (whip-whep A10, E4).
            OfferError::Malformed(_) => Self::new(StatusCode::BAD_REQUEST, detail),
            OfferError::Unacceptable(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            OfferError::Conflict(conflict) => {
                let problem = Self::new(StatusCode::CONFLICT, detail);
                match conflict.cause {
                    ConflictCause::Reject => problem,
                    ConflictCause::RejectWhileSilent { retry_after_s, .. }
                    | ConflictCause::Contested { retry_after_s } => {
                        problem.retry_after(retry_after_s)
                    }
                }
            }
            OfferError::NoAddress { retry_after_s } | OfferError::Unavailable { retry_after_s } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(retry_after_s)
            }
        }
    }
}

impl From<NotReady> for Problem {
    fn from(reason: NotReady) -> Self {
        OfferError::from(reason).into()
    }
}

impl From<PatchError> for Problem {
    fn from(error: PatchError) -> Self {
        let detail = error.to_string();
        match error {
            PatchError::NotFound => Self::no_session(),
            PatchError::Malformed(_) => Self::new(StatusCode::BAD_REQUEST, detail),
            PatchError::StaleTag => Self::new(StatusCode::PRECONDITION_FAILED, detail),
            PatchError::TagRequired => Self::new(StatusCode::PRECONDITION_REQUIRED, detail),
            PatchError::RateLimited => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1)
            }
            PatchError::Unavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
            }
        }
    }
}

impl From<LookupError> for Problem {
    fn from(error: LookupError) -> Self {
        let detail = error.to_string();
        match error {
            LookupError::NotFound => Self::no_session(),
            LookupError::RateLimited => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1)
            }
        }
    }
}

impl From<LayerError> for Problem {
    fn from(error: LayerError) -> Self {
        let detail = error.to_string();
        match error {
            LayerError::NotFound => Self::no_session(),
            LayerError::UnknownMedia { .. } | LayerError::UnknownRid { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
            LayerError::Unavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use weir_sfu::net::Conflict;

    #[test]
    fn each_media_plane_error_has_the_status_that_clients_expect() {
        let offer = |e| Problem::from(e).into_response();
        assert_eq!(offer(OfferError::Malformed("x".into())).status(), 400);
        assert_eq!(offer(OfferError::Unacceptable("x".into())).status(), 422);
        let conflict = |cause| {
            let holder = weir_sfu::ids::SessionId(7);
            offer(OfferError::Conflict(Conflict { holder, live_s: 3, cause }))
        };
        let rejected = conflict(ConflictCause::Reject);
        assert_eq!((rejected.status().as_u16(), rejected.headers().get(RETRY_AFTER)), (409, None));
        let contested = conflict(ConflictCause::Contested { retry_after_s: 20 });
        assert_eq!(contested.status(), 409);
        assert_eq!(contested.headers()[RETRY_AFTER], "20");
        let silent = ConflictCause::RejectWhileSilent { silent_s: 12, retry_after_s: 18 };
        assert_eq!(conflict(silent).headers()[RETRY_AFTER], "18");
        assert_eq!(Problem::from(NotReady::NoAddress).into_response().status(), 503);
        assert_eq!(Problem::from(NotReady::Full).into_response().status(), 503);
        let busy = offer(OfferError::Unavailable { retry_after_s: 0 });
        assert_eq!(busy.status(), 503); // whip-whep A53
        assert_eq!(busy.headers()[RETRY_AFTER], "1");

        let patch = |e| Problem::from(e).into_response().status().as_u16();
        assert_eq!(patch(PatchError::NotFound), 404);
        assert_eq!(patch(PatchError::Malformed("x".into())), 400);
        assert_eq!(patch(PatchError::StaleTag), 412); // whip-whep B3
        assert_eq!(patch(PatchError::TagRequired), 428); // whip-whep B2
        assert_eq!(patch(PatchError::RateLimited), 429); // whip-whep B19
        assert_eq!(patch(PatchError::Unavailable), 503);

        let question = |e| Problem::from(e).into_response();
        assert_eq!(question(LookupError::NotFound).status(), 404);
        let often = question(LookupError::RateLimited);
        assert_eq!(
            (often.status().as_u16(), &often.headers()[RETRY_AFTER]),
            (429, &"1".parse().unwrap())
        );

        let layer = |e| Problem::from(e).into_response().status().as_u16();
        let (requested, known) = ("x".to_owned(), "h, l".to_owned());
        assert_eq!(layer(LayerError::NotFound), 404);
        assert_eq!(layer(LayerError::UnknownRid { requested, known }), 422); // whip-whep E9
        assert_eq!(layer(LayerError::Unavailable), 503);
    }

    #[tokio::test]
    async fn a_problem_has_its_text_once_and_twice_only_for_the_player_that_needs_it() {
        let body = async |status| {
            let response = Problem::new(status, "taken").into_response();
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()
        };
        let conflict = body(StatusCode::CONFLICT).await;
        assert_eq!(conflict["detail"], "taken");
        assert_eq!(conflict.get("error"), None);
        assert_eq!((&conflict["status"], &conflict["title"]), (&409.into(), &"Conflict".into()));
        let bad = body(StatusCode::BAD_REQUEST).await;
        assert_eq!((&bad["detail"], &bad["error"]), (&"taken".into(), &"taken".into())); // whip-whep A16
    }

    #[tokio::test]
    async fn url_of_an_ended_session_says_why_it_ended() {
        for &reason in CloseReason::ALL {
            let response = Problem::ended(reason).into_response();
            assert_eq!(response.status(), 404);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["reason"], reason.label());
            assert!(!body["detail"].as_str().unwrap().is_empty());
        }
    }
}
