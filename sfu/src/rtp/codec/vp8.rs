//! VP8 payload descriptor and the first bytes of its frames (RFC 7741, RFC 6386 section 9.1).

use super::{FrameInfo, PictureFields};

// First byte of the descriptor.
const EXTENDED: u8 = 0x80;
const NON_REFERENCE: u8 = 0x20;
const START_OF_PARTITION: u8 = 0x10;
const PARTITION_INDEX: u8 = 0x07;

// Second byte, if extended.
const HAS_PICTURE_ID: u8 = 0x80;
const HAS_TL0_PIC_IDX: u8 = 0x40;
const HAS_TID: u8 = 0x20;
const HAS_KEYIDX: u8 = 0x10;

// The byte of TID, Y and KEYIDX.
const LAYER_SYNC: u8 = 0x20;

pub(super) fn peek(payload: &[u8]) -> Option<FrameInfo> {
    let first = *payload.first()?;
    let fields = picture_fields(payload)?;
    let extension = extension(payload)?;
    let mut header_at = fields.end().max(if first & EXTENDED != 0 { 2 } else { 1 });
    let (mut temporal_id, mut switch_point) = (None, false);
    if extension & (HAS_TID | HAS_KEYIDX) != 0 {
        let layer = *payload.get(header_at)?;
        temporal_id = (extension & HAS_TID != 0).then_some(layer >> 6);
        switch_point = temporal_id.is_some() && layer & LAYER_SYNC != 0;
        header_at += 1;
    }
    let frame = payload.get(header_at..)?;
    let starts_frame = first & (START_OF_PARTITION | PARTITION_INDEX) == START_OF_PARTITION;
    // The lowest bit of the frame tag is 0 for a key frame.
    let keyframe = starts_frame && frame.first().is_some_and(|tag| tag & 1 == 0);
    Some(FrameInfo {
        starts_frame,
        keyframe,
        discardable: first & NON_REFERENCE != 0,
        switch_point,
        resolution: keyframe.then(|| resolution(frame)).flatten(),
        temporal_id,
        picture: fields.read(payload),
        ..FrameInfo::default()
    })
}

pub(super) fn picture_fields(payload: &[u8]) -> Option<PictureFields> {
    let extension = extension(payload)?;
    let mut fields = PictureFields::default();
    if extension & HAS_PICTURE_ID != 0 {
        fields = PictureFields::with_picture_id(payload, 2)?;
    }
    if extension & HAS_TL0_PIC_IDX != 0 {
        let at = fields.end().max(2);
        fields = fields.with_tl0_pic_idx(payload, at)?;
    }
    Some(fields)
}

/// The second byte of the descriptor, 0 if it is not there.
fn extension(payload: &[u8]) -> Option<u8> {
    if payload.first()? & EXTENDED != 0 { payload.get(1).copied() } else { Some(0) }
}

/// Size in a key frame header; the two upper bits of each number ask for scaling.
fn resolution(frame: &[u8]) -> Option<(u16, u16)> {
    let &[_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = frame else { return None };
    Some((u16::from_le_bytes([w0, w1]) & 0x3fff, u16::from_le_bytes([h0, h1]) & 0x3fff))
}

#[cfg(test)]
mod tests {
    use super::super::PictureIds;
    use super::*;

    /// First bytes of a 320x180 key frame made by libvpx.
    const KEY_FRAME: [u8; 12] = [0x90, 0x50, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xb4, 0, 0, 0x47];

    fn payload(descriptor: &[u8], frame: &[u8]) -> Vec<u8> {
        [descriptor, frame].concat()
    }

    #[test]
    fn key_frame_of_libvpx_is_seen_with_its_size() {
        let info = peek(&payload(&[0x10], &KEY_FRAME)).unwrap();
        assert!(info.starts_frame && info.keyframe);
        assert_eq!(info.resolution, Some((320, 180)));
        assert_eq!((info.temporal_id, info.picture), (None, None));
    }

    #[test]
    fn only_the_first_packet_of_partition_0_begins_a_keyframe() {
        for (descriptor, tag, starts, key) in [
            (0x10, 0x50, true, true),
            (0x10, 0x51, true, false),
            (0x00, 0x50, false, false), // continuation
            (0x11, 0x50, false, false), // start of partition 1
            (0x30, 0x51, true, false),  // non-reference frame
        ] {
            let info = peek(&[descriptor, tag, 0, 0]).unwrap();
            assert_eq!((info.starts_frame, info.keyframe), (starts, key), "{descriptor:#x}");
        }
        assert!(peek(&[0x10, 0x50, 0, 0]).unwrap().resolution.is_none(), "cut before the size");
    }

    /// RFC 7741 section 4.2: N on every packet of a frame, Y beside the temporal layer.
    #[test]
    fn discardable_frames_and_switch_points() {
        for (descriptor, discardable, switch_point) in [
            (&[0x10][..], false, false),
            (&[0x30], true, false),
            (&[0x20], true, false), // a later packet of it
            (&[0xb0, 0x20, 0x60], true, true),
            (&[0x90, 0x20, 0x40], false, false),
            (&[0x90, 0x10, 0x20], false, false), // KEYIDX alone: the bit means nothing
        ] {
            let info = peek(&payload(descriptor, &[0x51, 0, 0])).unwrap();
            let said = (info.discardable, info.switch_point);
            assert_eq!(said, (discardable, switch_point), "{descriptor:x?}");
        }
    }

    #[test]
    fn layers_and_picture_ids_of_every_descriptor_form() {
        let ids = |picture_id, tl0_pic_idx| Some(PictureIds { picture_id, tl0_pic_idx });
        for (descriptor, temporal_id, picture) in [
            (&[0x90, 0x80, 0x7f][..], None, ids(Some((127, 7)), None)),
            (&[0x90, 0x80, 0xff, 0xff], None, ids(Some((0x7fff, 15)), None)),
            (&[0x90, 0xe0, 0x81, 0x02, 9, 0x80], Some(2), ids(Some((0x102, 15)), Some(9))),
            (&[0x90, 0x40, 9], None, ids(None, Some(9))),
            (&[0x90, 0x20, 0x40], Some(1), None),
            (&[0x90, 0x10, 0x1f], None, None),
            (&[0x90, 0x00], None, None),
        ] {
            let info = peek(&payload(descriptor, &KEY_FRAME)).unwrap();
            assert!(info.keyframe, "{descriptor:x?}");
            assert_eq!(info.resolution, Some((320, 180)), "{descriptor:x?}");
            assert_eq!((info.temporal_id, info.picture), (temporal_id, picture), "{descriptor:x?}");
            for cut in 0..descriptor.len() {
                assert_eq!(peek(&descriptor[..cut]), None, "{descriptor:x?} cut at {cut}");
            }
        }
    }
}
