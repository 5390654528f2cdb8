//! Sequence numbers and timestamps that wrap and jump (quality B4 item 12).

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};

use crate::world::World;
use crate::world::spec::{PublisherSpec, ViewerSpec, opus, video};
use crate::{ms, receives_frames, watched};

#[test]
fn sequence_wrap_at_join() {
    for first in (65_500..=65_535).step_by(5).chain([0, 1, 32_767, 32_768]) {
        let spec = PublisherSpec::browser()
            .with(Video, |track| track.first_seq = first)
            .with(Audio, |track| track.first_seq = first);
        let mut world = World::new(1);
        world.publish("live", spec);
        let early = world.watch("live", ViewerSpec::browser());
        world.run_ms(137);
        let late = world.watch("live", ViewerSpec::browser());
        world.run_s(2);
        for viewer in [early, late] {
            let watched = world.viewer(viewer);
            assert!(watched.video_frames() > 40, "{first}: {}", watched.video_frames());
            assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "{first}");
        }
    }
}

/// The publisher's numbers wrapped before its first packet arrived: its SRTP roll-over count is 1
/// already.
#[test]
fn a_publisher_that_wrapped_before_its_first_packet_came_through() {
    let spec = PublisherSpec::browser().with(Video, |track| track.first_seq = 65_534);
    let mut world = World::new(1);
    let publisher = world.publish("live", spec);
    let viewer = world.watch("live", ViewerSpec::browser());
    let start = world.now + ms(300);
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && bytes.get(2) == Some(&255));
    while world.now < start {
        world.run_ms(10);
    }
    world.lose_nothing(publisher);
    world.publisher(publisher).video().layers[0].wants_key = true;
    assert!(receives_frames(&mut world, viewer, 80));
}

/// Many wraps: both SRTP roll-over counts continue.
#[test]
fn numbers_wrap_three_times() {
    let spec = PublisherSpec::video_only().with(Video, |track| {
        track.layers[0].packets = 40;
        track.bytes = 60;
    });
    let (mut world, _, viewer) = watched(2, spec, ViewerSpec::browser().video_only());
    world.run_s(170);
    let watched = world.viewer(viewer);
    assert!(watched.guard.sender(Video).sent() > 3 * 65_536);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
}

#[test]
fn timestamp_wrap() {
    for codec in [Codec::Vp8, Codec::H264] {
        let spec = PublisherSpec::of(vec![opus(), video(codec)])
            .with(Video, |track| track.first_timestamp = u32::MAX - 90_000 * 2)
            .with(Audio, |track| track.first_timestamp = u32::MAX - 48_000 * 3);
        let (mut world, _, viewer) = watched(1, spec, ViewerSpec::browser());
        world.run_s(5);
        let watched = world.viewer(viewer);
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
        assert!(watched.longest_freeze() < ms(60));
        assert!(watched.guard.report_spread_ms() < 1.0, "{}", watched.guard.report_spread_ms());
    }
}

/// Jumps beyond 300 packets are a new start: packets that were never sent are not requested.
#[test]
fn sequence_jump_is_not_requested() {
    for jump in [301, 5_000, 30_000, 32_766] {
        let (mut world, publisher, viewer) =
            watched(2, PublisherSpec::browser(), ViewerSpec::browser());
        let nacked = world.publisher(publisher).feedback.nacked.len();
        let asked = world.publisher(publisher).feedback.keyframe_requests.len();
        for track in &mut world.publisher(publisher).tracks {
            track.layers[0].next_seq += jump;
        }
        world.run_s(2);
        let feedback = &world.publisher(publisher).feedback;
        assert_eq!(feedback.nacked.len(), nacked, "jump of {jump}");
        assert!(feedback.keyframe_requests.len() > asked, "a keyframe repairs a jump of {jump}");
        let watched = world.viewer(viewer);
        assert_eq!(watched.nacks_sent, 0, "the viewer sees no gap after a jump of {jump}");
        assert!(watched.longest_freeze() < ms(700), "{:?}", watched.longest_freeze());
        assert!(receives_frames(&mut world, viewer, 95), "jump of {jump}");
    }
}

/// Half the number space: only the SRTP index, which was authenticated, gives the direction.
// quality B4 item 12
#[test]
fn jump_by_half_the_number_space_is_followed() {
    for jump in [32_767, 40_000] {
        let (mut world, publisher, viewer) =
            watched(1, PublisherSpec::browser(), ViewerSpec::browser());
        for track in &mut world.publisher(publisher).tracks {
            track.layers[0].next_seq += jump;
        }
        world.run_s(2);
        assert!(receives_frames(&mut world, viewer, 95), "jump of {jump}");
    }
}

#[test]
fn jump_of_up_to_300_is_loss_and_requested() {
    let (mut world, publisher, _viewer) =
        watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.publisher(publisher).video().layers[0].next_seq += 100;
    world.run_ms(200);
    let asked = world.publisher(publisher).feedback.nacked.len();
    assert!(asked >= 100, "{asked}");
    // A real gap of this size is never repaired: after 600 ms a keyframe is requested instead.
    world.run_s(2);
    assert!(!world.publisher(publisher).feedback.keyframe_requests.is_empty());
    let asked = world.publisher(publisher).feedback.nacked.len();
    assert!(asked <= 100 * 10, "at most ten tries each: {asked}");
}

/// Timestamps may jump at the publisher; the viewer's never go back.
#[test]
fn timestamp_jump_does_not_set_the_viewers_timestamps_back() {
    for jump in [1u32 << 31, 0x4000_0000, 0xC000_0000, 90_000 * 20] {
        let (mut world, publisher, viewer) =
            watched(1, PublisherSpec::browser(), ViewerSpec::browser());
        world.publisher(publisher).shift_timestamps(Video, jump);
        world.publisher(publisher).video().layers[0].wants_key = true;
        world.run_s(3);
        assert!(receives_frames(&mut world, viewer, 95), "jump of {jump:#x}");
    }
}
