//! Cost of handing a packet to another worker, per packet and in batches, and of waking it.
//!
//! Sending and receiving are timed separately, on one thread: the cost of each side while both are
//! awake. Waking is timed with a worker's thread that sleeps on an event descriptor: the cost of
//! the writer's call, and of the sleeping worker from its wait to its next.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use weir_sfu::codec::Codec;
use weir_sfu::media::{Packet, PacketPool};
use weir_sfu::router::ring::MEDIA_RING_ITEMS;
use weir_sfu::router::{MediaItem, RingPort, StreamId, WakeFlag, Waker, mesh};

use crate::encoder::{Encoder, Frames};
use crate::stopwatch::{Case, cpu_time, epoch};
use crate::viewer::LAYER;

/// Packets handed over at once; 1,024 fit.
const BATCHES: [usize; 3] = [1, 8, 64];

/// Batches per round where the reader sleeps before each.
const WAKES: usize = 100;

/// Turns of a spin in which the reader falls asleep, some 50 µs.
const FALL_ASLEEP_SPINS: usize = 1_000;

/// Sending, receiving, waking and being woken, for each size of batch.
pub fn cases() -> Vec<Case> {
    let kinds: [fn(usize) -> Case; 4] = [send, receive, wake, be_woken];
    kinds.into_iter().flat_map(|make| BATCHES.map(make)).collect()
}

fn send(packets: usize) -> Case {
    let mut lane = Lane::new();
    Case::new("ring/send", name(packets), move |watch| {
        let batches = MEDIA_RING_ITEMS / packets;
        watch.time(|| (0..batches).for_each(|_| lane.send(packets)));
        lane.receive(MEDIA_RING_ITEMS);
        (batches * packets) as u64
    })
}

fn receive(packets: usize) -> Case {
    let mut lane = Lane::new();
    Case::new("ring/receive", name(packets), move |watch| {
        let batches = MEDIA_RING_ITEMS / packets;
        (0..batches).for_each(|_| lane.send(packets));
        watch.time(|| (0..batches).for_each(|_| lane.receive(packets)));
        (batches * packets) as u64
    })
}

fn wake(packets: usize) -> Case {
    let mut pair = None;
    Case::new("ring/send and wake", name(packets), move |watch| {
        let pair: &mut Pair = pair.get_or_insert_with(Pair::new);
        for _ in 0..WAKES {
            watch.time(|| pair.sender.send(packets));
            pair.wait_for_sleep();
        }
        (WAKES * packets) as u64
    })
}

fn be_woken(packets: usize) -> Case {
    let mut pair = None;
    Case::new("ring/be woken and receive", name(packets), move |watch| {
        let pair: &mut Pair = pair.get_or_insert_with(Pair::new);
        let before = pair.reader_time();
        for _ in 0..WAKES {
            pair.sender.send(packets);
            pair.wait_for_sleep();
        }
        watch.add(pair.reader_time() - before);
        (WAKES * packets) as u64
    })
}

fn name(packets: usize) -> String {
    format!("{packets} per batch")
}

/// Writing end of one worker.
struct Sender {
    port: RingPort,
    packet: Arc<Packet>,
    sent: u64,
}

impl Sender {
    fn new(port: RingPort) -> Self {
        let frames = Frames::Equal { packets: 1, payload_len: 1_200 };
        let packet =
            Encoder::new(Codec::H264, frames).next_packet(&mut PacketPool::new(1), epoch());
        Self { port, packet, sent: 0 }
    }

    fn send(&mut self, packets: usize) {
        for _ in 0..packets {
            let item = MediaItem::Packet {
                stream: StreamId { index: 0, generation: 0 },
                layer: LAYER.key,
                packet: Arc::clone(&self.packet),
            };
            assert!(self.port.send_media(1, item), "the ring has space");
        }
        self.port.notify();
        self.sent += packets as u64;
    }
}

/// Two workers' rings, both on this thread and awake.
struct Lane {
    sender: Sender,
    reader: RingPort,
    flag: WakeFlag,
}

struct Awake;

impl Waker for Awake {
    fn wake(&self) {}
}

impl Lane {
    fn new() -> Self {
        let flag = || WakeFlag::new(Arc::new(Awake));
        let (flag, sender_flag) = (flag(), flag());
        let (sender, reader) = connect(sender_flag, flag.clone());
        Self { sender, reader, flag }
    }

    fn send(&mut self, packets: usize) {
        self.sender.send(packets);
    }

    /// Receives as a turn of the reader's loop does.
    fn receive(&mut self, packets: usize) {
        self.flag.prepare_sleep();
        assert!(self.reader.has_incoming(), "there is something");
        self.flag.awake();
        for _ in 0..packets {
            black_box(self.reader.receive_media());
        }
    }
}

fn connect(sender: WakeFlag, reader: WakeFlag) -> (Sender, RingPort) {
    let mut ports = mesh(&[sender, reader]);
    let reader = ports.pop().expect("two flags, two ports");
    (Sender::new(ports.pop().expect("two flags, two ports")), reader)
}

/// A writer on this thread, and a reader on its own thread that sleeps whenever its ring is empty.
struct Pair {
    sender: Sender,
    state: Arc<ReaderState>,
    flag: WakeFlag,
    thread: Option<JoinHandle<()>>,
}

struct ReaderState {
    descriptor: OwnedFd,
    /// Number of packets taken when it was last about to sleep.
    taken: AtomicU64,
    /// CPU time of the reader at that moment, in nanoseconds.
    cpu_ns: AtomicU64,
    done: AtomicBool,
}

impl Waker for ReaderState {
    fn wake(&self) {
        rustix::io::write(&self.descriptor, &1u64.to_ne_bytes()).expect("an event is counted");
    }
}

impl Pair {
    fn new() -> Self {
        let state = Arc::new(ReaderState {
            descriptor: eventfd(0, EventfdFlags::empty()).expect("an event descriptor"),
            taken: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            done: AtomicBool::new(false),
        });
        let flag = WakeFlag::new(Arc::clone(&state) as Arc<dyn Waker>);
        let (sender, port) = connect(WakeFlag::new(Arc::new(Awake)), flag.clone());
        let thread = {
            let (state, flag) = (Arc::clone(&state), flag.clone());
            std::thread::spawn(move || read(port, &flag, &state))
        };
        let pair = Self { sender, state, flag, thread: Some(thread) };
        pair.wait_for_sleep();
        pair
    }

    /// Waits until the reader has taken all packets and, as far as is visible here, sleeps.
    fn wait_for_sleep(&self) {
        while self.state.taken.load(Ordering::Acquire) < self.sender.sent {
            spin_loop();
        }
        (0..FALL_ASLEEP_SPINS).for_each(|_| spin_loop());
    }

    fn reader_time(&self) -> Duration {
        Duration::from_nanos(self.state.cpu_ns.load(Ordering::Acquire))
    }
}

fn read(mut port: RingPort, flag: &WakeFlag, state: &ReaderState) {
    let mut taken = 0;
    while !state.done.load(Ordering::Acquire) {
        flag.prepare_sleep();
        if !port.has_incoming() {
            state.cpu_ns.store(cpu_time().as_nanos() as u64, Ordering::Release);
            state.taken.store(taken, Ordering::Release);
            rustix::io::read(&state.descriptor, &mut [0; 8]).expect("it waits for an event");
        }
        flag.awake();
        while black_box(port.receive_media()).is_some() {
            taken += 1;
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.state.done.store(true, Ordering::Release);
        self.flag.notify();
        self.thread.take().map(JoinHandle::join);
    }
}
