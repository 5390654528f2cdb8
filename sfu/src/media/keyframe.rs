//! The last keyframe of one incoming layer, kept for viewers that join or switch layers.
//!
//! Owns the start of the current group of pictures, and the whole keyframe. It outlives the packet
//! cache: a publisher with a keyframe every four seconds still has a picture for a joining viewer.
//! Holds handles to packets, no copies. Called by `worker/stream.rs`; never knows viewers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::packet::{Packet, PacketMeta};
use super::packet_cache::PacketCache;
use crate::codec::Codec;
use crate::warm::warm;

/// Maximum packets of a keyframe; a larger one is not kept (quality A3.3).
pub const KEYFRAME_PACKETS_MAX: usize = 400;

/// Maximum payload bytes of a keyframe; a larger one is not kept (quality A3.3).
pub const KEYFRAME_BYTES_MAX: usize = 512 * 1024;

/// Age from which a keyframe is dropped, if a newer one began or the layer sends nothing. The newest
/// keyframe of a layer that sends has no limit: encoders at low frame rates send none for 25 s.
pub const KEYFRAME_AGE_MAX: Duration = Duration::from_secs(12);

/// Whether a decoder without any state can begin at this packet.
pub fn can_start(codec: Codec, meta: &PacketMeta, inband_parameter_sets: bool) -> bool {
    if meta.payload_len == 0 {
        return false;
    }
    match codec {
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => true,
        // Parameter sets come in packets of their own before the picture. Start with them, not with
        // a picture whose parameter sets were sent before. Only an SPS tells the size.
        Codec::H264 | Codec::H265 => {
            let complete = meta.frame.resolution.is_some() || !inband_parameter_sets;
            // A descriptor marks the first packet of the frame, and the payload may be encrypted.
            meta.frame.keyframe && (complete || meta.frame.described)
        }
        Codec::Vp8 | Codec::Vp9 | Codec::Av1 => meta.frame.keyframe,
    }
}

/// Keyframe cache of one layer.
#[derive(Debug, Default)]
pub struct KeyframeCache {
    /// The newest keyframe that has begun.
    begun: Option<Begun>,
    whole: Option<Keyframe>,
    /// The keyframe before, until the next call of [`Self::expire`]: a viewer may just be getting
    /// it.
    replaced: Option<Keyframe>,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    first: u64,
    timestamp: u32,
    /// Number of the last packet, once it came.
    last: Option<u64>,
    /// Whether it is whole, or too large: later packets change nothing.
    is_decided: bool,
    /// Packet that was missing at the last check.
    missing: Option<u64>,
    /// Whether it came before this worker had viewers; a gap behind it may then stay.
    is_prefilled: bool,
}

/// A complete keyframe.
#[derive(Debug)]
pub struct Keyframe {
    /// All packets in order.
    packets: Vec<Arc<Packet>>,
    first: u64,
    arrival: Instant,
}

impl Keyframe {
    /// Extended sequence number of the first packet.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Extended sequence number behind the last packet.
    pub fn end(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// Arrival of the first packet.
    pub fn arrival(&self) -> Instant {
        self.arrival
    }

    /// The packet with this number, if it is part of the keyframe.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        self.packets.get(usize::try_from(ext_seq.checked_sub(self.first)?).ok()?)
    }

    /// All packets in order.
    pub fn packets(&self) -> &[Arc<Packet>] {
        &self.packets
    }

    /// Payload bytes of all packets.
    pub fn bytes(&self) -> usize {
        self.packets.iter().filter_map(|p| p.meta()).map(|m| usize::from(m.payload_len)).sum()
    }
}

impl KeyframeCache {
    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.begun.map(|begun| begun.timestamp));
    }

    /// Records a packet that was put into `packets`; `starts` tells whether a decoder can begin at
    /// it.
    pub fn on_packet(&mut self, meta: &PacketMeta, starts: bool, packets: &PacketCache) {
        let is_same_frame = self.begun.is_some_and(|begun| begun.timestamp == meta.timestamp);
        if starts && !is_same_frame && self.begun.is_none_or(|begun| begun.first < meta.ext_seq) {
            self.begun = Some(Begun {
                first: meta.ext_seq,
                timestamp: meta.timestamp,
                last: last_of_frame(packets, meta),
                is_decided: false,
                missing: None,
                is_prefilled: false,
            });
        } else if !is_same_frame {
            return;
        }
        let Some(begun) = &mut self.begun else { return };
        if starts && meta.ext_seq < begun.first {
            // Reordered on the path.
            begun.first = meta.ext_seq;
        }
        if meta.marker {
            begun.last = Some(meta.ext_seq);
        }
        // One check for each packet that was missing, so that no publisher makes it expensive.
        let is_first = meta.ext_seq == begun.first;
        let may_complete = is_first || meta.marker || begun.missing == Some(meta.ext_seq);
        let Some(last) = begun.last.filter(|_| may_complete && !begun.is_decided) else { return };
        match collect(packets, begun.first, last) {
            Ok(keyframe) => {
                begun.is_decided = true;
                self.replaced = self.whole.replace(keyframe);
            }
            Err(NotCollected::Missing(ext_seq)) => begun.missing = Some(ext_seq),
            Err(NotCollected::TooLarge) => (begun.missing, begun.is_decided) = (None, true),
        }
    }

    /// Marks the current group of pictures as prefilled: it came before this worker had viewers.
    pub fn mark_prefilled(&mut self) {
        if let Some(begun) = &mut self.begun {
            begun.is_prefilled = true;
        }
    }

    /// Whether the current group of pictures came before this worker had viewers.
    pub fn is_prefilled(&self) -> bool {
        self.begun.is_some_and(|begun| begun.is_prefilled)
    }

    /// Extended sequence number with which the current group of pictures begins, whether all of it
    /// is here or not.
    pub fn begins(&self) -> Option<u64> {
        self.begun.map(|begun| begun.first)
    }

    /// Whether all of the newest keyframe that has begun came, or more of it than is kept.
    pub fn is_decided(&self) -> bool {
        self.begun.is_some_and(|begun| begun.is_decided)
    }

    /// The newest complete keyframe.
    pub fn whole(&self) -> Option<&Keyframe> {
        self.whole.as_ref()
    }

    /// A packet of the newest complete keyframe, or of the one before.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        let mut kept = self.whole.iter().chain(&self.replaced);
        kept.find_map(|keyframe| keyframe.get(ext_seq))
    }

    /// Drops keyframes that are too old; `last_packet` is when the layer last sent anything.
    pub fn expire(&mut self, now: Instant, last_packet: Option<Instant>) {
        self.replaced = None;
        let old = |at: Instant| now.saturating_duration_since(at) > KEYFRAME_AGE_MAX;
        let begins = self.begins();
        let is_newest = |keyframe: &Keyframe| begins.is_none_or(|first| first < keyframe.end());
        if self.whole.as_ref().is_some_and(|keyframe| {
            last_packet.is_none_or(old) || (old(keyframe.arrival) && !is_newest(keyframe))
        }) {
            self.whole = None;
        }
    }

    /// Drops all state.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Reason why a keyframe cannot be kept, or not yet.
enum NotCollected {
    /// First packet that is missing.
    Missing(u64),
    /// More packets or bytes than are kept.
    TooLarge,
}

/// The last packet of a frame whose first packet came after others of it; `None` if it has not come.
fn last_of_frame(packets: &PacketCache, first: &PacketMeta) -> Option<u64> {
    let behind = first.ext_seq + 1..=packets.newest();
    let came = behind.filter_map(|ext_seq| packets.get(ext_seq)?.meta());
    let mut frame = came.take_while(|meta| meta.timestamp == first.timestamp);
    frame.find(|meta| meta.marker).map(|meta| meta.ext_seq)
}

/// Collects handles to all packets from the first to the last.
fn collect(packets: &PacketCache, first: u64, last: u64) -> Result<Keyframe, NotCollected> {
    let count = last.checked_sub(first).ok_or(NotCollected::TooLarge)?;
    if count >= KEYFRAME_PACKETS_MAX as u64 {
        return Err(NotCollected::TooLarge);
    }
    let mut bytes = 0;
    for ext_seq in first..=last {
        let meta = packets
            .get(ext_seq)
            .and_then(|packet| packet.meta())
            .ok_or(NotCollected::Missing(ext_seq))?;
        bytes += usize::from(meta.payload_len);
    }
    if bytes > KEYFRAME_BYTES_MAX {
        return Err(NotCollected::TooLarge);
    }
    let packets: Vec<Arc<Packet>> =
        (first..=last).filter_map(|ext_seq| packets.get(ext_seq).cloned()).collect();
    let first_meta = packets.first().and_then(|packet| packet.meta());
    let arrival = first_meta.ok_or(NotCollected::TooLarge)?.arrival;
    Ok(Keyframe { packets, first, arrival })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::codec::FrameInfo;

    /// A layer's packets and keyframe, fed by (number, timestamp, starts a keyframe, ends its
    /// frame).
    struct Layer {
        now: Instant,
        packets: PacketCache,
        cache: KeyframeCache,
        payload_len: u16,
    }

    impl Layer {
        fn new() -> Self {
            let (packets, cache) = (PacketCache::new(), KeyframeCache::default());
            Self { now: Instant::now(), packets, cache, payload_len: 1_000 }
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
                self.packets.insert(Arc::new(packet), drop);
                let starts = can_start(Codec::Vp8, &meta, false);
                self.cache.on_packet(&meta, starts, &self.packets);
            }
        }

        fn whole(&self) -> Option<(u64, u64)> {
            self.cache.whole().map(|keyframe| (keyframe.first(), keyframe.end()))
        }
    }

    #[test]
    fn keyframe_is_complete_when_its_last_missing_packet_comes() {
        let mut layer = Layer::new();
        layer.feed(&[(100, 9, true, false), (102, 9, false, true)]);
        assert_eq!((layer.cache.begins(), layer.whole()), (Some(100), None));
        layer.feed(&[(103, 12, false, true), (101, 9, false, false)]);
        assert_eq!(layer.whole(), Some((100, 103)));
        assert_eq!(layer.cache.whole().map(Keyframe::bytes), Some(3_000));
        // The next one has a gap: the old picture stays, but the new group has begun.
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
    fn keyframe_whose_first_packet_comes_last_is_whole() {
        let mut layer = Layer::new();
        layer.feed(&[(101, 9, false, false), (102, 9, false, true), (103, 12, false, true)]);
        assert!(!layer.cache.is_decided());
        layer.feed(&[(100, 9, true, false)]);
        assert_eq!(layer.whole(), Some((100, 103)));
        assert!(layer.cache.is_decided());
        // Of the next one, a packet in the middle is missing as well.
        layer.feed(&[(111, 20, false, false), (113, 20, false, true), (110, 20, true, false)]);
        assert_eq!((layer.cache.begins(), layer.cache.is_decided()), (Some(110), false));
        layer.feed(&[(112, 20, false, false)]);
        assert_eq!(layer.whole(), Some((110, 114)));
    }

    #[test]
    fn keyframe_outlives_the_packet_cache_while_it_is_the_newest() {
        let mut layer = Layer::new();
        layer.feed(&[(100, 9, true, true)]);
        layer.now += Duration::from_secs(4);
        layer.feed(&[(101, 360_000, false, true)]);
        assert!(layer.packets.get(100).is_none());
        let keyframe = layer.cache.whole().expect("it is kept");
        assert!(keyframe.get(100).is_some() && keyframe.get(101).is_none());
        assert!(keyframe.get(99).is_none());
        let (sent, later) = (layer.now, layer.now + KEYFRAME_AGE_MAX);
        layer.cache.expire(later, Some(later));
        assert!(layer.cache.whole().is_some(), "the layer sends, and nothing newer began");
        layer.cache.expire(later + Duration::from_millis(1), Some(sent));
        assert!(layer.cache.whole().is_none(), "the layer is silent");
        // A newer one begins, and is never whole.
        layer.feed(&[(102, 720_000, true, true), (110, 800_000, true, false)]);
        layer.cache.expire(later, Some(later));
        assert_eq!(layer.whole(), Some((102, 103)));
        let late = later + Duration::from_secs(1);
        layer.cache.expire(late, Some(late));
        assert_eq!(layer.whole(), None);
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
            assert!(layer.cache.is_decided());
        }
    }
}
