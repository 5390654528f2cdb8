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
use crate::events::Wanted;

/// Event streams of one session, open ones and addresses each; one more is refused with 429.
pub const STREAMS_PER_SESSION: usize = 4;
/// Event streams in all, open ones and addresses each; one more is refused with 503.
pub const STREAMS_MAX: usize = 2_000;

/// Who listens, and the addresses that were given out. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Listeners(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionId, Listening>,
    open: usize,
    subscriptions: usize,
}

#[derive(Debug, Default)]
struct Listening {
    open: usize,
    last: u32,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    number: u32,
    wanted: Wanted,
    /// Dropped with it, which ends the streams that are open there.
    alive: watch::Sender<()>,
}

/// The right to one open stream; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    listeners: Listeners,
    id: SessionId,
}

/// Why there is no room for one more event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This session has as many as it may.
    Session,
    /// The server has.
    Server,
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::Session => {
                let detail = format!("a session has at most {STREAMS_PER_SESSION} event streams");
                Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1)
            }
            Full::Server => {
                let detail = "too many event streams are open; ask again later";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
            }
        }
    }
}

impl Listeners {
    /// Gives out an address for these events. Those of sessions that are not `live` any more make room.
    ///
    /// # Errors
    /// [`Full`].
    pub fn subscribe(
        &self,
        id: SessionId,
        wanted: Wanted,
        live: impl Fn(SessionId) -> bool,
    ) -> Result<u32, Full> {
        let mut table = self.lock();
        if table.subscriptions >= STREAMS_MAX {
            for (id, listening) in &mut table.sessions {
                if !live(*id) {
                    listening.subscriptions.clear();
                }
            }
            table.sessions.retain(|_, listening| !listening.is_unused());
            table.subscriptions = table.sessions.values().map(|l| l.subscriptions.len()).sum();
        }
        if table.subscriptions >= STREAMS_MAX {
            return Err(Full::Server);
        }
        let listening = table.sessions.entry(id).or_default();
        if listening.subscriptions.len() >= STREAMS_PER_SESSION {
            return Err(Full::Session);
        }
        listening.last = listening.last.wrapping_add(1);
        let number = listening.last;
        let alive = watch::channel(()).0;
        listening.subscriptions.push(Subscription { number, wanted, alive });
        table.subscriptions += 1;
        Ok(number)
    }

    /// What was asked for at an address, and a receiver that closes when it is deleted.
    pub fn find(&self, id: SessionId, number: u32) -> Option<(Wanted, watch::Receiver<()>)> {
        let table = self.lock();
        let mut subscriptions = table.sessions.get(&id)?.subscriptions.iter();
        let found = subscriptions.find(|subscription| subscription.number == number)?;
        Some((found.wanted, found.alive.subscribe()))
    }

    /// Takes an address back; false if it was not given out.
    pub fn remove(&self, id: SessionId, number: u32) -> bool {
        let mut table = self.lock();
        let Some(listening) = table.sessions.get_mut(&id) else { return false };
        let before = listening.subscriptions.len();
        listening.subscriptions.retain(|subscription| subscription.number != number);
        let removed = before - listening.subscriptions.len();
        let unused = listening.is_unused();
        if unused {
            table.sessions.remove(&id);
        }
        table.subscriptions -= removed;
        removed > 0
    }

    /// The right to open a stream.
    ///
    /// # Errors
    /// [`Full`].
    pub fn open(&self, id: SessionId) -> Result<Seat, Full> {
        let mut table = self.lock();
        if table.open >= STREAMS_MAX {
            return Err(Full::Server);
        }
        let listening = table.sessions.entry(id).or_default();
        if listening.open >= STREAMS_PER_SESSION {
            return Err(Full::Session);
        }
        listening.open += 1;
        table.open += 1;
        Ok(Seat { listeners: self.clone(), id })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    fn is_unused(&self) -> bool {
        self.open == 0 && self.subscriptions.is_empty()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.listeners.lock();
        table.open -= 1;
        if let Some(listening) = table.sessions.get_mut(&self.id) {
            listening.open -= 1;
            if listening.is_unused() {
                table.sessions.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_at_the_limits_and_come_back() {
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
    fn addresses_end_at_the_limits_and_the_dead_make_room() {
        let listeners = Listeners::default();
        let subscribe = |id, live| listeners.subscribe(SessionId(id), Wanted::ALL, |_| live);
        let sessions = (STREAMS_MAX / STREAMS_PER_SESSION) as u64;
        for id in 0..sessions {
            for number in 1..=STREAMS_PER_SESSION as u32 {
                assert_eq!(subscribe(id, true), Ok(number));
            }
        }
        assert_eq!(subscribe(sessions, true), Err(Full::Server));
        assert!(listeners.remove(SessionId(1), 2) && !listeners.remove(SessionId(1), 2));
        assert_eq!(subscribe(0, true), Err(Full::Session));
        assert_eq!(subscribe(1, true), Ok(5), "a number is not used again");
        assert!(listeners.find(SessionId(1), 2).is_none());
        assert_eq!(subscribe(sessions, false), Ok(1), "all others are over");
        assert_eq!(listeners.lock().subscriptions, 1);
    }
}
