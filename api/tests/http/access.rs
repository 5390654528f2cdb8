//! Which requests each listener serves, route by route (docs/rules/architecture.md, open mode).
//!
//! The routes stand here a second time, by hand: a route that is put into another group fails.

use super::*;

const MEDIA: [&str; 12] = [
    "/whip/{stream}",
    "/whep/{stream}",
    "/whip/{stream}/{secret}",
    "/whep/{stream}/{secret}",
    "/whip/{stream}/{secret}/stats",
    "/whep/{stream}/{secret}/stats",
    "/whep/{stream}/{secret}/layer",
    "/whep/{stream}/{secret}/sse",
    "/whep/{stream}/{secret}/sse/{number}",
    "/whip/{stream}/{secret}/sse",
    "/whip/{stream}/{secret}/sse/{number}",
    "/weir.js",
];
const PAGES: [&str; 4] = ["/", "/publish/{stream}", "/watch/{stream}", "/assets/{file}"];
const ADMIN: [&str; 6] = [
    "/metrics",
    "/api/v1/streams",
    "/api/v1/streams/{stream}",
    "/api/v1/sessions/{id}",
    "/api/v1/stats",
    "/api/v1/openapi.json",
];
const HEALTH: [&str; 2] = ["/livez", "/readyz"];
/// Paths without a handler follow the rule of the group that they look like.
const UNKNOWN_MEDIA: [&str; 7] = [
    "/whip",
    "/whip/",
    "/whep",
    "/whip/a/b/c",
    "/whip/a/b/stats/d",
    "/whep/a/b/c/d/e",
    "/whep/a/b/sse/1/2",
];
const UNKNOWN_PAGES: [&str; 3] = ["/nothing", "/assets/a/b", "/livez/x"];
const UNKNOWN_ADMIN: [&str; 4] = ["/api/", "/api/v2", "/api/v1/nothing", "/api/v1/streams/a/b"];

/// Requests that differ in what `Host` and the headers of a proxy say.
const LOCAL: [&[(&str, &str)]; 3] =
    [&[("host", "localhost")], &[("host", "127.0.0.1:9")], &[("host", "[::1]:9")]];
const FOREIGN: [&[(&str, &str)]; 5] = [
    &[("host", "weir.example.org")],
    &[("host", "10.0.0.7:8080")],
    &[("host", "localhost"), ("forwarded", "for=203.0.113.7")],
    &[("host", "localhost"), ("x-forwarded-for", "203.0.113.7")],
    &[("host", "localhost"), ("x-forwarded-proto", "https")],
];

/// What a route answers: its handler's answer, 404 of the listener, or 403 with a flag in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Served,
    /// The listener has no such route, and other origins cannot read that.
    NotHere,
    Refused(&'static str),
}

/// Asks a listener for each path of a group in both ways and compares.
async fn check(app: &Router, paths: &[&str], local: Expected, foreign: Expected) {
    let probe = send(app, request("GET", "/weir.js", &[], "")).await;
    let serves_media = probe.status != 404;
    let requests = LOCAL.iter().map(|headers| (headers, local));
    for (headers, expected) in requests.chain(FOREIGN.iter().map(|headers| (headers, foreign))) {
        for path in paths {
            let url = path.replace("{file}", "weir.css").replace(['{', '}'], "");
            for method in ["GET", "POST", "DELETE", "PUT"] {
                let answer = send(app, request(method, &url, headers, "")).await;
                let why = format!("{method} {path} {headers:?}");
                match expected {
                    Expected::Refused(flag) => {
                        answer.refused(403, &why);
                        let problem = answer.json();
                        assert!(problem["detail"].as_str().unwrap().contains(flag), "{why}");
                    }
                    Expected::Served => assert_ne!(answer.status, 403, "{why}"),
                    Expected::NotHere => answer.refused(404, &why),
                }
                let cors = answer.headers.contains_key("access-control-allow-origin");
                let media = MEDIA.contains(path) || UNKNOWN_MEDIA.contains(path);
                assert_eq!(cors, media && serves_media, "{why}: CORS");
                for header in ["x-content-type-options", "referrer-policy"] {
                    assert!(answer.headers.contains_key(header), "{why}: {header}");
                }
            }
        }
    }
}

async fn check_all(app: &Router, media: [Expected; 2], admin: [Expected; 2]) {
    for paths in [&MEDIA[..], &PAGES, &UNKNOWN_MEDIA, &UNKNOWN_PAGES] {
        check(app, paths, media[0], media[1]).await;
    }
    for paths in [&ADMIN[..], &UNKNOWN_ADMIN] {
        check(app, paths, admin[0], admin[1]).await;
    }
    check(app, &HEALTH, Expected::Served, Expected::Served).await;
}

use Expected::{NotHere, Refused, Served};

#[test]
fn each_route_is_in_the_group_that_is_expected_here() {
    let expected = [&MEDIA[..], &PAGES, &ADMIN, &HEALTH];
    let groups = RouteGroup::ALL.into_iter().zip(expected);
    for (group, mut paths) in groups.map(|(group, paths)| (group, paths.to_vec())) {
        let mut routed = group.paths();
        routed.sort_unstable();
        paths.sort_unstable();
        assert_eq!(routed, paths, "{group:?}");
    }
}

#[tokio::test]
async fn open_mode_on_loopback_serves_requests_from_this_machine_alone() {
    let loopback = ListenerAccess::of_http("127.0.0.1:8080".parse().unwrap(), false);
    assert_eq!(loopback, LOOPBACK);
    let app = weir::app(state(defaults()), loopback);
    let [media, admin] = ["--insecure-open", "--admin-http"].map(|flag| [Served, Refused(flag)]);
    check_all(&app, media, admin).await;
    let rebound = [("host", "weir.example.org"), ("content-type", SDP)];
    let post = request("POST", "/whip/demo", &rebound, &crlf(PUBLISH));
    send(&app, post).await.refused(403, "rebinding");
}

#[tokio::test]
async fn insecure_open_on_loopback_opens_media_and_leaves_the_admin_api_local() {
    let open = ListenerAccess::of_http("127.0.0.1:8080".parse().unwrap(), true);
    let app = weir::app(state(defaults()), open);
    check_all(&app, [Served, Served], [Served, Refused("--admin-http")]).await;
}

#[tokio::test]
async fn off_loopback_the_admin_api_is_only_at_its_own_listener() {
    let state = state(defaults());
    let public = ListenerAccess::of_http("0.0.0.0:8080".parse().unwrap(), true);
    let app = weir::app(state.clone(), public);
    check_all(&app, [Served, Served], [Refused("--admin-http"), Refused("--admin-http")]).await;

    for (addr, foreign) in [("[::]:9", Served), ("127.0.0.1:9", Refused("--admin-http"))] {
        let access = ListenerAccess::of_admin_http(addr.parse().unwrap());
        let admin = weir::admin_app(state.clone(), access);
        check(&admin, &ADMIN, Served, foreign).await;
        check(&admin, &HEALTH, Served, Served).await;
        let not_here = if foreign == Served { NotHere } else { Refused("--insecure-open") };
        for paths in [&MEDIA[..], &PAGES] {
            check(&admin, paths, NotHere, not_here).await;
        }
    }
}
