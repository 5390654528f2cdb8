//! The viewers of one stream here, in the order in which they are served, and the packets that wait for them.
//!
//! Who is here for a while is served at once in each turn. Who came lately is served after them, some at a time,
//! so that a crowd that joins never stands between a packet and those who watch already: what comes meanwhile goes
//! to them first, and to the newcomers in their next round. Held by `stream.rs`, driven by `fanout.rs`.

use std::hint::black_box;

use super::session::SessionKey;
use super::stream::Fresh;

/// Newcomers served in one step of a round: short enough to wait for, long enough for the caches to be read ahead.
pub(super) const NEWCOMERS_PER_STEP: usize = 16;

/// The viewers, and what waits for them.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// In the order in which they came; the first `settled` of them are here for a while.
    viewers: Vec<SessionKey>,
    settled: usize,
    /// Packets of this turn, which go to the settled ones.
    fresh: Vec<Fresh>,
    /// Packets that the newcomers are just handed, all the same ones; empty between two rounds.
    round: Vec<Fresh>,
    /// The next viewer of the round.
    next: usize,
    /// Packets that came since the round began.
    waiting: Vec<Fresh>,
}

/// Which packets are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serving {
    /// Those of this turn, to the settled ones.
    Turn,
    /// Those of a round, to newcomers.
    Round,
}

impl Audience {
    /// Reads what the next packet needs, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        black_box((self.viewers.first().copied(), self.settled, self.fresh.len()));
    }

    /// A viewer came.
    pub(super) fn push(&mut self, viewer: SessionKey) {
        self.viewers.push(viewer);
    }

    /// A viewer left.
    pub(super) fn remove(&mut self, viewer: SessionKey) {
        let Some(place) = self.viewers.iter().position(|key| *key == viewer) else { return };
        self.viewers.remove(place);
        self.settled -= usize::from(place < self.settled);
        self.next -= usize::from(place < self.next);
        if self.settled == self.viewers.len() {
            // Who comes next must not get what waited for others.
            self.round.clear();
            self.waiting.clear();
        }
        if self.viewers.is_empty() {
            self.fresh.clear();
        }
    }

    /// All viewers.
    pub(super) fn viewers(&self) -> &[SessionKey] {
        &self.viewers
    }

    /// Those who are served in each turn.
    pub(super) fn settled(&self) -> &[SessionKey] {
        self.viewers.get(..self.settled).unwrap_or(&[])
    }

    /// Takes a packet that came in this turn.
    pub(super) fn queue(&mut self, fresh: Fresh) {
        if !self.viewers.is_empty() {
            self.fresh.push(fresh);
        }
    }

    /// The packets that are handed out.
    pub(super) fn packets(&self, serving: Serving) -> &[Fresh] {
        match serving {
            Serving::Turn => &self.fresh,
            Serving::Round => &self.round,
        }
    }

    /// Likewise, to bring them in order.
    pub(super) fn packets_mut(&mut self, serving: Serving) -> &mut Vec<Fresh> {
        match serving {
            Serving::Turn => &mut self.fresh,
            Serving::Round => &mut self.round,
        }
    }

    /// Whether who is served now is handed a packet in this turn, or in this round or the next: what waits for
    /// newcomers comes to nobody else.
    pub(super) fn brings(&self, serving: Serving, is: impl FnMut(&Fresh) -> bool) -> bool {
        match serving {
            Serving::Turn => self.fresh.iter().any(is),
            Serving::Round => self.round.iter().chain(&self.waiting).chain(&self.fresh).any(is),
        }
    }

    /// The settled ones have this turn's packets.
    pub(super) fn end_turn(&mut self) {
        if self.settled < self.viewers.len() {
            self.waiting.extend_from_slice(&self.fresh);
        }
        self.fresh.clear();
    }

    /// Whether newcomers have something to get.
    pub(super) fn has_waiting(&self) -> bool {
        !self.round.is_empty() || !self.waiting.is_empty()
    }

    /// How many packets came since the round began.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Begins a round if none is on its way and something waits; true if it did.
    pub(super) fn begin_round(&mut self) -> bool {
        let begins = self.round.is_empty() && !self.waiting.is_empty();
        if begins {
            std::mem::swap(&mut self.round, &mut self.waiting);
            self.next = self.settled;
        }
        begins
    }

    /// The next newcomers of the round. Those of the first step of it who are here for a while are settled from
    /// now on: they get all there is and miss nothing.
    pub(super) fn step(
        &mut self,
        began: bool,
        into: &mut Vec<SessionKey>,
        is_settled: impl Fn(SessionKey) -> bool,
    ) {
        let rest = self.viewers.get(self.next..).unwrap_or(&[]);
        let step = rest.get(..NEWCOMERS_PER_STEP).unwrap_or(rest);
        into.extend_from_slice(step);
        self.next += step.len();
        if began {
            self.settled += step.iter().take_while(|key| is_settled(**key)).count();
        }
    }

    /// A step is done; ends the round if it was the last.
    pub(super) fn end_step(&mut self) {
        if self.next >= self.viewers.len() {
            self.round.clear();
        }
    }

    /// Nothing that came is for anybody any more.
    pub(super) fn clear(&mut self) {
        self.fresh.clear();
        self.round.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What can happen, in any order.
    #[derive(Debug, Clone)]
    enum Event {
        Join,
        Leave(usize),
        /// So many packets came; those who are settled get them.
        Turn(u64),
        /// The newcomers' next step.
        Step,
        /// All who are here now have been here for a while.
        Settle,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Join),
            1 => (0..100usize).prop_map(Event::Leave),
            4 => (1..4u64).prop_map(Event::Turn),
            4 => Just(Event::Step),
            1 => Just(Event::Settle),
        ]
    }

    /// An audience, and what each viewer got.
    #[derive(Default)]
    struct House {
        audience: Audience,
        viewers: Vec<(SessionKey, Vec<u64>)>,
        old: Vec<SessionKey>,
        newest: u64,
        came: u32,
    }

    impl House {
        fn hand(&mut self, keys: &[SessionKey], serving: Serving) {
            for (key, got) in self.viewers.iter_mut().filter(|(key, _)| keys.contains(key)) {
                got.extend(self.audience.packets(serving).iter().map(|fresh| fresh.ext_seq));
                assert!(got.is_sorted_by(|a, b| a + 1 == *b), "{key:?} got {got:?}");
            }
        }

        fn on(&mut self, event: Event) {
            match event {
                Event::Join => {
                    let key = SessionKey::new(self.came, 0);
                    self.came += 1;
                    self.audience.push(key);
                    self.viewers.push((key, Vec::new()));
                }
                Event::Leave(place) if !self.viewers.is_empty() => {
                    let (key, _) = self.viewers.remove(place % self.viewers.len());
                    self.audience.remove(key);
                }
                Event::Leave(_) => {}
                Event::Turn(packets) => {
                    for _ in 0..packets {
                        let ext_seq = self.newest;
                        self.audience.queue(Fresh { track: 0, layer: 0, ext_seq, padded: false });
                        self.newest += 1;
                    }
                    let settled = self.audience.settled().to_vec();
                    self.hand(&settled, Serving::Turn);
                    self.audience.end_turn();
                }
                Event::Step => {
                    let began = self.audience.begin_round();
                    let mut keys = Vec::new();
                    if self.audience.has_waiting() {
                        self.audience.step(began, &mut keys, |key| self.old.contains(&key));
                    }
                    assert!(keys.len() <= NEWCOMERS_PER_STEP);
                    self.hand(&keys, Serving::Round);
                    self.audience.end_step();
                }
                Event::Settle => self.old = self.viewers.iter().map(|(key, _)| *key).collect(),
            }
        }
    }

    proptest! {
        // Who came while a round was on its way begins somewhere in it; from there on nothing is left out.
        #[test]
        fn everybody_gets_all_packets_once_and_in_order(
            crowd in 0..40usize, events in prop::collection::vec(event(), 0..200),
        ) {
            let mut house = House::default();
            (0..crowd).for_each(|_| house.on(Event::Join));
            events.into_iter().for_each(|event| house.on(event));
            while house.audience.has_waiting() {
                house.on(Event::Step);
            }
            for (key, got) in &house.viewers {
                prop_assert!(
                    got.last().is_none_or(|last| last + 1 == house.newest), "{:?} got {:?}", key, got
                );
            }
        }
    }

    #[test]
    fn packets_go_to_the_settled_first_and_a_crowd_settles() {
        let mut house = House::default();
        house.on(Event::Join);
        for event in [Event::Settle, Event::Turn(1), Event::Step] {
            house.on(event);
        }
        assert_eq!(house.audience.settled().len(), 1);
        (0..40).for_each(|_| house.on(Event::Join));
        for event in [Event::Turn(1), Event::Step, Event::Turn(1)] {
            house.on(event);
        }
        let got = |house: &House, viewer: usize| house.viewers[viewer].1.clone();
        assert_eq!(
            (got(&house, 0), got(&house, 1), got(&house, 40)),
            (vec![0, 1, 2], vec![1], vec![])
        );
        for _ in 0..5 {
            house.on(Event::Step);
        }
        assert_eq!((got(&house, 1), got(&house, 40)), (vec![1, 2], vec![1, 2]));
        house.on(Event::Settle);
        for _ in 0..3 {
            house.on(Event::Turn(1));
            (0..3).for_each(|_| house.on(Event::Step));
        }
        assert_eq!(house.audience.settled().len(), 41, "sixteen settle in each round");
        house.on(Event::Turn(1));
        assert!(!house.audience.has_waiting() && got(&house, 40) == [1, 2, 3, 4, 5, 6]);
    }
}
