//! Statistics of one SSRC by RFC 3550, in both directions, and a rate meter.
//!
//! Owns numbers only. Never decides anything and never touches RTCP bytes: `worker` copies a
//! [`ReportBlock`] to and from `rtp::rtcp`. Next: `source_clock.rs`, for the time in sender
//! reports.

use std::time::{Duration, Instant};

use crate::rtp::rtcp::ReportBlock;
use crate::units::{Bitrate, Ntp};
use crate::warm::warm;

/// Reception of one incoming SSRC (RFC 3550 A.3 and A.8).
#[derive(Debug, Default)]
pub struct ReceiverStats {
    numbers: Option<Numbers>,
    packets: u64,
    bytes: u64,
    /// Packets that arrived and were dropped here.
    refused: u64,
    /// Expected and received packets at the last report.
    reported: (u64, u64),
    jitter: Jitter,
    sender_report: Option<(u32, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    lowest: u64,
    highest: u64,
    /// Multiple of 65,536 that counts as no wraps.
    cycle_zero: u64,
}

impl Numbers {
    fn first(ext_seq: u64) -> Self {
        Self { lowest: ext_seq, highest: ext_seq, cycle_zero: ext_seq & !0xffff }
    }
}

impl ReceiverStats {
    /// Creates statistics of an SSRC from which nothing has arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.packets, self.jitter.scaled, self.numbers.is_some());
    }

    /// Counts a packet of the primary SSRC, received directly or by RTX: a repaired packet is not
    /// lost. Leave out duplicates, they would hide losses. `bytes` is what the rate should count; a
    /// late packet does not change the jitter.
    pub fn on_packet(
        &mut self,
        now: Instant,
        ext_seq: u64,
        rtp_ts: u32,
        clock_rate: u32,
        bytes: usize,
    ) {
        self.bytes += bytes as u64;
        if self.on_useless(ext_seq) {
            self.jitter.on_packet(now, rtp_ts, clock_rate);
        }
    }

    /// Counts a packet of the primary SSRC that holds nothing to forward and whose timestamp may
    /// mean nothing. Returns whether its number is the highest so far.
    pub fn on_useless(&mut self, ext_seq: u64) -> bool {
        self.packets += 1;
        let numbers = self.numbers.get_or_insert(Numbers::first(ext_seq));
        numbers.lowest = numbers.lowest.min(ext_seq);
        let is_newest = ext_seq >= numbers.highest;
        numbers.highest = numbers.highest.max(ext_seq);
        is_newest
    }

    /// Counts a packet that arrived and was dropped here: the network did not lose it. Neither its
    /// bytes nor its arrival time count.
    pub fn on_refused(&mut self, ext_seq: u64) {
        self.refused += 1;
        let numbers = self.numbers.get_or_insert(Numbers::first(ext_seq));
        numbers.lowest = numbers.lowest.min(ext_seq);
        numbers.highest = numbers.highest.max(ext_seq);
    }

    /// Records a sender report for this SSRC; `ntp` is its 64-bit time.
    pub fn on_sender_report(&mut self, now: Instant, ntp: u64) {
        self.sender_report = Some((Ntp(ntp).middle(), now));
    }

    /// Block for the next receiver report; `None` before the first packet. Begins a new interval
    /// for the lost fraction.
    pub fn report_block(&mut self, now: Instant, ssrc: u32) -> Option<ReportBlock> {
        let numbers = self.numbers?;
        let expected = self.expected();
        let interval_expected = expected.saturating_sub(self.reported.0);
        let received = self.packets + self.refused;
        let interval_received = received - self.reported.1;
        self.reported = (expected, received);
        let interval_lost = interval_expected.saturating_sub(interval_received);
        let (lsr, dlsr) = self.sender_report.map_or((0, 0), |(lsr, at)| {
            let since = now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000;
            (lsr, since.min(u128::from(u32::MAX)) as u32)
        });
        Some(ReportBlock {
            ssrc,
            fraction_lost: (interval_lost * 256).checked_div(interval_expected).map_or(0, saturate),
            cumulative_lost: self.lost().clamp(-(1 << 23), (1 << 23) - 1) as i32,
            highest_seq: (numbers.highest - numbers.cycle_zero) as u32,
            jitter: self.jitter(),
            lsr,
            dlsr,
        })
    }

    /// Packets that arrived or were repaired.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes of the packets that arrived or were repaired.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Packets expected and not received; negative only if duplicates were counted.
    pub fn lost(&self) -> i64 {
        self.expected() as i64 - (self.packets + self.refused) as i64
    }

    /// Interarrival jitter in units of the RTP clock.
    pub fn jitter(&self) -> u32 {
        self.jitter.scaled >> 4
    }

    fn expected(&self) -> u64 {
        self.numbers.map_or(0, |numbers| numbers.highest - numbers.lowest + 1)
    }
}

fn saturate(fraction: u64) -> u8 {
    fraction.min(u64::from(u8::MAX)) as u8
}

/// RFC 3550 A.8, in integers.
#[derive(Debug, Default)]
struct Jitter {
    /// Jitter times 16.
    scaled: u32,
    last: Option<JitterBase>,
}

#[derive(Debug, Clone, Copy)]
struct JitterBase {
    at: Instant,
    rtp_ts: u32,
    clock_rate: u32,
}

impl Jitter {
    /// Jump of the timestamp in seconds beyond which it is a new start and no jitter.
    const MAX_STEP_S: i64 = 5;

    fn on_packet(&mut self, at: Instant, rtp_ts: u32, clock_rate: u32) {
        let Some(last) = self.last.replace(JitterBase { at, rtp_ts, clock_rate }) else { return };
        if last.clock_rate != clock_rate {
            return;
        }
        let rate = i64::from(clock_rate);
        let waited_us = at.saturating_duration_since(last.at).as_micros();
        let waited = (waited_us * u128::from(clock_rate) / 1_000_000).min(1 << 40) as i64;
        let stamped = i64::from(rtp_ts.wrapping_sub(last.rtp_ts) as i32);
        let difference = (waited - stamped).abs();
        if difference <= Self::MAX_STEP_S * rate {
            let scaled = i64::from(self.scaled);
            self.scaled = (scaled + difference - ((scaled + 8) >> 4)).max(0) as u32;
        }
    }
}

/// Reports of one viewer about one outgoing SSRC. A report that cannot be true is refused: what
/// builds on loss and round trip would follow it.
#[derive(Debug, Default)]
pub struct SenderStats {
    last: Option<Reported>,
    rtt: Option<Duration>,
    /// Middle 32 bits of the NTP time of our last sender reports; a ring, 0 where none was sent.
    sent: [u32; SENDER_REPORTS],
    next_sent: usize,
}

/// A report that was believed.
#[derive(Debug, Clone, Copy)]
struct Reported {
    block: ReportBlock,
    /// Its highest number, extended.
    highest: u64,
}

/// A report block that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportRefused;

/// Our sender reports that a viewer's report may name. At one per second this is longer than
/// [`MAX_RTT`] and a report interval (RFC 3550 section 6.2).
const SENDER_REPORTS: usize = 16;

/// Longest round trip; a longer one is taken for an error of the reporter.
const MAX_RTT: Duration = Duration::from_secs(10);

/// The two clock readings and DLSR are rounded, so a round trip may come out this far below zero;
/// in 1/65,536 s.
const RTT_ROUNDING: i32 = 66;

impl SenderStats {
    /// Creates statistics of an SSRC about which nothing was reported.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a sender report of ours with this NTP time.
    pub fn on_sender_report(&mut self, ntp: Ntp) {
        if let Some(slot) = self.sent.get_mut(self.next_sent % SENDER_REPORTS) {
            *slot = ntp.middle();
        }
        self.next_sent = self.next_sent.wrapping_add(1);
    }

    /// Records a report block about this SSRC that arrived at `now`, on the clock that stamped our
    /// sender reports. `numbers` are the extended sequence numbers sent so far. A round trip is
    /// measured only where LSR names one of our last 16 sender reports.
    ///
    /// # Errors
    ///
    /// [`ReportRefused`] if the highest number was not sent yet or is below the one reported
    /// before, or if more packets are reported lost than were sent up to there or, since the last
    /// report, between both (RFC 3550 A.3). Nothing of the report is used then.
    pub fn on_report(
        &mut self,
        now: Ntp,
        report: &ReportBlock,
        numbers: std::ops::Range<u64>,
    ) -> Result<(), ReportRefused> {
        let highest = highest_of(report, &numbers).ok_or(ReportRefused)?;
        let (lowest, lost_before) = match self.last {
            Some(last) => (last.highest, i64::from(last.block.cumulative_lost)),
            None => (numbers.start, 0),
        };
        let passed = highest.checked_sub(lowest).ok_or(ReportRefused)?;
        // The lowest number itself may be lost too.
        let lost_max = lost_before.max(0).saturating_add_unsigned(passed + 1);
        if i64::from(report.cumulative_lost) > lost_max {
            return Err(ReportRefused);
        }
        self.last = Some(Reported { block: *report, highest });
        if self.sent.contains(&report.lsr)
            && let Some(sample) = round_trip(now, report.lsr, report.dlsr)
        {
            // RFC 6298: one eighth of each new sample.
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
        Ok(())
    }

    /// Smoothed round trip; `None` until a report answers one of our sender reports.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The last report.
    pub fn last_report(&self) -> Option<&ReportBlock> {
        self.last.as_ref().map(|last| &last.block)
    }

    /// Share of packets lost in the last reported interval, 0 to 1.
    #[cfg(feature = "internals")]
    pub fn loss(&self) -> f32 {
        self.last.map_or(0.0, |last| f32::from(last.block.fraction_lost) / 256.0)
    }
}

/// The highest number of a report, extended by what was sent: the newest that its low 16 bits can
/// mean. Viewers that begin late count the cycles above these bits from another start.
fn highest_of(report: &ReportBlock, numbers: &std::ops::Range<u64>) -> Option<u64> {
    let newest = numbers.end.checked_sub(1)?;
    let behind = (newest as u16).wrapping_sub(report.highest_seq as u16);
    newest.checked_sub(behind.into()).filter(|highest| numbers.contains(highest))
}

/// Round trip by LSR and DLSR (RFC 3550 section 6.4.1); `None` if `lsr` is 0 or the result is
/// negative or longer than 10 s.
pub fn round_trip(now: Ntp, lsr: u32, dlsr: u32) -> Option<Duration> {
    if lsr == 0 {
        return None;
    }
    let units = now.middle().wrapping_sub(lsr).wrapping_sub(dlsr) as i32;
    if units < -RTT_ROUNDING {
        return None;
    }
    let rtt = Duration::from_nanos(u64::from(units.max(0) as u32) * 1_000_000_000 / 65_536);
    (rtt <= MAX_RTT).then_some(rtt)
}

/// Rate of bytes and packets over the last second.
#[derive(Debug, Default)]
pub struct RateMeter {
    start: Option<Instant>,
    /// Index of the newest bucket, counted from `start`.
    newest: u64,
    /// Bytes and packets by bucket index modulo [`BUCKETS`].
    buckets: [(u64, u64); BUCKETS as usize],
    /// Sum of all buckets, kept so that a read costs no loop.
    sum: (u64, u64),
}

/// Buckets of the window, of which the newest is still filling.
const BUCKETS: u64 = 20;

/// Length of one bucket in milliseconds.
const BUCKET_MS: u64 = 50;

/// Minimum time in milliseconds that a young meter divides by, so that one burst does not look like
/// a rate.
const MIN_SPAN_MS: u64 = 200;

impl RateMeter {
    /// Creates a meter that has counted nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.start, self.sum, self.bucket(self.newest));
    }

    /// Counts one packet of `bytes`.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        let bytes = bytes as u64;
        let start = *self.start.get_or_insert(now);
        let index = bucket_index(start, now).max(self.newest);
        if index - self.newest >= BUCKETS {
            self.buckets = Default::default();
            self.sum = (0, 0);
        } else {
            for skipped in self.newest + 1..=index {
                let left = std::mem::take(self.bucket_mut(skipped));
                self.sum = (self.sum.0 - left.0, self.sum.1 - left.1);
            }
        }
        self.newest = index;
        let bucket = self.bucket_mut(index);
        *bucket = (bucket.0 + bytes, bucket.1 + 1);
        self.sum = (self.sum.0 + bytes, self.sum.1 + 1);
    }

    /// Bits per second over the last second, or since the first packet if that is later.
    pub fn bitrate(&self, now: Instant) -> Bitrate {
        let (bytes, _, span) = self.window(now);
        Bitrate::from_bytes(bytes, span)
    }

    /// Packets per second over the same time as [`Self::bitrate`].
    #[cfg(feature = "internals")]
    pub fn packets_per_second(&self, now: Instant) -> u32 {
        let (_, packets, span) = self.window(now);
        (u128::from(packets) * 1_000 / span.as_millis().max(1)).min(u128::from(u32::MAX)) as u32
    }

    /// Bytes, packets, and the time over which they came.
    fn window(&self, now: Instant) -> (u64, u64, Duration) {
        let Some(start) = self.start else { return (0, 0, Duration::from_millis(MIN_SPAN_MS)) };
        let current = bucket_index(start, now).max(self.newest);
        let oldest = (current + 1).saturating_sub(BUCKETS);
        let (mut bytes, mut packets) = self.sum;
        // Buckets that left the window since the newest packet.
        let held_from = (self.newest + 1).saturating_sub(BUCKETS);
        for index in held_from..oldest.min(self.newest + 1) {
            let bucket = self.bucket(index);
            bytes -= bucket.0;
            packets -= bucket.1;
        }
        let span = now
            .saturating_duration_since(start + Duration::from_millis(oldest * BUCKET_MS))
            .max(Duration::from_millis(MIN_SPAN_MS));
        (bytes, packets, span)
    }

    fn bucket(&self, index: u64) -> (u64, u64) {
        self.buckets.get((index % BUCKETS) as usize).copied().unwrap_or_default()
    }

    fn bucket_mut(&mut self, index: u64) -> &mut (u64, u64) {
        self.buckets.get_mut((index % BUCKETS) as usize).expect("one slot per bucket")
    }
}

fn bucket_index(start: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(start).as_millis() as u64 / BUCKET_MS
}

#[cfg(test)]
mod tests;
