//! Tests of the sender and receiver statistics.

use super::*;

const MS: Duration = Duration::from_millis(1);
const VIDEO: u32 = 90_000;

#[test]
fn loss_is_counted_per_interval_and_in_all() {
    let start = Instant::now();
    let mut stats = ReceiverStats::new();
    assert_eq!(stats.report_block(start, 1), None);
    for n in (0..100u64).filter(|n| n % 4 != 2) {
        stats.on_packet(start + 10 * MS * n as u32, 131_000 + n, 900 * n as u32, VIDEO, 1_000);
    }
    let report = stats.report_block(start, 0xabcd).unwrap();
    assert_eq!(report.ssrc, 0xabcd);
    assert_eq!(report.fraction_lost, 64);
    assert_eq!(report.cumulative_lost, 25);
    assert_eq!(report.highest_seq, 131_099 - 65_536, "wraps count from the first packet");
    assert_eq!(report.jitter, 0);
    assert_eq!((report.lsr, report.dlsr), (0, 0));
    assert_eq!((stats.packets(), stats.bytes()), (75, 75_000));

    let quiet = stats.report_block(start, 1).unwrap();
    assert_eq!((quiet.fraction_lost, quiet.cumulative_lost), (0, 25));
}

#[test]
fn repaired_packets_are_not_lost_and_make_no_jitter() {
    let start = Instant::now();
    let mut stats = ReceiverStats::new();
    for n in [0, 1, 3, 4] {
        stats.on_packet(start + 10 * MS * n, 70_000 + u64::from(n), 900 * n, VIDEO, 1);
    }
    assert_eq!(stats.lost(), 1);
    stats.on_packet(start + 90 * MS, 70_002, 1_800, VIDEO, 1);
    stats.on_packet(start + 90 * MS, 69_999, 0, VIDEO, 1); // late, from before the first
    let report = stats.report_block(start, 1).unwrap();
    assert_eq!((report.fraction_lost, report.cumulative_lost, report.jitter), (0, 0, 0));
}

#[test]
fn useless_packet_is_received_and_its_timestamp_makes_no_jitter() {
    let start = Instant::now();
    let mut stats = ReceiverStats::new();
    for n in 0..100 {
        match n % 10 {
            7 => assert!(stats.on_useless(70_000 + u64::from(n))),
            _ => stats.on_packet(start + 10 * MS * n, 70_000 + u64::from(n), 900 * n, VIDEO, 1),
        }
    }
    assert!(!stats.on_useless(69_999), "late");
    assert_eq!((stats.lost(), stats.jitter(), stats.packets(), stats.bytes()), (0, 0, 101, 90));
}

#[test]
fn counts_stay_within_their_fields() {
    let start = Instant::now();
    let mut stats = ReceiverStats::new();
    stats.on_packet(start, 65_536, 0, VIDEO, 1);
    stats.on_packet(start, 65_536 + (1 << 40), 0, VIDEO, 1);
    let report = stats.report_block(start, 1).unwrap();
    assert_eq!(report.fraction_lost, 255);
    assert_eq!(report.cumulative_lost, (1 << 23) - 1);
    for _ in 0..10 {
        stats.on_packet(start, 65_536 + (1 << 40), 0, VIDEO, 1); // duplicates, against the rule
    }
    assert_eq!(stats.report_block(start, 1).unwrap().fraction_lost, 0);
}

#[test]
fn jitter_follows_rfc_3550_and_survives_jumps() {
    let start = Instant::now();
    let mut stats = ReceiverStats::new();
    // Stamped every 20 ms, arriving 15 and 25 ms apart: |D| is 5 ms, 240 units of 48 kHz.
    let mut at = start;
    for n in 0..2_000u32 {
        at += if n % 2 == 0 { 15 * MS } else { 25 * MS };
        let rtp_ts = 960u32.wrapping_mul(n).wrapping_sub(100_000);
        stats.on_packet(at, 70_000 + u64::from(n), rtp_ts, 48_000, 1);
    }
    assert!((236..=240).contains(&stats.jitter()), "{}", stats.jitter());
    stats.on_packet(at + 20 * MS, 72_000, 0x8000_0000, 48_000, 1);
    assert!(stats.jitter() <= 240, "a new start is not jitter");
    stats.on_packet(at + 40 * MS, 72_001, 0, 90_000, 1);
    assert!(stats.jitter() <= 240, "nor is another clock");
}

#[test]
fn report_answers_the_last_sender_report() {
    let start = Instant::now();
    let mut stats = ReceiverStats::new();
    stats.on_packet(start, 70_000, 0, VIDEO, 1);
    stats.on_sender_report(start, 0x1111_2222_3333_4444);
    let report = stats.report_block(start + 1_500 * MS, 1).unwrap();
    assert_eq!(report.lsr, 0x2222_3333);
    assert_eq!(report.dlsr, 3 * 65_536 / 2);
}

/// Numbers that were sent when a report comes, with a first one that no wrap is near.
const SENT: std::ops::Range<u64> = 1_000..3_000;

fn report_up_to(highest: u64) -> ReportBlock {
    ReportBlock { highest_seq: highest as u32, ..ReportBlock::default() }
}

#[test]
fn round_trip_is_measured_and_implausible_ones_are_not() {
    let sent = Ntp(0xe000_0000_ffff_8000); // the middle 32 bits wrap soon
    let report = |lsr, dlsr| ReportBlock { lsr, dlsr, ..report_up_to(2_000) };
    let mut stats = SenderStats::new();
    stats.on_sender_report(sent);
    stats.on_sender_report(sent.minus(Duration::from_secs(20)));
    let back = sent.plus(Duration::from_millis(1_080));
    assert_eq!(stats.on_report(back, &report(sent.middle(), 65_536), SENT), Ok(()));
    let rtt = stats.rtt().unwrap();
    assert!(rtt.abs_diff(80 * MS) < MS, "{rtt:?}");

    for (lsr, dlsr) in [
        (0, 65_536),                                       // no report seen
        (sent.middle(), 3 * 65_536),                       // negative
        (sent.middle().wrapping_sub(20 * 65_536), 65_536), // 20 s
        (0x1234_5678, 0xffff_ffff),
    ] {
        assert_eq!(stats.on_report(back, &report(lsr, dlsr), SENT), Ok(()));
        assert_eq!(stats.rtt(), Some(rtt), "{lsr:#x} {dlsr:#x}");
    }
    let at_once = round_trip(sent, sent.middle(), 10);
    assert_eq!(at_once, Some(Duration::ZERO), "rounding on loopback");
    let far = sent.plus(MAX_RTT);
    assert!(round_trip(far, sent.middle(), 0).is_some());
    assert_eq!(round_trip(far.plus(MS), sent.middle(), 0), None);
}

#[test]
fn round_trip_is_measured_only_against_one_of_the_last_sender_reports() {
    let first = Ntp(0xe000_0000_0000_0000);
    let at = |second: u32| first.plus(Duration::from_secs(1) * second);
    let mut stats = SenderStats::new();
    for second in 0..=SENDER_REPORTS as u32 {
        stats.on_sender_report(at(second));
    }
    let now = at(SENDER_REPORTS as u32).plus(30 * MS);
    let answer = |sent: Ntp| ReportBlock { lsr: sent.middle(), ..report_up_to(2_000) };
    // Never sent, and 9.9 s old; then one that was sent and is forgotten.
    for lsr in [now.minus(9_900 * MS), at(0)] {
        assert_eq!(stats.on_report(now, &answer(lsr), SENT), Ok(()));
        assert_eq!(stats.rtt(), None);
    }
    let since_first = at(SENDER_REPORTS as u32).since(at(1)) >> 16;
    let oldest = ReportBlock { dlsr: since_first as u32, ..answer(at(1)) };
    assert_eq!(stats.on_report(now, &oldest, SENT), Ok(()));
    assert!(stats.rtt().unwrap().abs_diff(30 * MS) < MS);
}

#[test]
fn round_trip_is_smoothed() {
    let sent = Ntp(0x1234_5678_9abc_def0);
    let mut stats = SenderStats::new();
    stats.on_sender_report(sent);
    for ms in [80, 160] {
        let report = ReportBlock { lsr: sent.middle(), fraction_lost: 64, ..report_up_to(1_000) };
        assert_eq!(stats.on_report(sent.plus(MS * ms), &report, SENT), Ok(()));
    }
    assert!(stats.rtt().unwrap().abs_diff(90 * MS) < MS);
    assert_eq!(stats.loss(), 0.25);
}

#[test]
fn report_that_cannot_be_true_is_refused_as_a_whole() {
    let now = Ntp(0xe000_0001_0000_0000);
    let lost = |lost, highest| ReportBlock { cumulative_lost: lost, ..report_up_to(highest) };
    for (sent, report, believed) in [
        (SENT, lost(0, 2_999), true),
        (SENT, lost(0, 3_000), false), // not sent yet
        (SENT, lost(0, 2_999 + 30_000), false),
        (SENT, lost(0x7f_ffff, 2_999 + 30_000), false),
        (SENT, lost(0x7f_ffff, 2_999), false),
        (SENT, lost(2_000, 2_999), true), // each single one
        (SENT, lost(2_001, 2_999), false),
        (SENT, lost(-7, 1_000), true), // duplicates
        (SENT, lost(0, 999), false),   // below the first
        (1_000..1_000, lost(0, 1_000), false),
        (1_000..140_000, lost(5, 139_990), true), // cycles of its own
        (1_000..140_000, lost(5, 139_990 & 0xffff), true),
    ] {
        let mut stats = SenderStats::new();
        stats.on_sender_report(now);
        let report = ReportBlock { lsr: now.middle(), ..report };
        let expected = if believed { Ok(()) } else { Err(ReportRefused) };
        assert_eq!(stats.on_report(now, &report, sent.clone()), expected, "{sent:?} {report:?}");
        assert_eq!(stats.last_report(), believed.then_some(&report));
        assert_eq!(stats.rtt().is_some(), believed);
    }
}

#[test]
fn reports_follow_one_another() {
    let now = Ntp(0xe000_0000_0000_0000);
    let report = |lost, highest| ReportBlock { cumulative_lost: lost, ..report_up_to(highest) };
    let mut stats = SenderStats::new();
    assert_eq!(stats.on_report(now, &report(10, 2_000), SENT), Ok(()));
    // Two reports that the path reordered, and 50,000 above ours, which could also be behind.
    for (lost, highest) in [(0, 1_999), (0, 52_999), (112, 2_100)] {
        assert_eq!(stats.on_report(now, &report(lost, highest), SENT), Err(ReportRefused));
    }
    assert_eq!(stats.on_report(now, &report(111, 2_100), SENT), Ok(()));
    assert_eq!(stats.on_report(now, &report(5, 2_100), SENT), Ok(()), "late packets came");
}

#[test]
fn meter_shows_a_steady_rate_and_forgets_after_a_second() {
    let start = Instant::now();
    let mut meter = RateMeter::new();
    assert_eq!(meter.bitrate(start), Bitrate(0));
    for n in 0..3_000 {
        meter.add(start + MS * n, 125); // 1 Mbit/s
        if n > 300 {
            let rate = meter.bitrate(start + MS * n).0;
            assert!((990_000..=1_010_000).contains(&rate), "{rate} after {n} ms");
        }
    }
    let end = start + 3_000 * MS;
    assert!((990..=1_010).contains(&meter.packets_per_second(end)));
    let half = meter.bitrate(end + 500 * MS).0;
    assert!((450_000..=550_000).contains(&half), "{half}");
    assert_eq!(meter.bitrate(end + 1_000 * MS), Bitrate(0));
    assert_eq!(meter.packets_per_second(end + Duration::from_secs(3_600)), 0);
    meter.add(end + Duration::from_secs(3_600), 1_000);
    let after = meter.bitrate(end + Duration::from_secs(3_600)).0;
    assert!((8_000..=8_500).contains(&after), "{after}: only the new packet");
}

#[test]
fn first_burst_does_not_count_as_a_rate() {
    let start = Instant::now();
    let mut meter = RateMeter::new();
    for _ in 0..10 {
        meter.add(start, 1_000);
    }
    assert_eq!(meter.bitrate(start), Bitrate(400_000));
}
