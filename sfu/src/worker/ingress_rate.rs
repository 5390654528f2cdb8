//! Rate of one publisher, all its tracks and layers together, against its limits.
//!
//! Owns how much may still come now. Never drops or reports anything: `layer.rs` and `publisher.rs`
//! do. The limits are settings of the operator (`config.rs`).

use std::time::{Duration, Instant};

use crate::codec::MediaKind;
use crate::config::{PUBLISHER_WINDOW, PublisherLimits};
use crate::limiter::WindowLimit;

/// Part of the window that is left to sound: a publisher whose pictures are above its limit is
/// still heard.
const RESERVED_FOR_AUDIO: Duration = Duration::from_millis(500);

/// What one publisher may still send.
#[derive(Debug, Clone, Copy)]
pub(super) struct IngressRate {
    bits: WindowLimit,
    packets: WindowLimit,
}

impl IngressRate {
    /// The rate of a publisher that has sent nothing.
    pub(super) fn new(limits: PublisherLimits) -> Self {
        Self {
            bits: WindowLimit::new(limits.bitrate.0, PUBLISHER_WINDOW),
            packets: WindowLimit::new(limits.packets_per_second.into(), PUBLISHER_WINDOW),
        }
    }

    /// Takes a packet of `bytes` on the wire; false if the publisher is above its limits. Such a
    /// packet does not count.
    pub(super) fn take(&mut self, now: Instant, kind: MediaKind, bytes: usize) -> bool {
        let reserved = match kind {
            MediaKind::Audio => Duration::ZERO,
            MediaKind::Video => RESERVED_FOR_AUDIO,
        };
        let bits = bytes as u64 * 8;
        let allowed =
            self.bits.allows(now, bits, reserved) && self.packets.allows(now, 1, reserved);
        if allowed {
            self.bits.spend(now, bits);
            self.packets.spend(now, 1);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_above_the_limit_leave_room_for_sound() {
        let now = Instant::now();
        let mut rate = IngressRate::new(PublisherLimits::new(8, 1_000));
        let pictures = (0..10_000).filter(|_| rate.take(now, MediaKind::Video, 1_000)).count();
        assert_eq!(pictures, 4_500, "nine tenths of 1 MB/s and of 1,000 packets/s for 5 s");
        let sound = (0..10_000).filter(|_| rate.take(now, MediaKind::Audio, 100)).count();
        assert_eq!(sound, 500);
    }
}
