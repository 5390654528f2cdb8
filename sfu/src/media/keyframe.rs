//! The last keyframe of one incoming layer, kept for viewers that join or switch layers.
//!
//! Owns the start of the current group of pictures, and the whole keyframe: its access unit is
//! judged as a whole, because parameter sets come in packets before the picture, with a keyframe or
//! without. It outlives the packet cache: a publisher with a keyframe every four seconds still has
//! a picture for a joining viewer. Holds handles to packets, no copies. Called by
//! `worker/stream.rs`; never knows viewers.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::packet::{Packet, PacketMeta};
use super::packet_cache::PacketCache;
use super::parameter_sets::{ParameterSets, SetPackets};
use crate::codec::Codec;
use crate::rtp::codec::{Fragment, SET_BYTES_MAX, fragment};
use crate::rtp::unit_parts::UnitParts;
use crate::warm::warm;

/// Maximum packets of a keyframe; a larger one is not kept (quality A3.3).
pub const KEYFRAME_PACKETS_MAX: usize = 400;

/// Maximum payload bytes of a keyframe; a larger one is not kept (quality A3.3).
pub const KEYFRAME_BYTES_MAX: usize = 512 * 1024;

/// Age from which a keyframe is dropped, if a newer one can be begun with or the layer sends
/// nothing. The newest keyframe of a layer that sends has no limit: encoders at low frame rates send
/// none for 25 s.
pub const KEYFRAME_AGE_MAX: Duration = Duration::from_secs(12);

/// Maximum packets of an access unit before the one that makes it a keyframe, such as parameter
/// sets. Earlier ones are left out.
pub const LEAD_PACKETS_MAX: u64 = 64;

/// Maximum packets that hold one parameter set; a set in more is not kept.
const SET_FRAGMENTS_MAX: u64 = 16;

/// Time for which parameter sets that may be in a missing packet are waited for. A packet that the
/// publisher does not repair is given up before (`repair/nack_generator.rs`).
pub const SETS_REPAIR_MAX: Duration = Duration::from_millis(700);

/// Access unit with which a decoder without any state can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderStart {
    /// Number of its first packet; often one with parameter sets.
    pub first: u64,
    /// Number of the first packet of its picture that shows that it is a keyframe.
    pub key: u64,
    /// Timestamp of its picture; parameter sets before it may have another.
    pub timestamp: u32,
    /// Whether kept parameter sets are to be sent before it ([`KeyframeCache::sets_before`]).
    pub needs_sets: bool,
}

/// Keyframe cache of one layer.
#[derive(Debug, Default)]
pub struct KeyframeCache {
    /// The newest keyframe that has begun.
    begun: Option<Begun>,
    /// The newest one before it with which a decoder can begin, while it is not known whether
    /// `begun` is one.
    usable: Option<Begun>,
    whole: Option<Keyframe>,
    /// The keyframe before, until the next call of [`Self::expire`]: a viewer may just be getting
    /// it.
    replaced: Option<Keyframe>,
    /// The newest parameter sets.
    sets: ParameterSets,
    /// Sets that the offer states, until the first packet comes.
    stated: Vec<Vec<u8>>,
    /// Whether there were any.
    has_stated: bool,
    /// Whether marker bits are also set before the end of an access unit, on each NAL unit (RFC
    /// 6184 section 5.1 asks receivers not to rely on them).
    marks_parts: bool,
}

#[derive(Debug)]
struct Begun {
    start: DecoderStart,
    /// Arrival of the first packet that showed that it is a keyframe.
    since: Instant,
    /// What came of it up to that packet.
    parts: UnitParts,
    /// Whether the packet before it is missing.
    gap: bool,
    /// One past the last packet of it that came without a gap before.
    next: u64,
    /// One past the last of these packets that has a payload.
    end: u64,
    /// Whether that packet has the marker bit.
    marked: bool,
    /// Whether the next access unit was seen behind it.
    ended: bool,
    /// Whether it is too large to be kept, or left the packet cache before it was whole.
    too_large: bool,
    /// Whether keyframes of this layer come without parameter sets.
    usually_bare: bool,
    /// Time since which it is used although a packet before it never came.
    used_since: Option<Instant>,
    /// Whether a decoder can begin with it now. Else its parameter sets or its first slice may be
    /// in a packet that is missing.
    is_ready: bool,
    /// Parameter sets that are to be sent before it.
    sets: Option<SetPackets>,
    /// Whether it came before this worker had viewers; a gap behind it may then stay.
    is_prefilled: bool,
}

/// A complete keyframe.
#[derive(Debug)]
pub struct Keyframe {
    /// All packets in order.
    packets: Vec<Arc<Packet>>,
    start: DecoderStart,
    arrival: Instant,
    /// Parameter sets that are to be sent before it.
    sets: Option<SetPackets>,
}

impl Keyframe {
    /// Extended sequence number of the first packet.
    pub fn first(&self) -> u64 {
        self.start.first
    }

    /// How a decoder begins with it.
    pub fn start(&self) -> DecoderStart {
        self.start
    }

    /// Extended sequence number behind the last packet.
    pub fn end(&self) -> u64 {
        self.first() + self.packets.len() as u64
    }

    /// The packet with this number, if it is part of the keyframe.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        self.packets.get(usize::try_from(ext_seq.checked_sub(self.first())?).ok()?)
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
    /// A cache that has these parameter sets, until packets bring others.
    pub fn with_sets(stated: Vec<Vec<u8>>) -> Self {
        Self { has_stated: !stated.is_empty(), stated, ..Self::default() }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.begun.as_ref().map(|begun| begun.start.timestamp));
    }

    /// Records a packet that was put into `packets`.
    pub fn on_packet(&mut self, codec: Codec, meta: &PacketMeta, packets: &PacketCache) {
        if !self.stated.is_empty() {
            for stated in std::mem::take(&mut self.stated) {
                self.sets.learn(codec, &stated, 0, meta.arrival);
            }
        }
        if !meta.frame.parts.sets().is_empty()
            && let Some(packet) = packets.get(meta.ext_seq)
        {
            match fragment(codec, packet.payload()) {
                None => self.sets.learn(codec, packet.payload(), meta.ext_seq, meta.arrival),
                Some(_) => {
                    if let Some((first, set)) = reassemble(codec, packets, meta.ext_seq) {
                        self.sets.learn(codec, &set, first, meta.arrival);
                    }
                }
            }
        }
        let opened = self.opens_with(meta);
        if self.begun.as_ref().is_some_and(|begun| begun.next == meta.ext_seq) {
            // Before another one opens: this packet may end the one that has begun.
            self.advance(packets);
        }
        if let Some((key, timestamp)) = opened {
            self.open(codec, key, timestamp, meta.arrival, packets);
            self.advance(packets);
        }
        self.end_repair(codec, meta.arrival, packets);
    }

    /// Begins with the newest keyframe although its parameter sets may be in a packet that is
    /// missing, once that is not repaired any more: with the kept sets, which seldom change. While
    /// none are kept it stays unusable.
    fn end_repair(&mut self, codec: Codec, now: Instant, packets: &PacketCache) {
        let waits = |begun: &&mut Begun| !begun.is_ready && begun.gap;
        let Some(begun) = self.begun.as_mut().filter(waits) else { return };
        let is_over = now.saturating_duration_since(begun.since) >= SETS_REPAIR_MAX;
        if !is_over || !self.sets.parts().contains(needed_sets(codec)) {
            return;
        }
        begun.start.needs_sets = !begun.parts.contains(self.sets.parts());
        begun.sets = self.sets.packets().filter(|_| begun.start.needs_sets).cloned();
        (begun.is_ready, begun.used_since) = (true, Some(now));
        self.usable = None;
        self.advance(packets);
    }

    /// Keeps parameter sets that another worker received, in a packet with this number.
    pub fn learn_sets(&mut self, codec: Codec, packet: &Packet, ext_seq: u64) {
        if let Some(meta) = packet.meta() {
            self.sets.learn(codec, packet.payload(), ext_seq, meta.arrival);
        }
    }

    /// Number and timestamp of the packet that makes an access unit a keyframe, if this packet
    /// opens it, or belongs to its beginning and comes late.
    fn opens_with(&self, meta: &PacketMeta) -> Option<(u64, u32)> {
        let keyframe = meta.frame.keyframe && meta.payload_len > 0;
        let this = (meta.ext_seq, meta.timestamp);
        let Some(Begun { start, .. }) = &self.begun else {
            return keyframe.then_some(this);
        };
        if meta.ext_seq + 1 == start.first {
            // If it is the end of the frame before, nothing is missing.
            return Some((start.key, start.timestamp));
        }
        match meta.timestamp == start.timestamp {
            true => (keyframe && meta.ext_seq < start.first).then_some(this),
            false => (keyframe && meta.ext_seq > start.key).then_some(this),
        }
    }

    /// Opens the access unit that packet `key` makes a keyframe. Packets before it belong to it if
    /// they have its timestamp, or if they hold nothing but parameter sets: some publishers give
    /// these a timestamp of their own.
    fn open(
        &mut self,
        codec: Codec,
        key: u64,
        timestamp: u32,
        now: Instant,
        packets: &PacketCache,
    ) {
        let meta = |ext_seq| packets.get(ext_seq).and_then(|packet| packet.meta());
        let Some(frame) = meta(key).map(|meta| meta.frame) else { return };
        let (mut first, mut parts) = (key, frame.parts);
        while key - first < LEAD_PACKETS_MAX
            && let Some(before) = first.checked_sub(1).and_then(meta)
            && (before.timestamp == timestamp || before.frame.parts.is_only_sets())
        {
            first -= 1;
            parts = parts.with(before.frame.parts);
        }
        let is_bare = !parts.contains(self.sets.parts());
        let mut gap = false;
        let (usually_bare, is_ready) = match codec {
            Codec::H264 | Codec::H265 | Codec::Av1 if !frame.described => {
                let lacks_sets = is_bare || !self.sets.parts().contains(first_sets(codec));
                gap = !packets.had_before(first);
                let before = self.begun.as_ref().map(|begun| begun.usually_bare);
                let usually_bare = before.unwrap_or(self.has_stated);
                // The packet before it may hold its sets, or its first slice.
                let begins = parts.contains(UnitParts::FIRST_SLICE) && usually_bare;
                let known = codec != Codec::Av1 || self.sets.packets().is_some();
                match gap && lacks_sets {
                    true => (usually_bare, begins && known),
                    false => (is_bare || self.sets.packets().is_none(), known),
                }
            }
            _ => (false, true),
        };
        let before = self.begun.take();
        let same = before.as_ref().filter(|begun| begun.start.timestamp == timestamp);
        let (since, is_prefilled) =
            same.map_or((now, false), |begun| (begun.since, begun.is_prefilled));
        if is_ready {
            self.usable = None;
        } else if let Some(before) = before.filter(|begun| begun.is_ready) {
            self.usable = (before.start.timestamp != timestamp).then_some(before);
        }
        self.begun = Some(Begun {
            start: DecoderStart { first, key, timestamp, needs_sets: is_bare },
            since,
            parts,
            gap,
            next: first,
            end: first,
            marked: false,
            ended: false,
            too_large: false,
            usually_bare,
            is_ready,
            used_since: None,
            sets: self.sets.packets().filter(|_| is_bare).cloned(),
            is_prefilled,
        });
    }

    /// Follows the begun keyframe as far as its packets came, and keeps it once it is whole. That
    /// is at a packet with the marker bit, unless more packets follow with the same timestamp.
    fn advance(&mut self, packets: &PacketCache) {
        let Some(begun) = self.begun.as_mut().filter(|begun| !begun.too_large) else { return };
        let first = begun.start.first;
        while !begun.ended
            && begun.next - first <= KEYFRAME_PACKETS_MAX as u64
            && let Some(meta) = packets.get(begun.next).and_then(|packet| packet.meta())
        {
            if begun.next > begun.start.key && meta.timestamp != begun.start.timestamp {
                begun.ended = true;
                break;
            }
            // Padding behind the last packet is no part of the picture.
            if meta.payload_len > 0 {
                self.marks_parts |= begun.marked && begun.next > begun.start.key;
                begun.marked = meta.marker;
                begun.end = begun.next + 1;
            }
            begun.next += 1;
        }
        let is_past_key = begun.end > begun.start.key;
        let is_whole = begun.ended || (begun.marked && is_past_key && !self.marks_parts);
        let range = first..begun.end;
        begun.too_large = begun.next - first > KEYFRAME_PACKETS_MAX as u64;
        if !begun.is_ready {
            return; // the one before is of more use
        }
        let kept = self.whole.as_ref().map(|keyframe| keyframe.first()..keyframe.end());
        if begun.too_large || !is_whole || kept.as_ref() == Some(&range) {
            return;
        }
        let Some(keyframe) = collect(packets, range.clone(), begun.start, begun.sets.clone())
        else {
            begun.too_large = true;
            return;
        };
        // More of the same keyframe holds all that a viewer may just be getting.
        let grew = kept.is_some_and(|kept| kept.start < range.end && range.start < kept.end);
        let before = self.whole.replace(keyframe);
        if !grew {
            self.replaced = before;
        }
    }

    /// Marks the current group of pictures as prefilled: it came before this worker had viewers.
    pub fn mark_prefilled(&mut self) {
        if let Some(begun) = &mut self.begun {
            begun.is_prefilled = true;
            // The publisher's worker had the packets before.
            begun.is_ready = true;
            self.usable = None;
        }
    }

    /// The newest keyframe that a decoder can begin with.
    fn newest(&self) -> Option<&Begun> {
        self.begun.as_ref().filter(|begun| begun.is_ready).or(self.usable.as_ref())
    }

    /// Whether the current group of pictures came before this worker had viewers.
    pub fn is_prefilled(&self) -> bool {
        self.newest().is_some_and(|begun| begun.is_prefilled)
    }

    /// Beginning of the current group of pictures, whether all of it is here or not. If a missing
    /// packet may hold its parameter sets, it is that of the group before.
    pub fn start(&self) -> Option<DecoderStart> {
        self.newest().map(|begun| begun.start)
    }

    /// Extended sequence number with which the current group of pictures begins, whether all of it
    /// is here or not.
    pub fn begins(&self) -> Option<u64> {
        self.start().map(|start| start.first)
    }

    /// Time since which the current group of pictures can be begun with, if that was not so when it
    /// began.
    pub fn used_since(&self) -> Option<Instant> {
        self.newest().and_then(|begun| begun.used_since)
    }

    /// Parameter sets that are to be sent before the keyframe that begins with this packet, in a
    /// packet each. None if it has its own.
    pub fn sets_before(&self, first: u64) -> &[Arc<Packet>] {
        let begun = self.begun.iter().chain(&self.usable);
        let begun = begun.map(|begun| (begun.start.first, &begun.sets));
        let kept = self.whole.iter().chain(&self.replaced).map(|kept| (kept.first(), &kept.sets));
        let found = begun.chain(kept).find(|(number, _)| *number == first);
        found.and_then(|(_, sets)| sets.as_deref()).unwrap_or(&[])
    }

    /// The newest parameter sets.
    pub fn sets(&self) -> &[Arc<Packet>] {
        self.sets.packets().map_or(&[], |packets| packets)
    }

    /// Whether all of the newest keyframe that can be begun with came, or more of it than is kept.
    pub fn is_decided(&self) -> bool {
        let is_kept = |begun: &Begun| {
            let whole = self.whole.as_ref().map(|keyframe| keyframe.first()..keyframe.end());
            whole == Some(begun.start.first..begun.end)
        };
        self.newest().is_some_and(|begun| begun.too_large || is_kept(begun))
    }

    /// The newest complete keyframe.
    pub fn whole(&self) -> Option<&Keyframe> {
        self.whole.as_ref()
    }

    /// A packet of the newest complete keyframe, or of the one before, or of parameter sets.
    pub fn get(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        let mut kept = self.whole.iter().chain(&self.replaced);
        kept.find_map(|keyframe| keyframe.get(ext_seq)).or_else(|| self.set(ext_seq))
    }

    /// The packet of parameter sets with this number.
    fn set(&self, ext_seq: u64) -> Option<&Arc<Packet>> {
        let begun = self.begun.iter().chain(&self.usable).map(|begun| &begun.sets);
        let kept = self.whole.iter().chain(&self.replaced).map(|keyframe| &keyframe.sets);
        let older = begun.chain(kept).flatten().flat_map(|sets| sets.iter());
        let mut all = self.sets().iter().chain(older);
        all.find(|packet| packet.meta().is_some_and(|meta| meta.ext_seq == ext_seq))
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

    /// Packets of the keyframes that are kept.
    pub fn packets_kept(&self) -> usize {
        self.whole.iter().chain(&self.replaced).map(|keyframe| keyframe.packets.len()).sum()
    }

    /// Arrival of the newest complete keyframe.
    pub fn kept_since(&self) -> Option<Instant> {
        self.whole.as_ref().map(|keyframe| keyframe.arrival)
    }

    /// Drops the keyframe before the newest complete one.
    pub fn forget_replaced(&mut self) {
        self.replaced = None;
    }

    /// Drops the complete keyframes. A viewer that joins waits for the next one.
    pub fn forget_whole(&mut self) {
        (self.whole, self.replaced) = (None, None);
    }

    /// Drops all state.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Kinds of sets that come first. While one is not known, a missing packet may hold it; a set that
/// comes later is missing right before the picture.
fn first_sets(codec: Codec) -> UnitParts {
    match codec {
        Codec::H264 => UnitParts::SPS,
        Codec::H265 => UnitParts::VPS.with(UnitParts::SPS),
        other => needed_sets(other),
    }
}

/// Kinds of sets without which no decoder begins. Few need the VPS of H.265, and some encoders
/// send none.
pub fn needed_sets(codec: Codec) -> UnitParts {
    match codec {
        Codec::H264 | Codec::H265 => UnitParts::SPS.with(UnitParts::PPS),
        Codec::Av1 => UnitParts::SEQUENCE_HEADER,
        _ => UnitParts::NONE,
    }
}

/// The parameter set of which this packet holds a part, and the number of its first packet. `None`
/// while a part is missing, or if it is longer than [`SET_BYTES_MAX`].
fn reassemble(codec: Codec, packets: &PacketCache, ext_seq: u64) -> Option<(u64, Vec<u8>)> {
    let this = packets.get(ext_seq)?.meta()?.timestamp;
    let part = |ext_seq| -> Option<Fragment<'_>> {
        let packet = packets.get(ext_seq)?;
        let belongs = packet.meta()?.timestamp == this;
        fragment(codec, packet.payload()).filter(|_| belongs)
    };
    let mut first = ext_seq;
    while !part(first)?.begins {
        if ext_seq - first >= SET_FRAGMENTS_MAX {
            return None;
        }
        first = first.checked_sub(1)?;
    }
    let mut set = part(first)?.header().to_vec();
    for next in first..first + SET_FRAGMENTS_MAX {
        let part = part(next)?;
        set.extend(part.body);
        if part.header() != set.get(..part.header().len())? || set.len() > SET_BYTES_MAX {
            return None;
        }
        if part.ends {
            return Some((first, set));
        }
    }
    None
}

/// Collects handles to all packets of a keyframe. `None` if it has too many bytes, or if a packet
/// left the cache.
fn collect(
    packets: &PacketCache,
    numbers: Range<u64>,
    start: DecoderStart,
    sets: Option<SetPackets>,
) -> Option<Keyframe> {
    let packets: Vec<Arc<Packet>> =
        numbers.map(|ext_seq| packets.get(ext_seq).cloned()).collect::<Option<_>>()?;
    let arrival = packets.first()?.meta()?.arrival;
    let keyframe = Keyframe { packets, start, arrival, sets };
    (keyframe.bytes() <= KEYFRAME_BYTES_MAX).then_some(keyframe)
}

#[cfg(test)]
mod tests;
