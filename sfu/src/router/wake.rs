//! Wakes a sleeping worker once per batch, and not at all if it is awake.
//!
//! The sleeper says so *before* it looks at its rings a last time; the writer looks at the flag
//! *after* it wrote. With a full fence between each pair one of the two must see the other, so no
//! item is left behind a sleeping worker. `tests/loom.rs` compiles this very file under loom.
//!
//! The flag is only ever swapped, so that all its changes stand in one line. Plain stores of the
//! sleeper would do as well (each must come after the swap of a writer that read what was there before),
//! but loom does not draw that conclusion, and a swap per turn is lost beside the call that waits.

use std::sync::Arc;

use super::sync::{AtomicBool, Ordering, fence};

/// Interrupts the wait of a worker's thread; the shell provides it (eventfd).
pub trait Waker: Send + Sync {
    /// Makes the current or next wait return.
    fn wake(&self);
}

/// One worker's flag and waker; every other worker and the control plane hold a clone.
#[derive(Clone)]
pub struct WakeFlag {
    sleeping: Arc<AtomicBool>,
    waker: Arc<dyn Waker>,
}

impl WakeFlag {
    /// A flag for a worker that is awake.
    pub fn new(waker: Arc<dyn Waker>) -> Self {
        Self { sleeping: Arc::new(AtomicBool::new(false)), waker }
    }

    /// The worker is about to sleep. It must look at its queues once more after this, and not sleep
    /// if there is anything.
    pub fn prepare_sleep(&self) {
        self.sleeping.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake again.
    pub fn awake(&self) {
        self.sleeping.swap(false, Ordering::Relaxed);
    }

    /// Something was put into one of the worker's queues. True if it had to be woken.
    pub fn notify(&self) -> bool {
        fence(Ordering::SeqCst);
        let sleeping =
            self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed);
        if sleeping {
            self.waker.wake();
        }
        sleeping
    }
}

impl std::fmt::Debug for WakeFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WakeFlag").field("sleeping", &self.sleeping).finish_non_exhaustive()
    }
}
