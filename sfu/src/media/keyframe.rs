//! The last keyframe of one incoming layer, kept for viewers that join or change layers.
//!
//! Where the present group of pictures begins, and the whole keyframe itself, which outlives the replay
//! cache: a publisher with a keyframe every four seconds still has a picture for whoever comes. Only
//! handles to packets, no copies. Called by `worker/stream.rs`; knows nothing of viewers.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::packet::{Packet, PacketMeta};
use super::packet_cache::PacketCache;
use crate::codec::Codec;

/// Packets of a keyframe; a larger one is not kept (quality A3.3).
pub const KEYFRAME_PACKETS_MAX: usize = 400;

/// Payload bytes of a keyframe; a larger one is not kept (quality A3.3).
pub const KEYFRAME_BYTES_MAX: usize = 512 * 1024;

/// A picture older than this is not shown to anybody any more, and dropped.
pub const KEYFRAME_AGE_MAX: Duration = Duration::from_secs(12);

/// Whether a decoder that knows nothing can begin at this packet.
pub fn can_start(codec: Codec, meta: &PacketMeta, inband_parameter_sets: bool) -> bool {
    if meta.payload_len == 0 {
        return false;
    }
    match codec {
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => true,
        // Parameter sets come in packets of their own before the picture: start with them, not
        // with a picture whose sets are behind us. Only an SPS tells the size.
        Codec::H264 | Codec::H265 => {
            let complete = meta.frame.resolution.is_some() || !inband_parameter_sets;
            // A descriptor marks the first packet of the frame, and the payload may be encrypted.
            meta.frame.keyframe && (complete || meta.frame.described)
        }
        Codec::Vp8 | Codec::Vp9 | Codec::Av1 => meta.frame.keyframe,
    }
}

/// The keyframe of one layer.
#[derive(Debug, Default)]
pub struct KeyframeCache {
    /// The newest keyframe that has begun.
    begun: Option<Begun>,
    whole: Option<Keyframe>,
    /// The one before, until the next sweep: somebody may just be getting it.
    replaced: Option<Keyframe>,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    first: u64,
    timestamp: u32,
    /// The packet that ends it, once it came.
    last: Option<u64>,
    /// Whole, or too large: nothing more is to be found out.
    settled: bool,
    /// A packet that was missing at the last look.
    missing: Option<u64>,
    /// It came before this worker had viewers; there may be a hole behind it for good.
    seeded: bool,
}

/// A keyframe of which no packet is missing.
#[derive(Debug)]
pub struct Keyframe {
    /// In order, without a hole.
    packets: Vec<Arc<Packet>>,
    first: u64,
    arrival: Instant,
}

impl Keyframe {
    /// Extended number of its first packet.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// One past its last.
    pub fn end(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// When its first packet came.
    pub fn arrival(&self) -> Instant {
        self.arrival
    }

    /// One of its packets.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        self.packets.get(usize::try_from(ext_seq.checked_sub(self.first)?).ok()?)
    }

    /// Its packets.
    pub fn packets(&self) -> &[Arc<Packet>] {
        &self.packets
    }

    /// Payload bytes of all packets.
    pub fn bytes(&self) -> usize {
        self.packets.iter().filter_map(|p| p.meta()).map(|m| usize::from(m.payload_len)).sum()
    }
}

impl KeyframeCache {
    /// Reads what the next packet needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box(self.begun.map(|begun| begun.timestamp));
    }

    /// A packet was put into `ring`; `starts` tells whether a decoder can begin at it.
    pub fn on_packet(&mut self, meta: &PacketMeta, starts: bool, ring: &PacketCache) {
        let of_this = self.begun.is_some_and(|begun| begun.timestamp == meta.timestamp);
        if starts && !of_this && self.begun.is_none_or(|begun| begun.first < meta.ext_seq) {
            self.begun = Some(Begun {
                first: meta.ext_seq,
                timestamp: meta.timestamp,
                last: None,
                settled: false,
                missing: None,
                seeded: false,
            });
        } else if !of_this {
            return;
        }
        let Some(begun) = &mut self.begun else { return };
        if starts && meta.ext_seq < begun.first {
            // Overtaken on its way.
            begun.first = meta.ext_seq;
        }
        if meta.marker {
            begun.last = Some(meta.ext_seq);
        }
        // One look for each packet that was missed, so that no publisher makes it dear.
        let news = meta.marker || begun.missing == Some(meta.ext_seq);
        let Some(last) = begun.last.filter(|_| news && !begun.settled) else { return };
        match collect(ring, begun.first, last) {
            Ok(keyframe) => {
                begun.settled = true;
                self.replaced = self.whole.replace(keyframe);
            }
            Err(missing) => {
                begun.missing = missing;
                begun.settled = missing.is_none();
            }
        }
    }

    /// The present group came before this worker had viewers.
    pub fn mark_prefilled(&mut self) {
        if let Some(begun) = &mut self.begun {
            begun.seeded = true;
        }
    }

    /// Whether the present group came before this worker had viewers.
    pub fn is_prefilled(&self) -> bool {
        self.begun.is_some_and(|begun| begun.seeded)
    }

    /// Extended number of the packet that the present group of pictures begins with, whether all of it
    /// is here or not.
    pub fn begins(&self) -> Option<u64> {
        self.begun.map(|begun| begun.first)
    }

    /// The newest whole keyframe.
    pub fn whole(&self) -> Option<&Keyframe> {
        self.whole.as_ref()
    }

    /// A packet of the newest whole keyframe, or of the one before.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        let mut kept = self.whole.iter().chain(&self.replaced);
        kept.find_map(|keyframe| keyframe.get(ext_seq))
    }

    /// Drops what is too old.
    pub fn expire(&mut self, now: Instant) {
        self.replaced = None;
        let old = |keyframe: &Keyframe| {
            now.saturating_duration_since(keyframe.arrival) > KEYFRAME_AGE_MAX
        };
        if self.whole.as_ref().is_some_and(old) {
            self.whole = None;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Handles to all packets from the first to the last. Else the first that is missing, or none if they are too
/// many or too large.
fn collect(ring: &PacketCache, first: u64, last: u64) -> Result<Keyframe, Option<u64>> {
    let count = last.checked_sub(first).ok_or(None)?;
    if count >= KEYFRAME_PACKETS_MAX as u64 {
        return Err(None);
    }
    let mut bytes = 0;
    for ext_seq in first..=last {
        let meta = ring.get(ext_seq).and_then(|packet| packet.meta()).ok_or(Some(ext_seq))?;
        bytes += usize::from(meta.payload_len);
    }
    if bytes > KEYFRAME_BYTES_MAX {
        return Err(None);
    }
    let packets: Vec<Arc<Packet>> =
        (first..=last).filter_map(|ext_seq| ring.get(ext_seq).cloned()).collect();
    let arrival = packets.first().and_then(|packet| packet.meta()).ok_or(None)?.arrival;
    Ok(Keyframe { packets, first, arrival })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::codec::FrameInfo;

    /// A layer's ring and keyframe, fed by (number, timestamp, starts a keyframe, ends its frame).
    struct Layer {
        now: Instant,
        ring: PacketCache,
        cache: KeyframeCache,
        payload_len: u16,
    }

    impl Layer {
        fn new() -> Self {
            let (ring, cache) = (PacketCache::new(), KeyframeCache::default());
            Self { now: Instant::now(), ring, cache, payload_len: 1_000 }
        }

        fn feed(&mut self, packets: &[(u64, u32, bool, bool)]) {
            for &(ext_seq, timestamp, keyframe, marker) in packets {
                let mut packet = Packet::with_capacity(1_500);
                let meta = PacketMeta {
                    ext_seq,
                    timestamp,
                    marker,
                    red: false,
                    payload_start: 12,
                    payload_len: self.payload_len,
                    prefix_len: 0,
                    frame: FrameInfo { keyframe, ..FrameInfo::default() },
                    exts: [None; 4],
                    arrival: self.now,
                };
                packet.describe(meta);
                self.ring.insert(Arc::new(packet), drop);
                let starts = can_start(Codec::Vp8, &meta, false);
                self.cache.on_packet(&meta, starts, &self.ring);
            }
        }

        fn whole(&self) -> Option<(u64, u64)> {
            self.cache.whole().map(|keyframe| (keyframe.first(), keyframe.end()))
        }
    }

    #[test]
    fn a_keyframe_is_whole_when_its_last_missing_packet_came() {
        let mut layer = Layer::new();
        layer.feed(&[(100, 9, true, false), (102, 9, false, true)]);
        assert_eq!((layer.cache.begins(), layer.whole()), (Some(100), None));
        layer.feed(&[(103, 12, false, true), (101, 9, false, false)]);
        assert_eq!(layer.whole(), Some((100, 103)));
        assert_eq!(layer.cache.whole().map(Keyframe::bytes), Some(3_000));
        // The next one has a hole: the old picture stays, but the new group has begun.
        layer.feed(&[(110, 20, true, false), (112, 20, false, true), (113, 23, false, true)]);
        assert_eq!((layer.cache.begins(), layer.whole()), (Some(110), Some((100, 103))));
    }

    #[test]
    fn order_does_not_matter() {
        let mut layer = Layer::new();
        layer.feed(&[(101, 9, false, false), (100, 9, true, false), (102, 9, false, true)]);
        assert_eq!(layer.whole(), Some((100, 103)));
        // Parameter sets that were overtaken by the picture, which starts a frame too.
        layer.feed(&[(111, 20, true, true), (110, 20, true, false)]);
        assert_eq!((layer.cache.begins(), layer.whole()), (Some(110), Some((111, 112))));
    }

    #[test]
    fn it_outlives_the_ring_but_not_for_ever() {
        let mut layer = Layer::new();
        layer.feed(&[(100, 9, true, true)]);
        layer.now += Duration::from_secs(4);
        layer.feed(&[(101, 360_000, false, true)]);
        assert!(layer.ring.get(100).is_none());
        let keyframe = layer.cache.whole().expect("it is kept");
        assert!(keyframe.get(100).is_some() && keyframe.get(101).is_none());
        assert!(keyframe.get(99).is_none());
        layer.cache.expire(layer.now);
        assert!(layer.cache.whole().is_some());
        layer.cache.expire(layer.now + KEYFRAME_AGE_MAX);
        assert!(layer.cache.whole().is_none());
    }

    #[test]
    fn size_is_bounded() {
        for (count, payload_len, kept) in [
            (KEYFRAME_PACKETS_MAX, 1_000, true),
            (KEYFRAME_PACKETS_MAX + 1, 1_000, false),
            (KEYFRAME_BYTES_MAX / 1_400, 1_400, true),
            (KEYFRAME_BYTES_MAX / 1_400 + 1, 1_400, false),
        ] {
            let mut layer = Layer::new();
            layer.payload_len = payload_len;
            let count = count as u64;
            let packets: Vec<_> = (0..count).map(|n| (n, 9, n == 0, n + 1 == count)).collect();
            layer.feed(&packets);
            assert_eq!(layer.whole().is_some(), kept, "{count} x {payload_len}");
        }
    }
}
