//! Tests of one viewer's forwarder on one track.

use std::sync::Arc;

use super::*;
use crate::forward::SendTime;
use crate::forward::SentRecord;
use crate::forward::catch_up::Tail;
use crate::forward::layer_cache::Cached;
use crate::forward::start::TAIL_PACKETS_MAX;
use crate::ids::{Epoch, TrackIdx};
use crate::media::{ForwardedExt, KeyframeCache, PacketCache};
use crate::rtp::codec::{FrameInfo, PictureIds, descriptor_prefix_len, peek};
use crate::rtp::ext::ExtKind;
use crate::rtp::packet::RtpHeader;
use crate::units::{Bitrate, Ntp};

const FRAME: u32 = 3_000;

impl ForwardDecision {
    fn unwrap(self) -> SentRecord {
        match self {
            Self::Send(numbered) => numbered.stamp(0xbeef),
            other => panic!("{other:?}"),
        }
    }

    fn is_drop(&self) -> bool {
        matches!(self, Self::Drop(_))
    }
}

fn forwarder() -> Forwarder {
    forwarder_with(vec![(ExtKind::Mid, 1), (ExtKind::TransportCc, 2)])
}

fn forwarder_with(exts: Vec<(ExtKind, u8)>) -> Forwarder {
    let config = RtpSenderConfig {
        ssrc: 0x5eed,
        rtx_ssrc: 0x5eee,
        mid: b"v".as_slice().into(),
        exts,
        two_byte_exts: false,
        remember: 1024,
        first_sequence: 1_000,
        first_timestamp: 50_000,
    };
    Forwarder::new(config, StartMode::FastForward)
}

fn format(codec: Codec) -> OutgoingFormat {
    OutgoingFormat { codec, pt: 96, rtx_pt: Some(97), red_pt: None }
}

/// A publisher's packet: `seq`, `ts`, whether a keyframe starts here, whether its frame ends.
fn meta(now: Instant, seq: u64, ts: u32, keyframe: bool, marker: bool) -> PacketMeta {
    PacketMeta {
        ext_seq: seq,
        timestamp: ts,
        marker,
        red: false,
        payload_start: 12,
        payload_len: 100,
        prefix_len: 0,
        frame: FrameInfo { keyframe, starts_frame: true, ..FrameInfo::default() },
        exts: [None; 4],
        arrival: now,
    }
}

fn layer(epoch: u32, layer: u8) -> LayerKey {
    LayerKey { epoch: Epoch(epoch), track: TrackIdx(0), layer: LayerIdx(layer) }
}

fn on(epoch: u32, layer: u8) -> LayerContext {
    LayerContext { key: self::layer(epoch, layer), anchor: None, start: None }
}

/// A context whose clock was at `rtp` at a moment that is the same for all layers.
fn anchored(epoch: u32, layer: u8, rtp: u32) -> LayerContext {
    LayerContext { anchor: Some(ClockAnchor { ntp: Ntp(9 << 32), rtp }), ..on(epoch, layer) }
}

fn numbers(record: &SentRecord) -> (u32, u32) {
    (record.out, record.timestamp)
}

#[test]
fn all_packets_are_sent_from_a_keyframe_on_and_none_before() {
    let now = Instant::now();
    let mut viewer = forwarder();
    assert_eq!(
        viewer.on_packet(on(1, 0), &meta(now, 70_000, 9, true, true), false),
        ForwardDecision::Drop(DropReason::CodecNotNegotiated)
    );
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    assert_eq!(viewer.awaits_keyframe(), Some(layer(1, 0)));
    let delta = viewer.on_packet(on(1, 0), &meta(now, 70_000, 9, false, true), false);
    assert_eq!(delta, ForwardDecision::NeedKeyframe);
    let key = viewer.on_packet(on(1, 0), &meta(now, 70_001, 100, true, true), false).unwrap();
    assert_eq!(numbers(&key), (1_000, 50_000));
    let next = viewer.on_packet(on(1, 0), &meta(now, 70_003, 100 + FRAME, false, true), false);
    assert_eq!(numbers(&next.unwrap()), (1_002, 50_000 + FRAME), "a gap stays a gap");
    let late = viewer.on_packet(on(1, 0), &meta(now, 70_002, 100 + FRAME, false, false), false);
    assert_eq!(numbers(&late.unwrap()), (1_001, 50_000 + FRAME), "its number was kept free");
    let again = viewer.on_packet(on(1, 0), &meta(now, 70_002, 100 + FRAME, false, false), false);
    assert!(again.is_drop(), "a number is assigned once");
    assert_eq!(viewer.awaits_keyframe(), None);
}

#[test]
fn viewer_keeps_old_layer_until_new_keyframe_arrives() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
    viewer.set_target(layer(1, 2), Reason::LargestLiveLayer);
    let other = viewer.on_packet(on(1, 2), &meta(now, 9_000, 777, false, true), false);
    assert_eq!(other, ForwardDecision::NeedKeyframe);
    let old = viewer.on_packet(on(1, 0), &meta(now, 101, FRAME, false, false), false).unwrap();
    assert_eq!(numbers(&old), (1_001, 50_000 + FRAME));
    // The old frame is not complete: the new layer waits for its end, but not for long.
    let keyframe = meta(now, 9_001, 888, true, true);
    assert_eq!(viewer.on_packet(on(1, 2), &keyframe, false), ForwardDecision::Later);
    let cache = Cache::of(on(1, 2), &[keyframe]);
    assert_eq!(cached(&mut viewer, now, &cache), [], "the old frame continues");
    assert_eq!(viewer.next_timeout(), Some(now + FRAME_END_MAX));
    let end = viewer.on_packet(on(1, 0), &meta(now, 102, FRAME, false, true), false).unwrap();
    assert_eq!(numbers(&end), (1_002, 50_000 + FRAME));
    assert_eq!(cached(&mut viewer, now, &cache), [(1_003, 50_000 + FRAME + FRAME)], "it ended");
    assert!(viewer.is_passthrough());
    let stale = viewer.on_packet(on(1, 0), &meta(now, 103, 2 * FRAME, false, true), false);
    assert_eq!(stale, ForwardDecision::Drop(DropReason::LayerNotSelected));
    let layers: Vec<_> = viewer.decisions().iter().map(|d| (d.layer, d.reason)).collect();
    assert_eq!(
        layers,
        [
            (None, Reason::AwaitingKeyframe),
            (Some(LayerIdx(0)), Reason::LargestLiveLayer),
            (Some(LayerIdx(2)), Reason::LargestLiveLayer)
        ]
    );
}

#[test]
fn returning_publisher_continues_numbers_time_and_picture_ids() {
    // whip-whep G7
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let picture = |mut meta: PacketMeta, id, tl0| {
        let picture = PictureIds { picture_id: Some((id, 15)), tl0_pic_idx: Some(tl0) };
        meta.frame.picture = Some(picture);
        meta
    };
    let second = Ntp(5 << 32);
    let at = |ntp, rtp| Some(ClockAnchor { ntp, rtp });
    let first = LayerContext { anchor: at(second, 0), ..on(1, 0) };
    let key = picture(meta(now, 100, 0, true, true), 32_000, 255);
    let sent = viewer.on_packet(first, &key, false).unwrap();
    assert_eq!((sent.picture_id, sent.tl0_pic_idx), (32_000, 255));

    viewer.detach(now, Reason::NoPublisher);
    assert_eq!(viewer.outgoing_anchor(), None, "no reports while nothing is sent");
    let later = now + Duration::from_secs(2);
    viewer.attach(later, format(Codec::Vp8));
    viewer.set_target(layer(2, 0), Reason::LargestLiveLayer);
    let second_later = second.plus(Duration::from_secs(2));
    let back = LayerContext { anchor: at(second_later, 4_000_000_000), ..on(2, 0) };
    let key = picture(meta(later, 5, 4_000_000_000, true, true), 7, 1);
    let sent = viewer.on_packet(back, &key, false).unwrap();
    assert_eq!(numbers(&sent), (1_001, 50_000 + 2 * 90_000), "two seconds later");
    assert_eq!((sent.picture_id, sent.tl0_pic_idx), (32_001, 0));
    assert_eq!(viewer.decisions().last().map(|d| d.reason), Some(Reason::PublisherChanged));
}

/// H.264 packets of a layer with these payloads: number, timestamp, marker.
fn h264_cache(now: Instant, packets: &[(u64, u32, bool, &[u8])]) -> Cache {
    let mut cache = Cache::of(on(1, 0), &[]);
    for &(ext_seq, timestamp, marker, payload) in packets {
        cache.insert_payload(now, (ext_seq, timestamp, marker), payload);
    }
    cache
}

const SPS: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0x96];
const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
const IDR: &[u8] = &[0x65, 0x88, 0x84];
const SLICE: &[u8] = &[0x41, 0x9a];

/// Number, timestamp and payload of the packets that the viewer is sent now from the cache.
fn cached_payloads(
    viewer: &mut Forwarder,
    now: Instant,
    cache: &Cache,
) -> Vec<(u32, u32, Vec<u8>)> {
    let mut sent = Vec::new();
    loop {
        match viewer.poll(now, &cache) {
            Step::Send(numbered, packet) => {
                let (number, timestamp) = numbers(&numbered.stamp(0));
                sent.push((number, timestamp, packet.payload().to_vec()));
            }
            Step::Drop(reason) => panic!("{reason:?}"),
            Step::Idle => return sent,
        }
    }
}

// whip-whep G16
#[test]
fn live_start_takes_the_parameter_sets_that_came_in_an_earlier_turn() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::H264));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let mut cache = h264_cache(now, &[(99, 0, true, SLICE), (100, 2_999, true, SPS)]);
    let decide = |viewer: &mut Forwarder, cache: &Cache, number: u64| {
        let context = LayerCache::context(&cache, layer(1, 0)).unwrap();
        let meta = *cache.packets.get(number).unwrap().meta().unwrap();
        viewer.number_packet(context, &meta, false)
    };
    // With a slice of another picture these would begin nothing: they are held.
    let held = decide(&mut viewer, &cache, 100);
    assert_eq!(held, Err(ForwardDecision::NeedKeyframe));
    cache.insert_payload(now, (101, 3_000, true), IDR);
    cache.delivered = Some(101);
    assert_eq!(cached_payloads(&mut viewer, now, &cache), []);
    assert_eq!(decide(&mut viewer, &cache, 101), Err(ForwardDecision::Later));
    let sent = cached_payloads(&mut viewer, now, &cache);
    let expected = [(1_000, 49_999, SPS.to_vec()), (1_001, 50_000, IDR.to_vec())];
    assert_eq!(sent, expected, "at once, as the publisher sent them");
    assert!(viewer.is_passthrough());
    cache.insert_payload(now, (102, 6_000, true), SLICE);
    let next = decide(&mut viewer, &cache, 102).unwrap();
    assert_eq!(numbers(&next.stamp(0)), (1_002, 53_000));
}

#[test]
fn late_viewer_gets_parameter_sets_that_were_sent_once() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::H264));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let packets = [
        (100, 0, false, SPS),
        (101, 0, false, PPS),
        (102, 0, true, IDR),
        (103, 9_000, true, IDR),
        (104, 12_000, true, SLICE),
    ];
    let cache = h264_cache(now, &packets);
    let sent = cached_payloads(&mut viewer, now + Duration::from_secs(1), &cache);
    // Numbers of their own, and the timestamp of the picture.
    let expected = [(1_000, SPS), (1_001, PPS), (1_002, IDR), (1_003, SLICE)];
    let found: Vec<_> = sent.iter().map(|(number, _, bytes)| (*number, &bytes[..])).collect();
    assert_eq!(found, expected);
    let timestamps: Vec<_> = sent.iter().map(|(_, timestamp, _)| *timestamp).collect();
    assert_eq!(timestamps[..3], [timestamps[0]; 3]);
    assert!(is_ahead(timestamps[3], timestamps[2]));
}

#[test]
fn jump_of_the_publishers_numbers_to_a_bare_idr_repeats_the_parameter_sets() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::H264));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let mut cache = h264_cache(now, &[(100, 0, false, SPS), (101, 0, true, IDR)]);
    assert_eq!(cached_payloads(&mut viewer, now, &cache).len(), 2);
    cache.insert_payload(now, (8_999, 2_000, true), SLICE);
    cache.insert_payload(now, (9_000, 3_000, true), IDR);
    let context = LayerCache::context(&&cache, layer(1, 0)).unwrap();
    let meta = *cache.packets.get(9_000).unwrap().meta().unwrap();
    let decision = viewer.number_packet(context, &meta, false);
    assert_eq!(decision, Err(ForwardDecision::Later));
    let sent = cached_payloads(&mut viewer, now, &cache);
    let found: Vec<_> = sent.iter().map(|(number, _, bytes)| (*number, &bytes[..])).collect();
    assert_eq!(found, [(1_002, SPS), (1_003, IDR)], "no gap to repair");
}

#[test]
fn jump_of_the_publishers_numbers_leaves_no_gap_to_repair() {
    // quality B4 item 12
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
    let jumped = meta(now, 20_000, FRAME, false, true);
    assert_eq!(viewer.on_packet(on(1, 0), &jumped, false), ForwardDecision::NeedKeyframe);
    let key = meta(now, 20_001, 2 * FRAME, true, true);
    let sent = viewer.on_packet(on(1, 0), &key, false).unwrap();
    assert_eq!(sent.out, 1_001, "the viewer sees no gap");
}

#[test]
fn many_filtered_frames_are_no_jump_and_leave_no_gap() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.set_temporal_cap(Some(0));
    let layered = |seq: u64, temporal_id| {
        let mut meta = meta(now, seq, (seq as u32 - 100) * FRAME, seq == 100, true);
        meta.frame.temporal_id = Some(temporal_id);
        meta
    };
    viewer.on_packet(on(1, 0), &layered(100, 0), false).unwrap();
    for seq in 101..101 + 2 * JUMP_MAX {
        let left_out = viewer.on_packet(on(1, 0), &layered(seq, 1), false);
        assert_eq!(left_out, ForwardDecision::Drop(DropReason::LayerFiltered));
    }
    let next = 101 + 2 * JUMP_MAX;
    let sent = viewer.on_packet(on(1, 0), &layered(next, 0), false).unwrap();
    assert_eq!(numbers(&sent), (1_001, 50_000 + (next as u32 - 100) * FRAME));
    assert_eq!(viewer.temporal_layers(), (Some(0), Some(0)));
}

#[test]
fn timestamps_never_go_back_over_a_source_switch() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(anchored(1, 0, 0), &meta(now, 1 << 20, 0, true, true), false).unwrap();
    viewer.set_target(layer(1, 1), Reason::LargestLiveLayer);
    // By its clock this frame was captured a second before the last one that was sent.
    let early = meta(now, 1 << 20, 500_000 - 90_000, true, true);
    let sent = sent(&mut viewer, anchored(1, 1, 500_000), &early);
    assert_eq!(sent.timestamp, 50_000 + FRAME);
}

#[test]
fn record_is_written_the_same_each_time_and_wrapped_for_rtx() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    // VP8 descriptor with 15-bit picture id and TL0PICIDX, then a keyframe's first bytes.
    let payload = [0x90, 0xe0, 0x80 | 0x12, 0x34, 0x56, 0x20, 0x10, 0, 0, 0x9d, 0x01, 0x2a];
    let mut packet = Packet::with_capacity(200);
    packet.buffer_mut()[12..24].copy_from_slice(&payload);
    let described = PacketMeta {
        payload_len: 12,
        prefix_len: descriptor_prefix_len(Codec::Vp8, &payload) as u8,
        frame: peek(Codec::Vp8, &payload),
        ..meta(now, 300, 0, true, true)
    };
    packet.describe(described);
    let record = viewer.on_packet(on(1, 0), &described, false).unwrap();
    let sent_at = SendTime::since(now, now);
    viewer.sender_mut().on_sent(sent_at, record, 12);

    let written = |sender: &RtpSender| {
        let mut out = [0; 300];
        let plain = sender.write_media(&record, &packet, &mut out).unwrap();
        let (header_len, prefix_len, index) = (plain.header_len, plain.prefix_len, plain.index);
        let rest = plain.rest.to_vec();
        (out[..header_len + prefix_len].to_vec(), rest, index)
    };
    let (head, rest, index) = written(viewer.sender());
    assert_eq!(written(viewer.sender()), (head.clone(), rest.clone(), index));
    let header = RtpHeader::parse(&head).unwrap();
    assert_eq!((header.sequence, header.ssrc, header.payload_type), (1_000, 0x5eed, 96));
    assert!(header.marker && index == 1_000);
    let exts: Vec<_> = header.elements(&head).map(|(id, data)| (id, data.to_vec())).collect();
    assert_eq!(exts, [(1, b"v".to_vec()), (2, vec![0xbe, 0xef])]);
    let media = [&head[header.header_len..], &rest].concat();
    assert_eq!(media, payload, "picture ids start where the publisher's did");

    let retransmission =
        viewer.sender_mut().claim_retransmit(sent_at, 1_000, Duration::ZERO).unwrap();
    let mut out = [0; 300];
    let plain = viewer.sender_mut().write_rtx(&retransmission, &packet, 7, &mut out).unwrap();
    let (header_len, prefix_len) = (plain.header_len, plain.prefix_len);
    let rest = plain.rest.to_vec();
    let header = RtpHeader::parse(&out).unwrap();
    assert_eq!((header.ssrc, header.payload_type, header.timestamp), (0x5eee, 97, 50_000));
    let wrapped = [&out[header_len..header_len + prefix_len], &rest].concat();
    assert_eq!(wrapped[..2], 1_000u16.to_be_bytes(), "RFC 4588: original number first");
    assert_eq!(wrapped[2..], payload);
}

/// Cached packets of one layer.
struct Cache {
    context: LayerContext,
    packets: PacketCache,
    keyframe: KeyframeCache,
    /// First packet that is handed to the viewer in the present delivery.
    delivered: Option<u64>,
}

impl Cache {
    fn of(context: LayerContext, metas: &[PacketMeta]) -> Self {
        let (packets, keyframe) = (PacketCache::new(), KeyframeCache::default());
        let mut cache = Self { context, packets, keyframe, delivered: None };
        metas.iter().for_each(|meta| cache.insert(meta));
        cache
    }

    fn insert(&mut self, meta: &PacketMeta) {
        let mut packet = Packet::with_capacity(200);
        packet.describe(*meta);
        self.take(packet, meta);
    }

    /// Inserts an H.264 packet: number, timestamp, marker.
    fn insert_payload(&mut self, now: Instant, place: (u64, u32, bool), payload: &[u8]) {
        let (ext_seq, timestamp, marker) = place;
        let mut packet = Packet::with_capacity(200);
        packet.buffer_mut()[12..12 + payload.len()].copy_from_slice(payload);
        let described = PacketMeta {
            payload_len: payload.len() as u16,
            frame: peek(Codec::H264, payload),
            ..meta(now, ext_seq, timestamp, false, marker)
        };
        packet.describe(described);
        self.take(packet, &described);
    }

    fn take(&mut self, packet: Packet, meta: &PacketMeta) {
        assert!(self.packets.insert(Arc::new(packet), drop));
        let codec = if meta.frame.parts.is_empty() { Codec::Vp8 } else { Codec::H264 };
        self.keyframe.on_packet(codec, meta, &self.packets);
    }
}

impl<'a> LayerCache<'a> for &'a Cache {
    fn context(&self, key: LayerKey) -> Option<LayerContext> {
        let start = self.keyframe.start();
        (key == self.context.key).then_some(LayerContext { start, ..self.context })
    }

    fn newest(&self, key: LayerKey) -> Option<u64> {
        self.context(key).map(|_| self.packets.newest())
    }

    fn packet(&self, key: LayerKey, ext_seq: u64) -> Option<&'a Packet> {
        self.context(key).and_then(|_| self.packets.get(ext_seq)).map(|packet| &**packet)
    }

    fn keyframe(&self, key: LayerKey) -> Option<&'a KeyframeCache> {
        self.context(key).map(|_| &self.keyframe)
    }

    fn start(&self, key: LayerKey, _: Instant) -> Option<Cached<'a>> {
        let begins = self.keyframe(key)?.begins();
        Some(Cached {
            tail: begins.and_then(|first| Tail::find(&self.packets, first, TAIL_PACKETS_MAX)),
            begun: begins.and_then(|first| Some(self.packets.get(first)?.meta()?.arrival)),
            keyframe: self.keyframe.whole(),
            bitrate: Bitrate::kbps(500),
        })
    }

    fn delivers_from(&self, _: LayerKey, first: u64) -> bool {
        self.delivered.is_some_and(|delivered| delivered <= first)
    }
}

/// The packet as it is sent: at once, or, where a picture is shown, from the cache.
fn sent(viewer: &mut Forwarder, context: LayerContext, meta: &PacketMeta) -> SentRecord {
    match viewer.on_packet(context, meta, false) {
        ForwardDecision::Later => {
            let cache = Cache::of(context, &[*meta]);
            match viewer.poll(meta.arrival, &&cache) {
                Step::Send(numbered, _) => {
                    assert!(matches!(viewer.poll(meta.arrival, &&cache), Step::Idle));
                    numbered.stamp(0xbeef)
                }
                other => panic!("{other:?}"),
            }
        }
        decision => decision.unwrap(),
    }
}

/// Numbers and timestamps of the cached packets that the viewer is sent now.
fn cached(viewer: &mut Forwarder, now: Instant, cache: &Cache) -> Vec<(u32, u32)> {
    let mut sent = Vec::new();
    loop {
        match viewer.poll(now, &cache) {
            Step::Send(numbered, _) => sent.push(numbers(&numbered.stamp(0))),
            Step::Drop(reason) => panic!("{reason:?}"),
            Step::Idle => return sent,
        }
    }
}

/// Packets 500.. of a layer, one frame each; the first is a keyframe.
fn frames(now: Instant, count: u32) -> Vec<PacketMeta> {
    (0..count).map(|n| meta(now, 500 + u64::from(n), n * FRAME, n == 0, true)).collect()
}

#[test]
fn viewer_that_joins_gets_the_cached_frames_close_together_and_then_the_present() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let large = frames(now, 4).into_iter().map(|meta| PacketMeta { payload_len: 1_200, ..meta });
    let mut cache = Cache::of(on(1, 0), &large.collect::<Vec<_>>());
    let first = cached(&mut viewer, now, &cache);
    assert!(!first.is_empty() && first.len() < 4, "paced: {first:?}");
    assert_eq!(viewer.awaits_keyframe(), None, "no keyframe is requested");
    // A packet that arrives meanwhile waits until the catch-up reaches it.
    let fresh = meta(now, 504, 4 * FRAME, false, true);
    assert_eq!(viewer.on_packet(on(1, 0), &fresh, false), ForwardDecision::Later);
    cache.insert(&fresh);
    let rest = cached(&mut viewer, now + Duration::from_secs(1), &cache);
    let near = |frames| frames * FRAME / catch_up_timestamps::DIVISOR;
    let expected =
        [0, near(1), near(2), near(3), near(3) + FRAME].map(|after| 50_000 + after).into_iter();
    assert_eq!([first, rest].concat(), (1_000..).zip(expected).collect::<Vec<_>>());
    let next = viewer.on_packet(on(1, 0), &meta(now, 505, 5 * FRAME, false, true), false).unwrap();
    assert_eq!(numbers(&next), (1_005, 50_000 + near(3) + 2 * FRAME));
    let reasons: Vec<_> = viewer.decisions().iter().map(|d| d.reason).collect();
    use Reason::*;
    assert_eq!(reasons, [AwaitingKeyframe, CachedKeyframe, LargestLiveLayer]);
}

#[test]
fn keyframe_of_the_present_delivery_needs_no_catch_up() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let mut cache = Cache::of(on(1, 0), &frames(now, 1));
    cache.delivered = Some(500);
    assert_eq!(cached(&mut viewer, now, &cache), []);
    let key = viewer.on_packet(on(1, 0), &frames(now, 1)[0], false).unwrap();
    assert_eq!(numbers(&key), (1_000, 50_000));
    assert!(viewer.is_passthrough());
}

#[test]
fn cached_keyframe_with_a_gap_after_it_is_of_the_past_too() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    let at = |layer, rtp| anchored(1, layer, rtp);
    viewer.set_target(layer(1, 1), Reason::LargestLiveLayer);
    viewer.on_packet(at(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
    // The old frame must end first, so that the switch is to this keyframe although a later packet
    // is missing.
    viewer.on_packet(at(1, 0), &meta(now, 101, FRAME, false, false), false).unwrap();
    // The layer's newest frame was captured four frames after the last one sent, its keyframe 45
    // before.
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let mut metas = frames(now, 50);
    let context = at(0, 45 * FRAME);
    assert_eq!(viewer.on_packet(context, &metas[0], false), ForwardDecision::Later);
    assert_eq!(cached(&mut viewer, now, &Cache::of(context, &metas[..1])), []);
    metas.remove(25);
    let sent = cached(&mut viewer, now + FRAME_END_MAX, &Cache::of(context, &metas));
    let (_, timestamp) = sent[0];
    assert!(is_ahead(timestamp, 50_000), "time went back to {timestamp}");
}

#[test]
fn poster_has_the_present_timestamp_and_the_next_keyframe_follows() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let at = |rtp| anchored(1, 0, rtp);
    // Too many packets follow this keyframe to catch up with, and it is too old for a fast start.
    let metas = frames(now, 90).into_iter().map(|meta| PacketMeta { payload_len: 1_200, ..meta });
    let cache = Cache::of(at(0), &metas.collect::<Vec<_>>());
    let later = now + Duration::from_secs(3);
    assert_eq!(cached(&mut viewer, later, &cache), [(1_000, 50_000)]);
    assert_eq!((viewer.current_layer(), viewer.awaits_keyframe()), (None, Some(layer(1, 0))));
    assert_eq!(cached(&mut viewer, later, &cache), [], "a poster is sent once");
    let delta = meta(now, 590, 90 * FRAME, false, true);
    let late = viewer.on_packet(at(0), &delta, false);
    assert_eq!(late, ForwardDecision::NeedKeyframe, "it refers to frames that were not sent");
    // Ten frames after the newest one at the time of the poster.
    let key = meta(now, 600, 99 * FRAME, true, true);
    let sent = viewer.on_packet(at(0), &key, false).unwrap();
    assert_eq!(numbers(&sent), (1_001, 50_000 + 10 * FRAME));
}

#[test]
fn binding_to_another_publisher_forgets_the_old_numbers() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
    // Another stream, whose publisher has the same epoch and the same numbers.
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    assert!(!viewer.wants(layer(1, 1)));
    let late = viewer.on_packet(on(1, 0), &meta(now, 100, 0, false, true), false);
    assert_eq!(late, ForwardDecision::NeedKeyframe);
    let again = viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
    assert_eq!(again.out, 1_001, "the outgoing numbers continue");
}

#[test]
fn switch_to_another_size_of_the_same_frame_leaves_no_offset() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    let at = |layer, rtp| anchored(1, layer, rtp);
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(at(0, 0), &meta(now, 100, 0, true, true), false).unwrap();
    let shift = 777_000;
    for switch in 1..=50u32 {
        let layer = (switch % 2) as u8;
        let base = if layer == 1 { shift } else { 0 };
        viewer.set_target(self::layer(1, layer), Reason::LargestLiveLayer);
        let seq = 100 + u64::from(switch) * 10 + u64::from(layer) * 100_000;
        // The keyframe of the same capture as the last frame sent, then the next frame.
        let captured = (switch - 1) * FRAME;
        let key = meta(now, seq, base + captured, true, true);
        let key = sent(&mut viewer, at(layer, base), &key);
        assert_eq!(key.timestamp, 50_000 + captured + catch_up_timestamps::STEP);
        let next = meta(now, seq + 1, base + captured + FRAME, false, true);
        let next = viewer.on_packet(at(layer, base), &next, false).unwrap();
        assert_eq!(next.timestamp, 50_000 + captured + FRAME, "switch {switch}");
    }
}

/// A keyframe of four packets in three frames' time, of which the first comes last.
#[test]
fn keyframe_whose_first_packet_is_late_is_started_with_from_the_cache() {
    let now = Instant::now();
    for has_picture in [false, true] {
        let mut viewer = forwarder();
        viewer.attach(now, format(Codec::Vp8));
        let mut next = 1_000;
        if has_picture {
            viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
            viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
            next += 1;
        }
        viewer.set_target(layer(1, 1), Reason::LargestLiveLayer);
        assert_eq!(viewer.take_keyframe_request(), Some(layer(1, 1)));
        let packet = |seq: u64| meta(now, 500 + seq, 0, seq == 0, seq == 3);
        let behind: Vec<_> =
            (1..4).map(packet).chain([meta(now, 504, FRAME, false, true)]).collect();
        let mut cache = Cache::of(on(1, 1), &behind);
        for meta in &behind {
            assert_eq!(cached(&mut viewer, now, &cache), []);
            let unknown = viewer.on_packet(on(1, 1), meta, false);
            assert_eq!(unknown, ForwardDecision::NeedKeyframe);
        }
        cache.insert(&packet(0));
        let sent = cached(&mut viewer, now + Duration::from_millis(50), &cache);
        let numbers: Vec<_> = sent.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (next..next + 5).collect::<Vec<_>>(), "picture: {has_picture}");
        assert!(viewer.is_passthrough());
    }
}

/// The picture that is shown goes on while the keyframe of another layer arrives, and nothing more
/// is requested meanwhile.
#[test]
fn keyframe_that_is_arriving_is_waited_for() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), false).unwrap();
    viewer.set_target(layer(1, 1), Reason::LargestLiveLayer);
    let packets = [(500, true, false), (501, false, false), (502, false, true)]
        .map(|(seq, key, last)| meta(now, seq, 0, key, last));
    let mut cache = Cache::of(on(1, 1), &[]);
    assert_eq!(cached(&mut viewer, now, &cache), []);
    for meta in &packets[..2] {
        cache.insert(meta);
        assert_eq!(cached(&mut viewer, now, &cache), []);
        assert_eq!(viewer.on_packet(on(1, 1), meta, false), ForwardDecision::Later);
        assert_eq!(viewer.take_keyframe_request(), None);
    }
    let late = meta(now, 499, 0, false, true);
    let late = viewer.on_packet(on(1, 1), &late, false);
    assert_eq!(late, ForwardDecision::Drop(DropReason::AwaitingKeyframe));
    let old = viewer.on_packet(on(1, 0), &meta(now, 101, FRAME, false, true), false);
    assert_eq!(numbers(&old.unwrap()), (1_001, 50_000 + FRAME));
    // Not for ever: a packet may be lost for good.
    let later = now + Duration::from_millis(700);
    assert_eq!(cached(&mut viewer, later, &cache), []);
    assert_eq!(viewer.take_keyframe_request(), Some(layer(1, 1)));
    let packet = viewer.on_packet(on(1, 1), &meta(now, 503, FRAME, false, true), false);
    assert_eq!(packet, ForwardDecision::NeedKeyframe);
    cache.insert(&packets[2]);
    let sent = cached(&mut viewer, later, &cache);
    assert_eq!(sent.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1_002, 1_003, 1_004]);
}

#[test]
fn late_repair_from_before_the_first_keyframe_requests_none() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    viewer.on_packet(on(1, 0), &meta(now, 500, 0, true, true), false).unwrap();
    let late = viewer.on_packet(on(1, 0), &meta(now, 498, 0, false, true), false);
    assert_eq!(late, ForwardDecision::Drop(DropReason::AwaitingKeyframe));
    // In one delivery with the keyframe, and before it.
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let mut cache = Cache::of(on(1, 0), &[meta(now, 500, 9, true, true)]);
    cache.delivered = Some(500);
    assert_eq!(cached(&mut viewer, now, &cache), []);
    let late = viewer.on_packet(on(1, 0), &meta(now, 498, 0, false, true), false);
    assert_eq!(late, ForwardDecision::Drop(DropReason::AwaitingKeyframe));
    assert_eq!(viewer.take_keyframe_request(), None);
    viewer.on_packet(on(1, 0), &meta(now, 500, 9, true, true), false).unwrap();
}

#[test]
fn packets_that_overtook_a_start_are_sent_from_the_cache() {
    let now = Instant::now();
    let mut viewer = forwarder();
    viewer.attach(now, format(Codec::Vp8));
    viewer.set_target(layer(1, 0), Reason::LargestLiveLayer);
    let metas = frames(now, 300);
    let cache = Cache::of(on(1, 0), &metas);
    viewer.on_packet(on(1, 0), &metas[0], false).unwrap();
    viewer.catch_up_behind(now, 500);
    let later = viewer.on_packet(on(1, 0), &metas[299], false);
    assert_eq!(later, ForwardDecision::Later, "in its order");
    let sent = cached(&mut viewer, now, &cache);
    let expected: Vec<_> = (1..300).map(|n| (1_000 + n, 50_000 + n * FRAME)).collect();
    assert_eq!(sent, expected);
    assert!(viewer.is_passthrough());
}

// whip-whep G10
#[test]
fn frame_numbers_of_descriptors_continue_over_source_switches_and_retransmissions_are_the_same() {
    let now = Instant::now();
    let mut viewer = forwarder_with(vec![(ExtKind::DependencyDescriptor, 5)]);
    viewer.attach(now, format(Codec::Vp8));
    let described = |seq, ts, number: u16| {
        let mut packet = Packet::with_capacity(200);
        let [high, low] = number.to_be_bytes();
        packet.buffer_mut()[150..153].copy_from_slice(&[0xc0, high, low]);
        let mut meta = meta(now, seq, ts, true, true);
        meta.frame.frame_number = Some(number);
        let kind = ExtKind::DependencyDescriptor;
        meta.exts[0] = Some(ForwardedExt { kind, start: 150, len: 3 });
        packet.describe(meta);
        (packet, meta)
    };
    let send = |viewer: &mut Forwarder, layer: u8, (packet, meta): &(Packet, PacketMeta)| {
        viewer.set_target(self::layer(1, layer), Reason::LargestLiveLayer);
        let record = sent(viewer, on(1, layer), meta);
        (record, written_number(viewer.sender(), &record, packet))
    };
    let first = described(1 << 17, 0, 60_000);
    let (record, number) = send(&mut viewer, 0, &first);
    assert_eq!(number, Some(60_000), "the first publisher's numbers are kept");
    // Another layer, whose numbers are far behind.
    let other = send(&mut viewer, 1, &described(1 << 18, FRAME, 5));
    assert_eq!(other.1, Some(60_001));
    let next = send(&mut viewer, 1, &described((1 << 18) + 1, 2 * FRAME, 6));
    assert_eq!(next.1, Some(60_002));
    assert_eq!(
        written_number(viewer.sender(), &record, &first.0),
        Some(60_000),
        "a retransmission"
    );
    for layer in 2..6 {
        send(&mut viewer, layer, &described(u64::from(layer) << 20, 9 * FRAME, 9));
    }
    assert_eq!(
        written_number(viewer.sender(), &record, &first.0),
        None,
        "not known any more: not sent"
    );
}

fn written_number(sender: &RtpSender, record: &SentRecord, packet: &Packet) -> Option<u16> {
    let mut out = [0; 300];
    let header_len = sender.write_media(record, packet, &mut out)?.header_len;
    let header = RtpHeader::parse(&out[..header_len]).unwrap();
    let (_, data) = header.elements(&out).find(|(id, _)| *id == 5).unwrap();
    Some(u16::from_be_bytes([data[1], data[2]]))
}
