//! Tests of the sender clock: drift, jumps and sender reports.

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
fn audio_and_video_stay_in_sync_over_jitter_and_a_wrong_wall_clock() {
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
    for _ in 0..2 {
        track.on_sender_report(7 << 32, 1_000_000 + 2 * 90_000);
    }
    assert_eq!(track.anchor(&publisher).unwrap().rtp, 1_000_000 + 2 * 90_000);
}

/// OBS stamps a report with the RTP time of the packet it sends, which after a stall is an old one.
#[test]
fn one_report_that_lags_is_left_out_and_a_second_one_is_believed() {
    let at = |ms: u64| SERVER.plus(MS * ms as u32);
    let ntp = |ms: u64| Ntp(7 << 32).plus(MS * ms as u32).0;
    let rtp = |ms: u64| (90 * ms) as u32;
    let mut publisher = PublisherClock::new();
    let mut track = TrackClock::new();
    // Sent at, and the RTP time in it, both in ms.
    let line = [(0, 0), (1_000, 1_000), (2_000, 1_100), (3_000, 3_000), (4_000, 3_700)];
    for (sent, stamped) in line {
        track.on_packet(at(sent), rtp(sent), 90_000);
        publisher.on_sender_report(at(sent), ntp(sent));
        track.on_sender_report(ntp(sent), rtp(stamped));
        let anchor = track.anchor(&publisher).unwrap();
        assert_near(anchor.ntp_of(rtp(sent), 90_000), at(sent), 0.01);
    }
    // Sound was lost on its way to the encoder: it stays 300 ms late.
    publisher.on_sender_report(at(5_000), ntp(5_000));
    track.on_sender_report(ntp(5_000), rtp(4_700));
    let anchor = track.anchor(&publisher).unwrap();
    assert_near(anchor.ntp_of(rtp(4_700), 90_000), at(5_000), 0.01);
}

#[test]
fn queue_that_empties_slowly_is_no_step_of_the_clock() {
    let mut clock = PublisherClock::new();
    let stamp = |n: u32| Ntp(5 << 32).plus(MS * 200 * n);
    for n in 0..200u32 {
        // 12 s without a report, then a queue of 6 s that empties within 12 s.
        let behind = if n < 60 { continue } else { 12_000 - 100 * n.min(120) };
        let now = SERVER.plus(MS * 200 * n + MS * (20 + behind));
        if n == 60 {
            clock.on_sender_report(SERVER.plus(MS * 20), stamp(0).0);
        }
        clock.on_sender_report(now, stamp(n).0);
        assert_near(clock.to_server(stamp(n).0).unwrap(), SERVER.plus(MS * 200 * n), 61.0);
    }
}

/// Sound of 20 ms per packet that stands still for 12 s, and is then sent at `speed` tenths of real
/// time until the sender has caught up. Returns by how much the track's time was moved at most.
fn moved_behind_a_stall(speed: u64) -> f64 {
    let publisher = PublisherClock::new();
    let mut track = TrackClock::new();
    let mut most: f64 = 0.0;
    for n in 0..6_000u64 {
        let (captured, stalled_from, stalled_to) = (20 * n, 4_000, 16_000);
        let queued = stalled_to + captured.saturating_sub(stalled_from) * 10 / speed;
        let sent = if captured < stalled_from { captured } else { captured.max(queued) };
        let late = u64::from(n as u32 * 7 % 13);
        track.on_packet(SERVER.plus(MS * (sent + late) as u32), 960 * n as u32, 48_000);
        let at = track.anchor(&publisher).unwrap().ntp_of(960 * n as u32, 48_000);
        let off = at.since(SERVER.plus(MS * captured as u32)) as f64 / SECOND as f64 * 1e3;
        most = most.max(off.abs());
    }
    most
}

#[test]
fn sound_that_is_caught_up_packet_by_packet_is_no_step_of_the_clock() {
    for speed in [11, 12, 20, 50, 100, 10_000] {
        let moved = moved_behind_a_stall(speed);
        assert!(moved < 60.0, "{moved} ms at {speed} tenths of real time");
    }
}

#[test]
fn clock_that_stands_behind_after_a_stall_is_followed() {
    // As fast as real time: the sender's clock stood still, or it never catches up.
    let moved = moved_behind_a_stall(10);
    assert!((11_900.0..12_100.0).contains(&moved), "{moved} ms");
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
