//! Publishing and watching, on one worker and on several.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};

use crate::receives_frames;
use crate::world::World;
use crate::world::media::Stamp;
use crate::world::spec::{DtlsMode, PublisherSpec, SHA1, ViewerSpec, opus, video};

#[test]
fn viewer_gets_the_publisher_on_one_worker() {
    let mut world = World::new(1);
    let publisher = world.publish("live", PublisherSpec::browser());
    world.run_s(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(10);
    assert!(world.link(publisher).is_connected());
    let watched = world.viewer(viewer);
    assert!(watched.video_frames() > 285, "{}", watched.video_frames());
    assert!(watched.audio_frames() > 480, "{}", watched.audio_frames());
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
    assert_eq!(watched.nacks_sent, 0);
    assert!(watched.guard.report_spread_ms() < 1.0, "{}", watched.guard.report_spread_ms());
}

#[test]
fn first_picture_comes_within_a_round_trip_and_a_keyframe() {
    let mut world = World::new(1);
    world.publish("live", PublisherSpec::browser());
    world.run_s(3);
    let viewer = world.watch("live", ViewerSpec::browser());
    // Check, DTLS and request: 10 ms each way; keyframe requests are read every 20 ms, frames come
    // every 33.
    assert!(world.run_until(crate::ms(300), |world| world.viewer(viewer).video_frames() > 0));
    assert!(world.viewer(viewer).frames[0].kind == Audio, "sound needs no keyframe");
}

#[test]
fn viewer_on_another_worker_gets_the_same_packets() {
    let mut world = World::new(2);
    let publisher = world.publish("live", PublisherSpec::browser());
    world.run_s(1);
    let home = world.worker_of(publisher).expect("adopted");
    let near = world.watch("live", ViewerSpec::on_worker(home));
    let far = world.watch("live", ViewerSpec::on_worker(1 - home));
    world.run_s(5);
    for viewer in [near, far] {
        let watched = world.viewer(viewer);
        assert!(watched.video_frames() > 140 && watched.audio_frames() > 240);
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
        assert!(watched.guard.report_spread_ms() < 1.0);
    }
    let contents = |world: &mut World, viewer| world.viewer(viewer).guard.sender(Video).contents();
    assert_eq!(contents(&mut world, near), contents(&mut world, far));
}

/// A scenario with layers that stop and an encoder that restarts, on different worker counts: every
/// packet after the start is the same, and every switch has the same direction.
#[test]
fn packets_do_not_depend_on_the_number_of_workers() {
    let tell = |spec: PublisherSpec, workers: usize, apart: usize| {
        let mut world = World::new(workers);
        let publisher = world.publish("live", spec);
        world.run_ms(507);
        let home = world.worker_of(publisher).expect("adopted");
        let viewer = world.watch("live", ViewerSpec::on_worker((home + apart) % workers));
        world.run_s(4);
        let layers = world.publisher(publisher).video().layers.len();
        if layers > 1 {
            world.publisher(publisher).video().layers[2].active = false;
            world.run_s(3);
        }
        world.publisher(publisher).restart_encoder(Video, layers / 2);
        world.run_s(3);
        let sources = world.viewer(viewer).video_sources();
        let senders = &world.viewer(viewer).guard;
        // The start of a viewer depends on when its checks found its worker; the packets it gets do
        // not.
        let settled = |kind| {
            let stamps = senders.sender(kind).contents().into_iter().map(|(stamp, _)| stamp);
            let after =
                |stamp: &Option<_>| stamp.is_none_or(|s: Stamp| s.captured_ns > 2_000_000_000);
            stamps.filter(after).collect::<Vec<_>>()
        };
        (sources, settled(Audio), settled(Video))
    };
    let one_layer = || PublisherSpec::browser();
    let alone = tell(one_layer(), 1, 0);
    assert_eq!(alone.0.len(), 2, "the encoder restarted once");
    for (workers, apart) in [(2, 1), (3, 2)] {
        assert!(alone == tell(one_layer(), workers, apart), "the same packets on any worker");
    }
    let layers = || PublisherSpec::simulcast(Codec::Vp8);
    let (sources, sound, _) = tell(layers(), 1, 0);
    assert!(sources.len() >= 3, "{sources:?}");
    for (workers, apart) in [(2, 1), (3, 2)] {
        // The moment of a switch depends on when the worker chose; its direction does not.
        let other = tell(layers(), workers, apart);
        assert_eq!((&sources, &sound), (&other.0, &other.1));
    }
}

/// Audio comes a few milliseconds before the first picture, as from every publisher. The keyframe
/// that starts the stream is sent, not requested again.
#[test]
fn first_keyframe_after_the_first_audio_is_not_missed() {
    for workers in [1, 2] {
        for delay_ms in [0, 3, 20, 40] {
            let mut world = World::new(workers);
            let viewer = world.watch("live", ViewerSpec::browser());
            world.run_s(1);
            let spec = PublisherSpec::browser()
                .with(Video, |track| track.encode_delay = crate::ms(delay_ms));
            let publisher = world.publish("live", spec);
            world.run_s(1);
            let asked = world.publisher(publisher).feedback.keyframe_requests.len();
            let first = world.viewer(viewer).frames.iter().find(|frame| frame.kind == Video);
            assert_eq!(first.map(|frame| frame.number), Some(0), "{delay_ms} ms behind the sound");
            assert_eq!(asked, 0, "a keyframe was requested although one had come");
        }
    }
}

// whip-whep G6
#[test]
fn viewer_joins_before_the_publisher() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut world = World::new(2);
        let viewer = world.watch("live", ViewerSpec::browser());
        world.run_s(20);
        assert!(world.link(viewer).is_connected());
        let publisher = world.publish("live", PublisherSpec::of(vec![opus(), video(codec)]));
        world.run_s(3);
        let watched = world.viewer(viewer);
        assert!(watched.video_frames() > 80, "{codec:?}: {}", watched.video_frames());
        assert!(watched.frames.iter().all(|frame| frame.kind == Audio || frame.codec == codec));
        assert_eq!(watched.broken_frames(), 0);
        assert!(world.link(publisher).is_connected() && world.closed(viewer).is_none());
    }
}

#[test]
fn keyframe_is_requested_when_the_first_one_was_missed() {
    let mut world = World::new(1);
    let publisher = world.publish("live", PublisherSpec::browser());
    world.run_s(5);
    assert!(world.publisher(publisher).feedback.keyframe_requests.is_empty());
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(1);
    assert_eq!(world.publisher(publisher).feedback.keyframe_requests.len(), 1);
    assert!(world.viewer(viewer).video_frames() > 20);
}

/// A keyframe that arrives answers all requests from before it.
// quality A2.3: keyframes cost the other viewers quality
#[test]
fn join_costs_one_keyframe() {
    let mut world = World::new(1);
    let publisher = world.publish("live", PublisherSpec::browser());
    world.run_s(2);
    let before = world.publisher(publisher).feedback.keyframe_requests.len();
    for _ in 0..10 {
        world.watch("live", ViewerSpec::browser());
        world.run_s(3);
    }
    let asked = world.publisher(publisher).feedback.keyframe_requests.len() - before;
    assert_eq!(asked, 10);
}

#[test]
fn media_arrives_with_every_codec_and_profile() {
    for (codec, publisher_dtls, viewer_dtls) in [
        (Codec::Vp8, SHA1, ViewerSpec::browser().dtls),
        (Codec::H264, ViewerSpec::browser().dtls, SHA1),
        (Codec::H264, SHA1, SHA1),
    ] {
        let mut world = World::new(1);
        let mut spec = PublisherSpec::of(vec![opus(), video(codec)]);
        spec.dtls = publisher_dtls;
        world.publish("live", spec);
        let viewer = world.watch("live", ViewerSpec { dtls: viewer_dtls, ..ViewerSpec::browser() });
        world.run_s(3);
        let watched = world.viewer(viewer);
        assert!(watched.video_frames() > 80, "{codec:?}: {}", watched.video_frames());
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
    }
}

#[test]
fn real_dtls_in_every_role() {
    for (publishes, watches) in [
        (DtlsMode::Client, DtlsMode::Client),
        (DtlsMode::Server, DtlsMode::Server),
        (DtlsMode::Client, ViewerSpec::browser().dtls),
    ] {
        let mut world = World::new(2);
        let spec = PublisherSpec { dtls: publishes, ..PublisherSpec::browser() };
        let publisher = world.publish("live", spec);
        let viewer = world.watch("live", ViewerSpec { dtls: watches, ..ViewerSpec::browser() });
        world.run_s(4);
        assert!(world.link(publisher).is_connected(), "{publishes:?}");
        assert!(world.viewer(viewer).video_frames() > 90, "{publishes:?} {watches:?}");
        assert_eq!(world.viewer(viewer).broken_frames(), 0);
    }
}

#[test]
fn real_dtls_survives_a_bad_network() {
    let mut world = World::new(1);
    let mut connected = 0;
    for seed in 0..10 {
        let spec = PublisherSpec { dtls: DtlsMode::Client, ..PublisherSpec::browser() };
        let publisher = world.publish(&format!("live{seed}"), spec);
        let mut rng = crate::TestRng(seed);
        world.lose_up(publisher, move |_| rng.chance(20));
        let mut rng = crate::TestRng(seed + 100);
        world.lose_down(publisher, move |_| rng.chance(20));
        world.run_s(15);
        connected += usize::from(world.link(publisher).is_connected());
        world.delete(publisher);
    }
    // A third of all round trips is lost; the handshake has 15 s.
    assert!(connected >= 7, "{connected} of 10 at 20 % loss both ways");
}

#[test]
fn viewer_that_says_goodbye_is_closed_and_others_stay() {
    let mut world = World::new(2);
    world.publish("live", PublisherSpec::browser());
    let leaves = world.watch("live", ViewerSpec::on_worker(0));
    let stays = world.watch("live", ViewerSpec::on_worker(1));
    world.run_s(2);
    world.link(leaves).say_goodbye();
    world.run_s(1);
    assert_eq!(world.closed(leaves), Some(weir_sfu::error::CloseReason::PeerClosed));
    assert!(receives_frames(&mut world, stays, 100));
}
