//! Request bodies: their limits in bytes and in time, and their media type.
//!
//! A body above a limit never reaches the media plane. Called by the POST and PATCH handlers.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;

use crate::error::Problem;

/// Maximum SDP body in bytes; a longer one is refused with 413 (quality B2).
pub const SDP_MAX: usize = 64 * 1024;
/// Maximum PATCH body in bytes; a longer one is refused with 413 (quality B2).
pub const PATCH_MAX: usize = 8 * 1024;
/// Time in which a body must arrive; later it is refused with 408 (quality B2).
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes above the limit that are read and discarded, so that a client which writes everything
/// before it reads gets the 413 and not a reset. The connection is closed at more.
const DISCARD_MAX: usize = 1024 * 1024;

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 if the body is longer, 408 if it takes longer than [`READ_TIMEOUT`], 400 if it breaks off.
pub async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let collected = tokio::time::timeout(READ_TIMEOUT, collect(body, limit, announced)).await;
    collected.unwrap_or_else(|_| {
        let detail = format!(
            "the body did not arrive within {} s; send it without pauses",
            READ_TIMEOUT.as_secs()
        );
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
            .with(CONNECTION, HeaderValue::from_static("close")))
    })
}

async fn collect(mut body: Body, limit: usize, announced: Option<usize>) -> Result<Bytes, Problem> {
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(limit));
    let mut seen = 0_usize;
    // A length far above the limit is refused before a byte is read: with `Expect: 100-continue`
    // the client then sends no body at all.
    if announced.is_some_and(|length| length > limit.saturating_add(DISCARD_MAX)) {
        return Err(too_long(limit));
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "the body ended before its announced length; send it again",
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= limit {
            bytes.extend_from_slice(&data);
        } else if seen > limit.saturating_add(DISCARD_MAX) {
            break;
        }
    }
    if seen > limit { Err(too_long(limit)) } else { Ok(bytes.into()) }
}

fn too_long(limit: usize) -> Problem {
    let detail = format!("the body is longer than {limit} bytes, the most that this URL takes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Whether `Content-Type` is `expected`, without regard to case and parameters (whip-whep A8).
pub fn is_type(headers: &HeaderMap, expected: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    async fn status(length: usize, announce: bool) -> u16 {
        let mut headers = HeaderMap::new();
        if announce {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        match read(&headers, Body::from(vec![b'a'; length]), PATCH_MAX).await {
            Ok(bytes) => {
                assert_eq!(bytes.len(), length);
                200
            }
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn a_body_at_the_limit_is_read_and_one_byte_more_is_413() {
        for announce in [true, false] {
            assert_eq!(status(PATCH_MAX, announce).await, 200);
            assert_eq!(status(PATCH_MAX + 1, announce).await, 413); // whip-whep A11
            assert_eq!(status(PATCH_MAX + DISCARD_MAX + 1, announce).await, 413);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_408() {
        struct Silent;
        impl hyper::body::Body for Silent {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>>
            {
                std::task::Poll::Pending
            }
        }
        let refused = read(&HeaderMap::new(), Body::new(Silent), PATCH_MAX).await.unwrap_err();
        assert_eq!(refused.into_response().status(), 408);
    }

    #[test]
    fn media_types_ignore_case_and_parameters() {
        let is_sdp = |value: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            is_type(&headers, crate::SDP)
        };
        assert!(is_sdp("application/sdp"));
        assert!(is_sdp("Application/SDP")); // whip-whep A8
        assert!(is_sdp("application/sdp; charset=utf-8"));
        assert!(!is_sdp("application/sdpx"));
        assert!(!is_sdp("text/plain"));
        assert!(!is_type(&HeaderMap::new(), crate::SDP)); // whip-whep A9
    }
}
