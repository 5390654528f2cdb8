//! What was sent on one outgoing line: the map from our sequence numbers back to cached packets.
//!
//! A [`SentRecord`] holds every header field that `rtp_sender.rs` chose for a packet. It can only be made
//! there, when a fresh number is given out, and never changes; writing it again gives the same bytes
//! (architecture D1, the GCM rule).

use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Packets remembered per line of video, a power of two; older ones cannot be repeated.
pub const SENT_MAX: usize = 1024;

/// The same for audio: five seconds of Opus.
pub const SENT_AUDIO_MAX: usize = 256;

/// How often one packet may be repeated in all (quality A3.2).
pub const REPEATS_MAX: u8 = 5;

/// One packet as it went out. 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentRecord {
    pub(super) source: SourceSeq,
    /// Low 32 bits of the outgoing index.
    pub(super) out: u32,
    pub(super) timestamp: u32,
    pub(super) twcc: u16,
    pub(super) picture_id: u16,
    pub(super) tl0_pic_idx: u8,
    /// Repeats so far, and above them [`PADDED`], [`MARKER`] and [`BLANK`].
    flags: u8,
    /// Low 16 bits of the milliseconds when it was last sent.
    sent_ms: u16,
}

/// Which cached packet a record means: publisher epoch (8 bits), layer (8), sequence number (48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceSeq(NonZeroU64);

impl SourceSeq {
    /// Packs the three.
    pub fn new(epoch: u32, layer: u8, ext_seq: u64) -> Self {
        let packed = u64::from(epoch as u8) << 56 | u64::from(layer) << 48 | (ext_seq & SEQ_MASK);
        // Extended numbers begin at 2^16, so zero never comes; the niche keeps a record at 24 bytes.
        Self(NonZeroU64::new(packed).unwrap_or(NonZeroU64::MIN))
    }

    /// The layer index.
    pub fn layer(self) -> u8 {
        (self.0.get() >> 48) as u8
    }

    /// The publisher's extended sequence number.
    pub fn ext_seq(self) -> u64 {
        self.0.get() & SEQ_MASK
    }

    /// Whether it belongs to this publisher epoch.
    pub fn is_epoch(self, epoch: u32) -> bool {
        (self.0.get() >> 56) as u8 == epoch as u8
    }
}

const SEQ_MASK: u64 = (1 << 48) - 1;

/// One byte of padding was added.
pub(super) const PADDED: u8 = 0x80;

/// The marker bit is set.
pub(super) const MARKER: u8 = 0x40;

/// It has no payload: what was to be under this number is left out.
pub(super) const BLANK: u8 = 0x20;

const REPEATS: u8 = 0x1f;

impl SentRecord {
    pub(super) fn new(
        source: SourceSeq,
        out: u64,
        timestamp: u32,
        twcc: u16,
        picture: (u16, u8),
        form: u8,
    ) -> Self {
        Self {
            source,
            out: out as u32,
            timestamp,
            twcc,
            picture_id: picture.0,
            tl0_pic_idx: picture.1,
            flags: form & !REPEATS,
            sent_ms: 0,
        }
    }

    /// Whether it carries one byte of padding.
    pub(super) fn padded(&self) -> bool {
        self.flags & PADDED != 0
    }

    /// The marker bit that it carries.
    pub(super) fn marker(&self) -> bool {
        self.flags & MARKER != 0
    }

    /// Whether it carries no payload.
    pub(super) fn is_blank(&self) -> bool {
        self.flags & BLANK != 0
    }

    /// Which cached packet it is.
    pub fn source(&self) -> SourceSeq {
        self.source
    }
}

/// Records by outgoing sequence number.
#[derive(Debug)]
pub struct SentMap {
    records: Box<[Option<SentRecord>]>,
    base: Instant,
}

impl SentMap {
    /// An empty map of this many packets, a power of two; `base` only anchors compact times.
    pub fn new(base: Instant, packets: usize) -> Self {
        Self { records: vec![None; packets.max(1)].into_boxed_slice(), base }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.records.fill(None);
    }

    /// Remembers a packet that is sent at `now` under its outgoing number, forgetting the one a whole
    /// map before it.
    pub fn insert(&mut self, now: Instant, mut record: SentRecord) {
        record.sent_ms = self.ms(now);
        let place = self.place(record.out);
        if let Some(slot) = self.records.get_mut(place) {
            *slot = Some(record);
        }
    }

    /// Reads the place of this number, so that it is in the caches by then.
    pub fn warm(&self, out: u32) {
        black_box(self.records.get(self.place(out)).map(Option::is_some));
    }

    fn place(&self, out: u32) -> usize {
        out as usize % self.records.len()
    }

    fn ms(&self, now: Instant) -> u16 {
        now.saturating_duration_since(self.base).as_millis() as u16
    }

    /// The record that a NACK for `sequence` means and that may be repeated now: at most once per
    /// `rtt` and [`REPEATS_MAX`] times in all, and not before the first copy can have been missed: a
    /// NACK that comes sooner was sent for a hole that the publisher's own loss had made. `Err(true)` if it is known but limited, `Err(false)`
    /// if it is not known.
    pub fn claim_retransmit(
        &mut self,
        now: Instant,
        sequence: u16,
        rtt: Duration,
    ) -> Result<SentRecord, bool> {
        let now_ms = self.ms(now);
        let place = self.place(sequence.into());
        let slot = self.records.get_mut(place).ok_or(false)?;
        let record = slot.as_mut().filter(|record| record.out as u16 == sequence).ok_or(false)?;
        let since = Duration::from_millis(u64::from(now_ms.wrapping_sub(record.sent_ms)));
        let repeats = record.flags & REPEATS;
        // Times are whole milliseconds and the round trip an estimate: better one repeat too many.
        let wait = if repeats == 0 { rtt * 7 / 8 } else { rtt };
        if repeats >= REPEATS_MAX || since < wait {
            return Err(true);
        }
        record.flags += 1;
        record.sent_ms = now_ms;
        Ok(*record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(out: u64) -> SentRecord {
        SentRecord::new(SourceSeq::new(3, 1, out + 7), out, 90, 5, (0, 0), PADDED | MARKER)
    }

    #[test]
    fn a_record_is_24_bytes() {
        assert_eq!(size_of::<Option<SentRecord>>(), 24);
    }

    #[test]
    fn source_numbers_pack_and_unpack() {
        let source = SourceSeq::new(0x1ff, 2, 0x1234_5678_9abc);
        assert_eq!((source.layer(), source.ext_seq()), (2, 0x1234_5678_9abc));
        assert!(source.is_epoch(0xff) && !source.is_epoch(0xfe));
    }

    #[test]
    fn repeats_once_per_rtt_and_five_times() {
        let now = Instant::now();
        let rtt = Duration::from_millis(50);
        let mut map = SentMap::new(now, SENT_MAX);
        map.insert(now, record(70_000));
        let sequence = 70_000u64 as u16;
        assert_eq!(
            map.claim_retransmit(now + rtt / 2, sequence, rtt),
            Err(true),
            "it is on its way"
        );
        let now = now + rtt;
        assert!(map.claim_retransmit(now, sequence, rtt).is_ok());
        assert_eq!(map.claim_retransmit(now + rtt / 2, sequence, rtt), Err(true));
        for n in 1..u32::from(REPEATS_MAX) {
            let again = map.claim_retransmit(now + rtt * n, sequence, rtt).unwrap();
            assert!(again.padded() && again.marker() && !again.is_blank(), "as it was");
        }
        assert_eq!(map.claim_retransmit(now + rtt * 20, sequence, rtt), Err(true));
        assert_eq!(
            map.claim_retransmit(now, sequence.wrapping_sub(SENT_MAX as u16), rtt),
            Err(false)
        );
        map.insert(now, record(70_000 + SENT_MAX as u64));
        assert_eq!(map.claim_retransmit(now, sequence, rtt), Err(false), "overwritten");
    }
}
