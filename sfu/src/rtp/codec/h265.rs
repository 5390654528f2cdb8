//! H.265 payloads (RFC 7798): single NAL unit, AP and FU.
//!
//! Only the form without decoding order numbers (`sprop-max-don-diff` 0), as WebRTC uses it.
//! Access units are not marked in a payload, so `starts_frame` stays false.

use super::FrameInfo;
use super::h265_sps::H265Sps;
use super::nal::aggregated;

// NAL unit types (H.265 table 7-1, RFC 7798 section 4.4).
const FIRST_IRAP: u8 = 16; // BLA_W_LP
const LAST_IRAP: u8 = 21; // CRA_NUT
const VPS: u8 = 32;
const SPS: u8 = 33;
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
                    info.resolution = info.resolution.or(found.resolution);
                }
            }
            info
        }
        FRAGMENTATION => match body.split_first()? {
            (fu, body) if fu & FU_START != 0 => nal_unit(fu & 0x3f, body),
            _ => FrameInfo::default(),
        },
        other => nal_unit(other, body),
    };
    info.temporal_id = (second & 0x07).checked_sub(1);
    Some(info)
}

fn unit_type(first: u8) -> u8 {
    first >> 1 & 0x3f
}

/// Frame information of one NAL unit; `body` are the bytes behind its header, perhaps only the
/// first.
fn nal_unit(unit_type: u8, body: &[u8]) -> FrameInfo {
    FrameInfo {
        keyframe: matches!(unit_type, VPS | SPS | FIRST_IRAP..=LAST_IRAP),
        resolution: if unit_type == SPS {
            H265Sps::parse(body).and_then(|sps| sps.size)
        } else {
            None
        },
        ..FrameInfo::default()
    }
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
            assert!(info.keyframe && !info.starts_frame);
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
            (32, true),
            (33, true),
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
