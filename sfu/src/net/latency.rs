//! How long forwarding takes: since the start for Prometheus, and over the last seconds for people.
//!
//! [`Latency`] keeps one kind of waiting; [`ForwardLatency`] measures forwarding: from the moment the kernel
//! received a packet to the return of the send call that took it, weighted by datagrams sent. The clock
//! is read once per [`MESSAGES_PER_LOOK`] messages, not per packet. Called by `socket_egress.rs` and
//! `shell.rs`.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::histogram::Histogram;

/// Two halves of this length make the window that people see.
const HALF: Duration = Duration::from_secs(5);

/// Send calls between two looks at the clock; a message costs at least ten times what a look costs.
const MESSAGES_PER_LOOK: u32 = 16;

/// Times of arrival told apart in one batch. One more is counted with the last: packets of one batch
/// lie at most a turn apart.
const ARRIVALS_MAX: usize = 64;

/// Upper bounds, in microseconds, of the buckets that Prometheus gets.
const BOUNDS_US: [u64; 15] = [
    50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// One kind of waiting.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency {
    started: Option<Instant>,
    /// Everything before `current`.
    total: Histogram,
    previous: Histogram,
    current: Histogram,
}

impl Latency {
    /// Counts `n` waits of this length.
    pub(super) fn record(&mut self, took: Duration, n: u64) {
        self.current.record(took, n);
    }

    /// Forgets what is older than the window; to be called once in a while.
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

    /// What the API shows.
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

/// A distribution of waits. Quantiles are of the last five to ten seconds and within 3 %, zero if
/// nothing was forwarded; the rest is cumulative since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LatencySummary {
    /// Half of the datagrams waited at most this long, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 waited at most this long, in microseconds.
    pub p99_us: u64,
    /// 999 of 1,000 waited at most this long, in microseconds.
    pub p999_us: u64,
    /// The longest wait, in microseconds.
    pub max_us: u64,
    /// Datagrams since the start.
    pub count: u64,
    /// Sum of their waits in microseconds.
    pub sum_us: u64,
    /// How many waited at most so many microseconds, by ascending bounds; for `/metrics`.
    #[serde(skip)]
    pub buckets: Vec<(u64, u64)>,
}

/// Measures the datagrams of one batch on their way out.
#[derive(Debug)]
pub(super) struct ForwardLatency {
    /// When the packets of the batch arrived, and how many arrived then.
    arrivals: Vec<(Instant, u64)>,
    /// How much longer they had waited than their time of arrival says.
    lag: Duration,
    messages: u32,
    datagrams: u64,
    /// This batch goes to viewers that came only lately.
    newcomers: bool,
    all: Latency,
    settled: Latency,
}

impl Default for ForwardLatency {
    fn default() -> Self {
        Self {
            arrivals: Vec::with_capacity(ARRIVALS_MAX),
            lag: Duration::ZERO,
            messages: 0,
            datagrams: 0,
            newcomers: false,
            all: Latency::default(),
            settled: Latency::default(),
        }
    }
}

impl ForwardLatency {
    /// What was measured, of all viewers.
    pub(super) fn all(&self) -> &Latency {
        &self.all
    }

    /// The part of it that went to viewers who are here for a while: whether a crowd that joins
    /// disturbs them shows here.
    pub(super) fn settled(&self) -> &Latency {
        &self.settled
    }

    /// Moves the window on.
    pub(super) fn turn(&mut self, now: Instant) {
        self.all.turn(now);
        self.settled.turn(now);
    }

    /// From now on, times of arrival are too late by this much.
    pub(super) fn set_lag(&mut self, lag: Duration) {
        self.lag = lag;
    }

    /// The messages that follow carry packets that arrived then.
    pub(super) fn begin(&mut self, arrivals: &mut dyn Iterator<Item = Instant>) {
        self.newcomers = false;
        for at in arrivals {
            let full = self.arrivals.len() == ARRIVALS_MAX;
            match self.arrivals.last_mut() {
                Some((last, n)) if *last == at || full => *n += 1,
                _ => self.arrivals.push((at, 1)),
            }
        }
    }

    /// The batch that was just begun goes to viewers that came only lately.
    pub(super) fn mark_joining(&mut self) {
        self.newcomers = true;
    }

    /// A send call returned; `clock` is asked only now and then.
    pub(super) fn sent(&mut self, datagrams: u64, clock: impl FnOnce() -> Instant) {
        if self.arrivals.is_empty() {
            return;
        }
        self.messages += 1;
        self.datagrams += datagrams;
        if self.messages >= MESSAGES_PER_LOOK {
            self.look(clock());
        }
    }

    /// The batch is out.
    pub(super) fn end(&mut self, clock: impl FnOnce() -> Instant) {
        if self.messages > 0 {
            self.look(clock());
        }
        self.arrivals.clear();
    }

    /// Counts what was sent since the last look. Each viewer got the same packets, so the datagrams
    /// are spread over the times of arrival as the packets are.
    fn look(&mut self, now: Instant) {
        let packets: u64 = self.arrivals.iter().map(|(_, n)| n).sum();
        let mut left = self.datagrams;
        let mut seen = 0;
        for (at, n) in &self.arrivals {
            seen += n;
            // What is left after this share, so that the shares sum up whatever the rounding.
            let rest = self.datagrams - self.datagrams * seen / packets.max(1);
            let share = left.saturating_sub(rest);
            left = rest;
            if share > 0 {
                let took = now.saturating_duration_since(*at) + self.lag;
                self.all.record(took, share);
                if !self.newcomers {
                    self.settled.record(took, share);
                }
            }
        }
        (self.messages, self.datagrams) = (0, 0);
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
    fn every_datagram_of_a_batch_is_counted_from_its_arrival_to_its_send_call() {
        let start = Instant::now();
        let mut forward_latency = ForwardLatency::default();
        // Two packets came at once, one a millisecond later; 40 viewers get all three, 2 ms on.
        forward_latency.begin(&mut [start, start, start + ms(1)].into_iter());
        for viewer in 0..40 {
            let now = if viewer < 32 { start + ms(2) } else { start + ms(4) };
            forward_latency.sent(3, || now);
        }
        forward_latency.end(|| start + ms(4));
        let shown = forward_latency.all().summary();
        assert_eq!(shown.count, 120);
        assert_eq!(shown.sum_us, 32 * (2 * 2_000 + 1_000) + 8 * (2 * 4_000 + 3_000));
        assert_eq!(shown.max_us, 4_000);

        // What is sent between batches (reports, handshakes) is no forwarding.
        forward_latency.sent(7, || unreachable!("nobody asks for the time"));
        forward_latency.end(|| unreachable!("nothing was sent"));
        assert_eq!(forward_latency.all().summary().count, 120);
    }

    #[test]
    fn newcomers_are_told_apart_from_those_who_are_here() {
        let start = Instant::now();
        let mut forward_latency = ForwardLatency::default();
        forward_latency.begin(&mut [start].into_iter());
        forward_latency.sent(1, || unreachable!("a look would be too early"));
        forward_latency.end(|| start + ms(1));
        forward_latency.begin(&mut [start].into_iter());
        forward_latency.mark_joining();
        forward_latency.sent(1, || unreachable!("a look would be too early"));
        forward_latency.end(|| start + ms(9));
        forward_latency.begin(&mut [start + ms(20)].into_iter());
        forward_latency.sent(1, || unreachable!("a look would be too early"));
        forward_latency.end(|| start + ms(21));
        let (all, settled) = (forward_latency.all().summary(), forward_latency.settled().summary());
        assert_eq!((all.count, all.sum_us), (3, 11_000));
        assert_eq!((settled.count, settled.sum_us), (2, 2_000));
    }

    #[test]
    fn a_backlog_in_the_socket_is_part_of_the_wait() {
        let start = Instant::now();
        let mut forward_latency = ForwardLatency::default();
        forward_latency.set_lag(ms(30));
        forward_latency.begin(&mut [start].into_iter());
        forward_latency.sent(1, || unreachable!("a look would be too early"));
        forward_latency.end(|| start + ms(1));
        assert_eq!(forward_latency.all().summary().max_us, 31_000);
    }

    #[test]
    fn a_batch_of_more_times_than_there_is_room_for_is_counted_whole() {
        let start = Instant::now();
        let mut forward_latency = ForwardLatency::default();
        let times = |n: usize| (0..n).map(move |n| start + Duration::from_micros(n as u64));
        for (round, n) in [(1, ARRIVALS_MAX), (2, ARRIVALS_MAX + 1)] {
            forward_latency.begin(&mut times(n));
            assert_eq!(forward_latency.arrivals.len(), ARRIVALS_MAX, "round {round}");
            forward_latency.sent(n as u64, || start);
            forward_latency.end(|| start + ms(1));
        }
        assert_eq!(forward_latency.all().summary().count, 2 * ARRIVALS_MAX as u64 + 1);
    }
}
