//! Room: rtp.

pub mod ext;
