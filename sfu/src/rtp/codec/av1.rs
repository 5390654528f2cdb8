//! AV1 payloads (AV1 RTP specification section 4).
//!
//! Only the first OBU element is looked at, so a payload does not tell its layer for certain: that
//! comes from the dependency descriptor alone.

use super::FrameInfo;
use super::av1_sequence::Av1Sequence;
use crate::rtp::reader::Reader;

// Aggregation header.
pub(super) const CONTINUES: u8 = 0x80;
pub(super) const ELEMENT_COUNT: u8 = 0x30;
pub(super) const ONE_ELEMENT: u8 = 0x10;
const NEW_SEQUENCE: u8 = 0x08;

// OBU header (AV1 section 5.3.2).
pub(super) const OBU_HAS_EXTENSION: u8 = 0x04;
pub(super) const OBU_HAS_SIZE: u8 = 0x02;
pub(super) const OBU_SEQUENCE_HEADER: u8 = 1;

pub(super) fn peek(payload: &[u8]) -> Option<FrameInfo> {
    let mut rest = Reader(payload);
    let aggregation = rest.u8()?;
    if aggregation & CONTINUES != 0 {
        return None; // begins with the rest of an OBU, which shows no header
    }
    // The last of a counted set of elements has no length in front.
    if aggregation & ELEMENT_COUNT != ONE_ELEMENT {
        let len = leb128(&mut rest)?;
        // An element longer than the packet is malformed; what is there still says its type.
        rest = Reader(rest.0.get(..len).unwrap_or(rest.0));
    }
    let header = rest.u8()?;
    if header & OBU_HAS_EXTENSION != 0 {
        rest.u8()?;
    }
    if header & OBU_HAS_SIZE != 0 {
        leb128(&mut rest)?;
    }
    let is_sequence_header = header >> 3 & 0x0f == OBU_SEQUENCE_HEADER;
    let keyframe = is_sequence_header || aggregation & NEW_SEQUENCE != 0;
    Some(FrameInfo {
        starts_frame: keyframe,
        keyframe,
        resolution: if is_sequence_header {
            Av1Sequence::parse(rest.0).and_then(|sequence| sequence.size)
        } else {
            None
        },
        ..FrameInfo::default()
    })
}

/// Little-endian base 128 number of at most eight bytes (AV1 section 4.10.5).
pub(super) fn leb128(rest: &mut Reader<'_>) -> Option<usize> {
    let mut value = 0u64;
    for group in 0..8 {
        let byte = rest.u8()?;
        value |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    /// OBUs of libaom at 320x180 and SVT-AV1 at 1920x1080, with size fields, from their keyframes.
    const SEQUENCE_180P: &str = "0a0b000000043cfeccdaf98040";
    const SEQUENCE_1080P: &str = "0a0c02000042955dfe1b8d5f3008";

    #[test]
    fn sequence_headers_of_real_encoders_show_their_size() {
        for (obu, size) in [(SEQUENCE_180P, (320, 180)), (SEQUENCE_1080P, (1920, 1080))] {
            let with_size = hex(obu);
            // In RTP the size field should be left out.
            let without_size = [&[with_size[0] & !OBU_HAS_SIZE], &with_size[2..]].concat();
            for obu in [with_size, without_size] {
                let single = [&[0x18][..], &obu].concat();
                let counted = [&[0x28, obu.len() as u8][..], &obu, &[0x30, 1]].concat();
                let listed = [&[0x00, obu.len() as u8][..], &obu].concat();
                for payload in [single, counted, listed] {
                    let info = peek(&payload).unwrap();
                    assert!(info.keyframe && info.starts_frame, "{payload:x?}");
                    assert_eq!(info.resolution, Some(size), "{payload:x?}");
                }
            }
        }
    }

    #[test]
    fn keyframe_by_the_n_bit_or_by_a_first_sequence_header() {
        for (payload, key) in [
            (&[0x18, 0x30, 0][..], true),       // N = 1, a frame OBU
            (&[0x10, 0x30, 0], false),          // a frame OBU
            (&[0x10, 0x08, 0], true),           // a sequence header without N
            (&[0x20, 1, 0x18, 0x30, 0], false), // a frame header first
        ] {
            assert_eq!(peek(payload).unwrap().keyframe, key, "{payload:x?}");
        }
        assert_eq!(peek(&[0x98, 0x08, 0]), None, "the rest of an OBU has no header");
    }

    #[test]
    fn the_extension_header_is_passed_over() {
        let obu = hex(SEQUENCE_180P);
        let extended = [&[0x18, obu[0] | OBU_HAS_EXTENSION, 0x48][..], &obu[1..]].concat();
        assert_eq!(peek(&extended).unwrap().resolution, Some((320, 180)));
        let info = peek(&[0x10, 0x34, 0x48, 0]).unwrap();
        assert_eq!((info.temporal_id, info.spatial_id), (None, None), "not on every packet");
    }

    #[test]
    fn wrong_lengths_do_not_panic() {
        for payload in [
            &[][..],
            &[0x00],
            &[0x00, 0x80],
            &[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x00, 0x00],
            &[0x10],
            &[0x10, 0x0e, 0, 0x80],
        ] {
            assert_eq!(peek(payload), None, "{payload:x?}");
        }
        assert!(peek(&[0x00, 0x7f, 0x08]).unwrap().keyframe, "longer than the packet");
    }
}
