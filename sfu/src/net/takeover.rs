//! Publishers of one stream: who holds it, who waits to take it over, and who must go.
//!
//! Pure. Part of `stream_entry.rs`, called by `control.rs`. The worker where a publisher connects decides which
//! one holds the stream (`router/table.rs`); this file follows it.

use std::sync::Arc;

use crate::ids::SessionId;
use crate::router::SourceInfo;

/// Publisher sessions of one stream.
#[derive(Debug, Default)]
pub(super) struct Publishers {
    /// Connected or not, oldest first.
    sessions: Vec<SessionId>,
    /// Tracks of the one that holds the stream.
    live: Option<Arc<SourceInfo>>,
}

impl Publishers {
    /// Whether one more may be added: always with `takeover`, otherwise only while nobody holds the stream.
    pub(super) fn may_add(&self, takeover: bool) -> bool {
        takeover || self.live.is_none()
    }

    /// Adds a session that was answered and has not connected yet.
    pub(super) fn add(&mut self, id: SessionId) {
        self.sessions.push(id);
    }

    /// Follows a publisher `id` that connected, with `holder` as the stream's source now. Returns the session
    /// that lost the stream and must be closed.
    pub(super) fn connected(
        &mut self,
        id: SessionId,
        holder: Arc<SourceInfo>,
    ) -> Option<SessionId> {
        let holder_id = holder.publisher;
        let before = self.live.replace(holder);
        // Of two that connect at once, the event of the first may arrive last: then `id` lost the stream.
        let lost = if holder_id == id { before.map(|old| old.publisher) } else { Some(id) };
        lost.filter(|old| *old != holder_id)
    }

    /// Removes a session that ended, with `holder` as the stream's source now. True if it held the stream.
    pub(super) fn remove(&mut self, id: SessionId, holder: Option<Arc<SourceInfo>>) -> bool {
        self.sessions.retain(|publisher| *publisher != id);
        let held = self.live.as_ref().is_some_and(|source| source.publisher == id);
        if held {
            self.live = holder;
        }
        held
    }

    /// Tracks of the publisher that holds the stream.
    pub(super) fn live(&self) -> Option<&Arc<SourceInfo>> {
        self.live.as_ref()
    }

    /// Session to show in lists: the one that holds the stream, otherwise the latest that is connecting.
    pub(super) fn shown(&self) -> Option<SessionId> {
        let live = self.live.as_ref().map(|source| source.publisher);
        live.or_else(|| self.sessions.last().copied())
    }

    /// Whether there is no session.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(publisher: u64, epoch: u32) -> Arc<SourceInfo> {
        Arc::new(SourceInfo {
            epoch: crate::ids::Epoch(epoch),
            publisher: SessionId(publisher),
            tracks: Vec::new(),
        })
    }

    fn two() -> Publishers {
        let mut publishers = Publishers::default();
        publishers.add(SessionId(1));
        publishers.add(SessionId(2));
        publishers
    }

    // whip-whep A54
    #[test]
    fn second_publisher_takes_the_stream_when_it_connects_and_not_before() {
        let mut publishers = two();
        assert_eq!(publishers.shown(), Some(SessionId(2)), "the latest that is connecting");
        assert_eq!(publishers.connected(SessionId(1), source(1, 1)), None);
        assert_eq!(publishers.shown(), Some(SessionId(1)), "the one that is live");
        assert_eq!(publishers.connected(SessionId(2), source(2, 2)), Some(SessionId(1)));
        assert_eq!(publishers.shown(), Some(SessionId(2)));
    }

    #[test]
    fn publisher_whose_event_arrives_late_loses_the_stream_it_never_held() {
        let mut publishers = two();
        // Both connected; the second holds the stream already when the events are read, the second's first.
        assert_eq!(publishers.connected(SessionId(2), source(2, 2)), None);
        assert_eq!(publishers.connected(SessionId(1), source(2, 2)), Some(SessionId(1)));
        assert_eq!(publishers.live().unwrap().publisher, SessionId(2));
        // The same events in their own order.
        let mut publishers = two();
        assert_eq!(publishers.connected(SessionId(1), source(2, 2)), Some(SessionId(1)));
        assert_eq!(publishers.connected(SessionId(2), source(2, 2)), None);
    }

    #[test]
    fn without_takeover_a_stream_takes_publishers_until_one_is_live() {
        let mut publishers = two();
        assert!(publishers.may_add(false), "two are connecting, none is live");
        publishers.connected(SessionId(1), source(1, 1));
        assert!(!publishers.may_add(false) && publishers.may_add(true));
        assert!(publishers.remove(SessionId(1), None));
        assert!(publishers.may_add(false));
    }

    #[test]
    fn end_of_a_replaced_publisher_does_not_end_the_stream() {
        let mut publishers = two();
        publishers.connected(SessionId(1), source(1, 1));
        publishers.connected(SessionId(2), source(2, 2));
        assert!(!publishers.remove(SessionId(1), Some(source(2, 2))));
        assert_eq!(publishers.live().unwrap().publisher, SessionId(2));
        assert!(publishers.remove(SessionId(2), None));
        assert!(
            publishers.live().is_none() && publishers.is_empty() && publishers.shown().is_none()
        );
    }
}
