//! The run second by second, for the report's plots.
//!
//! Filled by `run` from `live` and `/proc`, drawn by `html`.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::live::LiveCounters;
use crate::procfs;

/// Time between two samples of a short run.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time by which a sample may be early, so that an early call need not wait for a whole tick.
const SLACK: Duration = Duration::from_millis(100);

/// Maximum samples. At the limit every second sample is dropped and the interval doubles, so that a
/// week fits into a plot.
const SAMPLES_MAX: usize = 1200;

/// One interval of a run. Rates are means over the interval. The fields are JSON fields.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// End of the interval, in seconds since the run began.
    pub(crate) at_s: f64,
    /// Whether the window was open at its end.
    pub(crate) counted: bool,
    /// Viewers that were connected.
    pub(crate) viewers: u64,
    /// Packets that viewers received, per second.
    pub(crate) packets_per_s: f64,
    /// Bitrate of these packets in Mbit/s, RTP headers included.
    pub(crate) mbit_per_s: f64,
    /// Packets lost, per second.
    pub(crate) lost_per_s: f64,
    /// Latency in microseconds: median, 99th and 99.9th percentile. Null if no viewer measured it.
    pub(crate) latency_us: Option<[u64; 3]>,
    /// CPU cores that the server used.
    pub(crate) server_cores: Option<f64>,
    /// CPU cores that this generator used.
    pub(crate) generator_cores: Option<f64>,
}

/// The samples so far.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    interval: Duration,
    before: Totals,
    server: Option<u32>,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Totals {
    at: Instant,
    packets: u64,
    bytes: u64,
    lost: u64,
    server_s: Option<f64>,
    generator_s: Option<f64>,
}

impl Totals {
    fn read(at: Instant, live: &LiveCounters, server: Option<u32>) -> Self {
        let cpu = |pid: u32| procfs::cpu(pid).map(procfs::Cpu::total_s);
        Self {
            at,
            packets: LiveCounters::read(&live.packets),
            bytes: LiveCounters::read(&live.bytes),
            lost: LiveCounters::read(&live.lost),
            server_s: server.and_then(cpu),
            generator_s: cpu(std::process::id()),
        }
    }
}

impl Timeline {
    /// A timeline that begins at `now`; `server` is the process id of the server.
    pub(crate) fn new(now: Instant, live: &LiveCounters, server: Option<u32>) -> Self {
        let before = Totals::read(now, live, server);
        Self { began: now, interval: INTERVAL, before, server, samples: Vec::new() }
    }

    /// Adds a sample, if one is due.
    pub(crate) fn tick(&mut self, now: Instant, live: &LiveCounters, counted: bool) {
        let elapsed = now.saturating_duration_since(self.before.at);
        if elapsed + SLACK < self.interval {
            return;
        }
        let totals = Totals::read(now, live, self.server);
        let before = std::mem::replace(&mut self.before, totals);
        let per_s =
            |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        let cores = |now: Option<f64>, before: Option<f64>| {
            Some(((now? - before?) / elapsed.as_secs_f64()).max(0.0))
        };
        let latencies = live.take_latencies();
        let latency = |quantile| latencies.value_at_quantile(quantile);
        self.samples.push(Sample {
            at_s: now.saturating_duration_since(self.began).as_secs_f64(),
            counted,
            viewers: live.connected_viewers(),
            packets_per_s: per_s(totals.packets, before.packets),
            mbit_per_s: per_s(totals.bytes, before.bytes) * 8.0 / 1e6,
            lost_per_s: per_s(totals.lost, before.lost),
            latency_us: (!latencies.is_empty())
                .then(|| [latency(0.5), latency(0.99), latency(0.999)]),
            server_cores: cores(totals.server_s, before.server_s),
            generator_cores: cores(totals.generator_s, before.generator_s),
        });
        if self.samples.len() == SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.interval *= 2;
        }
    }

    /// The samples.
    pub(crate) fn finish(self) -> Vec<Sample> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::ProgressUpdate;

    #[test]
    fn rates_are_per_second_and_a_long_run_has_larger_intervals() {
        let start = Instant::now();
        let live = LiveCounters::new();
        let mut timeline = Timeline::new(start, &live, None);
        for second in 1..=3000 {
            let latencies_us = vec![1000];
            let update =
                ProgressUpdate { packets: 50, bytes: 12_500, latencies_us, ..Default::default() };
            live.add_progress(update);
            timeline.tick(start + Duration::from_secs(second), &live, second > 5);
        }
        let samples = timeline.finish();
        assert!(samples.len() < SAMPLES_MAX && samples.len() > SAMPLES_MAX / 2 - 1);
        let last = samples.last().expect("has samples");
        assert_eq!((last.packets_per_s.round(), last.mbit_per_s), (50.0, 0.1));
        assert!(last.counted && last.at_s > 2990.0);
        assert!(last.latency_us.is_some_and(|[p50, ..]| p50.abs_diff(1000) < 10));
        assert_eq!(last.server_cores, None);
    }
}
