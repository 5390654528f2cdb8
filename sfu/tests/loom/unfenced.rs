//! The shipped files without their fences.

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    pub(super) fn fence(_: Ordering) {}
}

mod table {
    pub(super) use weir_sfu::router::table::StreamId;
}

#[path = "../../src/router/keyframe_requests.rs"]
mod keyframe_requests;
#[path = "models.rs"]
pub(crate) mod models;
#[path = "../../src/router/ring.rs"]
mod ring;
#[path = "../../src/router/wake.rs"]
mod wake;
