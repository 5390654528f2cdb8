//! Feedback to publishers: keyframe requests, REMB, transport-wide feedback, reports.

use std::time::Duration;

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::error::DropReason;
use weir_sfu::repair::keyframe_planner::KeyframeNeed;
use weir_sfu::sdp::Feedback;
use weir_sfu::units::ClockBase;

use crate::world::World;
use crate::world::spec::{PublisherSpec, ViewerSpec, video};
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

/// A PLI (RFC 4585 section 6.3.1) or FIR (RFC 5104 section 4.3.1) for this SSRC.
fn keyframe_request(fir: bool, ssrc: u32) -> Vec<u8> {
    let ssrc = ssrc.to_be_bytes();
    match fir {
        false => [&[0x81, 206, 0, 2, 0, 0, 0, 9][..], &ssrc].concat(),
        true => [&[0x84, 206, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0][..], &ssrc, &[1, 0, 0, 0]].concat(),
    }
}

/// Clients that do not know the SSRC write 0, and some write the one of the RTX stream.
#[test]
fn keyframe_request_for_ssrc_0_or_the_rtx_ssrc_is_for_the_only_video() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    let guard = &world.viewer(viewer).guard;
    let (video, audio) = (guard.sender(Video).plan.clone(), guard.sender(Audio).plan.ssrc);
    for (ssrc, taken) in [(video.ssrc, 1), (0, 1), (video.rtx_ssrc, 1), (audio, 0), (77, 0)] {
        for fir in [false, true] {
            world.run_s(4); // more than the viewer's limit
            let before = world.publisher(publisher).feedback.keyframe_requests.len();
            let unknown = world.dropped(DropReason::FeedbackUnknownSsrc);
            world.link(viewer).send_rtcp(&keyframe_request(fir, ssrc));
            world.run_ms(500);
            let after = world.publisher(publisher).feedback.keyframe_requests.len();
            assert_eq!(after - before, taken, "{ssrc}, FIR: {fir}");
            let unknown = world.dropped(DropReason::FeedbackUnknownSsrc) - unknown;
            assert_eq!(unknown, 1 - taken as u64, "{ssrc}, FIR: {fir}");
        }
    }
}

#[test]
fn feedback_for_ssrc_0_is_ambiguous_with_two_videos() {
    let mut second = video(Codec::Vp8);
    second.mid = "2";
    second.declares = true;
    let mut publisher = PublisherSpec::browser();
    publisher.tracks.push(second);
    let mut spec = ViewerSpec::browser();
    let mut other = spec.tracks[1].clone();
    other.mid = "pic2";
    spec.tracks.push(other);
    let (mut world, publisher, viewer) = watched(1, publisher, spec);
    world.run_s(4);
    let before = world.publisher(publisher).feedback.keyframe_requests.len();
    for bytes in [keyframe_request(false, 0), keyframe_request(true, 0), nack(0, 1)] {
        world.link(viewer).send_rtcp(&bytes);
    }
    world.run_ms(500);
    assert_eq!(world.publisher(publisher).feedback.keyframe_requests.len(), before);
    assert_eq!(world.dropped(DropReason::FeedbackUnknownSsrc), 3);
}

/// A NACK of one number (RFC 4585 section 6.2.1).
fn nack(ssrc: u32, number: u16) -> Vec<u8> {
    let number = number.to_be_bytes();
    [&[0x81, 205, 0, 3, 0, 0, 0, 9][..], &ssrc.to_be_bytes(), &number, &[0, 0]].concat()
}

/// Numbers with the RTX SSRC may be those of the RTX stream, so that nothing is retransmitted.
#[test]
fn nack_for_ssrc_0_is_for_the_only_sender_that_takes_nacks() {
    for audio_nack in [false, true] {
        let mut spec = ViewerSpec { sends_nack: false, ..ViewerSpec::browser() };
        spec.tracks[0].codecs[0].nack = audio_nack;
        let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), spec);
        let plan = world.viewer(viewer).guard.sender(Video).plan.clone();
        let asked = [(plan.ssrc, 1), (0, u64::from(!audio_nack)), (plan.rtx_ssrc, 0)];
        for (ssrc, answered) in asked {
            let newest = world.viewer(viewer).guard.sender(Video).last_seq();
            let before = world.viewer(viewer).guard.rtx;
            world.link(viewer).send_rtcp(&nack(ssrc, newest.expect("video was sent")));
            world.run_ms(100);
            let rtx = world.viewer(viewer).guard.rtx - before;
            assert_eq!(rtx, answered, "{ssrc}, NACK for audio: {audio_nack}");
        }
    }
}

/// A receiver report of one block: SSRC, lost, highest number, LSR; DLSR is 0.
fn receiver_report(ssrc: u32, lost: u32, highest: u32, lsr: u32) -> Vec<u8> {
    let words = [9, ssrc, lost & 0xff_ffff, highest, 0, lsr, 0];
    [&[0x81, 201, 0, 7][..], &words.map(u32::to_be_bytes).concat()].concat()
}

#[test]
fn receiver_reports_that_cannot_be_true_are_not_used() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.run_s(5);
    let shown = |world: &mut World| {
        let info = world.info(viewer).expect("it is connected");
        let video = info.tracks.iter().find(|track| track.kind == Video).expect("video");
        (info.rtt_ms.expect("reports came"), video.layers[0].lost)
    };
    let (rtt_ms, lost) = shown(&mut world);
    assert!((rtt_ms - 20.0).abs() < 3.0 && lost == 0, "{rtt_ms} ms, {lost} lost");
    let sender = world.viewer(viewer).guard.sender(Video);
    let (ssrc, highest) = (sender.plan.ssrc, u32::from(sender.last_seq().expect("video")));
    // Never sent, and 9.9 s old.
    let clock = ClockBase::new(world.epoch, Duration::from_secs(1_700_000_000));
    let lsr = clock.ntp(world.now).minus(ms(9_900)).middle();
    world.link(viewer).send_rtcp(&receiver_report(ssrc, 0, highest, lsr));
    world.run_ms(30);
    assert_eq!(world.dropped(DropReason::ReportRefused), 0);
    world.link(viewer).send_rtcp(&receiver_report(ssrc, 8_388_607, highest + 30_000, 0));
    world.run_ms(30);
    assert_eq!(world.dropped(DropReason::ReportRefused), 1);
    let (after_ms, lost) = shown(&mut world);
    assert!((after_ms - rtt_ms).abs() < 3.0 && lost == 0, "{after_ms} ms, {lost} lost");
    world.run_s(5);
    assert_eq!(world.dropped(DropReason::ReportRefused), 1, "its own reports are believed");
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
        assert!((*bitrate - 100e6).abs() < 4e5 && *ssrcs == [ssrc], "{bitrate} for {ssrcs:?}");
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

/// A datagram with NACKs of 5,440 numbers, 400 times a second: 1,000 numbers a second are looked up, and
/// the others are counted without a look at each.
// quality B4 item 9
#[test]
fn nacks_beyond_the_limit_are_counted_and_not_looked_up() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    let ssrc = world.viewer(viewer).guard.senders[1].plan.ssrc;
    let word = |n: u32| n.to_be_bytes();
    let nack = |first: u16| {
        let head = [&[0x81, 205, 0, 66][..], &word(1), &word(ssrc)].concat();
        let pairs = (0..64u16).flat_map(|n| [(first + n * 17).to_be_bytes(), [0xff; 2]].concat());
        head.into_iter().chain(pairs).collect::<Vec<u8>>()
    };
    // Numbers that were never sent: each that is looked up is not found.
    let next = world.viewer(viewer).guard.senders[1].sent() as u16 + 40_000;
    let bomb: Vec<u8> = (0..5).flat_map(|_| nack(next)).collect();
    world.run_ms(500);
    let counted = |world: &World| {
        [DropReason::RepairLimited, DropReason::RepairExpired].map(|reason| world.dropped(reason))
    };
    let before = counted(&world);
    for _ in 0..1_000 {
        for _ in 0..2 {
            world.link(viewer).send_rtcp(&bomb);
        }
        world.run_ms(5);
    }
    world.run_ms(100);
    let [limited, looked_up] = counted(&world);
    let (limited, looked_up) = (limited - before[0], looked_up - before[1]);
    assert_eq!(limited + looked_up, 2_000 * 5_440);
    assert!((5_000..=6_000).contains(&looked_up), "{looked_up} in 5 s");
    assert!(receives_frames(&mut world, viewer, 100));
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
