//! H.264 payloads (RFC 6184): single NAL unit, STAP-A and FU-A; and the size in an SPS.
//!
//! Everything passes unchanged (whip-whep G16); this only finds where a keyframe begins. Access
//! units are not marked in a payload, so `starts_frame` stays false.

use super::FrameInfo;
use super::bits::BitReader;
use super::nal::{aggregated, chroma_subsampling, cropped};

// NAL unit types (H.264 table 7-1, RFC 6184 table 1).
const SLICE: u8 = 1;
const IDR_SLICE: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Mask of `nal_ref_idc`, which is 0 where no other picture depends on this one.
const REF_IDC: u8 = 0x60;

/// The S bit of a FU-A header.
const FU_START: u8 = 0x80;

pub(super) fn peek(payload: &[u8]) -> FrameInfo {
    match *payload {
        [header, ref units @ ..] if header & 0x1f == STAP_A => {
            let mut info = FrameInfo::default();
            for (index, unit) in aggregated(units).enumerate() {
                if let Some((&header, body)) = unit.split_first() {
                    let found = nal_unit(header, body);
                    info.discardable = found.discardable && (index == 0 || info.discardable);
                    info.keyframe |= found.keyframe;
                    info.resolution = info.resolution.or(found.resolution);
                }
            }
            info
        }
        [indicator, fu, ref body @ ..] if indicator & 0x1f == FU_A => {
            let header = indicator & REF_IDC | fu & 0x1f;
            let whole = nal_unit(header, body);
            match fu & FU_START {
                0 => FrameInfo { discardable: whole.discardable, ..FrameInfo::default() },
                _ => whole,
            }
        }
        [header, ref body @ ..] => nal_unit(header, body),
        [] => FrameInfo::default(),
    }
}

/// Frame information of one NAL unit; `body` are the bytes behind its header, perhaps only the
/// first.
fn nal_unit(header: u8, body: &[u8]) -> FrameInfo {
    let unit_type = header & 0x1f;
    FrameInfo {
        discardable: unit_type == SLICE && header & REF_IDC == 0,
        keyframe: matches!(unit_type, SPS | IDR_SLICE),
        resolution: if unit_type == SPS { sps_resolution(body) } else { None },
        ..FrameInfo::default()
    }
}

/// Reads the cropped size of a sequence parameter set (H.264 section 7.3.2.1.1).
fn sps_resolution(body: &[u8]) -> Option<(u16, u16)> {
    let mut r = BitReader::nal_unit(body);
    let profile_idc = r.bits(8)?;
    r.skip(16)?; // constraint flags and level
    r.ue()?; // seq_parameter_set_id
    let mut chroma_format_idc = 1;
    let mut separate_planes = false;
    if matches!(
        profile_idc,
        44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244
    ) {
        chroma_format_idc = r.ue()?;
        if chroma_format_idc == 3 {
            separate_planes = r.flag()?;
        }
        r.ue()?; // bit depth, luma
        r.ue()?; // bit depth, chroma
        r.skip(1)?; // qpprime_y_zero_transform_bypass_flag
        if r.flag()? {
            skip_scaling_matrix(&mut r, chroma_format_idc)?;
        }
    }
    r.ue()?; // log2_max_frame_num_minus4
    skip_picture_order(&mut r)?;
    r.ue()?; // max_num_ref_frames
    r.skip(1)?; // gaps_in_frame_num_value_allowed_flag
    let width = (u64::from(r.ue()?) + 1) * 16;
    let map_units = u64::from(r.ue()?) + 1;
    let frames_only = r.flag()?;
    let fields = if frames_only { 1 } else { 2 };
    if !frames_only {
        r.skip(1)?; // mb_adaptive_frame_field_flag
    }
    r.skip(1)?; // direct_8x8_inference_flag
    let mut crop = (0, 0);
    if r.flag()? {
        let x = u64::from(r.ue()?) + u64::from(r.ue()?);
        let y = u64::from(r.ue()?) + u64::from(r.ue()?);
        crop = (x, y);
    }
    let (x_unit, y_unit) = chroma_subsampling(if separate_planes { 0 } else { chroma_format_idc });
    cropped((width, map_units * 16 * fields), crop, (x_unit, y_unit * fields))
}

fn skip_scaling_matrix(r: &mut BitReader<'_>, chroma_format_idc: u32) -> Option<()> {
    let lists = if chroma_format_idc == 3 { 12 } else { 8 };
    for list in 0..lists {
        if !r.flag()? {
            continue;
        }
        let size = if list < 6 { 16 } else { 64 };
        let mut next = 8i32;
        for _ in 0..size {
            // A next scale of 0 repeats the last one to the end without further bits.
            next = next.wrapping_add(r.se()?) & 0xff;
            if next == 0 {
                break;
            }
        }
    }
    Some(())
}

fn skip_picture_order(r: &mut BitReader<'_>) -> Option<()> {
    match r.ue()? {
        0 => {
            r.ue()?; // log2_max_pic_order_cnt_lsb_minus4
        }
        1 => {
            r.skip(1)?; // delta_pic_order_always_zero_flag
            r.se()?; // offset_for_non_ref_pic
            r.se()?; // offset_for_top_to_bottom_field
            for _ in 0..r.ue()? {
                r.se()?; // ends with the bits, whatever count is claimed
            }
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    /// x264, baseline, 640x360.
    const SPS_360P: &str = "6742c016d900a02ff970110000030001000003000a0f162e48";

    #[test]
    fn sizes_of_real_parameter_sets() {
        for (sps, size) in [
            (SPS_360P, (640, 360)),
            // x264 high, 1920x1080: cropped from 1088 rows
            ("67640028acd940780227e5c044000003000400000300283c60c658", (1920, 1080)),
            // the same, interlaced: map units are pairs of rows
            ("67640028acd94078044fde022000000300200000030143e2c5b2c0", (1920, 1080)),
            // x264 high 4:2:2 with scaling matrix flags, 322x182
            ("677a000cbcd941519e222f0110000003001000000300a0f1429960", (322, 182)),
            // x264 high 4:4:4, 322x182
            ("67f4000c919b282a33c7c5e022000003000200000300141e28532c", (322, 182)),
        ] {
            let info = peek(&hex(sps));
            assert_eq!(info.resolution, Some(size), "{sps}");
            assert!(info.keyframe && !info.starts_frame);
        }
    }

    #[test]
    fn scaling_lists_of_any_length_are_passed_over() {
        let mut r = BitReader::plain(&[]);
        assert_eq!(skip_scaling_matrix(&mut r, 1), None, "ends inside");
        // Lists 0 and 6 present: 16 and 64 deltas of 0 (one bit each); the others absent.
        let mut bits = vec![1u8; 17];
        bits.extend([0; 5]);
        bits.extend([1; 65]);
        bits.extend([0; 1]);
        // List 0 again, ended by delta -8 (000 0001 0001) after one value.
        let mut ended: Vec<u8> = vec![1, 1];
        ended.extend([0, 0, 0, 0, 1, 0, 0, 0, 1]);
        ended.extend([0; 7]);
        for bits in [bits, ended] {
            let mut bits = bits;
            let read = bits.len();
            bits.extend([1, 0, 1, 0, 1, 1]);
            let bytes: Vec<u8> = bits
                .chunks(8)
                .map(|byte| byte.iter().enumerate().fold(0, |acc, (i, bit)| acc | bit << (7 - i)))
                .collect();
            let mut r = BitReader::plain(&bytes);
            skip_scaling_matrix(&mut r, 1).unwrap();
            assert_eq!(r.bits(6), Some(0b10_1011), "{read} bits read");
        }
    }

    #[test]
    fn publishers_with_one_nal_unit_per_packet_are_marked_on_sps_and_idr() {
        // whip-whep G16
        for (payload, key) in [
            (&[0x67, 0x42][..], true), // SPS
            (&[0x68, 0xce], false),    // PPS
            (&[0x65, 0x88], true),     // IDR slice
            (&[0x41, 0x9a], false),    // other slice
            (&[0x06, 5], false),       // SEI
            (&[0x09, 0xf0], false),    // AUD
        ] {
            assert_eq!(peek(payload).keyframe, key, "{payload:x?}");
        }
    }

    #[test]
    fn aggregated_and_fragmented_keyframes_are_seen_at_their_start() {
        let sps = hex(SPS_360P);
        let mut stap = vec![0x78, 0, 2, 0x09, 0xf0, 0, sps.len() as u8];
        stap.extend(&sps);
        stap.extend([0, 2, 0x68, 0xce]);
        assert!(peek(&stap).keyframe);
        assert_eq!(peek(&stap).resolution, Some((640, 360)));
        assert!(!peek(&[0x78, 0, 2, 0x68, 0xce, 0, 2, 0x41, 0x9a]).keyframe);
        assert!(peek(&[0x7c, 0x85, 0x88]).keyframe, "first fragment of an IDR slice");
        assert!(!peek(&[0x7c, 0x05, 0x88]).keyframe, "a later one");
        assert!(!peek(&[0x7c, 0x45, 0x88]).keyframe, "the last one");
        assert!(!peek(&[0x7c, 0x81, 0x88]).keyframe, "another slice");
        let fragmented = [&[0x7c, 0x87][..], &sps[1..]].concat();
        assert_eq!(peek(&fragmented).resolution, Some((640, 360)));
    }

    #[test]
    fn discardable_slices_are_marked_on_each_fragment() {
        for (payload, discardable) in [
            (&[0x01, 0x9a][..], true),
            (&[0x21, 0x9a], false),
            (&[0x05, 0x9a], false), // an IDR slice
            (&[0x06, 5], false),    // SEI
            (&[0x1c, 0x81, 0x9a], true),
            (&[0x1c, 0x01, 0x9a], true),
            (&[0x1c, 0x41, 0x9a], true),
            (&[0x5c, 0x81, 0x9a], false),
            (&[0x18, 0, 2, 0x01, 0x9a, 0, 2, 0x01, 0x9a], true),
            (&[0x18, 0, 2, 0x01, 0x9a, 0, 2, 0x06, 5], false),
            (&[0x18, 0, 2, 0x06, 5, 0, 2, 0x01, 0x9a], false),
        ] {
            assert_eq!(peek(payload).discardable, discardable, "{payload:x?}");
        }
    }

    #[test]
    fn wrong_sizes_end_the_aggregate() {
        // quality B4 item 17: nested STAP-A, and sizes past the end
        assert!(!peek(&[0x78, 0, 3, 0x78, 0, 1, 0xff, 0xff, 0x67]).keyframe);
        assert!(!peek(&[0x78, 0, 0, 0, 0, 0, 0]).keyframe);
        assert!(peek(&[0x78, 0, 0, 0, 1, 0x65]).keyframe, "empty units are passed over");
        assert_eq!(peek(&[0x7c]), FrameInfo::default());
        assert_eq!(peek(&[]), FrameInfo::default());
    }

    #[test]
    fn parameter_sets_cut_anywhere_are_still_keyframes() {
        let sps = hex(SPS_360P);
        for cut in 1..sps.len() {
            let info = peek(&sps[..cut]);
            assert!(info.keyframe);
            assert!(info.resolution.is_none_or(|size| size == (640, 360)), "{cut}");
        }
    }
}
