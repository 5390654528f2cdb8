//! When each session wants to be called next. Stale entries are skipped, not searched for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::session::SessionKey;

/// A heap of deadlines. Holds at most a few entries per session: an entry is added only when it is
/// earlier than the session's earliest one.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, SessionKey)>>,
}

impl Timers {
    /// Asks for a call at `at`.
    pub(super) fn schedule(&mut self, at: Instant, key: SessionKey) {
        self.heap.push(Reverse((at, key)));
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one deadline that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, SessionKey)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
