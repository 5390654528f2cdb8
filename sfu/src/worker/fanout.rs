//! PacketRef packets to the viewers of this worker, one viewer after the other.
//!
//! Part of the hallway: packets come from a publisher here or from another worker's ring, and leave
//! as one batch per viewer.

use std::time::Instant;

use super::session::{RoleState, Session, SessionKey};
use super::stream::LocalStream;
use super::subscriber::Subscriber;
use super::viewer_queue::{Delivery, JOINING_PER_STEP};
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
                    stream.viewers.queue(fresh);
                    Ok(())
                });
                match taken {
                    Ok(()) => self.mark_dirty(id),
                    Err(reason) => self.context.report.dropped.count(reason),
                }
            }
            MediaItem::Prefill { stream: id, epoch, track, layer, packet } => {
                // Here already, or too old by now: nothing is lost.
                _ = self.reader(now, id, epoch, egress).and_then(|(stream, pool)| {
                    stream.keep(epoch, track, layer, packet, pool)?;
                    stream.mark_prefilled(track, layer);
                    Ok(())
                });
            }
            MediaItem::Layer { stream: id, epoch, track, layer, note } => {
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.update_layer_info(epoch, track, layer, note);
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

    pub(super) fn mark_dirty(&mut self, id: StreamId) {
        if !self.dirty_streams.contains(&id) {
            self.dirty_streams.push(id);
        }
    }

    pub(super) fn mark_dirty_or_flush(
        &mut self,
        now: Instant,
        id: StreamId,
        egress: &mut dyn Egress,
    ) {
        self.mark_dirty(id);
        let full = self
            .streams
            .get(id)
            .is_some_and(|stream| stream.viewers.packets(Delivery::Immediate).len() >= FRESH_MAX);
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

    /// What came goes to all who are here for a while. Newcomers get it in [`Self::serve_joining_viewers`].
    pub(super) fn serve(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.select(now);
        stream.arrange(Delivery::Immediate);
        egress.begin_media(&mut stream.arrivals(Delivery::Immediate));
        self.serving.clear();
        self.serving.extend_from_slice(stream.viewers.established());
        self.hand_out(now, id, Delivery::Immediate, egress);
        egress.end_media();
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.viewers.end_turn();
        let behind = stream.viewers.waiting() >= FRESH_MAX;
        if stream.viewers.has_waiting()
            && !self.joining_streams.iter().any(|(_, crowd)| *crowd == id)
        {
            self.joining_streams.push_back((now, id));
        }
        self.collect_keyframe_requests(now, id, egress);
        if behind {
            // So much must not pile up: all others wait for once.
            while self.streams.get(id).is_some_and(|stream| stream.viewers.has_waiting()) {
                self.serve_round(now, id, egress);
            }
        }
    }

    /// What came goes to some of those who came lately, of one stream after the other: of many streams where each
    /// has few.
    pub(super) fn serve_joining_viewers(&mut self, now: Instant, egress: &mut dyn Egress) {
        let mut served = 0;
        for _ in 0..self.joining_streams.len() {
            let Some((_, id)) = self.joining_streams.pop_front() else { return };
            served += self.serve_round(now, id, egress);
            if self.streams.get(id).is_some_and(|stream| stream.viewers.has_waiting()) {
                self.joining_streams.push_back((now, id));
            }
            if served >= JOINING_PER_STEP {
                return;
            }
        }
    }

    /// One step of a stream's round; how many viewers it was for.
    fn serve_round(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) -> usize {
        let waiting = |stream: &&mut LocalStream| stream.viewers.has_waiting();
        let Some(stream) = self.streams.get_mut(id).filter(waiting) else { return 0 };
        let begins = stream.viewers.begin_round();
        if begins {
            stream.select(now);
            stream.arrange(Delivery::Deferred);
        }
        egress.begin_media(&mut stream.arrivals(Delivery::Deferred));
        egress.mark_joining();
        self.serving.clear();
        let sessions = &self.sessions;
        stream.viewers.step(begins, &mut self.serving, |key| {
            sessions.get(key).is_some_and(|session| !session.is_new(now))
        });
        let served = self.serving.len();
        self.hand_out(now, id, Delivery::Deferred, egress);
        egress.end_media();
        if let Some(stream) = self.streams.get_mut(id) {
            stream.viewers.end_step();
        }
        self.collect_keyframe_requests(now, id, egress);
        served
    }

    /// Subscriber-major: each viewer of `self.serving` gets all packets as one batch.
    fn hand_out(&mut self, now: Instant, id: StreamId, packets: Delivery, egress: &mut dyn Egress) {
        let serving = std::mem::take(&mut self.serving);
        for next in serving.chunks(WARMED) {
            self.warm(next);
            for key in next.iter().copied() {
                self.guarded(now, key, egress, |worker, egress| {
                    worker.hand(now, id, key, packets, egress);
                });
            }
        }
        self.serving = serving;
    }

    fn hand(
        &mut self,
        now: Instant,
        id: StreamId,
        key: SessionKey,
        packets: Delivery,
        egress: &mut dyn Egress,
    ) {
        let Some(stream) = self.streams.get(id) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        assert!(self.inject_panic != Some(session.id), "injected panic");
        let Session { peer, role, .. } = session;
        let RoleState::Subscriber(subscriber) = role else { return };
        let (batch, wanted) = (&mut self.batch, subscriber.next_timeout());
        subscriber.forward(now, packets, stream, peer, batch, &mut self.context, egress);
        if subscriber.next_timeout() != wanted {
            self.schedule(key);
        }
    }

    /// Tells the publisher of a stream at once what viewers here request, if it is here too. Viewers elsewhere
    /// are publishers_with_media by its timer.
    pub(super) fn collect_keyframe_requests(
        &mut self,
        now: Instant,
        id: StreamId,
        egress: &mut dyn Egress,
    ) {
        let requested =
            |stream: &&LocalStream| stream.is_owned() && stream.shared.has_keyframe_requests();
        let Some(stream) = self.streams.get(id).filter(requested) else { return };
        let publisher = stream.source().and_then(|source| self.by_id.get(&source.publisher));
        let Some(key) = publisher.copied() else { return };
        self.guarded(now, key, egress, |worker, _| {
            let Some(Session { role, stream, .. }) = worker.sessions.get_mut(key) else { return };
            if let RoleState::Publisher(publisher) = role {
                publisher.take_keyframe_requests(now, stream);
                worker.schedule(key);
            }
        });
    }
}
