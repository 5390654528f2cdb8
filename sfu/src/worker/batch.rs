//! Send arena of one worker: packets for one viewer, sealed back to back and sent as one message.
//!
//! All datagrams of a message have one size, and only the last may be smaller (UDP GSO). So a
//! larger packet begins a new message. Order is kept. Called by `outbox.rs` alone.

use std::time::Instant;

use crate::media::packet::PACKET_BYTES_MAX;
use crate::transport::FiveTuple;
use crate::transport::egress::{Egress, Transmit, TransmitClass};

/// Maximum datagrams per message: 16 have 90 % of what batching can gain (limits section 7).
pub(super) const SEGMENTS_MAX: usize = 16;

/// Bytes for one packet while it is written: the largest input plus header, extensions and tag.
pub(super) const SLOT_BYTES: usize = PACKET_BYTES_MAX + 128;

/// Packets for one destination that are not sent yet.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Box<[u8]>,
    len: usize,
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

impl Batch {
    /// An empty arena.
    pub(super) fn new() -> Self {
        let bytes = vec![0; SEGMENTS_MAX * SLOT_BYTES].into_boxed_slice();
        Self { bytes, len: 0, segment: 0, count: 0, arrived: None }
    }

    /// Buffer for the next packet; pass its length to [`Self::commit`].
    pub(super) fn slot(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..self.len + SLOT_BYTES).unwrap_or(&mut [])
    }

    /// Takes the packet written into the slot. Sends the message if it is full or closed by a
    /// smaller packet.
    pub(super) fn commit(
        &mut self,
        len: usize,
        arrived: Option<Instant>,
        to: Envelope,
        egress: &mut dyn Egress,
    ) {
        if self.count > 0 && len > self.segment {
            let start = self.len;
            self.flush(to, egress);
            self.bytes.copy_within(start..start + len, 0);
        }
        if self.count == 0 {
            self.segment = len;
        }
        if let Some(at) = arrived
            && self.arrived.is_none_or(|oldest| at < oldest)
        {
            self.arrived = Some(at);
        }
        self.len += len;
        self.count += 1;
        if len < self.segment || self.count == SEGMENTS_MAX {
            self.flush(to, egress);
        }
    }

    /// Sends the packets that are not sent yet.
    pub(super) fn flush(&mut self, to: Envelope, egress: &mut dyn Egress) {
        let segment_size = (self.count > 1).then_some(self.segment);
        let arrived = self.arrived.take();
        if let Some(contents) = self.bytes.get(..self.len).filter(|bytes| !bytes.is_empty()) {
            let Envelope { path, class } = to;
            egress.send(Transmit { path, contents, segment_size, arrived, class });
        }
        self.len = 0;
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Vec<(Vec<usize>, Vec<u8>)>);

    impl Egress for Sent {
        fn send(&mut self, transmit: Transmit<'_>) {
            let lens = transmit.datagrams().map(<[u8]>::len).collect();
            self.0.push((lens, transmit.contents.to_vec()));
        }
    }

    #[test]
    fn message_holds_equal_sizes_and_keeps_order() {
        let path = FiveTuple::udp(None, "127.0.0.1:9".parse().unwrap());
        let to = Envelope { path, class: TransmitClass::Media };
        let mut batch = Batch::new();
        let mut sent = Sent::default();
        for (n, len) in [100, 100, 60, 100, 1200, 1200, 1200, 1201].into_iter().enumerate() {
            batch.slot()[..len].fill(n as u8);
            batch.commit(len, None, to, &mut sent);
        }
        batch.flush(to, &mut sent);
        let lens: Vec<_> = sent.0.iter().map(|(lens, _)| lens.clone()).collect();
        assert_eq!(lens, [vec![100, 100, 60], vec![100], vec![1200; 3], vec![1201]]);
        let order: Vec<u8> = sent
            .0
            .iter()
            .flat_map(|(lens, bytes)| bytes.chunks(lens[0]).map(|chunk| chunk[0]))
            .collect();
        assert_eq!(order, (0..8).collect::<Vec<u8>>());
        assert!(sent.0.iter().all(|(_, b)| b.iter().zip(b.iter().skip(1)).all(|(x, y)| x <= y)));
    }

    #[test]
    fn message_is_never_longer_than_the_limit() {
        let path = FiveTuple::udp(None, "127.0.0.1:9".parse().unwrap());
        let to = Envelope { path, class: TransmitClass::Media };
        let mut batch = Batch::new();
        let mut sent = Sent::default();
        for _ in 0..SEGMENTS_MAX + 1 {
            batch.commit(SLOT_BYTES, None, to, &mut sent);
        }
        assert_eq!(sent.0.len(), 1);
        assert_eq!(sent.0[0].0.len(), SEGMENTS_MAX);
    }
}
