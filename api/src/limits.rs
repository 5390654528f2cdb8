//! Limits per client network: POSTs per second, open connections.
//!
//! A client network is an IPv4 address or an IPv6 /64 (quality B2). Connections by loopback and of trusted
//! proxies count towards the total only: they are of the operator's own machine, or carry many clients.
//! Pure but for its locks; the clock is an argument. Called by `offer.rs` and `server.rs`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_sfu::client_network::client_network;

use crate::trusted_proxies::TrustedProxies;

/// Maximum connections of one client network; one more is answered 503 and closed (quality B2).
pub const CONNECTIONS_PER_NETWORK: usize = 1_024;
/// Maximum connections of the server; one more is answered 503 and closed (quality B2).
pub const CONNECTIONS_MAX: usize = 10_000;
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

/// Limits of open connections. Cheap to clone; clones count the same connections.
#[derive(Debug, Clone, Default)]
pub struct ConnectionLimit {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    trusted: TrustedProxies,
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// Permit for one open connection; returned when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    limit: ConnectionLimit,
    network: Option<IpAddr>,
}

impl ConnectionLimit {
    /// Lets these proxies have more connections than one network may, from now on.
    pub fn set_trusted(&self, proxies: TrustedProxies) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).trusted = proxies;
    }

    /// Permit for a connection from `peer`, or none when a limit is reached.
    pub fn take(&self, peer: IpAddr) -> Option<ConnectionPermit> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let network = client_network(peer).filter(|_| !counts.trusted.contains(peer));
        let here = network.map_or(0, |n| counts.by_network.get(&n).copied().unwrap_or(0));
        if counts.all >= CONNECTIONS_MAX || here >= CONNECTIONS_PER_NETWORK {
            return None;
        }
        counts.all += 1;
        if let Some(network) = network {
            counts.by_network.insert(network, here + 1);
        }
        Some(ConnectionPermit { limit: self.clone(), network })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self.limit.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        let Some(network) = self.network else { return };
        if let Some(here) = counts.by_network.get_mut(&network) {
            *here -= 1;
            if *here == 0 {
                counts.by_network.remove(&network);
            }
        }
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

    #[test]
    fn connections_are_limited_per_network_and_in_all() {
        let limit = ConnectionLimit::default();
        let here = ip("192.0.2.7");
        let mut held: Vec<_> =
            (0..CONNECTIONS_PER_NETWORK).map(|_| limit.take(here).unwrap()).collect();
        assert!(limit.take(here).is_none());
        held.extend((held.len()..CONNECTIONS_MAX).map(|_| limit.take(ip("::1")).unwrap()));
        assert!(limit.take(ip("::1")).is_none());
        drop(held);
        assert!(limit.take(here).is_some());
        assert!(limit.counts.lock().unwrap().by_network.is_empty());
    }

    #[test]
    fn trusted_proxy_may_have_more_connections_than_one_network() {
        let limit = ConnectionLimit::default();
        let proxy = ip("10.0.0.7");
        limit.set_trusted(TrustedProxies::parse(&["10.0.0.0/8".to_owned()]).unwrap());
        let mut held: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| limit.take(proxy).expect("the total is the limit"))
            .collect();
        assert!(limit.take(proxy).is_none(), "the total counts");
        limit.set_trusted(TrustedProxies::default());
        held.truncate(1);
        held.extend((0..CONNECTIONS_PER_NETWORK).map(|_| limit.take(proxy).unwrap()));
        assert!(limit.take(proxy).is_none(), "a reload ended the trust");
        drop(held);
        assert!(limit.counts.lock().unwrap().by_network.is_empty());
    }
}
