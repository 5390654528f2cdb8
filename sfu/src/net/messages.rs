//! Messages between the control plane and a worker's thread, in both directions.
//!
//! Values only: `thread.rs` sends what goes to the thread, `shell.rs` takes it there and emits notices, and
//! `supervisor.rs` reads the notices.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::shell_report::ShellReport;
use crate::worker::{Command, Event, Worker, WorkerReport};

/// Question to a worker, answered on the worker's own thread.
pub(super) type Inspect = dyn FnOnce(&mut Worker, Instant) + Send;

/// Receiver of the counters of a worker and of its shell.
pub(super) type Report = dyn FnOnce(WorkerReport, ShellReport) + Send;

/// Message to a worker's thread.
pub(super) enum Message {
    /// Command for the worker itself.
    Command(Command),
    /// Question that runs on the thread with access to the worker; it answers through what it captured.
    Inspect(Box<Inspect>),
    /// Request for all counters. Apart from `Inspect`, because the shell copies its histograms for it, which
    /// a question about one session should not pay for.
    Report(Box<Report>),
    /// Ends the thread.
    Stop,
}

/// Notice from a worker's thread to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// Something happened to a session.
    Event(Event),
    /// The worker panicked and was rebuilt without sessions: all that it had are gone.
    Lost,
}

/// Takes a notice without blocking; false if the queue is full.
pub(super) type Emit = Box<dyn Fn(Notice) -> bool + Send>;

/// The thread's end of both directions.
pub(super) struct Inbox {
    pub messages: Receiver<Message>,
    pub emit: Emit,
    /// Load of the thread in thousandths of a core, written by the shell.
    pub load_permille: Arc<AtomicU32>,
    /// CPU that the thread stays on.
    pub cpu: Option<usize>,
}
