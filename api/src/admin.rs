//! `/api/v1`: streams, sessions and totals, for operators and for the start page.
//!
//! Shows public ids and never secrets or addresses. Values come from the media plane as they are:
//! `weir_sfu::net::SfuStats`, `StreamInfo` and `SessionInfo` describe each field. Routed by
//! `app.rs`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use weir_sfu::ids::SessionId;
use weir_sfu::net::{SfuStats, StreamInfo};

use crate::error::Problem;
use crate::path::Endpoint;
use crate::state::AppState;

/// Description of every route, kept by hand and compared with the routes by a test.
pub const OPENAPI: &str = include_str!("openapi.json");

#[derive(Serialize)]
struct Streams {
    version: &'static str,
    streams: Vec<StreamInfo>,
}

#[derive(Serialize)]
struct Stats {
    version: &'static str,
    uptime_s: f64,
    ready: bool,
    /// Offers that were refused, by reason.
    offers_refused_total: BTreeMap<&'static str, u64>,
    /// Requests that the access rules refused, by reason.
    requests_refused_total: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    sfu: SfuStats,
}

/// `GET /api/v1/streams`: all streams with a publisher or a viewer.
pub async fn streams(State(state): State<AppState>) -> Response {
    let streams = state.sfu.inspection().streams().await;
    json(Streams { version: env!("CARGO_PKG_VERSION"), streams })
}

/// `GET /api/v1/streams/{stream}`: one stream.
///
/// # Errors
/// 400 or 404 as a [`Problem`].
pub async fn stream(
    State(state): State<AppState>,
    endpoint: Endpoint,
) -> Result<Response, Problem> {
    let stream = state.sfu.inspection().stream(&endpoint.stream).await;
    let unknown = || {
        let detail =
            "this stream has no publisher and no viewer; GET /api/v1/streams lists those that do";
        Problem::new(StatusCode::NOT_FOUND, detail)
    };
    stream.map(json).ok_or_else(unknown)
}

/// `GET /api/v1/sessions/{id}`: one session with its tracks and its latest decisions.
///
/// # Errors
/// 404 as a [`Problem`]; that of a session which ended within 30 s says why it ended.
pub async fn session(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = public_id(&id)?;
    let session = state.sfu.inspection().session(id).await;
    session.map(json).ok_or_else(|| match state.sfu.inspection().ended(id) {
        Some(ended) => Problem::session_ended(&ended),
        None => Problem::unknown_session(),
    })
}

/// `DELETE /api/v1/sessions/{id}`: ends a session; 204.
///
/// # Errors
/// 404 as a [`Problem`].
pub async fn kick(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = public_id(&id)?;
    if !state.sfu.operations().kick(id).await {
        return Err(Problem::unknown_session());
    }
    tracing::debug!(session = %id, "session ended by an operator");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/stats`: totals over all workers.
pub async fn stats(State(state): State<AppState>) -> Response {
    json(Stats {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: state.started.elapsed().as_secs_f64(),
        ready: state.sfu.inspection().ready().is_ok(),
        offers_refused_total: state.refused.counts().into_iter().collect(),
        requests_refused_total: state.refused_requests.counts().into_iter().collect(),
        sfu: state.sfu.inspection().stats().await,
    })
}

/// `GET /api/v1/openapi.json`.
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

fn public_id(text: &str) -> Result<SessionId, Problem> {
    text.parse().map_err(|()| Problem::unknown_session())
}

fn json(value: impl Serialize) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(value)).into_response()
}
