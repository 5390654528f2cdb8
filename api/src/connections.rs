//! Open connections: how many there may be, which of them are idle, and which one gives way to a new one.
//!
//! A connection is idle while it has no request. When all places are taken, or all of a client network, the one
//! that was idle longest is closed and its place given away; a new connection is refused when none is idle.
//! Pure but for its lock; the clock is an argument. `server.rs` asks for places, `activity.rs` says when a
//! connection is idle, `metrics.rs` shows the counters.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use weir_sfu::client_network::client_network;

use crate::trusted_proxies::TrustedProxies;

/// Maximum connections of one client network; for one more the longest idle of the network is closed, and if
/// none is idle the new one is answered 503 and closed (quality B2).
pub const CONNECTIONS_PER_NETWORK: usize = 1_024;
/// Maximum connections of the server; for one more the longest idle is closed, and if none is idle the new one
/// is answered 503 and closed (quality B2).
pub const CONNECTIONS_MAX: usize = 10_000;

/// Why the server closed a connection or refused it: the label of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// No place was free and no connection idle.
    Refused,
    /// It was the longest idle one when a place was needed.
    Evicted,
    /// It sent no request in time.
    Silent,
    /// It had no request for too long.
    Idle,
    /// Its client took nothing of a response for too long, or not all of it in time.
    Stalled,
    /// It sent too many bytes that belong to no request.
    Flood,
}

impl Closed {
    /// Every reason, in the order of the metric.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Evicted, Self::Silent, Self::Idle, Self::Stalled, Self::Flood];

    /// The `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Evicted => "evicted",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Flood => "flood",
        }
    }
}

/// Limits of open connections. Cheap to clone; clones count the same connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    table: Arc<Mutex<Table>>,
    max: usize,
    per_network: usize,
}

#[derive(Debug, Default)]
struct Table {
    trusted: TrustedProxies,
    last: u64,
    open: HashMap<u64, Connection>,
    by_network: HashMap<IpAddr, Network>,
    /// Idle connections, the longest idle first.
    idle: BTreeSet<(Instant, u64)>,
    closed: [u64; Closed::ALL.len()],
}

/// Connections of one client network.
#[derive(Debug, Default)]
struct Network {
    open: usize,
    /// As in [`Table`].
    idle: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Connection {
    network: Option<IpAddr>,
    /// Since when it is idle; none while it has a request.
    idle_since: Option<Instant>,
    evicted: Arc<Notify>,
}

/// Place of one open connection; returned when dropped, unless it was given away.
#[derive(Debug)]
pub struct Place {
    limit: ConnectionLimit,
    id: u64,
    evicted: Arc<Notify>,
}

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self::new(CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK)
    }
}

impl ConnectionLimit {
    /// Limits of other sizes, for tests.
    pub fn new(max: usize, per_network: usize) -> Self {
        Self { table: Arc::default(), max, per_network }
    }

    /// Lets these proxies have more connections than one network may, from now on.
    pub fn set_trusted(&self, proxies: TrustedProxies) {
        self.lock().trusted = proxies;
    }

    /// A place for a connection from `peer`, which is idle from `now` on, and whether another one had to
    /// give way. None when no place is free and no connection idle.
    pub fn take(&self, peer: IpAddr, now: Instant) -> Option<(Place, bool)> {
        let mut table = self.lock();
        let network = client_network(peer).filter(|_| !table.trusted.contains(peer));
        let here = network.and_then(|network| table.by_network.get(&network));
        let full = match here {
            Some(here) if here.open >= self.per_network => Some(&here.idle),
            _ => (table.open.len() >= self.max).then_some(&table.idle),
        };
        let found = full.map(|idle| idle.first().map(|(_, id)| *id));
        match found {
            Some(Some(id)) => table.evict(id),
            Some(None) => {
                table.count(Closed::Refused);
                return None;
            }
            None => {}
        }
        table.last += 1;
        let (id, evicted) = (table.last, Arc::new(Notify::new()));
        if let Some(network) = network {
            table.by_network.entry(network).or_default().open += 1;
        }
        let connection = Connection { network, idle_since: None, evicted: evicted.clone() };
        table.open.insert(id, connection);
        table.set_idle(id, Some(now));
        Some((Place { limit: self.clone(), id, evicted }, found.is_some()))
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    /// Counts a connection that the server closed.
    pub fn count(&self, closed: Closed) {
        self.lock().count(closed);
    }

    /// Connections that were closed or refused since the start, by label, every label included.
    pub fn closed(&self) -> Vec<(&'static str, u64)> {
        let closed = self.lock().closed;
        Closed::ALL.iter().map(|reason| reason.label()).zip(closed).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn evict(&mut self, id: u64) {
        if let Some(connection) = self.remove(id) {
            connection.evicted.notify_one();
            self.count(Closed::Evicted);
        }
    }

    fn set_idle(&mut self, id: u64, since: Option<Instant>) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        let before = std::mem::replace(&mut connection.idle_since, since);
        let here = connection.network.and_then(|network| self.by_network.get_mut(&network));
        for idle in [Some(&mut self.idle), here.map(|here| &mut here.idle)].into_iter().flatten() {
            if let Some(before) = before {
                idle.remove(&(before, id));
            }
            if let Some(since) = since {
                idle.insert((since, id));
            }
        }
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        self.set_idle(id, None);
        let connection = self.open.remove(&id)?;
        if let Some(network) = connection.network
            && let Some(here) = self.by_network.get_mut(&network)
        {
            here.open -= 1;
            if here.open == 0 {
                self.by_network.remove(&network);
            }
        }
        Some(connection)
    }

    fn count(&mut self, closed: Closed) {
        if let Some(count) = self.closed.get_mut(closed as usize) {
            *count += 1;
        }
    }
}

impl Place {
    /// Marks the connection as idle since then, or as one that has a request.
    pub fn set_idle(&self, since: Option<Instant>) {
        self.limit.lock().set_idle(self.id, since);
    }

    /// Counts that the server closes the connection.
    pub fn count(&self, closed: Closed) {
        self.limit.count(closed);
    }

    /// Resolves when the place was given to another connection.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn is_evicted(place: &Place) -> bool {
        let mut evicted = std::pin::pin!(place.evicted());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(evicted.as_mut(), &mut cx).is_ready()
    }

    #[test]
    fn busy_connections_are_limited_per_network_and_in_all() {
        let (limit, now) = (ConnectionLimit::default(), Instant::now());
        let busy = |peer| {
            let (place, _) = limit.take(peer, now)?;
            place.set_idle(None);
            Some(place)
        };
        let mut held: Vec<_> = (0..CONNECTIONS_PER_NETWORK).map(|_| busy(HERE).unwrap()).collect();
        assert!(busy(HERE).is_none());
        held.extend((held.len()..CONNECTIONS_MAX).map(|_| busy(LOOPBACK).unwrap()));
        assert!(busy(LOOPBACK).is_none());
        assert_eq!(limit.closed()[0], ("refused", 2));
        drop(held);
        assert!(busy(HERE).is_some());
        let table = limit.lock();
        assert!(table.by_network.is_empty() && table.idle.is_empty() && table.open.is_empty());
    }

    #[test]
    fn the_longest_idle_of_all_gives_way_when_all_places_are_taken() {
        let (limit, start) = (ConnectionLimit::default(), Instant::now());
        let at = |ms: usize| start + Duration::from_millis(ms as u64);
        let mut held: Vec<_> =
            (0..CONNECTIONS_MAX).map(|n| limit.take(LOOPBACK, at(n)).unwrap().0).collect();
        held[0].set_idle(None);
        held[1].set_idle(None);
        held[1].set_idle(Some(at(CONNECTIONS_MAX)));
        let (new, displaced) = limit.take(HERE, at(CONNECTIONS_MAX + 1)).unwrap();
        assert!(displaced);
        let evicted: Vec<_> = (0..held.len()).filter(|n| is_evicted(&held[*n])).collect();
        assert_eq!(evicted, [2], "0 has a request, 1 had one later");
        assert_eq!(limit.open(), CONNECTIONS_MAX);
        // An evicted connection ends later and does not give back a place that it has not any more.
        drop(held.remove(2));
        assert_eq!(limit.open(), CONNECTIONS_MAX);
        drop(new);
        assert_eq!(limit.open(), CONNECTIONS_MAX - 1);
    }

    #[test]
    fn a_network_with_all_its_places_gives_way_to_itself_alone() {
        let (limit, start) = (ConnectionLimit::default(), Instant::now());
        let (other, _) = limit.take(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 6)), start).unwrap();
        let later = start + Duration::from_millis(1);
        let held: Vec<_> =
            (0..CONNECTIONS_PER_NETWORK).map(|_| limit.take(HERE, later).unwrap().0).collect();
        let next = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8));
        let (third, _) = limit.take(next, start).unwrap();
        let (new, _) = limit.take(HERE, later).unwrap();
        assert!(is_evicted(&held[0]) && !is_evicted(&other) && !is_evicted(&third));
        held.iter().chain([&new]).for_each(|place| place.set_idle(None));
        assert!(limit.take(HERE, later).is_none(), "none of its own is idle");
        assert!(limit.take(next, later).is_some());
    }

    #[test]
    fn trusted_proxy_may_have_more_connections_than_one_network() {
        let (limit, now) = (ConnectionLimit::default(), Instant::now());
        let busy = || {
            let (place, _) = limit.take(HERE, now)?;
            place.set_idle(None);
            Some(place)
        };
        limit.set_trusted(TrustedProxies::parse(&["192.0.2.0/24".to_owned()]).unwrap());
        let mut held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| busy().unwrap()).collect();
        assert!(busy().is_none(), "the total counts");
        limit.set_trusted(TrustedProxies::default());
        held.truncate(1);
        held.extend((0..CONNECTIONS_PER_NETWORK).map(|_| busy().unwrap()));
        assert!(busy().is_none(), "a reload ended the trust");
        drop(held);
        assert!(limit.lock().by_network.is_empty());
    }

    #[test]
    fn labels_are_unique_and_in_order() {
        assert!(Closed::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
        let labels: BTreeSet<_> = Closed::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Closed::ALL.len());
    }
}
