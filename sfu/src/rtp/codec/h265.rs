//! H.265 payloads (RFC 7798): single NAL unit, AP and FU.
//!
//! Only the form without decoding order numbers (`sprop-max-don-diff` 0), as WebRTC uses it.
//! Access units are not marked in a payload, so `starts_frame` stays false.

use super::bits::BitReader;
use super::h265_sps::{H265Sps, sps_id};
use super::nal::{
    Fragment, Preamble, Reference, aggregated, has_recovery_point, slice_parts, unit_headers,
};
use super::{FrameInfo, ParameterSet};
use crate::rtp::unit_parts::UnitParts;

// NAL unit types (H.265 table 7-1, RFC 7798 section 4.4).
const FIRST_IRAP: u8 = 16; // BLA_W_LP
const LAST_IRAP: u8 = 21; // CRA_NUT
const LAST_SLICE: u8 = 31;
const VPS: u8 = 32;
const SPS: u8 = 33;
const PPS: u8 = 34;
const DELIMITER: u8 = 35;
const PREFIX_SEI: u8 = 39;
const SUFFIX_SEI: u8 = 40;
const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;

/// The S bit of a fragmentation unit header.
const FU_START: u8 = 0x80;

pub(super) fn peek(payload: &[u8]) -> Option<FrameInfo> {
    let (&[first, second], body) = payload.split_first_chunk::<2>()?;
    let mut info = match unit_type(first) {
        AGGREGATION => {
            let mut info = FrameInfo::default();
            for unit in aggregated(body) {
                if let Some((&[first, _], body)) = unit.split_first_chunk::<2>() {
                    let found = nal_unit(unit_type(first), body);
                    info.keyframe |= found.keyframe;
                    info.parts = info.parts.with(found.parts);
                    info.resolution = info.resolution.or(found.resolution);
                }
            }
            info
        }
        FRAGMENTATION => match body.split_first()? {
            (fu, body) if fu & FU_START != 0 => nal_unit(fu & 0x3f, body),
            (fu, _) => {
                let whole = nal_unit(fu & 0x3f, &[]).parts;
                let parts = if whole.is_only_sets() { whole } else { UnitParts::PICTURE };
                FrameInfo { parts, ..FrameInfo::default() }
            }
        },
        other => nal_unit(other, body),
    };
    info.temporal_id = (second & 0x07).checked_sub(1);
    Some(info)
}

/// Judges a payload by its slices. A picture with an even type below 16 is referred to by no picture
/// of its own sub-layer (H.265 table 7-1, section 3): x265 marks B-frames so. Pictures of a higher
/// sub-layer may still refer to it.
pub fn reference(payload: &[u8]) -> Reference {
    let types = || unit_headers(fragment(payload), units(payload)).map(unit_type);
    let is_unreferenced = |kind| is_preamble(kind) || (kind < FIRST_IRAP && kind % 2 == 0);
    let preamble = Preamble { delimiter: DELIMITER, holds: is_preamble };
    preamble.judge(types, || types().all(is_unreferenced) && types().next().is_some())
}

fn unit_type(first: u8) -> u8 {
    first >> 1 & 0x3f
}

fn is_preamble(unit_type: u8) -> bool {
    matches!(unit_type, DELIMITER | PREFIX_SEI | SUFFIX_SEI)
}

/// Frame information of one NAL unit; `body` are the bytes behind its header, perhaps only the
/// first.
fn nal_unit(unit_type: u8, body: &[u8]) -> FrameInfo {
    FrameInfo {
        // Parameter sets may come with any picture, so that only the slice tells.
        keyframe: matches!(unit_type, FIRST_IRAP..=LAST_IRAP),
        parts: match unit_type {
            VPS => UnitParts::VPS,
            SPS => UnitParts::SPS,
            PPS => UnitParts::PPS,
            PREFIX_SEI if has_recovery_point(body) => UnitParts::RECOVERY_POINT,
            PREFIX_SEI | DELIMITER => UnitParts::PREFIX,
            0..=LAST_SLICE => slice_parts(body),
            _ => UnitParts::PICTURE,
        },
        resolution: if unit_type == SPS {
            H265Sps::parse(body).and_then(|sps| sps.size)
        } else {
            None
        },
        ..FrameInfo::default()
    }
}

/// The part of a NAL unit that a payload holds, if it is one.
pub(super) fn fragment(payload: &[u8]) -> Option<Fragment<'_>> {
    match *payload {
        [first, second, fu, ref body @ ..] if unit_type(first) == FRAGMENTATION => {
            Some(Fragment::new([first & 0x81 | (fu & 0x3f) << 1, second], 2, fu, body))
        }
        _ => None,
    }
}

/// The NAL units of a payload; a part of one as it is.
fn units(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (aggregate, single) = match payload.split_first_chunk::<2>() {
        Some((header, units)) if unit_type(header[0]) == AGGREGATION => (units, None),
        header => (&[][..], header.map(|_| payload)),
    };
    aggregated(aggregate).chain(single)
}

/// The parameter sets of a payload, with their ids.
pub(super) fn parameter_sets(payload: &[u8]) -> impl Iterator<Item = ParameterSet<'_>> {
    units(payload).filter_map(|bytes| {
        let (header, body) = bytes.split_first_chunk::<2>()?;
        let mut r = BitReader::nal_unit(body);
        let (kind, id) = match unit_type(header[0]) {
            VPS => (UnitParts::VPS, r.bits(4)?),
            SPS => (UnitParts::SPS, sps_id(body)?),
            PPS => (UnitParts::PPS, r.ue()?),
            _ => return None,
        };
        Some(ParameterSet { kind, id: u8::try_from(id).ok()?, bytes })
    })
}

#[cfg(test)]
mod tests {
    use super::super::nal::tests::hex;
    use super::*;

    /// x265, 1280x720.
    const SPS_720P: &str = "42010101600000030090000003000003005da00280802d165959a4932bc05a02000003\
                            0002000003000a10";

    #[test]
    fn sizes_of_real_parameter_sets() {
        for (sps, size) in [
            (SPS_720P, (1280, 720)),
            // x265 4:2:2, 322x182: cropped from 328x184
            (
                "4201010408000003009d0800000300003cb00a480b9c9796566924caf01680800000030080000003\
                 0284",
                (322, 182),
            ),
            // x265, three temporal layers, 322x182
            (
                "42010401600000030090000003000003003c0000a00a480b9c95965652b295964932bc05a0200000\
                 03002000000300a1",
                (322, 182),
            ),
        ] {
            let info = peek(&hex(sps)).unwrap();
            assert_eq!(info.resolution, Some(size), "{sps}");
            assert!(!info.keyframe && !info.starts_frame);
            assert_eq!(info.parts, UnitParts::SPS);
        }
    }

    #[test]
    fn keyframe_types_and_their_neighbours() {
        for (unit_type, key) in [
            (1, false),
            (15, false),
            (16, true),
            (19, true),
            (20, true),
            (21, true),
            (22, false),
            (32, false), // VPS
            (33, false), // SPS
            (34, false), // PPS
            (35, false), // AUD
            (39, false), // SEI
        ] {
            assert_eq!(peek(&[unit_type << 1, 1, 0]).unwrap().keyframe, key, "{unit_type}");
            let fragment = |fu| peek(&[49 << 1, 1, fu | unit_type, 0]).unwrap().keyframe;
            assert_eq!(fragment(0x80), key, "first fragment of {unit_type}");
            assert!(!fragment(0x00) && !fragment(0x40), "later fragments of {unit_type}");
            let aggregate = [48 << 1, 1, 0, 2, 35 << 1, 1, 0, 3, unit_type << 1, 1, 9];
            assert_eq!(peek(&aggregate).unwrap().keyframe, key, "aggregated {unit_type}");
        }
    }

    // H.265 table 7-1
    #[test]
    fn pictures_that_no_other_of_their_sub_layer_refers_to_are_told() {
        let unit = |kind: u8| [kind << 1, 1, 0x80];
        for kind in 0..48 {
            let expected = match kind {
                35 => Reference::Delimiter,
                39 | 40 => Reference::Preamble,
                0 | 2 | 4 | 6 | 8 | 10 | 12 | 14 => Reference::Unreferenced,
                _ => Reference::Referenced,
            };
            assert_eq!(reference(&unit(kind)), expected, "{kind}");
            for fu in [0x80, 0, 0x40] {
                assert_eq!(reference(&[49 << 1, 1, fu | kind, 0]), expected, "fragment of {kind}");
            }
        }
        let aggregate = |kinds: &[u8]| {
            let units = kinds.iter().flat_map(|kind| [0, 3, kind << 1, 1, 0x80]);
            reference(&[48 << 1, 1].into_iter().chain(units).collect::<Vec<_>>())
        };
        assert_eq!(aggregate(&[35, 39, 0, 0]), Reference::Unreferenced);
        assert_eq!(aggregate(&[0, 1]), Reference::Referenced);
        assert_eq!(aggregate(&[35, 39]), Reference::Preamble);
        assert_eq!([reference(&[]), reference(&[48 << 1, 1])], [Reference::Referenced; 2]);
    }

    #[test]
    fn aggregate_of_parameter_sets_and_another_slice_is_no_keyframe() {
        let sets = "6001 0017 40010c01ffff01600000030090000003000003005d9598 002b \
                    42010101600000030090000003000003005da00280802d165959a4932bc05a020000030002000003\
                    000a10 0007 4401c172b46240";
        let with = |slice: &str| hex(&[sets, slice].concat().replace(' ', ""));
        let info = peek(&with("0005 0201d00102")).unwrap();
        assert!(!info.keyframe && !info.parts.is_only_sets());
        let key = peek(&with("0005 2601af0a0b")).unwrap();
        assert!(key.keyframe && key.parts.contains(UnitParts::FIRST_SLICE));
        let alone = with("");
        assert!(peek(&alone).unwrap().parts.is_only_sets());
        let found: Vec<_> = parameter_sets(&alone).map(|set| (set.kind, set.id)).collect();
        assert_eq!(found, [(UnitParts::VPS, 0), (UnitParts::SPS, 0), (UnitParts::PPS, 0)]);
        let recovery = peek(&[39 << 1, 1, 6, 1, 0xd0, 0x80]).unwrap();
        assert_eq!(recovery.parts, UnitParts::RECOVERY_POINT);
    }

    #[test]
    fn temporal_layer_is_read_from_the_payload_header() {
        assert_eq!(peek(&[2, 1]).unwrap().temporal_id, Some(0));
        assert_eq!(peek(&[2, 3]).unwrap().temporal_id, Some(2));
        assert_eq!(peek(&[2, 0]).unwrap().temporal_id, None, "0 is forbidden");
    }

    #[test]
    fn aggregates_and_fragments_carry_the_size() {
        let sps = hex(SPS_720P);
        let aggregate = [&[48 << 1, 1, 0, sps.len() as u8][..], &sps].concat();
        assert_eq!(peek(&aggregate).unwrap().resolution, Some((1280, 720)));
        let fragment = [&[49 << 1, 1, 0x80 | 33][..], &sps[2..]].concat();
        assert_eq!(peek(&fragment).unwrap().resolution, Some((1280, 720)));
        assert!(!peek(&aggregate[..20]).unwrap().keyframe, "the size runs past the end");
        for cut in [&[][..], &[0x42], &[49 << 1, 1]] {
            assert_eq!(peek(cut), None);
        }
    }
}
