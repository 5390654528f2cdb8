//! One session of the directory: what the control plane knows of a client.
//!
//! Owns the session's state behind one lock. The worker that owns the session knows its media. Made by
//! `control.rs`, found through `directory.rs`.

use std::sync::Arc;
use std::time::Instant;

use super::lock_order::{LockRank, OrderedGuard, OrderedMutex};
use super::received_track::ReceivedTracks;
use super::stream_entry::StreamEntry;
use crate::ids::{Role, SessionId, SessionSecret};
use crate::limiter::PerSecondLimit;
use crate::sdp::{IceCredentials, IdleSection, LocalTransport, RejectedSection};
use crate::transport::peer::PeerState;
use crate::worker::{NewSession, Plan, PreferenceMailbox, SessionInfo, seconds};

/// Maximum requests of one kind per second and session (whip-whep B19): PATCHes, and separately lookups that
/// interrupt a media thread or hold something open. Further ones are refused with 429.
pub(super) const REQUESTS_PER_SECOND: u32 = 20;

/// Session that was accepted and has not ended.
pub(super) struct SessionEntry {
    pub id: SessionId,
    pub role: Role,
    pub stream: Arc<StreamEntry>,
    pub secret: SessionSecret,
    pub created: Instant,
    /// Tracks that it receives; none for a publisher.
    pub tracks: ReceivedTracks,
    /// M-lines that its answer rejected; none for a publisher.
    pub rejected: Vec<RejectedSection>,
    /// M-lines for whose tracks there was no publisher's track; none for a publisher.
    pub idle: Vec<IdleSection>,
    /// Layer preferences that its worker has not read yet.
    pub preferences: Arc<PreferenceMailbox>,
    /// Held over a whole PATCH or DELETE, so that they follow one another. Taken before any other lock.
    pub change_lock: tokio::sync::Mutex<()>,
    state: OrderedMutex<SessionState>,
}

/// State of a session that changes.
pub(super) struct SessionState {
    /// Worker whose placement counts it.
    pub placed: Option<usize>,
    /// Worker that owns it; `None` while it waits in the lobby.
    pub worker: Option<usize>,
    pub connected: bool,
    /// What happened in its DTLS handshake, if that failed.
    pub failure: Option<Arc<str>>,
    pub local: LocalTransport,
    pub remote: IceCredentials,
    pub patches: PerSecondLimit,
    pub lookups: PerSecondLimit,
}

impl SessionEntry {
    /// Session that was just accepted.
    pub(super) fn new(
        new: &NewSession,
        stream: Arc<StreamEntry>,
        secret: SessionSecret,
        tracks: ReceivedTracks,
        local: LocalTransport,
    ) -> Self {
        let state = SessionState {
            placed: None,
            worker: None,
            connected: false,
            failure: None,
            local,
            remote: new.remote().ice.clone(),
            patches: PerSecondLimit::per_second(REQUESTS_PER_SECOND),
            lookups: PerSecondLimit::per_second(REQUESTS_PER_SECOND),
        };
        let (rejected, idle) = match &new.plan {
            Plan::Publish { .. } => Default::default(),
            Plan::Subscribe { plan, .. } => (plan.rejected.clone(), plan.idle.clone()),
        };
        Self {
            id: new.id,
            role: new.role(),
            stream,
            secret,
            created: new.created,
            tracks,
            rejected,
            idle,
            preferences: Arc::default(),
            change_lock: tokio::sync::Mutex::default(),
            state: OrderedMutex::new(LockRank::Session, state),
        }
    }

    pub(super) fn lock(&self) -> OrderedGuard<'_, SessionState> {
        self.state.lock()
    }

    /// Worker that owns it; `None` while it waits in the lobby.
    pub(super) fn worker(&self) -> Option<usize> {
        self.lock().worker
    }

    /// Details of a session that waits for its first ICE check.
    pub(super) fn waiting_info(&self, now: Instant) -> SessionInfo {
        SessionInfo {
            id: self.id,
            role: self.role,
            stream: self.stream.shared.name.clone(),
            state: PeerState::WaitingIce.label(),
            age_s: seconds(now.saturating_duration_since(self.created)),
            silent_s: None,
            worker: 0,
            srtp_profile: None,
            rtt_ms: None,
            tracks: Vec::new(),
            decisions: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Strong ETag of an ICE session, quotes included (whip-whep A4).
pub(super) fn etag(local: &LocalTransport) -> String {
    format!("\"{}\"", local.ice.ufrag)
}
