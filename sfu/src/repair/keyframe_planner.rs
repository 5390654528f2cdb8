//! Decides when to ask one publisher layer for a keyframe.
//!
//! Owns the needs, the pace, the repeats, and what the layer taught us: whether it answers
//! ([`ResponseStats`]), when it sends keyframes by itself ([`KeyframeSchedule`]) and what those cost that we asked
//! for ([`KeyframeCost`]). All viewers of a layer join the one request. Never knows who needed and never
//! writes RTCP: `worker` sends a PLI, or a FIR where only that was negotiated, whenever
//! [`KeyframePlanner::poll`] says so. Source: quality A2.3 "PLI discipline" and "Publisher learned at run
//! time", whip-whep G13.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::keyframe_cost::KeyframeCost;
use super::keyframe_schedule::{Cause, KeyframeSchedule};
use super::responses::{ResponseStats, Responsiveness};

/// Requests to one layer are at least this far apart.
pub const MIN_GAP: Duration = Duration::from_millis(500);

/// Requests in the long run are this far apart on average, however often somebody needs.
pub const STEADY_GAP: Duration = Duration::from_secs(2);

/// Requests at [`MIN_GAP`] after a pause before [`STEADY_GAP`] holds, for viewers without a picture.
pub const START_BURST: u32 = 16;

/// The same where packets are missing, so that all viewers wait.
pub const HOLE_BURST: u32 = 8;

/// The same for single viewers that have a picture, changes of layers among them.
pub const REFRESH_BURST: u32 = 5;

/// While keyframes are dear, needs of those who have a picture wait this long after the last request, and no
/// longer: a frozen picture is worse than a dear one.
pub const DEAR_GAP: Duration = Duration::from_secs(6);

/// Repeats at the quick pace; afterwards one per [`SLOW_GAP`].
pub const QUICK_TRIES: u32 = 5;

/// The pace when even a layer that used to answer says nothing.
pub const SLOW_GAP: Duration = Duration::from_secs(5);

/// Requests without an answer that make a layer one that ignores them (OBS, whip-whep G13).
pub const PATIENCE: u32 = 3;

/// The same for a layer that used to answer.
pub const TRUSTED_PATIENCE: u32 = 6;

/// A layer that ignores requests gets one this often while somebody needs.
pub const PROBE_GAP: Duration = Duration::from_secs(10);

/// A need that nobody repeats for so long is dropped: who needed has left.
pub const NEED_LIFE: Duration = Duration::from_secs(10);

/// Time an encoder may take on top of the round trip before the request is repeated.
const ENCODER_TIME: Duration = Duration::from_millis(150);

/// The answer to a single request comes within this time on top of the round trip; without it the request
/// was lost or is ignored.
const PATIENCE_TIME: Duration = Duration::from_millis(300);

/// Assumed until it is measured: most publishers are nearer.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);

/// Later than this after the first request nothing is an answer to it.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A keyframe counts as an answer if it came this many times faster than it let wait before anybody asked.
/// Whoever ignores requests passes once in seventeen by chance.
const NO_CHANCE: u32 = 16;

/// Keyframes within this time are one: parameter sets and slices of one picture are each reported. Needs
/// within it are of viewers who had not seen it yet; who came after its first packet needs again.
const SAME_KEYFRAME: Duration = Duration::from_millis(50);

/// Why a keyframe is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframeNeed {
    /// A viewer has no picture. Repeated with each packet that it cannot be sent.
    Start,
    /// Packets were given up: nobody has a whole picture.
    Hole,
    /// A viewer has a picture and asks for a fresh one, or for that of another layer.
    Refresh,
}

impl KeyframeNeed {
    const ALL: [Self; 3] = [Self::Start, Self::Hole, Self::Refresh];

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Hole => "hole",
            Self::Refresh => "refresh",
        }
    }

    /// Requests at the quick pace after a pause.
    fn burst(self) -> u32 {
        match self {
            Self::Start => START_BURST,
            Self::Hole => HOLE_BURST,
            Self::Refresh => REFRESH_BURST,
        }
    }
}

/// What became of needs and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyframeCounts {
    needs: [u64; KeyframeNeed::ALL.len()],
    /// Needs that cost nothing of their own: somebody waited already, or a keyframe had just begun.
    pub joined: u64,
    /// Requests that were answered, and could not have been by chance.
    pub answered: u64,
    /// Requests without an answer in time, while the layer sent on.
    pub unanswered: u64,
}

impl KeyframeCounts {
    /// How often somebody began to wait, by reason.
    pub fn needs(&self) -> impl Iterator<Item = (KeyframeNeed, u64)> + use<> {
        KeyframeNeed::ALL.into_iter().zip(self.needs)
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.needs.iter_mut().zip(other.needs) {
            *sum += n;
        }
        self.joined += other.joined;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
    }
}

/// The keyframe requests of one publisher layer.
#[derive(Debug, Default)]
pub struct KeyframePlanner {
    /// Since when somebody waits, by [`KeyframeNeed`].
    since: [Option<Instant>; KeyframeNeed::ALL.len()],
    last_need: Option<Instant>,
    last_sent: Option<Instant>,
    /// Requests since the last keyframe.
    tries: u32,
    /// The first of the last requests in a row.
    row_began: Option<Instant>,
    /// The last request, while nothing is known of its outcome.
    open: Option<Instant>,
    /// Requests since the last keyframe that had no answer in time.
    missed: u32,
    rtt: Option<Duration>,
    sent: u64,
    spent: Spent,
    first_packet: Option<Instant>,
    last_packet: Option<Instant>,
    /// The keyframe that came last would not have come unasked.
    was_asked: bool,
    answers: ResponseStats,
    schedule: KeyframeSchedule,
    cost: KeyframeCost,
    /// Since they were taken.
    counts: KeyframeCounts,
}

impl KeyframePlanner {
    /// Nobody wants anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box((self.since, self.last_packet, self.was_asked));
    }

    /// Somebody needs a keyframe. Joins the request that is on its way.
    pub fn want(&mut self, now: Instant, need: KeyframeNeed) {
        if need != KeyframeNeed::Hole && self.just_came(now) {
            self.counts.joined += 1;
            return;
        }
        self.last_need = Some(now);
        let place = need as usize;
        match (self.since.get_mut(place), self.counts.needs.get_mut(place)) {
            (Some(since @ None), Some(count)) => {
                *since = Some(now);
                *count += 1;
            }
            _ => self.counts.joined += 1,
        }
    }

    /// A keyframe starts to arrive: all needs so far are fulfilled. Tell of its first packet here before
    /// [`Self::on_packet`].
    pub fn on_keyframe(&mut self, now: Instant) {
        if self.just_came(now) {
            return;
        }
        self.judge(now);
        let took = self.row_began.map(|began| now.saturating_duration_since(began));
        // Nothing answers within less than a round trip; that of this moment may be shorter than the average.
        let least = self.rtt.map_or(Duration::ZERO, |rtt| rtt / 2);
        let took = took.filter(|took| self.tries > 0 && (least..=ANSWER_MAX).contains(took));
        let scheduled = self.schedule.explains(now);
        let answer = took.filter(|took| self.is_no_chance(*took));
        let prompt = self.tries == 1 && took.is_some_and(|took| took <= self.patience_time());
        let cause = match took.filter(|_| !scheduled) {
            None => Cause::Itself,
            // The first of all may be chance all the same.
            Some(_) if self.answers.answered() > 0 && (prompt || answer.is_some()) => Cause::Answer,
            Some(took) => Cause::Perhaps(took),
        };
        self.was_asked = cause != Cause::Itself;
        self.schedule.on_keyframe(now, cause);
        if scheduled || self.schedule.explains_last() {
            // So it was no answer, and what was asked before had none.
            self.answers.on_missed(self.missed);
        } else if let Some(took) = answer {
            self.answers.on_answer(took);
            self.counts.answered += 1;
        }
        self.since = Default::default();
        (self.tries, self.missed, self.open) = (0, 0, None);
    }

    /// A packet came, part of the keyframe that was told of or not.
    pub fn on_packet(&mut self, now: Instant, bytes: usize, of_keyframe: bool) {
        self.first_packet.get_or_insert(now);
        self.last_packet = Some(now);
        self.cost.on_packet(now, bytes, of_keyframe && self.was_asked);
    }

    /// The encoder starts anew, as another SSRC: it behaves as before, but nothing is on its way.
    pub fn restart(&mut self) {
        self.schedule.interrupt();
        self.open = None;
        self.missed = 0;
    }

    /// True if a PLI or FIR must be sent now; it then counts as sent.
    ///
    /// A need is acted on at once, if the request before is [`MIN_GAP`] ago and no keyframe is due anyway.
    /// Repeats follow after max(`rtt` + 150 ms, [`MIN_GAP`]), from the fifth on after [`SLOW_GAP`], and at
    /// [`PROBE_GAP`] to a layer that ignores them. An unknown `rtt` is taken for 100 ms.
    pub fn poll(&mut self, now: Instant, rtt: Option<Duration>) -> bool {
        self.rtt = rtt;
        self.judge(now);
        let due = self.next_timeout().is_some_and(|at| at <= now);
        if due {
            let since = self.last_sent.map(|last| now.saturating_duration_since(last));
            if self.tries == 0 || since.is_none_or(|since| since >= SLOW_GAP) {
                self.row_began = Some(now);
            }
            self.last_sent = Some(now);
            self.open = Some(now);
            self.tries += 1;
            self.sent += 1;
            self.spent.add(now);
            self.answers.on_asked();
        }
        due
    }

    /// When [`Self::poll`] has something to send; none while nobody waits.
    pub fn next_timeout(&self) -> Option<Instant> {
        let dear = self.last_sent.filter(|_| self.cost.is_dear()).map(|last| last + DEAR_GAP);
        let needs = KeyframeNeed::ALL.into_iter().zip(self.since);
        let times = needs.filter_map(|(need, since)| {
            let free = since?.max(self.spent.free_at(need.burst(), since?));
            dear.filter(|_| need != KeyframeNeed::Start).max(Some(free))
        });
        let needed = times.min()?;
        let paced = self.last_sent.map_or(needed, |last| needed.max(last + self.gap()));
        let at = self.schedule.hold(paced);
        let last_need = self.last_need?;
        (at <= last_need + NEED_LIFE).then_some(at)
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// What happened since this was asked last.
    pub fn take_counts(&mut self) -> KeyframeCounts {
        std::mem::take(&mut self.counts)
    }

    /// Whether the layer answers requests.
    pub fn answers(&mut self, now: Instant) -> &ResponseStats {
        self.judge(now);
        &self.answers
    }

    /// When it sends keyframes by itself.
    pub fn schedule(&self) -> &KeyframeSchedule {
        &self.schedule
    }

    fn just_came(&self, now: Instant) -> bool {
        let last = self.schedule.last_keyframe();
        last.is_some_and(|last| now.saturating_duration_since(last) < SAME_KEYFRAME)
    }

    /// The least time from the last request to the next.
    fn gap(&self) -> Duration {
        if self.answers.habit() == Responsiveness::Ignored {
            return PROBE_GAP;
        }
        match self.tries {
            0 => MIN_GAP,
            1..QUICK_TRIES => {
                let rtt = self.rtt.unwrap_or(RTT_UNKNOWN);
                rtt.saturating_add(ENCODER_TIME).clamp(MIN_GAP, SLOW_GAP)
            }
            _ => SLOW_GAP,
        }
    }

    fn patience_time(&self) -> Duration {
        self.rtt.unwrap_or(RTT_UNKNOWN).min(ANSWER_MAX) + PATIENCE_TIME
    }

    /// What became of the last request. Only a layer that still sends can be said to ignore it.
    fn judge(&mut self, now: Instant) {
        let Some(asked) = self.open else { return };
        let end = asked + self.patience_time();
        if now <= end || self.last_packet.is_none_or(|at| at <= end) {
            return;
        }
        self.open = None;
        self.missed += 1;
        self.counts.unanswered += 1;
        let patience = if self.answers.is_trusted() { TRUSTED_PATIENCE } else { PATIENCE };
        if self.answers.missed_in_row() + self.missed >= patience {
            self.answers.on_missed(std::mem::take(&mut self.missed));
            self.answers.conclude_ignored();
        }
    }

    /// Whether a keyframe that came so soon after the first request came because of it.
    fn is_no_chance(&self, took: Duration) -> bool {
        let before = self.schedule.last_keyframe().or(self.first_packet);
        before.zip(self.row_began).is_none_or(|(before, began)| {
            took * NO_CHANCE <= began.saturating_duration_since(before)
        })
    }
}

/// What was spent of the requests that [`STEADY_GAP`] allows: each request adds one, and time takes it away.
#[derive(Debug, Default)]
struct Spent {
    /// In time that takes it away, as of the last request.
    level: Duration,
    as_of: Option<Instant>,
}

impl Spent {
    fn add(&mut self, now: Instant) {
        let gone = self.as_of.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.level = self.level.saturating_sub(gone) + STEADY_GAP;
        self.as_of = Some(now);
    }

    /// When there is room for one more of so many; `now` if that is not known.
    fn free_at(&self, burst: u32, now: Instant) -> Instant {
        let over = self.level.saturating_sub(STEADY_GAP * (burst - 1));
        self.as_of.map_or(now, |at| at + over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RTT: Option<Duration> = Some(Duration::from_millis(40));
    const FRAME_MS: u64 = 33;

    /// A publisher layer with a frame each 33 ms, and viewers, in steps of 1 ms.
    struct Stage {
        start: Instant,
        ms: u64,
        planner: KeyframePlanner,
        /// Keyframes by itself.
        period_ms: Option<u64>,
        /// A request is answered after this time, by the next frame.
        answers_after_ms: Option<u64>,
        /// The encoder counts its period from each keyframe.
        counts_from_answers: bool,
        sends: bool,
        next_by_itself: u64,
        answer_due: Option<u64>,
        /// Requests and keyframes, in ms.
        requests: Vec<u64>,
        keyframes: Vec<u64>,
        waiting: Option<KeyframeNeed>,
    }

    impl Stage {
        fn new(period_ms: Option<u64>, answers_after_ms: Option<u64>) -> Self {
            Self {
                start: Instant::now(),
                ms: 0,
                planner: KeyframePlanner::new(),
                period_ms,
                answers_after_ms,
                counts_from_answers: false,
                sends: true,
                next_by_itself: 0,
                answer_due: None,
                requests: Vec::new(),
                keyframes: Vec::new(),
                waiting: None,
            }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_millis(self.ms)
        }

        fn run_ms(&mut self, span: u64) {
            for _ in 0..span {
                self.step();
            }
        }

        fn step(&mut self) {
            let now = self.now();
            if self.sends && self.ms.is_multiple_of(FRAME_MS) {
                let by_itself = self.ms >= self.next_by_itself;
                let asked = self.answer_due.is_some_and(|at| at <= self.ms);
                let keyframe = by_itself || asked;
                if keyframe {
                    self.answer_due = None;
                    if by_itself || self.counts_from_answers {
                        self.next_by_itself =
                            self.period_ms.map_or(u64::MAX, |period| self.ms + period);
                    }
                    self.keyframes.push(self.ms);
                    self.planner.on_keyframe(now);
                    self.waiting = None;
                }
                self.planner.on_packet(now, 1_000, keyframe);
                if self.waiting == Some(KeyframeNeed::Start) {
                    self.planner.want(now, KeyframeNeed::Start);
                }
            }
            if self.planner.poll(now, RTT) {
                self.requests.push(self.ms);
                if let Some(after) = self.answers_after_ms {
                    self.answer_due.get_or_insert(self.ms + after);
                }
            }
            self.ms += 1;
        }

        /// Somebody needs and, without a picture, repeats it until a keyframe comes.
        fn need(&mut self, need: KeyframeNeed) {
            self.waiting = Some(need);
            self.planner.want(self.now(), need);
        }

        fn need_and_run(&mut self, need: KeyframeNeed, span: u64) -> Vec<u64> {
            let (before, from) = (self.requests.len(), self.ms);
            self.need(need);
            self.run_ms(span);
            self.requests[before..].iter().map(|at| at - from).collect()
        }

        fn habit(&mut self) -> Responsiveness {
            let now = self.now();
            self.planner.answers(now).habit()
        }
    }

    /// When requests go out, in ms after `from`, if `poll` runs at each of its timeouts and nothing comes.
    fn requests(layer: &mut KeyframePlanner, from: Instant, for_ms: u64) -> Vec<u128> {
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
        let mut stage = Stage::new(None, Some(70));
        stage.run_ms(3_000);
        for _ in 0..1_000 {
            stage.need(KeyframeNeed::Start); // whip-whep G13
            stage.run_ms(1);
        }
        assert_eq!(stage.requests, [3_000, 3_500]);
    }

    #[test]
    fn first_need_is_sent_at_once_and_a_keyframe_ends_it() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        assert_eq!(layer.next_timeout(), None);
        assert!(!layer.poll(start, RTT));
        layer.want(start, KeyframeNeed::Start);
        assert!(layer.poll(start, RTT));
        assert!(!layer.poll(start + MS, RTT), "one outstanding");
        layer.on_keyframe(start + 100 * MS);
        assert_eq!(layer.next_timeout(), None);
        layer.want(start + 200 * MS, KeyframeNeed::Start);
        assert_eq!(layer.next_timeout(), Some(start + MIN_GAP));
        assert!(!layer.poll(start + MIN_GAP - MS, RTT));
        assert!(layer.poll(start + MIN_GAP, RTT));
    }

    #[test]
    fn needs_and_what_became_of_requests_are_counted_once() {
        let counts = |planner: &mut KeyframePlanner| {
            let counts = planner.take_counts();
            let needs = counts.needs().map(|(need, n)| (need.label(), n));
            (needs.collect::<Vec<_>>(), counts.joined, counts.answered, counts.unanswered)
        };
        let by =
            |start, hole, refresh| vec![("start", start), ("hole", hole), ("refresh", refresh)];
        let mut stage = Stage::new(None, Some(70));
        stage.run_ms(3_000);
        counts(&mut stage.planner);
        stage.need_and_run(KeyframeNeed::Start, 2_000);
        stage.planner.want(stage.now(), KeyframeNeed::Refresh);
        stage.planner.want(stage.now(), KeyframeNeed::Refresh);
        let (needs, joined, answered, unanswered) = counts(&mut stage.planner);
        assert_eq!((needs, answered, unanswered), (by(1, 0, 1), 1, 0));
        assert!((2..=4).contains(&joined), "with each frame until it came: {joined}");
        assert_eq!(counts(&mut stage.planner), (by(0, 0, 0), 0, 0, 0), "taken");

        let mut stage = Stage::new(None, None);
        stage.run_ms(3_000);
        counts(&mut stage.planner);
        stage.need_and_run(KeyframeNeed::Start, 1_200);
        let (needs, _, answered, unanswered) = counts(&mut stage.planner);
        assert_eq!((needs, answered, unanswered), (by(1, 0, 0), 0, 2), "of three, one is open");
        let of = |needs| KeyframeCounts { needs, joined: 7, answered: 8, unanswered: 9 };
        let mut all = of([1, 2, 3]);
        all.merge(&of([4, 5, 6]));
        let wanted = KeyframeCounts { needs: [5, 7, 9], joined: 14, answered: 16, unanswered: 18 };
        assert_eq!(all, wanted);
    }

    #[test]
    fn need_from_before_a_keyframe_is_fulfilled_though_it_comes_after_it() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        layer.on_keyframe(start);
        layer.want(start + SAME_KEYFRAME - MS, KeyframeNeed::Start);
        layer.want(start + SAME_KEYFRAME - MS, KeyframeNeed::Refresh);
        assert_eq!(layer.next_timeout(), None);
        layer.want(start + SAME_KEYFRAME, KeyframeNeed::Start);
        assert!(layer.poll(start + SAME_KEYFRAME, RTT), "one who came after its first packet");
        let mut layer = KeyframePlanner::new();
        layer.on_keyframe(start);
        layer.want(start + MS, KeyframeNeed::Hole);
        assert!(layer.poll(start + MS, RTT), "a hole may be in the keyframe itself");
    }

    #[test]
    fn need_between_two_packets_of_a_keyframe_outlives_the_second() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        layer.on_keyframe(start);
        layer.want(start + MS, KeyframeNeed::Hole);
        layer.on_keyframe(start + 2 * MS); // a slice of the same picture
        assert!(layer.poll(start + 2 * MS, RTT));
    }

    #[test]
    fn repeats_wait_for_a_long_round_trip() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        layer.want(start, KeyframeNeed::Start);
        assert!(layer.poll(start, Some(600 * MS)));
        assert_eq!(layer.next_timeout(), Some(start + 750 * MS));
    }

    #[test]
    fn publisher_that_is_silent_is_asked_five_times_and_then_rarely() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        layer.want(start, KeyframeNeed::Start);
        assert_eq!(requests(&mut layer, start, 13_000), [0, 500, 1_000, 1_500, 2_000, 7_000]);
        assert_eq!(
            layer.answers(start + 13_000 * MS).habit(),
            Responsiveness::Unknown,
            "it may be cut off"
        );
        layer.want(start + 13_000 * MS, KeyframeNeed::Start);
        assert_eq!(requests(&mut layer, start, 13_100), [12_000], "the need is renewed");
    }

    #[test]
    fn need_that_nobody_repeats_lapses() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        layer.want(start, KeyframeNeed::Refresh);
        assert!(layer.poll(start, RTT));
        layer.on_keyframe(start + 100 * MS);
        layer.want(start + 150 * MS, KeyframeNeed::Refresh);
        assert_eq!(requests(&mut layer, start, 60_000), [500, 1_000, 1_500, 2_000, 2_500, 7_500]);
        assert_eq!(layer.next_timeout(), None, "the next would be at 12,500");
    }

    #[test]
    fn layer_that_answers_is_known_after_one_answer() {
        let mut stage = Stage::new(None, Some(70));
        stage.run_ms(3_000);
        assert_eq!(stage.habit(), Responsiveness::Unknown);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 2_000), [0]);
        assert_eq!(stage.habit(), Responsiveness::Answered);
        let now = stage.now();
        let took = stage.planner.answers(now).median_time();
        assert!(took.is_some_and(|took| (70 * MS..110 * MS).contains(&took)), "{took:?}");
    }

    #[test]
    fn answer_that_could_be_chance_teaches_nothing() {
        let mut stage = Stage::new(None, Some(70));
        stage.run_ms(900); // 13 times as long as the answer takes
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 100), [0]);
        assert_eq!((stage.keyframes.len(), stage.habit()), (2, Responsiveness::Unknown));
    }

    #[test]
    fn layer_that_ignores_three_requests_gets_one_in_ten_seconds() {
        let mut stage = Stage::new(None, None);
        stage.run_ms(3_000);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_400), [0, 500, 1_000]);
        assert_eq!(
            stage.habit(),
            Responsiveness::Ignored,
            "1,000 ms, a round trip and a bit later"
        );
        stage.run_ms(29_000);
        assert_eq!(stage.requests, [3_000, 3_500, 4_000, 14_000, 24_000]);
        stage.waiting = None;
        stage.run_ms(60_000);
        assert_eq!(stage.requests.len(), 6, "once more, and then the need has lapsed");
    }

    #[test]
    fn two_requests_without_answer_are_no_verdict() {
        let mut stage = Stage::new(None, None);
        stage.run_ms(3_000);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_300), [0, 500, 1_000]);
        assert_eq!(stage.habit(), Responsiveness::Unknown);
    }

    #[test]
    fn an_answer_takes_the_verdict_back() {
        let mut stage = Stage::new(None, None);
        stage.run_ms(3_000);
        stage.need_and_run(KeyframeNeed::Start, 5_000);
        assert_eq!(stage.habit(), Responsiveness::Ignored);
        stage.answers_after_ms = Some(70);
        stage.run_ms(7_000);
        assert_eq!(stage.requests.last(), Some(&14_000));
        assert_eq!(stage.habit(), Responsiveness::Answered);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_000), [0]);
    }

    #[test]
    fn keyframe_that_comes_before_the_request_can_have_arrived_is_no_answer() {
        for (took, habit) in [(19, Responsiveness::Unknown), (20, Responsiveness::Answered)] {
            let start = Instant::now();
            let mut layer = KeyframePlanner::new();
            layer.on_keyframe(start);
            layer.want(start + 5_000 * MS, KeyframeNeed::Start);
            assert!(layer.poll(start + 5_000 * MS, RTT)); // 40 ms
            let now = start + (5_000 + took) * MS;
            layer.on_keyframe(now);
            assert_eq!(layer.answers(now).habit(), habit, "after {took} ms");
        }
    }

    #[test]
    fn slow_answers_are_answers_in_the_end() {
        // Longer than the repeat takes: each need costs two requests, none is said to be ignored.
        let mut stage = Stage::new(None, Some(700));
        for _ in 0..10 {
            stage.run_ms(5_000);
            assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_000), [0, 500]);
            assert_eq!(stage.habit(), Responsiveness::Unknown, "it could be chance");
        }
        stage.run_ms(15_000);
        stage.need_and_run(KeyframeNeed::Start, 1_000);
        assert_eq!(stage.habit(), Responsiveness::Answered);
    }

    #[test]
    fn layer_that_used_to_answer_has_twice_the_patience() {
        let mut stage = Stage::new(None, Some(70));
        for _ in 0..4 {
            stage.run_ms(3_000);
            stage.need_and_run(KeyframeNeed::Start, 200);
        }
        stage.run_ms(5_000);
        stage.answers_after_ms = None;
        let sent = stage.need_and_run(KeyframeNeed::Start, 7_300);
        assert_eq!(sent, [0, 500, 1_000, 1_500, 2_000, 7_000]);
        assert_eq!(stage.habit(), Responsiveness::Answered);
        stage.run_ms(100);
        assert_eq!(stage.habit(), Responsiveness::Ignored);
    }

    #[test]
    fn requests_to_a_publisher_that_is_cut_off_are_not_ignored_ones() {
        let mut stage = Stage::new(None, Some(70));
        stage.run_ms(3_000);
        stage.sends = false;
        stage.answers_after_ms = None;
        stage.need_and_run(KeyframeNeed::Start, 4_000);
        stage.answers_after_ms = Some(70);
        stage.sends = true;
        assert_eq!(stage.habit(), Responsiveness::Unknown);
    }

    #[test]
    fn period_of_a_layer_that_ignores_requests_is_learned_though_it_is_asked() {
        let mut stage = Stage::new(Some(1_980), None);
        for _ in 0..8 {
            stage.run_ms(1_300);
            stage.need(KeyframeNeed::Start);
        }
        assert_eq!(stage.habit(), Responsiveness::Ignored);
        let asked = stage.requests.len();
        for _ in 0..60 {
            stage.run_ms(1_000);
            stage.need(KeyframeNeed::Start);
        }
        let probes = stage.requests.len() - asked;
        assert!((1..=6).contains(&probes), "{probes} in a minute");
        assert_eq!(stage.habit(), Responsiveness::Ignored);
        let now = stage.now();
        assert_eq!(stage.planner.schedule().period(), Some(1_980 * MS));
        assert!(stage.planner.schedule().next_due().is_some_and(|due| due > now));
    }

    #[test]
    fn answers_do_not_count_as_the_period() {
        for counts_from_answers in [false, true] {
            let mut stage = Stage::new(Some(3_960), Some(70));
            stage.counts_from_answers = counts_from_answers;
            stage.run_ms(13_000);
            assert_eq!(stage.planner.schedule().period(), Some(3_960 * MS));
            for n in 0..20 {
                stage.need_and_run(KeyframeNeed::Refresh, 2_100 + n * 333);
            }
            assert_eq!(stage.planner.schedule().period(), Some(3_960 * MS));
            assert_eq!(stage.habit(), Responsiveness::Answered);
        }
    }

    #[test]
    fn keyframe_that_is_due_within_half_a_second_is_not_asked_for() {
        let mut stage = Stage::new(Some(1_980), Some(70));
        stage.run_ms(5_941 + 1_479); // the next at 7,920
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 600), [0; 0]);
        assert_eq!(stage.keyframes.last(), Some(&7_920));
        stage.run_ms(1_379);
        assert_eq!(stage.ms, 9_900 - 501);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 600), [0], "too far ahead to wait for");
    }

    #[test]
    fn scheduled_keyframe_that_does_not_come_is_asked_for() {
        let mut stage = Stage::new(Some(1_980), Some(70));
        stage.run_ms(7_500);
        stage.next_by_itself = u64::MAX;
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_500), [670], "7,920 and 250 ms");
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_000), [0]);
    }

    #[test]
    fn in_the_long_run_there_is_one_request_in_two_seconds() {
        for need in [KeyframeNeed::Start, KeyframeNeed::Refresh, KeyframeNeed::Hole] {
            let mut stage = Stage::new(None, Some(70));
            stage.run_ms(3_000);
            for _ in 0..600 {
                stage.need(need);
                stage.run_ms(100);
            }
            // The burst, and one more each two seconds of the minute.
            let most = u64::from(need.burst()) + 60 / 2;
            let sent = stage.requests.len() as u64;
            assert!((most - 2..=most).contains(&sent), "{sent} requests, {need:?}");
            let gaps = stage.requests.windows(2).map(|two| two[1] - two[0]);
            assert!(gaps.min() >= Some(500));
            let late: Vec<_> = stage.requests.iter().filter(|ms| **ms > 43_000).collect();
            assert!(late.windows(2).all(|two| two[1] - two[0] >= 1_990), "{late:?}");
        }
    }

    #[test]
    fn refreshes_leave_room_for_who_has_no_picture() {
        let mut stage = Stage::new(None, Some(70));
        stage.run_ms(3_000);
        for _ in 0..100 {
            stage.need(KeyframeNeed::Refresh);
            stage.run_ms(100);
        }
        let sent = stage.requests.len();
        while stage.requests.len() == sent {
            stage.need(KeyframeNeed::Refresh);
            stage.run_ms(100);
        }
        stage.run_ms(500);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 500), [0], "at once");
    }

    #[test]
    fn dear_keyframes_wait_for_who_has_a_picture_and_for_nobody_else() {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        // Each third byte is of a keyframe that we asked for.
        let mut now = start;
        for n in 0..18 {
            now = start + 1_000 * MS * n;
            if n % 3 == 2 {
                layer.want(now - 60 * MS, KeyframeNeed::Start);
                assert!(layer.poll(now - 60 * MS, RTT));
                layer.on_keyframe(now);
            }
            layer.on_packet(now, 10_000, n % 3 == 2);
        }
        let last = now - 60 * MS;
        layer.want(now + 500 * MS, KeyframeNeed::Refresh);
        assert_eq!(layer.next_timeout(), Some(last + DEAR_GAP));
        layer.want(now + 600 * MS, KeyframeNeed::Start);
        assert_eq!(layer.next_timeout(), Some(now + 600 * MS));
    }

    #[test]
    fn encoder_that_starts_anew_is_the_same_publisher() {
        let mut stage = Stage::new(None, None);
        stage.run_ms(3_000);
        stage.need_and_run(KeyframeNeed::Start, 2_000);
        stage.planner.restart();
        assert_eq!(stage.habit(), Responsiveness::Ignored);
        assert_eq!(stage.planner.schedule().next_due(), None);
    }

    proptest::proptest! {
        /// Whatever viewers need and the publisher does: no busy loop, never sooner than half a second, and no
        /// more than one in two seconds beyond the burst.
        #[test]
        fn pace_holds_whatever_happens(
            steps in proptest::collection::vec((0u64..400, 0u8..8, 0usize..3, 1usize..60_000), 1..600),
            rtt_ms in proptest::option::of(0u64..5_000),
        ) {
            let rtt = rtt_ms.map(Duration::from_millis);
            let mut now = Instant::now();
            let mut layer = KeyframePlanner::new();
            let mut sent: Vec<Instant> = Vec::new();
            for (ms, what, need, bytes) in steps {
                let until = now + Duration::from_millis(ms);
                while let Some(at) = layer.next_timeout().filter(|at| *at <= until) {
                    let at = at.max(now);
                    if layer.poll(at, rtt) {
                        sent.push(at);
                    }
                    assert!(layer.next_timeout().is_none_or(|next| next > at), "no busy loop");
                }
                now = until;
                match what {
                    0 => {
                        layer.on_keyframe(now);
                        layer.on_packet(now, bytes, true);
                    }
                    1 if bytes < 1_000 => layer.restart(),
                    1..4 => layer.want(now, KeyframeNeed::ALL[need]),
                    _ => layer.on_packet(now, bytes / 10, false),
                }
            }
            assert_eq!(layer.sent(), sent.len() as u64);
            assert!(sent.windows(2).all(|two| two[1] - two[0] >= MIN_GAP));
            for (index, from) in sent.iter().enumerate() {
                for (count, to) in (0u32..).zip(&sent[index..]) {
                    let most = START_BURST + ((*to - *from).as_secs_f64() / 2.0) as u32;
                    assert!(count < most, "{count} requests in {:?}", *to - *from);
                }
            }
        }
    }
}
