//! The media plane of Weir: everything about media, nothing about HTTP.
//!
//! `api` uses [`net`], and the values in [`client_network`], [`config`], [`error`] and [`ids`]. All other modules are
//! private, so that the compiler finds unused code. The feature `internals` opens them for benches,
//! the simulator and the fuzz targets. `ARCHITECTURE.md` is the map: the task of each module, and
//! the modules it may import (`tests/tidy.rs` checks it). Without the feature `net` there is no
//! thread, socket or clock in the crate.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests take one real instant to count from")
)]
#![cfg_attr(
    not(feature = "internals"),
    allow(
        unreachable_pub,
        unused_imports,
        reason = "items of private modules are public for `internals`"
    )
)]
#![cfg_attr(
    not(any(feature = "internals", feature = "net")),
    allow(dead_code, reason = "without `net` no code drives the workers")
)]

pub mod client_network;
pub mod config;
pub mod error;
pub mod ids;

#[cfg(feature = "net")]
pub mod net;
mod warm;

#[cfg(not(feature = "internals"))]
mod codec;
#[cfg(not(feature = "internals"))]
mod congestion;
#[cfg(not(feature = "internals"))]
mod forward;
#[cfg(not(feature = "internals"))]
mod limiter;
#[cfg(not(feature = "internals"))]
mod media;
#[cfg(not(feature = "internals"))]
mod repair;
#[cfg(not(feature = "internals"))]
mod router;
#[cfg(not(feature = "internals"))]
mod rtp;
#[cfg(not(feature = "internals"))]
mod sdp;
#[cfg(not(feature = "internals"))]
mod transport;
#[cfg(not(feature = "internals"))]
mod units;
#[cfg(not(feature = "internals"))]
mod worker;

#[cfg(feature = "internals")]
pub mod codec;
#[cfg(feature = "internals")]
pub mod congestion;
#[cfg(feature = "internals")]
pub mod forward;
#[cfg(feature = "internals")]
pub mod limiter;
#[cfg(feature = "internals")]
pub mod media;
#[cfg(feature = "internals")]
pub mod repair;
#[cfg(feature = "internals")]
pub mod router;
#[cfg(feature = "internals")]
pub mod rtp;
#[cfg(feature = "internals")]
pub mod sdp;
#[cfg(feature = "internals")]
pub mod transport;
#[cfg(feature = "internals")]
pub mod units;
#[cfg(feature = "internals")]
pub mod worker;
