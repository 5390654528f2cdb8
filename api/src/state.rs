//! State that handlers share: the media plane's handle, limits, and the configuration in
//! force.
//!
//! Owns no request and decides nothing. `main.rs` makes it, `app.rs` gives it to the handlers.
//! Next: `app.rs` for the routes, `listeners.rs` for the event streams.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use axum::http::request::Parts;
use weir_sfu::net::Sfu;

use crate::addresses::Addresses;
use crate::body_budget::BodyBudget;
use crate::client_address::{ClientAddress, ForwardingFaults};
use crate::config::Config;
use crate::connections::ConnectionLimit;
use crate::limits::PostRate;
use crate::listeners::Listeners;
use crate::refused_offers::RefusedOffers;
use crate::refused_requests::RefusedRequests;
use crate::server::Peer;

/// State of all listeners of a server. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The media plane.
    pub sfu: Sfu,
    /// POST rates by client network.
    pub posts: Arc<PostRate>,
    /// Requests of trusted proxies that do not tell the client's address.
    pub forwarding_faults: Arc<ForwardingFaults>,
    /// Memory of request bodies.
    pub bodies: BodyBudget,
    /// Open connections of all listeners.
    pub connections: ConnectionLimit,
    /// Offers that were refused.
    pub refused: Arc<RefusedOffers>,
    /// Requests that the access rules refused.
    pub refused_requests: Arc<RefusedRequests>,
    /// Event streams of viewers.
    pub listeners: Listeners,
    /// Time of the server's start, for `/metrics` and `/api/v1/stats`.
    pub started: Instant,
    addresses: Arc<Addresses>,
    config: Arc<RwLock<Arc<Config>>>,
}

impl AppState {
    /// State of a server that starts now and offers the addresses that `sfu` was given.
    pub fn new(sfu: Sfu, config: Config) -> Self {
        Self::with_addresses(sfu, config, Addresses::fixed())
    }

    /// State of a server that starts now.
    pub fn with_addresses(sfu: Sfu, config: Config, addresses: Addresses) -> Self {
        Self {
            sfu,
            posts: Arc::default(),
            forwarding_faults: Arc::default(),
            bodies: BodyBudget::default(),
            connections: ConnectionLimit::default(),
            refused: Arc::default(),
            refused_requests: Arc::default(),
            listeners: Listeners::default(),
            started: Instant::now(),
            addresses: Arc::new(addresses),
            config: Arc::new(RwLock::new(Arc::new(config))),
        }
    }

    /// Who makes a request; none where nothing tells, as in tests without a connection.
    pub fn client(&self, request: &Parts) -> Option<ClientAddress> {
        let peer = request.extensions.get::<Peer>()?.0.ip();
        let (proxies, faults) = (&self.config().trusted_proxy, &self.forwarding_faults);
        Some(ClientAddress::of(peer, &request.headers, proxies, faults))
    }

    /// The client network of a request, for limits.
    pub fn network(&self, request: &Parts) -> Option<IpAddr> {
        self.client(request).and_then(|client| client.network)
    }

    /// The configuration in force. SIGHUP may change it between two calls.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the configuration, for this state and its clones.
    pub fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.addresses.refresh_at_once(&self.sfu, &self.config());
    }

    /// Has the next answer offer the addresses that the machine has now.
    pub fn refresh_addresses(&self) {
        self.addresses.refresh(&self.sfu, &self.config());
    }
}
