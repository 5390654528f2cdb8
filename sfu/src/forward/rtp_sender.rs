//! RTP sender: one outgoing SSRC with continuous sequence numbers, and the only writer of packets
//! sealed on it.
//!
//! [`RtpSender::assign`] gives each packet a new number once, as a [`Numbered`] that cannot be
//! copied. [`RtpSender::drop_packet`] closes the numbers over a packet that is not sent.
//! [`RtpSender::write_media`] turns a stamped record and its cached packet into header and payload,
//! the same bytes every time. [`RtpSender::write_rtx`] wraps them for RFC 4588 under a new RTX
//! number. [`Plaintext`] cannot be made elsewhere, and the SRTP sender takes nothing else. So the
//! types make it impossible to seal one number with two different contents (architecture D1).
//! Decides nothing: that is `forwarder.rs`.

use std::ops::Range;
use std::time::Duration;

use super::catch_up_timestamps::CatchUpTimestamps;
use super::header::{Carrier, Fields, Header, Template};
use super::sent::{
    BLANK, MARKER, NotClaimed, Numbered, PADDED, SendTime, SentMap, SentRecord, SourceSeq,
};
use super::sequence::{DroppedSeqs, IssuedSeqs};
use crate::codec::Codec;
use crate::ids::LayerKey;
use crate::media::{Packet, PacketMeta};
use crate::rtp::codec::{PictureIds, patch_picture_ids};
use crate::rtp::ext::ExtKind;
use crate::rtp::red::{red_primary, rewrite_red_payload_types};
use crate::warm::warm;

/// Segments whose late packets may still be numbered.
const SEGMENTS: usize = 4;

/// Constant settings of one RTP sender.
#[derive(Debug, Clone)]
pub struct RtpSenderConfig {
    /// Our SSRC towards this viewer.
    pub ssrc: u32,
    /// Our RTX SSRC towards this viewer.
    pub rtx_ssrc: u32,
    /// The viewer's mid. A mid of more than 16 bytes does not fit the header and is not sent.
    pub mid: Box<[u8]>,
    /// Extension ids the viewer negotiated.
    pub exts: Vec<(ExtKind, u8)>,
    /// Whether two-byte extension headers may be used.
    pub two_byte_exts: bool,
    /// Packets that are remembered to answer NACKs, a power of two; 0 for none.
    pub remember: usize,
    /// First outgoing sequence number; below 2^15, so that no index precedes the first roll-over.
    pub first_sequence: u16,
    /// Offset of the first timestamp.
    pub first_timestamp: u32,
}

/// Payload types of one publisher's codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutgoingFormat {
    /// The codec.
    pub codec: Codec,
    /// The viewer's payload type for it.
    pub pt: u8,
    /// The viewer's RTX payload type.
    pub rtx_pt: Option<u8>,
    /// The viewer's RED payload type.
    pub red_pt: Option<u8>,
}

/// A header and payload ready to be sealed, each number once. Only [`RtpSender`] makes it.
#[derive(Debug)]
pub struct Plaintext<'a> {
    pub(crate) out: &'a mut [u8],
    pub(crate) header_len: usize,
    pub(crate) prefix_len: usize,
    pub(crate) rest: &'a [u8],
    pub(crate) padding: &'static [u8],
    pub(crate) ssrc: u32,
    pub(crate) index: u64,
    /// Whether the header has room for the transport-wide number. Otherwise the number is still free.
    pub(crate) is_full: bool,
}

impl Plaintext<'_> {
    /// Bytes after the header, padding not counted.
    pub fn payload_len(&self) -> usize {
        self.prefix_len + self.rest.len()
    }
}

/// Reason why a packet gets no number, or is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNumbered {
    /// The packet belongs to no segment: it came before the start, or after a layer switch.
    OutsideSegments,
    /// The packet's number was assigned before, or the numbers were closed over it.
    Duplicate,
    /// The numbers that were dropped since are forgotten.
    TooOld,
    /// The packet was left out by the layer filter.
    Filtered,
}

/// One byte of padding: its value is the padding length.
const PADDING: &[u8] = &[1];

/// P bit of the first header byte.
const PADDING_BIT: u8 = 0x20;

/// Settings with which a new segment continues the stream.
#[derive(Debug, Clone, Copy)]
pub struct SourceSwitch {
    /// Offset to add to the publisher's timestamps.
    pub ts_delta: u32,
    /// Timestamps of the first frames, if they are of the viewer's past.
    pub catch_up: CatchUpTimestamps,
    /// Whether one number stays unused, so that a decoder sees that the frame before was cut.
    pub gap: bool,
}

#[derive(Debug, Clone, Copy)]
struct SourceSegment {
    key: LayerKey,
    first: u64,
    /// One past the last number of the segment; open while it is the current one.
    end: u64,
    /// Offset of sequence numbers from `closed_to` on. For lower numbers the count of closed
    /// numbers since is added.
    seq_delta: u64,
    /// One past the highest number that the segment closes over; 0 if there is none.
    closed_to: u64,
    ts_delta: u32,
    catch_up: CatchUpTimestamps,
    /// Offset of picture ids, counted like `seq_delta`.
    picture_delta: u16,
    tl0_delta: u8,
    /// Offset of the frame numbers of dependency descriptors.
    frame_delta: u16,
}

/// One outgoing SSRC. Fields that each packet needs are next to each other at the top, because a
/// thousand senders do not fit the near CPU caches.
#[derive(Debug)]
#[repr(C)]
pub struct RtpSender {
    packets: u64,
    octets: u64,
    /// One past the highest publisher number that was numbered in the present segment.
    issued_to: u64,
    last: Option<LastSent>,
    format: Option<OutgoingFormat>,
    /// Copy of the SSRC in `config`, which lies in another cache line.
    ssrc: u32,
    sent: Option<SentMap>,
    /// Dropped numbers of each segment; empty until packets may be left out.
    dropped_seqs: Vec<DroppedSeqs>,
    template: Template,
    issued: IssuedSeqs,
    /// The present one first.
    segments: [Option<SourceSegment>; SEGMENTS],
    config: RtpSenderConfig,
    next_rtx: u64,
}

#[derive(Debug, Clone, Copy)]
struct LastSent {
    timestamp: u32,
    picture_id: u16,
    tl0_pic_idx: u8,
    frame_number: u16,
    marker: bool,
}

impl LastSent {
    const NOTHING: Self =
        Self { timestamp: 0, picture_id: 0, tl0_pic_idx: 0, frame_number: 0, marker: false };
}

impl RtpSender {
    /// A sender that has sent nothing.
    pub fn new(config: RtpSenderConfig) -> Self {
        let first = u64::from(config.first_sequence);
        Self {
            sent: (config.remember > 0).then(|| SentMap::new(config.remember)),
            template: Template::new(&config),
            issued: IssuedSeqs::new(first),
            issued_to: 0,
            next_rtx: first,
            ssrc: config.ssrc,
            config,
            format: None,
            segments: [None; SEGMENTS],
            dropped_seqs: Vec::new(),
            last: None,
            packets: 0,
            octets: 0,
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.timestamp_delta(), self.last, self.octets, self.format);
        self.template.warm();
        self.issued.warm();
        if let Some(sent) = &self.sent {
            sent.warm(self.issued.next() as u32);
        }
    }

    /// Sets the payload types of the next segment.
    pub fn set_format(&mut self, format: OutgoingFormat) {
        self.format = Some(format);
    }

    /// Forgets all records and segments: packets of another publisher, or of another stream, may
    /// bear the same numbers. Packets that were sent so far are not retransmitted any more.
    pub fn forget(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.clear();
        }
        self.segments = [None; SEGMENTS];
    }

    /// Allocates the memory that [`Self::drop_packet`] needs.
    pub fn enable_drops(&mut self) {
        if self.dropped_seqs.is_empty() {
            self.dropped_seqs = vec![DroppedSeqs::NONE; SEGMENTS];
        }
    }

    /// The payload types in use.
    pub fn format(&self) -> Option<OutgoingFormat> {
        self.format
    }

    /// Our SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Timestamp of the newest packet sent, if any.
    pub fn last_timestamp(&self) -> Option<u32> {
        self.last.map(|last| last.timestamp)
    }

    /// Whether the newest packet sent ended its frame.
    pub fn frame_finished(&self) -> bool {
        self.last.is_none_or(|last| last.marker)
    }

    /// Counts a packet of this payload size that was sealed at `at` for the first time, and keeps
    /// its record for NACKs.
    #[inline]
    pub fn on_sent(&mut self, at: SendTime, record: SentRecord, octets: usize) {
        self.packets += 1;
        self.octets += octets as u64;
        if let Some(sent) = &mut self.sent {
            sent.insert(at, record);
        }
    }

    /// Packets and payload octets sent, without retransmissions, for sender reports.
    pub fn totals(&self) -> (u64, u64) {
        (self.packets, self.octets)
    }

    /// Extended sequence numbers from the first one to the newest that was assigned.
    pub fn numbers(&self) -> Range<u64> {
        u64::from(self.config.first_sequence)..self.issued.next()
    }

    /// Present offset of the publisher's timestamps.
    pub fn timestamp_delta(&self) -> Option<u32> {
        self.current().map(|segment| segment.ts_delta)
    }

    /// The timestamp to start with before the first packet.
    pub fn first_timestamp(&self) -> u32 {
        self.config.first_timestamp
    }

    /// Begins a segment at this packet: from here on this layer continues the outgoing stream.
    pub fn switch_source(&mut self, key: LayerKey, meta: &PacketMeta, switch: SourceSwitch) {
        let picture = meta.frame.picture.unwrap_or_default();
        let frame_number = meta.frame.frame_number.unwrap_or(0);
        let (picture_delta, tl0_delta, frame_delta) = match self.last {
            Some(last) => (
                last.picture_id.wrapping_add(1).wrapping_sub(picture_number(picture)),
                last.tl0_pic_idx.wrapping_add(1).wrapping_sub(picture.tl0_pic_idx.unwrap_or(0)),
                last.frame_number.wrapping_add(1).wrapping_sub(frame_number),
            ),
            None => (0, 0, 0),
        };
        self.close();
        let next = self.issued.next() + u64::from(switch.gap && self.last.is_some());
        self.issued_to = meta.ext_seq;
        self.segments.rotate_right(1);
        if !self.dropped_seqs.is_empty() {
            self.dropped_seqs.rotate_right(1);
        }
        if let Some(dropped_seqs) = self.dropped_seqs.first_mut() {
            *dropped_seqs = DroppedSeqs::NONE;
        }
        if let Some(slot) = self.segments.first_mut() {
            *slot = Some(SourceSegment {
                key,
                first: meta.ext_seq,
                end: u64::MAX,
                seq_delta: next.wrapping_sub(meta.ext_seq),
                closed_to: 0,
                ts_delta: switch.ts_delta,
                catch_up: switch.catch_up,
                picture_delta,
                tl0_delta,
                frame_delta,
            });
        }
    }

    /// Ends the present segment: only late packets may still be numbered in it.
    pub fn close(&mut self) {
        let Some(current) = self.segments.first_mut().and_then(Option::as_mut) else { return };
        current.end = current.end.min(self.issued_to);
    }

    /// Whether late packets of this layer may still be numbered.
    pub fn remembers(&self, key: LayerKey) -> bool {
        self.segments.iter().flatten().any(|part| part.key == key)
    }

    /// The publisher's number that the present segment begins with.
    pub fn begins_with(&self) -> Option<u64> {
        self.current().map(|segment| segment.first)
    }

    /// Gives a packet its number. It is written with this marker bit, and with one byte of padding
    /// if `padded` (RFC 3550 section 5.1).
    ///
    /// # Errors
    ///
    /// The reason why the packet gets none.
    // As for `write_media`: the record must not be returned through memory.
    #[inline(always)]
    pub fn assign(
        &mut self,
        key: LayerKey,
        meta: &PacketMeta,
        marker: bool,
        padded: bool,
    ) -> Result<Numbered, NotNumbered> {
        let place = self.find(key, meta.ext_seq).ok_or(NotNumbered::OutsideSegments)?;
        let form = if marker { MARKER } else { 0 } | if padded { PADDED } else { 0 };
        self.issue(place, meta, form)
    }

    /// Gives a packet with a kept parameter set its number, before the first packet of the present
    /// segment, and the timestamp of that packet.
    ///
    /// # Errors
    ///
    /// [`NotNumbered::OutsideSegments`] if `first` is not the first packet of the segment, or was
    /// assigned its number.
    pub fn assign_before(
        &mut self,
        key: LayerKey,
        first: &PacketMeta,
        set: &PacketMeta,
    ) -> Result<Numbered, NotNumbered> {
        let segment = self.current().copied().filter(|segment| {
            (segment.key, segment.first) == (key, first.ext_seq) && self.issued_to == segment.first
        });
        let segment = segment.ok_or(NotNumbered::OutsideSegments)?;
        let plain = first.timestamp.wrapping_add(segment.ts_delta);
        let timestamp = segment.catch_up.stamp(0, first.timestamp, plain);
        let out = first.ext_seq.wrapping_add(segment.seq_delta);
        if !self.issued.issue(out) {
            return Err(NotNumbered::Duplicate);
        }
        if let Some(current) = self.segments.first_mut().and_then(Option::as_mut) {
            current.seq_delta = current.seq_delta.wrapping_add(1);
        }
        let before = self.last.unwrap_or(LastSent::NOTHING);
        // The access unit goes on.
        self.last = Some(LastSent { timestamp, marker: false, ..before });
        let source = SourceSeq::new(key, set.ext_seq);
        let picture = (before.picture_id, before.tl0_pic_idx);
        Ok(Numbered::new(source, out, timestamp, picture, 0))
    }

    /// Leaves a packet out, and closes the numbers over it. If a higher number was assigned before
    /// the packet came, its own number was kept free. The viewer then sends NACKs until that number
    /// is sent, so the packet is numbered and written without a payload, as a keep-alive is. H.264
    /// decoders would wait for a number that never comes. Call [`Self::enable_drops`] before the
    /// first time.
    ///
    /// # Errors
    ///
    /// [`NotNumbered::Filtered`] if nothing is to be sent; else as [`Self::assign`].
    #[inline(never)]
    pub fn drop_packet(
        &mut self,
        key: LayerKey,
        meta: &PacketMeta,
    ) -> Result<Numbered, NotNumbered> {
        let seq = meta.ext_seq;
        let place = self.find(key, seq).ok_or(NotNumbered::OutsideSegments)?;
        let closes = self.closes_pictures();
        let dropped_seqs = self.dropped_seqs.get_mut(place).ok_or(NotNumbered::Filtered)?;
        if dropped_seqs.holds(seq) {
            return Err(NotNumbered::Filtered);
        }
        if place > 0 || seq < self.issued_to {
            return self.issue(place, meta, BLANK);
        }
        let begins = dropped_seqs.close(seq, meta.timestamp).ok_or(NotNumbered::TooOld)?;
        if let Some(current) = self.segments.first_mut().and_then(Option::as_mut) {
            current.seq_delta = current.seq_delta.wrapping_sub(1);
            current.picture_delta = current.picture_delta.wrapping_sub((closes && begins).into());
            current.closed_to = dropped_seqs.end();
        }
        Err(NotNumbered::Filtered)
    }

    /// Index of the segment that a packet belongs to.
    #[inline]
    fn find(&self, key: LayerKey, seq: u64) -> Option<usize> {
        let holds = |segment: &SourceSegment| {
            segment.key == key && (segment.first..segment.end).contains(&seq)
        };
        self.segments.iter().position(|segment| segment.as_ref().is_some_and(holds))
    }

    /// Whether picture ids close over pictures that are left out. Decoders of VP8 take a gap for a
    /// loss; those of VP9 find reference frames by these ids.
    fn closes_pictures(&self) -> bool {
        self.format.is_some_and(|format| format.codec == Codec::Vp8)
    }

    /// Offsets of sequence number and picture id for a publisher's number in a segment.
    fn deltas(
        &self,
        place: usize,
        segment: &SourceSegment,
        seq: u64,
    ) -> Result<(u64, u16), NotNumbered> {
        let (seq_delta, picture_delta) = (segment.seq_delta, segment.picture_delta);
        if seq >= segment.closed_to {
            return Ok((seq_delta, picture_delta));
        }
        let dropped_seqs = self.dropped_seqs.get(place).ok_or(NotNumbered::TooOld)?;
        if dropped_seqs.holds(seq) {
            return Err(NotNumbered::Duplicate);
        }
        let (numbers, pictures) = dropped_seqs.since(seq).ok_or(NotNumbered::TooOld)?;
        let pictures = if self.closes_pictures() { pictures } else { 0 };
        Ok((seq_delta.wrapping_add(numbers), picture_delta.wrapping_add(pictures)))
    }

    #[inline(always)]
    fn issue(
        &mut self,
        place: usize,
        meta: &PacketMeta,
        form: u8,
    ) -> Result<Numbered, NotNumbered> {
        let seq = meta.ext_seq;
        let segment = self.segments.get(place).and_then(Option::as_ref);
        let segment = segment.ok_or(NotNumbered::OutsideSegments)?;
        let (seq_delta, picture_delta) = self.deltas(place, segment, seq)?;
        let out = seq.wrapping_add(seq_delta);
        let newest = out >= self.issued.next();
        if !self.issued.issue(out) {
            return Err(NotNumbered::Duplicate);
        }
        let plain = meta.timestamp.wrapping_add(segment.ts_delta);
        let position = seq.wrapping_sub(segment.first);
        let timestamp = segment.catch_up.stamp(position, meta.timestamp, plain);
        // The picture goes on behind its parameter sets.
        let form = if segment.catch_up.leads(position) { form & !MARKER } else { form };
        let picture = meta.frame.picture.unwrap_or_default();
        let picture_id = picture_number(picture).wrapping_add(picture_delta);
        let tl0 = picture.tl0_pic_idx.unwrap_or(0).wrapping_add(segment.tl0_delta);
        let source = SourceSeq::new(segment.key, seq);
        let numbered = Numbered::new(source, out, timestamp, (picture_id, tl0), form);
        if newest {
            let frame_number = meta.frame.frame_number.unwrap_or(0);
            let mut sent = LastSent {
                timestamp,
                picture_id,
                tl0_pic_idx: tl0,
                frame_number: frame_number.wrapping_add(segment.frame_delta),
                marker: numbered.marker(),
            };
            if meta.payload_len == 0
                && let Some(last) = self.last
            {
                // A packet without payload, such as padding, ends no frame and begins none.
                sent = LastSent { timestamp, marker: sent.marker || last.marker, ..last };
            }
            self.issued_to = seq + 1;
            self.last = Some(sent);
            if !segment.catch_up.is_over()
                && let Some(segment) = self.segments.get_mut(place).and_then(Option::as_mut)
            {
                segment.catch_up.forget_if_over(plain);
            }
        }
        Ok(numbered)
    }

    /// The record of a number that the viewer sent a NACK for; see [`SentMap::claim_retransmit`].
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
        self.sent.as_mut().ok_or(NotClaimed::Unknown)?.claim_retransmit(now, sequence, rtt)
    }

    /// Writes header and payload of a record. The same record and packet give the same bytes.
    // Inlined: a record returned through memory is read in other widths than it was written, which
    // costs 20 ns per packet.
    #[inline(always)]
    pub fn write_media<'a>(
        &self,
        record: &SentRecord,
        packet: &'a Packet,
        out: &'a mut [u8],
    ) -> Option<Plaintext<'a>> {
        let format = self.format?;
        let meta = packet.meta().filter(|meta| meta.ext_seq == record.source.ext_seq())?;
        let pt = if meta.red { format.red_pt.unwrap_or(format.pt) } else { format.pt };
        let sequence = record.out as u16;
        let ids = (pt, sequence, self.ssrc);
        let padding = if record.padded() { PADDING } else { &[] };
        let behind = usize::from(meta.payload_len) + padding.len();
        let Header { len: header_len, is_full } =
            self.write_header(record, record.twcc, ids, (packet, meta, behind), out)?;
        if record.padded() {
            *out.first_mut()? |= PADDING_BIT;
        }
        let (prefix_len, rest) =
            copy_prefix(&format, record, packet, meta, out.get_mut(header_len..)?)?;
        let index = self.issued.widen(record.out);
        let ssrc = self.ssrc;
        Some(Plaintext { out, header_len, prefix_len, rest, padding, ssrc, index, is_full })
    }

    /// Wraps a record for retransmission (RFC 4588) under a new RTX number and TWCC number.
    pub fn write_rtx<'a>(
        &mut self,
        record: &SentRecord,
        packet: &'a Packet,
        twcc: u16,
        out: &'a mut [u8],
    ) -> Option<Plaintext<'a>> {
        let format = self.format?;
        let meta = packet.meta().filter(|meta| meta.ext_seq == record.source.ext_seq())?;
        let index = self.next_rtx;
        let ids = (format.rtx_pt?, index as u16, self.config.rtx_ssrc);
        let behind = usize::from(meta.payload_len) + 2;
        let Header { len: header_len, is_full } =
            self.write_header(record, twcc, ids, (packet, meta, behind), out)?;
        let original = out.get_mut(header_len..header_len + 2)?;
        original.copy_from_slice(&(record.out as u16).to_be_bytes());
        let (prefix_len, rest) =
            copy_prefix(&format, record, packet, meta, out.get_mut(header_len + 2..)?)?;
        self.next_rtx += 1;
        let ssrc = self.config.rtx_ssrc;
        let prefix_len = prefix_len + 2;
        Some(Plaintext { out, header_len, prefix_len, rest, padding: &[], ssrc, index, is_full })
    }

    fn current(&self) -> Option<&SourceSegment> {
        self.segments.first()?.as_ref()
    }

    /// Offset of the frame number in a record's descriptor. `None` if its segment is forgotten: the
    /// bytes could not be written as they were.
    fn frame_delta(&self, record: &SentRecord) -> Option<u16> {
        let source = record.source();
        let seq = source.ext_seq();
        let mut places = self.segments.iter().enumerate();
        places.find_map(|(place, segment)| {
            let segment = segment
                .as_ref()
                .filter(|segment| source.is_of(segment.key) && seq >= segment.first)?;
            let (delta, _) = self.deltas(place, segment, seq).ok()?;
            (seq.wrapping_add(delta) as u32 == record.out).then_some(segment.frame_delta)
        })
    }

    /// Writes the header of a packet with `behind` bytes behind it.
    fn write_header(
        &self,
        record: &SentRecord,
        twcc: u16,
        (pt, sequence, ssrc): (u8, u16, u32),
        (packet, meta, behind): (&Packet, &PacketMeta, usize),
        out: &mut [u8],
    ) -> Option<Header> {
        let (marker, timestamp) = (record.marker(), record.timestamp);
        let fields = Fields { marker, pt, sequence, timestamp, ssrc };
        if record.is_blank() {
            return self.template.write(&self.config, fields, twcc, (None, 0), out);
        }
        let carrier = match meta.exts.first() {
            Some(None) => None,
            _ => {
                let numbered = meta.frame.frame_number.is_some();
                let frame_delta = if numbered { self.frame_delta(record)? } else { 0 };
                Some(Carrier { packet, meta, frame_delta })
            }
        };
        self.template.write(&self.config, fields, twcc, (carrier, behind), out)
    }
}

fn picture_number(picture: PictureIds) -> u16 {
    picture.picture_id.map_or(0, |(value, _)| value)
}

/// Copies the payload bytes that differ per viewer and rewrites them; the other bytes stay shared.
fn copy_prefix<'a>(
    format: &OutgoingFormat,
    record: &SentRecord,
    packet: &'a Packet,
    meta: &PacketMeta,
    out: &mut [u8],
) -> Option<(usize, &'a [u8])> {
    if record.is_blank() {
        return Some((0, &[]));
    }
    if meta.red && format.red_pt.is_none() {
        return Some((0, red_primary(packet.payload())?));
    }
    let prefix_len = usize::from(meta.prefix_len);
    let (prefix, rest) = packet.payload().split_at_checked(prefix_len)?;
    let copied = out.get_mut(..prefix_len)?;
    copied.copy_from_slice(prefix);
    if meta.red {
        rewrite_red_payload_types(copied, format.pt);
    } else if prefix_len > 0 {
        patch_picture_ids(format.codec, copied, record.picture_id, record.tl0_pic_idx);
    }
    Some((prefix_len, rest))
}

#[cfg(test)]
mod tests;
