//! Signalling: what a client may do with an offer, or with the URL of its own session.
//!
//! A view of the control plane: who holds it cannot list, inspect or end sessions of others. Keeps no state and
//! never touches a packet. Called by the WHIP and WHEP routes of `api`; next: `control.rs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use super::outcome::{
    Conflict, Created, IfMatch, LayerError, LookupError, OfferError, PatchError, Patched,
};
use super::received_track::MediaLayers;
use super::session_entry::{SessionEntry, etag};
use super::status_board::StatusReceiver;
use crate::error::CloseReason;
use crate::forward::LayerPreference;
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId, StreamName};
use crate::sdp::{LocalTransport, OfferText, fragment};
use crate::transport::ice::CONSENT_TIMEOUT;
use crate::worker::Worker;

/// View of the server for clients: with an offer, or with the URL of their own session. Cheap to clone.
#[derive(Clone)]
pub struct Signalling {
    control: Arc<Control>,
}

impl Signalling {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    /// WHIP POST from a client network; `None` for loopback, which has no share of its own.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn publish(
        &self,
        stream: StreamName,
        offer: OfferText<'_>,
        network: Option<IpAddr>,
    ) -> Result<Created, OfferError> {
        let admitted = match self.control.publish(&stream, offer, network) {
            Err(OfferError::Conflict(conflict)) => {
                return Err(self.as_of_now(conflict).await.into());
            }
            admitted => admitted?,
        };
        Ok(self.control.finish_admission(admitted).await)
    }

    /// WHEP POST from a client network (`None` for loopback, which has no share of its own). `start` limits
    /// how much of the past the viewer gets.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn subscribe(
        &self,
        stream: StreamName,
        offer: OfferText<'_>,
        start: StartMode,
        network: Option<IpAddr>,
    ) -> Result<Created, OfferError> {
        let admitted = self.control.subscribe(&stream, offer, start, network)?;
        Ok(self.control.finish_admission(admitted).await)
    }

    /// PATCH on a session URL: trickle or ICE restart. Changed credentials mean a restart, not `If-Match: *`
    /// (whip-whep B5). `strict` requires `If-Match` (whip-whep B2).
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
        let session = self.live(role, stream, secret).ok_or(PatchError::NotFound)?;
        let fragment =
            fragment::parse(fragment).map_err(|error| PatchError::Malformed(error.to_string()))?;
        let _change = session.change_lock.lock().await;
        let (old, remote) = {
            let mut state = session.lock();
            if !state.patches.take(Instant::now()) {
                return Err(PatchError::RateLimited);
            }
            match if_match {
                IfMatch::Tag(tag) if tag != etag(&state.local) => {
                    return Err(PatchError::StaleTag);
                }
                IfMatch::Missing if strict => return Err(PatchError::TagRequired),
                IfMatch::Tag(_) | IfMatch::Any | IfMatch::Missing => {}
            }
            let changed = fragment
                .ice
                .filter(|ice| ice.ufrag != state.remote.ufrag && ice.pwd != state.remote.pwd);
            // We are ICE-lite: a remote candidate tells us nothing that a check does not.
            let Some(remote) = changed else { return Ok(Patched::Trickled) };
            (state.local.clone(), remote)
        };
        let candidates = self.control.candidates().to_vec();
        let local = LocalTransport { ice: self.control.fresh_ice(), candidates, ..old.clone() };
        if !self.control.restart(&session, &old.ice, &local.ice, &remote).await {
            return Err(PatchError::Unavailable);
        }
        let restarted = Patched::Restarted { body: fragment::render(&local), etag: etag(&local) };
        let mut state = session.lock();
        state.local = local;
        state.remote = remote;
        Ok(restarted)
    }

    /// DELETE on a session URL. True also for a session that ended within the tombstone time (whip-whep A25);
    /// false if it never existed or is long gone.
    pub async fn delete(&self, role: Role, stream: &StreamName, secret: &str) -> bool {
        let Some(url) = self.control.directory.url(role, stream, secret) else { return false };
        if url.ended.is_none() {
            self.control.close(url.id, CloseReason::Deleted).await;
        }
        true
    }

    /// Whether a session URL is live, for GET and HEAD.
    pub fn exists(&self, role: Role, stream: &StreamName, secret: &str) -> bool {
        self.live(role, stream, secret).is_some()
    }

    /// Why the session of this URL ended; `None` while it is live, if it never existed, and after the tombstone
    /// time. A client that was closed learns from it whether a new offer may succeed.
    pub fn ended(&self, role: Role, stream: &StreamName, secret: &str) -> Option<CloseReason> {
        let (_, reason) = self.control.directory.url(role, stream, secret)?.ended?;
        Some(reason)
    }

    /// Public id of a live session URL, for logs.
    pub fn resolve(&self, role: Role, stream: &StreamName, secret: &str) -> Option<SessionId> {
        Some(self.live(role, stream, secret)?.id)
    }

    /// Public id of a live session URL, for a request that interrupts a media thread or holds something open:
    /// a client may send 20 of them per second.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn rate_limited_lookup(
        &self,
        role: Role,
        stream: &StreamName,
        secret: &str,
    ) -> Result<SessionId, LookupError> {
        let session = self.live(role, stream, secret).ok_or(LookupError::NotFound)?;
        let within = session.lock().lookups.take(Instant::now());
        within.then_some(session.id).ok_or(LookupError::RateLimited)
    }

    /// Whether a session has not ended.
    pub fn is_live(&self, id: SessionId) -> bool {
        self.control.directory.session(id).is_some()
    }

    /// Sets the preference of a viewer for one video m-line, named by index or mid, or the first one (whip-whep
    /// E9). It holds for the session, also while no publisher is there, and replaces the one before. The
    /// switch follows at the layer's next keyframe.
    ///
    /// A preference is a value that the newest one replaces (`worker/preference_mailbox.rs`), so no viewer can
    /// fill a queue. What follows from it is decided in `forward/layer_preference.rs`.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub async fn select_layer(
        &self,
        stream: &StreamName,
        secret: &str,
        media: Option<&str>,
        preference: LayerPreference,
    ) -> Result<(), LayerError> {
        let session = self.viewer(stream, secret)?;
        let (index, track) = session.tracks.find_video(media)?;
        if let Some(rid) = &preference.rid {
            let source = session.stream.shared.source.load_full();
            track.check_rid(source.as_deref(), rid)?;
        }
        session.preferences.put(index, preference);
        self.control.deliver_preferences(&session).await
    }

    /// Returns to the automatic choice in every video m-line.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub async fn unselect_layers(
        &self,
        stream: &StreamName,
        secret: &str,
    ) -> Result<(), LayerError> {
        let session = self.viewer(stream, secret)?;
        for (index, _) in session.tracks.video() {
            session.preferences.put(index, LayerPreference::default());
        }
        self.control.deliver_preferences(&session).await
    }

    /// Layers that a viewer can choose from now; none before it is connected.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] or [`LayerError::Unavailable`].
    pub async fn layers(
        &self,
        stream: &StreamName,
        secret: &str,
    ) -> Result<Vec<MediaLayers>, LayerError> {
        let session = self.viewer(stream, secret)?;
        let Some(worker) = session.worker() else { return Ok(Vec::new()) };
        let id = session.id;
        let layers = self
            .control
            .workers
            .inspect(worker, move |worker, now| worker.viewer_layers(id, now))
            .await;
        let layers = layers.ok_or(LayerError::Unavailable)?.unwrap_or_default();
        Ok(session.tracks.by_m_line(layers))
    }

    /// Status of a session until it ends; `None` if there is no such session. That of a publisher has no layers.
    pub fn session_status(
        &self,
        role: Role,
        stream: &StreamName,
        secret: &str,
    ) -> Option<StatusReceiver> {
        let session = self.live(role, stream, secret)?;
        let receiver = self.control.status_board.subscribe(session.id);
        if !self.is_live(session.id) {
            // It ended in between: nobody would tell this receiver.
            self.control.status_board.forget(session.id);
        }
        Some(receiver)
    }

    /// A refusal with what its holder does now: one that died without a goodbye ends soon.
    async fn as_of_now(&self, conflict: Conflict) -> Conflict {
        let holder = conflict.holder;
        let session = self.control.directory.session(holder);
        let Some(worker) = session.and_then(|session| session.worker()) else { return conflict };
        let ask = move |worker: &mut Worker, now| worker.session_info(holder, now);
        let info = self.control.workers.inspect(worker, ask).await.flatten();
        match info.and_then(|info| info.silent_s) {
            Some(silent_s) => {
                conflict.while_silent(Duration::from_secs_f64(silent_s), CONSENT_TIMEOUT)
            }
            None => conflict,
        }
    }

    fn live(&self, role: Role, stream: &StreamName, secret: &str) -> Option<Arc<SessionEntry>> {
        self.control.directory.live_session(role, stream, secret)
    }

    fn viewer(&self, stream: &StreamName, secret: &str) -> Result<Arc<SessionEntry>, LayerError> {
        self.live(Role::Subscriber, stream, secret).ok_or(LayerError::NotFound)
    }
}

#[cfg(test)]
mod tests;
