//! Tests of transport-wide feedback: losses, wrap-around, reordering, pace and long gaps.

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
fn arrivals_and_losses_are_reported_across_the_wrap() {
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
fn reordered_packet_is_reported_once_it_arrives() {
    let start = Instant::now();
    let mut receiver = TwccReceiver::new();
    for seq in [10, 11, 13] {
        receiver.on_packet(start, seq);
    }
    assert_eq!(drain(&mut receiver, start), [(10, vec![Some(0), Some(0), None, Some(0)])]);
    receiver.on_packet(start + 5 * MS, 12); // mediasoup#1059
    receiver.on_packet(start + 6 * MS, 14);
    receiver.on_packet(start + 7 * MS, 14);
    assert_eq!(drain(&mut receiver, start + 100 * MS), [(12, vec![Some(20), Some(0), Some(24)])]);
}

#[test]
fn feedback_is_more_frequent_for_a_fast_publisher() {
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
fn feedback_is_sent_with_packets_that_come_shortly_before_it_is_due() {
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
fn of_a_long_loss_the_end_is_reported_and_no_report_is_empty() {
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
fn silence_longer_than_a_delta_splits_the_report() {
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
    fn any_order_of_numbers_is_reported_completely_and_never_empty(
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
