//! Connection of one peer below RTP: ICE-lite, DTLS, SRTP.
//!
//! Owns the protocols between a datagram and a plaintext RTP packet. Never looks at RTP payloads,
//! tracks or viewers. Only this module and `sdp/` name webrtc-rs crates; our own types go in and out.
//! Called by `worker`, through `peer.rs`. Next: `ice/` (who may talk to us), `dtls/` (keys),
//! `srtp/` (packets).

use std::net::{IpAddr, SocketAddr};

pub mod dtls;
pub mod egress;
pub mod ice;
pub mod peer;
pub mod srtp;
pub mod stun;

/// Transport protocol below ICE. Candidates of another protocol become variants of their own; code that depends
/// on how a datagram is framed matches on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP: one packet is one datagram.
    Udp,
}

/// Five-tuple of a network path as the server sees it. The local port is the media port, the same on every path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Our address, from packet info; `None` where the socket does not tell it.
    pub local: Option<IpAddr>,
    /// The peer's address and port.
    pub remote: SocketAddr,
}

/// Bytes of an Ethernet payload (IEEE 802.3). Paths below it are left to path MTU discovery of the kernel: the
/// don't-fragment bit is set, and the send call counts what does not fit.
const ETHERNET_MTU: usize = 1500;

const UDP_HEADER_BYTES: usize = 8;

/// RFC 791 section 3.1, without options.
const IPV4_HEADER_BYTES: usize = 20;

/// RFC 8200 section 3, without extension headers.
const IPV6_HEADER_BYTES: usize = 40;

impl FiveTuple {
    /// A path over UDP.
    pub fn udp(local: Option<IpAddr>, remote: SocketAddr) -> Self {
        Self { protocol: Protocol::Udp, local, remote }
    }

    /// Bytes of the largest datagram that an Ethernet path carries in one piece: 1472 over IPv4, 1452 over IPv6.
    pub fn datagram_bytes_max(&self) -> usize {
        let Protocol::Udp = self.protocol;
        let ip_header = match self.remote {
            SocketAddr::V4(_) => IPV4_HEADER_BYTES,
            SocketAddr::V6(_) => IPV6_HEADER_BYTES,
        };
        ETHERNET_MTU - ip_header - UDP_HEADER_BYTES
    }
}

/// Cryptographic randomness as an argument: the operating system's generator in production, a
/// seeded one in simulation.
pub trait Entropy: Send {
    /// Overwrites all of `out` with unpredictable bytes.
    fn fill(&mut self, out: &mut [u8]);
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).expect("the operating system gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_datagram_leaves_room_for_the_headers_of_its_address_family() {
        let to = |remote: &str| FiveTuple::udp(None, remote.parse().unwrap()).datagram_bytes_max();
        assert_eq!((to("192.0.2.1:9"), to("[2001:db8::1]:9")), (1472, 1452));
    }
}
