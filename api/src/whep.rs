//! `/whep/{stream}`: the endpoint of viewers (draft-ietf-wish-whep).
//!
//! Reads only the query; never the SDP. Routed by `app.rs`.
//! Next: `offer.rs` for the POST, `session.rs` for the session URL it returns.

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use weir_sfu::ids::Role;
use weir_sfu::net::StartMode;

use crate::SDP;
use crate::error::Problem;
use crate::message_page;
use crate::offer::{self, Purpose};
use crate::path::Endpoint;
use crate::state::AppState;

/// `POST`: an offer to watch. The stream may have no publisher yet: media starts when one comes
/// (whip-whep E7).
///
/// # Errors
/// 400 for an unknown `start`; see [`offer::answer`].
pub async fn subscribe(
    State(state): State<AppState>,
    endpoint: Endpoint,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let start = start(parts.uri.query())?.unwrap_or(state.config().start);
    offer::answer(&state, Purpose::Watch(start), endpoint.stream, parts, body).await
}

/// Start mode of `?start=`; none leaves it to the server's setting.
fn start(query: Option<&str>) -> Result<Option<StartMode>, Problem> {
    let mut pairs =
        query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let start = pairs.find_map(|(name, value)| (name == "start").then_some(value));
    start.map(str::parse).transpose().map_err(|problem| {
        Problem::new(StatusCode::BAD_REQUEST, format!("start in the URL's query {problem}"))
    })
}

/// `GET` and `HEAD`: by this a client discovers that the URL is a WHEP URL (whip-whep A21). A person with a
/// browser is told what the address is for.
///
/// # Errors
/// 400 as a [`Problem`] for a bad name.
pub async fn look(
    State(state): State<AppState>,
    endpoint: Endpoint,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if message_page::is_wanted(&method, &headers) {
        return message_page::of_endpoint(&state, Role::Subscriber, &endpoint.stream);
    }
    Ok([(CONTENT_TYPE, SDP), (CONTENT_LENGTH, "0")].into_response())
}
