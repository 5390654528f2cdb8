//! `Sfu`: the one door for `api`. Control plane only; media never passes here.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::affinity::usable_cpus;
use super::control::{Admitted, Control, SessionEntry, Stream, Totals};
use super::latency::{Latency, LatencySummary};
use super::messages::{Message, Notice};
use super::shell_report::ShellReport;
use super::socket::MediaSocket;
use super::thread::PreparedThread;
use super::viewer_status::{self, StatusBoard};
use crate::config::Config;
use crate::error::{CloseReason, DropCounters, DropReason};
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId, SessionSecret, StreamName};
use crate::repair::keyframe_planner::KeyframeCounts;
use crate::router::mesh;
use crate::sdp::{LocalTransport, fragment};
use crate::transport::OsEntropy;
use crate::transport::dtls::DtlsCertificate;
use crate::transport::peer::PeerState;
use crate::units::ClockBase;
use crate::worker::{Command, Lobby, SessionInfo, Worker, WorkerConfig, WorkerReport};

/// A running media plane. Cheap to clone; every clone is the same server.
#[derive(Clone)]
pub struct Sfu {
    pub(super) control: Arc<Control>,
}

/// The media plane could not start; the text names the setting to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A session that was accepted: everything the `201` needs.
#[derive(Debug, Clone)]
pub struct Created {
    /// The capability in the session URL.
    pub secret: SessionSecret,
    /// The id for lists and logs.
    pub id: SessionId,
    /// The SDP answer, CRLF lines.
    pub answer: String,
    /// The strong ETag of this ICE session, quotes included.
    pub etag: String,
}

/// Why an offer was refused. The text is for the client and names what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not SDP, or over a limit of it: 400.
    #[error("{0}")]
    Malformed(String),
    /// SDP that we understand and cannot serve: 422.
    #[error("{0}")]
    Unacceptable(String),
    /// The stream has a live publisher and takeover is off: 409.
    #[error("stream is already being published")]
    Conflict,
    /// No room or draining: 503 with `Retry-After` seconds.
    #[error("server is full or stopping; try again in {retry_after_s} s")]
    Unavailable {
        /// Seconds after which a new try makes sense.
        retry_after_s: u32,
    },
}

/// The `If-Match` header of a PATCH, already parsed (whip-whep B1 to B5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// No such header.
    Missing,
    /// `*` or the quoted `"*"`.
    Any,
    /// A strong tag, quotes included.
    Tag(String),
}

/// What a PATCH did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    /// Candidates taken or ignored: 204, no body, no ETag.
    Trickled,
    /// ICE restarted: 200 with this body and new ETag.
    Restarted {
        /// `application/trickle-ice-sdpfrag`
        body: String,
        /// The new strong ETag, quotes included.
        etag: String,
    },
}

/// Why a PATCH was refused. The session is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// The fragment does not parse: 400.
    #[error("{0}")]
    Malformed(String),
    /// Stale ETag: 412.
    #[error("the ICE session has changed; If-Match names an older one")]
    StaleTag,
    /// `If-Match` is required and missing: 428 (strict mode only).
    #[error("If-Match is required")]
    TagRequired,
    /// Too many PATCHes: 429.
    #[error("too many PATCH requests")]
    RateLimited,
    /// The owning worker did not answer in time: 503.
    #[error("server is busy")]
    Unavailable,
}

/// Why a question of a session's client is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// Too many of them: 429.
    #[error("too many requests for this session")]
    RateLimited,
}

impl Sfu {
    /// Binds the media port and starts the workers. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] naming the setting or the address that failed.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.validate().map_err(|error| StartError(error.to_string()))?;
        let usable = usable_cpus();
        if let Some(cpu) = config.worker_cpus.iter().find(|cpu| !usable.contains(cpu)) {
            return Err(StartError(format!("worker_cpus: this process may not use CPU {cpu}")));
        }
        let failed =
            |what: &str, error: &dyn std::fmt::Display| StartError(format!("{what}: {error}"));
        let sockets = MediaSocket::bind_group(config.media_addr, config.workers).map_err(|e| {
            failed(&format!("cannot bind the media port {} (UDP)", config.media_addr), &e)
        })?;
        let media_addr = sockets
            .first()
            .and_then(|socket| socket.local_addr().ok())
            .ok_or_else(|| StartError("the media socket has no address".to_owned()))?;
        let certificate =
            DtlsCertificate::generate().map_err(|e| failed("cannot make a certificate", &e))?;
        let prepared: Vec<PreparedThread> = (0..config.workers)
            .map(|_| PreparedThread::new())
            .collect::<Result<_, _>>()
            .map_err(|e| failed("cannot prepare a worker thread", &e))?;
        let wakes: Vec<_> = prepared.iter().map(PreparedThread::wake).collect();
        let lobby = Arc::new(Lobby::default());
        let clock = clock_base();
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let mut workers = Vec::with_capacity(config.workers);
        let mut cpus = config.worker_cpus.iter().copied().cycle();
        for ((thread, socket), port) in prepared.into_iter().zip(sockets).zip(mesh(&wakes)) {
            let index = port.index;
            let worker = WorkerConfig {
                clock,
                entropy: Box::new(OsEntropy),
                dtls: Arc::new(certificate.clone()),
                lobby: Arc::clone(&lobby),
                port,
                pool_packets: config.pool_packets,
                publisher_limits: config.publisher_limits,
            };
            let events = events.clone();
            let emit = Box::new(move |notice| events.try_send((index, notice)).is_ok());
            let handle = thread
                .start(worker, socket, cpus.next(), emit)
                .map_err(|e| failed("cannot start a worker thread", &e))?;
            workers.push(handle);
        }
        let candidates = candidates(&config, media_addr);
        let placed = workers.iter().map(|_| AtomicUsize::new(0)).collect();
        let control = Arc::new(Control {
            config,
            media_addr,
            workers,
            lobby,
            streams: DashMap::new(),
            sessions: DashMap::new(),
            urls: DashMap::new(),
            draining: AtomicBool::new(false),
            totals: Totals::default(),
            certificate,
            candidates,
            stream_ids: Mutex::default(),
            half_open: Mutex::default(),
            placed,
            status_board: StatusBoard::default(),
        });
        tokio::spawn(supervise(Arc::downgrade(&control), inbox));
        tokio::spawn(viewer_status::write(Arc::downgrade(&control), control.status_board.wanted()));
        Ok(Self { control })
    }

    /// Where media arrives (port known even if 0 was asked for).
    pub fn media_addr(&self) -> SocketAddr {
        self.control.media_addr
    }

    /// The UDP candidates that answers offer, the best first.
    pub fn candidates(&self) -> &[SocketAddr] {
        &self.control.candidates
    }

    /// WHIP POST from a client network; `None` for loopback, which has no share of its own.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn publish(
        &self,
        stream: StreamName,
        offer: &[u8],
        network: Option<IpAddr>,
    ) -> Result<Created, OfferError> {
        Ok(self.admit(self.control.publish(stream, offer, network)?).await)
    }

    /// WHEP POST from a client network (`None` for loopback, which has no share of its own) by a viewer
    /// that gets so much of the past at most.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn subscribe(
        &self,
        stream: StreamName,
        offer: &[u8],
        start: StartMode,
        network: Option<IpAddr>,
    ) -> Result<Created, OfferError> {
        Ok(self.admit(self.control.subscribe(stream, offer, start, network)?).await)
    }

    async fn admit(&self, Admitted { created, evicted }: Admitted) -> Created {
        if let Some(evicted) = evicted {
            self.control.close(evicted, CloseReason::Evicted).await;
        }
        created
    }

    /// PATCH on a session URL: trickle or ICE restart. A restart is told by changed credentials, not
    /// by `If-Match: *` (whip-whep B5). `strict` requires `If-Match` (whip-whep B2).
    ///
    /// # Errors
    /// See [`PatchError`].
    pub async fn patch(
        &self,
        role: Role,
        stream: &StreamName,
        secret: &str,
        fragment: &[u8],
        if_match: IfMatch,
        strict: bool,
    ) -> Result<Patched, PatchError> {
        let entry = self.live(role, stream, secret).ok_or(PatchError::NotFound)?;
        let fragment =
            fragment::parse(fragment).map_err(|error| PatchError::Malformed(error.to_string()))?;
        let _order = entry.order.lock().await;
        let (old, remote) = {
            let mut state = entry.lock();
            if !state.patches.take(Instant::now()) {
                return Err(PatchError::RateLimited);
            }
            match if_match {
                IfMatch::Tag(tag) if tag != SessionEntry::etag(&state.local) => {
                    return Err(PatchError::StaleTag);
                }
                IfMatch::Missing if strict => return Err(PatchError::TagRequired),
                IfMatch::Tag(_) | IfMatch::Any | IfMatch::Missing => {}
            }
            let changed = fragment
                .ice
                .filter(|ice| ice.ufrag != state.remote.ufrag && ice.pwd != state.remote.pwd);
            // We are ICE-lite: remote candidates tell us nothing that a check does not.
            let Some(remote) = changed else { return Ok(Patched::Trickled) };
            (state.local.clone(), remote)
        };
        let local = LocalTransport { ice: self.control.local_transport().ice, ..old.clone() };
        if !self.control.restart(&entry, &old.ice, &local.ice, &remote).await {
            return Err(PatchError::Unavailable);
        }
        let (body, etag) = (fragment::render(&local), SessionEntry::etag(&local));
        let mut state = entry.lock();
        state.local = local;
        state.remote = remote;
        Ok(Patched::Restarted { body, etag })
    }

    /// DELETE on a session URL. True also for a session that ended within the tombstone time
    /// (whip-whep A25); false if it never was or is long gone.
    pub async fn delete(&self, role: Role, stream: &StreamName, secret: &str) -> bool {
        let Some(url) = self.control.url(role, stream, secret) else { return false };
        if url.ended.is_none() {
            self.control.close(url.id, CloseReason::Deleted).await;
        }
        true
    }

    /// Whether a session URL is live, for GET and HEAD.
    pub fn exists(&self, role: Role, stream: &StreamName, secret: &str) -> bool {
        self.live(role, stream, secret).is_some()
    }

    /// The public id behind a session URL, for `GET …/stats`.
    pub fn resolve(&self, role: Role, stream: &StreamName, secret: &str) -> Option<SessionId> {
        Some(self.live(role, stream, secret)?.id)
    }

    /// The same for a question that interrupts a media thread or holds something open: a client may ask 20 of them
    /// per second.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn rate_limited_lookup(
        &self,
        role: Role,
        stream: &StreamName,
        secret: &str,
    ) -> Result<SessionId, LookupError> {
        let entry = self.live(role, stream, secret).ok_or(LookupError::NotFound)?;
        let admitted = entry.lock().questions.take(Instant::now());
        admitted.then_some(entry.id).ok_or(LookupError::RateLimited)
    }

    /// Whether a session is here.
    pub fn is_live(&self, id: SessionId) -> bool {
        self.control.sessions.contains_key(&id)
    }

    /// Ends a session by its public id; false if there is none.
    pub async fn kick(&self, id: SessionId) -> bool {
        self.control.close(id, CloseReason::Kicked).await
    }

    /// All streams with a publisher or a viewer, sorted by name.
    pub async fn streams(&self) -> Vec<StreamInfo> {
        let mut infos = Vec::new();
        for stream in self.control.all_streams() {
            infos.push(self.stream_info(&stream).await);
        }
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// One stream.
    pub async fn stream(&self, stream: &StreamName) -> Option<StreamInfo> {
        let stream = self.control.streams.get(stream).map(|entry| Arc::clone(entry.value()))?;
        Some(self.stream_info(&stream).await)
    }

    /// One session in detail.
    pub async fn session(&self, id: SessionId) -> Option<SessionInfo> {
        let entry = self.control.sessions.get(&id).map(|entry| Arc::clone(entry.value()))?;
        let worker = entry.lock().worker;
        let Some(worker) = worker else { return Some(waiting_info(&entry)) };
        self.inspect(worker, move |worker, now| worker.session_info(id, now)).await?
    }

    /// Totals over all workers.
    pub async fn stats(&self) -> SfuStats {
        let control = &self.control;
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut stats = SfuStats {
            streams: control.streams.len() as u64,
            sessions_total: [count(&control.totals.publishers), count(&control.totals.subscribers)],
            closed_total: CloseReason::ALL
                .iter()
                .zip(&control.totals.closed)
                .map(|(reason, n)| (reason.label(), count(n)))
                .collect(),
            workers: control.workers.len() as u64,
            ..SfuStats::default()
        };
        for session in &control.sessions {
            match session.role {
                Role::Publisher => stats.publishers += 1,
                Role::Subscriber => stats.subscribers += 1,
            }
        }
        let mut dropped = DropCounters::default();
        let mut keyframes = KeyframeCounts::default();
        let [mut forward, mut settled, mut tick_wait] = std::array::from_fn(|_| Latency::default());
        for (index, handle) in control.workers.iter().enumerate() {
            let Some((report, shell)) = self.report(index).await else { continue };
            stats.packets_in += report.packets_in;
            stats.bytes_in += report.bytes_in;
            stats.packets_out += report.packets_out;
            stats.bytes_out += report.bytes_out;
            stats.retransmits_out += report.retransmits_out;
            stats.keyframe_requests += report.keyframe_requests;
            keyframes.merge(&report.keyframes);
            stats.cache_packets += report.cache_packets;
            stats.cache_bytes += report.cache_bytes;
            stats.panics += report.panics;
            stats.send_calls += shell.socket.send_calls;
            stats.datagrams_out += shell.socket.datagrams_out;
            dropped.merge(&report.dropped);
            dropped.add(DropReason::SendBlocked, shell.socket.send_blocked);
            dropped.add(DropReason::SendError, shell.socket.send_errors);
            forward.merge(&shell.forward);
            settled.merge(&shell.forward_established);
            tick_wait.merge(&shell.tick_wait);
            stats.gso_refused += shell.socket.gso_refused;
            stats.gso_spared_datagrams += shell.socket.gso_spared_datagrams;
            stats.per_worker.push(WorkerStats {
                worker: index,
                load: f64::from(handle.load_permille()) / 1e3,
                tick_us: shell.tick.as_micros() as u64,
                gso_spared_paths: shell.socket.gso_spared_paths,
                rebuilds: shell.rebuilds,
            });
        }
        stats.datagrams_per_send_call = stats.datagrams_out as f64 / stats.send_calls.max(1) as f64;
        stats.keyframe_requests_received_total =
            keyframes.needs().map(|(need, n)| (need.label(), n)).collect();
        stats.keyframe_requests_joined = keyframes.joined;
        stats.keyframe_answers_total =
            vec![("answered", keyframes.answered), ("unanswered", keyframes.unanswered)];
        stats.dropped_total = dropped.iter().map(|(reason, n)| (reason.label(), n)).collect();
        stats.forward_latency = forward.summary();
        stats.forward_latency_established = settled.summary();
        stats.tick_wait = tick_wait.summary();
        stats
    }

    /// Whether new sessions are taken (false while draining or when full).
    pub fn ready(&self) -> bool {
        self.control.has_room()
    }

    /// Refuses new sessions from now on; live ones go on.
    pub fn drain(&self) {
        self.control.draining.store(true, Ordering::Relaxed);
    }

    /// Ends every session with close_notify and stops the workers.
    pub async fn shutdown(&self) {
        self.drain();
        for worker in 0..self.control.workers.len() {
            self.control.order(worker, || Command::CloseAll(CloseReason::Shutdown)).await;
        }
        let control = Arc::clone(&self.control);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in &control.workers {
                if worker.send(Message::Stop).is_ok() {
                    worker.join();
                }
            }
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "stopping the workers failed");
        }
    }

    pub(super) fn live(
        &self,
        role: Role,
        stream: &StreamName,
        secret: &str,
    ) -> Option<Arc<SessionEntry>> {
        let url = self.control.url(role, stream, secret).filter(|url| url.ended.is_none())?;
        self.control.sessions.get(&url.id).map(|entry| Arc::clone(entry.value()))
    }

    async fn stream_info(&self, stream: &Stream) -> StreamInfo {
        let (publisher, mut viewer_ids, viewers) = {
            let state = stream.lock();
            let publisher = state.shown_publisher();
            let ids: Vec<SessionId> = state.viewers.keys().copied().take(VIEWER_IDS_MAX).collect();
            (publisher, ids, state.viewers.len())
        };
        viewer_ids.sort_unstable();
        let publisher = match publisher {
            Some(id) => self.session(id).await,
            None => None,
        };
        StreamInfo { name: stream.shared.name.clone(), publisher, viewers, viewer_ids }
    }

    /// Runs a question on a worker's thread and waits for the answer; `None` if there is none in time.
    pub(super) async fn inspect<T: Send + 'static>(
        &self,
        worker: usize,
        look: impl FnOnce(&mut Worker, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let message = Message::Inspect(Box::new(move |worker, now| {
            // An error means that the request was given up and nobody waits.
            _ = answer.send(look(worker, now));
        }));
        self.control.workers.get(worker)?.send(message).ok()?;
        tokio::time::timeout(INSPECT_TIMEOUT, answered).await.ok()?.ok()
    }

    /// Asks a worker's thread for all its counters; `None` if there is no answer in time.
    async fn report(&self, worker: usize) -> Option<(WorkerReport, ShellReport)> {
        let (answer, answered) = oneshot::channel();
        let message = Message::Report(Box::new(move |worker, shell| {
            _ = answer.send((worker, shell));
        }));
        self.control.workers.get(worker)?.send(message).ok()?;
        tokio::time::timeout(INSPECT_TIMEOUT, answered).await.ok()?.ok()
    }
}

/// Events waiting for the control plane. Full: the worker keeps them and tries again next turn.
const EVENTS_MAX: usize = 4_096;

/// Viewer ids listed per stream.
const VIEWER_IDS_MAX: usize = 1_000;

/// How long a worker may take to answer a question.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often waiting sessions are looked through.
const REAP_INTERVAL: Duration = Duration::from_millis(500);

/// Follows the workers' events and reaps what waited too long, until the last handle is dropped.
async fn supervise(control: Weak<Control>, mut inbox: mpsc::Receiver<(usize, Notice)>) {
    let mut reap = tokio::time::interval(REAP_INTERVAL);
    loop {
        let notice = tokio::select! {
            notice = inbox.recv() => match notice {
                Some(notice) => Some(notice),
                None => return,
            },
            _ = reap.tick() => None,
        };
        let Some(control) = control.upgrade() else { return };
        match notice {
            Some((worker, notice)) => {
                if let Some(replaced) = control.on_notice(worker, notice) {
                    control.close(replaced, CloseReason::TakenOver).await;
                }
            }
            None => {
                for viewer in control.reap(Instant::now()) {
                    control.close(viewer, CloseReason::StreamEnded).await;
                }
            }
        }
    }
}

fn clock_base() -> ClockBase {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ClockBase::new(Instant::now(), unix)
}

fn candidates(config: &Config, bound: SocketAddr) -> Vec<SocketAddr> {
    if config.advertise.is_empty() {
        return vec![bound];
    }
    let with_port = |addr: &SocketAddr| match addr.port() {
        0 => SocketAddr::new(addr.ip(), bound.port()),
        _ => *addr,
    };
    config.advertise.iter().map(with_port).collect()
}

fn waiting_info(entry: &SessionEntry) -> SessionInfo {
    SessionInfo {
        id: entry.id,
        role: entry.role,
        stream: entry.stream.shared.name.clone(),
        state: PeerState::WaitingIce.label(),
        age_s: entry.created.elapsed().as_secs_f64(),
        worker: 0,
        srtp_profile: None,
        rtt_ms: None,
        tracks: Vec::new(),
        decisions: Vec::new(),
    }
}

/// One stream as `/api/v1/streams` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StreamInfo {
    /// Its name.
    pub name: StreamName,
    /// The live publisher, if any.
    pub publisher: Option<SessionInfo>,
    /// How many viewers are attached.
    pub viewers: usize,
    /// Public ids of the viewers, at most 1,000 of them.
    pub viewer_ids: Vec<SessionId>,
}

/// Totals over all workers; counters are cumulative.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SfuStats {
    /// Publisher sessions, connected or connecting.
    pub publishers: u64,
    /// Viewer sessions, connected or connecting.
    pub subscribers: u64,
    /// Live streams.
    pub streams: u64,
    /// Sessions accepted since start, by role: publisher, subscriber.
    pub sessions_total: [u64; 2],
    /// Sessions ended since start by reason label.
    pub closed_total: Vec<(&'static str, u64)>,
    /// RTP packets received from publishers.
    pub packets_in: u64,
    /// Their bytes on the wire.
    pub bytes_in: u64,
    /// RTP packets sent to viewers, RTX included.
    pub packets_out: u64,
    /// Their bytes on the wire.
    pub bytes_out: u64,
    /// RTX or repeated packets sent to viewers.
    pub retransmits_out: u64,
    /// Keyframe requests sent to publishers.
    pub keyframe_requests: u64,
    /// How often somebody began to wait for a keyframe: `start` (no picture), `hole` (packets given up), `refresh`
    /// (a fresh picture, or that of another layer).
    pub keyframe_requests_received_total: Vec<(&'static str, u64)>,
    /// Needs that cost nothing of their own: somebody waited already, or a keyframe had just begun.
    pub keyframe_requests_joined: u64,
    /// Requests that were clearly `answered`, and those `unanswered` while the layer sent on. The rest may have been
    /// answered by chance, or is open.
    pub keyframe_answers_total: Vec<(&'static str, u64)>,
    /// Dropped packets by reason label.
    pub dropped_total: Vec<(&'static str, u64)>,
    /// Packets held in replay caches now.
    pub cache_packets: u64,
    /// Bytes held in replay caches now.
    pub cache_bytes: u64,
    /// Send calls to the kernel.
    pub send_calls: u64,
    /// Datagrams in them.
    pub datagrams_out: u64,
    /// Their ratio since the start: segments per message.
    pub datagrams_per_send_call: f64,
    /// Send calls of several datagrams that the kernel refused as such (no GSO on that path); the
    /// datagrams went one by one.
    pub gso_refused: u64,
    /// Datagrams that went one by one because their path had refused before.
    pub gso_spared_datagrams: u64,
    /// Panics caught; each ended one session, or all of one worker.
    pub panics: u64,
    /// Workers running.
    pub workers: u64,
    /// From the kernel's receipt of a packet to the return of the send call, per datagram sent.
    pub forward_latency: LatencySummary,
    /// The part of it that went to viewers who had been here for five seconds or longer: what a crowd
    /// that joins does to them.
    pub forward_latency_established: LatencySummary,
    /// The part of it that received datagrams waited for the tick.
    pub tick_wait: LatencySummary,
    /// Worker by worker.
    pub per_worker: Vec<WorkerStats>,
}

/// What one worker's thread does now.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WorkerStats {
    /// Its index.
    pub worker: usize,
    /// How busy its core was over the last 50 ms or more: 0 to 1.
    pub load: f64,
    /// How long it lets packets gather before it serves them, in microseconds; 0 below half a core.
    pub tick_us: u64,
    /// Addresses of viewers that get one datagram per send call because their path refused more; `null`
    /// if that is all of them.
    pub gso_spared_paths: Option<usize>,
    /// How often a panic outside a session ended all its sessions.
    pub rebuilds: u64,
}
