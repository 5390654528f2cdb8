//! The authority of a request or an origin: a host, and a port where one is named.
//!
//! Everything must parse: a text of which only the beginning is a host names no host. Pure. Called by
//! `access.rs` and `origin.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name of a host in bytes (RFC 1035 section 2.3.4); a longer one is none.
const NAME_MAX: usize = 253;

/// Host and port of a `Host` header, a URI or an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

impl Authority {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; none if any part of the text is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Host::Ip(address.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::of_name(host)?, port)
            }
        };
        let port = match port {
            "" => None,
            port => Some(port_of(port.strip_prefix(':')?)?),
        };
        Some(Self { host, port })
    }

    /// `localhost` or a loopback address, whatever the port.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => name == "localhost",
        }
    }

    /// The same without the port that the scheme has anyway.
    pub fn without_port(mut self, default: u16) -> Self {
        self.port = self.port.filter(|port| *port != default);
        self
    }
}

impl Host {
    fn of_name(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Some(Self::Ip(ip.into()));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_name = !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(fits);
        is_name.then(|| Self::Name(text.to_ascii_lowercase()))
    }
}

/// `u16::from_str` takes a sign as well.
fn port_of(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_whole_authority_that_names_this_machine() {
        for text in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(Authority::parse(text).is_some_and(|a| a.is_loopback()), "{text}");
        }
        for text in [
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1:8080",
            "[::2]",
            "0.0.0.0",
            "127.1",
            "2130706433",
        ] {
            assert!(Authority::parse(text).is_some_and(|a| !a.is_loopback()), "{text}");
        }
    }

    #[test]
    fn text_of_which_only_a_part_is_a_host_is_none() {
        for text in [
            "",
            ":8080",
            "[::1]evil.com",
            "[::1]:8080evil.com",
            "[::1]:80:80",
            "[::1].evil.com",
            "[::1",
            "[127.0.0.1]",
            "[]",
            "::1",
            "::1:80",
            "localhost:",
            "localhost:+80",
            "localhost:65536",
            "localhost:80:80",
            "localhost:80evil.com",
            "localhost/evil.com",
            "localhost@evil.com",
            "evil.com@localhost",
            "localhost#evil.com",
            "localhost evil.com",
            "localhost,evil.com",
            "localh\u{f6}st",
            "localhost%2eevil.com",
            &"a".repeat(NAME_MAX + 1),
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
        assert!(Authority::parse(&"a".repeat(NAME_MAX)).is_some());
    }

    #[test]
    fn the_port_of_the_scheme_says_nothing() {
        let parse = |text: &str| Authority::parse(text).unwrap();
        assert_eq!(parse("a.example:443").without_port(443), parse("A.example"));
        assert_ne!(parse("a.example:80").without_port(443), parse("a.example"));
        assert_ne!(parse("a.example:8080"), parse("a.example:8081"));
    }
}
