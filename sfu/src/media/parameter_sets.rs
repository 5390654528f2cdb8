//! Newest parameter sets of one incoming layer (H.264, H.265), or its sequence header (AV1).
//!
//! Some publishers send them once, before their first picture. A viewer that begins later could
//! decode nothing, so each set is kept as a packet of its own, and such a viewer is sent these
//! packets before its first picture. Called by `keyframe.rs`; next: `forward/forwarder.rs` gives
//! them numbers and the timestamp of that picture.

use std::sync::Arc;
use std::time::Instant;

use super::packet::{FORWARDED_EXTS_MAX, Packet, PacketMeta};
use crate::codec::Codec;
use crate::rtp::codec::{FrameInfo, ParameterSet, parameter_sets, set_payload_prefix};
use crate::rtp::unit_parts::UnitParts;

/// Maximum sets of a layer; encoders use two to five. At the limit the set that was sent longest
/// ago is forgotten.
pub const SETS_MAX: usize = 16;

/// First number of packets that hold a kept set. Numbers of received packets stay far below, so
/// that one number is never two packets: a retransmission must be the same bytes.
const NUMBERS_FROM: u64 = 1 << 47;

/// Packets with one set each, in the order that a decoder needs.
pub type SetPackets = Arc<[Arc<Packet>]>;

/// The newest sets.
#[derive(Debug, Default)]
pub struct ParameterSets {
    sets: Vec<KeptSet>,
    /// The same as packets; `None` while there are none.
    packets: Option<SetPackets>,
    /// Kinds of sets.
    parts: UnitParts,
    /// Count of packets that were ever made.
    made: u64,
}

#[derive(Debug)]
struct KeptSet {
    kind: UnitParts,
    id: u8,
    /// Number of the received packet that held it last.
    sent_at: u64,
    packet: Arc<Packet>,
}

impl ParameterSets {
    /// Keeps the sets of a payload that came with this number. A set replaces the one of its kind
    /// and id, unless that came with a later packet.
    pub fn learn(&mut self, codec: Codec, payload: &[u8], ext_seq: u64, now: Instant) {
        let mut changed = false;
        // More than are kept would replace each other.
        for set in parameter_sets(codec, payload).take(SETS_MAX) {
            changed |= self.keep(codec, &set, ext_seq, now);
        }
        if changed {
            self.sets.sort_by_key(|set| (set.kind.order(), set.id));
            let kinds = self.sets.iter().map(|set| set.kind);
            self.parts = kinds.fold(UnitParts::NONE, UnitParts::with);
            self.packets = Some(self.sets.iter().map(|set| Arc::clone(&set.packet)).collect());
        }
    }

    /// The packets of all sets; `None` while there are none.
    pub fn packets(&self) -> Option<&SetPackets> {
        self.packets.as_ref()
    }

    /// Kinds of the sets.
    pub fn parts(&self) -> UnitParts {
        self.parts
    }

    /// Keeps one set; false if it is kept already.
    fn keep(&mut self, codec: Codec, set: &ParameterSet<'_>, ext_seq: u64, now: Instant) -> bool {
        let known = self.sets.iter_mut().find(|kept| (kept.kind, kept.id) == (set.kind, set.id));
        let prefix = set_payload_prefix(codec);
        if let Some(kept) = known {
            if kept.sent_at > ext_seq {
                return false; // the packet is late
            }
            kept.sent_at = ext_seq;
            if kept.packet.payload().get(prefix.len()..) == Some(set.bytes) {
                return false;
            }
            kept.packet = packet(NUMBERS_FROM + self.made, prefix, set, now);
        } else {
            if self.sets.len() >= SETS_MAX {
                let oldest = (0..).zip(&self.sets).min_by_key(|(_, kept)| kept.sent_at);
                let oldest = oldest.map(|(index, _)| index);
                oldest.map(|index| self.sets.swap_remove(index));
            }
            let packet = packet(NUMBERS_FROM + self.made, prefix, set, now);
            let ParameterSet { kind, id, .. } = *set;
            self.sets.push(KeptSet { kind, id, sent_at: ext_seq, packet });
        }
        self.made += 1;
        true
    }
}

/// A packet with one set, without the publisher's header extensions.
fn packet(number: u64, prefix: &[u8], set: &ParameterSet<'_>, now: Instant) -> Arc<Packet> {
    let payload = [prefix, set.bytes].concat();
    let mut packet = Packet::with_capacity(payload.len());
    packet.buffer_mut().copy_from_slice(&payload);
    packet.describe(PacketMeta {
        ext_seq: number,
        timestamp: 0,
        marker: false,
        red: false,
        payload_start: 0,
        // A set is part of a received packet, so that its length fits.
        payload_len: payload.len() as u16,
        prefix_len: 0,
        frame: FrameInfo { parts: set.kind, ..FrameInfo::default() },
        exts: [None; FORWARDED_EXTS_MAX],
        arrival: now,
    });
    Arc::new(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(sets: &ParameterSets) -> Vec<Vec<u8>> {
        let packets = sets.packets().map_or(&[][..], |packets| packets);
        packets.iter().map(|packet| packet.payload().to_vec()).collect()
    }

    const SPS: [u8; 5] = [0x67, 0x42, 0xe0, 0x1f, 0x96];
    const OTHER_SPS: [u8; 5] = [0x67, 0x64, 0x00, 0x28, 0xac];

    #[test]
    fn changed_set_replaces_the_one_of_its_id_and_gets_another_number() {
        let (now, mut sets) = (Instant::now(), ParameterSets::default());
        assert!(sets.packets().is_none());
        // PPS before SPS: a decoder needs the SPS first.
        sets.learn(Codec::H264, &[0x68, 0xce], 100, now);
        sets.learn(Codec::H264, &SPS, 101, now);
        sets.learn(Codec::H264, &[0x68, 0x4e], 102, now);
        assert_eq!(kept(&sets), [&SPS[..], &[0x68, 0xce], &[0x68, 0x4e]]);
        assert_eq!(sets.parts(), UnitParts::SPS.with(UnitParts::PPS));
        let before = Arc::clone(sets.packets().unwrap());
        sets.learn(Codec::H264, &SPS, 200, now);
        assert!(Arc::ptr_eq(&before, sets.packets().unwrap()), "nothing changed");
        sets.learn(Codec::H264, &OTHER_SPS, 150, now);
        assert!(Arc::ptr_eq(&before, sets.packets().unwrap()), "it is late");
        sets.learn(Codec::H264, &OTHER_SPS, 201, now);
        assert_eq!(kept(&sets), [&OTHER_SPS[..], &[0x68, 0xce], &[0x68, 0x4e]]);
        let numbers: Vec<_> = before.iter().chain(&**sets.packets().unwrap()).collect();
        let mut numbers: Vec<_> = numbers.iter().map(|p| p.meta().unwrap().ext_seq).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 4, "two of the PPS, two of the SPS");
    }

    #[test]
    fn sets_at_the_limit_replace_the_one_that_was_sent_longest_ago() {
        let (now, mut sets) = (Instant::now(), ParameterSets::default());
        // Ids 3 to 6 and more, as Exp-Golomb numbers of up to nine bits.
        let pps = |id: u32| {
            let bits = 31 - (id + 1).leading_zeros();
            let code = (id + 1) << (15 - 2 * bits);
            [0x68, (code >> 8) as u8, code as u8]
        };
        for id in 0..SETS_MAX as u32 {
            sets.learn(Codec::H264, &pps(id), 100 + u64::from(id), now);
        }
        assert_eq!(kept(&sets).len(), SETS_MAX);
        sets.learn(Codec::H264, &pps(0), 200, now);
        sets.learn(Codec::H264, &pps(SETS_MAX as u32), 201, now);
        assert_eq!(kept(&sets).len(), SETS_MAX);
        assert!(kept(&sets).contains(&pps(0).to_vec()) && !kept(&sets).contains(&pps(1).to_vec()));
    }

    #[test]
    fn sequence_header_of_av1_is_a_packet_that_begins_a_sequence() {
        let (now, mut sets) = (Instant::now(), ParameterSets::default());
        let payload = [0x20, 3, 0x08, 0, 0, 0x30, 0x10];
        sets.learn(Codec::Av1, &payload, 100, now);
        assert_eq!(kept(&sets), [[0x18, 0x08, 0, 0]]);
    }
}
