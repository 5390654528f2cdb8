//! Video of the generator: the frames that publishers send, and the assembly of those that viewers receive.
//!
//! Knows no clock and no network. [`Source`] makes frames with `h264` and `vp8`; [`FrameAssembly`] puts received payloads together
//! with `h264_assembly` and `vp8_assembly`. Called by `publisher` and `frame_checker`.

mod assembly;
mod bits;
mod h264;
mod h264_assembly;
mod layers;
mod source;
mod vp8;
mod vp8_assembly;

pub(crate) use assembly::{FrameAssembly, FrameContent};
pub(crate) use layers::{LayerSpec, layers};
pub(crate) use source::Source;
pub(crate) use vp8::CLIP_FRAMES;

/// Width and height of a picture in pixels.
pub(crate) type Size = (u32, u32);

/// Picture sizes by simulcast layer. Without simulcast the middle size is used.
pub(crate) const SIZES: [Size; 3] = [(320, 180), (640, 360), (1280, 720)];

/// Video options for tests: one layer at 1400 kbit/s.
#[cfg(test)]
pub(crate) fn test_options(codec: crate::options::Codec) -> crate::options::Video {
    crate::options::Video { kbps: 1400, fps: 30, codec, simulcast: 1, keyframe_s: 2, none: false }
}
