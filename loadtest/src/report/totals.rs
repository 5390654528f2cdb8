//! The sum over the results of all sessions.
//!
//! Results are added as sessions end, so that a long churn run needs no memory for the sessions
//! before. Called by `run`.

use super::Report;
use super::figures::{JoinTimes, Latency};
use crate::measures::{LatencyHistogram, PublisherResult, ViewerResult, latency_histogram};

/// The sum over the sessions that have ended.
#[derive(Debug)]
pub(crate) struct Totals {
    report: Report,
    latency: LatencyHistogram,
}

impl Totals {
    /// The sum over no session.
    pub(crate) fn new() -> Self {
        Self { report: Report::default(), latency: latency_histogram() }
    }

    /// Adds the result of a publisher.
    pub(crate) fn add_publisher(&mut self, result: PublisherResult) {
        let report = &mut self.report;
        report.figures.packets_sent += result.packets_sent;
        report.figures.reconnects += u64::from(result.reconnects);
        if let Some(reason) = result.failure {
            report.publishers_failed += 1;
            *report.failures.entry(format!("publisher: {reason}")).or_default() += 1;
        }
    }

    /// Adds the result of a viewer.
    pub(crate) fn add_viewer(&mut self, result: ViewerResult) {
        let report = &mut self.report;
        let figures = &mut report.figures;
        figures.viewers_connected += u32::from(result.connected);
        figures.viewers_failed += u32::from(result.failure.is_some());
        figures.reconnects += u64::from(result.reconnects);
        let media = result.media;
        figures.packets_received += media.packets_received;
        figures.packets_lost += media.packets_lost;
        figures.bytes_received += media.bytes;
        figures.frames_decodable += media.decodable;
        figures.frames_broken += media.broken;
        figures.freezes += media.freezes;
        report.joins_ms.extend(result.join_ms);
        report.first_frames_ms.extend(result.first_frame_ms);
        // Both histograms have the same bounds, so the addition cannot fail.
        let _ = self.latency.add(&media.latency_us);
        if let Some(reason) = result.failure {
            *report.failures.entry(format!("viewer: {reason}")).or_default() += 1;
        }
        for (flaw, count) in media.flaws {
            *report.flaws.entry(flaw).or_default() += count;
        }
        report.repair.add(&media.repair);
        report.posters += media.posters;
    }

    /// The report for a window of `window_s` seconds.
    pub(crate) fn finish(self, window_s: f64) -> Report {
        let Self { mut report, latency } = self;
        report.window_s = window_s;
        report.joins_ms.sort_by(f64::total_cmp);
        report.first_frames_ms.sort_by(f64::total_cmp);
        report.figures.join_ms = JoinTimes::of_sorted(&report.joins_ms);
        report.figures.first_frame_ms = JoinTimes::of_sorted(&report.first_frames_ms);
        report.figures.latency_us = (!latency.is_empty()).then(|| Latency {
            p50: latency.value_at_quantile(0.50),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
        });
        report
    }
}
