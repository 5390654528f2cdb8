//! `/whip/{stream}`: the endpoint of publishers (RFC 9725).
//!
//! Never reads the SDP. Routed by `app.rs`.
//! Next: `offer.rs` for the POST, `session.rs` for the session URL it returns.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use weir_sfu::ids::Role;

use crate::error::Problem;
use crate::message_page;
use crate::offer::{self, Purpose};
use crate::path::Endpoint;
use crate::state::AppState;

/// `POST`: an offer to publish.
///
/// # Errors
/// See [`offer::answer`].
pub async fn publish(
    State(state): State<AppState>,
    endpoint: Endpoint,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    offer::answer(&state, Purpose::Publish, endpoint.stream, parts, body).await
}

/// `GET` and `HEAD`: success without content (whip-whep A20). A person with a
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
        return message_page::of_endpoint(&state, Role::Publisher, &endpoint.stream);
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
