//! The result: one session's part, the sum over all, the JSON and the summary for people.
//!
//! The fields of [`Figures`] are a contract with scripts: names and meanings stay. Filled by `publisher`, `viewer` and `run`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::generator::Generator;
use crate::measures::{
    LatencyHistogram, PublisherResult, RepairCounts, ViewerResult, latency_histogram,
};
use crate::timeline::Sample;

/// Failure reasons listed in the summary; the rest is summed.
const REASONS_SHOWN: usize = 5;

/// The figures of a run. Counts are sums over viewers within the counted window; ramp and warm-up do not count.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Figures {
    /// Media packets that the publishers sent, without retransmissions.
    pub packets_sent: u64,
    /// Distinct media packets that the viewers received, repaired ones included.
    pub packets_received: u64,
    /// Gaps never filled, after retransmission.
    pub packets_lost: u64,
    /// Bytes of the packets received, RTP headers included.
    pub bytes_received: u64,
    /// Viewers that got their media keys.
    pub viewers_connected: u32,
    /// Viewers that did not connect, never showed a frame, or were cut off.
    pub viewers_failed: u32,
    /// From the POST to media keys, milliseconds.
    pub join_ms: Option<JoinTimes>,
    /// From the POST to the first whole keyframe, milliseconds.
    pub first_frame_ms: Option<JoinTimes>,
    /// From the publisher's stamp to the arrival of the frame's last packet, microseconds; null if frames carry no stamp of this
    /// process or nobody looked.
    pub latency_us: Option<Latency>,
    /// Frames that a decoder could have shown.
    pub frames_decodable: u64,
    /// Frames that it could not: incomplete, altered, missing, or referring to such a frame.
    pub frames_broken: u64,
    /// Gaps between decodable frames of at least max(3 x mean, mean + 150 ms).
    pub freezes: u64,
    /// CPU seconds of `--server-pid` in the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_s: Option<f64>,
    /// The largest resident memory of `--server-pid` seen in the window, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_rss_bytes: Option<u64>,
    /// `server_cpu_s` per packet received, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns_per_packet: Option<f64>,
}

/// Percentiles of a time in milliseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct JoinTimes {
    /// Half were at most this.
    pub p50: f64,
    /// 95 of 100 were at most this.
    pub p95: f64,
    /// 99 of 100 were at most this.
    pub p99: f64,
}

/// Percentiles of the latency in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Half were at most this.
    pub p50: u64,
    /// 99 of 100 were at most this.
    pub p99: u64,
    /// 999 of 1000 were at most this.
    pub p999: u64,
}

/// The whole result: the contract's figures, and what the summary tells besides.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// The contract's figures.
    pub figures: Figures,
    /// Length of the counted window in seconds.
    pub window_s: f64,
    /// Publishers that did not connect or were cut off.
    pub publishers_failed: u32,
    /// Why sessions failed, and how often.
    pub failures: BTreeMap<String, u32>,
    /// Why frames were broken, and how often.
    pub flaws: BTreeMap<&'static str, u64>,
    /// What viewers did to repair, and what was odd.
    pub repair: RepairCounts,
    /// The scenario's name; empty for the plain form.
    pub scenario: &'static str,
    /// What this generator says of itself.
    pub generator: Generator,
    /// The run second by second.
    pub timeline: Vec<Sample>,
    /// Of each viewer that connected: from the POST to media keys and to the first whole keyframe, milliseconds, sorted.
    pub joins_ms: Vec<f64>,
    /// As above.
    pub first_frames_ms: Vec<f64>,
}

/// How a run ended, and the exit code that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody failed, nothing was broken. Exit code 0.
    Well,
    /// Somebody failed or something was broken, and this generator kept up. Exit code 1.
    NotWell,
    /// Something failed, was broken or lost, but this generator was the bottleneck. Exit code 3.
    InDoubt,
}

/// Adds up parts as sessions leave, so that a long churn needs no memory for those who have gone.
#[derive(Debug)]
pub(crate) struct Sums {
    report: Report,
    latency: LatencyHistogram,
}

impl Sums {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { report: Report::default(), latency: latency_histogram() }
    }

    /// Adds a publisher.
    pub(crate) fn publisher(&mut self, result: PublisherResult) {
        let report = &mut self.report;
        report.figures.packets_sent += result.packets_sent;
        if let Some(reason) = result.failure {
            report.publishers_failed += 1;
            *report.failures.entry(format!("publisher: {reason}")).or_default() += 1;
        }
    }

    /// Adds a viewer.
    pub(crate) fn viewer(&mut self, result: ViewerResult) {
        let report = &mut self.report;
        let figures = &mut report.figures;
        figures.viewers_connected += u32::from(result.connected);
        figures.viewers_failed += u32::from(result.failure.is_some());
        let media = result.media;
        figures.packets_received += media.packets.received;
        figures.packets_lost += media.packets.lost;
        figures.bytes_received += media.bytes;
        figures.frames_decodable += media.decodable;
        figures.frames_broken += media.broken;
        figures.freezes += media.freezes;
        report.joins_ms.extend(result.join_ms);
        report.first_frames_ms.extend(result.first_frame_ms);
        // Both have the same bounds, so one always fits into the other.
        let _ = self.latency.add(&media.latency_us);
        if let Some(reason) = result.failure {
            *report.failures.entry(format!("viewer: {reason}")).or_default() += 1;
        }
        for (flaw, count) in media.flaws {
            *report.flaws.entry(flaw).or_default() += count;
        }
        report.repair.add(&media.repair);
    }

    /// The sum, over a window of `window_s` seconds.
    pub(crate) fn finish(self, window_s: f64) -> Report {
        let Self { mut report, latency } = self;
        report.window_s = window_s;
        report.joins_ms.sort_by(f64::total_cmp);
        report.first_frames_ms.sort_by(f64::total_cmp);
        report.figures.join_ms = percentiles(&report.joins_ms);
        report.figures.first_frame_ms = percentiles(&report.first_frames_ms);
        report.figures.latency_us = (!latency.is_empty()).then(|| Latency {
            p50: latency.value_at_quantile(0.50),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
        });
        report
    }
}

impl Report {
    /// Adds viewers and publishers that left no part: they panicked or never came back from leaving.
    pub(crate) fn add_vanished(&mut self, (viewers, publishers): (usize, usize)) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.figures.viewers_failed += count(viewers);
        self.publishers_failed += count(publishers);
        if viewers + publishers > 0 {
            let reason = "a session panicked or hung while leaving (a bug of this tool)".to_owned();
            *self.failures.entry(reason).or_default() += count(viewers + publishers);
        }
    }

    /// Adds what the server used in the window.
    pub(crate) fn add_server(&mut self, cpu_s: f64, rss_bytes: u64) {
        let figures = &mut self.figures;
        figures.server_cpu_s = Some(cpu_s);
        figures.server_rss_bytes = Some(rss_bytes);
        figures.cpu_ns_per_packet =
            (figures.packets_received > 0).then(|| cpu_s * 1e9 / figures.packets_received as f64);
    }

    /// Nobody failed and no frame was broken. A spot check that failed stands for many that were not made.
    #[must_use]
    pub fn all_well(&self) -> bool {
        self.figures.viewers_failed == 0
            && self.figures.frames_broken == 0
            && self.publishers_failed == 0
            && self.repair.spots_failed == 0
    }

    /// How it ended, and whether that can be told.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let spotless = self.all_well() && self.figures.packets_lost == 0;
        match (self.all_well(), self.generator.limited && !spotless) {
            (_, true) => Verdict::InDoubt,
            (true, false) => Verdict::Well,
            (false, false) => Verdict::NotWell,
        }
    }

    /// The whole report as JSON: the contract's figures on top, then what is told besides.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!(self.figures);
        if let Some(top) = json.as_object_mut() {
            let scenario = if self.scenario.is_empty() { None } else { Some(self.scenario) };
            top.insert("scenario".to_owned(), serde_json::json!(scenario));
            top.insert("window_s".to_owned(), serde_json::json!(self.window_s));
            top.insert("generator".to_owned(), serde_json::json!(self.generator));
            top.insert("repair".to_owned(), serde_json::json!(self.repair));
            top.insert("failures".to_owned(), serde_json::json!(self.failures));
            top.insert("flaws".to_owned(), serde_json::json!(self.flaws));
            top.insert("timeline".to_owned(), serde_json::json!(self.timeline));
        }
        json
    }
}

impl Verdict {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::NotWell => 1,
            Self::InDoubt => 3,
        }
    }
}

/// Nearest-rank percentiles of sorted values; `None` without values.
fn percentiles(values: &[f64]) -> Option<JoinTimes> {
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).map(|value| (value * 1000.0).round() / 1000.0)
    };
    Some(JoinTimes { p50: at(50)?, p95: at(95)?, p99: at(99)? })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { packets_sent, packets_received, packets_lost, bytes_received, .. } =
            self.figures;
        let figures = &self.figures;
        let per_s = |count: u64| count as f64 / self.window_s.max(f64::MIN_POSITIVE);
        let share = |part: u64, whole: u64| 100.0 * part as f64 / (whole.max(1)) as f64;
        match self.verdict() {
            Verdict::Well => writeln!(f, "All well.")?,
            Verdict::NotWell => writeln!(f, "NOT well, see below.")?,
            Verdict::InDoubt => writeln!(
                f,
                "IN DOUBT: this generator was the bottleneck, see below. Do not blame the server."
            )?,
        }
        writeln!(
            f,
            "viewers    {} connected, {} failed",
            figures.viewers_connected, figures.viewers_failed
        )?;
        if let Some(join) = figures.join_ms {
            writeln!(
                f,
                "join       {:.1} ms median, {:.1} ms p95, {:.1} ms p99",
                join.p50, join.p95, join.p99
            )?;
        }
        if let Some(first) = figures.first_frame_ms {
            let JoinTimes { p50, p95, p99 } = first;
            writeln!(f, "1st frame  {p50:.1} ms median, {p95:.1} ms p95, {p99:.1} ms p99")?;
        }
        writeln!(f, "window     {:.1} s", self.window_s)?;
        writeln!(
            f,
            "sent       {packets_sent} packets ({:.0}/s) by the publishers",
            per_s(packets_sent)
        )?;
        writeln!(
            f,
            "received   {packets_received} packets ({:.0}/s, {:.1} Mbit/s) by the viewers",
            per_s(packets_received),
            per_s(bytes_received) * 8.0 / 1e6
        )?;
        writeln!(
            f,
            "lost       {packets_lost} packets ({:.4} %) for good; {} filled a gap, {} came twice or too late",
            share(packets_lost, packets_lost + packets_received),
            self.repair.filled,
            self.repair.useless
        )?;
        writeln!(
            f,
            "asked for  {} packets again ({} came so), {} keyframes; {} new numberings",
            self.repair.nacked, self.repair.retransmitted, self.repair.plis, self.repair.restarts
        )?;
        writeln!(
            f,
            "checked    {} packets opened ({:.1} %), {} of them failed authentication",
            self.repair.opened,
            share(self.repair.opened, packets_received),
            self.repair.unauthentic
        )?;
        writeln!(
            f,
            "frames     {} decodable, {} broken, {} freezes",
            figures.frames_decodable, figures.frames_broken, figures.freezes
        )?;
        for (flaw, count) in &self.flaws {
            writeln!(f, "             {count} {flaw}")?;
        }
        if let Some(latency) = figures.latency_us {
            let ms = |us: u64| us as f64 / 1000.0;
            let (p50, p99, p999) = (ms(latency.p50), ms(latency.p99), ms(latency.p999));
            writeln!(f, "latency    {p50:.2} ms median, {p99:.2} ms p99, {p999:.2} ms p99.9")?;
        }
        if let (Some(cpu), Some(rss)) = (figures.server_cpu_s, figures.server_rss_bytes) {
            let (cores, mib) =
                (cpu / self.window_s.max(f64::MIN_POSITIVE), rss as f64 / f64::from(1 << 20));
            write!(f, "server     {cpu:.2} s CPU ({cores:.2} cores), {mib:.1} MiB resident")?;
            if let Some(ns) = figures.cpu_ns_per_packet {
                write!(f, ", {ns:.0} ns per packet received")?;
            }
            writeln!(f)?;
        }
        let Generator { cpu_user_s, cpu_system_s, cpu_share, waited_us, .. } = self.generator;
        writeln!(
            f,
            "generator  {:.2} s CPU ({:.0} % of ours), {:.0} ns of the program per datagram, {:.1} datagrams per read, waits {:.1} ms p99",
            cpu_user_s + cpu_system_s,
            cpu_share * 100.0,
            self.generator.user_ns_per_datagram.unwrap_or(0.0),
            self.generator.datagrams_per_message,
            waited_us.p99 as f64 / 1000.0
        )?;
        for reason in &self.generator.reasons {
            writeln!(f, "           LIMIT: {reason}")?;
        }
        let shown = self.failures.iter().take(REASONS_SHOWN);
        for (reason, count) in shown {
            writeln!(f, "failed     {count} x {reason}")?;
        }
        if self.failures.len() > REASONS_SHOWN {
            writeln!(f, "failed     and {} other reasons", self.failures.len() - REASONS_SHOWN)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::MediaMeasures;

    fn sum(
        window_s: f64,
        publishers: Vec<PublisherResult>,
        viewers: impl IntoIterator<Item = ViewerResult>,
    ) -> Report {
        let mut sums = Sums::new();
        publishers.into_iter().for_each(|result| sums.publisher(result));
        viewers.into_iter().for_each(|result| sums.viewer(result));
        sums.finish(window_s)
    }

    fn viewer(received: u64, failure: Option<&str>) -> ViewerResult {
        let mut media = MediaMeasures::new();
        media.packets.received = received;
        media.packets.lost = 1;
        media.bytes = received * 1000;
        media.decodable = 10;
        media.latency_us.record(1500).expect("in range");
        ViewerResult {
            connected: failure.is_none(),
            failure: failure.map(str::to_owned),
            join_ms: Some(received as f64),
            first_frame_ms: None,
            media,
        }
    }

    #[test]
    fn counts_are_sums_and_times_are_percentiles_over_viewers() {
        let viewers = (1..=100).map(|n| viewer(n, None));
        let mut report = sum(10.0, vec![PublisherResult { packets_sent: 7, failure: None }], viewers);
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
        assert!(report.all_well());
    }

    #[test]
    fn one_failed_viewer_or_publisher_or_broken_frame_is_not_well() {
        assert!(!sum(1.0, vec![], vec![viewer(1, Some("no answer"))]).all_well());
        let failed = PublisherResult { packets_sent: 0, failure: Some("refused".to_owned()) };
        let report = sum(1.0, vec![failed], vec![]);
        assert!(!report.all_well());
        assert!(report.to_string().contains("1 x publisher: refused"));
        let mut broken = viewer(1, None);
        broken.media.broken = 1;
        assert!(!sum(1.0, vec![], vec![broken]).all_well());
    }

    #[test]
    fn spot_check_that_failed_is_not_well_although_nothing_else_is_wrong() {
        let repair = RepairCounts { opened: 9, unauthentic: 1, spots_failed: 1, ..RepairCounts::default() };
        let mut checked = viewer(1, None);
        checked.media.repair = repair;
        let report = sum(1.0, vec![], vec![checked]);
        assert_eq!(report.verdict(), Verdict::NotWell);
    }

    #[test]
    fn generator_that_was_the_bottleneck_blames_nobody_and_says_so() {
        let limited = Generator {
            limited: true,
            reasons: vec!["7 datagrams were dropped".to_owned()],
            ..Generator::default()
        };
        let mut lost = viewer(1, None);
        lost.media.packets.lost = 3;
        let mut report = sum(1.0, vec![], vec![lost]);
        assert_eq!((report.verdict(), report.verdict().exit_code()), (Verdict::Well, 0));
        report.generator = limited.clone();
        assert_eq!((report.verdict(), report.verdict().exit_code()), (Verdict::InDoubt, 3));
        let text = report.to_string();
        assert!(text.contains("Do not blame") && text.contains("7 datagrams"), "{text}");
        assert_eq!(report.json()["generator"]["limited"], true);
        let mut clean = viewer(1, None);
        clean.media.packets.lost = 0;
        let report = Report { generator: limited, ..sum(1.0, vec![], vec![clean]) };
        assert_eq!(report.verdict(), Verdict::Well, "there is nothing to blame anybody for");
    }

    #[test]
    fn contract_has_exactly_these_fields() {
        let mut report = Report::default();
        let names = |report: &Report| {
            let json = serde_json::to_value(&report.figures).expect("is JSON");
            json.as_object().expect("is an object").keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let always = "bytes_received first_frame_ms frames_broken frames_decodable freezes join_ms latency_us packets_lost \
                      packets_received packets_sent viewers_connected viewers_failed";
        assert_eq!(names(&report), always);
        report.figures.packets_received = 1;
        report.add_server(1.0, 1);
        for name in ["server_cpu_s", "server_rss_bytes", "cpu_ns_per_packet"] {
            assert!(names(&report).contains(name));
        }
    }
}
