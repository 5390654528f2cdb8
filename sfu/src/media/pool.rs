//! Pool of one worker's packet buffers, which are reused instead of freed.
//!
//! A buffer is handed out only while nothing else holds it (`Arc::get_mut`), so a packet that
//! another worker still reads is never touched. The pool keeps a handle to each of its buffers,
//! therefore the last handle is always dropped here and never on another core.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::warm::warm;

use super::packet::{PACKET_BYTES_MAX, Packet};

/// Bytes of a small buffer; Opus packets fit.
const SMALL_BYTES: usize = 320;

/// Bytes of one cache line.
const CACHE_LINE_BYTES: usize = 64;

/// Returned buffers that are tried before a new one is allocated. Readers release in order, so the
/// oldest are free first.
const PROBES: usize = 8;

/// Part of the buffers that publishers may only use while they hold no more than their share: one of
/// eight.
const RESERVE: usize = 8;

/// Share of the buffers that one publisher may hold while the pool is short: one of eight, 8,192 by
/// default. Four layers at any rate hold less, because each keeps 2,048 packets at most.
const SHARE: usize = 8;

/// Bounded pool in two size classes. At the limit [`PacketPool::take`] returns `None` and the
/// packet is dropped with `DropReason::PoolExhausted`. Of the last [`RESERVE`] nothing is given to a
/// publisher that holds more than its [`SHARE`], so that a fast one does not stop the others.
#[derive(Debug)]
pub struct PacketPool {
    small: SizeClass,
    large: SizeClass,
}

impl PacketPool {
    /// Creates a pool of at most `limit` buffers of each class; memory is allocated when needed.
    pub fn new(limit: usize) -> Self {
        Self {
            small: SizeClass::new(SMALL_BYTES, limit),
            large: SizeClass::new(PACKET_BYTES_MAX, limit),
        }
    }

    /// Reads the buffer that is next for this size, so that it is in the CPU caches by then.
    pub fn warm(&self, bytes: usize) {
        let class = if bytes <= SMALL_BYTES { &self.small } else { &self.large };
        if let Some(packet) = class.free.last() {
            packet.warm();
            for line in packet.buffer().chunks(CACHE_LINE_BYTES) {
                warm!(line.first().copied());
            }
        }
    }

    /// A buffer for `bytes` bytes that nothing else holds: `Arc::get_mut` on it succeeds. `held` counts
    /// the buffers that its publisher holds already; it is called only while the pool is short.
    pub fn take(&mut self, bytes: usize, held: impl FnOnce() -> usize) -> Option<Arc<Packet>> {
        let class = match bytes {
            0..=SMALL_BYTES => &mut self.small,
            _ if bytes <= PACKET_BYTES_MAX => &mut self.large,
            _ => return None,
        };
        let has_share = || held() <= class.limit / SHARE;
        match class.is_short() && !has_share() {
            true => None,
            false => class.take(),
        }
    }

    /// Returns a buffer; other holders may still be reading it.
    pub fn give(&mut self, packet: Arc<Packet>) {
        match packet.buffer().len() {
            SMALL_BYTES => self.small.give(packet),
            _ => self.large.give(packet),
        }
    }

    /// Buffers allocated so far, in both classes.
    #[cfg(feature = "internals")]
    pub fn allocated(&self) -> usize {
        self.small.allocated + self.large.allocated
    }
}

#[derive(Debug)]
struct SizeClass {
    bytes: usize,
    limit: usize,
    allocated: usize,
    /// Buffers that nothing else holds.
    free: Vec<Arc<Packet>>,
    /// Returned while others may still read them, oldest first.
    returned: VecDeque<Arc<Packet>>,
}

impl SizeClass {
    fn new(bytes: usize, limit: usize) -> Self {
        Self { bytes, limit, allocated: 0, free: Vec::new(), returned: VecDeque::new() }
    }

    /// Whether no more is left than [`RESERVE`]. Buffers that others still read count as left: which
    /// of them are free is not known before they are tried.
    fn is_short(&self) -> bool {
        let left = self.limit - self.allocated + self.free.len() + self.returned.len();
        left <= self.limit / RESERVE
    }

    fn take(&mut self) -> Option<Arc<Packet>> {
        if let Some(packet) = self.free.pop() {
            return Some(packet);
        }
        for _ in 0..PROBES.min(self.returned.len()) {
            let mut packet = self.returned.pop_front()?;
            if Arc::get_mut(&mut packet).is_some() {
                return Some(packet);
            }
            self.returned.push_back(packet);
        }
        if self.allocated >= self.limit {
            return None;
        }
        self.allocated += 1;
        Some(Arc::new(Packet::with_capacity(self.bytes)))
    }

    fn give(&mut self, mut packet: Arc<Packet>) {
        if Arc::get_mut(&mut packet).is_some() {
            self.free.push(packet);
        } else {
            self.returned.push_back(packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_that_is_still_read_is_not_handed_out_again() {
        let mut pool = PacketPool::new(2);
        let first = pool.take(1200, || 0).unwrap();
        let reader = Arc::clone(&first);
        pool.give(first);
        let mut second = pool.take(1200, || 0).unwrap();
        assert!(Arc::get_mut(&mut second).is_some());
        assert!(!Arc::ptr_eq(&reader, &second));
        assert_eq!(pool.allocated(), 2);
        assert!(pool.take(1200, || 0).is_none(), "at the limit");
        drop(reader);
        assert!(pool.take(1200, || 0).is_some(), "the reader is done");
        assert_eq!(pool.allocated(), 2);
    }

    #[test]
    fn classes_by_size_and_nothing_beyond_the_largest() {
        let mut pool = PacketPool::new(4);
        assert_eq!(pool.take(100, || 0).unwrap().buffer().len(), SMALL_BYTES);
        assert_eq!(pool.take(SMALL_BYTES + 1, || 0).unwrap().buffer().len(), PACKET_BYTES_MAX);
        assert!(pool.take(PACKET_BYTES_MAX + 1, || 0).is_none());
    }

    #[test]
    fn last_buffers_are_left_to_publishers_within_their_share() {
        let mut pool = PacketPool::new(16);
        let mut taken: Vec<_> = (0..14).map(|n| pool.take(1200, || n).unwrap()).collect();
        assert!(pool.take(1200, || 3).is_none(), "it holds more than two, and two are left");
        taken.push(pool.take(1200, || 2).unwrap());
        taken.push(pool.take(1200, || 0).unwrap());
        assert!(pool.take(1200, || 0).is_none(), "at the limit");
        assert!(pool.take(100, || 3).is_some(), "the other class has enough");
        taken.drain(..3).for_each(|packet| pool.give(packet));
        assert!(pool.take(1200, || 16).is_some(), "three are left");
    }
}
