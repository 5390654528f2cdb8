//! Sums over sessions, the verdict, the summary and the fields of the JSON.

use super::totals::Totals;
use super::*;
use crate::measures::{MediaMeasures, PublisherResult, ViewerResult};

fn report_of(
    window_s: f64,
    publishers: Vec<PublisherResult>,
    viewers: impl IntoIterator<Item = ViewerResult>,
) -> Report {
    let mut totals = Totals::new();
    publishers.into_iter().for_each(|result| totals.add_publisher(result));
    viewers.into_iter().for_each(|result| totals.add_viewer(result));
    totals.finish(window_s)
}

fn viewer(received: u64, failure: Option<&str>) -> ViewerResult {
    let mut media = MediaMeasures::new();
    media.packets_received = received;
    media.packets_lost = 1;
    media.bytes = received * 1000;
    media.decodable = 10;
    media.latency_us.record(1500).expect("in range");
    ViewerResult {
        connected: failure.is_none(),
        failure: failure.map(str::to_owned),
        join_ms: Some(received as f64),
        first_frame_ms: None,
        media,
        reconnects: 0,
    }
}

#[test]
fn counts_are_sums_and_times_are_percentiles_over_viewers() {
    let viewers = (1..=100).map(|n| viewer(n, None));
    let mut report = report_of(
        10.0,
        vec![PublisherResult { packets_sent: 7, ..PublisherResult::default() }],
        viewers,
    );
    report.add_server(0.00505, 9);
    let json = serde_json::to_value(&report.figures).expect("is JSON");
    assert_eq!(json["packets_sent"], 7);
    assert_eq!(json["packets_received"], 5050);
    assert_eq!(json["packets_lost"], 100);
    assert_eq!(json["join_ms"]["p95"], 95.0);
    assert_eq!(json["first_frame_ms"], serde_json::Value::Null);
    assert_eq!(json["cpu_ns_per_packet"], 1000.0);
    let latency = json["latency_us"]["p999"].as_u64().expect("a number");
    assert!(latency.abs_diff(1500) < 30);
    assert!(report.passed());
}

#[test]
fn one_failed_viewer_or_publisher_or_broken_frame_fails_the_run() {
    assert!(!report_of(1.0, vec![], vec![viewer(1, Some("no answer"))]).passed());
    let failed =
        PublisherResult { failure: Some("refused".to_owned()), ..PublisherResult::default() };
    let report = report_of(1.0, vec![failed], vec![]);
    assert!(!report.passed());
    assert!(report.to_string().contains("1 x publisher: refused"));
    let mut broken = viewer(1, None);
    broken.media.broken = 1;
    assert!(!report_of(1.0, vec![], vec![broken]).passed());
}

#[test]
fn session_that_was_lost_and_came_back_fails_the_run_and_is_told() {
    let mut first = viewer(5, None);
    let mut later = viewer(7, None);
    later.reconnects = 1;
    later.join_ms = Some(99.0);
    first.add(later);
    let publisher = PublisherResult { reconnects: 1, ..PublisherResult::default() };
    let report = report_of(1.0, vec![publisher], vec![first]);
    assert_eq!((report.figures.viewers_connected, report.figures.viewers_failed), (1, 0));
    assert_eq!((report.figures.packets_received, report.figures.reconnects), (12, 2));
    assert_eq!(report.figures.join_ms.map(|times| times.p50), Some(5.0), "of the first try");
    assert_eq!(report.verdict(), RunVerdict::Failed);
    assert_eq!(report.json()["reconnects"], 2);
    assert!(report.to_string().contains("lost and came back 2 times"), "{report}");
}

#[test]
fn one_failed_sample_check_fails_the_run() {
    let repair =
        RepairCounts { opened: 9, unauthentic: 1, spots_failed: 1, ..RepairCounts::default() };
    let mut checked = viewer(1, None);
    checked.media.repair = repair;
    let report = report_of(1.0, vec![], vec![checked]);
    assert_eq!(report.verdict(), RunVerdict::Failed);
}

#[test]
fn run_with_a_limited_generator_is_inconclusive_and_says_why() {
    let limited = GeneratorHealth {
        limited: true,
        reasons: vec!["7 datagrams were dropped".to_owned()],
        ..GeneratorHealth::default()
    };
    let mut lost = viewer(1, None);
    lost.media.packets_lost = 3;
    let mut report = report_of(1.0, vec![], vec![lost]);
    assert_eq!((report.verdict(), report.verdict().exit_code()), (RunVerdict::Passed, 0));
    report.generator = limited.clone();
    assert_eq!((report.verdict(), report.verdict().exit_code()), (RunVerdict::Inconclusive, 3));
    let text = report.to_string();
    assert!(text.contains("Do not blame") && text.contains("7 datagrams"), "{text}");
    assert_eq!(report.json()["generator"]["limited"], true);
    let mut clean = viewer(1, None);
    clean.media.packets_lost = 0;
    let report = Report { generator: limited, ..report_of(1.0, vec![], vec![clean]) };
    assert_eq!(report.verdict(), RunVerdict::Passed, "nothing was lost or broken");
}

#[test]
fn json_has_exactly_the_fields_of_the_contract() {
    let mut report = Report::default();
    let names = |report: &Report| {
        let json = serde_json::to_value(&report.figures).expect("is JSON");
        json.as_object().expect("is an object").keys().cloned().collect::<Vec<_>>().join(" ")
    };
    let always = "bytes_received first_frame_ms frames_broken frames_decodable freezes join_ms latency_us packets_lost \
                  packets_received packets_sent reconnects viewers_connected viewers_failed";
    assert_eq!(names(&report), always);
    report.figures.packets_received = 1;
    report.add_server(1.0, 1);
    for name in ["server_cpu_s", "server_rss_bytes", "cpu_ns_per_packet"] {
        assert!(names(&report).contains(name));
    }
}
