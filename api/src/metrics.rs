//! `/metrics`: the counters of the media plane as Prometheus text.
//!
//! Every name begins with `weir_` (or `process_`, where exporters agree on one), counters end in
//! `_total`, and no label is a session or stream. Called by scrapers. The numbers are described at
//! `weir_sfu::net::SfuStats`.

use std::fmt::{Display, Write};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use weir_sfu::net::{LatencySummary, SfuStats, WorkerStats};

use crate::state::AppState;

/// `GET /metrics`, Prometheus text format 0.0.4.
pub async fn metrics(State(state): State<AppState>) -> Response {
    let stats = state.sfu.stats().await;
    let text = render(&stats, state.sfu.ready(), state.started.elapsed(), &Process::read());
    let headers =
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (headers, text).into_response()
}

fn render(stats: &SfuStats, ready: bool, uptime: Duration, process: &Process) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    let p = &mut page;
    p.gauge("weir_publishers", "Live publishers.", stats.publishers);
    p.gauge("weir_subscribers", "Live viewers.", stats.subscribers);
    p.gauge("weir_streams", "Streams with a publisher or a viewer.", stats.streams);
    let [publishers, subscribers] = stats.sessions_total;
    p.counters(
        "weir_sessions_total",
        "Sessions accepted.",
        "role",
        [("publisher", publishers), ("subscriber", subscribers)],
    );
    let closed = stats.closed_total.iter().copied();
    p.counters("weir_sessions_closed_total", "Sessions ended.", "reason", closed);
    p.counter("weir_packets_in_total", "RTP packets from publishers.", stats.packets_in);
    p.counter("weir_bytes_in_total", "Their bytes on the wire.", stats.bytes_in);
    p.counter(
        "weir_packets_out_total",
        "RTP packets to viewers, repairs included.",
        stats.packets_out,
    );
    p.counter("weir_bytes_out_total", "Their bytes on the wire.", stats.bytes_out);
    p.counter(
        "weir_retransmits_out_total",
        "Packets sent again to viewers.",
        stats.retransmits_out,
    );
    p.counter(
        "weir_keyframe_requests_total",
        "Keyframe requests sent to publishers.",
        stats.keyframe_requests,
    );
    let needs = stats.keyframe_requests_received_total.iter().copied();
    p.counters(
        "weir_keyframe_requests_received_total",
        "Times that somebody began to wait for a keyframe: no picture, packets given up, a fresh picture or another layer.",
        "need",
        needs,
    );
    p.counter(
        "weir_keyframe_requests_joined_total",
        "Needs that joined one which waited already, or a keyframe that had just begun.",
        stats.keyframe_requests_joined,
    );
    let answers = stats.keyframe_answers_total.iter().copied();
    p.counters(
        "weir_keyframe_answers_total",
        "Keyframe requests that were answered, and those that were not; the rest may have been by chance or is open.",
        "outcome",
        answers,
    );
    let dropped = stats.dropped_total.iter().copied();
    p.counters("weir_packets_dropped_total", "Packets that went no further.", "reason", dropped);
    p.gauge("weir_cache_packets", "Packets held in replay caches.", stats.cache_packets);
    p.gauge("weir_cache_bytes", "Bytes held in replay caches.", stats.cache_bytes);
    p.counter("weir_send_calls_total", "Send calls to the kernel.", stats.send_calls);
    p.counter("weir_datagrams_out_total", "Datagrams in those calls.", stats.datagrams_out);
    p.counter(
        "weir_gso_refused_total",
        "Send calls of several datagrams that the kernel refused as such.",
        stats.gso_refused,
    );
    p.counter(
        "weir_gso_spared_datagrams_total",
        "Datagrams sent one by one because their path had refused more.",
        stats.gso_spared_datagrams,
    );
    p.counter(
        "weir_panics_total",
        "Panics caught; each ended one session, or all of one worker.",
        stats.panics,
    );
    p.gauge("weir_workers", "Media workers.", stats.workers);
    let workers = &stats.per_worker;
    p.workers("weir_worker_load_ratio", "gauge", "How busy a worker's core is.", workers, |w| {
        w.load
    });
    p.workers(
        "weir_worker_tick_seconds",
        "gauge",
        "How long a worker lets packets gather; 0 below half a core.",
        workers,
        |w| w.tick_us as f64 / 1e6,
    );
    p.workers(
        "weir_worker_rebuilds_total",
        "counter",
        "Panics outside a session; each ended all sessions of the worker.",
        workers,
        |w| w.rebuilds as f64,
    );
    p.histogram(
        "weir_forward_latency_seconds",
        "From the kernel's receipt of a packet to the return of the send call, per datagram sent.",
        &stats.forward_latency,
    );
    p.histogram(
        "weir_forward_latency_established_seconds",
        "The part of it that went to viewers who had been here for five seconds or longer.",
        &stats.forward_latency_established,
    );
    p.histogram(
        "weir_tick_wait_seconds",
        "The part of it that received datagrams waited so that others could share their send calls.",
        &stats.tick_wait,
    );
    p.gauge("weir_ready", "1 while new sessions are taken.", u8::from(ready));
    p.gauge("weir_uptime_seconds", "Seconds since the start.", uptime.as_secs_f64());
    p.gauge("weir_tasks", "Tasks of the control plane and of HTTP connections.", process.tasks);
    p.family("weir_build_info", "Version of this server.", "gauge");
    p.sample("weir_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    if let Some(bytes) = process.resident_bytes {
        p.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
    }
    if let Some(seconds) = process.cpu_seconds {
        p.counter("process_cpu_seconds_total", "CPU time, user and system.", seconds);
    }
    if let Some(open) = process.open_files {
        p.gauge("process_open_fds", "Open file descriptors.", open);
    }
    page.0
}

/// Text in the exposition format, family by family.
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, "gauge");
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, "counter");
        self.sample(name, &[], value);
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        self.family(name, help, "counter");
        for (value, count) in values {
            self.sample(name, &[(label, value)], count);
        }
    }

    fn workers(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        workers: &[WorkerStats],
        value: impl Fn(&WorkerStats) -> f64,
    ) {
        self.family(name, help, kind);
        for worker in workers {
            self.sample(name, &[("worker", &worker.worker.to_string())], value(worker));
        }
    }

    fn histogram(&mut self, name: &str, help: &str, waits: &LatencySummary) {
        self.family(name, help, "histogram");
        let bucket = format!("{name}_bucket");
        for (bound_us, count) in &waits.buckets {
            let bound = (*bound_us as f64 / 1e6).to_string();
            self.sample(&bucket, &[("le", &bound)], count);
        }
        self.sample(&bucket, &[("le", "+Inf")], waits.count);
        self.sample(&format!("{name}_sum"), &[], waits.sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), &[], waits.count);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One line. Labels are names from enums and need no escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// What the kernel says about this process; each is absent where there is no Linux `/proc`.
struct Process {
    resident_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
    open_files: Option<usize>,
    tasks: usize,
}

/// Unit of CPU times in `/proc`: Linux shows them to user space in 1/100 s on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    fn read() -> Self {
        let page = rustix::param::page_size() as u64;
        let statm = std::fs::read_to_string("/proc/self/statm").ok();
        let stat = std::fs::read_to_string("/proc/self/stat").ok();
        Self {
            resident_bytes: statm.and_then(|text| resident_pages(&text)).map(|n| n * page),
            cpu_seconds: stat
                .and_then(|text| cpu_ticks(&text))
                .map(|n| n as f64 / TICKS_PER_SECOND),
            open_files: std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            tasks: tokio::runtime::Handle::try_current()
                .map_or(0, |runtime| runtime.metrics().num_alive_tasks()),
        }
    }
}

/// The second field of `/proc/self/statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// utime + stime: fields 14 and 15 of `/proc/self/stat`. The second field, the command, may hold
/// spaces and parentheses, so counting starts after the last of these.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_stands_under_its_name() {
        let stats = SfuStats {
            publishers: 2,
            sessions_total: [3, 5],
            closed_total: vec![("deleted", 7)],
            dropped_total: vec![("srtp_auth", 11), ("ring_full", 0)],
            keyframe_requests_received_total: vec![("start", 13), ("refresh", 0)],
            keyframe_requests_joined: 17,
            keyframe_answers_total: vec![("answered", 19), ("unanswered", 23)],
            forward_latency: LatencySummary {
                count: 9,
                sum_us: 2_500,
                buckets: vec![(50, 4), (1_000, 8)],
                ..LatencySummary::default()
            },
            per_worker: vec![WorkerStats {
                worker: 1,
                load: 0.75,
                tick_us: 250,
                rebuilds: 2,
                ..WorkerStats::default()
            }],
            ..SfuStats::default()
        };
        let process = Process {
            resident_bytes: Some(4_096),
            cpu_seconds: Some(1.25),
            open_files: None,
            tasks: 3,
        };
        let text = render(&stats, true, Duration::from_millis(1_500), &process);
        for line in [
            "weir_publishers 2",
            "weir_sessions_total{role=\"publisher\"} 3",
            "weir_sessions_total{role=\"subscriber\"} 5",
            "weir_sessions_closed_total{reason=\"deleted\"} 7",
            "weir_packets_dropped_total{reason=\"srtp_auth\"} 11",
            "weir_packets_dropped_total{reason=\"ring_full\"} 0",
            "weir_keyframe_requests_received_total{need=\"start\"} 13",
            "weir_keyframe_requests_received_total{need=\"refresh\"} 0",
            "weir_keyframe_requests_joined_total 17",
            "weir_keyframe_answers_total{outcome=\"answered\"} 19",
            "weir_keyframe_answers_total{outcome=\"unanswered\"} 23",
            "weir_forward_latency_seconds_bucket{le=\"0.00005\"} 4",
            "weir_forward_latency_seconds_bucket{le=\"0.001\"} 8",
            "weir_forward_latency_seconds_bucket{le=\"+Inf\"} 9",
            "weir_forward_latency_seconds_sum 0.0025",
            "weir_forward_latency_seconds_count 9",
            "weir_worker_load_ratio{worker=\"1\"} 0.75",
            "weir_worker_tick_seconds{worker=\"1\"} 0.00025",
            "weir_worker_rebuilds_total{worker=\"1\"} 2",
            "weir_uptime_seconds 1.5",
            "weir_ready 1",
            "weir_tasks 3",
            "process_resident_memory_bytes 4096",
            "process_cpu_seconds_total 1.25",
        ] {
            assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
        }
        assert!(!text.contains("process_open_fds"));
    }

    #[test]
    fn every_sample_follows_its_own_help_and_type() {
        let stats = SfuStats { dropped_total: vec![("too_old", 1)], ..SfuStats::default() };
        let text = render(&stats, false, Duration::ZERO, &Process::read());
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                family = name;
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let part = name.strip_prefix(family).unwrap_or_else(|| panic!("{line}"));
                assert!(["", "_bucket", "_sum", "_count"].contains(&part), "{line}");
                assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn a_command_name_full_of_parentheses_does_not_shift_the_cpu_time() {
        let stat = "7 (we) ir (x) S 1 7 7 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 4 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(280));
        assert_eq!(resident_pages("100 42 7 1 0 9 0"), Some(42));
        assert_eq!(cpu_ticks(""), None);
    }
}
