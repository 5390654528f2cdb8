//! Whether a publisher layer answers NACK: asked numbers against repaired ones.
//!
//! Owns the verdict and its probes. `nack_generator.rs` tells it what became of each number and asks it
//! whether asking is of any use. OBS answers on its largest layer only, FFmpeg on none (whip-whep D7).

use std::time::{Duration, Instant};

use super::responses::{ResponseStats, Responsiveness};

/// Requests without a repair that make a layer one that does not answer.
pub const WASTED_MAX: u32 = 20;

/// They must lie on this many occasions: one long hole may be older than what the publisher keeps.
pub const OCCASIONS: u32 = 3;

/// Numbers given up within this time are one occasion.
const OCCASION: Duration = Duration::from_millis(600);

/// A layer that does not answer is still asked for one number this often.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// What one layer does with NACKs.
#[derive(Debug, Default)]
pub struct NackResponse {
    answers: ResponseStats,
    /// Requests for numbers that were given up since the last repair.
    wasted: u32,
    occasions: u32,
    last_occasion: Option<Instant>,
    last_probe: Option<Instant>,
}

impl NackResponse {
    /// A number is asked for, for the first time.
    pub fn on_asked(&mut self) {
        self.answers.on_asked();
    }

    /// A number came so long after it was asked for.
    pub fn on_repair(&mut self, took: Duration) {
        self.answers.on_answer(took);
        self.wasted = 0;
        self.occasions = 0;
    }

    /// A number was given up after so many requests.
    pub fn on_given_up(&mut self, now: Instant, tries: u8) {
        if tries == 0 {
            return;
        }
        self.answers.on_missed(1);
        self.wasted = self.wasted.saturating_add(tries.into());
        let apart =
            self.last_occasion.is_none_or(|at| now.saturating_duration_since(at) >= OCCASION);
        if apart {
            self.last_occasion = Some(now);
            self.occasions += 1;
        }
        // A layer that has answered before is more likely cut off.
        let patience = if self.answers.is_trusted() { 2 } else { 1 };
        if self.wasted >= WASTED_MAX * patience && self.occasions >= OCCASIONS * patience {
            self.answers.conclude_ignored();
        }
    }

    /// Whether asking is of no use, as far as is known.
    pub fn are_ignored(&self) -> bool {
        self.answers.habit() == Responsiveness::Ignored
    }

    /// Whether a number may be asked for all the same, to see whether that has changed.
    pub fn take_probe(&mut self, now: Instant) -> bool {
        let due =
            self.last_probe.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_INTERVAL);
        if due {
            self.last_probe = Some(now);
        }
        due
    }

    /// Numbers asked for and repaired.
    pub fn counts(&self) -> &ResponseStats {
        &self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn twenty_wasted_requests_on_three_occasions_are_enough() {
        let start = Instant::now();
        let mut answers = NackResponse::default();
        for _ in 0..100 {
            answers.on_given_up(start, 6);
        }
        assert!(!answers.are_ignored(), "one long hole");
        answers.on_given_up(start + 599 * MS, 6);
        answers.on_given_up(start + 600 * MS, 6);
        assert!(!answers.are_ignored(), "two occasions");
        answers.on_given_up(start + 1_200 * MS, 6);
        assert!(answers.are_ignored());

        let mut answers = NackResponse::default();
        for n in 0..3 {
            answers.on_given_up(start + n * 1_000 * MS, 6);
        }
        assert!(!answers.are_ignored(), "18 requests");
        answers.on_given_up(start + 3_000 * MS, 0);
        assert!(!answers.are_ignored(), "not asked for");
        answers.on_given_up(start + 4_000 * MS, 2);
        assert!(answers.are_ignored(), "20 requests");
    }

    #[test]
    fn a_repair_starts_the_count_anew_and_takes_the_verdict_back() {
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
        assert!(!answers.are_ignored());
        give_up(&mut answers, 4, 1);
        assert!(answers.are_ignored());
        answers.on_repair(50 * MS);
        assert!(!answers.are_ignored());
        assert_eq!(answers.counts().answered(), 2);
    }

    #[test]
    fn layer_that_answered_before_has_twice_the_patience() {
        let start = Instant::now();
        let mut answers = NackResponse::default();
        for _ in 0..10 {
            answers.on_repair(50 * MS);
        }
        for n in 0..5 {
            answers.on_given_up(start + n * 1_000 * MS, 10);
        }
        assert!(!answers.are_ignored());
        answers.on_given_up(start + 5_000 * MS, 10);
        assert!(answers.are_ignored());
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
