//! Responses of a publisher layer to one kind of request: whether, how often, how fast.
//!
//! Owns counts. Never judges what is an answer or when silence means "ignored":
//! `keyframe_planner.rs` and `nack_response.rs` do. Shown in the API. Source: quality A2.3
//! "Publisher learned at run time".

use std::time::Duration;

/// Answer times that are remembered.
const TIMES: usize = 8;

/// Answers after which a layer is trusted, if they are not fewer than the missing ones.
const TRUSTED_AFTER: u64 = 3;

/// Behaviour of a layer on requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Responsiveness {
    /// Nothing was requested, or nothing that came was certainly an answer.
    #[default]
    Unknown,
    /// The layer answers.
    Answered,
    /// The layer ignores requests.
    Ignored,
}

impl Responsiveness {
    /// Name in the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Answered => "answered",
            Self::Ignored => "ignored",
        }
    }
}

/// Requests of one kind to one layer, and their outcome.
#[derive(Debug, Clone, Default)]
pub struct ResponseStats {
    responsiveness: Responsiveness,
    requested: u64,
    answered: u64,
    missed: u64,
    missed_in_row: u32,
    /// Answer times; a ring buffer once it is full.
    times: [Duration; TIMES],
}

impl ResponseStats {
    /// Counts a request that was sent.
    pub fn on_requested(&mut self) {
        self.requested += 1;
    }

    /// Records an answer that came after this time.
    pub fn on_answer(&mut self, took: Duration) {
        if let Some(slot) = self.times.get_mut((self.answered % TIMES as u64) as usize) {
            *slot = took;
        }
        self.answered += 1;
        self.missed_in_row = 0;
        self.responsiveness = Responsiveness::Answered;
    }

    /// Counts requests that had no answer.
    pub fn on_missed(&mut self, count: u32) {
        self.missed += u64::from(count);
        self.missed_in_row = self.missed_in_row.saturating_add(count);
    }

    /// Concludes that the layer ignores requests; a later answer revokes that.
    pub fn conclude_ignored(&mut self) {
        self.responsiveness = Responsiveness::Ignored;
    }

    /// Behaviour as far as it is known.
    pub fn responsiveness(&self) -> Responsiveness {
        self.responsiveness
    }

    /// Requests sent. Some have no known outcome, so this may exceed the answered and missed ones.
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests without an answer since the last answer.
    pub fn missed_in_row(&self) -> u32 {
        self.missed_in_row
    }

    /// Whether the layer answered so often that a silence is more likely the network's fault.
    pub fn is_trusted(&self) -> bool {
        self.answered >= TRUSTED_AFTER && self.answered >= self.missed
    }

    /// Median of the last eight answer times.
    pub fn median_time(&self) -> Option<Duration> {
        let mut sorted = self.times;
        let known = sorted.get_mut(..self.answered.min(TIMES as u64) as usize)?;
        known.sort_unstable();
        known.get(known.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn answer_revokes_ignored() {
        let mut answers = ResponseStats::default();
        assert_eq!((answers.responsiveness().label(), answers.median_time()), ("unknown", None));
        answers.on_requested();
        answers.on_missed(3);
        answers.conclude_ignored();
        assert_eq!((answers.responsiveness().label(), answers.missed_in_row()), ("ignored", 3));
        answers.on_requested();
        answers.on_answer(40 * MS);
        assert_eq!((answers.responsiveness().label(), answers.missed_in_row()), ("answered", 0));
        assert_eq!((answers.requested(), answers.answered()), (2, 1));
    }

    #[test]
    fn median_forgets_old_times() {
        let mut answers = ResponseStats::default();
        for _ in 0..TIMES {
            answers.on_answer(900 * MS);
        }
        for ms in [10, 20, 30, 40, 50] {
            answers.on_answer(ms * MS);
        }
        assert_eq!(answers.median_time(), Some(50 * MS));
    }

    #[test]
    fn trust_needs_three_answers_and_no_majority_of_missing_ones() {
        let mut answers = ResponseStats::default();
        for _ in 0..TRUSTED_AFTER - 1 {
            answers.on_answer(MS);
        }
        assert!(!answers.is_trusted());
        answers.on_answer(MS);
        answers.on_missed(3);
        assert!(answers.is_trusted());
        answers.on_missed(1);
        assert!(!answers.is_trusted());
    }
}
