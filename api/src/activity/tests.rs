//! Deadlines of a connection, in paused time.

use std::net::{IpAddr, Ipv4Addr};
use std::task::Waker;

use super::*;
use crate::connections::ConnectionLimit;

fn activity() -> (Arc<Activity>, ConnectionLimit) {
    let limit = ConnectionLimit::default();
    let (place, _) = limit.take(IpAddr::V4(Ipv4Addr::LOCALHOST), Instant::now()).unwrap();
    (Activity::new(place, Timeouts::default(), Instant::now()), limit)
}

fn begin(activity: &Arc<Activity>) -> OpenRequest {
    let request = activity.begin(500).unwrap();
    request.start();
    request
}

/// Time from now until the connection is to be closed, and why; none if it stays for an hour.
async fn closed_after(activity: &Activity, told: Option<Instant>) -> Option<(u64, Closed)> {
    let begun = Instant::now();
    let hour = Duration::from_secs(3_600);
    let closed = tokio::time::timeout(hour, activity.overdue(told)).await.ok()?;
    Some((begun.elapsed().as_secs(), closed))
}

fn poll(body: &mut OutgoingBody) -> Poll<usize> {
    let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    polled.map(|frame| frame.map_or(0, |frame| frame.unwrap().into_data().unwrap().len()))
}

/// A body of unknown length that has nothing for now.
struct Quiet;

impl HttpBody for Quiet {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed_and_one_with_a_handler_at_work_stays() {
    let (activity, _limit) = activity();
    assert_eq!(closed_after(&activity, None).await, Some((5, Closed::Silent)));
    let request = begin(&activity);
    assert_eq!(closed_after(&activity, None).await, None);
    drop(request);
    assert_eq!(closed_after(&activity, None).await, Some((60, Closed::Idle)));
    // 60 s without a request, and told now.
    let told = Some(Instant::now());
    assert_eq!(closed_after(&activity, told).await, Some((5, Closed::Idle)));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_the_client_does_not_take_ends_the_connection() {
    let (activity, _limit) = activity();
    let body = begin(&activity).outgoing(Body::from("x"));
    assert_eq!(closed_after(&activity, None).await, Some((20, Closed::Stalled)), "never asked for");
    drop(body);
    let mut body = begin(&activity).outgoing(Body::from("text"));
    assert_eq!(poll(&mut body), Poll::Ready(3));
    assert!(!body.is_end_stream(), "HTTP/2 may hold all of it until it asks for the last byte");
    assert_eq!(closed_after(&activity, None).await, Some((20, Closed::Stalled)));
    assert_eq!(poll(&mut body), Poll::Ready(1));
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_all_the_time_is_closed_in_a_minute() {
    let (activity, _limit) = activity();
    let mut body = begin(&activity).outgoing(Body::from(vec![0; 10 * CHUNK_MAX + 1]));
    let mut waited = 0;
    for _ in 0..6 {
        assert_eq!(poll(&mut body), Poll::Ready(CHUNK_MAX));
        if waited < 57 {
            tokio::time::sleep(Duration::from_secs(19)).await;
            waited += 19;
        }
    }
    assert_eq!(closed_after(&activity, None).await, Some((3, Closed::Stalled)));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_event_stream_stays_and_one_that_is_not_taken_goes() {
    let (activity, _limit) = activity();
    let mut body = begin(&activity).outgoing(Body::new(Quiet));
    assert_eq!(poll(&mut body), Poll::Pending);
    assert_eq!(closed_after(&activity, None).await, None);
    drop(body);
    let body = begin(&activity).outgoing(Body::new(Quiet));
    assert_eq!(closed_after(&activity, None).await, Some((20, Closed::Stalled)));
    drop(body);
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_noticed_in_half_its_time_after_a_quiet_while() {
    let (activity, _limit) = activity();
    let mut quiet = begin(&activity).outgoing(Body::new(Quiet));
    assert_eq!(poll(&mut quiet), Poll::Pending);
    let begun = Instant::now();
    let stall = async {
        tokio::time::sleep(Duration::from_secs(101)).await;
        let body = begin(&activity).outgoing(Body::from("x"));
        std::future::pending::<()>().await;
        drop(body);
    };
    tokio::select! {
        closed = activity.overdue(None) => assert_eq!(closed, Closed::Stalled),
        () = stall => {}
    }
    let stalled = begun.elapsed().as_secs() - 101;
    assert!((20..=30).contains(&stalled), "{stalled}");
}

#[tokio::test(start_paused = true)]
async fn a_ninth_request_waits_and_event_streams_do_not_count() {
    let (activity, _limit) = activity();
    let mut streams = Vec::new();
    for _ in 0..REQUESTS_AT_WORK {
        let mut request = begin(&activity);
        request.wait_for_turn().await;
        streams.push(request.outgoing(Body::new(Quiet)));
    }
    let mut at_work = Vec::new();
    for _ in 0..REQUESTS_AT_WORK {
        let mut request = begin(&activity);
        request.wait_for_turn().await;
        at_work.push(request.outgoing(Body::from("x")));
    }
    let mut one_more = begin(&activity);
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, one_more.wait_for_turn()).await.is_err());
    at_work.pop();
    assert!(tokio::time::timeout(second, one_more.wait_for_turn()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn useless_bytes_end_a_connection_and_requests_do_not() {
    let (activity, _limit) = activity();
    let receive = |bytes| activity.received(bytes, Instant::now());
    assert!(receive(USELESS_BYTES_BURST));
    assert!(!receive(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(receive(2 * USELESS_BYTES_PER_S));
    assert!(!receive(1));
    // A client that keeps its event stream alive for a day.
    for _ in 0..86_400 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(receive(17));
    }
    for _ in 0..10_000 {
        assert!(receive(REQUEST_BYTES));
        drop(begin(&activity));
    }
}

#[tokio::test(start_paused = true)]
async fn the_place_of_a_connection_is_idle_exactly_while_it_has_no_request() {
    let limit = ConnectionLimit::new(1, 1);
    let take = || limit.take(IpAddr::V4(Ipv4Addr::LOCALHOST), Instant::now());
    let activity = Activity::new(take().unwrap().0, Timeouts::default(), Instant::now());
    let (one, two) = (begin(&activity), begin(&activity));
    assert!(take().is_none());
    drop(one);
    assert!(take().is_none());
    drop(two);
    assert!(take().is_some());
    activity.place().evicted().await;
}

/// A body that never comes.
struct Never;

impl HttpBody for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn connection_whose_requests_all_wait_for_their_client_is_told_as_waiting() {
    let (activity, _limit) = activity();
    let uses = || activity.lock().told;
    let start = Instant::now();
    assert_eq!(uses(), Use::Idle(start));
    let request = begin(&activity);
    assert_eq!(uses(), Use::Busy);
    let mut body = request.incoming(Never);
    let mut poll_body = || {
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    };
    poll_body();
    assert_eq!(uses(), Use::Waiting(start));
    tokio::time::sleep(Duration::from_secs(1)).await;
    poll_body();
    assert_eq!(uses(), Use::Waiting(start), "a byte now and then changes nothing");
    let second = begin(&activity).outgoing(Body::from("x"));
    assert_eq!(
        uses(),
        Use::Waiting(start + Duration::from_secs(1)),
        "a response that is not taken"
    );
    let third = begin(&activity);
    assert_eq!(uses(), Use::PartlyWaiting(start));
    let mut events = third.outgoing(Body::new(Quiet));
    assert_eq!(poll(&mut events), Poll::Pending);
    assert_eq!(uses(), Use::PartlyWaiting(start), "an event stream waits for events");
    drop((second, events, request));
    assert_eq!(uses(), Use::Idle(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn headers_of_all_requests_of_a_connection_are_limited() {
    let (activity, _limit) = activity();
    let large = activity.begin(2 * HEADERS_AT_ONCE).unwrap();
    assert!(activity.begin(1).is_err(), "a single one may have more, and no other beside it");
    drop(large);
    let half = activity.begin(HEADERS_AT_ONCE / 2).unwrap();
    let other = activity.begin(HEADERS_AT_ONCE / 2).unwrap();
    let refused = activity.begin(1).unwrap_err();
    drop((half, refused));
    assert!(activity.begin(HEADERS_AT_ONCE / 2).is_ok());
    drop(other);
    assert_eq!(activity.lock().header_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn memory_of_a_request_counts_until_it_is_over_and_one_byte_too_many_is_refused() {
    let limit = ConnectionLimit::new(2, 2).with_memory(2 * REQUEST_MEMORY + 600, usize::MAX);
    let (place, _) = limit.take(IpAddr::V4(Ipv4Addr::LOCALHOST), Instant::now()).unwrap();
    let activity = Activity::new(place, Timeouts::default(), Instant::now());
    let one = begin(&activity);
    assert_eq!(limit.held(), REQUEST_MEMORY + 500);
    let two = activity.begin(100).unwrap();
    two.start();
    assert_eq!(limit.held(), 2 * REQUEST_MEMORY + 600);
    drop(two);
    let (refused, reason) = activity.begin(101).unwrap_err();
    assert_eq!(reason, NoRoom::Memory);
    assert_eq!(limit.held(), REQUEST_MEMORY + 500);
    assert_eq!(limit.requests_refused(), [("headers", 0), ("memory", 1)]);
    drop((one, refused));
    assert_eq!(limit.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_header_block_that_does_not_end_waits_and_ends_the_connection() {
    let limit =
        ConnectionLimit::new(2, 2).with_memory(BLOCK_MEMORY + REQUEST_MEMORY + 500, usize::MAX);
    let take = || limit.take(IpAddr::V4(Ipv4Addr::LOCALHOST), Instant::now()).unwrap().0;
    let activity = Activity::new(take(), Timeouts::default(), Instant::now());
    let uses = || activity.lock().told;
    let set = |open| activity.set_block(open, Instant::now());
    drop(begin(&activity));
    let idle = uses();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(set(true));
    assert_eq!(uses(), Use::Waiting(Instant::now()));
    assert_eq!(limit.held(), BLOCK_MEMORY);
    assert_eq!(closed_after(&activity, None).await, Some((5, Closed::Silent)));
    assert!(set(false));
    assert_eq!((limit.held(), uses()), (0, idle));
    // Beside a handler that works, and in time of its own.
    let request = begin(&activity);
    let since = Instant::now();
    assert!(set(true));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(set(true));
    assert_eq!(uses(), Use::PartlyWaiting(since));
    assert_eq!(closed_after(&activity, None).await, Some((1, Closed::Silent)));
    // A second one has no room, and the longest waiting gives way to it.
    let other = Activity::new(take(), Timeouts::default(), Instant::now());
    assert!(other.set_block(true, Instant::now()));
    activity.place().evicted().await;
    assert_eq!(limit.held(), BLOCK_MEMORY);
    drop(request);
}
