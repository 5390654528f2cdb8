//! The clock of stamps and arrival times: microseconds since the process started.
//!
//! Publishers and viewers of one process share its epoch, so that latencies are differences of two
//! readings.

use std::sync::OnceLock;
use std::time::Instant;

/// Microseconds from the first call of this function to `now`; 0 if `now` is earlier.
pub(crate) fn since_start_us(now: Instant) -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    u64::try_from(now.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX)
}
