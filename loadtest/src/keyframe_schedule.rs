//! Which frames of a layer are keyframes: the first, one every few seconds, and requested ones.
//!
//! Never reads a clock. Used by both kinds of publishers.

use std::time::{Duration, Instant};

use crate::options::{Codec, Video};
use crate::video::CLIP_FRAMES;

/// Minimum time between a keyframe and the next requested one.
const REQUEST_INTERVAL: Duration = Duration::from_millis(300);

/// The keyframes of one layer.
pub(crate) struct KeyframeSchedule {
    /// Frames from one keyframe to the next without a request.
    interval: u64,
    /// Frames since the last keyframe.
    since: u64,
    requested: bool,
    last: Option<Instant>,
}

impl KeyframeSchedule {
    /// The schedule for a layer of `video`. The first frame is a keyframe.
    pub(crate) fn new(video: &Video) -> Self {
        let every = video.fps * video.keyframe_s;
        let interval = if video.codec == Codec::Vp8 { every.min(CLIP_FRAMES) } else { every };
        Self { interval: interval.into(), since: 0, requested: true, last: None }
    }

    /// Notes a keyframe request.
    pub(crate) fn request(&mut self) {
        self.requested = true;
    }

    /// Whether the next frame is a keyframe. To be called once for each frame.
    pub(crate) fn next_is_key(&mut self, now: Instant) -> bool {
        let may_answer =
            self.last.is_none_or(|last| now.saturating_duration_since(last) >= REQUEST_INTERVAL);
        self.since += 1;
        let key = self.since >= self.interval || (self.requested && may_answer);
        if key {
            (self.since, self.requested, self.last) = (0, false, Some(now));
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::test_options;

    #[test]
    fn keyframes_come_first_then_every_two_seconds_and_on_request_but_not_in_a_row() {
        let mut now = Instant::now();
        let mut schedule = KeyframeSchedule::new(&test_options(Codec::H264));
        let mut keys = Vec::new();
        for n in 0..200 {
            if n == 100 || n == 101 {
                schedule.request();
            }
            if schedule.next_is_key(now) {
                keys.push(n);
            }
            now += Duration::from_millis(33);
        }
        assert_eq!(keys, [0, 60, 100, 110, 170]);
    }
}
