//! RTP packets (RFC 3550): a cheap view of a received packet's header, and packets to send.
//!
//! Knows no codec. Called by `publisher`, `viewer` and `receiver`.

use bytes::{Bytes, BytesMut};
use rtc_rtp::header::{EXTENSION_PROFILE_ONE_BYTE, Extension, Header};
use rtc_shared::marshal::{Marshal, MarshalSize};

/// Maximum bytes of payload in one packet. With headers, extensions, authentication tag and the two
/// bytes of a retransmission, the datagram is smaller than 1230 bytes, like a browser's.
pub(crate) const PAYLOAD_MAX: usize = 1160;

/// A random SSRC. It is never 0, which is reserved.
pub(crate) fn random_ssrc() -> u32 {
    rand::random::<u32>() | 1
}

/// Header fields of a received packet. SRTP does not encrypt them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeaderView {
    /// Marker bit: the last packet of a video frame.
    pub(crate) marker: bool,
    /// Payload type.
    pub(crate) payload_type: u8,
    /// Sequence number.
    pub(crate) sequence: u16,
    /// RTP timestamp in units of the clock rate.
    pub(crate) timestamp: u32,
    /// SSRC.
    pub(crate) ssrc: u32,
    /// Offset of the payload.
    pub(crate) payload_at: usize,
    has_padding: bool,
}

impl HeaderView {
    /// Parses the header; `None` if the bytes are not an RTP packet.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 12] = packet.first_chunk()?;
        let [b0, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
        if b0 >> 6 != 2 {
            return None;
        }
        let mut payload_at = 12 + usize::from(b0 & 0x0f) * 4;
        if b0 & 0x10 != 0 {
            let words: [u8; 2] = packet.get(payload_at + 2..payload_at + 4)?.try_into().ok()?;
            payload_at += 4 + usize::from(u16::from_be_bytes(words)) * 4;
        }
        (payload_at <= packet.len()).then_some(Self {
            marker: b1 & 0x80 != 0,
            payload_type: b1 & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            payload_at,
            has_padding: b0 & 0x20 != 0,
        })
    }

    /// The view of a header that is already parsed.
    pub(crate) fn of(header: &Header) -> Self {
        Self {
            marker: header.marker,
            payload_type: header.payload_type,
            sequence: header.sequence_number,
            timestamp: header.timestamp,
            ssrc: header.ssrc,
            payload_at: header.marshal_size(),
            has_padding: false,
        }
    }

    /// The payload of the *decrypted* packet of this view, without padding; `None` if the padding
    /// is wrong.
    pub(crate) fn payload(&self, mut packet: Bytes) -> Option<Bytes> {
        if self.has_padding {
            let padding = usize::from(*packet.last()?);
            let end = packet.len().checked_sub(padding)?;
            if padding == 0 || end < self.payload_at {
                return None;
            }
            packet.truncate(end);
        }
        (self.payload_at <= packet.len()).then(|| packet.slice(self.payload_at..))
    }
}

/// The 16-bit number in the header extension `id`, if the packet has one (RFC 8285, one-byte and
/// two-byte headers).
pub(crate) fn extension_u16(packet: &[u8], id: u8) -> Option<u16> {
    let first = *packet.first()?;
    if first & 0x10 == 0 {
        return None;
    }
    let at = 12 + usize::from(first & 0x0f) * 4;
    let [p0, p1, w0, w1] = *packet.get(at..)?.first_chunk::<4>()?;
    let words = usize::from(u16::from_be_bytes([w0, w1]));
    let mut rest = packet.get(at + 4..at + 4 + words * 4)?;
    let one_byte = (p0, p1) == (0xbe, 0xde);
    if !one_byte && (p0, p1 & 0xf0) != (0x10, 0) {
        return None;
    }
    while let Some((head, after)) = rest.split_first() {
        if *head == 0 {
            rest = after;
            continue;
        }
        let (found, length, after) = if one_byte {
            (head >> 4, usize::from(head & 0x0f) + 1, after)
        } else {
            let (length, after) = after.split_first()?;
            (*head, usize::from(*length), after)
        };
        if one_byte && found == 15 {
            return None;
        }
        let value = after.get(..length)?;
        if found == id {
            return Some(u16::from_be_bytes(value.try_into().ok()?));
        }
        rest = after.get(length..)?;
    }
    None
}

/// A packet to send, not yet protected.
#[derive(Debug, Clone)]
pub(crate) struct OutgoingPacket {
    /// The header, extensions included.
    pub(crate) header: Header,
    /// The payload.
    pub(crate) payload: Bytes,
}

impl OutgoingPacket {
    /// A packet with the header extensions `(id, value)`, in one-byte headers (RFC 8285 section
    /// 4.2).
    pub(crate) fn new(
        payload_type: u8,
        sequence_number: u16,
        timestamp: u32,
        ssrc: u32,
        marker: bool,
        extensions: &[(u8, Bytes)],
        payload: Bytes,
    ) -> Self {
        let header = Header {
            version: 2,
            marker,
            payload_type,
            sequence_number,
            timestamp,
            ssrc,
            extension: !extensions.is_empty(),
            extension_profile: EXTENSION_PROFILE_ONE_BYTE,
            extensions: extensions
                .iter()
                .map(|(id, value)| Extension { id: *id, payload: value.clone() })
                .collect(),
            ..Default::default()
        };
        Self { header, payload }
    }

    /// The bytes of the packet.
    ///
    /// # Errors
    /// If an extension does not fit into a one-byte header.
    pub(crate) fn bytes(&self) -> anyhow::Result<BytesMut> {
        let mut out = BytesMut::from(self.header.marshal()?.as_ref());
        out.extend_from_slice(&self.payload);
        Ok(out)
    }

    /// The same packet as retransmission (RFC 4588 section 4): other SSRC and sequence number, the
    /// original one before the payload.
    pub(crate) fn as_rtx(
        &self,
        payload_type: u8,
        sequence: u16,
        ssrc: u32,
        extensions: &[(u8, Bytes)],
    ) -> Self {
        let mut payload = BytesMut::with_capacity(2 + self.payload.len());
        payload.extend_from_slice(&self.header.sequence_number.to_be_bytes());
        payload.extend_from_slice(&self.payload);
        let Header { timestamp, marker, .. } = self.header;
        Self::new(payload_type, sequence, timestamp, ssrc, marker, extensions, payload.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn view_finds_the_payload_after_the_extensions() {
        let extensions = [(1, Bytes::from_static(b"0")), (2, Bytes::from_static(b"high"))];
        let built = OutgoingPacket::new(
            102,
            65_535,
            90_000,
            7,
            true,
            &extensions,
            Bytes::from_static(b"media"),
        );
        let bytes = built.bytes().expect("marshals").freeze();
        let view = HeaderView::parse(&bytes).expect("parses");
        assert_eq!((view.payload_type, view.sequence, view.timestamp), (102, 65_535, 90_000));
        assert_eq!((view.ssrc, view.marker), (7, true));
        assert_eq!(view.payload(bytes).as_deref(), Some(&b"media"[..]));
    }

    #[test]
    fn number_in_an_extension_is_found_in_both_header_forms() {
        let number = Bytes::from_static(&[0x12, 0x34]);
        let extensions =
            [(1, Bytes::from_static(b"0")), (4, number), (9, Bytes::from_static(b"x"))];
        let built = OutgoingPacket::new(102, 1, 1, 7, true, &extensions, Bytes::new());
        let bytes = built.bytes().expect("marshals");
        assert_eq!(extension_u16(&bytes, 4), Some(0x1234));
        assert_eq!((extension_u16(&bytes, 1), extension_u16(&bytes, 5)), (None, None));
        for end in 0..bytes.len() {
            let _ = extension_u16(&bytes[..end], 4);
        }
        let mut two = vec![0x90, 102, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0x10, 0, 0, 2];
        two.extend_from_slice(&[1, 0, 4, 2, 0xab, 0xcd, 0, 0]);
        assert_eq!(extension_u16(&two, 4), Some(0xabcd));
    }

    #[test]
    fn retransmission_begins_with_the_original_sequence_number() {
        let original =
            OutgoingPacket::new(102, 0x1234, 1, 7, true, &[], Bytes::from_static(b"media"));
        let rtx = original.as_rtx(103, 5, 8, &[]);
        assert_eq!(
            (rtx.header.payload_type, rtx.header.sequence_number, rtx.header.ssrc),
            (103, 5, 8)
        );
        assert_eq!(rtx.payload.as_ref(), b"\x12\x34media");
    }

    #[test]
    fn padding_is_removed_and_impossible_padding_is_refused() {
        let mut packet = vec![0xa0, 102, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7];
        packet.extend_from_slice(b"ab\0\0\x03");
        let view = HeaderView::parse(&packet).expect("parses");
        assert_eq!(view.payload(Bytes::from(packet.clone())).as_deref(), Some(&b"ab"[..]));
        *packet.last_mut().expect("has bytes") = 200;
        assert_eq!(view.payload(Bytes::from(packet)), None);
    }

    #[test]
    fn short_or_other_bytes_are_not_rtp() {
        assert_eq!(HeaderView::parse(&[0x80; 11]), None);
        assert_eq!(HeaderView::parse(&[0x00; 20]), None);
        assert_eq!(HeaderView::parse(&[0x9f; 20]), None, "extension runs past the end");
    }
}
