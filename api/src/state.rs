//! State that handlers share: the media plane's handle, limits, and the settings that a reload may change.
//!
//! Owns no request and decides nothing. `main.rs` makes it, `app.rs` gives it to the handlers.
//! Next: `app.rs` for the routes, `listeners.rs` for the event streams.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use weir_sfu::net::Sfu;

use crate::config::Live;
use crate::door::Door;
use crate::limits::PostRate;
use crate::listeners::Listeners;

/// What the handlers of one listener share. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The media plane.
    pub sfu: Sfu,
    /// Who may publish, watch and see the pages.
    pub media_door: Door,
    /// Who may use `/metrics` and `/api/v1`.
    pub admin_door: Door,
    /// POST rates by client network.
    pub posts: Arc<PostRate>,
    /// Viewers that listen to events.
    pub listeners: Listeners,
    /// When the server started, for `/metrics` and `/api/v1/stats`.
    pub started: Instant,
    live: Arc<RwLock<Arc<Live>>>,
}

impl AppState {
    /// State for a listener with these doors.
    pub fn new(sfu: Sfu, live: Live, media_door: Door, admin_door: Door) -> Self {
        Self {
            sfu,
            media_door,
            admin_door,
            posts: Arc::default(),
            listeners: Listeners::default(),
            started: Instant::now(),
            live: Arc::new(RwLock::new(Arc::new(live))),
        }
    }

    /// The same state behind other doors, for another listener.
    pub fn behind(self, media_door: Door, admin_door: Door) -> Self {
        Self { media_door, admin_door, ..self }
    }

    /// The settings that SIGHUP may change, as they are now.
    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces them, for this state and its clones.
    pub fn set_live(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }
}
