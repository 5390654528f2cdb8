//! Connections that are idle, that take nothing, or that send what is of no use, on real sockets, with shorter
//! times than those of the server.

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Http2,
    INITIAL_WINDOW_SIZE, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, head,
};
use super::*;
use weir::activity::{CHUNK_MAX, Timeouts, USELESS_BYTES_BURST};
use weir::server::{ERRORS_MAX, HEADERS_MAX, RESETS_MAX, STREAMS_MAX};

const IDLE: Duration = Duration::from_millis(600);
const WRITE: Duration = Duration::from_millis(500);

fn timeouts() -> Timeouts {
    Timeouts {
        idle: IDLE,
        write: WRITE,
        response: Duration::from_secs(3),
        goodbye: Duration::from_millis(200),
        ..Timeouts::default()
    }
}

async fn server() -> Listening {
    Listening::with(ConnectionLimit::default(), timeouts()).await
}

impl Listening {
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.connections.closed().into_iter().find(|(label, _)| *label == reason).unwrap().1
    }

    /// Waits until no connection is open; the time that it took.
    async fn emptied(&self) -> Duration {
        let begun = Instant::now();
        while self.connections.open() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.connections.closed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    /// Path of the event stream of a new viewer.
    async fn events(&self) -> String {
        let url = format!("http://{}/whep/demo", self.addr);
        let post = reqwest::Client::new().post(url).header("content-type", SDP).body(crlf(WATCH));
        let location =
            post.send().await.unwrap().headers()["location"].to_str().unwrap().to_owned();
        format!("{location}/sse")
    }
}

#[tokio::test]
async fn idle_http_2_connection_that_answers_pings_is_told_and_closed() {
    let server = server().await;
    for answers_the_last_ping in [true, false] {
        let mut client = Http2::connect(server.addr, &[]).await;
        client.get(1, "/livez").await;
        assert!(client.is_answered(1).await);
        let begun = Instant::now();
        let mut pings = tokio::time::interval(Duration::from_millis(50));
        let goaway = loop {
            tokio::select! {
                // Pings of its own do not keep it.
                _ = pings.tick() => assert!(client.send(&frame(PING, 0, 0, b"12345678")).await),
                next = client.next() => {
                    let next = next.expect("it is told");
                    if next.kind == GOAWAY {
                        break next;
                    }
                }
            }
        };
        assert_eq!(goaway.code(), 0);
        assert!(begun.elapsed() >= IDLE - Duration::from_millis(50), "{:?}", begun.elapsed());
        if answers_the_last_ping {
            assert!(client.until(|_| false).await.is_none());
        } else {
            while client.next().await.is_some() {}
        }
        server.emptied().await;
    }
    assert_eq!(server.closed("idle"), 2);
}

#[tokio::test]
async fn idle_http_1_connection_is_closed() {
    let timeouts = Timeouts { header: IDLE, ..timeouts() };
    let server = Listening::with(ConnectionLimit::default(), timeouts).await;
    let begun = Instant::now();
    let answer = server.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive\n"), "{answer}");
    assert!(begun.elapsed() >= IDLE);
    server.emptied().await;
    assert_eq!(server.closed("idle"), 1);
}

#[tokio::test]
async fn quiet_event_streams_stay_open() {
    let server = server().await;
    let path = server.events().await;
    let mut one = TcpStream::connect(server.addr).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    one.write_all(get.as_bytes()).await.unwrap();
    let mut two = Http2::connect(server.addr, &[]).await;
    two.get(1, &path).await;
    assert!(two.until(|frame| frame.is(DATA, 1)).await.is_some());
    let quiet = 4 * (IDLE + WRITE);
    let begun = Instant::now();
    let ended = tokio::time::timeout(quiet, two.until(|_| false)).await;
    assert!(ended.is_err(), "HTTP/2 after {:?}", begun.elapsed());
    let mut buffer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_millis(100), one.read_to_end(&mut buffer));
    assert!(ended.await.is_err(), "HTTP/1");
    assert!(!buffer.is_empty());
    assert_eq!((server.closed("stalled"), server.connections.open()), (0, 2));
}

#[tokio::test]
async fn clients_that_take_nothing_of_their_responses_are_closed() {
    let server = server().await;
    let events = server.events().await;
    server.emptied().await;
    let mut held = Vec::new();
    // Without a window for the responses: of many files, and of an event stream.
    for path in ["/assets/readme.txt", "/livez", &events] {
        let mut client = Http2::connect(server.addr, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        for stream in 0..STREAMS_MAX / 2 {
            client.get(2 * stream + 1, path).await;
        }
        held.push(client.stream);
    }
    // A window of one byte: the responses are inside the HTTP/2 library.
    let mut client = Http2::connect(server.addr, &[(INITIAL_WINDOW_SIZE, 1)]).await;
    for stream in 0..STREAMS_MAX / 2 {
        client.get(2 * stream + 1, "/livez").await;
    }
    held.push(client.stream);
    // Windows for everything, and a socket that nobody reads.
    let mut client = Http2::connect(server.addr, &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]).await;
    client.send(&frame(WINDOW_UPDATE, 0, 0, &0x7f00_0000_u32.to_be_bytes())).await;
    for stream in 0..STREAMS_MAX {
        client.get(2 * stream + 1, "/weir.js").await;
    }
    held.push(client.stream);
    // Requests one after the other, without reading an answer.
    let mut one = TcpStream::connect(server.addr).await.unwrap();
    let get = b"GET /assets/readme.txt HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2_000);
    let _ = tokio::time::timeout(Duration::from_secs(2), one.write_all(&get)).await;
    held.push(one);
    let took = server.emptied().await;
    assert!(took < 3 * WRITE, "{took:?}");
    let closed = server.connections.closed();
    assert_eq!(server.closed("stalled"), held.len() as u64, "{closed:?}");
}

#[tokio::test]
async fn slow_client_that_takes_a_part_in_time_gets_everything() {
    let timeouts = Timeouts { write: Duration::from_secs(1), ..timeouts() };
    let server = Listening::with(ConnectionLimit::default(), timeouts).await;
    let mut client = Http2::connect(server.addr, &[(INITIAL_WINDOW_SIZE, 8192)]).await;
    client.get(1, "/weir.js").await;
    let (mut got, mut parts) = (0, 0);
    loop {
        let data = client.until(|frame| frame.is(DATA, 1)).await.expect("it stays open");
        got += data.payload.len();
        if data.flags & END_STREAM != 0 {
            break;
        }
        if !data.payload.is_empty() {
            parts += 1;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        client.send(&frame(WINDOW_UPDATE, 0, 1, &(data.payload.len() as u32).to_be_bytes())).await;
    }
    assert_eq!(got, include_str!("../../pages/weir.js").len());
    assert!(parts >= 4, "longer than the time of one write: {parts}");
    assert!(got > CHUNK_MAX);
}

#[tokio::test]
async fn the_longest_idle_connection_gives_way_when_all_places_are_taken() {
    let long = Timeouts { idle: Duration::from_secs(60), ..timeouts() };
    let server = Listening::with(ConnectionLimit::new(4, 4), long).await;
    let events = server.events().await;
    server.emptied().await;
    let mut busy = Http2::connect(server.addr, &[]).await;
    busy.get(1, &events).await;
    assert!(busy.until(|frame| frame.is(DATA, 1)).await.is_some());
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut client = Http2::connect(server.addr, &[]).await;
        client.get(1, "/livez").await;
        assert!(client.is_answered(1).await);
        idle.push(client);
    }
    // The first is used again, so the second is idle longest.
    idle[0].get(3, "/livez").await;
    assert!(idle[0].is_answered(3).await);
    let answer = server.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.await.starts_with("HTTP/1.1 200 "));
    assert!(idle[1].until(|frame| frame.kind == GOAWAY).await.is_some());
    assert!(idle[1].until(|_| false).await.is_none());
    for place in [0, 2] {
        idle[place].get(5, "/livez").await;
        assert!(idle[place].is_answered(5).await, "{place}");
    }
    assert_eq!((server.closed("evicted"), server.closed("refused")), (1, 0));
    // Nobody gives way when nobody is idle or waited for.
    for client in idle.iter_mut().step_by(2) {
        client.get(7, &events).await;
        assert!(client.until(|frame| frame.is(DATA, 7)).await.is_some());
    }
    let mut last = Http2::connect(server.addr, &[]).await;
    last.get(1, &events).await;
    assert!(last.until(|frame| frame.is(DATA, 1)).await.is_some());
    assert!(server.raw(b"").await.starts_with("HTTP/1.1 503 "));
    assert_eq!((server.closed("evicted"), server.closed("refused")), (1, 1));
}

/// 10 networks with 1,000 connections each kept all others out, by bodies that never came.
#[tokio::test]
async fn connection_that_waits_for_its_client_gives_way_when_all_places_are_taken() {
    let server = Listening::with(ConnectionLimit::new(4, 4), Timeouts::default()).await;
    let mut held = Vec::new();
    for place in 0..4 {
        let window = (INITIAL_WINDOW_SIZE, if place < 2 { 65_535 } else { 0 });
        let mut client = Http2::connect(server.addr, &[window]).await;
        for stream in 0..9 {
            // Bodies that never come, and responses that are never taken, with one more that waits for these.
            let post = frame(HEADERS, END_HEADERS, 2 * stream + 1, &head("POST", "/whip/demo"));
            let get = frame(HEADERS, 5, 2 * stream + 1, &head("GET", "/livez"));
            assert!(client.send(if place < 2 { &post } else { &get }).await);
        }
        held.push(client);
    }
    tokio::time::sleep(weir::connections::WAITING_MIN).await;
    for _ in 0..3 {
        let get =
            server.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = tokio::time::timeout(Duration::from_secs(20), get).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!((server.closed("evicted_waiting"), server.closed("refused")), (1, 0));
}

/// 32 requests of 16 KiB of headers on each of 1,015 connections took 1.8 GB, for 24 MB on the wire.
#[tokio::test]
async fn headers_of_requests_that_wait_are_limited_per_connection() {
    let server = server().await;
    let mut client = Http2::connect(server.addr, &[]).await;
    let mut block = head("POST", "/whip/demo");
    block.extend_from_slice(b"\x00\x01x\x7f\x99\x74");
    block.extend_from_slice(&[b'a'; 15_000]);
    for stream in (0..STREAMS_MAX).map(|n| 2 * n + 1) {
        assert!(client.send(&frame(HEADERS, END_HEADERS, stream, &block)).await);
        if stream > 7 {
            // The first four fit, and wait for their bodies.
            let answer = client.until(|frame| frame.is(DATA, stream)).await.expect("a response");
            assert!(answer.payload.windows(3).any(|part| part == b"431"), "{answer:?}");
        }
    }
    let mut other = Http2::connect(server.addr, &[]).await;
    other.get(1, "/livez").await;
    assert!(other.is_answered(1).await);
}

#[tokio::test]
async fn settings_of_http_2_are_those_that_are_declared() {
    let server = server().await;
    let mut client = Http2::connect(server.addr, &[]).await;
    let settings = client.until(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0).await;
    let settings: Vec<(u16, u32)> = settings
        .unwrap()
        .payload
        .chunks_exact(6)
        .map(|entry| {
            let key = u16::from_be_bytes(entry[..2].try_into().unwrap());
            (key, u32::from_be_bytes(entry[2..].try_into().unwrap()))
        })
        .collect();
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE.
    for wanted in [(3, STREAMS_MAX), (4, 65_535), (5, 16_384), (6, HEADERS_MAX as u32)] {
        assert!(settings.contains(&wanted), "{wanted:?} {settings:?}");
    }
    // One stream more than allowed is refused, the others stay.
    for stream in 0..=STREAMS_MAX {
        let post = frame(HEADERS, END_HEADERS, 2 * stream + 1, &head("POST", "/whip/demo"));
        assert!(client.send(&post).await);
    }
    let reset = client.until(|frame| frame.kind == RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, reset.code()), (2 * STREAMS_MAX + 1, 7), "REFUSED_STREAM");
}

#[tokio::test]
async fn rapid_resets_and_provoked_errors_end_the_connection() {
    let server = server().await;
    let mut client = Http2::connect(server.addr, &[]).await;
    let resets: Vec<u8> = (0..4 * RESETS_MAX as u32)
        .flat_map(|n| {
            let get = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head("GET", "/livez"));
            [get, frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    client.send(&resets).await;
    let goaway = client.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(goaway.code(), 11, "ENHANCE_YOUR_CALM");
    // A window that overflows has the server reset the stream.
    let mut client = Http2::connect(server.addr, &[]).await;
    let errors: Vec<u8> = (0..4 * ERRORS_MAX as u32)
        .flat_map(|n| {
            let get = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head("GET", "/livez"));
            [get, frame(WINDOW_UPDATE, 0, 2 * n + 1, &0x7fff_ffff_u32.to_be_bytes())].concat()
        })
        .collect();
    client.send(&errors).await;
    let goaway = client.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(goaway.code(), 11, "ENHANCE_YOUR_CALM");
}

#[tokio::test]
async fn header_blocks_that_are_too_long_or_never_end_are_refused() {
    let server = server().await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/livez", server.addr);
    let long = http2.get(url).header("x", "a".repeat(HEADERS_MAX)).send().await.unwrap();
    assert_eq!(long.status(), 431);
    for part in [16_000, 1, 0] {
        let mut client = Http2::connect(server.addr, &[]).await;
        let begin = frame(HEADERS, END_STREAM, 1, &head("GET", "/livez"));
        assert!(client.send(&begin).await);
        let more = frame(CONTINUATION, 0, 1, &vec![0; part]).repeat(1 + 10_000 / (part + 9));
        let mut sent = 0;
        while client.send(&more).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
            sent += more.len();
            assert!(sent < 4 * USELESS_BYTES_BURST, "frames of {part} bytes");
        }
    }
}

#[tokio::test]
async fn floods_of_frames_that_belong_to_no_request_end_the_connection() {
    let server = server().await;
    let post = frame(HEADERS, END_HEADERS, 1, &head("POST", "/whip/demo"));
    for (what, flood) in [
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("empty DATA", frame(DATA, 0, 1, &[])),
        ("DATA of one byte", frame(DATA, 0, 1, b"v")),
        ("padding alone", frame(DATA, 8, 1, &[[99].as_slice(), &[0; 99]].concat())),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("of no known kind", frame(0xbe, 0, 0, b"12345678")),
    ] {
        let mut client = Http2::connect(server.addr, &[]).await;
        client.send(&post).await;
        let (mut reader, mut writer) = client.stream.into_split();
        let reading = tokio::spawn(async move {
            let mut answers = Vec::new();
            let _ = reader.read_to_end(&mut answers).await;
        });
        let part = flood.repeat(1 + 8_000 / flood.len());
        let mut sent = 0;
        let send = async {
            while writer.write_all(&part).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                sent += part.len();
                assert!(sent < 8 * USELESS_BYTES_BURST, "{what}");
            }
        };
        tokio::time::timeout(Duration::from_secs(10), send)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
        reading.await.unwrap();
        server.emptied().await;
        println!("{what}: {sent} bytes, {:?}", server.connections.closed());
    }
    // The HTTP/2 library ends floods of small DATA frames by itself.
    assert!(server.closed("flood") >= 4);
}

/// They held 0.9 to 2.2 MB each for good: now nothing after the time for a write.
#[tokio::test]
async fn sixty_clients_that_never_read_hold_their_places_for_a_moment() {
    let server = server().await;
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut client = Http2::connect(server.addr, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        for stream in 0..STREAMS_MAX {
            client.get(2 * stream + 1, "/metrics").await;
        }
        held.push(client);
    }
    let took = server.emptied().await;
    assert!(took < 3 * WRITE, "{took:?}");
    let answered = |frame: &Frame| frame.kind == HEADERS;
    let mut heads = 0;
    while held[0].until(answered).await.is_some() {
        heads += 1;
    }
    assert_eq!(heads, weir::activity::REQUESTS_AT_WORK, "the other requests waited");
}
