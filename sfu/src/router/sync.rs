//! The atomics of this room's own lock-free code, through one door.
//!
//! `wake.rs` and `keyframe_requests.rs` take them from here and from nowhere else: `tests/loom.rs` compiles those
//! files with loom's in this place, and once more with a step left out, which must fail.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
