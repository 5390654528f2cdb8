//! Directory of streams by name, of sessions by id, and of session URLs by their secret.
//!
//! The maps are private and every answer is a clone, so no caller can hold a guard of a map while it takes
//! another lock or awaits (the lock order is in `mod.rs`). Decides nothing and tells nobody. Used by
//! `control.rs` and the views of `Sfu`. User fragments are in `worker/lobby.rs`, which workers read too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::lock_order::{LockRank, OrderedMutex};
use super::session_entry::SessionEntry;
use super::stream_entry::{StreamEntry, StreamState};
use crate::error::CloseReason;
use crate::ids::{Role, SessionId, StreamName};
use crate::router::StreamId;

/// Streams, sessions and session URLs of the whole server.
#[derive(Default)]
pub(super) struct Directory {
    streams: DashMap<StreamName, Arc<StreamEntry>>,
    sessions: DashMap<SessionId, Arc<SessionEntry>>,
    /// Session URLs by their secret. Those of ended sessions stay for the tombstone time.
    urls: DashMap<Box<str>, SessionUrl>,
    /// Sessions that ended within the tombstone time, for operators who ask why.
    ended: DashMap<SessionId, EndedSession>,
    stream_ids: StreamIds,
}

/// Target of a session URL.
#[derive(Debug, Clone)]
pub(super) struct SessionUrl {
    pub id: SessionId,
    pub role: Role,
    pub stream: StreamName,
    /// When the session ended, and why.
    pub ended: Option<(Instant, CloseReason)>,
}

/// Record of a session that has ended.
#[derive(Debug, Clone)]
pub(super) struct EndedSession {
    pub at: Instant,
    pub reason: CloseReason,
    /// What happened in its DTLS handshake, if that failed.
    pub cause: Option<Arc<str>>,
}

impl Directory {
    /// Runs `work` on a stream under its lock. Makes the stream if there is none, and removes it again if
    /// `work` leaves it without sessions.
    pub(super) fn with_stream<T>(
        &self,
        name: &StreamName,
        work: impl FnOnce(&Arc<StreamEntry>, &mut StreamState) -> T,
    ) -> T {
        loop {
            let stream = self.find_or_make(name);
            let mut state = stream.lock();
            if state.is_retired() {
                continue;
            }
            let outcome = work(&stream, &mut state);
            self.retire_if_unused(&stream, &mut state);
            return outcome;
        }
    }

    fn find_or_make(&self, name: &StreamName) -> Arc<StreamEntry> {
        if let Some(stream) = self.stream(name) {
            return stream;
        }
        // The id is taken before the map is locked. Another thread may insert the stream meanwhile.
        let made = Arc::new(StreamEntry::new(self.stream_ids.take(), name.clone()));
        let found =
            Arc::clone(&self.streams.entry(name.clone()).or_insert_with(|| Arc::clone(&made)));
        if !Arc::ptr_eq(&made, &found) {
            self.stream_ids.give_back(made.shared.id);
        }
        found
    }

    /// Removes a stream that has no session. The caller holds its lock, so that no session can enter it
    /// meanwhile.
    pub(super) fn retire_if_unused(&self, stream: &StreamEntry, state: &mut StreamState) {
        if state.retire_if_unused() {
            self.streams.remove(&stream.shared.name);
            self.stream_ids.give_back(stream.shared.id);
        }
    }

    /// Stream of this name.
    pub(super) fn stream(&self, name: &StreamName) -> Option<Arc<StreamEntry>> {
        self.streams.get(name).map(|stream| Arc::clone(stream.value()))
    }

    /// All streams, in no order.
    pub(super) fn streams(&self) -> Vec<Arc<StreamEntry>> {
        self.streams.iter().map(|stream| Arc::clone(stream.value())).collect()
    }

    /// Number of streams.
    pub(super) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Adds a session and its URL.
    pub(super) fn add_session(&self, session: SessionEntry) {
        let stream = session.stream.shared.name.clone();
        let url = SessionUrl { id: session.id, role: session.role, stream, ended: None };
        self.urls.insert(session.secret.expose().into(), url);
        self.sessions.insert(session.id, Arc::new(session));
    }

    /// Removes a session. Its URL stays as a tombstone.
    pub(super) fn remove_session(
        &self,
        id: SessionId,
        now: Instant,
        reason: CloseReason,
    ) -> Option<Arc<SessionEntry>> {
        let (_, session) = self.sessions.remove(&id)?;
        self.end_url(&session, now, reason);
        Some(session)
    }

    /// Session of this id.
    pub(super) fn session(&self, id: SessionId) -> Option<Arc<SessionEntry>> {
        self.sessions.get(&id).map(|session| Arc::clone(session.value()))
    }

    /// All sessions, in no order.
    pub(super) fn sessions(&self) -> Vec<Arc<SessionEntry>> {
        self.sessions.iter().map(|session| Arc::clone(session.value())).collect()
    }

    /// Number of sessions.
    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Marks a session's URL as ended; the first time and its reason count.
    pub(super) fn end_url(&self, session: &SessionEntry, now: Instant, reason: CloseReason) {
        if let Some(mut url) = self.urls.get_mut(session.secret.expose()) {
            url.ended.get_or_insert((now, reason));
        }
    }

    /// Target of a URL, if its role and stream fit; also one that has ended.
    pub(super) fn url(&self, role: Role, stream: &StreamName, secret: &str) -> Option<SessionUrl> {
        let url = self.urls.get(secret)?;
        (url.role == role && url.stream == *stream).then(|| url.clone())
    }

    /// Session of a URL that has not ended, if its role and stream fit.
    pub(super) fn live_session(
        &self,
        role: Role,
        stream: &StreamName,
        secret: &str,
    ) -> Option<Arc<SessionEntry>> {
        let url = self.url(role, stream, secret).filter(|url| url.ended.is_none())?;
        self.session(url.id)
    }

    /// Keeps the record of a session that ended, as long as its URL.
    pub(super) fn remember(&self, id: SessionId, ended: EndedSession) {
        self.ended.insert(id, ended);
    }

    /// Record of a session that ended a moment ago.
    pub(super) fn ended(&self, id: SessionId) -> Option<EndedSession> {
        self.ended.get(&id).map(|ended| ended.clone())
    }

    /// Forgets URLs and records of sessions that ended `max` ago or earlier.
    pub(super) fn drop_tombstones(&self, now: Instant, max: Duration) {
        let recent = |at| now.saturating_duration_since(at) < max;
        self.urls.retain(|_, url| url.ended.is_none_or(|(at, _)| recent(at)));
        self.ended.retain(|_, ended| recent(ended.at));
    }
}

/// Small stream indices for worker tables. A free one is used again under a new generation.
struct StreamIds(OrderedMutex<FreeIds>);

#[derive(Default)]
struct FreeIds {
    free: Vec<StreamId>,
    next_index: u32,
}

impl Default for StreamIds {
    fn default() -> Self {
        Self(OrderedMutex::new(LockRank::StreamIds, FreeIds::default()))
    }
}

impl StreamIds {
    fn take(&self) -> StreamId {
        let mut ids = self.0.lock();
        ids.free.pop().unwrap_or_else(|| {
            ids.next_index += 1;
            StreamId { index: ids.next_index - 1, generation: 0 }
        })
    }

    fn give_back(&self, id: StreamId) {
        let again = StreamId { generation: id.generation.wrapping_add(1), ..id };
        self.0.lock().free.push(again);
    }
}

#[cfg(test)]
mod tests;
