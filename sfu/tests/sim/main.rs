//! Scenarios of the real `Worker`, run in memory under a virtual clock.
//!
//! `cargo test --release -p weir-sfu --test sim`; one test per scenario, named by what a viewer, a
//! publisher or an attacker would notice. The world is in `tests/support/world`; an egress guard
//! checks the packets of every viewer.

#[path = "../support/world/mod.rs"]
mod world;

mod address_changes;
mod amplification;
mod chaos;
mod check_floods;
mod egress_guard;
mod encrypted;
mod feedback;
mod ffmpeg_decoding;
mod forgery;
mod headers;
mod join_storms;
mod late_keyframes;
mod layer_switches;
mod limits;
mod lip_sync;
mod number_wraps;
mod obs;
mod packet_pool;
mod parameter_sets;
mod publish_and_view;
mod publisher_changes;
mod redundancy;
mod repair;
mod scenarios;
mod session_info;
mod session_lifetime;
mod shared_addresses;
mod simulcast;
mod subscriptions;
mod temporal_layers;
mod useless_packets;

use std::time::Duration;

use weir_sfu::codec::MediaKind::Video;

use world::spec::{PublisherSpec, ViewerSpec};
use world::{ClientId, World};

/// Milliseconds.
fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A world with one publisher and one viewer who has watched for a second.
fn watched(
    workers: usize,
    publisher: PublisherSpec,
    viewer: ViewerSpec,
) -> (World, ClientId, ClientId) {
    let mut world = World::new(workers);
    let publisher = world.publish("live", publisher);
    world.run_ms(200);
    let viewer = world.watch("live", viewer);
    world.run_s(1);
    assert!(world.viewer(viewer).video_frames() > 15, "frames arrive");
    (world, publisher, viewer)
}

/// Whether at least `percent` of the frames of the next second arrive.
fn receives_frames(world: &mut World, viewer: ClientId, percent: usize) -> bool {
    let before = world.viewer(viewer).count(Video);
    world.run_s(1);
    let frames = world.viewer(viewer).count(Video) - before;
    frames * 100 >= 30 * percent - 100
}

/// A small random generator with a fixed seed, so that each run is the same.
struct TestRng(u64);

impl TestRng {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// True `percent` times of 100.
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}
