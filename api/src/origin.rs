//! The web page that made a request: its origin, and whether it may do what it asks for.
//!
//! While there is no authentication a browser lets any page publish to a server that its machine can
//! reach: a POST of text needs no permission, and the one for SDP is given to all (`cors.rs`). So requests
//! that change something are taken from pages of this server, of this machine, and of the origins that
//! `--cors-origin` names. Programs send neither header. Pure. Called by `access.rs` and `settings.rs`.

use std::fmt;

use axum::http::header::{HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, Uri};

use crate::authority::Authority;

/// Where a request comes from as seen from its target (Fetch Metadata section 2.4). Scripts cannot set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Maximum origins of one setting; more are refused at the start.
const ORIGINS_MAX: usize = 64;

/// A web origin: scheme, host and port (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    authority: Authority,
    text: String,
}

impl Origin {
    /// Reads `scheme://host` or `scheme://host:port` and nothing behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(fits) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let authority = Authority::parse(authority)?.without_port(default_port(&scheme));
        Some(Self { scheme, authority, text: text.to_owned() })
    }

    /// Origin of an absolute URL, such as `--public-url`.
    pub fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        Self::parse(&format!("{scheme}://{}", rest.get(..end)?))
    }

    /// A page of this machine.
    fn is_loopback(&self) -> bool {
        self.is_web() && self.authority.is_loopback()
    }

    /// Not a file, a browser extension or an app.
    fn is_web(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }

    fn is_same(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.authority == other.authority
    }

    /// Whether the page was served by the host that the request names. The scheme of the request is not
    /// known behind a proxy.
    fn is_of_host(&self, host: &Authority) -> bool {
        self.is_web() && self.authority == host.clone().without_port(default_port(&self.scheme))
    }
}

/// 0 for a scheme without one.
fn default_port(scheme: &str) -> u16 {
    match scheme {
        "http" => 80,
        "https" => 443,
        _ => 0,
    }
}

/// Origins of `--cors-origin`: pages there may do what those of this server may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CorsOrigins {
    /// Pages of this server and of this machine alone.
    #[default]
    Own,
    /// These too.
    Listed(Vec<Origin>),
    /// `*`: every page.
    All,
}

impl CorsOrigins {
    /// Reads the values of the setting.
    ///
    /// # Errors
    /// The value that is no origin, and what to give instead.
    pub fn parse(values: &[String]) -> Result<Self, String> {
        let values: Vec<&str> = values.iter().map(|value| value.trim()).collect();
        if values.contains(&"*") {
            return match values.len() {
                1 => Ok(Self::All),
                _ => Err("has `*` beside origins; give `*` alone, or leave it out".into()),
            };
        }
        if values.is_empty() {
            return Ok(Self::Own);
        }
        if values.len() > ORIGINS_MAX {
            return Err(format!("has {} origins; give at most {ORIGINS_MAX}", values.len()));
        }
        let read = |value: &&str| {
            Origin::parse(value).ok_or_else(|| {
                if !value.is_ascii() {
                    return format!(
                        "`{value}` has letters beyond ASCII; give the host as browsers send it, which begins \
                         with xn--"
                    );
                }
                format!(
                    "`{value}` is no origin; give scheme and host without a path, such as \
                     https://example.org or http://192.0.2.7:3000, or `*` for every page"
                )
            })
        };
        Ok(Self::Listed(values.iter().map(read).collect::<Result<_, _>>()?))
    }

    fn has(&self, origin: &Origin) -> bool {
        match self {
            Self::Own => false,
            Self::Listed(origins) => origins.iter().any(|listed| listed.is_same(origin)),
            Self::All => true,
        }
    }
}

impl fmt::Display for CorsOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => Ok(()),
            Self::Listed(origins) => {
                let texts: Vec<&str> = origins.iter().map(|origin| origin.text.as_str()).collect();
                f.write_str(&texts.join(","))
            }
            Self::All => f.write_str("*"),
        }
    }
}

/// The page of another site that made a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForeignPage {
    /// Its `Origin`, as it was sent: an origin, `null`, or text that is none.
    Origin(String),
    /// No `Origin`, but its `Sec-Fetch-Site`.
    Site(String),
}

impl ForeignPage {
    /// What `--cors-origin` would have to list; none for a page without an origin of its own.
    pub fn listable(&self) -> Option<&str> {
        match self {
            Self::Origin(text) => Origin::parse(text).is_some().then_some(text),
            Self::Site(_) => None,
        }
    }
}

impl fmt::Display for ForeignPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(origin) => write!(f, "Origin: {origin}"),
            Self::Site(site) => write!(f, "Sec-Fetch-Site: {site}"),
        }
    }
}

/// Whose pages a listener takes for its own.
#[derive(Debug, Clone, Copy)]
pub struct OwnPages<'a> {
    /// Origins that the operator named.
    pub listed: &'a CorsOrigins,
    /// Base of this server's URLs, if the operator named it.
    pub public_url: Option<&'a str>,
    /// Whether only requests of this machine are served: then a page that a browser takes for one of this
    /// server is that of a proxy, unless its origin is on loopback.
    pub loopback_only: bool,
}

impl OwnPages<'_> {
    /// The foreign page that made the request; none for an own page, and for a program that is no browser.
    pub fn foreign(&self, uri: &Uri, headers: &HeaderMap) -> Option<ForeignPage> {
        let site = headers.get(SEC_FETCH_SITE).map(|site| site.to_str().unwrap_or("?"));
        let elsewhere = site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(first) = origins.next() else {
            let site = site.filter(|_| elsewhere && *self.listed != CorsOrigins::All);
            return site.map(|site| ForeignPage::Site(site.to_owned()));
        };
        if *self.listed == CorsOrigins::All {
            return None;
        }
        let text = first.to_str().unwrap_or("?");
        let foreign = || Some(ForeignPage::Origin(text.to_owned()));
        // A browser sends one.
        let (Some(origin), None) = (Origin::parse(text), origins.next()) else { return foreign() };
        if origin.is_loopback() || self.listed.has(&origin) {
            return None;
        }
        let public = self.public_url.and_then(Origin::of_url);
        if public.is_some_and(|public| public.is_same(&origin)) {
            return None;
        }
        let host = host(uri, headers);
        // A proxy may give this server another Host than the browser has; the browser knows better.
        let same_origin = site == Some("same-origin") && !self.loopback_only;
        let of_host = host.is_some_and(|host| origin.is_of_host(&host)) && !elsewhere;
        if same_origin || of_host { None } else { foreign() }
    }
}

/// The one host that a request names; none when it names several, or no whole authority.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let named = uri.authority().map(|authority| authority.as_str());
    let hosts = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or(""));
    let mut all = named.into_iter().chain(hosts).map(Authority::parse);
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    /// Whether a request with these headers is one of a foreign page.
    fn is_foreign(own: OwnPages<'_>, pairs: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        own.foreign(&"/whip/demo".parse().unwrap(), &headers).is_some()
    }

    const OWN: OwnPages<'static> =
        OwnPages { listed: &CorsOrigins::Own, public_url: None, loopback_only: false };

    #[test]
    fn an_origin_is_read_whole_or_not_at_all() {
        for text in ["https://a.example", "http://192.0.2.7:3000", "http://[::1]:1", "app://x"] {
            assert!(Origin::parse(text).is_some(), "{text}");
        }
        for text in [
            "null",
            "",
            "*",
            "a.example",
            "://a.example",
            "https://",
            "https://a.example/",
            "https://a.example/path",
            "https://user@a.example",
            "https://a.example https://b.example",
            "http://[::1]evil.com",
            "ht tp://a.example",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
        let same = |a: &str, b: &str| Origin::parse(a).unwrap().is_same(&Origin::parse(b).unwrap());
        assert!(same("https://A.example:443", "HTTPS://a.example"));
        assert!(!same("https://a.example", "http://a.example"));
        assert!(!same("https://a.example", "https://a.example:8443"));
        let of_url = Origin::of_url("https://live.example.org:8443/weir").unwrap();
        assert_eq!(of_url.text, "https://live.example.org:8443");
    }

    #[test]
    fn a_setting_is_a_list_of_origins_or_a_star() {
        let parse = |values: &[&str]| {
            CorsOrigins::parse(&values.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(parse(&["*"]), Ok(CorsOrigins::All));
        let listed = parse(&["https://a.example", "http://b.example:3000"]).unwrap();
        assert_eq!(listed.to_string(), "https://a.example,http://b.example:3000");
        assert_eq!(parse(&[" https://a.example", "http://b.example:3000 "]), Ok(listed));
        assert!(parse(&["https://b\u{fc}cher.example"]).unwrap_err().contains("xn--"));
        for bad in
            [&["*", "https://a.example"][..], &["a.example"], &["https://a.example/x"], &["null"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let many = vec!["https://a.example"; ORIGINS_MAX + 1];
        assert!(parse(&many).is_err() && parse(&many[1..]).is_ok());
    }

    #[test]
    fn programs_and_own_pages_are_not_foreign() {
        for headers in [
            &[][..],
            &[("host", "192.0.2.7:8080")],
            &[("host", "192.0.2.7:8080"), ("origin", "http://192.0.2.7:8080")],
            &[("host", "live.example.org"), ("origin", "https://live.example.org")],
            &[("host", "live.example.org:443"), ("origin", "https://live.example.org")],
            &[("host", "live.example.org"), ("sec-fetch-site", "same-origin")],
            &[("host", "x"), ("sec-fetch-site", "none")],
            &[
                ("host", "localhost:8080"),
                ("origin", "http://localhost:3000"),
                ("sec-fetch-site", "same-site"),
            ],
            &[
                ("host", "localhost:8080"),
                ("origin", "http://127.0.0.1:3000"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[("host", "localhost:8080"), ("origin", "https://[::1]:3000")],
            // A proxy that gives this server its own name.
            &[
                ("host", "127.0.0.1:8080"),
                ("origin", "https://a.example"),
                ("sec-fetch-site", "same-origin"),
            ],
        ] {
            assert!(!is_foreign(OWN, headers), "{headers:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_foreign() {
        for headers in [
            &[("host", "localhost"), ("origin", "https://evil.example")][..],
            &[("host", "localhost"), ("origin", "null")],
            &[("host", "localhost"), ("origin", "")],
            &[("host", "localhost"), ("origin", "http://localhost.evil.example")],
            &[("host", "localhost"), ("origin", "http://[::1]evil.example")],
            &[("host", "localhost"), ("origin", "file://localhost")],
            &[("host", "localhost"), ("origin", "chrome-extension://localhost")],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost"), ("sec-fetch-site", "same-site")],
            &[("host", "localhost"), ("sec-fetch-site", "anything")],
            &[("host", "a.example:8080"), ("origin", "http://a.example:9000")],
            &[("host", "a.example:8080"), ("origin", "http://b.example:8080")],
            &[("host", "a.example"), ("host", "b.example"), ("origin", "http://a.example")],
            &[("origin", "http://a.example")],
            &[
                ("host", "a.example"),
                ("origin", "http://a.example"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[
                ("host", "localhost"),
                ("origin", "http://localhost"),
                ("origin", "http://localhost"),
            ],
        ] {
            assert!(is_foreign(OWN, headers), "{headers:?}");
        }
        // A server for this machine alone, reached through a proxy that hides it.
        let local = OwnPages { loopback_only: true, ..OWN };
        let hidden = [
            ("host", "127.0.0.1:8080"),
            ("origin", "https://a.example"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(is_foreign(local, &hidden));
    }

    #[test]
    fn origins_that_the_operator_names_are_not_foreign() {
        let listed = CorsOrigins::parse(&["https://a.example".to_owned()]).unwrap();
        let own = OwnPages { listed: &listed, ..OWN };
        let from =
            |origin| [("host", "localhost"), ("origin", origin), ("sec-fetch-site", "cross-site")];
        assert!(!is_foreign(own, &from("https://a.example")));
        assert!(is_foreign(own, &from("http://a.example")));
        assert!(is_foreign(own, &from("https://b.a.example")));
        assert!(!is_foreign(OwnPages { listed: &CorsOrigins::All, ..OWN }, &from("null")));
        let public = OwnPages { public_url: Some("https://live.example.org/weir"), ..OWN };
        assert!(!is_foreign(
            public,
            &[("host", "127.0.0.1"), ("origin", "https://live.example.org")]
        ));
        assert!(is_foreign(public, &[("host", "127.0.0.1"), ("origin", "https://example.org")]));
    }
}
