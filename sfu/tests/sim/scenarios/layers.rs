//! Layers that stop, return, or are named in any order (quality B4 item 14, A2.2 step 6).

use super::*;

/// A dead layer is noticed within 500 ms; then the next one's keyframe is asked for (two ways of at most 40 ms), encoded
/// (a frame of 34 ms) and sent; wishes are read every 20 ms.
const FALL_BACK: Duration = Duration::from_millis(500 + 2 * 40 + 34 + 40 + 40);

/// A viewer of three layers who has found the largest one.
fn on_top(story: &mut Story) -> (ClientId, ClientId) {
    let spec = story.simulcast();
    let (publisher, viewer) = story.watched(spec);
    story.run_between_ms(2_000, 3_000);
    assert_eq!(story.last_source(viewer), story.source(publisher, 2), "the largest layer");
    (publisher, viewer)
}

fn set_active(story: &mut Story, publisher: ClientId, layer: usize, active: bool) {
    let encoder = &mut story.world.publisher(publisher).video().layers[layer];
    encoder.active = active;
    // Browsers begin a layer anew with a keyframe.
    encoder.wants_key |= active;
}

#[test]
fn layer_stops_top() {
    each_seed(|story| {
        let (publisher, viewer) = on_top(story);
        let stopped = story.world.now;
        set_active(story, publisher, 2, false);
        story.world.run_s(3);
        let wait = story.longest_wait_since(stopped, viewer);
        assert!(wait <= FALL_BACK, "no picture for {wait:?}");
        assert_eq!(story.last_source(viewer), story.source(publisher, 1));
        story.assert_flows(viewer);
        story.assert_whole(viewer);
    });
}

/// A layer below the one that is watched stops: nobody notices.
fn lower_layer_stops(layer: usize) {
    each_seed(|story| {
        let (publisher, viewer) = on_top(story);
        let stopped = story.world.now;
        set_active(story, publisher, layer, false);
        story.world.run_s(3);
        let wait = story.longest_wait_since(stopped, viewer);
        assert!(wait < Duration::from_millis(100), "no picture for {wait:?}");
        assert_eq!(story.last_source(viewer), story.source(publisher, 2));
        story.assert_whole(viewer);
    });
}

#[test]
fn layer_stops_middle() {
    lower_layer_stops(1);
}

#[test]
fn layer_stops_bottom() {
    lower_layer_stops(0);
}

#[test]
fn layer_stops_all() {
    each_seed(|story| {
        let (publisher, viewer) = on_top(story);
        for layer in 0..3 {
            set_active(story, publisher, layer, false);
        }
        story.run_between_ms(200, 15_000);
        assert_eq!(story.world.closed(viewer), None);
        let back = story.world.now;
        for layer in 0..3 {
            set_active(story, publisher, layer, true);
        }
        story.world.run_s(3);
        let wait = story.longest_wait_since(back, viewer);
        assert!(wait <= FALL_BACK, "no picture for {wait:?} after the return");
        story.assert_flows(viewer);
        story.assert_whole(viewer);
    });
}

#[test]
fn layer_returns() {
    each_seed(|story| {
        let (publisher, viewer) = on_top(story);
        set_active(story, publisher, 2, false);
        story.run_between_ms(1_500, 8_000);
        assert_eq!(story.last_source(viewer), story.source(publisher, 1));
        let back = story.world.now;
        set_active(story, publisher, 2, true);
        story.world.run_s(4);
        assert_eq!(story.last_source(viewer), story.source(publisher, 2), "the way up");
        let wait = story.longest_wait_since(back, viewer);
        assert!(wait < Duration::from_millis(120), "the old layer flows until then: {wait:?}");
        story.assert_whole(viewer);
    });
}

/// Names and order of rids say nothing about sizes.
#[test]
fn rid_order_shuffled() {
    each_seed(|story| {
        let mut spec = story.simulcast();
        let mut rids = ["f", "h", "q", "0", "hi", "lo"];
        for last in (1..rids.len()).rev() {
            rids.swap(last, story.dice.below(last as u64 + 1) as usize);
        }
        let layers = &mut spec.tracks[1].layers;
        for (layer, rid) in layers.iter_mut().zip(rids) {
            layer.rid = rid;
        }
        let first = story.dice.below(3) as usize;
        layers.rotate_left(first);
        if story.chance() {
            layers.swap(0, 1);
        }
        let largest = |layers: &[LayerSpec]| {
            (0..layers.len()).max_by_key(|index| layers[*index].size).expect("three layers")
        };
        let largest = largest(layers);
        let (publisher, viewer) = story.watched(spec);
        story.world.run_s(3);
        assert_eq!(story.last_source(viewer), story.source(publisher, largest));
        story.assert_flows(viewer);
        story.assert_whole(viewer);
    });
}

/// The way down and up again while one packet of fifty is lost or late: what the publisher repeats after the switch still
/// belongs to the frames before it.
#[test]
fn layers_change_under_loss() {
    each_seed(|story| {
        let spec = story.simulcast();
        let (publisher, viewer) = story.watched(spec);
        story.world.run_s(2);
        let bad: Profile = "delay=25,loss=2,reorder=2,duplicate=1".parse().expect("a profile");
        for client in [publisher, viewer] {
            story.world.change_network(client, bad.clone(), bad.clone());
        }
        let from = story.world.now;
        for _ in 0..4 {
            set_active(story, publisher, 2, false);
            story.run_between_ms(1_000, 3_000);
            set_active(story, publisher, 2, true);
            story.run_between_ms(2_000, 4_000);
        }
        for client in [publisher, viewer] {
            let clean = Profile::delay(bad.delay);
            story.world.change_network(client, clean.clone(), clean);
        }
        story.world.run_s(2);
        let wait = story.longest_wait_since(from, viewer);
        // A lost request or keyframe costs one more round.
        assert!(wait <= 2 * FALL_BACK, "no picture for {wait:?}");
        let watched = story.world.viewer(viewer);
        assert_eq!(watched.broken_frames(), 0, "broken frames");
        story.assert_flows(viewer);
    });
}
