//! What happened while the relay ran: the JSON that it prints at its end.
//!
//! Filled by `clients`.

use serde::Serialize;
use weir_netsim::Counts;

/// What happened while the relay ran. The fields are JSON fields.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// Seed of all random numbers. With the same seed the same datagrams of the same traffic are
    /// lost.
    pub(crate) seed: u64,
    /// How long the relay ran, in seconds.
    pub(crate) duration_s: f64,
    /// Client addresses served.
    pub(crate) clients: usize,
    /// Datagrams dropped because the maximum of clients was reached.
    pub(crate) refused: u64,
    /// Datagrams that the kernel refused to send.
    pub(crate) unsent: u64,
    /// From the clients to the server.
    pub(crate) up: DirectionCounts,
    /// From the server to the clients.
    pub(crate) down: DirectionCounts,
}

/// Datagrams in one direction. `offered + duplicated` is the sum of `delivered`, the four kinds of
/// drops, and `queued`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct DirectionCounts {
    /// Datagrams received.
    pub(crate) offered: u64,
    /// Bytes of these datagrams, without headers.
    pub(crate) offered_bytes: u64,
    /// Datagrams sent on.
    pub(crate) delivered: u64,
    /// Bytes of these datagrams, without headers.
    pub(crate) delivered_bytes: u64,
    /// Copies made.
    pub(crate) duplicated: u64,
    /// Dropped: larger than the MTU.
    pub(crate) too_large: u64,
    /// Dropped by the policer.
    pub(crate) policed: u64,
    /// Dropped at the tail of the queue.
    pub(crate) overflowed: u64,
    /// Dropped by random loss.
    pub(crate) lost: u64,
    /// Still in the link at the end.
    pub(crate) queued: u64,
}

impl DirectionCounts {
    pub(super) fn new(counts: &Counts, queued: u64) -> Self {
        Self {
            offered: counts.offered,
            offered_bytes: counts.offered_bytes,
            delivered: counts.delivered,
            delivered_bytes: counts.delivered_bytes,
            duplicated: counts.duplicated,
            too_large: counts.too_large,
            policed: counts.policed,
            overflowed: counts.overflowed,
            lost: counts.lost,
            queued,
        }
    }
}
