//! Mutexes of the control plane that know their place in the lock order.
//!
//! The order is written down in `mod.rs`. A build with debug assertions panics when a thread takes a lock while
//! it holds one of the same or a later rank; a release build has no cost. Used by `stream_entry.rs`,
//! `session_entry.rs`, `admission.rs` and `directory.rs`. Never used on a worker's thread.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Place of a lock in the lock order; a thread takes them in this sequence only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LockRank {
    /// State of one stream. Never two streams at once.
    Stream,
    /// State of one session. Never two sessions at once.
    Session,
    /// Half-open sessions.
    HalfOpen,
    /// Free stream ids.
    StreamIds,
}

/// Mutex with a place in the lock order.
#[derive(Debug)]
pub(super) struct OrderedMutex<T> {
    rank: LockRank,
    inner: Mutex<T>,
}

/// Guard of an [`OrderedMutex`].
pub(super) struct OrderedGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    _held: Held,
}

impl<T> OrderedMutex<T> {
    /// Wraps `value`.
    pub(super) fn new(rank: LockRank, value: T) -> Self {
        Self { rank, inner: Mutex::new(value) }
    }

    /// Locks. A panic while another thread held the lock leaves the data whole, because each change is a few
    /// assignments; so a poisoned lock is taken as it is.
    ///
    /// # Panics
    /// In builds with debug assertions, if this thread holds a lock of the same or a later rank.
    pub(super) fn lock(&self) -> OrderedGuard<'_, T> {
        let held = Held::note(self.rank);
        OrderedGuard {
            guard: self.inner.lock().unwrap_or_else(PoisonError::into_inner),
            _held: held,
        }
    }
}

impl<T> Deref for OrderedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for OrderedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(debug_assertions)]
thread_local! {
    /// Bit per rank that this thread holds.
    static HELD: std::cell::Cell<u8> = const { std::cell::Cell::new(0) };
}

/// Note that this thread holds a rank, until it is dropped.
struct Held {
    #[cfg(debug_assertions)]
    bit: u8,
}

#[cfg(debug_assertions)]
impl Held {
    fn note(rank: LockRank) -> Self {
        let bit = 1 << rank as u8;
        let held = HELD.get();
        assert!(held < bit, "lock order: {rank:?} taken while this thread holds {held:#06b}");
        HELD.set(held | bit);
        Self { bit }
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() & !self.bit);
    }
}

#[cfg(not(debug_assertions))]
impl Held {
    fn note(_: LockRank) -> Self {
        Self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [OrderedMutex<u8>; 4] {
        [LockRank::Stream, LockRank::Session, LockRank::HalfOpen, LockRank::StreamIds]
            .map(|rank| OrderedMutex::new(rank, 0))
    }

    #[test]
    fn locks_in_order_are_taken_and_given_back_in_any_sequence() {
        let [stream, session, half_open, ids] = all();
        for _ in 0..2 {
            let stream = stream.lock();
            let session = session.lock();
            drop(stream);
            let half_open = half_open.lock();
            let mut ids = ids.lock();
            *ids += 1;
            drop((session, half_open));
        }
        assert_eq!(*ids.lock(), 2);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn lock_against_the_order_panics() {
        let locks = all();
        for (earlier, first) in locks.iter().enumerate() {
            for later in &locks[earlier..] {
                let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _later = later.lock();
                    // The same lock would block for ever if it were not refused.
                    let _first = first.lock();
                }));
                assert!(refused.is_err(), "{:?} after {:?}", first.rank, later.rank);
            }
        }
        // Nothing is held after the panics.
        let _stream = locks[0].lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    fn another_thread_may_hold_a_later_lock() {
        let [stream, session, ..] = all();
        let _session = session.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| *stream.lock() += 1);
        });
    }
}
