//! The life of a session inside a worker: adopted, connected, timed, restarted, closed.
//!
//! Part of the hallway: keeps the maps, the streams and the lobby in step with the sessions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batch::Batch;
use super::publisher::Publisher;
use super::session::{NewSession, PerSecondLimit, Plan, RoleState, Session, SessionKey};
use super::subscriber::Subscriber;
use super::{Event, RTCP_PER_SECOND, TIMER_TICK, Worker};
use crate::error::CloseReason;
use crate::ids::{Role, SessionId};
use crate::sdp::IceCredentials;
use crate::transport::egress::Egress;
use crate::transport::peer::{Peer, PeerEvent};

/// Names one session answers to: the current one and the one before an ICE restart.
const UFRAGS_MAX: usize = 2;

impl Worker {
    /// Takes a session in: from the lobby (publisher) or by order (viewer).
    pub(super) fn adopt(
        &mut self,
        now: Instant,
        new: NewSession,
        egress: &mut dyn Egress,
    ) -> SessionKey {
        let peer = Peer::new(new.role(), new.local.clone(), new.remote(), &*self.dtls, new.created);
        let ufrag: Box<str> = new.local.ufrag.as_str().into();
        let stream = Arc::clone(&new.stream);
        let role = match new.plan {
            Plan::Publish { plan } => {
                let mut ssrc = [0; 4];
                self.context.entropy.fill(&mut ssrc);
                let ssrc = u32::from_be_bytes(ssrc) | 1;
                let publisher = Publisher::new(new.id, plan, &stream, ssrc, now);
                RoleState::Publisher(Box::new(publisher))
            }
            Plan::Subscribe { plan, start } => {
                let subscriber = Subscriber::new(plan, start, &mut self.context, now);
                RoleState::Subscriber(subscriber)
            }
        };
        let key = self.sessions.insert(Session {
            id: new.id,
            stream: Arc::clone(&stream),
            peer,
            role,
            created: new.created,
            ufrags: vec![ufrag.clone()],
            paths: Vec::new(),
            handshakes_waiting: 0,
            rtcp_budget: PerSecondLimit::per_second(RTCP_PER_SECOND),
        });
        self.by_id.insert(new.id, key);
        self.demux.learn_ufrag(&ufrag, key);
        let publishes = self.sessions.get(key).is_some_and(|s| s.kind() == Role::Publisher);
        let local = self.streams.open(&stream);
        if publishes {
            local.publishers += 1;
        } else {
            local.viewers.push(key);
            self.refresh_stream(stream.id);
            self.apply_source(now, stream.id, egress);
        }
        self.schedule(key);
        key
    }

    /// Sends what the connection has to send, reacts to what happened to it, and sets its timer.
    pub(super) fn after_session(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        while let Some(session) = self.sessions.get_mut(key) {
            match session.peer.poll(now, &mut *self.context.entropy, egress) {
                None => break,
                Some(PeerEvent::Connected) => self.on_connected(now, key, egress),
                Some(PeerEvent::Closed(reason)) => {
                    self.close(now, key, reason, egress);
                    return;
                }
            }
        }
        self.schedule(key);
    }

    pub(super) fn on_connected(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.events.push(Event::Connected(session.id));
        let id = session.stream.id;
        match &mut session.role {
            RoleState::Publisher(publisher) => {
                // Here at once: its packets follow the handshake. The control plane tells the others.
                publisher.on_connected(now, &session.stream);
                self.refresh(now, id, egress);
            }
            RoleState::Subscriber(subscriber) => subscriber.on_connected(),
        }
    }

    /// A session's deadline came.
    pub(super) fn on_timer(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        let Some(session) = self.sessions.get(key) else { return };
        let stream = session.stream.id;
        self.guarded(now, key, egress, |worker, egress| worker.session_timeout(now, key, egress));
        self.collect_keyframe_requests(now, stream, egress);
        // A deadline that stays in the past must cost a timer tick, not the whole core.
        if self.timers.of(key).is_some_and(|at| at <= now) {
            self.timers.schedule(now + TIMER_TICK, key);
        }
    }

    fn session_timeout(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        assert!(self.inject_panic != Some(session.id), "injected panic");
        let verdict = match &session.role {
            RoleState::Publisher(publisher) => publisher.verdict(now),
            RoleState::Subscriber(_) => None,
        };
        if let Some(reason) = session.peer.handle_timeout(now).or(verdict) {
            self.close(now, key, reason, egress);
            return;
        }
        let Session { peer, role, stream, .. } = session;
        match role {
            RoleState::Publisher(publisher) => {
                publisher.handle_timeout(now, peer, stream, &mut self.context, egress);
            }
            RoleState::Subscriber(subscriber) => {
                let (batch, context) = (&mut self.batch, &mut self.context);
                if let Some(stream) = self.streams.get(stream.id) {
                    subscriber.handle_fast_start_timeout(now, stream, peer, batch, context, egress);
                }
                subscriber.handle_timeout(now, peer, batch, context, egress);
            }
        }
        self.after_session(now, key, egress);
    }

    /// A publisher's packets were handled: what it is to be told soon it is told now, while its state is in the
    /// caches, and its timer is set once for all of them.
    pub(super) fn answer(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        self.guarded(now, key, egress, |worker, egress| {
            let Some(Session { role, peer, .. }) = worker.sessions.get_mut(key) else { return };
            if let RoleState::Publisher(publisher) = role {
                publisher.answer(now, peer, &mut worker.context, egress);
            }
            worker.schedule(key);
        });
    }

    pub(super) fn close(
        &mut self,
        now: Instant,
        key: SessionKey,
        reason: CloseReason,
        egress: &mut dyn Egress,
    ) {
        let Some(mut session) = self.sessions.remove(key) else { return };
        session.peer.close(now, egress);
        self.by_id.remove(&session.id);
        self.demux.forget(key, &session.ufrags, &session.paths);
        for ufrag in &session.ufrags {
            self.lobby.remove(ufrag);
        }
        let id = session.stream.id;
        if let Some(stream) = self.streams.get_mut(id) {
            match session.kind() {
                Role::Publisher => {
                    stream.publishers = stream.publishers.saturating_sub(1);
                    session.stream.disconnect(session.id);
                    self.refresh(now, id, egress);
                }
                Role::Subscriber => stream.viewers.remove(key),
            }
            self.streams.close_unused(id, &mut self.context.pool);
        }
        self.events.push(Event::Closed(session.id, reason));
    }

    pub(super) fn schedule(&mut self, key: SessionKey) {
        let Some(at) = self.sessions.get(key).and_then(Session::next_timeout) else { return };
        self.timers.schedule(at, key);
    }

    /// Runs one session's code; a panic in it ends that session only. Sound because a session shares
    /// nothing mutable with others but caches and counters, which stay whole.
    pub(super) fn guarded(
        &mut self,
        now: Instant,
        key: SessionKey,
        egress: &mut dyn Egress,
        run: impl FnOnce(&mut Self, &mut dyn Egress),
    ) {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(self, egress)));
        if outcome.is_err() {
            self.context.report.panics += 1;
            self.inject_panic = None;
            self.batch = Batch::new();
            self.close(now, key, CloseReason::Panic, egress);
        }
    }

    /// ICE restart: new credentials of both sides; the old pair flows on (whip-whep B9).
    pub(super) fn restart_ice(
        &mut self,
        now: Instant,
        id: SessionId,
        local: IceCredentials,
        remote: IceCredentials,
    ) {
        let Some(key) = self.by_id.get(&id).copied() else {
            // It ended meanwhile: nothing answers to the new name.
            self.lobby.remove(&local.ufrag);
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.ufrags.push(local.ufrag.as_str().into());
        if session.ufrags.len() > UFRAGS_MAX {
            let oldest = session.ufrags.remove(0);
            self.demux.forget_ufrag(&oldest);
            self.lobby.remove(&oldest);
        }
        self.demux.learn_ufrag(&local.ufrag, key);
        session.peer.restart_ice(local, remote, now);
        self.schedule(key);
    }
}
