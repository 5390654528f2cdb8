//! Header fields that differ per viewer: extensions, mids, payload types inside RED.

use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::rtp::ext::ExtKind;

use crate::world::World;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::{receives_frames, watched};

// whip-whep G10
#[test]
fn header_extensions_are_remapped() {
    let (mut world, _, viewer) = watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    let guard = &world.viewer(viewer).guard;
    // The guard refuses ids that were not negotiated, rids, and a foreign mid.
    assert_eq!(guard.sender(Audio).exts[&ExtKind::AudioLevel], [0x9f]);
    assert_eq!(guard.sender(Video).exts[&ExtKind::VideoOrientation], [0x01]);
    assert_eq!(guard.sender(Video).exts[&ExtKind::Mid], b"pic");
    assert_eq!(guard.sender(Audio).exts[&ExtKind::Mid], b"snd");
    assert!(receives_frames(&mut world, viewer, 100));
}

// whip-whep G10
#[test]
fn extension_that_one_side_did_not_negotiate_is_left_out() {
    let mut spec = ViewerSpec::browser();
    spec.tracks[0].exts.retain(|(kind, _)| *kind != ExtKind::AudioLevel);
    let publisher = PublisherSpec::browser()
        .with(Video, |track| track.exts.retain(|(kind, _)| *kind != ExtKind::VideoOrientation));
    let (mut world, _, viewer) = watched(1, publisher, spec);
    let guard = &world.viewer(viewer).guard;
    assert!(!guard.sender(Audio).exts.contains_key(&ExtKind::AudioLevel));
    assert!(!guard.sender(Video).exts.contains_key(&ExtKind::VideoOrientation));
}

// whip-whep G10
#[test]
fn ids_above_14_use_two_byte_headers_where_they_may() {
    let mut spec = ViewerSpec::browser();
    for track in &mut spec.tracks {
        track.allow_mixed = true;
        track.exts =
            vec![(ExtKind::Mid, 15), (ExtKind::TransportCc, 200), (ExtKind::AudioLevel, 99)];
    }
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), spec);
    let guard = &world.viewer(viewer).guard;
    assert_eq!(guard.sender(Audio).exts[&ExtKind::AudioLevel], [0x9f]);
    assert!(receives_frames(&mut world, viewer, 100));
}

#[test]
fn viewer_without_extensions_gets_headers_without_them() {
    let mut spec = ViewerSpec::browser();
    for track in &mut spec.tracks {
        track.exts.clear();
    }
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), spec);
    assert!(world.viewer(viewer).guard.senders.iter().all(|sender| sender.exts.is_empty()));
    assert!(receives_frames(&mut world, viewer, 100));
}

pub(crate) fn red_publisher() -> PublisherSpec {
    PublisherSpec::browser().with(Audio, |track| {
        track.red_pt = Some(63);
        track.sends_red = true;
    })
}

// whip-whep G9
#[test]
fn red_inner_payload_types_are_rewritten() {
    let mut spec = ViewerSpec::browser();
    spec.tracks[0].codecs[0].red_pt = Some(65);
    let (mut world, _, viewer) = watched(2, red_publisher(), spec);
    // The guard reads the payload types inside.
    assert!(world.viewer(viewer).audio_frames() > 40);
    assert!(receives_frames(&mut world, viewer, 100));
}

// whip-whep G9: "rewrite or strip RED"
#[test]
fn viewer_without_red_gets_audio_of_a_red_publisher() {
    let mut world = World::new(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.viewer(viewer).guard.counts_in_reports = false;
    world.publish("live", red_publisher());
    world.run_s(1);
    assert!(world.viewer(viewer).audio_frames() > 40, "{}", world.viewer(viewer).audio_frames());
}

/// Sender reports count the octets that this viewer was sent (RFC 3550 section 6.4.1).
#[test]
fn octets_of_stripped_red_are_those_that_were_sent() {
    let (mut world, _, viewer) = watched(1, red_publisher(), ViewerSpec::browser());
    assert!(receives_frames(&mut world, viewer, 100));
}

// whip-whep G15
#[test]
fn nth_section_gets_the_nth_track_of_its_kind() {
    let mut second = crate::world::spec::video(weir_sfu::codec::Codec::H264);
    second.mid = "2";
    let mut spec = PublisherSpec::browser();
    spec.tracks.push(second);
    let mut viewer = ViewerSpec::browser();
    let mut screen = viewer.tracks[1].clone();
    screen.mid = "scr";
    viewer.tracks.push(screen);
    let (mut world, publisher, viewer) = watched(2, spec, viewer);
    world.run_s(1);
    let sources: Vec<u32> =
        world.publisher(publisher).tracks.iter().map(|track| track.layers[0].source).collect();
    for (sender, source) in sources.iter().enumerate() {
        let segments = world.viewer(viewer).guard.senders[sender].segments();
        assert!(segments.len() == 1 && segments[0].source == *source, "{segments:?}");
    }
}
