//! The report of a run: figures, verdict, and the JSON output.
//!
//! It never measures anything. `totals` fills it from the results of sessions, `run` adds what was
//! measured around the window. `figures` has the fields that scripts rely on; `summary` is the text
//! for a terminal; the HTML page is in `html`.

mod figures;
mod summary;
pub(crate) mod totals;

use std::collections::BTreeMap;

pub(crate) use figures::{Figures, JoinTimes};

use crate::generator::GeneratorHealth;
use crate::measures::RepairCounts;
use crate::timeline::Sample;

/// The report of a run.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// The figures that scripts rely on.
    pub figures: Figures,
    /// Length of the window in seconds.
    pub(crate) window_s: f64,
    /// Publishers that did not connect or were cut off.
    pub publishers_failed: u32,
    /// Why sessions failed, and how often.
    pub(crate) failures: BTreeMap<String, u32>,
    /// Why frames were broken, and how often.
    pub flaws: BTreeMap<&'static str, u64>,
    /// Retransmissions, authentication and keyframe requests of the viewers.
    pub repair: RepairCounts,
    /// Viewers within the window whose first frame was a still picture until the next keyframe.
    pub(crate) posters: u64,
    /// The name of the scenario; empty without a scenario.
    pub(crate) scenario: &'static str,
    /// What this generator measured of itself.
    pub(crate) generator: GeneratorHealth,
    /// The run second by second.
    pub(crate) timeline: Vec<Sample>,
    /// Time from the POST to the media keys of each viewer that connected, in milliseconds, sorted.
    pub(crate) joins_ms: Vec<f64>,
    /// Time from the POST to the first complete keyframe of each viewer, in milliseconds, sorted.
    pub(crate) first_frames_ms: Vec<f64>,
}

/// How a run ended, and the exit code for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunVerdict {
    /// No session failed or was lost, and no frame was broken. Exit code 0.
    Passed,
    /// A session failed or was lost, or a frame was broken, and this generator kept up. Exit code 1.
    Failed,
    /// Something failed, was broken or was lost, but this generator was the bottleneck. Exit code
    /// 3.
    Inconclusive,
}

impl RunVerdict {
    /// The exit code of the process.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Inconclusive => 3,
        }
    }
}

impl Report {
    /// Adds sessions that returned no result: they panicked or did not end in time.
    pub(crate) fn add_sessions_without_result(&mut self, viewers: usize, publishers: usize) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.figures.viewers_failed += count(viewers);
        self.publishers_failed += count(publishers);
        if viewers + publishers > 0 {
            let reason = "a session panicked or did not end (a bug of this tool)".to_owned();
            *self.failures.entry(reason).or_default() += count(viewers + publishers);
        }
    }

    /// Adds the CPU time and memory that the server used within the window.
    pub(crate) fn add_server(&mut self, cpu_s: f64, rss_bytes: u64) {
        let figures = &mut self.figures;
        figures.server_cpu_s = Some(cpu_s);
        figures.server_rss_bytes = Some(rss_bytes);
        figures.cpu_ns_per_packet =
            (figures.packets_received > 0).then(|| cpu_s * 1e9 / figures.packets_received as f64);
    }

    /// Whether no session failed and no frame was broken. A failed sample check counts as well,
    /// because it stands for many packets that were not checked; so does a session that was lost,
    /// though it came back.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.figures.viewers_failed == 0
            && self.figures.frames_broken == 0
            && self.publishers_failed == 0
            && self.figures.reconnects == 0
            && self.repair.spots_failed == 0
    }

    /// How the run ended.
    pub(crate) fn verdict(&self) -> RunVerdict {
        let flawless = self.passed() && self.figures.packets_lost == 0;
        match (self.passed(), self.generator.limited && !flawless) {
            (_, true) => RunVerdict::Inconclusive,
            (true, false) => RunVerdict::Passed,
            (false, false) => RunVerdict::Failed,
        }
    }

    /// The whole report as JSON: the figures at the top level, everything else in fields beside
    /// them.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!(self.figures);
        if let Some(top) = json.as_object_mut() {
            let scenario = if self.scenario.is_empty() { None } else { Some(self.scenario) };
            top.insert("scenario".to_owned(), serde_json::json!(scenario));
            top.insert("window_s".to_owned(), serde_json::json!(self.window_s));
            top.insert("generator".to_owned(), serde_json::json!(self.generator));
            top.insert("repair".to_owned(), serde_json::json!(self.repair));
            top.insert("posters".to_owned(), serde_json::json!(self.posters));
            top.insert("failures".to_owned(), serde_json::json!(self.failures));
            top.insert("flaws".to_owned(), serde_json::json!(self.flaws));
            top.insert("timeline".to_owned(), serde_json::json!(self.timeline));
        }
        json
    }
}

#[cfg(test)]
mod tests;
