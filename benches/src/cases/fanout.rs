//! Cost of one forwarded packet, from the publisher's datagram to sealed bytes for N viewers.
//!
//! Real workers with an egress that only counts: no kernel. A turn forwards one frame. Each figure
//! has the floor of the same run beside it: the header and the cipher alone, on as many keys and as
//! many bytes. With several workers the viewers are spread over them and packets travel by ring.
//! All workers run on one thread, so the figure is the sum of their work.

use std::fmt;

use weir_sfu::codec::Codec;
use weir_sfu::transport::srtp::SrtpProfile;

use crate::encoder::{Encoder, Frames};
use crate::floor::Floor;
use crate::stopwatch::{Case, Comparison, Stopwatch, compare};
use crate::world::{Scene, World};

/// Packets in the floor's arena: as many as the worker puts into one message.
const ARENA_PACKETS: usize = 16;

/// Viewers and packets per turn on one worker, workers, and what differs from H264 under
/// AES-128-GCM.
pub fn scenes() -> Vec<(String, Scene)> {
    let video = |packets| Frames::Equal { packets, payload_len: 1200 };
    let scene = |viewers, packets| Scene { viewers, frames: video(packets), ..Scene::default() };
    let one_worker = [1, 10, 100, 1000].into_iter().flat_map(|n| [1, 4, 16].map(|k| scene(n, k)));
    let spread = |workers| [scene(100, 4), scene(1000, 4)].map(|scene| Scene { workers, ..scene });
    let plain = one_worker.chain([2, 4].into_iter().flat_map(spread));
    let four = scene(100, 4);
    let audio = Frames::Equal { packets: 1, payload_len: 160 };
    let others = [
        ("VP8 with picture ids", Scene { codec: Codec::Vp8, ..four }),
        ("Opus, 160 B", Scene { codec: Codec::Opus, frames: audio, ..four }),
        ("AES-256-GCM", Scene { profile: SrtpProfile::AeadAes256Gcm, ..four }),
        ("AES-CM and HMAC-SHA1", Scene { profile: SrtpProfile::Aes128CmHmacSha1_80, ..four }),
    ];
    let plain = plain.map(|scene| ("H264, AES-128-GCM".to_owned(), scene));
    plain.chain(others.map(|(name, scene)| (name.to_owned(), scene))).collect()
}

/// The scenes without their floor.
pub fn cases() -> Vec<Case> {
    let case = |(what, scene): (String, Scene)| {
        let Scene { viewers, workers, frames, .. } = scene;
        let name = format!("{viewers} viewers, {workers} workers, {}, {what}", frames.label());
        // The world is made when its case runs, so that a filter saves the others.
        let mut world = None;
        Case::new("fanout", name, move |stopwatch| {
            forward(world.get_or_insert_with(|| World::new(scene)), scene, stopwatch)
        })
    };
    scenes().into_iter().map(case).collect()
}

/// A scene, its cost, and its datagrams per message.
#[derive(Debug, Clone)]
pub struct Row {
    /// Difference to the other scenes.
    pub what: String,
    /// Scene that was measured.
    pub scene: Scene,
    /// CPU per forwarded packet and its floor.
    pub cost: Comparison,
    /// Datagrams per message.
    pub segments: f64,
}

impl Row {
    /// Head of a table of rows.
    pub const HEAD: &str = "\
| what | viewers | workers | packets per turn | ns per packet | floor | ratio | packets/s/core | datagrams per message |
|---|---|---|---|---|---|---|---|---|";

    /// Runs a scene and its floor in turn.
    pub fn measure((what, scene): (String, Scene)) -> Self {
        let mut world = World::new(scene);
        let plaintext = Encoder::new(scene.codec, scene.frames).next_rtp();
        let mut floor = Floor::new(scene.profile, scene.viewers, ARENA_PACKETS, plaintext);
        let (turns, packets) = (scene.turns(), scene.frames.mean_packets());
        let cost = compare(
            |stopwatch| forward(&mut world, scene, stopwatch),
            |stopwatch| stopwatch.time(|| (0..turns).map(|_| floor.turn(packets)).sum()),
        );
        let segments = world.sent().packets as f64 / world.sent().messages as f64;
        Self { what, scene, cost, segments }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, scene, cost, segments } = self;
        let Scene { viewers, workers, frames, .. } = scene;
        let Comparison { candidate_ns, floor_ns, ratio } = cost;
        let packets = frames.mean_packets();
        let rate = 1e3 / candidate_ns;
        write!(
            f,
            "| {what} | {viewers} | {workers} | {packets} | {candidate_ns:.0} | {floor_ns:.0} | {ratio:.2} \
             | {rate:.2} M | {segments:.1} |"
        )
    }
}

/// Runs one block; returns the packets forwarded, none of which may be lost.
fn forward(world: &mut World, scene: Scene, stopwatch: &mut Stopwatch) -> u64 {
    let mut block = world.prepare();
    let received = stopwatch.time(|| world.forward(&mut block));
    world.finish_turn();
    world.check();
    received * scene.viewers as u64
}
