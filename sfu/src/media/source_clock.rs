//! Clocks of a publisher related to ours: its wall clock and the RTP clock of each track.
//!
//! Owns one [`PublisherClock`] per publisher, shared by its audio and video for lip sync, and one
//! [`TrackClock`] per incoming SSRC. Never makes sender reports: the viewer side of `worker` takes
//! a [`ClockAnchor`] and does (whip-whep G12, quality A2.3 "SR for viewers").
//!
//! Both are minimum filters of arrival minus timestamp: the packet that was delayed least shows the
//! difference of the clocks best. The minimum delay of the path, the same for all tracks, stays in.

use crate::units::Ntp;

/// One second in the unit of signed distances here, 2^-32 s.
const SECOND: i64 = 1 << 32;

/// The publisher's wall clock, by its sender reports. It may be years off and may jump.
#[derive(Debug, Default)]
pub struct PublisherClock {
    filter: OffsetFilter,
}

impl PublisherClock {
    /// Creates a clock about which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sender report of any of the publisher's tracks arrived at `now`; `sender_ntp` is its
    /// 64-bit time, 0 if the sender has no wall clock (RFC 3550 section 6.4.1).
    pub fn on_sender_report(&mut self, now: Ntp, sender_ntp: u64) {
        if sender_ntp != 0 {
            self.filter.on_sample(now, now.since(Ntp(sender_ntp)));
        }
    }

    /// The publisher's time on our clock; none before its first sender report.
    pub fn to_server(&self, sender_ntp: u64) -> Option<Ntp> {
        Some(shift(Ntp(sender_ntp), self.filter.offset()?))
    }
}

/// The RTP clock of one incoming SSRC, by sender reports where they come and make sense, else by
/// arrival times.
#[derive(Debug, Default)]
pub struct TrackClock {
    /// Arrival minus time by the RTP clock, counted from its first timestamp.
    by_arrival: OffsetFilter,
    newest: Option<Newest>,
    report: Option<SenderReport>,
    /// Whether the newest report was left out, because it put the track later than the one before.
    left_out: bool,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    rtp: u32,
    /// Ticks from the first timestamp, unwrapped.
    ticks: i64,
    clock_rate: u32,
}

#[derive(Debug, Clone, Copy)]
struct SenderReport {
    sender_ntp: u64,
    rtp: u32,
}

/// Sender reports that disagree with the arrival of packets by more are not believed: some
/// publishers stamp them with another clock, or jump.
const MAX_DISAGREEMENT: i64 = 3 * SECOND;

/// A sender report that puts the track later by more than this counts only if the next one does so
/// too. Publishers made with libdatachannel (OBS) stamp a report with the time of now and the RTP
/// time of the packet that they send just then, which after a stall is an old one.
const LATER: i64 = SECOND / 25;

impl TrackClock {
    /// Creates a clock about which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// A packet with this timestamp arrived at `now`; RTX copies are left out. `clock_rate` is in
    /// Hz and not 0.
    pub fn on_packet(&mut self, now: Ntp, rtp: u32, clock_rate: u32) {
        let ticks = match self.newest {
            Some(newest) if newest.clock_rate == clock_rate => {
                let ahead = rtp.wrapping_sub(newest.rtp) as i32;
                if ahead == 0 {
                    return; // the frame's first packet was the sample
                }
                newest.ticks.saturating_add(ahead.into())
            }
            Some(_) => {
                *self = Self::new(); // another codec: another clock
                0
            }
            None => 0,
        };
        self.newest = Some(Newest { rtp, ticks, clock_rate });
        let elapsed = span_of(ticks, clock_rate);
        self.by_arrival.on_sample(now, (now.0 as i64).wrapping_sub(elapsed));
    }

    /// A sender report of this SSRC; give it to the [`PublisherClock`] first.
    pub fn on_sender_report(&mut self, sender_ntp: u64, rtp: u32) {
        let report = (sender_ntp != 0).then_some(SenderReport { sender_ntp, rtp });
        let later = self.report.zip(report).zip(self.newest).is_some_and(
            |((before, report), Newest { clock_rate, .. })| {
                let ticks = report.rtp.wrapping_sub(before.rtp) as i32;
                let passed = Ntp(report.sender_ntp).since(Ntp(before.sender_ntp));
                passed.wrapping_sub(span_of(ticks.into(), clock_rate)) > LATER
            },
        );
        self.left_out = later && !self.left_out;
        if !self.left_out {
            self.report = report;
        }
    }

    /// One instant on both clocks, to extrapolate from; none before the first packet.
    pub fn anchor(&self, publisher: &PublisherClock) -> Option<ClockAnchor> {
        let newest = self.newest?;
        let arrival = (self.by_arrival.offset()?)
            .wrapping_add(span_of(newest.ticks, newest.clock_rate)) as u64;
        let by_arrival = ClockAnchor { ntp: Ntp(arrival), rtp: newest.rtp };
        let by_report = self.report.and_then(|report| {
            let ntp = publisher.to_server(report.sender_ntp)?;
            let anchor = ClockAnchor { ntp, rtp: report.rtp };
            let reported = anchor.ntp_of(newest.rtp, newest.clock_rate);
            (reported.since(by_arrival.ntp).unsigned_abs() <= MAX_DISAGREEMENT.unsigned_abs())
                .then_some(anchor)
        });
        Some(by_report.unwrap_or(by_arrival))
    }
}

/// One instant, by our wall clock and by a track's RTP clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockAnchor {
    /// On our clock.
    pub ntp: Ntp,
    /// On the track's.
    pub rtp: u32,
}

impl ClockAnchor {
    /// The RTP time at `ntp`, to the nearest tick. `clock_rate` in Hz.
    pub fn rtp_at(&self, ntp: Ntp, clock_rate: u32) -> u32 {
        let ticks = i128::from(ntp.since(self.ntp)) * i128::from(clock_rate);
        self.rtp.wrapping_add(((ticks + (1 << 31)) >> 32) as u32)
    }

    /// When `rtp` was, for timestamps within 2^31 ticks of the anchor. `clock_rate` in Hz.
    pub fn ntp_of(&self, rtp: u32, clock_rate: u32) -> Ntp {
        let ticks = rtp.wrapping_sub(self.rtp) as i32;
        shift(self.ntp, span_of(ticks.into(), clock_rate))
    }
}

fn shift(ntp: Ntp, span: i64) -> Ntp {
    Ntp(ntp.0.wrapping_add_signed(span))
}

/// How long `ticks` take, in NTP units.
fn span_of(ticks: i64, clock_rate: u32) -> i64 {
    let rate = i64::from(clock_rate.max(1));
    let fraction = (ticks.rem_euclid(rate) << 32) / rate;
    ticks.div_euclid(rate).wrapping_mul(SECOND).wrapping_add(fraction)
}

/// Minimum of an offset between two clocks over about 30 s, rising only slowly.
///
/// Offsets are modular: clocks may be any number of years apart.
#[derive(Debug, Default)]
struct OffsetFilter {
    state: Option<FilterState>,
}

#[derive(Debug)]
struct FilterState {
    /// What the others are relative to.
    base: i64,
    applied: i64,
    updated: Ntp,
    /// Minimum of each [`BUCKET`], the newest first.
    minima: [i64; BUCKETS],
    bucket_start: Ntp,
    far_above: Option<FarAbove>,
}

/// All samples have been far above: delay, or a clock that stepped back.
#[derive(Debug, Clone, Copy)]
struct FarAbove {
    /// Time since which they did not fall, and the offset at that time.
    since: Ntp,
    offset: i64,
    /// Least offset since then.
    least: i64,
}

/// Part of the window that is forgotten at once.
const BUCKET: i64 = 5 * SECOND;

/// Buckets in the window.
const BUCKETS: usize = 6;

/// A bucket without sample.
const EMPTY: i64 = i64::MAX;

/// Fastest rise, per second: more than clocks drift (0.1 ms), too little to see.
const RISE_PER_SECOND: i64 = SECOND / 500;

/// A change by more than this may be a step of the clock.
const STEP: i64 = SECOND / 2;

/// A rise by [`STEP`] is delay until it has lasted so long; a fall cannot be delay.
const STEP_CONFIRM: i64 = 5 * SECOND / 2;

/// Fall of a raised offset after which it has to last anew, whether at once or packet by packet.
const STEP_FALL: i64 = SECOND / 25;

impl OffsetFilter {
    fn offset(&self) -> Option<i64> {
        self.state.as_ref().map(|state| state.base.wrapping_add(state.applied))
    }

    fn on_sample(&mut self, now: Ntp, offset: i64) {
        let Some(state) = &mut self.state else {
            self.state = Some(FilterState::new(now, offset));
            return;
        };
        let change = offset.wrapping_sub(state.base.wrapping_add(state.applied));
        if change > STEP {
            let begins = FarAbove { since: now, offset, least: offset };
            let mut above = state.far_above.unwrap_or(begins);
            if above.offset.wrapping_sub(offset) > STEP_FALL {
                above = begins; // a queue that empties, not a clock
            } else if above.least.wrapping_sub(offset) > 0 {
                above.least = offset;
            }
            if now.since(above.since) >= STEP_CONFIRM {
                *state = FilterState::new(now, above.least);
            } else {
                state.far_above = Some(above);
            }
        } else if change < -STEP {
            *state = FilterState::new(now, offset);
        } else {
            state.far_above = None;
            state.on_near_sample(now, state.applied + change);
        }
    }
}

impl FilterState {
    fn new(now: Ntp, base: i64) -> Self {
        let mut minima = [EMPTY; BUCKETS];
        minima[0] = 0;
        Self { base, applied: 0, updated: now, minima, bucket_start: now, far_above: None }
    }

    fn on_near_sample(&mut self, now: Ntp, relative: i64) {
        let passed = now.since(self.bucket_start) / BUCKET;
        if passed > 0 {
            let passed = (passed as usize).min(BUCKETS);
            self.minima.rotate_right(passed);
            self.minima.iter_mut().take(passed).for_each(|minimum| *minimum = EMPTY);
            self.bucket_start = now;
        }
        if let Some(newest) = self.minima.first_mut() {
            *newest = relative.min(*newest);
        }
        let least = self.minima.iter().copied().min().unwrap_or(relative);
        let seconds = now.since(self.updated).clamp(0, BUCKET);
        let rise = seconds / (SECOND / RISE_PER_SECOND);
        self.applied = least.min(self.applied + rise);
        self.updated = now;
    }
}

#[cfg(test)]
mod tests;
