//! Fan-out of packets that arrived to the viewers of this worker, one viewer after the other.
//!
//! Packets come from a publisher here or from another worker's ring, and are sent as one batch per
//! viewer. Visits are planned in `turn.rs`; `subscriber.rs` decides what a viewer is sent.

use std::time::Instant;

use super::Worker;
use super::outbox::Outbox;
use super::session::{RoleState, Session};
use super::stream::LocalStream;
use super::subscriber::Subscriber;
use super::turn::{TurnPlan, Visit};
use super::viewer_queue::{Delivery, JOINING_PER_STEP};
use crate::error::DropReason;
use crate::router::StreamId;
use crate::transport::egress::{Egress, TransmitClass};

/// Viewers whose state is read into the CPU caches at a time.
const WARMED: usize = 16;

/// Packets of one stream that are forwarded before more datagrams are read.
const FORWARD_BEFORE_READ_MAX: usize = 256;

impl Worker {
    /// Forwards all packets that arrived since the last call to established viewers. Call it once
    /// per turn of the loop, before [`Self::handle_timeout`].
    pub fn flush(&mut self, now: Instant, egress: &mut dyn Egress) {
        let mut dirty = std::mem::take(&mut self.dirty_streams);
        self.serve(now, &dirty, egress);
        dirty.clear();
        self.dirty_streams = dirty;
        while let Some(key) = self.publishers_with_media.pop() {
            self.send_due_feedback(now, key, egress);
        }
        self.context.port.notify();
    }

    /// Notes that packets of a stream arrived; [`Self::flush`] forwards them.
    pub(super) fn mark_dirty(&mut self, id: StreamId) {
        if !self.dirty_streams.contains(&id) {
            self.dirty_streams.push(id);
        }
    }

    /// Forwards a stream's packets at once if more wait than may before datagrams are read again.
    pub(super) fn serve_if_full(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        let full = self.streams.get(id).is_some_and(|stream| {
            stream.viewers.packets(Delivery::Immediate).len() >= FORWARD_BEFORE_READ_MAX
        });
        if full {
            self.serve(now, &[id], egress);
        }
    }

    /// Reads the state of the next viewers into the CPU caches. The states of a thousand viewers do
    /// not fit the near caches, and each is a chain of boxes. So each step follows one pointer for
    /// all of the next viewers. Reads of one step do not depend on each other, so that memory
    /// serves many of them at once.
    fn warm(&self, next: &[Visit]) {
        let sessions = || next.iter().filter_map(|visit| self.sessions.get(visit.viewer));
        let subscribers = || sessions().filter_map(Session::subscriber);
        sessions().for_each(|session| session.peer.warm());
        sessions().for_each(|session| session.peer.warm_sender());
        subscribers().for_each(Subscriber::warm);
        subscribers().for_each(Subscriber::warm_senders);
    }

    /// Sends arrived packets to all established viewers. [`Self::serve_joining_viewers`] sends them
    /// to joining viewers.
    pub(super) fn serve(&mut self, now: Instant, streams: &[StreamId], egress: &mut dyn Egress) {
        self.plan.begin();
        for &id in streams {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            if stream.viewers.packets(Delivery::Immediate).is_empty() {
                // Nobody watches here, only padding came, or the packets were forwarded in
                // mid-turn.
                continue;
            }
            stream.select(now);
            stream.arrange(Delivery::Immediate);
            self.plan.add(id, stream.viewers.established());
        }
        self.visit_all(now, Delivery::Immediate, egress);
        for &id in streams {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            stream.viewers.end_turn();
            let behind = stream.viewers.waiting() >= FORWARD_BEFORE_READ_MAX;
            if stream.viewers.has_waiting()
                && !self.joining_streams.iter().any(|(_, joining)| *joining == id)
            {
                self.joining_streams.push_back((now, id));
            }
            self.collect_keyframe_requests(now, id, egress);
            if behind {
                // Too many packets wait: all joining viewers are served now, and the others wait
                // once.
                while self.streams.get(id).is_some_and(|stream| stream.viewers.has_waiting()) {
                    self.serve_round(now, id, egress);
                }
            }
        }
    }

    /// Sends arrived packets to some joining viewers, of one stream after the other, and of many
    /// streams where each has few.
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

    /// One step of a stream's round; returns the number of viewers that it served.
    fn serve_round(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) -> usize {
        let waiting = |stream: &&mut LocalStream| stream.viewers.has_waiting();
        let Some(stream) = self.streams.get_mut(id).filter(waiting) else { return 0 };
        let begins = stream.viewers.begin_round();
        if begins {
            stream.select(now);
            stream.arrange(Delivery::Deferred);
        }
        let sessions = &self.sessions;
        let step = stream
            .viewers
            .step(begins, |key| sessions.get(key).is_some_and(|session| !session.is_new(now)));
        self.plan.begin();
        self.plan.add(id, step);
        let served = self.plan.visits().len();
        self.visit_all(now, Delivery::Deferred, egress);
        if let Some(stream) = self.streams.get_mut(id) {
            stream.viewers.end_step();
        }
        self.collect_keyframe_requests(now, id, egress);
        served
    }

    /// Visits one viewer after the other: each is sent all packets of all its streams as one batch.
    fn visit_all(&mut self, now: Instant, delivery: Delivery, egress: &mut dyn Egress) {
        let plan = std::mem::take(&mut self.plan);
        for next in plan.visits().chunks(WARMED) {
            self.warm(next);
            for visit in next {
                self.guarded(now, visit.viewer, egress, |worker, egress| {
                    worker.visit(now, &plan, visit, delivery, egress);
                });
            }
        }
        self.plan = plan;
    }

    fn visit(
        &mut self,
        now: Instant,
        plan: &TurnPlan,
        visit: &Visit,
        delivery: Delivery,
        egress: &mut dyn Egress,
    ) {
        let Some(session) = self.sessions.get_mut(visit.viewer) else { return };
        let Session { peer, sending, role, .. } = session;
        let RoleState::Subscriber(subscriber) = role else { return };
        let wanted = subscriber.next_timeout();
        let streams = plan.streams(visit).filter_map(|id| self.streams.get(id));
        let class = match delivery {
            Delivery::Immediate => TransmitClass::Media,
            Delivery::Deferred => TransmitClass::JoiningMedia,
        };
        let shared = (&mut self.batch, &mut self.context);
        match Outbox::open(now, class, (peer, sending), shared, egress) {
            Some(mut outbox) => {
                // Mostly one: it is looked up once then.
                match plan.only_stream(visit) {
                    Some(id) => {
                        let stream = self.streams.get(id).into_iter();
                        subscriber.forward(stream, delivery, &mut outbox);
                    }
                    None => subscriber.forward(streams, delivery, &mut outbox),
                }
                outbox.finish();
            }
            None => {
                let packets = streams.map(|stream| stream.viewers.packets(delivery).len() as u64);
                self.context.report.dropped.add(DropReason::NotConnected, packets.sum());
            }
        }
        if subscriber.next_timeout() != wanted {
            self.schedule(visit.viewer);
        }
    }
}
