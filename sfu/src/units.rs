//! Numbers with a unit in their type: bitrates, NTP timestamps, and the tie to the wall clock.
//!
//! Owns conversions only. Never reads a clock. Called everywhere.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Bits per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct Bitrate(pub u64);

impl Bitrate {
    /// Bitrate of this many kilobits (1,000 bits) per second.
    pub const fn kbps(kbps: u64) -> Self {
        Self(kbps * 1_000)
    }

    /// Rate at which `bytes` were carried in `span`; a span below 1 µs counts as 1 µs.
    pub fn from_bytes(bytes: u64, span: Duration) -> Self {
        let micros = span.as_micros().max(1);
        Self((u128::from(bytes) * 8_000_000 / micros).min(u128::from(u64::MAX)) as u64)
    }
}

impl fmt::Debug for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit/s", self.0)
    }
}

/// A 64-bit NTP timestamp (RFC 3550 section 4): 32 bits of seconds, 32 bits of fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ntp(pub u64);

impl Ntp {
    /// The middle 32 bits, as LSR and DLSR use them: units of 1/65,536 s.
    pub fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// Moves forward by `span`, wrapping as NTP eras do.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.wrapping_add(ntp_units(span)))
    }

    /// Moves back by `span`.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.wrapping_sub(ntp_units(span)))
    }

    /// Signed distance `self - other` in NTP units of 2^-32 s.
    pub fn since(self, other: Self) -> i64 {
        self.0.wrapping_sub(other.0) as i64
    }
}

fn ntp_units(span: Duration) -> u64 {
    ((span.as_nanos() << 32) / 1_000_000_000) as u64
}

/// Tie of the monotonic clock to wall time, made once at start. A later jump of the wall clock
/// changes nothing (quality B4 item 28).
#[derive(Debug, Clone, Copy)]
pub struct ClockBase {
    /// The monotonic instant at which `ntp` was read.
    pub instant: Instant,
    /// Wall time at that instant.
    pub ntp: Ntp,
}

impl ClockBase {
    /// Seconds between the NTP era (1900) and the Unix epoch (1970).
    pub const NTP_UNIX_OFFSET_S: u64 = 2_208_988_800;

    /// Pairs an instant with the Unix time read beside it.
    pub fn new(instant: Instant, unix: Duration) -> Self {
        Self { instant, ntp: Ntp(Self::NTP_UNIX_OFFSET_S << 32).plus(unix) }
    }

    /// Wall time at `now`.
    pub fn ntp(&self, now: Instant) -> Ntp {
        match now.checked_duration_since(self.instant) {
            Some(ahead) => self.ntp.plus(ahead),
            None => self.ntp.minus(self.instant.saturating_duration_since(now)),
        }
    }
}
