//! Encoding of one incoming layer: profile and level as its parameter sets state them, and whether
//! it has B-frames.
//!
//! Owns what was seen of the payloads so far. An encrypted payload looks like anything, so callers
//! leave out packets that a dependency descriptor describes. Called by
//! `worker/packet_inspector.rs`; shown in the API.

use crate::codec::Codec;
use crate::rtp::codec::parameters::{CodecString, Parameters, begins_b_slice, parameters};

/// Encoding of one layer.
#[derive(Debug, Default)]
pub struct Encoding {
    stated: Option<Parameters>,
    /// Whether a B slice came since the parameters changed.
    b_slices: bool,
}

impl Encoding {
    /// Records a payload.
    pub fn on_payload(&mut self, codec: Codec, payload: &[u8]) {
        if let Some(stated) = parameters(codec, payload)
            && self.stated.replace(stated) != Some(stated)
        {
            self.b_slices = false;
        }
        self.b_slices = self.b_slices || begins_b_slice(codec, payload);
    }

    /// Profile and level, once they were stated.
    pub fn codec(&self) -> Option<CodecString> {
        self.stated.map(|stated| stated.codec)
    }

    /// Whether pictures are shown in another order than they are sent. WebRTC receivers show a
    /// picture as soon as it is decoded, so browsers drop the ones that come late.
    pub fn has_b_frames(&self) -> bool {
        self.b_slices || self.stated.is_some_and(|stated| stated.reorders == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x264, high profile: a set that announces reordering, and one that rules it out.
    const REORDERS: &[u8] = b"\x67\x64\x00\x1e\xac\xd9\x40\xa0\x2f\xf9\x70\x11\x00\x00\x03\x00\x01\
        \x00\x00\x03\x00\x3c\x0f\x16\x2d\x96";
    const PLAIN: &[u8] = b"\x67\x64\x00\x1e\xac\xb4\x05\x01\x7f\xcb";

    const P_SLICE: &[u8] = &[0x41, 0x9a, 0x24];
    const B_SLICE: &[u8] = &[0x01, 0x9e, 0x61];

    fn after(payloads: &[&[u8]]) -> Encoding {
        let mut encoding = Encoding::default();
        payloads.iter().for_each(|payload| encoding.on_payload(Codec::H264, payload));
        encoding
    }

    #[test]
    fn b_frames_are_known_by_a_parameter_set_or_by_a_slice() {
        assert!(after(&[REORDERS]).has_b_frames());
        assert!(!after(&[PLAIN, P_SLICE]).has_b_frames());
        assert!(after(&[PLAIN, P_SLICE, B_SLICE, P_SLICE]).has_b_frames());
        assert!(after(&[PLAIN, B_SLICE, PLAIN]).has_b_frames(), "repeated sets change nothing");
        assert!(!after(&[REORDERS, PLAIN]).has_b_frames(), "the encoder was set anew");
        assert!(!after(&[]).has_b_frames());
    }

    #[test]
    fn codec_is_that_of_the_newest_parameter_set() {
        assert_eq!(after(&[P_SLICE]).codec(), None);
        let shown = after(&[PLAIN, P_SLICE]).codec().map(|codec| codec.to_string());
        assert_eq!(shown.as_deref(), Some("avc1.64001e"));
    }
}
