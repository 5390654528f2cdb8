//! The shell: threads, clock and sockets, the control plane, and the [`Sfu`] handle.
//!
//! The only part of this crate that reads a clock or touches a socket. `handle.rs` starts everything and hands
//! out three views: `signalling.rs`, `inspection.rs` and `operations.rs`. They call `control.rs`, which owns the
//! parts that decide or remember: `directory.rs`, `admission.rs`, `placement.rs`, `takeover.rs`, `workers.rs`,
//! `stats.rs`, `status_board.rs`. Two tasks keep it current: `supervisor.rs` and `status_writer.rs`.
//!
//! Each worker has a thread (`thread.rs`), and on it a loop (`shell.rs`) with a socket (`socket.rs`, `gso.rs`),
//! a place to wait (`wait.rs`), a tick (`tick.rs`) and its latencies (`latency.rs`,
//! `histogram.rs`); `affinity.rs` keeps it on its CPU. `messages.rs` is all that control plane and threads say to
//! each other.
//!
//! # Lock order
//!
//! The control plane runs on tokio threads and locks as follows. Workers take none of these locks.
//!
//! 1. The change lock of a session (`SessionEntry::change_lock`), held over a whole PATCH or DELETE. It is the
//!    only one that is held across an await.
//! 2. The state of a stream (`StreamEntry::lock`), of one stream at a time.
//! 3. The state of a session (`SessionEntry::lock`), of one session at a time.
//! 4. The half-open places (`Admission`).
//! 5. The free stream ids (`Directory`).
//!
//! A later lock may be taken while earlier ones are held, never the other way round. Builds with debug assertions
//! check 2 to 5 (`lock_order.rs`). The maps of the directory, of the status board and of the lobby lock inside a
//! single call: their guards never leave it, so none is held across another of these locks or across an await.

#![expect(clippy::disallowed_methods, reason = "the shell is where the clock is read")]

mod admission;
mod affinity;
mod control;
#[cfg(test)]
mod detached;
mod directory;
mod gso;
mod half_open;
mod handle;
mod histogram;
mod inspection;
mod latency;
mod lock_order;
mod messages;
mod operations;
mod outcome;
mod placement;
mod random;
mod received_track;
mod session_entry;
mod shell;
mod shell_report;
mod signalling;
mod socket;
mod stats;
mod status_board;
mod status_writer;
mod stream_entry;
mod supervisor;
mod takeover;
#[cfg(test)]
mod tests;
mod thread;
mod tick;
mod wait;
mod workers;

pub use crate::forward::LayerPreference;
pub use crate::forward::start::{StartMode, UnknownStartMode};
pub use crate::sdp::{Grammar, OfferText};
pub use crate::worker::{DecisionInfo, LayerInfo, SessionInfo, TrackInfo};
pub use crate::worker::{LayerState, PublisherStatus, TrackLayers, Warning};
pub use admission::NotReady;
pub use affinity::usable_cpus;
pub use handle::{Sfu, StartError};
pub use inspection::{Inspection, SessionEnd, StreamInfo};
pub use latency::LatencySummary;
pub use operations::Operations;
pub use outcome::{
    Conflict, ConflictCause, Created, IfMatch, LayerError, LookupError, OfferError, PatchError,
    Patched,
};
pub use received_track::{MediaLayers, UnservedMedia};
pub use signalling::Signalling;
pub use stats::{AnswerTotals, Counts, SessionTotals, SfuStats, WorkerStats};
pub use status_board::{StatusReceiver, ViewerStatus};
