//! The control plane: directories of streams and sessions, placement, takeover, reaping.
//!
//! Everything here happens on tokio threads, under one mutex per stream or session; workers learn of
//! it by commands and by the streams' shared snapshots. Media never passes here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::half_open::{Full, HalfOpen};
use super::handle::{Created, OfferError};
use super::layers::Watched;
use super::messages::{Message, Notice};
use super::thread::WorkerHandle;
use super::viewer_status::StatusBoard;
use crate::config::Config;
use crate::error::CloseReason;
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId, SessionSecret, StreamName};
use crate::limiter::PerSecondLimit;
use crate::router::{Route, SourceInfo, StreamId, StreamShared};
use crate::sdp::{
    IceCredentials, LocalTransport, Offer, SdpError, SourceTrack, SubscribeOptions, answer_publish,
    answer_subscribe,
};
use crate::transport::dtls::DtlsCertificate;
use crate::transport::peer::ICE_TIMEOUT;
use crate::transport::{Entropy, OsEntropy};
use crate::worker::{Command, Event, Lobby, NewSession, Plan, PreferenceMailbox};

/// `Retry-After` of a refusal for lack of room.
const RETRY_AFTER_S: u32 = 5;

/// One media stream id in all sections (whip-whep C38), and the CNAME of our SDES.
pub(crate) const MSID: &str = "weir";

/// A session without worker that the lobby does not know is ended this much after its ICE timeout: its
/// adoption would have been told by then.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A worker that uses this much of its core, in thousandths, takes no more viewers while another is less
/// busy: of its own streams' either.
const BUSY_PERMILLE: u32 = 700;

/// Requests per second and session that a client is answered (whip-whep B19): PATCHes, and apart from them questions
/// that interrupt a media thread or hold something open. More are refused with 429.
pub(super) const REQUESTS_PER_SECOND: u32 = 20;

/// State shared by all clones of the handle.
pub(super) struct Control {
    pub config: Config,
    pub media_addr: SocketAddr,
    pub workers: Vec<WorkerHandle>,
    pub lobby: Arc<Lobby>,
    pub streams: DashMap<StreamName, Arc<Stream>>,
    pub sessions: DashMap<SessionId, Arc<SessionEntry>>,
    /// Session URLs by their secret; ended ones stay for the tombstone time.
    pub urls: DashMap<Box<str>, Url>,
    pub draining: AtomicBool,
    pub totals: Totals,
    pub(super) certificate: DtlsCertificate,
    pub(super) candidates: Vec<SocketAddr>,
    pub(super) stream_ids: Mutex<StreamIds>,
    pub(super) half_open: Mutex<HalfOpen>,
    /// Sessions placed on each worker, those still on their way to it included.
    pub(super) placed: Vec<AtomicUsize>,
    /// What viewers that listen are told.
    pub(super) status_board: StatusBoard,
}

/// Cumulative counters of the control plane.
#[derive(Default)]
pub(super) struct Totals {
    pub publishers: AtomicU64,
    pub subscribers: AtomicU64,
    pub closed: [AtomicU64; CloseReason::ALL.len()],
}

/// A session that was accepted.
pub(super) struct Admitted {
    pub created: Created,
    /// One that had not connected yet and must be ended for it.
    pub evicted: Option<SessionId>,
}

/// What a session URL leads to.
#[derive(Debug, Clone)]
pub(super) struct Url {
    pub id: SessionId,
    pub role: Role,
    pub stream: StreamName,
    /// When the session ended.
    pub ended: Option<Instant>,
}

/// One stream.
pub(super) struct Stream {
    pub shared: Arc<StreamShared>,
    state: Mutex<StreamState>,
}

#[derive(Default)]
pub(super) struct StreamState {
    /// Taken out of the directory; look the name up again.
    gone: bool,
    /// Publisher sessions, connected or not, oldest first.
    publishers: Vec<SessionId>,
    pub publisher: Option<Arc<SourceInfo>>,
    /// Viewers and, once their first check came, their workers.
    pub viewers: HashMap<SessionId, Option<usize>>,
    /// Since when there is no publisher, while there are viewers.
    waiting_since: Option<Instant>,
}

/// One session.
pub(super) struct SessionEntry {
    pub id: SessionId,
    pub role: Role,
    pub stream: Arc<Stream>,
    pub secret: SessionSecret,
    pub created: Instant,
    /// What it receives, by the index of the track in its plan; empty for a publisher.
    pub watched: Vec<Watched>,
    /// What it asked for and its worker has not read yet.
    pub asked: Arc<PreferenceMailbox>,
    /// The client network it came from; `None` for loopback.
    network: Option<IpAddr>,
    state: Mutex<SessionState>,
    /// Held over a whole PATCH or DELETE, so that they follow one another.
    pub order: tokio::sync::Mutex<()>,
}

pub(super) struct SessionState {
    /// The worker whose `placed` counts it.
    placed: Option<usize>,
    /// The owner; `None` while it waits in the lobby.
    pub worker: Option<usize>,
    pub connected: bool,
    pub local: LocalTransport,
    pub remote: IceCredentials,
    pub patches: PerSecondLimit,
    pub questions: PerSecondLimit,
}

/// Small indices for worker tables, reused with a new generation.
#[derive(Default)]
pub(super) struct StreamIds {
    free: Vec<StreamId>,
    next: u32,
}

impl StreamIds {
    fn take(&mut self) -> StreamId {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            StreamId { index: self.next - 1, generation: 0 }
        })
    }

    fn give(&mut self, id: StreamId) {
        self.free.push(StreamId { generation: id.generation.wrapping_add(1), ..id });
    }
}

impl StreamState {
    /// The publisher to show: the live one, else the latest that is still connecting.
    pub(super) fn shown_publisher(&self) -> Option<SessionId> {
        let live = self.publisher.as_ref().map(|source| source.publisher);
        live.or_else(|| self.publishers.last().copied())
    }
}

impl SessionEntry {
    pub(super) fn lock(&self) -> MutexGuard<'_, SessionState> {
        lock(&self.state)
    }

    /// The strong ETag of its ICE session (whip-whep A4).
    pub(super) fn etag(local: &LocalTransport) -> String {
        format!("\"{}\"", local.ice.ufrag)
    }
}

impl Stream {
    pub(super) fn lock(&self) -> MutexGuard<'_, StreamState> {
        lock(&self.state)
    }
}

/// A panic while holding one of these locks is caught nowhere else; the data stays whole because each
/// change is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// WHIP POST.
    pub(super) fn publish(
        &self,
        name: StreamName,
        offer: &[u8],
        network: Option<IpAddr>,
    ) -> Result<Admitted, OfferError> {
        self.admit()?;
        let offer = Offer::parse(offer).map_err(refuse)?;
        let local = self.local_transport();
        let (plan, answer) = answer_publish(&offer, &local).map_err(refuse)?;
        let id = random_id();
        let (stream, evicted) = self.with_stream(&name, |stream, state| {
            if state.publisher.is_some() && !self.config.takeover {
                return Err(OfferError::Conflict);
            }
            let evicted = self.take_seat(id, network)?;
            state.publishers.push(id);
            Ok((Arc::clone(stream), evicted))
        })?;
        let new = NewSession {
            id,
            stream: Arc::clone(&stream.shared),
            local: local.ice.clone(),
            created: Instant::now(),
            plan: Plan::Publish { plan },
        };
        let created = self.enter(&new, stream, Vec::new(), local, answer, network);
        self.totals.publishers.fetch_add(1, Ordering::Relaxed);
        self.lobby.wait(Box::new(new), None);
        Ok(Admitted { created, evicted })
    }

    /// WHEP POST.
    pub(super) fn subscribe(
        &self,
        name: StreamName,
        offer: &[u8],
        start: StartMode,
        network: Option<IpAddr>,
    ) -> Result<Admitted, OfferError> {
        self.admit()?;
        let offer = Offer::parse(offer).map_err(refuse)?;
        let local = self.local_transport();
        let id = random_id();
        self.with_stream(&name, |stream, state| {
            let sources: Option<Vec<SourceTrack>> =
                state.publisher.as_ref().map(|source| source.source_tracks());
            let mut fresh_ssrc = random_ssrc;
            let options = SubscribeOptions {
                source: sources.as_deref(),
                ssrc_base: &mut fresh_ssrc,
                msid: MSID,
            };
            let (plan, answer) = answer_subscribe(&offer, &local, options).map_err(refuse)?;
            let evicted = self.take_seat(id, network)?;
            let worker = self.place(state);
            let watched = Watched::of(&plan, &offer);
            let new = NewSession {
                id,
                stream: Arc::clone(&stream.shared),
                local: local.ice.clone(),
                created: Instant::now(),
                plan: Plan::Subscribe { plan, start },
            };
            let created = self.enter(&new, Arc::clone(stream), watched, local, answer, network);
            if let Some(entry) = self.sessions.get(&id) {
                self.count_placed(&mut entry.lock(), Some(worker));
            }
            if state.publisher.is_none() {
                state.waiting_since.get_or_insert(new.created);
            }
            state.viewers.insert(id, None);
            self.totals.subscribers.fetch_add(1, Ordering::Relaxed);
            self.lobby.wait(Box::new(new), Some(worker));
            Ok(Admitted { created, evicted })
        })
    }

    /// Ends a session: at once if it still waits, else by its worker.
    pub(super) async fn close(&self, id: SessionId, reason: CloseReason) -> bool {
        let Some(entry) = self.sessions.get(&id).map(|entry| Arc::clone(entry.value())) else {
            return false;
        };
        if let Some(mut url) = self.urls.get_mut(entry.secret.expose()) {
            url.ended.get_or_insert_with(Instant::now);
        }
        let _order = entry.order.lock().await;
        let (worker, ufrag) = {
            let state = entry.lock();
            (state.worker, state.local.ice.ufrag.clone())
        };
        if self.lobby.take_waiting(&ufrag).is_some() {
            self.on_closed(id, reason);
            return true;
        }
        let workers = match worker {
            Some(worker) => worker..worker + 1,
            // Adopted a moment ago, the event is on its way: whoever has it will know.
            None => 0..self.workers.len(),
        };
        for worker in workers {
            self.order(worker, || Command::Close { id, reason }).await;
        }
        true
    }

    /// Gives a session new credentials, where it waits or at its worker; false if neither could be
    /// reached, and nothing changed then. The caller holds the session's order.
    pub(super) async fn restart(
        &self,
        entry: &SessionEntry,
        old: &IceCredentials,
        local: &IceCredentials,
        remote: &IceCredentials,
    ) -> bool {
        /// How long the news of an adoption may be on its way.
        const ADOPTION_TRIES: u32 = 100;
        let waited = self.lobby.edit_waiting(&old.ufrag, |session| {
            session.local = local.clone();
            session.remote_mut().ice = remote.clone();
        });
        if waited {
            return true;
        }
        for _ in 0..ADOPTION_TRIES {
            let worker = entry.lock().worker;
            let Some(worker) = worker else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            self.lobby.own(local, worker);
            let (local, remote) = (local.clone(), remote.clone());
            let restart =
                || Command::Restart { id: entry.id, local: local.clone(), remote: remote.clone() };
            let told = self.order(worker, restart).await;
            if !told {
                self.lobby.remove(&local.ufrag);
            }
            return told;
        }
        false
    }

    /// Sends an order, waiting for room in the queue.
    pub(super) async fn order(&self, worker: usize, command: impl Fn() -> Command) -> bool {
        const TRIES: u32 = 2_000;
        let Some(handle) = self.workers.get(worker) else { return false };
        for _ in 0..TRIES {
            if handle.send(Message::Command(command())).is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        false
    }

    /// ViewerStatus of a worker. Returns a publisher that was replaced, to be closed.
    pub(super) fn on_notice(&self, worker: usize, notice: Notice) -> Option<SessionId> {
        match notice {
            Notice::Event(Event::Adopted(id)) => self.on_adopted(id, worker),
            Notice::Event(Event::Connected(id)) => return self.on_connected(id),
            Notice::Event(Event::Closed(id, reason)) => self.on_closed(id, reason),
            Notice::Lost => self.on_worker_lost(worker),
        }
        None
    }

    /// A worker broke: what the directories still place there is over. What it adopted afterwards is
    /// told later.
    fn on_worker_lost(&self, worker: usize) {
        let lost: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|entry| entry.lock().worker == Some(worker))
            .map(|entry| entry.id)
            .collect();
        for id in lost {
            self.on_closed(id, CloseReason::WorkerLost);
        }
    }

    /// A waiting session came to a worker.
    fn on_adopted(&self, id: SessionId, worker: usize) {
        let Some(entry) = self.sessions.get(&id).map(|entry| Arc::clone(entry.value())) else {
            return;
        };
        {
            let mut session = entry.lock();
            session.worker = Some(worker);
            self.count_placed(&mut session, Some(worker));
        }
        self.count_requests(&entry, worker);
        let mut state = entry.stream.lock();
        if let Some(viewer) = state.viewers.get_mut(&id) {
            *viewer = Some(worker);
            publish_route(&entry.stream, &state);
        }
    }

    /// A session's keys are known. Returns the publisher that it replaces, to be closed.
    fn on_connected(&self, id: SessionId) -> Option<SessionId> {
        let entry = self.sessions.get(&id).map(|entry| Arc::clone(entry.value()))?;
        if !std::mem::replace(&mut entry.lock().connected, true) {
            lock(&self.half_open).leave(id, entry.network);
        }
        let stream = &entry.stream;
        tracing::info!(session = %id, role = ?entry.role, stream = %stream.shared.name, "connected");
        if entry.role != Role::Publisher {
            return None;
        }
        let mut state = stream.lock();
        // It is gone already, and the news of that is on its way.
        let source = stream.shared.source.load_full()?;
        state.waiting_since = None;
        let holder = source.publisher;
        let replaced = state.publisher.replace(source);
        self.refresh(stream, &state);
        // Of two that connected at once, the news of the first may come last.
        let replaced = if holder == id { replaced.map(|old| old.publisher) } else { Some(id) };
        replaced.filter(|old| *old != holder)
    }

    /// A session is over.
    pub(super) fn on_closed(&self, id: SessionId, reason: CloseReason) {
        let Some(entry) = self.leave(id, reason) else { return };
        let stream = &entry.stream;
        let mut state = stream.lock();
        match entry.role {
            Role::Publisher => {
                state.publishers.retain(|publisher| *publisher != id);
                // Its worker did so already, unless it was lost.
                stream.shared.disconnect(id);
                if state.publisher.as_ref().is_some_and(|source| source.publisher == id) {
                    state.publisher = stream.shared.source.load_full();
                    self.refresh(stream, &state);
                    if state.publisher.is_none() && !state.viewers.is_empty() {
                        state.waiting_since = Some(Instant::now());
                    }
                }
            }
            Role::Subscriber => {
                state.viewers.remove(&id);
                publish_route(stream, &state);
            }
        }
        self.drop_if_unused(stream, &mut state);
    }

    /// Ends what waited too long. Returns viewers to be closed.
    pub(super) fn reap(&self, now: Instant) -> Vec<SessionId> {
        let stale: Vec<Arc<SessionEntry>> = self
            .sessions
            .iter()
            .filter(|entry| now.saturating_duration_since(entry.created) >= ICE_TIMEOUT)
            .filter(|entry| entry.lock().worker.is_none())
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        for entry in stale {
            // One that is being patched is looked at again in half a second.
            let Ok(_order) = entry.order.try_lock() else { continue };
            let ufrag = entry.lock().local.ice.ufrag.clone();
            let waited = self.lobby.take_waiting(&ufrag).is_some();
            let lost = !self.lobby.knows(&ufrag)
                && now.saturating_duration_since(entry.created) >= ICE_TIMEOUT + LOST_AFTER;
            if waited || lost {
                self.on_closed(entry.id, CloseReason::NoIce);
            }
        }
        self.urls.retain(|_, url| {
            url.ended.is_none_or(|at| now.saturating_duration_since(at) < self.config.tombstone)
        });
        let mut ended = Vec::new();
        for stream in self.all_streams() {
            let state = stream.lock();
            let Some(since) = state.waiting_since else { continue };
            ended.extend(state.viewers.keys().copied().filter(|viewer| {
                // Each viewer has its full time, also one that came late to a stream that waits.
                let came = self.sessions.get(viewer).map_or(since, |entry| entry.created);
                now.saturating_duration_since(came.max(since)) >= self.config.viewer_wait
            }));
        }
        ended
    }

    /// Every stream now; no lock of the directory is held while the caller works on them.
    pub(super) fn all_streams(&self) -> Vec<Arc<Stream>> {
        self.streams.iter().map(|stream| Arc::clone(stream.value())).collect()
    }

    /// The session behind a URL, if role and stream fit; also an ended one.
    pub(super) fn url(&self, role: Role, stream: &StreamName, secret: &str) -> Option<Url> {
        let url = self.urls.get(secret)?;
        (url.role == role && url.stream == *stream).then(|| url.clone())
    }

    /// Whether new sessions are taken.
    pub(super) fn has_room(&self) -> bool {
        let workers = self.workers.len();
        !self.draining.load(Ordering::Relaxed)
            && self.sessions.len() < self.config.sessions_per_worker * workers
    }

    fn half_open_max(&self) -> usize {
        self.config.half_open_per_worker * self.workers.len()
    }

    /// Counts a session for another worker, or for none.
    fn count_placed(&self, session: &mut SessionState, worker: Option<usize>) {
        let before = std::mem::replace(&mut session.placed, worker);
        if let Some(count) = before.and_then(|worker| self.placed.get(worker)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(count) = worker.and_then(|worker| self.placed.get(worker)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Fresh credentials under the same certificate and candidates.
    pub(super) fn local_transport(&self) -> LocalTransport {
        let mut session_id = [0; 8];
        OsEntropy.fill(&mut session_id);
        LocalTransport {
            ice: IceCredentials { ufrag: random_text(8), pwd: random_text(32) },
            fingerprint_sha256: self.certificate.fingerprint_sha256(),
            candidates: self.candidates.clone(),
            // RFC 8866 section 5.2 wants a number; 62 bits are read by everybody.
            session_id: u64::from_be_bytes(session_id) >> 2,
        }
    }

    fn admit(&self) -> Result<(), OfferError> {
        match self.has_room() {
            true => Ok(()),
            false => Err(OfferError::Unavailable { retry_after_s: RETRY_AFTER_S }),
        }
    }

    /// A place among those that have not connected yet, and who had to leave it for that.
    fn take_seat(
        &self,
        id: SessionId,
        network: Option<IpAddr>,
    ) -> Result<Option<SessionId>, OfferError> {
        let seat = lock(&self.half_open).enter(id, network, self.half_open_max());
        seat.map_err(|Full| OfferError::Unavailable { retry_after_s: RETRY_AFTER_S })
    }

    /// Notes a new session in the directories.
    fn enter(
        &self,
        new: &NewSession,
        stream: Arc<Stream>,
        watched: Vec<Watched>,
        local: LocalTransport,
        answer: String,
        network: Option<IpAddr>,
    ) -> Created {
        let mut random = [0; 24];
        OsEntropy.fill(&mut random);
        let secret = SessionSecret::from_random(random);
        let etag = SessionEntry::etag(&local);
        let url =
            Url { id: new.id, role: new.role(), stream: new.stream.name.clone(), ended: None };
        tracing::info!(session = %new.id, role = ?new.role(), stream = %new.stream.name, "accepted");
        let entry = SessionEntry {
            id: new.id,
            role: new.role(),
            stream,
            secret: secret.clone(),
            created: new.created,
            watched,
            asked: Arc::default(),
            network,
            state: Mutex::new(SessionState {
                placed: None,
                worker: None,
                connected: false,
                local,
                remote: new.remote().ice.clone(),
                patches: PerSecondLimit::per_second(REQUESTS_PER_SECOND),
                questions: PerSecondLimit::per_second(REQUESTS_PER_SECOND),
            }),
            order: tokio::sync::Mutex::default(),
        };
        self.urls.insert(secret.expose().into(), url);
        self.sessions.insert(new.id, Arc::new(entry));
        Created { secret, id: new.id, answer, etag }
    }

    /// Takes a session out of the directories; its URL stays as a tombstone.
    fn leave(&self, id: SessionId, reason: CloseReason) -> Option<Arc<SessionEntry>> {
        let (_, entry) = self.sessions.remove(&id)?;
        {
            let mut session = entry.lock();
            self.count_placed(&mut session, None);
            if !session.connected {
                lock(&self.half_open).leave(id, entry.network);
            }
        }
        if let Some(mut url) = self.urls.get_mut(entry.secret.expose()) {
            url.ended.get_or_insert_with(Instant::now);
        }
        self.status_board.close(id, reason);
        if let Some(counter) = self.totals.closed.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(
            session = %id,
            role = ?entry.role,
            stream = %entry.stream.shared.name,
            reason = reason.label(),
            "closed"
        );
        Some(entry)
    }

    /// Finds or makes a stream and works on it under its lock.
    fn with_stream<T>(
        &self,
        name: &StreamName,
        work: impl FnOnce(&Arc<Stream>, &mut StreamState) -> Result<T, OfferError>,
    ) -> Result<T, OfferError> {
        loop {
            let stream = match self.streams.entry(name.clone()) {
                Entry::Occupied(entry) => Arc::clone(entry.get()),
                Entry::Vacant(entry) => {
                    let shared = StreamShared::new(lock(&self.stream_ids).take(), name.clone());
                    let state = Mutex::new(StreamState::default());
                    Arc::clone(&entry.insert(Arc::new(Stream { shared, state })))
                }
            };
            let mut state = stream.lock();
            if state.gone {
                continue;
            }
            let outcome = work(&stream, &mut state);
            self.drop_if_unused(&stream, &mut state);
            return outcome;
        }
    }

    /// The publisher's worker while it has room, else the one with the fewest sessions of those that
    /// have.
    fn place(&self, state: &StreamState) -> usize {
        let load = |worker: usize| {
            self.placed.get(worker).map_or(usize::MAX, |count| count.load(Ordering::Relaxed))
        };
        let home = state
            .publisher
            .as_ref()
            .and_then(|source| self.sessions.get(&source.publisher)?.lock().worker);
        let busy = |worker: usize| {
            self.workers.get(worker).is_none_or(|handle| handle.load_permille() >= BUSY_PERMILLE)
        };
        let has_room =
            |worker: usize| load(worker) < self.config.sessions_per_worker && !busy(worker);
        home.filter(|worker| has_room(*worker)).unwrap_or_else(|| {
            let all = 0..self.workers.len();
            all.min_by_key(|worker| (busy(*worker), load(*worker))).unwrap_or(0)
        })
    }

    /// Tells every worker that has a part in the stream. One that misses it sees the change at its
    /// next sweep.
    fn refresh(&self, stream: &Stream, state: &StreamState) {
        let home = state
            .publisher
            .as_ref()
            .and_then(|source| self.sessions.get(&source.publisher)?.lock().worker);
        let viewers = state.viewers.values().copied().flatten();
        let mut workers: Vec<usize> = viewers.chain(home).collect();
        workers.sort_unstable();
        workers.dedup();
        for worker in workers.iter().filter_map(|worker| self.workers.get(*worker)) {
            _ = worker.send(Message::Command(Command::Refresh(Arc::clone(&stream.shared))));
        }
    }

    /// Takes a stream that nobody publishes or watches out of the directory. Its lock is held, so no
    /// session can enter it in between.
    fn drop_if_unused(&self, stream: &Stream, state: &mut StreamState) {
        let unused = state.publishers.is_empty() && state.viewers.is_empty();
        if unused && !std::mem::replace(&mut state.gone, true) {
            self.streams.remove(&stream.shared.name);
            lock(&self.stream_ids).give(stream.shared.id);
        }
    }
}

fn publish_route(stream: &Stream, state: &StreamState) {
    let mut destinations: Vec<usize> = state.viewers.values().copied().flatten().collect();
    destinations.sort_unstable();
    destinations.dedup();
    if stream.shared.route.load().destinations != destinations {
        stream.shared.route.store(Arc::new(Route { destinations }));
    }
}

fn refuse(error: SdpError) -> OfferError {
    match error {
        SdpError::Malformed { .. } => OfferError::Malformed(error.to_string()),
        SdpError::Unacceptable { .. } => OfferError::Unacceptable(error.to_string()),
    }
}

fn random_id() -> SessionId {
    let mut random = [0; 8];
    OsEntropy.fill(&mut random);
    SessionId(u64::from_be_bytes(random))
}

fn random_ssrc() -> u32 {
    let mut random = [0; 4];
    OsEntropy.fill(&mut random);
    u32::from_be_bytes(random).max(1)
}

/// Letters and digits only: safe in SDP, in ETags and in every client's parser. 5.9 bits each.
fn random_text(len: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(len);
    let mut random = [0; 64];
    while text.len() < len {
        OsEntropy.fill(&mut random);
        // Values of 248 and above would favour the first letters.
        for byte in random.into_iter().filter(|byte| *byte < 248).take(len - text.len()) {
            let symbol = ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied();
            text.push(char::from(symbol.unwrap_or(b'A')));
        }
    }
    text
}
