//! The reverse proxies whose word about client addresses is taken (`--trusted-proxy`).
//!
//! Owns the list and its form. Never reads a header: `client_address.rs` does. Called by `settings.rs`,
//! `client_address.rs` and `limits.rs`.

use std::fmt;
use std::net::IpAddr;

/// Maximum entries of the list; a longer one is refused.
const ENTRIES_MAX: usize = 64;

/// Addresses of trusted reverse proxies; empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Prefix>);

/// Address prefix. The bits after the first `bits` of the address are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    ip: IpAddr,
    bits: u8,
}

impl TrustedProxies {
    /// Reads addresses and prefixes such as `10.0.0.7` and `10.0.0.0/8`.
    ///
    /// # Errors
    /// The first entry that is neither, and what to give instead.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        if entries.len() > ENTRIES_MAX {
            return Err(format!("has {} entries; give at most {ENTRIES_MAX}", entries.len()));
        }
        entries.iter().map(|entry| Prefix::parse(entry.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a proxy at this address is trusted.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|prefix| prefix.contains(ip))
    }

    /// Whether no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, prefix) in self.0.iter().enumerate() {
            write!(f, "{}{prefix}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits == width(self.ip) {
            true => write!(f, "{}", self.ip),
            false => write!(f, "{}/{}", self.ip, self.bits),
        }
    }
}

impl Prefix {
    fn parse(entry: &str) -> Result<Self, String> {
        let (text, bits) = match entry.split_once('/') {
            Some((text, bits)) => (text, Some(bits)),
            None => (entry, None),
        };
        let unreadable = || {
            format!(
                "`{entry}` is no address and no prefix; give for example 127.0.0.1, ::1 or 10.0.0.0/8"
            )
        };
        let ip: IpAddr = text.parse().map_err(|_| unreadable())?;
        if ip.to_canonical() != ip {
            let length = bits.and_then(|bits| bits.parse::<u8>().ok()?.checked_sub(96));
            let length = length.map_or_else(String::new, |length| format!("/{length}"));
            let hint = ip.to_canonical();
            let problem = "is an IPv4 address in IPv6 form";
            return Err(format!("`{entry}` {problem}; give it as {hint}{length}"));
        }
        let max = width(ip);
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= max).ok_or_else(|| {
                format!("`{entry}`: the length of the prefix must be a number from 1 to {max}")
            })?,
            None => max,
        };
        if bits == 0 || ip.is_unspecified() {
            return Err(format!(
                "`{entry}` stands for every client, and each could then claim any address; name \
                 the addresses of your proxies"
            ));
        }
        let masked = mask(ip, bits);
        if masked != ip {
            return Err(format!("`{entry}` has bits after /{bits}; give {masked}/{bits} or {ip}"));
        }
        Ok(Self { ip, bits })
    }

    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && mask(ip, self.bits) == self.ip
    }
}

/// Bits of an address.
fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with zeros after the first `bits`.
fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TrustedProxies, String> {
        TrustedProxies::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn address_is_trusted_within_a_listed_prefix() {
        let text = "127.0.0.1,::1,10.1.0.0/16,2001:db8:7::/48";
        let proxies = parse(text).unwrap();
        assert_eq!(proxies.to_string(), text);
        for ip in ["127.0.0.1", "::1", "10.1.255.255", "::ffff:10.1.0.9", "2001:db8:7:ffff::1"] {
            assert!(proxies.contains(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["127.0.0.2", "::2", "10.2.0.0", "2001:db8:8::1", "::", "0.0.0.0"] {
            assert!(!proxies.contains(ip.parse().unwrap()), "{ip}");
        }
        assert!(!TrustedProxies::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn entry_that_cannot_be_meant_is_refused_with_what_to_give() {
        for (entry, problem) in [
            ("localhost", "`localhost` is no address"),
            ("", "`` is no address"),
            ("127.0.0.1:80", "is no address"),
            ("10.0.0.0/33", "from 1 to 32"),
            ("::1/129", "from 1 to 128"),
            ("10.0.0.0/", "from 1 to 32"),
            ("10.0.0.0/-1", "from 1 to 32"),
            ("10.0.0.7/8", "give 10.0.0.0/8 or 10.0.0.7"),
            ("0.0.0.0/0", "every client"),
            ("::/0", "every client"),
            ("0.0.0.0", "every client"),
            ("::ffff:10.0.0.7", "give it as 10.0.0.7"),
            ("::ffff:10.0.0.0/104", "give it as 10.0.0.0/8"),
        ] {
            let error = parse(entry).unwrap_err();
            assert!(error.contains(problem), "{entry}: {error}");
        }
    }

    #[test]
    fn list_ends_at_its_maximum() {
        let entries = |n: usize| vec!["10.0.0.1".to_owned(); n];
        assert!(TrustedProxies::parse(&entries(ENTRIES_MAX)).is_ok());
        assert!(
            TrustedProxies::parse(&entries(ENTRIES_MAX + 1)).unwrap_err().contains("at most 64")
        );
    }
}
