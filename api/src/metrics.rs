//! `/metrics`: the counters of the media plane as Prometheus text.
//!
//! Every name begins with `weir_` (or `process_`, where exporters agree on one), counters end in
//! `_total`, and no label is a session or stream. [`FAMILIES`] declares each metric once; tests
//! compare it with `SfuStats`, `openapi.json` and the dashboard. Called by scrapers. Next:
//! `weir_sfu::net::SfuStats`, which describes the numbers.

use std::fmt::{Display, Write};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use weir_sfu::net::{AnswerTotals, Counts, LatencySummary, SessionTotals, SfuStats, WorkerStats};

use crate::log;
use crate::process::Process;
use crate::state::AppState;

/// One metric: its name, its help, and where its value comes from.
struct Family {
    name: &'static str,
    /// Field of `SfuStats` in JSON, with a dot before the field of a worker; none for figures of
    /// the process.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares it with SfuStats"))]
    stat: Option<&'static str>,
    help: &'static str,
    read: Read,
}

/// Source of a metric's value. A name that ends in `_total` is a counter, another one a gauge.
enum Read {
    /// One number.
    Total(fn(&SfuStats) -> u64),
    /// Numbers by the values of one label.
    ByLabel(&'static str, fn(&SfuStats) -> Vec<(&'static str, u64)>),
    /// One number per worker.
    PerWorker(fn(&WorkerStats) -> f64),
    /// A histogram of latencies.
    Latency(fn(&SfuStats) -> &LatencySummary),
    /// One number about the process; no sample where it is unknown.
    Process(fn(&Scrape) -> Option<f64>),
    /// Numbers of the HTTP side by the values of one label.
    ScrapeByLabel(&'static str, fn(&Scrape) -> &[(&'static str, u64)]),
    /// The constant 1 with the version as a label.
    Version,
}

/// Figures of one scrape that are not of the media plane.
struct Scrape {
    ready: bool,
    uptime: Duration,
    offers_refused: Vec<(&'static str, u64)>,
    forwarding_faults: Vec<(&'static str, u64)>,
    requests_refused: Vec<(&'static str, u64)>,
    bodies_refused: Vec<(&'static str, u64)>,
    connections: usize,
    connections_closed: Vec<(&'static str, u64)>,
    request_memory: usize,
    requests_without_room: Vec<(&'static str, u64)>,
    log_lines_dropped: [(&'static str, u64); 3],
    process: Process,
}

const FAMILIES: &[Family] = &[
    total("weir_publishers", "publishers", "Live publishers.", |s| s.publishers),
    total("weir_subscribers", "subscribers", "Live viewers.", |s| s.subscribers),
    total("weir_streams", "streams", "Streams with a publisher or a viewer.", |s| s.streams),
    by_label("weir_sessions_total", "sessions_total", "Sessions accepted.", "role", |s| {
        let SessionTotals { publishers, subscribers } = s.sessions_total;
        vec![("publisher", publishers), ("subscriber", subscribers)]
    }),
    by_label("weir_sessions_closed_total", "closed_total", "Sessions ended.", "reason", |s| {
        pairs(&s.closed_total)
    }),
    total("weir_packets_in_total", "packets_in", "RTP packets from publishers.", |s| s.packets_in),
    total("weir_bytes_in_total", "bytes_in", "Bytes of RTP packets from publishers.", |s| {
        s.bytes_in
    }),
    total(
        "weir_packets_out_total",
        "packets_out",
        "RTP packets to viewers, retransmissions included.",
        |s| s.packets_out,
    ),
    total("weir_bytes_out_total", "bytes_out", "Bytes of RTP packets to viewers.", |s| s.bytes_out),
    total(
        "weir_retransmits_out_total",
        "retransmits_out",
        "Packets retransmitted to viewers.",
        |s| s.retransmits_out,
    ),
    total(
        "weir_keyframe_requests_total",
        "keyframe_requests",
        "Keyframe requests sent to publishers.",
        |s| s.keyframe_requests,
    ),
    by_label(
        "weir_keyframe_requests_received_total",
        "keyframe_requests_received_total",
        "Times that a keyframe began to be needed: no picture, packets given up, a fresh picture or another layer.",
        "need",
        |s| pairs(&s.keyframe_requests_received_total),
    ),
    total(
        "weir_keyframe_requests_joined_total",
        "keyframe_requests_joined",
        "Needs without a request of their own: one was waiting, or a keyframe had just begun.",
        |s| s.keyframe_requests_joined,
    ),
    by_label(
        "weir_keyframe_answers_total",
        "keyframe_answers_total",
        "Keyframe requests with a certain outcome; the rest may have been answered by chance or is open.",
        "outcome",
        |s| {
            let AnswerTotals { answered, unanswered } = s.keyframe_answers_total;
            vec![("answered", answered), ("unanswered", unanswered)]
        },
    ),
    by_label("weir_packets_dropped_total", "dropped_total", "Packets dropped.", "reason", |s| {
        pairs(&s.dropped_total)
    }),
    total("weir_cache_packets", "cache_packets", "Packets held in packet caches.", |s| {
        s.cache_packets
    }),
    total("weir_cache_bytes", "cache_bytes", "Bytes held in packet caches.", |s| s.cache_bytes),
    by_label(
        "weir_cache_evicted_packets_total",
        "cache_evicted_total",
        "Packets evicted from packet caches early: their publisher held as much as one may, or buffers were short.",
        "cause",
        |s| pairs(&s.cache_evicted_total),
    ),
    total("weir_pool_bytes", "pool_bytes", "Bytes of packet buffers that are allocated.", |s| {
        s.pool_bytes
    }),
    total(
        "weir_pool_used_bytes",
        "pool_used_bytes",
        "Bytes of packet buffers that hold a packet.",
        |s| s.pool_used_bytes,
    ),
    total("weir_send_calls_total", "send_calls", "Send calls to the kernel.", |s| s.send_calls),
    total("weir_datagrams_out_total", "datagrams_out", "Datagrams in send calls.", |s| {
        s.datagrams_out
    }),
    total(
        "weir_gso_refused_total",
        "gso_refused",
        "Send calls of several datagrams that the kernel refused as such.",
        |s| s.gso_refused,
    ),
    total(
        "weir_gso_spared_datagrams_total",
        "gso_spared_datagrams",
        "Datagrams sent one by one because their path had refused several.",
        |s| s.gso_spared_datagrams,
    ),
    total(
        "weir_fragmented_datagrams_total",
        "fragmented_datagrams",
        "Datagrams sent in IP fragments because the first link is too narrow for them.",
        |s| s.fragmented_datagrams,
    ),
    total(
        "weir_panics_total",
        "panics",
        "Panics caught; each ended one session, or all of one worker.",
        |s| s.panics,
    ),
    Family {
        name: "weir_offers_refused_total",
        stat: None,
        help: "Offers of publishers and viewers that were refused; the log says why.",
        read: Read::ScrapeByLabel("reason", |s| &s.offers_refused),
    },
    Family {
        name: "weir_http_forwarding_faults_total",
        stat: None,
        help: "Offers through a trusted proxy whose headers did not tell the client's address.",
        read: Read::ScrapeByLabel("reason", |s| &s.forwarding_faults),
    },
    Family {
        name: "weir_requests_refused_total",
        stat: None,
        help: "Requests of others than may use the server, pages of other sites among them; the log says why.",
        read: Read::ScrapeByLabel("reason", |s| &s.requests_refused),
    },
    Family {
        name: "weir_http_bodies_refused_total",
        stat: None,
        help: "Bodies of requests that were not taken: all memory for bodies was in use, or they came too slowly.",
        read: Read::ScrapeByLabel("reason", |s| &s.bodies_refused),
    },
    process("weir_http_connections", "Open HTTP connections.", |s| Some(s.connections as f64)),
    Family {
        name: "weir_http_connections_closed_total",
        stat: None,
        help: "HTTP connections that the server closed or refused.",
        read: Read::ScrapeByLabel("reason", |s| &s.connections_closed),
    },
    process(
        "weir_http_request_memory_bytes",
        "Memory that is counted for HTTP requests, their headers included.",
        |s| Some(s.request_memory as f64),
    ),
    Family {
        name: "weir_http_requests_without_room_total",
        stat: None,
        help: "HTTP requests that were refused because those that wait hold too many headers or too much memory.",
        read: Read::ScrapeByLabel("reason", |s| &s.requests_without_room),
    },
    Family {
        name: "weir_log_lines_dropped_total",
        stat: None,
        help: "Log lines that were not written: stderr is not read or closed, or more than ten of a kind came in a second.",
        read: Read::ScrapeByLabel("reason", |s| &s.log_lines_dropped),
    },
    total("weir_workers", "workers", "Media workers.", |s| s.workers),
    per_worker("weir_worker_load_ratio", "per_worker.load", "Load of a worker's core.", |w| w.load),
    per_worker(
        "weir_worker_tick_seconds",
        "per_worker.tick_us",
        "Time that a worker lets packets gather; 0 below half a core.",
        |w| w.tick_us as f64 / 1e6,
    ),
    per_worker(
        "weir_worker_rebuilds_total",
        "per_worker.rebuilds",
        "Panics outside a session; each ended all sessions of the worker.",
        |w| w.rebuilds as f64,
    ),
    latency(
        "weir_forward_latency_seconds",
        "forward_latency",
        "Time from the kernel's receipt of a packet to the return of the send call, per datagram sent.",
        |s| &s.forward_latency,
    ),
    latency(
        "weir_forward_latency_established_seconds",
        "forward_latency_established",
        "Forward latency to viewers that had been connected for five seconds or longer.",
        |s| &s.forward_latency_established,
    ),
    latency(
        "weir_tick_wait_seconds",
        "tick_wait",
        "Part of the forward latency that received datagrams waited for the tick.",
        |s| &s.tick_wait,
    ),
    process("weir_ready", "1 while new sessions are accepted, else 0.", |s| {
        Some(f64::from(u8::from(s.ready)))
    }),
    process("weir_uptime_seconds", "Seconds since the start.", |s| Some(s.uptime.as_secs_f64())),
    process("weir_tasks", "Tasks of the control plane and of HTTP connections.", |s| {
        Some(s.process.tasks as f64)
    }),
    Family {
        name: "weir_build_info",
        stat: None,
        help: "Version of this server.",
        read: Read::Version,
    },
    process("process_resident_memory_bytes", "Resident memory.", |s| {
        s.process.resident_bytes.map(|bytes| bytes as f64)
    }),
    process("process_cpu_seconds_total", "CPU time, user and system.", |s| s.process.cpu_seconds),
    process("process_open_fds", "Open file descriptors.", |s| {
        s.process.open_files.map(|open| open as f64)
    }),
];

const fn total(
    name: &'static str,
    stat: &'static str,
    help: &'static str,
    read: fn(&SfuStats) -> u64,
) -> Family {
    Family { name, stat: Some(stat), help, read: Read::Total(read) }
}

const fn by_label(
    name: &'static str,
    stat: &'static str,
    help: &'static str,
    label: &'static str,
    read: fn(&SfuStats) -> Vec<(&'static str, u64)>,
) -> Family {
    Family { name, stat: Some(stat), help, read: Read::ByLabel(label, read) }
}

const fn per_worker(
    name: &'static str,
    stat: &'static str,
    help: &'static str,
    read: fn(&WorkerStats) -> f64,
) -> Family {
    Family { name, stat: Some(stat), help, read: Read::PerWorker(read) }
}

const fn latency(
    name: &'static str,
    stat: &'static str,
    help: &'static str,
    read: fn(&SfuStats) -> &LatencySummary,
) -> Family {
    Family { name, stat: Some(stat), help, read: Read::Latency(read) }
}

const fn process(
    name: &'static str,
    help: &'static str,
    read: fn(&Scrape) -> Option<f64>,
) -> Family {
    Family { name, stat: None, help, read: Read::Process(read) }
}

/// Counters with their labels.
fn pairs(counts: &Counts) -> Vec<(&'static str, u64)> {
    counts.iter().map(|(label, count)| (*label, *count)).collect()
}

/// `GET /metrics`, Prometheus text format 0.0.4.
pub async fn metrics(State(state): State<AppState>) -> Response {
    let stats = state.sfu.inspection().stats().await;
    let scrape = Scrape {
        ready: state.sfu.inspection().ready().is_ok(),
        uptime: state.started.elapsed(),
        offers_refused: state.refused.counts(),
        forwarding_faults: state.forwarding_faults.counts(),
        requests_refused: state.refused_requests.counts(),
        bodies_refused: state.bodies.refused(),
        connections: state.connections.open(),
        connections_closed: state.connections.closed(),
        request_memory: state.connections.held(),
        requests_without_room: state.connections.requests_refused(),
        log_lines_dropped: log::lines_dropped(),
        process: Process::read(),
    };
    let headers =
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (headers, render(&stats, &scrape)).into_response()
}

/// Names of all metrics and samples that `/metrics` may show, for the check of dashboards and
/// rules.
pub fn names() -> impl Iterator<Item = String> {
    FAMILIES.iter().flat_map(|family| {
        let suffixes: &[&str] = match family.read {
            Read::Latency(_) => &["", "_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", family.name))
    })
}

fn render(stats: &SfuStats, scrape: &Scrape) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    for family in FAMILIES {
        family.render(&mut page, stats, scrape);
    }
    page.0
}

impl Family {
    fn render(&self, page: &mut Page, stats: &SfuStats, scrape: &Scrape) {
        let name = self.name;
        match self.read {
            Read::Total(read) => {
                page.begin(self);
                page.sample(name, &[], read(stats));
            }
            Read::ByLabel(label, read) => {
                page.begin(self);
                for (value, count) in read(stats) {
                    page.sample(name, &[(label, value)], count);
                }
            }
            Read::PerWorker(read) => {
                page.begin(self);
                for worker in &stats.per_worker {
                    page.sample(name, &[("worker", &worker.worker.to_string())], read(worker));
                }
            }
            Read::Latency(read) => {
                page.begin(self);
                page.buckets(name, read(stats));
            }
            Read::Process(read) => {
                if let Some(value) = read(scrape) {
                    page.begin(self);
                    page.sample(name, &[], value);
                }
            }
            Read::ScrapeByLabel(label, read) => {
                page.begin(self);
                for (value, count) in read(scrape) {
                    page.sample(name, &[(label, value)], count);
                }
            }
            Read::Version => {
                page.begin(self);
                page.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self.read {
            Read::Latency(_) => "histogram",
            _ if self.name.ends_with("_total") => "counter",
            _ => "gauge",
        }
    }
}

/// Text in the exposition format, family by family.
struct Page(String);

impl Page {
    fn begin(&mut self, family: &Family) {
        let Family { name, help, .. } = family;
        let kind = family.kind();
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn buckets(&mut self, name: &str, latency: &LatencySummary) {
        let bucket = format!("{name}_bucket");
        for (bound_us, count) in &latency.buckets {
            let bound = (*bound_us as f64 / 1e6).to_string();
            self.sample(&bucket, &[("le", &bound)], count);
        }
        self.sample(&bucket, &[("le", "+Inf")], latency.count);
        self.sample(&format!("{name}_sum"), &[], latency.sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), &[], latency.count);
    }

    /// Writes one line. Labels are names from enums and need no escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests;
