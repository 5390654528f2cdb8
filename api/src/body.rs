//! Request bodies: their limits in bytes and in time, and their media type.
//!
//! A body above a limit never reaches the media plane. Called by the POST and PATCH handlers. Next:
//! `body_budget.rs`, the memory of all of them.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;

use crate::body_budget::{BodyBudget, Collected};
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

/// Reads the body of a request of this client network, of at most `limit` bytes. It counts in the budget until it
/// is dropped.
///
/// # Errors
/// 413 if the body is longer, 408 if it takes longer than [`READ_TIMEOUT`], 400 if it breaks off, 503 if all
/// memory for bodies is taken and this one has to give way.
pub async fn read(
    budget: &BodyBudget,
    network: Option<IpAddr>,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let length = headers.get(CONTENT_LENGTH);
    let announced = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let collecting = collect(budget.begin(network), body, limit, announced);
    let collected = tokio::time::timeout(READ_TIMEOUT, collecting).await;
    collected.unwrap_or_else(|_| {
        let detail = format!(
            "the body did not arrive within {} s; send it without pauses",
            READ_TIMEOUT.as_secs()
        );
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
            .with(CONNECTION, HeaderValue::from_static("close")))
    })
}

async fn collect(
    mut collected: Collected,
    mut body: Body,
    limit: usize,
    announced: Option<usize>,
) -> Result<Bytes, Problem> {
    let mut seen = 0_usize;
    // A length far above the limit is refused before a byte is read: with `Expect: 100-continue`
    // the client then sends no body at all.
    if announced.is_some_and(|length| length > limit.saturating_add(DISCARD_MAX)) {
        return Err(too_long(limit));
    }
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = collected.gives_way() => return Err(no_memory()),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "the body ended before its announced length; send it again",
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > limit {
            collected.release();
            if seen > limit.saturating_add(DISCARD_MAX) {
                break;
            }
        } else {
            collected.extend(&data).map_err(|_| no_memory())?;
        }
    }
    if seen > limit {
        return Err(too_long(limit));
    }
    collected.finish().map_err(|_| no_memory())?;
    Ok(Bytes::from_owner(collected))
}

fn no_memory() -> Problem {
    let detail = "the server has as many bodies of requests as it may have in memory, and this one came \
                  slowly; send it again, without pauses";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .retry_after(1)
        .with(CONNECTION, HeaderValue::from_static("close"))
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

    /// Body of which a part comes, and no more.
    struct Stalls(Option<Bytes>);

    impl hyper::body::Body for Stalls {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            match self.0.take() {
                Some(part) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(part)))),
                None => std::task::Poll::Pending,
            }
        }
    }

    async fn status(length: usize, announce: bool) -> u16 {
        let mut headers = HeaderMap::new();
        if announce {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        let body = Body::from(vec![b'a'; length]);
        match read(&BodyBudget::default(), None, &headers, body, PATCH_MAX).await {
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
        let budget = BodyBudget::default();
        let refused = read(&budget, None, &HeaderMap::new(), Body::new(Stalls(None)), PATCH_MAX)
            .await
            .unwrap_err();
        assert_eq!(refused.into_response().status(), 408);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_body_gives_way_with_503_and_others_are_read() {
        let budget = BodyBudget::default();
        let headers = HeaderMap::new();
        let slow = || Body::new(Stalls(Some(vec![b'a'; SDP_MAX - 1].into())));
        let slow: Vec<_> = (0..1_100)
            .map(|_| {
                let (budget, headers, body) = (budget.clone(), headers.clone(), slow());
                tokio::spawn(async move { read(&budget, None, &headers, body, SDP_MAX).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..50 {
            let body = Body::from(vec![b'a'; 6_000]);
            assert!(read(&budget, None, &headers, body, SDP_MAX).await.is_ok());
        }
        let mut ended = Vec::new();
        for body in slow {
            let refused = body.await.unwrap().unwrap_err().into_response();
            ended.push((refused.status().as_u16(), refused.headers().contains_key("retry-after")));
        }
        let count = |end| ended.iter().filter(|other| **other == end).count();
        assert_eq!(count((503, true)) + count((408, false)), 1_100);
        assert!((76..=130).contains(&count((503, true))), "{}", count((503, true)));
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
