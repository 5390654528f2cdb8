//! Advertised addresses: where clients send media to, the best first.
//!
//! IPv4 comes before IPv6 because FFmpeg uses only the first candidate (whip-whep C41). Bridges of
//! containers come last, and loopback is never shown to another machine. Pure but for
//! [`interfaces`]. Called by `settings.rs` and `config.rs`; `addresses.rs` follows what changes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Maximum candidates in one answer; more only slow clients down.
pub(crate) const CANDIDATES_MAX: usize = 8;

/// Value of `--advertise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// The addresses of this machine.
    Auto,
    /// These addresses, with a port where it differs from the media port.
    These(Vec<(IpAddr, Option<u16>)>),
}

impl Advertise {
    /// Reads the parts of `auto|ADDR[:PORT][,…]`.
    ///
    /// # Errors
    /// A sentence that names the part that is wrong.
    pub fn parse(parts: &[String]) -> Result<Self, String> {
        if let [only] = parts
            && only == "auto"
        {
            return Ok(Self::Auto);
        }
        let addresses = parts.iter().map(|part| parse_one(part.trim()));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() || addresses.len() > CANDIDATES_MAX {
            return Err(format!(
                "{} addresses were given; give `auto` or 1 to {CANDIDATES_MAX} addresses",
                addresses.len()
            ));
        }
        Ok(Self::These(addresses))
    }

    /// The candidates for answers. Port 0 stands for the port that media is bound to, where that
    /// is not known yet. `local_clients` is true when HTTP is served on loopback and not through a
    /// proxy.
    pub fn candidates(
        &self,
        media_port: u16,
        local_clients: bool,
        interfaces: &[Interface],
    ) -> Vec<SocketAddr> {
        let mut candidates: Vec<SocketAddr> = match self {
            Self::Auto => {
                let mut ranked: Vec<_> =
                    interfaces.iter().filter_map(|i| Some((i.rank()?, i.ip))).collect();
                ranked.sort_by_key(|(rank, _)| *rank);
                ranked.into_iter().map(|(_, ip)| SocketAddr::new(ip, media_port)).collect()
            }
            Self::These(addresses) => {
                let with_port = |(ip, port): &(_, Option<u16>)| {
                    SocketAddr::new(*ip, port.unwrap_or(media_port))
                };
                addresses.iter().map(with_port).collect()
            }
        };
        candidates.sort_by_key(SocketAddr::is_ipv6);
        candidates.truncate(CANDIDATES_MAX);
        if *self == Self::Auto && local_clients {
            // Before IPv6: if it is the only IPv4 address, FFmpeg takes it. After the addresses of
            // the network: Firefox forms no pair with loopback, and libnice binds its packets to
            // an interface from which loopback cannot be reached (IP_UNICAST_IF).
            candidates.truncate(CANDIDATES_MAX - 1);
            let ipv4 = candidates.iter().take_while(|addr| addr.is_ipv4()).count();
            candidates.insert(ipv4, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), media_port));
        }
        candidates
    }
}

impl std::fmt::Display for Advertise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::These(addresses) = self else { return f.write_str("auto") };
        let text = |(ip, port): &(IpAddr, Option<u16>)| match port {
            Some(port) => SocketAddr::new(*ip, *port).to_string(),
            None => ip.to_string(),
        };
        f.write_str(&addresses.iter().map(text).collect::<Vec<_>>().join(","))
    }
}

fn parse_one(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let (ip, port) = match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(with_port), _) => (with_port.ip(), Some(with_port.port())),
        (_, Ok(ip)) => (ip, None),
        _ => {
            return Err(format!(
                "`{text}` is neither an IP address nor ADDR:PORT; give for example 203.0.113.7"
            ));
        }
    };
    if ip.is_unspecified() || ip.is_multicast() || port == Some(0) {
        return Err(format!(
            "clients cannot send to `{text}`; give the address that they can reach"
        ));
    }
    Ok((ip, port))
}

/// Address of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name of its network device.
    pub name: String,
    /// The address itself.
    pub ip: IpAddr,
    /// Whether packets to the Internet leave from this address.
    pub default_route: bool,
}

impl Interface {
    /// Rank of the address, the lowest first; none if other machines cannot reach it.
    fn rank(&self) -> Option<u8> {
        const BRIDGES: [&str; 7] = ["docker", "br-", "veth", "virbr", "cni", "flannel", "podman"];
        let unreachable = match self.ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        let private = match self.ip {
            IpAddr::V4(ip) => ip.is_private(),
            IpAddr::V6(ip) => ip.is_unique_local(),
        };
        match () {
            () if unreachable => None,
            () if self.default_route => Some(0),
            () if BRIDGES.iter().any(|bridge| self.name.starts_with(bridge)) => Some(3),
            () => Some(if private { 2 } else { 1 }),
        }
    }
}

/// Addresses of this machine, as the system lists them.
///
/// # Errors
/// The error of the system call.
pub fn interfaces() -> std::io::Result<Vec<Interface>> {
    let routes =
        [default_source("0.0.0.0:0", "192.0.2.1:9"), default_source("[::]:0", "[2001:db8::1]:9")];
    let listed = if_addrs::get_if_addrs()?;
    Ok(listed
        .into_iter()
        .map(|interface| {
            let ip = interface.ip();
            Interface { default_route: routes.contains(&Some(ip)), name: interface.name, ip }
        })
        .collect())
}

/// Source address of packets to a remote `target`. Nothing is sent: connecting a UDP socket only
/// looks into the routing table.
fn default_source(from: &str, target: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, ip: &str, default_route: bool) -> Interface {
        Interface { name: name.into(), ip: ip.parse().unwrap(), default_route }
    }

    fn texts(candidates: &[SocketAddr]) -> Vec<String> {
        candidates.iter().map(ToString::to_string).collect()
    }

    fn parse(text: &str) -> Result<Advertise, String> {
        Advertise::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn auto_puts_reachable_ipv4_first_and_bridges_last() {
        let machine = [
            interface("lo", "127.0.0.1", false),
            interface("lo", "::1", false),
            interface("docker0", "172.17.0.1", false),
            interface("wg0", "10.8.0.1", false),
            interface("eth0", "fe80::1", true),
            interface("eth0", "2001:db8::7", true),
            interface("eth0", "192.168.1.7", true),
        ];
        let far = Advertise::Auto.candidates(8189, false, &machine);
        let expected =
            ["192.168.1.7:8189", "10.8.0.1:8189", "172.17.0.1:8189", "[2001:db8::7]:8189"];
        assert_eq!(texts(&far), expected); // whip-whep C41
        let near = Advertise::Auto.candidates(8189, true, &machine);
        let expected = [
            "192.168.1.7:8189",
            "10.8.0.1:8189",
            "172.17.0.1:8189",
            "127.0.0.1:8189",
            "[2001:db8::7]:8189",
        ];
        assert_eq!(texts(&near), expected);
        assert_eq!(texts(&Advertise::Auto.candidates(0, true, &machine[..2])), ["127.0.0.1:0"]);
        assert!(Advertise::Auto.candidates(0, false, &machine[..2]).is_empty());
    }

    #[test]
    fn given_addresses_keep_their_order_and_ports() {
        let these = parse("2001:db8::7,203.0.113.7:9000, 203.0.113.8").unwrap();
        let candidates = these.candidates(8189, true, &[]);
        assert_eq!(
            texts(&candidates),
            ["203.0.113.7:9000", "203.0.113.8:8189", "[2001:db8::7]:8189"]
        );
        assert_eq!(these.to_string(), "2001:db8::7,203.0.113.7:9000,203.0.113.8");
        assert_eq!(parse("auto"), Ok(Advertise::Auto));
        assert_eq!(parse("[2001:db8::7]:9").unwrap().to_string(), "[2001:db8::7]:9");
    }

    #[test]
    fn addresses_that_clients_cannot_reach_are_refused() {
        for bad in ["", "example.org", "0.0.0.0", "::", "224.0.0.1", "10.0.0.1:0", "auto,10.0.0.1"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&["10.0.0.1"; CANDIDATES_MAX].join(",")).is_ok());
        assert!(parse(&["10.0.0.1"; CANDIDATES_MAX + 1].join(",")).is_err());
    }
}
