//! Packet buffers of a worker when publishers send far more than others.

use std::time::Duration;

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::error::DropReason;
use weir_sfu::worker::Warning;

use crate::world::spec::{LayerSpec, PublisherSpec, ViewerSpec, video};
use crate::world::{ClientId, World, WorldConfig};

/// Packets that the caches of one publisher may hold, and its kept keyframes.
const SESSION_PACKETS_MAX: usize = 8_192;
const SESSION_KEYFRAME_PACKETS_MAX: usize = 2_000;

/// Buffers of each size class, as the server has them by default.
const POOL_PACKETS: usize = 65_536;

/// A publisher of 2.5 Mbit/s.
fn honest() -> PublisherSpec {
    PublisherSpec::browser().with(Video, |track| track.layers[0].packets = 11)
}

/// A publisher of 16 layers, each of 1,500 packets per second in frames of so many packets, and a
/// keyframe of twice as many every 2 s. All layers send at the same time.
fn greedy(packets: u16) -> PublisherSpec {
    let rids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut tracks: Vec<_> = ["1", "2"]
        .into_iter()
        .map(|mid| {
            let mut track = video(Codec::Vp8);
            track.mid = mid;
            track.rtx_pt = None;
            track.bytes = 400;
            track.layers =
                rids.iter().map(|rid| LayerSpec::new(rid, (640, 352), packets)).collect();
            track.frame_every = Duration::from_nanos(1_000_000_000 * u64::from(packets) / 1_500);
            track.key_every = Some(3_000 / u32::from(packets));
            track
        })
        .collect();
    tracks[1].first_seq = 30_000;
    PublisherSpec::of(tracks)
}

/// What viewers of honest publishers saw.
#[derive(Debug)]
struct Seen {
    frames: usize,
    broken: usize,
    missing: usize,
    p99: Duration,
}

/// What the viewers saw since this many frames.
fn seen(world: &mut World, viewers: &[ClientId], since: &[usize]) -> Seen {
    let epoch = world.epoch;
    let mut delays = Vec::new();
    let (mut broken, mut missing) = (0, 0);
    for (&viewer, &since) in viewers.iter().zip(since) {
        let viewer = world.viewer(viewer);
        let frames = viewer.frames.iter().filter(|frame| frame.kind == Video).skip(since);
        delays.extend(frames.map(|frame| (frame.at - epoch) - frame.captured));
        broken += viewer.broken_frames();
        missing += viewer.missing();
    }
    delays.sort_unstable();
    let p99 = delays[delays.len() * 99 / 100];
    Seen { frames: delays.len(), broken, missing, p99 }
}

fn frames(world: &mut World, viewers: &[ClientId]) -> Vec<usize> {
    viewers.iter().map(|viewer| world.viewer(*viewer).video_frames()).collect()
}

/// Honest publishers with a viewer each, and what greedy ones beside them do to these.
struct Scene {
    world: World,
    honest: Vec<ClientId>,
    viewers: Vec<ClientId>,
    greedy: Vec<ClientId>,
    /// Bytes of packet buffers before the greedy ones came.
    bytes: u64,
}

impl Scene {
    /// All publishers are on the first worker, and all viewers on the last.
    fn new(workers: usize, pool_packets: usize, honest: usize, one_address: bool) -> Self {
        let mut world =
            World::with(WorldConfig { workers, pool_packets, ..WorldConfig::default() });
        world.drops_allowed = true;
        let (honest_ones, greedy, viewers) = (Vec::new(), Vec::new(), Vec::new());
        let mut scene = Self { world, honest: honest_ones, viewers, greedy, bytes: 0 };
        scene.honest = scene.publish("honest", honest, &self::honest(), one_address);
        scene.world.run_ms(300);
        scene.viewers = (0..honest).map(|n| scene.watch(&format!("honest{n}"))).collect();
        scene.world.run_s(2);
        scene.passes_untouched(3);
        scene.bytes = scene.pool_bytes();
        scene
    }

    /// Publishers enter, with an address each or with one for all.
    fn publish(
        &mut self,
        name: &str,
        count: usize,
        spec: &PublisherSpec,
        one_address: bool,
    ) -> Vec<ClientId> {
        let shared = self.world.new_addr();
        let enters = |n| {
            let addr = match one_address {
                true => (shared.ip(), 20_000 + n as u16).into(),
                false => self.world.new_addr(),
            };
            self.world.receiving_workers.insert(addr, 0);
            self.world.publish_as(&format!("{name}{n}"), spec.clone(), |link| {
                (link.addr, link.addrs) = (addr, vec![addr]);
            })
        };
        (0..count).map(enters).collect()
    }

    fn watch(&mut self, stream: &str) -> ClientId {
        let worker = self.world.workers.len() - 1;
        let viewer = self.world.watch(stream, ViewerSpec::on_worker(worker));
        let addr = self.world.link(viewer).addr;
        self.world.receiving_workers.insert(addr, worker);
        viewer
    }

    /// Greedy publishers enter.
    fn attack(&mut self, count: usize, spec: &PublisherSpec, one_address: bool) {
        self.greedy = self.publish("greedy", count, spec, one_address);
        self.world.run_s(2);
    }

    /// Lets time pass in which no viewer of an honest publisher may notice anything.
    fn passes_untouched(&mut self, seconds: u64) {
        let since = frames(&mut self.world, &self.viewers);
        self.world.run_s(seconds);
        let seen = seen(&mut self.world, &self.viewers, &since);
        assert_eq!((seen.broken, seen.missing), (0, 0), "{seen:?}");
        assert!(seen.p99 <= Duration::from_millis(21), "{seen:?}");
        assert!(seen.frames >= self.viewers.len() * (30 * seconds as usize - 1), "{seen:?}");
        for publisher in self.honest.clone() {
            let warnings = self.world.info(publisher).expect("it is live").warnings;
            assert_eq!(warnings, [], "its cache is whole");
        }
    }

    fn pool_bytes(&self) -> u64 {
        self.world.report(0).pool_bytes.allocated
    }

    fn pool_short(&self) -> u64 {
        self.world.report(0).evictions.pool_short
    }

    /// Greedy publishers whose packets were evicted because the pool was short.
    fn shortened(&mut self) -> usize {
        let mut is_shortened = |publisher: &ClientId| {
            let warnings = self.world.info(*publisher).expect("it is live").warnings;
            warnings.contains(&Warning::CacheShortened)
        };
        self.greedy.clone().iter().filter(|publisher| is_shortened(publisher)).count()
    }

    /// The greedy ones leave, and the pool becomes as small as it was, but for a tenth.
    fn leave(&mut self) {
        let most = self.pool_bytes();
        for publisher in std::mem::take(&mut self.greedy) {
            self.world.delete(publisher);
        }
        self.world.run_s(30);
        let (before, left) = (self.bytes, self.pool_bytes());
        assert!(
            left <= before + before / 10,
            "{before} bytes before, {most} at most, {left} after"
        );
    }
}

/// Three publishers of 16 layers with 1,500 packets per second each took so many buffers that others
/// had none: p99 540 ms. Now each holds a limited number, and the pool is not short at all.
#[test]
fn greedy_publishers_take_nothing_from_others() {
    for one_address in [false, true] {
        let mut scene = Scene::new(1, POOL_PACKETS, 4, false);
        scene.attack(3, &greedy(200), one_address);
        scene.passes_untouched(4);
        let of_one = SESSION_PACKETS_MAX + SESSION_KEYFRAME_PACKETS_MAX;
        let most = scene.bytes + (3 * of_one * 1_500) as u64;
        assert!(scene.pool_bytes() <= most * 11 / 10, "{} bytes", scene.pool_bytes());
        assert_eq!((scene.pool_short(), scene.world.dropped(DropReason::PoolExhausted)), (0, 0));
        scene.leave();
    }
}

/// Twenty publishers behind one NAT hold more than one greedy publisher, and lose nothing.
#[test]
fn venue_behind_one_address_is_left_alone_while_buffers_last() {
    let mut scene = Scene::new(1, POOL_PACKETS, 20, true);
    scene.attack(1, &greedy(200), false);
    scene.passes_untouched(3);
    assert_eq!((scene.pool_short(), scene.world.dropped(DropReason::PoolExhausted)), (0, 0));
}

/// Buffers are short: who holds most loses the oldest packets, and new ones where a burst of it is
/// larger than what it may have. The same when another worker holds the packets as well.
#[test]
fn who_holds_most_loses_the_oldest_packets_when_buffers_are_short() {
    // Larger bursts than of 240 packets do not fit into the ring to the other worker.
    for (workers, one_address, packets) in [(1, false, 200), (1, true, 200), (2, false, 5)] {
        let mut scene = Scene::new(workers, POOL_PACKETS / 8, 4, false);
        scene.attack(3, &greedy(packets), one_address);
        for n in 0..3 {
            let viewer = scene.watch(&format!("greedy{n}"));
            scene.world.viewer(viewer).guard.watches = false;
        }
        scene.passes_untouched(4);
        assert!(scene.pool_short() > 10_000);
        assert_eq!(scene.shortened(), 3);
        scene.leave();
    }
}

/// Sixty publishers at one address, each no faster than others, hold most of the buffers together.
#[test]
fn network_that_holds_most_loses_the_oldest_packets_when_buffers_are_short() {
    let mut scene = Scene::new(1, POOL_PACKETS * 3 / 8, 4, false);
    scene.attack(60, &honest(), true);
    scene.passes_untouched(4);
    assert!(scene.pool_short() > 1_000, "{}", scene.pool_short());
    assert!(scene.shortened() > 30, "{}", scene.shortened());
}
