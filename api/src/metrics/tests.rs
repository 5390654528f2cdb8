//! The table of metrics against the statistics, the API description and the dashboard.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;

/// Statistics in which every number is another one. All fields stand here, so that a new one does
/// not compile until its metric is decided.
fn stats() -> SfuStats {
    let latency = |count, sum_us| LatencySummary {
        count,
        sum_us,
        buckets: vec![(50, count / 2), (1_000, count - 1)],
        ..LatencySummary::default()
    };
    SfuStats {
        publishers: 101,
        subscribers: 102,
        streams: 103,
        sessions_total: SessionTotals { publishers: 104, subscribers: 105 },
        closed_total: Counts::from([("deleted", 106), ("kicked", 0)]),
        packets_in: 107,
        bytes_in: 108,
        packets_out: 109,
        bytes_out: 110,
        retransmits_out: 111,
        keyframe_requests: 112,
        keyframe_requests_received_total: Counts::from([("start", 113), ("refresh", 0)]),
        keyframe_requests_joined: 114,
        keyframe_answers_total: AnswerTotals { answered: 115, unanswered: 116 },
        dropped_total: Counts::from([("srtp_auth", 117), ("ring_full", 0)]),
        cache_packets: 118,
        cache_bytes: 119,
        cache_evicted_total: Counts::from([("session_limit", 135), ("pool_short", 0)]),
        pool_bytes: 136,
        pool_used_bytes: 137,
        send_calls: 120,
        datagrams_out: 121,
        datagrams_per_send_call: 122.5,
        gso_refused: 123,
        gso_spared_datagrams: 124,
        fragmented_datagrams: 160,
        panics: 125,
        workers: 126,
        forward_latency: latency(128, 2_500),
        forward_latency_established: latency(130, 3_500),
        tick_wait: latency(132, 4_500),
        per_worker: vec![WorkerStats {
            worker: 1,
            load: 0.75,
            tick_us: 250,
            gso_spared_paths: Some(133),
            rebuilds: 134,
        }],
    }
}

fn scrape() -> Scrape {
    let process = Process {
        resident_bytes: Some(4_096),
        cpu_seconds: Some(1.25),
        open_files: None,
        tasks: 3,
    };
    let offers_refused = vec![("conflict", 7), ("malformed", 0)];
    Scrape {
        ready: true,
        uptime: Duration::from_millis(1_500),
        offers_refused,
        forwarding_faults: vec![("missing", 0), ("conflict", 9)],
        requests_refused: vec![("foreign_page", 8)],
        bodies_refused: vec![("gave_way", 9)],
        connections: 9,
        connections_closed: vec![("idle", 10)],
        request_memory: 13,
        requests_without_room: vec![("memory", 14)],
        log_lines_dropped: [("queue_full", 11), ("write_failed", 0), ("repeated", 12)],
        process,
    }
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn each_number_stands_under_its_name() {
    let text = render(&stats(), &scrape());
    for line in [
        "weir_publishers 101",
        "weir_sessions_total{role=\"publisher\"} 104",
        "weir_sessions_total{role=\"subscriber\"} 105",
        "weir_sessions_closed_total{reason=\"deleted\"} 106",
        "weir_sessions_closed_total{reason=\"kicked\"} 0",
        "weir_packets_dropped_total{reason=\"srtp_auth\"} 117",
        "weir_packets_dropped_total{reason=\"ring_full\"} 0",
        "weir_keyframe_requests_received_total{need=\"start\"} 113",
        "weir_keyframe_requests_received_total{need=\"refresh\"} 0",
        "weir_keyframe_requests_joined_total 114",
        "weir_cache_evicted_packets_total{cause=\"session_limit\"} 135",
        "weir_cache_evicted_packets_total{cause=\"pool_short\"} 0",
        "weir_pool_bytes 136",
        "weir_pool_used_bytes 137",
        "weir_keyframe_answers_total{outcome=\"answered\"} 115",
        "weir_keyframe_answers_total{outcome=\"unanswered\"} 116",
        "weir_forward_latency_seconds_bucket{le=\"0.00005\"} 64",
        "weir_forward_latency_seconds_bucket{le=\"0.001\"} 127",
        "weir_forward_latency_seconds_bucket{le=\"+Inf\"} 128",
        "weir_forward_latency_seconds_sum 0.0025",
        "weir_forward_latency_seconds_count 128",
        "weir_forward_latency_established_seconds_count 130",
        "weir_tick_wait_seconds_sum 0.0045",
        "weir_worker_load_ratio{worker=\"1\"} 0.75",
        "weir_worker_tick_seconds{worker=\"1\"} 0.00025",
        "weir_worker_rebuilds_total{worker=\"1\"} 134",
        "weir_offers_refused_total{reason=\"conflict\"} 7",
        "weir_offers_refused_total{reason=\"malformed\"} 0",
        "weir_http_forwarding_faults_total{reason=\"conflict\"} 9",
        "weir_requests_refused_total{reason=\"foreign_page\"} 8",
        "weir_http_bodies_refused_total{reason=\"gave_way\"} 9",
        "weir_http_connections 9",
        "weir_http_connections_closed_total{reason=\"idle\"} 10",
        "weir_http_request_memory_bytes 13",
        "weir_http_requests_without_room_total{reason=\"memory\"} 14",
        "weir_log_lines_dropped_total{reason=\"queue_full\"} 11",
        "weir_log_lines_dropped_total{reason=\"repeated\"} 12",
        "weir_uptime_seconds 1.5",
        "weir_ready 1",
        "weir_tasks 3",
        "process_resident_memory_bytes 4096",
        "process_cpu_seconds_total 1.25",
    ] {
        assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
    }
    assert!(!text.contains("process_open_fds"), "unknown figures have no sample");
}

#[test]
fn every_sample_follows_its_own_help_and_type() {
    let text = render(&stats(), &scrape());
    let declared: BTreeSet<String> = names().collect();
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
            assert!(declared.contains(name), "{name}");
            assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn every_number_of_the_statistics_is_a_metric() {
    let stats = stats();
    let json = serde_json::to_value(&stats).unwrap();
    let mut exported: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for stat in FAMILIES.iter().filter_map(|family| family.stat) {
        let (group, field) = stat.split_once('.').unwrap_or(("", stat));
        assert!(exported.entry(group).or_default().insert(field.to_owned()), "{stat} twice");
    }
    // A ratio of two counters, and the list of workers, whose numbers are metrics of their own.
    let mut fields = keys(&json);
    fields.retain(|field| !["datagrams_per_send_call", "per_worker"].contains(&field.as_str()));
    assert_eq!(exported[""], fields);
    // The index is the label; the number of spared paths is unknown when all are spared.
    let mut fields = keys(&json["per_worker"][0]);
    fields.retain(|field| !["worker", "gso_spared_paths"].contains(&field.as_str()));
    assert_eq!(exported["per_worker"], fields);

    for family in FAMILIES {
        if let (Some(stat), Read::Total(read)) = (family.stat, &family.read) {
            assert_eq!(json[stat], read(&stats), "{} reads another field", family.name);
        }
    }
}

#[test]
fn the_description_has_the_fields_of_the_statistics() {
    let openapi: Value = serde_json::from_str(crate::admin::OPENAPI).unwrap();
    let schema = |name: &str| openapi["components"]["schemas"][name]["properties"].clone();
    let json = serde_json::to_value(stats()).unwrap();
    let mut fields = keys(&json);
    fields.extend(set([
        "version",
        "uptime_s",
        "ready",
        "offers_refused_total",
        "requests_refused_total",
    ]));
    assert_eq!(keys(&schema("Stats")), fields);
    let worker = &schema("Stats")["per_worker"]["items"]["properties"];
    assert_eq!(keys(worker), keys(&json["per_worker"][0]));
    assert_eq!(keys(&schema("Latency")), keys(&json["forward_latency"]));
}
