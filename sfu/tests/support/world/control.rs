//! The control plane of the model: what `net/control.rs` does with events, without HTTP, tokio or
//! SDP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_sfu::codec::MediaKind;
use weir_sfu::error::CloseReason;
use weir_sfu::forward::LayerPreference;
use weir_sfu::forward::start::StartMode;
use weir_sfu::ids::{Role, SessionId, StreamName};
use weir_sfu::router::{Route, SourceInfo, StreamId, StreamShared};
use weir_sfu::sdp::{IceCredentials, PublishPlan, SubscribeCodec, codec_matches};
use weir_sfu::worker::{Command, Event, Lobby, NewSession, Plan, PreferenceMailbox, Warning};

use super::link::credentials;

/// Time after which a session that no worker adopted is forgotten.
const LOBBY_TIME: Duration = weir_sfu::transport::peer::ICE_TIMEOUT;

/// An order for a worker.
pub(crate) type Order = (usize, Command);

pub(crate) struct Control {
    pub lobby: Arc<Lobby>,
    pub streams: BTreeMap<String, Stream>,
    pub sessions: BTreeMap<SessionId, Session>,
    /// Every session that ended, in order.
    pub closed: Vec<(SessionId, CloseReason)>,
    /// Every warning, in order.
    pub warned: Vec<(SessionId, Warning)>,
    /// Publishers that became silent, or are heard again.
    pub silences: Vec<(SessionId, bool)>,
    /// Number of viewers that were not sent all of a new publisher, and what one of them was told.
    pub unserved: Vec<(usize, String)>,
    workers: usize,
    free_ids: Vec<StreamId>,
    next_stream: u32,
    next_session: u64,
}

pub(crate) struct Stream {
    pub shared: Arc<StreamShared>,
    publishers: usize,
    pub publisher: Option<Arc<SourceInfo>>,
    /// Viewers and the workers that adopted them, if any.
    pub viewers: BTreeMap<SessionId, Option<usize>>,
}

pub(crate) struct Session {
    pub role: Role,
    pub stream: String,
    pub worker: Option<usize>,
    pub connected: bool,
    pub local: IceCredentials,
    /// Preferences that the viewer's worker has not read yet.
    pub asked: Arc<PreferenceMailbox>,
    created: Instant,
}

impl Control {
    pub(crate) fn new(lobby: Arc<Lobby>, workers: usize) -> Self {
        Self {
            lobby,
            workers,
            streams: BTreeMap::new(),
            sessions: BTreeMap::new(),
            closed: Vec::new(),
            warned: Vec::new(),
            silences: Vec::new(),
            unserved: Vec::new(),
            free_ids: Vec::new(),
            next_stream: 0,
            next_session: 0,
        }
    }

    fn open_stream(&mut self, name: &str) -> &mut Stream {
        if !self.streams.contains_key(name) {
            let id = self.free_ids.pop().unwrap_or_else(|| {
                self.next_stream += 1;
                StreamId { index: self.next_stream - 1, generation: 0 }
            });
            let shared = StreamShared::new(id, StreamName::new(name).expect("a valid name"));
            let stream =
                Stream { shared, publishers: 0, publisher: None, viewers: BTreeMap::new() };
            self.streams.insert(name.to_owned(), stream);
        }
        self.streams.get_mut(name).expect("it is there")
    }

    fn next_id(&mut self) -> (SessionId, IceCredentials) {
        self.next_session += 1;
        (SessionId(self.next_session), credentials("server", self.next_session, 0))
    }

    /// WHIP POST: the session and the server's credentials.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        name: &str,
        plan: PublishPlan,
    ) -> (SessionId, IceCredentials) {
        let (id, local) = self.next_id();
        let stream = self.open_stream(name);
        stream.publishers += 1;
        let session = NewSession {
            id,
            stream: Arc::clone(&stream.shared),
            local: local.clone(),
            created: now,
            plan: Plan::Publish { plan },
        };
        self.enter(id, Role::Publisher, name, &local, now);
        self.lobby.wait(Box::new(session), None);
        (id, local)
    }

    /// Codecs in a viewer's answer: all, first the one of the present publisher.
    pub(crate) fn answer_codecs(
        &self,
        name: &str,
        kind: MediaKind,
        ordinal: usize,
        offered: Vec<SubscribeCodec>,
    ) -> Vec<SubscribeCodec> {
        let source = self.streams.get(name).and_then(|stream| stream.publisher.as_ref());
        let tracks = source.iter().flat_map(|source| &source.tracks);
        let Some(track) = tracks.filter(|t| t.source.kind == kind).nth(ordinal) else {
            return offered;
        };
        let fits = |c: &SubscribeCodec| codec_matches(&track.source.format, &c.format).is_some();
        let mut codecs = offered;
        if let Some(live) = codecs.iter().position(fits) {
            codecs[..=live].rotate_right(1);
        }
        codecs
    }

    /// WHEP POST.
    pub(crate) fn subscribe(
        &mut self,
        now: Instant,
        name: &str,
        plan: weir_sfu::sdp::SubscribePlan,
        start: StartMode,
        worker: Option<usize>,
    ) -> (SessionId, IceCredentials) {
        let (id, local) = self.next_id();
        let worker = worker.unwrap_or_else(|| self.place(name));
        let stream = self.open_stream(name);
        stream.viewers.insert(id, None);
        let session = NewSession {
            id,
            stream: Arc::clone(&stream.shared),
            local: local.clone(),
            created: now,
            plan: Plan::Subscribe { plan, start },
        };
        self.enter(id, Role::Subscriber, name, &local, now);
        self.lobby.wait(Box::new(session), Some(worker));
        (id, local)
    }

    fn enter(
        &mut self,
        id: SessionId,
        role: Role,
        stream: &str,
        local: &IceCredentials,
        created: Instant,
    ) {
        let session = Session {
            role,
            stream: stream.to_owned(),
            worker: None,
            connected: false,
            local: local.clone(),
            asked: Arc::default(),
            created,
        };
        self.sessions.insert(id, session);
    }

    fn place(&self, name: &str) -> usize {
        let home = self
            .streams
            .get(name)
            .and_then(|stream| stream.publisher.as_ref())
            .and_then(|source| self.sessions.get(&source.publisher)?.worker);
        home.unwrap_or_else(|| {
            let load = |worker| {
                self.sessions.values().filter(|session| session.worker == Some(worker)).count()
            };
            (0..self.workers).min_by_key(|worker| load(*worker)).unwrap_or(0)
        })
    }

    /// PATCH with new credentials; returns those of the server, and the order for the worker.
    pub(crate) fn restart(
        &mut self,
        id: SessionId,
        generation: u64,
        remote: IceCredentials,
    ) -> (IceCredentials, Option<Order>) {
        let local = credentials("server", id.0, generation);
        let session = self.sessions.get_mut(&id).expect("a live session");
        let old = std::mem::replace(&mut session.local, local.clone());
        let waited = self.lobby.edit_waiting(&old.ufrag, |session| {
            session.local = local.clone();
            session.remote_mut().ice = remote.clone();
        });
        if waited {
            return (local, None);
        }
        let worker = session.worker.expect("it was adopted");
        self.lobby.own(&local, worker);
        (local.clone(), Some((worker, Command::Restart { id, local, remote })))
    }

    /// DELETE, or a kick.
    pub(crate) fn close(&mut self, id: SessionId, reason: CloseReason) -> Vec<Order> {
        let Some(session) = self.sessions.get(&id) else { return Vec::new() };
        if self.lobby.take_waiting(&session.local.ufrag).is_some() {
            return self.on_closed(id, reason);
        }
        let workers = session.worker.map_or(0..self.workers, |worker| worker..worker + 1);
        workers.map(|worker| (worker, Command::Close { id, reason })).collect()
    }

    /// POST on the layer URL of a viewer, for one track of its plan.
    pub(crate) fn set_preference(
        &self,
        id: SessionId,
        track: u8,
        preference: LayerPreference,
    ) -> Option<Order> {
        self.sessions[&id].asked.put(track, preference);
        self.order_preferences(id)
    }

    fn order_preferences(&self, id: SessionId) -> Option<Order> {
        let session = &self.sessions[&id];
        let worker = session.worker.filter(|_| session.asked.order())?;
        Some((worker, Command::ApplyPreferences { id, mailbox: Arc::clone(&session.asked) }))
    }

    pub(crate) fn on_event(&mut self, worker: usize, event: Event) -> Vec<Order> {
        match event {
            Event::Adopted { id, .. } => self.on_adopted(id, worker).into_iter().collect(),
            Event::Connected(id) => self.on_connected(id),
            Event::HandshakeFailed(..) => Vec::new(),
            Event::Silent(id, silent) => {
                self.silences.push((id, silent));
                Vec::new()
            }
            Event::Closed(id, reason) => self.on_closed(id, reason),
            Event::Warned(id, warning) => {
                self.warned.push((id, warning));
                Vec::new()
            }
            Event::Unserved { viewers, text, .. } => {
                self.unserved.push((viewers, text));
                Vec::new()
            }
        }
    }

    fn on_adopted(&mut self, id: SessionId, worker: usize) -> Option<Order> {
        let session = self.sessions.get_mut(&id)?;
        session.worker = Some(worker);
        let stream = self.streams.get_mut(&session.stream).expect("a session keeps its stream");
        if let Some(viewer) = stream.viewers.get_mut(&id) {
            *viewer = Some(worker);
            stream.publish_route();
        }
        self.order_preferences(id)
    }

    fn on_connected(&mut self, id: SessionId) -> Vec<Order> {
        let Some(session) = self.sessions.get_mut(&id) else { return Vec::new() };
        session.connected = true;
        if session.role != Role::Publisher {
            return Vec::new();
        }
        let name = session.stream.clone();
        let stream = self.streams.get_mut(&name).expect("a session keeps its stream");
        // As `net/takeover.rs`: every publisher that has connected and does not hold the stream lost it.
        stream.publisher = stream.shared.source.load_full();
        let holder = stream.publisher.as_ref().map(|source| source.publisher);
        let mut lost: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.role == Role::Publisher && session.stream == name)
            .filter(|(id, session)| session.connected && Some(**id) != holder)
            .map(|(id, _)| *id)
            .collect();
        lost.sort_unstable();
        let mut orders = self.refresh(&name);
        for old in lost {
            orders.extend(self.close(old, CloseReason::TakenOver));
        }
        orders
    }

    fn on_closed(&mut self, id: SessionId, reason: CloseReason) -> Vec<Order> {
        let Some(session) = self.sessions.remove(&id) else { return Vec::new() };
        self.closed.push((id, reason));
        let mut orders = Vec::new();
        let stream = self.streams.get_mut(&session.stream).expect("a session keeps its stream");
        match session.role {
            Role::Publisher => {
                stream.publishers -= 1;
                if stream.publisher.as_ref().is_some_and(|source| source.publisher == id) {
                    stream.publisher = stream.shared.source.load_full();
                    orders = self.refresh(&session.stream);
                }
            }
            Role::Subscriber => {
                stream.viewers.remove(&id);
                stream.publish_route();
            }
        }
        let stream = &self.streams[&session.stream];
        if stream.publishers == 0 && stream.viewers.is_empty() {
            let id = stream.shared.id;
            self.free_ids.push(StreamId { generation: id.generation + 1, ..id });
            self.streams.remove(&session.stream);
        }
        orders
    }

    fn refresh(&self, name: &str) -> Vec<Order> {
        let stream = &self.streams[name];
        let home = stream
            .publisher
            .as_ref()
            .and_then(|source| self.sessions.get(&source.publisher)?.worker);
        let viewers = stream.viewers.values().copied().flatten();
        let mut workers: Vec<usize> = viewers.chain(home).collect();
        workers.sort_unstable();
        workers.dedup();
        let order = |worker| (worker, Command::Refresh(Arc::clone(&stream.shared)));
        workers.into_iter().map(order).collect()
    }

    /// Forgets sessions that no worker adopted in time.
    pub(crate) fn reap(&mut self, now: Instant) {
        let stale: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.worker.is_none() && !session.connected)
            .filter(|(_, session)| now.saturating_duration_since(session.created) >= LOBBY_TIME)
            .map(|(id, session)| (*id, session.local.ufrag.clone()))
            .collect();
        for (id, ufrag) in stale {
            if self.lobby.take_waiting(&ufrag).is_some() {
                self.on_closed(id, CloseReason::NoIce);
            }
        }
    }
}

impl Stream {
    fn publish_route(&self) {
        let mut destinations: Vec<usize> = self.viewers.values().copied().flatten().collect();
        destinations.sort_unstable();
        destinations.dedup();
        self.shared.route.store(Arc::new(Route { destinations }));
    }
}
