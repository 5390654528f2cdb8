//! Request bodies: their limits in bytes and in time, the memory of all of them, and their media type.
//!
//! A body above a limit never reaches the media plane. Called by the POST and PATCH handlers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
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

/// Maximum bytes of all bodies that are read or worked on: 1,024 of the longest. More of a body is refused
/// with 503.
pub const BODIES_MAX: usize = 64 * 1024 * 1024;
/// The same for those of one client network: an eighth, so that no network can use up what all need.
pub const BODIES_PER_NETWORK: usize = BODIES_MAX / 8;

/// Memory of request bodies. Cheap to clone; clones count the same bytes.
#[derive(Debug, Clone, Default)]
pub struct BodyBudget(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// A body with its part of the budget, which it gives back when dropped.
struct Collected {
    bytes: Vec<u8>,
    held: usize,
    network: Option<IpAddr>,
    budget: BodyBudget,
}

impl BodyBudget {
    fn collect(&self, network: Option<IpAddr>) -> Collected {
        Collected { bytes: Vec::new(), held: 0, network, budget: self.clone() }
    }
}

impl Collected {
    /// Appends bytes; false when they do not fit into the budget.
    fn extend(&mut self, data: &[u8]) -> bool {
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = self.network.map_or(0, |n| held.by_network.get(&n).copied().unwrap_or(0));
        if held.all + data.len() > BODIES_MAX || here + data.len() > BODIES_PER_NETWORK {
            return false;
        }
        held.all += data.len();
        if let Some(network) = self.network {
            held.by_network.insert(network, here + data.len());
        }
        drop(held);
        self.held += data.len();
        self.bytes.extend_from_slice(data);
        true
    }

    fn release(&mut self) {
        let released = std::mem::take(&mut self.held);
        self.bytes = Vec::new();
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= released;
        if let Some(network) = self.network
            && let Some(here) = held.by_network.get_mut(&network)
        {
            *here -= released;
            if *here == 0 {
                held.by_network.remove(&network);
            }
        }
    }
}

impl AsRef<[u8]> for Collected {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.release();
    }
}

/// Reads the body of a request of this client network, of at most `limit` bytes. It counts in the budget until it
/// is dropped.
///
/// # Errors
/// 413 if the body is longer, 408 if it takes longer than [`READ_TIMEOUT`], 400 if it breaks off, 503 if the
/// bodies of others take all memory that there is for them.
pub async fn read(
    budget: &BodyBudget,
    network: Option<IpAddr>,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let length = headers.get(CONTENT_LENGTH);
    let announced = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let collecting = collect(budget.collect(network), body, limit, announced);
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
    while let Some(frame) = body.frame().await {
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
        } else if !collected.extend(&data) {
            let detail = "the server has as many bodies of requests as it may have in memory; try \
                          again later";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1));
        }
    }
    if seen > limit { Err(too_long(limit)) } else { Ok(Bytes::from_owner(collected)) }
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
        let budget = BodyBudget::default();
        let refused =
            read(&budget, None, &HeaderMap::new(), Body::new(Silent), PATCH_MAX).await.unwrap_err();
        assert_eq!(refused.into_response().status(), 408);
    }

    #[tokio::test]
    async fn bodies_of_one_network_have_an_eighth_of_the_memory_and_all_together_the_whole() {
        let budget = BodyBudget::default();
        let take = async |network: &str| {
            let body = Body::from(vec![b'a'; SDP_MAX]);
            let network = network.parse().ok();
            read(&budget, network, &HeaderMap::new(), body, SDP_MAX).await
        };
        let mut held = Vec::new();
        for network in 0..8 {
            let peer = format!("192.0.2.{network}");
            for _ in 0..BODIES_PER_NETWORK / SDP_MAX {
                held.push(take(&peer).await.unwrap());
            }
            let refused = take(&peer).await.unwrap_err().into_response();
            assert_eq!(refused.status(), 503);
            assert!(refused.headers().contains_key("retry-after"));
        }
        assert_eq!(budget.0.lock().unwrap().all, BODIES_MAX);
        assert!(take("198.51.100.1").await.is_err(), "all memory is taken");
        held.pop();
        drop(take("198.51.100.1").await.unwrap());
        // Loopback counts in total only.
        drop(held.split_off(held.len() / 2));
        for _ in 0..BODIES_MAX / SDP_MAX / 2 {
            held.push(take("").await.unwrap());
        }
        drop(held);
        let empty = budget.0.lock().unwrap();
        assert!(empty.all == 0 && empty.by_network.is_empty());
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_gives_its_memory_back() {
        let budget = BodyBudget::default();
        let mut collected = budget.collect(None);
        assert!(collected.extend(&[0; PATCH_MAX]));
        assert_eq!(budget.0.lock().unwrap().all, PATCH_MAX);
        collected.release();
        assert_eq!(budget.0.lock().unwrap().all, 0);
        assert!(collected.as_ref().is_empty());
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
