//! Tests of an RTP sender that leaves frames out: continuous numbers, each once, and the same bytes
//! each time.

use std::time::Instant;

use super::*;
use crate::forward::sequence::SPAN;
use crate::ids::{Epoch, LayerIdx, TrackIdx};
use crate::media::packet::PacketMeta;
use crate::rtp::codec::{FrameInfo, descriptor_prefix_len, peek};
use crate::rtp::packet::RtpHeader;
use proptest::prelude::*;
use std::time::Duration;

const FRAME: u32 = 3_000;
const LAYER: LayerKey = LayerKey { epoch: Epoch(1), track: TrackIdx(0), layer: LayerIdx(0) };

fn layer(layer: u8) -> LayerKey {
    LAYER.with_layer(LayerIdx(layer))
}

fn sender(codec: Codec) -> RtpSender {
    let config = RtpSenderConfig {
        ssrc: 0x5eed,
        rtx_ssrc: 0x5eee,
        mid: b"v".as_slice().into(),
        exts: vec![(ExtKind::Mid, 1), (ExtKind::TransportCc, 2)],
        two_byte_exts: false,
        remember: 1024,
        first_sequence: 1_000,
        first_timestamp: 0,
    };
    let mut sender = RtpSender::new(config);
    sender.set_format(OutgoingFormat { codec, pt: 96, rtx_pt: Some(97), red_pt: None });
    sender.enable_drops();
    sender
}

/// One packet of a frame with a picture id.
fn meta(seq: u64, frame: u32) -> PacketMeta {
    let picture_id = Some((frame as u16 & 0x7fff, 15));
    let picture = Some(PictureIds { picture_id, tl0_pic_idx: Some(frame as u8) });
    PacketMeta {
        ext_seq: seq,
        timestamp: frame.wrapping_mul(FRAME),
        marker: true,
        red: false,
        payload_start: 12,
        payload_len: 100,
        prefix_len: 0,
        frame: FrameInfo { picture, ..FrameInfo::default() },
        exts: [None; 4],
        arrival: Instant::now(),
    }
}

/// Send time; all tests are over within its range.
fn at(now: Instant) -> SendTime {
    SendTime::since(now, now)
}

/// Continues with this layer, by its own clock.
fn switch(sender: &mut RtpSender, key: LayerKey, first: &PacketMeta) {
    let switch = SourceSwitch { ts_delta: 0, catch_up: CatchUpTimestamps::NONE, gap: false };
    sender.switch_source(key, first, switch);
}

fn begin(sender: &mut RtpSender, first: &PacketMeta) {
    switch(sender, LAYER, first);
}

fn sent(sender: &mut RtpSender, meta: &PacketMeta, numbered: Numbered) -> SentRecord {
    let record = numbered.stamp(0);
    sender.on_sent(at(meta.arrival), record, usize::from(meta.payload_len));
    record
}

fn keep(sender: &mut RtpSender, meta: &PacketMeta) -> Result<SentRecord, NotNumbered> {
    let numbered = sender.assign(LAYER, meta, meta.marker, false)?;
    Ok(sent(sender, meta, numbered))
}

fn drop(sender: &mut RtpSender, meta: &PacketMeta) -> Result<SentRecord, NotNumbered> {
    let numbered = sender.drop_packet(LAYER, meta)?;
    Ok(sent(sender, meta, numbered))
}

/// The outgoing number of a frame of one packet, whose picture has the same number.
fn out(sender: &mut RtpSender, seq: u64) -> u32 {
    keep(sender, &meta(seq, seq as u32)).unwrap().out
}

fn closes(sender: &mut RtpSender, seq: u64) {
    assert_eq!(drop(sender, &meta(seq, seq as u32)), Err(NotNumbered::Filtered));
}

#[test]
fn numbers_close_over_filtered_packets() {
    let mut sender = sender(Codec::H264);
    begin(&mut sender, &meta(100, 100));
    assert_eq!(out(&mut sender, 100), 1_000);
    closes(&mut sender, 101);
    closes(&mut sender, 102);
    assert_eq!(out(&mut sender, 103), 1_001);
    closes(&mut sender, 104);
    // The next layer continues after the last number that was sent.
    switch(&mut sender, layer(1), &meta(7, 7));
    let next = sender.assign(layer(1), &meta(7, 7), true, false).unwrap().stamp(0);
    assert_eq!(next.out, 1_002);
    assert_eq!(drop(&mut sender, &meta(104, 104)), Err(NotNumbered::OutsideSegments), "too late");
}

#[test]
fn number_of_a_gap_is_kept_free_for_its_late_packet() {
    let mut sender = sender(Codec::H264);
    begin(&mut sender, &meta(100, 100));
    assert_eq!(out(&mut sender, 100), 1_000);
    closes(&mut sender, 102);
    assert_eq!(out(&mut sender, 104), 1_003, "101 and 103 are missing");
    assert_eq!(out(&mut sender, 101), 1_001, "repaired");
    // The packet is filtered, but the viewer sends NACKs for its number.
    let blank = drop(&mut sender, &meta(103, 103)).unwrap();
    assert!(blank.is_blank() && blank.out == 1_002);
    for again in [101, 103, 104] {
        assert_eq!(keep(&mut sender, &meta(again, again as u32)), Err(NotNumbered::Duplicate));
    }
    assert_eq!(drop(&mut sender, &meta(103, 103)), Err(NotNumbered::Duplicate));
    closes(&mut sender, 102);
    assert_eq!(keep(&mut sender, &meta(102, 102)), Err(NotNumbered::Duplicate), "it has no number");
}

#[test]
fn filtered_packets_close_in_any_order_while_no_higher_number_was_sent() {
    let mut sender = sender(Codec::H264);
    begin(&mut sender, &meta(100, 100));
    assert_eq!(out(&mut sender, 100), 1_000);
    for seq in [103, 101, 102] {
        closes(&mut sender, seq);
    }
    assert_eq!(out(&mut sender, 104), 1_001);
}

#[test]
fn late_packet_of_the_old_layer_takes_no_number_of_the_next_one() {
    let mut sender = sender(Codec::H264);
    begin(&mut sender, &meta(100, 100));
    assert_eq!(out(&mut sender, 100), 1_000);
    closes(&mut sender, 102);
    switch(&mut sender, layer(1), &meta(7, 7));
    // Its number would be the one that the next layer begins with.
    for late in [101, 103] {
        let late = meta(late, late as u32);
        assert_eq!(keep(&mut sender, &late), Err(NotNumbered::OutsideSegments));
    }
    assert_eq!(sender.assign(layer(1), &meta(7, 7), true, false).unwrap().stamp(0).out, 1_001);
}

#[test]
fn numbers_older_than_the_span_are_too_old() {
    let mut sender = sender(Codec::H264);
    begin(&mut sender, &meta(1 << 20, 0));
    assert_eq!(out(&mut sender, 1 << 20), 1_000);
    let last = (1 << 20) + 1 + SPAN;
    for seq in (1 << 20) + 3..=last {
        closes(&mut sender, seq);
    }
    assert_eq!(keep(&mut sender, &meta((1 << 20) + 1, 1)), Err(NotNumbered::TooOld));
    assert_eq!(out(&mut sender, (1 << 20) + 2), 1_002, "the oldest");
    assert_eq!(out(&mut sender, last + 1), 1_003);
}

#[test]
fn picture_ids_of_vp8_close_and_those_of_vp9_keep_their_gaps() {
    for (codec, ids) in [(Codec::Vp8, [0x7ffe, 0x7fff, 0]), (Codec::Vp9, [0x7ffe, 1, 3])] {
        let mut sender = sender(codec);
        begin(&mut sender, &meta(70_000, 0x7ffe));
        let mut sent = Vec::new();
        let mut seq = 70_000;
        for frame in 0x7ffe..0x7ffe + 6 {
            // Two packets to a picture.
            for _ in 0..2 {
                match frame {
                    0x7ffe | 0x8001 | 0x8003 => sent.push(keep(&mut sender, &meta(seq, frame))),
                    _ => closes_packet(&mut sender, seq, frame),
                }
                seq += 1;
            }
        }
        let sent: Vec<_> = sent.into_iter().map(|record| record.unwrap()).collect();
        let numbers: Vec<_> = sent.iter().map(|record| record.out).collect();
        assert_eq!(numbers, [1_000, 1_001, 1_002, 1_003, 1_004, 1_005]);
        let pictures: Vec<_> = sent.iter().map(|record| record.picture_id & 0x7fff).collect();
        assert_eq!(pictures, ids.map(|id| [id; 2]).concat(), "{codec:?}");
        let next = meta(5, 900);
        switch(&mut sender, layer(1), &next);
        let next = sender.assign(layer(1), &next, true, false).unwrap().stamp(0);
        assert_eq!(next.picture_id & 0x7fff, ids[2] + 1, "over the source switch");
    }
}

#[test]
fn picture_ids_go_on_behind_a_packet_without_payload() {
    let mut sender = sender(Codec::Vp8);
    begin(&mut sender, &meta(70_000, 50));
    keep(&mut sender, &meta(70_000, 50)).unwrap();
    let frame = FrameInfo::default();
    keep(&mut sender, &PacketMeta { payload_len: 0, frame, ..meta(70_001, 50) }).unwrap();
    let next = meta(5, 900);
    switch(&mut sender, layer(1), &next);
    let next = sender.assign(layer(1), &next, true, false).unwrap().stamp(0);
    assert_eq!(next.picture_id & 0x7fff, 51);
}

fn closes_packet(sender: &mut RtpSender, seq: u64, frame: u32) {
    assert_eq!(drop(sender, &meta(seq, frame)), Err(NotNumbered::Filtered));
}

/// Header and payload of an outgoing packet, written as media and as RTX.
fn written(sender: &mut RtpSender, record: &SentRecord, packet: &Packet) -> (Vec<u8>, Vec<u8>) {
    let mut out = [0; 300];
    let plain = sender.write_media(record, packet, &mut out).unwrap();
    let (len, rest) = (plain.header_len + plain.prefix_len, plain.rest.to_vec());
    let media = [&out[..len], &rest].concat();
    let plain = sender.write_rtx(record, packet, 9, &mut out).unwrap();
    let (header_len, len) = (plain.header_len, plain.header_len + plain.prefix_len);
    let rest = plain.rest.to_vec();
    (media, [&out[header_len..len], &rest].concat())
}

#[test]
fn retransmission_is_the_same_whatever_was_filtered_since() {
    let now = Instant::now();
    let mut sender = sender(Codec::Vp8);
    let payload = [0x90, 0xe0, 0x80 | 0x12, 0x34, 0x56, 0x20, 0x11, 0, 0, 1, 2, 3];
    let mut packet = Packet::with_capacity(200);
    packet.buffer_mut()[12..24].copy_from_slice(&payload);
    let described = PacketMeta {
        marker: false,
        payload_len: 12,
        prefix_len: descriptor_prefix_len(Codec::Vp8, &payload) as u8,
        frame: peek(Codec::Vp8, &payload),
        arrival: now,
        ..meta(300, 0x1234)
    };
    packet.describe(described);
    begin(&mut sender, &meta(299, 0x1233));
    closes(&mut sender, 299);
    // The last packet of its picture that is sent: it gets the marker of the publisher's larger
    // picture.
    let record = sender.assign(LAYER, &described, true, false).unwrap().stamp(7);
    sender.on_sent(at(now), record, 12);
    let (media, rtx) = written(&mut sender, &record, &packet);
    let header = RtpHeader::parse(&media).unwrap();
    assert!(header.marker && header.sequence == 1_000);
    assert_eq!(media[header.header_len + 2..header.header_len + 4], 0x9233u16.to_be_bytes());
    for seq in 301..400 {
        closes(&mut sender, seq);
    }
    let again = sender.claim_retransmit(at(now), 1_000, Duration::ZERO).unwrap();
    let (media_again, rtx_again) = written(&mut sender, &again, &packet);
    assert_eq!((media_again, rtx_again), (media, rtx));
}

#[test]
fn number_of_a_late_filtered_packet_is_written_without_payload() {
    let now = Instant::now();
    let mut sender = sender(Codec::H264);
    begin(&mut sender, &meta(100, 100));
    keep(&mut sender, &meta(100, 100)).unwrap();
    keep(&mut sender, &meta(102, 102)).unwrap();
    let mut packet = Packet::with_capacity(200);
    packet.describe(meta(101, 101));
    let blank = drop(&mut sender, packet.meta().unwrap()).unwrap();
    let (media, rtx) = written(&mut sender, &blank, &packet);
    let header = RtpHeader::parse(&media).unwrap();
    assert_eq!((header.sequence, header.timestamp), (1_001, 101 * FRAME));
    assert!(!header.marker && media.len() == header.header_len, "only a header");
    assert_eq!(rtx, 1_001u16.to_be_bytes(), "only the original number");
    let again = sender.claim_retransmit(at(now), 1_001, Duration::ZERO).unwrap();
    assert_eq!(written(&mut sender, &again, &packet), (media, rtx));
}

/// Packets of a frame, whether it is filtered, and how late each packet comes (`None`: never).
type Frame = (bool, Vec<Option<u8>>);

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let late = prop_oneof![
        12 => Just(Some(0u8)),
        3 => (0..9u8).prop_map(Some),
        1 => (0..60u8).prop_map(Some),
        1 => Just(None),
    ];
    let frame = (any::<bool>(), prop::collection::vec(late, 1..4));
    prop::collection::vec(frame, 1..120)
}

proptest! {
    /// Filtered, lost and late packets in any order: numbers keep the publisher's order, each is
    /// used once, and only numbers of lost packets are unused.
    #[test]
    fn numbers_are_continuous_except_for_lost_packets(frames in frames(), first in 0..1u64 << 40) {
        let mut sender = sender(Codec::Vp8);
        begin(&mut sender, &meta(first, 0));
        keep(&mut sender, &meta(first, 0)).unwrap();
        let mut arrivals = Vec::new();
        let mut lost = std::collections::BTreeSet::new();
        let mut seq = first;
        for (frame, (left_out, packets)) in (1u32..).zip(&frames) {
            for late in packets {
                seq += 1;
                match late {
                    Some(late) => arrivals.push((seq + u64::from(*late), seq, frame, *left_out)),
                    None => _ = lost.insert(seq),
                }
            }
        }
        arrivals.sort_unstable();
        let mut sent = std::collections::BTreeMap::from([(first, (1_000, 0, 0))]);
        let mut left_out_frames = std::collections::BTreeSet::new();
        for &(_, seq, frame, left_out) in &arrivals {
            let packet = meta(seq, frame);
            let numbered = if left_out { drop(&mut sender, &packet) } else { keep(&mut sender, &packet) };
            if left_out {
                left_out_frames.insert(frame);
            }
            match numbered {
                Ok(record) => {
                    prop_assert_eq!(record.is_blank(), left_out);
                    sent.insert(seq, (record.out, frame, record.picture_id));
                }
                Err(reason) => {
                    prop_assert!(left_out, "{} was refused", seq);
                    prop_assert_eq!(reason, NotNumbered::Filtered);
                }
            }
        }
        let sent: Vec<_> = sent.into_iter().collect();
        for near in sent.windows(2) {
            let ((seq, (out, ..)), (next_seq, (next_out, ..))) = (near[0], near[1]);
            prop_assert!(next_out > out, "{} and {}", out, next_out);
            let missing = lost.range(seq..next_seq).count() as u32;
            prop_assert!(next_out - out - 1 <= missing, "unused numbers after {}", out);
        }
        let kept: Vec<_> = sent.iter().filter(|(_, (_, frame, _))| !left_out_frames.contains(frame)).collect();
        for near in kept.windows(2) {
            let ((_, (_, frame, picture)), (_, (_, next, next_picture))) = (near[0], near[1]);
            let (frames, pictures) = (next - frame, u32::from(next_picture - picture));
            let left_out = left_out_frames.range(frame..next).count() as u32;
            prop_assert!(pictures <= frames && pictures >= frames - left_out, "{:?}", near);
        }
        // The same packets again, as from the cache.
        for &(_, seq, frame, left_out) in &arrivals {
            let packet = meta(seq, frame);
            let again = if left_out { drop(&mut sender, &packet) } else { keep(&mut sender, &packet) };
            prop_assert!(again.is_err());
            prop_assert!(keep(&mut sender, &packet).is_err(), "nor by the other call");
        }
    }

    /// Without loss and reordering there is no gap, neither of numbers nor of pictures.
    #[test]
    fn numbers_and_pictures_are_continuous_in_order(frames in frames()) {
        let mut sender = sender(Codec::Vp8);
        begin(&mut sender, &meta(5, 0));
        keep(&mut sender, &meta(5, 0)).unwrap();
        let (mut seq, mut numbers, mut pictures) = (5, 1_000, 0);
        for (frame, (left_out, packets)) in (1u32..).zip(&frames) {
            pictures += u16::from(!left_out);
            for _ in packets {
                seq += 1;
                if *left_out {
                    closes_packet(&mut sender, seq, frame);
                } else {
                    numbers += 1;
                    let record = keep(&mut sender, &meta(seq, frame)).unwrap();
                    prop_assert_eq!((record.out, record.picture_id), (numbers, pictures));
                }
            }
        }
    }
}
