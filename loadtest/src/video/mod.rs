//! Video of the generator: the frames that publishers send, and the assembly of those that viewers
//! receive.
//!
//! Knows no clock and no network. [`Source`] makes frames with `h264` and `vp8`; [`FrameAssembly`]
//! puts received payloads together with `h264_assembly` and `vp8_assembly`. Called by `publisher`
//! and `frame_checker`.

mod assembly;
mod bits;
mod frame_content;
mod h264;
mod h264_assembly;
mod layers;
mod size;
mod source;
mod vp8;
mod vp8_assembly;

pub(crate) use assembly::FrameAssembly;
pub(crate) use frame_content::FrameContent;
pub(crate) use layers::{LayerSpec, layers};
pub(crate) use source::Source;
pub(crate) use vp8::CLIP_FRAMES;

/// Video options for tests: one layer at 1400 kbit/s.
#[cfg(test)]
pub(crate) fn test_options(codec: crate::options::Codec) -> crate::options::Video {
    crate::options::Video { kbps: 1400, fps: 30, codec, simulcast: 1, keyframe_s: 2, none: false }
}
