//! Configuration of the media plane as plain data: defaults, limits, validation.

use std::net::{Ipv4Addr, SocketAddr};

/// What the media plane is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the UDP port is bound; port 0 takes a free one.
    pub media_addr: SocketAddr,
    /// Worker threads, at least one.
    pub workers: usize,
    /// Candidates for answers, best first; port 0 stands for the bound one.
    pub advertise: Vec<SocketAddr>,
    /// Sessions in all.
    pub max_sessions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            media_addr: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            workers: 1,
            advertise: Vec::new(),
            max_sessions: 5_000,
        }
    }
}
