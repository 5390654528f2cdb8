//! Writer of our RTCP packets, back to back in one buffer, ready for SRTCP.
//!
//! Owns framing and padding. Never decides what to send. A compound starts with a report and an
//! SDES CNAME (RFC 3550 section 6.1) unless the peer takes reduced size; that order is the
//! caller's.

use super::cursor::Cursor;
use super::twcc;
use super::{
    FORMAT_APPLICATION, FORMAT_FIR, FORMAT_NACK, FORMAT_PLI, FORMAT_TWCC, MAX_NACK_PAIRS,
    MAX_REPORT_BLOCKS, PAYLOAD_FEEDBACK, RECEIVER_REPORT, REMB_NAME, ReportBlock, SENDER_REPORT,
    SOURCE_DESCRIPTION, TRANSPORT_FEEDBACK,
};

/// Bytes of the header of every RTCP packet.
const HEADER_LEN: usize = 4;

/// SDES item type CNAME (RFC 3550 section 6.5.1).
const SDES_CNAME: u8 = 1;

/// Content of a sender report of ours, without its report blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReportOut {
    /// The source that this is about.
    pub ssrc: u32,
    /// NTP timestamp, 32.32 bits.
    pub ntp: u64,
    /// The same moment in units of the RTP clock.
    pub rtp_time: u32,
    /// Packets sent since the start, modulo 2^32.
    pub packets: u32,
    /// Payload bytes sent since the start, modulo 2^32.
    pub octets: u32,
}

/// Writer that appends RTCP packets to a caller's buffer. Each method returns false and appends
/// nothing if its packet does not fit or has no valid form; packets before it stay valid.
#[derive(Debug)]
pub struct RtcpWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> RtcpWriter<'a> {
    /// Starts at the beginning of `buf`. Leave room behind it for the SRTCP trailer.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Bytes written so far, a multiple of four.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A sender report with at most [`MAX_REPORT_BLOCKS`] blocks.
    pub fn sender_report(&mut self, report: &SenderReportOut, blocks: &[ReportBlock]) -> bool {
        self.report(SENDER_REPORT, blocks, |out| {
            out.u32(report.ssrc)?;
            out.bytes(&report.ntp.to_be_bytes())?;
            out.u32(report.rtp_time)?;
            out.u32(report.packets)?;
            out.u32(report.octets)
        })
    }

    /// A receiver report of `ssrc` with at most [`MAX_REPORT_BLOCKS`] blocks; none is fine.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> bool {
        self.report(RECEIVER_REPORT, blocks, |out| out.u32(ssrc))
    }

    /// An SDES packet with the CNAME of `ssrc`, at most 255 bytes.
    pub fn sdes_cname(&mut self, ssrc: u32, cname: &str) -> bool {
        self.packet(SOURCE_DESCRIPTION, 1, |out| {
            out.u32(ssrc)?;
            out.bytes(&[SDES_CNAME, u8::try_from(cname.len()).ok()?])?;
            out.bytes(cname.as_bytes())?;
            // One to four zero bytes end the list of items and fill the word.
            let end = 4 - out.at() % 4;
            out.bytes([0; 4].get(..end)?)
        })
    }

    /// A generic NACK. `sequences` in ascending order (across the wrap too) packs best; false
    /// also when it is empty or needs more than [`MAX_NACK_PAIRS`] pairs.
    pub fn nack(&mut self, sender_ssrc: u32, media_ssrc: u32, sequences: &[u16]) -> bool {
        self.feedback(TRANSPORT_FEEDBACK, FORMAT_NACK, sender_ssrc, media_ssrc, |out| {
            let mut rest = sequences.iter().copied().peekable();
            let mut pairs = 0;
            while let Some(first) = rest.next() {
                let mut mask = 0u16;
                while let Some(next) = rest.next_if(|next| next.wrapping_sub(first) <= 16) {
                    // A repeated number needs no bit.
                    if let Some(bit) = next.wrapping_sub(first).checked_sub(1) {
                        mask |= 1 << bit;
                    }
                }
                out.bytes(&first.to_be_bytes())?;
                out.bytes(&mask.to_be_bytes())?;
                pairs += 1;
            }
            (1..=MAX_NACK_PAIRS).contains(&pairs).then_some(())
        })
    }

    /// A picture loss indication.
    pub fn pli(&mut self, sender_ssrc: u32, media_ssrc: u32) -> bool {
        self.feedback(PAYLOAD_FEEDBACK, FORMAT_PLI, sender_ssrc, media_ssrc, |_| Some(()))
    }

    /// A full intra request for one source. `number` grows with each new request and stays the
    /// same for a repeated one (RFC 5104 section 4.3.1.1).
    pub fn fir(&mut self, sender_ssrc: u32, media_ssrc: u32, number: u8) -> bool {
        self.feedback(PAYLOAD_FEEDBACK, FORMAT_FIR, sender_ssrc, 0, |out| {
            out.u32(media_ssrc)?;
            out.bytes(&[number, 0, 0, 0])
        })
    }

    /// A REMB for at most 255 sources. The bitrate keeps its 18 leading bits and is rounded down.
    pub fn remb(&mut self, sender_ssrc: u32, bitrate_bps: u64, ssrcs: &[u32]) -> bool {
        self.feedback(PAYLOAD_FEEDBACK, FORMAT_APPLICATION, sender_ssrc, 0, |out| {
            let count = u8::try_from(ssrcs.len()).ok()?;
            let exponent = (u64::BITS - bitrate_bps.leading_zeros()).saturating_sub(18);
            let mantissa = u32::try_from(bitrate_bps >> exponent).ok()?;
            out.bytes(&REMB_NAME)?;
            out.u32(u32::from(count) << 24 | exponent << 18 | mantissa)?;
            ssrcs.iter().try_for_each(|&ssrc| out.u32(ssrc))
        })
    }

    /// Transport-wide feedback on the numbers from `base_seq` on. `arrivals` are in units of
    /// 250 µs since `reference_time_64ms` x 64 ms, of which 24 bits are sent; `None` if not
    /// arrived. False also when it is empty, longer than 65,535, or two arrivals in a row (or the
    /// first and the reference) are further apart than a signed 16-bit number of units.
    pub fn twcc(
        &mut self,
        sender_ssrc: u32,
        media_ssrc: u32,
        base_seq: u16,
        feedback_count: u8,
        reference_time_64ms: i32,
        arrivals: &[Option<i64>],
    ) -> bool {
        self.feedback(TRANSPORT_FEEDBACK, FORMAT_TWCC, sender_ssrc, media_ssrc, |out| {
            twcc::write_body(out, base_seq, feedback_count, reference_time_64ms, arrivals)
        })
    }

    fn report(
        &mut self,
        packet_type: u8,
        blocks: &[ReportBlock],
        head: impl FnOnce(&mut Cursor<'_>) -> Option<()>,
    ) -> bool {
        let count = u8::try_from(blocks.len()).unwrap_or(u8::MAX);
        usize::from(count) <= MAX_REPORT_BLOCKS
            && self.packet(packet_type, count, |out| {
                head(out)?;
                blocks.iter().try_for_each(|block| out.bytes(&block.to_bytes()))
            })
    }

    fn feedback(
        &mut self,
        packet_type: u8,
        format: u8,
        sender_ssrc: u32,
        media_ssrc: u32,
        body: impl FnOnce(&mut Cursor<'_>) -> Option<()>,
    ) -> bool {
        self.packet(packet_type, format, |out| {
            out.u32(sender_ssrc)?;
            out.u32(media_ssrc)?;
            body(out)
        })
    }

    fn packet(
        &mut self,
        packet_type: u8,
        count: u8,
        body: impl FnOnce(&mut Cursor<'_>) -> Option<()>,
    ) -> bool {
        let buf = self.buf.get_mut(self.len..).unwrap_or_default();
        let mut out = Cursor::new(buf);
        let written = frame(&mut out, packet_type, count, body);
        self.len += written.unwrap_or(0);
        written.is_some()
    }
}

/// Header, body and padding to 32 bits (RFC 3550 section 6.4.1); returns the length in bytes.
fn frame(
    out: &mut Cursor<'_>,
    packet_type: u8,
    count: u8,
    body: impl FnOnce(&mut Cursor<'_>) -> Option<()>,
) -> Option<usize> {
    out.bytes(&[0; HEADER_LEN])?;
    body(out)?;
    let padding: &[u8] = match out.at() % 4 {
        0 => &[],
        1 => &[0, 0, 3],
        2 => &[0, 2],
        _ => &[1],
    };
    out.bytes(padding)?;
    let padding_bit = if padding.is_empty() { 0 } else { 0x20 };
    let words = u16::try_from(out.at() / 4 - 1).ok()?;
    let [w0, w1] = words.to_be_bytes();
    out.overwrite_header([0x80 | padding_bit | count, packet_type, w0, w1])?;
    Some(out.at())
}

#[cfg(test)]
mod tests {
    use super::super::{Rtcp, packets};
    use super::*;

    const REPORT: SenderReportOut =
        SenderReportOut { ssrc: 1, ntp: u64::MAX - 1, rtp_time: 3, packets: 4, octets: 5 };

    fn nacked(sequences: &[u16]) -> Option<(usize, Vec<u16>)> {
        let mut buf = [0; 1_000];
        let mut writer = RtcpWriter::new(&mut buf);
        if !writer.nack(1, 2, sequences) {
            return None;
        }
        let len = writer.len();
        let Some(Ok(Rtcp::Nack(nack))) = packets(&buf[..len]).next() else { panic!() };
        Some(((len - 12) / 4, nack.sequences().collect()))
    }

    #[test]
    fn a_compound_is_read_back_in_order() {
        let block =
            ReportBlock { ssrc: 9, fraction_lost: 10, cumulative_lost: -11, ..Default::default() };
        let mut buf = [0; 300];
        let mut writer = RtcpWriter::new(&mut buf);
        assert!(writer.is_empty());
        assert!(writer.sender_report(&REPORT, &[block; 2]));
        assert!(writer.sdes_cname(1, "weir"));
        assert!(writer.receiver_report(1, &[]));
        assert!(writer.pli(1, 7));
        assert!(writer.fir(1, 7, 200));
        assert!(writer.remb(1, 1_500_000, &[7, 8]));
        let len = writer.len();
        let all: Result<Vec<_>, _> = packets(&buf[..len]).collect();
        let all = all.unwrap();
        let [Rtcp::SenderReport(sr), sdes, Rtcp::ReceiverReport(rr), pli, fir, remb] = &all[..]
        else {
            panic!("{all:?}")
        };
        assert_eq!((sr.ssrc, sr.ntp, sr.rtp_time), (1, u64::MAX - 1, 3));
        assert_eq!((sr.packets, sr.octets), (4, 5));
        assert_eq!(sr.blocks().collect::<Vec<_>>(), [block; 2]);
        assert_eq!(*sdes, Rtcp::Other { packet_type: 202 });
        assert_eq!((rr.ssrc, rr.blocks().count()), (1, 0));
        assert_eq!(*pli, Rtcp::Pli { sender_ssrc: 1, media_ssrc: 7 });
        let Rtcp::Fir(fir) = fir else { panic!() };
        assert_eq!(fir.entries().collect::<Vec<_>>(), [(7, 200)]);
        let Rtcp::Remb(remb) = remb else { panic!() };
        assert_eq!((remb.bitrate, remb.ssrcs().count()), (1_500_000, 2));
    }

    #[test]
    fn what_does_not_fit_leaves_the_earlier_packets_alone() {
        for room in 0..12 {
            let mut buf = [0xaa; 12 + 12];
            let mut writer = RtcpWriter::new(&mut buf[..12 + room]);
            assert!(writer.pli(1, 2));
            assert!(!writer.pli(3, 4), "{room}");
            assert!(!writer.twcc(1, 2, 0, 0, 0, &[Some(0)]));
            assert_eq!(writer.len(), 12);
            assert!(matches!(packets(&buf[..12]).next(), Some(Ok(Rtcp::Pli { .. }))));
        }
    }

    #[test]
    fn report_blocks_at_and_past_the_limit() {
        let mut buf = [0; 1_000];
        let mut writer = RtcpWriter::new(&mut buf);
        let blocks = [ReportBlock::default(); 300];
        assert!(writer.receiver_report(1, &blocks[..MAX_REPORT_BLOCKS]));
        let len = writer.len();
        assert!(!writer.receiver_report(1, &blocks[..=MAX_REPORT_BLOCKS]));
        assert!(!writer.sender_report(&REPORT, &blocks));
        assert_eq!(writer.len(), len);
    }

    #[test]
    fn nack_packs_neighbours_across_the_wrap() {
        let wrap = [65_534, 65_535, 0, 14];
        assert_eq!(nacked(&wrap), Some((1, wrap.to_vec())));
        assert_eq!(nacked(&[5, 5, 6]), Some((1, vec![5, 6])), "a repeated number is said once");
        assert_eq!(nacked(&[0, 16, 17]), Some((2, vec![0, 16, 17])));
        assert_eq!(nacked(&[9, 3]), Some((2, vec![9, 3])), "unsorted is larger, not wrong");
        assert_eq!(nacked(&[]), None);
    }

    #[test]
    fn nack_pairs_at_and_past_the_limit() {
        let far_apart: Vec<u16> = (0..65).map(|n| n * 100).collect();
        assert_eq!(nacked(&far_apart[..64]), Some((MAX_NACK_PAIRS, far_apart[..64].to_vec())));
        assert_eq!(nacked(&far_apart), None);
    }

    #[test]
    fn remb_keeps_eighteen_bits_at_every_size() {
        for bitrate in [0, 1, 0x3ffff, 0x40000, 0x7_ffff, 2_500_000, 1 << 63, u64::MAX] {
            let mut buf = [0; 24];
            assert!(RtcpWriter::new(&mut buf).remb(1, bitrate, &[2]));
            let Some(Ok(Rtcp::Remb(remb))) = packets(&buf).next() else { panic!() };
            let error = bitrate - remb.bitrate;
            assert!(error <= bitrate >> 17, "{bitrate} became {}", remb.bitrate);
        }
        assert!(!RtcpWriter::new(&mut [0; 2_000]).remb(1, 1, &[0; 256]));
    }

    #[test]
    fn cname_is_ended_by_one_to_four_zeros() {
        for (cname, len) in [("", 12), ("a", 12), ("ab", 16), ("abcde", 16), ("abcdef", 20)] {
            let mut buf = [0xaa; 300];
            let mut writer = RtcpWriter::new(&mut buf);
            assert!(writer.sdes_cname(1, cname));
            assert_eq!(writer.len(), len, "{cname}");
            assert_eq!(buf[len - 1], 0);
        }
        let long = "x".repeat(256);
        let mut buf = [0; 300];
        assert!(RtcpWriter::new(&mut buf).sdes_cname(1, &long[..255]));
        assert!(!RtcpWriter::new(&mut buf).sdes_cname(1, &long));
    }
}
