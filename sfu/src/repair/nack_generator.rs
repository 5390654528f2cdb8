//! Decides which missing packets of one incoming SSRC to ask for again, and when.
//!
//! Owns the list of holes, their pace and the end of hope. Never holds packets back, never sees
//! bytes, never writes RTCP. Called by the publisher side of `worker` for each packet (also for one
//! unwrapped from RTX, so that a repair closes its hole) and at each of its timeouts; what it asks
//! for is written by `rtp::rtcp`. Whether asking helps is learned in `nack_response.rs`; where it does not,
//! a hole needs a keyframe at once. Next: `keyframe_planner.rs`, for what cannot be repaired.
//!
//! Source: quality A3.2. An unpaced generator makes a browser repeat more than half of all it
//! sends, so a request is repeated only after a round trip, with backoff, and not for ever.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::nack_list::NackList;
use super::nack_response::NackResponse;
use super::reordering::{MAX_ALLOWANCE, Reordering};
use super::responses::ResponseStats;

/// Packets behind the newest that are still known one by one. An older one is
/// [`Arrival::TooOld`]; an open hole that falls behind is given up.
pub const NACK_WINDOW: u64 = 1_024;

/// Longest hole in packets that is worth repairing; a longer one is given up as a whole.
pub const MAX_HOLE: u64 = 300;

/// Oldest hole that is asked for; afterwards it is given up.
pub const MAX_AGE: Duration = Duration::from_millis(600);

/// Most requests for one packet; afterwards it is only waited for until [`MAX_AGE`].
pub const MAX_TRIES: u8 = 10;

/// Shortest time between two batches: holes that open in between share one RTCP packet.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// A request is repeated no sooner than this, however short the round trip.
const MIN_REPEAT: Duration = Duration::from_millis(20);

/// Longer round trips are taken as this long: a repeat later than [`MAX_AGE`] is none.
const MAX_RTT: Duration = Duration::from_secs(1);

/// Each repeat waits this much longer than the one before.
const BACKOFF: f64 = 1.25;

/// What an arriving packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The newest so far, whether or not it opened a hole.
    InOrder,
    /// Late, and it had not been asked for.
    Reordered,
    /// Late, and it had been asked for.
    Repaired,
    /// Seen before. Drop it.
    Duplicate,
    /// Further back than [`NACK_WINDOW`]. Drop it.
    TooOld,
}

/// Cumulative counts, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NackCounters {
    /// Requests sent; one packet asked for three times counts three.
    pub requested: u64,
    /// Packets that came after they had been asked for.
    pub repaired: u64,
    /// Packets that are no longer asked for: lost, save the rare one that still comes.
    pub given_up: u64,
    /// Packets that came more than once.
    pub duplicates: u64,
}

/// Finds holes in one incoming SSRC and paces the requests for them.
///
/// Numbers are extended sequence numbers (RFC 3550 A.1) of the primary SSRC. A sender that starts
/// again far below its old numbers is not followed: SRTP's replay window stops it earlier.
#[derive(Debug)]
pub struct NackGenerator {
    highest: Option<u64>,
    seen: Seen,
    /// Sorted by number and therefore by age. At most [`NACK_WINDOW`] long; closed ones stay until
    /// they leave the front, because a duplicate of one teaches us the path's reordering.
    holes: VecDeque<Hole>,
    reordering: Reordering,
    rtt: Duration,
    next_due: Option<Instant>,
    last_batch: Option<Instant>,
    keyframe_need: bool,
    /// What is missing before this number a keyframe has replaced.
    replaced: u64,
    negotiated: bool,
    answers: NackResponse,
    counters: NackCounters,
}

impl NackGenerator {
    /// A generator that has seen nothing yet. Without NACK negotiated it asks for nothing and needs a
    /// keyframe for each hole.
    pub fn new(negotiated: bool) -> Self {
        Self {
            highest: None,
            seen: Seen::default(),
            holes: VecDeque::with_capacity(64),
            reordering: Reordering::default(),
            rtt: Duration::ZERO,
            next_due: None,
            last_batch: None,
            keyframe_need: false,
            replaced: 0,
            negotiated,
            answers: NackResponse::default(),
            counters: NackCounters::default(),
        }
    }

    /// The encoder starts anew with other numbers: what was learned and counted stays.
    pub fn restart(&mut self) {
        let answers = std::mem::take(&mut self.answers);
        *self = Self { answers, counters: self.counters, ..Self::new(self.negotiated) };
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box((self.highest, self.next_due, self.holes.is_empty()));
        black_box(self.seen.contains(self.highest.unwrap_or(0)));
    }

    /// Takes note of a packet, directly received or unwrapped from RTX, and tells what it was.
    pub fn on_packet(&mut self, now: Instant, ext_seq: u64) -> Arrival {
        let Some(highest) = self.highest else {
            self.highest = Some(ext_seq);
            self.seen.insert(ext_seq);
            return Arrival::InOrder;
        };
        let Some(behind) = highest.checked_sub(ext_seq) else {
            self.advance(now, highest, ext_seq);
            return Arrival::InOrder;
        };
        if behind >= NACK_WINDOW {
            return Arrival::TooOld;
        }
        if !self.seen.insert(ext_seq) {
            self.counters.duplicates += 1;
            self.learn_from_duplicate(now, ext_seq);
            return Arrival::Duplicate;
        }
        self.close_hole(now, ext_seq)
    }

    /// Whether a repeat of this number can be told apart: it came before, or it is missed.
    pub fn knows(&self, ext_seq: u64) -> bool {
        let behind = self.highest.and_then(|highest| highest.checked_sub(ext_seq));
        behind.is_some_and(|behind| behind < NACK_WINDOW)
            && (self.seen.contains(ext_seq)
                || self.holes.binary_search_by_key(&ext_seq, |hole| hole.seq).is_ok())
    }

    /// A keyframe came: what was given up before it needs no further one. Holes before it are still
    /// asked for while they are young: the keyframe's own first packet may be among them, and the
    /// pictures before it are still shown. `begins` is its first number if that is sure: what is given up
    /// before that later needs none either.
    pub fn on_keyframe(&mut self, begins: Option<u64>) {
        self.keyframe_need = false;
        self.replaced = self.replaced.max(begins.unwrap_or(0));
    }

    /// Overwrites `out` with the numbers to ask for now, oldest first; empty when none is due.
    /// What does not fit follows in the next batch.
    ///
    /// First request after the reorder allowance (none on a path that never reordered, else the
    /// 95th percentile of what it did, at most 20 ms), repeats after max(1.1 x `rtt`, 20 ms) and
    /// each time a quarter later. A publisher that does not answer is asked for a number once in a while;
    /// all others need a keyframe after 20 ms.
    pub fn poll(&mut self, now: Instant, rtt: Duration, out: &mut NackList) {
        out.clear();
        self.rtt = rtt.min(MAX_RTT);
        if self.next_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.give_up_front(now, |hole| now.saturating_duration_since(hole.opened) >= MAX_AGE);
        let repeat = self.rtt.mul_f64(1.1).max(MIN_REPEAT);
        let hopeless = !self.negotiated || self.answers.are_ignored();
        for hole in self.holes.iter_mut().filter(|hole| hole.is_due(now)) {
            if hopeless && !hole.probe {
                let patience = hole.opened + MAX_ALLOWANCE;
                if now < patience {
                    // A keyframe costs more than a request: first see whether it is only late.
                    hole.due = patience;
                    continue;
                }
                self.keyframe_need |= hole.seq >= self.replaced;
                if !(self.negotiated && self.answers.take_probe(now)) {
                    hole.state = HoleState::GivenUp;
                    self.counters.given_up += 1;
                    continue;
                }
                hole.probe = true;
            }
            if !out.push(hole.seq as u16) {
                break;
            }
            if hole.tries == 0 {
                self.answers.on_asked();
            }
            hole.asked(now, repeat);
            self.counters.requested += 1;
        }
        if !out.is_empty() {
            self.last_batch = Some(now);
        }
        self.next_due = self.holes.iter().filter_map(Hole::deadline).min();
    }

    /// When [`Self::poll`] has something to do; none while nothing is missing.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due = self.next_due?;
        Some(self.last_batch.map_or(due, |last| due.max(last + BATCH_INTERVAL)))
    }

    /// True once after something was given up that no keyframe has replaced: ask for a keyframe.
    pub fn take_keyframe_need(&mut self) -> bool {
        std::mem::take(&mut self.keyframe_need)
    }

    /// Whether asking helps; `None` where NACK was not negotiated.
    pub fn answers(&self) -> Option<&ResponseStats> {
        self.negotiated.then(|| self.answers.counts())
    }

    /// What happened so far.
    pub fn counters(&self) -> NackCounters {
        self.counters
    }

    fn advance(&mut self, now: Instant, highest: u64, ext_seq: u64) {
        self.highest = Some(ext_seq);
        self.seen.advance(highest, ext_seq);
        self.give_up_front(now, |hole| ext_seq - hole.seq >= NACK_WINDOW);
        let missing = ext_seq - highest - 1;
        if missing > MAX_HOLE {
            self.counters.given_up += missing;
            self.keyframe_need = true;
        } else if missing > 0 {
            let due = now + self.reordering.allowance(now);
            self.holes.extend((highest + 1..ext_seq).map(|seq| Hole::new(seq, now, due)));
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
    }

    fn close_hole(&mut self, now: Instant, ext_seq: u64) -> Arrival {
        // No hole: it was given up long ago, or is older than the first packet.
        let Some(hole) = find(&mut self.holes, ext_seq) else { return Arrival::Reordered };
        let lateness = now.saturating_duration_since(hole.opened);
        let Some(asked) = hole.first_asked else {
            hole.state = HoleState::Closed;
            self.reordering.learn(now, lateness);
            return Arrival::Reordered;
        };
        if now.saturating_duration_since(asked) < self.rtt / 2 {
            // Too soon for an answer: the original was on its way all the time.
            hole.state = HoleState::Closed;
            self.reordering.learn(now, lateness);
        } else {
            hole.state = HoleState::Repaired { lateness };
            self.answers.on_repair(now.saturating_duration_since(asked));
        }
        self.counters.repaired += 1;
        Arrival::Repaired
    }

    /// Asked for once and come twice: original and repair. So it was late, not lost.
    fn learn_from_duplicate(&mut self, now: Instant, ext_seq: u64) {
        if let Some(hole) = find(&mut self.holes, ext_seq)
            && let HoleState::Repaired { lateness } = hole.state
            && hole.tries == 1
        {
            hole.state = HoleState::Closed;
            self.reordering.learn(now, lateness);
        }
    }

    fn give_up_front(&mut self, now: Instant, gone: impl Fn(&Hole) -> bool) {
        while let Some(hole) = self.holes.front()
            && gone(hole)
        {
            if hole.state == HoleState::Open {
                self.counters.given_up += 1;
                self.answers.on_given_up(now, hole.tries);
                self.keyframe_need |= !hole.probe && hole.seq >= self.replaced;
            }
            self.holes.pop_front();
        }
    }
}

fn find(holes: &mut VecDeque<Hole>, seq: u64) -> Option<&mut Hole> {
    let index = holes.binary_search_by_key(&seq, |hole| hole.seq).ok()?;
    holes.get_mut(index)
}

/// One number that did not come in its turn.
#[derive(Debug)]
struct Hole {
    seq: u64,
    opened: Instant,
    due: Instant,
    first_asked: Option<Instant>,
    tries: u8,
    state: HoleState,
    /// Asked for without hope: the keyframe that replaces it is needed already.
    probe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoleState {
    Open,
    /// Came after it was asked for; a duplicate would prove that it had only been late.
    Repaired {
        lateness: Duration,
    },
    /// Not asked for any more, since its publisher does not answer; it may still come late.
    GivenUp,
    Closed,
}

impl Hole {
    fn new(seq: u64, opened: Instant, due: Instant) -> Self {
        let state = HoleState::Open;
        Self { seq, opened, due, first_asked: None, tries: 0, state, probe: false }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.state == HoleState::Open && self.tries < MAX_TRIES && self.due <= now
    }

    fn asked(&mut self, now: Instant, repeat: Duration) {
        self.first_asked.get_or_insert(now);
        self.due = now + repeat.mul_f64(BACKOFF.powi(i32::from(self.tries)));
        self.tries += 1;
    }

    /// When it must be asked for again or given up.
    fn deadline(&self) -> Option<Instant> {
        let end = self.opened + MAX_AGE;
        (self.state == HoleState::Open).then_some(if self.tries < MAX_TRIES {
            self.due.min(end)
        } else {
            end
        })
    }
}

/// Which of the last [`NACK_WINDOW`] numbers came.
#[derive(Debug, Default)]
struct Seen([u64; (NACK_WINDOW / 64) as usize]);

impl Seen {
    /// False if it was there already.
    fn insert(&mut self, seq: u64) -> bool {
        let (word, bit) = self.locate(seq);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn contains(&self, seq: u64) -> bool {
        let slot = seq % NACK_WINDOW;
        let word = self.0.get((slot / 64) as usize).copied().unwrap_or(0);
        word & (1 << (slot % 64)) != 0
    }

    /// Moves the window from `highest` to `next`, which came; all between is missing.
    fn advance(&mut self, highest: u64, next: u64) {
        let oldest = next.saturating_sub(NACK_WINDOW - 1).max(highest + 1);
        for seq in oldest..next {
            let (word, bit) = self.locate(seq);
            *word &= !bit;
        }
        let (word, bit) = self.locate(next);
        *word |= bit;
    }

    fn locate(&mut self, seq: u64) -> (&mut u64, u64) {
        let slot = seq % NACK_WINDOW;
        let word = self.0.get_mut((slot / 64) as usize).expect("slot < NACK_WINDOW");
        (word, 1 << (slot % 64))
    }
}

#[cfg(test)]
mod tests {
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
            outcome.most_requests_for_one =
                requests_per_packet.values().copied().max().unwrap_or(0);
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
    fn repairs_that_are_lost_too_are_asked_for_again() {
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
    fn publisher_that_never_answers_is_asked_a_bounded_number_of_times() {
        let outcome = Sim { loss_percent: 5, answers: false, ..CLEAN }.run();
        assert_eq!(outcome.missing_at_end, outcome.lost);
        assert_eq!(outcome.counters.given_up, outcome.lost);
        assert_eq!(outcome.counters.repaired, 0);
        // 0, 55, 124, 210, 317, 452 ms after the hole opened; the seventh would be past 600 ms.
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
    fn every_arrival_is_told_apart() {
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
    fn hole_at_the_limit_is_repaired_and_one_past_it_needs_a_keyframe() {
        let start = Instant::now();
        let mut generator = NackGenerator::new(true);
        generator.on_packet(start, 100_000);
        generator.on_packet(start, 100_000 + MAX_HOLE + 1);
        assert!(!generator.take_keyframe_need());
        assert_eq!(poll(&mut generator, start).len(), NackList::MAX_NUMBERS);
        assert_eq!(poll(&mut generator, start + 10 * MS).len(), 300 - NackList::MAX_NUMBERS);

        let mut generator = NackGenerator::new(true);
        generator.on_packet(start, 100_000);
        generator.on_packet(start, 100_000 + MAX_HOLE + 2);
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
    fn a_whole_second_lost_is_one_keyframe_need() {
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
    fn holes_behind_the_window_are_given_up_with_a_keyframe_need() {
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
        assert_eq!(generator.holes.len(), 0);
    }

    #[test]
    fn a_keyframe_ends_the_need_but_its_own_lost_packet_is_asked_for() {
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
    fn hole_before_the_beginning_of_a_keyframe_needs_no_other() {
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

    /// Three holes of ten numbers of which nothing comes back; the next number, and the time.
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
    fn where_nothing_is_repaired_a_hole_needs_a_keyframe_at_once() {
        let mut generator = NackGenerator::new(true);
        let (seq, now) = unanswered(&mut generator, Instant::now());
        let habit = |generator: &NackGenerator| generator.answers().map(|a| a.habit().label());
        assert_eq!(habit(&generator), Some("ignored"));
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
        assert_eq!(habit(&generator), Some("answered"));
        assert_eq!(poll(&mut generator, now + 60 * MS), [0; 0]);
        assert_eq!(generator.next_timeout(), None);
        assert_eq!((given_up, generator.take_keyframe_need()), (30 + 2, false));
    }

    #[test]
    fn probe_that_fails_needs_no_second_keyframe_and_the_next_comes_later() {
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
        assert_eq!(generator.answers().map(ResponseStats::asked), Some(30));
    }

    #[test]
    fn without_nack_negotiated_nothing_is_asked_and_a_hole_needs_a_keyframe() {
        let start = Instant::now();
        let mut generator = NackGenerator::new(false);
        generator.on_packet(start, 70_000);
        generator.on_packet(start, 70_003);
        assert!(poll(&mut generator, start).is_empty() && !generator.take_keyframe_need());
        assert!(poll(&mut generator, start + MAX_ALLOWANCE).is_empty());
        assert!(generator.take_keyframe_need());
        assert_eq!(generator.next_timeout(), None);
        assert_eq!(generator.counters(), NackCounters { given_up: 2, ..NackCounters::default() });
        assert!(generator.answers().is_none());
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
                assert!(generator.holes.len() < NACK_WINDOW as usize);
            }
        }
    }
}
