//! Memory of requests that wait for their client, on real sockets. All clients are on this machine, where only the
//! total counts.

use super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, INITIAL_WINDOW_SIZE, frame, head,
};
use super::*;
use weir::activity::{BLOCK_MEMORY, REQUEST_MEMORY};
use weir::server::STREAMS_MAX;

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

impl Listening {
    /// Waits until requests hold so much memory.
    async fn holds(&self, wanted: impl Fn(usize) -> bool) {
        let begun = Instant::now();
        while !wanted(self.connections.held()) {
            assert!(begun.elapsed() < Duration::from_secs(5), "{}", self.connections.held());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// 385 MB for 1,015 connections of one network without any header, and as much again for each other network.
#[tokio::test]
async fn requests_that_wait_are_bounded_in_memory_and_the_oldest_give_way() {
    const MEMORY: usize = 2 * 1024 * 1024;
    for (method, path) in [("POST", "/whip/demo"), ("GET", "/watch/x")] {
        let limit = ConnectionLimit::default().with_memory(MEMORY, usize::MAX);
        let server = Listening::with(limit, Timeouts::default()).await;
        let flags = if method == "GET" { END_HEADERS | END_STREAM } else { END_HEADERS };
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Http2::connect(server.addr, &[(INITIAL_WINDOW_SIZE, 0)]).await;
            let heads = (0..STREAMS_MAX)
                .flat_map(|stream| frame(HEADERS, flags, 2 * stream + 1, &head(method, path)));
            client.send(&heads.collect::<Vec<_>>()).await;
            clients.push(client);
            assert!(server.connections.held() <= MEMORY);
        }
        let connection = STREAMS_MAX as usize * REQUEST_MEMORY;
        server.holds(|held| (MEMORY - connection..=MEMORY).contains(&held)).await;
        assert!(clients[0].until(|frame| frame.kind == GOAWAY).await.is_some(), "the first");
        assert!(clients[0].until(|_| false).await.is_none());
        let closed = server.connections.closed();
        // A few may be refused instead, while none of the others waits yet.
        assert!(server.closed("evicted_memory") > 10, "{method} {closed:?}");
        assert!(server.raw(GET).await.starts_with("HTTP/1.1 200 "), "one that does not wait");
        drop(clients);
        server.holds(|held| held == 0).await;
    }
}

/// The library had decoded 61 kB for each connection, and waited a minute for the rest.
#[tokio::test]
async fn header_blocks_that_do_not_end_are_bounded_in_memory_and_in_time() {
    let limit = ConnectionLimit::default().with_memory(4 * BLOCK_MEMORY, usize::MAX);
    let header = Duration::from_secs(1);
    let server = Listening::with(limit, Timeouts { header, ..Timeouts::default() }).await;
    let mut clients = Vec::new();
    for asked in [true, false, true, true, true] {
        let mut client = Http2::connect(server.addr, &[]).await;
        if asked {
            client.get(1, "/livez").await;
            assert!(client.is_answered(1).await);
        }
        let begin = frame(HEADERS, END_STREAM, 3, &head("GET", "/livez"));
        // A field that is empty, and then the same one by its number.
        let more = frame(CONTINUATION, 0, 3, &[&b"\x40\x01x\x00"[..], &[0xbe; 400]].concat());
        client.send(&[begin, more].concat()).await;
        clients.push(client);
        let held = clients.len().min(4) * BLOCK_MEMORY;
        server.holds(|now| now == held).await;
    }
    assert!(clients[0].until(|frame| frame.kind == GOAWAY).await.is_some(), "the first");
    assert_eq!(server.closed("evicted_memory"), 1);
    server.holds(|held| held == 0).await;
    assert_eq!(server.closed("silent"), 4);
}

#[tokio::test]
async fn bearer_token_of_8_kib_passes() {
    let server = Listening::new().await;
    let url = format!("http://{}/whep/demo", server.addr);
    for client in [
        reqwest::Client::builder().http2_prior_knowledge().build().unwrap(),
        reqwest::Client::new(),
    ] {
        let post = client.post(&url).header("content-type", SDP).bearer_auth("t".repeat(8 * 1024));
        assert_eq!(post.body(crlf(WATCH)).send().await.unwrap().status(), 201);
    }
}
