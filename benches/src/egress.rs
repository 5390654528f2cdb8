//! Egress bench: the worker with the kernel. It measures the cost of one forwarded packet to a
//! thread, from the publisher's datagram to the return of the send call, user and system time.
//!
//! A turn is one frame: wait, receive, forward, send, timers, as the shell does it. The floor is
//! the least work that puts the same bytes on the same device: seal with aws-lc-rs, and send
//! messages with the same segments to as many addresses. A second floor first waits for the
//! publisher's datagrams, receives and opens them: with nine viewers that is a good part of the
//! work. All run in turn in one process, and so do 100 and 1,000 viewers, so that a change of the
//! machine's speed affects all. Being woken from sleep is not measured.

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

/// Streams and viewers of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    /// Number of streams.
    pub streams: usize,
    /// Number of viewers of each stream.
    pub viewers: usize,
    /// Whether each viewer watches all streams in one session.
    pub joint: bool,
}

impl Audience {
    const fn apart(streams: usize, viewers: usize) -> Self {
        Self { streams, viewers, joint: false }
    }

    /// Label in tables.
    pub fn label(self) -> String {
        let Self { streams, viewers, joint } = self;
        match (streams, joint) {
            (1, _) => viewers.to_string(),
            (_, false) => format!("{streams} x {viewers}"),
            (_, true) => format!("{viewers}, {streams} subscriptions"),
        }
    }
}

/// One stream, with few and with many viewers for comparison.
const BROADCAST: &[Audience] = &[Audience::apart(1, 100), Audience::apart(1, 1_000)];

/// Ten conferences of ten participants: each publishes and watches the nine others.
const CONFERENCE: &[Audience] = &[Audience::apart(100, 9)];

/// Ten conferences of ten participants, with one session per viewer: a hundred sessions with nine
/// subscriptions each, and nine frames per turn.
const SUBSCRIPTIONS: &[Audience] = &[Audience { streams: 9, viewers: 100, joint: true }];

/// Ten speakers and three thousand viewers.
const WEBINAR: &[Audience] = &[Audience::apart(10, 300)];

/// Setting of one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Destination of datagrams.
    pub device: Device,
    /// Codec that is sent.
    pub codec: Codec,
    /// Frames and packets of the media.
    pub frames: Frames,
    /// Streams and viewers; these take turns, round by round.
    pub audiences: &'static [Audience],
}

/// All settings, in this order: 1.4 Mbps in whole frames, as an encoder makes them and in packets
/// of one size, audio, conferences and a webinar, into each device.
pub fn settings() -> impl Iterator<Item = Setting> {
    let audio = Frames::Equal { packets: 1, payload_len: 160 };
    let media = [
        (Codec::H264, Frames::Video { kbps: 1_400 }, BROADCAST),
        (Codec::H264, Frames::Equal { packets: 5, payload_len: 1_166 }, BROADCAST),
        (Codec::Opus, audio, BROADCAST),
        (Codec::H264, Frames::Video { kbps: 1_000 }, CONFERENCE),
        (Codec::H264, Frames::Video { kbps: 1_000 }, SUBSCRIPTIONS),
        (Codec::Opus, audio, WEBINAR),
    ];
    let devices = [Device::Ifb, Device::Loopback];
    devices.into_iter().flat_map(move |device| {
        media.map(|(codec, frames, audiences)| Setting { device, codec, frames, audiences })
    })
}

/// Rounds of each measurement.
const ROUNDS: usize = 40;

/// Approximate number of forwarded packets of a round: more than the caches hold, less than a phase
/// of the machine.
const ROUND_PACKETS: usize = 15_000;

/// Cost with one audience: medians over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Streams and viewers.
    pub audience: Audience,
    /// CPU nanoseconds per forwarded packet.
    pub worker_ns: f64,
    /// CPU nanoseconds per packet of the floor.
    pub floor_ns: f64,
    /// Ratio of worker to floor, taken round by round.
    pub ratio: f64,
    /// Ratio of worker to the floor that also receives.
    pub receiving_ratio: f64,
    /// Datagrams of media per message.
    pub segments: f64,
}

/// Results of one setting.
#[derive(Debug, Clone)]
pub struct Found {
    /// Setting that was measured.
    pub setting: Setting,
    /// One row per audience.
    pub rows: Vec<Row>,
    /// Ratio of the last row's cost per packet to the first's, taken round by round; none for a
    /// single row.
    pub rise: Option<f64>,
}

/// Measures all audiences of a setting. Call [`netns::enter`] before.
///
/// # Errors
/// The machine lacks a requirement, or messages did not reach the device as they were sent.
///
/// # Panics
/// The worker drops a packet or the kernel refuses a message.
pub fn measure(setting: Setting) -> Result<Found, String> {
    let Setting { device, codec, frames, audiences } = setting;
    device.route()?;
    let taken_before = netns::taken()?;
    let scene = |audience: &Audience| {
        let Audience { streams, viewers, joint } = *audience;
        Scene { streams, viewers, joint, codec, frames, ..Scene::default() }
    };
    // Publishers get feedback too.
    let clients =
        audiences.iter().map(|audience| scene(audience).clients().count()).max().unwrap_or(0);
    let sockets = (device == Device::Loopback)
        .then(|| Viewers::new((0..clients as u32).map(Client)).map(Rc::new))
        .transpose()
        .map_err(|error| format!("a socket for each of {clients} clients: {error}"))?;
    let mut stands: Vec<_> =
        audiences.iter().map(|audience| Stand::new(scene(audience), sockets.clone())).collect();
    let rounds = if smoke_run() { 1 } else { ROUNDS };
    let rounds: Vec<Vec<Round>> =
        (0..rounds).map(|_| stands.iter_mut().map(Stand::round).collect()).collect();
    let messages: u64 = stands.iter_mut().map(Stand::messages).sum();
    let taken = netns::taken()? - taken_before;
    // The kernel sends packets of its own now and then, such as a router solicitation.
    if device == Device::Ifb && taken.abs_diff(messages) > messages / 100 {
        return Err(format!(
            "{messages} messages became {taken} at the device: no segmentation offload"
        ));
    }
    let over =
        |pick: &dyn Fn(&[Round]) -> f64| median(rounds.iter().map(|rounds| pick(rounds)).collect());
    let row = |(n, audience): (usize, &Audience)| Row {
        audience: *audience,
        worker_ns: over(&|round| round[n].worker_ns),
        floor_ns: over(&|round| round[n].floor_ns),
        ratio: over(&|round| round[n].worker_ns / round[n].floor_ns),
        receiving_ratio: over(&|round| round[n].worker_ns / round[n].receiving_ns),
        segments: stands[n].segments(),
    };
    let rows = audiences.iter().enumerate().map(row).collect();
    let rise = |last: usize| over(&|round| round[last].worker_ns / round[0].worker_ns);
    let rise = (audiences.len() > 1).then(|| rise(audiences.len() - 1));
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
    /// CPU nanoseconds of the floor that also receives.
    receiving_ns: f64,
}

/// Datagrams that came in during one turn, and those that were sent.
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
        let audiences = || (0..scene.streams).map(move |stream| scene.viewers_of(stream));
        let wire = || Wire::new().expect("a socket that takes segments");
        let stand = Self {
            scene,
            world: World::with_wire(scene, wire()),
            inlet: Inlet::new().expect("sockets for the publisher"),
            floor: WireFloor::new(scene.profile, audiences(), wire()),
            viewers,
        };
        // More datagrams than the sockets hold came during setup.
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

    /// Runs the same turns on the floor, with or without the publishers' datagrams.
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

    /// Runs one turn of the worker.
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
        let one = self.scene.viewers_of(stream).next().expect("the stream has viewers");
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

    /// Has the viewers of a stream read their datagrams, where they are sent to sockets. The other
    /// viewers have hardly anything to read. A thousand calls for nothing would leave the caches
    /// cold for the next turn, which viewers on machines of their own do not do.
    fn deliver(&self, stream: usize, sent: u64, delivery: &mut Delivery) {
        if let Some(viewers) = &self.viewers {
            delivery.sent += sent;
            delivery.arrived += viewers.drain_of(self.scene.viewers_of(stream));
        }
    }

    /// Has all clients read the rest: reports, and datagrams to publishers.
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

/// Floor: seals and sends, nothing else.
struct WireFloor {
    /// Keys and addresses of viewers, stream by stream.
    viewers: Vec<Vec<(FiveTuple, RawKey)>>,
    /// Key of the publisher, one per stream.
    publishers: Vec<RawKey>,
    payload: Vec<u8>,
    /// Buffer of the packet that was opened last.
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

    /// Sends datagrams as long as those of that turn, as the publishers.
    fn publish(&mut self, turn: &Turn, inlet: &Inlet) {
        for &(stream, len) in &turn.received {
            let datagram = &mut self.arena[..len];
            datagram[..HEADER_LEN].fill(0x90);
            let payload = &self.payload[..len - self.overhead];
            self.publishers[stream].seal(0, 0, payload, datagram);
            inlet.publish(datagram).expect("loopback takes it");
        }
    }

    /// Waits for the publishers' datagrams, receives and opens them.
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

    /// Sends each viewer of a stream messages of this shape; returns the number of datagrams.
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

    /// Whether the label of some row, with its device, media and audience, contains this text.
    pub fn is_named(&self, text: &str) -> bool {
        let label = self.label();
        let rows = self.audiences.iter();
        rows.map(|audience| format!("{label}, {}", audience.label())).any(|row| row.contains(text))
    }
}

impl Found {
    /// Head of the table of results.
    pub const HEAD: &str = "\
| device, media | viewers | ns per packet | floor | ratio | ratio to a floor that receives | datagrams per message |
|---|---|---|---|---|---|---|";
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let what = self.setting.label();
            let Row { audience, worker_ns, floor_ns, ratio, receiving_ratio, segments } = row;
            let audience = audience.label();
            write!(
                f,
                "\n| {what} | {audience} | {worker_ns:.0} | {floor_ns:.0} | {ratio:.2} | {receiving_ratio:.2} | {segments:.1} |"
            )?;
        }
        if let (Some(rise), [first, .., last]) = (self.rise, self.setting.audiences) {
            let (first, last) = (first.label(), last.label());
            write!(f, "\n| | {first} to {last} | {:+.0} % | | | | |", (rise - 1.0) * 100.0)?;
        }
        Ok(())
    }
}
