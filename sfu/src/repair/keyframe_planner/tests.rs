//! Tests of the keyframe planner against a simulated publisher layer.

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
                self.planner.add_need(now, KeyframeNeed::Start);
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

    /// Adds a need, which a viewer without a picture repeats until a keyframe comes.
    fn need(&mut self, need: KeyframeNeed) {
        self.waiting = Some(need);
        self.planner.add_need(self.now(), need);
    }

    fn need_and_run(&mut self, need: KeyframeNeed, span: u64) -> Vec<u64> {
        let (before, from) = (self.requests.len(), self.ms);
        self.need(need);
        self.run_ms(span);
        self.requests[before..].iter().map(|at| at - from).collect()
    }

    fn responsiveness(&mut self) -> Responsiveness {
        let now = self.now();
        self.planner.responses(now).responsiveness()
    }
}

/// Times of requests in ms after `from`, if `poll` runs at each of its timeouts and nothing comes.
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
    layer.add_need(start, KeyframeNeed::Start);
    assert!(layer.poll(start, RTT));
    assert!(!layer.poll(start + MS, RTT), "one outstanding");
    layer.on_keyframe(start + 100 * MS);
    assert_eq!(layer.next_timeout(), None);
    layer.add_need(start + 200 * MS, KeyframeNeed::Start);
    assert_eq!(layer.next_timeout(), Some(start + MIN_GAP));
    assert!(!layer.poll(start + MIN_GAP - MS, RTT));
    assert!(layer.poll(start + MIN_GAP, RTT));
}

#[test]
fn needs_and_outcomes_of_requests_are_counted_once() {
    let counts = |planner: &mut KeyframePlanner| {
        let counts = planner.take_counts();
        let needs = counts.needs().map(|(need, n)| (need.label(), n));
        (needs.collect::<Vec<_>>(), counts.joined, counts.answered, counts.unanswered)
    };
    let by = |start, hole, refresh| vec![("start", start), ("hole", hole), ("refresh", refresh)];
    let mut stage = Stage::new(None, Some(70));
    stage.run_ms(3_000);
    counts(&mut stage.planner);
    stage.need_and_run(KeyframeNeed::Start, 2_000);
    stage.planner.add_need(stage.now(), KeyframeNeed::Refresh);
    stage.planner.add_need(stage.now(), KeyframeNeed::Refresh);
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
    layer.add_need(start + SAME_KEYFRAME - MS, KeyframeNeed::Start);
    layer.add_need(start + SAME_KEYFRAME - MS, KeyframeNeed::Refresh);
    assert_eq!(layer.next_timeout(), None);
    layer.add_need(start + SAME_KEYFRAME, KeyframeNeed::Start);
    assert!(layer.poll(start + SAME_KEYFRAME, RTT), "one who came after its first packet");
    let mut layer = KeyframePlanner::new();
    layer.on_keyframe(start);
    layer.add_need(start + MS, KeyframeNeed::Hole);
    assert!(layer.poll(start + MS, RTT), "a hole may be in the keyframe itself");
}

#[test]
fn need_between_two_packets_of_a_keyframe_outlives_the_second() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    layer.on_keyframe(start);
    layer.add_need(start + MS, KeyframeNeed::Hole);
    layer.on_keyframe(start + 2 * MS); // a slice of the same picture
    assert!(layer.poll(start + 2 * MS, RTT));
}

#[test]
fn repeats_wait_for_a_long_round_trip() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    layer.add_need(start, KeyframeNeed::Start);
    assert!(layer.poll(start, Some(600 * MS)));
    assert_eq!(layer.next_timeout(), Some(start + 750 * MS));
}

#[test]
fn silent_publisher_gets_five_requests_and_then_few() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    layer.add_need(start, KeyframeNeed::Start);
    assert_eq!(requests(&mut layer, start, 13_000), [0, 500, 1_000, 1_500, 2_000, 7_000]);
    assert_eq!(
        layer.responses(start + 13_000 * MS).responsiveness(),
        Responsiveness::Unknown,
        "it may be cut off"
    );
    layer.add_need(start + 13_000 * MS, KeyframeNeed::Start);
    assert_eq!(requests(&mut layer, start, 13_100), [12_000], "the need is renewed");
}

#[test]
fn need_that_is_not_repeated_expires() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    layer.add_need(start, KeyframeNeed::Refresh);
    assert!(layer.poll(start, RTT));
    layer.on_keyframe(start + 100 * MS);
    layer.add_need(start + 150 * MS, KeyframeNeed::Refresh);
    assert_eq!(requests(&mut layer, start, 60_000), [500, 1_000, 1_500, 2_000, 2_500, 7_500]);
    assert_eq!(layer.next_timeout(), None, "the next would be at 12,500");
}

#[test]
fn layer_that_answers_is_known_after_one_answer() {
    let mut stage = Stage::new(None, Some(70));
    stage.run_ms(3_000);
    assert_eq!(stage.responsiveness(), Responsiveness::Unknown);
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 2_000), [0]);
    assert_eq!(stage.responsiveness(), Responsiveness::Answered);
    let now = stage.now();
    let took = stage.planner.responses(now).median_time();
    assert!(took.is_some_and(|took| (70 * MS..110 * MS).contains(&took)), "{took:?}");
}

#[test]
fn answer_that_could_be_chance_teaches_nothing() {
    let mut stage = Stage::new(None, Some(70));
    stage.run_ms(900); // 13 times as long as the answer takes
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 100), [0]);
    assert_eq!((stage.keyframes.len(), stage.responsiveness()), (2, Responsiveness::Unknown));
}

#[test]
fn layer_that_ignores_three_requests_gets_one_in_ten_seconds() {
    let mut stage = Stage::new(None, None);
    stage.run_ms(3_000);
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_400), [0, 500, 1_000]);
    assert_eq!(
        stage.responsiveness(),
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
fn two_unanswered_requests_conclude_nothing() {
    let mut stage = Stage::new(None, None);
    stage.run_ms(3_000);
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_300), [0, 500, 1_000]);
    assert_eq!(stage.responsiveness(), Responsiveness::Unknown);
}

#[test]
fn answer_revokes_ignored() {
    let mut stage = Stage::new(None, None);
    stage.run_ms(3_000);
    stage.need_and_run(KeyframeNeed::Start, 5_000);
    assert_eq!(stage.responsiveness(), Responsiveness::Ignored);
    stage.answers_after_ms = Some(70);
    stage.run_ms(7_000);
    assert_eq!(stage.requests.last(), Some(&14_000));
    assert_eq!(stage.responsiveness(), Responsiveness::Answered);
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_000), [0]);
}

#[test]
fn keyframe_that_comes_before_the_request_can_have_arrived_is_no_answer() {
    for (took, responsiveness) in [(19, Responsiveness::Unknown), (20, Responsiveness::Answered)] {
        let start = Instant::now();
        let mut layer = KeyframePlanner::new();
        layer.on_keyframe(start);
        layer.add_need(start + 5_000 * MS, KeyframeNeed::Start);
        assert!(layer.poll(start + 5_000 * MS, RTT)); // 40 ms
        let now = start + (5_000 + took) * MS;
        layer.on_keyframe(now);
        assert_eq!(layer.responses(now).responsiveness(), responsiveness, "after {took} ms");
    }
}

#[test]
fn slow_answers_are_answers_in_the_end() {
    // Longer than the repeat takes: each need costs two requests, and none counts as ignored.
    let mut stage = Stage::new(None, Some(700));
    for _ in 0..10 {
        stage.run_ms(5_000);
        assert_eq!(stage.need_and_run(KeyframeNeed::Start, 1_000), [0, 500]);
        assert_eq!(stage.responsiveness(), Responsiveness::Unknown, "it could be chance");
    }
    stage.run_ms(15_000);
    stage.need_and_run(KeyframeNeed::Start, 1_000);
    assert_eq!(stage.responsiveness(), Responsiveness::Answered);
}

#[test]
fn layer_that_used_to_answer_is_ignored_after_twice_the_requests() {
    let mut stage = Stage::new(None, Some(70));
    for _ in 0..4 {
        stage.run_ms(3_000);
        stage.need_and_run(KeyframeNeed::Start, 200);
    }
    stage.run_ms(5_000);
    stage.answers_after_ms = None;
    let sent = stage.need_and_run(KeyframeNeed::Start, 7_300);
    assert_eq!(sent, [0, 500, 1_000, 1_500, 2_000, 7_000]);
    assert_eq!(stage.responsiveness(), Responsiveness::Answered);
    stage.run_ms(100);
    assert_eq!(stage.responsiveness(), Responsiveness::Ignored);
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
    assert_eq!(stage.responsiveness(), Responsiveness::Unknown);
}

#[test]
fn period_of_a_layer_that_ignores_requests_is_learned_despite_requests() {
    let mut stage = Stage::new(Some(1_980), None);
    for _ in 0..8 {
        stage.run_ms(1_300);
        stage.need(KeyframeNeed::Start);
    }
    assert_eq!(stage.responsiveness(), Responsiveness::Ignored);
    let asked = stage.requests.len();
    for _ in 0..60 {
        stage.run_ms(1_000);
        stage.need(KeyframeNeed::Start);
    }
    let probes = stage.requests.len() - asked;
    assert!((1..=6).contains(&probes), "{probes} in a minute");
    assert_eq!(stage.responsiveness(), Responsiveness::Ignored);
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
        assert_eq!(stage.responsiveness(), Responsiveness::Answered);
    }
}

#[test]
fn keyframe_that_is_due_within_half_a_second_is_not_requested() {
    let mut stage = Stage::new(Some(1_980), Some(70));
    stage.run_ms(5_941 + 1_479); // the next at 7,920
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 600), [0; 0]);
    assert_eq!(stage.keyframes.last(), Some(&7_920));
    stage.run_ms(1_379);
    assert_eq!(stage.ms, 9_900 - 501);
    assert_eq!(stage.need_and_run(KeyframeNeed::Start, 600), [0], "too far ahead to wait for");
}

#[test]
fn scheduled_keyframe_that_does_not_come_is_requested() {
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
fn refreshes_leave_requests_for_viewers_without_a_picture() {
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
fn costly_keyframes_delay_needs_of_viewers_with_a_picture_only() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    // Each third byte is part of a requested keyframe.
    let mut now = start;
    for n in 0..18 {
        now = start + 1_000 * MS * n;
        if n % 3 == 2 {
            layer.add_need(now - 60 * MS, KeyframeNeed::Start);
            assert!(layer.poll(now - 60 * MS, RTT));
            layer.on_keyframe(now);
        }
        layer.on_packet(now, 10_000, n % 3 == 2);
    }
    let last = now - 60 * MS;
    layer.add_need(now + 500 * MS, KeyframeNeed::Refresh);
    assert_eq!(layer.next_timeout(), Some(last + COSTLY_GAP));
    layer.add_need(now + 600 * MS, KeyframeNeed::Start);
    assert_eq!(layer.next_timeout(), Some(now + 600 * MS));
}

#[test]
fn encoder_that_starts_anew_is_the_same_publisher() {
    let mut stage = Stage::new(None, None);
    stage.run_ms(3_000);
    stage.need_and_run(KeyframeNeed::Start, 2_000);
    stage.planner.restart();
    assert_eq!(stage.responsiveness(), Responsiveness::Ignored);
    assert_eq!(stage.planner.schedule().next_due(), None);
}

proptest::proptest! {
    /// Whatever viewers need and the publisher does: no busy loop, never less than half a second
    /// between requests, and no more than one in two seconds beyond the burst.
    #[test]
    fn request_rate_holds_whatever_happens(
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
                1..4 => layer.add_need(now, KeyframeNeed::ALL[need]),
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

/// Keyframes of a layer that is not asked itself come with those of its sibling, which is asked
/// each 13 s.
#[test]
fn keyframes_that_a_sibling_was_asked_for_make_no_interval() {
    let start = Instant::now();
    for asked in [false, true] {
        let mut layer = KeyframePlanner::new();
        for ms in (0..60_000).step_by(100) {
            let now = start + ms * MS;
            if asked && ms % 13_000 == 12_900 {
                layer.on_sibling_request(now);
            }
            if ms % 13_000 == 0 {
                layer.on_keyframe(now);
            }
            layer.on_packet(now, 1_000, ms % 13_000 == 0);
        }
        let interval = (!asked).then_some(13_000 * MS);
        assert_eq!(layer.schedule().interval(), interval, "asked: {asked}");
    }
}

#[test]
fn time_without_packets_is_no_interval() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    let away = 2_500..16_000;
    for ms in (0..18_500).step_by(100).filter(|ms| !away.contains(ms)) {
        let now = start + ms * MS;
        let keyframe = [0, 2_000, 16_000, 18_000].contains(&ms);
        if keyframe {
            layer.on_keyframe(now);
        }
        layer.on_packet(now, 1_000, keyframe);
    }
    assert_eq!(layer.schedule().interval(), Some(2_000 * MS));
    assert_eq!(layer.schedule().unrequested_count(), 2);
    let now = start + 18_500 * MS;
    assert_eq!(layer.without_keyframe(now), Some(500 * MS));
    assert_eq!(layer.without_keyframe(now + 4_000 * MS), None, "nothing comes at all");
}

#[test]
fn layer_without_any_keyframe_is_known_since_its_first_packet() {
    let start = Instant::now();
    let mut layer = KeyframePlanner::new();
    assert_eq!(layer.without_keyframe(start), None);
    for ms in (0..=20_000).step_by(100) {
        layer.on_packet(start + ms * MS, 1_000, false);
    }
    assert_eq!(layer.without_keyframe(start + 20_000 * MS), Some(20_000 * MS));
}
