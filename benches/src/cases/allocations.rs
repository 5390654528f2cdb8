//! Allocations per forwarded packet: none, once all viewers are established.
//!
//! Counts calls of the allocator on this thread.

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};

use crate::encoder::Frames;
use crate::session::Client;
use crate::world::{Scene, World};

/// Virtual time in which calls are counted.
const WINDOW: Duration = Duration::from_secs(20);

/// Result of 20 s of virtual time with 100 viewers.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Packets per turn.
    pub frame_packets: usize,
    /// Workers that shared the viewers.
    pub workers: usize,
    /// Packets forwarded.
    pub packets: u64,
    /// Allocations on the packet path.
    pub forwarding: u64,
    /// Allocations in timers: reports, checks, feedback.
    pub timers: u64,
}

/// Turns of 1, 4 and 16 packets on one worker, and of 4 on two.
pub fn rows() -> Vec<Row> {
    [(1, 1), (4, 1), (16, 1), (4, 2)].map(|(packets, workers)| row(packets, workers)).into()
}

fn row(frame_packets: usize, workers: usize) -> Row {
    let frames = Frames::Equal { packets: frame_packets, payload_len: 1200 };
    let scene = Scene { frames, workers, ..Scene::default() };
    let mut world = World::new(scene);
    let until = world.now() + WINDOW;
    let (mut received, mut forwarding, mut timers) = (0, 0, 0);
    while world.now() < until {
        let mut block = world.prepare();
        forwarding += measure(|| received += world.forward(&mut block)).count_total;
        timers += measure(|| world.timers()).count_total;
        world.answer_checks();
    }
    world.check();
    let packets = received * scene.viewers as u64;
    Row { frame_packets, workers, packets, forwarding, timers }
}

/// Allocations of one more viewer, beside others, until it is connected.
pub fn join() -> AllocationInfo {
    let mut world = World::new(Scene::default());
    measure(|| world.join(0, Client(5_000)))
}
