//! Viewer queue: viewers of one stream on this worker in the order in which they are served, and
//! the packets that wait for them.
//!
//! Established viewers are served at once in each turn. Joining viewers are served after them, some
//! at a time, so that a join storm never stands between a packet and established viewers. Packets
//! that arrive meanwhile go to established viewers first, and to joining viewers in their next
//! round. Held by `stream.rs`, driven by `fanout.rs`.

use super::keys::SessionKey;
use crate::ids::LayerKey;
use crate::warm::warm;

/// Joining viewers served in one step of a round: a step is short enough to wait for, and long
/// enough to read state ahead into the CPU caches.
pub(super) const JOINING_PER_STEP: usize = 16;

/// A packet to forward: its position in the packet cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketRef {
    /// Layer of the packet.
    pub layer: LayerKey,
    /// Extended sequence number in that layer's cache.
    pub ext_seq: u64,
    /// Whether one byte of padding makes it as long as its neighbours.
    pub padded: bool,
}

impl PacketRef {
    /// Whether both are of one layer.
    pub(super) fn is_with(&self, other: &Self) -> bool {
        self.layer == other.layer
    }
}

/// Kind of delivery: which packets are handed out, and to which viewers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Packets of this turn, to established viewers.
    Immediate,
    /// Packets of a round, to joining viewers.
    Deferred,
}

/// Packets in the order in which they are sent: video first.
#[derive(Debug, Default)]
pub(super) struct PacketList {
    packets: Vec<PacketRef>,
    /// Position of the first packet of audio, once they are in order.
    audio_from: usize,
}

impl PacketList {
    /// Orders the packets: layer by layer, audio last. Order within an SSRC is kept, between SSRCs
    /// it is free.
    pub(super) fn arrange(&mut self, is_audio: impl Fn(LayerKey) -> bool) {
        self.packets.sort_unstable_by_key(|p| (is_audio(p.layer), p.layer, p.ext_seq));
        self.audio_from = self.packets.partition_point(|packet| !is_audio(packet.layer));
    }

    /// Runs of packets of one video layer, to mark them.
    pub(super) fn video_runs_mut(&mut self) -> impl Iterator<Item = &mut [PacketRef]> {
        let video = self.packets.get_mut(..self.audio_from).unwrap_or(&mut []);
        video.chunk_by_mut(PacketRef::is_with)
    }

    fn clear(&mut self) {
        self.packets.clear();
        self.audio_from = 0;
    }
}

/// The viewers of a stream, and the packets that wait for them.
#[derive(Debug, Default)]
pub(super) struct ViewerQueue {
    /// Viewers in the order in which they joined; the first `established` of them are established.
    viewers: Vec<SessionKey>,
    established: usize,
    /// Packets of this turn, which go to established viewers.
    arrived: PacketList,
    /// Packets of the present round, the same for all joining viewers; empty between two rounds.
    round: PacketList,
    /// The next viewer of the round.
    next: usize,
    /// Packets that arrived since the round began.
    waiting: Vec<PacketRef>,
}

impl ViewerQueue {
    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.viewers.first().copied(), self.established, self.arrived.packets.len());
    }

    /// Adds a viewer that joined.
    pub(super) fn push(&mut self, viewer: SessionKey) {
        self.viewers.push(viewer);
    }

    /// Removes a viewer that left.
    pub(super) fn remove(&mut self, viewer: SessionKey) {
        let Some(index) = self.viewers.iter().position(|key| *key == viewer) else { return };
        self.viewers.remove(index);
        self.established -= usize::from(index < self.established);
        self.next -= usize::from(index < self.next);
        if self.established == self.viewers.len() {
            // The next viewer that joins must not get packets that waited for others.
            self.round.clear();
            self.waiting.clear();
        }
        if self.viewers.is_empty() {
            self.arrived.clear();
        }
    }

    /// All viewers.
    pub(super) fn viewers(&self) -> &[SessionKey] {
        &self.viewers
    }

    /// Viewers that are served in each turn.
    pub(super) fn established(&self) -> &[SessionKey] {
        self.viewers.get(..self.established).unwrap_or(&[])
    }

    /// Adds a packet that arrived in this turn.
    pub(super) fn queue(&mut self, packet: PacketRef) {
        if !self.viewers.is_empty() {
            self.arrived.packets.push(packet);
        }
    }

    /// The packets of a delivery.
    pub(super) fn packets(&self, delivery: Delivery) -> &[PacketRef] {
        &self.list(delivery).packets
    }

    /// Runs of a delivery's packets of one layer each, of audio or of video.
    pub(super) fn runs(
        &self,
        delivery: Delivery,
        audio: bool,
    ) -> impl Iterator<Item = &[PacketRef]> {
        let PacketList { packets, audio_from } = self.list(delivery);
        let (video, sound) = packets.split_at_checked(*audio_from).unwrap_or((packets, &[]));
        if audio { sound } else { video }.chunk_by(PacketRef::is_with)
    }

    fn list(&self, delivery: Delivery) -> &PacketList {
        match delivery {
            Delivery::Immediate => &self.arrived,
            Delivery::Deferred => &self.round,
        }
    }

    /// The packets of a delivery, to order them.
    pub(super) fn list_mut(&mut self, delivery: Delivery) -> &mut PacketList {
        match delivery {
            Delivery::Immediate => &mut self.arrived,
            Delivery::Deferred => &mut self.round,
        }
    }

    /// Number of a layer's packets, from this one on, that a viewer of this delivery is handed in
    /// this turn, in this round or in the next. Packets that wait for joining viewers go to no
    /// established viewer.
    pub(super) fn delivered_from(&self, delivery: Delivery, layer: LayerKey, first: u64) -> usize {
        let is = |p: &&PacketRef| p.layer == layer && p.ext_seq >= first;
        let (arrived, round) = (&self.arrived.packets, &self.round.packets);
        match delivery {
            Delivery::Immediate => arrived.iter().filter(is).count(),
            Delivery::Deferred => {
                round.iter().chain(&self.waiting).chain(arrived).filter(is).count()
            }
        }
    }

    /// Ends the turn: established viewers have its packets.
    pub(super) fn end_turn(&mut self) {
        if self.established < self.viewers.len() {
            self.waiting.extend_from_slice(&self.arrived.packets);
        }
        self.arrived.clear();
    }

    /// Whether joining viewers have packets to get.
    pub(super) fn has_waiting(&self) -> bool {
        !self.round.packets.is_empty() || !self.waiting.is_empty()
    }

    /// Number of packets that arrived since the round began.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Begins a round if none runs and packets wait; true if it did.
    pub(super) fn begin_round(&mut self) -> bool {
        let begins = self.round.packets.is_empty() && !self.waiting.is_empty();
        if begins {
            std::mem::swap(&mut self.round.packets, &mut self.waiting);
            self.next = self.established;
        }
        begins
    }

    /// The next joining viewers of the round. Viewers of its first step that are old enough are
    /// established from now on: they get all packets and miss none.
    pub(super) fn step(
        &mut self,
        began: bool,
        is_established: impl Fn(SessionKey) -> bool,
    ) -> &[SessionKey] {
        let rest = self.viewers.get(self.next..).unwrap_or(&[]);
        let step = rest.get(..JOINING_PER_STEP).unwrap_or(rest);
        self.next += step.len();
        if began {
            self.established += step.iter().take_while(|key| is_established(**key)).count();
        }
        step
    }

    /// Ends a step, and the round if it was the last.
    pub(super) fn end_step(&mut self) {
        if self.next >= self.viewers.len() {
            self.round.clear();
        }
    }

    /// Drops all packets and ends the round.
    pub(super) fn clear(&mut self) {
        self.arrived.clear();
        self.round.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Epoch, LayerIdx, TrackIdx};

    const LAYER: LayerKey = LayerKey { epoch: Epoch(1), track: TrackIdx(0), layer: LayerIdx(0) };

    /// Events that can happen, in any order.
    #[derive(Debug, Clone)]
    enum Event {
        Join,
        Leave(usize),
        /// This number of packets arrives, and established viewers get them.
        Turn(u64),
        /// Next step of the joining viewers' round.
        Step,
        /// All present viewers are old enough to be established.
        Establish,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Join),
            1 => (0..100usize).prop_map(Event::Leave),
            4 => (1..4u64).prop_map(Event::Turn),
            4 => Just(Event::Step),
            1 => Just(Event::Establish),
        ]
    }

    /// A viewer queue, and the packets that each viewer got.
    #[derive(Default)]
    struct World {
        queue: ViewerQueue,
        all: Vec<(SessionKey, Vec<u64>)>,
        old: Vec<SessionKey>,
        newest: u64,
        came: u32,
    }

    impl World {
        fn hand(&mut self, keys: &[SessionKey], delivery: Delivery) {
            for (key, got) in self.all.iter_mut().filter(|(key, _)| keys.contains(key)) {
                got.extend(self.queue.packets(delivery).iter().map(|packet| packet.ext_seq));
                assert!(got.is_sorted_by(|a, b| a + 1 == *b), "{key:?} got {got:?}");
            }
        }

        fn on(&mut self, event: Event) {
            match event {
                Event::Join => {
                    let key = SessionKey::new(self.came, 0);
                    self.came += 1;
                    self.queue.push(key);
                    self.all.push((key, Vec::new()));
                }
                Event::Leave(index) if !self.all.is_empty() => {
                    let (key, _) = self.all.remove(index % self.all.len());
                    self.queue.remove(key);
                }
                Event::Leave(_) => {}
                Event::Turn(packets) => {
                    for _ in 0..packets {
                        let ext_seq = self.newest;
                        self.queue.queue(PacketRef { layer: LAYER, ext_seq, padded: false });
                        self.newest += 1;
                    }
                    let established = self.queue.established().to_vec();
                    self.hand(&established, Delivery::Immediate);
                    self.queue.end_turn();
                }
                Event::Step => {
                    let began = self.queue.begin_round();
                    let mut keys = Vec::new();
                    if self.queue.has_waiting() {
                        let old = &self.old;
                        keys = self.queue.step(began, |key| old.contains(&key)).to_vec();
                    }
                    assert!(keys.len() <= JOINING_PER_STEP);
                    self.hand(&keys, Delivery::Deferred);
                    self.queue.end_step();
                }
                Event::Establish => self.old = self.all.iter().map(|(key, _)| *key).collect(),
            }
        }
    }

    proptest! {
        // A viewer that joins during a round begins somewhere in it; from there on no packet is
        // missing.
        #[test]
        fn every_viewer_gets_all_packets_once_and_in_order(
            joining in 0..40usize, events in prop::collection::vec(event(), 0..200),
        ) {
            let mut world = World::default();
            (0..joining).for_each(|_| world.on(Event::Join));
            events.into_iter().for_each(|event| world.on(event));
            while world.queue.has_waiting() {
                world.on(Event::Step);
            }
            for (key, got) in &world.all {
                prop_assert!(
                    got.last().is_none_or(|last| last + 1 == world.newest), "{:?} got {:?}", key, got
                );
            }
        }
    }

    #[test]
    fn packets_go_to_established_viewers_first_and_joining_viewers_become_established() {
        let mut world = World::default();
        world.on(Event::Join);
        for event in [Event::Establish, Event::Turn(1), Event::Step] {
            world.on(event);
        }
        assert_eq!(world.queue.established().len(), 1);
        (0..40).for_each(|_| world.on(Event::Join));
        for event in [Event::Turn(1), Event::Step, Event::Turn(1)] {
            world.on(event);
        }
        let got = |world: &World, viewer: usize| world.all[viewer].1.clone();
        assert_eq!(
            (got(&world, 0), got(&world, 1), got(&world, 40)),
            (vec![0, 1, 2], vec![1], vec![])
        );
        for _ in 0..5 {
            world.on(Event::Step);
        }
        assert_eq!((got(&world, 1), got(&world, 40)), (vec![1, 2], vec![1, 2]));
        world.on(Event::Establish);
        for _ in 0..3 {
            world.on(Event::Turn(1));
            (0..3).for_each(|_| world.on(Event::Step));
        }
        assert_eq!(world.queue.established().len(), 41, "sixteen become established in each round");
        world.on(Event::Turn(1));
        assert!(!world.queue.has_waiting() && got(&world, 40) == [1, 2, 3, 4, 5, 6]);
    }
}
