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
use crate::rtp::window::SeqWindow;

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
    /// Numbers that came, of the last [`NACK_WINDOW`].
    received: SeqWindow<{ (NACK_WINDOW / 64) as usize }>,
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
            received: SeqWindow::EMPTY,
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
        black_box(self.received.contains(self.highest.unwrap_or(0)));
    }

    /// Takes note of a packet, directly received or unwrapped from RTX, and tells what it was.
    pub fn on_packet(&mut self, now: Instant, ext_seq: u64) -> Arrival {
        let Some(highest) = self.highest else {
            self.highest = Some(ext_seq);
            self.received.insert(ext_seq);
            return Arrival::InOrder;
        };
        let Some(behind) = highest.checked_sub(ext_seq) else {
            self.advance(now, highest, ext_seq);
            return Arrival::InOrder;
        };
        if behind >= NACK_WINDOW {
            return Arrival::TooOld;
        }
        if !self.received.insert(ext_seq) {
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
            && (self.received.contains(ext_seq)
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
        self.received.clear(highest + 1..ext_seq);
        self.received.insert(ext_seq);
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

#[cfg(test)]
mod tests;
