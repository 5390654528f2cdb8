//! Whether a publisher layer answers one kind of request, how often and how fast.
//!
//! Only counts; what is an answer, and when a silence means "ignored", is judged by its owners
//! `keyframe_planner.rs` and `nack_response.rs`. Shown in the API.
//! Source: quality A2.3 "Publisher learned at run time".

use std::time::Duration;

/// Answer times remembered.
const TIMES: usize = 8;

/// A layer that answered this often, and more often than not, is trusted.
const TRUSTED_AFTER: u64 = 3;

/// What a layer does with requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Responsiveness {
    /// Nobody has asked, or nothing that came was clearly an answer.
    #[default]
    Unknown,
    /// It answers.
    Answered,
    /// It does not.
    Ignored,
}

impl Responsiveness {
    /// The name in the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Answered => "answered",
            Self::Ignored => "ignored",
        }
    }
}

/// The requests of one kind to one layer, and what came of them.
#[derive(Debug, Clone, Default)]
pub struct ResponseStats {
    habit: Responsiveness,
    asked: u64,
    answered: u64,
    missed: u64,
    missed_in_row: u32,
    /// A ring once it is full.
    times: [Duration; TIMES],
}

impl ResponseStats {
    /// A request was sent.
    pub fn on_asked(&mut self) {
        self.asked += 1;
    }

    /// An answer came after this time.
    pub fn on_answer(&mut self, took: Duration) {
        if let Some(slot) = self.times.get_mut((self.answered % TIMES as u64) as usize) {
            *slot = took;
        }
        self.answered += 1;
        self.missed_in_row = 0;
        self.habit = Responsiveness::Answered;
    }

    /// So many more requests had no answer.
    pub fn on_missed(&mut self, count: u32) {
        self.missed += u64::from(count);
        self.missed_in_row = self.missed_in_row.saturating_add(count);
    }

    /// It does not answer; a later answer takes that back.
    pub fn conclude_ignored(&mut self) {
        self.habit = Responsiveness::Ignored;
    }

    /// What it does.
    pub fn habit(&self) -> Responsiveness {
        self.habit
    }

    /// Requests sent. Some have no known outcome, so this may be more than answered and missed ones.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests without answer since the last answer.
    pub fn missed_in_row(&self) -> u32 {
        self.missed_in_row
    }

    /// Whether it has answered so often that a silence is more likely the network's.
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
    fn answer_takes_a_verdict_back() {
        let mut answers = ResponseStats::default();
        assert_eq!((answers.habit().label(), answers.median_time()), ("unknown", None));
        answers.on_asked();
        answers.on_missed(3);
        answers.conclude_ignored();
        assert_eq!((answers.habit().label(), answers.missed_in_row()), ("ignored", 3));
        answers.on_asked();
        answers.on_answer(40 * MS);
        assert_eq!((answers.habit().label(), answers.missed_in_row()), ("answered", 0));
        assert_eq!((answers.asked(), answers.answered()), (2, 1));
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
    fn trust_needs_three_answers_and_no_majority_of_silences() {
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
