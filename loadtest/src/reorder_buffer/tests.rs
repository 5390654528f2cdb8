//! Packets of one stream that arrive late, twice, never, or with a new numbering.

use super::*;

/// A buffer that counts, the time, and what was delivered.
struct Scenario {
    buffer: ReorderBuffer<u16>,
    now: Instant,
    out: Vec<Delivery<u16>>,
}

impl Scenario {
    fn counting() -> Self {
        let mut buffer = ReorderBuffer::new();
        buffer.set_counting(true);
        Self { buffer, now: Instant::now(), out: Vec::new() }
    }

    fn receives(&mut self, numbers: &[u16]) -> &mut Self {
        for number in numbers {
            self.buffer.insert(self.now, *number, *number);
            self.out.extend(std::iter::from_fn(|| self.buffer.pop(self.now)));
        }
        self
    }

    fn waits(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.out.extend(std::iter::from_fn(|| self.buffer.pop(self.now)));
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
fn reordered_packets_are_delivered_in_order_without_loss() {
    let mut scenario = Scenario::counting();
    scenario.receives(&[65_534, 0, 65_535, 2, 1]);
    assert_eq!(scenario.delivered(), "65534 65535 0 1 2");
    let counts = scenario.buffer.finish();
    assert_eq!((counts.received, counts.lost, counts.filled), (5, 0, 2));
}

#[test]
fn gap_holds_back_later_packets_until_it_is_lost() {
    let mut scenario = Scenario::counting();
    scenario.receives(&[10, 12]);
    assert_eq!(scenario.delivered(), "10");
    scenario.waits(LOSS_TIMEOUT);
    assert_eq!(scenario.delivered(), "10 lost 12");
    scenario.receives(&[11]);
    let counts = scenario.buffer.finish();
    assert_eq!((counts.received, counts.lost, counts.redundant), (2, 1, 1));
}

#[test]
fn missing_packets_are_requested_repeatedly_but_not_at_once() {
    let mut scenario = Scenario::counting();
    scenario.receives(&[1, 4]);
    assert_eq!(
        scenario.buffer.packets_to_nack(scenario.now),
        Vec::<u16>::new(),
        "they may only be late"
    );
    scenario.now += NACK_DELAY;
    assert_eq!(scenario.buffer.packets_to_nack(scenario.now), [2, 3]);
    assert_eq!(scenario.buffer.packets_to_nack(scenario.now), Vec::<u16>::new());
    scenario.receives(&[2]);
    scenario.now += NACK_INTERVAL;
    assert_eq!(scenario.buffer.packets_to_nack(scenario.now), [3]);
    scenario.receives(&[3]);
    assert!(!scenario.buffer.has_gaps());
}

#[test]
fn duplicates_are_not_counted_as_received() {
    let mut scenario = Scenario::counting();
    scenario.receives(&[1, 1, 2, 1]);
    let counts = scenario.buffer.finish();
    assert_eq!((counts.received, counts.redundant, counts.lost), (2, 2, 0));
}

#[test]
fn only_gaps_seen_within_the_window_are_counted() {
    let mut scenario = Scenario::counting();
    scenario.buffer.set_counting(false);
    scenario.receives(&[1, 3]);
    scenario.buffer.set_counting(true);
    scenario.receives(&[4, 6]);
    scenario.buffer.set_counting(false);
    scenario.receives(&[9]);
    let counts = scenario.buffer.finish();
    assert_eq!((counts.received, counts.lost), (2, 1), "4 and 6 came, 5 did not");
}

#[test]
fn new_numbering_is_not_counted_as_loss() {
    let mut scenario = Scenario::counting();
    scenario.receives(&[5, 40_000, 40_001]).receives(&[5]);
    assert_eq!(scenario.delivered(), "5 restart 40000 40001 restart 5");
    assert_eq!(scenario.buffer.finish().lost, 0);
}

#[test]
fn full_buffer_counts_the_oldest_gap_as_lost_early() {
    let mut scenario = Scenario::counting();
    scenario.receives(&[0]);
    let numbers: Vec<u16> = (2..2 + 4096).collect();
    scenario.receives(&numbers);
    assert!(scenario.delivered().starts_with("0 lost 2 3"), "one packet above the limit");
}
