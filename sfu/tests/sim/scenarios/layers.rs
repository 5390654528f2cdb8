//! Layers that stop, return, have rids in any order, or are preferred by their viewer (quality B4
//! item 14, A2.2 item 6; whip-whep E9).

use weir_sfu::forward::LayerPreference;
use weir_sfu::repair::keyframe_planner::REFRESH_BURST;

use super::*;

/// Maximum wait for the next layer: a dead layer is noticed within 500 ms, then the next one's
/// keyframe is requested (two ways of at most 40 ms), encoded (a frame of 34 ms) and sent; keyframe
/// requests are read every 20 ms.
const FALL_BACK: Duration = Duration::from_millis(500 + 2 * 40 + 34 + 40 + 40);

/// A viewer of three layers who is sent the largest one.
fn on_top(scenario: &mut Scenario) -> (ClientId, ClientId) {
    let spec = scenario.simulcast();
    let (publisher, viewer) = scenario.watched(spec);
    scenario.run_between_ms(2_000, 3_000);
    assert_eq!(
        scenario.last_source(viewer),
        scenario.source(publisher, 2),
        "the largest layer is sent"
    );
    (publisher, viewer)
}

fn set_active(scenario: &mut Scenario, publisher: ClientId, layer: usize, active: bool) {
    let encoder = &mut scenario.world.publisher(publisher).video().layers[layer];
    encoder.active = active;
    // Browsers begin a returning layer with a keyframe.
    encoder.wants_key |= active;
}

#[test]
fn viewer_falls_back_when_the_top_layer_stops() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        let stopped = scenario.world.now;
        set_active(scenario, publisher, 2, false);
        scenario.world.run_s(3);
        let wait = scenario.longest_wait_since(stopped, viewer);
        assert!(wait <= FALL_BACK, "no picture for {wait:?}");
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, 1));
        scenario.assert_receives(viewer);
        scenario.assert_whole(viewer);
    });
}

/// A layer below the one that is sent stops: no viewer notices.
fn lower_layer_stops(layer: usize) {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        let stopped = scenario.world.now;
        set_active(scenario, publisher, layer, false);
        scenario.world.run_s(3);
        let wait = scenario.longest_wait_since(stopped, viewer);
        assert!(wait < Duration::from_millis(100), "no picture for {wait:?}");
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, 2));
        scenario.assert_whole(viewer);
    });
}

#[test]
fn middle_layer_stops_unnoticed() {
    lower_layer_stops(1);
}

#[test]
fn bottom_layer_stops_unnoticed() {
    lower_layer_stops(0);
}

#[test]
fn viewer_continues_after_all_layers_stopped() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        for layer in 0..3 {
            set_active(scenario, publisher, layer, false);
        }
        scenario.run_between_ms(200, 15_000);
        assert_eq!(scenario.world.closed(viewer), None);
        let back = scenario.world.now;
        for layer in 0..3 {
            set_active(scenario, publisher, layer, true);
        }
        scenario.world.run_s(3);
        let wait = scenario.longest_wait_since(back, viewer);
        assert!(wait <= FALL_BACK, "no picture for {wait:?} after the return");
        scenario.assert_receives(viewer);
        scenario.assert_whole(viewer);
    });
}

#[test]
fn layer_returns() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        set_active(scenario, publisher, 2, false);
        scenario.run_between_ms(1_500, 8_000);
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, 1));
        let back = scenario.world.now;
        set_active(scenario, publisher, 2, true);
        scenario.world.run_s(4);
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, 2), "the way up");
        let wait = scenario.longest_wait_since(back, viewer);
        assert!(wait < Duration::from_millis(120), "the old layer is sent until then: {wait:?}");
        scenario.assert_whole(viewer);
    });
}

/// Rids and their order say nothing about sizes.
#[test]
fn rid_order_shuffled() {
    each_seed(|scenario| {
        let mut spec = scenario.simulcast();
        let mut rids = ["f", "h", "q", "0", "hi", "lo"];
        for last in (1..rids.len()).rev() {
            rids.swap(last, scenario.rng.below(last as u64 + 1) as usize);
        }
        let layers = &mut spec.tracks[1].layers;
        for (layer, rid) in layers.iter_mut().zip(rids) {
            layer.rid = rid;
        }
        let first = scenario.rng.below(3) as usize;
        layers.rotate_left(first);
        if scenario.chance() {
            layers.swap(0, 1);
        }
        let largest = |layers: &[LayerSpec]| {
            (0..layers.len()).max_by_key(|index| layers[*index].size).expect("three layers")
        };
        let largest = largest(layers);
        let (publisher, viewer) = scenario.watched(spec);
        scenario.world.run_s(3);
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, largest));
        scenario.assert_receives(viewer);
        scenario.assert_whole(viewer);
    });
}

/// Switches down and up while one packet of fifty is lost or late: packets that the publisher
/// retransmits after the switch still belong to the frames before it.
#[test]
fn layers_change_under_loss() {
    each_seed(|scenario| {
        let spec = scenario.simulcast();
        let (publisher, viewer) = scenario.watched(spec);
        scenario.world.run_s(2);
        let bad: Profile = "delay=25,loss=2,reorder=2,duplicate=1".parse().expect("a profile");
        for client in [publisher, viewer] {
            scenario.world.change_network(client, bad.clone(), bad.clone());
        }
        let from = scenario.world.now;
        for _ in 0..4 {
            set_active(scenario, publisher, 2, false);
            scenario.run_between_ms(1_000, 3_000);
            set_active(scenario, publisher, 2, true);
            scenario.run_between_ms(2_000, 4_000);
        }
        for client in [publisher, viewer] {
            let clean = Profile::delay(bad.delay);
            scenario.world.change_network(client, clean.clone(), clean);
        }
        scenario.world.run_s(2);
        let wait = scenario.longest_wait_since(from, viewer);
        // A lost request or keyframe costs one more round.
        assert!(wait <= 2 * FALL_BACK, "no picture for {wait:?}");
        let watched = scenario.world.viewer(viewer);
        assert_eq!(watched.broken_frames(), 0, "broken frames");
        scenario.assert_receives(viewer);
    });
}

/// Rids of the layers, the smallest first.
const RIDS: [&str; 3] = ["q", "h", "f"];

/// Maximum time from a preference to the new layer's picture: the preference is applied, the
/// request travels to the encoder, a keyframe back. A request may have to wait for the pace of
/// requests to that layer.
const SWITCHED_AFTER: Duration = Duration::from_secs(3);

fn pin(rid: &str) -> LayerPreference {
    LayerPreference { rid: Some(rid.into()), ..LayerPreference::default() }
}

/// The API's report of a viewer's video: the layer that is sent, the target, and the reason.
fn shown(
    scenario: &mut Scenario,
    viewer: ClientId,
) -> (Option<String>, Option<String>, Option<&'static str>) {
    let info = scenario.world.info(viewer).expect("it is connected");
    let picture = info.tracks.into_iter().find(|track| track.kind == Video).expect("a picture");
    (picture.current_layer, picture.target_layer, picture.target_reason)
}

fn assert_shown(scenario: &mut Scenario, viewer: ClientId, rid: &str, reason: &'static str) {
    let wanted = (Some(rid.to_owned()), Some(rid.to_owned()), Some(reason));
    assert_eq!(shown(scenario, viewer), wanted);
}

/// Every layer by rid and by size, in any order, and back to the automatic choice.
#[test]
fn viewer_chooses_its_layer() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        let from = scenario.world.now;
        for _ in 0..6 {
            let layer = scenario.rng.below(3) as usize;
            let heights = [176, 352, 704];
            let (preference, reason) = match scenario.rng.below(3) {
                0 => (pin(RIDS[layer]), "pinned"),
                1 => (
                    LayerPreference {
                        spatial_layer: Some(layer as u8),
                        ..LayerPreference::default()
                    },
                    "pinned",
                ),
                _ => {
                    let reason = if layer == 2 { "largest_live_layer" } else { "capped" };
                    (
                        LayerPreference {
                            max_height: Some(heights[layer]),
                            ..LayerPreference::default()
                        },
                        reason,
                    )
                }
            };
            scenario.world.set_preference(viewer, preference);
            scenario.world.run(SWITCHED_AFTER);
            assert_eq!(scenario.last_source(viewer), scenario.source(publisher, layer));
            assert_shown(scenario, viewer, RIDS[layer], reason);
        }
        scenario.world.set_preference(viewer, LayerPreference::default());
        scenario.world.run(SWITCHED_AFTER);
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, 2));
        assert_shown(scenario, viewer, "f", "largest_live_layer");
        let wait = scenario.longest_wait_since(from, viewer);
        assert!(wait < Duration::from_millis(120), "the old layer is sent until then: {wait:?}");
        scenario.assert_whole(viewer);
    });
}

/// Lower and higher frame rates, of any layer and codec, on a path that loses and reorders.
#[test]
fn viewer_chooses_its_frame_rate() {
    each_seed(|scenario| {
        let codecs = [Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H264];
        let codec = codecs[scenario.rng.below(4) as usize];
        let spec = scenario.anywhere(PublisherSpec::temporal(codec));
        let publisher = scenario.world.publish("live", spec);
        scenario.run_between_ms(300, 900);
        let spec = scenario.viewer().reads_descriptors();
        let viewer = scenario.world.watch("live", spec);
        scenario.world.expect_filtered(viewer);
        scenario.world.run_s(2);
        let bad: Profile = "delay=15,loss=2,reorder=3,duplicate=1".parse().expect("a profile");
        for client in [publisher, viewer] {
            scenario.world.change_network(client, bad.clone(), bad.clone());
        }
        for _ in 0..12 {
            let temporal = scenario.rng.below(3) as u8;
            let rid = scenario.chance().then(|| RIDS[scenario.rng.below(3) as usize].into());
            let preference = LayerPreference {
                rid,
                max_temporal_layer: Some(temporal),
                ..LayerPreference::default()
            };
            scenario.world.set_preference(viewer, preference);
            scenario.run_between_ms(200, 1_500);
        }
        for client in [publisher, viewer] {
            let clean = Profile::delay(bad.delay);
            scenario.world.change_network(client, clean.clone(), clean);
        }
        let lowest = LayerPreference { max_temporal_layer: Some(0), ..LayerPreference::default() };
        scenario.world.set_preference(viewer, lowest);
        scenario.world.run(SWITCHED_AFTER);
        let before = scenario.world.viewer(viewer).video_frames();
        scenario.world.run_s(4);
        let frames = scenario.world.viewer(viewer).video_frames() - before;
        let expected = if codec == Codec::H264 { 60 } else { 30 };
        assert!(frames.abs_diff(expected) <= 2, "{frames} of 120 frames of {codec:?}");
        scenario.world.set_preference(viewer, LayerPreference::default());
        scenario.world.run(SWITCHED_AFTER);
        scenario.assert_receives(viewer);
        scenario.assert_whole(viewer);
    });
}

/// The preferred layer stops for a while; the preference is not forgotten.
#[test]
fn pinned_layer_stops_and_returns() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        scenario.world.set_preference(viewer, pin("h"));
        scenario.world.run(SWITCHED_AFTER);
        assert_shown(scenario, viewer, "h", "pinned");
        let stopped = scenario.world.now;
        set_active(scenario, publisher, 1, false);
        scenario.world.run(SWITCHED_AFTER);
        let wait = scenario.longest_wait_since(stopped, viewer);
        assert!(wait <= FALL_BACK, "no picture for {wait:?}");
        assert_eq!(
            scenario.last_source(viewer),
            scenario.source(publisher, 0),
            "the next smaller one"
        );
        assert_shown(scenario, viewer, "q", "pinned_not_live");
        set_active(scenario, publisher, 1, true);
        scenario.world.run(SWITCHED_AFTER);
        assert_eq!(scenario.last_source(viewer), scenario.source(publisher, 1));
        assert_shown(scenario, viewer, "h", "pinned");
        scenario.assert_receives(viewer);
        scenario.assert_whole(viewer);
    });
}

/// A preference applies to a publisher that returns, as long as it has a layer of that rid.
#[test]
fn preference_outlives_the_publisher() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        scenario.world.set_preference(viewer, pin("q"));
        scenario.world.run(SWITCHED_AFTER);
        assert_shown(scenario, viewer, "q", "pinned");
        scenario.world.delete(publisher);
        scenario.run_between_ms(500, 3_000);
        let mut other = scenario.simulcast();
        other.tracks = vec![opus(), video(scenario.world.publisher(publisher).video().spec.codec)];
        let between = scenario.world.publish("live", other);
        scenario.world.run(SWITCHED_AFTER);
        assert_eq!(scenario.last_source(viewer), scenario.source(between, 0), "the only layer");
        assert_shown(scenario, viewer, "", "pinned_unknown");
        scenario.world.delete(between);
        let codec = scenario.world.publisher(publisher).video().spec.codec;
        let again = PublisherSpec::simulcast(codec);
        let again = scenario.anywhere(again);
        let again = scenario.world.publish("live", again);
        scenario.world.run(SWITCHED_AFTER);
        assert_eq!(scenario.last_source(viewer), scenario.source(again, 0));
        assert_shown(scenario, viewer, "q", "pinned");
    });
}

/// The preference is set before the first check: the picture begins with that layer.
#[test]
fn preference_before_the_first_picture() {
    each_seed(|scenario| {
        let spec = scenario.simulcast();
        let publisher = scenario.world.publish("live", spec);
        scenario.run_between_ms(1_000, 2_000);
        let viewer = scenario.viewer();
        let viewer = scenario.world.watch("live", viewer);
        scenario.world.set_preference(viewer, pin("q"));
        scenario.world.run_s(3);
        let small = scenario.source(publisher, 0);
        let sources = scenario.world.viewer(viewer).video_sources();
        assert_eq!(sources, [small], "and no other layer was sent");
        assert_shown(scenario, viewer, "q", "pinned");
        scenario.assert_receives(viewer);
        scenario.assert_whole(viewer);
    });
}

/// A switch requests its keyframe at once: as quick as a start, and five times in a row.
#[test]
fn layer_switch_takes_no_longer_than_its_keyframe() {
    each_seed(|scenario| {
        let (publisher, viewer) = on_top(scenario);
        // Keyframe requests are read every 20 ms; a way of at most 40 ms to the publisher, and the
        // next frame's way over both hops.
        let most = Duration::from_millis(20 + 40 + 34 + 40 + 40 + 10);
        for layer in [0, 2, 0, 1, 2] {
            scenario.run_between_ms(600, 900);
            let asked = scenario.world.now;
            scenario.world.set_preference(viewer, pin(RIDS[layer]));
            let source = scenario.source(publisher, layer);
            let came = scenario.world.run_until(most, |world| {
                world.viewer(viewer).video_sources().last() == Some(&source)
            });
            assert!(came, "layer {layer} after {:?}", scenario.world.now - asked);
        }
        scenario.assert_whole(viewer);
    });
}

/// Viewers that switch layers all the time cost others no more keyframes than single viewers may.
/// They do not delay viewers without a picture.
#[test]
fn many_layer_switches_cost_few_keyframes() {
    each_seed(|scenario| {
        let (publisher, _) = on_top(scenario);
        let viewers: Vec<_> = (0..8)
            .map(|_| {
                let viewer = scenario.viewer();
                scenario.world.watch("live", viewer)
            })
            .collect();
        scenario.world.run_s(12);
        let from = scenario.world.now;
        const SECONDS: u64 = 20;
        for _ in 0..SECONDS * 10 {
            let one = viewers[scenario.rng.below(8) as usize];
            let layer = scenario.rng.below(3) as usize;
            scenario.world.set_preference(one, pin(RIDS[layer]));
            scenario.world.run_ms(100);
        }
        let most = u64::from(REFRESH_BURST) + SECONDS / 2 + 1;
        for layer in 0..3 {
            let ssrc = scenario.world.publisher(publisher).video().layers[layer].ssrc;
            let requests = &scenario.world.publisher(publisher).feedback.keyframe_requests;
            let asked = requests.iter().filter(|(at, of)| *at > from && *of == ssrc).count();
            assert!(asked as u64 <= most, "{asked} requests to layer {layer} in {SECONDS} s");
        }
        for viewer in viewers {
            scenario.assert_receives(viewer);
        }
    });
}

/// One viewer changes its preference every 2 ms. No other viewer notices, hardly a keyframe more is
/// requested, and the last preference applies.
#[test]
fn five_hundred_preferences_per_second() {
    each_seed(|scenario| {
        let (publisher, restless) = on_top(scenario);
        let calm = scenario.viewer();
        let calm = scenario.world.watch("live", calm);
        scenario.world.run_s(2);
        let from = scenario.world.now;
        let asked_before = scenario.world.publisher(publisher).feedback.keyframe_requests.len();
        const SECONDS: u32 = 4;
        for _ in 0..500 * SECONDS {
            let preference = match scenario.rng.below(4) {
                0 => LayerPreference::default(),
                layer => pin(RIDS[layer as usize - 1]),
            };
            scenario.world.set_preference(restless, preference);
            scenario.world.run_ms(2);
        }
        let last = scenario.rng.below(3) as usize;
        scenario.world.set_preference(restless, pin(RIDS[last]));
        scenario.world.run(SWITCHED_AFTER);
        assert_eq!(
            scenario.last_source(restless),
            scenario.source(publisher, last),
            "the last preference applies"
        );
        for viewer in [restless, calm] {
            let wait = scenario.longest_wait_since(from, viewer);
            assert!(wait < Duration::from_millis(120), "no picture for {wait:?}");
            scenario.assert_whole(viewer);
        }
        assert_eq!(scenario.last_source(calm), scenario.source(publisher, 2));
        // Each layer gets two requests per second at most, whatever one viewer does.
        let asked =
            scenario.world.publisher(publisher).feedback.keyframe_requests.len() - asked_before;
        let seconds = (scenario.world.now - from).as_secs() as usize;
        assert!(asked <= 3 * 2 * seconds, "{asked} requests in {seconds} s");
        let decisions = scenario.world.info(restless).expect("it is connected").decisions.len();
        assert!(decisions <= 64, "the ring is bounded: {decisions}");
    });
}
