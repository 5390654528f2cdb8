//! Configuration of the media plane as plain data: defaults, limits, validation.
//!
//! Never reads flags or files. `api` fills in what operators may set (media address, advertised
//! addresses, workers and their CPUs, takeover, the wait of viewers, the rate of publishers); the other fields keep their
//! defaults in the `weir` binary and exist for tests and benches. `net/` uses the values.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::units::Bitrate;

/// Maximum number of workers: each pair of workers has a pair of rings, which costs about 100 KiB.
pub const WORKERS_MAX: usize = 64;

/// Settings of [`crate::net::Sfu`].
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// UDP address of the media sockets; port 0 takes a free one. Default 127.0.0.1:8189.
    pub media_addr: SocketAddr,
    /// Candidates for answers, the best first; port 0 stands for the bound port. Empty: the bound
    /// address. If that is a wildcard, there is no candidate yet, and offers are refused with 503 until
    /// [`crate::net::Operations::set_candidates`] gives one.
    pub advertise: Vec<SocketAddr>,
    /// Media threads, 1 to [`WORKERS_MAX`]. Default 1.
    pub workers: usize,
    /// CPUs on which the workers are kept: the first worker on the first CPU, and from the start of the
    /// list again when there are more workers. Empty, the default: the kernel decides.
    pub worker_cpus: Vec<usize>,
    /// Maximum sessions per worker; more are refused with 503. Default 5,000 (quality B2). Operators
    /// cannot set it.
    pub sessions_per_worker: usize,
    /// Maximum sessions per worker that were accepted but have no DTLS yet; more are refused with 503.
    /// Default 1,000 (quality B2). Operators cannot set it.
    pub half_open_per_worker: usize,
    /// What becomes of a new publisher of a live stream. Default [`Takeover::Always`] (whip-whep A54).
    pub takeover: Takeover,
    /// Time that viewers wait for a publisher, before the first and after the last. Default 10 min
    /// (whip-whep G8).
    pub viewer_wait: Duration,
    /// Time for which the URL of a closed session answers DELETE with 200. Default 30 s (whip-whep A25).
    /// Operators cannot set it.
    pub tombstone: Duration,
    /// Maximum packet buffers per worker and size class; about 1.6 KB each, allocated when needed. At
    /// the limit packets are dropped (`pool_exhausted`). Default 65,536. Operators cannot set it.
    pub pool_packets: usize,
    /// Maximum rate of one publisher over [`PUBLISHER_WINDOW`]. Default 100 Mbit/s and 16,000
    /// packets/s (quality B2).
    pub publisher_limits: PublisherLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            media_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 8189)),
            advertise: Vec::new(),
            workers: 1,
            worker_cpus: Vec::new(),
            sessions_per_worker: 5_000,
            half_open_per_worker: 1_000,
            takeover: Takeover::default(),
            viewer_wait: Duration::from_secs(600),
            tombstone: Duration::from_secs(30),
            pool_packets: 65_536,
            publisher_limits: PublisherLimits::default(),
        }
    }
}

/// Window over which the rate of a publisher is limited. A publisher that stood still and then
/// sends what it had captured may send this much of its limit at once.
pub const PUBLISHER_WINDOW: Duration = Duration::from_secs(5);

/// Maximum rate of one publisher, all tracks and layers together, as bytes of SRTP on the wire.
/// Packets above it are dropped (`DropReason::PublisherRate`) and reported to the publisher and the
/// operator. They are never counted as loss and never requested again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherLimits {
    /// Bits per second.
    pub bitrate: Bitrate,
    /// Packets per second.
    pub packets_per_second: u32,
}

impl PublisherLimits {
    /// Limits in megabits (1,000,000 bits) and packets per second.
    pub const fn new(mbits: u32, packets_per_second: u32) -> Self {
        Self { bitrate: Bitrate::kbps(mbits as u64 * 1_000), packets_per_second }
    }
}

impl Default for PublisherLimits {
    fn default() -> Self {
        Self::new(100, 16_000)
    }
}

/// What becomes of a new publisher of a live stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Takeover {
    /// It replaces the one before, unless the stream changed hands three times within 30 s: then it
    /// is refused with 409, so that two programs under one name do not replace each other for ever.
    #[default]
    Always,
    /// It is refused with 409.
    Reject,
}

impl Takeover {
    /// Every policy, the default first.
    pub const ALL: [Self; 2] = [Self::Always, Self::Reject];

    /// Name of the policy in settings.
    pub fn label(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Reject => "reject",
        }
    }
}

/// A setting that cannot work; the text names it and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// Name of the field.
    pub setting: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Config {
    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse =
            |setting, problem: &str| Err(ConfigError { setting, problem: problem.to_owned() });
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return refuse("workers", "must be from 1 to 64");
        }
        if self.advertise.iter().any(|addr| addr.ip().is_unspecified()) {
            return refuse("advertise", "0.0.0.0 and [::] are no addresses a client can reach");
        }
        if self.sessions_per_worker == 0 {
            return refuse("sessions_per_worker", "must be at least 1");
        }
        let PublisherLimits { bitrate, packets_per_second } = self.publisher_limits;
        if bitrate.0 == 0 || packets_per_second == 0 {
            return refuse("publisher_limits", "must be at least 1 bit/s and 1 packet/s");
        }
        if self.pool_packets < 256 {
            return refuse("pool_packets", "must be at least 256");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_bad_setting_is_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let named = |config: Config| config.validate().unwrap_err().setting;
        assert_eq!(named(Config { workers: 0, ..Config::default() }), "workers");
        assert_eq!(named(Config { workers: WORKERS_MAX + 1, ..Config::default() }), "workers");
        assert!(Config { workers: WORKERS_MAX, ..Config::default() }.validate().is_ok());
        let advertise = vec!["0.0.0.0:0".parse().unwrap()];
        assert_eq!(named(Config { advertise, ..Config::default() }), "advertise");
        let publisher_limits = PublisherLimits { packets_per_second: 0, ..Default::default() };
        assert_eq!(named(Config { publisher_limits, ..Config::default() }), "publisher_limits");
        assert_eq!(named(Config { pool_packets: 255, ..Config::default() }), "pool_packets");
    }
}
