//! Feedback to publishers: keyframe requests, REMB, transport-wide feedback, reports.

use std::time::Duration;

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::error::DropReason;
use weir_sfu::repair::keyframe_planner::KeyframeNeed;
use weir_sfu::sdp::Feedback;

use crate::world::World;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::{ms, receives_frames, watched};

// whip-whep G13, quality B4 item 25
#[test]
fn pli_from_1000_viewers_is_one_request() {
    let mut world = World::new(2);
    let publisher = world.publish("live", PublisherSpec::video_only());
    world.run_s(1);
    let spec = ViewerSpec { sends_reports: false, ..ViewerSpec::browser().video_only() };
    let viewers: Vec<_> = (0..1_000)
        .map(|n| world.watch("live", ViewerSpec { worker: Some(n % 2), ..spec.clone() }))
        .collect();
    let begin = world.now;
    // The viewers' handshakes are handled one per turn.
    world.run_s(1);
    let requests = &world.publisher(publisher).feedback.keyframe_requests;
    let joins = requests.iter().filter(|(at, _)| *at > begin).count();
    assert!((1..=2).contains(&joins), "a thousand joins made {joins} requests");
    for viewer in &viewers {
        assert!(world.viewer(*viewer).video_frames() > 5, "p100 of the first picture");
    }
    world.run_ms(600);
    let before = world.publisher(publisher).feedback.keyframe_requests.len();
    for viewer in &viewers {
        world.with_viewer(*viewer, |viewer, link| viewer.pli(link));
    }
    world.run_ms(450);
    let after = world.publisher(publisher).feedback.keyframe_requests.len();
    assert_eq!(after - before, 1);
}

// quality B4 item 11
#[test]
fn flood_of_plis_is_one_request_per_half_second() {
    let (mut world, publisher, viewer) =
        watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.run_s(1);
    let before = world.publisher(publisher).feedback.keyframe_requests.len();
    for _ in 0..1_000 {
        for _ in 0..10 {
            world.with_viewer(viewer, |viewer, link| viewer.pli(link));
        }
        world.run_ms(10);
    }
    let requests = world.publisher(publisher).feedback.keyframe_requests[before..].to_vec();
    let gaps = requests.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(gaps.clone().all(|gap| gap >= ms(499)), "{:?}", gaps.min());
    assert!(requests.len() <= 21, "{} in 10 s", requests.len());
    assert!(receives_frames(&mut world, viewer, 95));
}

// quality A2.3: a publisher that ignores PLI gets requests ever more seldom
#[test]
fn publisher_that_ignores_pli_gets_fewer_requests() {
    let spec = PublisherSpec { answers_pli: false, ..PublisherSpec::browser() };
    let mut world = World::new(1);
    let publisher = world.publish("live", spec);
    world.run_s(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(60);
    let asked = world.publisher(publisher).feedback.keyframe_requests.len();
    assert!((5..=18).contains(&asked), "{asked} requests in a minute");
    assert_eq!(world.viewer(viewer).video_frames(), 1, "the last keyframe, as a poster");
    world.publisher(publisher).video().layers[0].wants_key = true;
    assert!(receives_frames(&mut world, viewer, 90), "its own keyframe starts the picture");
}

// whip-whep G13
#[test]
fn fir_is_sent_where_only_fir_was_negotiated() {
    let spec = PublisherSpec::browser()
        .with(Video, |track| track.feedback = Feedback { fir: true, ..Feedback::default() });
    let mut world = World::new(1);
    let publisher = world.publish("live", spec);
    world.run_s(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(1);
    assert!(world.publisher(publisher).feedback.firs > 0);
    assert!(world.viewer(viewer).video_frames() > 20);
}

#[test]
fn no_keyframe_is_requested_where_none_was_negotiated() {
    let spec = PublisherSpec::browser().with(Video, |track| {
        track.feedback = Feedback::default();
        track.exts.clear();
        track.extra_exts.clear();
    });
    let mut world = World::new(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    let publisher = world.publish("live", spec);
    world.run_s(1);
    assert!(world.viewer(viewer).video_frames() > 20, "it began with a keyframe");
    let mut rng = crate::TestRng(3);
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && rng.chance(10));
    world.run_s(3);
    let feedback = &world.publisher(publisher).feedback;
    assert!(feedback.nacked.is_empty() && feedback.keyframe_requests.is_empty());
    assert!(feedback.rembs.is_empty());
    assert!(!feedback.reports.is_empty(), "receiver reports always come");
}

#[test]
fn remb_and_twcc_are_sent_upstream() {
    let (mut world, publisher, _) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.run_s(1);
    world.publisher(publisher).feedback = Default::default();
    let ssrc = world.publisher(publisher).video().layers[0].ssrc;
    let first = world.publisher(publisher).next_twcc;
    let mut lost = 0;
    world.lose_up(publisher, move |bytes| {
        lost += 1;
        bytes[0] >= 128 && bytes[1] & 0x7f == 111 && lost % 10 == 0
    });
    world.run_s(10);
    world.lose_nothing(publisher);
    world.run_s(1);
    let numbered = u64::from(world.publisher(publisher).next_twcc.wrapping_sub(first));
    let feedback = &world.publisher(publisher).feedback;
    assert_eq!(feedback.rembs.len(), 11, "one a second");
    for (bitrate, ssrcs) in &feedback.rembs {
        assert!((*bitrate - 25e6).abs() < 1e5 && *ssrcs == [ssrc], "{bitrate} for {ssrcs:?}");
    }
    // 20 ms are under way.
    assert!(feedback.twcc_received + feedback.twcc_missing + 30 >= numbered);
    assert!(feedback.twcc_missing > 20, "{}", feedback.twcc_missing);
    assert!((90..=240).contains(&feedback.twcc_packets), "{} in 11 s", feedback.twcc_packets);
    let audio_report =
        feedback.reports.iter().rfind(|report| report.ssrc != ssrc).expect("audio too");
    assert!(audio_report.total_lost > 20, "{audio_report:?}");
    assert!(feedback.reports.iter().all(|report| report.last_sender_report != 0));
}

#[test]
fn sender_reports_are_sent_with_media() {
    let spec = PublisherSpec::video_only();
    let (mut world, ..) = watched(1, spec, ViewerSpec::browser().video_only());
    world.run_s(2);
    let before = world.reports_with_media;
    world.run_s(10);
    let reports = world.reports_with_media - before;
    assert!((9..=10).contains(&reports), "{reports} in 10 s");
}

// quality B2: 500 a second from one peer
#[test]
fn rtcp_flood_is_limited() {
    for floods_viewer in [true, false] {
        let (mut world, publisher, viewer) =
            watched(1, PublisherSpec::browser(), ViewerSpec::browser());
        let other = world.watch("live", ViewerSpec::browser());
        world.run_s(1);
        for _ in 0..200 {
            for _ in 0..20 {
                let who = if floods_viewer { viewer } else { publisher };
                // An empty receiver report.
                world.link(who).send_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 9]);
            }
            world.run_ms(5);
        }
        let dropped = world.dropped(DropReason::RtcpRateLimited);
        assert!((2_900..=3_600).contains(&dropped), "{dropped} of 4,000");
        assert!(receives_frames(&mut world, other, 100));
        assert_eq!((world.closed(viewer), world.closed(publisher)), (None, None));
    }
}

// quality B4 item 9
#[test]
fn rtcp_bombs_do_not_disturb_media() {
    let (mut world, publisher, viewer) =
        watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    let media = world.viewer(viewer).guard.senders[1].plan.ssrc;
    let word = |n: u32| n.to_be_bytes();
    let mut everything = vec![0x81, 205, 1, 0];
    everything.extend([word(1), word(media)].concat());
    everything.extend((0..254u16).flat_map(|n| [(n * 17).to_be_bytes(), [0xff; 2]].concat()));
    let bye = [0x81, 203, 0, 1, 0, 0, 0, 1].repeat(100);
    // 31 blocks are announced, one is there.
    let reports = [&[0x9f, 201, 0, 7, 0, 0, 0, 1][..], &[0xff; 24]].concat().repeat(20);
    let remb = |exponent: u8| {
        let mut remb = vec![0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
        remb.extend(b"REMB\x01");
        remb.extend([exponent << 2 | 3, 0xff, 0xff, 0, 0, 0, 1]);
        remb
    };
    let lied_length = [0x80, 201, 0xff, 0xff, 0, 0, 0, 1];
    for bomb in [&everything[..], &bye, &reports, &remb(0), &remb(63), &lied_length] {
        for who in [viewer, publisher] {
            for _ in 0..40 {
                world.link(who).send_rtcp(&bomb[..bomb.len().min(1_200)]);
                world.run_ms(5);
            }
        }
    }
    assert!(receives_frames(&mut world, viewer, 95));
    assert_eq!((world.closed(viewer), world.closed(publisher)), (None, None), "BYE ends nothing");
    let guard = &world.viewer(viewer).guard;
    assert!(guard.rtx <= 5 * guard.sender(Video).sent() as u64);
}

/// Three keyframe requests in a row are one wait. Results of requests are counted, and open ones
/// stay open.
#[test]
fn keyframe_requests_and_answers_are_counted_for_the_operator() {
    for answers in [true, false] {
        let spec = PublisherSpec { answers_pli: answers, ..PublisherSpec::browser() };
        let (mut world, _, viewer) = watched(1, spec, ViewerSpec::browser());
        world.run_s(3);
        let refreshes = |world: &World| {
            let mut needs = world.report(0).keyframes.needs();
            needs.find(|(need, _)| *need == KeyframeNeed::Refresh).expect("one of three").1
        };
        let (before, waits) = (world.report(0), refreshes(&world));
        for _ in 0..3 {
            world.with_viewer(viewer, |viewer, link| viewer.pli(link));
            world.run_ms(25);
        }
        world.run_ms(1_400);
        let after = world.report(0);
        assert_eq!(refreshes(&world) - waits, 1);
        assert!(after.keyframes.joined >= before.keyframes.joined + 2);
        let asked = after.keyframe_requests - before.keyframe_requests;
        let answered = after.keyframes.answered - before.keyframes.answered;
        let unanswered = after.keyframes.unanswered - before.keyframes.unanswered;
        match answers {
            true => assert_eq!((asked, answered, unanswered), (1, 1, 0)),
            false => {
                assert!(asked == 3 && answered == 0 && unanswered >= 2, "{asked} {unanswered}")
            }
        }
    }
}

/// A request that came too late for one publisher does not count for the next one, which does not
/// send that layer yet.
#[test]
fn stale_keyframe_request_does_not_keep_the_next_publishers_timer_busy() {
    let mut world = World::new(2);
    world.drops_allowed = true;
    let first = world.publish("live", PublisherSpec::simulcast(Codec::Vp8));
    world.run_s(1);
    let here = world.worker_of(first).expect("it is connected");
    let viewer = world.watch("live", ViewerSpec::on_worker(1 - here));
    world.run_s(5);
    // Between two timeouts of the publisher's timer.
    world.run(Duration::from_micros(3_300));
    world.with_viewer(viewer, |viewer, link| viewer.pli(link));
    let preferred = |world: &World| world.control.streams["live"].shared.has_keyframe_requests();
    for _ in 0..2_000 {
        if preferred(&world) {
            break;
        }
        world.run(Duration::from_micros(100));
    }
    assert!(preferred(&world), "it is not taken yet");
    world.delete(first);
    world.run_s(1);
    let second = world.publish("live", PublisherSpec::simulcast(Codec::Vp8));
    for layer in world.publisher(second).video().layers.iter_mut().skip(1) {
        layer.active = false;
    }
    world.run_s(20);
    let worker = world.worker_of(second).expect("it is connected");
    let mut due = 0;
    for _ in 0..1_000 {
        let next = world.workers[worker].next_timeout();
        due += u32::from(next.is_some_and(|at| at <= world.now + ms(1)));
        world.run_ms(1);
    }
    assert!(due < 200, "a timer is due in {due} of 1,000 ms");
}
