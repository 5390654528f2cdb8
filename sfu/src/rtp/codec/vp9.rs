//! VP9 payload descriptor (RFC 9628 section 4.2). The frame behind it is read only for senders
//! whose descriptor has almost no fields.

use super::bits::BitReader;
use super::{FrameInfo, PictureFields};
use crate::rtp::reader::Reader;

// First byte of the descriptor.
const HAS_PICTURE_ID: u8 = 0x80;
const INTER_PREDICTED: u8 = 0x40;
const HAS_LAYERS: u8 = 0x20;
const FLEXIBLE: u8 = 0x10;
const START_OF_FRAME: u8 = 0x08;
const END_OF_FRAME: u8 = 0x04;
const HAS_SCALABILITY: u8 = 0x02;

// The byte of layer indices. The U bit is read as the senders of browsers mean it, who set it where
// all references are of lower temporal layers. By RFC 9628 it speaks of the frames that follow.
const SWITCHING_UP: u8 = 0x10;

/// Reference indices in flexible mode.
const MAX_REFERENCES: usize = 3;

pub(super) fn peek(payload: &[u8]) -> Option<FrameInfo> {
    let first = *payload.first()?;
    let fields = picture_fields(payload)?;
    let mut rest = Reader(payload.get(fields.picture_id_end().max(1)..)?);
    let mut layers = None;
    if first & HAS_LAYERS != 0 {
        layers = Some(rest.u8()?);
        if first & FLEXIBLE == 0 {
            rest.u8()?; // TL0PICIDX
        }
    }
    let spatial_id = layers.map(|byte| byte >> 1 & 0x07);
    let starts_frame = first & START_OF_FRAME != 0 && spatial_id.unwrap_or(0) == 0;
    let mut keyframe = starts_frame && first & INTER_PREDICTED == 0;
    if keyframe && first & (HAS_PICTURE_ID | HAS_SCALABILITY) == 0 {
        // FFmpeg's packetizer writes B and E but never P: each of its frames would be a keyframe.
        keyframe = is_key_frame(rest.0).unwrap_or(false);
    }
    Some(FrameInfo {
        starts_frame,
        ends_frame: first & END_OF_FRAME != 0,
        keyframe,
        switch_point: layers.is_some_and(|byte| byte & SWITCHING_UP != 0),
        resolution: resolution(first, rest),
        temporal_id: layers.map(|byte| byte >> 5),
        spatial_id,
        picture: fields.read(payload),
        ..FrameInfo::default()
    })
}

pub(super) fn picture_fields(payload: &[u8]) -> Option<PictureFields> {
    let first = *payload.first()?;
    let mut fields = PictureFields::default();
    if first & HAS_PICTURE_ID != 0 {
        fields = PictureFields::with_picture_id(payload, 1)?;
    }
    if first & (HAS_LAYERS | FLEXIBLE) == HAS_LAYERS {
        // Behind the byte of layer indices.
        let at = fields.end().max(1) + 1;
        fields = fields.with_tl0_pic_idx(payload, at)?;
    }
    Some(fields)
}

/// Whether the frame's own header marks a keyframe (VP9 bitstream specification section 6.2).
fn is_key_frame(frame: &[u8]) -> Option<bool> {
    let mut r = BitReader::plain(frame);
    let is_vp9 = r.bits(2)? == 2;
    let profile = r.bit()? | r.bit()? << 1;
    if profile == 3 {
        r.skip(1)?; // reserved
    }
    let shows_existing_frame = r.flag()?;
    let inter_frame = r.flag()?;
    Some(is_vp9 && !shows_existing_frame && !inter_frame)
}

/// Size of the largest spatial layer, from the scalability structure if it lists sizes. `rest`
/// begins behind the layer indices.
fn resolution(first: u8, mut rest: Reader<'_>) -> Option<(u16, u16)> {
    if first & HAS_SCALABILITY == 0 {
        return None;
    }
    if first & (FLEXIBLE | INTER_PREDICTED) == FLEXIBLE | INTER_PREDICTED {
        for _ in 0..MAX_REFERENCES {
            if rest.u8()? & 1 == 0 {
                break;
            }
        }
    }
    let structure = rest.u8()?;
    let has_sizes = structure & 0x10 != 0;
    if !has_sizes {
        return None;
    }
    let lower_layers = usize::from(structure >> 5);
    rest.take(lower_layers * 4)?;
    Some((rest.u16()?, rest.u16()?))
}

#[cfg(test)]
mod tests {
    use super::super::PictureIds;
    use super::*;

    #[test]
    fn keyframe_begins_at_the_lowest_spatial_layer() {
        for (payload, starts, key, spatial_id) in [
            (&[0x88, 5][..], true, true, None),
            (&[0xc8, 5], true, false, None),  // predicted
            (&[0x80, 5], false, false, None), // not the first packet
            (&[0xa8, 5, 0x00, 1], true, true, Some(0)),
            (&[0xa8, 5, 0x03, 1], false, false, Some(1)), // upper layer of the same picture
        ] {
            let info = peek(payload).unwrap();
            assert_eq!((info.starts_frame, info.keyframe), (starts, key), "{payload:x?}");
            assert_eq!(info.spatial_id, spatial_id, "{payload:x?}");
        }
    }

    #[test]
    fn ends_of_layers_and_switch_points_are_found() {
        for (payload, ends, switch_point) in [
            (&[0x88, 5][..], false, false),
            (&[0x84, 5], true, false),
            (&[0xac, 5, 0x30, 1], true, true), // TID 1 with U
            (&[0xac, 5, 0x20, 1], true, false),
        ] {
            let info = peek(payload).unwrap();
            assert_eq!((info.ends_frame, info.switch_point), (ends, switch_point), "{payload:x?}");
        }
    }

    #[test]
    fn senders_that_never_set_p_are_judged_by_the_frame_header() {
        for (payload, key) in [
            (&[0x08, 0x82, 0x49, 0x83][..], true), // FFmpeg, key frame
            (&[0x08, 0x86, 0x00, 0x40], false),    // FFmpeg, inter frame
            (&[0x08, 0x84, 0x00, 0x80], false),    // FFmpeg, inter frame, not shown
            (&[0x28, 0x00, 1, 0x82], true),
            (&[0x08, 0x88], false), // shows an existing frame
            (&[0x08, 0xb0], true),  // profile 3 has one bit more
            (&[0x08, 0xb2], false),
            (&[0x08, 0x42], false), // not VP9
            (&[0x08], false),
            (&[0x48, 0x82], false), // P is believed where it is set
        ] {
            let info = peek(payload).unwrap();
            assert_eq!((info.starts_frame, info.keyframe), (true, key), "{payload:x?}");
        }
    }

    #[test]
    fn picture_ids_in_both_modes() {
        let ids = |picture_id, tl0_pic_idx| Some(PictureIds { picture_id, tl0_pic_idx });
        for (payload, end, temporal_id, picture) in [
            (&[0x88, 0x05][..], 2, None, ids(Some((5, 7)), None)),
            (&[0x88, 0x81, 0x02], 3, None, ids(Some((0x102, 15)), None)),
            (&[0xa8, 0x81, 0x02, 0x40, 9], 5, Some(2), ids(Some((0x102, 15)), Some(9))),
            (&[0xb8, 0x81, 0x02, 0x40], 3, Some(2), ids(Some((0x102, 15)), None)), // flexible
            (&[0x28, 0x40, 9], 3, Some(2), ids(None, Some(9))),
            (&[0x38, 0x40], 0, Some(2), None),
        ] {
            let info = peek(payload).unwrap();
            assert_eq!((info.temporal_id, info.picture), (temporal_id, picture), "{payload:x?}");
            assert_eq!(picture_fields(payload).unwrap().end(), end, "{payload:x?}");
            assert_eq!(
                picture_fields(&payload[..end]).is_some(),
                end > 0,
                "the prefix alone is enough: {payload:x?}"
            );
            for cut in 0..payload.len() {
                assert_eq!(peek(&payload[..cut]), None, "{payload:x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn resolution_is_that_of_the_largest_layer() {
        let sizes = [0x01, 0x40, 0x00, 0xb4, 0x02, 0x80, 0x01, 0x68];
        let two_layers = [&[0x0a, 0x30][..], &sizes].concat();
        assert_eq!(peek(&two_layers).unwrap().resolution, Some((640, 360)));
        let flexible = [&[0x5a, 0x03, 0x05, 0x02, 0x30][..], &sizes].concat();
        assert_eq!(peek(&flexible).unwrap().resolution, Some((640, 360)), "behind three P_DIFF");
        assert_eq!(peek(&[0x0a, 0x08, 1, 0]).unwrap().resolution, None, "no sizes listed");
        for cut in 1..two_layers.len() {
            let info = peek(&two_layers[..cut]).unwrap();
            assert_eq!((info.keyframe, info.resolution), (true, None), "{cut}");
        }
    }
}
