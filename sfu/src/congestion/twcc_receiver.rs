//! Tells one publisher when each of its packets arrived (transport-wide congestion control), so
//! that its own estimator can find the rate.
//!
//! Owns arrival times by transport-wide number and the pace of feedback. Never estimates, never
//! writes RTCP: `worker` hands each [`TwccReport`] to `rtp::rtcp`. Format and rules:
//! draft-holmer-rmcat-transport-wide-cc-extensions-01; pace: quality A1.4 "Upstream".

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Numbers behind the newest whose arrival is remembered; older losses go unreported.
pub const TWCC_WINDOW: u64 = 1_024;

/// Most statuses in one feedback. What is left follows in the next one at once.
pub const MAX_STATUSES: usize = 256;

/// Between feedbacks for a publisher below [`FAST_RATE`].
const SLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Between feedbacks for a publisher at or above [`FAST_RATE`].
const FAST_INTERVAL: Duration = Duration::from_millis(50);

/// Feedback may go early by this part of its interval, when packets come just then.
const EARLY_PART: u32 = 5;

/// Packets per second from which on feedback comes at the quick pace. Slower publishers are told
/// less often, to keep feedback near 5 % of their rate.
const FAST_RATE: u128 = 500;

/// Unit of arrival times on the wire.
const TICK_US: u128 = 250;

/// Ticks in one unit (64 ms) of the reference time.
const TICKS_PER_REFERENCE: i64 = 256;

/// Slot of a number that has not arrived.
const ABSENT: i64 = i64::MIN;

/// One feedback, ready for the writer.
#[derive(Debug, PartialEq, Eq)]
pub struct TwccReport<'a> {
    /// Number of the first status.
    pub base_seq: u16,
    /// Counts feedbacks, wrapping.
    pub feedback_count: u8,
    /// Reference time in units of 64 ms, signed 24 bit.
    pub reference_time_64ms: i32,
    /// One status per number from `base_seq` on: arrival in ticks of 250 us after the reference
    /// time, or none if it has not arrived. At least one has, the first within 256 ticks, and
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
    /// The number that would confirm a sender that started again far behind.
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
    /// A receiver that has seen nothing yet.
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

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box((self.due, self.last_feedback, self.arrived_since_feedback));
        black_box(self.arrival(self.highest));
    }

    /// A packet with this transport-wide number arrived at `now`. Duplicates are ignored.
    pub fn on_packet(&mut self, now: Instant, seq: u16) {
        let Some(number) = self.place(seq) else { return };
        let epoch = *self.epoch.get_or_insert(now);
        let ticks = now.saturating_duration_since(epoch).as_micros() / TICK_US;
        let slot = self.slot_mut(number);
        if *slot != ABSENT {
            return;
        }
        *slot = ticks as i64;
        // A late packet was reported as missing: tell again from there on (mediasoup#1059).
        self.next = self.next.min(number);
        self.arrived_since_feedback += 1;
        let earliest = self.last_feedback.map_or(now, |last| last + self.interval);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Packets were just handled: feedback that is due soon goes now. Else a worker would wake up for it alone,
    /// mostly between two frames.
    pub fn bring_forward(&mut self, now: Instant) {
        let soon = now + self.interval / EARLY_PART;
        self.due = self.due.map(|due| if due <= soon { due.min(now) } else { due });
    }

    /// The feedback to send now. Call again until none is left.
    pub fn poll(&mut self, now: Instant) -> Option<TwccReport<'_>> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let (first, first_ticks) = (self.next..=self.highest)
            .find_map(|number| Some((number, self.arrival(number)?)))
            .expect("feedback is due only while an arrival is untold");
        // Never a report without an arrival: of a longer loss only the end is told.
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

    /// When [`Self::poll`] has a feedback; none while there is nothing to tell.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Unwraps `seq` and moves the window; none if it lies behind it.
    fn place(&mut self, seq: u16) -> Option<u64> {
        if self.epoch.is_none() {
            self.start_at((1 << 16) | u64::from(seq));
        }
        let ahead = seq.wrapping_sub(self.highest as u16) as i16;
        let number = self.highest.saturating_add_signed(ahead.into());
        if ahead <= 0 && self.highest - number >= TWCC_WINDOW {
            // A very late packet, or, if a second one follows it, numbers that began anew or ran
            // on by more than half their range while nothing came through.
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
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A report in owned form: base, and arrivals in ticks since the receiver's first packet.
    fn poll(receiver: &mut TwccReceiver, now: Instant) -> Option<(u16, Vec<Option<i64>>)> {
        let report = receiver.poll(now)?;
        assert!(report.arrivals.iter().any(Option::is_some), "never empty");
        assert!(report.arrivals.len() <= MAX_STATUSES);
        let reference = i64::from(report.reference_time_64ms) * 256;
        let mut previous = reference;
        for ticks in report.arrivals.iter().flatten() {
            assert!(i16::try_from(reference + ticks - previous).is_ok(), "fits a delta");
            previous = reference + ticks;
        }
        let arrivals =
            report.arrivals.iter().map(|ticks| ticks.map(|ticks| reference + ticks)).collect();
        Some((report.base_seq, arrivals))
    }

    /// Everything due at `now`.
    fn drain(receiver: &mut TwccReceiver, now: Instant) -> Vec<(u16, Vec<Option<i64>>)> {
        std::iter::from_fn(|| poll(receiver, now)).collect()
    }

    #[test]
    fn arrivals_and_losses_are_told_across_the_wrap() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        assert_eq!(receiver.next_timeout(), None);
        receiver.on_packet(start, 65_533);
        assert_eq!(drain(&mut receiver, start), [(65_533, vec![Some(0)])]);
        receiver.on_packet(start + 10 * MS, 65_534);
        receiver.on_packet(start + 90 * MS, 1);
        assert_eq!(receiver.next_timeout(), Some(start + 100 * MS));
        assert_eq!(poll(&mut receiver, start + 99 * MS), None);
        assert_eq!(
            drain(&mut receiver, start + 100 * MS),
            [(65_534, vec![Some(40), None, None, Some(360)])]
        );
        assert_eq!(receiver.next_timeout(), None);
        assert_eq!(poll(&mut receiver, start + 500 * MS), None, "nothing new, nothing sent");
    }

    #[test]
    fn reference_time_and_feedback_count_are_as_on_the_wire() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        receiver.on_packet(start, 7);
        receiver.poll(start).unwrap();
        receiver.on_packet(start + 1_000 * MS, 8);
        receiver.on_packet(start + 1_001 * MS, 9);
        let report = receiver.poll(start + 1_100 * MS).unwrap();
        assert_eq!(report.feedback_count, 1);
        assert_eq!(report.reference_time_64ms, 15, "960 ms");
        assert_eq!(report.arrivals, [Some(160), Some(164)]);

        // 24 bits of 64 ms end after 6.2 days.
        let later = start + Duration::from_millis(64 << 23) + 64 * MS;
        receiver.on_packet(later, 10);
        assert_eq!(receiver.poll(later).unwrap().reference_time_64ms, -(1 << 23) + 1);
    }

    #[test]
    fn reordered_packet_is_told_once_it_arrives() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        for seq in [10, 11, 13] {
            receiver.on_packet(start, seq);
        }
        assert_eq!(drain(&mut receiver, start), [(10, vec![Some(0), Some(0), None, Some(0)])]);
        receiver.on_packet(start + 5 * MS, 12); // mediasoup#1059
        receiver.on_packet(start + 6 * MS, 14);
        receiver.on_packet(start + 7 * MS, 14);
        assert_eq!(
            drain(&mut receiver, start + 100 * MS),
            [(12, vec![Some(20), Some(0), Some(24)])]
        );
    }

    #[test]
    fn feedback_is_quicker_for_a_quick_publisher() {
        let rates = [(450, 9..=11), (550, 19..=21), (4_000, 19..=21), (50, 9..=11)];
        for (per_second, expected) in rates {
            let start = Instant::now();
            let mut receiver = TwccReceiver::new();
            let mut in_last_second = 0;
            let mut told = 0;
            for n in 0..per_second * 3 {
                let now = start + Duration::from_secs(3) * n / (per_second * 3);
                receiver.on_packet(now, n as u16);
                for (_, arrivals) in drain(&mut receiver, now) {
                    told += arrivals.len() as u32;
                    in_last_second += u32::from(now > start + Duration::from_secs(2));
                }
            }
            assert!(expected.contains(&in_last_second), "{in_last_second} at {per_second}/s");
            assert!(told * 10 > per_second * 3 * 9, "nothing is held back");
        }
    }

    #[test]
    fn feedback_goes_with_the_packets_that_come_shortly_before_it_is_due() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        receiver.on_packet(start, 1);
        drain(&mut receiver, start);
        for (ms, seq, goes) in [(33, 2, false), (79, 3, false), (80, 4, true), (113, 5, false)] {
            let now = start + ms * MS;
            receiver.on_packet(now, seq);
            receiver.bring_forward(now);
            assert_eq!(poll(&mut receiver, now).is_some(), goes, "{ms}");
        }
        assert_eq!(receiver.next_timeout(), Some(start + 180 * MS), "and the next one later");
    }

    #[test]
    fn long_rounds_are_cut_at_256_statuses() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        for seq in 0..600 {
            receiver.on_packet(start, seq);
        }
        let lengths: Vec<_> =
            drain(&mut receiver, start).iter().map(|(base, a)| (*base, a.len())).collect();
        assert_eq!(lengths, [(0, 256), (256, 256), (512, 88)]);
    }

    #[test]
    fn of_a_long_loss_the_end_is_told_and_no_report_is_empty() {
        let start = Instant::now();
        for gap in [256, 300, 1_500, 30_000] {
            let mut receiver = TwccReceiver::new();
            receiver.on_packet(start, 0);
            drain(&mut receiver, start);
            receiver.on_packet(start + 100 * MS, gap);
            let reports = drain(&mut receiver, start + 100 * MS);
            assert_eq!(reports.len(), 1);
            let (base, arrivals) = &reports[0];
            assert_eq!(*base, gap - 255);
            assert_eq!(arrivals.last(), Some(&Some(400)));
        }
    }

    #[test]
    fn a_stall_longer_than_a_delta_splits_the_report() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        receiver.on_packet(start, 0);
        receiver.on_packet(start + 1 * MS, 1);
        receiver.on_packet(start + 9_000 * MS, 3);
        let reports = drain(&mut receiver, start + 9_000 * MS);
        assert_eq!(reports, [(0, vec![Some(0), Some(4), None]), (3, vec![Some(36_000)])]);
    }

    #[test]
    fn numbers_that_begin_anew_are_followed_and_one_stray_is_not() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new();
        receiver.on_packet(start, 30_000);
        drain(&mut receiver, start);
        receiver.on_packet(start + MS, 5_000);
        receiver.on_packet(start + 2 * MS, 30_001);
        receiver.on_packet(start + 3 * MS, 5_001);
        assert_eq!(drain(&mut receiver, start + 100 * MS), [(30_001, vec![Some(8)])]);
        receiver.on_packet(start + 101 * MS, 5_002);
        receiver.on_packet(start + 102 * MS, 5_003);
        assert_eq!(drain(&mut receiver, start + 200 * MS), [(5_002, vec![Some(404), Some(408)])]);
    }

    proptest::proptest! {
        #[test]
        fn any_order_of_numbers_is_told_completely_and_never_empty(
            steps in proptest::collection::vec((0u32..12_000, -1_300i32..400, 0u8..40), 1..200),
        ) {
            let mut now = Instant::now();
            let mut receiver = TwccReceiver::new();
            let mut seq = 0u16;
            for (ms, step, rare) in steps {
                now += if rare == 0 { MS * ms } else { MS * (ms % 30) };
                seq = match rare {
                    1 => seq.wrapping_add_signed((step * 20) as i16),
                    2..6 => seq.wrapping_add_signed(step as i16),
                    _ => seq.wrapping_add(1),
                };
                receiver.on_packet(now, seq);
                if receiver.next_timeout().is_some_and(|at| at <= now) {
                    let reports = drain(&mut receiver, now); // checks each one
                    assert!(!reports.is_empty() && receiver.next_timeout().is_none());
                    assert_eq!(receiver.next, receiver.highest + 1);
                }
            }
        }
    }
}
