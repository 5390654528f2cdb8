//! Report: measures everything, and rewrites the figures and plots of `docs/BENCHMARKS.md`.
//!
//! `cargo run --release -p weir-benches --bin report`, as root: two minutes of CPU time. Tables are
//! between marks in the page; the text around them is not changed. `--quick` proves that it runs
//! and writes nothing. Builds itself again with the profile of the shipped binary (`shipped.rs`).

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_benches::cases::allocations::{self, Row as AllocationRow};
use weir_benches::cases::fanout::{self, Row as FanoutRow};
use weir_benches::cases::{ingest, rewrite, ring, router_snapshot, srtp};
use weir_benches::egress::{self, Found, Setting};
use weir_benches::netns::{self, Device};
use weir_benches::plot::Chart;
use weir_benches::shipped;
use weir_benches::stopwatch::{Case, measure_in_turn, smoke_run};
use weir_sfu::codec::MediaKind;

fn main() -> Result<(), String> {
    shipped::run_as_shipped("report")?;
    netns::enter()?;
    let mut report = Report::default();
    let before = load();
    report.egress()?;
    report.fanout();
    report.allocations();
    report.aims();
    report.steps("ring", "Handing a packet to another worker", ring::cases());
    report.steps("router_snapshot", "Where a packet goes", router_snapshot::cases());
    report.steps("ingest", "A datagram on its way in", ingest::cases());
    report.steps("rewrite", "Deciding and writing, before the cipher", rewrite::cases());
    report.srtp();
    report.section("machine", machine(&before));
    if smoke_run() { Ok(()) } else { report.write() }
}

/// Texts between the marks, and the plots.
#[derive(Default)]
struct Report {
    sections: Vec<(&'static str, String)>,
    plots: Vec<(&'static str, Chart)>,
    egress: Vec<Found>,
    allocations: u64,
}

impl Report {
    fn egress(&mut self) -> Result<(), String> {
        let mut table = Found::HEAD.to_owned();
        let mut rows = Vec::new();
        for setting in egress::settings() {
            let found = egress::measure(setting)?;
            _ = write!(table, "{found}");
            for row in &found.rows {
                let label = format!("{}, {} viewers", found.setting.label(), row.audience.label());
                rows.push((label, vec![row.worker_ns, row.floor_ns]));
            }
            self.egress.push(found);
        }
        self.section("egress", table);
        self.plot("egress", "Forwarding through the kernel, by device and frames", &WORKER, rows);
        Ok(())
    }

    fn fanout(&mut self) {
        let rows: Vec<_> = fanout::scenes().into_iter().map(FanoutRow::measure).collect();
        let lines = rows.iter().map(|row| format!("\n{row}"));
        let table = std::iter::once(FanoutRow::HEAD.to_owned()).chain(lines).collect();
        let bars = rows.iter().map(|row| {
            let (scene, what) = (row.scene, row.what.as_str());
            let (viewers, packets) = (scene.viewers, scene.frames.mean_packets());
            let workers = if scene.workers > 1 {
                format!(", {} workers", scene.workers)
            } else {
                String::new()
            };
            let label = format!("{what}, {viewers} x {packets}{workers}");
            (label, vec![row.cost.candidate_ns, row.cost.floor_ns])
        });
        self.section("fanout", table);
        let bars = bars.collect();
        self.plot(
            "fanout",
            "Forwarding without the kernel, viewers x packets per turn",
            &WORKER,
            bars,
        );
    }

    fn allocations(&mut self) {
        let mut table = "\
| packets per turn | workers | forwarded packets | allocations while forwarding | in timers |
|---|---|---|---|---|"
            .to_owned();
        for row in allocations::rows() {
            let AllocationRow { frame_packets, workers, packets, forwarding, timers } = row;
            let line = format!("{frame_packets} | {workers} | {packets} | {forwarding} | {timers}");
            _ = write!(table, "\n| {line} |");
            self.allocations += forwarding;
        }
        let join = allocations::join();
        _ = write!(
            table,
            "\n\nA viewer that joins makes {} allocations and keeps {} KB.",
            join.count_total,
            join.bytes_current / 1_000
        );
        self.section("allocations", table);
    }

    /// Goals of the project, against the results.
    fn aims(&mut self) {
        let mut table = "| aim | wanted | found | |\n|---|---|---|---|".to_owned();
        let mut line = |aim: &str, wanted: &str, found: f64, met: bool| {
            let verdict = if met { "met" } else { "not met" };
            _ = write!(table, "\n| {aim} | {wanted} | {found:.2} | {verdict} |");
        };
        for found in &self.egress {
            let Setting { device, codec, .. } = found.setting;
            let (what, audio) = (found.setting.label(), codec.kind() == MediaKind::Audio);
            let most = match device {
                _ if audio => 2.0,
                Device::Ifb => 1.6,
                Device::Loopback => 1.3,
            };
            for row in &found.rows {
                let most = match device {
                    Device::Ifb if row.audience.joint => 1.4,
                    Device::Loopback if row.audience.joint => 1.25,
                    _ => most,
                };
                let aim = format!("CPU over floor, {what}, {} viewers", row.audience.label());
                line(&aim, &format!("at most {most}"), row.ratio, row.ratio <= most);
            }
            if let Some(rise) = found.rise.filter(|_| device == Device::Ifb && !audio) {
                let segments =
                    found.rows.iter().map(|row| row.segments).fold(f64::INFINITY, f64::min);
                line(
                    &format!("datagrams per message, {what}"),
                    "at least 4",
                    segments,
                    segments >= 4.0,
                );
                let aim = format!("CPU per packet at 1,000 viewers over 100, {what}");
                line(&aim, "at most 1.2", rise, rise <= 1.2);
            }
        }
        line("allocations while forwarding", "0", self.allocations as f64, self.allocations == 0);
        self.section("aims", table);
    }

    fn srtp(&mut self) {
        let [weir, other, raw] = srtp::WHO;
        let mut table =
            format!("| what | {weir} | {other} | {raw} | {weir} / {raw} |\n|---|---|---|---|---|");
        let mut bars = Vec::new();
        let mut cases = srtp::cases();
        for cases in cases.chunks_mut(srtp::WHO.len()) {
            let what = cases.first().map_or(String::new(), |case| {
                let name = case.name.trim_end_matches(weir).trim_end_matches(", ");
                format!("{}, {name}", case.group)
            });
            let ns = measure_in_turn(cases);
            let [ours, others, floor] = ns[..] else { continue };
            _ = write!(
                table,
                "\n| {what} | {ours:.0} | {others:.0} | {floor:.0} | {:.2} |",
                ours / floor
            );
            bars.push((what, ns));
        }
        self.section("srtp", table);
        self.plot("srtp", "Sealing and opening", &srtp::WHO, bars);
    }

    /// Cases in a table of their own.
    fn steps(&mut self, name: &'static str, title: &str, cases: Vec<Case>) {
        let mut table = "| what | case | ns |\n|---|---|---|".to_owned();
        let mut bars = Vec::new();
        for mut case in cases {
            let ns = measure_in_turn(std::slice::from_mut(&mut case)).into_iter().sum::<f64>();
            let digits = if ns < 10.0 { 1 } else { 0 };
            _ = write!(table, "\n| {} | {} | {ns:.digits$} |", case.group, case.name);
            bars.push((format!("{}: {}", case.group, case.name), vec![ns]));
        }
        self.section(name, table);
        self.plot(name, title, &["CPU"], bars);
    }

    fn section(&mut self, name: &'static str, text: String) {
        println!("{name}\n\n{text}\n");
        self.sections.push((name, text));
    }

    fn plot(
        &mut self,
        name: &'static str,
        title: &str,
        series: &[&str],
        rows: Vec<(String, Vec<f64>)>,
    ) {
        let series = series.iter().copied().map(str::to_owned).collect();
        let (title, unit) = (title.to_owned(), "CPU ns per packet");
        self.plots.push((name, Chart { title, unit, series, rows }));
    }

    fn write(&self) -> Result<(), String> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = docs.join("BENCHMARKS.md");
        let mut text = read(&page)?;
        for (name, section) in &self.sections {
            let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
            let from = text.find(&begin).map(|at| at + begin.len());
            let to = text.find(&end);
            let (Some(from), Some(to)) = (from, to) else {
                return Err(format!("{} has no marks for {name}", page.display()));
            };
            text.replace_range(from..to, &format!("\n{section}\n\n"));
        }
        save(&page, &text)?;
        for (name, chart) in &self.plots {
            save(&docs.join("bench").join(format!("{name}.svg")), &chart.svg())?;
        }
        Ok(())
    }
}

/// Series of a plot with a floor.
const WORKER: [&str; 2] = ["worker", "floor"];

fn machine(load_before: &str) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models =
        || cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models().next().map_or("unknown processor", |(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = Command::new("rustc").arg("--version").output().map(|out| out.stdout);
    let rustc = String::from_utf8(rustc.unwrap_or_default()).unwrap_or_default();
    let checks = if cfg!(debug_assertions) { " (overflow checks on)" } else { "" };
    let profile = shipped::profile() + checks;
    format!(
        "{} x {model}, Linux {}, {}, profile {profile}; load average {load_before} before the run, {} after.",
        models().count(),
        // After the first dash comes the builder of the kernel.
        kernel.trim().split('-').next().unwrap_or_default(),
        rustc.trim(),
        load(),
    )
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn save(path: &PathBuf, text: &str) -> Result<(), String> {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    folder
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}
