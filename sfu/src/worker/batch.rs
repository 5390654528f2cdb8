//! Send arena of one worker: packets for one viewer, sealed back to back and sent as one message.
//!
//! All datagrams of a message have one size, and only the last may be smaller (UDP GSO). So a
//! larger packet begins a new message. Order is kept. Never sends: a message that is complete is
//! returned. Filled by `outbox.rs` alone.

use std::ops::Range;
use std::time::Instant;

use crate::media::packet::PACKET_BYTES_MAX;
use crate::transport::FiveTuple;
use crate::transport::egress::{Transmit, TransmitClass};

/// Maximum datagrams per message: 16 have 90 % of what batching can gain (limits section 7).
pub(super) const SEGMENTS_MAX: usize = 16;

/// Bytes for one packet while it is written: the largest input plus header, extensions and tag.
pub(super) const SLOT_BYTES: usize = PACKET_BYTES_MAX + 128;

/// Bytes of the arena: two messages. A packet that is too large for a message stays where it was
/// written and begins the next one.
const ARENA_BYTES: usize = 2 * SEGMENTS_MAX * SLOT_BYTES;

/// Packets for one destination that are not sent yet.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Box<[u8]>,
    /// Where the message begins.
    start: usize,
    /// Where the next packet is written.
    end: usize,
    segment: usize,
    count: usize,
    /// Arrival of the oldest packet of the message that is forwarded for the first time.
    arrived: Option<Instant>,
}

/// Destination of a message, and the kind of its packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    pub path: FiveTuple,
    pub class: TransmitClass,
}

/// Complete message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    contents: &'a [u8],
    segment_size: Option<usize>,
    arrived: Option<Instant>,
}

impl<'a> Message<'a> {
    /// The message on its way to a destination.
    pub(super) fn to(self, Envelope { path, class }: Envelope) -> Transmit<'a> {
        let Self { contents, segment_size, arrived } = self;
        Transmit { path, contents, segment_size, arrived, class }
    }
}

impl Batch {
    /// An empty arena.
    pub(super) fn new() -> Self {
        let bytes = vec![0; ARENA_BYTES].into_boxed_slice();
        Self { bytes, start: 0, end: 0, segment: 0, count: 0, arrived: None }
    }

    /// Buffer for the next packet; pass its length to [`Self::add`].
    pub(super) fn slot(&mut self) -> &mut [u8] {
        if self.end + SLOT_BYTES > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..self.end + SLOT_BYTES).unwrap_or(&mut [])
    }

    /// Adds the packet in the slot. Returns the message that is complete now: the one before, if
    /// the packet is too large for it, or the one that the packet fills or ends.
    #[inline]
    #[must_use = "the message is lost otherwise"]
    pub(super) fn add(&mut self, len: usize, arrived: Option<Instant>) -> Option<Message<'_>> {
        if self.count > 0 && len > self.segment {
            let before = self.unsent();
            (self.start, self.end) = (self.end, self.end + len);
            (self.segment, self.count, self.arrived) = (len, 1, arrived);
            return self.message(before);
        }
        if self.count == 0 {
            self.segment = len;
        }
        if let Some(at) = arrived
            && self.arrived.is_none_or(|oldest| at < oldest)
        {
            self.arrived = Some(at);
        }
        self.end += len;
        self.count += 1;
        if len < self.segment || self.count == SEGMENTS_MAX { self.take() } else { None }
    }

    /// Takes the message of the packets that are not sent yet, if there are any.
    #[must_use = "the message is lost otherwise"]
    pub(super) fn take(&mut self) -> Option<Message<'_>> {
        let unsent = self.unsent();
        (self.start, self.end, self.count, self.arrived) = (0, 0, 0, None);
        self.message(unsent)
    }

    /// Place, segment size and arrival of the message that is being filled.
    fn unsent(&self) -> (Range<usize>, Option<usize>, Option<Instant>) {
        (self.start..self.end, (self.count > 1).then_some(self.segment), self.arrived)
    }

    fn message(
        &self,
        (place, segment_size, arrived): (Range<usize>, Option<usize>, Option<Instant>),
    ) -> Option<Message<'_>> {
        let contents = self.bytes.get(place).filter(|bytes| !bytes.is_empty())?;
        Some(Message { contents, segment_size, arrived })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "127.0.0.1:9";

    /// Messages that packets of these lengths are sent in: the lengths in each, and the bytes, each
    /// of which is its packet's position.
    fn messages(lens: impl IntoIterator<Item = usize>) -> Vec<(Vec<usize>, Vec<u8>)> {
        let path = FiveTuple::udp(None, PATH.parse().unwrap());
        let to = Envelope { path, class: TransmitClass::Media };
        let mut sent = Vec::new();
        let mut send = |message: Option<Message<'_>>| {
            let Some(transmit) = message.map(|message| message.to(to)) else { return };
            let lens = transmit.datagrams().map(<[u8]>::len).collect();
            sent.push((lens, transmit.contents.to_vec()));
        };
        let mut batch = Batch::new();
        for (n, len) in lens.into_iter().enumerate() {
            batch.slot()[..len].fill(n as u8);
            send(batch.add(len, None));
        }
        send(batch.take());
        assert!(batch.take().is_none(), "nothing is left");
        sent
    }

    fn in_order(sent: &[(Vec<usize>, Vec<u8>)]) -> bool {
        let bytes = || sent.iter().flat_map(|(_, bytes)| bytes);
        bytes().zip(bytes().skip(1)).all(|(a, b)| *b == *a || *b == *a + 1)
    }

    #[test]
    fn message_holds_equal_sizes_and_keeps_order() {
        let sent = messages([100, 100, 60, 100, 1200, 1200, 1200, 1201]);
        let lens: Vec<_> = sent.iter().map(|(lens, _)| lens.clone()).collect();
        assert_eq!(lens, [vec![100, 100, 60], vec![100], vec![1200; 3], vec![1201]]);
        assert!(in_order(&sent));
    }

    #[test]
    fn message_is_never_longer_than_the_limit() {
        let sent = messages([SLOT_BYTES; SEGMENTS_MAX + 1]);
        let counts: Vec<_> = sent.iter().map(|(lens, _)| lens.len()).collect();
        assert_eq!(counts, [SEGMENTS_MAX, 1]);
    }

    #[test]
    fn packets_that_grow_find_room_however_many_they_are() {
        let sent = messages((0..200).map(|n| SLOT_BYTES - 200 + n));
        let lens: Vec<_> = sent.iter().flat_map(|(lens, _)| lens.clone()).collect();
        assert_eq!(lens, (0..200).map(|n| SLOT_BYTES - 200 + n).collect::<Vec<_>>());
        assert!(in_order(&sent));
    }

    #[test]
    fn message_tells_the_arrival_of_its_oldest_packet() {
        let first = Instant::now();
        let later = first + std::time::Duration::from_millis(1);
        let mut batch = Batch::new();
        for arrived in [None, Some(later), Some(first), Some(later)] {
            batch.slot();
            assert!(batch.add(100, arrived).is_none());
        }
        assert_eq!(batch.add(101, Some(later)).unwrap().arrived, Some(first));
        assert_eq!(batch.take().unwrap().arrived, Some(later), "not of the message before");
    }
}
