//! H.264 payloads (RFC 6184): single NAL unit, STAP-A and FU-A.
//!
//! Everything passes unchanged (whip-whep G16); this only finds which parts of an access unit a
//! packet holds. Where one begins is not marked in a payload, so `starts_frame` stays false.

use super::bits::BitReader;
use super::h264_sps::H264Sps;
use super::nal::{
    Fragment, Preamble, Reference, aggregated, has_recovery_point, slice_parts, unit_headers,
};
use super::{FrameInfo, ParameterSet};
use crate::rtp::unit_parts::UnitParts;

// NAL unit types (H.264 table 7-1, RFC 6184 table 1).
const SLICE: u8 = 1;
const IDR_SLICE: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
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
            let mut judged = false;
            for unit in aggregated(units) {
                if let Some((&header, body)) = unit.split_first() {
                    let found = nal_unit(header, body);
                    if !is_preamble(header & 0x1f) {
                        info.discardable = found.discardable && (!judged || info.discardable);
                        judged = true;
                    }
                    info.keyframe |= found.keyframe;
                    info.parts = info.parts.with(found.parts);
                    info.resolution = info.resolution.or(found.resolution);
                }
            }
            info
        }
        [indicator, fu, ref body @ ..] if indicator & 0x1f == FU_A => {
            let header = indicator & REF_IDC | fu & 0x1f;
            let whole = nal_unit(header, body);
            match fu & FU_START {
                0 => FrameInfo {
                    discardable: whole.discardable,
                    // Only slices tell by their bytes whether they are the first.
                    parts: match whole.parts.is_only_sets() {
                        true => whole.parts,
                        false => UnitParts::PICTURE,
                    },
                    ..FrameInfo::default()
                },
                _ => whole,
            }
        }
        [header, ref body @ ..] => nal_unit(header, body),
        [] => FrameInfo::default(),
    }
}

/// Judges an H.264 payload by its slices: delimiters and SEI come first in a frame, and their
/// `nal_ref_idc` is always 0 (H.264 section 7.4.1).
pub fn reference(payload: &[u8]) -> Reference {
    let types = || unit_headers(fragment(payload), units(payload)).map(|header| header & 0x1f);
    let preamble = Preamble { delimiter: DELIMITER, holds: is_preamble };
    preamble.judge(types, || peek(payload).discardable)
}

fn is_preamble(unit_type: u8) -> bool {
    matches!(unit_type, SEI | DELIMITER)
}

/// Frame information of one NAL unit; `body` are the bytes behind its header, perhaps only the
/// first.
fn nal_unit(header: u8, body: &[u8]) -> FrameInfo {
    let unit_type = header & 0x1f;
    FrameInfo {
        discardable: unit_type == SLICE && header & REF_IDC == 0,
        // Parameter sets may come with any picture, so that only the slice tells (H.264 section
        // 7.4.1.2.4).
        keyframe: unit_type == IDR_SLICE,
        parts: match unit_type {
            SPS => UnitParts::SPS,
            PPS => UnitParts::PPS,
            SEI if has_recovery_point(body) => UnitParts::RECOVERY_POINT,
            SEI | DELIMITER => UnitParts::PREFIX,
            SLICE | IDR_SLICE => slice_parts(body),
            _ => UnitParts::PICTURE,
        },
        resolution: if unit_type == SPS {
            H264Sps::parse(body).and_then(|sps| sps.size)
        } else {
            None
        },
        ..FrameInfo::default()
    }
}

/// The part of a NAL unit that a payload holds, if it is one.
pub(super) fn fragment(payload: &[u8]) -> Option<Fragment<'_>> {
    match *payload {
        [indicator, fu, ref body @ ..] if indicator & 0x1f == FU_A => {
            Some(Fragment::new([indicator & !0x1f | fu & 0x1f, 0], 1, fu, body))
        }
        _ => None,
    }
}

/// The NAL units of a payload; a part of one as it is.
fn units(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (aggregate, single) = match payload.split_first() {
        Some((header, units)) if header & 0x1f == STAP_A => (units, None),
        _ => (&[][..], Some(payload)),
    };
    aggregated(aggregate).chain(single)
}

/// The parameter sets of a payload, with their ids.
pub(super) fn parameter_sets(payload: &[u8]) -> impl Iterator<Item = ParameterSet<'_>> {
    units(payload).filter_map(|bytes| {
        let (&header, body) = bytes.split_first()?;
        let mut r = BitReader::nal_unit(body);
        let kind = match header & 0x1f {
            SPS => {
                r.skip(24)?; // profile, constraint flags and level
                UnitParts::SPS
            }
            PPS => UnitParts::PPS,
            _ => return None,
        };
        Some(ParameterSet { kind, id: u8::try_from(r.ue()?).ok()?, bytes })
    })
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
            assert!(!info.keyframe && !info.starts_frame);
            assert_eq!(info.parts, UnitParts::SPS);
        }
    }

    #[test]
    fn only_an_idr_slice_is_a_keyframe() {
        // whip-whep G16, H.264 section 7.4.1.2.4
        let first_slice = UnitParts::PICTURE.with(UnitParts::FIRST_SLICE);
        for (payload, key, parts) in [
            (&[0x67, 0x42][..], false, UnitParts::SPS),
            (&[0x68, 0xce], false, UnitParts::PPS),
            (&[0x65, 0x08], true, UnitParts::PICTURE), // a later slice of an IDR picture
            (&[0x65, 0x88], true, first_slice),
            (&[0x41, 0x9a], false, first_slice),
            (&[0x06, 5], false, UnitParts::PREFIX), // SEI
            (&[0x06, 6, 1, 0xc4, 0x80], false, UnitParts::RECOVERY_POINT),
            (&[0x06, 5, 2, 6, 6, 6, 1, 0xc4, 0x80], false, UnitParts::RECOVERY_POINT),
            (&[0x06, 5, 2, 6, 6, 0x80], false, UnitParts::PREFIX),
            (&[0x06, 0xff, 6, 1, 6, 0x80], false, UnitParts::PREFIX), // type 261
            (&[0x09, 0xf0], false, UnitParts::PREFIX),                // AUD
            (&[], false, UnitParts::NONE),
        ] {
            let info = peek(payload);
            assert_eq!((info.keyframe, info.parts), (key, parts), "{payload:x?}");
        }
    }

    #[test]
    fn aggregate_of_parameter_sets_and_another_slice_is_no_keyframe() {
        let sets = "780017 6742e01f96540a0fd8088000000300800000180711060c 0004 68ce3c80";
        let with = |slice: &str| peek(&hex(&[sets, slice].concat().replace(' ', "")));
        let info = with("0005 419a000102");
        assert!(!info.keyframe && !info.parts.is_only_sets());
        assert!(info.parts.contains(UnitParts::SPS.with(UnitParts::PPS)));
        assert!(with("0005 6588840a0b").keyframe);
        assert!(with("").parts.is_only_sets());
    }

    #[test]
    fn parameter_sets_are_found_with_their_ids() {
        let stap = hex("7800020906000467420000000368ce3c00046588840a");
        let found: Vec<_> = parameter_sets(&stap).map(|set| (set.kind, set.bytes.len())).collect();
        assert_eq!(found, [(UnitParts::PPS, 3)], "an SPS without an id is none");
        let sps = hex(SPS_360P);
        let ids = |payload: &[u8]| parameter_sets(payload).map(|set| set.id).collect::<Vec<_>>();
        assert_eq!(
            (ids(&sps), ids(&[0x68, 0xce]), ids(&[0x68, 0x4e])),
            (vec![0], vec![0], vec![1])
        );
        assert!(ids(&[0x7c, 0x88, 0xce]).is_empty(), "a fragment");
        assert_eq!((ids(&[]), ids(&[0x65, 0x88])), (vec![], vec![]));
    }

    #[test]
    fn aggregated_and_fragmented_keyframes_are_seen_at_their_start() {
        let sps = hex(SPS_360P);
        let mut stap = vec![0x78, 0, 2, 0x09, 0xf0, 0, sps.len() as u8];
        stap.extend(&sps);
        stap.extend([0, 2, 0x68, 0xce]);
        assert!(!peek(&stap).keyframe);
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
            (&[0x18, 0, 2, 0x06, 5, 0, 2, 0x01, 0x9a], true),
            (&[0x18, 0, 2, 0x09, 0xf0, 0, 2, 0x01, 0x9a], true),
            (&[0x18, 0, 2, 0x09, 0xf0, 0, 2, 0x41, 0x9a], false),
            (&[0x18, 0, 2, 0x01, 0x9a, 0, 2, 0x41, 0x9a], false),
            (&[0x18, 0, 2, 0x68, 0xce, 0, 2, 0x01, 0x9a], false), // a parameter set
        ] {
            assert_eq!(peek(payload).discardable, discardable, "{payload:x?}");
        }
    }

    #[test]
    fn delimiters_and_sei_say_nothing_of_their_frame() {
        for (payload, expected) in [
            (&[0x09, 0x10][..], Reference::Delimiter),
            (&[0x06, 5], Reference::Preamble),
            (&[0x18, 0, 2, 0x09, 0x10, 0, 2, 0x06, 5], Reference::Preamble),
            (&[0x18, 0, 2, 0x09, 0x10], Reference::Delimiter),
            (&[0x1c, 0x86, 5], Reference::Preamble), // fragments of a long SEI
            (&[0x1c, 0x46, 5], Reference::Preamble),
            (&[0x67, 0x42], Reference::Referenced),
            (&[0x41, 0x9a], Reference::Referenced),
            (&[0x01, 0x9e], Reference::Unreferenced),
            (&[0x1c, 0x01, 0x9e], Reference::Unreferenced),
            (&[0x18], Reference::Referenced),
            (&[], Reference::Referenced),
        ] {
            assert_eq!(reference(payload), expected, "{payload:x?}");
        }
    }

    #[test]
    fn wrong_sizes_end_the_aggregate() {
        // quality B4 item 17: nested STAP-A, and sizes past the end
        assert!(!peek(&[0x78, 0, 3, 0x78, 0, 1, 0xff, 0xff, 0x65]).keyframe);
        assert!(!peek(&[0x78, 0, 0, 0, 0, 0, 0]).keyframe);
        assert!(peek(&[0x78, 0, 0, 0, 1, 0x65]).keyframe, "empty units are passed over");
        assert!(!peek(&[0x7c]).keyframe && !peek(&[0x7c]).parts.is_only_sets());
        assert_eq!(peek(&[]), FrameInfo::default());
    }

    #[test]
    fn parameter_sets_cut_anywhere_are_still_parameter_sets() {
        let sps = hex(SPS_360P);
        for cut in 1..sps.len() {
            let info = peek(&sps[..cut]);
            assert_eq!(info.parts, UnitParts::SPS);
            assert!(info.resolution.is_none_or(|size| size == (640, 360)), "{cut}");
        }
    }
}
