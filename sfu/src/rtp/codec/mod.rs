//! Payload formats: what a forwarder must know of a payload, without decoding it.
//!
//! Owns frame starts, keyframes, layer ids, picture ids and resolution as payload formats carry
//! them. Never trusts a length, never keeps state between packets, never reassembles. Called once
//! for each incoming packet (the result is shared by all viewers) and, for VP8 and VP9, when a
//! viewer's copy is rewritten. One file for each payload format.

pub use nal::{Fragment, Reference};

use super::layer_set::LayerSet;
use super::unit_parts::UnitParts;
use crate::codec::Codec;

mod av1;
mod av1_sequence;
pub(super) mod bits;
pub mod h264;
mod h264_sps;
pub mod h265;
mod h265_sps;
mod nal;
pub mod parameters;
mod vp8;
mod vp9;

/// Frame information of one packet: from its payload by [`peek`], or from its dependency
/// descriptor, which takes precedence (`worker/packet_inspector.rs`). The default describes
/// nothing, and is also the result for a payload that does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameInfo {
    /// First packet of a picture: VP8 partition 0, VP9 lowest spatial layer, AV1 only at a
    /// keyframe. **Always false for H.264 and H.265**, whose payloads do not say it: there (and
    /// for AV1 between keyframes) a changed timestamp starts a frame.
    pub starts_frame: bool,
    /// Last packet of a spatial layer of a picture: VP9, and where a descriptor says it. Elsewhere
    /// the marker bit ends a frame.
    pub ends_frame: bool,
    /// The packet holds the beginning of a picture that a decoder can begin with: an IDR slice of
    /// H.264, an IRAP slice of H.265, the header of a shown key frame of AV1. Each slice of a
    /// picture can be marked.
    ///
    /// Packets before it may belong to the same access unit, such as parameter sets (`parts`).
    /// `media/keyframe.rs` finds the first one.
    pub keyframe: bool,
    /// Parts of the access unit in this packet; H.264, H.265 and AV1, without a descriptor.
    pub parts: UnitParts,
    /// Described by a dependency descriptor: the payload may be encrypted end to end, so nothing
    /// more is to be expected of it.
    pub described: bool,
    /// No other frame depends on this one (VP8 N bit, H.264 slices with `nal_ref_idc` 0, or the
    /// descriptor). Set on each packet of the frame, except that a packet of H.264 speaks for
    /// itself only: `worker/packet_inspector.rs` decides for the frame.
    pub discardable: bool,
    /// The frame depends on lower temporal layers only (VP8 Y bit, VP9 U bit): a receiver may begin
    /// with it to receive its own layer.
    pub switch_point: bool,
    /// Layers up to which a receiver may switch at this frame, if it is forwarded anyway, by its
    /// descriptor; empty without one.
    pub opens: LayerSet,
    /// Width and height in pixels, where this payload carries them (VP8 keyframes, VP9
    /// scalability structure, AV1 sequence header, H.264 and H.265 SPS). For spatial layers in
    /// one stream that of the largest.
    pub resolution: Option<(u16, u16)>,
    /// Temporal layer, 0 is the base. `None` if the packet does not say; AV1 says it only in a
    /// descriptor, since its payloads show the layer of their first unit at most.
    pub temporal_id: Option<u8>,
    /// Spatial layer inside one stream, 0 is the smallest. `None` if the packet does not say.
    pub spatial_id: Option<u8>,
    /// Frame number of a dependency descriptor, which must continue over a source switch
    /// ([`shift_frame_number`](super::dependency_descriptor::shift_frame_number)).
    pub frame_number: Option<u16>,
    /// Numbers that must stay continuous for a viewer; only VP8 and VP9 have them.
    pub picture: Option<PictureIds>,
}

/// Counters in a VP8 (RFC 7741 section 4.2) or VP9 (RFC 9628 section 4.2) payload descriptor.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureIds {
    /// Picture id and its width in bits, 7 or 15.
    pub picture_id: Option<(u16, u8)>,
    /// Count of pictures of temporal layer 0.
    pub tl0_pic_idx: Option<u8>,
}

/// Reads the frame information of `payload` (plaintext, without padding). Each audio packet is a
/// frame and a keyframe.
pub fn peek(codec: Codec, payload: &[u8]) -> FrameInfo {
    match codec {
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => {
            FrameInfo { starts_frame: true, keyframe: true, ..FrameInfo::default() }
        }
        Codec::Vp8 => vp8::peek(payload).unwrap_or_default(),
        Codec::Vp9 => vp9::peek(payload).unwrap_or_default(),
        Codec::H264 => h264::peek(payload),
        Codec::H265 => h265::peek(payload).unwrap_or_default(),
        Codec::Av1 => av1::peek(payload).unwrap_or_default(),
    }
}

/// A parameter set as it stands in a payload: a NAL unit of H.264 or H.265, or the OBU of a
/// sequence header of AV1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterSet<'a> {
    /// Kind: one of VPS, SPS, PPS and sequence header.
    pub kind: UnitParts,
    /// Id by which slices and other sets refer to it; a new set replaces the one of its kind and
    /// id.
    pub id: u8,
    /// The whole unit, header included.
    pub bytes: &'a [u8],
}

/// Maximum bytes of a parameter set that did not come in one packet, but in several or in an offer:
/// it is sent in one, on any path. A longer one is not kept.
pub const SET_BYTES_MAX: usize = 1_100;

/// The part of a NAL unit that a payload holds, if it is one (H.264, H.265).
pub fn fragment(codec: Codec, payload: &[u8]) -> Option<Fragment<'_>> {
    match codec {
        Codec::H264 => h264::fragment(payload),
        Codec::H265 => h265::fragment(payload),
        _ => None,
    }
}

/// The parameter sets in a payload. A set in several packets (a fragmentation unit) is passed over;
/// see [`fragment`].
pub fn parameter_sets<'a>(
    codec: Codec,
    payload: &'a [u8],
) -> impl Iterator<Item = ParameterSet<'a>> {
    let h264 = (codec == Codec::H264).then(|| h264::parameter_sets(payload));
    let h265 = (codec == Codec::H265).then(|| h265::parameter_sets(payload));
    let av1 = (codec == Codec::Av1).then(|| av1::sequence_headers(payload));
    h264.into_iter().flatten().chain(h265.into_iter().flatten()).chain(av1.into_iter().flatten())
}

/// Payload bytes before a parameter set that is sent in a packet of its own.
pub fn set_payload_prefix(codec: Codec) -> &'static [u8] {
    if codec == Codec::Av1 { av1::ONLY_SEQUENCE_HEADER } else { &[] }
}

/// Leading payload bytes that hold the fields which [`patch_picture_ids`] changes: at most 5. 0 for
/// other codecs, and for descriptors without such fields or cut short.
pub fn descriptor_prefix_len(codec: Codec, payload: &[u8]) -> usize {
    picture_fields(codec, payload).map_or(0, |fields| fields.end())
}

/// Replaces picture id (its lower 7 or 15 bits) and TL0PICIDX in place, each where the descriptor
/// has it and as wide as it is. `prefix` may end after [`descriptor_prefix_len`] bytes. False,
/// and nothing changed, if there is neither.
pub fn patch_picture_ids(
    codec: Codec,
    prefix: &mut [u8],
    picture_id: u16,
    tl0_pic_idx: u8,
) -> bool {
    picture_fields(codec, prefix)
        .is_some_and(|fields| fields.patch(prefix, picture_id, tl0_pic_idx))
}

fn picture_fields(codec: Codec, payload: &[u8]) -> Option<PictureFields> {
    match codec {
        Codec::Vp8 => vp8::picture_fields(payload),
        Codec::Vp9 => vp9::picture_fields(payload),
        _ => None,
    }
}

/// Position of the picture numbers in a VP8 or VP9 descriptor. Both write the picture id alike: one
/// byte, or two if the top bit is set.
#[derive(Debug, Clone, Copy, Default)]
struct PictureFields {
    /// Offset of the picture id and its width in bits.
    picture_id: Option<(usize, u8)>,
    /// Offset of TL0PICIDX; behind the picture id.
    tl0_pic_idx: Option<usize>,
}

impl PictureFields {
    /// Takes the picture id at `at`; `None` if the payload ends inside it.
    fn with_picture_id(payload: &[u8], at: usize) -> Option<Self> {
        let bits = match payload.get(at..)? {
            [0x80..=0xff, _, ..] => 15,
            [0..=0x7f, ..] => 7,
            _ => return None,
        };
        Some(Self { picture_id: Some((at, bits)), tl0_pic_idx: None })
    }

    /// Adds TL0PICIDX at `at`; `None` if the payload ends before it.
    fn with_tl0_pic_idx(self, payload: &[u8], at: usize) -> Option<Self> {
        payload.get(at)?;
        Some(Self { tl0_pic_idx: Some(at), ..self })
    }

    /// Offset behind the picture id, 0 if there is none.
    fn picture_id_end(&self) -> usize {
        self.picture_id.map_or(0, |(at, bits)| if bits == 15 { at + 2 } else { at + 1 })
    }

    /// Offset behind the last field, 0 if there is none.
    fn end(&self) -> usize {
        self.tl0_pic_idx.map_or(self.picture_id_end(), |at| at + 1)
    }

    fn read(&self, payload: &[u8]) -> Option<PictureIds> {
        let picture_id = self.picture_id.and_then(|(at, bits)| {
            let value = match (bits, payload.get(at..)?) {
                (15, &[high, low, ..]) => u16::from_be_bytes([high & 0x7f, low]),
                (_, &[byte, ..]) => u16::from(byte & 0x7f),
                _ => return None,
            };
            Some((value, bits))
        });
        let tl0_pic_idx = self.tl0_pic_idx.and_then(|at| payload.get(at).copied());
        let ids = PictureIds { picture_id, tl0_pic_idx };
        (picture_id.is_some() || tl0_pic_idx.is_some()).then_some(ids)
    }

    fn patch(&self, payload: &mut [u8], picture_id: u16, tl0_pic_idx: u8) -> bool {
        let mut patched = false;
        if let Some((at, bits)) = self.picture_id {
            match (bits, payload.get_mut(at..)) {
                (15, Some([high, low, ..])) => {
                    [*high, *low] = (0x8000 | picture_id).to_be_bytes();
                    patched = true;
                }
                (_, Some([byte, ..])) => {
                    *byte = (picture_id & 0x7f) as u8;
                    patched = true;
                }
                _ => {}
            }
        }
        if let Some(byte) = self.tl0_pic_idx.and_then(|at| payload.get_mut(at)) {
            *byte = tl0_pic_idx;
            patched = true;
        }
        patched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_can_begin_at_each_audio_packet() {
        for codec in [Codec::Opus, Codec::Pcmu, Codec::Pcma, Codec::G722] {
            let info = peek(codec, &[]);
            assert!(info.starts_frame && info.keyframe);
        }
    }

    #[test]
    fn picture_ids_keep_their_width() {
        // quality B4 item 17: absent, 7 and 15 bits
        let long = [0x90, 0xc0, 0x81, 0x02, 0x03, 0xff];
        let short = [0x90, 0xc0, 0x7f, 0x03, 0xff];
        let absent = [0x90, 0x40, 0x03, 0xff];
        for (payload, len, patched) in [
            (&long[..], 5, &[0x90, 0xc0, 0xfe, 0xdc, 0x11, 0xff][..]),
            (&short, 4, &[0x90, 0xc0, 0x5c, 0x11, 0xff]),
            (&absent, 3, &[0x90, 0x40, 0x11, 0xff]),
        ] {
            assert_eq!(descriptor_prefix_len(Codec::Vp8, payload), len);
            let mut whole = payload.to_vec();
            assert!(patch_picture_ids(Codec::Vp8, &mut whole, 0x7edc, 0x11));
            assert_eq!(whole, patched);
            let mut prefix = payload[..len].to_vec();
            assert!(patch_picture_ids(Codec::Vp8, &mut prefix, 0xfedc, 0x11));
            assert_eq!(prefix, patched[..len], "the prefix is enough");
            for cut in 0..len {
                assert_eq!(descriptor_prefix_len(Codec::Vp8, &payload[..cut]), 0, "{cut}");
                let mut short = payload[..cut].to_vec();
                assert!(!patch_picture_ids(Codec::Vp8, &mut short, 1, 1));
                assert_eq!(short, payload[..cut]);
            }
        }
    }

    #[test]
    fn codecs_without_picture_ids_have_nothing_to_patch() {
        for codec in [Codec::Opus, Codec::H264, Codec::H265, Codec::Av1] {
            let mut payload = [0x90, 0xc0, 0x81, 0x02, 0x03, 0xff];
            assert_eq!(descriptor_prefix_len(codec, &payload), 0);
            assert!(!patch_picture_ids(codec, &mut payload, 1, 1));
            assert_eq!(payload, [0x90, 0xc0, 0x81, 0x02, 0x03, 0xff]);
        }
    }
}
