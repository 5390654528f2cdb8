//! Puts the packets of one RTP stream in order, requests missing packets, and counts them as lost
//! after a time.
//!
//! Pure: time comes in, values go out. Called by `receiver`, which passes packets in order on to
//! `frame_checker`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time after which a packet that is still missing is lost, from when its gap was seen.
pub(crate) const LOSS_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two NACKs for the same packet: the round trip that browsers assume as long as they
/// know none.
const NACK_INTERVAL: Duration = Duration::from_millis(100);

/// Time before the first NACK for a packet, which may only be late.
const NACK_DELAY: Duration = Duration::from_millis(10);

/// Maximum packets that wait behind a gap. Above it the oldest gap is lost at once.
const WINDOW_MAX: usize = 4096;

/// Maximum sequence numbers in one request.
const NACKS_MAX: usize = 128;

/// Maximum jump in the sequence numbers, either way. A larger jump is a new numbering and not loss.
const JUMP_MAX: u16 = 3000;

/// The next item in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery<T> {
    /// The next packet.
    Packet {
        /// The packet that was inserted.
        packet: T,
        /// Whether its sequence number was first seen within the window.
        counted: bool,
    },
    /// A packet that never arrived.
    Lost {
        /// Whether the gap was first seen within the window.
        counted: bool,
    },
    /// A new numbering: packets before and after are not connected.
    Restart,
}

/// What an insertion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// The packet is the newest.
    New,
    /// The packet filled a gap.
    Filled,
    /// The packet is a duplicate, or came after it was counted as lost.
    Redundant,
}

/// Packets of one stream within the window.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PacketCounts {
    /// Distinct packets that arrived, retransmitted ones included.
    pub(crate) received: u64,
    /// Packets that never arrived.
    pub(crate) lost: u64,
    /// Packets received that filled a gap, late or retransmitted.
    pub(crate) filled: u64,
    /// Duplicates, and packets that came after they were counted as lost.
    pub(crate) redundant: u64,
    /// New numberings.
    pub(crate) restarts: u64,
}

/// What a receiver report says about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reception {
    /// Highest sequence number received.
    pub(crate) highest_seq: u16,
    /// Packets delivered or lost since the first packet.
    pub(crate) expected: u64,
    /// Packets lost since the first packet.
    pub(crate) lost: u64,
}

#[derive(Debug)]
enum Slot<T> {
    Received { packet: T, counted: bool },
    Missing { since: Instant, nacked_at: Option<Instant>, counted: bool },
}

/// The packets of one stream from the next to be delivered to the newest received.
#[derive(Debug)]
pub(crate) struct ReorderBuffer<T> {
    /// Sequence number of the slot in front; `None` before the first packet.
    next: Option<u16>,
    window: VecDeque<Slot<T>>,
    missing: usize,
    restarted: bool,
    counting: bool,
    counts: PacketCounts,
    /// Sequence numbers delivered or lost since the first packet, within the window or not.
    expected_total: u64,
    lost_total: u64,
}

impl<T> ReorderBuffer<T> {
    /// An empty buffer. The first packet may have any sequence number.
    pub(crate) fn new() -> Self {
        Self {
            next: None,
            window: VecDeque::new(),
            missing: 0,
            restarted: false,
            counting: false,
            counts: PacketCounts::default(),
            expected_total: 0,
            lost_total: 0,
        }
    }

    /// Opens or closes the window. Sequence numbers first seen while it is open are counted, even
    /// if their packets come later.
    pub(crate) fn set_counting(&mut self, counting: bool) {
        self.counting = counting;
    }

    /// Inserts a packet.
    pub(crate) fn insert(&mut self, now: Instant, sequence: u16, packet: T) -> Inserted {
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next);
        if ahead >= 0x8000 {
            if ahead.wrapping_neg() > JUMP_MAX {
                self.restart(sequence);
                return self.insert(now, sequence, packet);
            }
            return self.redundant();
        }
        let index = usize::from(ahead);
        if index >= self.window.len() {
            if index - self.window.len() > usize::from(JUMP_MAX) {
                self.restart(sequence);
                return self.insert(now, sequence, packet);
            }
            while self.window.len() < index {
                let counted = self.counting;
                self.window.push_back(Slot::Missing { since: now, nacked_at: None, counted });
                self.missing += 1;
            }
            self.window.push_back(Slot::Received { packet, counted: self.counting });
            self.counts.received += u64::from(self.counting);
            return Inserted::New;
        }
        match self.window.get_mut(index) {
            Some(slot @ Slot::Missing { .. }) => {
                let counted = matches!(slot, Slot::Missing { counted: true, .. });
                self.counts.received += u64::from(counted);
                self.counts.filled += u64::from(counted);
                *slot = Slot::Received { packet, counted };
                self.missing -= 1;
                Inserted::Filled
            }
            _ => self.redundant(),
        }
    }

    /// The next item in order, if it has arrived or is lost.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Delivery<T>> {
        if std::mem::take(&mut self.restarted) {
            return Some(Delivery::Restart);
        }
        let full = self.window.len() > WINDOW_MAX;
        match self.window.front()? {
            Slot::Missing { since, .. }
                if !full && now.saturating_duration_since(*since) < LOSS_TIMEOUT =>
            {
                return None;
            }
            _ => {}
        }
        self.next = self.next.map(|next| next.wrapping_add(1));
        self.expected_total += 1;
        match self.window.pop_front()? {
            Slot::Received { packet, counted } => Some(Delivery::Packet { packet, counted }),
            Slot::Missing { counted, .. } => {
                self.missing -= 1;
                self.lost_total += 1;
                self.counts.lost += u64::from(counted);
                Some(Delivery::Lost { counted })
            }
        }
    }

    /// The sequence numbers whose NACK is due.
    pub(crate) fn packets_to_nack(&mut self, now: Instant) -> Vec<u16> {
        let mut due_now = Vec::new();
        if self.missing == 0 {
            return due_now;
        }
        let Some(next) = self.next else { return due_now };
        for (number, slot) in
            std::iter::successors(Some(next), |n| Some(n.wrapping_add(1))).zip(&mut self.window)
        {
            let Slot::Missing { since, nacked_at, .. } = slot else { continue };
            let due = nacked_at.map_or(*since + NACK_DELAY, |at| at + NACK_INTERVAL);
            if now >= due && due_now.len() < NACKS_MAX {
                *nacked_at = Some(now);
                due_now.push(number);
            }
        }
        due_now
    }

    /// Whether a packet is missing, so that [`Self::packets_to_nack`] and [`Self::pop`] need a
    /// timer.
    pub(crate) fn has_gaps(&self) -> bool {
        self.missing > 0
    }

    /// Packets lost within the window so far.
    pub(crate) fn counted_lost(&self) -> u64 {
        self.counts.lost
    }

    /// The counts. Packets that are still missing are lost.
    pub(crate) fn finish(mut self) -> PacketCounts {
        self.drop_window();
        self.counts
    }

    /// The numbers for a receiver report; `None` before the first packet.
    pub(crate) fn reception(&self) -> Option<Reception> {
        let highest_seq = self.next?.wrapping_add(self.window.len() as u16).wrapping_sub(1);
        Some(Reception { highest_seq, expected: self.expected_total, lost: self.lost_total })
    }

    fn redundant(&mut self) -> Inserted {
        self.counts.redundant += u64::from(self.counting);
        Inserted::Redundant
    }

    fn restart(&mut self, sequence: u16) {
        self.drop_window();
        self.missing = 0;
        self.next = Some(sequence);
        self.restarted = true;
        self.counts.restarts += u64::from(self.counting);
    }

    fn drop_window(&mut self) {
        for slot in self.window.drain(..) {
            self.counts.lost += u64::from(matches!(slot, Slot::Missing { counted: true, .. }));
        }
    }
}

#[cfg(test)]
mod tests;
