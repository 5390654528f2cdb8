//! Tests of the NACK generator against a simulated path, and one arrival at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A publisher at 500 packets/s, a path, and the generator, in steps of 1 ms.
struct Sim {
    loss_percent: u64,
    repair_loss_percent: u64,
    reorder_percent: u64,
    reorder_ms: u64,
    rtt_ms: u64,
    answers: bool,
    /// Repairs come on the primary SSRC, where SRTP drops what is there already (OBS).
    repairs_on_primary: bool,
    seconds: u64,
}

const CLEAN: Sim = Sim {
    loss_percent: 0,
    repair_loss_percent: 0,
    reorder_percent: 0,
    reorder_ms: 0,
    rtt_ms: 50,
    answers: true,
    repairs_on_primary: false,
    seconds: 60,
};

#[derive(Default)]
struct Outcome {
    sent: u64,
    lost: u64,
    /// Requests for packets that were not lost, in the second half of the run.
    spurious: u64,
    missing_at_end: u64,
    needs: u64,
    most_requests_for_one: u64,
    counters: NackCounters,
}

impl Sim {
    fn run(&self) -> Outcome {
        const FIRST: u64 = 65_536 + 65_000; // wraps after 536 packets
        let start = Instant::now();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut hits = |percent: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % 100 < percent
        };
        let mut generator = NackGenerator::new(true);
        let mut list = NackList::new();
        let mut arrivals: BTreeMap<u64, Vec<u64>> = BTreeMap::new(); // ms -> numbers
        let mut asked_at: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let (mut lost, mut came) = (BTreeSet::new(), BTreeSet::new());
        let mut requests_per_packet: BTreeMap<u64, u64> = BTreeMap::new();
        let mut outcome = Outcome::default();
        let end = self.seconds * 1_000;
        for ms in 0..end + 2_000 {
            let now = start + MS * ms as u32;
            if ms < end && ms % 2 == 0 {
                let seq = FIRST + ms / 2;
                outcome.sent += 1;
                if ms > 0 && ms + 2 < end && hits(self.loss_percent) {
                    lost.insert(seq);
                } else {
                    let late = if hits(self.reorder_percent) { self.reorder_ms } else { 0 };
                    arrivals.entry(ms + self.rtt_ms / 2 + late).or_default().push(seq);
                }
            }
            for seq in asked_at.remove(&ms).unwrap_or_default() {
                if self.answers && !hits(self.repair_loss_percent) {
                    arrivals.entry(ms + self.rtt_ms / 2).or_default().push(seq);
                }
            }
            for seq in arrivals.remove(&ms).unwrap_or_default() {
                if self.repairs_on_primary && came.contains(&seq) {
                    continue;
                }
                let arrival = generator.on_packet(now, seq);
                assert_eq!(arrival == Arrival::Duplicate, !came.insert(seq));
            }
            if generator.next_timeout().is_some_and(|at| at <= now) {
                generator.poll(now, MS * self.rtt_ms as u32, &mut list);
                for &short in list.as_slice() {
                    let highest = generator.highest.unwrap();
                    let seq = highest - u64::from((highest as u16).wrapping_sub(short));
                    assert!(!came.contains(&seq), "asked for what is there");
                    *requests_per_packet.entry(seq).or_default() += 1;
                    outcome.spurious += u64::from(ms > end / 2 && !lost.contains(&seq));
                    asked_at.entry(ms + self.rtt_ms / 2).or_default().push(seq);
                }
            }
            outcome.needs += u64::from(generator.take_keyframe_need());
        }
        assert_eq!(generator.next_timeout(), None, "idle at the end");
        outcome.lost = lost.len() as u64;
        outcome.missing_at_end = outcome.sent - came.len() as u64;
        outcome.most_requests_for_one = requests_per_packet.values().copied().max().unwrap_or(0);
        outcome.counters = generator.counters();
        outcome
    }
}

#[test]
fn five_percent_loss_is_repaired_with_hardly_more_requests_than_losses() {
    let outcome = Sim { loss_percent: 5, ..CLEAN }.run();
    assert!(outcome.lost > 1_000);
    assert_eq!(outcome.missing_at_end, 0);
    assert_eq!(outcome.counters.repaired, outcome.lost);
    assert_eq!(outcome.counters.requested, outcome.lost, "each asked for once");
    assert_eq!(outcome.counters.duplicates, 0);
    assert_eq!(outcome.needs, 0);
}

#[test]
fn lost_retransmissions_are_requested_again() {
    let outcome = Sim { loss_percent: 5, repair_loss_percent: 20, ..CLEAN }.run();
    assert!(outcome.missing_at_end <= 1, "{} of {}", outcome.missing_at_end, outcome.lost);
    assert!(outcome.counters.requested * 10 <= outcome.lost * 13, "1.3 requests per loss");
    assert_eq!(outcome.counters.given_up, outcome.missing_at_end);
}

#[test]
fn a_path_that_reorders_is_learned() {
    // Over RTX a duplicate proves it; on the primary SSRC (whip-whep C57) only an arrival too
    // soon for an answer does, which takes a round trip longer than the reordering.
    for (rtt_ms, repairs_on_primary) in
        [(20, false), (50, false), (200, false), (50, true), (200, true)]
    {
        let path = Sim { reorder_percent: 5, reorder_ms: 20, ..CLEAN };
        let outcome = Sim { rtt_ms, repairs_on_primary, ..path }.run();
        assert_eq!(outcome.missing_at_end, 0);
        assert!(
            outcome.spurious * 2 * 100 <= outcome.sent,
            "at RTT {rtt_ms} ms {} needless requests in {} packets",
            outcome.spurious,
            outcome.sent / 2
        );
    }
}

#[test]
fn loss_beside_reordering_is_still_repaired() {
    let outcome = Sim { loss_percent: 5, reorder_percent: 5, reorder_ms: 10, ..CLEAN }.run();
    assert_eq!(outcome.missing_at_end, 0);
    assert!(outcome.counters.requested * 10 <= outcome.lost * 13);
}

#[test]
fn publisher_that_never_answers_gets_a_bounded_number_of_requests() {
    let outcome = Sim { loss_percent: 5, answers: false, ..CLEAN }.run();
    assert_eq!(outcome.missing_at_end, outcome.lost);
    assert_eq!(outcome.counters.given_up, outcome.lost);
    assert_eq!(outcome.counters.repaired, 0);
    // 0, 55, 124, 210, 317, 452 ms after the gap opened; the seventh would be past 600 ms.
    assert_eq!(outcome.most_requests_for_one, 6);
    assert!(outcome.needs > 0);

    let near = Sim { loss_percent: 1, rtt_ms: 2, answers: false, ..CLEAN }.run();
    assert!(near.most_requests_for_one <= u64::from(MAX_TRIES));
}

/// The numbers that a poll at `now` asks for.
fn poll(generator: &mut NackGenerator, now: Instant) -> Vec<u16> {
    let mut list = NackList::new();
    generator.poll(now, 50 * MS, &mut list);
    list.as_slice().to_vec()
}

#[test]
fn first_request_is_at_once_and_later_ones_wait_for_the_batch() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 100);
    assert_eq!(generator.next_timeout(), None);
    generator.on_packet(start, 102);
    assert_eq!(generator.next_timeout(), Some(start));
    assert_eq!(poll(&mut generator, start), [101]);
    generator.on_packet(start + MS, 105);
    assert_eq!(generator.next_timeout(), Some(start + 10 * MS));
    assert_eq!(poll(&mut generator, start + 9 * MS), [0; 0]);
    assert_eq!(poll(&mut generator, start + 10 * MS), [103, 104]);
    assert_eq!(generator.next_timeout(), Some(start + 55 * MS), "1.1 x RTT");
}

#[test]
fn every_kind_of_arrival_is_classified() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    assert_eq!(generator.on_packet(start, 10_000), Arrival::InOrder);
    assert_eq!(generator.on_packet(start, 9_999), Arrival::Reordered, "before the first");
    assert_eq!(generator.on_packet(start, 9_999), Arrival::Duplicate);
    assert_eq!(generator.on_packet(start, 10_003), Arrival::InOrder);
    assert_eq!(generator.on_packet(start, 10_001), Arrival::Reordered);
    assert_eq!(poll(&mut generator, start), [10_002]);
    assert_eq!(generator.on_packet(start + 50 * MS, 10_002), Arrival::Repaired);
    assert_eq!(generator.on_packet(start + 50 * MS, 10_002), Arrival::Duplicate);
    assert_eq!(generator.on_packet(start, 10_003 - NACK_WINDOW + 1), Arrival::Reordered);
    assert_eq!(generator.on_packet(start, 10_003 - NACK_WINDOW), Arrival::TooOld);
    assert_eq!(
        generator.counters(),
        NackCounters { requested: 1, repaired: 1, given_up: 0, duplicates: 2 }
    );
}

#[test]
fn requests_keep_their_order_across_the_wrap() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 131_069);
    generator.on_packet(start, 131_074);
    assert_eq!(poll(&mut generator, start), [65_534, 65_535, 0, 1]);
}

#[test]
fn gap_at_the_limit_is_repaired_and_one_past_it_needs_a_keyframe() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 100_000);
    generator.on_packet(start, 100_000 + MAX_GAP + 1);
    assert!(!generator.take_keyframe_need());
    assert_eq!(poll(&mut generator, start).len(), NackList::MAX_NUMBERS);
    assert_eq!(poll(&mut generator, start + 10 * MS).len(), 300 - NackList::MAX_NUMBERS);

    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 100_000);
    generator.on_packet(start, 100_000 + MAX_GAP + 2);
    assert!(generator.take_keyframe_need());
    assert!(!generator.take_keyframe_need(), "only once");
    assert_eq!(generator.next_timeout(), None);
    assert_eq!(generator.counters().given_up, 301);
}

#[test]
fn long_jumps_cost_one_keyframe_and_no_requests() {
    let start = Instant::now();
    for jump in [32_768, 40_000, 1 << 40] {
        let mut generator = NackGenerator::new(true);
        generator.on_packet(start, 100_000);
        assert_eq!(generator.on_packet(start, 100_000 + jump), Arrival::InOrder);
        assert!(generator.take_keyframe_need());
        assert_eq!(poll(&mut generator, start + MS), [0; 0]);
        assert_eq!(generator.on_packet(start, 100_001 + jump), Arrival::InOrder);
        assert_eq!(generator.on_packet(start, 100_000), Arrival::TooOld);
        assert_eq!(generator.on_packet(start, jump + 100_000 - 1_023), Arrival::TooOld);
        assert_eq!(generator.on_packet(start, jump + 100_000 - 1_022), Arrival::Reordered);
    }
    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 100_000);
    assert_eq!(generator.on_packet(start, 100_000 - 32_768), Arrival::TooOld);
    assert_eq!(generator.on_packet(start, 100_001), Arrival::InOrder);
    assert!(!generator.take_keyframe_need());
}

#[test]
fn loss_of_a_whole_second_is_one_keyframe_need() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    for n in 0..500 {
        generator.on_packet(start + 2 * MS * n, 70_000 + u64::from(n));
    }
    generator.on_packet(start + 2_000 * MS, 71_000);
    assert!(generator.take_keyframe_need());
    for n in 1..500 {
        let now = start + 2_000 * MS + 2 * MS * n;
        generator.on_packet(now, 71_000 + u64::from(n));
        assert_eq!(poll(&mut generator, now), [0; 0]);
    }
    assert_eq!(generator.counters(), NackCounters { given_up: 500, ..NackCounters::default() });
    assert!(!generator.take_keyframe_need());
}

#[test]
fn gaps_behind_the_window_are_given_up_with_a_keyframe_need() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 70_000);
    for n in 2..=NACK_WINDOW {
        generator.on_packet(start, 70_000 + n);
    }
    assert!(!generator.take_keyframe_need());
    generator.on_packet(start, 70_001 + NACK_WINDOW);
    assert!(generator.take_keyframe_need());
    assert_eq!(generator.counters().given_up, 1);
    assert_eq!(generator.missing.len(), 0);
}

#[test]
fn keyframe_ends_the_need_but_its_own_lost_packet_is_requested() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    generator.on_packet(start, 70_000);
    generator.on_packet(start, 71_000);
    generator.on_packet(start, 71_002); // 71,001 was the keyframe's parameter sets
    generator.on_keyframe(None);
    assert!(!generator.take_keyframe_need());
    assert_eq!(poll(&mut generator, start), [(71_001 % 65_536) as u16]);
}

#[test]
fn gap_before_the_beginning_of_a_keyframe_needs_no_other() {
    let start = Instant::now();
    for (begins, needs) in [(70_005, false), (70_003, true)] {
        let mut generator = NackGenerator::new(true);
        generator.on_packet(start, 70_000);
        generator.on_packet(start + 100 * MS, 70_005); // 70,001 to 70,004 are missing
        generator.on_keyframe(Some(begins));
        while let Some(at) = generator.next_timeout() {
            poll(&mut generator, at);
        }
        assert_eq!(generator.counters().given_up, 4);
        assert_eq!(generator.take_keyframe_need(), needs, "the keyframe begins at {begins}");
    }
}

/// Three gaps of ten packets that are never repaired; returns the next number, and the time.
fn unanswered(generator: &mut NackGenerator, start: Instant) -> (u64, Instant) {
    let (mut seq, mut now) = (70_000, start);
    for _ in 0..3 {
        now += 1_000 * MS;
        generator.on_packet(now, seq);
        seq += 11;
        generator.on_packet(now, seq);
        while let Some(at) = generator.next_timeout() {
            now = at;
            poll(generator, now);
        }
        assert!(generator.take_keyframe_need());
        seq += 1;
    }
    (seq, now)
}

#[test]
fn where_nothing_is_repaired_a_gap_needs_a_keyframe_at_once() {
    let mut generator = NackGenerator::new(true);
    let (seq, now) = unanswered(&mut generator, Instant::now());
    let responsiveness =
        |generator: &NackGenerator| generator.responses().map(|a| a.responsiveness().label());
    assert_eq!(responsiveness(&generator), Some("ignored"));
    generator.on_packet(now, seq);
    generator.on_packet(now, seq + 4);
    assert_eq!(poll(&mut generator, now), [0; 0], "it may only be late");
    assert_eq!(generator.next_timeout(), Some(now + MAX_ALLOWANCE));
    let now = now + MAX_ALLOWANCE;
    assert_eq!(poll(&mut generator, now), [(seq + 1) as u16], "one number, as a probe");
    assert!(generator.take_keyframe_need());
    let given_up = generator.counters().given_up;
    // What comes all the same takes the verdict back.
    assert_eq!(generator.on_packet(now + 40 * MS, seq + 1), Arrival::Repaired);
    assert_eq!(generator.on_packet(now + 40 * MS, seq + 2), Arrival::Reordered);
    assert_eq!(responsiveness(&generator), Some("answered"));
    assert_eq!(poll(&mut generator, now + 60 * MS), [0; 0]);
    assert_eq!(generator.next_timeout(), None);
    assert_eq!((given_up, generator.take_keyframe_need()), (30 + 2, false));
}

#[test]
fn failed_probe_needs_no_second_keyframe_and_the_next_comes_later() {
    let mut generator = NackGenerator::new(true);
    let (mut seq, mut now) = unanswered(&mut generator, Instant::now());
    let mut probed = Vec::new();
    let start = now;
    for n in 0..12 {
        now = start + 1_000 * MS * n;
        generator.on_packet(now, seq);
        generator.on_packet(now, seq + 2);
        seq += 3;
        let mut needs = 0;
        while let Some(at) = generator.next_timeout() {
            let asked = !poll(&mut generator, at).is_empty();
            needs += u32::from(generator.take_keyframe_need());
            if asked && probed.last() != Some(&n) {
                probed.push(n);
            }
        }
        assert_eq!(needs, 1, "hole {n}");
    }
    assert_eq!(probed, [0, 5, 10]);
}

#[test]
fn encoder_that_starts_anew_is_still_known() {
    let mut generator = NackGenerator::new(true);
    let (_, now) = unanswered(&mut generator, Instant::now());
    let counted = generator.counters();
    generator.restart();
    assert_eq!(generator.on_packet(now, 5), Arrival::InOrder, "numbers begin anywhere");
    assert_eq!(generator.counters(), counted);
    assert_eq!(generator.responses().map(ResponseStats::requested), Some(30));
}

#[test]
fn without_nack_negotiated_nothing_is_requested_and_a_gap_needs_a_keyframe() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(false);
    generator.on_packet(start, 70_000);
    generator.on_packet(start, 70_003);
    assert!(poll(&mut generator, start).is_empty() && !generator.take_keyframe_need());
    assert!(poll(&mut generator, start + MAX_ALLOWANCE).is_empty());
    assert!(generator.take_keyframe_need());
    assert_eq!(generator.next_timeout(), None);
    assert_eq!(generator.counters(), NackCounters { given_up: 2, ..NackCounters::default() });
    assert!(generator.responses().is_none());
}

#[test]
fn the_worst_pattern_of_losses_fits_64_pairs() {
    let start = Instant::now();
    let mut generator = NackGenerator::new(true);
    // Every 17th number is missing, so no two share a pair of id and 16-bit mask.
    for seq in (65_536..65_536 + 2 * NACK_WINDOW).filter(|seq| seq % 17 != 0) {
        generator.on_packet(start, seq);
    }
    let asked = poll(&mut generator, start);
    assert!(asked.windows(2).all(|two| two[1] - two[0] == 17));
    assert!((58..=64).contains(&asked.len()), "{} pairs", asked.len()); // quality B2
}

proptest::proptest! {
    #[test]
    fn arrivals_agree_with_a_plain_set_of_all_numbers(
        steps in proptest::collection::vec((0u64..40, -1_100i64..500, 0u8..20), 1..400),
    ) {
        let mut now = Instant::now();
        let mut generator = NackGenerator::new(true);
        let mut came = BTreeSet::new();
        let mut seq = 200_000u64;
        for (ms, step, rare) in steps {
            now += Duration::from_millis(ms);
            let highest = came.last().copied().unwrap_or(seq);
            seq = match rare {
                0..4 => highest.saturating_add_signed(step),
                4..8 => highest.saturating_add_signed(step / 50),
                _ => highest + 1,
            };
            let arrival = generator.on_packet(now, seq);
            let fresh = came.insert(seq);
            match arrival {
                Arrival::InOrder => assert!(fresh && came.last() == Some(&seq)),
                Arrival::Reordered | Arrival::Repaired => assert!(fresh && seq < highest),
                Arrival::Duplicate => assert!(!fresh),
                Arrival::TooOld => assert!(highest - seq >= NACK_WINDOW),
            }
            if generator.next_timeout().is_some_and(|at| at <= now) {
                let highest = came.last().copied().unwrap();
                for short in poll(&mut generator, now) {
                    let asked = highest - u64::from((highest as u16).wrapping_sub(short));
                    assert!(!came.contains(&asked) && highest - asked < NACK_WINDOW);
                }
                assert!(generator.next_timeout().is_none_or(|at| at > now), "no busy loop");
            }
            assert!(generator.missing.len() < NACK_WINDOW as usize);
        }
    }
}
