//! Keyframes of which a packet comes late, by NACK: each number of the viewer's line is sent.
//!
//! The publisher's frames are sent by hand, so that a scenario says which packet is lost and when
//! it is repaired. A *hole* is a number of the viewer's line that is never sent, so that no NACK
//! of the viewer repairs it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use weir_netsim::Rng;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::forward::LayerPreference;

use crate::world::spec::{LayerSpec, PublisherSpec, ViewerSpec, video};
use crate::world::{ClientId, World};

/// Milliseconds from a frame to the next.
const FRAME_MS: u64 = 33;

/// A world whose publisher sends what a scenario says, packet by packet.
struct Stage {
    world: World,
    publisher: ClientId,
    /// Lost packets and when they are sent again: layer, number, milliseconds since the begin.
    repairs: Vec<(usize, u64, u64)>,
    now_ms: u64,
    next_frame_ms: u64,
}

impl Stage {
    fn new(workers: usize, codec: Codec, rids: &[&'static str]) -> Self {
        let mut world = World::new(workers);
        let mut track = video(codec);
        track.bytes = 1_100;
        let layers = rids.iter().zip([(320, 176), (640, 352), (1280, 704)]);
        track.layers = layers.map(|(rid, size)| LayerSpec::new(rid, size, 1)).collect();
        let mut spec = PublisherSpec::of(vec![track]);
        (spec.answers_pli, spec.answers_nack, spec.sends_reports) = (false, false, false);
        let publisher = world.publish("live", spec);
        world.publisher(publisher).sends = false;
        for layer in &mut world.publisher(publisher).video().layers {
            layer.wants_key = false;
        }
        world.run_ms(100);
        Self { world, publisher, repairs: Vec::new(), now_ms: 0, next_frame_ms: 0 }
    }

    fn watch(&mut self, worker: usize) -> ClientId {
        let viewer = self.world.watch("live", ViewerSpec::on_worker(worker).video_only());
        self.run(60);
        viewer
    }

    fn prefer(&mut self, viewer: ClientId, rid: &str) {
        let preference = LayerPreference { rid: Some(rid.into()), ..LayerPreference::default() };
        self.world.set_preference(viewer, preference);
    }

    /// Runs until the next frame is due, and repairs what is due until then.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.world.run_ms(1);
            self.now_ms += 1;
            let now = self.now_ms;
            let due: Vec<_> = self.repairs.extract_if(.., |(.., at)| *at <= now).collect();
            for (layer, number, _) in due {
                self.world.with_publisher(self.publisher, |publisher, link| {
                    let ssrc = publisher.video().layers[layer].ssrc;
                    publisher.retransmit(ssrc, number as u16, link);
                });
            }
            self.world.send_from(self.publisher.0);
        }
    }

    /// Sends a frame of each layer: packets, whether it is a keyframe, and which of its packets are
    /// lost and repaired so many milliseconds later.
    fn frame(&mut self, layers: &[(u16, bool)], lost: impl Fn(usize, u16) -> Option<u64>) {
        let wait = self.next_frame_ms.saturating_sub(self.now_ms);
        self.run(wait);
        self.next_frame_ms = self.now_ms + FRAME_MS;
        let (now, epoch) = (self.world.now, self.world.epoch);
        for (layer, &(packets, key)) in layers.iter().enumerate() {
            let (now_ms, repairs) = (self.now_ms, &mut self.repairs);
            self.world.with_publisher(self.publisher, |publisher, link| {
                let track = publisher.video();
                // The encoder doubles the packets of a keyframe.
                track.spec.layers[layer].packets = if key { packets / 2 } else { packets };
                track.layers[layer].wants_key = key;
                let first = track.layers[layer].next_seq;
                let before = link.out.len();
                publisher.send_frame(0, layer, now, epoch, link);
                let sent = link.out.split_off(before);
                link.out.extend(sent.into_iter().filter(|packet| {
                    let number = packet.note.expect("media").serial;
                    let after = lost(layer, (number - first) as u16);
                    repairs.extend(after.map(|after| (layer, number, now_ms + after)));
                    after.is_none()
                }));
            });
            self.world.send_from(self.publisher.0);
        }
    }

    fn frames(&mut self, count: usize, layers: &[(u16, bool)]) {
        (0..count).for_each(|_| self.frame(layers, |_, _| None));
    }

    /// Numbers of the viewer's line, and those of them that were never sent.
    fn line(&mut self, viewer: ClientId) -> (usize, Vec<u64>) {
        let sender = self.world.viewer(viewer).guard.sender(Video);
        (sender.sent(), sender.holes())
    }

    fn assert_whole(&mut self, viewer: ClientId, what: &str) {
        self.run(300);
        let (sent, holes) = self.line(viewer);
        assert!(holes.is_empty(), "{what}: {} holes besides {sent} numbers", holes.len());
        let watched = self.world.viewer(viewer);
        let bad = (watched.broken_frames(), watched.missing());
        assert_eq!(bad, (0, 0), "{what}: broken frames and missing packets");
    }
}

/// Five frames, then a keyframe of 260 packets whose first one comes 60 ms late.
#[test]
fn viewer_starts_at_a_large_keyframe_whose_first_packet_is_late() {
    let mut stage = Stage::new(1, Codec::Vp8, &[""]);
    let viewer = stage.watch(0);
    stage.frames(5, &[(8, false)]);
    stage.frame(&[(260, true)], |_, index| (index == 0).then_some(60));
    stage.frames(69, &[(8, false)]);
    stage.assert_whole(viewer, "late first packet");
    assert_eq!(stage.line(viewer).0, 260 + 69 * 8);
}

/// The viewer sees the small layer until the keyframe of the large one is whole.
#[test]
fn viewer_keeps_the_small_layer_until_a_large_keyframe_is_whole() {
    for (packets, lost) in [(120, 0), (60, 0), (120, 60), (120, 119), (260, 0), (390, 200)] {
        let mut stage = Stage::new(1, Codec::Vp8, &["l", "h"]);
        let viewer = stage.watch(0);
        stage.prefer(viewer, "l");
        stage.frame(&[(2, true), (8, true)], |_, _| None);
        stage.frames(30, &[(1, false), (8, false)]);
        stage.prefer(viewer, "h");
        stage.frames(3, &[(1, false), (8, false)]);
        let small = stage.world.publisher(stage.publisher).video().layers[0].source;
        let asked = stage.world.now;
        stage.frame(&[(1, false), (packets, true)], |layer, index| {
            (layer == 1 && index == lost).then_some(100)
        });
        stage.frames(30, &[(1, false), (8, false)]);
        stage.assert_whole(viewer, "switch");
        let watched = stage.world.viewer(viewer);
        let frames: Vec<_> = watched.frames.iter().filter(|frame| frame.at > asked).collect();
        let until = frames.iter().take_while(|frame| frame.source == small).count();
        assert!(until >= 3, "{until} small frames until the large one was whole");
        let large: Vec<_> = frames.iter().skip(until).collect();
        assert!(large.len() > 20 && large.iter().all(|frame| frame.source != small));
        let freeze = frames.windows(2).map(|pair| pair[1].at - pair[0].at).max();
        assert!(
            freeze < Some(Duration::from_millis(100)),
            "{packets} packets, {lost} lost: the picture stood for {freeze:?}"
        );
    }
}

/// Two seconds are lost and repaired while a viewer joins: no frame is missing from the first that
/// it gets.
#[test]
fn viewer_that_joins_during_a_repaired_outage_misses_no_frame() {
    // Frames that are repaired per millisecond.
    for (workers, pace) in [(1, 60), (2, 60), (1, 5), (2, 5), (1, 1), (2, 1)] {
        let mut stage = Stage::new(workers, Codec::Vp8, &[""]);
        let early = stage.watch(0);
        stage.frame(&[(4, true)], |_, _| None);
        stage.frames(59, &[(3, false)]);
        let mut viewer = None;
        let outage_ms =
            |frame: usize| (120 - frame) as u64 * FRAME_MS + 80 + (frame as u64 - 60) / pace;
        for frame in 60..120 {
            if frame == 118 {
                viewer = Some(stage.world.watch("live", ViewerSpec::on_worker(workers - 1)));
            }
            let packets = if frame == 80 { (4, true) } else { (3, false) };
            stage.frame(&[packets], |_, _| Some(outage_ms(frame)));
        }
        stage.frames(60, &[(3, false)]);
        let viewer = viewer.expect("it joined");
        stage.assert_whole(viewer, &format!("joined in an outage, {pace} frames per ms"));
        stage.assert_whole(early, "was there before");
        let frames = stage.world.viewer(viewer).video_frames();
        assert!(frames >= 60, "{frames} frames");
    }
}

/// Sizes, depths, delays, codecs and moments in any combination.
#[test]
fn no_number_is_left_out_whatever_comes_late() {
    let failures: Vec<_> = (0..150)
        .filter_map(|seed| {
            let outcome = catch_unwind(AssertUnwindSafe(|| late_packets(seed)));
            let panic = outcome.err()?;
            let text = panic.downcast_ref::<String>().cloned();
            Some(format!("seed {seed}: {}", text.unwrap_or_default()))
        })
        .collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn late_packets(seed: u64) {
    let mut rng = Rng::new(seed, 13);
    let mut pick = |of: &[u64]| of[rng.below(of.len() as u64) as usize];
    let codecs = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1];
    let codec = codecs[pick(&[0, 1, 2, 3, 4]) as usize];
    let packets = pick(&[2, 20, 60, 120, 260, 398, 402, 600]) as u16;
    let rest = pick(&[1, 3, 8, 20]) as u16;
    let delay = pick(&[1, 20, 60, 100, 250, 500]);
    let every = pick(&[1, 2, 7, 50, 1_000]) as u16;
    let from = pick(&[0, 1, u64::from(packets) / 2, u64::from(packets) - 1]) as u16;
    let behind = pick(&[0, 0, 1, 5]);
    let has_picture = pick(&[0, 1]) == 1;
    // The parameter sets of H264 must have come once, so that a start waits for them.
    let is_known = codec == Codec::H264 || pick(&[0, 1]) == 1;
    let workers = pick(&[1, 2]) as usize;
    let what = format!(
        "{codec:?}, {packets} then {rest}, from {from} every {every} late by {delay} ms, {behind} \
         frames as well, picture {has_picture}, known {is_known}, {workers} workers"
    );
    // A gap of more than 300 packets is given up instead of repaired, and nobody asks for a packet
    // before a later one has come.
    let is_late =
        |index: u16| index >= from && (index - from).is_multiple_of(every) && index - from < 190;
    let delay = delay.max((behind + 1) * FRAME_MS + 10);
    let mut stage = Stage::new(workers, codec, &["l", "h"]);
    if is_known {
        stage.frame(&[(1, false), (4, true)], |_, _| None);
        // Too long ago for a fast start.
        stage.frames(45, &[(1, false), (rest, false)]);
    }
    let viewer = stage.watch(workers - 1);
    stage.prefer(viewer, if has_picture { "l" } else { "h" });
    stage.frame(&[(2, has_picture), (rest, false)], |_, _| None);
    stage.frames(10, &[(1, false), (rest, false)]);
    stage.prefer(viewer, "h");
    stage.frames(5, &[(1, false), (rest, false)]);
    stage.frame(&[(1, false), (packets, true)], |layer, index| {
        (layer == 1 && is_late(index)).then_some(delay)
    });
    for _ in 0..behind {
        stage.frame(&[(1, false), (rest, false)], |layer, _| (layer == 1).then_some(delay));
    }
    stage.frames(30, &[(1, false), (rest, false)]);
    stage.assert_whole(viewer, &what);
    let large = stage.world.publisher(stage.publisher).video().layers[1].source;
    let sources = stage.world.viewer(viewer).video_sources();
    assert_eq!(sources.last(), Some(&large), "{what}: the large layer came");
}
