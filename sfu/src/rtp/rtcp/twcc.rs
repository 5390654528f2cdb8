//! Transport-wide congestion control feedback, both ways
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1).
//!
//! Owns status chunks and arrival deltas. Never keeps a history: `congestion/` does. Reading is
//! checked once in [`TwccFeedback::parse`], so that the iterator needs no error.

use super::cursor::Cursor;
use super::{Reader, RtcpError};

/// Longest run that one run-length chunk can say: 13 bits.
const MAX_RUN: usize = 0x1fff;

/// Symbols in a chunk of one-bit and of two-bit symbols.
const ONE_BIT_SYMBOLS: usize = 14;
const TWO_BIT_SYMBOLS: usize = 7;

// Status symbols. Each of the first three is also the number of delta bytes that it brings.
const NOT_RECEIVED: u16 = 0;
const SMALL_DELTA: u16 = 1;
const LARGE_DELTA: u16 = 2;

/// A received feedback packet, checked as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwccFeedback<'a> {
    /// SSRC of the reporter.
    pub sender_ssrc: u32,
    /// One of the sources reported on; feedback is for all of them.
    pub media_ssrc: u32,
    /// Transport-wide sequence number of the first status.
    pub base_seq: u16,
    /// Number of statuses, up to 65,535.
    pub status_count: u16,
    /// Time base of the arrivals in units of 64 ms, 24 bits signed; wraps after 12 days.
    pub reference_time: i32,
    /// Count of feedback packets, so that lost ones show; wraps.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> TwccFeedback<'a> {
    pub(super) fn parse(mut body: Reader<'a>) -> Result<Self, RtcpError> {
        Self::read_header(&mut body).ok_or(RtcpError::TooShort)?.with_chunks(body.0)
    }

    fn read_header(body: &mut Reader<'a>) -> Option<Self> {
        let (sender_ssrc, media_ssrc) = (body.u32()?, body.u32()?);
        let (base_seq, status_count) = (body.u16()?, body.u16()?);
        let [t0, t1, t2, feedback_count] = body.array()?;
        let reference_time = i32::from_be_bytes([t0, t1, t2, 0]) >> 8;
        Some(Self {
            sender_ssrc,
            media_ssrc,
            base_seq,
            status_count,
            reference_time,
            feedback_count,
            chunks: &[],
            deltas: &[],
        })
    }

    /// Finds where the chunks end and checks that all deltas are there. Work is bounded by the
    /// bytes of the chunks, however many statuses are claimed (quality B4 item 10).
    fn with_chunks(mut self, body: &'a [u8]) -> Result<Self, RtcpError> {
        let mut rest = Reader(body);
        let mut unread = self.status_count;
        let mut delta_bytes = 0usize;
        while unread > 0 {
            let chunk = Chunk::from(rest.u16().ok_or(RtcpError::TooShort)?);
            let used = chunk.left.min(unread);
            delta_bytes += chunk.delta_bytes(used).ok_or(RtcpError::ReservedSymbol)?;
            unread -= used;
        }
        let deltas = rest.0.get(..delta_bytes).ok_or(RtcpError::TooShort)?;
        let chunk_bytes = body.len() - rest.0.len();
        self.chunks = body.get(..chunk_bytes).ok_or(RtcpError::TooShort)?;
        self.deltas = deltas;
        Ok(self)
    }

    /// Each reported number with its arrival in units of 250 µs since `reference_time` x 64 ms;
    /// `None` if it has not arrived. Exactly `status_count` items.
    #[cfg_attr(
        not(feature = "internals"),
        expect(dead_code, reason = "read by the bandwidth estimator, which does not exist yet")
    )]
    pub fn statuses(&self) -> TwccStatuses<'a> {
        TwccStatuses {
            chunks: Reader(self.chunks),
            deltas: Reader(self.deltas),
            chunk: Chunk { bits: 0, width: 0, left: 0 },
            unread: self.status_count,
            seq: self.base_seq,
            arrival: 0,
        }
    }
}

/// Iterator of [`TwccFeedback::statuses`].
#[derive(Debug, Clone)]
pub struct TwccStatuses<'a> {
    chunks: Reader<'a>,
    deltas: Reader<'a>,
    chunk: Chunk,
    unread: u16,
    seq: u16,
    arrival: i64,
}

impl Iterator for TwccStatuses<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        self.unread = self.unread.checked_sub(1)?;
        while self.chunk.left == 0 {
            self.chunk = Chunk::from(self.chunks.u16()?);
        }
        let delta = match self.chunk.next_symbol() {
            SMALL_DELTA => Some(i64::from(self.deltas.u8()?)),
            LARGE_DELTA => Some(i64::from(self.deltas.array().map(i16::from_be_bytes)?)),
            _ => None,
        };
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        let arrival = delta.map(|delta| {
            self.arrival += delta; // at most 65,535 x 2^15
            self.arrival
        });
        Some((seq, arrival))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.unread)))
    }
}

/// A packet status chunk that is being read.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    /// The symbol of a run, or the symbols of a vector from the top bit down.
    bits: u16,
    /// Bits of one symbol in a vector; 0 for a run.
    width: u16,
    /// Symbols not read yet.
    left: u16,
}

impl From<u16> for Chunk {
    fn from(word: u16) -> Self {
        match word >> 14 {
            0b10 => Self { bits: word << 2, width: 1, left: ONE_BIT_SYMBOLS as u16 },
            0b11 => Self { bits: word << 2, width: 2, left: TWO_BIT_SYMBOLS as u16 },
            _ => Self { bits: word >> 13, width: 0, left: word & MAX_RUN as u16 },
        }
    }
}

impl Chunk {
    fn next_symbol(&mut self) -> u16 {
        self.left = self.left.saturating_sub(1);
        if self.width == 0 {
            return self.bits;
        }
        let symbol = self.bits >> (16 - self.width);
        self.bits <<= self.width;
        symbol
    }

    /// Bytes that the deltas of the first `count` symbols take; `None` for a reserved symbol.
    fn delta_bytes(mut self, count: u16) -> Option<usize> {
        if self.width == 0 {
            let each = Some(self.bits).filter(|&symbol| symbol <= LARGE_DELTA)?;
            return Some(usize::from(each) * usize::from(count));
        }
        let mut bytes = 0;
        for _ in 0..count {
            let each = Some(self.next_symbol()).filter(|&symbol| symbol <= LARGE_DELTA)?;
            bytes += usize::from(each);
        }
        Some(bytes)
    }
}

/// Writes what stands behind the two SSRCs. `None` if it does not fit, if `arrivals` is empty or
/// longer than 65,535, or if two consecutive arrivals are more than 8.19 s apart.
pub(super) fn write_body(
    out: &mut Cursor<'_>,
    base_seq: u16,
    feedback_count: u8,
    reference_time: i32,
    arrivals: &[Option<i64>],
) -> Option<()> {
    let status_count = u16::try_from(arrivals.len()).ok().filter(|&count| count > 0)?;
    out.bytes(&base_seq.to_be_bytes())?;
    out.bytes(&status_count.to_be_bytes())?;
    let [_, t0, t1, t2] = reference_time.to_be_bytes();
    out.bytes(&[t0, t1, t2, feedback_count])?;

    let mut unwritten = Statuses::new(arrivals);
    while !unwritten.arrivals.is_empty() {
        let (chunk, covered) = longest_chunk(unwritten)?;
        out.bytes(&chunk.to_be_bytes())?;
        unwritten.nth(covered.checked_sub(1)?);
    }
    for status in Statuses::new(arrivals) {
        match status? {
            Status::NotReceived => {}
            Status::Small(delta) => out.bytes(&[delta])?,
            Status::Large(delta) => out.bytes(&delta.to_be_bytes())?,
        }
    }
    Some(())
}

/// Status of one packet.
#[derive(Clone, Copy)]
enum Status {
    NotReceived,
    Small(u8),
    Large(i16),
}

impl Status {
    fn symbol(self) -> u16 {
        match self {
            Self::NotReceived => NOT_RECEIVED,
            Self::Small(_) => SMALL_DELTA,
            Self::Large(_) => LARGE_DELTA,
        }
    }
}

/// Iterator over arrivals as statuses; an item is `None` when the delta does not fit 16 bits.
#[derive(Clone, Copy)]
struct Statuses<'a> {
    arrivals: &'a [Option<i64>],
    /// Arrival that the next delta counts from.
    previous: i64,
}

impl<'a> Statuses<'a> {
    fn new(arrivals: &'a [Option<i64>]) -> Self {
        Self { arrivals, previous: 0 }
    }
}

impl Iterator for Statuses<'_> {
    type Item = Option<Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.arrivals.split_first()?;
        self.arrivals = rest;
        let Some(arrival) = *first else { return Some(Some(Status::NotReceived)) };
        let delta = arrival.checked_sub(self.previous);
        self.previous = arrival;
        Some(delta.and_then(|delta| {
            let small = u8::try_from(delta).ok().map(Status::Small);
            small.or_else(|| i16::try_from(delta).ok().map(Status::Large))
        }))
    }
}

/// The chunk that covers most of the coming statuses, and how many. Each form costs two bytes, so
/// taking the longest each time is good enough.
fn longest_chunk(statuses: Statuses<'_>) -> Option<(u16, usize)> {
    let mut first = NOT_RECEIVED;
    let (mut run, mut small, mut seen) = (0, 0, 0);
    let (mut one_bit, mut two_bit) = (0x8000u16, 0xc000u16);
    for status in statuses.take(MAX_RUN) {
        let symbol = status?.symbol();
        if seen == 0 {
            first = symbol;
        }
        if run == seen && symbol == first {
            run += 1;
        }
        if seen < ONE_BIT_SYMBOLS && small == seen && symbol != LARGE_DELTA {
            one_bit |= symbol << (ONE_BIT_SYMBOLS - 1 - seen);
            small += 1;
        }
        if seen < TWO_BIT_SYMBOLS {
            two_bit |= symbol << (2 * (TWO_BIT_SYMBOLS - 1 - seen));
        }
        seen += 1;
        if run < seen && seen >= ONE_BIT_SYMBOLS {
            break;
        }
    }
    // A vector is always full, except for the last one of all.
    let one_bit_covers = if small == seen.min(ONE_BIT_SYMBOLS) { small } else { 0 };
    let two_bit_covers = seen.min(TWO_BIT_SYMBOLS);
    Some(if run >= one_bit_covers && run >= two_bit_covers {
        (first << 13 | u16::try_from(run).ok()?, run)
    } else if one_bit_covers >= two_bit_covers {
        (one_bit, one_bit_covers)
    } else {
        (two_bit, two_bit_covers)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Rtcp, RtcpWriter, packets};
    use super::*;

    fn write(arrivals: &[Option<i64>]) -> Option<Vec<u8>> {
        let mut buf = vec![0; 200_000];
        let mut writer = RtcpWriter::new(&mut buf);
        let written = writer.twcc(1, 2, 65_530, 7, -3, arrivals);
        let len = writer.len();
        assert_eq!(written, len > 0);
        written.then(|| buf[..len].to_vec())
    }

    fn read(packet: &[u8]) -> Result<TwccFeedback<'_>, RtcpError> {
        match packets(packet).next().unwrap()? {
            Rtcp::Twcc(feedback) => Ok(feedback),
            other => panic!("{other:?}"),
        }
    }

    /// Chunk words of a written packet.
    fn chunks(packet: &[u8]) -> Vec<u16> {
        let feedback = read(packet).unwrap();
        feedback.chunks.chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect()
    }

    fn round_trip(arrivals: &[Option<i64>]) {
        let packet = write(arrivals).unwrap();
        assert_eq!(packet.len() % 4, 0);
        let feedback = read(&packet).unwrap();
        assert_eq!((feedback.base_seq, feedback.reference_time), (65_530, -3));
        assert_eq!((feedback.sender_ssrc, feedback.media_ssrc), (1, 2));
        assert_eq!(feedback.feedback_count, 7);
        let expected: Vec<_> = arrivals
            .iter()
            .enumerate()
            .map(|(i, &a)| (65_530u16.wrapping_add(i as u16), a))
            .collect();
        assert_eq!(feedback.statuses().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn patterns_choose_their_chunk_and_come_back() {
        let steady: Vec<_> = (0..100).map(|n| Some(n * 20)).collect();
        assert_eq!(chunks(&write(&steady).unwrap()), [0x2000 | 100], "one run");

        let holes: Vec<_> = (0..28).map(|n| (n % 3 != 0).then_some(n)).collect();
        assert_eq!(chunks(&write(&holes).unwrap()).len(), 2, "two one-bit vectors");

        let mixed = [Some(0), Some(1_000), None, Some(900), Some(910), None, Some(2_000)];
        assert_eq!(chunks(&write(&mixed).unwrap()), [0xc000 | 0b01_10_00_10_01_00_10]);

        let mut long_loss = vec![None; 20_000];
        long_loss[0] = Some(5);
        long_loss[19_999] = Some(6);
        assert_eq!(chunks(&write(&long_loss).unwrap()).len(), 5, "vector, 2 runs, rest, last");

        for arrivals in [&steady, &holes, &mixed.to_vec(), &long_loss, &vec![None; 65_535]] {
            round_trip(arrivals);
        }
    }

    #[test]
    fn every_padding_from_none_to_three_bytes() {
        for received in 1..=9 {
            round_trip(&(0..received).map(Some).collect::<Vec<_>>());
        }
    }

    #[test]
    fn deltas_at_and_past_their_limits() {
        for delta in [0, 255, 256, -1, 32_767, -32_768] {
            round_trip(&[Some(delta)]);
            round_trip(&[Some(100), None, Some(100 + delta)]);
        }
        for arrivals in [
            vec![Some(32_768)],
            vec![Some(-32_769)],
            vec![Some(0), Some(32_768)],
            vec![Some(i64::MIN), Some(i64::MAX)],
            vec![],
            vec![None; 65_536],
        ] {
            assert_eq!(write(&arrivals), None);
        }
    }

    #[test]
    fn a_claim_of_65_535_statuses_with_a_tiny_body_is_refused() {
        // quality B4 item 10
        let packet = |chunk: u16, deltas: &[u8]| {
            let words = 5 + deltas.len().div_ceil(4) as u8;
            let mut packet = vec![0x8f, 205, 0, words, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0xff, 0xff];
            packet.extend([0, 0, 0, 0]);
            packet.extend(chunk.to_be_bytes());
            packet.extend([0, 0]); // an empty run
            packet.extend(deltas);
            packet
        };
        assert_eq!(read(&packet(0x3fff, &[0; 4])), Err(RtcpError::TooShort));
        assert_eq!(read(&packet(0, &[0; 4])), Err(RtcpError::TooShort), "empty runs only");
        assert_eq!(read(&packet(0x7fff, &[])), Err(RtcpError::ReservedSymbol));
        assert_eq!(read(&packet(0xffff, &[])), Err(RtcpError::ReservedSymbol));
        for cut in 0..24 {
            let mut short = packet(0x3fff, &[])[..cut].to_vec();
            if let Some(length) = short.get_mut(3) {
                *length = (cut / 4) as u8 - 1;
                assert!(packets(&short).all(|p| p.is_err()), "{cut}");
            }
        }
    }

    #[test]
    fn received_runs_need_all_their_deltas() {
        let mut packet = write(&[Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)]).unwrap();
        assert_eq!(packet.len(), 28, "6 deltas fill two words with the chunk");
        packet[3] -= 1;
        packet.truncate(24);
        assert_eq!(read(&packet), Err(RtcpError::TooShort));
    }

    #[test]
    fn symbols_past_the_count_have_no_deltas() {
        // A full one-bit vector, but only two statuses counted.
        let mut packet = vec![0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 9, 0, 2, 0, 0, 1, 0];
        packet.extend([0xbf, 0xff, 4, 5]);
        let feedback = read(&packet).unwrap();
        assert_eq!(feedback.statuses().collect::<Vec<_>>(), [(9, Some(4)), (10, Some(9))]);
    }
}
