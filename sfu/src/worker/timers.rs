//! When each session wants to be called next.
//!
//! A deadline moves far oftener than it comes: with each turn's packets, mostly to later. So the heap is left
//! as it is then, and an entry that comes to its top too early goes back in. That does not touch the session, whose
//! state is in no near cache by then. Called by the hallway in `mod.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::keys::SessionKey;

/// A heap of entries, and the deadlines they stand for. Holds at most a few entries per session: one is added only
/// when it is earlier than the session's present one.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, SessionKey)>>,
    /// By the session's place in its table.
    wanted: Vec<Option<Wanted>>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    key: SessionKey,
    at: Instant,
    /// The entry that stands for it, never later than `at`. The session's other entries are stale.
    queued: Instant,
}

impl Timers {
    /// Asks for a call at `at`, and at no other time.
    pub(super) fn schedule(&mut self, at: Instant, key: SessionKey) {
        let place = key.place();
        if self.wanted.len() <= place {
            self.wanted.resize(place + 1, None);
        }
        let Some(slot) = self.wanted.get_mut(place) else { return };
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

    /// When this session is to be called.
    pub(super) fn of(&self, key: SessionKey) -> Option<Instant> {
        let wanted = self.wanted.get(key.place()).copied().flatten();
        wanted.filter(|wanted| wanted.key == key).map(|wanted| wanted.at)
    }

    /// The earliest deadline, if [`Self::settle`] was called since any was moved; else one that may be too early.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one deadline that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        self.settle();
        if self.next()? > now {
            return None;
        }
        let Reverse((_, key)) = self.heap.pop()?;
        if let Some(slot) = self.wanted.get_mut(key.place()) {
            *slot = None;
        }
        Some(key)
    }

    /// Has the entry at the top stand for a deadline: stale ones go, those that were put off are put in again.
    pub(super) fn settle(&mut self) {
        while let Some(&Reverse((at, key))) = self.heap.peek() {
            let slot = self.wanted.get_mut(key.place()).and_then(Option::as_mut);
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
    fn a_deadline_comes_when_it_was_set_last_and_once() {
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
        assert_eq!(timers.next(), None, "nothing stale is left");
    }

    #[test]
    fn who_takes_a_place_has_nothing_of_who_had_it_before() {
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
