//! The worker in front of the kernel: what one forwarded packet costs a thread from the publisher's
//! datagram to the return of the send call, user and system time.
//!
//! A turn is one frame: wait, receive, forward, send, timers, as the shell does it. The floor is the least
//! that can put the same bytes on the same device: seal with aws-lc-rs and send messages with the same
//! segments to as many addresses. A second floor waits for the publisher's datagrams, receives and opens
//! them before: with nine viewers that is a good part of the work. All run in turn in one process, and so do 100
//! and 1,000 viewers, so that a change of the machine's speed meets all. Leaves out being woken from sleep.

use std::fmt;
use std::rc::Rc;

use weir_sfu::codec::Codec;
use weir_sfu::transport::FiveTuple;
use weir_sfu::transport::egress::{Egress, Transmit};
use weir_sfu::transport::srtp::SrtpProfile;

use crate::encoder::{Frames, HEADER_LEN};
use crate::floor::RawKey;
use crate::netns::{self, Device};
use crate::session::Client;
use crate::stopwatch::{Stopwatch, median, smoke_run};
use crate::wire::{Inlet, Message, Viewers, Wire};
use crate::world::{Scene, World};

/// How many watch what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Streams.
    pub streams: usize,
    /// Viewers of each.
    pub viewers: usize,
    /// Each viewer watches all streams in one session.
    pub joint: bool,
}

impl Crowd {
    const fn apart(streams: usize, viewers: usize) -> Self {
        Self { streams, viewers, joint: false }
    }

    /// Its name in tables.
    pub fn label(self) -> String {
        let Self { streams, viewers, joint } = self;
        match (streams, joint) {
            (1, _) => viewers.to_string(),
            (_, false) => format!("{streams} x {viewers}"),
            (_, true) => format!("{viewers}, {streams} subscriptions"),
        }
    }
}

/// One stream, and its figures for few and for many beside each other.
const BROADCAST: &[Crowd] = &[Crowd::apart(1, 100), Crowd::apart(1, 1_000)];

/// Ten rooms of ten: everybody publishes and watches the nine others.
const CONFERENCE: &[Crowd] = &[Crowd::apart(100, 9)];

/// Ten rooms of ten again, as sessions that receive a whole room: a hundred of them with nine subscriptions each, and
/// nine frames per turn.
const SUBSCRIPTIONS: &[Crowd] = &[Crowd { streams: 9, viewers: 100, joint: true }];

/// Ten speakers and three thousand listeners.
const HALL: &[Crowd] = &[Crowd::apart(10, 300)];

/// What is measured together.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Where datagrams go.
    pub device: Device,
    /// What is sent.
    pub codec: Codec,
    /// How it is cut.
    pub frames: Frames,
    /// To how many; these take turns, round by round.
    pub crowds: &'static [Crowd],
}

/// All that is measured, in this order: 1.4 Mbps in whole frames, as an encoder makes them and in packets
/// of one size, audio, a conference and a hall, into each device.
pub fn settings() -> impl Iterator<Item = Setting> {
    let audio = Frames::Equal { packets: 1, payload_len: 160 };
    let media = [
        (Codec::H264, Frames::Video { kbps: 1_400 }, BROADCAST),
        (Codec::H264, Frames::Equal { packets: 5, payload_len: 1_166 }, BROADCAST),
        (Codec::Opus, audio, BROADCAST),
        (Codec::H264, Frames::Video { kbps: 1_000 }, CONFERENCE),
        (Codec::H264, Frames::Video { kbps: 1_000 }, SUBSCRIPTIONS),
        (Codec::Opus, audio, HALL),
    ];
    let devices = [Device::Ifb, Device::Loopback];
    devices.into_iter().flat_map(move |device| {
        media.map(|(codec, frames, crowds)| Setting { device, codec, frames, crowds })
    })
}

/// Rounds of each measurement.
const ROUNDS: usize = 40;

/// Forwarded packets of a round, about: more than the caches hold, less than a phase of the machine.
const ROUND_PACKETS: usize = 15_000;

/// What one crowd costs: medians over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Who watches.
    pub crowd: Crowd,
    /// CPU nanoseconds per forwarded packet.
    pub worker_ns: f64,
    /// The same of the floor.
    pub floor_ns: f64,
    /// Worker over floor, taken round by round.
    pub ratio: f64,
    /// Worker over the floor that also receives.
    pub receiving_ratio: f64,
    /// Datagrams of media per message.
    pub segments: f64,
}

/// What one setting costs.
#[derive(Debug, Clone)]
pub struct Found {
    /// What was measured.
    pub setting: Setting,
    /// One per crowd.
    pub rows: Vec<Row>,
    /// The last row's cost per packet over the first's, taken round by round; none for a single row.
    pub rise: Option<f64>,
}

/// Measures all crowds of a setting. Call [`netns::enter`] before.
///
/// # Errors
/// What the machine lacks; also when messages did not reach the device as they were sent.
///
/// # Panics
/// When the worker drops a packet or the kernel refuses a message.
pub fn measure(setting: Setting) -> Result<Found, String> {
    let Setting { device, codec, frames, crowds } = setting;
    device.route()?;
    let taken_before = netns::taken()?;
    let scene = |crowd: &Crowd| {
        let Crowd { streams, viewers, joint } = *crowd;
        Scene { streams, viewers, joint, codec, frames, ..Scene::default() }
    };
    // Publishers get feedback too.
    let clients = crowds.iter().map(|crowd| scene(crowd).clients().count()).max().unwrap_or(0);
    let sockets = (device == Device::Loopback)
        .then(|| Viewers::new((0..clients as u32).map(Client)).map(Rc::new))
        .transpose()
        .map_err(|error| format!("a socket for each of {clients} clients: {error}"))?;
    let mut stands: Vec<_> =
        crowds.iter().map(|crowd| Stand::new(scene(crowd), sockets.clone())).collect();
    let rounds = if smoke_run() { 1 } else { ROUNDS };
    let rounds: Vec<Vec<Round>> =
        (0..rounds).map(|_| stands.iter_mut().map(Stand::round).collect()).collect();
    let messages: u64 = stands.iter_mut().map(Stand::messages).sum();
    let taken = netns::taken()? - taken_before;
    // The kernel says a word of its own now and then, such as a router solicitation.
    if device == Device::Ifb && taken.abs_diff(messages) > messages / 100 {
        return Err(format!(
            "{messages} messages became {taken} at the device: no segmentation offload"
        ));
    }
    let over =
        |pick: &dyn Fn(&[Round]) -> f64| median(rounds.iter().map(|rounds| pick(rounds)).collect());
    let row = |(n, crowd): (usize, &Crowd)| Row {
        crowd: *crowd,
        worker_ns: over(&|round| round[n].worker_ns),
        floor_ns: over(&|round| round[n].floor_ns),
        ratio: over(&|round| round[n].worker_ns / round[n].floor_ns),
        receiving_ratio: over(&|round| round[n].worker_ns / round[n].receiving_ns),
        segments: stands[n].segments(),
    };
    let rows = crowds.iter().enumerate().map(row).collect();
    let rise = |last: usize| over(&|round| round[last].worker_ns / round[0].worker_ns);
    let rise = (crowds.len() > 1).then(|| rise(crowds.len() - 1));
    Ok(Found { setting, rows, rise })
}

/// Datagrams sent, and those that viewers read.
#[derive(Debug, Default)]
struct Delivery {
    sent: u64,
    arrived: u64,
}

/// One round's CPU nanoseconds per packet.
struct Round {
    worker_ns: f64,
    floor_ns: f64,
    /// Of the floor that also receives.
    receiving_ns: f64,
}

/// What came in one turn, and what went out.
struct Turn {
    /// A stream that all viewers of the turn watch.
    stream: usize,
    /// Stream and length of each datagram of the publishers.
    received: Vec<(usize, usize)>,
    cut: Vec<Message>,
}

/// A worker with its viewers, and the floor for as many.
struct Stand {
    scene: Scene,
    world: World<Wire>,
    inlet: Inlet,
    floor: WireFloor,
    viewers: Option<Rc<Viewers>>,
}

impl Stand {
    fn new(scene: Scene, viewers: Option<Rc<Viewers>>) -> Self {
        let crowds = || (0..scene.streams).map(move |stream| scene.viewers_of(stream));
        let wire = || Wire::new().expect("a socket that takes segments");
        let stand = Self {
            scene,
            world: World::with_wire(scene, wire()),
            inlet: Inlet::new().expect("sockets for the publisher"),
            floor: WireFloor::new(scene.profile, crowds(), wire()),
            viewers,
        };
        // More than the sockets hold came while the world was set up.
        if let Some(viewers) = &stand.viewers {
            viewers.drain();
        }
        stand
    }

    fn round(&mut self) -> Round {
        let mut worker = Stopwatch::default();
        let turns = ROUND_PACKETS / (self.scene.viewers * self.scene.packets_per_turn()) + 1;
        let before = self.world.sent().packets;
        let mut delivery = Delivery::default();
        let turns: Vec<_> = (0..turns).map(|_| self.turn(&mut worker, &mut delivery)).collect();
        self.expect_all(delivery);
        let packets = self.world.sent().packets - before;
        let floor = self.floor_round(&turns, packets, false);
        let receiving = self.floor_round(&turns, packets, true);
        let per_packet = |watch: &Stopwatch| watch.total().as_nanos() as f64 / packets as f64;
        Round {
            worker_ns: per_packet(&worker),
            floor_ns: per_packet(&floor),
            receiving_ns: per_packet(&receiving),
        }
    }

    /// The same turns by the floor, with or without the publishers' datagrams.
    fn floor_round(&mut self, turns: &[Turn], packets: u64, receives: bool) -> Stopwatch {
        let mut stopwatch = Stopwatch::default();
        let mut delivery = Delivery::default();
        let mut floor_packets = 0;
        for turn in turns {
            if receives {
                self.floor.publish(turn, &self.inlet);
            }
            let (floor, inlet) = (&mut self.floor, &mut self.inlet);
            let sent = stopwatch.time(|| {
                if receives {
                    floor.receive(turn, inlet);
                }
                floor.turn(turn.stream, &turn.cut)
            });
            self.deliver(turn.stream, sent, &mut delivery);
            floor_packets += sent;
        }
        self.expect_all(delivery);
        assert_eq!(packets, floor_packets, "the floor sends what the worker sends");
        stopwatch
    }

    /// One turn through the worker.
    fn turn(&mut self, stopwatch: &mut Stopwatch, delivery: &mut Delivery) -> Turn {
        let frames = self.world.prepare_turn();
        let stream = frames.first().expect("a turn has a frame").stream;
        let mut received = Vec::new();
        for frame in &frames {
            for datagram in &frame.datagrams {
                self.inlet.publish(datagram).expect("loopback takes it");
                received.push((frame.stream, datagram.len()));
            }
        }
        let one = self.scene.viewers_of(stream).next().expect("somebody watches");
        self.world.wire().watch(one);
        let (sent, media) = (self.world.wire().datagrams, self.world.sent().packets);
        let visits = self.world.wire().visits;
        let (world, inlet) = (&mut self.world, &mut self.inlet);
        let mut streams = received.iter().map(|(stream, _)| *stream);
        stopwatch.time(|| {
            world.next_turn();
            inlet
                .receive(|datagram| world.take(streams.next().unwrap_or(stream), datagram))
                .expect("the frames are there");
            world.flush();
        });
        let visits = self.world.wire().visits - visits;
        let world = &mut self.world;
        stopwatch.time(|| world.timers());
        let viewers = self.scene.viewers as u64;
        assert_eq!(visits, viewers, "each viewer is visited once, and gets one batch");
        let due = received.len() as u64 * viewers;
        assert_eq!(self.world.sent().packets - media, due, "nothing is dropped");
        let sent = self.world.wire().datagrams - sent;
        self.deliver(stream, sent, delivery);
        self.world.answer_checks();
        Turn { stream, received, cut: self.world.wire().take_cut() }
    }

    /// Has the viewers of a stream read what was sent, where it goes to them. The others have hardly
    /// anything to read: a thousand calls for nothing would leave the caches cold for the next turn, which
    /// viewers do not do that run on machines of their own.
    fn deliver(&self, stream: usize, sent: u64, delivery: &mut Delivery) {
        if let Some(viewers) = &self.viewers {
            delivery.sent += sent;
            delivery.arrived += viewers.drain_of(self.scene.viewers_of(stream));
        }
    }

    /// Has everybody read the rest: reports, and what publishers got.
    fn expect_all(&self, delivery: Delivery) {
        if let Some(viewers) = &self.viewers {
            let arrived = delivery.arrived + viewers.drain();
            assert_eq!(arrived, delivery.sent, "every datagram arrives");
        }
    }

    fn messages(&mut self) -> u64 {
        self.world.wire().messages + self.floor.wire.messages
    }

    fn segments(&self) -> f64 {
        self.world.sent().packets as f64 / self.world.sent().messages as f64
    }
}

/// Seals and sends, nothing else.
struct WireFloor {
    /// Stream by stream.
    viewers: Vec<Vec<(FiveTuple, RawKey)>>,
    /// One per stream.
    publishers: Vec<RawKey>,
    payload: Vec<u8>,
    /// What was opened last.
    opened: Vec<u8>,
    arena: Vec<u8>,
    overhead: usize,
    sequence: u32,
    wire: Wire,
}

impl WireFloor {
    fn new(
        profile: SrtpProfile,
        streams: impl Iterator<Item = impl Iterator<Item = Client>>,
        wire: Wire,
    ) -> Self {
        let keyed = |client: Client| (client.path(), RawKey::new(profile, client.0));
        let viewers: Vec<Vec<_>> = streams.map(|viewers| viewers.map(keyed).collect()).collect();
        Self {
            publishers: (0..viewers.len() as u32).map(|n| RawKey::new(profile, n)).collect(),
            viewers,
            payload: (0..2_000).map(|n| n as u8).collect(),
            opened: vec![0; 2_000],
            arena: vec![0; 1 << 16],
            overhead: HEADER_LEN + profile.rtp_overhead(),
            sequence: 0,
            wire,
        }
    }

    /// A publisher sends datagrams as long as those of that turn.
    fn publish(&mut self, turn: &Turn, inlet: &Inlet) {
        for &(stream, len) in &turn.received {
            let datagram = &mut self.arena[..len];
            datagram[..HEADER_LEN].fill(0x90);
            let payload = &self.payload[..len - self.overhead];
            self.publishers[stream].seal(0, 0, payload, datagram);
            inlet.publish(datagram).expect("loopback takes it");
        }
    }

    /// Waits for what was published, receives and opens it.
    fn receive(&mut self, turn: &Turn, inlet: &mut Inlet) {
        let (publishers, tag_len) = (&self.publishers, self.overhead - HEADER_LEN);
        let opened = &mut self.opened;
        let mut streams = turn.received.iter().map(|(stream, _)| *stream);
        inlet
            .receive(|datagram| {
                let key = &publishers[streams.next().unwrap_or(turn.stream)];
                key.open(0, 0, datagram, tag_len, opened);
            })
            .expect("the datagrams are there");
    }

    /// Sends each viewer of a stream messages of this shape; how many datagrams that were.
    fn turn(&mut self, stream: usize, cut: &[Message]) -> u64 {
        let before = self.wire.datagrams;
        for (ssrc, (path, key)) in (0u32..).zip(&self.viewers[stream]) {
            let mut sequences = self.sequence..;
            for message in cut {
                let contents = &mut self.arena[..message.len];
                let mut rest = &mut *contents;
                for (len, sequence) in message.datagrams().zip(&mut sequences) {
                    let (slot, others) = rest.split_at_mut(len);
                    rest = others;
                    slot[0] = 0x90;
                    slot[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
                    slot[8..12].copy_from_slice(&ssrc.to_be_bytes());
                    key.seal(ssrc, sequence, &self.payload[..len - self.overhead], slot);
                }
                let segment_size = message.segment_size;
                self.wire.send(Transmit::media(*path, contents, segment_size));
            }
        }
        self.sequence =
            self.sequence.wrapping_add(cut.iter().map(|m| m.datagrams().count() as u32).sum());
        self.wire.datagrams - before
    }
}

impl Setting {
    /// Device and media, for tables.
    pub fn label(&self) -> String {
        let Self { device, codec, frames, .. } = self;
        format!("{}, {codec:?}, {}", device.label(), frames.label())
    }
}

impl Found {
    /// Head of a table of what was found.
    pub const HEAD: &str = "\
| device, media | viewers | ns per packet | floor | ratio | ratio to a floor that receives | datagrams per message |
|---|---|---|---|---|---|---|";
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let what = self.setting.label();
            let Row { crowd, worker_ns, floor_ns, ratio, receiving_ratio, segments } = row;
            let crowd = crowd.label();
            write!(
                f,
                "\n| {what} | {crowd} | {worker_ns:.0} | {floor_ns:.0} | {ratio:.2} | {receiving_ratio:.2} | {segments:.1} |"
            )?;
        }
        if let (Some(rise), [first, .., last]) = (self.rise, self.setting.crowds) {
            let (first, last) = (first.label(), last.label());
            write!(f, "\n| | {first} to {last} | {:+.0} % | | | | |", (rise - 1.0) * 100.0)?;
        }
        Ok(())
    }
}
