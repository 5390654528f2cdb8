//! Open connections: how many there may be, which of them are idle, and which one gives way to a new one.
//!
//! A connection is idle while it has no request. When all places are taken, or all of a client network, the one
//! that was idle longest is closed and its place given away. When none is idle, one goes that only waits for its
//! client, for [`WAITING_MIN`] or longer: of the network with the most of these, the one that waits longest. A new
//! connection is refused when there is none of these either. The memory of all requests has a limit too: for more
//! of it the connection that waits longest gives way, of the network whose requests hold most.
//! Pure but for its lock; the clock is an argument. `server.rs` asks for places, `activity.rs` says when a
//! connection is idle, `metrics.rs` shows the counters.

use std::cmp::Reverse;
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
/// A network with this many times the connections of a newcomer's network gives way without [`WAITING_MIN`]:
/// otherwise requests that are renewed in time would hold all places.
pub const HEAVIER: usize = 8;
/// Maximum memory of all requests in bytes, as `activity.rs` counts it. For more a connection with a request that
/// waits for its client gives way; if there is none, the request is answered 503.
pub const REQUEST_MEMORY_MAX: usize = 128 * 1024 * 1024;
/// The same for the connections of one client network; for more one of the network gives way.
pub const REQUEST_MEMORY_PER_NETWORK: usize = REQUEST_MEMORY_MAX / 8;
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
    /// A request of it waited for its client when memory for another request was needed.
    EvictedMemory,
    /// It sent no request in time, or not the whole head of one.
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
    pub const ALL: [Self; 8] = [
        Self::Refused,
        Self::Evicted,
        Self::EvictedWaiting,
        Self::EvictedMemory,
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
            Self::EvictedMemory => "evicted_memory",
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
    /// A request waits for its client since then, and the server works on another, or the client listens to an
    /// event stream.
    PartlyWaiting(Instant),
    /// The server works on every request, or the client listens to event streams.
    Busy,
}

/// Why a request is refused before its handler sees it: the label of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The requests of its connection have too many bytes of headers together.
    Headers,
    /// Requests hold all the memory that they may, and none waits for its client.
    Memory,
}

impl NoRoom {
    /// Every reason, in the order of the metric.
    pub const ALL: [Self; 2] = [Self::Headers, Self::Memory];

    /// The `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Memory => "memory",
        }
    }
}

/// Limits of open connections. Cheap to clone; clones count the same connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<Mutex<Table>>);

#[derive(Debug, Clone, Copy)]
struct MemoryLimits {
    all: usize,
    per_network: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { all: REQUEST_MEMORY_MAX, per_network: REQUEST_MEMORY_PER_NETWORK }
    }
}

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
    memory: MemoryLimits,
    /// Memory of all requests.
    held: usize,
    closed: [u64; Closed::ALL.len()],
    refused: [u64; NoRoom::ALL.len()],
}

/// Connections of one client network.
#[derive(Debug, Default)]
struct Network {
    open: usize,
    /// Memory of its requests.
    held: usize,
    /// As in [`Table`].
    idle: BTreeSet<(Instant, u64)>,
    /// Those that wait for their client, the longest first.
    waiting: BTreeSet<(Instant, u64)>,
    /// Those with a request that waits and another that does not.
    partly_waiting: BTreeSet<(Instant, u64)>,
}

impl Network {
    /// The connection that waits longest, if that is long enough, for a newcomer of a network that has `here`
    /// connections.
    fn overdue(&self, here: usize, now: Instant) -> Option<(Instant, u64)> {
        let first = self.waiting.first().copied();
        let is_heavier = self.open >= HEAVIER * (here + 1);
        first
            .filter(|(since, _)| is_heavier || now.saturating_duration_since(*since) >= WAITING_MIN)
    }

    /// The connection that gives way when memory is needed.
    fn first_waiting(&self) -> Option<u64> {
        self.waiting.first().or_else(|| self.partly_waiting.first()).map(|(_, id)| *id)
    }
}

#[derive(Debug)]
struct Connection {
    network: Option<IpAddr>,
    uses: Use,
    held: usize,
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

    /// The same with other limits of memory, for tests.
    pub fn with_memory(self, all: usize, per_network: usize) -> Self {
        self.lock().memory = MemoryLimits { all, per_network };
        self
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
        let displaced =
            match here.filter(|here| network.is_some() && here.open >= table.per_network) {
                Some(here) => {
                    let idle = here.idle.first().copied();
                    Some(idle.or_else(|| here.overdue(here.open, now)).map(|(_, id)| id))
                }
                None if is_full => Some(table.to_give_way(here.map_or(0, |here| here.open), now)),
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
        let connection = Connection { network, uses: Use::Busy, held: 0, evicted: evicted.clone() };
        table.open.insert(id, connection);
        table.set(id, Use::Idle(now));
        Some((Place { limit: self.clone(), id, evicted }, displaced.is_some()))
    }

    /// Closes the connection that would give way to a new one: there is no file for another. False if there
    /// is none.
    pub fn make_room(&self, now: Instant) -> bool {
        let mut table = self.lock();
        // Nobody knows of which network the next one is: none counts as heavier.
        let id = table.to_give_way(table.open.len(), now);
        id.inspect(|id| table.evict(*id)).is_some()
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    /// Memory that the requests of all connections hold, in bytes.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    /// Counts a connection that the server closed.
    pub fn count(&self, closed: Closed) {
        self.lock().count(closed);
    }

    /// Requests that were refused since the start before their handler saw them, by label, every label included.
    pub fn requests_refused(&self) -> Vec<(&'static str, u64)> {
        let refused = self.lock().refused;
        NoRoom::ALL.iter().map(|reason| reason.label()).zip(refused).collect()
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
    /// The connection that is to give way to one of a network that has `here` connections.
    fn to_give_way(&self, here: usize, now: Instant) -> Option<u64> {
        let idle = self.idle.first();
        let is_long = |since: Instant| now.saturating_duration_since(since) >= IDLE_MIN;
        let long_idle = idle.filter(|(since, _)| is_long(*since)).map(|(_, id)| *id);
        long_idle.or_else(|| self.overdue(here, now)).or_else(|| idle.map(|(_, id)| *id))
    }

    /// The connection that waits longest for its client, of the network with the most of these, for a newcomer of
    /// a network that has `here` connections.
    fn overdue(&self, here: usize, now: Instant) -> Option<u64> {
        let overdue = |network: &Network| {
            let (since, id) = network.overdue(here, now)?;
            Some((network.waiting.len(), Reverse(since), id))
        };
        self.by_network.values().filter_map(overdue).max().map(|(_, _, id)| id)
    }

    fn evict(&mut self, id: u64) {
        if let Some(connection) = self.remove(id) {
            connection.evicted.notify_one();
            self.count(match connection.uses {
                Use::Idle(_) | Use::Busy => Closed::Evicted,
                Use::Waiting(_) | Use::PartlyWaiting(_) => Closed::EvictedWaiting,
            });
        }
    }

    /// Counts memory of a request, for which others may have to give way. False if there is none: the request is to
    /// be refused, or its connection gave way itself.
    fn hold(&mut self, id: u64, bytes: usize) -> bool {
        let limits = self.memory;
        loop {
            let Some(connection) = self.open.get_mut(&id) else { return false };
            let network = connection.network;
            let Some(here) = self.by_network.get_mut(&network) else { return false };
            let gives_way = if network.is_some() && here.held + bytes > limits.per_network {
                here.first_waiting()
            } else if self.held + bytes > limits.all {
                let first = |network: &Network| Some((network.held, network.first_waiting()?));
                self.by_network.values().filter_map(first).max().map(|(_, id)| id)
            } else {
                here.held += bytes;
                connection.held += bytes;
                self.held += bytes;
                return true;
            };
            let Some(connection) = gives_way.and_then(|id| self.remove(id)) else { return false };
            connection.evicted.notify_one();
            self.count(Closed::EvictedMemory);
        }
    }

    fn release(&mut self, id: u64, bytes: usize) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        connection.held -= bytes;
        self.held -= bytes;
        if let Some(here) = self.by_network.get_mut(&connection.network) {
            here.held -= bytes;
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
            Use::PartlyWaiting(since) => drop(here.partly_waiting.remove(&(since, id))),
            Use::Busy => {}
        }
        match uses {
            Use::Idle(since) => {
                self.idle.insert((since, id));
                here.idle.insert((since, id));
            }
            Use::Waiting(since) => drop(here.waiting.insert((since, id))),
            Use::PartlyWaiting(since) => drop(here.partly_waiting.insert((since, id))),
            Use::Busy => {}
        }
    }

    /// Takes a connection out; it still says what it was used for.
    fn remove(&mut self, id: u64) -> Option<Connection> {
        let uses = self.open.get(&id)?.uses;
        self.set(id, Use::Busy);
        let connection = self.open.remove(&id)?;
        self.held -= connection.held;
        if let Some(here) = self.by_network.get_mut(&connection.network) {
            here.open -= 1;
            here.held -= connection.held;
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

    /// Counts memory of a request of the connection, for which others may have to give way. False if there is
    /// none.
    pub fn hold(&self, bytes: usize) -> bool {
        self.limit.lock().hold(self.id, bytes)
    }

    /// Gives back memory that [`Self::hold`] counted.
    pub fn release(&self, bytes: usize) {
        self.limit.lock().release(self.id, bytes);
    }

    /// Counts that a request is refused.
    pub fn refuse(&self, reason: NoRoom) {
        if let Some(count) = self.limit.lock().refused.get_mut(reason as usize) {
            *count += 1;
        }
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
mod tests;
