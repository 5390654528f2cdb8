//! A viewer's m-lines are bound to tracks of other streams while it watches.

use std::sync::Arc;
use std::time::Duration;

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::router::Route;
use weir_sfu::worker::{BoundTrack, Command};

use crate::receives_frames;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::{ClientId, World};

/// Positions of the m-lines of [`ViewerSpec::browser`].
const AUDIO: usize = 0;
const VIDEO: usize = 1;

fn bind(world: &mut World, viewer: ClientId, subscription: usize, stream: Option<&str>) {
    let (id, worker) = (world.client(viewer).id, world.worker_of(viewer).expect("adopted"));
    let track = stream.map(|name| {
        let stream = Arc::clone(&world.control.streams[name].shared);
        // The control plane adds the route first.
        let mut destinations = stream.route.load().destinations.clone();
        destinations.push(worker);
        destinations.sort_unstable();
        destinations.dedup();
        stream.route.store(Arc::new(Route { destinations }));
        BoundTrack { stream, ordinal: 0 }
    });
    world.command(worker, Command::Bind { id, subscription, track });
}

fn reason(world: &mut World, viewer: ClientId, subscription: usize) -> &'static str {
    world.info(viewer).expect("it is here").tracks[subscription].reason.expect("a viewer's track")
}

/// Two streams of one encoder's settings: epochs and packet numbers of both are equal.
fn two_streams(workers: usize) -> (World, ClientId, [ClientId; 2]) {
    let mut world = World::new(workers);
    let publishers = ["left", "right"].map(|name| world.publish(name, PublisherSpec::browser()));
    world.run_s(1);
    let viewer = world.watch("left", ViewerSpec::browser());
    world.run_s(2);
    (world, viewer, publishers)
}

#[test]
fn video_is_bound_to_another_stream_and_back_while_audio_continues() {
    for workers in [1, 2] {
        let (mut world, viewer, _) = two_streams(workers);
        let first = world.viewer(viewer).video_sources();
        for stream in ["right", "left", "right"] {
            let sound = world.viewer(viewer).audio_frames();
            bind(&mut world, viewer, VIDEO, Some(stream));
            world.run_s(2);
            assert!(receives_frames(&mut world, viewer, 90), "the picture of {stream}");
            let sound = world.viewer(viewer).audio_frames() - sound;
            assert!(sound >= 148, "{sound} frames of 150 while video moved to {stream}");
            let decisions = world.info(viewer).expect("it is here").decisions;
            assert!(decisions.iter().any(|decision| decision.reason == "bound"), "{decisions:?}");
        }
        let watched = world.viewer(viewer);
        assert!(watched.video_sources().len() > first.len(), "another encoder's picture");
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
    }
}

#[test]
fn binding_audio_does_not_disturb_video_of_the_same_stream() {
    let (mut world, viewer, _) = two_streams(1);
    for stream in ["right", "left", "right", "left"] {
        bind(&mut world, viewer, AUDIO, Some(stream));
        world.run_s(1);
        assert!(world.viewer(viewer).count(Audio) > 0);
    }
    let freeze = world.viewer(viewer).longest_freeze();
    assert!(freeze < Duration::from_millis(100), "the picture stood still for {freeze:?}");
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

#[test]
fn unbound_video_stops_with_a_reason_and_returns_from_the_cache() {
    let (mut world, viewer, _) = two_streams(1);
    bind(&mut world, viewer, VIDEO, None);
    world.run_ms(100);
    let shown = world.viewer(viewer).count(Video);
    world.run_s(1);
    assert_eq!(world.viewer(viewer).count(Video), shown);
    assert_eq!(reason(&mut world, viewer, VIDEO), "unbound");
    bind(&mut world, viewer, VIDEO, Some("left"));
    world.run_ms(200);
    assert!(world.viewer(viewer).count(Video) > shown, "the keyframe before is cached");
    assert!(receives_frames(&mut world, viewer, 95));
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

#[test]
fn track_with_a_codec_that_was_not_negotiated_is_not_sent_and_closes_nothing() {
    let mut world = World::new(1);
    let mut vp8 = PublisherSpec::browser();
    for track in vp8.tracks.iter_mut().filter(|track| track.codec.kind() == Video) {
        track.codec = Codec::Vp8;
    }
    let mut h264 = PublisherSpec::browser();
    for track in h264.tracks.iter_mut().filter(|track| track.codec.kind() == Video) {
        track.codec = Codec::H264;
    }
    world.publish("left", vp8);
    world.publish("right", h264);
    world.run_s(1);
    let viewer = world.watch("left", ViewerSpec::browser().only(&[Codec::Vp8]));
    world.run_s(1);
    bind(&mut world, viewer, VIDEO, Some("right"));
    world.run_s(1);
    assert_eq!(world.closed(viewer), None);
    assert_eq!(reason(&mut world, viewer, VIDEO), "codec_not_negotiated");
    bind(&mut world, viewer, VIDEO, Some("left"));
    world.run_s(1);
    assert!(receives_frames(&mut world, viewer, 95));
}

#[test]
fn viewer_of_a_bound_stream_continues_when_it_returns() {
    let (mut world, viewer, publishers) = two_streams(1);
    // Another viewer keeps the stream's name, as the control plane has to for bound viewers.
    world.watch("right", ViewerSpec::browser());
    bind(&mut world, viewer, VIDEO, Some("right"));
    world.run_s(1);
    world.delete(publishers[1]);
    world.run_s(1);
    assert_eq!(reason(&mut world, viewer, VIDEO), "no_publisher");
    assert_eq!(world.closed(viewer), None, "its own stream continues");
    world.publish("right", PublisherSpec::browser());
    world.run_s(2);
    assert!(receives_frames(&mut world, viewer, 95));
    world.delete(viewer);
    world.run_s(1);
    assert_eq!(world.closed(publishers[0]), None);
}
