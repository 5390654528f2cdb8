//! Follows changes of publishers: compares the shared state of each stream with the state applied
//! here.
//!
//! Part of the worker's top layer. Level-triggered: the sweep makes up for an order that was
//! missed.

use std::time::Instant;

use super::Worker;
use super::keys::SessionKey;
use super::session::RoleState;
use crate::router::StreamId;
use crate::transport::egress::Egress;

impl Worker {
    pub(super) fn refresh(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        if self.refresh_stream(id) {
            let viewers = self.streams.get(id).map(|stream| stream.viewers.viewers().to_vec());
            self.apply_source(now, id, &viewers.unwrap_or_default(), egress);
        }
    }

    /// Applies the shared state of a stream; true if its publisher changed here.
    fn refresh_stream(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(id) else { return false };
        let source = stream.shared.source.load_full();
        let owned =
            source.as_ref().is_some_and(|source| self.by_id.contains_key(&source.publisher));
        stream.install(source, owned, &mut self.context.pool)
    }

    /// Informs viewers of the stream's publisher, and closes those that cannot receive its codec.
    pub(super) fn apply_source(
        &mut self,
        now: Instant,
        id: StreamId,
        viewers: &[SessionKey],
        egress: &mut dyn Egress,
    ) {
        for &key in viewers {
            if let Some(stream) = self.streams.get(id)
                && let Some(session) = self.sessions.get_mut(key)
                && let RoleState::Subscriber(subscriber) = &mut session.role
                && let Err(reason) = subscriber.apply_source(now, stream)
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
