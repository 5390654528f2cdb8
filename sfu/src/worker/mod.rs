//! Worker: the sessions, streams and timers of one core. Pure: time, datagrams and commands come in
//! as arguments, events go out as values, and datagrams through an [`Egress`].
//!
//! The worker's top layer is spread over the modules named here; this file holds its fields, its
//! commands and its timers. `net/shell.rs` says in which order a turn calls them. `dispatch` finds
//! the session of a datagram, `handshakes` spreads DTLS over turns, and `lifecycle` adopts,
//! connects and closes sessions. `sources` follows changes of publishers, and `fanout` serves
//! viewers in the order of their [`viewer_queue`]. Below them, `publisher` takes packets in,
//! `stream` keeps them, `subscriber` sends them out. The shell in `net/` drives one `Worker` per
//! thread, the tests drive several under one virtual clock.

mod batch;
mod check_budget;
mod claims;
mod context;
mod demux;
mod dispatch;
mod drop_warnings;
mod fanout;
mod handshakes;
mod held;
mod ingress_rate;
mod keyframe_requests;
mod keys;
mod layer;
mod lifecycle;
mod lobby;
mod lookup;
mod outbox;
mod packet_inspector;
mod pool_relief;
mod preference_mailbox;
mod publisher;
mod publisher_feedback;
mod report;
mod routing;
mod session;
mod sources;
mod ssrcs;
mod stream;
mod streams;
mod subscriber;
mod subscription;
mod timers;
mod turn;
mod viewer_info;
mod viewer_queue;
mod warning;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use lobby::{CHECKS_PER_UFRAG, CheckOutcome, CheckRefusal, Lobby, Owner};
pub use preference_mailbox::PreferenceMailbox;
pub(crate) use report::seconds;
pub use report::{
    DecisionInfo, LayerInfo, LayerState, LearnedInfo, PublisherStatus, ResponseInfo, SessionInfo,
    TrackInfo, TrackLayers, UnservedTrack, WorkerReport,
};
pub use session::{NewSession, Plan};
pub use subscription::BoundTrack;
pub use warning::Warning;

use batch::Batch;
use check_budget::CheckBudget;
use context::{Context, SCRATCH_BYTES};
use demux::Demux;
use handshakes::Handshakes;
use keys::SessionKey;
use pool_relief::Holders;
use session::{RoleState, Sessions};
use streams::Streams;
use timers::Timers;
use turn::TurnPlan;

use crate::config::PublisherLimits;
use crate::error::CloseReason;
use crate::ids::SessionId;
use crate::media::PacketPool;
use crate::media::packet::PACKET_BYTES_MAX;
use crate::router::{RingPort, StreamId, StreamShared};
use crate::sdp::IceCredentials;
use crate::transport::Entropy;
use crate::transport::dtls::DtlsBackend;
use crate::transport::egress::Egress;
use crate::units::ClockBase;

/// Interval at which caches are aged and publishers compared with the shared state.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum RTCP packets taken from one peer per second (quality B2).
const RTCP_PER_SECOND: u32 = 500;

/// Minimum time between two timeouts of one session.
const TIMER_TICK: Duration = Duration::from_millis(1);

/// Maximum timers handled per step; most of them send packets.
const TIMERS_PER_STEP: usize = 16;

/// Configuration of a worker.
pub struct WorkerConfig {
    /// Monotonic to wall time.
    pub clock: ClockBase,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
    /// Makes DTLS associations under the server's certificate.
    pub dtls: Arc<dyn DtlsBackend>,
    /// Sessions that wait for their first check, shared by all workers.
    pub lobby: Arc<Lobby>,
    /// This worker's ends of the rings.
    pub port: RingPort,
    /// Maximum packet buffers per size class.
    pub pool_packets: usize,
    /// Limits per publisher.
    pub publisher_limits: PublisherLimits,
}

/// Order from the control plane.
#[derive(Debug)]
pub enum Command {
    /// The publisher of this stream changed: read it from the shared state.
    Refresh(Arc<StreamShared>),
    /// ICE restart: new credentials of both sides.
    Restart {
        /// Session to restart.
        id: SessionId,
        /// Our credentials.
        local: IceCredentials,
        /// The peer's credentials.
        remote: IceCredentials,
    },
    /// A viewer set layer preferences; the newest ones are read when the order is carried out.
    ApplyPreferences {
        /// Session of the viewer.
        id: SessionId,
        /// Mailbox that holds its preferences.
        mailbox: Arc<PreferenceMailbox>,
    },
    /// Bind a viewer's subscription to another track, or to none. The control plane keeps the
    /// stream and its route to this worker from before until the subscription is bound to another
    /// one. Packets are sent from the next one on.
    #[cfg_attr(
        not(feature = "internals"),
        expect(dead_code, reason = "ordered by the control plane once rooms exist")
    )]
    Bind {
        /// Session of the viewer.
        id: SessionId,
        /// Position of the subscription among the viewer's m-lines.
        subscription: usize,
        /// The track.
        track: Option<BoundTrack>,
    },
    /// End a session.
    Close {
        /// Session to close.
        id: SessionId,
        /// Reason for closing it.
        reason: CloseReason,
    },
    /// End all sessions.
    CloseAll(CloseReason),
    /// Panic while the session is handled; tests that only this session ends.
    #[cfg(feature = "internals")]
    InjectPanic(SessionId),
}

/// Event for the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session was adopted by this worker.
    Adopted {
        /// The session.
        id: SessionId,
        /// Address that its first valid check came from; it may be forged.
        from: IpAddr,
    },
    /// A session is connected: media may be sent.
    Connected(SessionId),
    /// The DTLS handshake of a session failed, and what happened; its end follows.
    HandshakeFailed(SessionId, Arc<str>),
    /// A session ended.
    Closed(SessionId, CloseReason),
    /// A publisher became silent, or is heard again: whether nothing authentic has come from it for
    /// three seconds.
    Silent(SessionId, bool),
    /// Something is wrong with a publisher's stream; once for each code of a warning.
    Warned(SessionId, Warning),
    /// A new publisher's codec is not in the answers of some viewers that stay for their other
    /// tracks; at most once for each change of publisher.
    Unserved {
        /// One of the viewers.
        session: SessionId,
        /// Number of these viewers on this worker.
        viewers: usize,
        /// What the one is not sent, in words.
        text: String,
    },
}

/// State machine of one core.
pub struct Worker {
    context: Context,
    dtls: Arc<dyn DtlsBackend>,
    lobby: Arc<Lobby>,
    sessions: Sessions,
    by_id: HashMap<SessionId, SessionKey>,
    demux: Demux,
    check_budget: CheckBudget,
    streams: Streams,
    holders: Holders,
    /// Publishers that sent media in this turn, in the order of their packets: feedback that is due
    /// is sent once for all packets of one in a row.
    publishers_with_media: Vec<SessionKey>,
    /// Streams with packets that arrived in this turn.
    dirty_streams: Vec<StreamId>,
    /// Streams whose joining viewers wait for packets, each once, and since when.
    joining_streams: VecDeque<(Instant, StreamId)>,
    timers: Timers,
    handshakes: Handshakes,
    batch: Batch,
    events: Vec<Event>,
    next_sweep: Option<Instant>,
    stray_buffer: Box<[u8]>,
    /// Visits of this turn, kept to avoid the allocation.
    plan: TurnPlan,
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
            check_budget: CheckBudget::default(),
            streams: Streams::default(),
            holders: Holders::default(),
            publishers_with_media: Vec::new(),
            dirty_streams: Vec::new(),
            joining_streams: VecDeque::new(),
            timers: Timers::default(),
            handshakes: Handshakes::default(),
            batch: Batch::new(),
            events: Vec::new(),
            next_sweep: None,
            stray_buffer: vec![0; PACKET_BYTES_MAX + 1].into_boxed_slice(),
            plan: TurnPlan::default(),
        }
    }

    /// A worker without sessions that continues with the rings, counters and configuration of this
    /// one. After a panic no other state of it can be relied on.
    pub fn rebuild(self, pool_packets: usize) -> Self {
        let Context { clock, publisher_limits, entropy, port, report, .. } = self.context;
        let (dtls, lobby) = (self.dtls, self.lobby);
        let config =
            WorkerConfig { clock, entropy, dtls, lobby, port, pool_packets, publisher_limits };
        let mut new = Self::new(config);
        new.context.report = report;
        new.context.report.panics += 1;
        new
    }

    /// Carries out one order.
    pub fn handle_command(&mut self, now: Instant, command: Command, egress: &mut dyn Egress) {
        match command {
            Command::Refresh(shared) => self.refresh(now, shared.id, egress),
            Command::Restart { id, local, remote } => self.restart_ice(now, id, local, remote),
            Command::ApplyPreferences { id, mailbox } => {
                let preferences = mailbox.take();
                let session = self.by_id.get(&id).and_then(|key| self.sessions.get_mut(*key));
                if let Some(RoleState::Subscriber(subscriber)) = session.map(|s| &mut s.role) {
                    subscriber.set_preferences(preferences);
                }
            }
            Command::Bind { id, subscription, track } => {
                self.bind(now, id, subscription, track, egress);
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
            #[cfg(feature = "internals")]
            Command::InjectPanic(id) => {
                if let Some(key) = self.by_id.get(&id).copied() {
                    self.guarded(now, key, egress, |_, _| panic!("injected panic"));
                }
            }
        }
    }

    /// Does one step of deferrable work, so that it never stands between a packet and established
    /// viewers. A step is some due timers, packets for some joining viewers, and a datagram of a
    /// handshake. Call it again as time allows while it returns true: more is due.
    pub fn handle_timeout(&mut self, now: Instant, egress: &mut dyn Egress) -> bool {
        for _ in 0..TIMERS_PER_STEP {
            let Some(key) = self.timers.pop_due(now) else { break };
            self.on_timer(now, key, egress);
        }
        if self.next_sweep.is_none_or(|at| at <= now) {
            self.next_sweep = Some(now + SWEEP_INTERVAL);
            self.sweep(now, egress);
            self.context.pool.sweep(now);
        }
        self.context.pool.tidy(now);
        self.serve_joining_viewers(now, egress);
        self.work_off_handshake(now, egress);
        self.context.port.notify();
        self.timers.settle();
        self.next_timeout().is_some_and(|at| at <= now)
    }

    /// Time at which [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let timers = self.timers.next().into_iter().chain(self.next_sweep);
        let timers = timers.chain(self.context.pool.next_tidy());
        let joining = self.joining_streams.front().map(|(since, _)| *since);
        timers.chain(joining).chain(self.handshakes.waiting_since()).min()
    }

    /// Whether another worker put something into our rings.
    pub fn has_ring_work(&self) -> bool {
        self.context.port.has_incoming()
    }

    /// Passes on events since the last call, oldest first. Events that the caller cannot take now
    /// are passed on again.
    pub fn drain_events(&mut self, mut take: impl FnMut(Event) -> bool) {
        let taken = self.events.iter().take_while(|event| take((*event).clone())).count();
        self.events.drain(..taken);
    }

    /// Cumulative counters, with present cache sizes.
    pub fn report(&self) -> WorkerReport {
        let mut report = self.context.report.clone();
        report.pool_bytes = self.context.pool.bytes();
        report.evictions = self.context.pool.evictions();
        for stream in self.streams.iter().filter(|stream| stream.is_owned()) {
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
        let check_rtt = session.peer.check_rtt();
        let (tracks, decisions, warnings, rtt) = match &mut session.role {
            RoleState::Publisher(publisher) => {
                let rtt = check_rtt.or(publisher.rtt.get());
                (publisher.report(now), Vec::new(), publisher.warnings(now), rtt)
            }
            RoleState::Subscriber(subscriber) => (
                viewer_info::tracks(subscriber, now, &self.streams),
                viewer_info::decisions(subscriber, session.created, &self.streams),
                viewer_info::warnings(subscriber)
                    .into_iter()
                    .chain(session.sending.warnings(now))
                    .collect(),
                subscriber.rtt().or(check_rtt),
            ),
        };
        let rtt = rtt.or(session.peer.handshake_rtt());
        Some(SessionInfo {
            id,
            role: session.kind(),
            stream: shared.name.clone(),
            state: session.peer.state().label(),
            age_s: report::seconds(now.saturating_duration_since(session.created)),
            silent_s: SessionInfo::silence(session.peer.state(), session.peer.last_alive(), now),
            worker: self.context.port.index,
            srtp_profile: session.peer.profile().map(|profile| profile.label()),
            rtt_ms: rtt.map(report::milliseconds),
            tracks,
            decisions,
            warnings,
        })
    }

    /// Layers that a viewer can choose; `None` if it is not here.
    pub fn viewer_layers(&self, id: SessionId, now: Instant) -> Option<Vec<TrackLayers>> {
        let session = self.sessions.get(*self.by_id.get(&id)?)?;
        match &session.role {
            RoleState::Subscriber(subscriber) => {
                Some(viewer_info::layers(subscriber, now, &self.streams))
            }
            RoleState::Publisher(_) => None,
        }
    }

    /// Status of a publisher's stream for its viewers; `None` if the publisher is not here.
    pub fn publisher_status(&mut self, id: SessionId, now: Instant) -> Option<PublisherStatus> {
        let session = self.sessions.get_mut(*self.by_id.get(&id)?)?;
        match &mut session.role {
            RoleState::Publisher(publisher) => Some(publisher.status(now)),
            RoleState::Subscriber(_) => None,
        }
    }

    /// M-lines of a viewer on which nothing is sent because of their codec.
    pub fn unserved_tracks(&self, id: SessionId) -> Vec<UnservedTrack> {
        let session = self.by_id.get(&id).and_then(|key| self.sessions.get(*key));
        let subscriber = session.and_then(|session| session.subscriber());
        subscriber.map_or_else(Vec::new, |viewer| viewer_info::unserved(viewer, &self.streams))
    }

    /// Live sessions here.
    #[cfg(feature = "internals")]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("context", &self.context).finish_non_exhaustive()
    }
}
