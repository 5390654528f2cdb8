//! Who may come in: the rules that stand in for authentication until there is one.
//!
//! On loopback every process of this machine may use the server, and so might any web page that
//! makes its own name point here (DNS rebinding), and any client of a reverse proxy beside it. The
//! two are told apart by the `Host` a browser cannot forge and by the headers a proxy adds.
//! Called by `app.rs` before a handler runs. Next: `error.rs`.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{FORWARDED, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};

use crate::error::Problem;

/// The rule at one listener for one kind of path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Only requests made on this machine for this machine.
    Local,
    /// Everyone: `--insecure-open`.
    Open,
    /// Nobody: this listener does not serve it.
    Closed,
}

impl Door {
    /// The rule for publishing, watching and the pages at a listener bound to `addr`.
    pub fn for_media(addr: SocketAddr, insecure_open: bool) -> Self {
        if addr.ip().is_loopback() && !insecure_open { Self::Local } else { Self::Open }
    }

    /// The rule for `/metrics` and `/api/v1` beside the media paths: what `--insecure-open` opens
    /// is media, never administration, so this is for the machine itself or for nobody.
    pub fn for_admin(addr: SocketAddr) -> Self {
        if addr.ip().is_loopback() { Self::Local } else { Self::Closed }
    }

    /// The rule at the listener of `--admin-http`. Off loopback the configuration has been refused
    /// unless `--insecure-open` was given.
    pub fn for_admin_listener(addr: SocketAddr) -> Self {
        if addr.ip().is_loopback() { Self::Local } else { Self::Open }
    }

    /// Lets a request in, or says how to set the server up for it.
    ///
    /// # Errors
    /// 403 as a [`Problem`].
    pub fn check(self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        match self {
            Self::Open => Ok(()),
            Self::Local if is_local(uri, headers) => Ok(()),
            Self::Local => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "no authentication is set up, so this server answers only requests made directly \
                 to localhost or a loopback address. To serve others, start it with \
                 --insecure-open (anyone who can reach it may then publish and watch)",
            )),
            Self::Closed => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "metrics and the admin API are served here only when --http is a loopback \
                 address; start the server with --admin-http ADDR:PORT to serve them elsewhere",
            )),
        }
    }
}

/// Whether a request names this machine in every place it names a host, and passed no proxy that
/// says so.
fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let proxied =
        headers.keys().any(|name| name == FORWARDED || name.as_str().starts_with("x-forwarded-"));
    let named = uri.authority().map(Authority::as_str).into_iter();
    // A Host that is not text counts as one that is not ours.
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
    fn only_a_host_that_is_this_machine_comes_in() {
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
    fn a_request_must_not_name_two_hosts_or_none() {
        let absolute: Uri = "http://example.org/whip/demo".parse().unwrap();
        assert!(!is_local(&absolute, &headers(&[("host", "localhost")])));
        let two = headers(&[("host", "localhost"), ("host", "example.org")]);
        assert!(!is_local(&"/".parse().unwrap(), &two));
        assert!(!is_local(&"/".parse().unwrap(), &HeaderMap::new()));
        // HTTP/2 has the authority in the URI alone.
        assert!(is_local(&"http://localhost:1/".parse().unwrap(), &HeaderMap::new()));
    }

    #[test]
    fn what_came_through_a_proxy_is_not_local() {
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-anything"] {
            let headers = headers(&[("host", "localhost"), (name, "for=127.0.0.1")]);
            assert!(!is_local(&"/".parse().unwrap(), &headers), "{name}");
        }
    }

    #[test]
    fn insecure_open_opens_media_and_never_the_admin_api() {
        let loopback = "127.0.0.1:8080".parse().unwrap();
        let public = "0.0.0.0:8080".parse().unwrap();
        assert_eq!(Door::for_media(loopback, false), Door::Local);
        assert_eq!(Door::for_media(loopback, true), Door::Open);
        assert_eq!(Door::for_media(public, true), Door::Open);
        assert_eq!(Door::for_admin(loopback), Door::Local);
        assert_eq!(Door::for_admin(public), Door::Closed);
        assert_eq!(Door::for_admin_listener(loopback), Door::Local);
        assert_eq!(Door::for_admin_listener(public), Door::Open);
    }
}
