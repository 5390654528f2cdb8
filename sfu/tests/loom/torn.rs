//! The shipped files with every read-modify-write torn into a load and a store.

mod sync {
    pub(super) use loom::sync::atomic::{Ordering, fence};

    #[derive(Debug)]
    pub(super) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(super) fn new(value: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(super) fn load(&self, order: Ordering) -> bool {
            self.0.load(order)
        }

        pub(super) fn swap(&self, value: bool, order: Ordering) -> bool {
            let before = self.0.load(order);
            self.0.store(value, order);
            before
        }
    }

    #[derive(Debug, Default)]
    pub(super) struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub(super) fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
            let before = self.0.load(order);
            self.0.store(value, order);
            before
        }

        pub(super) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
            let before = self.0.load(order);
            self.0.store(before | bits, order);
            before
        }
    }
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
