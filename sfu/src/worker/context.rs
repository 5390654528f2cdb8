//! State that the sessions of one worker share: clock, pool, rings, counters. Passed down, never
//! global.

use super::report::WorkerReport;
use crate::config::PublisherLimits;
use crate::media::PacketPool;
use crate::router::RingPort;
use crate::transport::Entropy;
use crate::units::ClockBase;

/// State shared by all sessions of one worker; each field is borrowed where it is needed.
pub(super) struct Context {
    /// Monotonic to wall time.
    pub clock: ClockBase,
    /// Limits per publisher.
    pub publisher_limits: PublisherLimits,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
    /// Packet buffers.
    pub pool: PacketPool,
    /// Rings to the other workers.
    pub port: RingPort,
    /// Cumulative counters.
    pub report: WorkerReport,
    /// Buffer in which RTCP is written before it is sealed.
    pub scratch: Box<[u8]>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("worker", &self.port.index).finish_non_exhaustive()
    }
}

/// Maximum bytes of RTCP written at once: a datagram with its SRTCP trailer.
pub(super) const RTCP_BYTES_MAX: usize = 1200;

/// Bytes of the RTCP buffer, SRTCP trailer included.
pub(super) const SCRATCH_BYTES: usize = RTCP_BYTES_MAX + 64;

/// Seconds between reports of one kind.
pub(super) const REPORT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
