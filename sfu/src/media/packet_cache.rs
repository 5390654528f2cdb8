//! Packet cache: the last packets of one incoming layer, found by sequence number.
//!
//! One cache serves retransmissions to every viewer (architecture D6). The worker that owns the
//! publisher fills it from its pool; a worker that has only viewers keeps handles to the same
//! buffers. Called by `worker/`; never knows viewers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::warm::warm;

use super::packet::Packet;

/// Maximum packets per layer, a power of two. At the limit the oldest is evicted.
pub const CACHE_PACKETS_MAX: usize = 2048;

/// Maximum payload bytes per layer. At the limit the oldest packets are evicted.
pub const CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Maximum age of a packet. Older packets are evicted.
pub const CACHE_AGE_MAX: Duration = Duration::from_millis(1500);

/// Minimum time between two searches for expired packets: reading one that was not used for long
/// waits for memory.
const EXPIRE_EVERY: Duration = Duration::from_millis(10);

/// The last packets of one layer by extended sequence number.
#[derive(Debug)]
pub struct PacketCache {
    slots: Vec<Option<Arc<Packet>>>,
    /// Lowest number that may still be held.
    oldest: u64,
    /// One past the highest number seen.
    next: u64,
    /// Whether the packet before `oldest` was received.
    had_before_oldest: bool,
    packets: usize,
    bytes: usize,
    expired_at: Option<Instant>,
}

impl Default for PacketCache {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketCache {
    /// Creates an empty cache; its slots are allocated with the first packet.
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            oldest: 0,
            next: 0,
            had_before_oldest: false,
            packets: 0,
            bytes: 0,
            expired_at: None,
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.slots.get(slot(self.next)).map(Option::is_some));
        let oldest = self.slots.get(slot(self.oldest)).and_then(Option::as_ref);
        warm!(oldest.map(|packet| packet.warm()));
    }

    /// Keeps a packet. Returns false if it is held already or older than the window; the packet is
    /// then passed to `evicted`, as are those that are evicted for it.
    pub fn insert(&mut self, packet: Arc<Packet>, mut evicted: impl FnMut(Arc<Packet>)) -> bool {
        let Some(meta) = packet.meta() else {
            evicted(packet);
            return false;
        };
        let (seq, now) = (meta.ext_seq, meta.arrival);
        if self.slots.is_empty() {
            self.slots.resize(CACHE_PACKETS_MAX, None);
            self.oldest = seq;
            self.next = seq;
            self.had_before_oldest = false;
        }
        let window = CACHE_PACKETS_MAX as u64;
        if seq >= self.next {
            let keep_from = (seq + 1).saturating_sub(window);
            if keep_from >= self.next {
                // A jump past everything that is held: no viewer can request any of it any more.
                self.evict_before(self.next, &mut evicted);
                self.oldest = keep_from;
                self.had_before_oldest = false;
            } else {
                self.evict_before(keep_from, &mut evicted);
            }
            self.next = seq + 1;
        } else if seq < self.oldest {
            // An early packet that was reordered, while the window has room below.
            if self.next - seq > window {
                evicted(packet);
                return false;
            }
            self.oldest = seq;
            self.had_before_oldest = false;
        }
        self.bytes += usize::from(meta.payload_len);
        self.packets += 1;
        let index = slot(seq);
        match self.slots.get_mut(index) {
            Some(empty @ None) => *empty = Some(packet),
            _ => {
                self.bytes -= usize::from(meta.payload_len);
                self.packets -= 1;
                evicted(packet);
                return false;
            }
        }
        while self.bytes > CACHE_BYTES_MAX && self.oldest < seq {
            self.evict_before(self.oldest + 1, &mut evicted);
        }
        let since = self.expired_at.map(|at| now.saturating_duration_since(at));
        if since.is_none_or(|since| since >= EXPIRE_EVERY) {
            self.expire(now, evicted);
        }
        true
    }

    /// The packet with this number, if it is still held.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        let packet = self.slots.get(slot(ext_seq))?.as_ref()?;
        (packet.meta()?.ext_seq == ext_seq).then_some(packet)
    }

    /// Evicts packets older than [`CACHE_AGE_MAX`] and passes them to `evicted`.
    pub fn expire(&mut self, now: Instant, mut evicted: impl FnMut(Arc<Packet>)) {
        self.expired_at = Some(now);
        while self.packets > 0 {
            let held = self.slots.get(slot(self.oldest)).and_then(Option::as_ref);
            let expired = held
                .and_then(|packet| packet.meta())
                .is_none_or(|meta| now.saturating_duration_since(meta.arrival) > CACHE_AGE_MAX);
            if !expired {
                break;
            }
            self.evict_before(self.oldest + 1, &mut evicted);
        }
    }

    /// Arrival of the oldest packet. What is missing before it is not held any more.
    pub fn oldest_arrival(&mut self) -> Option<Instant> {
        while self.packets > 0 {
            if let Some(packet) = self.slots.get(slot(self.oldest)).and_then(Option::as_ref) {
                return packet.meta().map(|meta| meta.arrival);
            }
            self.evict_before(self.oldest + 1, &mut drop);
        }
        None
    }

    /// Evicts at most `max` packets, the oldest first, of those that came at `until` or before.
    /// Returns their number.
    pub fn evict_until(
        &mut self,
        until: Instant,
        max: usize,
        mut evicted: impl FnMut(Arc<Packet>),
    ) -> usize {
        let mut count = 0;
        while count < max && self.oldest_arrival().is_some_and(|at| at <= until) {
            self.evict_before(self.oldest + 1, &mut evicted);
            count += 1;
        }
        count
    }

    /// Evicts all packets; the next packet may have any number.
    pub fn clear(&mut self, mut evicted: impl FnMut(Arc<Packet>)) {
        for packet in self.slots.drain(..).flatten() {
            evicted(packet);
        }
        *self = Self::new();
    }

    /// Number of packets held from this number on.
    pub fn held_from(&self, first: u64) -> usize {
        (first.max(self.oldest)..self.next).filter(|ext_seq| self.get(*ext_seq).is_some()).count()
    }

    /// Highest number seen; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Whether the packet before this one, which is held, was received; it may have been evicted.
    pub fn had_before(&self, ext_seq: u64) -> bool {
        match ext_seq == self.oldest {
            true => self.had_before_oldest,
            false => ext_seq.checked_sub(1).is_some_and(|before| self.get(before).is_some()),
        }
    }

    /// Packets held.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Payload bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn evict_before(&mut self, end: u64, evicted: &mut impl FnMut(Arc<Packet>)) {
        while self.oldest < end {
            let packet = self.slots.get_mut(slot(self.oldest)).and_then(Option::take);
            self.had_before_oldest = packet.is_some();
            if let Some(packet) = packet {
                self.packets -= 1;
                self.bytes -= usize::from(packet.meta().map_or(0, |meta| meta.payload_len));
                evicted(packet);
            }
            self.oldest += 1;
        }
    }
}

fn slot(ext_seq: u64) -> usize {
    (ext_seq % CACHE_PACKETS_MAX as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::packet::PacketMeta;
    use crate::rtp::codec::FrameInfo;

    fn packet(ext_seq: u64, payload_len: u16, arrival: Instant) -> Arc<Packet> {
        let mut packet = Packet::with_capacity(1500);
        packet.describe(PacketMeta {
            ext_seq,
            timestamp: 0,
            marker: false,
            red: false,
            payload_start: 12,
            payload_len,
            prefix_len: 0,
            frame: FrameInfo::default(),
            exts: [None; 4],
            arrival,
        });
        Arc::new(packet)
    }

    #[test]
    fn keeps_the_last_window_and_gives_back_the_rest() {
        let now = Instant::now();
        let mut ring = PacketCache::new();
        let mut evicted = Vec::new();
        let count = CACHE_PACKETS_MAX as u64 + 10;
        for seq in 0..count {
            assert!(ring.insert(packet(seq, 100, now), |p| evicted.push(p)));
        }
        assert_eq!(evicted.len(), 10);
        assert!(ring.get(9).is_none());
        assert!(ring.get(10).is_some());
        assert_eq!(ring.packets(), CACHE_PACKETS_MAX);
        assert!(!ring.insert(packet(5, 100, now), drop), "older than the window");
        assert!(!ring.insert(packet(20, 100, now), drop), "held already");
        assert_eq!(ring.packets(), CACHE_PACKETS_MAX);
    }

    #[test]
    fn bytes_and_age_are_bounded() {
        let now = Instant::now();
        let mut ring = PacketCache::new();
        for seq in 0..2000 {
            ring.insert(packet(seq, 1400, now), drop);
        }
        assert!(ring.bytes() <= CACHE_BYTES_MAX);
        assert!(ring.bytes() > CACHE_BYTES_MAX - 1400);
        let later = now + CACHE_AGE_MAX;
        ring.insert(packet(2000, 1400, later), drop);
        assert!(ring.packets() > 1, "exactly at the age limit is kept");
        ring.expire(later + Duration::from_millis(1), drop);
        assert!(ring.had_before(2000), "it was held");
        // All are evicted, and one is missing behind them.
        let late = later + CACHE_AGE_MAX * 2;
        ring.insert(packet(2002, 1400, late), drop);
        assert!(ring.packets() == 1 && !ring.had_before(2002));
        assert_eq!((ring.packets(), ring.bytes()), (1, 1400));
    }

    #[test]
    fn oldest_packets_are_evicted_up_to_a_time_and_a_number() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut ring = PacketCache::new();
        assert_eq!(ring.oldest_arrival(), None);
        // Number 12 is missing, and 13 was late.
        for (seq, ms) in [(10, 1), (11, 2), (14, 4), (13, 5), (15, 6)] {
            ring.insert(packet(seq, 10, at(ms)), drop);
        }
        let mut evicted = Vec::new();
        let mut evict = |ring: &mut PacketCache, until, max| {
            evicted.clear();
            let mut note = |packet: Arc<Packet>| evicted.extend(packet.meta().map(|m| m.ext_seq));
            let count = ring.evict_until(at(until), max, &mut note);
            assert_eq!(count, evicted.len());
            evicted.clone()
        };
        assert_eq!(evict(&mut ring, 2, 1), [10]);
        assert_eq!(evict(&mut ring, 4, 9), [11], "13 came later, and goes before 14");
        assert_eq!(ring.oldest_arrival(), Some(at(5)));
        assert_eq!((ring.packets(), ring.bytes(), ring.had_before(13)), (3, 30, false));
        assert!(ring.insert(packet(12, 10, at(7)), drop), "repaired");
        assert_eq!(evict(&mut ring, 9, 9), [12, 13, 14, 15]);
        assert_eq!((ring.packets(), ring.oldest_arrival(), ring.newest()), (0, None, 15));
    }

    #[test]
    fn gaps_reordering_and_jumps() {
        let now = Instant::now();
        let mut ring = PacketCache::new();
        ring.insert(packet(100, 10, now), drop);
        ring.insert(packet(98, 10, now), drop);
        assert!(ring.get(98).is_some() && ring.get(99).is_none() && ring.get(100).is_some());
        assert!(!ring.had_before(98) && ring.had_before(99) && !ring.had_before(100));
        ring.insert(packet(50_000, 10, now), drop);
        assert!(ring.get(100).is_none() && !ring.had_before(50_000));
        assert_eq!(ring.packets(), 1);
        ring.clear(drop);
        assert_eq!((ring.packets(), ring.bytes()), (0, 0));
        assert!(ring.insert(packet(7, 10, now), drop), "starts anywhere after a clear");
    }
}
