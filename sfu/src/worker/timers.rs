//! Timers: the next deadline of each session.
//!
//! A deadline moves far more often than it is reached: with each turn's packets, mostly to later.
//! So the heap stays as it is then, and an entry that reaches its top too early is put back. That
//! does not touch the session, whose state is in no near CPU cache by then. Called by the worker's
//! top layer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::keys::SessionKey;

/// A heap of entries, and the deadlines they stand for. It holds at most a few entries per session:
/// one is added only when it is earlier than the session's present one.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, SessionKey)>>,
    /// Deadlines by the session's position in its table.
    wanted: Vec<Option<Wanted>>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    key: SessionKey,
    at: Instant,
    /// Time of the entry that stands for the deadline, never later than `at`. Other entries of the
    /// session are stale.
    queued: Instant,
}

impl Timers {
    /// Sets the session's only deadline.
    pub(super) fn schedule(&mut self, at: Instant, key: SessionKey) {
        let slot = key.position();
        if self.wanted.len() <= slot {
            self.wanted.resize(slot + 1, None);
        }
        let Some(slot) = self.wanted.get_mut(slot) else { return };
        if let Some(wanted) = slot.as_mut().filter(|wanted| wanted.key == key) {
            wanted.at = at;
            if wanted.queued <= at {
                return;
            }
            wanted.queued = at;
        } else {
            *slot = Some(Wanted { key, at, queued: at });
        }
        self.heap.push(Reverse((at, key)));
    }

    /// Deadline of this session.
    pub(super) fn of(&self, key: SessionKey) -> Option<Instant> {
        let wanted = self.wanted.get(key.position()).copied().flatten();
        wanted.filter(|wanted| wanted.key == key).map(|wanted| wanted.at)
    }

    /// The earliest deadline, if [`Self::settle`] was called since any was moved; else a time that
    /// may be too early.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one due deadline.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        self.settle();
        if self.next()? > now {
            return None;
        }
        let Reverse((_, key)) = self.heap.pop()?;
        if let Some(slot) = self.wanted.get_mut(key.position()) {
            *slot = None;
        }
        Some(key)
    }

    /// Removes stale entries from the top, and puts entries back whose deadline is later.
    pub(super) fn settle(&mut self) {
        while let Some(&Reverse((at, key))) = self.heap.peek() {
            let slot = self.wanted.get_mut(key.position()).and_then(Option::as_mut);
            let current = slot.filter(|wanted| wanted.key == key && wanted.queued == at);
            match current {
                Some(wanted) if wanted.at == at => return,
                Some(wanted) => {
                    wanted.queued = wanted.at;
                    let later = Reverse((wanted.at, key));
                    self.heap.pop();
                    self.heap.push(later);
                }
                None => _ = self.heap.pop(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadline_is_reached_once_at_the_time_set_last() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let [a, b] = [SessionKey::new(3, 0), SessionKey::new(1, 7)];
        let mut timers = Timers::default();
        timers.schedule(at(10), a);
        timers.schedule(at(20), b);
        timers.schedule(at(30), a);
        assert_eq!((timers.of(a), timers.pop_due(at(10))), (Some(at(30)), None), "put off");
        assert_eq!(timers.next(), Some(at(20)));
        timers.schedule(at(15), a);
        assert_eq!((timers.pop_due(at(15)), timers.of(a)), (Some(a), None), "and brought forward");
        assert_eq!((timers.pop_due(at(20)), timers.pop_due(at(99))), (Some(b), None));
        assert_eq!(timers.next(), None, "no stale entry is left");
    }

    #[test]
    fn reused_position_has_no_deadline_of_the_session_before() {
        let start = Instant::now();
        let second = start + Duration::from_secs(1);
        let [old, new] = [SessionKey::new(0, 4), SessionKey::new(0, 5)];
        let mut timers = Timers::default();
        timers.schedule(start, old);
        timers.schedule(second, new);
        assert_eq!((timers.of(old), timers.pop_due(start)), (None, None));
        assert_eq!(timers.pop_due(second), Some(new));
    }
}
