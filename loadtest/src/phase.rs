//! The phase of a run, which `run` sets and every session follows.

/// The phase of a run. It only ever goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Sessions connect and warm up. Nothing is counted.
    Ramp,
    /// The window: packets and frames are counted.
    Count,
    /// The window is closed. Retransmissions may still arrive.
    Drain,
    /// Sessions end.
    Stop,
}
