//! One core's world: sessions, streams, timers. Pure: time, datagrams and commands come in as
//! arguments, datagrams and events go out as values.
//!
//! This file is the hallway: it only says who is called, in which order. [`demux`] finds the session,
//! [`publisher`] takes packets in, [`stream`] keeps them, [`subscriber`] sends them out. The shell in
//! `net/` drives one `Worker` per thread, the tests drive several under one virtual clock.

mod batch;
mod context;
mod demux;
mod ingest;
mod layer;
mod lobby;
mod publisher;
mod report;
mod session;
mod stream;
mod subscriber;
mod timers;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use lobby::{Knock, Lobby};
pub use report::{DecisionInfo, LayerInfo, SessionInfo, TrackInfo, WorkerReport};
pub use session::{NewSession, Plan};

use batch::Batch;
use context::{Context, SCRATCH_BYTES};
use demux::Demux;
use publisher::Publisher;
use session::{Budget, RoleState, Session, SessionKey, Sessions};
use stream::LocalStream;
use subscriber::Subscriber;
use timers::Timers;

use crate::config::PublisherLimits;
use crate::error::{CloseReason, DropReason};
use crate::ids::{Role, SessionId};
use crate::media::PacketPool;
use crate::media::packet::PACKET_BYTES_MAX;
use crate::router::{MediaItem, RingPort, StreamId, StreamShared};
use crate::rtp::packet::{PacketClass, classify};
use crate::sdp::IceCredentials;
use crate::transport::dtls::DtlsBackend;
use crate::transport::egress::{Egress, Transmit};
use crate::transport::peer::{Peer, PeerEvent};
use crate::transport::stun::{self, StunView};
use crate::transport::{Entropy, Path};
use crate::units::ClockBase;

/// How often caches are aged and publishers compared with the shared state.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// RTCP packets taken from one peer per second (quality B2).
const RTCP_PER_SECOND: u32 = 500;

/// Fresh packets of one stream that are forwarded before more datagrams are read.
const FRESH_MAX: usize = 256;

/// The least time between two timeouts of one session.
const TIMER_TICK: Duration = Duration::from_millis(1);

/// Strays taken per turn; the rest waits in its ring.
const STRAYS_PER_TURN: usize = 256;

/// What a worker is made of.
pub struct WorkerConfig {
    /// Monotonic to wall time.
    pub clock: ClockBase,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
    /// Makes DTLS associations under the server's certificate.
    pub dtls: Arc<dyn DtlsBackend>,
    /// Sessions waiting for their first check, shared by all workers.
    pub lobby: Arc<Lobby>,
    /// This worker's ends of the rings.
    pub port: RingPort,
    /// Packet buffers at most, per size class.
    pub pool_packets: usize,
    /// Limits per publisher layer.
    pub publisher_limits: PublisherLimits,
}

/// Orders from the control plane.
#[derive(Debug)]
pub enum Command {
    /// A viewer that this worker shall own.
    Subscribe(Box<NewSession>),
    /// The publisher of this stream changed; read it from the shared state.
    Refresh(Arc<StreamShared>),
    /// ICE restart: new credentials of both sides.
    Restart {
        /// Which session.
        id: SessionId,
        /// Ours.
        local: IceCredentials,
        /// The peer's.
        remote: IceCredentials,
    },
    /// End a session.
    Close {
        /// Which session.
        id: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// End all sessions.
    CloseAll(CloseReason),
    /// Panics while handling the session; proves that only it ends.
    #[doc(hidden)]
    InjectPanic(SessionId),
}

/// What the control plane must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A waiting session came here.
    Adopted(SessionId),
    /// Its media may flow.
    Connected(SessionId),
    /// It is over.
    Closed(SessionId, CloseReason),
}

/// One core's world.
pub struct Worker {
    context: Context,
    dtls: Arc<dyn DtlsBackend>,
    lobby: Arc<Lobby>,
    sessions: Sessions,
    by_id: HashMap<SessionId, SessionKey>,
    demux: Demux,
    streams: Vec<Option<(u32, LocalStream)>>,
    /// Streams with fresh packets in this turn.
    fresh_streams: Vec<u32>,
    timers: Timers,
    batch: Batch,
    events: Vec<Event>,
    next_sweep: Option<Instant>,
    stray_buffer: Box<[u8]>,
    /// Viewers served in this turn, kept to spare the allocation.
    serving: Vec<SessionKey>,
    inject_panic: Option<SessionId>,
}

impl Worker {
    /// A worker without sessions.
    pub fn new(config: WorkerConfig) -> Self {
        Self {
            context: Context {
                clock: config.clock,
                publisher_limits: config.publisher_limits,
                entropy: config.entropy,
                pool: PacketPool::new(config.pool_packets),
                port: config.port,
                report: WorkerReport::default(),
                scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            },
            dtls: config.dtls,
            lobby: config.lobby,
            sessions: Sessions::default(),
            by_id: HashMap::new(),
            demux: Demux::default(),
            streams: Vec::new(),
            fresh_streams: Vec::new(),
            timers: Timers::default(),
            batch: Batch::new(),
            events: Vec::new(),
            next_sweep: None,
            stray_buffer: vec![0; PACKET_BYTES_MAX + 1].into_boxed_slice(),
            serving: Vec::new(),
            inject_panic: None,
        }
    }

    /// One datagram from the socket.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) {
        if let Err(reason) = self.dispatch(now, path, datagram, false, egress) {
            self.context.report.dropped.count(reason);
        }
    }

    /// What other workers left in our rings: media for our viewers, datagrams of our sessions.
    pub fn handle_rings(&mut self, now: Instant, egress: &mut dyn Egress) {
        for _ in 0..crate::router::ring::MEDIA_RING_ITEMS {
            let Some(item) = self.context.port.receive_media() else { break };
            self.take_media(item);
        }
        let mut buffer = std::mem::take(&mut self.stray_buffer);
        for _ in 0..STRAYS_PER_TURN {
            let Some((path, len)) = self.context.port.receive_stray(&mut buffer) else { break };
            let Some(datagram) = buffer.get_mut(..len) else { continue };
            if let Err(reason) = self.dispatch(now, path, datagram, true, egress) {
                self.context.report.dropped.count(reason);
            }
        }
        self.stray_buffer = buffer;
    }

    /// One order.
    pub fn handle_command(&mut self, now: Instant, command: Command, egress: &mut dyn Egress) {
        match command {
            Command::Subscribe(session) => {
                self.adopt(now, *session, egress);
            }
            Command::Refresh(shared) => self.refresh(now, shared.id, egress),
            Command::Restart { id, local, remote } => {
                if let Some(key) = self.by_id.get(&id).copied()
                    && let Some(session) = self.sessions.get_mut(key)
                {
                    self.demux.learn_ufrag(&local.ufrag, key);
                    session.ufrags.push(local.ufrag.as_str().into());
                    session.peer.restart_ice(local, remote, now);
                    self.schedule(key);
                }
            }
            Command::Close { id, reason } => {
                if let Some(key) = self.by_id.get(&id).copied() {
                    self.close(now, key, reason, egress);
                }
            }
            Command::CloseAll(reason) => {
                for key in self.sessions.keys().collect::<Vec<_>>() {
                    self.close(now, key, reason, egress);
                }
            }
            Command::InjectPanic(id) => self.inject_panic = Some(id),
        }
    }

    /// Forwards everything that came in since the last call. Call once per turn of the loop.
    pub fn flush(&mut self, now: Instant, egress: &mut dyn Egress) {
        while let Some(index) = self.fresh_streams.pop() {
            self.serve(now, index, egress);
        }
        self.context.port.notify();
    }

    /// Timers that are due.
    pub fn handle_timeout(&mut self, now: Instant, egress: &mut dyn Egress) {
        while let Some((at, key)) = self.timers.pop_due(now) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            if session.scheduled != Some(at) {
                continue;
            }
            session.scheduled = None;
            self.guarded(now, key, egress, |worker, egress| {
                worker.session_timeout(now, key, egress)
            });
            // A deadline that stays in the past must cost a timer tick, not the whole core.
            if let Some(session) = self.sessions.get_mut(key)
                && session.scheduled.is_some_and(|at| at <= now)
            {
                let later = now + TIMER_TICK;
                session.scheduled = Some(later);
                self.timers.schedule(later, key);
            }
        }
        if self.next_sweep.is_none_or(|at| at <= now) {
            self.next_sweep = Some(now + SWEEP_INTERVAL);
            self.sweep(now, egress);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        context::earlier(self.timers.next(), self.next_sweep)
    }

    /// Whether other workers left something.
    pub fn has_ring_work(&self) -> bool {
        self.context.port.has_incoming()
    }

    /// Events since the last call, oldest first. Those the caller cannot take now come again.
    pub fn drain_events(&mut self, mut take: impl FnMut(Event) -> bool) {
        let taken = self.events.iter().take_while(|event| take(**event)).count();
        self.events.drain(..taken);
    }

    /// Cumulative counters, with what is cached now.
    pub fn report(&self) -> WorkerReport {
        let mut report = self.context.report.clone();
        for session in self.sessions.iter() {
            match session.kind() {
                Role::Publisher => report.publishers += 1,
                Role::Subscriber => report.subscribers += 1,
            }
        }
        for (_, stream) in self.streams.iter().flatten().filter(|(_, stream)| stream.is_owned()) {
            let (packets, bytes) = stream.cached();
            report.cache_packets += packets as u64;
            report.cache_bytes += bytes as u64;
        }
        report
    }

    /// One session for the API.
    pub fn session_info(&mut self, id: SessionId, now: Instant) -> Option<SessionInfo> {
        let session = self.sessions.get_mut(*self.by_id.get(&id)?)?;
        let shared = Arc::clone(&session.stream);
        let source = shared.source.load_full();
        let (tracks, decisions, rtt) = match &mut session.role {
            RoleState::Publisher(publisher) => (publisher.report(now), Vec::new(), None),
            RoleState::Subscriber(subscriber) => (
                subscriber.report(now, source.as_ref()),
                subscriber.decisions(session.created, source.as_ref()),
                subscriber.rtt(),
            ),
        };
        let rtt = rtt.or(session.peer.check_rtt());
        Some(SessionInfo {
            id,
            role: session.kind(),
            stream: shared.name.clone(),
            state: session.peer.state().label(),
            age_s: now.saturating_duration_since(session.created).as_secs_f64(),
            worker: self.context.port.index,
            srtp_profile: session.peer.profile().map(|profile| profile.label()),
            rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            tracks,
            decisions,
        })
    }

    /// Live sessions here.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    fn dispatch(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &mut [u8],
        stray: bool,
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        if datagram.len() > PACKET_BYTES_MAX {
            return Err(DropReason::Oversized);
        }
        let class = classify(datagram);
        let key = match class {
            PacketClass::Unknown => return Err(DropReason::UnknownProtocol),
            PacketClass::Stun => self.session_of_stun(now, path, datagram, stray, egress)?,
            PacketClass::Dtls | PacketClass::Rtp | PacketClass::Rtcp => {
                match self.demux.session_at(path) {
                    Some(key) => Some(key),
                    None => self.pass_on(path, datagram, stray)?,
                }
            }
        };
        let Some(key) = key else { return Ok(()) };
        let mut outcome = Ok(());
        self.guarded(now, key, egress, |worker, egress| {
            outcome = worker.session_datagram(now, key, path, class, datagram, egress);
        });
        outcome
    }

    /// Finds (or adopts) the session that a STUN message belongs to. `None` if it was answered or
    /// passed on.
    fn session_of_stun(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &[u8],
        stray: bool,
        egress: &mut dyn Egress,
    ) -> Result<Option<SessionKey>, DropReason> {
        let Some(ufrag) = stun::server_ufrag(datagram) else {
            // A response to a check of ours, or a plain Binding request (whip-whep H1, H3).
            if let Some(key) = self.demux.session_at(path) {
                return Ok(Some(key));
            }
            if self.demux.stray_owner(path.remote).is_some() {
                return self.pass_on(path, datagram, stray);
            }
            if !self.demux.allow_unknown_stun(now) {
                return Err(DropReason::StunRateLimited);
            }
            let mut reply = [0; 64];
            let len = stun::plain_binding_reply(datagram, path.remote, &mut reply)
                .ok_or(DropReason::StunMalformed)?;
            let contents = reply.get(..len).ok_or(DropReason::StunMalformed)?;
            egress.send(Transmit { path, contents, segment_size: None });
            return Ok(None);
        };
        if let Some(key) = self.demux.session_named(ufrag) {
            return Ok(Some(key));
        }
        if !self.demux.allow_unknown_stun(now) {
            return Err(DropReason::StunRateLimited);
        }
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        match self.lobby.knock(ufrag, &view, self.context.port.index) {
            Knock::Adopt(session) => {
                let id = session.id;
                let key = self.adopt(now, *session, egress);
                self.events.push(Event::Adopted(id));
                Ok(Some(key))
            }
            Knock::Elsewhere(worker) if !stray && worker != self.context.port.index => {
                self.demux.learn_stray(path.remote, worker);
                self.send_stray(worker, path, datagram)?;
                Ok(None)
            }
            Knock::Elsewhere(_) | Knock::Unknown => Err(DropReason::StunUnknownUfrag),
            Knock::BadIntegrity => Err(DropReason::StunBadIntegrity),
        }
    }

    /// Passes a datagram of another worker's session on, once.
    fn pass_on(
        &mut self,
        path: Path,
        datagram: &[u8],
        stray: bool,
    ) -> Result<Option<SessionKey>, DropReason> {
        let owner = self.demux.stray_owner(path.remote).filter(|_| !stray);
        let owner = owner.ok_or(DropReason::UnvalidatedAddress)?;
        self.send_stray(owner, path, datagram)?;
        Ok(None)
    }

    fn send_stray(&mut self, worker: usize, path: Path, datagram: &[u8]) -> Result<(), DropReason> {
        match self.context.port.send_stray(worker, path, datagram) {
            true => Ok(()),
            false => Err(DropReason::StrayLimited),
        }
    }

    fn session_datagram(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: Path,
        class: PacketClass,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(key).ok_or(DropReason::UnvalidatedAddress)?;
        assert!(self.inject_panic != Some(session.id), "injected panic");
        match class {
            PacketClass::Stun => {
                session.peer.handle_stun(now, path, datagram, egress)?;
                self.demux.learn_path(path, key);
                self.after_session(now, key, egress);
            }
            PacketClass::Dtls => {
                let outcome = session.peer.handle_dtls(now, path, datagram);
                self.after_session(now, key, egress);
                outcome?;
            }
            PacketClass::Rtp => {
                let RoleState::Publisher(publisher) = &mut session.role else {
                    return Err(DropReason::WrongDirection);
                };
                let id = session.stream.id;
                let stream = stream_mut(&mut self.streams, id).ok_or(DropReason::UnknownTrack)?;
                publisher.handle_rtp(
                    now,
                    path,
                    datagram,
                    &mut session.peer,
                    stream,
                    &mut self.context,
                )?;
                self.note_fresh(now, id, egress);
                self.schedule(key);
            }
            PacketClass::Rtcp => self.session_rtcp(now, key, path, datagram, egress)?,
            PacketClass::Unknown => return Err(DropReason::UnknownProtocol),
        }
        Ok(())
    }

    fn session_rtcp(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: Path,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(key).ok_or(DropReason::UnvalidatedAddress)?;
        if !session.rtcp_budget.take(now) {
            return Err(DropReason::RtcpRateLimited);
        }
        let len = session.peer.open_rtcp(now, path, datagram)?;
        let compound = datagram.get(..len).ok_or(DropReason::RtcpMalformed)?;
        match &mut session.role {
            RoleState::Publisher(publisher) => {
                publisher.handle_rtcp(now, compound, &mut self.context);
            }
            RoleState::Subscriber(subscriber) => {
                let stream = stream_mut(&mut self.streams, session.stream.id)
                    .ok_or(DropReason::UnknownTrack)?;
                subscriber.handle_rtcp(
                    now,
                    compound,
                    stream,
                    &mut session.peer,
                    &mut self.batch,
                    &mut self.context,
                    egress,
                );
            }
        }
        Ok(())
    }

    fn session_timeout(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        assert!(self.inject_panic != Some(session.id), "injected panic");
        if let Some(reason) = session.peer.handle_timeout(now) {
            self.close(now, key, reason, egress);
            return;
        }
        let Session { peer, role, stream, .. } = session;
        match role {
            RoleState::Publisher(publisher) => {
                publisher.handle_timeout(now, peer, stream, &mut self.context, egress);
            }
            RoleState::Subscriber(subscriber) => {
                subscriber.handle_timeout(now, peer, &mut self.context, egress);
            }
        }
        self.after_session(now, key, egress);
    }

    /// Sends what the connection has to send, reacts to what happened to it, and sets its timer.
    fn after_session(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
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

    fn on_connected(&mut self, now: Instant, key: SessionKey, egress: &mut dyn Egress) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.events.push(Event::Connected(session.id));
        let id = session.stream.id;
        match &mut session.role {
            RoleState::Publisher(publisher) => {
                // Ours at once: its packets follow the handshake. The control plane tells the others.
                let source = Arc::clone(publisher.source());
                if let Some(stream) = stream_mut(&mut self.streams, id) {
                    stream.install(Some(source), true, &mut self.context.pool);
                }
                self.apply_source(now, id, egress);
            }
            RoleState::Subscriber(subscriber) => subscriber.on_connected(),
        }
    }

    /// Takes a session in: from the lobby (publisher) or by order (viewer).
    fn adopt(&mut self, now: Instant, new: NewSession, egress: &mut dyn Egress) -> SessionKey {
        let peer = Peer::new(new.role(), new.local.clone(), new.remote(), &*self.dtls, new.created);
        let ufrag: Box<str> = new.local.ufrag.as_str().into();
        let stream = Arc::clone(&new.stream);
        let role = match new.plan {
            Plan::Publish { plan, source } => {
                let mut ssrc = [0; 4];
                self.context.entropy.fill(&mut ssrc);
                let ssrc = u32::from_be_bytes(ssrc) | 1;
                let publisher = Publisher::new(plan, source, &stream, ssrc, now);
                RoleState::Publisher(Box::new(publisher))
            }
            Plan::Subscribe { plan } => {
                let subscriber = Subscriber::new(plan, &mut self.context, now);
                RoleState::Subscriber(Box::new(subscriber))
            }
        };
        let key = self.sessions.insert(Session {
            id: new.id,
            stream: Arc::clone(&stream),
            peer,
            role,
            created: new.created,
            scheduled: None,
            ufrags: vec![ufrag.clone()],
            rtcp_budget: Budget::per_second(RTCP_PER_SECOND),
        });
        self.by_id.insert(new.id, key);
        self.demux.learn_ufrag(&ufrag, key);
        let publishes = self.sessions.get(key).is_some_and(|s| s.kind() == Role::Publisher);
        let local = self.open_stream(&stream);
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

    fn close(
        &mut self,
        now: Instant,
        key: SessionKey,
        reason: CloseReason,
        egress: &mut dyn Egress,
    ) {
        let Some(mut session) = self.sessions.remove(key) else { return };
        session.peer.close(now, egress);
        self.by_id.remove(&session.id);
        self.demux.forget(key, &session.ufrags);
        for ufrag in &session.ufrags {
            self.lobby.remove(ufrag);
        }
        let id = session.stream.id;
        if let Some(stream) = stream_mut(&mut self.streams, id) {
            match &session.role {
                RoleState::Publisher(publisher) => {
                    stream.publishers = stream.publishers.saturating_sub(1);
                    if stream.epoch() == Some(publisher.source().epoch) {
                        stream.install(None, false, &mut self.context.pool);
                        self.apply_source(now, id, egress);
                    }
                }
                RoleState::Subscriber(_) => stream.viewers.retain(|viewer| *viewer != key),
            }
            self.drop_unused_stream(id);
        }
        self.events.push(Event::Closed(session.id, reason));
    }

    fn open_stream(&mut self, shared: &Arc<StreamShared>) -> &mut LocalStream {
        let StreamId { index, generation } = shared.id;
        let index = index as usize;
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, || None);
        }
        let slot = &mut self.streams[index];
        if slot.as_ref().is_some_and(|(known, _)| *known != generation) {
            *slot = None;
        }
        &mut slot.get_or_insert_with(|| (generation, LocalStream::new(Arc::clone(shared)))).1
    }

    fn drop_unused_stream(&mut self, id: StreamId) {
        let unused = stream_mut(&mut self.streams, id).is_some_and(|stream| stream.is_unused());
        if !unused {
            return;
        }
        if let Some(slot) = self.streams.get_mut(id.index as usize)
            && let Some((_, mut stream)) = slot.take()
        {
            stream.clear(&mut self.context.pool);
        }
    }

    fn refresh(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        if self.refresh_stream(id) {
            self.apply_source(now, id, egress);
        }
    }

    /// Follows the shared state of a stream; true if its publisher changed here.
    fn refresh_stream(&mut self, id: StreamId) -> bool {
        let Some(stream) = stream_mut(&mut self.streams, id) else { return false };
        let source = stream.shared.source.load_full();
        let owned =
            source.as_ref().is_some_and(|source| self.by_id.contains_key(&source.publisher));
        // A publisher of ours that just connected is ahead of the shared state.
        let ahead = stream.is_owned()
            && stream.epoch() > source.as_ref().map(|source| source.epoch)
            && stream.publishers > 0;
        !ahead && stream.install(source, owned, &mut self.context.pool)
    }

    /// Tells the viewers here of the stream's publisher, and ends those that cannot take its codec.
    fn apply_source(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        let Some(stream) = stream_mut(&mut self.streams, id) else { return };
        let source = stream.source().cloned();
        for key in stream.viewers.clone() {
            if let Some(session) = self.sessions.get_mut(key)
                && let RoleState::Subscriber(subscriber) = &mut session.role
                && let Err(reason) = subscriber.apply_source(now, source.as_ref())
            {
                self.close(now, key, reason, egress);
            }
        }
    }

    fn take_media(&mut self, item: MediaItem) {
        match item {
            MediaItem::Packet { stream: id, epoch, track, layer, packet } => {
                let pool = &mut self.context.pool;
                let taken = match stream_mut(&mut self.streams, id) {
                    Some(stream) => stream.accept(epoch, track, layer, packet, pool),
                    None => Err(DropReason::UnknownTrack),
                };
                match taken {
                    Ok(()) => self.mark_fresh(id),
                    Err(reason) => self.context.report.dropped.count(reason),
                }
            }
            MediaItem::Clock { stream: id, epoch, track, layer, anchor } => {
                if let Some(stream) = stream_mut(&mut self.streams, id) {
                    stream.set_anchor(epoch, track, layer, anchor);
                }
            }
        }
    }

    fn mark_fresh(&mut self, id: StreamId) {
        if !self.fresh_streams.contains(&id.index) {
            self.fresh_streams.push(id.index);
        }
    }

    fn note_fresh(&mut self, now: Instant, id: StreamId, egress: &mut dyn Egress) {
        self.mark_fresh(id);
        let full = stream_mut(&mut self.streams, id).is_some_and(|s| s.fresh.len() >= FRESH_MAX);
        if full {
            self.serve(now, id.index, egress);
        }
    }

    /// Subscriber-major: each viewer gets all fresh packets of the stream as one batch.
    fn serve(&mut self, now: Instant, index: u32, egress: &mut dyn Egress) {
        let Some(Some((_, stream))) = self.streams.get_mut(index as usize) else { return };
        stream.select(now);
        let mut serving = std::mem::take(&mut self.serving);
        serving.clear();
        serving.extend_from_slice(&stream.viewers);
        for key in serving.iter().copied() {
            self.guarded(now, key, egress, |worker, egress| {
                let Some(Some((_, stream))) = worker.streams.get(index as usize) else { return };
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
        if let Some(Some((_, stream))) = self.streams.get_mut(index as usize) {
            stream.fresh.clear();
        }
    }

    fn sweep(&mut self, now: Instant, egress: &mut dyn Egress) {
        let ids: Vec<StreamId> =
            self.streams.iter().flatten().map(|(_, stream)| stream.shared.id).collect();
        for id in ids {
            self.refresh(now, id, egress);
            if let Some(stream) = stream_mut(&mut self.streams, id) {
                stream.expire(now, &mut self.context.pool);
            }
        }
    }

    fn schedule(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(at) = session.next_timeout() else { return };
        if session.scheduled.is_none_or(|scheduled| at < scheduled) {
            session.scheduled = Some(at);
            self.timers.schedule(at, key);
        }
    }

    /// Runs one session's code; a panic in it ends that session only. Sound because a session shares
    /// nothing mutable with others but caches and counters, which stay whole.
    fn guarded(
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
}

fn stream_mut(
    streams: &mut [Option<(u32, LocalStream)>],
    id: StreamId,
) -> Option<&mut LocalStream> {
    let (generation, stream) = streams.get_mut(id.index as usize)?.as_mut()?;
    (*generation == id.generation).then_some(stream)
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("context", &self.context).finish_non_exhaustive()
    }
}
