//! One stream of the directory: its publishers, its viewers, and the workers that serve them.
//!
//! Owns the stream's state behind one lock. Sends nothing: `control.rs` tells the workers. Made and removed by
//! `directory.rs`; who publishes is decided in `takeover.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lock_order::{LockRank, OrderedGuard, OrderedMutex};
use super::takeover::Publishers;
use crate::ids::{SessionId, StreamName};
use crate::router::{Route, SourceInfo, StreamId, StreamShared};

/// Stream with a publisher or a viewer.
#[derive(Debug)]
pub(super) struct StreamEntry {
    /// What the workers share about it.
    pub shared: Arc<StreamShared>,
    state: OrderedMutex<StreamState>,
}

/// State of a stream that changes with its sessions.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    /// Removed from the directory; the name must be looked up again.
    retired: bool,
    pub publishers: Publishers,
    /// Viewers with their workers; `None` until the first ICE check arrived.
    viewers: HashMap<SessionId, Option<usize>>,
    /// Since when viewers wait for a publisher.
    waiting_since: Option<Instant>,
}

impl StreamEntry {
    /// Stream without sessions.
    pub(super) fn new(id: StreamId, name: StreamName) -> Self {
        let state = OrderedMutex::new(LockRank::Stream, StreamState::default());
        Self { shared: StreamShared::new(id, name), state }
    }

    pub(super) fn lock(&self) -> OrderedGuard<'_, StreamState> {
        self.state.lock()
    }

    /// Publishes which workers have viewers, where that changed. The caller holds the lock.
    pub(super) fn update_route(&self, state: &StreamState) {
        let destinations = state.viewer_workers();
        if self.shared.route.load().destinations != destinations {
            self.shared.route.store(Arc::new(Route { destinations }));
        }
    }
}

impl StreamState {
    /// Whether the stream was removed from the directory.
    pub(super) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Marks the stream as removed if no session is left. True the first time.
    pub(super) fn retire_if_unused(&mut self) -> bool {
        let unused = self.publishers.is_empty() && self.viewers.is_empty();
        unused && !std::mem::replace(&mut self.retired, true)
    }

    /// Adds a viewer that has no worker yet.
    pub(super) fn add_viewer(&mut self, id: SessionId, now: Instant) {
        if self.publishers.live().is_none() {
            self.waiting_since.get_or_insert(now);
        }
        self.viewers.insert(id, None);
    }

    /// Notes the worker that adopted a viewer; false if it is no viewer of this stream.
    pub(super) fn viewer_adopted(&mut self, id: SessionId, worker: usize) -> bool {
        let Some(viewer) = self.viewers.get_mut(&id) else { return false };
        *viewer = Some(worker);
        true
    }

    /// Removes a viewer.
    pub(super) fn remove_viewer(&mut self, id: SessionId) {
        self.viewers.remove(&id);
    }

    /// Follows a publisher that connected; see [`Publishers::connected`].
    pub(super) fn publisher_connected(
        &mut self,
        id: SessionId,
        holder: Option<Arc<SourceInfo>>,
        now: Instant,
    ) -> Vec<SessionId> {
        let lost = self.publishers.connected(id, holder, now);
        match self.publishers.live() {
            Some(_) => self.waiting_since = None,
            None if self.viewers.is_empty() => {}
            None => {
                self.waiting_since.get_or_insert(now);
            }
        }
        lost
    }

    /// Follows a publisher that ended. True if the workers must be told, because it held the stream.
    pub(super) fn publisher_ended(
        &mut self,
        id: SessionId,
        holder: Option<Arc<SourceInfo>>,
        now: Instant,
    ) -> bool {
        let held = self.publishers.remove(id, holder, now);
        if held && self.publishers.live().is_none() && !self.viewers.is_empty() {
            self.waiting_since = Some(now);
        }
        held
    }

    /// Number of viewers.
    pub(super) fn viewer_count(&self) -> usize {
        self.viewers.len()
    }

    /// Ids of at most `max` viewers, sorted.
    pub(super) fn viewer_ids(&self, max: usize) -> Vec<SessionId> {
        let mut ids: Vec<SessionId> = self.viewers.keys().copied().take(max).collect();
        ids.sort_unstable();
        ids
    }

    /// Workers that have viewers, ascending, each once.
    pub(super) fn viewer_workers(&self) -> Vec<usize> {
        let mut workers: Vec<usize> = self.viewers.values().copied().flatten().collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// Viewers that have waited for a publisher for `max`. Each one has its full time, also one that came late
    /// to a stream that already waited; `created` tells when it came.
    pub(super) fn overdue_viewers(
        &self,
        now: Instant,
        max: Duration,
        created: impl Fn(SessionId) -> Option<Instant>,
    ) -> Vec<SessionId> {
        let Some(since) = self.waiting_since else { return Vec::new() };
        let overdue = |viewer: &SessionId| {
            let came = created(*viewer).unwrap_or(since);
            now.saturating_duration_since(came.max(since)) >= max
        };
        self.viewers.keys().copied().filter(overdue).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> StreamEntry {
        let id = StreamId { index: 0, generation: 0 };
        StreamEntry::new(id, StreamName::new("a").unwrap())
    }

    fn source(publisher: u64) -> Option<Arc<SourceInfo>> {
        Some(Arc::new(SourceInfo {
            epoch: crate::ids::Epoch(1),
            publisher: SessionId(publisher),
            tracks: Vec::new(),
        }))
    }

    #[test]
    fn route_names_each_worker_with_viewers_once() {
        let stream = stream();
        let now = Instant::now();
        let mut state = stream.lock();
        for (viewer, worker) in [(1, Some(2)), (2, Some(0)), (3, Some(2)), (4, None)] {
            state.add_viewer(SessionId(viewer), now);
            if let Some(worker) = worker {
                assert!(state.viewer_adopted(SessionId(viewer), worker));
            }
        }
        assert!(!state.viewer_adopted(SessionId(9), 1), "no viewer of this stream");
        stream.update_route(&state);
        assert_eq!(stream.shared.route.load().destinations, [0, 2]);
        let before = stream.shared.route.load_full();
        state.remove_viewer(SessionId(1));
        stream.update_route(&state);
        assert!(Arc::ptr_eq(&before, &stream.shared.route.load_full()), "nothing changed");
        state.remove_viewer(SessionId(3));
        stream.update_route(&state);
        assert_eq!(stream.shared.route.load().destinations, [0]);
    }

    // whip-whep G8
    #[test]
    fn each_viewer_waits_its_full_time_for_a_publisher() {
        let stream = stream();
        let mut state = stream.lock();
        let (start, max) = (Instant::now(), Duration::from_secs(600));
        let late = start + Duration::from_secs(100);
        state.add_viewer(SessionId(1), start);
        state.add_viewer(SessionId(2), late);
        let created = |id| Some(if id == SessionId(2) { late } else { start });
        let just_before = start + max - Duration::from_millis(1);
        assert_eq!(state.overdue_viewers(just_before, max, created), []);
        assert_eq!(state.overdue_viewers(start + max, max, created), [SessionId(1)]);
        assert_eq!(state.overdue_viewers(late + max, max, created).len(), 2);

        state.publishers.add(SessionId(7));
        state.publisher_connected(SessionId(7), source(7), late + max);
        assert_eq!(state.overdue_viewers(late + max, max, created), [], "a publisher is there");
        let left = late + max * 2;
        assert!(state.publisher_ended(SessionId(7), None, left));
        assert_eq!(state.overdue_viewers(left + max - Duration::from_millis(1), max, created), []);
        assert_eq!(state.overdue_viewers(left + max, max, created).len(), 2);
    }

    #[test]
    fn stream_is_retired_once_and_only_without_sessions() {
        let stream = stream();
        let mut state = stream.lock();
        state.publishers.add(SessionId(1));
        state.add_viewer(SessionId(2), Instant::now());
        assert!(!state.retire_if_unused());
        state.publisher_ended(SessionId(1), None, Instant::now());
        assert!(!state.retire_if_unused());
        state.remove_viewer(SessionId(2));
        assert!(!state.is_retired() && state.retire_if_unused());
        assert!(state.is_retired() && !state.retire_if_unused());
    }

    #[test]
    fn listed_viewer_ids_end_at_the_maximum() {
        let stream = stream();
        let mut state = stream.lock();
        for n in 0..11 {
            state.add_viewer(SessionId(n), Instant::now());
        }
        assert_eq!((state.viewer_ids(11).len(), state.viewer_count()), (11, 11));
        let ids = state.viewer_ids(10);
        assert!(ids.len() == 10 && ids.is_sorted());
    }
}
