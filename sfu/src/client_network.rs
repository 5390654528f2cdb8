//! Client network: the part of an address that limits take for one client.
//!
//! Pure. Called by `net/`, `limiter.rs` and `worker/` for the addresses of media, and by `api` for those of HTTP.

use std::net::{IpAddr, Ipv6Addr};

/// Client network of an address: an IPv4 address or an IPv6 /64; none for loopback, which is this
/// machine or a proxy on it (quality B2).
pub fn client_network(ip: IpAddr) -> Option<IpAddr> {
    (!ip.to_canonical().is_loopback()).then(|| media_network(ip))
}

/// The same for the address that media comes from, where loopback is a network like any other.
pub fn media_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // quality B2
    #[test]
    fn client_network_is_an_ipv4_address_or_an_ipv6_64() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let network = |text| client_network(ip(text));
        assert_eq!(network("192.0.2.7"), Some(ip("192.0.2.7")));
        assert_eq!(network("::ffff:192.0.2.7"), Some(ip("192.0.2.7")));
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), Some(ip("2001:db8:1:2::")));
        assert_eq!(network("127.0.0.9"), None);
        assert_eq!(network("::1"), None);
        assert_eq!(network("::ffff:127.0.0.1"), None);
    }
}
