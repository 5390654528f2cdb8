//! Period of the keyframes that a publisher layer sends unrequested, and when the next is due.
//!
//! Owns only times. Never requests anything: `keyframe_planner.rs` tells it which keyframes were
//! answers, and waits for those that are due. Source: quality A2.3 "Publisher learned at run time",
//! A3.3.

use std::time::{Duration, Instant};

/// Time to a scheduled keyframe within which it is waited for instead of requested.
pub const AHEAD: Duration = Duration::from_millis(500);

/// Intervals that are remembered.
const INTERVALS: usize = 8;

/// Equal intervals that make a period. Three of four remembered ones must be equal as well. So a
/// lost keyframe does not end a period, and an encoder that cuts at scenes has none.
const MIN_EQUAL: usize = 3;

/// Longest wait for a late keyframe, which is a quarter of the period: a viewer waits for it.
const LATE_MAX: Duration = Duration::from_millis(250);

/// Bounds of the tolerance within which intervals count as equal: a tenth of the period.
const TOLERANCE_MIN: Duration = Duration::from_millis(50);
const TOLERANCE_MAX: Duration = Duration::from_millis(500);

/// Why one keyframe came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframeCause {
    /// Nothing was requested, or the keyframe was due.
    Unrequested,
    /// The keyframe came this long after a request, and may have come without it.
    Uncertain(Duration),
    /// The keyframe answered a request.
    Answer,
}

/// Periods after the last unrequested keyframe in which one still counts as scheduled.
const SCHEDULED_PERIODS_MAX: u32 = 4;

/// Schedule of one layer's unrequested keyframes.
#[derive(Debug, Default)]
pub struct KeyframeSchedule {
    last: Option<(Instant, KeyframeCause)>,
    /// Start of the last keyframe that was certainly unrequested.
    anchor: Option<Instant>,
    /// Intervals, each with the cause of the keyframe at its end. A ring buffer once it is full.
    intervals: [Option<(Duration, KeyframeCause)>; INTERVALS],
    interval_count: usize,
    /// Interval before the last keyframe, if it counts.
    newest: Option<Duration>,
}

impl KeyframeSchedule {
    /// Records the start of a keyframe. Intervals that begin or end with an answer do not count.
    pub fn on_keyframe(&mut self, now: Instant, cause: KeyframeCause) {
        let counts = |(_, before): &(Instant, KeyframeCause)| {
            *before != KeyframeCause::Answer && cause != KeyframeCause::Answer
        };
        let before = self.last.filter(counts);
        self.newest = before.map(|(before, _)| now.saturating_duration_since(before));
        if let Some(interval) = self.newest {
            if let Some(slot) = self.intervals.get_mut(self.interval_count % INTERVALS) {
                *slot = Some((interval, cause));
            }
            self.interval_count += 1;
        }
        if cause == KeyframeCause::Unrequested {
            self.anchor = Some(now);
        }
        self.last = Some((now, cause));
    }

    /// Notes that the encoder starts anew, or that nothing came for long: the period may stay the same, the phase does not.
    pub fn reset_phase(&mut self) {
        self.last = None;
        self.anchor = None;
    }

    /// Arrival of the last keyframe's first packet, whatever its cause.
    pub fn last_keyframe(&self) -> Option<Instant> {
        self.last.map(|(at, _)| at)
    }

    /// Time between keyframes, if it is stable and the layer's own. Regular requests of a
    /// monitoring client, each answered equally fast, make no period.
    pub fn period(&self) -> Option<Duration> {
        let known = self.interval_count.min(INTERVALS);
        let mut sorted = self.intervals.map(|interval| interval.map_or(Duration::MAX, |(i, _)| i));
        sorted.sort_unstable();
        let median = *sorted.get(..known)?.get(known / 2)?;
        let tolerance = tolerance(median);
        let (mut equal, mut unrequested) = (0, false);
        let (mut soonest, mut latest) = (Duration::MAX, Duration::ZERO);
        for (interval, cause) in self.intervals.into_iter().flatten() {
            if interval.abs_diff(median) > tolerance {
                continue;
            }
            equal += 1;
            match cause {
                KeyframeCause::Unrequested => unrequested = true,
                KeyframeCause::Uncertain(took) => {
                    (soonest, latest) = (soonest.min(took), latest.max(took))
                }
                KeyframeCause::Answer => {}
            }
        }
        let own = unrequested || latest.saturating_sub(soonest) > tolerance * 2;
        (own && equal >= MIN_EQUAL && equal * 4 >= known * 3).then_some(median)
    }

    /// Usual time between keyframes that come unrequested: the period, or the median of the
    /// remembered intervals at whose end nothing was requested. Of an even number the lower one,
    /// so that one long interval among two does not stand for both. `None` while there is none.
    /// For people: nothing is decided by it.
    pub fn interval(&self) -> Option<Duration> {
        let mut sorted = [Duration::MAX; INTERVALS];
        let known =
            sorted.iter_mut().zip(self.unrequested()).map(|(slot, own)| *slot = own).count();
        sorted.sort_unstable();
        self.period().or(sorted.get(..known)?.get(known.checked_sub(1)? / 2).copied())
    }

    /// Number of remembered intervals at whose end nothing was requested.
    pub fn unrequested_count(&self) -> usize {
        self.unrequested().count()
    }

    fn unrequested(&self) -> impl Iterator<Item = Duration> {
        let own = |(interval, cause)| (cause == KeyframeCause::Unrequested).then_some(interval);
        self.intervals.into_iter().flatten().filter_map(own)
    }

    /// Time at which the next unrequested keyframe is expected by [`Self::interval`]; in the past
    /// if it is late.
    pub fn next_expected(&self) -> Option<Instant> {
        let (last, cause) = self.last?;
        (cause != KeyframeCause::Answer).then_some(last + self.interval()?)
    }

    /// Whether the last keyframe came one period after the keyframe before.
    pub fn last_was_scheduled(&self) -> bool {
        self.newest
            .zip(self.period())
            .is_some_and(|(newest, period)| newest.abs_diff(period) <= tolerance(period))
    }

    /// Time at which the next unrequested keyframe is due; in the past if it is late. `None` while
    /// the period is not known. `None` after an answer too: some encoders count from there, others
    /// do not.
    pub fn next_due(&self) -> Option<Instant> {
        let (last, cause) = self.last?;
        (cause != KeyframeCause::Answer).then_some(last + self.period()?)
    }

    /// Time for a request that is due at `at`: the same, or later if a scheduled keyframe is near.
    /// The request then follows when that keyframe is late.
    pub fn defer(&self, at: Instant) -> Instant {
        let Some((due, period)) = self.next_due().zip(self.period()) else { return at };
        let late = due + (period / 4).min(LATE_MAX);
        if at + AHEAD >= due && at < late { late } else { at }
    }

    /// Whether a keyframe that comes at `now` would have come without a request.
    pub fn is_scheduled(&self, now: Instant) -> bool {
        let Some((period, (last, _))) = self.period().zip(self.last) else { return false };
        let tolerance = tolerance(period);
        let after_last = now.saturating_duration_since(last);
        let after_anchor = self.anchor.map(|anchor| now.saturating_duration_since(anchor));
        after_last.abs_diff(period) <= tolerance
            || after_anchor.is_some_and(|after| {
                (1..=SCHEDULED_PERIODS_MAX).any(|n| after.abs_diff(period * n) <= tolerance)
            })
    }
}

fn tolerance(period: Duration) -> Duration {
    (period / 10).clamp(TOLERANCE_MIN, TOLERANCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A schedule after unrequested keyframes at these times in ms.
    fn schedule(start: Instant, at_ms: &[u32]) -> KeyframeSchedule {
        let mut schedule = KeyframeSchedule::default();
        for ms in at_ms {
            schedule.on_keyframe(start + *ms * MS, KeyframeCause::Unrequested);
        }
        schedule
    }

    #[test]
    fn period_is_known_after_three_equal_intervals() {
        let start = Instant::now();
        assert_eq!(schedule(start, &[0, 2_000, 4_000]).period(), None);
        let known = schedule(start, &[0, 2_000, 4_000, 6_000]);
        assert_eq!(known.period(), Some(2_000 * MS));
        assert_eq!(known.next_due(), Some(start + 8_000 * MS));
        assert_eq!(schedule(start, &[0, 2_200, 4_000, 6_000]).period(), Some(2_000 * MS), "10 %");
        assert_eq!(schedule(start, &[0, 2_201, 4_201, 6_201]).period(), None, "more than that");
    }

    #[test]
    fn interval_is_of_keyframes_that_nobody_asked_for() {
        let start = Instant::now();
        let mut known = schedule(start, &[0]);
        known.on_keyframe(start + 15_000 * MS, KeyframeCause::Uncertain(40 * MS));
        assert_eq!((known.interval(), known.unrequested_count()), (None, 0));
        known.on_keyframe(start + 17_000 * MS, KeyframeCause::Unrequested);
        known.on_keyframe(start + 31_000 * MS, KeyframeCause::Unrequested);
        assert_eq!(known.interval(), Some(2_000 * MS), "the lower of two");
        assert_eq!(known.unrequested_count(), 2);
    }

    #[test]
    fn encoder_that_cuts_at_scenes_has_no_period() {
        let start = Instant::now();
        let known = schedule(start, &[0, 900, 3_000, 3_700, 8_000, 9_100, 9_900, 14_000]);
        assert_eq!((known.period(), known.next_due()), (None, None));
        assert_eq!(known.defer(start + 14_100 * MS), start + 14_100 * MS);
        assert!(!known.is_scheduled(start + 16_000 * MS));
    }

    #[test]
    fn keyframe_that_was_lost_does_not_end_the_period() {
        let start = Instant::now();
        let mut known = schedule(start, &[0, 2_000, 4_000, 6_000, 10_000]);
        assert_eq!(known.period(), Some(2_000 * MS), "three of four are equal");
        known.on_keyframe(start + 14_000 * MS, KeyframeCause::Unrequested);
        assert_eq!(known.period(), None, "three of five");
        for ms in [16_000, 18_000, 20_000] {
            known.on_keyframe(start + ms * MS, KeyframeCause::Unrequested);
        }
        assert_eq!(known.period(), Some(2_000 * MS));
    }

    #[test]
    fn intervals_around_an_answer_do_not_count() {
        let start = Instant::now();
        let mut known = schedule(start, &[0, 2_000, 4_000]);
        known.on_keyframe(start + 5_000 * MS, KeyframeCause::Answer);
        known.on_keyframe(start + 6_000 * MS, KeyframeCause::Unrequested);
        assert_eq!(known.period(), None, "4 to 5 s and 5 to 6 s");
        known.on_keyframe(start + 8_000 * MS, KeyframeCause::Unrequested);
        assert_eq!(known.period(), Some(2_000 * MS));
        known.on_keyframe(start + 8_500 * MS, KeyframeCause::Answer);
        assert_eq!(known.next_due(), None, "it may count from the answer, or not");
        assert!(known.is_scheduled(start + 10_000 * MS) && known.is_scheduled(start + 10_500 * MS));
        assert!(!known.is_scheduled(start + 9_300 * MS));
    }

    #[test]
    fn regular_requests_that_are_answered_alike_make_no_period() {
        let start = Instant::now();
        let known = |took_ms: [u32; 4]| {
            let mut schedule = KeyframeSchedule::default();
            for (at, took) in [0, 6_000, 12_000, 18_000].into_iter().zip(took_ms) {
                schedule.on_keyframe(start + at * MS, KeyframeCause::Uncertain(took * MS));
            }
            schedule.period()
        };
        assert_eq!(known([0, 700, 720, 700]), None);
        assert_eq!(known([0, 300, 1_300, 700]), None, "within the tolerance of 500 ms, twice");
        assert_eq!(
            known([0, 300, 1_301, 700]),
            Some(6_000 * MS),
            "the requests were not as regular"
        );
    }

    #[test]
    fn keyframe_that_completes_the_period_counts_as_scheduled() {
        let start = Instant::now();
        let mut known = schedule(start, &[0, 2_000, 4_000]);
        known.on_keyframe(start + 6_000 * MS, KeyframeCause::Uncertain(300 * MS));
        assert!(known.last_was_scheduled());
        known.on_keyframe(start + 6_900 * MS, KeyframeCause::Uncertain(300 * MS));
        assert!(!known.last_was_scheduled());
        let mut known = schedule(start, &[0, 2_000, 4_000, 6_000]);
        known.on_keyframe(start + 6_500 * MS, KeyframeCause::Answer);
        assert!(!known.last_was_scheduled(), "the interval before it does not count");
        known.on_keyframe(start + 8_500 * MS, KeyframeCause::Unrequested);
        assert!(!known.last_was_scheduled(), "nor does the one after it");
    }

    #[test]
    fn old_intervals_are_forgotten() {
        let start = Instant::now();
        let mut known = schedule(start, &[0, 2_000, 4_000, 6_000]);
        for n in 1..=8 {
            known.on_keyframe(start + (6_000 + 1_000 * n) * MS, KeyframeCause::Unrequested);
        }
        assert_eq!(known.period(), Some(1_000 * MS));
    }

    #[test]
    fn keyframe_due_within_half_a_second_is_waited_for() {
        let start = Instant::now();
        let known = schedule(start, &[0, 2_000, 4_000, 6_000]); // the next at 8,000
        let hold = |ms: u32| (known.defer(start + ms * MS) - start).as_millis();
        assert_eq!(hold(7_499), 7_499, "too far ahead");
        assert_eq!(hold(7_500), 8_250, "a quarter of a second late");
        assert_eq!(hold(8_249), 8_250);
        assert_eq!(hold(8_250), 8_250, "it did not come");
        assert_eq!(hold(9_900), 9_900, "one that missed its time is no longer relied upon");
        let quick = schedule(start, &[0, 400, 800, 1_200]);
        assert_eq!((quick.defer(start + 1_250 * MS) - start).as_millis(), 1_700, "25 % of 400 ms");
    }

    #[test]
    fn keyframe_in_time_counts_as_scheduled_and_no_other() {
        let start = Instant::now();
        let known = schedule(start, &[0, 2_000, 4_000, 6_000]);
        let explains = |ms: u32| known.is_scheduled(start + ms * MS);
        assert!(!explains(7_799) && explains(7_800) && explains(8_200) && !explains(8_201));
        assert!(explains(10_000), "the one before was lost");
        assert!(explains(14_200) && !explains(16_000), "too many were");
    }

    #[test]
    fn phase_of_an_encoder_that_starts_anew_is_not_known() {
        let start = Instant::now();
        let mut known = schedule(start, &[0, 2_000, 4_000, 6_000]);
        known.reset_phase();
        assert_eq!((known.period(), known.next_due()), (Some(2_000 * MS), None));
        known.on_keyframe(start + 6_500 * MS, KeyframeCause::Unrequested);
        assert_eq!(known.next_due(), Some(start + 8_500 * MS));
    }
}
