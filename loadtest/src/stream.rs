//! One RTP source as a receiver sees it: puts packets in order, knows what is missing, asks for it, and gives up in the end.
//!
//! Pure: time comes in, values go out. Fed by `receiver`, which passes what is in order on to `frame_checker`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A packet still missing this long after the gap was seen is lost.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(1);

/// Between two requests for the same packet: the round trip that browsers assume as long as they know none.
const NACK_INTERVAL: Duration = Duration::from_millis(100);

/// The first request waits this long, in case the packet is only late.
const NACK_DELAY: Duration = Duration::from_millis(10);

/// Packets held back behind a gap. Past it the oldest gap is given up at once.
const WINDOW_MAX: usize = 4096;

/// Numbers asked for in one request.
const NACKS_MAX: usize = 128;

/// A jump in the numbers further than this, either way, is a new numbering and not loss.
const JUMP_MAX: u16 = 3000;

/// What leaves the stream in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery<T> {
    /// The next packet.
    Packet {
        /// What was inserted.
        packet: T,
        /// Whether its number was first seen in the counted window.
        counted: bool,
    },
    /// A packet that never came.
    Lost {
        /// Whether the gap was first seen in the counted window.
        counted: bool,
    },
    /// The source began to count anew; what came before and after is not connected.
    Restart,
}

/// What an insertion was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// In order, or ahead of a gap.
    New,
    /// It filled a gap.
    Filled,
    /// Had it already, or had given it up.
    Useless,
}

/// Counts of one stream within the counted window.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Distinct packets that arrived, repaired ones included.
    pub(crate) received: u64,
    /// Packets that never came.
    pub(crate) lost: u64,
    /// Of those received, how many filled a gap (late or repaired).
    pub(crate) filled: u64,
    /// Packets that came twice or after they were given up.
    pub(crate) useless: u64,
    /// New numberings.
    pub(crate) restarts: u64,
}

#[derive(Debug)]
enum Slot<T> {
    Here { packet: T, counted: bool },
    Missing { since: Instant, asked: Option<Instant>, counted: bool },
}

/// The packets of one source from the next to be delivered to the newest seen.
#[derive(Debug)]
pub(crate) struct Stream<T> {
    /// Number of the slot in front; `None` before the first packet.
    next: Option<u16>,
    window: VecDeque<Slot<T>>,
    missing: usize,
    restarted: bool,
    counting: bool,
    counts: Counts,
    /// Since the first packet: how many numbers were passed, and how many of them lost; for receiver reports.
    passed: u64,
    lost_in_all: u64,
}

impl<T> Stream<T> {
    /// A stream that expects anything.
    pub(crate) fn new() -> Self {
        Self {
            next: None,
            window: VecDeque::new(),
            missing: 0,
            restarted: false,
            counting: false,
            counts: Counts::default(),
            passed: 0,
            lost_in_all: 0,
        }
    }

    /// Opens or closes the counted window: numbers first seen while it is open are counted, whenever they are settled.
    pub(crate) fn count(&mut self, counting: bool) {
        self.counting = counting;
    }

    /// Takes a packet.
    pub(crate) fn insert(&mut self, now: Instant, sequence: u16, packet: T) -> Inserted {
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next);
        if ahead >= 0x8000 {
            if ahead.wrapping_neg() > JUMP_MAX {
                self.restart(sequence);
                return self.insert(now, sequence, packet);
            }
            return self.useless();
        }
        let index = usize::from(ahead);
        if index >= self.window.len() {
            if index - self.window.len() > usize::from(JUMP_MAX) {
                self.restart(sequence);
                return self.insert(now, sequence, packet);
            }
            while self.window.len() < index {
                let counted = self.counting;
                self.window.push_back(Slot::Missing { since: now, asked: None, counted });
                self.missing += 1;
            }
            self.window.push_back(Slot::Here { packet, counted: self.counting });
            self.counts.received += u64::from(self.counting);
            return Inserted::New;
        }
        match self.window.get_mut(index) {
            Some(slot @ Slot::Missing { .. }) => {
                let counted = matches!(slot, Slot::Missing { counted: true, .. });
                self.counts.received += u64::from(counted);
                self.counts.filled += u64::from(counted);
                *slot = Slot::Here { packet, counted };
                self.missing -= 1;
                Inserted::Filled
            }
            _ => self.useless(),
        }
    }

    /// The next thing in order, if it is settled.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Delivery<T>> {
        if std::mem::take(&mut self.restarted) {
            return Some(Delivery::Restart);
        }
        let full = self.window.len() > WINDOW_MAX;
        match self.window.front()? {
            Slot::Missing { since, .. }
                if !full && now.saturating_duration_since(*since) < GIVE_UP =>
            {
                return None;
            }
            _ => {}
        }
        self.next = self.next.map(|next| next.wrapping_add(1));
        self.passed += 1;
        match self.window.pop_front()? {
            Slot::Here { packet, counted } => Some(Delivery::Packet { packet, counted }),
            Slot::Missing { counted, .. } => {
                self.missing -= 1;
                self.lost_in_all += 1;
                self.counts.lost += u64::from(counted);
                Some(Delivery::Lost { counted })
            }
        }
    }

    /// The numbers to ask for now.
    pub(crate) fn wanted(&mut self, now: Instant) -> Vec<u16> {
        let mut wanted = Vec::new();
        if self.missing == 0 {
            return wanted;
        }
        let Some(next) = self.next else { return wanted };
        for (number, slot) in
            std::iter::successors(Some(next), |n| Some(n.wrapping_add(1))).zip(&mut self.window)
        {
            let Slot::Missing { since, asked, .. } = slot else { continue };
            let due = asked.map_or(*since + NACK_DELAY, |asked| asked + NACK_INTERVAL);
            if now >= due && wanted.len() < NACKS_MAX {
                *asked = Some(now);
                wanted.push(number);
            }
        }
        wanted
    }

    /// Whether something is missing, so that [`Self::wanted`] and [`Self::pop`] are worth a timer.
    pub(crate) fn has_gaps(&self) -> bool {
        self.missing > 0
    }

    /// The counts, with all that is still missing taken as lost.
    pub(crate) fn settle(mut self) -> Counts {
        for slot in self.window.drain(..) {
            self.counts.lost += u64::from(matches!(slot, Slot::Missing { counted: true, .. }));
        }
        self.counts
    }

    /// For a receiver report: highest number seen, numbers passed and lost since the beginning.
    pub(crate) fn reception(&self) -> Option<(u16, u64, u64)> {
        let newest = self.next?.wrapping_add(self.window.len() as u16).wrapping_sub(1);
        Some((newest, self.passed, self.lost_in_all))
    }

    fn useless(&mut self) -> Inserted {
        self.counts.useless += u64::from(self.counting);
        Inserted::Useless
    }

    fn restart(&mut self, sequence: u16) {
        for slot in self.window.drain(..) {
            self.counts.lost += u64::from(matches!(slot, Slot::Missing { counted: true, .. }));
        }
        self.missing = 0;
        self.next = Some(sequence);
        self.restarted = true;
        self.counts.restarts += u64::from(self.counting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        stream: Stream<u16>,
        now: Instant,
        out: Vec<Delivery<u16>>,
    }

    impl Scene {
        fn counting() -> Self {
            let mut stream = Stream::new();
            stream.count(true);
            Self { stream, now: Instant::now(), out: Vec::new() }
        }

        fn gets(&mut self, numbers: &[u16]) -> &mut Self {
            for number in numbers {
                self.stream.insert(self.now, *number, *number);
                self.out.extend(std::iter::from_fn(|| self.stream.pop(self.now)));
            }
            self
        }

        fn waits(&mut self, time: Duration) -> &mut Self {
            self.now += time;
            self.out.extend(std::iter::from_fn(|| self.stream.pop(self.now)));
            self
        }

        fn delivered(&self) -> String {
            let text = |d: &Delivery<u16>| match d {
                Delivery::Packet { packet, .. } => packet.to_string(),
                Delivery::Lost { .. } => "lost".to_owned(),
                Delivery::Restart => "restart".to_owned(),
            };
            self.out.iter().map(text).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn reordered_packets_leave_in_order_and_nothing_is_lost() {
        let mut scene = Scene::counting();
        scene.gets(&[65_534, 0, 65_535, 2, 1]);
        assert_eq!(scene.delivered(), "65534 65535 0 1 2");
        let counts = scene.stream.settle();
        assert_eq!((counts.received, counts.lost, counts.filled), (5, 0, 2));
    }

    #[test]
    fn gap_holds_back_what_follows_until_it_is_given_up() {
        let mut scene = Scene::counting();
        scene.gets(&[10, 12]);
        assert_eq!(scene.delivered(), "10");
        scene.waits(GIVE_UP);
        assert_eq!(scene.delivered(), "10 lost 12");
        scene.gets(&[11]);
        let counts = scene.stream.settle();
        assert_eq!((counts.received, counts.lost, counts.useless), (2, 1, 1));
    }

    #[test]
    fn missing_packets_are_asked_for_again_and_again_but_not_at_once() {
        let mut scene = Scene::counting();
        scene.gets(&[1, 4]);
        assert_eq!(scene.stream.wanted(scene.now), Vec::<u16>::new(), "maybe only late");
        scene.now += NACK_DELAY;
        assert_eq!(scene.stream.wanted(scene.now), [2, 3]);
        assert_eq!(scene.stream.wanted(scene.now), Vec::<u16>::new());
        scene.gets(&[2]);
        scene.now += NACK_INTERVAL;
        assert_eq!(scene.stream.wanted(scene.now), [3]);
        scene.gets(&[3]);
        assert!(!scene.stream.has_gaps());
    }

    #[test]
    fn duplicates_are_not_counted_as_received() {
        let mut scene = Scene::counting();
        scene.gets(&[1, 1, 2, 1]);
        let counts = scene.stream.settle();
        assert_eq!((counts.received, counts.useless, counts.lost), (2, 2, 0));
    }

    #[test]
    fn gap_opened_before_the_window_is_not_counted_and_one_inside_is() {
        let mut scene = Scene::counting();
        scene.stream.count(false);
        scene.gets(&[1, 3]);
        scene.stream.count(true);
        scene.gets(&[4, 6]);
        scene.stream.count(false);
        scene.gets(&[9]);
        let counts = scene.stream.settle();
        assert_eq!((counts.received, counts.lost), (2, 1), "4 and 6 came, 5 did not");
    }

    #[test]
    fn new_numbering_is_reported_and_not_taken_for_thousands_of_losses() {
        let mut scene = Scene::counting();
        scene.gets(&[5, 40_000, 40_001]).gets(&[5]);
        assert_eq!(scene.delivered(), "5 restart 40000 40001 restart 5");
        assert_eq!(scene.stream.settle().lost, 0);
    }

    #[test]
    fn full_window_gives_up_the_oldest_gap_early() {
        let mut scene = Scene::counting();
        scene.gets(&[0]);
        let numbers: Vec<u16> = (2..2 + 4096).collect();
        scene.gets(&numbers);
        assert!(scene.delivered().starts_with("0 lost 2 3"), "one past the limit");
    }
}
