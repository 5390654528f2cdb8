//! Room: media.

pub mod source_clock;
pub mod stats;
