//! Catch-up of one viewer: its position between a cached keyframe and the present, and its pace.
//!
//! The cached frames are sent a little faster than they came. So a new path is not flooded, and the
//! viewer reaches the present soon. While a catch-up lasts, packets that arrive wait in the cache
//! until it reaches them. Called by `forwarder.rs`; pure.

use std::time::{Duration, Instant};

use crate::media::packet_cache::{CACHE_PACKETS_MAX, PacketCache};
use crate::units::Bitrate;

/// Speed of a catch-up relative to the layer's own rate (quality A3.3), in tenths.
const SPEED_TENTHS: u64 = 25;

/// Time in which a catch-up of moderate size ends, however slow the layer is. After twice this time
/// packets are not paced any more, so that no viewer stays behind a layer whose rate rose.
const CATCH_UP_TIME_MAX: Duration = Duration::from_millis(50);

/// Maximum pace that [`CATCH_UP_TIME_MAX`] may lead to: 20 Mbit/s. On a path with less capacity the
/// keyframe would be lost.
const BYTES_PER_MS_MAX: u64 = 2_500;

/// Time by which a packet may leave early, because timers have no finer resolution.
const QUANTUM: Duration = Duration::from_millis(5);

/// Position and pace of a catch-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// Extended number of the next packet to send.
    next: u64,
    /// One past the last packet, if only one keyframe is sent (a poster).
    end: Option<u64>,
    /// Time when the next packet is due.
    due: Instant,
    bytes_per_ms: u64,
    /// Time until which packets are paced.
    paced_until: Instant,
}

impl CatchUp {
    /// Starts at packet `first`, without pacing.
    pub fn at_once(now: Instant, first: u64, end: Option<u64>) -> Self {
        Self { next: first, end, due: now, bytes_per_ms: 1, paced_until: now }
    }

    /// Starts at packet `first`, paced. `bytes` of the layer are cached, and `bitrate` is the
    /// layer's rate.
    pub fn paced(
        now: Instant,
        first: u64,
        end: Option<u64>,
        bytes: usize,
        bitrate: Bitrate,
    ) -> Self {
        let by_rate = bitrate.0 / 8 * SPEED_TENTHS / 10 / 1_000;
        let by_time = (bytes as u64 / CATCH_UP_TIME_MAX.as_millis() as u64).min(BYTES_PER_MS_MAX);
        let bytes_per_ms = by_rate.max(by_time).max(1);
        Self { next: first, end, due: now, bytes_per_ms, paced_until: now + CATCH_UP_TIME_MAX * 2 }
    }

    /// The next packet that may be sent now, up to `newest`.
    pub fn poll(&self, now: Instant, newest: u64) -> Option<u64> {
        let due = self.due <= now + QUANTUM || self.paced_until <= now;
        (due && !self.is_done(newest)).then_some(self.next)
    }

    /// Moves on behind a packet that was sent, or that is not cached and is skipped.
    pub fn advance(&mut self, now: Instant, bytes: usize) {
        self.next += 1;
        let micros = bytes as u64 * 1_000 / self.bytes_per_ms;
        // Unused send time is not saved up.
        self.due = (self.due.max(now) + Duration::from_micros(micros)).min(self.paced_until);
    }

    /// Extended number of the next packet to send.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the catch-up has yet to reach this packet.
    pub fn is_before(&self, ext_seq: u64) -> bool {
        ext_seq >= self.next
    }

    /// Whether all cached packets are sent. A jump of the publisher's numbers ends the catch-up,
    /// too.
    pub fn is_done(&self, newest: u64) -> bool {
        match self.end {
            Some(end) => self.next >= end,
            None => self.next > newest || newest - self.next >= CACHE_PACKETS_MAX as u64,
        }
    }

    /// Whether only one keyframe is sent.
    pub fn is_poster(&self) -> bool {
        self.end.is_some()
    }

    /// Time at which [`Self::poll`] has another packet.
    pub fn next_timeout(&self) -> Instant {
        self.due
    }
}

/// Cached packets from a keyframe to the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Extended number of the first packet.
    pub first: u64,
    /// Extended number of the newest packet.
    pub newest: u64,
    /// Frames between `first` and `newest`, both included. Parameter sets with a timestamp of their
    /// own are none.
    pub frames: u32,
    /// Payload bytes.
    pub bytes: usize,
}

impl Tail {
    /// The tail that begins with packet `first`. `None` if a packet is missing or there are more
    /// than `packets_max`.
    pub fn find(packets: &PacketCache, first: u64, packets_max: usize) -> Option<Self> {
        let newest = packets.newest();
        let count = newest.checked_sub(first)?;
        if count >= packets_max as u64 {
            return None;
        }
        let mut tail = Self { first, newest, frames: 0, bytes: 0 };
        let mut timestamp = None;
        for ext_seq in first..=newest {
            let meta = packets.get(ext_seq)?.meta()?;
            tail.bytes += usize::from(meta.payload_len);
            if !meta.frame.parts.is_only_sets()
                && timestamp.replace(meta.timestamp) != Some(meta.timestamp)
            {
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
    fn catch_up_is_two_and_a_half_times_as_fast_as_the_layer() {
        let start = Instant::now();
        // 800 kbit/s are 100 bytes per ms; no other limit makes it faster.
        let mut catch_up = CatchUp::paced(start, 100, None, 1_000, Bitrate(800_000));
        let mut sent = Vec::new();
        for ms in 0..40 {
            while let Some(ext_seq) = catch_up.poll(start + MS * ms, 115) {
                sent.push(ms);
                assert_eq!(ext_seq, 99 + sent.len() as u64);
                catch_up.advance(start + MS * ms, 1_000);
            }
        }
        assert_eq!(sent, [0, 0, 3, 7, 11, 15, 19, 23, 27, 31, 35, 39]);
        assert_eq!(catch_up.next_timeout(), start + 48 * MS);
    }

    #[test]
    fn keyframe_of_a_slow_layer_is_sent_within_fifty_ms() {
        let start = Instant::now();
        let mut catch_up = CatchUp::paced(start, 100, Some(150), 50_000, Bitrate(10_000));
        let mut ms = 0;
        while !catch_up.is_done(1_000) {
            while catch_up.poll(start + MS * ms, 1_000).is_some() {
                catch_up.advance(start + MS * ms, 1_000);
            }
            ms += 1;
        }
        assert!((40..=50).contains(&ms), "{ms} ms");
        assert!(catch_up.is_poster() && !catch_up.is_before(149) && catch_up.is_before(150));
    }

    #[test]
    fn viewer_does_not_stay_behind_a_layer_whose_rate_rose() {
        let start = Instant::now();
        let mut catch_up = CatchUp::paced(start, 100, None, 100, Bitrate(10_000));
        let mut newest = 100;
        for ms in 0..=100 {
            newest += 1;
            while catch_up.poll(start + MS * ms, newest).is_some() {
                catch_up.advance(start + MS * ms, 1_000);
            }
            assert_eq!(catch_up.is_done(newest), ms >= 95, "after {ms} ms");
        }
        let once = CatchUp::at_once(start, 7, None);
        assert_eq!(once.poll(start, 9), Some(7));
    }

    #[test]
    fn tail_with_a_missing_packet_is_not_used() {
        let mut packets = PacketCache::new();
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
            packets.insert(Arc::new(packet), drop);
        };
        for (ext_seq, timestamp) in [(10, 0), (11, 0), (12, 5), (14, 9)] {
            insert(ext_seq, timestamp);
        }
        insert(15, 9);
        assert_eq!(Tail::find(&packets, 10, 400), None, "13 is missing");
        let tail_from = |first| Tail::find(&packets, first, 2);
        assert_eq!(tail_from(14), Some(Tail { first: 14, newest: 15, frames: 1, bytes: 100 }));
        assert_eq!(tail_from(13), None);
        assert_eq!(tail_from(20), None);
    }
}
