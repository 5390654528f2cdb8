//! Wake flag: wakes a sleeping worker once per batch, and an awake one never.
//!
//! The sleeping worker sets the flag *before* it reads its rings a last time; the writer reads the
//! flag *after* it wrote. With a full fence between each pair, one of the two sees the other. So no
//! item stays in the ring of a sleeping worker. `tests/loom.rs` compiles this very file under loom.
//!
//! The flag is only ever swapped, so that all its changes are in one modification order. Plain
//! stores of the sleeping worker would do as well: each must come after the swap of a writer that
//! read the value before. But loom does not derive that, and a swap per turn costs little next to
//! the call that waits.

use std::sync::Arc;

use super::sync::{AtomicBool, Ordering, fence};

/// Interrupts the wait of a worker's thread; the shell provides it (eventfd).
pub trait Waker: Send + Sync {
    /// Makes the current or the next wait return.
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

    /// Marks the worker as about to sleep. It must look at its queues once more after this call,
    /// and not sleep if they hold anything.
    pub fn prepare_sleep(&self) {
        self.sleeping.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Marks the worker as awake.
    pub fn awake(&self) {
        self.sleeping.swap(false, Ordering::Relaxed);
    }

    /// Reports that an item was put into one of the worker's queues. True if the worker had to be
    /// woken.
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
