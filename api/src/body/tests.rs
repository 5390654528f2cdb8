//! Limits of one body, in bytes and in paused time.

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

/// Body whose parts a test sends.
struct Sent(tokio::sync::mpsc::UnboundedReceiver<usize>);

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        let part = self.0.poll_recv(cx);
        part.map(|part| part.map(|length| Ok(hyper::body::Frame::data(vec![b'a'; length].into()))))
    }
}

/// Reads a body of such parts, each with the milliseconds before it, that does not end if `open`. Returns the
/// status, the milliseconds until it, and how many bodies were counted for `reason`.
async fn timed(parts: &[(u64, usize)], open: bool, reason: &str) -> (u16, u128, u64) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let parts = parts.to_vec();
    let sending = tokio::spawn(async move {
        for (pause, length) in parts {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let _ = sender.send(length);
        }
        if open {
            sender.closed().await;
        }
    });
    let (budget, begun) = (BodyBudget::default(), Instant::now());
    let read = read(&budget, None, &HeaderMap::new(), Body::new(Sent(receiver)), SDP_MAX).await;
    let status = read.map_or_else(|refused| refused.into_response().status().as_u16(), |_| 200);
    let took = begun.elapsed().as_millis();
    sending.abort();
    let count = budget.refused().into_iter().find(|(label, _)| *label == reason).unwrap().1;
    (status, took, count)
}

#[tokio::test(start_paused = true)]
async fn a_body_must_bring_4_kib_in_5_s_and_end_in_10() {
    assert_eq!(timed(&[], true, "slow").await, (408, 5_000, 1));
    // All but the last byte at once, and then nothing.
    assert_eq!(timed(&[(0, SDP_MAX - 1)], true, "slow").await, (408, 5_000, 1));
    let enough = [(4_999, PROGRESS_BYTES), (4_999, PROGRESS_BYTES)];
    assert_eq!(timed(&enough, false, "slow").await, (200, 9_998, 0));
    assert_eq!(timed(&enough, true, "late").await, (408, 10_000, 1));
    let too_little = [(4_999, PROGRESS_BYTES - 1), (1_000, PROGRESS_BYTES)];
    assert_eq!(timed(&too_little, false, "slow").await, (408, 5_000, 1));
    assert_eq!(timed(&[(100, 1); 200], false, "slow").await, (408, 5_000, 1), "in drops");
}

#[tokio::test(start_paused = true)]
async fn offer_of_a_bad_mobile_network_is_read() {
    // 5 kB at 64 kbit/s: 1,200 bytes each 150 ms, after a round trip of 500 ms.
    let offer = [(500, 1_200), (150, 1_200), (150, 1_200), (150, 1_200), (25, 200)];
    assert_eq!(timed(&offer, false, "slow").await, (200, 975, 0));
    // Its first packet lost twice comes 4.5 s late.
    let lost = [(4_500, 1_200), (150, 1_200), (150, 1_200), (150, 1_200), (25, 200)];
    assert_eq!(timed(&lost, false, "slow").await, (200, 5_000 - 25, 0));
}
