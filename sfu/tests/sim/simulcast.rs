//! Simulcast layers: the largest live one is sent, and the next one when it stops.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;

use crate::world::spec::{PublisherSpec, ViewerSpec, opus, video};
use crate::world::{ClientId, World};
use crate::{ms, receives_frames, watched};

fn source(world: &mut World, publisher: ClientId, layer: usize) -> u32 {
    world.publisher(publisher).video().layers[layer].source
}

fn shown(world: &mut World, viewer: ClientId) -> u32 {
    *world.viewer(viewer).video_sources().last().expect("a picture")
}

// quality B4 item 14
#[test]
fn largest_layer_is_sent_and_the_next_one_when_it_stops() {
    for codec in [Codec::Vp8, Codec::H264] {
        for workers in [1, 2] {
            let (mut world, publisher, viewer) =
                watched(workers, PublisherSpec::simulcast(codec), ViewerSpec::browser());
            world.run_s(1);
            assert_eq!(shown(&mut world, viewer), source(&mut world, publisher, 2), "{codec:?}");
            for (stops, next) in [(2, 1), (1, 0)] {
                world.publisher(publisher).video().layers[stops].active = false;
                world.run_s(2);
                assert_eq!(shown(&mut world, viewer), source(&mut world, publisher, next));
            }
            let freeze = world.viewer(viewer).longest_freeze();
            assert!(freeze < ms(500 + 250), "{freeze:?}: layer dead, keyframe requested and sent");
            for back in [1, 2] {
                world.publisher(publisher).video().layers[back].active = true;
                world.run_s(3);
                assert_eq!(shown(&mut world, viewer), source(&mut world, publisher, back));
            }
            assert_eq!(world.viewer(viewer).broken_frames(), 0);
            assert_eq!(world.viewer(viewer).longest_freeze(), freeze, "no freeze on the way up");
        }
    }
}

#[test]
fn middle_or_lower_layer_that_stops_is_not_noticed() {
    for stops in [0, 1] {
        let (mut world, publisher, viewer) =
            watched(1, PublisherSpec::simulcast(Codec::Vp8), ViewerSpec::browser());
        world.run_s(1);
        world.publisher(publisher).video().layers[stops].active = false;
        world.run_s(3);
        assert!(world.viewer(viewer).longest_freeze() < ms(200));
        assert!(receives_frames(&mut world, viewer, 100));
    }
}

#[test]
fn viewer_waits_when_all_layers_stop_and_continues_when_they_return() {
    let (mut world, publisher, viewer) =
        watched(1, PublisherSpec::simulcast(Codec::Vp8), ViewerSpec::browser());
    for layer in &mut world.publisher(publisher).video().layers {
        layer.active = false;
    }
    world.run_s(20);
    for layer in &mut world.publisher(publisher).video().layers {
        layer.active = true;
    }
    world.run_s(2);
    assert!(receives_frames(&mut world, viewer, 95));
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

#[test]
fn loss_upstream_is_repaired_on_every_layer() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::simulcast(Codec::Vp8), ViewerSpec::browser());
    let mut rng = crate::TestRng(5);
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && rng.chance(3));
    world.run_s(5);
    world.lose_nothing(publisher);
    world.run_s(1);
    assert!(!world.publisher(publisher).feedback.nacked.is_empty());
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

// whip-whep C59
#[test]
fn obs_rid_without_simulcast_is_ignored() {
    let mut sound = opus();
    let mut picture = video(Codec::H264);
    for track in [&mut sound, &mut picture] {
        track.exts.clear();
        track.extra_exts.clear();
        track.rtx_pt = None;
        track.sends_mid = false;
    }
    // OBS writes ids 1 and 2 whatever the answer said.
    picture.extra_exts = vec![(1, b"1".to_vec()), (2, b"0".to_vec())];
    picture.pt = 96;
    for declares in [true, false] {
        (sound.declares, picture.declares) = (declares, declares);
        let spec = PublisherSpec::of(vec![sound.clone(), picture.clone()]);
        let (mut world, _, viewer) = watched(1, spec, ViewerSpec::browser());
        world.run_s(2);
        let watched = world.viewer(viewer);
        assert!(watched.video_frames() > 70 && watched.audio_frames() > 100);
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
    }
}

/// An id that means another extension in the answer than OBS writes into it.
// whip-whep C59
#[test]
fn obs_ids_that_collide_with_negotiated_ones_reach_no_viewer_wrongly() {
    let mut spec = PublisherSpec::of(vec![opus(), video(Codec::H264)]);
    spec = spec.with(Video, |track| {
        track.sends_mid = false;
        track.exts.retain(|(_, id)| *id == 13);
        track.extra_exts = vec![(1, b"1".to_vec()), (2, b"0".to_vec())];
    });
    let (mut world, _, viewer) = watched(1, spec, ViewerSpec::browser());
    assert!(receives_frames(&mut world, viewer, 95));
}
