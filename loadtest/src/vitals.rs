//! How a loop is doing: what waits at its sockets, how late its timers fire, how much of a core it takes.
//!
//! Written by `pool` and `seat`, judged by `generator`: figures of a generator that could not keep up say nothing about a server.

use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

/// Waits and delays up to a minute, two digits.
fn histogram() -> Histogram<u32> {
    Histogram::new_with_max(60_000_000, 2).expect("these bounds are within the crate's")
}

/// What one loop measures. Times in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Vitals {
    /// From the kernel's receipt of a message to our reading it.
    pub(crate) waited_us: Histogram<u32>,
    /// From when a timer was due to when it fired.
    pub(crate) late_us: Histogram<u32>,
    /// Messages read, each of one or more datagrams.
    pub(crate) messages: u64,
    /// Datagrams read.
    pub(crate) datagrams: u64,
    /// Datagrams the kernel would not take from us.
    pub(crate) refused: u64,
}

impl Vitals {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let (waited_us, late_us) = (histogram(), histogram());
        Self { waited_us, late_us, messages: 0, datagrams: 0, refused: 0 }
    }

    /// A message of `datagrams` was read.
    pub(crate) fn read(&mut self, waited: Duration, datagrams: usize) {
        self.waited_us.saturating_record(us(waited));
        self.messages += 1;
        self.datagrams += datagrams as u64;
    }

    /// A timer fired.
    pub(crate) fn late(&mut self, by: Duration) {
        self.late_us.saturating_record(us(by));
    }

    /// The kernel would not take a datagram.
    pub(crate) fn send_refused(&mut self) {
        self.refused += 1;
    }

    /// Adds what another has.
    pub(crate) fn add(&mut self, other: &Self) {
        // All have the same bounds, so one always fits into the other.
        let _ = self.waited_us.add(&other.waited_us);
        let _ = self.late_us.add(&other.late_us);
        self.messages += other.messages;
        self.datagrams += other.datagrams;
        self.refused += other.refused;
    }

    fn clear(&mut self) {
        self.waited_us.reset();
        self.late_us.reset();
        (self.messages, self.datagrams, self.refused) = (0, 0, 0);
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A loop's vitals where others can take them.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<Option<Published>>);

#[derive(Debug)]
struct Published {
    vitals: Vitals,
    /// CPU time of the loop's thread, ever.
    cpu: Duration,
}

/// Messages that pile up in a loop before it publishes: the lock and the copy cost more than a message.
const PUBLISH_EVERY: u64 = 256;

impl Shared {
    /// Publishes what has piled up; to be called on the loop's own thread, whose CPU time it reads.
    pub(crate) fn publish(&self, vitals: &mut Vitals) {
        if vitals.messages + vitals.late_us.len() < PUBLISH_EVERY {
            return;
        }
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let cpu = Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        );
        let mut guard = self.0.lock().expect("nobody panics while holding it");
        match &mut *guard {
            Some(published) => {
                published.vitals.add(vitals);
                published.cpu = cpu;
            }
            None => *guard = Some(Published { vitals: vitals.clone(), cpu }),
        }
        vitals.clear();
    }

    /// Takes what was published since the last call, and the CPU time of the thread so far.
    pub(crate) fn take(&self) -> (Vitals, Duration) {
        let mut guard = self.0.lock().expect("nobody panics while holding it");
        guard.as_mut().map_or_else(
            || (Vitals::new(), Duration::ZERO),
            |published| (std::mem::replace(&mut published.vitals, Vitals::new()), published.cpu),
        )
    }
}
