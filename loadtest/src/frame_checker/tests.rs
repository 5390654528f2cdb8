//! Frames of a publisher that are lost, altered or left out before the frame checker gets them.

use super::*;
use crate::video::{LayerSpec, Source, test_options};

/// A publisher, and a viewer whose packets a test may lose or alter.
struct Scenario {
    source: Source,
    checker: FrameChecker,
    frame: u32,
    judgements: Vec<FrameJudgement>,
}

impl Scenario {
    fn new(codec: Codec) -> Self {
        Self {
            source: Source::new(&test_options(codec), LayerSpec { size: (640, 360), kbps: 1400 }),
            checker: FrameChecker::new(codec, true),
            frame: 0,
            judgements: Vec::new(),
        }
    }

    fn next(&mut self, key: bool) -> Vec<Bytes> {
        let stamp = Stamp { run: 3, frame: self.frame, sent_us: 0, layer: 0, key };
        self.frame += 1;
        self.source.next(stamp)
    }

    fn arrive(&mut self, packets: &[Option<Bytes>]) {
        let timestamp = self.frame * 3000;
        for (n, packet) in packets.iter().enumerate() {
            match packet {
                Some(payload) => {
                    let marker = n + 1 == packets.len();
                    let packet = FramePacket { timestamp, marker, payload: Some(payload.clone()) };
                    self.checker.on_packet(&packet, &mut self.judgements);
                }
                None => self.checker.on_lost(),
            }
        }
    }

    fn send(&mut self, key: bool) {
        let packets: Vec<_> = self.next(key).into_iter().map(Some).collect();
        self.arrive(&packets);
    }

    fn take_judgements(&mut self) -> Vec<&'static str> {
        let word = |judgement: FrameJudgement| match judgement {
            FrameJudgement::Decodable { key: true, .. } => "key",
            FrameJudgement::Decodable { .. } => "ok",
            FrameJudgement::Broken(Flaw::Incomplete) => "incomplete",
            FrameJudgement::Broken(Flaw::Altered) => "altered",
            FrameJudgement::Broken(Flaw::ParameterSets) => "sets",
            FrameJudgement::Broken(Flaw::Missing) => "missing",
            FrameJudgement::Broken(Flaw::Reference) => "reference",
            FrameJudgement::Broken(Flaw::AlteredAudio) => "audio",
            FrameJudgement::Poster => "poster",
        };
        self.judgements.drain(..).map(word).collect()
    }
}

const BOTH: [Codec; 2] = [Codec::H264, Codec::Vp8];

#[test]
fn every_frame_of_an_unaltered_stream_is_decodable() {
    for codec in BOTH {
        let mut scenario = Scenario::new(codec);
        for n in 0..70 {
            scenario.send(n % 30 == 0);
        }
        let judgements = scenario.take_judgements();
        assert_eq!(judgements.len(), 70);
        assert!(
            judgements.iter().all(|word| matches!(*word, "key" | "ok")),
            "{codec:?} {judgements:?}"
        );
    }
}

#[test]
fn viewer_that_joins_between_keyframes_shows_nothing_until_the_next_keyframe() {
    for codec in BOTH {
        let mut scenario = Scenario::new(codec);
        scenario.next(true);
        scenario.send(false);
        assert!(scenario.checker.needs_keyframe());
        scenario.send(true);
        scenario.send(false);
        assert_eq!(scenario.take_judgements(), ["reference", "key", "ok"], "{codec:?}");
    }
}

#[test]
fn lost_packet_breaks_its_frame_and_the_frames_that_refer_to_it() {
    for codec in BOTH {
        for lost in 0.. {
            let mut scenario = Scenario::new(codec);
            scenario.send(true);
            let mut packets: Vec<_> = scenario.next(false).into_iter().map(Some).collect();
            let Some(packet) = packets.get_mut(lost) else { break };
            *packet = None;
            scenario.arrive(&packets);
            scenario.send(false);
            scenario.send(true);
            assert_eq!(
                scenario.take_judgements(),
                ["key", "incomplete", "reference", "key"],
                "{codec:?} {lost}"
            );
        }
    }
}

#[test]
fn frame_that_the_server_left_out_is_missing_although_no_packet_is() {
    for codec in BOTH {
        let mut scenario = Scenario::new(codec);
        scenario.send(true);
        scenario.next(false);
        scenario.next(false);
        scenario.send(false);
        scenario.send(true);
        scenario.send(false);
        assert_eq!(
            scenario.take_judgements(),
            ["key", "missing", "missing", "reference", "key", "ok"],
            "{codec:?}"
        );
    }
}

#[test]
fn lost_frame_is_counted_once() {
    for codec in BOTH {
        let mut scenario = Scenario::new(codec);
        scenario.send(true);
        let packets: Vec<_> = scenario.next(false).iter().map(|_| None).collect();
        scenario.arrive(&packets);
        scenario.send(true);
        assert_eq!(scenario.take_judgements(), ["key", "missing", "key"], "{codec:?}");
    }
}

#[test]
fn altered_byte_is_detected_at_every_offset() {
    for codec in BOTH {
        let lengths: Vec<_> = Scenario::new(codec).next(true).iter().map(Bytes::len).collect();
        for (n, length) in lengths.iter().enumerate() {
            // The VP8 payload descriptor is not part of the frame.
            let begin = if codec == Codec::Vp8 { 4 } else { 0 };
            for at in (begin..*length).step_by(37) {
                let mut scenario = Scenario::new(codec);
                let mut packets: Vec<_> = scenario.next(true).into_iter().map(Some).collect();
                let mut bytes = packets[n].take().expect("is there").to_vec();
                bytes[at] ^= 0x04;
                packets[n] = Some(bytes.into());
                scenario.arrive(&packets);
                let judgements = scenario.take_judgements();
                assert!(
                    !judgements.contains(&"key"),
                    "{codec:?} packet {n} byte {at}: {judgements:?}"
                );
            }
        }
    }
}

#[test]
fn keyframe_without_parameter_sets_is_not_decodable() {
    let mut scenario = Scenario::new(Codec::H264);
    let mut packets = scenario.next(true);
    packets.remove(0);
    let packets: Vec<_> = packets.into_iter().map(Some).collect();
    scenario.arrive(&packets);
    assert_eq!(scenario.take_judgements(), ["sets"]);
}

#[test]
fn without_payloads_frames_are_judged_by_headers() {
    let mut checker = FrameChecker::new(Codec::H264, true);
    let mut out = Vec::new();
    let packet = |timestamp, marker| FramePacket { timestamp, marker, payload: None };
    checker.on_packet(&packet(1, false), &mut out);
    checker.on_packet(&packet(1, true), &mut out);
    checker.on_packet(&packet(2, false), &mut out);
    checker.on_lost();
    checker.on_packet(&packet(2, true), &mut out);
    checker.on_packet(&packet(3, true), &mut out);
    let broken: Vec<_> = out.iter().map(|v| matches!(v, FrameJudgement::Broken(_))).collect();
    assert_eq!(broken, [false, true, false]);
}

#[test]
fn layer_switch_at_a_keyframe_may_leave_out_frames() {
    let mut checker = FrameChecker::new(Codec::H264, true);
    let mut out = Vec::new();
    let mut layers = [(320, 180), (640, 360)]
        .map(|size| Source::new(&test_options(Codec::H264), LayerSpec { size, kbps: 700 }));
    for (layer, frame, key) in
        [(0, 0, true), (0, 1, false), (1, 5, true), (1, 6, false), (0, 7, false)]
    {
        let stamp = Stamp { run: 1, frame, sent_us: 0, layer: layer as u8, key };
        let packets = layers[layer].next(stamp);
        for (n, payload) in packets.iter().enumerate() {
            let marker = n + 1 == packets.len();
            let packet = FramePacket { timestamp: frame, marker, payload: Some(payload.clone()) };
            checker.on_packet(&packet, &mut out);
        }
    }
    let shown: Vec<_> = out.iter().map(|v| matches!(v, FrameJudgement::Decodable { .. })).collect();
    assert_eq!(
        shown,
        [true, true, true, true, false],
        "the last frame switches the layer without a keyframe"
    );
}

#[test]
fn first_keyframe_alone_until_the_next_one_is_a_poster_and_only_at_the_start() {
    for codec in BOTH {
        let mut scenario = Scenario::new(codec);
        scenario.send(true);
        for _ in 0..20 {
            scenario.next(false);
        }
        scenario.send(true);
        scenario.send(false);
        assert_eq!(scenario.take_judgements(), ["key", "poster", "key", "ok"], "{codec:?}");
        scenario.next(false);
        scenario.send(true);
        assert_eq!(scenario.take_judgements(), ["missing", "key"], "{codec:?}: not at the start");
        // Not a poster either: a frame is left out and the next one is no keyframe.
        let mut scenario = Scenario::new(codec);
        scenario.send(true);
        scenario.next(false);
        scenario.send(false);
        assert_eq!(scenario.take_judgements(), ["key", "missing", "reference"], "{codec:?}");
    }
}
