//! The report as one HTML page without external resources: verdict, figures, plots, tables.
//!
//! Formats what `report` holds; `plot` draws. Called by `command` for `--html`.

use std::fmt::Write;

use crate::generator::WaitTimes;
use crate::options::{Client, Options, Pattern, Verify};
use crate::plot::{Plot, Series, escape, number};
use crate::report::{Report, RunVerdict};
use crate::timeline::Sample;

/// Approximate number of points in the curve of a distribution.
const CURVE_POINTS: usize = 200;

/// The value of a sample that a line shows.
type Value<'a> = &'a dyn Fn(&Sample) -> Option<f64>;

const STYLE: &str = include_str!("report.css");

/// The page for the report of a run of `options`.
pub(crate) fn page(report: &Report, options: &Options) -> String {
    let title = match report.scenario {
        "" => "WHIP/WHEP load test".to_owned(),
        scenario => format!("WHIP/WHEP load test: {scenario}"),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n<h1>{title}</h1>\n"
    );
    let _ = writeln!(page, "<p class=\"what\">{}</p>", escape(&description(report, options)));
    verdict(&mut page, report);
    page.push_str("<div class=\"tiles\">\n");
    tiles(&mut page, report);
    page.push_str("</div>\n<div class=\"plots\">\n");
    plots(&mut page, report);
    page.push_str("</div>\n<p class=\"legend\"><span class=\"swatch\"></span>the window: all figures are of this time only, except the join times, which are those of all viewers</p>\n<div class=\"tables\">\n");
    tables(&mut page, report);
    page.push_str("</div>\n</main></body></html>\n");
    page
}

/// What was run, in one sentence.
fn description(report: &Report, options: &Options) -> String {
    let common = &options.common;
    let count = |n: u32, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let publishers = count(options.publishers, "publisher");
    let mut text = format!("{publishers}, {}", count(options.viewers, "viewer"));
    match options.pattern {
        Pattern::RoundRobin => {}
        Pattern::Rooms(k) => {
            let _ = write!(text, " (rooms of {k}, every participant watches the others)");
        }
        Pattern::Churn(rate) => {
            let _ = write!(text, " at a time, {rate} joins and leaves per second");
        }
    }
    let video = &options.video;
    if !video.none {
        let _ = write!(
            text,
            "; {:?} {} kbit/s, {} frames/s, keyframes every {} s",
            video.codec, video.kbps, video.fps, video.keyframe_s
        );
        if video.simulcast > 1 {
            let _ = write!(text, ", {} layers", video.simulcast);
        }
    }
    if options.audio {
        text.push_str("; Opus 50 packets/s");
    }
    let checks = match common.verify {
        Verify::All => "every packet and frame checked",
        Verify::Sample => "samples checked",
        Verify::None => "order and loss only",
    };
    let client = if common.client == Client::Full { ", full clients" } else { "" };
    let url = if common.whep.is_empty() { &common.whip } else { &common.whep };
    let _ = write!(text, "; {checks}{client}; window {:.1} s; {url}", report.window_s);
    text
}

fn verdict(page: &mut String, report: &Report) {
    let (class, head) = match report.verdict() {
        RunVerdict::Passed if report.generator.limited => {
            ("doubt", "Passed, but this generator was at its limit: do not trust the latency")
        }
        RunVerdict::Passed => ("good", "Passed: no session failed, no frame was broken"),
        RunVerdict::Failed => ("bad", "Failed"),
        RunVerdict::Inconclusive => {
            ("doubt", "Inconclusive: this generator was the bottleneck. Do not blame the server")
        }
    };
    let _ = write!(page, "<div class=\"verdict {class}\"><b>{head}</b>");
    let generator = report.generator.reasons.iter().map(|reason| format!("generator: {reason}"));
    let failed = report.failures.iter().map(|(reason, count)| format!("{count} x {reason}"));
    let flaws = report.flaws.iter().map(|(flaw, count)| format!("{count} frames: {flaw}"));
    let mut reasons = generator.chain(failed).chain(flaws).peekable();
    if reasons.peek().is_some() {
        page.push_str("<ul>");
        for reason in reasons {
            let _ = write!(page, "<li>{}</li>", escape(&reason));
        }
        page.push_str("</ul>");
    }
    page.push_str("</div>\n");
}

fn tiles(page: &mut String, report: &Report) {
    let figures = &report.figures;
    let window = report.window_s.max(f64::MIN_POSITIVE);
    let mut tile = |label: &str, value: String, unit: &str, note: String| {
        let _ = writeln!(
            page,
            "<div class=\"card tile\"><div class=\"label\">{label}</div>\
             <div class=\"value\">{value}<small>{unit}</small></div><div class=\"note\">{note}</div></div>"
        );
    };
    let all = figures.packets_lost + figures.packets_received;
    let lost = 100.0 * figures.packets_lost as f64 / all.max(1) as f64;
    let (failed, connected) = (figures.viewers_failed, figures.viewers_connected);
    tile("Viewers", connected.to_string(), "", format!("{failed} failed"));
    let per_s = figures.packets_received as f64 / window;
    let mbit = figures.bytes_received as f64 * 8.0 / window / 1e6;
    tile("Received", number(per_s), "packets/s", format!("{} Mbit/s", number(mbit)));
    tile(
        "Lost",
        number(lost),
        "%",
        format!("{} packets, after retransmission", figures.packets_lost),
    );
    let (good, broken) = (figures.frames_decodable, figures.frames_broken);
    if good + broken > 0 {
        let note = format!("of {} frames; {} freezes", good + broken, figures.freezes);
        tile("Broken frames", broken.to_string(), "", note);
    }
    if let Some(latency) = figures.latency_us {
        let ms = |us: u64| number(us as f64 / 1000.0);
        let note = format!("{} ms p99, {} ms p99.9", ms(latency.p99), ms(latency.p999));
        tile("Latency, median", ms(latency.p50), "ms", note);
    }
    if let Some(join) = figures.join_ms {
        let note = format!("{} ms p99", number(join.p99));
        tile("Join, median", number(join.p50), "ms", note);
    }
    if let Some(ns) = figures.cpu_ns_per_packet {
        let cores = figures.server_cpu_s.unwrap_or(0.0) / window;
        let mib = figures.server_rss_bytes.unwrap_or(0) as f64 / f64::from(1 << 20);
        let note = format!("{cores:.2} cores, {} MiB", number(mib));
        tile("Server CPU", number(ns / 1000.0), "µs/packet", note);
    }
}

fn plots(page: &mut String, report: &Report) {
    let samples = &report.timeline;
    let window = window_of(samples);
    let over_time = |y_unit, series: Vec<(&'static str, &'static str, Value<'_>)>| {
        let series = series
            .into_iter()
            .map(|(name, class, value)| Series {
                name,
                class,
                points: samples.iter().map(|sample| (sample.at_s, value(sample))).collect(),
            })
            .collect();
        Plot { x_unit: "s", y_unit, shaded: window, series }
    };
    let latency = |n: usize| {
        move |sample: &Sample| {
            sample.latency_us.and_then(|at| at.get(n).map(|us| *us as f64 / 1000.0))
        }
    };
    let (p50, p99, p999) = (latency(0), latency(1), latency(2));
    let per_packet = |sample: &Sample| {
        let cores = sample.server_cores?;
        // During the ramp the CPU time of joins would count as that of packets.
        (sample.counted && sample.packets_per_s > 100.0).then(|| cores * 1e6 / sample.packets_per_s)
    };
    let slowest =
        report.joins_ms.iter().chain(&report.first_frames_ms).copied().fold(0.0, f64::max);
    let joins = Plot {
        x_unit: "ms",
        y_unit: "%",
        shaded: None,
        series: vec![
            curve("keys", "a", &report.joins_ms, slowest),
            curve("1st frame", "b", &report.first_frames_ms, slowest),
        ],
    };
    let all = [
        (
            "Bitrate",
            "received by all viewers",
            over_time("Mbit/s", vec![("bitrate", "a", &|s| Some(s.mbit_per_s))]),
        ),
        (
            "Packets",
            "received by all viewers, per second",
            over_time("packets/s", vec![("packets", "a", &|s| Some(s.packets_per_s))]),
        ),
        (
            "Loss",
            "packets still missing after retransmission, per second",
            over_time("packets/s", vec![("lost", "b", &|s| Some(s.lost_per_s))]),
        ),
        (
            "Latency",
            "from the publisher's stamp to the kernel's receipt of the frame's last packet",
            over_time("ms", vec![("median", "a", &p50), ("p99", "b", &p99), ("p99.9", "d", &p999)]),
        ),
        (
            "Viewers",
            "connected",
            over_time("viewers", vec![("viewers", "c", &|s| Some(s.viewers as f64))]),
        ),
        (
            "Join times",
            "share of viewers that had media keys, and their first complete keyframe, by this time",
            joins,
        ),
        (
            "CPU",
            "cores used by server and generator",
            over_time(
                "cores",
                vec![
                    ("server", "a", &|s| s.server_cores),
                    ("generator", "c", &|s| s.generator_cores),
                ],
            ),
        ),
        (
            "Server CPU per packet",
            "microseconds for each packet received",
            over_time("µs", vec![("server", "a", &per_packet)]),
        ),
    ];
    for (head, caption, plot) in all {
        if let Some(svg) = plot.svg(head) {
            let _ = writeln!(
                page,
                "<figure class=\"card\"><h2>{head}</h2><figcaption>{caption}</figcaption>{svg}</figure>"
            );
        }
    }
}

/// The time span of the samples within the window.
fn window_of(samples: &[Sample]) -> Option<(f64, f64)> {
    let first = samples.iter().position(|sample| sample.counted)?;
    let from = samples.get(first.saturating_sub(1)).map_or(0.0, |sample| sample.at_s);
    Some((from, samples.iter().rfind(|sample| sample.counted)?.at_s))
}

/// The distribution of sorted values: the share of values up to each. The curve continues to `end`.
fn curve(name: &'static str, class: &'static str, sorted: &[f64], end: f64) -> Series {
    let step = sorted.len().div_ceil(CURVE_POINTS).max(1);
    let share = |n: usize| Some((n + 1) as f64 * 100.0 / sorted.len() as f64);
    let all = sorted.iter().copied().enumerate().map(|(n, value)| (value, share(n)));
    let last = sorted.len().saturating_sub(1);
    let mut points = vec![(0.0, (!sorted.is_empty()).then_some(0.0))];
    points.extend(all.enumerate().filter(|(n, _)| n % step == 0 || *n == last).map(|(_, p)| p));
    points.push((end, (!sorted.is_empty()).then_some(100.0)));
    Series { name, class, points }
}

fn tables(page: &mut String, report: &Report) {
    let (figures, repair, own) = (&report.figures, &report.repair, &report.generator);
    let mut table = |head: &str, rows: Vec<(&str, String)>| {
        let _ = write!(page, "<section class=\"card\"><h2>{head}</h2><table>");
        for (name, value) in rows {
            let _ = write!(page, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
        }
        page.push_str("</table></section>\n");
    };
    table(
        "Media",
        vec![
            ("Packets sent by publishers", figures.packets_sent.to_string()),
            ("Packets received by viewers", figures.packets_received.to_string()),
            ("Packets lost after retransmission", figures.packets_lost.to_string()),
            ("Gaps filled", repair.filled.to_string()),
            ("Packets requested by NACK", repair.nacked.to_string()),
            ("Retransmissions received", repair.retransmitted.to_string()),
            ("Duplicates and late packets", repair.useless.to_string()),
            ("Keyframes requested", repair.plis.to_string()),
            ("Restarts of the numbering", repair.restarts.to_string()),
        ],
    );
    table(
        "Checks",
        vec![
            ("Packets decrypted", repair.opened.to_string()),
            ("Failed authentications", repair.unauthentic.to_string()),
            ("Frames decodable", figures.frames_decodable.to_string()),
            ("Frames broken", figures.frames_broken.to_string()),
            ("Freezes", figures.freezes.to_string()),
            ("Viewers failed", figures.viewers_failed.to_string()),
            ("Publishers failed", report.publishers_failed.to_string()),
        ],
    );
    let waits = |waits: &WaitTimes| {
        let ms = |us: u64| us as f64 / 1000.0;
        format!("{:.1} / {:.1} / {:.0} ms", ms(waits.p50), ms(waits.p99), ms(waits.max))
    };
    let unknown = || "unknown".to_owned();
    table(
        "This generator",
        vec![
            ("Share of its CPUs", format!("{:.0} %", own.cpu_share * 100.0)),
            ("Busiest thread", format!("{:.0} % of a CPU", own.busiest_thread * 100.0)),
            (
                "User time, system time",
                format!("{:.2} s, {:.2} s", own.cpu_user_s, own.cpu_system_s),
            ),
            (
                "User time per datagram",
                own.user_ns_per_datagram.map_or_else(unknown, |ns| format!("{ns:.0} ns")),
            ),
            ("Datagrams per read", format!("{:.1}", own.datagrams_per_message)),
            (
                "Dropped at its sockets",
                own.datagrams_dropped.map_or_else(unknown, |n| n.to_string()),
            ),
            ("Sends refused by the kernel", own.datagrams_refused.to_string()),
            ("Wait before reading (p50 / p99 / max)", waits(&own.waited_us)),
            ("Delay of timers (p50 / p99 / max)", waits(&own.late_us)),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::GeneratorHealth;

    fn options() -> Options {
        let args =
            ["weir-loadtest", "livestream", "--whip", "http://h/<a>", "--whep", "http://h/<a>"];
        crate::options::parse_options(args).expect("parses")
    }

    fn report() -> Report {
        let sample = |n: u32| Sample {
            at_s: n.into(),
            counted: n > 3,
            packets_per_s: 1000.0,
            latency_us: Some([900, 2000, 3000]),
            server_cores: Some(0.5),
            ..Sample::default()
        };
        Report {
            scenario: "livestream",
            window_s: 6.0,
            timeline: (0..10).map(sample).collect(),
            joins_ms: (1..=1000).map(f64::from).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn page_has_no_external_resources_and_is_escaped() {
        let page = page(&report(), &options());
        for outside in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("http://h/&lt;a&gt;") && !page.contains("http://h/<a>"));
        assert!(page.contains("prefers-color-scheme: dark"));
        for head in ["Bitrate", "Loss", "Latency", "Join times", "Server CPU per packet"] {
            assert!(page.contains(&format!("<h2>{head}</h2>")), "{head}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.contains("Passed"));
    }

    #[test]
    fn verdict_names_the_bottleneck() {
        let mut report = report();
        report.figures.frames_broken = 5;
        assert!(page(&report, &options()).contains("Failed"));
        report.generator = GeneratorHealth {
            limited: true,
            reasons: vec!["9 datagrams were dropped".to_owned()],
            ..GeneratorHealth::default()
        };
        let page = page(&report, &options());
        assert!(page.contains("Do not blame the server") && page.contains("9 datagrams"));
    }

    #[test]
    fn curve_of_many_values_has_few_points_and_ends_at_100_percent() {
        let sorted: Vec<f64> = (1..=1001).map(f64::from).collect();
        let curve = curve("x", "a", &sorted, 2000.0);
        assert!(curve.points.len() < CURVE_POINTS + 4);
        assert_eq!(curve.points.last(), Some(&(2000.0, Some(100.0))));
        assert!(curve.points.contains(&(1001.0, Some(100.0))));
    }

    #[test]
    fn window_is_shaded_from_its_beginning_to_its_end() {
        assert_eq!(window_of(&report().timeline), Some((3.0, 9.0)));
        assert_eq!(window_of(&[]), None);
    }
}
