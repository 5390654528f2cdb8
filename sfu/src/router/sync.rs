//! The atomics of this module's own lock-free code, imported in one file.
//!
//! `wake.rs` and `keyframe_requests.rs` take atomics only from here. `tests/loom.rs` compiles those
//! files with loom's atomics instead, and once more with a step left out, which must fail.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
