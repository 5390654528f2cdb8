//! Round-trip time to a publisher, measured on retransmissions.
//!
//! Owns one timed request and the smoothed result. Never sends anything. Called by `worker/`.

use std::time::{Duration, Instant};

/// Round-trip time from a NACK to its retransmission. We send a publisher no sender reports that it
/// could answer, and a client such as FFmpeg answers no ICE checks.
#[derive(Debug, Default)]
pub struct RtxRtt {
    pending: Option<(Instant, u64)>,
    smoothed: Option<Duration>,
}

impl RtxRtt {
    /// Notes that a packet was requested. One request is timed at once; an unanswered one is
    /// replaced after a second.
    pub fn on_nack(&mut self, now: Instant, ext_seq: u64) {
        let waiting = self
            .pending
            .is_some_and(|(at, _)| now.saturating_duration_since(at) < Duration::from_secs(1));
        if !waiting {
            self.pending = Some((now, ext_seq));
        }
    }

    /// Notes that a retransmission came.
    pub fn on_repair(&mut self, now: Instant, ext_seq: u64) {
        let Some((at, _)) = self.pending.filter(|(_, requested)| *requested == ext_seq) else {
            return;
        };
        self.pending = None;
        let sample = now.saturating_duration_since(at);
        self.smoothed = Some(self.smoothed.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// Smoothed round-trip time; `None` until a retransmission was timed.
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
        rtt.on_nack(start, 7);
        rtt.on_nack(start + ms(10), 8);
        rtt.on_repair(start + ms(30), 8);
        assert_eq!(rtt.get(), None, "8 was not the one that is timed");
        rtt.on_repair(start + ms(40), 7);
        assert_eq!(rtt.get(), Some(ms(40)));
        rtt.on_nack(start + ms(100), 9);
        rtt.on_repair(start + ms(220), 9);
        assert_eq!(rtt.get(), Some(ms(50)));
        rtt.on_nack(start + ms(300), 10);
        rtt.on_nack(start + ms(1300), 11);
        rtt.on_repair(start + ms(1350), 11);
        assert!(rtt.get() < Some(ms(51)), "an unanswered one gave way");
    }
}
