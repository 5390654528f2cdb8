//! What a complete frame contains, whatever its codec.
//!
//! Returned by `h264_assembly` and `vp8_assembly`, judged by `frame_checker`.

use crate::stamp::Stamp;

/// What a complete frame contains.
#[derive(Debug)]
pub(crate) struct FrameContent {
    /// Whether the frame is a keyframe.
    pub(crate) key: bool,
    /// The publisher's stamp, if there is one.
    pub(crate) stamp: Option<Stamp>,
}
