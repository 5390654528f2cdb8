//! Cross-origin rules: any web page may publish and watch, and none may read the admin API.
//!
//! The origin policy is a literal `*` without credentials (whip-whep A36). `app.rs` applies it to
//! every response of the media routes, refusals included, and routes `OPTIONS` here.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::{JSON, SDP, TRICKLE};

/// `Accept-Post` (whip-whep A9, A30).
pub const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
/// `Accept-Patch` (RFC 5789 section 3.1, whip-whep A35).
pub const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// Response headers that scripts may read (whip-whep A34).
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Location, ETag, Link, Retry-After, Accept-Post, Accept-Patch, WWW-Authenticate, \
     Access-Control-Allow-Methods",
);
/// Methods that scripts may use. Clients trickle only if PATCH is among them (whip-whep A31, A33).
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, HEAD, PATCH, DELETE, OPTIONS");
/// Request headers that scripts may send. One client library sends `ETag` (whip-whep A31).
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, If-Match, ETag");
/// Time for which browsers keep a preflight, in seconds: two hours, the maximum of Chromium.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Lets scripts of every origin read a response.
pub async fn open(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    response
}

/// `OPTIONS` on an endpoint URL, as a preflight or not (whip-whep A30, A31, A33).
pub async fn endpoint_options() -> Response {
    ([(ACCEPT_POST, HeaderValue::from_static(SDP))], options("POST, GET, HEAD, OPTIONS"))
        .into_response()
}

/// `OPTIONS` on a session URL.
pub async fn session_options() -> Response {
    let accepts = [(ACCEPT_PATCH, HeaderValue::from_static(TRICKLE))];
    (accepts, options("GET, HEAD, PATCH, DELETE, OPTIONS")).into_response()
}

/// `OPTIONS` on the statistics of a session.
pub async fn stats_options() -> Response {
    options("GET, HEAD, OPTIONS")
}

/// `OPTIONS` on the layer preference of a viewer.
pub async fn layer_options() -> Response {
    let accepts = [(ACCEPT_POST, HeaderValue::from_static(JSON))];
    (accepts, options("POST, GET, HEAD, DELETE, OPTIONS")).into_response()
}

/// `OPTIONS` on the event streams of a viewer.
pub async fn events_options() -> Response {
    let accepts = [(ACCEPT_POST, HeaderValue::from_static(JSON))];
    (accepts, options("POST, GET, HEAD, OPTIONS")).into_response()
}

/// `OPTIONS` on one event stream.
pub async fn event_stream_options() -> Response {
    options("GET, HEAD, DELETE, OPTIONS")
}

fn options(allow: &'static str) -> Response {
    let headers = [
        (ALLOW, HeaderValue::from_static(allow)),
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
