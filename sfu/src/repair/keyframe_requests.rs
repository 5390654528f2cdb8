//! Decides when to ask one publisher layer for a keyframe.
//!
//! Owns the wish, the pace and the repeats; all viewers of a layer join the one request. Never
//! knows who wished and never writes RTCP: `worker` sends a PLI, or a FIR where only that was
//! negotiated, whenever [`KeyframeRequests::poll`] says so. Source: quality A2.3 "PLI discipline",
//! whip-whep G13.

use std::time::{Duration, Instant};

/// Requests to one layer are at least this far apart.
pub const MIN_GAP: Duration = Duration::from_millis(500);

/// Requests at the quick pace; afterwards one per [`SLOW_GAP`], because some publishers never answer
/// (OBS, whip-whep G13).
pub const QUICK_TRIES: u32 = 5;

/// The pace towards a publisher that does not answer.
pub const SLOW_GAP: Duration = Duration::from_secs(5);

/// Time an encoder may take on top of the round trip before the request counts as lost.
const ENCODER_TIME: Duration = Duration::from_millis(150);

/// Calls of [`KeyframeRequests::on_keyframe`] within this time mean one keyframe: parameter sets
/// and slices of one picture are each reported.
const SAME_KEYFRAME: Duration = Duration::from_millis(50);

/// Keyframe intervals remembered.
const INTERVALS: usize = 8;

/// Keyframe intervals needed before there is a period.
const MIN_INTERVALS: usize = 3;

/// The keyframe requests of one publisher layer.
#[derive(Debug, Default)]
pub struct KeyframeRequests {
    wanted_since: Option<Instant>,
    last_sent: Option<Instant>,
    /// Requests since the last keyframe.
    tries: u32,
    rtt: Duration,
    sent: u64,
    last_keyframe: Option<Instant>,
    /// A ring once it is full.
    intervals: [Duration; INTERVALS],
    interval_count: usize,
}

impl KeyframeRequests {
    /// Nobody wants anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody needs a keyframe: a new viewer, a viewer's PLI, a hole that was given up. Joins the
    /// request that is on its way.
    pub fn want(&mut self, now: Instant) {
        self.wanted_since.get_or_insert(now);
    }

    /// A keyframe starts to arrive: all wishes so far are fulfilled.
    pub fn on_keyframe(&mut self, now: Instant) {
        if let Some(last) = self.last_keyframe {
            let interval = now.saturating_duration_since(last);
            if interval < SAME_KEYFRAME {
                // A viewer that came after its first packet still waits: keep the wish.
                return;
            }
            if let Some(slot) = self.intervals.get_mut(self.interval_count % INTERVALS) {
                *slot = interval;
            }
            self.interval_count += 1;
        }
        self.last_keyframe = Some(now);
        self.wanted_since = None;
        self.tries = 0;
    }

    /// True if a PLI or FIR must be sent now; it then counts as sent.
    ///
    /// Repeats follow after max(`rtt` + 150 ms, [`MIN_GAP`]), from the fifth on after [`SLOW_GAP`].
    pub fn poll(&mut self, now: Instant, rtt: Duration) -> bool {
        self.rtt = rtt;
        let due = self.next_timeout().is_some_and(|at| at <= now);
        if due {
            self.last_sent = Some(now);
            self.tries += 1;
            self.sent += 1;
        }
        due
    }

    /// When [`Self::poll`] has something to send; none while nobody waits.
    pub fn next_timeout(&self) -> Option<Instant> {
        let since = self.wanted_since?;
        let gap = match self.tries {
            0 => MIN_GAP,
            1..QUICK_TRIES => self.rtt.saturating_add(ENCODER_TIME).clamp(MIN_GAP, SLOW_GAP),
            _ => SLOW_GAP,
        };
        Some(self.last_sent.map_or(since, |last| since.max(last + gap)))
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether somebody waits for a keyframe.
    pub fn is_wanted(&self) -> bool {
        self.wanted_since.is_some()
    }

    /// When the last keyframe began to arrive.
    pub fn last_keyframe(&self) -> Option<Instant> {
        self.last_keyframe
    }

    /// Median of the last eight intervals between keyframes, asked for or not; none before the
    /// fourth keyframe.
    pub fn period(&self) -> Option<Duration> {
        let mut sorted = self.intervals;
        let known = sorted.get_mut(..self.interval_count.min(INTERVALS))?;
        if known.len() < MIN_INTERVALS {
            return None;
        }
        known.sort_unstable();
        known.get(known.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RTT: Duration = Duration::from_millis(40);

    /// When requests go out, in ms after `from`, if `poll` runs at each of its timeouts.
    fn requests(layer: &mut KeyframeRequests, from: Instant, for_ms: u64) -> Vec<u128> {
        let mut sent = Vec::new();
        while let Some(at) = layer.next_timeout()
            && at <= from + Duration::from_millis(for_ms)
        {
            assert!(layer.poll(at, RTT));
            sent.push((at - from).as_millis());
        }
        sent
    }

    #[test]
    fn a_thousand_viewers_in_one_second_cost_two_requests() {
        let start = Instant::now();
        let mut layer = KeyframeRequests::new();
        let mut answer_at = None;
        for ms in 0..1_000 {
            let now = start + MS * ms;
            layer.want(now); // whip-whep G13
            if layer.poll(now, RTT) {
                answer_at = Some(now + RTT + 30 * MS);
            }
            if answer_at.is_some_and(|at| at <= now) {
                answer_at = None;
                layer.on_keyframe(now);
            }
        }
        assert_eq!(layer.sent(), 2);
    }

    #[test]
    fn first_wish_is_sent_at_once_and_a_keyframe_ends_it() {
        let start = Instant::now();
        let mut layer = KeyframeRequests::new();
        assert_eq!(layer.next_timeout(), None);
        assert!(!layer.poll(start, RTT));
        layer.want(start);
        assert!(layer.poll(start, RTT));
        assert!(!layer.poll(start + MS, RTT), "one outstanding");
        layer.on_keyframe(start + 100 * MS);
        assert!(!layer.is_wanted());
        assert_eq!(layer.next_timeout(), None);
        layer.want(start + 200 * MS);
        assert_eq!(layer.next_timeout(), Some(start + MIN_GAP));
        assert!(!layer.poll(start + MIN_GAP - MS, RTT));
        assert!(layer.poll(start + MIN_GAP, RTT));
    }

    #[test]
    fn publisher_that_ignores_requests_is_asked_five_times_and_then_rarely() {
        let start = Instant::now();
        let mut layer = KeyframeRequests::new();
        layer.want(start);
        assert_eq!(
            requests(&mut layer, start, 13_000),
            [0, 500, 1_000, 1_500, 2_000, 7_000, 12_000]
        );
        layer.on_keyframe(start + 13_000 * MS);
        layer.want(start + 13_500 * MS);
        assert_eq!(requests(&mut layer, start, 14_000), [13_500, 14_000], "quick again");
    }

    #[test]
    fn repeats_wait_for_a_long_round_trip() {
        let start = Instant::now();
        let mut layer = KeyframeRequests::new();
        layer.want(start);
        assert!(layer.poll(start, Duration::from_millis(600)));
        assert_eq!(layer.next_timeout(), Some(start + 750 * MS));
    }

    #[test]
    fn viewer_that_comes_between_parameter_sets_and_picture_still_gets_its_request() {
        let start = Instant::now();
        let mut layer = KeyframeRequests::new();
        layer.on_keyframe(start);
        layer.want(start + MS);
        layer.on_keyframe(start + 2 * MS); // the next packet of the same picture
        assert!(layer.poll(start + 2 * MS, RTT));
    }

    #[test]
    fn keyframe_period_is_the_median() {
        let start = Instant::now();
        let mut layer = KeyframeRequests::new();
        for ms in [0, 2_000, 4_000] {
            layer.on_keyframe(start + MS * ms);
            assert_eq!(layer.period(), None);
        }
        for ms in [4_300, 6_300, 8_300] {
            layer.on_keyframe(start + MS * ms);
        }
        assert_eq!(layer.period(), Some(2_000 * MS));
        assert_eq!(layer.last_keyframe(), Some(start + 8_300 * MS));
        for n in 1..=8 {
            layer.on_keyframe(start + 8_300 * MS + 1_000 * MS * n);
        }
        assert_eq!(layer.period(), Some(1_000 * MS), "old intervals are forgotten");
    }
}
