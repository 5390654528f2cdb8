//! What pages of other sites may do, and what a proxy may not hide, over HTTP.

use super::*;
use weir::origin::CorsOrigins;

type Headers = &'static [(&'static str, &'static str)];

/// Headers of the page that asks, and whether a listener on loopback and one off loopback, both without
/// authentication, let it change something. Hosts are those of the listener.
const PAGES: &[(&str, Headers, bool, bool)] = &[
    ("a program", &[], true, true),
    ("an address that a person typed", &[("sec-fetch-site", "none")], true, true),
    ("a page of this server", &[("origin", "http://HOST")], true, true),
    (
        "the same in a browser that tells",
        &[("origin", "http://HOST"), ("sec-fetch-site", "same-origin")],
        true,
        true,
    ),
    ("its page without Origin", &[("sec-fetch-site", "same-origin")], true, true),
    ("a development server", &[("origin", "http://localhost:3000")], true, true),
    (
        "the same by address",
        &[("origin", "http://127.0.0.1:5173"), ("sec-fetch-site", "cross-site")],
        true,
        true,
    ),
    (
        "this server behind a proxy with another Host",
        &[("origin", "https://live.example.org"), ("sec-fetch-site", "same-origin")],
        false,
        true,
    ),
    ("another site", &[("origin", "https://evil.example")], false, false),
    (
        "the same in a browser that tells",
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
        false,
        false,
    ),
    ("another site, no Origin", &[("sec-fetch-site", "cross-site")], false, false),
    ("a sister site", &[("sec-fetch-site", "same-site")], false, false),
    ("a sandboxed frame or a file", &[("origin", "null")], false, false),
    ("no origin at all", &[("origin", "")], false, false),
    ("another port of this host", &[("origin", "http://192.0.2.7:9")], false, false),
    ("a name that begins like ours", &[("origin", "http://localhost.evil.example")], false, false),
    ("a bracket that begins like ours", &[("origin", "http://[::1]evil.example")], false, false),
    (
        "two origins",
        &[("origin", "http://localhost"), ("origin", "https://evil.example")],
        false,
        false,
    ),
];

/// Requests that change something, and all of the API.
const GUARDED: [(&str, &str); 9] = [
    ("POST", "/whip/demo"),
    ("POST", "/whep/demo"),
    ("PATCH", "/whip/demo/secret"),
    ("DELETE", "/whep/demo/secret"),
    ("POST", "/whep/demo/secret/layer"),
    ("POST", "/whep/demo/secret/sse"),
    ("GET", "/api/v1/streams"),
    ("DELETE", "/api/v1/sessions/00000000000000ff"),
    ("POST", "/nothing"),
];

/// Requests of embeds, modules, players and monitoring.
const OPEN: [(&str, &str); 9] = [
    ("GET", "/"),
    ("GET", "/watch/demo"),
    ("GET", "/publish/demo"),
    ("GET", "/weir.js"),
    ("GET", "/assets/weir.css"),
    ("GET", "/whep/demo"),
    ("OPTIONS", "/whip/demo"),
    ("GET", "/livez"),
    ("GET", "/metrics"),
];

async fn ask(server: &Server, (method, path): (&str, &str), headers: &[(&str, &str)]) -> Answer {
    server.call(method, path, headers, "").await
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing_and_read_no_api() {
    let off_loopback = Config { http: "0.0.0.0:8080".parse().unwrap(), ..defaults() };
    for (config, host, local) in
        [(defaults(), "127.0.0.1:8080", true), (off_loopback, "192.0.2.7:8080", false)]
    {
        let access = ListenerAccess::of_http(config.http, !local);
        let state = state(config);
        let server = Server { app: weir::app(state.clone(), access), state };
        let mut refused = 0;
        for (page, headers, on_loopback, off_loopback) in PAGES {
            let allowed = if local { *on_loopback } else { *off_loopback };
            let own: Vec<_> =
                headers.iter().map(|(name, value)| (*name, value.replace("HOST", host))).collect();
            let mut headers = vec![("host", host), ("content-type", SDP)];
            headers.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
            for request in GUARDED {
                let has_no_api = !local && request.1.starts_with("/api/");
                let answer = ask(&server, request, &headers).await;
                let why = format!("{page}: {request:?} {headers:?}");
                if allowed && !has_no_api {
                    assert_ne!(answer.status, 403, "{why}");
                    continue;
                }
                answer.refused(403, &why);
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                if !has_no_api {
                    assert!(detail.contains("--cors-origin"), "{why}: {detail}");
                    refused += 1;
                }
                let readable = answer.headers.contains_key("access-control-allow-origin");
                assert_eq!(readable, request.1.starts_with("/wh"), "{why}: A34");
            }
            for request in OPEN.iter().filter(|(_, path)| local || *path != "/metrics") {
                let status = ask(&server, *request, &headers).await.status;
                assert_ne!(status, 403, "{page}: {request:?}");
            }
        }
        let counts = server.state.refused_requests.counts();
        assert!(counts.contains(&("foreign_page", refused)), "{counts:?} {refused}");
    }
}

#[tokio::test]
async fn a_refused_page_is_told_the_flag_that_allows_it_and_then_it_may() {
    let server = Server::new();
    let page = [("origin", "https://player.example"), ("content-type", SDP)];
    let answer = server.call("POST", "/whep/demo", &page, &crlf(WATCH)).await;
    answer.refused(403, "a foreign page");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("--cors-origin https://player.example"), "{detail}");
    assert!(detail.contains("Origin: https://player.example"), "{detail}");
    let metrics = String::from_utf8(server.get("/metrics").await.body).unwrap();
    assert!(
        metrics.contains("weir_requests_refused_total{reason=\"foreign_page\"} 1\n"),
        "{metrics}"
    );
    assert_eq!(
        server.get("/api/v1/stats").await.json()["requests_refused_total"]["foreign_page"],
        1
    );

    let listed = CorsOrigins::parse(&["https://player.example".to_owned()]).unwrap();
    server.state.set_config(Config { cors_origin: listed, ..defaults() });
    let answer = server.call("POST", "/whep/demo", &page, &crlf(WATCH)).await;
    assert_eq!(answer.status, 201, "a reload is enough");
    let other = [("origin", "https://other.example"), ("content-type", SDP)];
    server.call("POST", "/whep/demo", &other, &crlf(WATCH)).await.refused(403, "another one");
    server.state.set_config(Config { cors_origin: CorsOrigins::All, ..defaults() });
    let sandboxed = [("origin", "null"), ("content-type", SDP)];
    assert_eq!(server.call("POST", "/whep/demo", &sandboxed, &crlf(WATCH)).await.status, 201);
}

#[tokio::test]
async fn clients_of_a_hidden_proxy_are_not_taken_for_this_machine() {
    let server = Server::new();
    for (header, value) in [
        ("via", "1.1 proxy"),
        ("x-real-ip", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-client-ip", "203.0.113.7"),
        ("true-client-ip", "203.0.113.7"),
        ("cf-connecting-ip", "203.0.113.7"),
        ("cf-ray", "1"),
        ("cdn-loop", "cloudflare"),
        ("host", "[::1]evil.com"),
        ("host", "[::1]:8080evil.com"),
        ("host", "localhost:8080:80"),
        ("host", "rebound.evil.example"),
        ("host", "127.0.0.1.nip.io"),
    ] {
        for request in
            [("GET", "/"), ("GET", "/api/v1/streams"), ("GET", "/metrics"), ("POST", "/whip/demo")]
        {
            let answer = ask(&server, request, &[(header, value)]).await;
            answer.refused(403, &format!("{header}: {value} {request:?}"));
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            let named = if header == "host" { value } else { header };
            let is_admin = request.1.starts_with("/api/") || request.1 == "/metrics";
            let flag = if is_admin { "--admin-http" } else { "--insecure-open" };
            assert!(detail.contains(named) && detail.contains(flag), "{detail}");
        }
    }
    // nginx as it is without `proxy_set_header` and `proxy_http_version`.
    let listening = Listening::new().await;
    for request in ["GET /api/v1/streams", "POST /whip/demo"] {
        let plain =
            format!("{request} HTTP/1.0\r\nHost: 127.0.0.1:8080\r\nConnection: close\r\n\r\n");
        let answer = listening.raw(plain.as_bytes()).await;
        assert!(answer.contains(" 403 ") && answer.contains("HTTP/1.0, as a proxy"), "{answer}");
    }
}

#[tokio::test]
async fn dots_that_a_path_resolves_are_no_stream_names() {
    let server = Server::new();
    for name in [".", "..", "%2e", "%2E%2E", ".%2e", "%2e."] {
        for (method, path) in [
            ("POST", format!("/whip/{name}")),
            ("POST", format!("/whep/{name}")),
            ("GET", format!("/watch/{name}")),
            ("GET", format!("/publish/{name}")),
            ("GET", format!("/api/v1/streams/{name}")),
            ("DELETE", format!("/whip/{name}/secret")),
        ] {
            let answer = server.call(method, &path, &[("content-type", SDP)], &crlf(PUBLISH)).await;
            answer.refused(400, &path);
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("neither `.` nor `..`"), "{path}: {detail}");
        }
    }
    for name in ["...", ".a", "a.."] {
        assert_eq!(server.post(&format!("/whip/{name}"), PUBLISH).await.status, 201, "{name}");
    }
}
