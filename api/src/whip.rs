//! `/whip/{stream}`: the endpoint of publishers (RFC 9725).
//!
//! Never reads the SDP. Routed by `app.rs`.
//! Next: `offer.rs` for the POST, `session.rs` for the session URL it returns.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::error::Problem;
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

/// `GET` and `HEAD`: success without content (whip-whep A20).
pub async fn look(_: Endpoint) -> StatusCode {
    StatusCode::NO_CONTENT
}
