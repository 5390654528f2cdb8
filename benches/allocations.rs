//! How often does forwarding a packet allocate? Never, once everything is in place.
//!
//! Counts calls of the allocator on this thread. Fails if the packet path allocates; prints what
//! timers and a join take.

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use weir_benches::encoder::Frames;
use weir_benches::session::Client;
use weir_benches::world::{Scene, World};

fn main() {
    let mut failed = false;
    println!("| 100 viewers, 20 s | forwarded packets | allocations | per packet |");
    println!("|---|---|---|---|");
    for packets in [1, 4, 16] {
        let frames = Frames::Equal { packets, payload_len: 1200 };
        let scene = Scene { frames, ..Scene::default() };
        let found = run(scene);
        failed |= found.forwarding > 0;
        for (what, count) in [("forwarding", found.forwarding), ("timers", found.timers)] {
            let per_packet = count as f64 / found.packets as f64;
            println!(
                "| {what}, {packets} packets per turn | {} | {count} | {per_packet:.6} |",
                found.packets
            );
        }
    }
    let join = join();
    println!(
        "\nA viewer that joins: {} allocations, {} bytes in all, {} bytes kept.",
        join.count_total, join.bytes_total, join.bytes_current
    );
    assert!(!failed, "forwarding a packet must not allocate");
}

struct Found {
    packets: u64,
    forwarding: u64,
    timers: u64,
}

fn run(scene: Scene) -> Found {
    let mut world = World::new(scene);
    let until = world.now() + Duration::from_secs(20);
    let mut received = 0;
    let mut found = Found { packets: 0, forwarding: 0, timers: 0 };
    while world.now() < until {
        let mut block = world.prepare();
        found.forwarding += measure(|| received += world.forward(&mut block)).count_total;
        found.timers += measure(|| world.timers()).count_total;
        world.answer_checks();
    }
    found.packets = received * scene.viewers as u64;
    found
}

/// What one more viewer takes, beside others, until it is connected.
fn join() -> AllocationInfo {
    let mut world = World::new(Scene::default());
    measure(|| world.join(Client(5_000)))
}
