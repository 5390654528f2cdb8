//! Sender and receiver reports and goodbye (RFC 3550 section 6), as received.
//!
//! Called by `rtcp::packets`. Never keeps statistics: `media/stats` does.

use super::Reader;

/// Maximum report blocks of one SR or RR: its count field has five bits.
pub const MAX_REPORT_BLOCKS: usize = 31;

/// Bytes of one report block.
const REPORT_BLOCK_LEN: usize = 24;

/// A sender report: what the source sent, and the tie between its RTP and wall clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport<'a> {
    /// The source that this is about.
    pub ssrc: u32,
    /// NTP timestamp, 32.32 bits, of the sender's own clock.
    pub ntp: u64,
    /// The same moment in units of the RTP clock.
    pub rtp_time: u32,
    /// Packets sent since the start, modulo 2^32.
    pub packets: u32,
    /// Payload bytes sent since the start, modulo 2^32.
    pub octets: u32,
    blocks: &'a [u8],
}

impl<'a> SenderReport<'a> {
    pub(super) fn parse(mut body: Reader<'a>, count: u8) -> Option<Self> {
        Some(Self {
            ssrc: body.u32()?,
            ntp: body.u64()?,
            rtp_time: body.u32()?,
            packets: body.u32()?,
            octets: body.u32()?,
            blocks: body.take(usize::from(count) * REPORT_BLOCK_LEN)?,
        })
    }

    /// Blocks about the sources that the sender receives, at most [`MAX_REPORT_BLOCKS`].
    #[cfg(feature = "internals")]
    pub fn blocks(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        read_blocks(self.blocks)
    }
}

/// A receiver report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverReport<'a> {
    /// SSRC of the reporter.
    pub ssrc: u32,
    blocks: &'a [u8],
}

impl<'a> ReceiverReport<'a> {
    pub(super) fn parse(mut body: Reader<'a>, count: u8) -> Option<Self> {
        Some(Self { ssrc: body.u32()?, blocks: body.take(usize::from(count) * REPORT_BLOCK_LEN)? })
    }

    /// One block for each source reported on, at most [`MAX_REPORT_BLOCKS`].
    pub fn blocks(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        read_blocks(self.blocks)
    }
}

/// Reception of one source (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The source that this is about.
    pub ssrc: u32,
    /// Lost since the previous report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the start, 24 bits signed on the wire: negative after duplicates. Written
    /// values outside -2^23 to 2^23 - 1 are clamped.
    pub cumulative_lost: i32,
    /// Cycles in the upper, highest sequence number in the lower 16 bits.
    pub highest_seq: u32,
    /// Interarrival jitter in units of the RTP clock.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time in the last sender report, 0 if there was none.
    pub lsr: u32,
    /// Delay since that report in 1/65,536 s, 0 if there was none.
    pub dlsr: u32,
}

impl ReportBlock {
    fn read(body: &mut Reader<'_>) -> Option<Self> {
        let ssrc = body.u32()?;
        let [fraction_lost, c0, c1, c2] = body.array()?;
        Some(Self {
            ssrc,
            fraction_lost,
            cumulative_lost: i32::from_be_bytes([c0, c1, c2, 0]) >> 8,
            highest_seq: body.u32()?,
            jitter: body.u32()?,
            lsr: body.u32()?,
            dlsr: body.u32()?,
        })
    }

    pub(super) fn to_bytes(self) -> [u8; REPORT_BLOCK_LEN] {
        let lost = self.cumulative_lost.clamp(-0x0080_0000, 0x007f_ffff);
        let loss = u32::from(self.fraction_lost) << 24 | (lost as u32 & 0x00ff_ffff);
        let words = [self.ssrc, loss, self.highest_seq, self.jitter, self.lsr, self.dlsr];
        let mut bytes = [0; REPORT_BLOCK_LEN];
        for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

fn read_blocks<'a>(blocks: &'a [u8]) -> impl Iterator<Item = ReportBlock> + use<'a> {
    let mut rest = Reader(blocks);
    std::iter::from_fn(move || ReportBlock::read(&mut rest))
}

/// A goodbye: these sources end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bye<'a> {
    ssrcs: &'a [u8],
}

impl<'a> Bye<'a> {
    pub(super) fn parse(mut body: Reader<'a>, count: u8) -> Option<Self> {
        Some(Self { ssrcs: body.take(usize::from(count) * 4)? })
    }

    /// The sources that end, at most 31.
    #[cfg(feature = "internals")]
    pub fn ssrcs(&self) -> impl Iterator<Item = u32> + use<'a> {
        read_ssrcs(self.ssrcs)
    }
}

#[cfg(feature = "internals")]
pub(super) fn read_ssrcs<'a>(ssrcs: &'a [u8]) -> impl Iterator<Item = u32> + use<'a> {
    let mut rest = Reader(ssrcs);
    std::iter::from_fn(move || rest.u32())
}

#[cfg(test)]
mod tests {
    use super::super::{Rtcp, RtcpError, packets};
    use super::*;

    #[test]
    fn cumulative_loss_is_24_bits_signed_and_clamped() {
        for (lost, expected) in [
            (0, 0),
            (-1, -1),
            (0x7f_ffff, 0x7f_ffff),
            (0x80_0000, 0x7f_ffff),
            (-0x80_0000, -0x80_0000),
            (i32::MIN, -0x80_0000),
            (i32::MAX, 0x7f_ffff),
        ] {
            let block =
                ReportBlock { cumulative_lost: lost, fraction_lost: 7, ..Default::default() };
            let read = ReportBlock::read(&mut Reader(&block.to_bytes())).unwrap();
            assert_eq!((read.cumulative_lost, read.fraction_lost), (expected, 7), "{lost}");
        }
    }

    #[test]
    fn a_count_beyond_the_body_is_refused_at_once() {
        // quality B4 item 9: 31 blocks claimed
        let mut report = vec![0x80 | 31, 201, 0, 1 + 6 * 31];
        report.extend([0; 4 + 24 * 31]);
        let Some(Ok(Rtcp::ReceiverReport(full))) = packets(&report).next() else { panic!() };
        assert_eq!(full.blocks().count(), MAX_REPORT_BLOCKS);
        report[3] -= 1;
        report.truncate(report.len() - 4);
        assert_eq!(packets(&report).next(), Some(Err(RtcpError::TooShort)));
        let bye = [0x82, 203, 0, 1, 0, 0, 0, 1];
        assert_eq!(packets(&bye).next(), Some(Err(RtcpError::TooShort)));
    }

    #[test]
    fn bye_with_a_reason_lists_its_sources() {
        let bye = [0x82, 203, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 3, b'e', b'n', b'd'];
        let Some(Ok(Rtcp::Bye(bye))) = packets(&bye).next() else { panic!() };
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [1, 2]);
    }
}
