//! Viewers that join: inside a group of pictures, where numbers wrap, a thousand at once (quality
//! A3.3).

use super::*;

/// Five viewers join at any moment of a group of 4 s: each has a picture soon, and costs at most
/// one keyframe.
#[test]
fn viewer_joins_mid_gop() {
    each_seed(|scenario| {
        let spec = scenario.browser().with(Video, |track| track.key_every = Some(120));
        let publisher = scenario.world.publish("live", spec);
        scenario.run_between_ms(1_000, 3_000);
        for joins in 1..=5 {
            let spec = scenario.viewer();
            let joined = scenario.world.now;
            let viewer = scenario.world.watch("live", spec);
            scenario.run_between_ms(1_000, 5_000);
            let first = scenario.world.viewer(viewer).shown_at().first().map(|at| *at - joined);
            // Check and handshake are two round trips of at most 80 ms, the keyframe another, a
            // frame of 34 ms, and keyframe requests are read every 20 ms.
            let patience = Duration::from_millis(2 * 80 + 80 + 34 + 60);
            assert!(
                first.is_some_and(|wait| wait <= patience),
                "the first picture after {first:?}"
            );
            let asked = scenario.world.publisher(publisher).feedback.keyframe_requests.len();
            assert!(asked <= joins, "{asked} requests for {joins} joins");
            scenario.assert_whole(viewer);
        }
    });
}

/// A keyframe comes every four seconds and none on request. Viewers join half a second and two
/// seconds after one. Their start mode decides which cached packets they get, and the next keyframe
/// starts every picture.
#[test]
fn start_mode_limits_what_is_sent_of_the_past() {
    each_seed(|scenario| {
        let mut spec = scenario.browser().with(Video, |track| track.key_every = Some(120));
        spec.answers_pli = false;
        let publisher = scenario.world.publish("live", spec);
        scenario.world.run_s(1);
        let watch = |scenario: &mut Scenario, after_ms| {
            // The next group but one, and so far into it.
            let sent = |scenario: &mut Scenario| {
                scenario.world.publisher(publisher).video().layers[0].frame
            };
            let into = sent(scenario) % 120;
            scenario.world.run_ms((120 - u64::from(into)) * 1_000 / 30 + after_ms);
            [StartMode::FastForward, StartMode::Poster, StartMode::Wait].map(|start| {
                let spec = ViewerSpec { start, ..scenario.viewer() };
                (scenario.world.watch("live", spec), start)
            })
        };
        for after_ms in [300, 2_000] {
            let viewers = watch(scenario, after_ms);
            // Check, handshake, a turn, and the pace of a catch-up.
            scenario.world.run_ms(2 * 80 + 40 + 34 + 100);
            for (viewer, start) in viewers {
                let watched = scenario.world.viewer(viewer);
                let frames: Vec<_> = watched.frames.iter().filter(|f| f.kind == Video).collect();
                match (start, after_ms) {
                    (StartMode::Wait, _) => assert_eq!(frames.len(), 0, "{start:?}"),
                    (StartMode::FastForward, 300) => {
                        assert!(frames.len() > 9, "{} frames of {start:?}", frames.len());
                    }
                    _ => assert!(frames.len() == 1 && frames[0].key, "{start:?} {after_ms} ms"),
                }
                assert!(watched.audio_frames() > 0, "audio starts at once");
            }
            scenario.world.run_s(4);
            for (viewer, start) in viewers {
                let watched = scenario.world.viewer(viewer);
                assert!(
                    watched.video_frames() > 5,
                    "{start:?} continues from the next keyframe on"
                );
                if start == StartMode::Wait {
                    assert!(watched.frames.iter().find(|f| f.kind == Video).unwrap().key);
                }
                scenario.assert_whole(viewer);
            }
        }
    });
}

/// Sequence numbers wrap within a few packets of the join, with a little loss.
#[test]
fn sequence_wrap_at_join() {
    each_seed(|scenario| {
        let before_ms = scenario.between_ms(500, 1_500);
        // 90 packets of video and 50 of sound each second, give or take 30.
        let near = |rate: u64, give: u64| (65_536 + 30 - rate * before_ms / 1_000 - give) as u16;
        let give = [scenario.rng.below(60), scenario.rng.below(60)];
        let spec = scenario
            .browser()
            .with(Video, |track| track.first_seq = near(93, give[0]))
            .with(Audio, |track| track.first_seq = near(50, give[1]));
        let publisher = scenario.world.publish("live", spec);
        scenario.world.run_ms(before_ms);
        let lossy = Profile { loss: weir_netsim::Loss::Random(0.02), ..scenario.delay() };
        let clean = Profile { loss: weir_netsim::Loss::None, ..lossy.clone() };
        scenario.world.change_network(publisher, lossy, clean.clone());
        let spec = scenario.viewer();
        let viewer = scenario.world.watch("live", spec);
        scenario.world.run_s(3);
        scenario.world.change_network(publisher, clean.clone(), clean);
        scenario.world.run_s(1);
        assert_eq!(scenario.world.viewer(viewer).broken_frames(), 0);
        assert!(scenario.world.viewer(viewer).video_frames() > 80);
        scenario.assert_receives(viewer);
    });
}

/// A thousand viewers join within a second: at most two keyframes, and every viewer has a picture
/// soon.
// quality B4 item 25
#[test]
fn thousand_viewers_one_keyframe() {
    each_seed(|scenario| {
        let spec =
            scenario.anywhere(PublisherSpec::of(vec![video(Codec::Vp8)])).with(Video, |track| {
                track.layers[0].packets = 1;
                track.frame_every = Duration::from_millis(66);
            });
        let publisher = scenario.world.publish("live", spec);
        scenario.run_between_ms(1_000, 3_000);
        let begin = scenario.world.now;
        let mut viewers = Vec::new();
        for _ in 0..50 {
            for _ in 0..20 {
                let spec = ViewerSpec { sends_reports: false, ..scenario.viewer().video_only() };
                viewers.push((scenario.world.watch("live", spec), scenario.world.now));
            }
            scenario.world.run_ms(20);
        }
        scenario.world.run_ms(700);
        let requests = &scenario.world.publisher(publisher).feedback.keyframe_requests;
        let asked = requests.iter().filter(|(at, _)| *at > begin).count();
        assert!((1..=2).contains(&asked), "a thousand joins made {asked} requests");
        for (viewer, joined) in viewers {
            let first = scenario.world.viewer(viewer).shown_at().first().map(|at| *at - joined);
            let patience = Duration::from_millis(1_500);
            assert!(
                first.is_some_and(|wait| wait <= patience),
                "the first picture after {first:?}"
            );
        }
    });
}

/// One datagram of twenty is lost from the very first check on: four viewers connect all the same.
#[test]
fn viewers_join_under_loss() {
    each_seed(|scenario| {
        let bad = |delay: Profile| Profile { loss: weir_netsim::Loss::Random(0.05), ..delay };
        let mut spec = scenario.browser();
        (spec.up, spec.down) = (bad(spec.up), bad(spec.down));
        scenario.world.publish("live", spec);
        scenario.run_between_ms(1_000, 2_000);
        let mut viewers = Vec::new();
        for _ in 0..4 {
            let mut spec = scenario.viewer();
            (spec.up, spec.down) = (bad(spec.up), bad(spec.down));
            viewers.push((scenario.world.watch("live", spec), scenario.world.now));
            scenario.run_between_ms(500, 1_500);
        }
        scenario.world.run_s(3);
        for (viewer, joined) in viewers {
            let first = scenario.world.viewer(viewer).shown_at().first().map(|at| *at - joined);
            // Each of check, handshake, poster, request and keyframe may be lost once; each is sent
            // again within 300 ms, a keyframe within 500.
            let patience = Duration::from_millis(350 + 5 * 300 + 500);
            assert!(
                first.is_some_and(|wait| wait <= patience),
                "the first picture after {first:?}"
            );
        }
    });
}
