//! Whether this generator kept up: what it measures of itself within the window, and the judgement.
//!
//! If a generator drops datagrams at its own sockets, any server seems to lose packets. If it reads
//! them late, any server seems slow. So the report says which side was the bottleneck, and the exit
//! code tells the two cases apart. Called by `run`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::event_loop::LoopPool;
use crate::loop_stats::LoopStats;
use crate::machine;
use crate::procfs::{self, Cpu};

/// Maximum 99th percentile of the time that datagrams wait at this generator's sockets. Above it
/// losses and latencies are doubtful.
const WAIT_P99_MAX: Duration = Duration::from_millis(20);

/// Maximum 99th percentile of the delay of timers. Above it publishers send frames irregularly.
const LATE_P99_MAX: Duration = Duration::from_millis(20);

/// Share of the available CPU time above which a thread or process is overloaded.
const CPU_SHARE_MAX: f64 = 0.95;

/// What the generator measured of itself within the window. The fields are JSON fields.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct GeneratorHealth {
    /// Whether it could not keep up: losses, failures and latencies may be its own fault.
    pub(crate) limited: bool,
    /// Why it could not keep up, one sentence each.
    pub(crate) reasons: Vec<String>,
    /// Datagrams that the kernel dropped at this generator's sockets; null if the kernel does not
    /// count them.
    pub(crate) datagrams_dropped: Option<u64>,
    /// Datagrams that the kernel refused to send.
    pub(crate) datagrams_refused: u64,
    /// Datagrams read, of all protocols.
    pub(crate) datagrams_read: u64,
    /// Mean number of datagrams in one message (UDP_GRO).
    pub(crate) datagrams_per_message: f64,
    /// Time from the kernel's receipt of a datagram to its reading, in microseconds.
    pub(crate) waited_us: WaitTimes,
    /// Delay of timers, in microseconds.
    pub(crate) late_us: WaitTimes,
    /// User time of the generator, in seconds.
    pub(crate) cpu_user_s: f64,
    /// System time of the generator, in seconds.
    pub(crate) cpu_system_s: f64,
    /// Share of the CPU time that this process may use, 0 to 1.
    pub(crate) cpu_share: f64,
    /// Share of one CPU that the busiest thread used, 0 to 1.
    pub(crate) busiest_thread: f64,
    /// User time for each datagram read, in nanoseconds.
    pub(crate) user_ns_per_datagram: Option<f64>,
}

/// Percentiles in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct WaitTimes {
    /// Median.
    pub(crate) p50: u64,
    /// 99th percentile.
    pub(crate) p99: u64,
    /// Maximum.
    pub(crate) max: u64,
}

impl WaitTimes {
    fn of(histogram: &Histogram<u32>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p99: at(0.99), max: histogram.max() }
    }
}

/// Measures the generator over the window.
pub(crate) struct GeneratorMonitor {
    began: Instant,
    cpu: Option<Cpu>,
    threads: Vec<Duration>,
    /// Drops by port; `None` if the kernel does not count them.
    drops: Option<HashMap<u16, PortDrops>>,
}

/// Drops at one port.
#[derive(Clone, Copy)]
struct PortDrops {
    first: u64,
    latest: u64,
}

impl PortDrops {
    fn new(drops: u64) -> Self {
        Self { first: drops, latest: drops }
    }

    fn in_window(&self) -> u64 {
        self.latest.saturating_sub(self.first)
    }
}

impl GeneratorMonitor {
    /// Starts measuring when the window opens.
    pub(crate) fn start(pools: [&LoopPool; 2]) -> Self {
        // Taking the statistics drops those from before the window.
        let threads = stats_of(pools).map(|(_, cpu)| cpu).collect();
        let drops = drops_of(pools)
            .map(|drops| drops.into_iter().map(|(port, n)| (port, PortDrops::new(n))).collect());
        Self { began: Instant::now(), cpu: procfs::cpu(std::process::id()), threads, drops }
    }

    /// Reads the drops at the sockets. To be called regularly, because the drops of a closed socket
    /// cannot be read.
    pub(crate) fn look(&mut self, pools: [&LoopPool; 2]) {
        let Some(known) = &mut self.drops else { return };
        for (port, dropped) in drops_of(pools).unwrap_or_default() {
            // A new socket on the same port counts from zero again.
            known.entry(port).or_insert(PortDrops::new(0)).latest = dropped;
        }
    }

    /// CPU time of this process since the window opened.
    fn cpu(&self) -> Option<Cpu> {
        let (before, now) = (self.cpu?, procfs::cpu(std::process::id())?);
        Some(Cpu { user_s: now.user_s - before.user_s, system_s: now.system_s - before.system_s })
    }

    /// The measurements and the judgement when the window closes.
    pub(crate) fn finish(mut self, pools: [&LoopPool; 2]) -> GeneratorHealth {
        self.look(pools);
        let window_s = self.began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let mut stats = LoopStats::new();
        let mut busiest: f64 = 0.0;
        for ((part, cpu), before) in stats_of(pools).zip(&self.threads) {
            stats.add(&part);
            busiest = busiest.max(cpu.saturating_sub(*before).as_secs_f64() / window_s);
        }
        let cpu = self.cpu().unwrap_or(Cpu { user_s: 0.0, system_s: 0.0 });
        let dropped = self.drops.map(|drops| drops.values().map(PortDrops::in_window).sum());
        let per = |value: f64, count: u64| (count > 0).then(|| value / count as f64);
        GeneratorHealth {
            datagrams_dropped: dropped,
            datagrams_refused: stats.refused,
            datagrams_read: stats.datagrams,
            datagrams_per_message: per(stats.datagrams as f64, stats.messages).unwrap_or(0.0),
            waited_us: WaitTimes::of(&stats.waited_us),
            late_us: WaitTimes::of(&stats.late_us),
            cpu_user_s: cpu.user_s,
            cpu_system_s: cpu.system_s,
            cpu_share: cpu.total_s() / window_s / f64::from(machine::available_cpus()),
            busiest_thread: busiest,
            user_ns_per_datagram: per(cpu.user_s * 1e9, stats.datagrams),
            ..GeneratorHealth::default()
        }
        .judged()
    }
}

impl GeneratorHealth {
    /// The same with `limited` and `reasons`.
    fn judged(mut self) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let over = |waits: &WaitTimes, limit: Duration| u128::from(waits.p99) > limit.as_micros();
        let mut reasons = Vec::new();
        if let Some(dropped) = self.datagrams_dropped.filter(|dropped| *dropped > 0) {
            reasons.push(format!(
                "{dropped} datagrams were dropped at its sockets before it read them"
            ));
        }
        if self.datagrams_refused > 0 {
            let refused = self.datagrams_refused;
            reasons.push(format!("the kernel refused to send {refused} of its datagrams"));
        }
        if over(&self.waited_us, WAIT_P99_MAX) {
            let (p99, max) = (ms(self.waited_us.p99), ms(self.waited_us.max));
            reasons.push(format!(
                "datagrams waited {p99:.0} ms until it read them (p99; {max:.0} ms at most)"
            ));
        }
        if over(&self.late_us, LATE_P99_MAX) {
            let (p99, max) = (ms(self.late_us.p99), ms(self.late_us.max));
            reasons.push(format!("its timers fired {p99:.0} ms late (p99; {max:.0} ms at most)"));
        }
        if self.cpu_share >= CPU_SHARE_MAX {
            let share = self.cpu_share * 100.0;
            reasons.push(format!("it used {share:.0} % of all CPUs that it may use"));
        } else if self.busiest_thread >= CPU_SHARE_MAX {
            let share = self.busiest_thread * 100.0;
            reasons.push(format!("one of its threads used {share:.0} % of a CPU (see --threads)"));
        }
        self.limited = !reasons.is_empty();
        self.reasons = reasons;
        self
    }
}

fn stats_of(pools: [&LoopPool; 2]) -> impl Iterator<Item = (LoopStats, Duration)> {
    pools.into_iter().flat_map(LoopPool::stats).map(|stats| stats.take())
}

fn drops_of(pools: [&LoopPool; 2]) -> Option<HashMap<u16, u64>> {
    let [a, b] = pools.map(LoopPool::ports);
    procfs::socket_drops(&(&a | &b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> GeneratorHealth {
        let waits = WaitTimes { p50: 100, p99: 900, max: 30_000 };
        GeneratorHealth {
            datagrams_dropped: Some(0),
            waited_us: waits,
            late_us: waits,
            cpu_share: 0.5,
            busiest_thread: 0.9,
            ..GeneratorHealth::default()
        }
    }

    #[test]
    fn generator_that_keeps_up_is_not_limited() {
        let judged = healthy().judged();
        assert!(!judged.limited && judged.reasons.is_empty(), "{judged:?}");
    }

    #[test]
    fn each_limit_is_named() {
        let slow = WaitTimes { p50: 1, p99: 20_001, max: 50_000 };
        for (generator, word) in [
            (
                GeneratorHealth { datagrams_dropped: Some(7), ..healthy() },
                "7 datagrams were dropped",
            ),
            (GeneratorHealth { datagrams_refused: 3, ..healthy() }, "refused to send 3"),
            (GeneratorHealth { waited_us: slow, ..healthy() }, "waited"),
            (GeneratorHealth { late_us: slow, ..healthy() }, "late"),
            (GeneratorHealth { cpu_share: 0.96, ..healthy() }, "96 % of all"),
            (GeneratorHealth { busiest_thread: 0.99, ..healthy() }, "--threads"),
        ] {
            let judged = generator.judged();
            assert!(judged.limited, "{word}");
            assert!(judged.reasons.len() == 1 && judged.reasons[0].contains(word), "{judged:?}");
        }
    }
}
