//! The media plane of Weir: everything about media, nothing about HTTP.
//!
//! The floors, lowest first; an import never points upwards (`tests/tidy.rs` checks it).
//!
//! | floor | rooms | what they know |
//! |---|---|---|
//! | 0 | [`codec`], [`ids`], [`limiter`], [`units`], [`error`], [`config`], [`rtp`], [`media`] | bytes and numbers |
//! | 1 | [`forward`], [`repair`], [`congestion`] | one viewer × one track, pure state machines |
//! | 2 | [`router`], [`transport`], [`sdp`] | shared tables, one connection, signalling text |
//! | 3 | [`worker`] | one core's world, still pure |
//! | 4 | [`net`] | threads, clocks, sockets; the [`net::Sfu`] handle is the one door for `api` |
//!
//! Floors 0 to 3 build without the `net` feature: no thread, socket or clock below it.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests take one real instant to count from")
)]

pub mod codec;
pub mod config;
pub mod error;
pub mod ids;
pub mod limiter;
pub mod units;

pub mod media;
pub mod rtp;

pub mod congestion;
pub mod forward;
pub mod repair;

pub mod router;
pub mod sdp;
pub mod transport;

pub mod worker;

#[cfg(feature = "net")]
pub mod net;
