//! AV1 payloads (AV1 RTP specification section 4).
//!
//! Finds sequence headers, and frame headers of shown key frames. The N bit tells neither: some
//! senders set it with each sequence header. Layers come from the dependency descriptor alone,
//! because a payload shows those of its first units at most.

use super::av1_sequence::Av1Sequence;
use super::{FrameInfo, ParameterSet};
use crate::rtp::reader::Reader;
use crate::rtp::unit_parts::UnitParts;

// Aggregation header.
pub(super) const CONTINUES: u8 = 0x80;
const TO_BE_CONTINUED: u8 = 0x40;
pub(super) const ELEMENT_COUNT: u8 = 0x30;
const ONE_ELEMENT: u8 = 0x10;
const NEW_SEQUENCE: u8 = 0x08;

// OBU header (AV1 section 5.3.2).
pub(super) const OBU_HAS_EXTENSION: u8 = 0x04;
pub(super) const OBU_HAS_SIZE: u8 = 0x02;
pub(super) const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_TEMPORAL_DELIMITER: u8 = 2;
const OBU_FRAME_HEADER: u8 = 3;
const OBU_METADATA: u8 = 5;
const OBU_FRAME: u8 = 6;

// The first bits of a frame header (AV1 section 5.9.2): show_existing_frame, frame_type, show_frame.
const FRAME_HEADER_START: u8 = 0xf0;
const SHOWN_KEY_FRAME: u8 = 0x10;

// The bits behind seq_profile (AV1 section 5.5.1). All frames are shown key frames if it is set.
const REDUCED_STILL_PICTURE: u8 = 0x08;

/// Aggregation header of a packet that holds a sequence header and nothing else.
pub(super) const ONLY_SEQUENCE_HEADER: &[u8] = &[ONE_ELEMENT | NEW_SEQUENCE];

pub(super) fn peek(payload: &[u8]) -> Option<FrameInfo> {
    let mut info = FrameInfo::default();
    let mut is_still = false;
    for (index, element) in elements(payload)?.enumerate() {
        if element.continues {
            info.parts = info.parts.with(UnitParts::PICTURE);
            continue;
        }
        let Some(obu) = Obu::parse(element.bytes) else { continue };
        let part = match obu.kind {
            OBU_SEQUENCE_HEADER => {
                info.starts_frame |= index == 0;
                let sequence = Av1Sequence::parse(obu.body);
                info.resolution = info.resolution.or(sequence.and_then(|sequence| sequence.size));
                is_still = obu.body.first().is_some_and(|byte| byte & REDUCED_STILL_PICTURE != 0);
                UnitParts::SEQUENCE_HEADER
            }
            OBU_TEMPORAL_DELIMITER | OBU_METADATA => UnitParts::PREFIX,
            OBU_FRAME | OBU_FRAME_HEADER => {
                let start = obu.body.first().map(|byte| byte & FRAME_HEADER_START);
                info.keyframe |= is_still || start == Some(SHOWN_KEY_FRAME);
                UnitParts::PICTURE.with(UnitParts::FIRST_SLICE)
            }
            _ => UnitParts::PICTURE,
        };
        info.parts = info.parts.with(part);
    }
    (!info.parts.is_empty()).then_some(info)
}

/// The sequence headers of a payload.
pub(super) fn sequence_headers(payload: &[u8]) -> impl Iterator<Item = ParameterSet<'_>> {
    let whole = |element: &Element<'_>| !element.continues && element.is_whole;
    elements(payload).into_iter().flatten().filter(whole).filter_map(|element| {
        let kind = UnitParts::SEQUENCE_HEADER;
        let is_header = Obu::parse(element.bytes)?.kind == OBU_SEQUENCE_HEADER;
        is_header.then_some(ParameterSet { kind, id: 0, bytes: element.bytes })
    })
}

/// One element of a payload: an OBU, or a part of one.
struct Element<'a> {
    bytes: &'a [u8],
    /// Whether it is the rest of an OBU of the packet before, and shows no header.
    continues: bool,
    /// Whether the OBU ends here.
    is_whole: bool,
}

/// The elements of a payload. An element longer than the packet is malformed, and the last one;
/// what is there still tells its kind.
fn elements(payload: &[u8]) -> Option<impl Iterator<Item = Element<'_>>> {
    let mut rest = Reader(payload);
    let aggregation = rest.u8()?;
    // The last of a counted set of elements has no length in front.
    let count = usize::from((aggregation & ELEMENT_COUNT) / ONE_ELEMENT);
    let mut index = 0;
    Some(std::iter::from_fn(move || {
        index += 1;
        let is_last_counted = index == count;
        if rest.0.is_empty() || (count > 0 && index > count) {
            return None;
        }
        let len = if is_last_counted { rest.0.len() } else { leb128(&mut rest)? };
        let bytes = rest.0.get(..len).unwrap_or(rest.0);
        let overruns = len > rest.0.len();
        rest = Reader(rest.0.get(len..).unwrap_or_default());
        let is_cut = overruns || (rest.0.is_empty() && aggregation & TO_BE_CONTINUED != 0);
        let continues = index == 1 && aggregation & CONTINUES != 0;
        Some(Element { bytes, continues, is_whole: !is_cut })
    }))
}

/// An OBU, of which the end may be missing.
struct Obu<'a> {
    kind: u8,
    /// The bytes behind its header.
    body: &'a [u8],
}

impl<'a> Obu<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let header = rest.u8()?;
        if header & OBU_HAS_EXTENSION != 0 {
            rest.u8()?;
        }
        if header & OBU_HAS_SIZE != 0 {
            leb128(&mut rest)?;
        }
        Some(Self { kind: header >> 3 & 0x0f, body: rest.0 })
    }
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
                    assert!(info.starts_frame && !info.keyframe, "{payload:x?}");
                    assert!(info.parts.contains(UnitParts::SEQUENCE_HEADER), "{payload:x?}");
                    assert_eq!(info.resolution, Some(size), "{payload:x?}");
                }
            }
        }
    }

    #[test]
    fn only_a_shown_key_frame_is_a_keyframe() {
        // AV1 RTP specification section 4.4, AV1 section 7.5
        for (payload, key) in [
            ("1830300000", false),                                  // N bit, inter frame
            ("200b08000000043cfeccdaf98030300000", false),          // sequence header, inter frame
            ("1830100000", true),                                   // shown key frame
            ("1830000000", false),                                  // key frame that is not shown
            ("1830800000", false),                                  // shows an existing frame
            ("1018100000", true),                                   // frame header of its own
            ("200b08000000043cfeccdaf98030100000", true),           // sequence header, key frame
            ("000112000b08000000043cfeccdaf980043010000000", true), // an empty element is no OBU
            ("0001120b08000000043cfeccdaf9800430100000", true),     // delimiter and lengths
            ("901000", false),                                      // the rest of an OBU
            ("a00110301000", true),                                 // after the rest of an OBU
            ("1008180000", false),                                  // sequence header alone
        ] {
            assert_eq!(peek(&hex(payload)).is_some_and(|info| info.keyframe), key, "{payload}");
        }
        // reduced_still_picture_header: a frame has no type, it is a key frame
        let still = [&[0x20, 3, 0x08, 0x18, 0][..], &[0x30, 0xff]].concat();
        assert!(peek(&still).unwrap().keyframe);
    }

    #[test]
    fn sequence_headers_are_found_whole() {
        let found = |payload: &str| {
            sequence_headers(&hex(payload)).map(|set| set.bytes.to_vec()).collect::<Vec<_>>()
        };
        let header = hex("08000000043cfeccdaf980");
        assert_eq!(found("200b08000000043cfeccdaf98030100000"), std::slice::from_ref(&header));
        assert_eq!(
            found("0001120b08000000043cfeccdaf9800430100000"),
            std::slice::from_ref(&header)
        );
        assert_eq!(found("1808000000043cfeccdaf980"), [header]);
        assert!(found("5808000000043cfeccdaf980").is_empty(), "it is continued");
        assert!(found("9808000000043cfeccdaf980").is_empty(), "the rest of another OBU");
        assert!(found("200c08000000043cfeccda").is_empty(), "longer than the packet");
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
        let longer = peek(&[0x00, 0x7f, 0x30, 0x10]).unwrap();
        assert!(longer.keyframe, "longer than the packet");
    }
}
