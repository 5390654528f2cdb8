//! The address of the client that made a request: that of the connection, or what a trusted proxy says.
//!
//! Reads `X-Forwarded-For` and `Forwarded` (RFC 7239) of trusted proxies only (`trusted_proxies.rs`). Where
//! they do not tell, the proxy's address stands for the client, which is counted by reason. Whether a request
//! came through a proxy at all is the question of `access.rs`. Called by `offer.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderMap;
use axum::http::header::FORWARDED;
use weir_sfu::client_network::client_network;

use crate::trusted_proxies::TrustedProxies;

/// Header that most proxies add.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Maximum trusted proxies that one request may have passed; beyond that its headers are not believed.
const HOPS_MAX: usize = 16;

/// Client of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// Its address, or that of the proxy that does not tell.
    pub ip: IpAddr,
    /// Its network, for limits; none for a client on this machine that no proxy carried.
    pub network: Option<IpAddr>,
}

/// Why the headers of a trusted proxy do not tell the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardingFault {
    /// There is no header.
    Missing,
    /// A header does not have its form.
    Malformed,
    /// The proxy hides the address (`for=unknown`, `for=_name`).
    Hidden,
    /// The two headers name different clients: the proxy writes one, and passes on the other as the client
    /// sent it.
    Conflict,
    /// More than [`HOPS_MAX`] trusted proxies.
    TooManyHops,
}

impl ForwardingFault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Missing, Self::Malformed, Self::Hidden, Self::Conflict, Self::TooManyHops];

    /// Name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Hidden => "hidden",
            Self::Conflict => "conflict",
            Self::TooManyHops => "too_many_hops",
        }
    }

    /// What is wrong, and what the operator may do.
    fn advice(self) -> &'static str {
        match self {
            Self::Missing => {
                "it sent neither X-Forwarded-For nor Forwarded; let it add X-Forwarded-For, or all \
                 of its clients count as one"
            }
            Self::Malformed => "X-Forwarded-For or Forwarded does not have its form",
            Self::Hidden => "Forwarded hides the client's address",
            Self::Conflict => {
                "X-Forwarded-For and Forwarded name different clients; let the proxy remove the \
                 one that it does not write"
            }
            Self::TooManyHops => "the headers name too many trusted proxies",
        }
    }
}

/// Requests of trusted proxies whose headers did not tell the client's address, by reason.
#[derive(Debug, Default)]
pub struct ForwardingFaults([AtomicU64; ForwardingFault::ALL.len()]);

impl ForwardingFaults {
    /// Requests since the start, by the names of the reasons.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let labels = ForwardingFault::ALL.into_iter().map(ForwardingFault::label);
        labels.zip(self.0.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }

    /// Counts a request; the first of each reason is logged.
    fn note(&self, fault: ForwardingFault) {
        let before =
            self.0.get(fault as usize).map_or(1, |count| count.fetch_add(1, Ordering::Relaxed));
        if before == 0 {
            let reason = fault.label();
            tracing::warn!(
                reason,
                "a trusted proxy does not tell the client's address: {}; its own address stands \
                 for it (later requests are counted in weir_http_forwarding_faults_total only)",
                fault.advice()
            );
        }
    }
}

impl ClientAddress {
    /// The client of a request with these headers on a connection of `peer`.
    pub fn of(
        peer: IpAddr,
        headers: &HeaderMap,
        proxies: &TrustedProxies,
        faults: &ForwardingFaults,
    ) -> Self {
        let peer = peer.to_canonical();
        if !proxies.contains(peer) {
            return Self { ip: peer, network: client_network(peer) };
        }
        // All that was forwarded has a network, loopback too: a limit that a header can switch off is none.
        let limited = |ip| Self { ip, network: client_network(ip).or(Some(ip)) };
        forwarded_client(headers, proxies).map_or_else(
            |fault| {
                faults.note(fault);
                match fault {
                    // Perhaps a program on the proxy's machine, which asked directly.
                    ForwardingFault::Missing => Self { ip: peer, network: client_network(peer) },
                    // What the client can cause must not free it of limits.
                    _ => limited(peer),
                }
            },
            limited,
        )
    }
}

/// The client that both headers name, or the one that is there.
fn forwarded_client(
    headers: &HeaderMap,
    proxies: &TrustedProxies,
) -> Result<IpAddr, ForwardingFault> {
    let [by_list, by_standard] = [
        (X_FORWARDED_FOR, list_nodes as fn(&str) -> Option<Vec<String>>),
        (FORWARDED.as_str(), standard_nodes),
    ]
    .map(|(name, read)| {
        let mut nodes = Vec::new();
        for line in headers.get_all(name) {
            let read = line.to_str().ok().and_then(read);
            match read {
                Some(more) => nodes.extend(more),
                None => return Some(Err(ForwardingFault::Malformed)),
            }
        }
        headers.contains_key(name).then(|| client_of(&nodes, proxies))
    });
    match (by_list, by_standard) {
        (None, None) => Err(ForwardingFault::Missing),
        (Some(client), None) | (None, Some(client)) => client,
        (Some(Ok(one)), Some(Ok(other))) if one == other => Ok(one),
        (Some(_), Some(_)) => Err(ForwardingFault::Conflict),
    }
}

/// The last node that is not a trusted proxy: everything before it was written by who knows whom. If all
/// are trusted, the first.
fn client_of(nodes: &[String], proxies: &TrustedProxies) -> Result<IpAddr, ForwardingFault> {
    let mut farthest = Err(ForwardingFault::Malformed);
    for (hop, node) in nodes.iter().rev().enumerate() {
        if hop >= HOPS_MAX {
            return Err(ForwardingFault::TooManyHops);
        }
        let ip = address(node)?;
        if !proxies.contains(ip) {
            return Ok(ip);
        }
        farthest = Ok(ip);
    }
    farthest
}

/// Address of a node, with or without a port.
fn address(node: &str) -> Result<IpAddr, ForwardingFault> {
    if node.eq_ignore_ascii_case("unknown") || node.starts_with('_') {
        return Err(ForwardingFault::Hidden);
    }
    let bare = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
    let ip = bare.parse().or_else(|_| node.parse().map(|with_port: SocketAddr| with_port.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical()).map_err(|_| ForwardingFault::Malformed)
}

/// Nodes of `X-Forwarded-For`: addresses with commas between them.
#[expect(clippy::unnecessary_wraps, reason = "the other header's nodes may be unreadable")]
fn list_nodes(line: &str) -> Option<Vec<String>> {
    Some(line.split(',').map(|node| node.trim().to_owned()).collect())
}

/// Nodes of `Forwarded`: the `for` of each element (RFC 7239 section 4). An element without `for` gives an
/// empty node. `None` if the text as a whole does not have the form: a quote that a client left open would
/// hide what the proxy added.
fn standard_nodes(line: &str) -> Option<Vec<String>> {
    let mut nodes = Vec::new();
    let mut rest = line;
    loop {
        let mut node = None;
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with([';', ',']) {
                let (name, value, after) = pair(rest)?;
                // One `for` per element (RFC 7239 section 4).
                if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                    return None;
                }
                rest = after.trim_start_matches([' ', '\t']);
            }
            match rest.strip_prefix(';') {
                Some(after) => rest = after,
                None => break,
            }
        }
        nodes.push(node.unwrap_or_default());
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return rest.is_empty().then_some(nodes),
        }
    }
}

/// Name and value of the pair at the beginning of a text, and what follows it.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let is_token = |token: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !token.is_empty() && token.bytes().all(fits)
    };
    if !is_token(name) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([' ', '\t', ';', ',']).unwrap_or(rest.len());
        let (value, after) = rest.split_at_checked(end)?;
        // Colons and brackets need quotes, but not all proxies know.
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
        let is_value = !value.is_empty() && value.chars().all(fits);
        return is_value.then(|| (name, value.to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value, quoted.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// The client that trusted proxies at 127.0.0.1 and 10.0.0.0/8 name.
    fn named(lines: &[(&str, &str)]) -> Result<String, ForwardingFault> {
        let proxies = ["127.0.0.1".to_owned(), "10.0.0.0/8".to_owned()];
        let proxies = TrustedProxies::parse(&proxies).unwrap();
        forwarded_client(&headers(lines), &proxies).map(|ip| ip.to_string())
    }

    #[test]
    fn client_is_the_last_address_that_is_no_trusted_proxy() {
        for (lines, client) in [
            (&[("x-forwarded-for", "203.0.113.5")][..], "203.0.113.5"),
            (&[("x-forwarded-for", "192.0.2.1, 203.0.113.5, 10.0.0.9")], "203.0.113.5"),
            (
                &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "203.0.113.5")],
                "203.0.113.5",
            ),
            (&[("x-forwarded-for", "what,ever,203.0.113.5")], "203.0.113.5"),
            (&[("x-forwarded-for", "203.0.113.5:4711")], "203.0.113.5"),
            (&[("x-forwarded-for", "[2001:db8::7]:4711")], "2001:db8::7"),
            (&[("x-forwarded-for", "2001:db8::7")], "2001:db8::7"),
            (&[("x-forwarded-for", "::ffff:203.0.113.5")], "203.0.113.5"),
            (&[("x-forwarded-for", "10.0.0.7, 10.0.0.9")], "10.0.0.7"),
            (&[("forwarded", "for=203.0.113.5;proto=https;by=10.0.0.1")], "203.0.113.5"),
            (&[("forwarded", "For=\"[2001:db8::7]:4711\"")], "2001:db8::7"),
            (&[("forwarded", "for=192.0.2.1, for=203.0.113.5,for=10.0.0.9")], "203.0.113.5"),
            (&[("forwarded", "by=\"a;b,c\\\"d\";for=203.0.113.5")], "203.0.113.5"),
            (&[("forwarded", "for=_hidden, for=203.0.113.5")], "203.0.113.5"),
            (
                &[("forwarded", "for=203.0.113.5"), ("x-forwarded-for", "203.0.113.5")],
                "203.0.113.5",
            ),
        ] {
            assert_eq!(named(lines).as_deref(), Ok(client), "{lines:?}");
        }
    }

    #[test]
    fn headers_that_do_not_tell_have_a_reason() {
        use ForwardingFault::{Conflict, Hidden, Malformed, Missing, TooManyHops};
        let hops = |n: usize| vec!["10.0.0.1"; n].join(",");
        let (most, too_many) = (hops(HOPS_MAX), hops(HOPS_MAX + 1));
        assert_eq!(named(&[("x-forwarded-for", &most)]).as_deref(), Ok("10.0.0.1"));
        for (lines, fault) in [
            (&[][..], Missing),
            (&[("x-real-ip", "203.0.113.5")], Missing),
            (&[("x-forwarded-for", "")], Malformed),
            (&[("x-forwarded-for", "203.0.113.5,")], Malformed),
            (&[("x-forwarded-for", "203.0.113.5, client")], Malformed),
            (&[("x-forwarded-for", "203.0.113.5 10.0.0.9")], Malformed),
            (&[("x-forwarded-for", "203.0.113.5:x")], Malformed),
            (&[("x-forwarded-for", "fe80::1%eth0")], Malformed),
            (&[("forwarded", "")], Malformed),
            (&[("forwarded", "proto=https")], Malformed),
            (&[("forwarded", "for=203.0.113.5;for=192.0.2.1")], Malformed),
            (&[("forwarded", "for=\"203.0.113.5")], Malformed),
            (&[("forwarded", "for=\"203.0.113.5\"x")], Malformed),
            (&[("forwarded", "for 203.0.113.5")], Malformed),
            (&[("forwarded", "for=unknown")], Hidden),
            (&[("forwarded", "for=\"_gazonk\"")], Hidden),
            (&[("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "203.0.113.5")], Conflict),
            (&[("forwarded", "for="), ("x-forwarded-for", "203.0.113.5")], Conflict),
            (&[("x-forwarded-for", &too_many)], TooManyHops),
        ] {
            assert_eq!(named(lines), Err(fault), "{lines:?}");
        }
    }

    /// What the client sent before, and what its proxy adds to it, in one line or in two.
    #[test]
    fn client_cannot_put_another_address_in_the_place_of_its_own() {
        for sent in [
            "for=192.0.2.1;x=\"",
            "for=192.0.2.1;x=\"\\",
            "for=192.0.2.1;x=",
            "for=192.0.2.1;",
            "\"",
            "for=\"192.0.2.1",
            "for=192.0.2.1;x=\"a\\\"",
        ] {
            for added in [
                "for=203.0.113.5",
                "for=\"203.0.113.5:4711\"",
                "for=203.0.113.5;by=\"_x\"",
                "by=\"_x\";for=203.0.113.5",
            ] {
                let one_line = format!("{sent}, {added}");
                for lines in [
                    &[("forwarded", one_line.as_str())][..],
                    &[("forwarded", sent), ("forwarded", added)],
                ] {
                    let client = named(lines);
                    assert!(
                        client.as_deref().is_ok_and(|ip| ip == "203.0.113.5") || client.is_err(),
                        "{lines:?}: {client:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn limits_hold_for_whatever_a_proxy_forwards_and_others_are_not_believed() {
        let proxies = TrustedProxies::parse(&["127.0.0.1".to_owned(), "192.0.2.9".to_owned()]);
        let (proxies, faults) = (proxies.unwrap(), ForwardingFaults::default());
        let of = |peer, lines: &[(&str, &str)]| {
            let client = ClientAddress::of(ip(peer), &headers(lines), &proxies, &faults);
            (client.ip.to_string(), client.network.map(|network| network.to_string()))
        };
        let client = |ip: &str, network: &str| (ip.to_owned(), Some(network.to_owned()));
        const fn forwarded(value: &str) -> [(&str, &str); 1] {
            [("x-forwarded-for", value)]
        }
        assert_eq!(
            of("127.0.0.1", &forwarded("203.0.113.5")),
            client("203.0.113.5", "203.0.113.5")
        );
        assert_eq!(
            of("127.0.0.1", &forwarded("2001:db8::1:2:3:4")),
            client("2001:db8::1:2:3:4", "2001:db8::")
        );
        assert_eq!(of("127.0.0.1", &forwarded("127.0.0.7")), client("127.0.0.7", "127.0.0.7"));
        assert_eq!(of("127.0.0.1", &forwarded("?")), client("127.0.0.1", "127.0.0.1"));
        assert_eq!(of("192.0.2.9", &forwarded("?")), client("192.0.2.9", "192.0.2.9"));
        assert_eq!(
            of("127.0.0.1", &[]),
            ("127.0.0.1".to_owned(), None),
            "a program on this machine"
        );
        assert_eq!(
            of("198.51.100.1", &forwarded("203.0.113.5")),
            client("198.51.100.1", "198.51.100.1")
        );
        assert_eq!(of("127.0.0.2", &forwarded("203.0.113.5")), ("127.0.0.2".to_owned(), None));
        let counts: Vec<_> = faults.counts().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 0, 0, 0]);
    }
}
