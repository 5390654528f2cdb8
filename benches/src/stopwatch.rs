//! Stopwatch of the benches: CPU time of the measuring thread, per packet.
//!
//! CPU time and not wall time, so that other programs on the machine do not count. The core's speed
//! still changes under it, so a comparison runs its candidates in turn ([`compare`]) and reports
//! ratios. Used by every bench.

use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Bencher, BenchmarkGroup, Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};

/// Rounds of a comparison.
const ROUNDS: usize = 40;

/// Sum of the CPU time of the measured calls.
#[derive(Debug, Default)]
pub struct Stopwatch {
    total: Duration,
}

impl Stopwatch {
    /// Runs a call and counts its time. Reading the clock costs about 0.3 µs, so give it at least
    /// some hundred packets.
    pub fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let before = cpu_time();
        let result = run();
        self.total += cpu_time() - before;
        result
    }

    /// Counts time that was measured elsewhere, such as on another thread.
    pub fn add(&mut self, time: Duration) {
        self.total += time;
    }

    /// Total of the counted time.
    pub fn total(&self) -> Duration {
        self.total
    }
}

/// CPU time of this thread so far, user and system.
pub fn cpu_time() -> Duration {
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

/// One case of a bench: a name, and the round that is measured. A round returns how many items it
/// handled.
pub struct Case {
    /// Group of cases in the tables.
    pub group: &'static str,
    /// Name within the group.
    pub name: String,
    /// The measured call; it makes its state when it is first called.
    pub round: Round,
}

/// Round of a case: handles some items under the stopwatch, and returns how many.
pub type Round = Box<dyn FnMut(&mut Stopwatch) -> u64>;

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("group", &self.group).field("name", &self.name).finish()
    }
}

impl Case {
    /// A case.
    pub fn new(
        group: &'static str,
        name: impl Into<String>,
        round: impl FnMut(&mut Stopwatch) -> u64 + 'static,
    ) -> Self {
        Self { group, name: name.into(), round: Box::new(round) }
    }
}

/// CPU nanoseconds per item of each case: the median of short rounds, taken in turn.
pub fn measure_in_turn(cases: &mut [Case]) -> Vec<f64> {
    let rounds = if smoke_run() { 1 } else { CASE_ROUNDS };
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (case, samples) in cases.iter_mut().zip(&mut samples) {
            samples.push(ns_per_item(&mut case.round, CASE_TIME));
        }
    }
    samples.into_iter().map(median).collect()
}

/// Rounds of [`measure_in_turn`].
const CASE_ROUNDS: usize = 25;

/// CPU time of one such round.
const CASE_TIME: Duration = Duration::from_millis(10);

fn ns_per_item(round: &mut dyn FnMut(&mut Stopwatch) -> u64, least: Duration) -> f64 {
    let (mut stopwatch, mut items) = (Stopwatch::default(), 0);
    while items == 0 || (stopwatch.total() < least && !smoke_run()) {
        items += round(&mut stopwatch);
    }
    stopwatch.total().as_nanos() as f64 / items as f64
}

/// Has criterion run all cases.
pub fn run(cases: Vec<Case>) {
    let mut criterion = criterion();
    for Case { group, name, mut round } in cases {
        per_packet(&mut criterion.benchmark_group(group), &name, |stopwatch| round(stopwatch));
    }
    criterion.final_summary();
}

/// True when measurements are only to prove that they run: `cargo bench -- --test`, `cargo test`
/// (which starts benches without `--bench`), and programs with `--quick`.
pub fn smoke_run() -> bool {
    let given = |wanted| std::env::args().any(|arg| arg == wanted);
    let program = std::env::current_exe().unwrap_or_default();
    let bench = program.parent().is_some_and(|folder| folder.ends_with("deps"));
    given("--test") || given("--quick") || (bench && !given("--bench"))
}

/// Result of [`compare`]: medians over all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// CPU nanoseconds per packet of the candidate.
    pub candidate_ns: f64,
    /// CPU nanoseconds per packet of the floor.
    pub floor_ns: f64,
    /// Ratio of candidate to floor, taken round by round.
    pub ratio: f64,
}

/// Runs candidate and floor in turn, so that both run in the same phases of the machine.
pub fn compare(
    mut candidate: impl FnMut(&mut Stopwatch) -> u64,
    mut floor: impl FnMut(&mut Stopwatch) -> u64,
) -> Comparison {
    let rounds = if smoke_run() { 1 } else { ROUNDS };
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let candidate = ns_per_item(&mut candidate, COMPARE_TIME);
        let floor = ns_per_item(&mut floor, COMPARE_TIME);
        for (all, sample) in samples.iter_mut().zip([candidate, floor, candidate / floor]) {
            all.push(sample);
        }
    }
    let [candidate_ns, floor_ns, ratio] = samples.map(median);
    Comparison { candidate_ns, floor_ns, ratio }
}

/// CPU time of a candidate in one round of a comparison: less than a phase of the machine.
const COMPARE_TIME: Duration = Duration::from_millis(5);

/// Median of some samples; NaN without samples.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// An instant to count from; from here on time is virtual.
#[expect(clippy::disallowed_methods, reason = "benches take one real instant to count from")]
pub fn epoch() -> Instant {
    Instant::now()
}
