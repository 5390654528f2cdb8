//! Parameters of an encoded picture: codec, profile and level as the encoder states them in its
//! parameter sets, and whether it reorders pictures.
//!
//! Offers state a profile too, and encoders do not always keep to it: OBS offers constrained
//! baseline and sends high. Reads single packets and keeps no state: `media/encoding.rs` does.

use std::fmt;

use super::av1::{
    CONTINUES, ELEMENT_COUNT, OBU_HAS_EXTENSION, OBU_HAS_SIZE, OBU_SEQUENCE_HEADER, leb128,
};
use super::av1_sequence::Av1Sequence;
use super::bits::BitReader;
use super::h264_sps::H264Sps;
use super::h265_sps::{H265Profile, H265Sps};
use super::nal::aggregated;
use crate::codec::Codec;
use crate::rtp::reader::Reader;

/// Profile and level of an encoding. Displays as the `codecs` parameter of RFC 6381.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecString {
    /// `avc1.` with profile, constraints and level (ISO/IEC 14496-15).
    H264([u8; 3]),
    /// `hvc1.` with profile, compatibility, tier and level, constraints (the same, annex E).
    H265(H265Profile),
    /// `av01.` with profile, level and tier, bits per sample (AV1 in ISO base media, section 5).
    Av1 {
        /// seq_profile
        profile: u8,
        /// seq_level_idx
        level: u8,
        /// seq_tier
        high_tier: bool,
        /// Bits per sample.
        bit_depth: u8,
    },
    /// `vp8`, which has no profiles in use.
    Vp8,
    /// `vp9`; a stream does not state its level.
    Vp9,
}

impl fmt::Display for CodecString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::H264([profile, constraints, level]) => {
                write!(f, "avc1.{profile:02x}{constraints:02x}{level:02x}")
            }
            Self::H265(general) => {
                f.write_str("hvc1.")?;
                if let Some(space) = b"ABC".get(usize::from(general.space).wrapping_sub(1)) {
                    write!(f, "{}", char::from(*space))?;
                }
                let tier = if general.high_tier { 'H' } else { 'L' };
                let flags = general.compatibility.reverse_bits();
                write!(f, "{}.{flags:X}.{tier}{}", general.profile, general.level)?;
                let used = general.constraints.iter().rposition(|byte| *byte != 0);
                for byte in general.constraints.iter().take(used.map_or(0, |last| last + 1)) {
                    write!(f, ".{byte:X}")?;
                }
                Ok(())
            }
            Self::Av1 { profile, level, high_tier, bit_depth } => {
                let tier = if *high_tier { 'H' } else { 'M' };
                write!(f, "av01.{profile}.{level:02}{tier}.{bit_depth:02}")
            }
            Self::Vp8 => f.write_str("vp8"),
            Self::Vp9 => f.write_str("vp9"),
        }
    }
}

/// Parameters that one packet states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Profile and level.
    pub codec: CodecString,
    /// Whether pictures may be shown in another order than they are sent; `None` where the
    /// parameters do not say.
    pub reorders: Option<bool>,
}

/// The parameters that a payload states, if it carries any.
pub fn parameters(codec: Codec, payload: &[u8]) -> Option<Parameters> {
    match codec {
        Codec::H264 => h264(payload),
        Codec::H265 => h265(payload),
        Codec::Av1 => av1(payload),
        Codec::Vp8 => Some(Parameters { codec: CodecString::Vp8, reorders: Some(false) }),
        Codec::Vp9 => Some(Parameters { codec: CodecString::Vp9, reorders: Some(false) }),
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => None,
    }
}

// H.264 NAL unit types (table 7-1, RFC 6184 table 1).
const H264_SLICE: u8 = 1;
const H264_SPS: u8 = 7;
const H264_STAP_A: u8 = 24;
const H264_FU_A: u8 = 28;

// H.265 NAL unit types (table 7-1, RFC 7798 section 4.4).
const H265_SPS: u8 = 33;
const H265_AGGREGATION: u8 = 48;
const H265_FRAGMENTATION: u8 = 49;

/// The S bit of a fragmentation unit header.
const FU_START: u8 = 0x80;

/// The first NAL unit of this type that begins in an H.264 payload, behind its header.
fn h264_unit(payload: &[u8], wanted: u8) -> Option<&[u8]> {
    match *payload {
        [header, ref units @ ..] if header & 0x1f == H264_STAP_A => {
            let mut units = aggregated(units).filter_map(|unit| unit.split_first());
            units.find(|(header, _)| **header & 0x1f == wanted).map(|(_, body)| body)
        }
        [header, fu, ref body @ ..] if header & 0x1f == H264_FU_A => {
            (fu & FU_START != 0 && fu & 0x1f == wanted).then_some(body)
        }
        [header, ref body @ ..] => (header & 0x1f == wanted).then_some(body),
        [] => None,
    }
}

fn h264(payload: &[u8]) -> Option<Parameters> {
    let sps = H264Sps::parse(h264_unit(payload, H264_SPS)?)?;
    Some(Parameters {
        codec: CodecString::H264([sps.profile, sps.constraints, sps.level]),
        reorders: sps.reorder.map(|pictures| pictures > 0),
    })
}

fn h265(payload: &[u8]) -> Option<Parameters> {
    let (&[first, _], body) = payload.split_first_chunk::<2>()?;
    let unit_type = |first: u8| first >> 1 & 0x3f;
    let body = match unit_type(first) {
        H265_SPS => body,
        H265_AGGREGATION => {
            let mut units = aggregated(body).filter_map(|unit| unit.split_first_chunk::<2>());
            units.find(|(header, _)| unit_type(header[0]) == H265_SPS)?.1
        }
        H265_FRAGMENTATION => {
            let (fu, body) = body.split_first()?;
            (fu & FU_START != 0 && fu & 0x3f == H265_SPS).then_some(body)?
        }
        _ => return None,
    };
    let sps = H265Sps::parse(body)?;
    Some(Parameters {
        codec: CodecString::H265(sps.profile),
        reorders: sps.reorder.map(|pictures| pictures > 0),
    })
}

/// AV1 shows frames in the order in which RTP carries them: a frame of the future is not shown, and
/// shown later by a header of its own.
fn av1(payload: &[u8]) -> Option<Parameters> {
    let mut rest = Reader(payload);
    let aggregation = rest.u8()?;
    if aggregation & CONTINUES != 0 {
        return None;
    }
    let count = (aggregation & ELEMENT_COUNT) >> 4;
    let mut index = 0;
    while !rest.0.is_empty() {
        index += 1;
        let element = match count == index {
            // The last of a counted set of elements has no length in front.
            true => std::mem::take(&mut rest.0),
            false => {
                let len = leb128(&mut rest)?;
                rest.take(len)?
            }
        };
        let mut obu = Reader(element);
        let header = obu.u8()?;
        if header >> 3 & 0x0f != OBU_SEQUENCE_HEADER {
            continue;
        }
        if header & OBU_HAS_EXTENSION != 0 {
            obu.u8()?;
        }
        if header & OBU_HAS_SIZE != 0 {
            leb128(&mut obu)?;
        }
        let Av1Sequence { profile, level, high_tier, bit_depth, .. } = Av1Sequence::parse(obu.0)?;
        let codec = CodecString::Av1 { profile, level, high_tier, bit_depth: bit_depth? };
        return Some(Parameters { codec, reorders: Some(false) });
    }
    None
}

/// Whether an H.264 slice that refers to pictures of the future begins in this payload: a B slice
/// (section 7.4.3). Slices of H.265 do not say it, since low-delay encoders use B slices too.
pub fn begins_b_slice(codec: Codec, payload: &[u8]) -> bool {
    let slice_type = |body| {
        let mut r = BitReader::nal_unit(body);
        r.ue()?; // first_mb_in_slice
        r.ue()
    };
    codec == Codec::H264
        && h264_unit(payload, H264_SLICE).and_then(slice_type).is_some_and(|kind| kind % 5 == 1)
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    fn stated(codec: Codec, payload: &str) -> Option<(String, Option<bool>)> {
        let found = parameters(codec, &hex(payload))?;
        Some((found.codec.to_string(), found.reorders))
    }

    /// The forms in which a unit with a header of `HEADER` bytes comes: alone, aggregated behind
    /// another, and as a first fragment.
    fn forms<const HEADER: usize>(unit: &str, fragment: [&str; 2]) -> [String; 3] {
        let size = format!("{:04x}", unit.len() / 2);
        let alone = unit.to_owned();
        let [aggregate, fragment] = fragment;
        [alone, format!("{aggregate}{size}{unit}"), format!("{fragment}{}", &unit[2 * HEADER..])]
    }

    #[test]
    fn profile_and_level_are_those_of_the_parameter_sets() {
        let high = "6764001eacd940a02ff970110000030001000003003c0f162d96";
        for payload in forms::<1>(high, ["78000209f0", "7c87"]) {
            assert_eq!(stated(Codec::H264, &payload), Some(("avc1.64001e".into(), Some(true))));
        }
        let main = "42010101600000030090000003000003003fa0050201696595964932bc05a0200000030020000003\
                    03c1";
        for payload in forms::<2>(main, ["60010003460150", "6201a1"]) {
            let expected = Some(("hvc1.1.6.L63.90".into(), Some(true)));
            assert_eq!(stated(Codec::H265, &payload), expected);
        }
        let sequence = "080000000cc4ff6736be4010";
        for payload in [
            format!("18{sequence}"),
            format!("20021200{sequence}"), // a temporal delimiter before it
            format!("280c{sequence}30"),
            format!("000c{sequence}"),
        ] {
            let expected = Some(("av01.0.01M.08".into(), Some(false)));
            assert_eq!(stated(Codec::Av1, &payload), expected, "{payload}");
        }
        assert_eq!(stated(Codec::Vp8, "10"), Some(("vp8".into(), Some(false))));
    }

    #[test]
    fn packets_without_parameter_sets_state_nothing() {
        for (codec, payload) in [
            (Codec::H264, "65888400"),
            (Codec::H264, "7c0764001e"),
            (Codec::H264, "7c8564001e"),
            (Codec::H264, "786764"),
            (Codec::H264, "67"),
            (Codec::H264, ""),
            (Codec::H265, "2601af0a0b"),
            (Codec::H265, "62012101600000"),
            (Codec::H265, "6001"),
            (Codec::H265, "42"),
            (Codec::Av1, "1030"),
            (Codec::Av1, "9808000000"),
            (Codec::Av1, "20ff"),
            (Codec::Av1, ""),
            (Codec::Opus, "6764001eacd9"),
        ] {
            assert_eq!(stated(codec, payload), None, "{payload}");
        }
    }

    // x264 with three B-frames: an IDR, a P slice, a B slice that others refer to, and one that
    // none refers to.
    #[test]
    fn b_slices_are_told_from_others() {
        for (payload, is_b) in [
            ("658884", false),
            ("419a24", false),
            ("419e42", true),
            ("019e61", true),
            ("7c819e61", true),
            ("7c019e61", false), // a later fragment
            ("78000209f00003019e61", true),
            ("01", false),
            ("", false),
        ] {
            assert_eq!(begins_b_slice(Codec::H264, &hex(payload)), is_b, "{payload}");
        }
        assert!(!begins_b_slice(Codec::H265, &hex("019e61")));
    }
}
