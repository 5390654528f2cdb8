//! State that handlers share: the media plane's handle, limits, and the settings that a reload may
//! change.
//!
//! Owns no request and decides nothing. `main.rs` makes it, `app.rs` gives it to the handlers.
//! Next: `app.rs` for the routes, `listeners.rs` for the event streams.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use weir_sfu::net::Sfu;

use crate::config::Live;
use crate::limits::PostRate;
use crate::listeners::Listeners;

/// State of all listeners of a server. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The media plane.
    pub sfu: Sfu,
    /// POST rates by client network.
    pub posts: Arc<PostRate>,
    /// Event streams of viewers.
    pub listeners: Listeners,
    /// Time of the server's start, for `/metrics` and `/api/v1/stats`.
    pub started: Instant,
    live: Arc<RwLock<Arc<Live>>>,
}

impl AppState {
    /// State of a server that starts now.
    pub fn new(sfu: Sfu, live: Live) -> Self {
        Self {
            sfu,
            posts: Arc::default(),
            listeners: Listeners::default(),
            started: Instant::now(),
            live: Arc::new(RwLock::new(Arc::new(live))),
        }
    }

    /// The settings that SIGHUP may change, as they are now.
    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the settings that SIGHUP may change, for this state and its clones.
    pub fn set_live(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }
}
