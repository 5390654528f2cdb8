//! Refused requests: what the operator finds of them, and what the person with a browser is told.

use super::{Answer, Server, WATCH, crlf, defaults};
use weir::SDP;

#[tokio::test]
async fn each_refused_offer_is_counted_by_its_reason() {
    let server = Server::new();
    let sdp = [("content-type", SDP)];
    server.call("POST", "/whip/a%20b", &sdp, "v=0").await.refused(400, "a bad name");
    server.call("POST", "/whip/demo", &sdp, "hello").await.refused(400, "no SDP");
    server.call("POST", "/whip/demo", &[], "v=0").await.refused(415, "no media type");
    server.call("POST", "/demo/whip", &sdp, "v=0").await.refused(404, "another server's form");
    let data_only = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\n";
    server.call("POST", "/whep/demo", &sdp, &crlf(data_only)).await.refused(422, "nothing to send");
    assert_eq!(server.post("/whep/demo", WATCH).await.status, 201);
    // Not an offer.
    server.call("POST", "/whep/demo/secret/layer", &[], "{}").await;

    let stats = server.get("/api/v1/stats").await.json();
    let refused = &stats["offers_refused_total"];
    for (reason, count) in [
        ("malformed", 2),
        ("media_type", 1),
        ("wrong_url", 1),
        ("unacceptable", 1),
        ("conflict", 0),
    ] {
        assert_eq!(refused[reason], count, "{reason} {refused}");
    }
    let metrics = String::from_utf8(server.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("weir_offers_refused_total{reason=\"malformed\"} 2\n"), "{metrics}");
}

/// What a browser sends that opens an address.
const BROWSER: [(&str, &str); 1] = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];

fn html(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.header("content-security-policy").contains("default-src 'self'"));
    let html = String::from_utf8(answer.body.clone()).unwrap();
    assert!(html.contains("href=\"/\">Start page"), "{html}");
    html
}

#[tokio::test]
async fn a_browser_at_a_wrong_address_gets_a_page_and_a_program_problem_details() {
    let server = Server::new();
    for (path, status, told) in [
        ("/watch", 404, "/watch/NAME, such as /watch/demo"),
        ("/publish", 404, "/publish/NAME"),
        ("/demo", 404, "href=\"/watch/demo\""),
        ("/watch/my%20stream", 400, "A-Z a-z 0-9"),
        ("/watch/live/demo", 404, "without a `/`"),
        ("/demo/whip", 404, "POST the offer to /whip/demo"),
        ("/nothing/at/all?x=%3Cscript%3E", 404, "nothing at this path"),
        ("/api/v1/streams/nobody", 404, "no publisher and no viewer"),
    ] {
        let page = server.call("GET", path, &BROWSER, "").await;
        assert_eq!(page.status, status, "{path}");
        let html = html(&page);
        assert!(html.contains(told) && !html.contains("<script"), "{path}: {html}");
        server.call("GET", path, &[("accept", "*/*")], "").await.refused(status, path);
    }
}

#[tokio::test]
async fn a_slash_behind_a_page_leads_to_the_page() {
    let server = Server::new();
    for (path, location) in [
        ("/watch/demo/", "../demo"),
        ("/watch/demo/?start=poster", "../demo?start=poster"),
        ("/publish/demo/", "../demo"),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.header("location")), (308, location), "{path}");
    }
    server.get("/watch/a%20b/").await.refused(400, "no redirect with a bad name");
}

#[tokio::test]
async fn a_browser_at_an_address_for_programs_is_told_so() {
    let server = Server::new();
    for (path, told) in [("/whip/demo", "WHIP address"), ("/whep/demo", "WHEP address")] {
        let page = server.call("GET", path, &BROWSER, "").await;
        assert_eq!(page.status, 200);
        let html = html(&page);
        assert!(html.contains(told) && html.contains("href=\"/publish/demo\""), "{html}");
    }
}

#[tokio::test]
async fn an_offer_to_a_name_with_a_slash_is_told_that_a_name_has_none() {
    let server = Server::new();
    for (path, status) in [("/whip/live/demo", 405), ("/whep/a/b/c", 404)] {
        let answer = server.post(path, WATCH).await;
        answer.refused(status, path);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("a stream name has no `/`"), "{path}: {detail}");
    }
}

#[tokio::test]
async fn the_start_page_links_no_list_where_none_is_served() {
    let off_loopback = "0.0.0.0:8080".parse().unwrap();
    let open = Server::with(weir::config::Config { http: off_loopback, ..defaults() });
    for (server, marked) in [(Server::new(), false), (open, true)] {
        let page = server.get("/").await;
        let html = String::from_utf8(page.body.clone()).unwrap();
        assert_eq!(html.contains("<body data-list=\"none\">"), marked);
        let tag = [("if-none-match", page.header("etag"))];
        assert_eq!(server.call("GET", "/", &tag, "").await.status, 304);
    }
}

#[tokio::test]
async fn an_operator_who_asks_for_an_unknown_session_is_not_told_to_post_an_offer() {
    let server = Server::new();
    for method in ["GET", "DELETE"] {
        for id in ["xx", "00000000000000ff"] {
            let path = format!("/api/v1/sessions/{id}");
            let answer = server.call(method, &path, &[], "").await;
            answer.refused(404, &path);
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("GET /api/v1/streams") && !detail.contains("POST"), "{detail}");
        }
    }
}
