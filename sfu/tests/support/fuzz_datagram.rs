//! Fuzz target `datagram`: a whole server under datagrams, steps of time, and packets that a
//! hostile publisher and a hostile viewer seal with their own, good keys.
//!
//! With any input: no panic, and an honest pair beside them continues to see new frames.

use std::net::SocketAddr;
use std::time::Duration;

use weir_sfu::codec::MediaKind::Video;

use super::world::spec::{PublisherSpec, ViewerSpec};
use super::world::{ClientId, World};

/// Maximum steps of one input; the others are ignored.
const STEPS_MAX: usize = 256;

/// Maximum virtual time of one input; later steps of time are ignored.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Interval between two frames of the honest publisher: few frames, so that inputs are quick.
const FRAME: Duration = Duration::from_millis(50);

/// Plays one input. Each step is one byte, its kind modulo 8, and what the kind reads:
///
/// | kind | reads | does |
/// |---|---|---|
/// | 0, 1, 2 | length (2 bytes), bytes | datagram in the name of the honest publisher, viewer, of a stranger |
/// | 3 | length, bytes | RTP of the hostile publisher, sealed |
/// | 4, 5 | length, bytes | RTCP of the hostile publisher, of the hostile viewer, sealed |
/// | 6 | one byte | 4 ms of time for each |
/// | 7 | one byte | a valid check of a hostile client: bit 0 which, bit 1 nominating, bits 2 and 3 from where |
pub(crate) fn datagram(data: &[u8]) {
    let mut stage = Stage::new();
    let mut input = Input(data);
    let end = stage.world.now + TIME_MAX;
    for _ in 0..STEPS_MAX {
        let Some(kind) = input.byte() else { break };
        match kind % 8 {
            0 => stage.raw(stage.publisher, input.bytes()),
            1 => stage.raw(stage.viewer, input.bytes()),
            2 => stage.world.inject_and_run(stage.stranger, input.bytes()),
            3 => {
                let sealed = stage.world.link(stage.bad_publisher).seal_rtp(input.bytes());
                stage.sealed(stage.bad_publisher, sealed);
            }
            4 => {
                let sealed = stage.world.link(stage.bad_publisher).seal_rtcp(input.bytes());
                stage.sealed(stage.bad_publisher, sealed);
            }
            5 => {
                let sealed = stage.world.link(stage.bad_viewer).seal_rtcp(input.bytes());
                stage.sealed(stage.bad_viewer, sealed);
            }
            6 => {
                let step = Duration::from_millis(4) * u32::from(input.byte().unwrap_or(0));
                if stage.world.now + step <= end {
                    stage.world.run(step);
                }
            }
            _ => stage.check(input.byte().unwrap_or(0)),
        }
    }
    stage.still_flows();
}

struct Stage {
    world: World,
    publisher: ClientId,
    viewer: ClientId,
    bad_publisher: ClientId,
    bad_viewer: ClientId,
    stranger: SocketAddr,
}

impl Stage {
    fn new() -> Self {
        let mut world = World::new(2);
        world.foreign_allowed = true;
        let quick = PublisherSpec::video_only().with(Video, |track| {
            track.frame_every = FRAME;
            track.layers[0].packets = 1;
            track.bytes = 100;
        });
        let publisher = world.publish("honest", quick);
        let viewer = world.watch("honest", ViewerSpec::browser().video_only());
        let bad_publisher = world.publish("hostile", PublisherSpec::browser());
        let bad_viewer = world.watch("hostile", ViewerSpec::browser());
        world.publisher(bad_publisher).sends = false;
        world.viewer(bad_viewer).guard.watches = false;
        world.viewer(bad_viewer).spec.sends_nack = false;
        world.run(Duration::from_millis(300));
        let stranger = world.new_addr();
        Self { world, publisher, viewer, bad_publisher, bad_viewer, stranger }
    }

    fn raw(&mut self, claims: ClientId, bytes: &[u8]) {
        let from = self.world.link(claims).addr;
        self.world.inject_and_run(from, bytes);
    }

    fn sealed(&mut self, from: ClientId, sealed: Option<Vec<u8>>) {
        if let Some(bytes) = sealed {
            self.raw(from, &bytes);
        }
    }

    fn check(&mut self, how: u8) {
        let who = if how & 1 == 0 { self.bad_publisher } else { self.bad_viewer };
        let check = self.world.link(who).new_check(how & 2 != 0);
        let from = match how >> 2 & 3 {
            0 => self.world.link(who).addr,
            1 => self.stranger,
            2 => self.world.link(self.publisher).addr,
            _ => self.world.link(self.viewer).addr,
        };
        self.world.inject_and_run(from, &check);
    }

    fn still_flows(&mut self) {
        self.world.run(Duration::from_secs(1));
        assert_eq!(self.world.closed(self.publisher), None, "the honest publisher's session");
        assert_eq!(self.world.closed(self.viewer), None, "the honest viewer's session");
        let before = self.world.viewer(self.viewer).video_frames();
        self.world.run(20 * FRAME);
        let frames = self.world.viewer(self.viewer).video_frames() - before;
        assert!(frames >= 18, "{frames} of 20 frames after it all");
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Bytes with a length of two bytes before them, as far as they are there; at most a datagram
    /// and one.
    fn bytes(&mut self) -> &'a [u8] {
        let len = [self.byte().unwrap_or(0), self.byte().unwrap_or(0)];
        let len = usize::from(u16::from_be_bytes(len)).min(1_501).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}
