//! Two extensions of WHEP: a viewer chooses its layer (whip-whep E9) and listens to events
//! (whip-whep E8). Without media, so there are no layers yet; those are played in the simulator and
//! in browsers.

use super::*;

async fn viewer(server: &Server) -> String {
    server.post("/whep/demo", WATCH).await.header("location").to_owned()
}

impl Server {
    async fn json(&self, path: &str, body: &str) -> Answer {
        self.call("POST", path, &[("content-type", JSON)], body).await
    }

    /// Opens an event stream: its head has arrived, and its body continues.
    async fn listen(&self, path: &str) -> Listener {
        let response = self.app.clone().oneshot(request("GET", path, &[], "")).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        Listener(response)
    }
}

struct Listener(Response);

impl Listener {
    /// Next message; none when the stream has ended.
    async fn next(&mut self) -> Option<String> {
        let frame = self.0.body_mut().frame();
        let frame = tokio::time::timeout(Duration::from_secs(20), frame).await.expect("in time")?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    }
}

#[tokio::test]
async fn the_201_of_a_viewer_names_both_extensions() {
    for public_url in [None, Some("https://live.example.org/weir".to_owned())] {
        let base = public_url.clone().unwrap_or_default();
        let server = Server::with(Config { public_url, ..defaults() });
        let answer = server.post("/whep/demo", WATCH).await;
        let session = answer.header("location").to_owned();
        assert!(session.starts_with(&format!("{base}/whep/demo/")));
        let links: Vec<_> =
            answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
        let urn = "urn:ietf:params:whep:ext:core";
        let wanted = [
            format!(
                "<{session}/sse>; rel=\"{urn}:server-sent-events\"; \
                 events=\"active,inactive,layers,viewercount,status,unserved,reconnect\""
            ),
            format!("<{session}/layer>; rel=\"{urn}:layer\""),
        ];
        assert_eq!(links, wanted, "E8, E9");
        let publisher = server.post("/whip/demo", PUBLISH).await;
        let links: Vec<_> = publisher.headers.get_all("link").iter().collect();
        let sse = format!(
            "<{}/sse>; rel=\"urn:ietf:params:whep:ext:core:server-sent-events\"; \
             events=\"active,inactive,viewercount,status,reconnect\"",
            publisher.header("location")
        );
        assert_eq!(links, [&sse], "no layers to choose from");
    }
}

#[tokio::test]
async fn a_preference_is_taken_before_anyone_publishes() {
    let server = Server::new();
    let layer = format!("{}/layer", viewer(&server).await);
    for body in [
        r#"{"mediaId":"1","rid":"h"}"#,
        r#"{"mediaId":1,"rid":"h"}"#,
        r#"{"mediaId":"1"}"#,
        r#"{"maxHeight":360,"maxWidth":640,"maxSpatialLayerId":1,"maxTemporalLayerId":1}"#,
        r#"{"mediaId":"1","encodingId":"h","simulcastIdx":2}"#,
        "{}",
    ] {
        let answer = server.json(&layer, body).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "E9 {body}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    assert_eq!(server.call("DELETE", &layer, &[], "").await.status, 200, "E9");
    let shown = server.get(&layer).await;
    assert_eq!((shown.status, shown.json()), (200, serde_json::json!({})));
}

#[tokio::test]
async fn a_refused_preference_names_what_is_wrong() {
    let server = Server::new();
    let session = viewer(&server).await;
    let layer = format!("{session}/layer");
    let says = |answer: Answer, status, word: &str| {
        answer.refused(status, word);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{detail}");
    };
    says(server.json(&layer, "").await, 400, "JSON");
    says(server.json(&layer, r#"{"maxHeight":"360"}"#).await, 400, "maxHeight");
    says(server.json(&layer, r#"{"mediaId":"0","rid":"h"}"#).await, 422, "there are 1");
    says(server.json(&layer, r#"{"mediaId":"video"}"#).await, 422, "mediaId video");
    says(server.json(&layer, &format!("{{{}}}", " ".repeat(4 * 1024))).await, 413, "4096");
    let wrong = server.call("POST", &layer, &[("content-type", "text/plain")], "{}").await;
    assert_eq!(wrong.header("accept-post"), JSON);
    says(wrong, 415, "application/json");
    let publisher = server.post("/whip/demo", PUBLISH).await.header("location").to_owned();
    server.json(&format!("{publisher}/layer"), "{}").await.refused(404, "a publisher has none");
    let secret = publisher.rsplit('/').next().unwrap();
    for path in [format!("/whep/demo/{secret}/layer"), format!("/whep/other{session}/layer")] {
        server.json(&path, "{}").await.refused(404, &path);
    }
    server.call("DELETE", &session, &[], "").await;
    server.json(&layer, "{}").await.refused(404, "the session is over");
}

#[tokio::test]
async fn an_event_stream_ends_with_its_session() {
    let server = Server::new();
    let session = viewer(&server).await;
    let mut listener = server.listen(&format!("{session}/sse")).await;
    let first = listener.next().await.unwrap();
    assert_eq!(first, "event: viewercount\ndata: {\"viewercount\":1}\n\n", "E8: no inactive first");
    let other = viewer(&server).await;
    let second = listener.next().await.unwrap();
    assert_eq!(second, "event: viewercount\ndata: {\"viewercount\":2}\n\n");
    server.call("DELETE", &session, &[], "").await;
    assert_eq!(listener.next().await, None, "E8: R ends, its streams end");
    server.get(&format!("{session}/sse")).await.refused(404, "E8");
    assert_eq!(server.get(&other).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_late_gets_the_newest_state_and_nothing_older() {
    let server = Server::new();
    let session = viewer(&server).await;
    let mut listener = server.listen(&format!("{session}/sse")).await;
    for _ in 0..10 {
        viewer(&server).await;
        tokio::time::sleep(Duration::from_millis(2_100)).await;
    }
    let count = |n: usize| format!("event: viewercount\ndata: {{\"viewercount\":{n}}}\n\n");
    assert_eq!(listener.next().await.unwrap(), count(2), "the message that was written before");
    assert_eq!(listener.next().await.unwrap(), count(11));
    assert_eq!(
        listener.next().await.unwrap(),
        ":\n\n",
        "then a comment line that keeps the connection"
    );
}

#[tokio::test]
async fn an_event_stream_with_selected_events_is_created_read_and_deleted() {
    let server = Server::new();
    let session = viewer(&server).await;
    let sse = format!("{session}/sse");
    for bad in [r#"["layers","scte35"]"#, r#"{"events":["layers"]}"#, "layers"] {
        server.json(&sse, bad).await.refused(400, bad);
    }
    server.call("POST", &sse, &[("content-type", "text/plain")], "layers").await.refused(415, "E8");
    server.get(&format!("{sse}/1")).await.refused(404, "E8: nothing was created");

    let made = server.json(&sse, r#"["viewercount","reconnect"]"#).await;
    assert_eq!(made.status, 201, "E8");
    let stream = made.header("location").to_owned();
    assert!(stream.starts_with(&format!("{sse}/")), "{stream}");
    let mut listener = server.listen(&stream).await;
    assert!(listener.next().await.unwrap().starts_with("event: viewercount"));
    assert_eq!(server.call("DELETE", &stream, &[], "").await.status, 200, "E8");
    assert_eq!(listener.next().await, None);
    server.get(&stream).await.refused(404, "E8");
    server.call("DELETE", &stream, &[], "").await.refused(404, "E8");
    let all = server.call("POST", &sse, &[], "").await;
    assert_eq!(all.status, 201, "no list is every event");
}

#[tokio::test]
async fn a_session_has_four_event_streams() {
    let server = Server::new();
    let session = viewer(&server).await;
    let sse = format!("{session}/sse");
    let mut held = Vec::new();
    for _ in 0..weir::listeners::STREAMS_PER_SESSION {
        held.push(server.listen(&sse).await);
        assert_eq!(server.json(&sse, "[]").await.status, 201);
    }
    for answer in [server.get(&sse).await, server.json(&sse, "[]").await] {
        answer.refused(429, "one more");
        assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
    }
    held.pop();
    let deadline = Instant::now() + Duration::from_secs(50);
    while server.app.clone().oneshot(request("GET", &sse, &[], "")).await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline, "a client that left makes room");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.call("DELETE", &session, &[], "").await.status, 200);
    for mut listener in held {
        while listener.next().await.is_some() {}
    }
}

/// Each of these requests interrupts a media thread or starts a task.
// whip-whep B19
#[tokio::test]
async fn a_client_that_asks_all_the_time_gets_429() {
    let server = Server::new();
    for (method, what) in [("GET", "layer"), ("GET", "stats"), ("GET", "sse"), ("POST", "sse")] {
        let (session, neighbour) = (viewer(&server).await, viewer(&server).await);
        // Whether this limit refused it; event streams have others. Of an event stream only the
        // head is read.
        let refuses = async |session: &str| {
            let path = format!("{session}/{what}");
            let asked = request(method, &path, &[], "");
            let response = server.app.clone().oneshot(asked).await.unwrap();
            if response.status() != 429 {
                return false;
            }
            let answer = Answer::read(response).await;
            answer.refused(429, what);
            assert_eq!(answer.header("retry-after"), "1", "{what}");
            answer.json()["detail"].as_str().unwrap().contains("too many requests")
        };
        let mut refused = 0;
        for n in 0..200 {
            let too_often = refuses(&session).await;
            assert!(n >= 20 || !too_often, "{method} {what}: {n} are not too many");
            refused += usize::from(too_often);
        }
        // A new second may begin while this runs, but hardly six.
        assert!(refused > 60, "{method} {what}: {refused} of 200 refused");
        assert!(!refuses(&neighbour).await, "{what}: other sessions are not affected");
        // Its session goes on, and so do its preferences and its end.
        assert_eq!(server.get(&session).await.status, 204);
        assert_eq!(server.json(&format!("{session}/layer"), "{}").await.status, 200);
        assert_eq!(server.patch(&session, None, TRICKLED).await.status, 204);
        assert_eq!(server.call("DELETE", &session, &[], "").await.status, 200);
    }
}
