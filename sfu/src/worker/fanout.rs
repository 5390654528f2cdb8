//! Fresh packets to the viewers of this worker, one viewer after the other.
//!
//! Part of the hallway: packets come from a publisher here or from another worker's ring, and leave
//! as one batch per viewer.

use std::time::Instant;

use super::session::{RoleState, Session, SessionKey};
use super::stream::LocalStream;
use super::subscriber::Subscriber;
use super::{FRESH_MAX, Worker};
use crate::error::DropReason;
use crate::media::PacketPool;
use crate::router::{MediaItem, StreamId};
use crate::transport::egress::Egress;

/// Viewers whose state is read into the caches at a time.
const WARMED: usize = 16;

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

    /// A thousand viewers' states do not fit the near caches, and each is a chain of boxes: reads link after
    /// link for all of the next viewers. What is read in one step does not wait for each other, so that
    /// memory is asked for much of it at once.
    fn warm(&self, next: &[SessionKey]) {
        let sessions = || next.iter().filter_map(|key| self.sessions.get(*key));
        let subscribers = || {
            sessions().filter_map(|session| match &session.role {
                RoleState::Subscriber(subscriber) => Some(subscriber),
                RoleState::Publisher(_) => None,
            })
        };
        sessions().for_each(|session| session.peer.warm());
        sessions().for_each(|session| session.peer.warm_sender());
        subscribers().for_each(Subscriber::warm);
        subscribers().for_each(Subscriber::warm_lines);
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
            if place % WARMED == 0 {
                let end = serving.len().min(place + WARMED);
                self.warm(serving.get(place..end).unwrap_or(&[]));
            }
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
                let wanted = subscriber.next_timeout();
                subscriber.forward(now, stream, peer, batch, context, egress);
                if subscriber.next_timeout() != wanted {
                    worker.schedule(key);
                }
            });
        }
        self.serving = serving;
        egress.end_media();
        if let Some(stream) = self.streams.get_mut(id) {
            stream.fresh.clear();
        }
        self.hear_wishes(now, id, egress);
    }

    /// Tells the publisher of a stream at once what viewers here wish, if it is here too. Viewers elsewhere
    /// are heard by its timer.
    pub(super) fn hear_wishes(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        let wished = |stream: &&LocalStream| stream.is_owned() && stream.shared.has_wishes();
        let Some(stream) = self.streams.get(id).filter(wished) else { return };
        let publisher = stream.source().and_then(|source| self.by_id.get(&source.publisher));
        let Some(key) = publisher.copied() else { return };
        self.guarded(now, key, egress, |worker, _| {
            let Some(Session { role, stream, .. }) = worker.sessions.get_mut(key) else { return };
            if let RoleState::Publisher(publisher) = role {
                publisher.take_wishes(now, stream);
                worker.schedule(key);
            }
        });
    }
}
