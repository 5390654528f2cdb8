//! Sequence parameter set of H.265 (section 7.3.2.2): profile and level, cropped size, and how far
//! pictures are reordered.
//!
//! Pure. Called by `h265.rs` for the size and by `parameters.rs` for the rest. A set that is cut off
//! still tells what came before the cut.

use super::bits::BitReader;
use super::nal::{chroma_subsampling, cropped};

/// What a forwarder needs of a sequence parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct H265Sps {
    /// General profile, tier and level.
    pub profile: H265Profile,
    /// Cropped width and height in pixels.
    pub size: Option<(u16, u16)>,
    /// Pictures that may come after one that is shown later; `None` where the set is cut off.
    pub reorder: Option<u32>,
}

/// General profile, tier and level (section 7.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H265Profile {
    /// general_profile_space
    pub space: u8,
    /// general_tier_flag: the high tier.
    pub high_tier: bool,
    /// general_profile_idc
    pub profile: u8,
    /// general_profile_compatibility_flags, the first one in the highest bit.
    pub compatibility: u32,
    /// The six bytes of constraint flags.
    pub constraints: [u8; 6],
    /// general_level_idc
    pub level: u8,
}

impl H265Sps {
    /// Reads a set behind its NAL unit header. `None` without profile and level.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut r = BitReader::nal_unit(body);
        r.skip(4)?; // sps_video_parameter_set_id
        let upper_sub_layers = r.bits(3)?;
        r.skip(1)?; // sps_temporal_id_nesting_flag
        let mut sps = Self { profile: read_profile(&mut r)?, size: None, reorder: None };
        // What is missing stays unknown.
        let _ = sps.read_rest(&mut r, upper_sub_layers);
        Some(sps)
    }

    fn read_rest(&mut self, r: &mut BitReader<'_>, upper_sub_layers: u32) -> Option<()> {
        skip_sub_layers(r, upper_sub_layers)?;
        r.ue()?; // sps_seq_parameter_set_id
        let chroma_format_idc = r.ue()?;
        let separate_planes = chroma_format_idc == 3 && r.flag()?;
        let size = (u64::from(r.ue()?), u64::from(r.ue()?));
        let mut crop = (0, 0);
        if r.flag()? {
            let x = u64::from(r.ue()?) + u64::from(r.ue()?);
            let y = u64::from(r.ue()?) + u64::from(r.ue()?);
            crop = (x, y);
        }
        let units = chroma_subsampling(if separate_planes { 0 } else { chroma_format_idc });
        self.size = cropped(size, crop, units);
        r.ue()?; // bit depth, luma
        r.ue()?; // bit depth, chroma
        r.ue()?; // log2_max_pic_order_cnt_lsb_minus4
        let each = r.flag()?; // sps_sub_layer_ordering_info_present_flag
        let mut reorder = 0;
        for _ in 0..if each { upper_sub_layers + 1 } else { 1 } {
            r.ue()?; // sps_max_dec_pic_buffering_minus1
            reorder = r.ue()?;
            r.ue()?; // sps_max_latency_increase_plus1
        }
        // The last one is of the highest sub-layer: the whole stream.
        self.reorder = Some(reorder);
        Some(())
    }
}

/// Bits of a profile, and of a level, in a profile_tier_level structure.
const PROFILE_BITS: u32 = 88;
const LEVEL_BITS: u32 = 8;

fn read_profile(r: &mut BitReader<'_>) -> Option<H265Profile> {
    let space = r.bits(2)? as u8;
    let high_tier = r.flag()?;
    let profile = r.bits(5)? as u8;
    let compatibility = r.bits(32)?;
    let mut constraints = [0; 6];
    for byte in &mut constraints {
        *byte = r.bits(8)? as u8;
    }
    let level = r.bits(LEVEL_BITS)? as u8;
    Some(H265Profile { space, high_tier, profile, compatibility, constraints, level })
}

/// sps_seq_parameter_set_id, by which pictures refer to a set; `body` is behind its NAL unit header.
pub(super) fn sps_id(body: &[u8]) -> Option<u32> {
    let mut r = BitReader::nal_unit(body);
    r.skip(4)?; // sps_video_parameter_set_id
    let upper_sub_layers = r.bits(3)?;
    r.skip(1 + PROFILE_BITS + LEVEL_BITS)?; // sps_temporal_id_nesting_flag in front
    skip_sub_layers(&mut r, upper_sub_layers)?;
    r.ue()
}

/// Profiles and levels of the sub-layers (section 7.3.3).
fn skip_sub_layers(r: &mut BitReader<'_>, upper_sub_layers: u32) -> Option<()> {
    if upper_sub_layers == 0 {
        return Some(());
    }
    let mut bits = 0;
    for sub_layer in 0..8 {
        // Flags stand for eight layers, those above the highest are reserved zeros.
        let (profile, level) = (r.bit()?, r.bit()?);
        if sub_layer < upper_sub_layers {
            bits += profile * PROFILE_BITS + level * LEVEL_BITS;
        }
    }
    r.skip(bits)
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    #[test]
    fn real_parameter_sets_tell_how_pictures_are_reordered() {
        for (sps, reorder) in [
            // x265 with --bframes 0, and with 3
            (
                "42010101600000030090000003000003003fa0050201696592a4932bc05a02000003000200000300\
                 3c10",
                Some(0),
            ),
            (
                "42010101600000030090000003000003003fa0050201696595964932bc05a0200000030020000003\
                 03c1",
                Some(2),
            ),
            ("42010101600000030090000003000003003fa0050201", None), // cut off
        ] {
            let parsed = H265Sps::parse(&hex(sps)[2..]).unwrap();
            assert_eq!((parsed.profile.profile, parsed.profile.level), (1, 63), "{sps}");
            assert_eq!(parsed.reorder, reorder, "{sps}");
        }
        assert_eq!(H265Sps::parse(&hex("01016000000300900000")), None, "without a level");
    }
}
