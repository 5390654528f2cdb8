//! Publishers that send parameter sets elsewhere than at the beginning of each keyframe: with every
//! frame, in packets of their own, once, or with no IDR picture at all. Each ignores keyframe
//! requests, so that a viewer's picture depends on where it was begun.

use std::time::Duration;

use weir_netsim::Profile;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::forward::LayerPreference;
use weir_sfu::forward::start::StartMode;

use crate::ms;
use crate::world::spec::{PublisherSpec, SetsMode, ViewerSpec, opus, video};
use crate::world::{ClientId, World};

const CODECS: [Codec; 3] = [Codec::H264, Codec::H265, Codec::Av1];

/// Maximum time by which a first picture may come later than that of a publisher which sends its
/// sets with each keyframe.
const LATER_MAX: Duration = Duration::from_millis(5);

/// A publisher with a keyframe every four seconds.
fn publisher(codec: Codec, sets: SetsMode) -> PublisherSpec {
    ignoring(PublisherSpec::of(vec![opus(), video(codec)]), 120, sets)
}

fn ignoring(mut spec: PublisherSpec, key_every: u32, sets: SetsMode) -> PublisherSpec {
    spec.answers_pli = false;
    spec.with(Video, |track| (track.key_every, track.sets) = (Some(key_every), sets))
}

/// Time from a join to the first picture, for viewers that join all over a group of pictures.
fn first_pictures(world: &mut World) -> Vec<(ClientId, Duration)> {
    let mut viewers = Vec::new();
    for worker in [0, 1, 0, 1, 0, 1] {
        let joined = world.now;
        let viewer = world.watch("live", ViewerSpec::on_worker(worker));
        world.run_ms(1_370);
        let shown = world.viewer(viewer).shown_at();
        let first = *shown.first().unwrap_or_else(|| panic!("no picture after {:?}", joined));
        viewers.push((viewer, first - joined));
    }
    world.run_s(5);
    viewers
}

/// Checks that a viewer got whole pictures from the beginning.
fn assert_decodes(world: &mut World, viewer: ClientId, what: &str) {
    let watched = world.viewer(viewer);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "{what}");
    assert_eq!(watched.guard.sender(Video).runs_without_sets, 0, "{what}");
}

/// Checks that viewers of a publisher begin at keyframes, as soon as those of a publisher that
/// sends its sets with each keyframe.
fn assert_joins(codec: Codec, modes: &[SetsMode]) {
    let joins = |mode| {
        let mut world = World::new(2);
        world.publish("live", publisher(codec, mode));
        world.run_ms(2_300);
        let viewers = first_pictures(&mut world);
        let what = format!("{codec:?} {mode:?}");
        viewers.iter().for_each(|(viewer, _)| assert_decodes(&mut world, *viewer, &what));
        let waits: Vec<_> = viewers.iter().map(|(_, wait)| *wait).collect();
        println!("{what}: first pictures after {waits:?}");
        waits
    };
    let usual = joins(SetsMode::EachKeyframe);
    for mode in modes {
        for (wait, usual) in joins(*mode).iter().zip(&usual) {
            assert!(*wait <= *usual + LATER_MAX, "{codec:?} {mode:?}: {wait:?}, else {usual:?}");
        }
    }
}

#[test]
fn viewers_begin_at_keyframes_although_every_frame_has_parameter_sets() {
    assert_joins(Codec::H264, &[SetsMode::EachFrame, SetsMode::OwnPacket]);
    assert_joins(Codec::H265, &[SetsMode::EachFrame, SetsMode::OwnPacket]);
    // A sequence header belongs to its temporal unit, so that it has no packet of its own.
    assert_joins(Codec::Av1, &[SetsMode::EachFrame]);
}

#[test]
fn layer_switches_begin_at_keyframes_although_every_frame_has_parameter_sets() {
    for codec in CODECS {
        for mode in [SetsMode::EachFrame, SetsMode::Once, SetsMode::OwnPacket] {
            if (codec, mode) == (Codec::Av1, SetsMode::OwnPacket) {
                continue;
            }
            let mut world = World::new(2);
            world.publish("live", ignoring(PublisherSpec::simulcast(codec), 33, mode));
            world.run_ms(1_700);
            let viewer = world.watch("live", ViewerSpec::on_worker(1));
            world.run_s(2);
            for rid in ["q", "f", "h", "q", "h", "f", "q"] {
                let rid = Some(rid.into());
                world.set_preference(viewer, LayerPreference { rid, ..Default::default() });
                world.run_ms(2_450);
            }
            let what = format!("{codec:?} {mode:?}");
            assert_decodes(&mut world, viewer, &what);
            let watched = world.viewer(viewer);
            assert!(watched.guard.sender(Video).segments().len() >= 8, "{what}: it switched");
            let freeze = watched.longest_freeze();
            assert!(freeze <= ms(100), "{what}: no picture for {freeze:?}");
        }
    }
}

#[test]
fn viewer_that_joins_late_gets_parameter_sets_that_were_sent_once() {
    for codec in CODECS {
        for worker in [0, 1] {
            let mut world = World::new(2);
            world.publish("live", publisher(codec, SetsMode::Once));
            world.run_s(20);
            let lossy: Profile = "delay=10,loss=5".parse().expect("a profile");
            let spec = ViewerSpec { down: lossy, ..ViewerSpec::on_worker(worker) };
            let viewers =
                [world.watch("live", ViewerSpec::on_worker(worker)), world.watch("live", spec)];
            world.run_s(5);
            let clean = Profile::delay(ms(10));
            world.change_network(viewers[1], clean.clone(), clean);
            world.run_s(5);
            for viewer in viewers {
                assert_decodes(&mut world, viewer, &format!("{codec:?} on worker {worker}"));
                let watched = world.viewer(viewer);
                assert!(watched.guard.sender(Video).kept_sets() > 0);
                assert!(watched.video_frames() > 150, "{} frames", watched.video_frames());
            }
        }
    }
}

#[test]
fn camera_without_idr_pictures_is_begun_at_its_recovery_points() {
    assert_joins(Codec::H264, &[SetsMode::RecoveryPoint]);
    assert_joins(Codec::H265, &[SetsMode::RecoveryPoint]);
}

/// The packet of sets before the second keyframe is lost and never repaired. The keyframe after it
/// comes four seconds later.
#[test]
fn viewer_that_joins_behind_lost_parameter_sets_need_not_wait_for_the_next_keyframe() {
    for codec in [Codec::H264, Codec::H265] {
        for mode in [SetsMode::EachKeyframe, SetsMode::OwnPacket] {
            for joins_after_ms in [20, 300, 800, 1_500] {
                let mut world = World::new(1);
                let mut spec = publisher(codec, mode);
                spec.answers_nack = false;
                let sender = world.publish("live", spec);
                world.run_s(1);
                let media = &mut world.publisher(sender).video().layers[0];
                let (ssrc, frames_left) = (media.ssrc, u64::from(120 - media.frame));
                let lost = media.next_seq + 3 * frames_left;
                world.lose_up(sender, move |bytes| {
                    bytes.get(8..12) == Some(&ssrc.to_be_bytes())
                        && bytes.get(2..4) == Some(&(lost as u16).to_be_bytes())
                });
                let came =
                    |world: &mut World| world.publisher(sender).video().layers[0].frame > 120;
                assert!(world.run_until(Duration::from_secs(5), came));
                world.run_ms(joins_after_ms);
                let joined = world.now;
                let viewer = world.watch("live", ViewerSpec::on_worker(0));
                world.run_ms(2_000 - joins_after_ms);
                let what = format!("{codec:?} {mode:?}, {joins_after_ms} ms behind");
                let watched = world.viewer(viewer);
                let shown = watched.shown_at();
                let first = *shown.first().unwrap_or_else(|| panic!("{what}: no picture"));
                assert!(first - joined < ms(150), "{what}: {:?}", first - joined);
                let frames = watched.video_frames();
                println!("{what}: first after {:?}, {frames} frames", first - joined);
                // The picture before, until no repair can come any more: then all since the
                // keyframe. Who joins later sees the keyframe alone, if there is much behind it.
                let contents = watched.guard.sender(Video).contents();
                let begun = contents.iter().find_map(|(stamp, _)| *stamp).map(|stamp| stamp.frame);
                let is_early = joins_after_ms < 700;
                assert_eq!(begun, Some(if is_early { 0 } else { 120 }), "{what}");
                assert!(frames >= if is_early { 50 } else { 1 }, "{what}: {frames} frames");
                assert_decodes(&mut world, viewer, &what);
            }
        }
    }
}

/// Parameter sets with a timestamp and a marker of their own are part of the cached picture with which
/// a viewer begins. Viewers that begin live get them as the publisher sent them.
// RFC 6184 section 5.1
#[test]
fn parameter_sets_of_their_own_time_are_part_of_the_first_picture() {
    for codec in [Codec::H264, Codec::H265] {
        for start in [StartMode::FastForward, StartMode::Poster, StartMode::Wait] {
            for joins_after_ms in [100, 2_500, 3_950] {
                let mut world = World::new(1);
                world.publish("live", publisher(codec, SetsMode::OwnPacket));
                world.run_ms(4_200 + joins_after_ms);
                let viewer = world.watch("live", ViewerSpec { start, ..ViewerSpec::on_worker(0) });
                world.run_s(5);
                let what = format!("{codec:?}, {start:?}, {joins_after_ms} ms");
                let times = world.viewer(viewer).guard.sender(Video).times();
                let first = times.first().unwrap_or_else(|| panic!("{what}: no picture")).1;
                let of_first = times.iter().filter(|(_, captured)| *captured == first).count();
                let expected = if start == StartMode::Wait { 2 } else { 1 };
                assert_eq!(of_first, expected, "{what}: timestamps of the first picture");
                assert_decodes(&mut world, viewer, &what);
            }
        }
    }
}

/// While no frame follows the keyframe, a poster viewer goes on with the next frame.
#[test]
fn poster_viewer_goes_on_behind_a_keyframe_with_parameter_sets_of_their_own_time() {
    for mode in [SetsMode::EachKeyframe, SetsMode::OwnPacket] {
        let mut spec = ignoring(PublisherSpec::of(vec![opus(), video(Codec::H264)]), 10, mode);
        spec = spec.with(Video, |track| track.frame_every = ms(400));
        let mut world = World::new(1);
        let sender = world.publish("live", spec);
        let came = |world: &mut World| world.publisher(sender).video().layers[0].frame == 11;
        assert!(world.run_until(Duration::from_secs(6), came));
        world.run_ms(40);
        let spec = ViewerSpec { start: StartMode::Poster, ..ViewerSpec::on_worker(0) };
        let viewer = world.watch("live", spec);
        world.run_ms(2_500);
        let frames = world.viewer(viewer).video_frames();
        assert!(frames >= 6, "{mode:?}: {frames} frames");
        assert_decodes(&mut world, viewer, &format!("{mode:?}"));
    }
}

#[test]
fn viewers_get_parameter_sets_that_only_the_offer_states() {
    for codec in [Codec::H264, Codec::H265] {
        for worker in [0, 1] {
            let mut world = World::new(2);
            let early = world.watch("live", ViewerSpec::on_worker(worker));
            let sender = world.publish("live", publisher(codec, SetsMode::Offer));
            world.run_s(10);
            let late = world.watch("live", ViewerSpec::on_worker(worker));
            world.run_s(8);
            for viewer in [early, late] {
                assert_decodes(&mut world, viewer, &format!("{codec:?} on worker {worker}"));
                let watched = world.viewer(viewer);
                assert!(watched.guard.sender(Video).kept_sets() > 0);
                assert!(watched.video_frames() > 100, "{} frames", watched.video_frames());
            }
            assert_eq!(codes(&world, sender), Vec::<&str>::new());
        }
    }
}

fn codes(world: &World, publisher: ClientId) -> Vec<&'static str> {
    let codes = world.warned(publisher).into_iter().map(|warning| warning.code());
    codes.filter(|code| *code == "no_parameter_sets").collect()
}

#[test]
fn stream_without_any_parameter_sets_is_told_once() {
    for codec in CODECS {
        for (mode, told) in [(SetsMode::Never, 1), (SetsMode::Once, 0), (SetsMode::EachFrame, 0)] {
            let mut world = World::new(1);
            let sender = world
                .publish("live", ignoring(PublisherSpec::of(vec![opus(), video(codec)]), 60, mode));
            world.run_s(1);
            assert_eq!(codes(&world, sender), Vec::<&str>::new(), "it may be late");
            world.run_s(14);
            assert_eq!(
                codes(&world, sender),
                vec!["no_parameter_sets"; told],
                "{codec:?} {mode:?}"
            );
            let shown = world.info(sender).expect("it is connected").warnings;
            let shown = shown.iter().filter(|warning| warning.code() == "no_parameter_sets");
            assert_eq!(shown.count(), told, "in the API");
        }
    }
}
