//! Usual interval between the frames of a layer: 33 ms of a camera, a second of a still screen.
//!
//! It tells silence from a slow layer. Called for each packet by `worker/stream.rs`. Never decides
//! what is forwarded.

use std::time::{Duration, Instant};

/// One new interval counts for one part in this many.
const SMOOTHING: u32 = 8;

/// Smoothed time from one frame to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameInterval {
    last: Option<(u32, Instant)>,
    usual: Option<Duration>,
}

impl FrameInterval {
    /// Records a packet of the frame with this timestamp.
    pub fn on_packet(&mut self, now: Instant, timestamp: u32) {
        let Some((last, at)) = self.last else {
            self.last = Some((timestamp, now));
            return;
        };
        // Reordered packets belong to frames that were counted.
        if timestamp == last || timestamp.wrapping_sub(last) >= 1 << 31 {
            return;
        }
        self.last = Some((timestamp, now));
        let interval = now.saturating_duration_since(at);
        self.usual = Some(match self.usual {
            None => interval,
            Some(usual) => usual - usual / SMOOTHING + interval / SMOOTHING,
        });
    }

    /// Smoothed interval; `None` before the second frame.
    pub fn get(&self) -> Option<Duration> {
        self.usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_frame_and_late_ones_do_not_count() {
        let start = Instant::now();
        let mut frames = FrameInterval::default();
        assert_eq!(frames.get(), None);
        for n in 0..100u32 {
            let now = start + Duration::from_millis(40) * n;
            let timestamp = (u32::MAX - 50_000).wrapping_add(3_600 * n);
            frames.on_packet(now, timestamp);
            frames.on_packet(now + Duration::from_millis(3), timestamp);
            frames.on_packet(now + Duration::from_millis(4), timestamp.wrapping_sub(3_600));
        }
        assert_eq!(frames.get().map(|usual| usual.as_millis()), Some(40));
        for n in 0..40u32 {
            let now = start + Duration::from_secs(5) + Duration::from_secs(1) * n;
            frames.on_packet(now, 800_000 + 90_000 * n);
        }
        let usual = frames.get().expect("frames came");
        assert!(usual > Duration::from_millis(950), "{usual:?}");
    }
}
