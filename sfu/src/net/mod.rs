//! The shell: threads, clock, sockets, and the [`Sfu`] handle.
//!
//! The only room below `api` that reads a clock or touches a socket. `handle` is the door, `control` the
//! directories of streams and sessions; `layers` is how a viewer chooses and `news` what it is told.
//! Each worker has a `thread`, and on it a `shell` (the loop), a
//! `socket` with its `outlet` and its memory of `gso`, a place to `wait`, a `tick`, and its `latency` in
//! a `histogram`; `affinity` keeps it on its CPU.

#![expect(clippy::disallowed_methods, reason = "the shell is where the clock is read")]

mod affinity;
mod control;
mod gso;
mod half_open;
mod handle;
mod histogram;
mod latency;
mod layers;
mod messages;
mod shell;
mod shell_report;
mod socket;
mod socket_egress;
#[cfg(test)]
mod tests;
mod thread;
mod tick;
mod viewer_status;
mod wait;

pub use crate::forward::LayerPreference;
pub use crate::forward::start::{StartMode, UnknownStartMode};
pub use crate::worker::{DecisionInfo, LayerInfo, SessionInfo, TrackInfo};
pub use crate::worker::{LayerState, TrackLayers};
pub use affinity::usable_cpus;
pub use handle::*;
pub use latency::LatencySummary;
pub use layers::{LayerError, MediaLayers};
pub use viewer_status::{StatusReceiver, ViewerStatus};
