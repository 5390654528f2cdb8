//! Counters and latencies of one worker's thread, copied for the control plane.
//!
//! A plain value. Written by `shell.rs` for [`super::messages::Message::Report`], summed over all workers by
//! `stats.rs`.

use std::time::Duration;

use super::latency::Latency;
use super::socket::SocketStats;

/// What the shell has counted and measured since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct ShellReport {
    /// Counters of the socket.
    pub socket: SocketStats,
    /// Time from the kernel's receipt of a packet to the return of the send call, over all viewers.
    pub forward: Latency,
    /// The same over established viewers only.
    pub forward_established: Latency,
    /// Time that received datagrams waited for the tick; part of `forward`.
    pub tick_wait: Latency,
    /// Interval of the tick now; zero means that packets are served at once.
    pub tick: Duration,
    /// Number of times the worker was rebuilt after a panic.
    pub rebuilds: u64,
}
