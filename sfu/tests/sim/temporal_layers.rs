//! Viewers who set a lower frame rate: upper temporal layers are left out, the rest is whole, and
//! no other viewer is affected.

use std::time::Duration;

use weir_netsim::{Profile, Rng};
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::error::DropReason;
use weir_sfu::forward::LayerPreference;

use crate::TestRng;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::{ClientId, World};

/// Preferences of the property tests, for each codec.
const PREFERENCES: usize = 10_000;

const RIDS: [&str; 3] = ["q", "h", "f"];

fn cap(temporal: Option<u8>) -> LayerPreference {
    LayerPreference { max_temporal_layer: temporal, ..LayerPreference::default() }
}

/// A viewer whose guard knows that layers are filtered.
fn filtered(world: &mut World, spec: ViewerSpec) -> ClientId {
    let viewer = world.watch("live", spec.reads_descriptors());
    world.expect_filtered(viewer);
    viewer
}

/// Number of frames that the viewer gets in two seconds, of 60.
fn frames(world: &mut World, viewer: ClientId) -> usize {
    let before = world.viewer(viewer).video_frames();
    world.run_s(2);
    world.viewer(viewer).video_frames() - before
}

/// The API's highest temporal layers that are sent, and that may be sent.
fn shown(world: &mut World, viewer: ClientId) -> (Option<u8>, Option<u8>) {
    let info = world.info(viewer).expect("it is connected");
    let picture = info.tracks.into_iter().find(|track| track.kind == Video).expect("a picture");
    (picture.current_temporal_layer, picture.target_temporal_layer)
}

fn assert_whole(world: &mut World, viewer: ClientId) {
    let watched = world.viewer(viewer);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "broken and missing");
}

// whip-whep E9
#[test]
fn frame_rate_follows_the_preference_without_a_keyframe_request() {
    // Frames of 60 with a cap of 0 and of 1.
    for (codec, rates) in [
        (Codec::Vp8, [15, 30]),
        (Codec::Vp9, [15, 30]),
        (Codec::Av1, [15, 30]),
        (Codec::H264, [30, 60]),
        (Codec::H265, [30, 60]),
    ] {
        let mut world = World::new(2);
        let publisher = world.publish("live", PublisherSpec::temporal(codec));
        world.run_s(1);
        let viewer = filtered(&mut world, ViewerSpec::on_worker(1));
        let calm = world.watch("live", ViewerSpec::browser());
        world.run_s(2);
        let asked = world.publisher(publisher).feedback.keyframe_requests.len();
        for (preference, rate) in
            [(None, 60), (Some(0), rates[0]), (Some(1), rates[1]), (Some(0), rates[0]), (None, 60)]
        {
            world.set_preference(viewer, cap(preference));
            world.run_ms(500);
            let came = frames(&mut world, viewer);
            assert!(came.abs_diff(rate) <= 2, "{codec:?}: {came} of 60 frames for {preference:?}");
            let (sent_layer, allowed) = shown(&mut world, viewer);
            assert_eq!(allowed, preference, "{codec:?}");
            assert!(
                sent_layer == preference || (preference.is_none() && sent_layer == Some(2)),
                "{codec:?}: {sent_layer:?}"
            );
        }
        world.run_s(10);
        assert_eq!(shown(&mut world, viewer), (None, None), "nothing was left out for long");
        assert_eq!(world.publisher(publisher).feedback.keyframe_requests.len(), asked);
        assert!(world.dropped(DropReason::LayerFiltered) > 100);
        assert_whole(&mut world, viewer);
        assert_whole(&mut world, calm);
        assert_eq!(world.viewer(viewer).nacks_sent, 0, "its numbers are continuous");
    }
}

/// The preference is set before the first picture, and applies to the next publisher.
#[test]
fn preference_for_fewer_frames_applies_for_the_session() {
    for codec in [Codec::Vp8, Codec::H264, Codec::H265] {
        let mut world = World::new(1);
        let spec = PublisherSpec::temporal(codec);
        let first = world.publish("live", spec.clone());
        world.run_s(1);
        let viewer = filtered(&mut world, ViewerSpec::browser());
        world.set_preference(viewer, cap(Some(0)));
        world.run_s(2);
        let rate = if matches!(codec, Codec::H264 | Codec::H265) { 30 } else { 15 };
        assert!(frames(&mut world, viewer).abs_diff(rate) <= 2);
        world.delete(first);
        world.run_s(1);
        world.publish("live", spec);
        world.run_s(2);
        assert!(frames(&mut world, viewer).abs_diff(rate) <= 2);
        assert_whole(&mut world, viewer);
    }
}

/// Frame rates and sizes at random, over paths that lose, retransmit and reorder: the guard sees
/// continuous numbers, and no frame that refers to a missing one. A repair may take
/// [`MAX_AGE`](weir_sfu::repair::nack_generator::MAX_AGE): its frame must be known as long.
/// Otherwise a fragment of a filtered frame would be sent as a whole one, and the guard would see
/// it.
#[test]
fn late_repairs_of_filtered_frames_are_filtered() {
    for (fps, delay) in [(30, 120), (60, 120)] {
        let mut world = World::new(1);
        let mut spec = PublisherSpec::temporal(Codec::H264).with(Video, |track| {
            track.layers.truncate(1);
            track.layers[0].rid = "";
            track.layers[0].packets = 4;
            track.frame_every = Duration::from_secs(1) / fps;
        });
        spec.tracks.retain(|track| track.codec == Codec::H264);
        (spec.up, spec.down) = (
            Profile::delay(Duration::from_millis(delay)),
            Profile::delay(Duration::from_millis(delay)),
        );
        let publisher = world.publish("live", spec);
        world.run_s(3);
        let viewer = filtered(&mut world, ViewerSpec::browser().video_only());
        world.run_s(1);
        world.set_preference(viewer, cap(Some(0)));
        world.run_s(2);
        let mut rng = TestRng(u64::from(fps));
        world.lose_up(publisher, move |bytes| {
            bytes[0] >= 128 && bytes[1] & 0x7f == 102 && rng.chance(2)
        });
        world.run_s(30);
        let left_out = world.dropped(DropReason::LayerFiltered);
        let repairs = world.viewer(viewer).guard.sender(Video).blanks();
        assert!(left_out > 1_000 && repairs > 10, "{left_out} left out, {repairs} of them late");
    }
}

/// Encoders that mark no switching points send no keyframes for them either: then a keyframe is
/// requested.
#[test]
fn upper_layers_return_by_a_keyframe_without_switching_points() {
    for codec in [Codec::Vp8, Codec::Vp9] {
        let mut world = World::new(1);
        let spec =
            PublisherSpec::temporal(codec).with(Video, |track| track.no_switch_points = true);
        world.publish("live", spec);
        world.run_s(1);
        let viewer = filtered(&mut world, ViewerSpec::browser());
        world.run_s(2);
        world.set_preference(viewer, cap(Some(0)));
        world.run_s(1);
        let few = frames(&mut world, viewer);
        world.set_preference(viewer, LayerPreference::default());
        let still = frames(&mut world, viewer);
        world.run_s(10);
        let all = frames(&mut world, viewer);
        assert!(
            few.abs_diff(15) <= 2 && still < 40 && all.abs_diff(60) <= 2,
            "{few}, {still}, {all}"
        );
        assert_whole(&mut world, viewer);
    }
}

fn thousands_of_preferences(codec: Codec) {
    let mut world = World::new(2);
    let spec = PublisherSpec::temporal(codec).with(Video, |track| {
        track.bytes = 150;
        track.layers.iter_mut().for_each(|layer| layer.packets = 1 + layer.packets / 2);
    });
    let publisher = world.publish("live", spec);
    world.run_s(1);
    let viewer = filtered(&mut world, ViewerSpec::on_worker(1));
    let calm = world.watch("live", ViewerSpec::on_worker(1));
    world.run_s(2);
    let bad: Profile = "delay=20,loss=1,reorder=3,duplicate=1".parse().expect("a profile");
    for client in [publisher, viewer] {
        world.change_network(client, bad.clone(), bad.clone());
    }
    let mut rng = Rng::new(codec as u64 + 1, 9);
    for _ in 0..PREFERENCES {
        let rid = rng.chance(0.7).then(|| RIDS[rng.below(3) as usize].into());
        let temporal = [None, Some(0), Some(1), Some(2)][rng.below(4) as usize];
        world.set_preference(viewer, LayerPreference { rid, ..cap(temporal) });
        world.run_ms(60 + rng.below(400));
    }
    let clean = Profile::delay(Duration::from_millis(20));
    for client in [publisher, viewer] {
        world.change_network(client, clean.clone(), clean.clone());
    }
    world.set_preference(viewer, cap(Some(0)));
    world.run_s(3);
    let rate = if matches!(codec, Codec::H264 | Codec::H265) { 30 } else { 15 };
    let few = frames(&mut world, viewer);
    world.set_preference(viewer, LayerPreference::default());
    world.run_s(3);
    let all = frames(&mut world, viewer);
    assert!(few.abs_diff(rate) <= 2 && all.abs_diff(60) <= 2, "{few} and {all} frames");
    let switches = world.viewer(viewer).guard.sender(Video).segments().len();
    let (filtered, blank) = (
        world.dropped(DropReason::LayerFiltered),
        world.viewer(viewer).guard.sender(Video).blanks(),
    );
    println!("{codec:?}: {switches} switches, {filtered} packets left out, {blank} numbers blank");
    assert!(switches > PREFERENCES / 8 && filtered > PREFERENCES as u64 && blank > 10);
    assert_whole(&mut world, viewer);
    assert_eq!(world.viewer(calm).broken_frames(), 0);
}

#[test]
fn thousands_of_preferences_on_vp8() {
    thousands_of_preferences(Codec::Vp8);
}

#[test]
fn thousands_of_preferences_on_vp9() {
    thousands_of_preferences(Codec::Vp9);
}

#[test]
fn thousands_of_preferences_on_av1() {
    thousands_of_preferences(Codec::Av1);
}

#[test]
fn thousands_of_preferences_on_h264() {
    thousands_of_preferences(Codec::H264);
}

#[test]
fn thousands_of_preferences_on_h265() {
    thousands_of_preferences(Codec::H265);
}
