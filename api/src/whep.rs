//! `/whep/{stream}`: where viewers POST (draft-ietf-wish-whep).
//!
//! Next: `offer.rs` for the POST, `session.rs` for the session URL it returns.

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use weir_sfu::ids::Role;

use crate::app::AppState;
use crate::error::Problem;
use crate::path::Endpoint;
use crate::{SDP, offer};

/// `POST`: an offer to watch. A stream that nobody publishes yet is fine: media starts when its
/// publisher does (whip-whep E7).
///
/// # Errors
/// See [`offer::answer`].
pub async fn subscribe(
    State(state): State<AppState>,
    endpoint: Endpoint,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    offer::answer(&state, Role::Subscriber, endpoint.stream, parts, body).await
}

/// `GET` and `HEAD`: how a client discovers that this is a WHEP URL (whip-whep A21).
pub async fn look(_: Endpoint) -> Response {
    [(CONTENT_TYPE, SDP), (CONTENT_LENGTH, "0")].into_response()
}
