//! HTTP of Weir: WHIP, WHEP, pages, admin API and metrics, and nothing about media.
//!
//! | file | one noun |
//! |---|---|
//! | [`settings`], [`cli`], [`config`] | every setting, the command line, the effective configuration |
//! | [`setting`], [`advertise`], [`cpus`], [`log`] | kinds of values that settings have |
//! | [`stderr`], [`repeats`] | the queue of log lines, and the limit of repeated ones |
//! | [`nearest`] | the known name that a misspelt one is nearest to |
//! | [`app`](mod@app) | the routes by group, and what every request gets before its handler |
//! | [`access`], [`authority`], [`forwarded`], [`origin`] | who may use a route group at a listener: hosts, proxies, web pages |
//! | [`state`] | what handlers share |
//! | [`addresses`] | what answers offer as the machine's addresses change |
//! | [`whip`], [`whep`], [`session`] | the three resources of RFC 9725 |
//! | [`layer`], [`sse`], [`events`], [`listeners`] | two extensions of WHEP: layer preferences, and event streams |
//! | [`offer`], [`body`], [`body_budget`], [`path`] | what these share: a POSTed offer, a bounded body, the memory of all of them, a URL's parts |
//! | [`other_url`] | what a path of another server's form means here |
//! | [`cors`], [`limits`] | which web pages may read a response, and how often a network may ask |
//! | [`client_address`], [`trusted_proxies`] | who asks, also where a proxy asks for it |
//! | [`error`], [`refused_offers`], [`refused_requests`] | the response to a refused request, and what the operator learns of it |
//! | [`message_page`] | what a person who opens an address in a browser is told |
//! | [`pages`], [`admin`], [`metrics`], [`process`], [`health`] | for people and for their monitoring |
//! | [`server`], [`connections`], [`activity`], [`headers`], [`socket`], [`header_block`] | listeners; the open connections, what happens on one of them, its requests' headers, its bytes, a header block that has not ended |
//!
//! Media is behind one handle, [`weir_sfu::net::Sfu`]. Nothing imports this crate but its binary
//! and its tests.
#![expect(
    clippy::disallowed_methods,
    reason = "HTTP is control plane: it reads the clock for rate limits, uptime and request logs"
)]

pub mod access;
pub mod activity;
pub mod addresses;
pub mod admin;
pub mod advertise;
pub mod app;
pub mod authority;
pub mod body;
pub mod body_budget;
pub mod cli;
pub mod client_address;
pub mod config;
pub mod connections;
pub mod cors;
pub mod cpus;
pub mod error;
pub mod events;
pub mod forwarded;
pub mod header_block;
pub mod headers;
pub mod health;
pub mod layer;
pub mod limits;
pub mod listeners;
pub mod log;
pub mod message_page;
pub mod metrics;
pub mod nearest;
pub mod offer;
pub mod origin;
pub mod other_url;
pub mod pages;
pub mod path;
pub mod process;
pub mod refused_offers;
pub mod refused_requests;
pub mod repeats;
pub mod server;
pub mod session;
pub mod setting;
pub mod settings;
pub mod socket;
pub mod sse;
pub mod state;
pub mod stderr;
pub mod trusted_proxies;
pub mod whep;
pub mod whip;

pub use app::{admin_app, app};
pub use state::AppState;

/// Media type of offers and answers.
pub const SDP: &str = "application/sdp";
/// Media type of the extensions of WHEP.
pub const JSON: &str = "application/json";
/// Media type of ICE fragments in PATCH (RFC 8840 section 9).
pub const TRICKLE: &str = "application/trickle-ice-sdpfrag";
