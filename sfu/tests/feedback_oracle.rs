//! Our transport-wide feedback and our NACK requests against an independent implementation.
//!
//! `rtc-interceptor` is an oracle for tests only: nothing in `sfu/src` knows it. Both sides get
//! the same arrivals: loss, reordering, duplicates, jitter and numbers that wrap. Where the two
//! differ by design, the test says why. Wire formats are compared in `rtp_oracle.rs`.

#![allow(clippy::disallowed_methods, reason = "a test takes one real instant to count from")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use rtc_interceptor::{
    AttributedPacket, Interceptor, NackGeneratorBuilder, Packet, RTCPFeedback, RTPHeaderExtension,
    StreamInfo, TaggedPacket, TwccReceiverBuilder,
};
use rtc_rtp::header::Header;
use rtc_shared::TransportContext;
use weir_sfu::congestion::twcc_receiver::{MAX_STATUSES, TwccReceiver};
use weir_sfu::repair::nack_generator::{Arrival, MAX_GAP, NACK_WINDOW, NackGenerator};
use weir_sfu::repair::nack_list::NackList;
use weir_sfu::rtp::ext::ExtKind;
use weir_sfu::rtp::rtcp::{Rtcp, packets};

const MS: Duration = Duration::from_millis(1);
const SSRC: u32 = 7;
const TWCC_ID: u8 = 3;

/// An interceptor of the oracle, for one stream.
struct Theirs<I>(I);

impl<I: Interceptor> Theirs<I> {
    fn new(mut interceptor: I) -> Self {
        let extension =
            RTPHeaderExtension { uri: ExtKind::TransportCc.uri().to_owned(), id: TWCC_ID.into() };
        interceptor.bind_remote_stream(&StreamInfo {
            ssrc: SSRC,
            rtp_header_extensions: vec![extension],
            rtcp_feedback: vec![RTCPFeedback { typ: "nack".into(), parameter: String::new() }],
            ..StreamInfo::default()
        });
        Self(interceptor)
    }

    /// A packet arrives whose sequence number and transport-wide number are the same.
    fn on_packet(&mut self, now: Instant, seq: u16) {
        let mut header =
            Header { version: 2, ssrc: SSRC, sequence_number: seq, ..Header::default() };
        let number = Bytes::copy_from_slice(&seq.to_be_bytes());
        header.set_extension(TWCC_ID, number).expect("an id of one byte");
        let packet = Packet::Rtp(rtc_rtp::Packet { header, payload: Bytes::new() });
        let message = AttributedPacket::new(packet);
        let tagged = TaggedPacket { now, transport: TransportContext::default(), message };
        self.0.handle_read(tagged).expect("their reading");
        while self.0.poll_read().is_some() {}
    }

    /// RTCP datagrams that the oracle sends at `now`.
    fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.0.handle_timeout(now).expect("their timeout");
        let mut sent = Vec::new();
        while let Some(tagged) = self.0.poll_write() {
            let Packet::Rtcp(list) = tagged.message.packet else { panic!("not RTCP") };
            sent.extend(list.iter().map(|packet| packet.marshal().expect("their RTCP").to_vec()));
        }
        sent
    }
}

/// One packet of a sender.
#[derive(Debug, Clone, Copy)]
struct Fate {
    gap_us: u32,
    delay_us: u32,
    is_lost: bool,
    is_doubled: bool,
}

/// Packets with jitter; one of four is late, one of eight is lost, one of sixteen comes twice.
fn fates(count: usize) -> impl Strategy<Value = Vec<Fate>> {
    let fate = (0..4_000u32, 0..3_000u32, 0..60_000u32, 0..4u8, 0..8u8, 0..16u8).prop_map(
        |(gap_us, jitter_us, late_us, late, lost, doubled)| Fate {
            gap_us,
            delay_us: if late == 0 { late_us } else { jitter_us },
            is_lost: lost == 0,
            is_doubled: doubled == 0,
        },
    );
    prop::collection::vec(fate, 2..count)
}

/// Arrivals in order of time, as microseconds and position in the sequence.
fn arrivals(fates: &[Fate]) -> Vec<(u64, u64)> {
    let mut sent_us = 0;
    let mut arrivals = Vec::new();
    for (position, fate) in (0..).zip(fates) {
        sent_us += u64::from(fate.gap_us);
        let at = sent_us + u64::from(fate.delay_us);
        if !fate.is_lost {
            arrivals.push((at, position));
            if fate.is_doubled {
                arrivals.push((at + 500, position));
            }
        }
    }
    arrivals.sort_unstable();
    arrivals
}

// --- transport-wide feedback ---------------------------------------------------------------------

/// Feedback on each number: arrival in ticks of 250 µs, or missing.
#[derive(Debug, Default, PartialEq)]
struct Reported {
    received: BTreeMap<u16, i64>,
    missing: BTreeSet<u16>,
}

impl Reported {
    fn add(&mut self, seq: u16, arrival: Option<i64>) {
        match arrival {
            Some(ticks) => {
                self.missing.remove(&seq);
                let first = *self.received.entry(seq).or_insert(ticks);
                assert!((first - ticks).abs() <= 1, "{seq} was reported twice, at different times");
            }
            None if self.received.contains_key(&seq) => panic!("{seq} was reported as received"),
            None => _ = self.missing.insert(seq),
        }
    }

    fn add_ours(&mut self, receiver: &mut TwccReceiver, now: Instant) {
        while let Some(report) = receiver.poll(now) {
            let reference = i64::from(report.reference_time_64ms) * 256;
            for (ahead, ticks) in (0..).zip(report.arrivals) {
                self.add(report.base_seq.wrapping_add(ahead), ticks.map(|ticks| reference + ticks));
            }
        }
    }

    fn add_theirs(&mut self, theirs: &mut Theirs<impl Interceptor>, now: Instant) {
        for datagram in theirs.poll(now) {
            let Some(Ok(Rtcp::Twcc(feedback))) = packets(&datagram).next() else { panic!() };
            let reference = i64::from(feedback.reference_time) * 256;
            for (seq, ticks) in feedback.statuses() {
                self.add(seq, ticks.map(|ticks| reference + ticks));
            }
        }
    }
}

/// Reports of both sides on the same arrivals; numbers begin at `first`.
fn twcc_reported(first: u16, arrivals: &[(u64, u64)]) -> (Reported, Reported) {
    let start = Instant::now();
    let mut receiver = TwccReceiver::new();
    let mut theirs = Theirs::new(TwccReceiverBuilder::new().with_interval(100 * MS).build());
    let (mut ours_told, mut theirs_told) = (Reported::default(), Reported::default());
    let mut now = start;
    for (at_us, position) in arrivals {
        now = start + Duration::from_micros(*at_us);
        while let Some(due) = receiver.next_timeout().filter(|due| *due <= now) {
            ours_told.add_ours(&mut receiver, due);
        }
        theirs_told.add_theirs(&mut theirs, now);
        let seq = first.wrapping_add(*position as u16);
        receiver.on_packet(now, seq);
        theirs.on_packet(now, seq);
    }
    ours_told.add_ours(&mut receiver, now + 200 * MS);
    theirs_told.add_theirs(&mut theirs, now + 200 * MS);
    (ours_told, theirs_told)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Reports agree on each packet. They round an arrival to the nearest tick, we round down.
    #[test]
    fn reports_agree_on_packets_and_times(
        first in prop_oneof![any::<u16>(), 65_300..=65_535u16],
        fates in fates(600),
    ) {
        let arrivals = arrivals(&fates);
        let (ours, theirs) = twcc_reported(first, &arrivals);
        let came: BTreeSet<u64> = arrivals.iter().map(|(_, position)| *position).collect();
        let number = |position: u64| first.wrapping_add(position as u16);
        let all: BTreeSet<u16> = came.iter().map(|position| number(*position)).collect();
        prop_assert_eq!(ours.received.keys().copied().collect::<BTreeSet<_>>(), all);
        prop_assert!(ours.received.keys().eq(theirs.received.keys()));
        for (seq, ticks) in &ours.received {
            let other = theirs.received[seq];
            prop_assert!((0..=1).contains(&(other - ticks)), "{} {} {}", seq, ticks, other);
        }
        let (oldest, newest) = (came.first().copied(), came.last().copied());
        let span = oldest.unwrap_or(0)..newest.unwrap_or(0);
        let lost: BTreeSet<u16> = span.filter(|n| !came.contains(n)).map(number).collect();
        prop_assert_eq!(&ours.missing, &lost);
        prop_assert_eq!(&theirs.missing, &lost);
    }
}

/// We report at most 255 losses before an arrival: an estimator learns no more from the rest, and
/// the report stays in one RTCP packet of known size. They report up to 32,766.
#[test]
fn long_loss_is_reported_at_its_end_by_us_and_whole_by_the_oracle() {
    for lost in [254, 255, 256, 1_000] {
        let (ours, theirs) = twcc_reported(65_000, &[(0, 0), (150_000, lost + 1)]);
        assert_eq!(theirs.missing.len() as u64, lost);
        assert_eq!(ours.missing.len(), (lost as usize).min(MAX_STATUSES - 1), "{lost}");
        assert!(ours.missing.is_subset(&theirs.missing));
        assert_eq!(ours.received, theirs.received);
    }
}

/// A delta holds 8.19 s; both begin a new report where more time lies between two arrivals.
#[test]
fn report_is_split_at_a_silence_longer_than_a_delta() {
    let (ours, theirs) = twcc_reported(10, &[(0, 0), (1_000, 1), (9_000_000, 3), (9_001_000, 4)]);
    assert_eq!(ours.received, theirs.received);
    assert_eq!(ours.missing, BTreeSet::from([12]));
    // Their window forgets arrivals after 500 ms, and the losses beside them.
    assert!(theirs.missing.is_subset(&ours.missing));
}

// --- NACK ----------------------------------------------------------------------------------------

/// Round trip of the publisher that answers our requests.
const RTT_MS: u64 = 50;

/// Time for which we may let a packet be missing before we request it: 20 ms at most for a packet
/// that is only late, 10 ms between two requests, and the steps of this test.
const REQUEST_WITHIN_MS: u64 = 20 + 10 + 2;

fn nacked_by_us(generator: &mut NackGenerator, now: Instant) -> BTreeSet<u16> {
    let mut list = NackList::new();
    generator.poll(now, MS * RTT_MS as u32, &mut list);
    list.as_slice().iter().copied().collect()
}

fn nacked_by_them(theirs: &mut Theirs<impl Interceptor>, now: Instant) -> BTreeSet<u16> {
    let mut nacked = BTreeSet::new();
    for datagram in theirs.poll(now) {
        let Some(Ok(Rtcp::Nack(nack))) = packets(&datagram).next() else { panic!() };
        nacked.extend(nack.sequences());
    }
    nacked
}

/// A generator of the oracle that lists all missing packets at each timeout.
fn their_nack_generator() -> Theirs<impl Interceptor> {
    let builder = NackGeneratorBuilder::new().with_size(NACK_WINDOW as u16);
    Theirs::new(builder.with_interval(Duration::ZERO).build())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The oracle's list holds all missing packets, each time. Ours is paced: it is a subset, and
    /// no packet stays in the oracle's list without a request of ours for longer than
    /// [`REQUEST_WITHIN_MS`].
    #[test]
    fn missing_packets_are_requested_and_no_others(
        first in prop_oneof![any::<u16>(), 65_300..=65_535u16],
        fates in fates(500),
    ) {
        let start = Instant::now();
        let mut generator = NackGenerator::new(true);
        let mut theirs = their_nack_generator();
        let mut due: BTreeMap<u64, Vec<u64>> = BTreeMap::new(); // ms -> positions
        for (at_us, position) in arrivals(&fates) {
            due.entry(at_us / 1_000).or_default().push(position);
        }
        let base = (1 << 16) | u64::from(first);
        let last_ms = due.keys().last().copied().unwrap_or(0) + 10 * RTT_MS;
        let mut missing_since: BTreeMap<u16, u64> = BTreeMap::new();
        let mut requested = BTreeSet::new();
        for ms in 0..last_ms {
            let now = start + MS * ms as u32;
            for position in due.remove(&ms).unwrap_or_default() {
                generator.on_packet(now, base + position);
                theirs.on_packet(now, (base + position) as u16);
            }
            let missing = nacked_by_them(&mut theirs, now);
            for seq in nacked_by_us(&mut generator, now) {
                prop_assert!(missing.contains(&seq), "they do not miss {}", seq);
                requested.insert(seq);
                let position = u64::from(seq.wrapping_sub(first));
                due.entry(ms + RTT_MS).or_default().push(position);
            }
            missing_since.retain(|seq, _| missing.contains(seq));
            for seq in missing {
                let since = *missing_since.entry(seq).or_insert(ms);
                let is_in_time = requested.contains(&seq) || ms - since <= REQUEST_WITHIN_MS;
                prop_assert!(is_in_time, "{} is missing since {} ms, now {}", seq, since, ms);
            }
        }
        prop_assert!(missing_since.is_empty(), "all was answered: {:?}", missing_since);
        prop_assert_eq!(generator.counters().given_up, 0);
    }
}

/// A gap longer than [`MAX_GAP`] is cheaper to replace by a keyframe: we request none of its
/// packets.
#[test]
fn gap_above_the_limit_is_replaced_by_a_keyframe_and_requested_by_the_oracle() {
    for (missing, ours) in [(MAX_GAP, MAX_GAP), (MAX_GAP + 1, 0)] {
        let now = Instant::now();
        let mut generator = NackGenerator::new(true);
        let mut theirs = their_nack_generator();
        for seq in [65_536, 65_536 + missing + 1] {
            assert_eq!(generator.on_packet(now, seq), Arrival::InOrder);
            theirs.on_packet(now, seq as u16);
        }
        let all = nacked_by_them(&mut theirs, now);
        assert_eq!(all.len() as u64, missing);
        let mut requested = nacked_by_us(&mut generator, now);
        requested.extend(nacked_by_us(&mut generator, now + 10 * MS));
        assert_eq!(requested.len() as u64, ours);
        assert!(requested.is_subset(&all));
        assert_eq!(generator.take_keyframe_need(), ours == 0);
    }
}

/// Both forget a packet that falls behind a window of 1,024 numbers.
#[test]
fn packet_behind_the_window_is_not_requested_by_either() {
    let now = Instant::now();
    let mut generator = NackGenerator::new(true);
    let mut theirs = their_nack_generator();
    let first = 65_536 + 65_000;
    for seq in (first..=first + 1 + NACK_WINDOW).filter(|seq| *seq != first + 1) {
        generator.on_packet(now, seq);
        theirs.on_packet(now, seq as u16);
    }
    assert!(nacked_by_them(&mut theirs, now).is_empty());
    assert!(nacked_by_us(&mut generator, now).is_empty());
}
