//! What does one forwarded packet cost, from the publisher's datagram to sealed bytes for N viewers?
//!
//! The real worker with an egress that only counts: no kernel. A turn forwards one frame of 1, 4 or
//! 16 packets to 1 to 1000 viewers. The table at the end sets it against the floor of the same run:
//! the header and the cipher alone, on as many keys and as many bytes.

use criterion::{BenchmarkGroup, Criterion};
use weir_benches::encoder::{Encoder, Frames};
use weir_benches::floor::Floor;
use weir_benches::stopwatch::{CpuTime, Stopwatch, compare, criterion, per_packet};
use weir_benches::world::{Scene, World};
use weir_sfu::codec::Codec;
use weir_sfu::transport::srtp::SrtpProfile;

const VIEWERS: [usize; 4] = [1, 10, 100, 1000];
const FRAME_PACKETS: [usize; 3] = [1, 4, 16];

/// Packets in the floor's arena: as many as the worker puts into one message.
const ARENA_PACKETS: usize = 16;

fn frames(packets: usize) -> Frames {
    Frames::Equal { packets, payload_len: 1200 }
}

fn main() {
    let mut criterion = criterion();
    sweep(&mut criterion);
    others(&mut criterion);
    criterion.final_summary();
    // Not when arguments ask for something else: a filter, a profile.
    if std::env::args().skip(1).all(|arg| arg == "--bench" || arg == "--test") {
        table();
    }
}

fn sweep(criterion: &mut Criterion<CpuTime>) {
    for viewers in VIEWERS {
        let mut group = criterion.benchmark_group(format!("fanout/{viewers} viewers"));
        for frame_packets in FRAME_PACKETS {
            let scene = Scene { viewers, frames: frames(frame_packets), ..Scene::default() };
            measure(&mut group, &format!("{frame_packets} packets per turn"), scene);
        }
    }
}

/// What differs from H264 under AES-128-GCM, at 100 viewers and 4 packets per turn.
fn others(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("fanout/100 viewers, others");
    for (name, scene) in other_scenes() {
        measure(&mut group, name, scene);
    }
}

fn other_scenes() -> [(&'static str, Scene); 4] {
    let scene = Scene { frames: frames(4), ..Scene::default() };
    let audio = Frames::Equal { packets: 1, payload_len: 160 };
    let opus = Scene { codec: Codec::Opus, frames: audio, ..scene };
    let sha1 = Scene { profile: SrtpProfile::Aes128CmHmacSha1_80, ..scene };
    let aes256 = Scene { profile: SrtpProfile::AeadAes256Gcm, ..scene };
    [
        ("VP8 with picture ids", Scene { codec: Codec::Vp8, ..scene }),
        ("Opus, 160 B, 1 packet per turn", opus),
        ("AES-256-GCM", aes256),
        ("AES-CM and HMAC-SHA1", sha1),
    ]
}

/// The world is made when it is its turn, so that a filter saves the others.
fn measure(group: &mut BenchmarkGroup<'_, CpuTime>, name: &str, scene: Scene) {
    let mut world = None;
    per_packet(group, name, |stopwatch| {
        forward(world.get_or_insert_with(|| World::new(scene)), scene, stopwatch)
    });
    if let Some(world) = &world {
        world.check();
    }
}

/// One block; the packets forwarded.
fn forward(world: &mut World, scene: Scene, stopwatch: &mut Stopwatch) -> u64 {
    let mut block = world.prepare();
    let received = stopwatch.time(|| world.forward(&mut block));
    world.settle();
    received * scene.viewers as u64
}

fn table() {
    println!(
        "\nCPU ns per forwarded packet, 1200 B payload, AES-128-GCM; floor = header and cipher"
    );
    println!(
        "| viewers | packets per turn | worker | floor | ratio | packets/s/core | datagrams per message |"
    );
    println!("|---|---|---|---|---|---|---|");
    for viewers in VIEWERS {
        for frame_packets in FRAME_PACKETS {
            let scene = Scene { viewers, frames: frames(frame_packets), ..Scene::default() };
            let mut world = World::new(scene);
            let plaintext = Encoder::new(scene.codec, scene.frames).next_rtp();
            let mut floor = Floor::new(scene.profile, viewers, ARENA_PACKETS, plaintext);
            let found = compare(
                |stopwatch| forward(&mut world, scene, stopwatch),
                |stopwatch| {
                    stopwatch.time(|| (0..scene.turns()).map(|_| floor.turn(frame_packets)).sum())
                },
            );
            world.check();
            println!(
                "| {viewers} | {frame_packets} | {:.0} | {:.0} | {:.2} | {:.2} M | {:.1} |",
                found.candidate_ns,
                found.floor_ns,
                found.ratio,
                1e3 / found.candidate_ns,
                world.sent().packets as f64 / world.sent().messages as f64,
            );
        }
    }
}
