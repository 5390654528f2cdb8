//! Lifecycle of a session inside a worker: adopted, connected, timed, restarted, closed.
//!
//! Part of the worker's top layer: keeps the maps, the streams and the lobby consistent with the
//! sessions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batch::Batch;
use super::keys::SessionKey;
use super::outbox::{Outbox, SendState};
use super::publisher::Publisher;
use super::report::SessionInfo;
use super::session::{NewSession, Plan, RoleState, Session};
use super::subscriber::Subscriber;
use super::subscription::{BoundTrack, Subscription};
use super::{Event, RTCP_PER_SECOND, TIMER_TICK, Worker};
use crate::error::CloseReason;
use crate::ids::SessionId;
use crate::limiter::PerSecondLimit;
use crate::router::{StreamId, StreamShared};
use crate::rtp::ssrc::SessionSsrcs;
use crate::sdp::{IceCredentials, SubscribeTrack};
use crate::transport::egress::{Egress, TransmitClass};
use crate::transport::peer::{Peer, PeerEvent};

/// Ufrags of one session: the current one and the one before an ICE restart.
const UFRAGS_MAX: usize = 2;

impl Worker {
    /// Adopts a session from the lobby.
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
                let declared = plan.tracks.iter().flat_map(|track| &track.ssrcs);
                let declared = declared.flat_map(|of| [Some(of.ssrc), of.rtx]).flatten();
                let ssrc = SessionSsrcs::with(declared).choose(|| {
                    let mut bytes = [0; 4];
                    self.context.entropy.fill(&mut bytes);
                    u32::from_be_bytes(bytes)
                });
                let limits = self.context.publisher_limits;
                let holder = self.context.pool.enter();
                let publisher = Publisher::new(new.id, plan, &stream, ssrc, holder, limits, now);
                RoleState::Publisher(Box::new(publisher))
            }
            Plan::Subscribe { plan, start } => {
                let context = &mut self.context;
                let subscription = |plan: SubscribeTrack| {
                    Subscription::new(plan, Arc::clone(&stream), start, context, now)
                };
                let subscriptions = plan.tracks.into_iter().map(subscription).collect();
                RoleState::Subscriber(Subscriber::new(subscriptions))
            }
        };
        let key = self.sessions.insert(Session {
            id: new.id,
            stream: Arc::clone(&stream),
            peer,
            sending: SendState::default(),
            role,
            created: new.created,
            ufrags: vec![ufrag.clone()],
            paths: Vec::new(),
            rtcp_limit: PerSecondLimit::per_second(RTCP_PER_SECOND),
        });
        self.by_id.insert(new.id, key);
        self.demux.learn_ufrag(&ufrag, key);
        match self.sessions.get(key).map(|session| &session.role) {
            Some(RoleState::Publisher(publisher)) => {
                self.holders.enter(key, publisher.holder);
                self.streams.open(&stream).publishers += 1;
            }
            _ => self.watch(now, key, &stream, egress),
        }
        self.schedule(key);
        key
    }

    /// Adds a viewer to a stream's viewers.
    fn watch(
        &mut self,
        now: Instant,
        viewer: SessionKey,
        shared: &Arc<StreamShared>,
        egress: &mut dyn Egress,
    ) {
        let stream = self.streams.open(shared);
        if !stream.viewers.viewers().contains(&viewer) {
            stream.viewers.push(viewer);
        }
        self.refresh(now, shared.id, egress);
        self.apply_source(now, shared.id, &[viewer], egress);
    }

    /// Removes a viewer from a stream's viewers.
    fn unwatch(&mut self, viewer: SessionKey, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.viewers.remove(viewer);
        }
        self.streams.close_unused(id, &mut self.context.pool);
    }

    /// Binds a viewer's subscription to another track, or to none. Without such a viewer or
    /// subscription nothing happens.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        id: SessionId,
        index: usize,
        track: Option<BoundTrack>,
        egress: &mut dyn Egress,
    ) {
        let Some(key) = self.by_id.get(&id).copied() else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let RoleState::Subscriber(subscriber) = &mut session.role else { return };
        let bound = subscriber.subscriptions.get(index).and_then(|s| s.stream().cloned());
        let shared = track.as_ref().map(|track| Arc::clone(&track.stream));
        if !subscriber.bind(now, index, track) {
            return;
        }
        if let Some(old) = bound.filter(|old| !subscriber.watches(old.id)) {
            self.unwatch(key, old.id);
        }
        if let Some(shared) = shared {
            self.watch(now, key, &shared, egress);
        }
    }

    /// Sends queued datagrams of the connection, handles its events, and sets its timer.
    pub(super) fn after_session(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        while let Some(session) = self.sessions.get_mut(key) {
            match session.peer.poll(now, &mut *self.context.entropy, egress) {
                None => break,
                Some(PeerEvent::Connected) => self.on_connected(now, key, egress),
                Some(PeerEvent::HandshakeFailed(failure)) => {
                    self.events.push(Event::HandshakeFailed(session.id, failure.cause));
                    self.close(now, key, failure.reason, egress);
                    return;
                }
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
                // Applied here at once: the publisher's packets follow the handshake. The control
                // plane informs the other workers.
                publisher.on_connected(&session.stream);
                self.refresh(now, id, egress);
            }
            RoleState::Subscriber(subscriber) => subscriber.on_connected(),
        }
    }

    /// Handles a session's deadline.
    pub(super) fn on_timer(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        self.guarded(now, key, egress, |worker, egress| worker.session_timeout(now, key, egress));
        self.collect_requests_of(now, key, egress);
        // A deadline that stays in the past must cost a timer tick, not the whole core.
        if self.timers.of(key).is_some_and(|at| at <= now) {
            self.timers.schedule(now + TIMER_TICK, key);
        }
    }

    fn session_timeout(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        // A publisher that sends nothing, such as a muted microphone, stays for as long as its
        // consent holds (RFC 7675).
        if let Some(reason) = session.peer.handle_timeout(now) {
            self.close(now, key, reason, egress);
            return;
        }
        let class = match session.is_new(now) {
            true => TransmitClass::JoiningMedia,
            false => TransmitClass::Media,
        };
        let Session { id, peer, sending, role, stream, .. } = session;
        match role {
            RoleState::Publisher(publisher) => {
                if publisher.handle_timeout(now, peer, stream, &mut self.context, egress) {
                    let silence = SessionInfo::silence(peer.state(), peer.last_alive(), now);
                    if publisher.note_silence(silence.is_some()) {
                        self.events.push(Event::Silent(*id, silence.is_some()));
                    }
                    let warning = publisher.take_new_warning(now);
                    self.events.extend(warning.map(|warning| Event::Warned(*id, warning)));
                }
            }
            RoleState::Subscriber(subscriber) => {
                let shared = (&mut self.batch, &mut self.context);
                match Outbox::open(now, class, (peer, sending), shared, egress) {
                    Some(mut outbox) => {
                        subscriber.handle_timeout(&self.streams, &mut outbox);
                        outbox.finish();
                    }
                    None => subscriber.skip_reports(now),
                }
            }
        }
        self.after_session(now, key, egress);
    }

    /// Sends a publisher's due feedback right after its packets were handled, while its state is in
    /// the CPU caches. Sets its timer once for all of them.
    pub(super) fn send_due_feedback(
        &mut self,
        now: Instant,
        key: SessionKey,
        egress: &mut dyn Egress,
    ) {
        self.guarded(now, key, egress, |worker, egress| {
            let Some(Session { role, peer, .. }) = worker.sessions.get_mut(key) else { return };
            if let RoleState::Publisher(publisher) = role {
                publisher.send_due_feedback(now, peer, &mut worker.context, egress);
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
        match &session.role {
            RoleState::Publisher(publisher) => {
                self.holders.leave(key);
                self.context.pool.leave(publisher.holder);
                let id = session.stream.id;
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.publishers = stream.publishers.saturating_sub(1);
                }
                session.stream.disconnect(session.id);
                self.refresh(now, id, egress);
                self.streams.close_unused(id, &mut self.context.pool);
            }
            RoleState::Subscriber(subscriber) => {
                for stream in subscriber.subscriptions.iter().filter_map(Subscription::stream) {
                    self.unwatch(key, stream.id);
                }
            }
        }
        self.events.push(Event::Closed(session.id, reason));
    }

    pub(super) fn schedule(&mut self, key: SessionKey) {
        let Some(at) = self.sessions.get(key).and_then(Session::next_timeout) else { return };
        self.timers.schedule(at, key);
    }

    /// Runs one session's code; a panic in it ends that session only. Sound because a session
    /// shares nothing mutable with others but caches and counters, which stay consistent.
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
            self.batch = Batch::new();
            self.close(now, key, CloseReason::Panic, egress);
        }
    }

    /// Restarts ICE with new credentials of both sides; the old pair is used meanwhile (whip-whep
    /// B9).
    pub(super) fn restart_ice(
        &mut self,
        now: Instant,
        id: SessionId,
        local: IceCredentials,
        remote: IceCredentials,
    ) {
        let Some(key) = self.by_id.get(&id).copied() else {
            // The session ended meanwhile: no session has the new ufrag.
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
