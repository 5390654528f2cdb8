//! Session inside a worker: its connection and its role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys::SessionKey;
use super::outbox::SendState;
use super::publisher::Publisher;
use super::subscriber::Subscriber;
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId};
use crate::limiter::PerSecondLimit;
use crate::router::StreamShared;
use crate::sdp::{IceCredentials, PublishPlan, RemoteTransport, SubscribePlan};
use crate::transport::FiveTuple;
use crate::transport::peer::Peer;

/// A session as the control plane hands it over: negotiated in SDP, not yet connected.
#[derive(Debug)]
pub struct NewSession {
    /// Public id.
    pub id: SessionId,
    /// Stream of the session.
    pub stream: Arc<StreamShared>,
    /// Our ICE credentials.
    pub local: IceCredentials,
    /// Time when it was accepted.
    pub created: Instant,
    /// Negotiated media, by role.
    pub plan: Plan,
}

/// Negotiated media of a session, by role.
#[derive(Debug)]
pub enum Plan {
    /// WHIP.
    Publish {
        /// The answered offer.
        plan: PublishPlan,
    },
    /// WHEP.
    Subscribe {
        /// The answered offer.
        plan: SubscribePlan,
        /// Most data of the past that it is sent.
        start: StartMode,
    },
}

impl NewSession {
    /// The peer's side of the transport.
    pub fn remote(&self) -> &RemoteTransport {
        match &self.plan {
            Plan::Publish { plan } => &plan.transport,
            Plan::Subscribe { plan, .. } => &plan.transport,
        }
    }

    /// The peer's side of the transport, for an ICE restart before a worker adopted the session.
    pub fn remote_mut(&mut self) -> &mut RemoteTransport {
        match &mut self.plan {
            Plan::Publish { plan } => &mut plan.transport,
            Plan::Subscribe { plan, .. } => &mut plan.transport,
        }
    }

    /// Publisher or subscriber.
    pub fn role(&self) -> Role {
        match self.plan {
            Plan::Publish { .. } => Role::Publisher,
            Plan::Subscribe { .. } => Role::Subscriber,
        }
    }
}

/// Age at which a viewer counts as established, for the order of serving and in the latency
/// figures: its handshake and start are over.
const ESTABLISHED_AFTER: Duration = Duration::from_secs(5);

/// One session. Fields that each turn needs are next to each other: the end of the connection's
/// state, the send path and the beginning of the role's.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Session {
    /// Ufrags by which the lobby knows it: one, or two after an ICE restart.
    pub ufrags: Vec<Box<str>>,
    /// Address pairs that lead to this session: those its ICE agent knows, so at most eight.
    pub(super) paths: Vec<FiveTuple>,
    /// Limit of RTCP packets per second (quality B2).
    pub rtcp_limit: PerSecondLimit,
    /// Public id.
    pub id: SessionId,
    /// The stream that it publishes or requested; a viewer's subscriptions may be bound to others.
    pub stream: Arc<StreamShared>,
    /// Time when the POST was accepted.
    pub created: Instant,
    /// The connection.
    pub peer: Peer,
    /// State of its send path between visits.
    pub sending: SendState,
    /// Role, with the state of it.
    pub role: RoleState,
}

/// Role of a session, with its state.
#[derive(Debug)]
pub(super) enum RoleState {
    /// The session sends to us.
    Publisher(Box<Publisher>),
    /// The session receives from us.
    Subscriber(Subscriber),
}

impl Session {
    /// The viewer, if it is one.
    pub(super) fn subscriber(&self) -> Option<&Subscriber> {
        match &self.role {
            RoleState::Subscriber(subscriber) => Some(subscriber),
            RoleState::Publisher(_) => None,
        }
    }

    /// Publisher or subscriber.
    pub(super) fn kind(&self) -> Role {
        match self.role {
            RoleState::Publisher(_) => Role::Publisher,
            RoleState::Subscriber(_) => Role::Subscriber,
        }
    }

    /// Whether it joined within [`ESTABLISHED_AFTER`].
    pub(super) fn is_new(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.created) < ESTABLISHED_AFTER
    }

    /// Time at which it is to be called next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let role = match &self.role {
            RoleState::Publisher(publisher) => publisher.next_timeout(),
            RoleState::Subscriber(subscriber) => subscriber.next_timeout(),
        };
        [self.peer.next_timeout(), role].into_iter().flatten().min()
    }
}

/// Sessions of one worker by key; positions are reused, keys are not.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<(u32, Option<Box<Session>>)>,
    free: Vec<u32>,
    len: usize,
}

impl Sessions {
    /// Adds a session.
    pub(super) fn insert(&mut self, session: Session) -> SessionKey {
        self.len += 1;
        let session = Some(Box::new(session));
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.1 = session;
            return SessionKey::new(index, slot.0);
        }
        self.slots.push((0, session));
        SessionKey::new(self.slots.len() as u32 - 1, 0)
    }

    /// The session behind a key, if it still lives.
    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        let (generation, session) = self.slots.get(key.position())?;
        session.as_deref().filter(|_| *generation == key.generation())
    }

    /// The session behind a key, if it still lives.
    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        let (generation, session) = self.slots.get_mut(key.position())?;
        session.as_deref_mut().filter(|_| *generation == key.generation())
    }

    /// Removes a session; its key is invalid from now on.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Box<Session>> {
        let (generation, slot) = self.slots.get_mut(key.position())?;
        if *generation != key.generation() {
            return None;
        }
        let session = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.index());
        self.len -= 1;
        Some(session)
    }

    /// Number of live sessions.
    #[cfg(feature = "internals")]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keys of all live sessions.
    pub(super) fn keys(&self) -> impl Iterator<Item = SessionKey> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, (_, session))| session.is_some())
            .map(|(index, (generation, _))| SessionKey::new(index as u32, *generation))
    }
}
