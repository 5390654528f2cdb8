//! Event streams of viewers: how many are open, and the addresses that were given out.
//!
//! Owns the limits per session and in all. Never writes an event: `sse.rs` does, which is the only
//! caller. Pure but for its lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use tokio::sync::watch;
use weir_sfu::ids::SessionId;

use crate::error::Problem;
use crate::events::EventFilter;

/// Maximum event streams of one session: open ones, and addresses given out. One more of either is
/// refused with 429.
pub const STREAMS_PER_SESSION: usize = 4;
/// Maximum event streams of the server: open ones, and addresses given out. One more of either is
/// refused with 503. With few open files it is a quarter of the places for connections.
pub const STREAMS_MAX: usize = 2_000;

/// Event streams of all sessions. Cheap to clone; clones share the same table.
#[derive(Debug, Clone, Default)]
pub struct Listeners(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    max: usize,
    sessions: HashMap<SessionId, SessionStreams>,
    open: usize,
    subscriptions: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { max: STREAMS_MAX, sessions: HashMap::new(), open: 0, subscriptions: 0 }
    }
}

#[derive(Debug, Default)]
struct SessionStreams {
    open: usize,
    last: u32,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    number: u32,
    filter: EventFilter,
    /// Dropped with the subscription, which ends the streams that are open at its address.
    alive: watch::Sender<()>,
}

/// Permit for one open event stream; returned when dropped.
#[derive(Debug)]
pub struct StreamPermit {
    listeners: Listeners,
    id: SessionId,
}

/// Limit that refuses one more event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The session has [`STREAMS_PER_SESSION`] event streams.
    Session,
    /// The server has [`STREAMS_MAX`] event streams.
    Server,
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::Session => {
                let detail = format!(
                    "this session has {STREAMS_PER_SESSION} event streams, the most it may have; \
                     close one first"
                );
                Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1)
            }
            Full::Server => {
                let detail = "the server has as many event streams as it may have; try again later";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
            }
        }
    }
}

impl Listeners {
    /// Lets event streams have a quarter of so many places for connections at most: an open one never gives its
    /// place away.
    pub fn set_places(&self, places: usize) {
        self.lock().max = STREAMS_MAX.min(places / 4);
    }

    /// Gives out an address for these events. At the server's limit, addresses of sessions that are
    /// not `live` any more are removed first.
    ///
    /// # Errors
    /// [`Full`].
    pub fn subscribe(
        &self,
        id: SessionId,
        filter: EventFilter,
        live: impl Fn(SessionId) -> bool,
    ) -> Result<u32, Full> {
        let mut table = self.lock();
        if table.subscriptions >= table.max {
            for (id, streams) in &mut table.sessions {
                if !live(*id) {
                    streams.subscriptions.clear();
                }
            }
            table.sessions.retain(|_, streams| !streams.is_unused());
            table.subscriptions = table.sessions.values().map(|l| l.subscriptions.len()).sum();
        }
        if table.subscriptions >= table.max {
            return Err(Full::Server);
        }
        let streams = table.sessions.entry(id).or_default();
        if streams.subscriptions.len() >= STREAMS_PER_SESSION {
            return Err(Full::Session);
        }
        streams.last = streams.last.wrapping_add(1);
        let number = streams.last;
        let alive = watch::channel(()).0;
        streams.subscriptions.push(Subscription { number, filter, alive });
        table.subscriptions += 1;
        Ok(number)
    }

    /// Events of an address, and a receiver that closes when the address is deleted.
    pub fn find(&self, id: SessionId, number: u32) -> Option<(EventFilter, watch::Receiver<()>)> {
        let table = self.lock();
        let mut subscriptions = table.sessions.get(&id)?.subscriptions.iter();
        let found = subscriptions.find(|subscription| subscription.number == number)?;
        Some((found.filter, found.alive.subscribe()))
    }

    /// Deletes an address; false if it was not given out.
    pub fn remove(&self, id: SessionId, number: u32) -> bool {
        let mut table = self.lock();
        let Some(streams) = table.sessions.get_mut(&id) else { return false };
        let before = streams.subscriptions.len();
        streams.subscriptions.retain(|subscription| subscription.number != number);
        let removed = before - streams.subscriptions.len();
        let unused = streams.is_unused();
        if unused {
            table.sessions.remove(&id);
        }
        table.subscriptions -= removed;
        removed > 0
    }

    /// Permit for one more open event stream.
    ///
    /// # Errors
    /// [`Full`].
    pub fn open(&self, id: SessionId) -> Result<StreamPermit, Full> {
        let mut table = self.lock();
        if table.open >= table.max {
            return Err(Full::Server);
        }
        let streams = table.sessions.entry(id).or_default();
        if streams.open >= STREAMS_PER_SESSION {
            return Err(Full::Session);
        }
        streams.open += 1;
        table.open += 1;
        Ok(StreamPermit { listeners: self.clone(), id })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionStreams {
    fn is_unused(&self) -> bool {
        self.open == 0 && self.subscriptions.is_empty()
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut table = self.listeners.lock();
        table.open -= 1;
        if let Some(streams) = table.sessions.get_mut(&self.id) {
            streams.open -= 1;
            if streams.is_unused() {
                table.sessions.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_leave_three_quarters_of_few_places_to_others() {
        let listeners = Listeners::default();
        listeners.set_places(128);
        let held: Vec<_> = (0..32).map(|n| listeners.open(SessionId(n)).unwrap()).collect();
        assert_eq!(listeners.open(SessionId(99)).unwrap_err(), Full::Server);
        listeners.set_places(1_000_000);
        assert_eq!(listeners.lock().max, STREAMS_MAX);
        drop(held);
    }

    #[test]
    fn open_streams_are_limited_per_session_and_in_all() {
        let listeners = Listeners::default();
        let here = SessionId(0);
        let mut held: Vec<_> =
            (0..STREAMS_PER_SESSION).map(|_| listeners.open(here).unwrap()).collect();
        assert_eq!(listeners.open(here).unwrap_err(), Full::Session);
        let others = (1..).map(SessionId).flat_map(|id| [id; STREAMS_PER_SESSION]);
        let others = others.take(STREAMS_MAX - held.len());
        held.extend(others.map(|id| listeners.open(id).unwrap()));
        assert_eq!(listeners.open(SessionId(u64::MAX)).unwrap_err(), Full::Server);
        drop(held);
        assert!(listeners.open(here).is_ok());
        assert!(listeners.lock().sessions.is_empty());
    }

    #[test]
    fn addresses_are_limited_and_those_of_ended_sessions_are_removed() {
        let listeners = Listeners::default();
        let subscribe = |id, live| listeners.subscribe(SessionId(id), EventFilter::ALL, |_| live);
        let sessions = (STREAMS_MAX / STREAMS_PER_SESSION) as u64;
        for id in 0..sessions {
            for number in 1..=STREAMS_PER_SESSION as u32 {
                assert_eq!(subscribe(id, true), Ok(number));
            }
        }
        assert_eq!(subscribe(sessions, true), Err(Full::Server));
        assert!(listeners.remove(SessionId(1), 2) && !listeners.remove(SessionId(1), 2));
        assert_eq!(subscribe(0, true), Err(Full::Session));
        assert_eq!(subscribe(1, true), Ok(5), "a number is not used twice");
        assert!(listeners.find(SessionId(1), 2).is_none());
        assert_eq!(subscribe(sessions, false), Ok(1), "all other sessions have ended");
        assert_eq!(listeners.lock().subscriptions, 1);
    }
}
