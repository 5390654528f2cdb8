//! The result: one session's part, the sum over all, the JSON and the summary for people.
//!
//! The fields of [`Figures`] are a contract with scripts: names and meanings stay. Filled by `publisher`, `viewer` and `run`.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

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
    pub repair: Repair,
}

/// Repair and oddities on the viewers' side, within the window.
#[derive(Debug, Default, Clone, Copy)]
pub struct Repair {
    /// Packets that filled a gap, late or retransmitted.
    pub filled: u64,
    /// Packets that came twice, or too late.
    pub useless: u64,
    /// Packets that failed authentication.
    pub unauthentic: u64,
    /// Sequence numbers asked for.
    pub nacked: u64,
    /// Keyframes asked for.
    pub plis: u64,
    /// Streams that began a new numbering.
    pub restarts: u64,
}

/// What one viewer measured.
#[derive(Debug)]
pub(crate) struct ViewerPart {
    pub(crate) connected: bool,
    pub(crate) failure: Option<String>,
    pub(crate) join_ms: Option<f64>,
    pub(crate) first_frame_ms: Option<f64>,
    pub(crate) packets_received: u64,
    pub(crate) packets_lost: u64,
    pub(crate) bytes_received: u64,
    pub(crate) frames_decodable: u64,
    pub(crate) frames_broken: u64,
    pub(crate) freezes: u64,
    pub(crate) flaws: BTreeMap<&'static str, u64>,
    pub(crate) repair: Repair,
    pub(crate) latency_us: Latencies,
}

/// What one publisher measured.
#[derive(Debug, Default)]
pub(crate) struct PublisherPart {
    pub(crate) packets_sent: u64,
    pub(crate) failure: Option<String>,
}

/// Latencies of frames: two significant digits, about 10 KB for any number of them.
pub(crate) type Latencies = Histogram<u32>;

/// An empty record of latencies up to a minute.
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_max(60_000_000, 2).expect("these bounds are within the crate's")
}

impl Report {
    /// The sum of the parts over a window of `window_s` seconds.
    pub(crate) fn sum(
        window_s: f64,
        publishers: Vec<PublisherPart>,
        viewers: Vec<ViewerPart>,
    ) -> Self {
        let mut report = Self { window_s, ..Self::default() };
        for part in publishers {
            report.figures.packets_sent += part.packets_sent;
            if let Some(reason) = part.failure {
                report.publishers_failed += 1;
                *report.failures.entry(format!("publisher: {reason}")).or_default() += 1;
            }
        }
        let (mut joins, mut firsts, mut latency) = (Vec::new(), Vec::new(), latencies());
        for part in viewers {
            let figures = &mut report.figures;
            figures.viewers_connected += u32::from(part.connected);
            figures.viewers_failed += u32::from(part.failure.is_some());
            figures.packets_received += part.packets_received;
            figures.packets_lost += part.packets_lost;
            figures.bytes_received += part.bytes_received;
            figures.frames_decodable += part.frames_decodable;
            figures.frames_broken += part.frames_broken;
            figures.freezes += part.freezes;
            joins.extend(part.join_ms);
            firsts.extend(part.first_frame_ms);
            // Both have the same bounds, so one always fits into the other.
            let _ = latency.add(&part.latency_us);
            if let Some(reason) = part.failure {
                *report.failures.entry(format!("viewer: {reason}")).or_default() += 1;
            }
            for (flaw, count) in part.flaws {
                *report.flaws.entry(flaw).or_default() += count;
            }
            let (sum, more) = (&mut report.repair, part.repair);
            sum.filled += more.filled;
            sum.useless += more.useless;
            sum.unauthentic += more.unauthentic;
            sum.nacked += more.nacked;
            sum.plis += more.plis;
            sum.restarts += more.restarts;
        }
        report.figures.join_ms = percentiles(joins);
        report.figures.first_frame_ms = percentiles(firsts);
        report.figures.latency_us = (!latency.is_empty()).then(|| Latency {
            p50: latency.value_at_quantile(0.50),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
        });
        report
    }

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

    /// Whether the exit code is 0: nobody failed and no frame was broken.
    #[must_use]
    pub fn all_well(&self) -> bool {
        self.figures.viewers_failed == 0
            && self.figures.frames_broken == 0
            && self.publishers_failed == 0
    }
}

/// Nearest-rank percentiles; `None` without values.
fn percentiles(mut values: Vec<f64>) -> Option<JoinTimes> {
    values.sort_by(f64::total_cmp);
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
        writeln!(f, "{}", if self.all_well() { "All well." } else { "NOT well, see below." })?;
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
            "asked for  {} packets again, {} keyframes; {} packets failed authentication, {} new numberings",
            self.repair.nacked, self.repair.plis, self.repair.unauthentic, self.repair.restarts
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

    fn viewer(received: u64, failure: Option<&str>) -> ViewerPart {
        let mut latency_us = latencies();
        latency_us.record(1500).expect("in range");
        ViewerPart {
            connected: failure.is_none(),
            failure: failure.map(str::to_owned),
            join_ms: Some(received as f64),
            first_frame_ms: None,
            packets_received: received,
            packets_lost: 1,
            bytes_received: received * 1000,
            frames_decodable: 10,
            frames_broken: 0,
            freezes: 0,
            flaws: BTreeMap::new(),
            repair: Repair::default(),
            latency_us,
        }
    }

    #[test]
    fn counts_are_sums_and_times_are_percentiles_over_viewers() {
        let viewers = (1..=100).map(|n| viewer(n, None)).collect();
        let mut report =
            Report::sum(10.0, vec![PublisherPart { packets_sent: 7, failure: None }], viewers);
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
        assert!(!Report::sum(1.0, vec![], vec![viewer(1, Some("no answer"))]).all_well());
        let failed = PublisherPart { packets_sent: 0, failure: Some("refused".to_owned()) };
        let report = Report::sum(1.0, vec![failed], vec![]);
        assert!(!report.all_well());
        assert!(report.to_string().contains("1 x publisher: refused"));
        let broken = ViewerPart { frames_broken: 1, ..viewer(1, None) };
        assert!(!Report::sum(1.0, vec![], vec![broken]).all_well());
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
