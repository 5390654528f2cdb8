//! Receiver of transport-wide congestion control: when each packet of one publisher arrived.
//!
//! The publisher's own estimator needs it to find its rate. Owns arrival times by transport-wide
//! number and the pace of feedback. Never estimates, never writes RTCP: `worker` hands each
//! [`TwccReport`] to `rtp::rtcp`. Format and rules:
//! draft-holmer-rmcat-transport-wide-cc-extensions-01; pace: quality A1.4 "Upstream".

use std::time::{Duration, Instant};

use crate::warm::warm;

/// Numbers behind the newest whose arrival is remembered; older losses go unreported.
pub const TWCC_WINDOW: u64 = 1_024;

/// Maximum statuses in one feedback; the rest follows in the next one at once.
pub const MAX_STATUSES: usize = 256;

/// Interval of feedback for a publisher below [`FAST_RATE`].
const SLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Interval of feedback for a publisher at or above [`FAST_RATE`].
const FAST_INTERVAL: Duration = Duration::from_millis(50);

/// Feedback may be early by this part of its interval, if packets arrive just then.
const EARLY_PART: u32 = 5;

/// Packets per second from which on feedback is sent at the fast interval. Slower publishers get
/// less, to keep feedback near 5 % of their rate.
const FAST_RATE: u128 = 500;

/// Unit of arrival times on the wire, in microseconds.
const TICK_US: u128 = 250;

/// Ticks in one unit (64 ms) of the reference time.
const TICKS_PER_REFERENCE: i64 = 256;

/// Slot of a number that has not arrived.
const ABSENT: i64 = i64::MIN;

/// One feedback, ready for the RTCP writer.
#[derive(Debug, PartialEq, Eq)]
pub struct TwccReport<'a> {
    /// Transport-wide number of the first status.
    pub base_seq: u16,
    /// Count of feedbacks, wrapping.
    pub feedback_count: u8,
    /// Reference time in units of 64 ms, signed 24 bit.
    pub reference_time_64ms: i32,
    /// One status per number from `base_seq` on: arrival in ticks of 250 µs after the reference
    /// time, or `None` if it has not arrived. At least one has, the first within 256 ticks, and
    /// neighbours differ by what a signed 16-bit delta holds.
    pub arrivals: &'a [Option<i64>],
}

/// Arrival times of one publisher's packets, over all its SSRCs.
#[derive(Debug)]
pub struct TwccReceiver {
    /// Arrival in ticks after `epoch` by number modulo [`TWCC_WINDOW`].
    slots: Box<[i64]>,
    epoch: Option<Instant>,
    /// Newest number that arrived, unwrapped.
    highest: u64,
    /// First number that the next feedback covers.
    next: u64,
    /// Number that would confirm a sender that started again far behind.
    restart: Option<u16>,
    due: Option<Instant>,
    last_feedback: Option<Instant>,
    interval: Duration,
    arrived_since_feedback: u32,
    feedback_count: u8,
    statuses: [Option<i64>; MAX_STATUSES],
}

impl Default for TwccReceiver {
    fn default() -> Self {
        Self::new()
    }
}

impl TwccReceiver {
    /// Creates a receiver of which nothing has arrived.
    pub fn new() -> Self {
        Self {
            slots: vec![ABSENT; TWCC_WINDOW as usize].into_boxed_slice(),
            epoch: None,
            highest: 0,
            next: 0,
            restart: None,
            due: None,
            last_feedback: None,
            interval: SLOW_INTERVAL,
            arrived_since_feedback: 0,
            feedback_count: 0,
            statuses: [None; MAX_STATUSES],
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.due, self.last_feedback, self.arrived_since_feedback);
        warm!(self.arrival(self.highest));
    }

    /// Records a packet with this transport-wide number that arrived at `now`. Duplicates are
    /// ignored.
    pub fn on_packet(&mut self, now: Instant, seq: u16) {
        let Some(number) = self.extend(seq) else { return };
        let epoch = *self.epoch.get_or_insert(now);
        let ticks = now.saturating_duration_since(epoch).as_micros() / TICK_US;
        let slot = self.slot_mut(number);
        if *slot != ABSENT {
            return;
        }
        *slot = ticks as i64;
        // A late packet was reported as missing: report again from there on (mediasoup#1059).
        self.next = self.next.min(number);
        self.arrived_since_feedback += 1;
        let earliest = self.last_feedback.map_or(now, |last| last + self.interval);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Sends feedback that is due soon now, after packets were handled. Otherwise a worker would
    /// wake up for it alone, mostly between two frames.
    pub fn bring_forward(&mut self, now: Instant) {
        let soon = now + self.interval / EARLY_PART;
        self.due = self.due.map(|due| if due <= soon { due.min(now) } else { due });
    }

    /// Feedback to send now. Call again until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<TwccReport<'_>> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let (first, first_ticks) = (self.next..=self.highest)
            .find_map(|number| Some((number, self.arrival(number)?)))
            .expect("feedback is due only while an arrival is unreported");
        // Never a report without an arrival: of a longer loss only the end is reported.
        let base = self.next.max(first.saturating_sub(MAX_STATUSES as u64 - 1));
        let reference = first_ticks.div_euclid(TICKS_PER_REFERENCE);

        let mut count = 0;
        let mut previous = first_ticks;
        for number in base..=self.highest {
            let arrival = self.arrival(number);
            if let Some(ticks) = arrival {
                if i16::try_from(ticks - previous).is_err() {
                    break; // more than 8 s apart: the next feedback starts here
                }
                previous = ticks;
            }
            let Some(status) = self.statuses.get_mut(count) else { break };
            *status = arrival.map(|ticks| ticks - reference * TICKS_PER_REFERENCE);
            count += 1;
        }
        self.next = base + count as u64;
        if self.next > self.highest {
            self.finish_round(now);
        }
        let feedback_count = self.feedback_count;
        self.feedback_count = feedback_count.wrapping_add(1);
        Some(TwccReport {
            base_seq: base as u16,
            feedback_count,
            reference_time_64ms: ((reference << 40) >> 40) as i32,
            arrivals: self.statuses.get(..count).unwrap_or_default(),
        })
    }

    /// Time at which [`Self::poll`] has feedback; `None` while there is nothing to report.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Unwraps `seq` and moves the window; `None` if it lies behind it.
    fn extend(&mut self, seq: u16) -> Option<u64> {
        if self.epoch.is_none() {
            self.start_at((1 << 16) | u64::from(seq));
        }
        let ahead = seq.wrapping_sub(self.highest as u16) as i16;
        let number = self.highest.saturating_add_signed(ahead.into());
        if ahead <= 0 && self.highest - number >= TWCC_WINDOW {
            // A very late packet. If a second one follows it, numbers began anew, or ran on by more
            // than half their range while nothing came through.
            if self.restart != Some(seq) {
                self.restart = Some(seq.wrapping_add(1));
                return None;
            }
            let number = (((self.highest >> 16) + 2) << 16) | u64::from(seq);
            self.start_at(number);
            return Some(number);
        }
        self.restart = None;
        if ahead > 0 {
            let oldest = number.saturating_sub(TWCC_WINDOW - 1);
            for skipped in oldest.max(self.highest + 1)..=number {
                *self.slot_mut(skipped) = ABSENT;
            }
            self.highest = number;
            self.next = self.next.max(oldest);
        }
        Some(number)
    }

    fn start_at(&mut self, number: u64) {
        self.slots.fill(ABSENT);
        self.highest = number;
        self.next = number;
        self.restart = None;
    }

    fn finish_round(&mut self, now: Instant) {
        if let Some(last) = self.last_feedback {
            let micros = now.saturating_duration_since(last).as_micros();
            let fast = u128::from(self.arrived_since_feedback) * 1_000_000 >= FAST_RATE * micros;
            self.interval = if fast { FAST_INTERVAL } else { SLOW_INTERVAL };
        }
        self.arrived_since_feedback = 0;
        self.last_feedback = Some(now);
        self.due = None;
    }

    fn arrival(&self, number: u64) -> Option<i64> {
        let slot = self.slots.get((number % TWCC_WINDOW) as usize).copied();
        slot.filter(|&ticks| ticks != ABSENT)
    }

    fn slot_mut(&mut self, number: u64) -> &mut i64 {
        self.slots.get_mut((number % TWCC_WINDOW) as usize).expect("one slot per number")
    }
}

#[cfg(test)]
mod tests;
