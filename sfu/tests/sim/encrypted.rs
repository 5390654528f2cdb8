//! Media encrypted end to end: the server finds what it needs in header extensions, and the payload
//! misleads it.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::rtp::ext::ExtKind;

use crate::world::World;
use crate::world::spec::{LayerSpec, PublisherSpec, ViewerSpec, WatchCodec, opus, video};
use crate::{TestRng, receives_frames, watched};

fn publisher(codec: Codec) -> PublisherSpec {
    PublisherSpec::of(vec![opus(), video(codec)]).with(Video, |track| {
        track.encrypts = true;
        track.exts.push((ExtKind::DependencyDescriptor, 12));
    })
}

/// A viewer that takes AV1 too, and the dependency descriptor if it `reads` it.
fn viewer(reads: bool) -> ViewerSpec {
    let mut spec = ViewerSpec::browser();
    let picture = &mut spec.tracks[1];
    let av1 = WatchCodec { codec: Codec::Av1, pt: 45, rtx_pt: Some(46), ..picture.codecs[0] };
    picture.codecs.push(av1);
    if reads {
        picture.allow_mixed = true;
        picture.exts.push((ExtKind::DependencyDescriptor, 12));
    }
    spec
}

// whip-whep D9; the guard refuses a start that is none
#[test]
fn encrypted_media_with_a_descriptor_starts_at_its_keyframes() {
    for codec in [Codec::Vp8, Codec::H264, Codec::Av1] {
        for (workers, reads) in [(1, false), (2, true)] {
            let (mut world, sender, first) = watched(workers, publisher(codec), viewer(reads));
            assert!(receives_frames(&mut world, first, 95), "{codec:?}");
            let late = world.watch("live", viewer(reads));
            world.run_s(1);
            assert!(world.viewer(late).video_frames() > 15, "{codec:?}: joined later");
            for viewer in [first, late] {
                assert_eq!(world.viewer(viewer).broken_frames(), 0, "{codec:?}");
                let exts = &world.viewer(viewer).guard.sender(Video).exts;
                assert_eq!(exts.contains_key(&ExtKind::DependencyDescriptor), reads);
            }
            let info = world.info(sender).unwrap();
            let picture = info.tracks.iter().find(|track| track.kind == Video).unwrap();
            assert_eq!(picture.layers[0].resolution, Some((640, 352)), "{codec:?}");
        }
    }
}

#[test]
fn keyframe_whose_descriptor_comes_late_starts_a_viewer() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut world = World::new(1);
        let viewer = world.watch("live", viewer(false));
        let sender = world.publish("live", publisher(codec));
        let mut rng = TestRng(11);
        world.lose_up(sender, move |bytes| bytes[0] >= 128 && rng.chance(20));
        world.run_s(4);
        world.lose_nothing(sender);
        world.run_s(2);
        assert!(world.viewer(viewer).video_frames() > 100, "{codec:?}");
        assert_eq!(world.viewer(viewer).broken_frames(), 0, "{codec:?}");
    }
}

/// The larger layer has fewer bytes, so that only its announced size gives the order.
#[test]
fn layers_are_ordered_by_the_announced_sizes() {
    for workers in [1, 2] {
        let spec = publisher(Codec::H264).with(Video, |track| {
            track.exts.push((ExtKind::VideoLayersAllocation, 5));
            track.layers =
                vec![LayerSpec::new("a", (320, 176), 4), LayerSpec::new("b", (1280, 704), 1)];
        });
        let (mut world, sender, viewer) = watched(workers, spec, viewer(false));
        world.run_s(1);
        let large = world.publisher(sender).video().layers[1].source;
        assert_eq!(world.viewer(viewer).video_sources().last(), Some(&large));
    }
}
