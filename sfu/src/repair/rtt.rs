//! Round-trip time to a publisher, measured on repairs. Pure; called by `worker/`.

use std::time::{Duration, Instant};

/// Round-trip time to a publisher, timed from a NACK to its repair: we send it no reports that it
/// could answer, and clients of few words (FFmpeg) answer no checks.
#[derive(Debug, Default)]
pub struct RtxRtt {
    asked: Option<(Instant, u64)>,
    smoothed: Option<Duration>,
}

impl RtxRtt {
    /// A number was asked for. One is timed at once; an unanswered one gives way after a second.
    pub fn on_asked(&mut self, now: Instant, ext_seq: u64) {
        let waiting = self
            .asked
            .is_some_and(|(at, _)| now.saturating_duration_since(at) < Duration::from_secs(1));
        if !waiting {
            self.asked = Some((now, ext_seq));
        }
    }

    /// A repair came.
    pub fn on_repair(&mut self, now: Instant, ext_seq: u64) {
        let Some((at, _)) = self.asked.filter(|(_, asked)| *asked == ext_seq) else { return };
        self.asked = None;
        let sample = now.saturating_duration_since(at);
        self.smoothed = Some(self.smoothed.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// The smoothed time, once a repair was timed.
    pub fn get(&self) -> Option<Duration> {
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_one_number_at_once_and_smooths() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut rtt = RtxRtt::default();
        rtt.on_asked(start, 7);
        rtt.on_asked(start + ms(10), 8);
        rtt.on_repair(start + ms(30), 8);
        assert_eq!(rtt.get(), None, "8 was not the one that is timed");
        rtt.on_repair(start + ms(40), 7);
        assert_eq!(rtt.get(), Some(ms(40)));
        rtt.on_asked(start + ms(100), 9);
        rtt.on_repair(start + ms(220), 9);
        assert_eq!(rtt.get(), Some(ms(50)));
        rtt.on_asked(start + ms(300), 10);
        rtt.on_asked(start + ms(1300), 11);
        rtt.on_repair(start + ms(1350), 11);
        assert!(rtt.get() < Some(ms(51)), "an unanswered one gave way");
    }
}
