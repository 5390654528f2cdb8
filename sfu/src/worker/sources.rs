//! Follows who publishes what: the shared state of each stream against what this worker applied.
//!
//! Part of the hallway. Level-triggered: an order that was missed is made up for by the sweep.

use std::time::Instant;

use super::Worker;
use super::session::RoleState;
use crate::router::StreamId;
use crate::transport::egress::Egress;

impl Worker {
    pub(super) fn refresh(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        if self.refresh_stream(id) {
            self.apply_source(now, id, egress);
        }
    }

    /// Follows the shared state of a stream; true if its publisher changed here.
    pub(super) fn refresh_stream(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(id) else { return false };
        let source = stream.shared.source.load_full();
        let owned =
            source.as_ref().is_some_and(|source| self.by_id.contains_key(&source.publisher));
        stream.install(source, owned, &mut self.context.pool)
    }

    /// Tells the viewers here of the stream's publisher, and ends those that cannot take its codec.
    pub(super) fn apply_source(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let source = stream.source().cloned();
        for key in stream.viewers.viewers().to_vec() {
            if let Some(session) = self.sessions.get_mut(key)
                && let RoleState::Subscriber(subscriber) = &mut session.role
                && let Err(reason) = subscriber.apply_source(now, source.as_ref())
            {
                self.close(now, key, reason, egress);
            }
        }
    }

    pub(super) fn sweep(&mut self, now: Instant, egress: &mut dyn Egress) {
        for id in self.streams.ids() {
            self.refresh(now, id, egress);
            if let Some(stream) = self.streams.get_mut(id) {
                stream.expire(now, &mut self.context.pool);
            }
        }
    }
}
