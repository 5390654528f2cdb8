//! One direction between a client and the server: a `weir-netsim` link, and a filter for scenarios
//! that lose certain datagrams. Used by `server.rs`, which keeps the queue of wake-ups.

use std::time::Instant;

use weir_netsim::{Link, Profile, Rng};

/// Filter that says whether the network loses a datagram.
pub(crate) type Loss = Box<dyn FnMut(&[u8]) -> bool>;

pub(crate) struct Way<T> {
    /// The link itself, with what it counts.
    pub link: Link<T>,
    /// Loss by content, before the link gets the datagram.
    pub filter: Option<Loss>,
    /// The earliest wake-up that was requested.
    wake: Option<Instant>,
}

impl<T: Clone> Way<T> {
    /// A path whose random numbers belong to this seed and this number.
    pub(crate) fn new(profile: Profile, seed: u64, number: u64, now: Instant) -> Self {
        let seed = Rng::new(seed, number).next_u64();
        Self { link: Link::new(profile, seed, now), filter: None, wake: None }
    }

    pub(crate) fn filters(&mut self, bytes: &[u8]) -> bool {
        self.filter.as_mut().is_some_and(|loses| loses(bytes))
    }

    /// Sends a datagram; returns the time of a wake-up if a new one is needed.
    pub(crate) fn send(&mut self, now: Instant, bytes: usize, packet: T) -> Option<Instant> {
        self.link.send(now, bytes, packet);
        self.next_wake()
    }

    /// Whether this wake-up is the one that was waited for.
    pub(crate) fn woken(&mut self, at: Instant) -> bool {
        let expected = self.wake == Some(at);
        if expected {
            self.wake = None;
        }
        expected
    }

    /// The time of the next arrival, unless a wake-up for it or before it is scheduled.
    pub(crate) fn next_wake(&mut self) -> Option<Instant> {
        let at = self.link.next_timeout()?;
        if self.wake.is_some_and(|wake| wake <= at) {
            return None;
        }
        self.wake = Some(at);
        Some(at)
    }
}
