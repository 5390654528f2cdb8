//! World: one worker, or several, with publishers and their viewers, driven as the shell drives it,
//! under virtual time.
//!
//! The measured part is [`World::forward`]: the publisher's datagrams in, one flush per turn. Other
//! work of a turn is separate: [`World::prepare`] seals the publisher's packets with `rtc-srtp`,
//! [`World::finish_turn`] runs timers and answers our checks. Used by `fanout.rs` and
//! `allocations.rs`, and with real sockets by `egress.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc_srtp::context::Context;
use weir_sfu::codec::Codec;
use weir_sfu::config::PublisherLimits;
use weir_sfu::forward::start::StartMode;
use weir_sfu::ids::{SessionId, StreamName};
use weir_sfu::router::{Route, StreamId, StreamShared, WakeFlag, Waker, mesh};
use weir_sfu::sdp::{
    Feedback, PublishPlan, PublishTrack, SubscribeCodec, SubscribePlan, SubscribeTrack,
};
use weir_sfu::transport::egress::Egress;
use weir_sfu::transport::srtp::SrtpProfile;
use weir_sfu::units::ClockBase;
use weir_sfu::worker::{
    BoundTrack, Command, Lobby, NewSession, Plan, Worker, WorkerConfig, WorkerReport,
};

use crate::encoder::{Encoder, Frames, MID, PT};
use crate::session::{Client, Nowhere, PresetKeys, Sequence, Sink};
use crate::stopwatch::epoch;

/// Time after which all viewers count as established, also a thousand of one stream: five seconds,
/// and a frame for each sixteen viewers.
const ESTABLISHED_AFTER: Duration = Duration::from_secs(8);

/// Datagrams of a block, which are sealed before it is timed. More would not stay in the CPU
/// caches, as they do when the kernel has just written them.
const BLOCK_PACKETS: usize = 128;

/// Streams, viewers and media of a world.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// Number of streams, each with a publisher of its own; they take turns.
    pub streams: usize,
    /// Number of viewers of each stream.
    pub viewers: usize,
    /// Whether each viewer watches all streams in one session, with a subscription for each, and a
    /// turn has a frame of each stream. Else a viewer watches one stream, and a turn has one frame.
    pub joint: bool,
    /// Codec of a stream's only track.
    pub codec: Codec,
    /// Frames and packets of the media; a turn forwards one frame of one stream.
    pub frames: Frames,
    /// Profile of all sessions.
    pub profile: SrtpProfile,
    /// Number of workers; publishers and viewers are spread over all of them. All run on this
    /// thread, one after the other.
    pub workers: usize,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            streams: 1,
            viewers: 100,
            joint: false,
            codec: Codec::H264,
            frames: Frames::Equal { packets: 1, payload_len: 1200 },
            profile: SrtpProfile::AeadAes128Gcm,
            workers: 1,
        }
    }
}

impl Scene {
    /// Number of turns that are measured together.
    pub fn turns(&self) -> usize {
        (BLOCK_PACKETS / self.packets_per_turn()).max(1)
    }

    /// Mean packets that arrive in one turn.
    pub fn packets_per_turn(&self) -> usize {
        self.frames.mean_packets() * if self.joint { self.streams } else { 1 }
    }

    /// Number of viewer sessions.
    pub fn all_viewers(&self) -> usize {
        if self.joint { self.viewers } else { self.streams * self.viewers }
    }

    /// Publishers and viewers.
    pub fn clients(&self) -> impl Iterator<Item = Client> {
        (0..(self.streams + self.all_viewers()) as u32).map(Client)
    }

    /// The viewers of a stream.
    pub fn viewers_of(&self, stream: usize) -> impl Iterator<Item = Client> + use<> {
        let first = self.streams + if self.joint { 0 } else { stream * self.viewers };
        (first as u32..(first + self.viewers) as u32).map(Client)
    }
}

/// World of this file's header. `W` is the destination of media.
pub struct World<W = Nowhere> {
    scene: Scene,
    workers: Vec<Worker>,
    lobby: Arc<Lobby>,
    publishers: Vec<Publisher>,
    /// Stream whose frame is next.
    turn: usize,
    sink: Sink<W>,
    now: Instant,
}

/// One publisher; its client has the number of its stream.
struct Publisher {
    client: Client,
    stream: Arc<StreamShared>,
    encoder: Encoder,
    sealer: Context,
}

impl Publisher {
    fn new(index: usize, scene: Scene) -> Self {
        let client = Client(index as u32);
        let id = StreamId { index: index as u32, generation: 0 };
        let name = StreamName::new(&format!("bench{index}")).expect("the name is valid");
        Self {
            client,
            stream: StreamShared::new(id, name),
            encoder: Encoder::new(scene.codec, scene.frames),
            sealer: client.sealer(scene.profile),
        }
    }

    /// The next frame, sealed.
    fn next_frame(&mut self) -> Vec<Vec<u8>> {
        let seal = |plaintext: Vec<u8>| {
            self.sealer.encrypt_rtp(&plaintext).expect("sealing works").to_vec()
        };
        self.encoder.next_frame().into_iter().map(seal).collect()
    }
}

impl<W> std::fmt::Debug for World<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("scene", &self.scene).finish_non_exhaustive()
    }
}

struct Awake;

impl Waker for Awake {
    fn wake(&self) {}
}

impl World {
    /// A [`World::with_wire`] whose media is not sent anywhere.
    pub fn new(scene: Scene) -> Self {
        Self::with_wire(scene, Nowhere)
    }
}

impl<W: Egress> World<W> {
    /// Connects the publishers and all viewers, and forwards some seconds, until all are
    /// established.
    ///
    /// # Panics
    ///
    /// A packet did not reach every viewer, which is a bug.
    pub fn with_wire(scene: Scene, wire: W) -> Self {
        let mut world = Self::without_viewers(scene, wire);
        for stream in 0..if scene.joint { 1 } else { scene.streams } {
            for viewer in scene.viewers_of(stream) {
                world.join(stream, viewer);
            }
        }
        let until = world.now + ESTABLISHED_AFTER;
        while world.now < until {
            let mut turn = Block(vec![world.prepare_turn()]);
            world.forward(&mut turn);
            world.finish_turn();
        }
        world
    }

    /// Publishers without viewers yet.
    fn without_viewers(scene: Scene, wire: W) -> Self {
        let now = epoch();
        let lobby = Arc::new(Lobby::default());
        let wakes: Vec<_> = (0..scene.workers).map(|_| WakeFlag::new(Arc::new(Awake))).collect();
        let worker = |port| {
            Worker::new(WorkerConfig {
                clock: ClockBase::new(now, Duration::from_secs(1_800_000_000)),
                entropy: Box::new(Sequence::default()),
                dtls: Arc::new(PresetKeys(scene.profile)),
                lobby: Arc::clone(&lobby),
                port,
                pool_packets: 65_536,
                publisher_limits: PublisherLimits::default(),
            })
        };
        let workers = mesh(&wakes).into_iter().map(worker).collect();
        let publishers = (0..scene.streams).map(|index| Publisher::new(index, scene)).collect();
        let sink = Sink::new(wire);
        let mut world = Self { scene, workers, lobby, publishers, turn: 0, sink, now };
        for stream in 0..scene.streams {
            world.publish(stream);
        }
        world
    }

    fn publish(&mut self, stream: usize) {
        let Publisher { client, encoder, .. } = &self.publishers[stream];
        let (client, format, kind) = (*client, encoder.format(), self.scene.codec.kind());
        let track = PublishTrack {
            mid: MID.to_owned(),
            kind,
            format: format.clone(),
            pt: PT,
            rtx_pt: None,
            red_pt: None,
            feedback: feedback(),
            exts: Encoder::exts(),
            rids: Vec::new(),
            ssrcs: Vec::new(),
        };
        let plan = PublishPlan { transport: client.remote(), tracks: vec![track] };
        let session = self.session(stream, client, Plan::Publish { plan });
        self.lobby.wait(session, None);
        self.receive(client, &mut client.check());
        self.finish_turn();
    }

    /// Subscribes and connects a viewer.
    pub fn join(&mut self, stream: usize, viewer: Client) {
        let codec = SubscribeCodec {
            format: self.publishers[stream].encoder.format(),
            pt: PT,
            rtx_pt: Some(PT + 1),
            red_pt: None,
            feedback: feedback(),
        };
        let subscriptions = if self.scene.joint { self.scene.streams as u32 } else { 1 };
        let track = |n: u32| SubscribeTrack {
            mid: MID.to_owned(),
            kind: self.scene.codec.kind(),
            ordinal: 0,
            codecs: vec![codec.clone()],
            exts: Encoder::exts(),
            ssrc: 2 * (viewer.0 * subscriptions + n),
            rtx_ssrc: 2 * (viewer.0 * subscriptions + n) + 1,
        };
        let tracks = (0..subscriptions).map(track).collect();
        let plan = SubscribePlan {
            transport: viewer.remote(),
            tracks,
            rejected: Vec::new(),
            idle: Vec::new(),
        };
        let session =
            self.session(stream, viewer, Plan::Subscribe { plan, start: StartMode::default() });
        let worker = self.worker_of(viewer);
        self.lobby.wait(session, Some(worker));
        for stream in stream..stream + subscriptions as usize {
            let route = &self.publishers[stream].stream.route;
            let mut destinations = route.load().destinations.clone();
            if !destinations.contains(&worker) {
                destinations.push(worker);
                destinations.sort_unstable();
                route.store(Arc::new(Route { destinations }));
            }
        }
        self.receive(viewer, &mut viewer.check());
        for subscription in 1..subscriptions as usize {
            let stream = Arc::clone(&self.publishers[stream + subscription].stream);
            let id = SessionId(viewer.0.into());
            let track = Some(BoundTrack { stream, ordinal: 0 });
            let bind = Command::Bind { id, subscription, track };
            self.workers[worker].handle_command(self.now, bind, &mut self.sink);
        }
        self.finish_turn();
    }

    fn session(&self, stream: usize, client: Client, plan: Plan) -> Box<NewSession> {
        Box::new(NewSession {
            id: SessionId(client.0.into()),
            stream: Arc::clone(&self.publishers[stream].stream),
            local: client.local(),
            created: self.now,
            plan,
        })
    }

    /// The next turns, sealed.
    pub fn prepare(&mut self) -> Block {
        Block((0..self.scene.turns()).map(|_| self.prepare_turn()).collect())
    }

    /// The frames of the next turn, sealed: one of each stream, or one of the stream whose turn it
    /// is.
    ///
    /// # Panics
    ///
    /// Sealing fails, which it cannot.
    pub fn prepare_turn(&mut self) -> Vec<Frame> {
        let streams = match self.scene.joint {
            true => 0..self.scene.streams,
            false => {
                let stream = self.turn % self.scene.streams;
                stream..stream + 1
            }
        };
        self.turn += 1;
        let frame =
            |stream: usize| Frame { stream, datagrams: self.publishers[stream].next_frame() };
        streams.map(frame).collect()
    }

    /// The measured part: each frame in, one flush after it. Returns the number of packets that
    /// arrived.
    #[inline(never)] // so that a profiler can tell it apart
    pub fn forward(&mut self, block: &mut Block) -> u64 {
        let mut received = 0;
        for frames in &mut block.0 {
            self.next_turn();
            for frame in frames {
                for datagram in &mut frame.datagrams {
                    received += 1;
                    self.take(frame.stream, datagram);
                }
            }
            self.flush();
        }
        received
    }

    /// Moves virtual time to the next frame.
    pub fn next_turn(&mut self) {
        let interval = self.publishers[0].encoder.frame_interval();
        self.now += interval / if self.scene.joint { 1 } else { self.scene.streams as u32 };
    }

    /// Handles a datagram of a stream's publisher.
    pub fn take(&mut self, stream: usize, datagram: &mut [u8]) {
        self.receive(self.publishers[stream].client, datagram);
    }

    /// Ends a turn: forwards the packets that arrived.
    pub fn flush(&mut self) {
        for worker in &mut self.workers {
            worker.handle_rings(self.now, &mut self.sink);
            worker.flush(self.now, &mut self.sink);
        }
    }

    /// Runs due timers.
    pub fn timers(&mut self) {
        for worker in &mut self.workers {
            while worker.handle_timeout(self.now, &mut self.sink) {}
        }
    }

    /// Answers our checks, as viewers do.
    pub fn answer_checks(&mut self) {
        while let Some((path, check)) = self.sink.next_check() {
            let client = Client::at(path);
            self.receive(client, &mut client.answer(&check));
        }
        for worker in &mut self.workers {
            worker.drain_events(|_| true);
        }
    }

    /// Does all work of a turn besides forwarding.
    pub fn finish_turn(&mut self) {
        self.timers();
        self.answer_checks();
    }

    fn receive(&mut self, client: Client, datagram: &mut [u8]) {
        let worker = self.worker_of(client);
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.handle_datagram(self.now, client.path(), datagram, &mut self.sink);
        }
    }

    fn worker_of(&self, client: Client) -> usize {
        client.0 as usize % self.scene.workers
    }

    /// Sink with all datagrams that were sent so far.
    pub fn sent(&self) -> &Sink<W> {
        &self.sink
    }

    /// Destination of media.
    pub fn wire(&mut self) -> &mut W {
        self.sink.wire()
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The workers' own counters, the publisher's first.
    pub fn reports(&self) -> Vec<WorkerReport> {
        self.workers.iter().map(Worker::report).collect()
    }

    /// Checks that no packet was lost: a worker that drops is fast.
    ///
    /// # Panics
    ///
    /// A packet was lost.
    pub fn check(&self) {
        let reports = self.reports();
        let received: u64 = reports.iter().map(|report| report.packets_in).sum();
        let forwarded: u64 = reports.iter().map(|report| report.packets_out).sum();
        let due = received * self.scene.viewers as u64;
        let dropped: Vec<_> = reports.iter().map(|report| &report.dropped).collect();
        assert_eq!((forwarded, self.sink.packets), (due, due), "dropped: {dropped:?}");
    }
}

/// Sealed frames, turn by turn.
#[derive(Debug)]
pub struct Block(Vec<Vec<Frame>>);

/// One sealed frame.
#[derive(Debug)]
pub struct Frame {
    /// Stream of the frame.
    pub stream: usize,
    /// Packets of the frame.
    pub datagrams: Vec<Vec<u8>>,
}

fn feedback() -> Feedback {
    Feedback { nack: true, pli: true, transport_cc: true, ..Feedback::default() }
}
