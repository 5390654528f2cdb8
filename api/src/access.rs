//! Access rules: which requests a listener serves while there is no authentication.
//!
//! On loopback every process of this machine may use the server. A web page whose own name resolves
//! to loopback (DNS rebinding) and a client of a reverse proxy on this machine reach it too. They
//! are recognised by the `Host` that a browser cannot forge and by the signs that a proxy leaves
//! (`forwarded.rs`). At every listener the pages of other sites may read what is public and change nothing
//! (`origin.rs`).
//!
//! `app.rs` puts [`enforce`] in front of each route group, and `main.rs` chooses the rules of a
//! listener. `refused_requests.rs` counts what is refused. Authentication belongs here: it replaces the
//! answer of [`AccessRule::check`].

use std::fmt;
use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::authority::Authority;
use crate::error::Problem;
use crate::forwarded::{has_forwarding_header, is_of_plain_proxy};
use crate::origin::{ForeignPage, OwnPages};
use crate::refused_offers::shortened;
use crate::state::AppState;

/// Maximum characters of a client's text in a refusal; the rest is cut.
const TEXT_MAX: usize = 80;

/// The requests that one route group serves at one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRule {
    /// Requests that were made on this machine and name this machine.
    LoopbackOnly,
    /// All requests.
    Everyone,
    /// No requests: this listener does not serve the group.
    Nobody,
}

/// The access rules of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerAccess {
    /// The rule for WHIP, WHEP and the pages.
    pub media: AccessRule,
    /// The rule for `/metrics` and `/api/v1`.
    pub admin: AccessRule,
}

impl ListenerAccess {
    /// The rules of the `--http` listener at `addr`. `--insecure-open` opens media and never
    /// administration: `/metrics` and `/api/v1` are served on loopback or not at all.
    pub fn of_http(addr: SocketAddr, insecure_open: bool) -> Self {
        let loopback = addr.ip().is_loopback();
        Self {
            media: match loopback && !insecure_open {
                true => AccessRule::LoopbackOnly,
                false => AccessRule::Everyone,
            },
            admin: if loopback { AccessRule::LoopbackOnly } else { AccessRule::Nobody },
        }
    }

    /// The rules of the `--admin-http` listener at `addr`. An address off loopback is valid only
    /// with `--insecure-open`, which `config.rs` checks.
    pub fn of_admin_http(addr: SocketAddr) -> Self {
        let admin = match addr.ip().is_loopback() {
            true => AccessRule::LoopbackOnly,
            false => AccessRule::Everyone,
        };
        Self { media: AccessRule::Nobody, admin }
    }
}

/// Middleware of a route group: calls the handler, or answers with the refusal.
pub async fn enforce(
    State((rule, state)): State<(AccessRule, AppState)>,
    request: Request,
    next: Next,
) -> Response {
    let config = state.config();
    let own = OwnPages {
        listed: &config.cors_origin,
        public_url: config.public_url.as_deref(),
        loopback_only: rule == AccessRule::LoopbackOnly,
    };
    let Err(refusal) = rule.check(own, &request) else { return next.run(request).await };
    state.refused_requests.note(&refusal, &request);
    Problem::from(refusal).into_response()
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It was not made on this machine, and only such are served.
    NotLocal {
        /// How that shows.
        why: NotLocal,
        /// Whether it was for the admin API or metrics, which `--insecure-open` does not open.
        is_admin: bool,
    },
    /// A page of another site made it.
    ForeignPage(ForeignPage),
    /// The listener does not serve the group.
    NotHere,
}

/// Why a request counts as one from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLocal {
    /// It has this header, which a proxy adds.
    Proxied(String),
    /// It is HTTP/1.0, as nginx before 1.29.7 sends it when it is told nothing else.
    PlainProxy,
    /// It names this host, or text that is none.
    Host(String),
    /// It names no host.
    NoHost,
}

impl AccessRule {
    /// Decides about one request by its method, URI and headers.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check<B>(
        self,
        own: OwnPages<'_>,
        request: &axum::http::Request<B>,
    ) -> Result<(), Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        match self {
            Self::Everyone => {}
            Self::LoopbackOnly => {
                if let Some(why) = not_local(request.version(), uri, headers) {
                    let is_admin = uri.path().starts_with("/api/") || uri.path() == "/metrics";
                    return Err(Refusal::NotLocal { why, is_admin });
                }
            }
            Self::Nobody => return Err(Refusal::NotHere),
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if reads && !uri.path().starts_with("/api/") {
            return Ok(());
        }
        own.foreign(uri, headers).map_or(Ok(()), |page| Err(Refusal::ForeignPage(page)))
    }
}

/// Why a request is not one of this machine: it names another host in some place, or has a sign of a
/// proxy.
fn not_local(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<NotLocal> {
    if let Some(header) = has_forwarding_header(headers) {
        return Some(NotLocal::Proxied(header.to_owned()));
    }
    if is_of_plain_proxy(version) {
        return Some(NotLocal::PlainProxy);
    }
    let named = uri.authority().map(|authority| authority.as_str()).into_iter();
    // A Host that is not text counts as another host.
    let named = named.chain(headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?")));
    let mut hosts = named.peekable();
    if hosts.peek().is_none() {
        return Some(NotLocal::NoHost);
    }
    let is_other = |host: &&str| !Authority::parse(host).is_some_and(|host| host.is_loopback());
    hosts.find(is_other).map(|host| NotLocal::Host(host.to_owned()))
}

impl fmt::Display for NotLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxied(header) => {
                write!(f, "came through a proxy (header {})", shortened(header, TEXT_MAX))
            }
            Self::PlainProxy => f.write_str("is HTTP/1.0, as a proxy sends it"),
            Self::Host(host) => write!(f, "names the host `{}`", shortened(host, TEXT_MAX)),
            Self::NoHost => f.write_str("names no host"),
        }
    }
}

/// What was wrong, as the text for the client and the log say it.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLocal { why, is_admin: false } => write!(
                f,
                "no authentication is set up, so this server answers only requests made directly to \
                 localhost or a loopback address, and this one {why}. To serve others, start it with \
                 --insecure-open (anyone who can reach it may then publish and watch)"
            ),
            Self::NotLocal { why, is_admin: true } => write!(
                f,
                "the admin API and the metrics answer here only requests made directly to localhost or a \
                 loopback address, and this one {why}. Give them a listener of their own with \
                 --admin-http, at an address that only you reach"
            ),
            Self::ForeignPage(page) => {
                let sent = shortened(&page.to_string(), TEXT_MAX);
                write!(
                    f,
                    "this request was made by a page of another site ({sent}). No authentication is set \
                     up, so only pages of this server and of this machine may publish, watch and use the \
                     API. "
                )?;
                match page.listable() {
                    Some(origin) => {
                        let origin = shortened(origin, TEXT_MAX);
                        write!(f, "To allow that page, start the server with --cors-origin {origin}")
                    }
                    None => f.write_str(
                        "To allow a page, serve it from an origin of its own and start the server with \
                         --cors-origin https://… and that origin",
                    ),
                }
            }
            Self::NotHere => f.write_str(
                "metrics and the admin API are served here only when --http is a loopback \
                 address; start the server with --admin-http ADDR:PORT to serve them elsewhere",
            ),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::FORBIDDEN, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::CorsOrigins;
    use axum::http::HeaderValue;

    fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
        not_local(Version::HTTP_11, uri, headers).is_none()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn only_loopback_hosts_are_local() {
        let path: Uri = "/whip/demo".parse().unwrap();
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_local(&path, &headers(&[("host", host)])), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "localhost@example.org",
            "example.org@localhost",
            "10.0.0.1:8080",
            "[::2]",
            "0.0.0.0",
            "::1:80",
            "[::1]evil.com",
            "[::1]:8080evil.com",
            "localhost:80:80",
            "localhost,evil.com",
        ] {
            assert!(!is_local(&path, &headers(&[("host", host)])), "{host}");
        }
    }

    #[test]
    fn a_request_with_two_hosts_or_none_is_not_local() {
        let absolute: Uri = "http://example.org/whip/demo".parse().unwrap();
        assert!(!is_local(&absolute, &headers(&[("host", "localhost")])));
        let two = headers(&[("host", "localhost"), ("host", "example.org")]);
        assert!(!is_local(&"/".parse().unwrap(), &two));
        assert!(!is_local(&"/".parse().unwrap(), &HeaderMap::new()));
        // HTTP/2 has the authority in the URI alone.
        assert!(is_local(&"http://localhost:1/".parse().unwrap(), &HeaderMap::new()));
    }

    #[test]
    fn a_request_through_a_proxy_is_not_local() {
        for name in ["forwarded", "via", "x-real-ip", "x-forwarded-for", "cf-connecting-ip"] {
            let headers = headers(&[("host", "localhost"), (name, "for=127.0.0.1")]);
            assert!(!is_local(&"/".parse().unwrap(), &headers), "{name}");
        }
        let plain = headers(&[("host", "localhost")]);
        let old = not_local(Version::HTTP_10, &"/".parse().unwrap(), &plain);
        assert_eq!(old, Some(NotLocal::PlainProxy));
    }

    #[test]
    fn refusal_names_the_flag_that_helps() {
        let own = OwnPages { listed: &CorsOrigins::Own, public_url: None, loopback_only: true };
        for (path, flag, other) in [
            ("/whip/demo", "--insecure-open", "--admin-http"),
            ("/metrics", "--admin-http", "--insecure-open"),
            ("/api/v1/stats", "--admin-http", "--insecure-open"),
        ] {
            let request = axum::http::Request::get(path).header("host", "example.org");
            let refusal = AccessRule::LoopbackOnly.check(own, &request.body(()).unwrap());
            let text = refusal.unwrap_err().to_string();
            assert!(text.contains(flag) && !text.contains(other), "{path}: {text}");
        }
    }

    #[test]
    fn insecure_open_opens_media_and_never_the_admin_api() {
        use AccessRule::{Everyone, LoopbackOnly, Nobody};
        let loopback = "127.0.0.1:8080".parse().unwrap();
        let public = "0.0.0.0:8080".parse().unwrap();
        let rules = |access: ListenerAccess| (access.media, access.admin);
        assert_eq!(rules(ListenerAccess::of_http(loopback, false)), (LoopbackOnly, LoopbackOnly));
        assert_eq!(rules(ListenerAccess::of_http(loopback, true)), (Everyone, LoopbackOnly));
        assert_eq!(rules(ListenerAccess::of_http(public, true)), (Everyone, Nobody));
        assert_eq!(rules(ListenerAccess::of_admin_http(loopback)), (Nobody, LoopbackOnly));
        assert_eq!(rules(ListenerAccess::of_admin_http(public)), (Nobody, Everyone));
    }
}
