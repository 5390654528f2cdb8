//! What the API shows of sessions: counters and sizes that are true for each track.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::worker::{LayerInfo, SessionInfo};

use crate::world::spec::{DtlsMode, PublisherSpec, ViewerSpec, opus, video};
use crate::world::{ClientId, World};
use crate::{TestRng, watched};

fn info(world: &mut World, client: ClientId) -> SessionInfo {
    world.info(client).expect("it is connected")
}

/// The only layer of the first track of a kind.
fn layer(info: &SessionInfo, kind: weir_sfu::codec::MediaKind) -> LayerInfo {
    let track = info.tracks.iter().find(|track| track.kind == kind).expect("such a track");
    track.layers[0].clone()
}

#[test]
fn keyframes_and_their_requests_are_counted_for_the_video_they_are_of() {
    for codec in [Codec::Vp8, Codec::H264] {
        let spec = PublisherSpec::of(vec![opus(), video(codec)]);
        let (mut world, publisher, viewer) = watched(2, spec, ViewerSpec::browser());
        world.run_s(1);
        let before = layer(&info(&mut world, viewer), Video);
        for _ in 0..3 {
            world.with_viewer(viewer, |viewer, link| viewer.pli(link));
            world.run_s(2);
        }
        let (sent, received) = (info(&mut world, publisher), info(&mut world, viewer));
        assert_eq!((layer(&sent, Audio).keyframes, layer(&received, Audio).keyframes), (0, 0));
        assert_eq!(layer(&received, Audio).keyframe_requests, 0);
        let shown = layer(&received, Video);
        assert_eq!(shown.keyframe_requests - before.keyframe_requests, 3);
        let frames = &world.viewer(viewer).frames;
        let keyframes = frames.iter().filter(|frame| frame.kind == Video && frame.key).count();
        assert_eq!(shown.keyframes, keyframes as u64, "{codec:?}");
        assert!(shown.keyframes >= before.keyframes + 3, "{codec:?}");
        assert_eq!(shown.resolution, Some((640, 352)));
        assert_eq!(layer(&sent, Video).resolution, Some((640, 352)));
    }
}

/// OBS answers a NACK of a layer without RTX: the packet itself comes again.
#[test]
fn answered_nacks_are_repairs_with_and_without_rtx() {
    for rtx in [true, false] {
        let spec = PublisherSpec::browser().with(Video, |track| {
            track.rtx_pt = track.rtx_pt.filter(|_| rtx);
        });
        let (mut world, publisher, _) = watched(1, spec, ViewerSpec::browser());
        let mut rng = TestRng(11);
        world.lose_up(publisher, move |bytes| {
            bytes[0] >= 128 && bytes[1] & 0x7f == 96 && rng.chance(5)
        });
        world.run_s(10);
        world.lose_nothing(publisher);
        world.run_s(1);
        let shown = layer(&info(&mut world, publisher), Video);
        let answered = shown.learned.expect("video").nack.expect("negotiated").answered;
        assert!(shown.repairs > 20 && shown.lost == 0, "{} of {}", shown.repairs, shown.nacks);
        assert!(shown.repairs.abs_diff(answered) <= 2, "{} and {answered}", shown.repairs);
    }
}

/// GStreamer counts a packet that came twice against its losses (RFC 3550 section 6.4.1).
#[test]
fn duplicates_in_a_viewers_report_are_no_negative_loss() {
    let spec = ViewerSpec { sends_reports: false, ..ViewerSpec::browser() };
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), spec);
    for (lost, shown) in [(-1i32, (0, 1)), (3, (3, 0))] {
        let guard = &world.viewer(viewer).guard;
        let (ssrc, highest) = (guard.sender(Audio).plan.ssrc, guard.sender(Audio).last_seq());
        let highest = u32::from(highest.expect("sound was sent"));
        let words = [7, ssrc, lost as u32 & 0xff_ffff, highest, 0, 0, 0];
        let report = words.map(u32::to_be_bytes).concat();
        world.link(viewer).send_rtcp(&[&[0x81, 201, 0, 7][..], &report].concat());
        world.run_ms(50);
        let sound = layer(&info(&mut world, viewer), Audio);
        assert_eq!((sound.lost, sound.duplicates), shown);
    }
}

/// FFmpeg answers no checks, and a publisher is sent no sender reports that it could answer: the
/// handshake tells the round trip, and answers to NACKs tell it better.
#[test]
fn round_trip_of_a_publisher_that_answers_no_checks_is_known() {
    let mut spec = PublisherSpec::browser();
    spec.dtls = DtlsMode::Server;
    let mut world = World::new(1);
    let publisher = world.publish("live", spec);
    world.link(publisher).answers = false;
    world.watch("live", ViewerSpec::browser());
    world.run_s(5);
    let rtt_ms = |world: &mut World| info(world, publisher).rtt_ms.expect("it is connected");
    let from_handshake = rtt_ms(&mut world);
    assert!((20.0..80.0).contains(&from_handshake), "{from_handshake} ms");
    let mut rng = TestRng(3);
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && rng.chance(3));
    world.run_s(10);
    let from_nacks = rtt_ms(&mut world);
    assert!((from_nacks - 20.0).abs() < 8.0, "{from_nacks} ms");
}
