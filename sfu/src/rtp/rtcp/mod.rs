//! RTCP on the wire: a view over received packets, and a writer for ours.
//!
//! Owns the formats of RFC 3550 (SR, RR, SDES; BYE is only read), RFC 4585 (NACK, PLI), RFC 5104
//! (FIR), transport-wide feedback and REMB. Never decides when to send or what a report means:
//! `repair/`, `congestion/` and `media/stats` do. Reads and writes without allocation.
//!
//! Next: `report.rs`, `feedback.rs` and `twcc.rs` for what arrives, `write.rs` for what is sent.

mod cursor;
mod feedback;
mod report;
mod twcc;
mod write;

pub use feedback::{Fir, MAX_NACK_PAIRS, Nack, Remb};
pub use report::{Bye, MAX_REPORT_BLOCKS, ReceiverReport, ReportBlock, SenderReport};
pub use twcc::{TwccFeedback, TwccStatuses};
pub use write::{RtcpWriter, SenderReportOut};

use super::reader::Reader;

/// RTCP packets read from one datagram (quality B2); a further one ends it with
/// [`RtcpError::TooManyPackets`].
pub const MAX_RTCP_PACKETS: usize = 32;

// Packet types and feedback formats (RFC 3550 section 12.1, RFC 4585 section 6.1).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const FORMAT_NACK: u8 = 1;
const FORMAT_TWCC: u8 = 15;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const FORMAT_APPLICATION: u8 = 15;
const REMB_NAME: [u8; 4] = *b"REMB";

/// One received RTCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rtcp<'a> {
    /// Packet type 200.
    SenderReport(SenderReport<'a>),
    /// Packet type 201.
    ReceiverReport(ReceiverReport<'a>),
    /// Generic NACK (RFC 4585 section 6.2.1).
    Nack(Nack<'a>),
    /// Picture loss indication (RFC 4585 section 6.3.1).
    Pli {
        /// SSRC of the requester.
        sender_ssrc: u32,
        /// SSRC of the source whose keyframe is requested.
        media_ssrc: u32,
    },
    /// Full intra request (RFC 5104 section 4.3.1).
    Fir(Fir<'a>),
    /// Transport-wide congestion control feedback.
    Twcc(TwccFeedback<'a>),
    /// Receiver estimated maximum bitrate.
    Remb(Remb<'a>),
    /// Goodbye (RFC 3550 section 6.6).
    Bye(Bye<'a>),
    /// Well framed, but nothing that Weir reads: SDES, APP, XR and other feedback.
    Other {
        /// The packet type, 0 to 255.
        packet_type: u8,
    },
}

/// Why an RTCP datagram was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    /// A packet ends before what its header or counts announce.
    #[error("the RTCP packet ends inside what it announces")]
    TooShort,
    /// The version field is not 2.
    #[error("not RTCP version 2")]
    BadVersion,
    /// The P bit is set, but the padding count is zero or larger than the packet.
    #[error("the RTCP padding count does not fit the packet")]
    BadPadding,
    /// More than [`MAX_RTCP_PACKETS`] in one datagram.
    #[error("more than 32 RTCP packets in one datagram")]
    TooManyPackets,
    /// A transport-wide feedback uses the reserved status symbol 3.
    #[error("reserved status symbol in transport-wide feedback")]
    ReservedSymbol,
}

/// Reads a compound or reduced-size (RFC 5506) RTCP datagram after SRTCP was removed. Stops at
/// the first error.
pub fn packets(compound: &[u8]) -> Packets<'_> {
    Packets { rest: Reader(compound), left: MAX_RTCP_PACKETS }
}

/// Iterator of [`packets`].
#[derive(Debug, Clone)]
pub struct Packets<'a> {
    rest: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Rtcp<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let packet = match self.left.checked_sub(1) {
            None => Err(RtcpError::TooManyPackets),
            Some(left) => {
                self.left = left;
                read_packet(&mut self.rest)
            }
        };
        if packet.is_err() {
            self.rest = Reader(&[]);
        }
        Some(packet)
    }
}

fn read_packet<'a>(rest: &mut Reader<'a>) -> Result<Rtcp<'a>, RtcpError> {
    let [flags, packet_type, w0, w1] = rest.array().ok_or(RtcpError::TooShort)?;
    if flags >> 6 != 2 {
        return Err(RtcpError::BadVersion);
    }
    let len = 4 * usize::from(u16::from_be_bytes([w0, w1]));
    let mut body = rest.take(len).ok_or(RtcpError::TooShort)?;
    if flags & 0x20 != 0 {
        // RFC 3550 wants a multiple of four; libwebrtc pads transport-wide feedback by 1 to 3.
        let padding = body.last().copied().filter(|&n| n != 0).ok_or(RtcpError::BadPadding)?;
        let kept = len.checked_sub(usize::from(padding)).ok_or(RtcpError::BadPadding)?;
        body = body.get(..kept).ok_or(RtcpError::BadPadding)?;
    }
    let count = flags & 0x1f;
    let body = Reader(body);
    let parsed = match (packet_type, count) {
        (SENDER_REPORT, _) => SenderReport::parse(body, count).map(Rtcp::SenderReport),
        (RECEIVER_REPORT, _) => ReceiverReport::parse(body, count).map(Rtcp::ReceiverReport),
        (BYE, _) => Bye::parse(body, count).map(Rtcp::Bye),
        (TRANSPORT_FEEDBACK, FORMAT_NACK) => Nack::parse(body).map(Rtcp::Nack),
        (TRANSPORT_FEEDBACK, FORMAT_TWCC) => return TwccFeedback::parse(body).map(Rtcp::Twcc),
        (PAYLOAD_FEEDBACK, FORMAT_PLI) => parse_pli(body),
        (PAYLOAD_FEEDBACK, FORMAT_FIR) => Fir::parse(body).map(Rtcp::Fir),
        (PAYLOAD_FEEDBACK, FORMAT_APPLICATION) if Remb::is_named(body) => {
            Remb::parse(body).map(Rtcp::Remb)
        }
        _ => Some(Rtcp::Other { packet_type }),
    };
    parsed.ok_or(RtcpError::TooShort)
}

fn parse_pli(mut body: Reader<'_>) -> Option<Rtcp<'_>> {
    Some(Rtcp::Pli { sender_ssrc: body.u32()?, media_ssrc: body.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLI: [u8; 12] = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];

    fn only(datagram: &[u8]) -> Result<Rtcp<'_>, RtcpError> {
        let mut all = packets(datagram);
        let first = all.next().unwrap();
        assert_eq!(all.next(), None);
        first
    }

    #[test]
    fn reduced_size_feedback_is_read_alone() {
        assert_eq!(only(&PLI), Ok(Rtcp::Pli { sender_ssrc: 1, media_ssrc: 2 }));
        assert_eq!(packets(&[]).next(), None);
    }

    #[test]
    fn what_weir_does_not_read_is_framed_and_skipped() {
        for (first, packet_type) in
            [(0x81, 202), (0x80, 204), (0x82, 206), (0x8f, 206), (0x80, 207)]
        {
            let other = [first, packet_type, 0, 1, 0, 0, 0, 1];
            let datagram = [&other[..], &PLI].concat();
            let all: Vec<_> = packets(&datagram).collect();
            assert_eq!(all[0], Ok(Rtcp::Other { packet_type }), "{packet_type}");
            assert!(matches!(all[1], Ok(Rtcp::Pli { .. })));
        }
    }

    #[test]
    fn the_first_error_ends_the_datagram() {
        let bad_version = [&PLI[..], &[0x41], &PLI[1..], &PLI].concat();
        let all: Vec<_> = packets(&bad_version).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], Err(RtcpError::BadVersion));
        for cut in 1..PLI.len() {
            assert_eq!(only(&PLI[..cut]), Err(RtcpError::TooShort), "{cut}");
        }
        assert_eq!(only(&[0x81, 206, 0, 1, 0, 0, 0, 1]), Err(RtcpError::TooShort), "no media SSRC");
    }

    #[test]
    fn padding_is_stripped_or_refused() {
        let mut padded = [&[0xa1, 206, 0, 3][..], &PLI[4..], &[0, 0, 0, 4]].concat();
        assert_eq!(only(&padded), Ok(Rtcp::Pli { sender_ssrc: 1, media_ssrc: 2 }));
        padded[15] = 5;
        assert_eq!(only(&padded), Err(RtcpError::TooShort), "padding may not eat the content");
        for bad in [0, 13, 255] {
            padded[15] = bad;
            assert_eq!(only(&padded), Err(RtcpError::BadPadding), "{bad}");
        }
        assert_eq!(only(&[0xa1, 206, 0, 0]), Err(RtcpError::BadPadding));
    }

    #[test]
    fn packets_at_and_past_the_limit() {
        // quality B4 item 9: a storm of small packets in one datagram
        let fits = PLI.repeat(MAX_RTCP_PACKETS);
        assert_eq!(packets(&fits).filter(Result::is_ok).count(), MAX_RTCP_PACKETS);
        let storm = PLI.repeat(MAX_RTCP_PACKETS + 20);
        let all: Vec<_> = packets(&storm).collect();
        assert_eq!(all.len(), MAX_RTCP_PACKETS + 1);
        assert_eq!(all[MAX_RTCP_PACKETS], Err(RtcpError::TooManyPackets));
    }
}
