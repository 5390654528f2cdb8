//! Fresh packets to the viewers of this worker, one viewer after the other.
//!
//! Part of the hallway: packets come from a publisher here or from another worker's ring, and leave
//! as one batch per viewer.

use std::time::Instant;

use super::session::{RoleState, Session, SessionKey};
use super::stream::LocalStream;
use super::{FRESH_MAX, Worker};
use crate::error::DropReason;
use crate::media::PacketPool;
use crate::router::{MediaItem, StreamId};
use crate::transport::egress::Egress;

impl Worker {
    pub(super) fn take_media(&mut self, now: Instant, item: MediaItem, egress: &mut dyn Egress) {
        match item {
            MediaItem::Packet { stream: id, epoch, track, layer, packet } => {
                let taken = self.reader(now, id, epoch, egress).and_then(|(stream, pool)| {
                    let fresh = stream.keep(epoch, track, layer, packet, pool)?;
                    stream.queue(fresh);
                    Ok(())
                });
                match taken {
                    Ok(()) => self.mark_fresh(id),
                    Err(reason) => self.context.report.dropped.count(reason),
                }
            }
            MediaItem::Cached { stream: id, epoch, track, layer, packet } => {
                // Here already, or too old by now: nothing is lost.
                _ = self.reader(now, id, epoch, egress).and_then(|(stream, pool)| {
                    stream.keep(epoch, track, layer, packet, pool)?;
                    stream.mark_seeded(track, layer);
                    Ok(())
                });
            }
            MediaItem::Layer { stream: id, epoch, track, layer, note } => {
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.note_layer(epoch, track, layer, note);
                }
            }
        }
    }

    /// The stream that reads along with another worker's publisher.
    fn reader(
        &mut self,
        now: Instant,
        id: StreamId,
        epoch: u32,
        egress: &mut dyn Egress,
    ) -> Result<(&mut LocalStream, &mut PacketPool), DropReason> {
        if self.streams.get(id).is_some_and(|stream| stream.epoch() < Some(epoch)) {
            // The first packet of a new publisher is here before the news of it.
            self.refresh(now, id, egress);
        }
        // Of a publisher that ours replaced: the buffer is another worker's and must not come into
        // our pool.
        let stream = self.streams.get_mut(id).filter(|stream| !stream.is_owned());
        Ok((stream.ok_or(DropReason::UnknownTrack)?, &mut self.context.pool))
    }

    pub(super) fn mark_fresh(&mut self, id: StreamId) {
        if !self.fresh_streams.contains(&id) {
            self.fresh_streams.push(id);
        }
    }

    pub(super) fn note_fresh(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        self.mark_fresh(id);
        let full = self.streams.get_mut(id).is_some_and(|s| s.fresh.len() >= FRESH_MAX);
        if full {
            self.serve(now, id, egress);
        }
    }

    /// A thousand viewers' states do not fit the near caches, and each is a chain of boxes. Loads of the
    /// next ones, one link of the chain each, are under way while this one's packets are sealed.
    fn warm(&self, serving: &[SessionKey], place: usize) {
        let later = serving.get(place + 2).and_then(|key| self.sessions.get(*key));
        std::hint::black_box(later.map(|session| session.peer.selected().is_some()));
        let next = serving.get(place + 1).and_then(|key| self.sessions.get(*key));
        if let Some(RoleState::Subscriber(subscriber)) = next.map(|session| &session.role) {
            subscriber.warm();
        }
    }

    /// Subscriber-major: each viewer gets all fresh packets of the stream as one batch.
    pub(super) fn serve(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.select(now);
        stream.arrange();
        egress.begin_media(&mut stream.arrivals());
        let mut serving = std::mem::take(&mut self.serving);
        serving.clear();
        serving.extend_from_slice(&stream.viewers);
        let mut newcomers = false;
        for (place, key) in serving.iter().copied().enumerate() {
            self.warm(&serving, place);
            // They stand in the order in which they came.
            if !newcomers && self.sessions.get(key).is_some_and(|session| session.is_new(now)) {
                newcomers = true;
                egress.begin_newcomers();
            }
            self.guarded(now, key, egress, |worker, egress| {
                let Some(stream) = worker.streams.get(id) else { return };
                let Some(session) = worker.sessions.get_mut(key) else { return };
                assert!(worker.inject_panic != Some(session.id), "injected panic");
                let Session { peer, role, .. } = session;
                let RoleState::Subscriber(subscriber) = role else { return };
                let (batch, context) = (&mut worker.batch, &mut worker.context);
                subscriber.forward(now, stream, peer, batch, context, egress);
                let wants = subscriber.next_timeout();
                if wants.is_some_and(|at| session.scheduled.is_none_or(|set| at < set)) {
                    worker.schedule(key);
                }
            });
        }
        self.serving = serving;
        egress.end_media();
        if let Some(stream) = self.streams.get_mut(id) {
            stream.fresh.clear();
        }
    }
}
