//! Cross-origin rules: any web page may publish and watch, and none may read the admin API.
//!
//! The origin policy is a literal `*` without credentials (whip-whep A36). `app.rs` applies it to
//! every response of the media routes, refusals included, and routes `OPTIONS` here.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
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
const REQUEST_HEADERS: &str = "Authorization, Content-Type, If-Match, ETag";
/// Maximum headers that a preflight may ask for besides. They are allowed whatever they are, such as
/// `traceparent` and `x-request-id` of tracing libraries: none has a meaning here, and no cookie or
/// password is taken from another origin. Of a longer list nothing is allowed.
const ASKED_MAX: usize = 32;
/// Maximum characters of that list.
const ASKED_CHARS_MAX: usize = 1_024;
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
pub async fn endpoint_options(headers: HeaderMap) -> Response {
    ([(ACCEPT_POST, HeaderValue::from_static(SDP))], options(&headers, "POST, GET, HEAD, OPTIONS"))
        .into_response()
}

/// `OPTIONS` on a session URL.
pub async fn session_options(headers: HeaderMap) -> Response {
    let accepts = [(ACCEPT_PATCH, HeaderValue::from_static(TRICKLE))];
    (accepts, options(&headers, "GET, HEAD, PATCH, DELETE, OPTIONS")).into_response()
}

/// `OPTIONS` on the statistics of a session.
pub async fn stats_options(headers: HeaderMap) -> Response {
    options(&headers, "GET, HEAD, OPTIONS")
}

/// `OPTIONS` on the layer preference of a viewer.
pub async fn layer_options(headers: HeaderMap) -> Response {
    let accepts = [(ACCEPT_POST, HeaderValue::from_static(JSON))];
    (accepts, options(&headers, "POST, GET, HEAD, DELETE, OPTIONS")).into_response()
}

/// `OPTIONS` on the event streams of a viewer.
pub async fn events_options(headers: HeaderMap) -> Response {
    let accepts = [(ACCEPT_POST, HeaderValue::from_static(JSON))];
    (accepts, options(&headers, "POST, GET, HEAD, OPTIONS")).into_response()
}

/// `OPTIONS` on one event stream.
pub async fn event_stream_options(headers: HeaderMap) -> Response {
    options(&headers, "GET, HEAD, DELETE, OPTIONS")
}

/// Value of `Access-Control-Allow-Headers`: our own list and what the preflight asks for.
fn allowed_headers(request: &HeaderMap) -> HeaderValue {
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|list| list.to_str().ok());
    let asked = asked.filter(|list| list.len() <= ASKED_CHARS_MAX).unwrap_or("");
    let names: Vec<&str> = asked.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    let own = || REQUEST_HEADERS.split(", ");
    // `from_bytes` takes names of RFC 9110 and nothing else.
    let usable = names.len() <= ASKED_MAX
        && names.iter().all(|name| HeaderName::from_bytes(name.as_bytes()).is_ok());
    let mut list = REQUEST_HEADERS.to_owned();
    if usable {
        for name in names {
            if !own().any(|known| known.eq_ignore_ascii_case(name)) {
                list = list + ", " + name;
            }
        }
    }
    HeaderValue::try_from(list).unwrap_or(HeaderValue::from_static(REQUEST_HEADERS))
}

fn options(request: &HeaderMap, allow: &'static str) -> Response {
    let headers = [
        (ALLOW, HeaderValue::from_static(allow)),
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request)),
        (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(asked: &str) -> String {
        let asked = HeaderValue::from_str(asked).unwrap();
        let headers = HeaderMap::from_iter([(ACCESS_CONTROL_REQUEST_HEADERS, asked)]);
        allowed_headers(&headers).to_str().unwrap().to_owned()
    }

    // whip-whep A31
    #[test]
    fn headers_that_a_preflight_asks_for_are_allowed_within_a_limit() {
        assert_eq!(allowed_headers(&HeaderMap::new()), REQUEST_HEADERS);
        let more = |names: &str| format!("{REQUEST_HEADERS}, {names}");
        assert_eq!(
            allowed("content-type,traceparent, x-request-id"),
            more("traceparent, x-request-id")
        );
        assert_eq!(allowed("authorization, ,etag"), REQUEST_HEADERS);
        assert_eq!(allowed("traceparent, bad name"), REQUEST_HEADERS);
        let many =
            |count: usize| (0..count).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(", ");
        assert_eq!(allowed(&many(ASKED_MAX)), more(&many(ASKED_MAX)));
        assert_eq!(allowed(&many(ASKED_MAX + 1)), REQUEST_HEADERS);
        let longest = "x".repeat(ASKED_CHARS_MAX);
        assert_eq!(allowed(&longest), more(&longest));
        assert_eq!(allowed(&format!("{longest}x")), REQUEST_HEADERS);
    }
}
