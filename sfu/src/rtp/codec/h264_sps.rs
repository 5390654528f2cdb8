//! Sequence parameter set of H.264 (section 7.3.2.1.1): profile and level, cropped size, and how far
//! pictures are reordered.
//!
//! Pure. Called by `h264.rs` for the size and by `parameters.rs` for the rest. A set that is cut off
//! still tells what came before the cut.

use super::bits::BitReader;
use super::nal::{chroma_subsampling, cropped};

/// What a forwarder needs of a sequence parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct H264Sps {
    /// profile_idc
    pub profile: u8,
    /// The byte of constraint_set flags.
    pub constraints: u8,
    /// level_idc
    pub level: u8,
    /// Cropped width and height in pixels.
    pub size: Option<(u16, u16)>,
    /// Pictures that may come after one that is shown later; `None` where the set does not say.
    pub reorder: Option<u32>,
}

impl H264Sps {
    /// Reads a set behind its NAL unit header. `None` without profile and level.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut r = BitReader::nal_unit(body);
        let [profile, constraints, level] = [r.bits(8)? as u8, r.bits(8)? as u8, r.bits(8)? as u8];
        let mut sps = Self { profile, constraints, level, size: None, reorder: None };
        // What is missing stays unknown.
        let _ = sps.read_rest(&mut r);
        Some(sps)
    }

    fn read_rest(&mut self, r: &mut BitReader<'_>) -> Option<()> {
        r.ue()?; // seq_parameter_set_id
        let mut chroma_format_idc = 1;
        let mut separate_planes = false;
        if matches!(
            self.profile,
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
                skip_scaling_matrix(r, chroma_format_idc)?;
            }
        }
        r.ue()?; // log2_max_frame_num_minus4
        let order_is_output = skip_picture_order(r)?;
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
        let (x_unit, y_unit) =
            chroma_subsampling(if separate_planes { 0 } else { chroma_format_idc });
        self.size = cropped((width, map_units * 16 * fields), crop, (x_unit, y_unit * fields));
        self.reorder = order_is_output.then_some(0);
        if r.flag()? {
            self.reorder = read_reorder(r).or(self.reorder);
        }
        Some(())
    }
}

/// max_num_reorder_frames of the video usability information (section E.1.1), where it is there.
fn read_reorder(r: &mut BitReader<'_>) -> Option<u32> {
    if r.flag()? && r.bits(8)? == EXTENDED_SAR {
        r.skip(32)?; // sar_width, sar_height
    }
    if r.flag()? {
        r.skip(1)?; // overscan_appropriate_flag
    }
    if r.flag()? {
        r.skip(3 + 1)?; // video_format, video_full_range_flag
        if r.flag()? {
            r.skip(24)?; // colour description
        }
    }
    if r.flag()? {
        r.ue()?; // chroma_sample_loc_type, top
        r.ue()?; // bottom
    }
    if r.flag()? {
        r.skip(32 + 32 + 1)?; // num_units_in_tick, time_scale, fixed_frame_rate_flag
    }
    let mut has_hrd = false;
    for _ in ["nal_hrd", "vcl_hrd"] {
        if r.flag()? {
            skip_hrd(r)?;
            has_hrd = true;
        }
    }
    if has_hrd {
        r.skip(1)?; // low_delay_hrd_flag
    }
    r.skip(1)?; // pic_struct_present_flag
    if !r.flag()? {
        return None;
    }
    r.skip(1)?; // motion_vectors_over_pic_boundaries_flag
    r.ue()?; // max_bytes_per_pic_denom
    r.ue()?; // max_bits_per_mb_denom
    r.ue()?; // log2_max_mv_length_horizontal
    r.ue()?; // log2_max_mv_length_vertical
    r.ue()
}

/// aspect_ratio_idc with a width and a height (table E-1).
const EXTENDED_SAR: u32 = 255;

/// hrd_parameters (section E.1.2).
fn skip_hrd(r: &mut BitReader<'_>) -> Option<()> {
    let buffers = r.ue()?;
    r.skip(4 + 4)?; // bit_rate_scale, cpb_size_scale
    for _ in 0..=buffers {
        r.ue()?; // ends with the bits, whatever count is claimed
        r.ue()?;
        r.skip(1)?; // cbr_flag
    }
    r.skip(5 + 5 + 5 + 5) // lengths of delays and of the time offset
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

/// Skips how pictures are numbered; true if they are shown in the order in which they come.
fn skip_picture_order(r: &mut BitReader<'_>) -> Option<bool> {
    match r.ue()? {
        0 => {
            r.ue()?; // log2_max_pic_order_cnt_lsb_minus4
            Some(false)
        }
        1 => {
            r.skip(1)?; // delta_pic_order_always_zero_flag
            r.se()?; // offset_for_non_ref_pic
            r.se()?; // offset_for_top_to_bottom_field
            for _ in 0..r.ue()? {
                r.se()?; // ends with the bits, whatever count is claimed
            }
            Some(false)
        }
        kind => Some(kind == 2),
    }
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    #[test]
    fn real_parameter_sets_tell_how_pictures_are_reordered() {
        for (sps, reorder) in [
            // x264 with --bframes 0, and with 3
            ("6764001eacb405017fcb8088000003000800000301e078b175", Some(0)),
            ("6764001eacd940a02ff970110000030001000003003c0f162d96", Some(2)),
            // x264 with HRD parameters
            ("6764001eacd940a02ff970110000030001000003003c626000f424001e84e4c30078b16cb0", Some(2)),
            // the second, cut off before the usability information
            ("6764001eacd940a02ff9", None),
        ] {
            let parsed = H264Sps::parse(&hex(sps)[1..]).unwrap();
            assert_eq!((parsed.profile, parsed.level), (0x64, 0x1e), "{sps}");
            assert_eq!(parsed.reorder, reorder, "{sps}");
        }
        assert_eq!(H264Sps::parse(&[0x64, 0]), None);
    }

    #[test]
    fn pictures_that_are_numbered_as_they_come_are_not_reordered() {
        // Baseline, 16 x 16: log2_max_frame_num 4, pic_order_cnt_type 2, one reference frame.
        let sps = H264Sps::parse(&[66, 0, 10, 0b1101_1010, 0b0111_1001, 0]).unwrap();
        assert_eq!((sps.size, sps.reorder), (Some((16, 16)), Some(0)));
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
}
