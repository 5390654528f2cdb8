//! Publishing and watching, on one worker and on several.

use crate::world::World;
use crate::world::spec::{PublisherSpec, ViewerSpec};

#[test]
fn one_publisher_one_viewer_on_one_worker() {
    let mut world = World::new(1);
    let publisher = world.publish("live", PublisherSpec::browser());
    world.run_s(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(10);
    assert!(world.link(publisher).is_connected());
    let frames = world.viewer(viewer);
    assert!(frames.video_frames() > 285, "{}", frames.video_frames());
    assert!(frames.audio_frames() > 480, "{}", frames.audio_frames());
    assert_eq!((frames.broken_frames(), frames.missing()), (0, 0));
    assert!(frames.guard.report_spread_ms() < 1.0, "{}", frames.guard.report_spread_ms());
}
