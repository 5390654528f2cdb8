//! Relates a publisher's clocks to ours: its wall clock and the RTP clock of each track.
//!
//! Owns one [`PublisherClock`] per publisher, shared by its audio and video so that lips stay in
//! sync, and one [`TrackClock`] per incoming SSRC. Never makes sender reports: the viewer's side of
//! `worker` takes a [`ClockAnchor`] and does (whip-whep G12, quality A2.3 "SR for viewers").
//!
//! Both are minimum filters of arrival minus stamp: the packet that waited least tells the
//! difference of the clocks best. What the path adds at least, the same for all tracks, stays in.

use crate::units::Ntp;

/// Signed distances here are in NTP units of 2^-32 s.
const SECOND: i64 = 1 << 32;

/// The publisher's wall clock, by its sender reports. It may be years off and may jump.
#[derive(Debug, Default)]
pub struct PublisherClock {
    filter: OffsetFilter,
}

impl PublisherClock {
    /// Nothing is known yet.
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

impl TrackClock {
    /// Nothing is known yet.
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
        self.report = (sender_ntp != 0).then_some(SenderReport { sender_ntp, rtp });
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
    /// Since when all samples have been far above: delay, or a clock that stepped back.
    far_above: Option<(Ntp, i64)>,
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
            let (since, least) = state.far_above.unwrap_or((now, offset));
            let least = if offset.wrapping_sub(least) < 0 { offset } else { least };
            if now.since(since) >= STEP_CONFIRM {
                *state = FilterState::new(now, least);
            } else {
                state.far_above = Some((since, least));
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
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SERVER: Ntp = Ntp(0xeb00_0000_0000_0000);

    fn ms_between(a: Ntp, b: Ntp) -> f64 {
        a.since(b) as f64 * 1_000.0 / SECOND as f64
    }

    fn assert_near(a: Ntp, b: Ntp, within_ms: f64) {
        assert!(ms_between(a, b).abs() <= within_ms, "{} ms apart", ms_between(a, b));
    }

    /// Delay of the nth packet in ms: 20 and up to 60 more, now and then 20 exactly.
    fn delay_ms(n: u32) -> u32 {
        20 + (n * 37) % 61
    }

    #[test]
    fn lips_stay_in_sync_over_jitter_and_a_wall_clock_years_off() {
        for years in [0u32, 1, 26, 100] {
            let publisher_clock = SERVER.minus(Duration::from_secs(31_557_600) * years);
            let mut publisher = PublisherClock::new();
            let (mut audio, mut video) = (TrackClock::new(), TrackClock::new());
            let (audio_zero, video_zero) = (0xffff_ff00_u32, 0x1234_5678_u32);
            for n in 0..600u32 {
                let captured = MS * 50 * n;
                let arrives = SERVER.plus(captured + MS * delay_ms(n));
                let sender_ntp = publisher_clock.plus(captured).0;
                let audio_rtp = audio_zero.wrapping_add(48 * 50 * n);
                let video_rtp = video_zero.wrapping_add(90 * 50 * n);
                audio.on_packet(arrives, audio_rtp, 48_000);
                video.on_packet(arrives, video_rtp, 90_000);
                if n % 100 == 0 {
                    publisher.on_sender_report(arrives, sender_ntp);
                    audio.on_sender_report(sender_ntp, audio_rtp);
                }
                if n % 20 == 7 {
                    publisher.on_sender_report(arrives, sender_ntp);
                    video.on_sender_report(sender_ntp, video_rtp);
                }
                if n >= 7 {
                    let heard = audio.anchor(&publisher).unwrap().ntp_of(audio_rtp, 48_000);
                    let seen = video.anchor(&publisher).unwrap().ntp_of(video_rtp, 90_000);
                    assert_near(heard, seen, 1.0); // whip-whep G12
                    assert_near(heard, SERVER.plus(captured + MS * 20), 61.0);
                }
            }
        }
    }

    #[test]
    fn least_delayed_report_counts_and_a_spike_does_not() {
        let mut clock = PublisherClock::new();
        assert_eq!(clock.to_server(1 << 40), None);
        let stamp = |s: u32| Ntp(5 << 32).plus(Duration::from_secs(1) * s);
        let arrival = |s: u32, delay: Duration| SERVER.plus(Duration::from_secs(1) * s + delay);
        for (s, delay) in [(0, 120), (1, 30), (2, 90), (3, 2_000), (4, 1_900), (5, 40)] {
            clock.on_sender_report(arrival(s, MS * delay), stamp(s).0);
        }
        assert_near(clock.to_server(stamp(6).0).unwrap(), arrival(6, MS * 30), 0.01);
        clock.on_sender_report(arrival(6, MS * 10), 0);
        assert_near(clock.to_server(stamp(6).0).unwrap(), arrival(6, MS * 30), 0.01);
    }

    #[test]
    fn longer_path_is_followed_slowly_after_the_window() {
        let mut clock = PublisherClock::new();
        let mut mapped = None;
        let mut at_40_s = 0.0;
        for s in 0..120u32 {
            let stamp = Ntp(5 << 32).plus(Duration::from_secs(s.into()));
            let delay = if s < 5 { 20 } else { 80 };
            let now = SERVER.plus(Duration::from_secs(s.into()) + MS * delay);
            clock.on_sender_report(now, stamp.0);
            let to = clock.to_server(Ntp(5 << 32).0).unwrap();
            if let Some(before) = mapped.replace(to) {
                assert!(ms_between(to, before) <= 2.2, "no visible step");
            }
            if s == 25 {
                assert_near(to, SERVER.plus(MS * 20), 0.01);
            }
            if s == 40 {
                at_40_s = ms_between(to, SERVER);
            }
        }
        assert!(at_40_s > 22.0 && at_40_s < 50.0, "{at_40_s} ms");
        assert_near(mapped.unwrap(), SERVER.plus(MS * 80), 0.01);
    }

    #[test]
    fn wall_clock_of_the_publisher_steps_and_is_followed() {
        for step_s in [-86_400i64, -2, 2, 86_400] {
            let mut clock = PublisherClock::new();
            let stamp = |s: u64| {
                let step = if s < 10 { 0 } else { step_s };
                ((1_000_000 + s) << 32).wrapping_add_signed(step * SECOND)
            };
            for s in 0..15 {
                clock.on_sender_report(SERVER.plus(Duration::from_secs(s)), stamp(s));
            }
            let mapped = clock.to_server(stamp(15)).unwrap();
            assert_near(mapped, SERVER.plus(Duration::from_secs(15)), 0.01);
        }
    }

    #[test]
    fn publisher_without_sender_reports_is_timed_by_arrival() {
        let publisher = PublisherClock::new();
        let mut track = TrackClock::new();
        assert_eq!(track.anchor(&publisher), None);
        let zero = u32::MAX - 90_000; // wraps after one second
        for n in 0..30 * 120u32 {
            let captured = Duration::from_secs(1) * n / 30;
            let now = SERVER.plus(captured + MS * delay_ms(n));
            let rtp = zero.wrapping_add(3_000 * n);
            track.on_packet(now, rtp, 90_000);
            track.on_packet(now.plus(3 * MS), rtp, 90_000); // second packet of the frame
            if n >= 61 {
                let anchor = track.anchor(&publisher).unwrap();
                let at = SERVER.plus(captured + MS * 20);
                assert_near(anchor.ntp_of(rtp, 90_000), at, 0.5);
            }
        }
    }

    #[test]
    fn reports_that_contradict_the_packets_are_not_believed() {
        let mut publisher = PublisherClock::new();
        let mut track = TrackClock::new();
        track.on_packet(SERVER, 1_000_000, 90_000);
        publisher.on_sender_report(SERVER, 7 << 32);
        track.on_sender_report(7 << 32, 1_000_000 + 4 * 90_000); // RTP time from another clock
        let anchor = track.anchor(&publisher).unwrap();
        assert_eq!(anchor, ClockAnchor { ntp: SERVER, rtp: 1_000_000 });
        track.on_sender_report(7 << 32, 1_000_000 + 2 * 90_000);
        assert_eq!(track.anchor(&publisher).unwrap().rtp, 1_000_000 + 2 * 90_000);
    }

    #[test]
    fn report_that_comes_before_the_first_packet_counts() {
        let mut publisher = PublisherClock::new();
        let mut track = TrackClock::new();
        publisher.on_sender_report(SERVER, 7 << 32);
        track.on_sender_report(7 << 32, 90_000);
        assert_eq!(track.anchor(&publisher), None);
        track.on_packet(SERVER.plus(40 * MS), 90_000, 90_000);
        let anchor = ClockAnchor { ntp: SERVER, rtp: 90_000 };
        assert_eq!(track.anchor(&publisher), Some(anchor));
        track.on_packet(SERVER.plus(60 * MS), 5_000, 48_000);
        assert_eq!(track.anchor(&publisher).unwrap().rtp, 5_000, "another clock rate, a new start");
    }

    #[test]
    fn timestamps_that_jump_are_followed_without_reports() {
        let publisher = PublisherClock::new();
        for jump in [0x4000_0000u32, 0xc000_0000] {
            let mut track = TrackClock::new();
            for n in 0..300u32 {
                let rtp = 3_000 * n + if n < 150 { 0 } else { jump };
                track.on_packet(SERVER.plus(Duration::from_secs(1) * n / 30), rtp, 90_000);
            }
            let anchor = track.anchor(&publisher).unwrap();
            let last = jump.wrapping_add(3_000 * 299);
            let at = SERVER.plus(Duration::from_secs(1) * 299 / 30);
            assert_near(anchor.ntp_of(last, 90_000), at, 0.01);
        }
    }

    #[test]
    fn anchors_extrapolate_both_ways_and_across_wraps() {
        let anchor = ClockAnchor { ntp: Ntp(u64::MAX - 5), rtp: u32::MAX - 10 };
        for seconds in [0, 1, 3_600] {
            let span = Duration::from_secs(seconds) + 500 * MS;
            let ticks = (90_000 * seconds + 45_000) as u32;
            let later = anchor.rtp.wrapping_add(ticks);
            assert_eq!(anchor.rtp_at(anchor.ntp.plus(span), 90_000), later);
            assert_near(anchor.ntp_of(later, 90_000), anchor.ntp.plus(span), 0.001);
            let earlier = anchor.rtp.wrapping_sub(ticks);
            assert_eq!(anchor.rtp_at(anchor.ntp.minus(span), 90_000), earlier);
            assert_near(anchor.ntp_of(earlier, 90_000), anchor.ntp.minus(span), 0.001);
        }
    }
}
