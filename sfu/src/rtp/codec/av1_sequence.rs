//! Sequence header of AV1 (section 5.5.1): profile and level, largest frame size, bits per sample.
//!
//! Pure. Called by `av1.rs` for the size and by `parameters.rs` for the rest. A header that is cut
//! off still tells what came before the cut.

use super::bits::BitReader;

/// What a forwarder needs of a sequence header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Av1Sequence {
    /// seq_profile
    pub profile: u8,
    /// seq_level_idx of the first operating point, which is the whole stream.
    pub level: u8,
    /// seq_tier of the first operating point.
    pub high_tier: bool,
    /// Width and height in pixels.
    pub size: Option<(u16, u16)>,
    /// Bits per sample: 8, 10 or 12.
    pub bit_depth: Option<u8>,
}

/// select of seq_force_screen_content_tools and seq_force_integer_mv.
const SELECT: u32 = 2;

impl Av1Sequence {
    /// Reads a header behind its OBU header. `None` without profile and level.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut r = BitReader::plain(body);
        let profile = r.bits(3)? as u8;
        r.skip(1)?; // still_picture
        let reduced = r.flag()?;
        let (level, high_tier) = match reduced {
            true => (r.bits(5)? as u8, false),
            false => read_operating_points(&mut r)?,
        };
        let mut sequence = Self { profile, level, high_tier, size: None, bit_depth: None };
        // What is missing stays unknown.
        let _ = sequence.read_rest(&mut r, reduced);
        Some(sequence)
    }

    fn read_rest(&mut self, r: &mut BitReader<'_>, reduced: bool) -> Option<()> {
        let width_bits = r.bits(4)? + 1;
        let height_bits = r.bits(4)? + 1;
        let width = r.bits(width_bits)? + 1;
        let height = r.bits(height_bits)? + 1;
        self.size = u16::try_from(width).ok().zip(u16::try_from(height).ok());
        if !reduced && r.flag()? {
            r.skip(4 + 3)?; // lengths of frame ids
        }
        r.skip(3)?; // superblocks of 128, filter intra, intra edge filter
        if !reduced {
            skip_tools(r)?;
        }
        r.skip(3)?; // superres, cdef, restoration
        let high = r.flag()?;
        let twelve = high && self.profile == 2 && r.flag()?;
        self.bit_depth = Some(match (high, twelve) {
            (false, _) => 8,
            (true, false) => 10,
            (true, true) => 12,
        });
        Some(())
    }
}

/// Skips the flags from enable_interintra_compound to order_hint_bits_minus_1.
fn skip_tools(r: &mut BitReader<'_>) -> Option<()> {
    r.skip(4)?; // interintra, masked compound, warped motion, dual filter
    let order_hint = r.flag()?;
    if order_hint {
        r.skip(2)?; // jnt_comp, ref_frame_mvs
    }
    let screen_content = if r.flag()? { SELECT } else { r.bit()? };
    if screen_content > 0 && !r.flag()? {
        r.skip(1)?; // seq_force_integer_mv
    }
    if order_hint {
        r.skip(3)?;
    }
    Some(())
}

/// Level and tier of the first operating point.
fn read_operating_points(r: &mut BitReader<'_>) -> Option<(u8, bool)> {
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
    let mut first = None;
    for _ in 0..points {
        r.skip(12)?; // operating_point_idc
        let level = r.bits(5)?;
        let high_tier = level > 7 && r.flag()?;
        first.get_or_insert((level as u8, high_tier));
        if let Some(bits) = buffer_delay_bits
            && r.flag()?
        {
            r.skip(bits + bits + 1)?;
        }
        if has_display_delay && r.flag()? {
            r.skip(4)?;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    #[test]
    fn headers_of_real_encoders() {
        // libaom at 320x180 and 640x360, SVT-AV1 at 1920x1080.
        for (body, size, level) in [
            ("000000043cfeccdaf98040", (320, 180), 0),
            ("0000000cc4ff6736be4010", (640, 360), 1),
            ("02000042955dfe1b8d5f3008", (1920, 1080), 8),
        ] {
            let parsed = Av1Sequence::parse(&hex(body)).unwrap();
            assert_eq!(parsed.size, Some(size), "{body}");
            assert_eq!((parsed.profile, parsed.level), (0, level), "{body}");
            assert_eq!((parsed.high_tier, parsed.bit_depth), (false, Some(8)), "{body}");
        }
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
        let parsed = Av1Sequence::parse(&bytes).unwrap();
        assert_eq!((parsed.size, parsed.level, parsed.high_tier), (Some((640, 360)), 8, true));
        for cut in 0..bytes.len() - 1 {
            assert_eq!(Av1Sequence::parse(&bytes[..cut]).and_then(|cut| cut.size), None, "{cut}");
        }
    }
}
