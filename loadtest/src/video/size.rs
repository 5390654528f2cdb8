//! Picture sizes of the generator.
//!
//! Used by every encoder, and by the frame checker to recognize the parameter sets of each size.

/// Width and height of a picture in pixels.
pub(crate) type Size = (u32, u32);

/// Picture sizes by simulcast layer. Without simulcast the middle size is used.
pub(crate) const SIZES: [Size; 3] = [(320, 180), (640, 360), (1280, 720)];
