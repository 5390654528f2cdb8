//! All events together: publishers and viewers join and leave, choose layers, pause and lose
//! packets, in a random order. The guard checks all packets, and in the end every viewer has video
//! and audio again.

use weir_netsim::{Profile, Rng};
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::forward::LayerPreference;
use weir_sfu::forward::start::StartMode;

use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::{ClientId, World, WorldConfig};

/// Events of one run.
const EVENTS: usize = 60;

const VIEWERS_MAX: usize = 6;

const RIDS: [&str; 3] = ["q", "h", "f"];

const NETWORKS: [&str; 5] = [
    "delay=15",
    "delay=20,loss=1,reorder=3,duplicate=1",
    "delay=40,loss=8",
    "delay=10,loss=25",
    "delay=150,loss=3,reorder=5,reorder-by=40",
];

struct Chaos {
    world: World,
    rng: Rng,
    codec: Codec,
    publisher: Option<ClientId>,
    viewers: Vec<ClientId>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 77);
        let workers = 1 + rng.below(3) as usize;
        let mut world = World::with(WorldConfig { seed, workers, ..WorldConfig::default() });
        world.drops_allowed = true;
        let codec = [Codec::Vp8, Codec::H264, Codec::Vp9, Codec::Av1][rng.below(4) as usize];
        Self { world, rng, codec, publisher: None, viewers: Vec::new() }
    }

    fn publisher_spec(&mut self) -> PublisherSpec {
        let rng = &mut self.rng;
        let mut spec = match rng.chance(0.7) {
            true => PublisherSpec::temporal(self.codec),
            false => PublisherSpec::simulcast(self.codec),
        };
        spec.answers_pli = rng.chance(0.8);
        let period = (!spec.answers_pli).then_some(60);
        spec.with(Video, |track| {
            if rng.chance(0.3) {
                track.layers.truncate(1);
                track.layers[0].rid = "";
            }
            track.bytes = 300;
            let often = rng.chance(0.4).then(|| 20 + rng.below(200) as u32);
            track.key_every = period.or(often);
        })
        .with(Audio, |track| {
            if rng.chance(0.5) {
                (track.red_pt, track.sends_red) = (Some(63), true);
                track.red_distance = 1 + rng.below(4) as usize;
            }
        })
    }

    fn publish(&mut self) -> ClientId {
        let spec = self.publisher_spec();
        self.world.publish("live", spec)
    }

    fn join(&mut self) {
        let modes = [StartMode::FastForward, StartMode::Poster, StartMode::Wait];
        let start = modes[self.rng.below(3) as usize];
        let worker = Some(self.rng.below(self.world.workers.len() as u64) as usize);
        let mut spec = ViewerSpec { start, worker, ..ViewerSpec::browser() };
        if self.rng.chance(0.3) {
            spec = spec.without_rtx();
        }
        if self.codec == Codec::Av1 || self.rng.chance(0.3) {
            spec = spec.reads_descriptors();
        }
        if self.rng.chance(0.3) {
            spec.tracks[0].codecs[0].red_pt = Some(65);
        }
        let viewer = self.world.watch("live", spec);
        self.world.expect_filtered(viewer);
        self.viewers.push(viewer);
    }

    fn any_viewer(&mut self) -> Option<ClientId> {
        let index = self.rng.below(self.viewers.len().max(1) as u64) as usize;
        self.viewers.get(index).copied()
    }

    fn preference(&mut self, viewer: ClientId) {
        let rid = self.rng.chance(0.6).then(|| RIDS[self.rng.below(3) as usize].into());
        let max_temporal_layer = [None, Some(0), Some(1), Some(2)][self.rng.below(4) as usize];
        if self.world.worker_of(viewer).is_some() {
            self.world.set_preference(
                viewer,
                LayerPreference { rid, max_temporal_layer, ..LayerPreference::default() },
            );
        }
    }

    fn change_network(&mut self, client: ClientId) {
        let text = NETWORKS[self.rng.below(NETWORKS.len() as u64) as usize];
        let network: Profile = text.parse().expect("a profile");
        self.world.change_network(client, network.clone(), network);
    }

    /// One random event.
    fn event(&mut self) {
        let publisher = self.publisher;
        match self.rng.below(12) {
            0 | 1 if self.viewers.len() < VIEWERS_MAX => self.join(),
            2 => _ = self.publisher.take().map(|publisher| self.world.delete(publisher)),
            3 if publisher.is_none() || self.rng.chance(0.3) => {
                self.publisher = Some(self.publish());
            }
            4..=6 => {
                if let Some(viewer) = self.any_viewer() {
                    self.preference(viewer);
                }
            }
            7 => {
                if let Some(viewer) = self.any_viewer() {
                    self.change_network(viewer);
                }
            }
            8 => {
                if let Some(publisher) = publisher {
                    self.change_network(publisher);
                }
            }
            9 => {
                let (on, index) = (self.rng.chance(0.6), self.rng.below(3) as usize);
                let layers =
                    publisher.map(|publisher| &mut self.world.publisher(publisher).video().layers);
                if let Some(layer) = layers.and_then(|layers| layers.get_mut(index)) {
                    layer.active = on;
                    layer.wants_key |= on;
                }
            }
            10 => {
                let on = self.rng.chance(0.6);
                if let Some(publisher) = publisher {
                    self.world.publisher(publisher).sends = on;
                }
            }
            11 if self.rng.chance(0.3) => {
                if let Some(viewer) = self.any_viewer() {
                    self.viewers.retain(|other| *other != viewer);
                    self.world.delete(viewer);
                }
            }
            _ => {}
        }
        let longest = if self.rng.chance(0.2) { 3_000 } else { 400 };
        self.world.run_ms(20 + self.rng.below(longest));
    }

    /// Ends all disturbances; 24 seconds to recover.
    fn calm_down(&mut self) {
        let world = &self.world;
        let alive = |publisher: &ClientId| {
            world.closed(*publisher).is_none() && world.worker_of(*publisher).is_some()
        };
        let publisher = match self.publisher.filter(alive) {
            Some(publisher) => publisher,
            None => self.publish(),
        };
        self.world.publisher(publisher).sends = true;
        for layer in &mut self.world.publisher(publisher).video().layers {
            layer.wants_key |= !layer.active;
            layer.active = true;
        }
        let clean: Profile = NETWORKS[0].parse().expect("a profile");
        for client in self.viewers.iter().copied().chain([publisher]) {
            self.world.change_network(client, clean.clone(), clean.clone());
        }
        self.world.run_s(12);
        for viewer in self.viewers.clone() {
            if self.world.closed(viewer).is_none() && self.world.worker_of(viewer).is_some() {
                self.world.set_preference(viewer, LayerPreference::default());
            }
        }
        self.world.run_s(12);
    }

    /// Every viewer that was not closed gets all frames of four seconds.
    fn assert_all_receive(&mut self, seed: u64) {
        for viewer in self.viewers.clone() {
            if self.world.closed(viewer).is_some() {
                continue;
            }
            let came = |world: &mut World| {
                let watched = world.viewer(viewer);
                (watched.video_frames(), watched.audio_frames())
            };
            let before = came(&mut self.world);
            self.world.run_s(4);
            let after = came(&mut self.world);
            let (frames, sounds) = (after.0 - before.0, after.1 - before.1);
            let shown = self.world.info(viewer);
            assert!(
                frames >= 110 && sounds >= 190,
                "seed {seed}: {frames} of 120 frames and {sounds} of 200 sounds: {shown:?}"
            );
        }
    }
}

#[test]
fn every_viewer_recovers_after_random_events() {
    // 86, 114 and 180 tore frames once: late repairs of packets that had been left out.
    for seed in (0..17).chain([86, 114, 180]) {
        let mut chaos = Chaos::new(seed);
        for _ in 0..EVENTS {
            chaos.event();
        }
        chaos.calm_down();
        chaos.assert_all_receive(seed);
    }
}
