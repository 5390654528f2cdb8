//! Scenarios with random details: each is run with twenty committed seeds, the first of them twice.
//!
//! A seed decides everything that a scenario leaves open: workers, codec, numbers, delays, moments.
//! A seed that fails is a finding, never bad luck. The egress guard checks every viewer's packets;
//! a scenario checks what the viewer would notice.

mod attack;
mod layers;
mod network;
mod publishers;
mod starts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use weir_netsim::{Profile, Rng};
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::forward::start::StartMode;
use weir_sfu::worker::LearnedInfo;

use crate::world::spec::{LayerSpec, PublisherSpec, ViewerSpec, opus, video};
use crate::world::{ClientId, World, WorldConfig};

/// The committed seeds. A seed that found a fault stays.
const SEEDS: [u64; 20] = [
    1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1_597, 2_584, 4_181, 6_765, 10_946,
];

/// One run: a world, and a random generator for what the scenario leaves open.
struct Scenario {
    world: World,
    rng: Rng,
    workers: u64,
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let workers = 1 + Rng::new(seed, 1).below(3);
        let config = WorldConfig { seed, workers: workers as usize, ..WorldConfig::default() };
        let world = World::with(config);
        let rng = world.rng(2);
        Self { world, rng, workers }
    }

    fn between_ms(&mut self, from: u64, to: u64) -> u64 {
        from + self.rng.below(to - from + 1)
    }

    /// Runs for a random span of time.
    fn run_between_ms(&mut self, from: u64, to: u64) {
        let span = self.between_ms(from, to);
        self.world.run_ms(span);
    }

    fn chance(&mut self) -> bool {
        self.rng.chance(0.5)
    }

    fn codec(&mut self) -> Codec {
        if self.chance() { Codec::Vp8 } else { Codec::H264 }
    }

    /// Network of a client: 5 to 40 ms each way.
    fn delay(&mut self) -> Profile {
        Profile::delay(Duration::from_millis(self.between_ms(5, 40)))
    }

    /// A browser with one layer, whose numbers begin anywhere.
    fn browser(&mut self) -> PublisherSpec {
        let spec = PublisherSpec::of(vec![opus(), video(self.codec())]);
        self.anywhere(spec)
    }

    /// A browser with three layers.
    fn simulcast(&mut self) -> PublisherSpec {
        let spec = PublisherSpec::simulcast(self.codec());
        self.anywhere(spec)
    }

    fn anywhere(&mut self, mut spec: PublisherSpec) -> PublisherSpec {
        for track in &mut spec.tracks {
            track.first_seq = self.rng.next_u64() as u16;
            track.first_timestamp = self.rng.next_u64() as u32;
            track.first_picture = self.rng.next_u64() as u16 & 0x7fff;
        }
        (spec.up, spec.down) = (self.delay(), self.delay());
        spec
    }

    /// A browser that views, placed on any worker.
    fn viewer(&mut self) -> ViewerSpec {
        let worker = Some(self.rng.below(self.workers) as usize);
        ViewerSpec { worker, up: self.delay(), down: self.delay(), ..ViewerSpec::browser() }
    }

    /// Runs until the publisher is connected and the viewer has watched for a second.
    fn watched(&mut self, publisher: PublisherSpec) -> (ClientId, ClientId) {
        let publisher = self.world.publish("live", publisher);
        self.run_between_ms(300, 900);
        let viewer = self.viewer();
        let viewer = self.world.watch("live", viewer);
        self.world.run_s(1);
        assert!(self.world.viewer(viewer).video_frames() > 10, "frames arrive");
        (publisher, viewer)
    }

    /// The encoder of a layer, by its number in the stamps.
    fn source(&mut self, publisher: ClientId, layer: usize) -> u32 {
        self.world.publisher(publisher).video().layers[layer].source
    }

    /// The API's learned behaviour of a video layer.
    fn learned(&mut self, publisher: ClientId, layer: usize) -> LearnedInfo {
        let info = self.world.info(publisher).expect("it is connected");
        let video = info.tracks.into_iter().find(|track| track.kind == Video).expect("a picture");
        video.layers[layer].learned.clone().expect("of a publisher")
    }

    /// Encoder of the frame that the viewer showed last.
    fn last_source(&mut self, viewer: ClientId) -> u32 {
        *self.world.viewer(viewer).video_sources().last().expect("a picture")
    }

    /// The longest wait for the next picture between then and now, edges included.
    fn longest_wait_since(&mut self, from: Instant, viewer: ClientId) -> Duration {
        let now = self.world.now;
        let shown = self.world.viewer(viewer).shown_at();
        let within = shown.into_iter().filter(|at| *at > from);
        let times: Vec<_> = [from].into_iter().chain(within).chain([now]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Checks that nearly all audio and video frames of the next second arrive.
    fn assert_receives(&mut self, viewer: ClientId) {
        let before = self.world.viewer(viewer).shown_at().len();
        let sound = self.world.viewer(viewer).count(Audio);
        self.world.run_s(1);
        let watched = self.world.viewer(viewer);
        let frames = watched.shown_at().len() - before;
        assert!(frames >= 27, "{frames} frames in the last second");
        let sound = watched.count(Audio) - sound;
        assert!(sound >= 40, "{sound} sounds in the last second");
    }

    /// Checks that all sent packets arrived and all frames could be shown.
    fn assert_whole(&mut self, viewer: ClientId) {
        let watched = self.world.viewer(viewer);
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "broken and missing");
    }
}

/// Runs a scenario with every seed; reports all failures.
fn each_seed(play: impl Fn(&mut Scenario)) {
    run_seeds(true, play);
}

/// Runs a scenario in which DTLS draws random numbers of its own, so that no run is repeated byte for byte.
fn each_seed_with_real_handshakes(play: impl Fn(&mut Scenario)) {
    run_seeds(false, play);
}

#[expect(clippy::disallowed_methods, reason = "tells how fast virtual time runs")]
fn run_seeds(repeats: bool, play: impl Fn(&mut Scenario)) {
    let began = Instant::now();
    let mut simulated = Duration::ZERO;
    let mut failures = Vec::new();
    let run = |seed: u64| {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut scenario = Scenario::new(seed);
            play(&mut scenario);
            (scenario.world.egress_hash(), scenario.world.now - scenario.world.epoch)
        }));
        outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("seed {seed}: {}", text.unwrap_or_default())
        })
    };
    let again = repeats.then(|| run(SEEDS[0]));
    for seed in SEEDS {
        match run(seed) {
            Ok((hash, span)) => {
                simulated += span;
                if let Some(Ok((other, _))) = &again
                    && seed == SEEDS[0]
                {
                    assert_eq!(hash, *other, "one seed is one run");
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    let runs = (SEEDS.len() + usize::from(repeats)) as f64 / SEEDS.len() as f64;
    let per_minute = began.elapsed().as_secs_f64() * 1e3 / (simulated.as_secs_f64() * runs / 60.0);
    println!("{per_minute:.0} ms per simulated minute");
    assert!(failures.is_empty(), "{} of 20 seeds failed:\n{}", failures.len(), failures.join("\n"));
}
