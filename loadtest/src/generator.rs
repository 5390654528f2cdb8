//! Whether this generator kept up: what it measures of itself in the window, and the verdict.
//!
//! A generator that drops datagrams at its own sockets makes any server look lossy, and one that reads them late makes it look
//! slow. So the report says which side was the limit, and the exit code tells them apart. Called by `run`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::machine;
use crate::pool::Pool;
use crate::procfs::{self, Cpu};
use crate::vitals::Vitals;

/// Datagrams that wait longer at our sockets (99 of 100 wait less) make losses and latencies doubtful.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// Timers that fire later (99 of 100 less) make a publisher that stutters.
const LATE_MAX: Duration = Duration::from_millis(20);

/// A thread or process that takes this share of what it may take has nothing left.
const CPU_MAX: f64 = 0.95;

/// What the generator says of itself, within the counted window.
#[derive(Debug, Default, Clone, Serialize)]
pub struct GeneratorHealth {
    /// It could not keep up: losses, failures and latencies may be its own.
    pub limited: bool,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// Datagrams that the kernel dropped at our sockets; null if it does not tell.
    pub datagrams_dropped: Option<u64>,
    /// Datagrams that the kernel would not take from us.
    pub datagrams_refused: u64,
    /// Datagrams read, all protocols.
    pub datagrams_read: u64,
    /// Datagrams in one message (UDP_GRO), mean.
    pub datagrams_per_message: f64,
    /// From the kernel's receipt of a datagram to our reading it, microseconds.
    pub waited_us: WaitTimes,
    /// From when something was due to when we did it, microseconds.
    pub late_us: WaitTimes,
    /// Our CPU time in the program itself, seconds.
    pub cpu_user_s: f64,
    /// Our CPU time in the kernel, seconds.
    pub cpu_system_s: f64,
    /// Our share of all CPUs we may use, 0 to 1.
    pub cpu_share: f64,
    /// The busiest thread's share of one CPU, 0 to 1.
    pub busiest_thread: f64,
    /// Our CPU time in the program itself for each datagram read, nanoseconds.
    pub user_ns_per_datagram: Option<f64>,
}

/// Percentiles in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WaitTimes {
    /// Half were at most this.
    pub p50: u64,
    /// 99 of 100 were at most this.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl WaitTimes {
    fn of(histogram: &Histogram<u32>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p99: at(0.99), max: histogram.max() }
    }
}

/// Watches over a window.
pub(crate) struct GeneratorMonitor {
    began: Instant,
    cpu: Option<Cpu>,
    threads: Vec<Duration>,
    /// Drops by port: at the beginning, and the latest.
    drops: Option<HashMap<u16, (u64, u64)>>,
}

impl GeneratorMonitor {
    /// The window opens.
    pub(crate) fn begin(pools: [&Pool; 2]) -> Self {
        // What piled up before does not count.
        let threads = vitals_of(pools).map(|(_, cpu)| cpu).collect();
        let drops = drops_of(pools)
            .map(|drops| drops.into_iter().map(|(port, n)| (port, (n, n))).collect());
        Self { began: Instant::now(), cpu: procfs::cpu(std::process::id()), threads, drops }
    }

    /// Looks at the sockets' drops; often enough that no socket comes and goes unseen for long.
    pub(crate) fn look(&mut self, pools: [&Pool; 2]) {
        let Some(known) = &mut self.drops else { return };
        for (port, dropped) in drops_of(pools).unwrap_or_default() {
            // A socket of the same port that began anew counts from zero again.
            known.entry(port).or_insert((0, 0)).1 = dropped;
        }
    }

    /// CPU seconds of ours since the window opened.
    pub(crate) fn cpu(&self) -> Option<Cpu> {
        let (before, now) = (self.cpu?, procfs::cpu(std::process::id())?);
        Some(Cpu { user_s: now.user_s - before.user_s, system_s: now.system_s - before.system_s })
    }

    /// The window closes.
    pub(crate) fn finish(mut self, pools: [&Pool; 2]) -> GeneratorHealth {
        self.look(pools);
        let window_s = self.began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let mut vitals = Vitals::new();
        let mut busiest: f64 = 0.0;
        for ((part, cpu), before) in vitals_of(pools).zip(&self.threads) {
            vitals.add(&part);
            busiest = busiest.max(cpu.saturating_sub(*before).as_secs_f64() / window_s);
        }
        let cpu = self.cpu().unwrap_or(Cpu { user_s: 0.0, system_s: 0.0 });
        let dropped = self
            .drops
            .map(|drops| drops.values().map(|(first, last)| last.saturating_sub(*first)).sum());
        let per = |value: f64, count: u64| (count > 0).then(|| value / count as f64);
        GeneratorHealth {
            datagrams_dropped: dropped,
            datagrams_refused: vitals.refused,
            datagrams_read: vitals.datagrams,
            datagrams_per_message: per(vitals.datagrams as f64, vitals.messages).unwrap_or(0.0),
            waited_us: WaitTimes::of(&vitals.waited_us),
            late_us: WaitTimes::of(&vitals.late_us),
            cpu_user_s: cpu.user_s,
            cpu_system_s: cpu.system_s,
            cpu_share: cpu.total_s() / window_s / f64::from(machine::cpus()),
            busiest_thread: busiest,
            user_ns_per_datagram: per(cpu.user_s * 1e9, vitals.datagrams),
            ..GeneratorHealth::default()
        }
        .judged()
    }
}

impl GeneratorHealth {
    /// The verdict over the measurements.
    fn judged(mut self) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let over = |waits: &WaitTimes, limit: Duration| u128::from(waits.p99) > limit.as_micros();
        let mut reasons = Vec::new();
        if let Some(dropped) = self.datagrams_dropped.filter(|dropped| *dropped > 0) {
            reasons.push(format!("{dropped} datagrams were dropped at our own sockets, unread"));
        }
        if self.datagrams_refused > 0 {
            let refused = self.datagrams_refused;
            reasons.push(format!("{refused} datagrams of ours were not taken by the kernel"));
        }
        if over(&self.waited_us, WAIT_MAX) {
            let (p99, max) = (ms(self.waited_us.p99), ms(self.waited_us.max));
            reasons.push(format!("datagrams waited for us {p99:.0} ms (p99; {max:.0} ms at most)"));
        }
        if over(&self.late_us, LATE_MAX) {
            let (p99, max) = (ms(self.late_us.p99), ms(self.late_us.max));
            reasons.push(format!("our timers fired {p99:.0} ms late (p99; {max:.0} ms at most)"));
        }
        if self.cpu_share >= CPU_MAX {
            let share = self.cpu_share * 100.0;
            reasons.push(format!("we took {share:.0} % of all CPUs we may use"));
        } else if self.busiest_thread >= CPU_MAX {
            let share = self.busiest_thread * 100.0;
            reasons.push(format!("one of our threads took {share:.0} % of a CPU (see --threads)"));
        }
        self.limited = !reasons.is_empty();
        self.reasons = reasons;
        self
    }
}

fn vitals_of(pools: [&Pool; 2]) -> impl Iterator<Item = (Vitals, Duration)> {
    pools.into_iter().flat_map(Pool::vitals).map(|vitals| vitals.take())
}

fn drops_of(pools: [&Pool; 2]) -> Option<HashMap<u16, u64>> {
    let [a, b] = pools.map(Pool::ports);
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
    fn generator_that_keeps_up_is_not_to_blame() {
        let judged = healthy().judged();
        assert!(!judged.limited && judged.reasons.is_empty(), "{judged:?}");
    }

    #[test]
    fn each_way_of_not_keeping_up_is_named() {
        let slow = WaitTimes { p50: 1, p99: 20_001, max: 50_000 };
        for (generator, word) in [
            (GeneratorHealth { datagrams_dropped: Some(7), ..healthy() }, "7 datagrams were dropped"),
            (GeneratorHealth { datagrams_refused: 3, ..healthy() }, "3 datagrams of ours"),
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
