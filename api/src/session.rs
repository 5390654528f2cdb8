//! `/whip/{stream}/{secret}` and `/whep/{stream}/{secret}`: one session, for the client that knows
//! its URL.
//!
//! PATCH trickles candidates or restarts ICE, DELETE ends the session, GET says whether it is live,
//! `…/stats` shows it. Never redirects (whip-whep A52). Next: [`weir_sfu::net::Signalling::patch`].

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use weir_sfu::net::{IfMatch, Patched, SessionInfo};

use crate::cors::ACCEPT_PATCH;
use crate::error::Problem;
use crate::path::SessionUrl;
use crate::state::AppState;
use crate::{TRICKLE, body};

/// `PATCH`: 204 for candidates, 200 with a fragment and a new tag for an ICE restart.
///
/// # Errors
/// 400, 404, 408, 412, 413, 415, 428 (strict), 429 or 503 as a [`Problem`].
pub async fn patch(
    State(state): State<AppState>,
    url: SessionUrl,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    if !state.sfu.signalling().exists(url.role, &url.stream, &url.secret) {
        return Err(Problem::no_session());
    }
    if !body::is_type(&parts.headers, TRICKLE) {
        let detail = "Content-Type must be application/trickle-ice-sdpfrag: PATCH an ICE fragment";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with(ACCEPT_PATCH, HeaderValue::from_static(TRICKLE)));
    }
    let tag = if_match(&parts.headers);
    let fragment =
        body::read(&state.bodies, state.network(&parts), &parts.headers, body, body::PATCH_MAX)
            .await?;
    let strict = state.config().strict;
    let patched = state
        .sfu
        .signalling()
        .patch(url.role, &url.stream, &url.secret, &fragment, tag, strict)
        .await?;
    Ok(match patched {
        // No ETag: the tag has not changed (whip-whep B1).
        Patched::Trickled => StatusCode::NO_CONTENT.into_response(),
        Patched::Restarted { body, etag } => {
            let headers = [
                (CONTENT_TYPE, TRICKLE.to_owned()),
                (CACHE_CONTROL, "no-store".to_owned()),
                (ETAG, etag),
            ];
            (headers, body).into_response()
        }
    })
}

/// `DELETE`: 200 with any `If-Match`, and also for a session that its client has just closed
/// (whip-whep A23 to A25).
///
/// # Errors
/// 404 as a [`Problem`].
pub async fn delete(State(state): State<AppState>, url: SessionUrl) -> Result<StatusCode, Problem> {
    if !state.sfu.signalling().delete(url.role, &url.stream, &url.secret).await {
        return Err(Problem::no_session());
    }
    Ok(StatusCode::OK)
}

/// `GET` and `HEAD`: 204 while the session is live (whip-whep A20), 404 after it; for a short time with the
/// reason of its end.
///
/// # Errors
/// 404 as a [`Problem`].
pub async fn look(State(state): State<AppState>, url: SessionUrl) -> Result<StatusCode, Problem> {
    let signalling = state.sfu.signalling();
    if signalling.exists(url.role, &url.stream, &url.secret) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let ended = signalling.ended(url.role, &url.stream, &url.secret);
    Err(ended.map_or_else(Problem::no_session, Problem::ended))
}

/// Answer of `GET …/stats`.
#[derive(Serialize)]
struct Stats {
    #[serde(flatten)]
    session: SessionInfo,
    /// Number of viewers of the stream: a publisher cannot ask for it elsewhere.
    viewers: usize,
}

/// `GET …/stats`: statistics of this session, for the client that knows its URL.
///
/// # Errors
/// 404 or 429 as a [`Problem`].
pub async fn stats(State(state): State<AppState>, url: SessionUrl) -> Result<Response, Problem> {
    let id = state.sfu.signalling().rate_limited_lookup(url.role, &url.stream, &url.secret)?;
    let session = state.sfu.inspection().session(id).await.ok_or_else(Problem::no_session)?;
    let viewers = state.sfu.inspection().viewers(&url.stream);
    Ok(([(CACHE_CONTROL, "no-store")], Json(Stats { session, viewers })).into_response())
}

/// `If-Match` of a PATCH. `*` and the quoted `"*"` of the RFC's own example are the wildcard
/// (whip-whep B4). A list or a weak tag stays as it is: it cannot match a tag of this server.
fn if_match(headers: &HeaderMap) -> IfMatch {
    let lines: Vec<&str> =
        headers.get_all(IF_MATCH).iter().map(|line| line.to_str().unwrap_or("?").trim()).collect();
    let value = lines.join(", ");
    match value.as_str() {
        "" => IfMatch::Missing,
        "*" | "\"*\"" => IfMatch::Any,
        quoted if quoted.contains('"') => IfMatch::Tag(value),
        // Some clients remove the quotes of the tag that they were given.
        bare => IfMatch::Tag(format!("\"{bare}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_read_as_clients_write_it() {
        let read = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| (IF_MATCH, HeaderValue::from_static(line)));
            if_match(&HeaderMap::from_iter(lines))
        };
        let tag = |tag: &str| IfMatch::Tag(tag.into());
        assert_eq!(read(&[]), IfMatch::Missing);
        assert_eq!(read(&[""]), IfMatch::Missing);
        assert_eq!(read(&["*"]), IfMatch::Any);
        assert_eq!(read(&[" \"*\" "]), IfMatch::Any); // whip-whep B4
        assert_eq!(read(&["\"f3a9\""]), tag("\"f3a9\""));
        assert_eq!(read(&["f3a9"]), tag("\"f3a9\""));
        assert_eq!(read(&["W/\"f3a9\""]), tag("W/\"f3a9\""));
        assert_eq!(read(&["\"a\", \"b\""]), tag("\"a\", \"b\""));
    }
}
