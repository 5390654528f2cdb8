//! The worker in front of the kernel: what one forwarded packet costs a thread from the publisher's
//! datagram to the return of the send call, user and system time.
//!
//! A turn is one frame: wait, receive, timers, forward, send, as the shell does it. The floor is the least
//! that can put the same bytes on the same device: seal with aws-lc-rs and send messages with the same
//! segments to as many addresses. Both run in turn in one process, and so do 100 and 1,000 viewers, so
//! that a change of the machine's speed meets all. Leaves out being woken from sleep.

use std::fmt;
use std::rc::Rc;

use weir_sfu::codec::Codec;
use weir_sfu::transport::Path;
use weir_sfu::transport::egress::{Egress, Transmit};
use weir_sfu::transport::srtp::SrtpProfile;

use crate::encoder::{Frames, HEADER_LEN};
use crate::floor::RawKey;
use crate::netns::{self, Device};
use crate::session::Client;
use crate::stopwatch::{Stopwatch, median, smoke_run};
use crate::wire::{Inlet, Message, Viewers, Wire};
use crate::world::{Scene, World};

/// Viewers whose figures stand beside each other.
pub const VIEWERS: [usize; 2] = [100, 1_000];

/// All that is measured, in this order: 1.4 Mbps in whole frames, as an encoder makes them and in packets
/// of one size, and audio, into each device.
pub fn settings() -> impl Iterator<Item = (Device, Codec, Frames)> {
    let media = [
        (Codec::H264, Frames::Video { kbps: 1_400 }),
        (Codec::H264, Frames::Equal { packets: 5, payload_len: 1_166 }),
        (Codec::Opus, Frames::Equal { packets: 1, payload_len: 160 }),
    ];
    let devices = [Device::Ifb, Device::Loopback];
    devices.into_iter().flat_map(move |device| media.map(|(codec, frames)| (device, codec, frames)))
}

/// Rounds of each measurement.
const ROUNDS: usize = 40;

/// Forwarded packets of a round, about: more than the caches hold, less than a phase of the machine.
const ROUND_PACKETS: usize = 15_000;

/// What one number of viewers costs: medians over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Viewers of the stream.
    pub viewers: usize,
    /// CPU nanoseconds per forwarded packet.
    pub worker_ns: f64,
    /// The same of the floor.
    pub floor_ns: f64,
    /// Worker over floor, taken round by round.
    pub ratio: f64,
    /// Datagrams of media per message.
    pub segments: f64,
}

/// What one device and one kind of frames cost.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where datagrams went.
    pub device: Device,
    /// What was sent.
    pub codec: Codec,
    /// How it was cut.
    pub frames: Frames,
    /// One per number of viewers.
    pub rows: Vec<Row>,
    /// The last row's cost per packet over the first's, taken round by round.
    pub rise: f64,
}

/// Measures both numbers of viewers on one device. Call [`netns::enter`] before.
///
/// # Errors
/// What the machine lacks; also when messages did not reach the device as they were sent.
///
/// # Panics
/// When the worker drops a packet or the kernel refuses a message.
pub fn measure(device: Device, codec: Codec, frames: Frames) -> Result<Found, String> {
    device.route()?;
    let taken_before = netns::taken()?;
    // The publisher gets feedback too.
    let most = VIEWERS.into_iter().max().map_or(0, |most| most as u32);
    let sockets = (device == Device::Loopback)
        .then(|| Viewers::new((0..=most).map(Client)).map(Rc::new))
        .transpose()
        .map_err(|error| format!("a socket for each of {most} viewers: {error}"))?;
    let mut stands = VIEWERS.map(|viewers| {
        Stand::new(Scene { viewers, codec, frames, ..Scene::default() }, sockets.clone())
    });
    let rounds = if smoke_run() { 1 } else { ROUNDS };
    let rounds: Vec<_> = (0..rounds).map(|_| stands.each_mut().map(Stand::round)).collect();
    let messages: u64 = stands.iter_mut().map(Stand::messages).sum();
    let taken = netns::taken()? - taken_before;
    // The kernel says a word of its own now and then, such as a router solicitation.
    if device == Device::Ifb && taken.abs_diff(messages) > messages / 100 {
        return Err(format!(
            "{messages} messages became {taken} at the device: no segmentation offload"
        ));
    }
    let over = |pick: &dyn Fn(&[Round; 2]) -> f64| median(rounds.iter().map(pick).collect());
    let row = |(n, viewers): (usize, usize)| Row {
        viewers,
        worker_ns: over(&|round| round[n].worker_ns),
        floor_ns: over(&|round| round[n].floor_ns),
        ratio: over(&|round| round[n].worker_ns / round[n].floor_ns),
        segments: stands[n].segments(),
    };
    let rows = VIEWERS.into_iter().enumerate().map(row).collect();
    let rise = over(&|round| round[1].worker_ns / round[0].worker_ns);
    Ok(Found { device, codec, frames, rows, rise })
}

/// One round's CPU nanoseconds per packet.
struct Round {
    worker_ns: f64,
    floor_ns: f64,
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
        let clients = || (1..=scene.viewers as u32).map(Client);
        let wire = || Wire::new(Client(1)).expect("a socket that takes segments");
        let mut stand = Self {
            scene,
            world: World::with_wire(scene, wire()),
            inlet: Inlet::new().expect("sockets for the publisher"),
            floor: WireFloor::new(scene.profile, clients(), wire()),
            viewers,
        };
        stand.world.wire().take_cut();
        // More than the sockets hold came while the world was set up.
        if let Some(viewers) = &stand.viewers {
            viewers.drain();
        }
        stand
    }

    fn round(&mut self) -> Round {
        let (mut worker, mut floor) = (Stopwatch::default(), Stopwatch::default());
        let turns = ROUND_PACKETS / (self.scene.viewers * self.scene.frames.mean_packets()) + 1;
        let before = self.world.sent().packets;
        let cuts: Vec<_> = (0..turns).map(|_| self.turn(&mut worker)).collect();
        let packets = self.world.sent().packets - before;
        let mut floor_packets = 0;
        for cut in &cuts {
            let sent = floor.time(|| self.floor.turn(cut));
            self.deliver(sent);
            floor_packets += sent;
        }
        assert_eq!(packets, floor_packets, "the floor sends what the worker sends");
        let per_packet = |watch: &Stopwatch| watch.total().as_nanos() as f64 / packets as f64;
        Round { worker_ns: per_packet(&worker), floor_ns: per_packet(&floor) }
    }

    /// One frame through the worker; how it was cut into messages.
    fn turn(&mut self, stopwatch: &mut Stopwatch) -> Vec<Message> {
        let frame = self.world.prepare_frame();
        for datagram in &frame {
            self.inlet.publish(datagram).expect("loopback takes it");
        }
        let (sent, media) = (self.world.wire().datagrams, self.world.sent().packets);
        let (world, inlet) = (&mut self.world, &mut self.inlet);
        stopwatch.time(|| {
            world.next_turn();
            inlet.receive(|datagram| world.take(datagram)).expect("the frame is there");
            world.timers();
            world.flush();
        });
        let due = frame.len() * self.scene.viewers;
        assert_eq!(self.world.sent().packets - media, due as u64, "nothing is dropped");
        let sent = self.world.wire().datagrams - sent;
        self.deliver(sent);
        self.world.answer_checks();
        self.world.wire().take_cut()
    }

    /// Has the viewers read what was sent, where it goes to them.
    fn deliver(&mut self, sent: u64) {
        if let Some(viewers) = &self.viewers {
            assert_eq!(viewers.drain(), sent, "every datagram arrives");
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
    viewers: Vec<(Path, RawKey)>,
    payload: Vec<u8>,
    arena: Vec<u8>,
    overhead: usize,
    sequence: u32,
    wire: Wire,
}

impl WireFloor {
    fn new(profile: SrtpProfile, clients: impl Iterator<Item = Client>, wire: Wire) -> Self {
        Self {
            viewers: clients.map(|c| (c.path(), RawKey::new(profile, c.0))).collect(),
            payload: (0..2_000).map(|n| n as u8).collect(),
            arena: vec![0; 1 << 16],
            overhead: HEADER_LEN + profile.rtp_overhead(),
            sequence: 0,
            wire,
        }
    }

    /// Sends each viewer messages of this shape; how many datagrams that were.
    fn turn(&mut self, cut: &[Message]) -> u64 {
        let before = self.wire.datagrams;
        for (ssrc, (path, key)) in (0u32..).zip(&self.viewers) {
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
                self.wire.send(Transmit { path: *path, contents, segment_size });
            }
        }
        self.sequence =
            self.sequence.wrapping_add(cut.iter().map(|m| m.datagrams().count() as u32).sum());
        self.wire.datagrams - before
    }
}

impl Found {
    /// Device and media, for tables.
    pub fn label(&self) -> String {
        format!("{}, {:?}, {}", self.device.label(), self.codec, self.frames.label())
    }

    /// Head of a table of what was found.
    pub const HEAD: &str = "\
| device, media | viewers | ns per packet | floor | ratio | datagrams per message |
|---|---|---|---|---|---|";
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let what = self.label();
            let Row { viewers, worker_ns, floor_ns, ratio, segments } = row;
            writeln!(
                f,
                "| {what} | {viewers} | {worker_ns:.0} | {floor_ns:.0} | {ratio:.2} | {segments:.1} |"
            )?;
        }
        let [first, last] = VIEWERS;
        write!(f, "| | {first} to {last} | {:+.0} % | | | |", (self.rise - 1.0) * 100.0)
    }
}
