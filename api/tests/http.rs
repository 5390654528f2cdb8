//! The HTTP interface: RFC 9725, the WHEP draft, and what known clients need.
//!
//! Bare item numbers are those of docs/rules/whip-whep.md. No media is sent here.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test root")]

#[path = "http/access.rs"]
mod access;
#[path = "http/connections.rs"]
mod connections;
#[path = "http/frames.rs"]
mod frames;
#[path = "http/layers.rs"]
mod layers;
#[path = "http/origins.rs"]
mod origins;
#[path = "http/refusals.rs"]
mod refusals;
#[path = "http/waiting.rs"]
mod waiting;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt;
use weir::access::{AccessRule, ListenerAccess};
use weir::activity::Timeouts;
use weir::app::RouteGroup;
use weir::config::{Config, Settings};
use weir::connections::ConnectionLimit;
use weir::server::Peer;
use weir::{AppState, JSON, SDP, TRICKLE};
use weir_sfu::net::{SessionTotals, Sfu};

/// OBS: actpass, no candidates, Opus and H264.
const PUBLISH: &str = include_str!("offers/obs.sdp");
/// A viewer that takes Opus, VP8 and H264.
const WATCH: &str = include_str!("offers/viewer.sdp");
/// The credentials of both offers, with one candidate.
const TRICKLED: &str = "a=ice-ufrag:e2gB\r\na=ice-pwd:+ScG6bTC9/1cyDaM2q4YMI\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
    a=candidate:1 1 UDP 2130706431 127.0.0.1 50000 typ host\r\na=end-of-candidates\r\n";
/// Other credentials and nothing else: a restart (B8).
const RESTART: &str = "a=ice-ufrag:Zz9+\r\na=ice-pwd:0123456789abcdefghijkl\r\n";

fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

fn defaults() -> Config {
    Config::new(&Settings::default()).unwrap()
}

fn state(config: Config) -> AppState {
    let localhost = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let media = weir_sfu::config::Config {
        media_addr: localhost,
        workers: 1,
        advertise: vec![localhost],
        ..Default::default()
    };
    AppState::new(Sfu::start(media).unwrap(), config)
}

/// What a listener on loopback serves in open mode.
const LOOPBACK: ListenerAccess =
    ListenerAccess { media: AccessRule::LoopbackOnly, admin: AccessRule::LoopbackOnly };

/// Server under test, without a socket.
struct Server {
    state: AppState,
    app: Router,
}

/// Response, read to its end.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Server {
    fn new() -> Self {
        Self::with(defaults())
    }

    fn with(config: Config) -> Self {
        let state = state(config);
        Self { app: weir::app(state.clone(), LOOPBACK), state }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        send(&self.app, request(method, path, headers, body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, offer: &str) -> Answer {
        self.call("POST", path, &[("content-type", SDP)], &crlf(offer)).await
    }

    async fn patch(&self, path: &str, tag: Option<&str>, fragment: &str) -> Answer {
        let mut headers = vec![("content-type", TRICKLE)];
        headers.extend(tag.map(|tag| ("if-match", tag)));
        self.call("PATCH", path, &headers, fragment).await
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn send(app: &Router, request: Request<Body>) -> Answer {
    Answer::read(app.clone().oneshot(request).await.unwrap()).await
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Asserts a refusal that people and both kinds of players can read (A16).
    fn refused(&self, status: u16, why: &str) {
        assert_eq!(self.status, status, "{why}: {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), "application/problem+json", "{why}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{why}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{why}: {member}");
        }
        assert_eq!(problem["error"].is_string(), status == 400, "{why}: A16");
    }
}

#[tokio::test]
async fn an_offer_is_answered_201_with_all_headers_that_clients_need() {
    let server = Server::new();
    for (path, offer) in [("/whip/demo", PUBLISH), ("/whep/demo", WATCH)] {
        let answer = server.post(path, offer).await;
        let sdp = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(answer.status, 201, "A2 {sdp}");
        assert_eq!(answer.header("content-type"), SDP, "A1");
        assert!(sdp.starts_with("v=0\r\n") && sdp.ends_with("\r\n"), "A3");
        assert_eq!(sdp.matches('\n').count(), sdp.matches("\r\n").count(), "A3");
        let tag = answer.header("etag");
        assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "A4 {tag}");
        let location = answer.header("location");
        let secret = location.strip_prefix(&format!("{path}/")).unwrap();
        assert!(secret.len() >= 22 && !secret.contains('/'), "A5, A26 {location}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "A34");
        assert!(answer.header("access-control-expose-headers").contains("Location, ETag"), "A34");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"), "A36");
    }
}

#[tokio::test]
async fn a_refused_offer_gets_a_reason_and_leaves_no_session() {
    let server = Server::new();
    let (long, longest) = ("v".repeat(65_537), "v".repeat(1_000_000));
    let table: &[(&str, Option<&str>, &str, u16)] = &[
        ("A9 no type", None, PUBLISH, 415),
        ("A9 another type", Some("application/json"), PUBLISH, 415),
        ("A10 empty", Some(SDP), "", 400),
        ("A10 not SDP", Some(SDP), "hello", 400),
        ("A11 too long", Some(SDP), &long, 413),
        ("A11 far too long", Some(SDP), &longest, 413),
    ];
    for (why, media_type, body, status) in table {
        for path in ["/whip/demo", "/whep/demo"] {
            let headers: Vec<_> = media_type.iter().map(|t| ("content-type", *t)).collect();
            let answer = server.call("POST", path, &headers, body).await;
            answer.refused(*status, why);
            assert_eq!(answer.header("access-control-allow-origin"), "*", "A34 {why}");
            if *status == 415 {
                assert_eq!(answer.header("accept-post"), SDP, "A9");
            }
        }
    }
    assert_eq!(
        server.state.sfu.inspection().stats().await.sessions_total,
        SessionTotals::default()
    );
}

#[tokio::test]
async fn media_types_ignore_case_and_parameters() {
    let server = Server::new();
    for media_type in ["application/sdp; charset=utf-8", "Application/SDP"] {
        let headers = [("content-type", media_type)];
        let answer = server.call("POST", "/whip/demo", &headers, &crlf(PUBLISH)).await;
        assert_eq!(answer.status, 201, "A8 {media_type}");
    }
}

#[tokio::test]
async fn a_query_of_the_endpoint_is_not_part_of_the_session_url() {
    let server = Server::new();
    let answer = server.post("/whip/demo?token=a/b&x=?", PUBLISH).await;
    assert_eq!(answer.status, 201);
    let location = answer.header("location").to_owned();
    assert!(location.starts_with("/whip/demo/") && !location.contains("token"), "{location}");
    assert_eq!(server.get(&format!("{location}?x=1")).await.status, 204);
}

#[tokio::test]
async fn with_a_public_url_the_location_is_absolute() {
    let public_url = Some("https://live.example.org/weir".to_owned());
    let server = Server::with(Config { public_url, ..defaults() });
    let answer = server.post("/whep/demo", WATCH).await;
    let location = answer.header("location");
    assert!(location.starts_with("https://live.example.org/weir/whep/demo/"), "A6 {location}");
}

#[tokio::test]
async fn stream_names_are_decoded_once_and_then_checked() {
    let server = Server::new();
    let longest = "n".repeat(128);
    for (name, decoded) in [("d%65mo", "demo"), ("A-z_0.9~", "A-z_0.9~"), (&longest, &longest)] {
        let answer = server.post(&format!("/whip/{name}"), PUBLISH).await;
        assert_eq!(answer.status, 201, "{name}");
        assert!(answer.header("location").starts_with(&format!("/whip/{decoded}/")), "{name}");
    }
    let too_long = "n".repeat(129);
    for name in ["a%2Fb", "a%20b", "%2564emo", "%00", "%FF", "caf%C3%A9", "a:b", &too_long] {
        server.post(&format!("/whip/{name}"), PUBLISH).await.refused(400, name);
        server.get(&format!("/watch/{name}")).await.refused(400, name);
    }
    server.post("/whip/", PUBLISH).await.refused(404, "no name at all");
    server.post("/whip/a/b/c/d", PUBLISH).await.refused(404, "too many segments");
}

#[tokio::test]
async fn get_and_head_tell_that_an_endpoint_exists() {
    let server = Server::new();
    for method in ["GET", "HEAD"] {
        let whip = server.call(method, "/whip/demo", &[], "").await;
        assert_eq!((whip.status, whip.body.len()), (204, 0), "A20 {method}");
        let whep = server.call(method, "/whep/demo", &[], "").await;
        assert_eq!((whep.status, whep.body.len()), (200, 0), "A21 {method}");
        assert_eq!(whep.header("content-type"), SDP, "A21 {method}");
        assert_eq!(whep.header("content-length"), "0", "A21 {method}");
    }
}

#[tokio::test]
async fn a_session_is_live_from_its_201_to_its_delete() {
    let server = Server::new();
    for (path, offer) in [("/whip/demo", PUBLISH), ("/whep/demo", WATCH)] {
        let created = server.post(path, offer).await;
        let session = created.header("location").to_owned();
        let unknown = format!("{path}/{}", "A".repeat(32));

        for method in ["GET", "HEAD"] {
            assert_eq!(server.call(method, &session, &[], "").await.status, 204, "A20");
            assert_eq!(server.call(method, &unknown, &[], "").await.status, 404, "A26");
        }
        let stats = server.get(&format!("{session}/stats")).await;
        assert_eq!(stats.status, 200);
        assert_eq!(stats.json()["stream"], "demo");
        assert_eq!(stats.header("access-control-allow-origin"), "*");

        server.call("DELETE", &unknown, &[], "").await.refused(404, "A26");
        // A24: an If-Match on DELETE is ignored.
        let deleted = server.call("DELETE", &session, &[("if-match", "\"old\"")], "").await;
        assert_eq!(deleted.status, 200, "A23");
        let again = server.call("DELETE", &session, &[], "").await;
        assert_eq!(again.status, 200, "A25: the client may have gone before its DELETE");
        server.patch(&session, None, TRICKLED).await.refused(404, "A26");
        server.get(&session).await.refused(404, "A26");
        server.get(&format!("{session}/stats")).await.refused(404, "A26");
    }
}

#[tokio::test]
async fn a_session_secret_is_valid_for_its_role_and_stream_only() {
    let server = Server::new();
    let session = server.post("/whip/demo", PUBLISH).await.header("location").to_owned();
    let secret = session.rsplit('/').next().unwrap();
    for other in [format!("/whep/demo/{secret}"), format!("/whip/other/{secret}")] {
        server.call("DELETE", &other, &[], "").await.refused(404, &other);
        server.patch(&other, None, TRICKLED).await.refused(404, &other);
    }
    assert_eq!(server.get(&session).await.status, 204);
}

#[tokio::test]
async fn patch_trickles_candidates_and_restarts_ice() {
    let server = Server::new();
    let created = server.post("/whep/demo", WATCH).await;
    let (session, tag) = (created.header("location").to_owned(), created.header("etag").to_owned());

    let unquoted = tag.trim_matches('"').to_owned();
    for (why, if_match) in [
        ("B1", Some(tag.as_str())),
        ("B2 lenient", None),
        ("B5 a star with the same credentials is no restart", Some("*")),
        ("B4 the star as the RFC prints it", Some("\"*\"")),
        ("quotes stripped", Some(unquoted.as_str())),
    ] {
        let answer = server.patch(&session, if_match, TRICKLED).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{why}");
        assert!(!answer.headers.contains_key("etag"), "B1: {why}");
    }
    server.patch(&session, Some("\"stale\""), TRICKLED).await.refused(412, "B3");
    server.patch(&session, Some("W/\"x\""), TRICKLED).await.refused(412, "weak tags never match");

    let restarted = server.patch(&session, Some("*"), RESTART).await;
    assert_eq!(restarted.status, 200, "B6, B8");
    assert_eq!(restarted.header("content-type"), TRICKLE, "B6");
    let new_tag = restarted.header("etag").to_owned();
    assert!(new_tag != tag && new_tag.starts_with('"'), "B6");
    let body = String::from_utf8(restarted.body).unwrap();
    assert!(body.contains("a=ice-ufrag:") && body.contains("a=ice-pwd:"), "B6 {body}");
    assert_eq!(body.matches('\n').count(), body.matches("\r\n").count(), "B7");
    server.patch(&session, Some(&tag), RESTART).await.refused(412, "B9");
    assert_eq!(server.patch(&session, Some(&new_tag), RESTART).await.status, 204, "B9");
}

#[tokio::test]
async fn a_refused_patch_does_not_change_the_session() {
    let server = Server::new();
    let session = server.post("/whep/demo", WATCH).await.header("location").to_owned();
    let as_json = [("content-type", "application/json")];
    let wrong = server.call("PATCH", &session, &as_json, "{}").await;
    wrong.refused(415, "B16");
    assert_eq!(wrong.header("accept-patch"), TRICKLE);
    server.call("PATCH", &session, &[], TRICKLED).await.refused(415, "B16");
    server.patch(&session, None, "this is no fragment").await.refused(400, "B16");
    server.patch(&session, None, &"a".repeat(8_193)).await.refused(413, "limit");
    assert_eq!(server.get(&session).await.status, 204);
}

#[tokio::test]
async fn a_viewer_may_choose_its_start_mode() {
    let server = Server::new();
    for query in ["", "?start=fast-forward", "?start=poster", "?token=x&start=wait", "?other=1"] {
        let answer = server.post(&format!("/whep/demo{query}"), WATCH).await;
        assert_eq!(answer.status, 201, "{query}");
        assert!(answer.header("location").starts_with("/whep/demo/"), "A5 {query}");
    }
    for query in ["?start", "?start=", "?start=now", "?start=Wait"] {
        let answer = server.post(&format!("/whep/demo{query}"), WATCH).await;
        answer.refused(400, query);
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains("fast-forward, poster or wait"), "{detail}");
    }
    assert_eq!(server.post("/whip/demo?start=now", PUBLISH).await.status, 201, "not of WHIP");
}

#[tokio::test]
async fn strict_mode_requires_if_match() {
    let server = Server::with(Config { strict: true, ..defaults() });
    let created = server.post("/whep/demo", WATCH).await;
    let session = created.header("location");
    server.patch(session, None, TRICKLED).await.refused(428, "B2");
    assert_eq!(server.patch(session, Some(created.header("etag")), TRICKLED).await.status, 204);
}

#[tokio::test]
async fn options_names_methods_and_media_types_for_every_origin() {
    let server = Server::new();
    let preflight = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,traceparent,x-request-id"),
    ];
    for headers in [&preflight[..], &[]] {
        for (path, accept, media_type) in [
            ("/whip/demo", "accept-post", SDP),
            ("/whep/demo", "accept-post", SDP),
            ("/whip/demo/any", "accept-patch", TRICKLE),
            ("/whep/demo/any", "accept-patch", TRICKLE),
            ("/whep/demo/any/layer", "accept-post", JSON),
            ("/whep/demo/any/sse", "accept-post", JSON),
        ] {
            let answer = server.call("OPTIONS", path, headers, "").await;
            assert_eq!(answer.status, 204, "A30 {path}");
            assert_eq!(answer.header(accept), media_type, "A30, A35 {path}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "A31, A36 {path}");
            let methods = "POST, GET, HEAD, PATCH, DELETE, OPTIONS";
            assert_eq!(answer.header("access-control-allow-methods"), methods, "A31, A33 {path}");
            let asked = if headers.is_empty() { "" } else { ", traceparent, x-request-id" };
            let allowed = format!("Authorization, Content-Type, If-Match, ETag{asked}");
            assert_eq!(answer.header("access-control-allow-headers"), allowed, "A31 {path}");
            let exposed = answer.header("access-control-expose-headers");
            assert!(exposed.contains("Access-Control-Allow-Methods"), "A33 {path}");
            assert!(!answer.header("access-control-max-age").is_empty(), "A31 {path}");
            assert!(!answer.headers.contains_key("link"), "A32 {path}");
        }
    }
}

#[tokio::test]
async fn openapi_and_routes_agree() {
    let server = Server::new();
    let openapi = server.get("/api/v1/openapi.json").await.json();
    let described = openapi["paths"].as_object().unwrap();

    let mut routed: Vec<_> = RouteGroup::ALL.into_iter().flat_map(RouteGroup::paths).collect();
    routed.sort_unstable();
    let mut paths: Vec<_> = described.keys().map(String::as_str).collect();
    paths.sort_unstable();
    assert_eq!(routed, paths);

    for (path, item) in described {
        let url = path.replace("{file}", "weir.css").replace(['{', '}'], "");
        for method in ["get", "post", "put", "patch", "delete", "options"] {
            let answer = server.call(&method.to_uppercase(), &url, &[], "").await;
            let known = item.get(method).is_some();
            assert_eq!(answer.status != 405, known, "{method} {path}");
            if known {
                let documented = item[method]["responses"].get(answer.status.to_string());
                assert!(documented.is_some(), "{method} {path} answered {}", answer.status);
            } else {
                answer.refused(405, path);
                let allow = answer.header("allow").to_ascii_lowercase();
                let listed = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                assert!(listed.clone().all(|method| allow.contains(method)), "A22 {path} {allow}");
            }
        }
    }
}

#[tokio::test]
async fn the_admin_api_shows_and_ends_sessions_and_never_shows_a_secret() {
    let server = Server::new();
    let session = server.post("/whip/demo", PUBLISH).await.header("location").to_owned();
    let viewer = server.post("/whep/demo", WATCH).await.header("location").to_owned();

    let list = server.get("/api/v1/streams").await;
    assert!(!list.headers.contains_key("access-control-allow-origin"), "no other origin reads it");
    let streams = list.json();
    assert_eq!(streams["streams"][0]["name"], "demo");
    assert_eq!(streams["streams"][0]["viewers"], 1);
    let id = streams["streams"][0]["publisher"]["id"].as_str().unwrap().to_owned();
    let one = server.get("/api/v1/streams/demo").await.json();
    assert_eq!(one["publisher"]["id"], id.as_str());
    server.get("/api/v1/streams/nobody").await.refused(404, "unknown stream");

    let shown = server.get(&format!("/api/v1/sessions/{id}")).await;
    assert_eq!(shown.json()["role"], "publisher");
    for url in [&session, &viewer] {
        let secret = url.rsplit('/').next().unwrap();
        for text in [&list.body, &shown.body] {
            assert!(!String::from_utf8_lossy(text).contains(secret), "A26");
        }
    }
    let stats = server.get("/api/v1/stats").await.json();
    assert_eq!((&stats["publishers"], &stats["subscribers"]), (&1.into(), &1.into()));

    let path = format!("/api/v1/sessions/{id}");
    assert_eq!(server.call("DELETE", &path, &[], "").await.status, 204);
    server.call("DELETE", &path, &[], "").await.refused(404, "kicked already");
    server.get(&session).await.refused(404, "its URL is dead too");
    for bad in ["s1", "x", "s00000000000000zz"] {
        server.get(&format!("/api/v1/sessions/{bad}")).await.refused(404, bad);
    }
}

#[tokio::test]
async fn pages_allow_no_inline_script_and_only_watch_may_be_framed() {
    let server = Server::new();
    for (path, framed_by) in [
        ("/", "frame-ancestors 'none'"),
        ("/publish/demo", "frame-ancestors 'none'"),
        ("/watch/demo", "frame-ancestors *"),
    ] {
        let page = server.get(path).await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'self'") && policy.contains(framed_by), "{policy}");
        assert!(!policy.contains("unsafe-inline"), "{policy}");
        assert_eq!(page.headers.contains_key("x-frame-options"), path != "/watch/demo");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        let html = String::from_utf8(page.body).unwrap();
        for tag in html.split("<script").skip(1) {
            assert!(tag.split('>').next().unwrap().contains("src="), "{path}: inline script");
        }
        assert!(!html.contains("<style") && !html.contains(" style="), "{path}: inline style");
    }
    let library = server.get("/weir.js").await;
    assert_eq!(library.header("access-control-allow-origin"), "*");
    assert_eq!(library.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(
        server.get("/assets/weir.css").await.header("content-type"),
        "text/css; charset=utf-8"
    );
    server.get("/assets/nothing.js").await.refused(404, "unknown file");
    server.get("/assets/..%2Findex.html").await.refused(404, "no way up");
}

#[tokio::test]
async fn draining_refuses_new_sessions_and_keeps_live_ones() {
    let server = Server::new();
    let session = server.post("/whip/demo", PUBLISH).await.header("location").to_owned();
    assert_eq!(server.get("/readyz").await.status, 200);
    server.state.sfu.operations().drain();
    for answer in [server.post("/whep/demo", WATCH).await, server.get("/readyz").await] {
        answer.refused(503, "A53");
        assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1, "A53");
    }
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get(&session).await.status, 204);
}

#[tokio::test]
async fn a_network_above_its_post_rate_gets_429_with_retry_after() {
    let server = Server::with(Config { post_rate: 1, ..defaults() });
    let post = || async {
        let mut request = request("POST", "/whep/demo", &[("content-type", SDP)], "x");
        request.extensions_mut().insert(Peer("192.0.2.7:1".parse().unwrap()));
        send(&server.app, request).await
    };
    for _ in 0..4 {
        post().await.refused(400, "inside the burst");
    }
    let answer = post().await;
    answer.refused(429, "past it");
    assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
}

#[tokio::test]
async fn limits_hold_for_the_client_that_a_trusted_proxy_names() {
    let trusted = weir::trusted_proxies::TrustedProxies::parse(&["127.0.0.1".into()]).unwrap();
    let config = Config { post_rate: 1, trusted_proxy: trusted, ..defaults() };
    let state = state(config);
    let everyone = ListenerAccess { media: AccessRule::Everyone, admin: AccessRule::LoopbackOnly };
    let app = weir::app(state.clone(), everyone);
    let post = async |peer: &str, forwarded: &str| {
        let headers = [("content-type", SDP), ("x-forwarded-for", forwarded)];
        let mut request = request("POST", "/whep/demo", &headers, &crlf(WATCH));
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        send(&app, request).await.status
    };
    // One client that invents another address in each request, and one of its /64.
    for n in 0..4 {
        assert_eq!(post("127.0.0.1:1", &format!("192.0.2.{n}, 203.0.113.5")).await, 201);
        assert_eq!(post("127.0.0.1:1", &format!("2001:db8::{n}")).await, 201);
    }
    assert_eq!(post("127.0.0.1:1", "192.0.2.9, 203.0.113.5").await, 429);
    assert_eq!(post("127.0.0.1:1", "2001:db8::9").await, 429);
    assert_eq!(post("127.0.0.1:1", "203.0.113.6").await, 201, "another client of the proxy");
    // The header of a peer that is no trusted proxy is not read.
    for n in 0..4 {
        assert_eq!(post("198.51.100.1:1", &format!("192.0.2.{n}")).await, 201);
    }
    assert_eq!(post("198.51.100.1:1", "192.0.2.9").await, 429);
    // A header that cannot be read does not free a client of limits.
    for _ in 0..4 {
        assert_eq!(post("127.0.0.1:1", "me").await, 201);
    }
    assert_eq!(post("127.0.0.1:1", "me").await, 429);
    let malformed = state.forwarding_faults.counts()[1];
    assert_eq!(malformed, ("malformed", 5));
}

#[tokio::test]
async fn a_client_that_leaves_before_its_201_leaves_no_session() {
    // A13
    let server = Server::new();
    let offer = request("POST", "/whip/demo", &[("content-type", SDP)], &crlf(PUBLISH));
    let mut answering = Box::pin(server.app.clone().oneshot(offer));
    let polled = answering.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    drop(answering);
    let deadline = Instant::now() + Duration::from_secs(50);
    loop {
        let stats = server.state.sfu.inspection().stats().await;
        if stats.sessions_total.publishers == 1 && stats.publishers == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_slash_at_the_end_of_a_url_changes_nothing() {
    // A37
    let server = Server::new();
    for (endpoint, offer) in [("/whip/demo/", PUBLISH), ("/whep/demo/", WATCH)] {
        let session = server.post(endpoint, offer).await;
        assert_eq!(session.status, 201, "{endpoint}");
        let location = session.header("location").to_owned();
        assert!(location.starts_with(endpoint) && !location.ends_with('/'), "{location}");
        assert_eq!(server.get(&format!("{location}/")).await.status, 204, "{location}");
        assert_eq!(server.get(&format!("{location}/stats/")).await.status, 200, "{location}");
        let gone = server.call("DELETE", &format!("{location}/"), &[], "").await;
        assert_eq!(gone.status, 200, "{location}");
        assert_eq!(server.call("OPTIONS", endpoint, &[], "").await.status, 204, "{endpoint}");
    }
}

#[tokio::test]
async fn the_url_of_another_servers_form_is_told_the_right_one() {
    // A37
    let server = Server::new();
    for (path, right) in [
        ("/demo/whip", "/whip/demo"),
        ("/demo/whep", "/whep/demo"),
        ("/rtc/v1/whip/?app=live&stream=demo", "/whip/demo"),
        ("/whip/", "/whip/NAME"),
        ("/whip", "/whip/NAME"),
    ] {
        let answer = server.post(path, PUBLISH).await;
        answer.refused(404, path);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("POST the offer to {right}")), "{path}: {detail}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "A34 {path}");
        let preflight = server.call("OPTIONS", path, &[], "").await;
        assert_eq!(preflight.status, 204, "a script may read the 404: {path}");
    }
    let nothing = server.get("/nothing").await;
    nothing.refused(404, "no other form");
    assert!(!nothing.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn twenty_created_and_deleted_sessions_leave_nothing_behind() {
    // A27
    let server = Server::new();
    for _ in 0..20 {
        let session = server.post("/whip/demo", PUBLISH).await.header("location").to_owned();
        assert_eq!(server.call("DELETE", &session, &[], "").await.status, 200);
    }
    let stats = server.state.sfu.inspection().stats().await;
    assert_eq!((stats.publishers, stats.streams), (0, 0));
}

/// Server on a real socket; it stops when dropped.
struct Listening {
    addr: SocketAddr,
    connections: ConnectionLimit,
    _stop: watch::Sender<bool>,
}

impl Listening {
    async fn new() -> Self {
        Self::with(ConnectionLimit::default(), Timeouts::default()).await
    }

    async fn with(connections: ConnectionLimit, timeouts: Timeouts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let app = weir::app(state(defaults()), LOOPBACK);
        let serving = weir::server::serve(listener, app, connections.clone(), timeouts, stopped);
        tokio::spawn(serving);
        Self { addr, connections, _stop: stop }
    }

    /// Sends bytes and reads until the server closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
        read.await.expect("the server closes").unwrap();
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn on_the_wire_no_answer_is_chunked_and_location_has_one_space() {
    let server = Listening::new().await;
    let offer = crlf(PUBLISH);
    let post = |extra: &str| {
        format!(
            "POST /whip/demo HTTP/1.1\r\nHost: {}\r\nContent-Type: application/sdp\r\n\
             Connection: close\r\nIcy-MetaData: 1\r\nAccept: */*\r\nContent-Length: {}\r\n{extra}\r\n{offer}",
            server.addr,
            offer.len()
        )
    };
    for extra in ["", "Expect: 100-continue\r\n"] {
        let answer = server.raw(post(extra).as_bytes()).await;
        let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "A15 {answer}");
        assert!(answer.contains("\r\nLocation: /whip/demo/"), "A7 {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
        let path = head.split("\r\nLocation: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let delete =
            format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let deleted = server.raw(delete.as_bytes()).await;
        assert!(deleted.starts_with("HTTP/1.1 200 OK\r\n"), "A23 {deleted}");
        assert!(deleted.contains("\r\nContent-Length: 0\r\n"), "{deleted}");
    }
}

#[tokio::test]
async fn http_2_and_keep_alive_work() {
    // A15
    let server = Listening::new().await;
    let url = format!("http://{}/whep/demo", server.addr);
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for client in [http2, reqwest::Client::new()] {
        for _ in 0..3 {
            let post = client.post(&url).header("content-type", SDP).body(crlf(WATCH));
            assert_eq!(post.send().await.unwrap().status(), StatusCode::CREATED);
        }
    }
}

#[tokio::test]
async fn hostile_requests_get_a_status_of_their_own() {
    let server = Listening::new().await;
    let starts = |answer: String, with: &str| assert!(answer.starts_with(with), "{with}: {answer}");
    let post = "POST /whip/demo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n";

    let header = "a".repeat(17 * 1024);
    let big_head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {header}\r\n\r\n");
    starts(server.raw(big_head.as_bytes()).await, "HTTP/1.1 431");

    let huge = format!("{post}Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n");
    starts(server.raw(huge.as_bytes()).await, "HTTP/1.1 413");
    let body = "v".repeat(200_000);
    let long = format!("{post}Content-Length: 200000\r\nConnection: close\r\n\r\n{body}");
    starts(server.raw(long.as_bytes()).await, "HTTP/1.1 413");

    let smuggled = format!("{post}Content-Length: 4\r\nContent-Length: 5\r\n\r\nv=0\r\n");
    starts(server.raw(smuggled.as_bytes()).await, "HTTP/1.1 400");
    starts(server.raw(b"\x16\x03\x01 this is TLS\r\n\r\n").await, "HTTP/1.1 400");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_with_408() {
    // quality B4 item 19: neither silence, nor half a header, nor half of HTTP/2's first line.
    let server = Listening::new().await;
    let begun = Instant::now();
    let (silent, half, preface) = tokio::join!(
        server.raw(b""),
        server.raw(b"GET / HTTP/1.1\r\nHost: loc"),
        server.raw(b"PRI * HT")
    );
    for answer in [silent, half, preface] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
}
