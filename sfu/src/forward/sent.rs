//! Sent records of one RTP sender: the map from its sequence numbers back to cached packets.
//!
//! `rtp_sender.rs` numbers a packet once, as a [`Numbered`]. [`Numbered::stamp`] consumes it when
//! the packet is sealed and adds the transport-wide number; the [`SentRecord`] that comes out never
//! changes, and writing it again gives the same bytes (architecture D1: AES-GCM must never seal one
//! number with two contents).

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::ids::{Epoch, LayerIdx, LayerKey, TrackIdx};
use crate::warm::warm;

/// Packets remembered per sender of video, a power of two; older ones cannot be retransmitted.
pub const SENT_MAX: usize = 1024;

/// Packets remembered per sender of audio: five seconds of Opus.
pub const SENT_AUDIO_MAX: usize = 256;

/// Retransmissions of one packet at most (quality A3.2).
pub const RETRANSMITS_MAX: u8 = 5;

/// Record of one packet as it was sent. 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentRecord {
    pub(super) source: SourceSeq,
    /// Low 32 bits of the outgoing index.
    pub(super) out: u32,
    pub(super) timestamp: u32,
    pub(super) twcc: u16,
    pub(super) picture_id: u16,
    pub(super) tl0_pic_idx: u8,
    /// Number of retransmissions so far, and above it the bits [`PADDED`], [`MARKER`] and
    /// [`BLANK`].
    flags: u8,
    /// Time of the last send: low 16 bits of its milliseconds.
    sent_ms: u16,
}

/// A packet that has its number and is not sealed yet. It cannot be copied, so one number is
/// stamped once.
#[derive(Debug, PartialEq, Eq)]
pub struct Numbered(SentRecord);

impl Numbered {
    pub(super) fn new(
        source: SourceSeq,
        out: u64,
        timestamp: u32,
        picture: (u16, u8),
        form: u8,
    ) -> Self {
        Self(SentRecord {
            source,
            out: out as u32,
            timestamp,
            twcc: 0,
            picture_id: picture.0,
            tl0_pic_idx: picture.1,
            flags: form & !RETRANSMITS,
            sent_ms: 0,
        })
    }

    /// Completes the record with the transport-wide number that the packet leaves with.
    #[inline]
    pub fn stamp(self, twcc: u16) -> SentRecord {
        SentRecord { twcc, ..self.0 }
    }

    pub(super) fn marker(&self) -> bool {
        self.0.marker()
    }
}

/// The cached packet that a record stands for: publisher epoch (8 bits), track (4), layer (4),
/// sequence number (48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceSeq(NonZeroU64);

impl SourceSeq {
    /// Packs a layer and the extended sequence number in it. Track and layer are below 16
    /// (`TRACKS_MAX`, `LAYERS_MAX`).
    pub fn new(key: LayerKey, ext_seq: u64) -> Self {
        let layer = u64::from(key.track.0 << 4 | key.layer.0 & 0x0f);
        let packed = u64::from(key.epoch.0 as u8) << 56 | layer << 48 | (ext_seq & SEQ_MASK);
        // Extended numbers begin at 2^16, so the value is never zero; the niche keeps a record at
        // 24 bytes.
        Self(NonZeroU64::new(packed).unwrap_or(NonZeroU64::MIN))
    }

    /// The layer that the packet came on, if `epoch` is still that publisher. Only the low 8 bits
    /// of the epoch are remembered; a sender forgets its records when its publisher changes.
    pub fn layer_in(self, epoch: Epoch) -> Option<LayerKey> {
        let packed = self.0.get();
        let (track, layer) = ((packed >> 52) as u8 & 0x0f, (packed >> 48) as u8 & 0x0f);
        let key = LayerKey { epoch, track: TrackIdx(track), layer: LayerIdx(layer) };
        ((packed >> 56) as u8 == epoch.0 as u8).then_some(key)
    }

    /// Whether the packet came on this layer.
    pub fn is_of(self, key: LayerKey) -> bool {
        self.layer_in(key.epoch) == Some(key)
    }

    /// The publisher's extended sequence number.
    pub fn ext_seq(self) -> u64 {
        self.0.get() & SEQ_MASK
    }
}

const SEQ_MASK: u64 = (1 << 48) - 1;

/// Flag: one byte of padding was added.
pub(super) const PADDED: u8 = 0x80;

/// Flag: the marker bit is set.
pub(super) const MARKER: u8 = 0x40;

/// Flag: the packet has no payload, because the packet of this number was left out.
pub(super) const BLANK: u8 = 0x20;

const RETRANSMITS: u8 = 0x1f;

impl SentRecord {
    /// Whether the packet carries one byte of padding.
    pub(super) fn padded(&self) -> bool {
        self.flags & PADDED != 0
    }

    /// Marker bit of the packet.
    pub(super) fn marker(&self) -> bool {
        self.flags & MARKER != 0
    }

    /// Whether the packet carries no payload.
    pub(super) fn is_blank(&self) -> bool {
        self.flags & BLANK != 0
    }

    /// The cached packet that was sent.
    pub fn source(&self) -> SourceSeq {
        self.source
    }
}

/// Send time in whole milliseconds since a fixed instant, modulo 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendTime(u16);

impl SendTime {
    /// The time at `now`. `base` is the same for all times of a sender.
    pub fn since(base: Instant, now: Instant) -> Self {
        Self(now.saturating_duration_since(base).as_millis() as u16)
    }
}

/// Records by outgoing sequence number.
#[derive(Debug)]
pub struct SentMap {
    records: Box<[Option<SentRecord>]>,
}

impl SentMap {
    /// An empty map of `packets` packets; the next power of two if that is none.
    pub fn new(packets: usize) -> Self {
        Self { records: vec![None; packets.next_power_of_two()].into_boxed_slice() }
    }

    /// Forgets all records.
    pub fn clear(&mut self) {
        self.records.fill(None);
    }

    /// Records a packet that is sent at `at` under its outgoing number. It replaces the record of
    /// the number that lies one map length before.
    #[inline]
    pub fn insert(&mut self, at: SendTime, mut record: SentRecord) {
        record.sent_ms = at.0;
        let position = self.position(record.out);
        if let Some(slot) = self.records.get_mut(position) {
            *slot = Some(record);
        }
    }

    /// Reads the record of this number, so that it is in the CPU caches by then.
    pub fn warm(&self, out: u32) {
        warm!(self.records.get(self.position(out)).map(Option::is_some));
    }

    fn position(&self, out: u32) -> usize {
        out as usize & (self.records.len() - 1)
    }

    /// The record that a NACK for `sequence` means, if it may be retransmitted now. A packet is
    /// retransmitted at most once per `rtt` and [`RETRANSMITS_MAX`] times in all, and not before
    /// the first copy can have been missed. A NACK that comes sooner was sent for a gap that came
    /// from the publisher's own loss.
    ///
    /// # Errors
    ///
    /// The reason why nothing is retransmitted.
    pub fn claim_retransmit(
        &mut self,
        now: SendTime,
        sequence: u16,
        rtt: Duration,
    ) -> Result<SentRecord, NotClaimed> {
        let position = self.position(sequence.into());
        let slot = self.records.get_mut(position).and_then(Option::as_mut);
        let record =
            slot.filter(|record| record.out as u16 == sequence).ok_or(NotClaimed::Unknown)?;
        let since = Duration::from_millis(u64::from(now.0.wrapping_sub(record.sent_ms)));
        let retransmits = record.flags & RETRANSMITS;
        // Times are whole milliseconds and the round trip is an estimate: better one retransmission
        // too many.
        let wait = if retransmits == 0 { rtt * 7 / 8 } else { rtt };
        if retransmits >= RETRANSMITS_MAX || since < wait {
            return Err(NotClaimed::Limited);
        }
        record.flags += 1;
        record.sent_ms = now.0;
        Ok(*record)
    }
}

/// Reason why a NACK is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotClaimed {
    /// The packet was retransmitted too often, or too recently.
    Limited,
    /// The number was never sent, or its record was replaced.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u32, layer: u8) -> LayerKey {
        LayerKey { epoch: Epoch(epoch), track: TrackIdx(7), layer: LayerIdx(layer) }
    }

    fn record(out: u64) -> SentRecord {
        Numbered::new(SourceSeq::new(key(3, 1), out + 7), out, 90, (0, 0), PADDED | MARKER).stamp(5)
    }

    #[test]
    fn a_record_is_24_bytes() {
        assert_eq!(size_of::<Option<SentRecord>>(), 24);
    }

    #[test]
    fn source_numbers_pack_and_unpack() {
        let source = SourceSeq::new(key(0x1ff, 2), 0x1234_5678_9abc);
        assert_eq!(source.ext_seq(), 0x1234_5678_9abc);
        assert_eq!(source.layer_in(Epoch(0xff)), Some(key(0xff, 2)));
        assert_eq!(source.layer_in(Epoch(0xfe)), None);
        assert!(source.is_of(key(0x1ff, 2)) && !source.is_of(key(0x1ff, 3)));
    }

    #[test]
    fn packet_is_retransmitted_once_per_rtt_and_five_times_in_all() {
        let base = Instant::now();
        let at = |after: Duration| SendTime::since(base, base + after);
        let rtt = Duration::from_millis(50);
        let mut map = SentMap::new(SENT_MAX);
        map.insert(at(Duration::ZERO), record(70_000));
        let sequence = 70_000u64 as u16;
        assert_eq!(
            map.claim_retransmit(at(rtt / 2), sequence, rtt),
            Err(NotClaimed::Limited),
            "the first copy may still arrive"
        );
        assert!(map.claim_retransmit(at(rtt), sequence, rtt).is_ok());
        assert_eq!(map.claim_retransmit(at(rtt * 3 / 2), sequence, rtt), Err(NotClaimed::Limited));
        for n in 1..u32::from(RETRANSMITS_MAX) {
            let again = map.claim_retransmit(at(rtt * (n + 1)), sequence, rtt).unwrap();
            assert!(again.padded() && again.marker() && !again.is_blank(), "unchanged");
        }
        assert_eq!(map.claim_retransmit(at(rtt * 20), sequence, rtt), Err(NotClaimed::Limited));
        assert_eq!(
            map.claim_retransmit(at(rtt), sequence.wrapping_sub(SENT_MAX as u16), rtt),
            Err(NotClaimed::Unknown)
        );
        map.insert(at(rtt), record(70_000 + SENT_MAX as u64));
        assert_eq!(
            map.claim_retransmit(at(rtt), sequence, rtt),
            Err(NotClaimed::Unknown),
            "overwritten"
        );
    }
}
