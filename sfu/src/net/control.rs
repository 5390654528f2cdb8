//! Control plane: accepts sessions, hands them to workers, follows what happens to them, and ends
//! them.
//!
//! Owns the parts that decide or remember: `directory.rs` (streams, sessions, URLs), `admission.rs`
//! (limits), `placement.rs` (which worker), `takeover.rs` (which publisher), `workers.rs` (commands
//! and questions), `stats.rs` (totals), `status_board.rs`. Everything here runs on tokio threads;
//! workers learn of it by commands and by the streams' shared snapshots. Never touches a packet.
//! Called by the views of `Sfu` and by `supervisor.rs`. The lock order is in `mod.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::admission::{Admission, NotReady};
use super::directory::{Directory, EndedSession};
use super::messages::Notice;
use super::outcome::{Created, LayerError, OfferError};
use super::placement::Placement;
use super::random;
use super::received_track::ReceivedTracks;
use super::session_entry::{SessionEntry, etag};
use super::stats::Totals;
use super::status_board::StatusBoard;
use super::stream_entry::{StreamEntry, StreamState};
use super::takeover::CONTEST_WINDOW;
use super::workers::Workers;
use crate::client_network::client_network;
use crate::config::Config;
use crate::error::CloseReason;
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId, StreamName};
use crate::sdp::{
    IceCredentials, LocalTransport, Offer, OfferText, SourceTrack, SubscribeOptions,
    answer_publish, answer_subscribe,
};
use crate::transport::peer::ICE_TIMEOUT;
use crate::worker::{Command, Event, Lobby, NewSession, Plan, Warning};

/// Media stream id of all m-lines (whip-whep C38), and CNAME of our SDES.
const MSID: &str = "weir";

/// Time after the ICE timeout at which a session without worker that the lobby does not know is
/// ended: the event of its adoption would have arrived by then.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// Tries to find the worker of a session whose adoption was not told yet, [`ADOPTION_PAUSE`] apart.
const ADOPTION_TRIES: u32 = 100;

/// Pause between two tries to find a session's worker.
const ADOPTION_PAUSE: Duration = Duration::from_millis(1);

/// State that all clones of `Sfu` share.
pub(super) struct Control {
    pub config: Config,
    pub media_addr: SocketAddr,
    /// Candidates of the next answer, the best first; they change when the machine's addresses do.
    candidates: ArcSwap<Vec<SocketAddr>>,
    pub workers: Workers,
    pub directory: Directory,
    pub admission: Admission,
    pub status_board: StatusBoard,
    pub totals: Totals,
    placement: Placement,
    lobby: Arc<Lobby>,
    fingerprint_sha256: [u8; 32],
}

/// Session that was accepted.
#[derive(Debug)]
pub(super) struct Admitted {
    pub created: Created,
    /// Half-open session that was evicted for it and must be ended.
    pub evicted: Option<SessionId>,
}

impl Control {
    /// Control plane without sessions over `workers` that run.
    pub(super) fn new(
        config: Config,
        media_addr: SocketAddr,
        candidates: Vec<SocketAddr>,
        workers: Workers,
        lobby: Arc<Lobby>,
        fingerprint_sha256: [u8; 32],
    ) -> Self {
        Self {
            admission: Admission::new(&config),
            placement: Placement::new(workers.len(), config.sessions_per_worker),
            config,
            media_addr,
            candidates: ArcSwap::from_pointee(candidates),
            workers,
            directory: Directory::default(),
            status_board: StatusBoard::default(),
            totals: Totals::default(),
            lobby,
            fingerprint_sha256,
        }
    }

    /// WHIP POST.
    pub(super) fn publish(
        &self,
        name: &StreamName,
        offer: OfferText<'_>,
        network: Option<IpAddr>,
    ) -> Result<Admitted, OfferError> {
        self.ensure_ready()?;
        let offer = Offer::parse(offer)?;
        let local = self.fresh_transport();
        let (plan, answer) = answer_publish(&offer, &local)?;
        let id = random::session_id();
        let (stream, evicted) = self.directory.with_stream(name, |stream, state| {
            let now = Instant::now();
            state.publishers.may_add(self.config.takeover, now)?;
            let evicted = self.admission.reserve_half_open(id, network, now)?;
            state.publishers.add(id);
            Ok::<_, OfferError>((Arc::clone(stream), evicted))
        })?;
        let new = NewSession {
            id,
            stream: Arc::clone(&stream.shared),
            local: local.ice.clone(),
            created: Instant::now(),
            plan: Plan::Publish { plan },
        };
        let tracks = ReceivedTracks::default();
        let secret = random::session_secret();
        let session = SessionEntry::new(&new, stream, secret, tracks, local);
        let created = self.accept(session, answer);
        self.lobby.wait(Box::new(new), None);
        Ok(Admitted { created, evicted })
    }

    /// WHEP POST.
    pub(super) fn subscribe(
        &self,
        name: &StreamName,
        offer: OfferText<'_>,
        start: StartMode,
        network: Option<IpAddr>,
    ) -> Result<Admitted, OfferError> {
        self.ensure_ready()?;
        let offer = Offer::parse(offer)?;
        let local = self.fresh_transport();
        let id = random::session_id();
        self.directory.with_stream(name, |stream, state| {
            let sources: Option<Vec<SourceTrack>> =
                state.publishers.live().map(|source| source.source_tracks());
            let mut fresh_ssrc = random::ssrc;
            let options = SubscribeOptions {
                source: sources.as_deref(),
                random_ssrc: &mut fresh_ssrc,
                msid: MSID,
            };
            let (plan, answer) = answer_subscribe(&offer, &local, options)?;
            let evicted = self.admission.reserve_half_open(id, network, Instant::now())?;
            let worker = self.place(state);
            let tracks = ReceivedTracks::of(&plan, &offer);
            let new = NewSession {
                id,
                stream: Arc::clone(&stream.shared),
                local: local.ice.clone(),
                created: Instant::now(),
                plan: Plan::Subscribe { plan, start },
            };
            let stream = Arc::clone(stream);
            let secret = random::session_secret();
            let session = SessionEntry::new(&new, stream, secret, tracks, local);
            self.placement.reserve(&mut session.lock().placed, worker);
            // One line per session, however many sections it has.
            if let Some(section) = session.rejected.first() {
                let sections = session.rejected.len();
                tracing::info!(session = %id, stream = %name, sections, "rejected {section}");
            }
            let created = self.accept(session, answer);
            state.add_viewer(id, new.created);
            self.lobby.wait(Box::new(new), Some(worker));
            Ok(Admitted { created, evicted })
        })
    }

    /// Ends the session that was evicted for an accepted one.
    pub(super) async fn finish_admission(
        &self,
        Admitted { created, evicted }: Admitted,
    ) -> Created {
        if let Some(evicted) = evicted {
            self.close(evicted, CloseReason::Evicted).await;
        }
        created
    }

    /// Whether a new session would be taken.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn ready(&self) -> Result<(), NotReady> {
        if self.candidates().is_empty() {
            return Err(NotReady::NoAddress);
        }
        self.admission.ready(self.directory.session_count())
    }

    fn ensure_ready(&self) -> Result<(), OfferError> {
        self.ready().map_err(OfferError::from)
    }

    /// Candidates of the next answer, the best first.
    pub(super) fn candidates(&self) -> Arc<Vec<SocketAddr>> {
        self.candidates.load_full()
    }

    /// Sets the candidates of the next answer; port 0 stands for the bound port.
    pub(super) fn set_candidates(&self, candidates: &[SocketAddr]) {
        let with_port = candidates.iter().map(|addr| with_port(*addr, self.media_addr.port()));
        self.candidates.store(Arc::new(with_port.collect()));
    }

    /// Fresh credentials under the same certificate and candidates.
    fn fresh_transport(&self) -> LocalTransport {
        LocalTransport {
            ice: random::ice_credentials(),
            fingerprint_sha256: self.fingerprint_sha256,
            candidates: self.candidates().to_vec(),
            publisher_limits: self.config.publisher_limits,
            session_id: random::sdp_session_id(),
        }
    }

    /// Worker for a viewer of a stream.
    fn place(&self, state: &StreamState) -> usize {
        let load = |worker| self.workers.load_permille(worker);
        self.placement.choose(self.publisher_worker(state), load)
    }

    /// Adds an accepted session to the directory.
    fn accept(&self, session: SessionEntry, answer: String) -> Created {
        let created = Created {
            secret: session.secret.clone(),
            id: session.id,
            answer,
            etag: etag(&session.lock().local),
        };
        let (role, stream) = (session.role, Arc::clone(&session.stream));
        tracing::debug!(session = %session.id, %role, stream = %stream.shared.name, "accepted");
        self.directory.add_session(session);
        self.totals.count_accepted(role);
        created
    }

    /// Gives a session new credentials, in the lobby or at its worker. False if neither could be
    /// reached, and then nothing changed. The caller holds the session's change lock.
    pub(super) async fn restart(
        &self,
        session: &SessionEntry,
        old: &IceCredentials,
        local: &IceCredentials,
        remote: &IceCredentials,
    ) -> bool {
        let waited = self.lobby.edit_waiting(&old.ufrag, |waiting| {
            waiting.local = local.clone();
            waiting.remote_mut().ice = remote.clone();
        });
        if waited {
            return true;
        }
        // The event of the adoption may still be on its way.
        for _ in 0..ADOPTION_TRIES {
            let Some(worker) = session.worker() else {
                tokio::time::sleep(ADOPTION_PAUSE).await;
                continue;
            };
            self.lobby.own(local, worker);
            let restart = || Command::Restart {
                id: session.id,
                local: local.clone(),
                remote: remote.clone(),
            };
            let sent = self.workers.command(worker, restart).await;
            if !sent {
                self.lobby.remove(&local.ufrag);
            }
            return sent;
        }
        false
    }

    /// Fresh ICE credentials of our side, for a restart.
    pub(super) fn fresh_ice(&self) -> IceCredentials {
        random::ice_credentials()
    }

    /// Makes the owner of a session read its layer preferences, unless it is about to. A session
    /// that waits for its first check is served when it is adopted.
    pub(super) async fn deliver_preferences(
        &self,
        session: &SessionEntry,
    ) -> Result<(), LayerError> {
        let worker = session.worker();
        let Some(worker) = worker.filter(|_| session.preferences.order()) else { return Ok(()) };
        if !self.workers.command(worker, || apply_preferences(session)).await {
            session.preferences.recall();
            return Err(LayerError::Unavailable);
        }
        Ok(())
    }

    /// The same without waiting. If the queue is full, the next preference tries again.
    fn try_deliver_preferences(&self, session: &SessionEntry, worker: usize) {
        if session.preferences.order()
            && !self.workers.try_command(worker, apply_preferences(session))
        {
            session.preferences.recall();
        }
    }

    /// Ends a session: at once if it waits in the lobby, otherwise by its worker. False if there is
    /// none.
    pub(super) async fn close(&self, id: SessionId, reason: CloseReason) -> bool {
        let Some(session) = self.directory.session(id) else { return false };
        self.directory.end_url(&session, Instant::now(), reason);
        let _change = session.change_lock.lock().await;
        let (worker, ufrag) = {
            let state = session.lock();
            (state.worker, state.local.ice.ufrag.clone())
        };
        if self.lobby.take_waiting(&ufrag).is_some() {
            self.on_closed(id, reason);
            return true;
        }
        let workers = match worker {
            Some(worker) => worker..worker + 1,
            // It was adopted a moment ago and the event is on its way: only its owner acts on the
            // command.
            None => 0..self.workers.len(),
        };
        for worker in workers {
            self.workers.command(worker, || Command::Close { id, reason }).await;
        }
        true
    }

    /// Follows a notice of a worker. Returns the publishers that lost their stream and must be closed.
    pub(super) fn on_notice(&self, worker: usize, notice: Notice) -> Vec<SessionId> {
        match notice {
            Notice::Event(Event::Adopted { id, from }) => self.on_adopted(id, from, worker),
            Notice::Event(Event::Connected(id)) => return self.on_connected(id),
            Notice::Event(Event::HandshakeFailed(id, cause)) => {
                if let Some(session) = self.directory.session(id) {
                    session.lock().failure = Some(cause);
                }
            }
            Notice::Event(Event::Closed(id, reason)) => self.on_closed(id, reason),
            Notice::Event(Event::Silent(id, silent)) => {
                if let Some(session) = self.directory.session(id) {
                    session.stream.lock().publishers.set_silent(id, silent);
                }
            }
            Notice::Event(Event::Warned(id, warning)) => self.on_warned(id, warning),
            Notice::Event(Event::Unserved { session, viewers, text }) => {
                self.on_unserved(session, viewers, &text);
            }
            Notice::Lost => self.on_worker_lost(worker),
        }
        Vec::new()
    }

    /// A worker adopted a session that waited in the lobby.
    fn on_adopted(&self, id: SessionId, from: IpAddr, worker: usize) {
        let Some(session) = self.directory.session(id) else { return };
        // Its client answers, and the handshake begins.
        self.admission.half_open_checked(id, client_network(from), Instant::now());
        {
            let mut state = session.lock();
            state.worker = Some(worker);
            self.placement.reserve(&mut state.placed, worker);
        }
        self.try_deliver_preferences(&session, worker);
        let mut state = session.stream.lock();
        if state.viewer_adopted(id, worker) {
            session.stream.update_route(&state);
        }
    }

    /// The keys of a session are known. Returns the publishers that lost the stream and must be
    /// closed.
    fn on_connected(&self, id: SessionId) -> Vec<SessionId> {
        let Some(session) = self.directory.session(id) else { return Vec::new() };
        let was_connected = std::mem::replace(&mut session.lock().connected, true);
        if !was_connected {
            self.admission.release_half_open(id);
        }
        let (role, stream) = (session.role, &session.stream);
        let source = stream.shared.source.load_full().filter(|source| source.publisher == id);
        let codecs = source.map(|source| source.codecs());
        let name = &stream.shared.name;
        tracing::info!(session = %id, %role, stream = %name, codecs, "connected");
        if role != Role::Publisher {
            return Vec::new();
        }
        let now = Instant::now();
        let mut state = stream.lock();
        let was_contested = state.publishers.contested_until(now).is_some();
        // No source: the publisher has gone already and that event is on its way.
        let mut lost = state.publisher_connected(id, stream.shared.source.load_full(), now);
        lost.extend(state.publishers.turn_away(self.config.takeover, now));
        if !was_contested && state.publishers.contested_until(now).is_some() {
            tracing::warn!(
                stream = %stream.shared.name,
                session = %id,
                replaced = ?lost,
                "several publishers replace each other under this name; new ones are refused with 409 \
                 for up to {} s",
                CONTEST_WINDOW.as_secs()
            );
        }
        self.refresh(stream, &state);
        lost
    }

    /// Something is wrong with a publisher's stream.
    fn on_warned(&self, id: SessionId, warning: Warning) {
        let Some(session) = self.directory.session(id) else { return };
        let stream = &session.stream.shared.name;
        tracing::warn!(session = %id, %stream, code = warning.code(), "{warning}");
    }

    /// Viewers that came before their publisher are not sent all of it.
    fn on_unserved(&self, id: SessionId, viewers: usize, text: &str) {
        let Some(session) = self.directory.session(id) else { return };
        let stream = &session.stream.shared.name;
        tracing::info!(session = %id, %stream, viewers, "not sent to the viewer: {text}");
    }

    /// A session is over.
    pub(super) fn on_closed(&self, id: SessionId, reason: CloseReason) {
        let now = Instant::now();
        let Some(session) = self.directory.remove_session(id, now, reason) else { return };
        self.release(&session);
        self.status_board.close(id, reason);
        self.totals.count_closed(reason);
        let (role, stream) = (session.role, &session.stream);
        let cause = session.lock().failure.clone();
        tracing::info!(
            session = %id,
            %role,
            stream = %stream.shared.name,
            reason = reason.label(),
            cause = cause.as_deref(),
            "closed"
        );
        self.directory.remember(id, EndedSession { at: now, reason, cause });
        let mut state = stream.lock();
        match role {
            Role::Publisher => {
                // Its worker did so already, unless the worker was lost.
                stream.shared.disconnect(id);
                if state.publisher_ended(id, stream.shared.source.load_full(), now) {
                    self.refresh(stream, &state);
                }
            }
            Role::Subscriber => {
                state.remove_viewer(id);
                stream.update_route(&state);
            }
        }
        self.directory.retire_if_unused(stream, &mut state);
    }

    /// Releases what a session reserved.
    fn release(&self, session: &SessionEntry) {
        let mut state = session.lock();
        self.placement.release(&mut state.placed);
        if !state.connected {
            self.admission.release_half_open(session.id);
        }
    }

    /// A worker was rebuilt: sessions that the directory places there are over. What it adopts
    /// afterwards is told later.
    fn on_worker_lost(&self, worker: usize) {
        for session in self.directory.sessions() {
            if session.worker() == Some(worker) {
                self.on_closed(session.id, CloseReason::WorkerLost);
            }
        }
    }

    /// Ends what waited too long. Returns viewers to be closed.
    pub(super) fn reap(&self, now: Instant) -> Vec<SessionId> {
        let age = |session: &SessionEntry| now.saturating_duration_since(session.created);
        for session in self.directory.sessions() {
            if age(&session) < ICE_TIMEOUT || session.worker().is_some() {
                continue;
            }
            // A session that is being patched is looked at again in half a second.
            let Ok(_change) = session.change_lock.try_lock() else { continue };
            let ufrag = session.lock().local.ice.ufrag.clone();
            let waited = self.lobby.take_waiting(&ufrag).is_some();
            let lost = !self.lobby.knows(&ufrag) && age(&session) >= ICE_TIMEOUT + LOST_AFTER;
            if waited || lost {
                self.on_closed(session.id, CloseReason::NoIce);
            }
        }
        self.directory.drop_tombstones(now, self.config.tombstone);
        let created = |id| self.directory.session(id).map(|session| session.created);
        let mut overdue = Vec::new();
        for stream in self.directory.streams() {
            let viewers = stream.lock().overdue_viewers(now, self.config.viewer_wait, created);
            overdue.extend(viewers);
        }
        overdue
    }

    /// Worker of the publisher that holds the stream.
    fn publisher_worker(&self, state: &StreamState) -> Option<usize> {
        self.directory.session(state.publishers.live()?.publisher)?.worker()
    }

    /// Tells every worker with a part in the stream that its publisher changed. A worker whose
    /// queue is full sees the change at its next sweep.
    fn refresh(&self, stream: &StreamEntry, state: &StreamState) {
        let mut workers = state.viewer_workers();
        workers.extend(self.publisher_worker(state));
        workers.sort_unstable();
        workers.dedup();
        for worker in workers {
            self.workers.try_command(worker, Command::Refresh(Arc::clone(&stream.shared)));
        }
    }
}

/// Candidate with the bound port where it names none.
pub(super) fn with_port(addr: SocketAddr, bound: u16) -> SocketAddr {
    match addr.port() {
        0 => SocketAddr::new(addr.ip(), bound),
        _ => addr,
    }
}

fn apply_preferences(session: &SessionEntry) -> Command {
    Command::ApplyPreferences { id: session.id, mailbox: Arc::clone(&session.preferences) }
}

#[cfg(test)]
mod tests;
