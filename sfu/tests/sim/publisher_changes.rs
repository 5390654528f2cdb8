//! Publishers that come back, take over, change codec or restart an encoder; the viewer's RTP
//! streams continue.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::error::CloseReason;

use crate::world::spec::{PublisherSpec, ViewerSpec, opus, video};
use crate::world::{ClientId, World};
use crate::{ms, receives_frames, watched};

/// A browser whose numbers are unrelated to the first one's.
fn another_browser() -> PublisherSpec {
    PublisherSpec::browser()
        .with(Video, |track| {
            track.first_seq = 65_000;
            track.first_timestamp = 0x9000_0000;
            track.first_picture = 32_700;
            track.pt = 100;
            track.rtx_pt = Some(101);
        })
        .with(Audio, |track| track.first_seq = 3)
}

/// Makes its first frames no keyframes.
fn begin_without_keyframe(world: &mut World, publisher: ClientId) {
    world.publisher(publisher).video().layers[0].wants_key = false;
}

// whip-whep G7
#[test]
fn publisher_returns_with_new_ssrc_seq_timestamps_picture_ids_same_viewer_session() {
    for pause_ms in [0, 50, 5_000, 60_000] {
        for workers in [1, 2] {
            let (mut world, first, viewer) =
                watched(workers, PublisherSpec::browser(), ViewerSpec::browser());
            world.run_ms(517);
            world.delete(first);
            world.run_ms(pause_ms);
            let second = world.publish("live", another_browser());
            begin_without_keyframe(&mut world, second);
            world.run_s(3);
            assert_eq!(world.closed(viewer), None);
            assert!(!world.publisher(second).feedback.keyframe_requests.is_empty(), "PLI");
            let watched = world.viewer(viewer);
            assert_eq!(watched.video_sources().len(), 2);
            assert_eq!(watched.broken_frames(), 0);
            assert!(watched.guard.sender(Video).segments().len() == 2);
            assert!(receives_frames(&mut world, viewer, 95), "after {pause_ms} ms");
        }
    }
}

// whip-whep A54
#[test]
fn new_publisher_takes_over_a_live_stream() {
    for workers in [1, 2, 3] {
        let (mut world, first, viewer) =
            watched(workers, PublisherSpec::browser(), ViewerSpec::browser());
        let second = world.publish("live", another_browser());
        world.run_s(2);
        assert_eq!(world.closed(first), Some(CloseReason::TakenOver));
        assert_eq!(world.closed(second), None);
        let freeze = world.viewer(viewer).longest_freeze();
        assert!(freeze < ms(400), "{freeze:?} with {workers} workers");
        assert_eq!(world.viewer(viewer).video_sources().len(), 2);
        assert!(receives_frames(&mut world, viewer, 95));
    }
}

/// Two publishers post one after the other and connect in reverse order: the one that connected
/// last is the source, and its viewers do not wait for a sweep.
#[test]
fn publisher_that_connects_last_is_the_source() {
    for receiving_worker in [0, 1] {
        let mut world = World::new(2);
        let viewer = world.watch("live", ViewerSpec::on_worker(1));
        let early = world.publish("live", PublisherSpec::browser());
        let (at, checks) = (world.link(early).addr, &mut world.link(early).checks);
        *checks = false;
        world.receiving_workers.insert(at, receiving_worker);
        let late = world.publish("live", another_browser());
        let at = world.link(late).addr;
        world.receiving_workers.insert(at, 1);
        world.run_s(2);
        world.link(early).checks = true;
        world.run_s(2);
        assert_eq!(world.closed(late), Some(CloseReason::TakenOver));
        assert!(world.viewer(viewer).video_sources().len() == 2);
        let freeze = world.viewer(viewer).longest_freeze();
        assert!(freeze < ms(500), "{freeze:?} on worker {receiving_worker}");
        assert!(receives_frames(&mut world, viewer, 95));
    }
}

// whip-whep G7
#[test]
fn codec_change_inside_the_negotiated_set() {
    let mut world = World::new(2);
    let viewer = world.watch("live", ViewerSpec::browser());
    let mut expected = Vec::new();
    for codec in [Codec::Vp8, Codec::H264, Codec::Vp8] {
        let publisher = world.publish("live", PublisherSpec::of(vec![opus(), video(codec)]));
        world.run_s(2);
        assert_eq!(world.closed(viewer), None);
        let last = *world.viewer(viewer).frames.iter().rfind(|f| f.kind == Video).expect("a frame");
        assert_eq!(last.codec, codec);
        expected.push(last.source);
        world.delete(publisher);
        world.run_ms(300);
    }
    assert_eq!(world.viewer(viewer).video_sources(), expected);
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

// whip-whep G6
#[test]
fn viewer_that_joined_later_goes_on_when_the_publisher_returns_with_another_codec() {
    let mut world = World::new(2);
    let early = world.watch("live", ViewerSpec::on_worker(0));
    let first = world.publish("live", PublisherSpec::of(vec![opus(), video(Codec::Vp8)]));
    world.run_s(2);
    let late = world.watch("live", ViewerSpec::on_worker(1));
    world.run_s(1);
    world.delete(first);
    world.run_ms(300);
    world.publish("live", PublisherSpec::of(vec![opus(), video(Codec::H264)]));
    world.run_s(2);
    for viewer in [early, late] {
        assert_eq!(world.closed(viewer), None);
        let last = world.viewer(viewer).frames.iter().rfind(|f| f.kind == Video).map(|f| f.codec);
        assert_eq!(last, Some(Codec::H264));
        assert!(receives_frames(&mut world, viewer, 95));
        assert_eq!(world.viewer(viewer).broken_frames(), 0);
    }
}

// whip-whep G5 and G6
#[test]
fn viewer_without_the_codec_of_the_picture_hears_the_sound_and_is_told_why() {
    let mut world = World::new(2);
    let near = world.watch("live", ViewerSpec::on_worker(0).only(&[Codec::Vp8]));
    let far = world.watch("live", ViewerSpec::on_worker(1).only(&[Codec::Vp8]));
    world.run_s(1);
    let vp9 = world.publish("live", PublisherSpec::of(vec![opus(), video(Codec::Vp9)]));
    world.run_s(2);
    for viewer in [near, far] {
        assert_eq!(world.closed(viewer), None);
        let watched = world.viewer(viewer);
        assert_eq!(watched.video_frames(), 0);
        assert!(watched.audio_frames() > 80, "{}", watched.audio_frames());
        let info = world.info(viewer).expect("it is connected");
        let video = info.tracks.iter().find(|track| track.kind == Video).expect("an m-line");
        assert_eq!(video.reason, Some("codec_not_negotiated"));
        let text = video.reason_text.as_deref().unwrap_or_default();
        assert!(text.contains("VP9") && text.contains("VP8"), "{text}");
        let [unserved] = &world.unserved(viewer)[..] else { panic!("one m-line is not served") };
        assert_eq!((unserved.kind, unserved.reason), (Video, "codec_not_negotiated"));
    }
    let told = std::mem::take(&mut world.control.unserved);
    assert_eq!(told.len(), 2, "one line per worker and publisher: {told:?}");
    assert!(told.iter().all(|(viewers, text)| *viewers == 1 && text.contains("VP9")), "{told:?}");
    // A publisher with their codec: the picture comes, and the reason is gone.
    world.delete(vp9);
    world.run_ms(300);
    world.publish("live", PublisherSpec::browser());
    world.run_s(2);
    for viewer in [near, far] {
        assert!(receives_frames(&mut world, viewer, 95));
        assert_eq!(world.unserved(viewer), []);
    }
    assert!(world.control.unserved.is_empty());
}

// whip-whep G6
#[test]
fn viewer_of_whose_codecs_none_is_published_is_closed() {
    let mut world = World::new(2);
    let only_vp8 = ViewerSpec::on_worker(0).only(&[Codec::Vp8]).video_only();
    let far_vp8 = ViewerSpec::on_worker(1).only(&[Codec::Vp8]).video_only();
    let only_vp8 = world.watch("live", only_vp8);
    let far_vp8 = world.watch("live", far_vp8);
    let both = world.watch("live", ViewerSpec::on_worker(1));
    world.run_s(1);
    world.publish("live", PublisherSpec::of(vec![opus(), video(Codec::H264)]));
    world.run_s(2);
    for viewer in [only_vp8, far_vp8] {
        assert_eq!(world.closed(viewer), Some(CloseReason::CodecNotNegotiated));
        assert!(world.link(viewer).closed_by_server, "the session is closed with a reason");
    }
    assert_eq!(world.closed(both), None);
    assert!(receives_frames(&mut world, both, 95));
}

#[test]
fn publisher_without_video_leaves_audio_alone() {
    let mut world = World::new(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    let sound = world.publish("live", PublisherSpec::of(vec![opus()]));
    world.run_s(2);
    assert!(world.viewer(viewer).audio_frames() > 80);
    assert_eq!(world.viewer(viewer).video_frames(), 0);
    world.delete(sound);
    world.publish("live", PublisherSpec::browser());
    world.run_s(2);
    assert!(world.viewer(viewer).video_frames() > 45);
    assert_eq!(world.closed(viewer), None);
}

// quality B4 item 13
#[test]
fn restarted_encoder_with_another_ssrc_continues_the_stream() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    world.publisher(publisher).restart_encoder(Video, 0);
    world.run_s(2);
    let watched = world.viewer(viewer);
    assert_eq!(watched.video_sources().len(), 2);
    assert_eq!(watched.broken_frames(), 0);
    assert!(watched.longest_freeze() < ms(100), "{:?}", watched.longest_freeze());
}

/// A packet of the old SSRC is not early: it comes after the first one of the new SSRC.
// quality B4 item 13
#[test]
fn late_packet_of_the_old_ssrc_does_not_disturb_the_new_one() {
    for (behind, by_rtx) in (1..6).flat_map(|n| [(n, true), (n, false)]) {
        let spec = PublisherSpec::browser().with(Video, |track| {
            track.rtx_pt = track.rtx_pt.filter(|_| by_rtx);
        });
        let (mut world, publisher, viewer) = watched(1, spec, ViewerSpec::browser());
        // It is lost first, and retransmitted after the encoder has restarted.
        let old = world.publisher(publisher).video().layers[0].ssrc;
        let seq = world.publisher(publisher).video().layers[0].next_seq + behind;
        world.publisher(publisher).spec.answers_nack = false;
        world.lose_up(publisher, move |bytes| {
            bytes.get(8..12) == Some(&old.to_be_bytes())
                && bytes.get(2..4) == Some(&(seq as u16).to_be_bytes())
        });
        world.run_ms(200);
        world.lose_nothing(publisher);
        let repeat = world.with_publisher(publisher, |publisher, link| {
            publisher.retransmit(old, seq as u16, link);
            link.out.pop().expect("it was kept").bytes
        });
        world.publisher(publisher).restart_encoder(Video, 0);
        world.run_ms(500);
        let at = world.link(publisher).addr;
        world.inject_and_run(at, &repeat);
        assert!(
            receives_frames(&mut world, viewer, 95),
            "the picture stands still (by RTX: {by_rtx})"
        );
    }
}
