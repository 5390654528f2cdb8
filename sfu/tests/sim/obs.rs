//! OBS Studio, by a double that sends its packet patterns: delimiters before each frame, B-frames, a
//! keyframe every 250 frames and none on request, up to four layers with the largest first.

use std::time::Duration;

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::forward::LayerPreference;

use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::{ClientId, World};
use crate::{ms, watched};

/// Codes of the warnings that the API shows for a session.
fn warnings(world: &mut World, client: ClientId) -> Vec<&'static str> {
    let info = world.info(client).expect("it is connected");
    info.warnings.iter().map(|warning| warning.code()).collect()
}

fn lowest_rate() -> LayerPreference {
    LayerPreference { max_temporal_layer: Some(0), ..LayerPreference::default() }
}

/// Video frames that the viewer gets in two seconds, of 60.
fn frames(world: &mut World, viewer: ClientId) -> usize {
    let before = world.viewer(viewer).video_frames();
    world.run_s(2);
    world.viewer(viewer).video_frames() - before
}

fn assert_whole(world: &mut World, viewer: ClientId) {
    let watched = world.viewer(viewer);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "broken and missing");
}

#[test]
fn frames_behind_a_delimiter_are_left_out_for_a_viewer_with_a_lower_frame_rate() {
    let mut world = World::new(2);
    world.publish("live", PublisherSpec::obs(1));
    world.run_ms(500);
    let viewer = world.watch("live", ViewerSpec::on_worker(1));
    world.expect_filtered(viewer);
    let calm = world.watch("live", ViewerSpec::browser());
    world.run_s(2);
    for (preference, rate) in
        [(lowest_rate(), 30), (LayerPreference::default(), 60), (lowest_rate(), 30)]
    {
        world.set_preference(viewer, preference);
        world.run_ms(500);
        let came = frames(&mut world, viewer);
        assert!(came.abs_diff(rate) <= 2, "{came} of {rate} frames");
    }
    assert_eq!(warnings(&mut world, viewer), Vec::<&str>::new());
    assert_whole(&mut world, viewer);
    assert_whole(&mut world, calm);
    assert_eq!(world.viewer(viewer).nacks_sent, 0, "its numbers are continuous");
}

#[test]
fn limit_on_temporal_layers_without_effect_is_told() {
    for spec in [PublisherSpec::obs_tuned(1), PublisherSpec::browser()] {
        let (mut world, _, viewer) = watched(1, spec, ViewerSpec::browser());
        world.expect_filtered(viewer);
        world.set_preference(viewer, lowest_rate());
        world.run_ms(500);
        assert_eq!(warnings(&mut world, viewer), Vec::<&str>::new(), "not known yet");
        let came = frames(&mut world, viewer);
        assert!(came.abs_diff(60) <= 2, "{came} of 60 frames");
        assert_eq!(warnings(&mut world, viewer), ["nothing_to_leave_out"]);
        world.set_preference(viewer, LayerPreference::default());
        world.run_ms(500);
        assert_eq!(warnings(&mut world, viewer), Vec::<&str>::new());
    }
}

#[test]
fn b_frames_and_rare_keyframes_are_told_once_each() {
    let (mut world, publisher, viewer) = watched(1, PublisherSpec::obs(1), ViewerSpec::browser());
    assert_eq!(warnings(&mut world, publisher), ["b_frames"]);
    // Nobody asked it for a keyframe, and one interval alone may be a browser's that adapts.
    world.run_s(18);
    assert_eq!(warnings(&mut world, publisher), ["b_frames", "keyframe_interval"]);
    let info = world.info(publisher).expect("it is connected");
    let picture = info.tracks.iter().find(|track| track.kind == Video).expect("a picture");
    let layer = &picture.layers[0];
    assert_eq!(layer.codec_string.as_deref(), Some("avc1.42e01f"));
    let learned = layer.learned.as_ref().expect("it is video");
    let interval = learned.keyframe_interval_ms.expect("two keyframes came");
    assert!(interval.abs_diff(8_333) < 100, "{interval}");
    let next = learned.next_keyframe_ms.expect("it is due");
    assert!((1..8_333).contains(&next), "{next}");
    world.run_s(10);
    let told: Vec<_> = world.warned(publisher).iter().map(|warning| warning.code()).collect();
    assert_eq!(told, ["b_frames", "keyframe_interval"], "in the log");
    assert_whole(&mut world, viewer);
}

#[test]
fn well_set_publisher_and_browsers_are_not_warned() {
    let mut answers_slowly = PublisherSpec::browser();
    answers_slowly.tracks[1].key_every = Some(300);
    for spec in [PublisherSpec::obs_tuned(1), PublisherSpec::browser(), answers_slowly] {
        let (mut world, publisher, _) = watched(1, spec, ViewerSpec::browser());
        for _ in 0..4 {
            world.run_s(8);
            world.watch("live", ViewerSpec::browser());
        }
        assert_eq!(warnings(&mut world, publisher), Vec::<&str>::new());
        assert!(world.warned(publisher).is_empty());
    }
}

#[test]
fn publisher_that_sends_one_keyframe_only_is_warned() {
    let spec = PublisherSpec::obs_tuned(1).with(Video, |track| track.key_every = None);
    let (mut world, publisher, _) = watched(1, spec, ViewerSpec::browser());
    world.run_s(10);
    assert_eq!(warnings(&mut world, publisher), Vec::<&str>::new());
    world.watch("live", ViewerSpec::browser());
    world.run_s(10);
    assert_eq!(warnings(&mut world, publisher), ["no_keyframe"]);
    let told = world.warned(publisher);
    assert_eq!(told.len(), 1, "in the log, once: {told:?}");
    assert!(told[0].to_string().contains("no further keyframe"), "{}", told[0]);
}

/// At 10 frames per second OBS sends a keyframe every 25 s.
#[test]
fn viewer_sees_the_last_keyframe_while_it_is_the_newest() {
    for workers in [1, 2] {
        let spec = PublisherSpec::obs_tuned(1).with(Video, |track| {
            (track.frame_every, track.key_every) = (ms(100), Some(250));
        });
        let mut world = World::new(workers);
        world.publish("live", spec);
        world.run_s(18);
        let viewer = world.watch("live", ViewerSpec::on_worker(workers - 1));
        world.run_s(1);
        assert_eq!(world.viewer(viewer).video_frames(), 1, "the keyframe alone");
        world.run_s(5);
        assert_eq!(world.viewer(viewer).video_frames(), 1, "nothing that refers to others");
        world.run_s(4);
        assert!(world.viewer(viewer).video_frames() > 20, "the next keyframe, and what follows");
        assert_whole(&mut world, viewer);
    }
}

/// All layers begin at number 0, only the first one is reported, and NACKs are answered for it
/// alone.
#[test]
fn layers_of_a_simulcast_publisher_are_found_by_rid_and_switched() {
    for layers in 2..=4 {
        let (mut world, publisher, viewer) =
            watched(2, PublisherSpec::obs_tuned(layers), ViewerSpec::on_worker(1));
        world.run_s(3);
        let source = |world: &mut World, layer: usize| {
            world.publisher(publisher).video().layers[layer].source
        };
        let shown = |world: &mut World| *world.viewer(viewer).video_sources().last().unwrap();
        assert_eq!(shown(&mut world), source(&mut world, 0), "rid 0 is the largest");
        let smallest = LayerPreference {
            rid: Some((layers - 1).to_string().into()),
            ..LayerPreference::default()
        };
        world.set_preference(viewer, smallest);
        world.run_s(3);
        assert_eq!(shown(&mut world), source(&mut world, layers - 1));
        assert!(world.viewer(viewer).longest_freeze() < Duration::from_millis(200));
        assert_whole(&mut world, viewer);
        let info = world.info(publisher).expect("it is connected");
        let of_video = info.tracks.into_iter().find(|track| track.kind == Video).unwrap();
        assert_eq!(of_video.codec, Some(Codec::H264));
        let rids: Vec<_> = of_video.layers.iter().map(|layer| layer.rid.as_str()).collect();
        assert_eq!(rids, ["0", "1", "2", "3"][..layers]);
    }
}
