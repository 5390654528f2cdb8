//! Follows changes of publishers: compares the shared state of each stream with the state applied
//! here.
//!
//! Part of the worker's top layer. Level-triggered: the sweep makes up for an order that was
//! missed.

use std::time::Instant;

use super::keys::SessionKey;
use super::session::RoleState;
use super::{Event, Worker, viewer_info};
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

    /// Informs viewers of the stream's publisher, closes those that can receive none of its codecs, and
    /// tells the control plane if some are not sent all of it.
    pub(super) fn apply_source(
        &mut self,
        now: Instant,
        id: StreamId,
        viewers: &[SessionKey],
        egress: &mut dyn Egress,
    ) {
        let (mut first, mut count) = (None, 0);
        for &key in viewers {
            let Some(stream) = self.streams.get(id) else { continue };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let RoleState::Subscriber(subscriber) = &mut session.role else { continue };
            if let Err(reason) = subscriber.apply_source(now, stream) {
                self.close(now, key, reason, egress);
            } else if let Some(track) = viewer_info::unserved(subscriber, &self.streams).pop() {
                count += 1;
                first.get_or_insert((session.id, track.text));
            }
        }
        if let Some((session, text)) = first {
            self.events.push(Event::Unserved { session, viewers: count, text });
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
