//! The RTP fixed header, and the kind of a datagram.
//!
//! Owns the layout of RFC 3550 section 5.1 up to the payload. Never looks inside extension elements
//! (`ext.rs`) or payloads (`codec/`), and never decrypts: the header is in the clear in an SRTP
//! packet too. Called by `worker/dispatch.rs` for each datagram.

use super::ext::{Elements, elements};

/// Bytes of an RTP header without CSRCs and extension block.
pub const RTP_HEADER_LEN: usize = 12;

/// Content of a parsed RTP header. A value: it holds no reference to the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader {
    /// Marker bit; for video the last packet of a frame.
    pub marker: bool,
    /// 0 to 127.
    pub payload_type: u8,
    /// Sequence number as on the wire; `seq::SeqUnwrapper` extends it.
    pub sequence: u16,
    /// Media timestamp in units of the codec's clock.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// The P bit: the last byte of the plaintext payload counts padding bytes.
    pub has_padding: bool,
    /// Number of CSRC words after the fixed header, 0 to 15.
    pub csrc_count: u8,
    /// The header extension block, if the X bit is set.
    pub extension: Option<ExtBlock>,
    /// Bytes before the payload: fixed header, CSRCs and extension block.
    pub header_len: usize,
}

/// Where the extension elements of a packet lie (RFC 8285), without the 4-byte block header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtBlock {
    /// The "defined by profile" word: `0xBEDE` or `0x100X` for the forms that Weir reads.
    pub profile: u16,
    /// Offset of the first element within the packet, in bytes.
    pub start: u16,
    /// Bytes of all elements including their padding, a multiple of four.
    pub len: u16,
}

impl RtpHeader {
    /// Reads the header of a plain RTP or an SRTP packet. The payload is not looked at, so
    /// padding is only noted: see [`payload_len`](Self::payload_len).
    ///
    /// # Errors
    /// [`RtpError::BadVersion`] when it is not RTP version 2, [`RtpError::TooShort`] when the
    /// packet ends before the header that it announces.
    pub fn parse(packet: &[u8]) -> Result<Self, RtpError> {
        let &[flags, second, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3] =
            packet.first_chunk::<RTP_HEADER_LEN>().ok_or(RtpError::TooShort)?;
        if flags >> 6 != 2 {
            return Err(RtpError::BadVersion);
        }
        let csrc_count = flags & 0x0f;
        let mut header_len = RTP_HEADER_LEN + 4 * usize::from(csrc_count);
        let mut extension = None;
        if flags & 0x10 != 0 {
            let &[p0, p1, w0, w1] = packet
                .get(header_len..)
                .and_then(|rest| rest.first_chunk::<4>())
                .ok_or(RtpError::TooShort)?;
            // 16,384 words or more cannot be inside a datagram.
            let len = u16::from_be_bytes([w0, w1]).checked_mul(4).ok_or(RtpError::TooShort)?;
            let start = header_len + 4;
            extension = Some(ExtBlock {
                profile: u16::from_be_bytes([p0, p1]),
                start: u16::try_from(start).map_err(|_| RtpError::TooShort)?,
                len,
            });
            header_len = start + usize::from(len);
        }
        if packet.len() < header_len {
            return Err(RtpError::TooShort);
        }
        Ok(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([r0, r1, r2, r3]),
            has_padding: flags & 0x20 != 0,
            csrc_count,
            extension,
            header_len,
        })
    }

    /// Length of the payload in bytes after padding was stripped, given the whole plaintext
    /// packet (header + payload). Zero for a packet of padding only, as probes are.
    ///
    /// # Errors
    /// [`RtpError::TooShort`] when `plaintext` is shorter than the header,
    /// [`RtpError::BadPadding`] when the padding count is zero or larger than the payload.
    pub fn payload_len(&self, plaintext: &[u8]) -> Result<usize, RtpError> {
        let payload = plaintext.get(self.header_len..).ok_or(RtpError::TooShort)?;
        if !self.has_padding {
            return Ok(payload.len());
        }
        match payload.last() {
            None | Some(0) => Err(RtpError::BadPadding),
            Some(&count) => {
                payload.len().checked_sub(usize::from(count)).ok_or(RtpError::BadPadding)
            }
        }
    }

    /// The extension elements of `packet`, from which this header was parsed. Nothing when there
    /// is no extension block.
    pub fn elements<'p>(&self, packet: &'p [u8]) -> Elements<'p> {
        let found = self.extension.and_then(|block| {
            let start = usize::from(block.start);
            Some((block.profile, packet.get(start..start + usize::from(block.len))?))
        });
        let (profile, block) = found.unwrap_or((0, &[]));
        elements(profile, block)
    }
}

/// Why a packet is not RTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// The packet ends before the header that it announces.
    #[error("the RTP packet ends inside its header")]
    TooShort,
    /// The version field is not 2.
    #[error("not RTP version 2")]
    BadVersion,
    /// The P bit is set, but the padding count is zero or larger than the payload.
    #[error("the RTP padding count does not fit the payload")]
    BadPadding,
}

/// Kind of a datagram by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketClass {
    /// First byte 0 to 3.
    Stun,
    /// First byte 20 to 63.
    Dtls,
    /// First byte 128 to 191, and not RTCP.
    Rtp,
    /// First byte 128 to 191 and second byte 192 to 223.
    Rtcp,
    /// Anything else, also TURN channel data and an empty datagram.
    Unknown,
}

/// Classifies a datagram on our one port (RFC 7983), and RTCP against RTP (RFC 5761 section 4).
pub fn classify(datagram: &[u8]) -> PacketClass {
    match datagram {
        [0..=3, ..] => PacketClass::Stun,
        [20..=63, ..] => PacketClass::Dtls,
        [128..=191, 192..=223, ..] => PacketClass::Rtcp,
        [128..=191, _, ..] => PacketClass::Rtp,
        _ => PacketClass::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 16] = [0x80, 0xe0, 1, 2, 0, 0, 0, 9, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4];

    #[test]
    fn plain_header_is_read() {
        let header = RtpHeader::parse(&PLAIN).unwrap();
        assert!(header.marker && !header.has_padding);
        assert_eq!((header.payload_type, header.sequence), (96, 0x0102));
        assert_eq!((header.timestamp, header.ssrc), (9, 0xdead_beef));
        assert_eq!((header.header_len, header.extension), (12, None));
        assert_eq!(header.payload_len(&PLAIN), Ok(4));
    }

    #[test]
    fn csrcs_and_extension_block_move_the_payload() {
        let mut packet = PLAIN[..12].to_vec();
        packet[0] = 0x92; // X, two CSRCs
        packet.extend([0; 8]);
        packet.extend([0xbe, 0xde, 0, 1, 0x10, b'0', 0, 0]);
        packet.push(0x55);
        let header = RtpHeader::parse(&packet).unwrap();
        assert_eq!(header.extension, Some(ExtBlock { profile: 0xbede, start: 24, len: 4 }));
        assert_eq!((header.header_len, header.payload_len(&packet)), (28, Ok(1)));
        assert_eq!(header.elements(&packet).collect::<Vec<_>>(), [(1, &b"0"[..])]);
        for cut in 0..28 {
            assert_eq!(RtpHeader::parse(&packet[..cut]), Err(RtpError::TooShort), "{cut}");
        }
        assert_eq!(header.elements(&packet[..20]).count(), 0, "a packet that it does not fit");
    }

    #[test]
    fn extension_length_is_only_a_claim() {
        let mut packet = PLAIN.to_vec();
        packet[0] = 0x90;
        for words in [1u16, 0x3fff, 0x4000, 0xffff] {
            packet[14..16].copy_from_slice(&words.to_be_bytes());
            assert_eq!(RtpHeader::parse(&packet), Err(RtpError::TooShort), "{words}");
        }
    }

    #[test]
    fn padding_counts_at_and_past_the_payload() {
        let mut packet = PLAIN;
        packet[0] = 0xa0;
        let header = RtpHeader::parse(&packet).unwrap();
        for (count, expected) in [
            (0, Err(RtpError::BadPadding)),
            (1, Ok(3)),
            (4, Ok(0)),
            (5, Err(RtpError::BadPadding)),
            (255, Err(RtpError::BadPadding)),
        ] {
            packet[15] = count;
            assert_eq!(header.payload_len(&packet), expected, "{count}");
        }
        assert_eq!(header.payload_len(&packet[..12]), Err(RtpError::BadPadding));
        assert_eq!(header.payload_len(&packet[..11]), Err(RtpError::TooShort));
    }

    #[test]
    fn other_versions_are_not_rtp() {
        for first in [0x00, 0x40, 0xc0] {
            let mut packet = PLAIN;
            packet[0] = first;
            assert_eq!(RtpHeader::parse(&packet), Err(RtpError::BadVersion));
        }
    }

    #[test]
    fn datagrams_are_classified_at_every_boundary() {
        use PacketClass::{Dtls, Rtcp, Rtp, Stun, Unknown};
        for first in 0..=255u8 {
            let expected = match first {
                0..=3 => Stun,
                20..=63 => Dtls,
                128..=191 => Rtp,
                _ => Unknown, // 4-19 reserved and ZRTP, 64-79 TURN channels, 192- QUIC and others
            };
            assert_eq!(classify(&[first, 96]), expected, "{first}");
        }
        for (second, expected) in
            [(191, Rtp), (192, Rtcp), (200, Rtcp), (206, Rtcp), (223, Rtcp), (224, Rtp), (111, Rtp)]
        {
            assert_eq!(classify(&[0x80, second]), expected, "{second}");
        }
        assert_eq!(classify(&[]), Unknown);
        assert_eq!(classify(&[0x80]), Unknown);
    }
}
