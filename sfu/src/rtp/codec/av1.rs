//! AV1 payloads (AV1 RTP specification section 4) and the size in a sequence header.
//!
//! Only the first OBU element is looked at, so a payload does not tell its layer for certain: that
//! comes from the dependency descriptor alone.

use super::FrameInfo;
use super::bits::BitReader;
use crate::rtp::reader::Reader;

// Aggregation header.
const CONTINUES: u8 = 0x80;
const ELEMENT_COUNT: u8 = 0x30;
const ONE_ELEMENT: u8 = 0x10;
const NEW_SEQUENCE: u8 = 0x08;

// OBU header (AV1 section 5.3.2).
const OBU_HAS_EXTENSION: u8 = 0x04;
const OBU_HAS_SIZE: u8 = 0x02;
const OBU_SEQUENCE_HEADER: u8 = 1;

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
        resolution: if is_sequence_header { sequence_resolution(rest.0) } else { None },
        ..FrameInfo::default()
    })
}

/// Little-endian base 128 number of at most eight bytes (AV1 section 4.10.5).
fn leb128(rest: &mut Reader<'_>) -> Option<usize> {
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

/// Reads the largest frame size of a sequence header (AV1 section 5.5.1).
fn sequence_resolution(body: &[u8]) -> Option<(u16, u16)> {
    let mut r = BitReader::plain(body);
    r.skip(3 + 1)?; // seq_profile, still_picture
    let reduced = r.flag()?;
    if reduced {
        r.skip(5)?; // seq_level_idx
    } else {
        skip_operating_points(&mut r)?;
    }
    let width_bits = r.bits(4)? + 1;
    let height_bits = r.bits(4)? + 1;
    let width = r.bits(width_bits)? + 1;
    let height = r.bits(height_bits)? + 1;
    Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?))
}

fn skip_operating_points(r: &mut BitReader<'_>) -> Option<()> {
    let mut buffer_delay_bits = None;
    if r.flag()? {
        r.skip(32 + 32)?; // num_units_in_display_tick, time_scale
        if r.flag()? {
            r.ue()?; // num_ticks_per_picture: uvlc() is an Exp-Golomb number
        }
        if r.flag()? {
            buffer_delay_bits = Some(r.bits(5)? + 1);
            r.skip(32 + 5 + 5)?; // decoding tick, and lengths of removal and presentation times
        }
    }
    let has_display_delay = r.flag()?;
    let points = r.bits(5)? + 1;
    for _ in 0..points {
        r.skip(12)?; // operating_point_idc
        let level = r.bits(5)?;
        if level > 7 {
            r.skip(1)?; // tier
        }
        if let Some(bits) = buffer_delay_bits
            && r.flag()?
        {
            r.skip(bits + bits + 1)?;
        }
        if has_display_delay && r.flag()? {
            r.skip(4)?;
        }
    }
    Some(())
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
    fn timing_and_decoder_model_are_passed_over() {
        // Written by hand after section 5.5.1: timing info, decoder model, two operating points.
        let mut bits = String::new();
        bits += "000"; // profile
        bits += "0"; // still_picture
        bits += "0"; // reduced
        bits += "1"; // timing info
        bits += &"0".repeat(64);
        bits += "1"; // equal_picture_interval
        bits += "00101"; // uvlc 4
        bits += "1"; // decoder model
        bits += "00011"; // buffer delays of 4 bits
        bits += &"0".repeat(42);
        bits += "1"; // initial display delay
        bits += "00001"; // two operating points
        bits += &("0".repeat(12) + "01000" + "1" + "1" + &"0".repeat(9) + "1" + "0000");
        bits += &("0".repeat(12) + "00111" + "0" + "0");
        bits += "1001"; // 10 bits of width
        bits += "1000"; // 9 bits of height
        bits += "1001111111"; // 640
        bits += "101100111"; // 360
        let bytes: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|c| c.iter().enumerate().fold(0, |acc, (i, b)| acc | (b - b'0') << (7 - i)))
            .collect();
        assert_eq!(sequence_resolution(&bytes), Some((640, 360)));
        for cut in 0..bytes.len() - 1 {
            assert_eq!(sequence_resolution(&bytes[..cut]), None, "{cut}");
        }
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
