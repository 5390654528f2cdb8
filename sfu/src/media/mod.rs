//! Room: media.
