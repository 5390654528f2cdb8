//! Tests of the keyframe cache.

use super::*;
use crate::rtp::codec::{FrameInfo, peek};

/// A layer's packets and keyframe, fed by (number, timestamp, starts a keyframe, ends its
/// frame).
struct Layer {
    now: Instant,
    packets: PacketCache,
    cache: KeyframeCache,
    payload_len: u16,
}

impl Layer {
    fn new() -> Self {
        let (packets, cache) = (PacketCache::new(), KeyframeCache::default());
        Self { now: Instant::now(), packets, cache, payload_len: 1_000 }
    }

    fn feed(&mut self, packets: &[(u64, u32, bool, bool)]) {
        for &(ext_seq, timestamp, keyframe, marker) in packets {
            let frame = FrameInfo { keyframe, ..FrameInfo::default() };
            self.insert(Codec::Vp8, (ext_seq, timestamp, marker), frame, &[]);
        }
    }

    /// Feeds payloads with number, timestamp and marker.
    fn feed_payloads(&mut self, codec: Codec, packets: &[(u64, u32, bool, &str)]) {
        for &(ext_seq, timestamp, marker, payload) in packets {
            let payload = hex(payload);
            self.payload_len = payload.len() as u16;
            let frame = peek(codec, &payload);
            self.insert(codec, (ext_seq, timestamp, marker), frame, &payload);
        }
    }

    fn insert(
        &mut self,
        codec: Codec,
        (ext_seq, timestamp, marker): (u64, u32, bool),
        frame: FrameInfo,
        payload: &[u8],
    ) {
        let mut packet = Packet::with_capacity(1_500);
        packet.buffer_mut()[12..12 + payload.len()].copy_from_slice(payload);
        let meta = PacketMeta {
            ext_seq,
            timestamp,
            marker,
            red: false,
            payload_start: 12,
            payload_len: self.payload_len,
            prefix_len: 0,
            frame,
            exts: [None; 4],
            arrival: self.now,
        };
        packet.describe(meta);
        self.packets.insert(Arc::new(packet), drop);
        self.cache.on_packet(codec, &meta, &self.packets);
    }

    /// The payloads of the parameter sets that go before the keyframe with this first packet.
    fn sets_before(&self, first: u64) -> Vec<Vec<u8>> {
        let sets = self.cache.sets_before(first).iter();
        sets.map(|packet| packet.payload().to_vec()).collect()
    }

    fn whole(&self) -> Option<(u64, u64)> {
        self.cache.whole().map(|keyframe| (keyframe.first(), keyframe.end()))
    }
}

#[test]
fn keyframe_is_complete_when_its_last_missing_packet_comes() {
    let mut layer = Layer::new();
    layer.feed(&[(100, 9, true, false), (102, 9, false, true)]);
    assert_eq!((layer.cache.begins(), layer.whole()), (Some(100), None));
    layer.feed(&[(103, 12, false, true), (101, 9, false, false)]);
    assert_eq!(layer.whole(), Some((100, 103)));
    assert_eq!(layer.cache.whole().map(Keyframe::bytes), Some(3_000));
    // The next one has a gap: the old picture stays, but the new group has begun.
    layer.feed(&[(110, 20, true, false), (112, 20, false, true), (113, 23, false, true)]);
    assert_eq!((layer.cache.begins(), layer.whole()), (Some(110), Some((100, 103))));
}

#[test]
fn order_does_not_matter() {
    let mut layer = Layer::new();
    layer.feed(&[(101, 9, false, false), (100, 9, true, false), (102, 9, false, true)]);
    assert_eq!(layer.whole(), Some((100, 103)));
    // A slice that was overtaken by the next one, which is marked as a keyframe too.
    layer.feed(&[(111, 20, true, true), (110, 20, true, false)]);
    assert_eq!((layer.cache.begins(), layer.whole()), (Some(110), Some((110, 112))));
}

#[test]
fn keyframe_whose_first_packet_comes_last_is_whole() {
    let mut layer = Layer::new();
    layer.feed(&[(101, 9, false, false), (102, 9, false, true), (103, 12, false, true)]);
    assert!(!layer.cache.is_decided());
    layer.feed(&[(100, 9, true, false)]);
    assert_eq!(layer.whole(), Some((100, 103)));
    assert!(layer.cache.is_decided());
    // Of the next one, a packet in the middle is missing as well.
    layer.feed(&[(111, 20, false, false), (113, 20, false, true), (110, 20, true, false)]);
    assert_eq!((layer.cache.begins(), layer.cache.is_decided()), (Some(110), false));
    layer.feed(&[(112, 20, false, false)]);
    assert_eq!(layer.whole(), Some((110, 114)));
}

#[test]
fn keyframe_outlives_the_packet_cache_while_it_is_the_newest() {
    let mut layer = Layer::new();
    layer.feed(&[(100, 9, true, true)]);
    layer.now += Duration::from_secs(4);
    layer.feed(&[(101, 360_000, false, true)]);
    assert!(layer.packets.get(100).is_none());
    let keyframe = layer.cache.whole().expect("it is kept");
    assert!(keyframe.get(100).is_some() && keyframe.get(101).is_none());
    assert!(keyframe.get(99).is_none());
    let (sent, later) = (layer.now, layer.now + KEYFRAME_AGE_MAX);
    layer.cache.expire(later, Some(later));
    assert!(layer.cache.whole().is_some(), "the layer sends, and nothing newer began");
    layer.cache.expire(later + Duration::from_millis(1), Some(sent));
    assert!(layer.cache.whole().is_none(), "the layer is silent");
    // A newer one begins, and is never whole.
    layer.feed(&[(102, 720_000, true, true), (110, 800_000, true, false)]);
    layer.cache.expire(later, Some(later));
    assert_eq!(layer.whole(), Some((102, 103)));
    let late = later + Duration::from_secs(1);
    layer.cache.expire(late, Some(late));
    assert_eq!(layer.whole(), None);
}

#[test]
fn size_is_bounded() {
    for (count, payload_len, kept) in [
        (KEYFRAME_PACKETS_MAX, 1_000, true),
        (KEYFRAME_PACKETS_MAX + 1, 1_000, false),
        (KEYFRAME_BYTES_MAX / 1_400, 1_400, true),
        (KEYFRAME_BYTES_MAX / 1_400 + 1, 1_400, false),
    ] {
        let mut layer = Layer::new();
        layer.payload_len = payload_len;
        let count = count as u64;
        let packets: Vec<_> = (0..count).map(|n| (n, 9, n == 0, n + 1 == count)).collect();
        layer.feed(&packets);
        assert_eq!(layer.whole().is_some(), kept, "{count} x {payload_len}");
        assert!(layer.cache.is_decided());
    }
}

const SPS: &str = "6742e01f96540a0fd8088000000300800000180711060c";
const OTHER_SPS: &str = "6742c016d900a02ff970110000030001000003000a0f162e48";
const PPS: &str = "68ce3c80";
const IDR: &str = "6588840a0b";
const SLICE: &str = "419a000102";

const H265_VPS: &str = "40010c01ffff01600000030090000003000003005d9598";
const H265_SPS: &str = "42010101600000030090000003000003005da00280802d165959a4932bc05a02000003000200000\
                        3000a10";
const H265_PPS: &str = "4401c172b46240";
const H265_IDR: &str = "2601af0a0b";
const H265_SLICE: &str = "0201d00102";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

// RFC 6184 section 5.1: the marker is a hint
#[test]
fn keyframe_holds_the_parameter_sets_before_it_and_all_its_slices() {
    let (on, off) = (true, false);
    let h264 = [
        vec![(1, 9_000, on, SPS), (2, 9_000, on, PPS), (3, 9_000, on, IDR)],
        vec![(1, 8_999, off, SPS), (2, 8_999, on, PPS), (3, 9_000, on, IDR)],
        vec![(1, 9_000, off, "09f0"), (2, 9_000, off, SPS), (3, 9_000, on, IDR)],
        vec![(1, 9_000, off, SPS), (2, 9_000, on, IDR), (3, 9_000, on, IDR)],
        vec![(1, 9_000, on, IDR), (2, 9_000, on, IDR), (3, 9_000, on, IDR)],
        vec![(1, 9_000, off, IDR), (2, 9_000, off, IDR), (3, 9_000, off, IDR)],
    ];
    for packets in h264 {
        // In each order of arrival.
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut layer = Layer::new();
            layer.feed_payloads(Codec::H264, &[(0, 6_000, on, SLICE)]);
            layer.feed_payloads(Codec::H264, &order.map(|index: usize| packets[index]));
            layer.feed_payloads(Codec::H264, &[(4, 12_000, on, SLICE)]);
            assert_eq!(layer.whole(), Some((1, 4)), "{packets:?} in order {order:?}");
            assert_eq!(layer.cache.begins(), Some(1));
        }
    }
    let mut layer = Layer::new();
    layer.feed_payloads(
        Codec::H265,
        &[
            (1, 9_000, off, H265_VPS),
            (2, 9_000, off, H265_SPS),
            (3, 9_000, off, H265_PPS),
            (4, 9_000, on, H265_IDR),
        ],
    );
    assert_eq!(layer.whole(), Some((1, 5)));
}

#[test]
fn keyframe_is_kept_at_its_marker_unless_the_publisher_marks_each_slice() {
    let mut layer = Layer::new();
    let keyframe =
        |from: u64, timestamp| [(from, timestamp, false, SPS), (from + 1, timestamp, true, IDR)];
    layer.feed_payloads(Codec::H264, &keyframe(10, 0));
    assert_eq!(layer.whole(), Some((10, 12)), "no later frame is awaited");
    layer.feed_payloads(Codec::H264, &[(12, 0, true, IDR), (13, 3_000, true, SLICE)]);
    assert_eq!(layer.whole(), Some((10, 13)));
    layer.feed_payloads(Codec::H264, &keyframe(20, 9_000));
    assert_eq!(layer.whole(), Some((10, 13)), "another slice may follow");
    layer.feed_payloads(Codec::H264, &[(22, 9_000, true, IDR), (23, 12_000, true, SLICE)]);
    assert_eq!(layer.whole(), Some((20, 23)));
}

#[test]
fn parameter_sets_with_another_picture_begin_nothing() {
    let mut layer = Layer::new();
    let starts = |layer: &Layer| layer.cache.start();
    layer
        .feed_payloads(Codec::H264, &[(1, 0, false, SPS), (2, 0, false, PPS), (3, 0, true, SLICE)]);
    assert_eq!(starts(&layer), None);
    layer.feed_payloads(Codec::H264, &[(4, 3_000, true, IDR)]);
    let bare = DecoderStart { first: 4, key: 4, timestamp: 3_000, needs_sets: true };
    assert_eq!(starts(&layer), Some(bare));
    // One frame after the IDR picture: they are for the next.
    layer.feed_payloads(Codec::H264, &[(5, 6_000, false, SPS), (6, 6_000, true, SLICE)]);
    assert_eq!((starts(&layer), layer.whole()), (Some(bare), Some((4, 5))));
    layer.feed_payloads(Codec::H265, &[(7, 9_000, false, H265_SPS), (8, 9_000, true, H265_SLICE)]);
    assert_eq!(starts(&layer), Some(bare));
}

#[test]
fn parameter_sets_that_were_sent_once_go_before_later_keyframes() {
    let mut layer = Layer::new();
    layer.feed_payloads(Codec::H264, &[(1, 0, false, SPS), (2, 0, false, PPS), (3, 0, true, IDR)]);
    assert_eq!(
        layer.cache.start(),
        Some(DecoderStart { first: 1, key: 3, timestamp: 0, needs_sets: false })
    );
    assert!(layer.sets_before(1).is_empty());
    layer.feed_payloads(Codec::H264, &[(4, 3_000, true, SLICE), (5, 6_000, true, IDR)]);
    assert_eq!(
        layer.cache.start(),
        Some(DecoderStart { first: 5, key: 5, timestamp: 6_000, needs_sets: true })
    );
    assert_eq!(layer.sets_before(5), [hex(SPS), hex(PPS)]);
    // A change that belongs to the next keyframe leaves this one as it is.
    layer.feed_payloads(Codec::H264, &[(6, 9_000, false, OTHER_SPS), (7, 9_000, true, SLICE)]);
    assert_eq!(layer.sets_before(5), [hex(SPS), hex(PPS)]);
    let number = layer.cache.sets_before(5)[0].meta().unwrap().ext_seq;
    layer.feed_payloads(Codec::H264, &[(8, 12_000, true, IDR)]);
    assert_eq!(layer.sets_before(8), [hex(OTHER_SPS), hex(PPS)]);
    assert_eq!(layer.cache.get(number).map(|set| set.payload().to_vec()), Some(hex(SPS)));
}

#[test]
fn missing_packet_before_the_first_idr_may_hold_its_parameter_sets() {
    let mut layer = Layer::new();
    layer.feed_payloads(Codec::H264, &[(1, 0, true, SLICE), (4, 3_000, true, IDR)]);
    assert_eq!(layer.cache.start(), None);
    layer.feed_payloads(Codec::H264, &[(2, 3_000, false, SPS), (3, 3_000, false, PPS)]);
    assert_eq!(
        layer.cache.start(),
        Some(DecoderStart { first: 2, key: 4, timestamp: 3_000, needs_sets: false })
    );
    // Sets are known, but may have changed.
    layer.feed_payloads(Codec::H264, &[(6, 6_000, true, IDR)]);
    assert_eq!(layer.cache.begins(), Some(2), "the one before");
    layer.feed_payloads(Codec::H264, &[(5, 3_000, true, SLICE), (7, 9_000, true, IDR)]);
    assert_eq!(layer.cache.begins(), Some(7));
    // This publisher sends keyframes without sets: only a first slice may be missing.
    layer.feed_payloads(Codec::H264, &[(9, 12_000, true, "6508840a0b")]);
    assert_eq!(layer.cache.begins(), Some(7));
    layer.feed_payloads(Codec::H264, &[(8, 12_000, false, IDR)]);
    assert_eq!(layer.cache.begins(), Some(8));
    layer.feed_payloads(Codec::H264, &[(11, 15_000, true, IDR)]);
    assert_eq!(layer.cache.begins(), Some(11));
}

// AV1 RTP specification section 4.4
#[test]
fn key_frame_of_av1_needs_a_sequence_header() {
    let mut layer = Layer::new();
    let (header, key, inter) = ("1808000000043cfeccdaf980", "10301000", "10303000");
    layer.feed_payloads(Codec::Av1, &[(1, 0, true, key)]);
    assert_eq!(layer.cache.start(), None);
    layer.feed_payloads(Codec::Av1, &[(2, 3_000, false, header), (3, 3_000, true, inter)]);
    assert_eq!(layer.cache.start(), None);
    layer.feed_payloads(Codec::Av1, &[(4, 6_000, false, header), (5, 6_000, true, key)]);
    assert_eq!(
        layer.cache.start(),
        Some(DecoderStart { first: 4, key: 5, timestamp: 6_000, needs_sets: false })
    );
    layer.feed_payloads(Codec::Av1, &[(6, 9_000, true, key)]);
    assert_eq!(layer.sets_before(6), [hex(header)]);
}

#[test]
fn access_unit_has_a_longest_beginning() {
    let mut layer = Layer::new();
    for number in 0..LEAD_PACKETS_MAX + 10 {
        layer.feed_payloads(Codec::H264, &[(100 + number, number as u32, true, SPS)]);
    }
    let key = 100 + LEAD_PACKETS_MAX + 10;
    layer.feed_payloads(Codec::H264, &[(key, 9_000, true, IDR)]);
    assert_eq!(layer.cache.begins(), Some(key - LEAD_PACKETS_MAX));
}

/// Padding, and useless packets that are forwarded as numbers, have the timestamp of the picture
/// before them.
#[test]
fn packet_without_payload_behind_a_keyframe_changes_nothing() {
    let mut layer = Layer::new();
    layer.feed(&[(100, 9, true, false), (101, 9, false, true)]);
    assert!(layer.whole() == Some((100, 102)) && layer.cache.is_decided());
    layer.payload_len = 0;
    layer.feed(&[(102, 9, false, false)]);
    assert!(layer.whole() == Some((100, 102)) && layer.cache.is_decided());
    layer.payload_len = 1_000;
    // The next keyframe is whole at its marker.
    layer.feed(&[(103, 12, false, true), (104, 15, true, false), (105, 15, false, true)]);
    assert!(layer.whole() == Some((104, 106)) && layer.cache.is_decided());
}

#[test]
fn stream_of_keyframes_without_reliable_markers_has_whole_ones() {
    for marker in [false, true] {
        let mut layer = Layer::new();
        for n in 0..10 {
            let (seq, timestamp) = (100 + 2 * n, 9 + 3 * n as u32);
            layer.feed(&[(seq, timestamp, true, marker), (seq + 1, timestamp, false, marker)]);
        }
        assert_eq!(layer.whole(), Some((116, 118)), "the last that was seen to end");
    }
}

#[test]
fn keyframe_whose_parameter_sets_are_lost_is_used_with_the_kept_ones_once_no_repair_can_come() {
    let mut layer = Layer::new();
    let sets = [(1, 0, false, SPS), (2, 0, false, PPS), (3, 0, true, IDR)];
    layer.feed_payloads(Codec::H264, &sets);
    layer.feed_payloads(Codec::H264, &[(4, 3_000, true, SLICE)]);
    // 5 and 6 are lost: this publisher sends its sets before each keyframe.
    layer.feed_payloads(Codec::H264, &[(7, 6_000, true, IDR), (8, 9_000, true, SLICE)]);
    let before = DecoderStart { first: 1, key: 3, timestamp: 0, needs_sets: false };
    assert_eq!((layer.cache.start(), layer.whole()), (Some(before), Some((1, 4))));
    assert!(layer.cache.is_decided(), "the one before");
    layer.now += SETS_REPAIR_MAX - Duration::from_millis(1);
    layer.feed_payloads(Codec::H264, &[(9, 12_000, true, SLICE)]);
    assert_eq!(layer.cache.begins(), Some(1));
    layer.now += Duration::from_millis(1);
    layer.feed_payloads(Codec::H264, &[(10, 15_000, true, SLICE)]);
    let bare = DecoderStart { first: 7, key: 7, timestamp: 6_000, needs_sets: true };
    assert_eq!((layer.cache.start(), layer.whole()), (Some(bare), Some((7, 8))));
    assert_eq!(layer.sets_before(7), [hex(SPS), hex(PPS)]);
}

#[test]
fn keyframe_whose_first_parameter_sets_are_lost_is_not_used() {
    let sets = [(2, 3_000, false, SPS), (3, 3_000, false, PPS)];
    for (lost, kept) in [(sets[0], sets[1]), (sets[1], sets[0])] {
        let mut layer = Layer::new();
        layer.feed_payloads(Codec::H264, &[(1, 0, true, SLICE), kept, (4, 3_000, true, IDR)]);
        layer.now += SETS_REPAIR_MAX;
        layer.feed_payloads(Codec::H264, &[(5, 6_000, true, SLICE)]);
        assert_eq!((layer.cache.start(), layer.whole()), (None, None), "without {lost:?}");
        layer.feed_payloads(Codec::H264, &[lost]);
        assert_eq!((layer.cache.begins(), layer.whole()), (Some(2), Some((2, 5))), "repaired");
    }
}

// RFC 6184 section 5.8, RFC 7798 section 4.4.3
#[test]
fn parameter_sets_in_several_packets_are_kept() {
    let h264 = ("7c87", "7c07", "7c47", SPS, 1, PPS, IDR);
    let h265 = ("6201a1", "620121", "620161", H265_SPS, 2, H265_PPS, H265_IDR);
    for (codec, (begin, middle, end, sps, header, pps, idr)) in
        [(Codec::H264, h264), (Codec::H265, h265)]
    {
        let body = &sps[2 * header..];
        let parts = [
            format!("{begin}{}", &body[..8]),
            format!("{middle}{}", &body[8..16]),
            format!("{end}{}", &body[16..]),
        ];
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut layer = Layer::new();
            layer.feed_payloads(codec, &[(0, 0, true, H265_SLICE)]);
            for part in order {
                // With a timestamp of their own, like sets in one packet.
                let packet = (1 + part as u64, 2_900, false, parts[part].as_str());
                layer.feed_payloads(codec, &[packet]);
            }
            layer.feed_payloads(codec, &[(4, 3_000, false, pps), (5, 3_000, true, idr)]);
            assert_eq!(layer.cache.begins(), Some(1), "{codec:?} {order:?}");
            layer.feed_payloads(codec, &[(6, 6_000, true, idr)]);
            assert_eq!(layer.sets_before(6), [hex(sps), hex(pps)], "{codec:?} {order:?}");
        }
        let mut layer = Layer::new();
        layer.feed_payloads(codec, &[(1, 0, false, &parts[0]), (3, 0, false, &parts[2])]);
        assert_eq!(layer.cache.sets().len(), 0, "a part is missing");
        layer.feed_payloads(codec, &[(2, 3_000, false, &parts[1])]);
        assert_eq!(layer.cache.sets().len(), 0, "of another picture");
    }
}

#[test]
fn parameter_set_in_several_packets_has_limits() {
    for (parts, bytes, kept) in [(16, 60, 1), (17, 60, 0), (10, 109, 1), (10, 110, 0)] {
        let mut layer = Layer::new();
        let sps = SPS[2..].to_owned() + &"aa".repeat(bytes);
        for part in 0..parts {
            let fu = if part == 0 {
                "87"
            } else if part + 1 == parts {
                "47"
            } else {
                "07"
            };
            let payload = format!("7c{fu}{}", &sps[..2 * bytes]);
            layer.feed_payloads(Codec::H264, &[(1 + part, 0, false, &payload)]);
        }
        assert_eq!(layer.cache.sets().len(), kept, "{parts} parts of {bytes} bytes");
    }
}

#[test]
fn sets_that_the_offer_states_go_before_keyframes_until_packets_bring_others() {
    let mut layer = Layer::new();
    layer.cache = KeyframeCache::with_sets(vec![hex(PPS), hex(SPS), vec![1, 2, 3]]);
    layer.feed_payloads(Codec::H264, &[(1, 0, true, IDR)]);
    let start = DecoderStart { first: 1, key: 1, timestamp: 0, needs_sets: true };
    assert_eq!(layer.cache.start(), Some(start));
    assert_eq!(layer.sets_before(1), [hex(SPS), hex(PPS)]);
    layer.feed_payloads(Codec::H264, &[(2, 3_000, false, OTHER_SPS), (3, 3_000, true, IDR)]);
    assert_eq!(layer.sets_before(2), [hex(OTHER_SPS), hex(PPS)]);
}
