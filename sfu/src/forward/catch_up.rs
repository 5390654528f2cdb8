//! A viewer on its way from a cached keyframe to the present: where it is, and how fast it may go.
//!
//! The frames between go out a little faster than they came, so that a young path is not flooded and the
//! present is reached soon. While it lasts, fresh packets wait in the cache until they are reached. Called by
//! `forwarder.rs`; pure.

use std::time::{Duration, Instant};

use crate::media::packet_cache::{CACHE_PACKETS_MAX, PacketCache};
use crate::units::Bitrate;

/// A replay is this much faster than the layer itself (quality A3.3), in tenths.
const SPEED_TENTHS: u64 = 25;

/// However slow the layer: what is cached goes out within this time if it is not large, and after twice of it there
/// is no pace any more, so that nobody stays behind a layer that became faster.
const REPLAY_TIME_MAX: Duration = Duration::from_millis(50);

/// But no faster than this because of that, 20 Mbit/s: a path that does not carry it would lose the picture.
const BYTES_PER_MS_MAX: u64 = 2_500;

/// What may leave at once: timers are not finer.
const QUANTUM: Duration = Duration::from_millis(5);

/// Where the replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// The next packet to go out.
    next: u64,
    /// One past the last, if it is one keyframe and no more.
    end: Option<u64>,
    /// When the next packet is due.
    due: Instant,
    bytes_per_ms: u64,
    /// Until then there is a pace.
    paced_until: Instant,
}

impl CatchUp {
    /// From this packet on, as fast as can be.
    pub fn at_once(now: Instant, first: u64, end: Option<u64>) -> Self {
        Self { next: first, end, due: now, bytes_per_ms: 1, paced_until: now }
    }

    /// From this packet on; `bytes` are cached of a layer that has this bitrate.
    pub fn paced(
        now: Instant,
        first: u64,
        end: Option<u64>,
        bytes: usize,
        bitrate: Bitrate,
    ) -> Self {
        let by_rate = bitrate.0 / 8 * SPEED_TENTHS / 10 / 1_000;
        let by_time = (bytes as u64 / REPLAY_TIME_MAX.as_millis() as u64).min(BYTES_PER_MS_MAX);
        let bytes_per_ms = by_rate.max(by_time).max(1);
        Self { next: first, end, due: now, bytes_per_ms, paced_until: now + REPLAY_TIME_MAX * 2 }
    }

    /// The next packet that may go now, at most the newest one that is here.
    pub fn poll(&self, now: Instant, newest: u64) -> Option<u64> {
        let due = self.due <= now + QUANTUM || self.paced_until <= now;
        (due && !self.is_done(newest)).then_some(self.next)
    }

    /// It went, or is not there and left out.
    pub fn advance(&mut self, now: Instant, bytes: usize) {
        self.next += 1;
        let micros = bytes as u64 * 1_000 / self.bytes_per_ms;
        // What was not used does not add up.
        self.due = (self.due.max(now) + Duration::from_micros(micros)).min(self.paced_until);
    }

    /// Whether a packet is still ahead.
    pub fn is_before(&self, ext_seq: u64) -> bool {
        ext_seq >= self.next
    }

    /// Whether all is out that there is. Numbers that jumped leave nothing to catch up with.
    pub fn is_done(&self, newest: u64) -> bool {
        match self.end {
            Some(end) => self.next >= end,
            None => self.next > newest || newest - self.next >= CACHE_PACKETS_MAX as u64,
        }
    }

    /// Whether it is one keyframe and no more.
    pub fn is_poster(&self) -> bool {
        self.end.is_some()
    }

    /// When [`Self::poll`] has more.
    pub fn next_timeout(&self) -> Instant {
        self.due
    }
}

/// What lies between a cached keyframe and the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Extended number of the first packet.
    pub first: u64,
    /// Of the newest.
    pub newest: u64,
    /// Frames from one to the other.
    pub frames: u32,
    /// Payload bytes.
    pub bytes: usize,
}

impl Tail {
    /// From the packet `first` on; `None` if one is missing or there are more than `packets_max`.
    pub fn find(ring: &PacketCache, first: u64, packets_max: usize) -> Option<Self> {
        let newest = ring.newest();
        let count = newest.checked_sub(first)?;
        if count >= packets_max as u64 {
            return None;
        }
        let mut tail = Self { first, newest, frames: 0, bytes: 0 };
        let mut timestamp = None;
        for ext_seq in first..=newest {
            let meta = ring.get(ext_seq)?.meta()?;
            tail.bytes += usize::from(meta.payload_len);
            if timestamp.replace(meta.timestamp) != Some(meta.timestamp) {
                tail.frames += 1;
            }
        }
        Some(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Packet, PacketMeta};
    use crate::rtp::codec::FrameInfo;
    use std::sync::Arc;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_goes_two_and_a_half_times_as_fast_as_the_layer() {
        let start = Instant::now();
        // 800 kbit/s are 100 bytes per ms; nothing else hurries.
        let mut way = CatchUp::paced(start, 100, None, 1_000, Bitrate(800_000));
        let mut sent = Vec::new();
        for ms in 0..40 {
            while let Some(ext_seq) = way.poll(start + MS * ms, 115) {
                sent.push(ms);
                assert_eq!(ext_seq, 99 + sent.len() as u64);
                way.advance(start + MS * ms, 1_000);
            }
        }
        assert_eq!(sent, [0, 0, 3, 7, 11, 15, 19, 23, 27, 31, 35, 39]);
        assert_eq!(way.next_timeout(), start + 48 * MS);
    }

    #[test]
    fn a_slow_layer_s_picture_is_out_at_once_all_the_same() {
        let start = Instant::now();
        let mut way = CatchUp::paced(start, 100, Some(150), 50_000, Bitrate(10_000));
        let mut ms = 0;
        while !way.is_done(1_000) {
            while way.poll(start + MS * ms, 1_000).is_some() {
                way.advance(start + MS * ms, 1_000);
            }
            ms += 1;
        }
        assert!((40..=50).contains(&ms), "{ms} ms");
        assert!(way.is_poster() && !way.is_before(149) && way.is_before(150));
    }

    #[test]
    fn nobody_stays_behind_a_layer_that_became_faster() {
        let start = Instant::now();
        let mut way = CatchUp::paced(start, 100, None, 100, Bitrate(10_000));
        let mut newest = 100;
        for ms in 0..=100 {
            newest += 1;
            while way.poll(start + MS * ms, newest).is_some() {
                way.advance(start + MS * ms, 1_000);
            }
            assert_eq!(way.is_done(newest), ms >= 95, "after {ms} ms");
        }
        let once = CatchUp::at_once(start, 7, None);
        assert_eq!(once.poll(start, 9), Some(7));
    }

    #[test]
    fn a_tail_is_whole_or_none() {
        let mut ring = PacketCache::new();
        let mut insert = |ext_seq: u64, timestamp| {
            let mut packet = Packet::with_capacity(100);
            packet.describe(PacketMeta {
                ext_seq,
                timestamp,
                marker: false,
                red: false,
                payload_start: 12,
                payload_len: 50,
                prefix_len: 0,
                frame: FrameInfo::default(),
                exts: [None; 4],
                arrival: Instant::now(),
            });
            ring.insert(Arc::new(packet), drop);
        };
        for (ext_seq, timestamp) in [(10, 0), (11, 0), (12, 5), (14, 9)] {
            insert(ext_seq, timestamp);
        }
        insert(15, 9);
        assert_eq!(Tail::find(&ring, 10, 400), None, "13 is missing");
        let ring_of = |first| Tail::find(&ring, first, 2);
        assert_eq!(ring_of(14), Some(Tail { first: 14, newest: 15, frames: 1, bytes: 100 }));
        assert_eq!(ring_of(13), None);
        assert_eq!(ring_of(20), None);
    }
}
