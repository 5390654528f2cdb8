//! Access rules: which requests a listener serves while there is no authentication.
//!
//! On loopback every process of this machine may use the server. A web page whose own name resolves
//! to loopback (DNS rebinding) and a client of a reverse proxy on this machine reach it too. They
//! are recognised by the `Host` that a browser cannot forge and by the headers that a proxy adds.
//!
//! `app.rs` puts [`enforce`] in front of each route group, and `main.rs` chooses the rules of a
//! listener. Authentication belongs here: it replaces the answer of [`AccessRule::check`].

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{FORWARDED, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Problem;

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
pub async fn enforce(State(rule): State<AccessRule>, request: Request, next: Next) -> Response {
    match rule.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

impl AccessRule {
    /// Decides about one request by its URI and headers.
    ///
    /// # Errors
    /// 403 as a [`Problem`] that names the flag which would allow the request.
    pub fn check(self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        match self {
            Self::Everyone => Ok(()),
            Self::LoopbackOnly if is_local(uri, headers) => Ok(()),
            Self::LoopbackOnly => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "no authentication is set up, so this server answers only requests made directly \
                 to localhost or a loopback address. To serve others, start it with \
                 --insecure-open (anyone who can reach it may then publish and watch)",
            )),
            Self::Nobody => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "metrics and the admin API are served here only when --http is a loopback \
                 address; start the server with --admin-http ADDR:PORT to serve them elsewhere",
            )),
        }
    }
}

/// Whether a request names this machine in every place it names a host, and has no header that a
/// proxy adds.
fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let proxied =
        headers.keys().any(|name| name == FORWARDED || name.as_str().starts_with("x-forwarded-"));
    let named = uri.authority().map(Authority::as_str).into_iter();
    // A Host that is not text counts as another host.
    let named = named.chain(headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("")));
    let mut hosts = named.peekable();
    !proxied && hosts.peek().is_some() && hosts.all(is_loopback_host)
}

/// `localhost` or a loopback address, with or without a port.
fn is_loopback_host(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

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
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-anything"] {
            let headers = headers(&[("host", "localhost"), (name, "for=127.0.0.1")]);
            assert!(!is_local(&"/".parse().unwrap(), &headers), "{name}");
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
