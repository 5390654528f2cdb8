//! Latency of forwarding: since the start for Prometheus, and over the last seconds for people.
//!
//! [`Latency`] holds one kind of waiting. [`ForwardLatency`] measures forwarding: from the kernel's receipt of the
//! oldest packet of a message to the return of the send call that took it, weighted by datagrams sent. The clock is
//! read once per [`MESSAGES_PER_LOOK`] messages, not per packet. Called by `socket.rs` and `shell.rs`.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::histogram::Histogram;

/// Length of each half of the window that people see.
const HALF: Duration = Duration::from_secs(5);

/// Send calls between two readings of the clock; a message costs at least ten times as much as a reading.
const MESSAGES_PER_LOOK: u32 = 16;

/// Upper bounds in microseconds of the buckets that Prometheus gets.
const BOUNDS_US: [u64; 15] = [
    50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// One kind of waiting.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency {
    started: Option<Instant>,
    /// All waits before `current`.
    total: Histogram,
    previous: Histogram,
    current: Histogram,
}

impl Latency {
    /// Counts `n` waits of this length.
    pub(super) fn record(&mut self, took: Duration, n: u64) {
        self.current.record(took, n);
    }

    /// Moves the window on and forgets what is older. Called each time the load is measured.
    pub(super) fn turn(&mut self, now: Instant) {
        let started = *self.started.get_or_insert(now);
        let age = now.saturating_duration_since(started);
        if age >= HALF {
            self.total.merge(&self.current);
            std::mem::swap(&mut self.previous, &mut self.current);
            self.current.clear();
            if age >= HALF * 2 {
                self.previous.clear();
            }
            self.started = Some(now);
        }
    }

    /// Adds another worker's waits.
    pub(super) fn merge(&mut self, other: &Self) {
        self.total.merge(&other.total);
        self.previous.merge(&other.previous);
        self.current.merge(&other.current);
    }

    /// Distribution as the API shows it.
    pub(super) fn summary(&self) -> LatencySummary {
        let mut window = self.current.clone();
        window.merge(&self.previous);
        let mut total = self.total.clone();
        total.merge(&self.current);
        LatencySummary {
            p50_us: window.quantile_us(50_000),
            p99_us: window.quantile_us(99_000),
            p999_us: window.quantile_us(99_900),
            max_us: window.max_us(),
            count: total.count(),
            sum_us: total.sum_us(),
            buckets: BOUNDS_US.map(|bound| (bound, total.at_most_us(bound))).to_vec(),
        }
    }
}

/// Distribution of waits. Quantiles are of the last five to ten seconds and within 3 %, and zero if nothing was
/// forwarded. The other fields are cumulative since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LatencySummary {
    /// Wait in microseconds that half of the datagrams did not exceed.
    pub p50_us: u64,
    /// Wait in microseconds that 99 of 100 did not exceed.
    pub p99_us: u64,
    /// Wait in microseconds that 999 of 1,000 did not exceed.
    pub p999_us: u64,
    /// Longest wait in microseconds.
    pub max_us: u64,
    /// Datagrams since the start.
    pub count: u64,
    /// Sum of the waits in microseconds.
    pub sum_us: u64,
    /// Bounds in microseconds, ascending, each with the number of datagrams that waited at most so long; for
    /// `/metrics`.
    #[serde(skip)]
    pub buckets: Vec<(u64, u64)>,
}

/// Measures datagrams on their way out.
#[derive(Debug, Default)]
pub(super) struct ForwardLatency {
    /// Messages since the last look at the clock; at most [`MESSAGES_PER_LOOK`] entries.
    pending: Vec<Pending>,
    messages: u32,
    /// How much longer packets had waited than their time of arrival says.
    lag: Duration,
    all: Latency,
    established: Latency,
}

/// Datagrams that left with one time of arrival.
#[derive(Debug)]
struct Pending {
    arrived: Instant,
    joining: bool,
    datagrams: u64,
}

impl ForwardLatency {
    /// Latency towards all viewers.
    pub(super) fn all(&self) -> &Latency {
        &self.all
    }

    /// Latency towards established viewers: whether viewers that join disturb them shows here.
    pub(super) fn established(&self) -> &Latency {
        &self.established
    }

    /// Moves the window on.
    pub(super) fn turn(&mut self, now: Instant) {
        self.all.turn(now);
        self.established.turn(now);
    }

    /// From now on, times of arrival are too late by this much.
    pub(super) fn set_lag(&mut self, lag: Duration) {
        self.lag = lag;
    }

    /// A send call with forwarded media returned; `clock` is asked only now and then.
    pub(super) fn on_sent(
        &mut self,
        arrived: Instant,
        joining: bool,
        datagrams: u64,
        clock: impl FnOnce() -> Instant,
    ) {
        match self.pending.last_mut() {
            Some(last) if (last.arrived, last.joining) == (arrived, joining) => {
                last.datagrams += datagrams;
            }
            _ => self.pending.push(Pending { arrived, joining, datagrams }),
        }
        self.messages += 1;
        if self.messages >= MESSAGES_PER_LOOK {
            self.look(clock());
        }
    }

    /// Counts what was sent since the last look at the clock. To be called at the end of a turn, before the thread may
    /// wait.
    pub(super) fn look(&mut self, now: Instant) {
        for Pending { arrived, joining, datagrams } in self.pending.drain(..) {
            let took = now.saturating_duration_since(arrived) + self.lag;
            self.all.record(took, datagrams);
            if !joining {
                self.established.record(took, datagrams);
            }
        }
        self.messages = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn people_see_the_last_seconds_and_prometheus_everything() {
        let start = Instant::now();
        let mut latency = Latency::default();
        latency.turn(start);
        latency.record(Duration::from_micros(50), 998);
        latency.record(ms(3), 2);
        let shown = latency.summary();
        assert_eq!((shown.p50_us, shown.p99_us, shown.max_us, shown.count), (50, 50, 3_000, 1_000));
        assert_eq!(shown.p999_us, 3_000);
        latency.turn(start + HALF);
        assert_eq!(latency.summary().max_us, 3_000, "still in the window");
        latency.record(ms(1), 1);
        latency.turn(start + HALF * 2);
        assert_eq!(latency.summary().max_us, 1_000);
        latency.turn(start + HALF * 4);
        let shown = latency.summary();
        assert_eq!((shown.p50_us, shown.max_us), (0, 0), "nothing lately");
        assert_eq!((shown.count, shown.sum_us), (1_001, 998 * 50 + 7_000));
        assert_eq!(shown.buckets.first(), Some(&(50, 998)));
        assert_eq!(shown.buckets.last(), Some(&(1_000_000, 1_001)));
        let mut sum = Latency::default();
        sum.merge(&latency);
        assert_eq!(sum.summary(), shown);
    }

    #[test]
    fn every_datagram_is_counted_from_its_arrival_to_its_send_call() {
        let start = Instant::now();
        let mut latency = ForwardLatency::default();
        // 40 viewers get a message of two datagrams and one of a packet that came a millisecond later, in rounds of
        // MESSAGES_PER_LOOK messages.
        for viewer in 0..40u64 {
            for (arrived, datagrams) in [(start, 2), (start + ms(1), 1)] {
                latency.on_sent(arrived, false, datagrams, || start + ms(2 + viewer / 8));
            }
        }
        let looks: u64 = (2..=6).sum();
        let shown = latency.all().summary();
        assert_eq!(shown.count, 120);
        assert_eq!(shown.sum_us, 8 * (3 * looks - 5) * 1_000);
        assert_eq!(shown.max_us, 6_000);
        latency.look(start + ms(9));
        assert_eq!(latency.all().summary().count, 120, "nothing is counted twice");
    }

    #[test]
    fn what_is_left_at_the_end_of_a_turn_is_counted_then() {
        let start = Instant::now();
        let mut latency = ForwardLatency::default();
        latency.on_sent(start, false, 3, || unreachable!("a look would be too early"));
        latency.look(start + ms(4));
        let shown = latency.all().summary();
        assert_eq!((shown.count, shown.sum_us), (3, 12_000));
    }

    #[test]
    fn joining_viewers_are_told_apart_from_established_ones() {
        let start = Instant::now();
        let mut latency = ForwardLatency::default();
        let never = || unreachable!("a look would be too early");
        latency.on_sent(start, false, 1, never);
        latency.look(start + ms(1));
        latency.on_sent(start, true, 1, never);
        latency.look(start + ms(9));
        latency.on_sent(start + ms(20), false, 1, never);
        latency.look(start + ms(21));
        let (all, established) = (latency.all().summary(), latency.established().summary());
        assert_eq!((all.count, all.sum_us), (3, 11_000));
        assert_eq!((established.count, established.sum_us), (2, 2_000));
    }

    #[test]
    fn a_backlog_in_the_socket_is_part_of_the_wait() {
        let start = Instant::now();
        let mut latency = ForwardLatency::default();
        latency.set_lag(ms(30));
        latency.on_sent(start, false, 1, || unreachable!("a look would be too early"));
        latency.look(start + ms(1));
        assert_eq!(latency.all().summary().max_us, 31_000);
    }
}
