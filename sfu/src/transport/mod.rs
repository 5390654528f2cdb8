//! Room: transport. One connection below RTP: ICE-lite, DTLS, SRTP.
//!
//! Owns the protocols between a datagram and a plaintext RTP packet. Never looks at RTP payloads,
//! tracks or viewers. Only this room and `sdp/` name webrtc-rs crates; our own types go in and out.
//! Called by `worker`, through `peer.rs`. Next: `ice.rs` (who may talk to us), `dtls.rs` (keys),
//! `srtp/` (packets).

use std::net::{IpAddr, SocketAddr};

pub mod client_hello;
pub mod dtls;
pub mod egress;
mod flight;
pub mod ice;
pub mod peer;
pub mod srtp;
pub mod stun;

/// A pair as we see it: our address the packet came to, and the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address, from packet info; `None` where the socket does not tell it.
    pub local: Option<IpAddr>,
    /// The peer's address and port.
    pub remote: SocketAddr,
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
