//! How the benches take time: CPU time of the measuring thread, per packet.
//!
//! CPU time and not wall time, so that other programs on the machine do not count. The core's speed
//! still changes under it, so a comparison runs its candidates in turn ([`compare`]) and reports
//! ratios. Used by every bench.

use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Bencher, BenchmarkGroup, Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};

/// Rounds of a comparison.
const ROUNDS: usize = 60;

/// Sums the CPU time of what it is given.
#[derive(Debug, Default)]
pub struct Stopwatch {
    total: Duration,
}

impl Stopwatch {
    /// Runs something and counts its time. Reading the clock costs about 0.3 µs, so give it at
    /// least some hundred packets.
    pub fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let before = cpu_time();
        let result = run();
        self.total += cpu_time() - before;
        result
    }

    /// What was counted.
    pub fn total(&self) -> Duration {
        self.total
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets criterion report CPU time of the thread.
#[derive(Debug, Clone, Copy)]
pub struct CpuTime;

static WALL_TIME: WallTime = WallTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WALL_TIME.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WALL_TIME.formatter()
    }
}

/// Criterion as all benches use it.
pub fn criterion() -> Criterion<CpuTime> {
    Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Reports one packet as one element, so that each line shows ns per packet and packets per second.
pub fn per_packet(
    group: &mut BenchmarkGroup<'_, CpuTime>,
    name: &str,
    mut round: impl FnMut(&mut Stopwatch) -> u64,
) {
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |bencher: &mut Bencher<'_, CpuTime>| {
        bencher.iter_custom(|wanted| {
            let (mut stopwatch, mut packets) = (Stopwatch::default(), 0);
            while packets < wanted {
                packets += round(&mut stopwatch);
            }
            stopwatch.total().mul_f64(wanted as f64 / packets as f64)
        });
    });
}

/// True when benches are only to prove that they run (`cargo bench -- --test`, `cargo test`).
pub fn smoke_run() -> bool {
    let mut args = std::env::args();
    !args.any(|arg| arg == "--bench") || std::env::args().any(|arg| arg == "--test")
}

/// What [`compare`] found: medians over all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// CPU nanoseconds per packet of the candidate.
    pub candidate_ns: f64,
    /// The same of the floor.
    pub floor_ns: f64,
    /// Candidate over floor, taken round by round.
    pub ratio: f64,
}

/// Runs candidate and floor in turn, so that both meet the same phases of the machine.
pub fn compare(
    mut candidate: impl FnMut(&mut Stopwatch) -> u64,
    mut floor: impl FnMut(&mut Stopwatch) -> u64,
) -> Comparison {
    let rounds = if smoke_run() { 1 } else { ROUNDS };
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let (candidate, floor) = (ns_per_packet(&mut candidate), ns_per_packet(&mut floor));
        for (all, sample) in samples.iter_mut().zip([candidate, floor, candidate / floor]) {
            all.push(sample);
        }
    }
    let [candidate_ns, floor_ns, ratio] = samples.map(median);
    Comparison { candidate_ns, floor_ns, ratio }
}

/// Packets per round of a comparison: some milliseconds, less than a phase of the machine.
const ROUND_PACKETS: u64 = 20_000;

fn ns_per_packet(round: &mut impl FnMut(&mut Stopwatch) -> u64) -> f64 {
    let wanted = if smoke_run() { 1 } else { ROUND_PACKETS };
    let (mut stopwatch, mut packets) = (Stopwatch::default(), 0);
    while packets < wanted {
        packets += round(&mut stopwatch);
    }
    stopwatch.total().as_nanos() as f64 / packets as f64
}

/// The middle of some samples; NaN of none.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// An instant to count from; from here on time is virtual.
#[expect(clippy::disallowed_methods, reason = "benches take one real instant to count from")]
pub fn epoch() -> Instant {
    Instant::now()
}
