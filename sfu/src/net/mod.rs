//! The shell: threads, clock, sockets, and the [`Sfu`] handle.
//!
//! The only room below `api` that reads a clock or touches a socket. [`socket`] is one worker's UDP
//! socket, `thread` its loop, `control` the directories of streams and sessions, `handle` the door.

#![expect(clippy::disallowed_methods, reason = "the shell is where the clock is read")]

mod control;
mod handle;
mod latency;
mod socket;
mod thread;

pub use crate::worker::{DecisionInfo, LayerInfo, SessionInfo, TrackInfo};
pub use handle::*;
