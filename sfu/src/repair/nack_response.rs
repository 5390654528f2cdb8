//! Whether a publisher layer answers NACK: requested packets against retransmitted ones.
//!
//! Owns the conclusion and its probes. `nack_generator.rs` reports the outcome of each request and
//! asks whether a request is of use. Never sends anything. OBS answers on its largest layer only,
//! FFmpeg on none (whip-whep D7).

use std::time::{Duration, Instant};

use super::responses::{ResponseStats, Responsiveness};

/// Unanswered requests after which a layer counts as one that ignores NACK.
pub const UNANSWERED_MAX: u32 = 20;

/// Loss episodes over which the unanswered requests must be spread. One long gap may be older than
/// what the publisher keeps.
pub const LOSS_EPISODES_MIN: u32 = 3;

/// Packets given up within this time belong to one loss episode.
const EPISODE_GAP: Duration = Duration::from_millis(600);

/// Interval of the single requests to a layer that ignores NACK.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Behaviour of one layer on NACK.
#[derive(Debug, Default)]
pub struct NackResponse {
    responses: ResponseStats,
    /// Requests for packets that were given up since the last retransmission came.
    unanswered: u32,
    loss_episodes: u32,
    last_episode: Option<Instant>,
    last_probe: Option<Instant>,
}

impl NackResponse {
    /// Counts the first request for a packet.
    pub fn on_requested(&mut self) {
        self.responses.on_requested();
    }

    /// Records a retransmission that came this long after the request.
    pub fn on_repair(&mut self, took: Duration) {
        self.responses.on_answer(took);
        self.unanswered = 0;
        self.loss_episodes = 0;
    }

    /// Records a packet that was given up after `tries` requests.
    pub fn on_given_up(&mut self, now: Instant, tries: u8) {
        if tries == 0 {
            return;
        }
        self.responses.on_missed(1);
        self.unanswered = self.unanswered.saturating_add(tries.into());
        let apart =
            self.last_episode.is_none_or(|at| now.saturating_duration_since(at) >= EPISODE_GAP);
        if apart {
            self.last_episode = Some(now);
            self.loss_episodes += 1;
        }
        // A layer that has answered before is more likely cut off than unwilling.
        let patience = if self.responses.is_trusted() { 2 } else { 1 };
        if self.unanswered >= UNANSWERED_MAX * patience
            && self.loss_episodes >= LOSS_EPISODES_MIN * patience
        {
            self.responses.conclude_ignored();
        }
    }

    /// Whether requests are of no use, as far as is known.
    pub fn is_ignored(&self) -> bool {
        self.responses.responsiveness() == Responsiveness::Ignored
    }

    /// Takes a probe: true if one packet may be requested all the same, to see whether that
    /// changed.
    pub fn take_probe(&mut self, now: Instant) -> bool {
        let due =
            self.last_probe.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_INTERVAL);
        if due {
            self.last_probe = Some(now);
        }
        due
    }

    /// Counts of requested and retransmitted packets.
    pub fn counts(&self) -> &ResponseStats {
        &self.responses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn twenty_unanswered_requests_in_three_loss_episodes_are_enough() {
        let start = Instant::now();
        let mut answers = NackResponse::default();
        for _ in 0..100 {
            answers.on_given_up(start, 6);
        }
        assert!(!answers.is_ignored(), "one long hole");
        answers.on_given_up(start + 599 * MS, 6);
        answers.on_given_up(start + 600 * MS, 6);
        assert!(!answers.is_ignored(), "two loss_episodes");
        answers.on_given_up(start + 1_200 * MS, 6);
        assert!(answers.is_ignored());

        let mut answers = NackResponse::default();
        for n in 0..3 {
            answers.on_given_up(start + n * 1_000 * MS, 6);
        }
        assert!(!answers.is_ignored(), "18 requests");
        answers.on_given_up(start + 3_000 * MS, 0);
        assert!(!answers.is_ignored(), "not asked for");
        answers.on_given_up(start + 4_000 * MS, 2);
        assert!(answers.is_ignored(), "20 requests");
    }

    #[test]
    fn retransmission_resets_the_count_and_revokes_ignored() {
        let start = Instant::now();
        let mut answers = NackResponse::default();
        let give_up = |answers: &mut NackResponse, from: u32, times: u32| {
            for n in from..from + times {
                answers.on_given_up(start + n * 1_000 * MS, 10);
            }
        };
        give_up(&mut answers, 0, 2);
        answers.on_repair(50 * MS);
        give_up(&mut answers, 2, 2);
        assert!(!answers.is_ignored());
        give_up(&mut answers, 4, 1);
        assert!(answers.is_ignored());
        answers.on_repair(50 * MS);
        assert!(!answers.is_ignored());
        assert_eq!(answers.counts().answered(), 2);
    }

    #[test]
    fn layer_that_answered_before_is_ignored_after_twice_the_requests() {
        let start = Instant::now();
        let mut answers = NackResponse::default();
        for _ in 0..10 {
            answers.on_repair(50 * MS);
        }
        for n in 0..5 {
            answers.on_given_up(start + n * 1_000 * MS, 10);
        }
        assert!(!answers.is_ignored());
        answers.on_given_up(start + 5_000 * MS, 10);
        assert!(answers.is_ignored());
    }

    #[test]
    fn probes_are_rare() {
        let start = Instant::now();
        let mut answers = NackResponse::default();
        assert!(answers.take_probe(start));
        assert!(!answers.take_probe(start + PROBE_INTERVAL - MS));
        assert!(answers.take_probe(start + PROBE_INTERVAL));
    }
}
