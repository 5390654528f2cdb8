//! One received video frame while its packets arrive: RTP payloads go in, the frame's bytes and
//! content come out.
//!
//! Knows the packetization and framing of each codec, but neither packet loss nor the frames
//! before: that is `frame_checker`'s, which calls this. Next: `h264_assembly`, `vp8_assembly`.

use super::frame_content::FrameContent;
use super::h264_assembly::H264Assembly;
use super::vp8_assembly::Vp8Assembly;
use crate::flaw::Flaw;
use crate::options::Codec;

/// Maximum bytes of one frame. A larger frame is broken.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// One frame of a codec.
#[derive(Debug)]
pub(crate) enum FrameAssembly {
    /// A frame of H.264.
    H264(H264Assembly),
    /// A frame of VP8.
    Vp8(Vp8Assembly),
}

impl FrameAssembly {
    /// An empty frame of `codec`.
    pub(crate) fn new(codec: Codec) -> Self {
        match codec {
            Codec::H264 => Self::H264(H264Assembly::default()),
            Codec::Vp8 => Self::Vp8(Vp8Assembly::default()),
        }
    }

    /// Adds the next payload. `false` if it does not follow the payload before as the codec's
    /// packetization requires, or if the frame becomes larger than [`FRAME_BYTES_MAX`].
    pub(crate) fn push(&mut self, payload: &[u8]) -> bool {
        if self.data().len() + payload.len() > FRAME_BYTES_MAX {
            return false;
        }
        match self {
            Self::H264(frame) => frame.push(payload),
            Self::Vp8(frame) => frame.push(payload),
        }
    }

    /// Checks the complete frame against its checksum and its codec's framing.
    ///
    /// # Errors
    /// Why a decoder could not show the frame.
    pub(crate) fn inspect(&self) -> Result<FrameContent, Flaw> {
        match self {
            Self::H264(frame) => frame.inspect(),
            Self::Vp8(frame) => frame.inspect(),
        }
    }

    /// The frame's bytes as a file of its codec needs them (H.264: Annex B).
    pub(crate) fn into_data(self) -> Vec<u8> {
        match self {
            Self::H264(frame) => frame.data,
            Self::Vp8(frame) => frame.data,
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::H264(frame) => &frame.data,
            Self::Vp8(frame) => &frame.data,
        }
    }
}
