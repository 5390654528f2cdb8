//! The report as text for a terminal: one line for each subject.
//!
//! Formats what `Report` holds; computes only rates and shares. Printed by `command`.

use std::fmt::{Display, Formatter, Result};

use super::{JoinTimes, Report, RunVerdict};

/// Maximum failure reasons that are listed. The others are counted.
const REASONS_SHOWN: usize = 5;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.fmt_verdict(f)?;
        self.fmt_joins(f)?;
        self.fmt_packets(f)?;
        self.fmt_frames(f)?;
        self.fmt_server(f)?;
        self.fmt_generator(f)?;
        self.fmt_failures(f)
    }
}

impl Report {
    fn fmt_verdict(&self, f: &mut Formatter<'_>) -> Result {
        match self.verdict() {
            RunVerdict::Passed => writeln!(f, "PASSED: no session failed, no frame was broken."),
            RunVerdict::Failed if self.figures.reconnects > 0 => writeln!(
                f,
                "FAILED: sessions were lost and came back {} times, see below.",
                self.figures.reconnects
            ),
            RunVerdict::Failed => writeln!(f, "FAILED, see below."),
            RunVerdict::Inconclusive => writeln!(
                f,
                "INCONCLUSIVE: this generator was the bottleneck, see below. Do not blame the server."
            ),
        }
    }

    fn fmt_joins(&self, f: &mut Formatter<'_>) -> Result {
        let figures = &self.figures;
        let (connected, failed) = (figures.viewers_connected, figures.viewers_failed);
        write!(f, "viewers    {connected} connected, {failed} failed")?;
        match figures.reconnects {
            0 => writeln!(f)?,
            times => writeln!(f, "; lost and back {times} times, publishers included")?,
        }
        if let Some(JoinTimes { p50, p95, p99 }) = figures.join_ms {
            writeln!(f, "join       {p50:.1} ms median, {p95:.1} ms p95, {p99:.1} ms p99")?;
        }
        if let Some(JoinTimes { p50, p95, p99 }) = figures.first_frame_ms {
            writeln!(f, "1st frame  {p50:.1} ms median, {p95:.1} ms p95, {p99:.1} ms p99")?;
        }
        Ok(())
    }

    fn fmt_packets(&self, f: &mut Formatter<'_>) -> Result {
        let (figures, repair) = (&self.figures, &self.repair);
        let (sent, received, lost) =
            (figures.packets_sent, figures.packets_received, figures.packets_lost);
        writeln!(f, "window     {:.1} s", self.window_s)?;
        writeln!(f, "sent       {sent} packets ({:.0}/s) by the publishers", self.per_s(sent))?;
        writeln!(
            f,
            "received   {received} packets ({:.0}/s, {:.1} Mbit/s) by the viewers",
            self.per_s(received),
            self.per_s(figures.bytes_received) * 8.0 / 1e6
        )?;
        writeln!(
            f,
            "lost       {lost} packets ({:.4} %) after retransmission; {} gaps filled, {} duplicates or late packets",
            percent(lost, lost + received),
            repair.filled,
            repair.useless
        )?;
        writeln!(
            f,
            "requested  {} packets by NACK ({} retransmissions received), {} keyframes; {} restarts of the numbering",
            repair.nacked, repair.retransmitted, repair.plis, repair.restarts
        )?;
        writeln!(
            f,
            "checked    {} packets decrypted ({:.1} %), {} of them failed authentication",
            repair.opened,
            percent(repair.opened, received),
            repair.unauthentic
        )
    }

    fn fmt_frames(&self, f: &mut Formatter<'_>) -> Result {
        let figures = &self.figures;
        writeln!(
            f,
            "frames     {} decodable, {} broken, {} freezes",
            figures.frames_decodable, figures.frames_broken, figures.freezes
        )?;
        for (flaw, count) in &self.flaws {
            writeln!(f, "             {count} {flaw}")?;
        }
        if self.posters > 0 {
            let posters = self.posters;
            writeln!(
                f,
                "starts     {posters} viewers had a still picture until the next keyframe"
            )?;
        }
        if let Some(latency) = figures.latency_us {
            let ms = |us: u64| us as f64 / 1000.0;
            let (p50, p99, p999) = (ms(latency.p50), ms(latency.p99), ms(latency.p999));
            writeln!(f, "latency    {p50:.2} ms median, {p99:.2} ms p99, {p999:.2} ms p99.9")?;
        }
        Ok(())
    }

    fn fmt_server(&self, f: &mut Formatter<'_>) -> Result {
        let figures = &self.figures;
        let (Some(cpu_s), Some(rss)) = (figures.server_cpu_s, figures.server_rss_bytes) else {
            return Ok(());
        };
        let cores = cpu_s / self.window_s.max(f64::MIN_POSITIVE);
        let mib = rss as f64 / f64::from(1 << 20);
        write!(f, "server     {cpu_s:.2} s CPU ({cores:.2} cores), {mib:.1} MiB resident")?;
        if let Some(ns) = figures.cpu_ns_per_packet {
            write!(f, ", {ns:.0} ns per packet received")?;
        }
        writeln!(f)
    }

    fn fmt_generator(&self, f: &mut Formatter<'_>) -> Result {
        let generator = &self.generator;
        writeln!(
            f,
            "generator  {:.2} s CPU ({:.0} % of its CPUs), {:.0} ns user time per datagram, {:.1} datagrams per read, {:.1} ms p99 wait in socket buffers",
            generator.cpu_user_s + generator.cpu_system_s,
            generator.cpu_share * 100.0,
            generator.user_ns_per_datagram.unwrap_or(0.0),
            generator.datagrams_per_message,
            generator.waited_us.p99 as f64 / 1000.0
        )?;
        for reason in &generator.reasons {
            writeln!(f, "           LIMIT: {reason}")?;
        }
        Ok(())
    }

    fn fmt_failures(&self, f: &mut Formatter<'_>) -> Result {
        for (reason, count) in self.failures.iter().take(REASONS_SHOWN) {
            writeln!(f, "failed     {count} x {reason}")?;
        }
        if self.failures.len() > REASONS_SHOWN {
            writeln!(f, "failed     and {} other reasons", self.failures.len() - REASONS_SHOWN)?;
        }
        Ok(())
    }

    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.window_s.max(f64::MIN_POSITIVE)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
