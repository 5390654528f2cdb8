//! Limits per client network: POSTs per second.
//!
//! A client network is an IPv4 address or an IPv6 /64 (quality B2).
//! Pure but for its lock; the clock is an argument. Called by `offer.rs`; `connections.rs` and
//! `body.rs` count by network too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Burst of POSTs that an idle network may send, in seconds of its rate (quality B2: burst 200 at
/// 50/s).
const BURST_S: u32 = 4;
/// Maximum networks whose POST rate is tracked. When none of them is idle, a new one is refused.
const NETWORKS_MAX: usize = 65_536;

/// Token buckets for POSTs, one per client network.
#[derive(Debug, Default)]
pub struct PostRate {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl PostRate {
    /// Counts one POST of a client network against `rate` per second (0: no limit), or returns how long
    /// to wait. Without a network there is no limit.
    ///
    /// # Errors
    /// The time until one more POST will be accepted.
    pub fn take(&self, network: Option<IpAddr>, rate: u32, now: Instant) -> Result<(), Duration> {
        let Some(network) = network.filter(|_| rate > 0) else { return Ok(()) };
        let (rate, burst) = (f64::from(rate), f64::from(rate.saturating_mul(BURST_S)));
        let level = |bucket: &Bucket| {
            let idle = now.saturating_duration_since(bucket.filled).as_secs_f64();
            (bucket.tokens + idle * rate).min(burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= NETWORKS_MAX && !buckets.contains_key(&network) {
            buckets.retain(|_, bucket| level(bucket) < burst);
            if buckets.len() >= NETWORKS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(network).or_insert(Bucket { tokens: burst, filled: now });
        bucket.tokens = level(bucket);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / rate));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_gets_its_burst_and_then_its_rate() {
        let (posts, start) = (PostRate::default(), Instant::now());
        let network_ip = Some(ip("192.0.2.7"));
        let take = |peer, at_ms| posts.take(peer, 50, start + Duration::from_millis(at_ms));
        assert!((0..200).all(|_| take(network_ip, 0).is_ok()));
        assert_eq!(take(network_ip, 0), Err(Duration::from_millis(20)));
        assert!(take(network_ip, 20).is_ok());
        assert!(take(network_ip, 20).is_err());
        // Other networks are not affected.
        assert!(take(Some(ip("192.0.2.8")), 20).is_ok());
        assert!((0..1_000).all(|_| take(None, 20).is_ok()));
        assert!((0..1_000).all(|_| posts.take(network_ip, 0, start).is_ok()));
    }

    #[test]
    fn a_full_rate_table_removes_idle_networks_first_and_then_refuses() {
        let (posts, start) = (PostRate::default(), Instant::now());
        let host =
            |n: usize| Some(IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n as u32)));
        assert!((0..NETWORKS_MAX).all(|n| posts.take(host(n), 50, start).is_ok()));
        assert!(posts.take(host(NETWORKS_MAX), 50, start).is_err());
        assert!(posts.take(host(NETWORKS_MAX), 50, start + Duration::from_secs(1)).is_ok());
    }
}
