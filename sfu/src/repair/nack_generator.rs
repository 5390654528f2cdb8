//! Generator of NACKs for one incoming SSRC: which missing packets are requested, and when.
//!
//! Owns the list of missing packets, the pace of requests, and when a packet is given up. Never
//! holds packets back, never sees bytes, never writes RTCP. Called by the publisher side of
//! `worker` for each packet (also for one unwrapped from RTX, so that it closes its gap) and at
//! each of its timeouts. What it requests is written by `rtp::rtcp`. Whether requests help is
//! learned in `nack_response.rs`; where they do not, a loss needs a keyframe at once. Next:
//! `keyframe_planner.rs`, for what cannot be repaired.
//!
//! Source: quality A3.2. An unpaced generator makes a browser repeat more than half of all it
//! sends. So a request is repeated only after a round trip, with backoff, and not for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::nack_list::NackList;
use super::nack_response::NackResponse;
use super::reordering::{MAX_ALLOWANCE, Reordering};
use super::responses::ResponseStats;
use crate::rtp::window::SeqWindow;
use crate::warm::warm;

/// Packets behind the newest that are tracked one by one. An older packet is [`Arrival::TooOld`]; a
/// missing one that falls behind is given up.
pub const NACK_WINDOW: u64 = 1_024;

/// Longest gap in packets that is repaired; a longer one is given up as a whole.
pub const MAX_GAP: u64 = 300;

/// Age of a gap up to which it is requested; afterwards it is given up.
pub const MAX_AGE: Duration = Duration::from_millis(600);

/// Maximum requests for one packet; afterwards it is only waited for until [`MAX_AGE`].
pub const MAX_TRIES: u8 = 10;

/// Minimum time between two NACKs: gaps that open in between share one RTCP packet.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Minimum time before a request is repeated, however short the round trip.
const MIN_REPEAT: Duration = Duration::from_millis(20);

/// Longest round trip that is used: a repeat later than [`MAX_AGE`] is of no use.
const MAX_RTT: Duration = Duration::from_secs(1);

/// Factor by which each repeat waits longer than the one before.
const BACKOFF: f64 = 1.25;

/// Kind of an arriving packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The newest so far, whether or not it opened a gap.
    InOrder,
    /// Late, and it had not been requested.
    Reordered,
    /// Late, and it had been requested.
    Repaired,
    /// Received before. Drop it.
    Duplicate,
    /// Further back than [`NACK_WINDOW`]. Drop it.
    TooOld,
}

/// Cumulative counts, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NackCounters {
    /// Requests sent; one packet requested three times counts three.
    pub requested: u64,
    /// Packets that came after they had been requested.
    pub repaired: u64,
    /// Packets that are no longer requested: lost, except the rare one that still comes.
    pub given_up: u64,
    /// Packets that came more than once.
    pub duplicates: u64,
}

/// Missing packets of one incoming SSRC and the paced requests for them.
///
/// Numbers are extended sequence numbers (RFC 3550 A.1) of the primary SSRC. A sender that starts
/// again far below its old numbers is not followed: SRTP's replay window stops it earlier.
#[derive(Debug)]
pub struct NackGenerator {
    highest: Option<u64>,
    /// Numbers received, of the last [`NACK_WINDOW`].
    received: SeqWindow<{ (NACK_WINDOW / 64) as usize }>,
    /// Sorted by number and therefore by age. At most [`NACK_WINDOW`] long. Packets that came stay
    /// until they reach the front, because a duplicate of one tells how the path reorders.
    missing: VecDeque<MissingPacket>,
    reordering: Reordering,
    rtt: Duration,
    next_due: Option<Instant>,
    last_batch: Option<Instant>,
    keyframe_need: bool,
    /// Packets missing before this number were replaced by a keyframe.
    replaced_before: u64,
    negotiated: bool,
    responses: NackResponse,
    counters: NackCounters,
}

impl NackGenerator {
    /// Creates a generator that has received nothing. Without NACK negotiated it requests no
    /// packet, and each loss needs a keyframe.
    pub fn new(negotiated: bool) -> Self {
        Self {
            highest: None,
            received: SeqWindow::EMPTY,
            missing: VecDeque::with_capacity(64),
            reordering: Reordering::default(),
            rtt: Duration::ZERO,
            next_due: None,
            last_batch: None,
            keyframe_need: false,
            replaced_before: 0,
            negotiated,
            responses: NackResponse::default(),
            counters: NackCounters::default(),
        }
    }

    /// Notes that the encoder starts anew with other numbers: what was learned and counted stays.
    pub fn restart(&mut self) {
        let responses = std::mem::take(&mut self.responses);
        *self = Self { responses, counters: self.counters, ..Self::new(self.negotiated) };
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.highest, self.next_due, self.missing.is_empty());
        warm!(self.received.contains(self.highest.unwrap_or(0)));
    }

    /// Records a packet, directly received or unwrapped from RTX, and returns its kind.
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
        self.on_late_packet(now, ext_seq)
    }

    /// Whether a second packet of this number can be classified: the first came, or is missing.
    pub fn knows(&self, ext_seq: u64) -> bool {
        let behind = self.highest.and_then(|highest| highest.checked_sub(ext_seq));
        behind.is_some_and(|behind| behind < NACK_WINDOW)
            && (self.received.contains(ext_seq)
                || self.missing.binary_search_by_key(&ext_seq, |packet| packet.seq).is_ok())
    }

    /// Records a keyframe: packets given up before it need no further one. Gaps before it are still
    /// requested while they are young: the keyframe's own first packet may be among them, and the
    /// pictures before it are still shown. `begins` is its first number if that is certain; packets
    /// before that number need no keyframe even if they are given up later.
    pub fn on_keyframe(&mut self, begins: Option<u64>) {
        self.keyframe_need = false;
        self.replaced_before = self.replaced_before.max(begins.unwrap_or(0));
    }

    /// Overwrites `out` with the numbers to request now, oldest first; empty when none is due. What
    /// does not fit follows in the next NACK.
    ///
    /// The first request follows after the reorder allowance: none on a path that never reordered,
    /// else the 95th percentile of what it did, at most 20 ms. Repeats follow after max(1.1 x
    /// `rtt`, 20 ms), and each a quarter later than the one before. A publisher that does not
    /// answer gets one request once in a while; all other gaps need a keyframe after 20 ms.
    pub fn poll(&mut self, now: Instant, rtt: Duration, out: &mut NackList) {
        out.clear();
        self.rtt = rtt.min(MAX_RTT);
        if self.next_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.give_up_front(now, |packet| now.saturating_duration_since(packet.opened) >= MAX_AGE);
        let repeat = self.rtt.mul_f64(1.1).max(MIN_REPEAT);
        let is_ignored = !self.negotiated || self.responses.is_ignored();
        for packet in self.missing.iter_mut().filter(|packet| packet.is_due(now)) {
            if is_ignored && !packet.probe {
                let wait_until = packet.opened + MAX_ALLOWANCE;
                if now < wait_until {
                    // A keyframe costs more than a request: first see whether the packet is only
                    // late.
                    packet.due = wait_until;
                    continue;
                }
                self.keyframe_need |= packet.seq >= self.replaced_before;
                if !(self.negotiated && self.responses.take_probe(now)) {
                    packet.state = MissingState::GivenUp;
                    self.counters.given_up += 1;
                    continue;
                }
                packet.probe = true;
            }
            if !out.push(packet.seq as u16) {
                break;
            }
            if packet.tries == 0 {
                self.responses.on_requested();
            }
            packet.on_requested(now, repeat);
            self.counters.requested += 1;
        }
        if !out.is_empty() {
            self.last_batch = Some(now);
        }
        self.next_due = self.missing.iter().filter_map(MissingPacket::deadline).min();
    }

    /// Time at which [`Self::poll`] has something to do; `None` while nothing is missing.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due = self.next_due?;
        Some(self.last_batch.map_or(due, |last| due.max(last + BATCH_INTERVAL)))
    }

    /// Returns true once after a packet was given up that no keyframe has replaced: a keyframe is
    /// needed.
    pub fn take_keyframe_need(&mut self) -> bool {
        std::mem::take(&mut self.keyframe_need)
    }

    /// Responses of the publisher to requests; `None` where NACK was not negotiated.
    pub fn responses(&self) -> Option<&ResponseStats> {
        self.negotiated.then(|| self.responses.counts())
    }

    /// Counts so far.
    pub fn counters(&self) -> NackCounters {
        self.counters
    }

    fn advance(&mut self, now: Instant, highest: u64, ext_seq: u64) {
        self.highest = Some(ext_seq);
        self.received.clear(highest + 1..ext_seq);
        self.received.insert(ext_seq);
        self.give_up_front(now, |packet| ext_seq - packet.seq >= NACK_WINDOW);
        let missing = ext_seq - highest - 1;
        if missing > MAX_GAP {
            self.counters.given_up += missing;
            self.keyframe_need = true;
        } else if missing > 0 {
            let due = now + self.reordering.allowance(now);
            self.missing
                .extend((highest + 1..ext_seq).map(|seq| MissingPacket::new(seq, now, due)));
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
    }

    fn on_late_packet(&mut self, now: Instant, ext_seq: u64) -> Arrival {
        // Not tracked: it was given up long ago, or is older than the first packet.
        let Some(packet) = find(&mut self.missing, ext_seq) else { return Arrival::Reordered };
        let lateness = now.saturating_duration_since(packet.opened);
        let Some(requested) = packet.first_requested else {
            packet.state = MissingState::Closed;
            self.reordering.learn(now, lateness);
            return Arrival::Reordered;
        };
        if now.saturating_duration_since(requested) < self.rtt / 2 {
            // Too soon for an answer: the original was on its way all the time.
            packet.state = MissingState::Closed;
            self.reordering.learn(now, lateness);
        } else {
            packet.state = MissingState::Repaired { lateness };
            self.responses.on_repair(now.saturating_duration_since(requested));
        }
        self.counters.repaired += 1;
        Arrival::Repaired
    }

    /// Learns from a packet that was requested once and came twice, as original and as
    /// retransmission: it was late, not lost.
    fn learn_from_duplicate(&mut self, now: Instant, ext_seq: u64) {
        if let Some(packet) = find(&mut self.missing, ext_seq)
            && let MissingState::Repaired { lateness } = packet.state
            && packet.tries == 1
        {
            packet.state = MissingState::Closed;
            self.reordering.learn(now, lateness);
        }
    }

    fn give_up_front(&mut self, now: Instant, gone: impl Fn(&MissingPacket) -> bool) {
        while let Some(packet) = self.missing.front()
            && gone(packet)
        {
            if packet.state == MissingState::Open {
                self.counters.given_up += 1;
                self.responses.on_given_up(now, packet.tries);
                self.keyframe_need |= !packet.probe && packet.seq >= self.replaced_before;
            }
            self.missing.pop_front();
        }
    }
}

fn find(missing: &mut VecDeque<MissingPacket>, seq: u64) -> Option<&mut MissingPacket> {
    let index = missing.binary_search_by_key(&seq, |packet| packet.seq).ok()?;
    missing.get_mut(index)
}

/// One packet that did not come in order.
#[derive(Debug)]
struct MissingPacket {
    seq: u64,
    opened: Instant,
    due: Instant,
    first_requested: Option<Instant>,
    tries: u8,
    state: MissingState,
    /// Requested as a probe: the keyframe that replaces it is requested already.
    probe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MissingState {
    Open,
    /// Came after it was requested; a duplicate would prove that it had only been late.
    Repaired {
        lateness: Duration,
    },
    /// No longer requested, since its publisher does not answer; it may still come late.
    GivenUp,
    Closed,
}

impl MissingPacket {
    fn new(seq: u64, opened: Instant, due: Instant) -> Self {
        let state = MissingState::Open;
        Self { seq, opened, due, first_requested: None, tries: 0, state, probe: false }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.state == MissingState::Open && self.tries < MAX_TRIES && self.due <= now
    }

    fn on_requested(&mut self, now: Instant, repeat: Duration) {
        self.first_requested.get_or_insert(now);
        self.due = now + repeat.mul_f64(BACKOFF.powi(i32::from(self.tries)));
        self.tries += 1;
    }

    /// Time at which the packet must be requested again or given up.
    fn deadline(&self) -> Option<Instant> {
        let end = self.opened + MAX_AGE;
        (self.state == MissingState::Open).then_some(if self.tries < MAX_TRIES {
            self.due.min(end)
        } else {
            end
        })
    }
}

#[cfg(test)]
mod tests;
