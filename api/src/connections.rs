//! Open connections: how many there may be, which of them are idle, and which one gives way to a new one.
//!
//! A connection is idle while it has no request. When all places are taken, or all of a client network, the one
//! that was idle longest is closed and its place given away. When none is idle, one goes that only waits for its
//! client, for [`WAITING_MIN`] or longer: of the network with the most of these, the one that waits longest. A new
//! connection is refused when there is none of these either.
//! Pure but for its lock; the clock is an argument. `server.rs` asks for places, `activity.rs` says when a
//! connection is idle, `metrics.rs` shows the counters.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weir_sfu::client_network::client_network;

use crate::trusted_proxies::TrustedProxies;

/// Time after which a connection that only waits for its client gives way, if none is idle.
pub const WAITING_MIN: Duration = Duration::from_secs(2);
/// Time for which a new or idle connection is left alone, as long as there are others to give way: a client that
/// has just connected is about to ask.
pub const IDLE_MIN: Duration = Duration::from_millis(500);
/// Maximum connections of one client network; for one more the longest idle of the network is closed, and if
/// none is to give way the new one is answered 503 and closed (quality B2).
pub const CONNECTIONS_PER_NETWORK: usize = 1_024;
/// Maximum connections of the server; for one more the longest idle is closed, and if none is to give way the
/// new one is answered 503 and closed (quality B2).
pub const CONNECTIONS_MAX: usize = 10_000;

/// Open files that stay free for media, the log and the configuration, or half of all if that is less.
const RESERVED_FILES: u64 = 128;

/// Places in all and per client network, of a process that may open so many files: [`CONNECTIONS_MAX`] and
/// [`CONNECTIONS_PER_NETWORK`], or as many as there are files, and an eighth of these.
pub fn places(open_files: Option<u64>) -> (usize, usize) {
    let free = open_files.map(|files| files.saturating_sub(RESERVED_FILES.min(files / 2)));
    let free = free.and_then(|free| usize::try_from(free).ok()).unwrap_or(usize::MAX);
    match free < CONNECTIONS_MAX {
        true => (free, (free / 8).clamp(1, CONNECTIONS_PER_NETWORK)),
        false => (CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK),
    }
}

/// Why the server closed a connection or refused it: the label of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// No place was free, and no connection was to give way.
    Refused,
    /// It was the longest idle one when a place was needed.
    Evicted,
    /// It only waited for its client when a place was needed.
    EvictedWaiting,
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
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Evicted,
        Self::EvictedWaiting,
        Self::Silent,
        Self::Idle,
        Self::Stalled,
        Self::Flood,
    ];

    /// The `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Evicted => "evicted",
            Self::EvictedWaiting => "evicted_waiting",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Flood => "flood",
        }
    }
}

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It has no request, since then.
    Idle(Instant),
    /// All its requests wait for their client, since then.
    Waiting(Instant),
    /// The server works on a request, or the client listens to an event stream.
    Busy,
}

/// Limits of open connections. Cheap to clone; clones count the same connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    max: usize,
    per_network: usize,
    trusted: TrustedProxies,
    last: u64,
    open: HashMap<u64, Connection>,
    /// Connections of each client network; those without one are together under `None`.
    by_network: HashMap<Option<IpAddr>, Network>,
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
    /// Those that wait for their client, the longest first.
    waiting: BTreeSet<(Instant, u64)>,
}

impl Network {
    /// The connection that waits longest, if that is long enough.
    fn overdue(&self, now: Instant) -> Option<u64> {
        let (since, id) = self.waiting.first()?;
        (now.saturating_duration_since(*since) >= WAITING_MIN).then_some(*id)
    }
}

#[derive(Debug)]
struct Connection {
    network: Option<IpAddr>,
    uses: Use,
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
    /// So many connections in all and per client network.
    pub fn new(max: usize, per_network: usize) -> Self {
        Self(Arc::new(Mutex::new(Table { max, per_network, ..Table::default() })))
    }

    /// Changes the limits, for connections from now on.
    pub fn set_places(&self, max: usize, per_network: usize) {
        let mut table = self.lock();
        (table.max, table.per_network) = (max, per_network);
    }

    /// Lets these proxies have more connections than one network may, from now on.
    pub fn set_trusted(&self, proxies: TrustedProxies) {
        self.lock().trusted = proxies;
    }

    /// A place for a connection from `peer`, which is idle from `now` on, and whether another one had to
    /// give way. None when no place is free and no connection is to give way.
    pub fn take(&self, peer: IpAddr, now: Instant) -> Option<(Place, bool)> {
        let mut table = self.lock();
        let network = client_network(peer).filter(|_| !table.trusted.contains(peer));
        let is_full = table.open.len() >= table.max;
        let here = table.by_network.get(&network);
        let displaced = match here
            .filter(|here| network.is_some() && here.open >= table.per_network)
        {
            Some(here) => Some(here.idle.first().map(|(_, id)| *id).or_else(|| here.overdue(now))),
            None if is_full => Some(table.to_give_way(now)),
            None => None,
        };
        match displaced {
            Some(Some(id)) => table.evict(id),
            Some(None) => {
                table.count(Closed::Refused);
                return None;
            }
            None => {}
        }
        table.last += 1;
        let (id, evicted) = (table.last, Arc::new(Notify::new()));
        table.by_network.entry(network).or_default().open += 1;
        let connection = Connection { network, uses: Use::Busy, evicted: evicted.clone() };
        table.open.insert(id, connection);
        table.set(id, Use::Idle(now));
        Some((Place { limit: self.clone(), id, evicted }, displaced.is_some()))
    }

    /// Closes the connection that would give way to a new one: there is no file for another. False if there
    /// is none.
    pub fn make_room(&self, now: Instant) -> bool {
        let mut table = self.lock();
        let id = table.to_give_way(now);
        id.inspect(|id| table.evict(*id)).is_some()
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The connection that is to give way to one of whatever network.
    fn to_give_way(&self, now: Instant) -> Option<u64> {
        let idle = self.idle.first();
        let is_long = |since: Instant| now.saturating_duration_since(since) >= IDLE_MIN;
        let long_idle = idle.filter(|(since, _)| is_long(*since)).map(|(_, id)| *id);
        long_idle.or_else(|| self.overdue(now)).or_else(|| idle.map(|(_, id)| *id))
    }

    /// The connection that waits longest for its client, of the network with the most of these.
    fn overdue(&self, now: Instant) -> Option<u64> {
        let overdue = |network: &Network| Some((network.waiting.len(), network.overdue(now)?));
        let (_, id) = self.by_network.values().filter_map(overdue).max()?;
        Some(id)
    }

    fn evict(&mut self, id: u64) {
        if let Some(connection) = self.remove(id) {
            connection.evicted.notify_one();
            self.count(match connection.uses {
                Use::Idle(_) | Use::Busy => Closed::Evicted,
                Use::Waiting(_) => Closed::EvictedWaiting,
            });
        }
    }

    fn set(&mut self, id: u64, uses: Use) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        let before = std::mem::replace(&mut connection.uses, uses);
        let Some(here) = self.by_network.get_mut(&connection.network) else { return };
        match before {
            Use::Idle(since) => {
                self.idle.remove(&(since, id));
                here.idle.remove(&(since, id));
            }
            Use::Waiting(since) => drop(here.waiting.remove(&(since, id))),
            Use::Busy => {}
        }
        match uses {
            Use::Idle(since) => {
                self.idle.insert((since, id));
                here.idle.insert((since, id));
            }
            Use::Waiting(since) => drop(here.waiting.insert((since, id))),
            Use::Busy => {}
        }
    }

    /// Takes a connection out; it still says what it was used for.
    fn remove(&mut self, id: u64) -> Option<Connection> {
        let uses = self.open.get(&id)?.uses;
        self.set(id, Use::Busy);
        let connection = self.open.remove(&id)?;
        if let Some(here) = self.by_network.get_mut(&connection.network) {
            here.open -= 1;
            if here.open == 0 {
                self.by_network.remove(&connection.network);
            }
        }
        Some(Connection { uses, ..connection })
    }

    fn count(&mut self, closed: Closed) {
        if let Some(count) = self.closed.get_mut(closed as usize) {
            *count += 1;
        }
    }
}

impl Place {
    /// Notes what the connection is used for from now on.
    pub fn set(&self, uses: Use) {
        self.limit.lock().set(self.id, uses);
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
            place.set(Use::Busy);
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
        held[0].set(Use::Busy);
        held[1].set(Use::Busy);
        held[1].set(Use::Idle(at(CONNECTIONS_MAX)));
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
        held.iter().chain([&new]).for_each(|place| place.set(Use::Busy));
        assert!(limit.take(HERE, later).is_none(), "none of its own is idle");
        assert!(limit.take(next, later).is_some());
    }

    /// Many networks fill all places with requests whose bodies never come.
    #[test]
    fn connection_that_only_waits_for_its_client_gives_way_after_two_seconds() {
        let (limit, start) = (ConnectionLimit::default(), Instant::now());
        let peer = |n: usize| IpAddr::V4(Ipv4Addr::new(198, 51, 100, n as u8));
        let mut held = Vec::new();
        for n in 0..CONNECTIONS_MAX {
            // Networks 0 to 8 have 1,000 each, 9 has 999, and 10 has one.
            let network = if n == CONNECTIONS_MAX - 1 { 10 } else { n / 1_000 };
            let (place, _) = limit.take(peer(network), start).unwrap();
            let since =
                if n == 5_500 { Duration::ZERO } else { Duration::from_millis(n as u64 + 1) };
            place.set(Use::Waiting(start + since));
            held.push(place);
        }
        let at = |ms| start + WAITING_MIN + Duration::from_millis(ms);
        let one_ms_early = at(0) - Duration::from_millis(1);
        assert!(limit.take(HERE, one_ms_early).is_none());
        let (first, displaced) = limit.take(HERE, at(0)).unwrap();
        assert!(displaced && is_evicted(&held[5_500]), "the one that waits longest");
        first.set(Use::Busy);
        // A connection that has just come is not the one to go, although no other is idle.
        let (new, _) = limit.take(LOOPBACK, at(19_900)).unwrap();
        let (second, _) = limit.take(HERE, at(20_000)).unwrap();
        assert!(!is_evicted(&new));
        new.set(Use::Busy);
        let evicted: Vec<_> = (0..held.len()).filter(|n| is_evicted(&held[*n])).collect();
        assert!(evicted.iter().all(|n| n % 1_000 < 2 && *n < 9_000), "{evicted:?}");
        assert_eq!(evicted.len(), 2);
        second.set(Use::Busy);
        for _ in 0..200 {
            limit.take(HERE, at(20_000)).unwrap().0.set(Use::Busy);
        }
        assert!(!is_evicted(&held[CONNECTIONS_MAX - 1]), "its network has no other");
        held.iter().for_each(|place| place.set(Use::Busy));
        assert!(limit.take(HERE, at(30_000)).is_some(), "the places of those before are free");
        let closed = limit.closed();
        assert_eq!(closed[0], ("refused", 1));
        assert_eq!(closed[2].0, "evicted_waiting");
        drop((held, first, second, new));
        assert!(limit.lock().by_network.is_empty() && limit.lock().open.is_empty());
    }

    #[test]
    fn trusted_proxy_may_have_more_connections_than_one_network() {
        let (limit, now) = (ConnectionLimit::default(), Instant::now());
        let busy = || {
            let (place, _) = limit.take(HERE, now)?;
            place.set(Use::Busy);
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
    fn places_follow_the_limit_of_open_files() {
        for (files, wanted) in [
            (None, (10_000, 1_024)),
            (Some(1_048_576), (10_000, 1_024)),
            (Some(10_128), (10_000, 1_024)),
            (Some(10_127), (9_999, 1_024)),
            (Some(1_024), (896, 112)),
            (Some(64), (32, 4)),
            (Some(0), (0, 1)),
        ] {
            assert_eq!(places(files), wanted, "{files:?}");
        }
    }

    #[test]
    fn connection_gives_way_when_there_is_no_file_for_another() {
        let (limit, now) = (ConnectionLimit::default(), Instant::now());
        assert!(!limit.make_room(now));
        let [busy, idle] = [0, 1].map(|_| limit.take(HERE, now).unwrap().0);
        busy.set(Use::Busy);
        assert!(limit.make_room(now) && is_evicted(&idle) && !is_evicted(&busy));
        assert!(!limit.make_room(now), "none is idle or waited for");
        limit.set_places(2, 2);
        let more = [0, 1].map(|_| limit.take(HERE, now));
        assert!(more[0].is_some() && more[1].as_ref().is_some_and(|(_, displaced)| *displaced));
    }

    #[test]
    fn labels_are_unique_and_in_order() {
        assert!(Closed::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
        let labels: BTreeSet<_> = Closed::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Closed::ALL.len());
    }
}
