//! Totals over all workers, as `/api/v1/stats` and `/metrics` show them, and how they are summed up.
//!
//! Plain values and sums; asks nobody. Called by `inspection.rs`; `control.rs` counts sessions in [`Totals`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::latency::{Latency, LatencySummary};
use super::shell_report::ShellReport;
use crate::error::{CloseReason, DropCounters, DropReason};
use crate::ids::Role;
use crate::repair::keyframe_planner::KeyframeCounts;
use crate::worker::WorkerReport;

/// Counters by label, an object in JSON.
pub type Counts = BTreeMap<&'static str, u64>;

/// Totals over all workers; counters are cumulative.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SfuStats {
    /// Publisher sessions, connected or connecting.
    pub publishers: u64,
    /// Viewer sessions, connected or connecting.
    pub subscribers: u64,
    /// Live streams.
    pub streams: u64,
    /// Sessions accepted since the start, by role.
    pub sessions_total: SessionTotals,
    /// Sessions ended since the start, by reason label.
    pub closed_total: Counts,
    /// RTP packets received from publishers.
    pub packets_in: u64,
    /// Bytes of `packets_in` on the wire.
    pub bytes_in: u64,
    /// RTP packets sent to viewers, RTX included.
    pub packets_out: u64,
    /// Bytes of `packets_out` on the wire.
    pub bytes_out: u64,
    /// Retransmissions to viewers, by RTX or on the primary SSRC.
    pub retransmits_out: u64,
    /// Keyframe requests sent to publishers.
    pub keyframe_requests: u64,
    /// How often a keyframe began to be needed, by need: `start` (no picture), `hole` (packets given up),
    /// `refresh` (a fresh picture, or that of another layer).
    pub keyframe_requests_received_total: Counts,
    /// Needs without a request of their own, because one was waiting already or a keyframe had just begun.
    pub keyframe_requests_joined: u64,
    /// Requests whose outcome is certain. The rest may have been answered by chance, or is open.
    pub keyframe_answers_total: AnswerTotals,
    /// Dropped packets by reason label.
    pub dropped_total: Counts,
    /// Packets in packet caches now.
    pub cache_packets: u64,
    /// Bytes in packet caches now.
    pub cache_bytes: u64,
    /// Packets evicted from packet caches before they were 1.5 s old, by cause: `session_limit` (their
    /// publisher held as much as one may), `pool_short` (buffers were short, and their publisher or its
    /// network held most).
    pub cache_evicted_total: Counts,
    /// Bytes of packet buffers that are allocated now.
    pub pool_bytes: u64,
    /// Bytes of packet buffers that hold a packet now.
    pub pool_used_bytes: u64,
    /// Send calls to the kernel.
    pub send_calls: u64,
    /// Datagrams in those send calls.
    pub datagrams_out: u64,
    /// Datagrams per send call since the start: segments per message.
    pub datagrams_per_send_call: f64,
    /// Send calls of several datagrams that the kernel refused as such (no GSO on that path). The datagrams
    /// were sent one by one.
    pub gso_refused: u64,
    /// Datagrams sent one by one because their path had refused GSO before.
    pub gso_spared_datagrams: u64,
    /// Datagrams sent in IP fragments because the first link (a tunnel, a VPN) is too narrow for them.
    pub fragmented_datagrams: u64,
    /// Panics caught; each ended one session, or all sessions of one worker.
    pub panics: u64,
    /// Number of workers.
    pub workers: u64,
    /// Time from the kernel's receipt of a packet to the return of the send call, per datagram sent.
    pub forward_latency: LatencySummary,
    /// The part of `forward_latency` for viewers that had been connected for five seconds or longer: it shows
    /// what a join storm does to them.
    pub forward_latency_established: LatencySummary,
    /// The part of `forward_latency` that received datagrams waited for the tick.
    pub tick_wait: LatencySummary,
    /// State of each worker's thread.
    pub per_worker: Vec<WorkerStats>,
}

/// Sessions accepted since the start, by role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SessionTotals {
    /// Publisher sessions.
    pub publishers: u64,
    /// Viewer sessions.
    pub subscribers: u64,
}

/// Keyframe requests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AnswerTotals {
    /// Requests that were clearly answered.
    pub answered: u64,
    /// Requests without an answer in time, while the layer sent on.
    pub unanswered: u64,
}

/// State of one worker's thread.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WorkerStats {
    /// Index of the worker.
    pub worker: usize,
    /// Load of its core over the last 50 ms or more, from 0 to 1.
    pub load: f64,
    /// Time that packets gather before they are served, in microseconds; 0 below half a core.
    pub tick_us: u64,
    /// Viewer addresses that get one datagram per send call because their path refused GSO; `null` if that is
    /// all of them.
    pub gso_spared_paths: Option<usize>,
    /// Number of times that a panic outside a session ended all its sessions.
    pub rebuilds: u64,
}

/// Cumulative counters of the control plane.
#[derive(Debug, Default)]
pub(super) struct Totals {
    publishers: AtomicU64,
    subscribers: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

impl Totals {
    /// Counts a session that was accepted.
    pub(super) fn count_accepted(&self, role: Role) {
        let counter = match role {
            Role::Publisher => &self.publishers,
            Role::Subscriber => &self.subscribers,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that ended.
    pub(super) fn count_closed(&self, reason: CloseReason) {
        if let Some(counter) = self.closed.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn accepted(&self) -> SessionTotals {
        SessionTotals {
            publishers: self.publishers.load(Ordering::Relaxed),
            subscribers: self.subscribers.load(Ordering::Relaxed),
        }
    }

    fn closed(&self) -> Counts {
        let counts = CloseReason::ALL.iter().zip(&self.closed);
        counts.map(|(reason, n)| (reason.label(), n.load(Ordering::Relaxed))).collect()
    }
}

/// Sum over workers that is being built.
#[derive(Default)]
pub(super) struct StatsSum {
    stats: SfuStats,
    dropped: DropCounters,
    keyframes: KeyframeCounts,
    forward: Latency,
    forward_established: Latency,
    tick_wait: Latency,
}

impl StatsSum {
    /// Sum of no worker, with the counters of the control plane.
    pub(super) fn new(totals: &Totals) -> Self {
        let stats = SfuStats {
            sessions_total: totals.accepted(),
            closed_total: totals.closed(),
            ..SfuStats::default()
        };
        Self { stats, ..Self::default() }
    }

    /// Counts a session that is there now.
    pub(super) fn add_session(&mut self, role: Role) {
        match role {
            Role::Publisher => self.stats.publishers += 1,
            Role::Subscriber => self.stats.subscribers += 1,
        }
    }

    /// Adds the counters of one worker and of its thread.
    pub(super) fn add_worker(
        &mut self,
        index: usize,
        load_permille: u32,
        worker: &WorkerReport,
        shell: &ShellReport,
    ) {
        let stats = &mut self.stats;
        stats.packets_in += worker.packets_in;
        stats.bytes_in += worker.bytes_in;
        stats.packets_out += worker.packets_out;
        stats.bytes_out += worker.bytes_out;
        stats.retransmits_out += worker.retransmits_out;
        stats.keyframe_requests += worker.keyframe_requests;
        stats.cache_packets += worker.cache_packets;
        stats.cache_bytes += worker.cache_bytes;
        for (cause, packets) in worker.evictions.iter() {
            *stats.cache_evicted_total.entry(cause).or_default() += packets;
        }
        stats.pool_bytes += worker.pool_bytes.allocated;
        stats.pool_used_bytes += worker.pool_bytes.used;
        stats.panics += worker.panics;
        stats.send_calls += shell.socket.send_calls;
        stats.datagrams_out += shell.socket.datagrams_out;
        stats.gso_refused += shell.socket.gso_refused;
        stats.gso_spared_datagrams += shell.socket.gso_spared_datagrams;
        stats.fragmented_datagrams += shell.socket.fragmented_datagrams;
        self.keyframes.merge(&worker.keyframes);
        self.dropped.merge(&worker.dropped);
        self.dropped.add(DropReason::SendBlocked, shell.socket.send_blocked);
        self.dropped.add(DropReason::SendError, shell.socket.send_errors);
        self.forward.merge(&shell.forward);
        self.forward_established.merge(&shell.forward_established);
        self.tick_wait.merge(&shell.tick_wait);
        stats.per_worker.push(WorkerStats {
            worker: index,
            load: f64::from(load_permille) / 1e3,
            tick_us: shell.tick.as_micros() as u64,
            gso_spared_paths: shell.socket.gso_spared_paths,
            rebuilds: shell.rebuilds,
        });
    }

    /// Completes the sum for a server with `workers` workers and `streams` streams.
    pub(super) fn finish(self, workers: usize, streams: usize) -> SfuStats {
        let Self { stats, dropped, keyframes, forward, forward_established, tick_wait } = self;
        SfuStats {
            workers: workers as u64,
            streams: streams as u64,
            datagrams_per_send_call: stats.datagrams_out as f64 / stats.send_calls.max(1) as f64,
            keyframe_requests_received_total: keyframes
                .needs()
                .map(|(need, n)| (need.label(), n))
                .collect(),
            keyframe_requests_joined: keyframes.joined,
            keyframe_answers_total: AnswerTotals {
                answered: keyframes.answered,
                unanswered: keyframes.unanswered,
            },
            dropped_total: dropped.iter().map(|(reason, n)| (reason.label(), n)).collect(),
            forward_latency: forward.summary(),
            forward_latency_established: forward_established.summary(),
            tick_wait: tick_wait.summary(),
            ..stats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::socket::SocketStats;
    use std::time::Duration;

    #[test]
    fn counters_of_two_workers_and_their_sockets_add_up() {
        let mut dropped = DropCounters::default();
        dropped.add(DropReason::SendBlocked, 1);
        dropped.add(DropReason::SrtpAuth, 5);
        let worker =
            WorkerReport { packets_in: 10, packets_out: 100, dropped, ..WorkerReport::default() };
        let socket = SocketStats {
            send_calls: 20,
            datagrams_out: 90,
            send_blocked: 2,
            send_errors: 3,
            ..SocketStats::default()
        };
        let mut shell = ShellReport { socket, rebuilds: 1, ..ShellReport::default() };
        shell.forward.record(Duration::from_micros(50), 7);
        let mut sum = StatsSum::new(&Totals::default());
        sum.add_worker(0, 650, &worker, &shell);
        sum.add_worker(1, 0, &worker, &shell);
        let stats = sum.finish(3, 4);
        assert_eq!((stats.packets_in, stats.packets_out, stats.send_calls), (20, 200, 40));
        assert!((stats.datagrams_per_send_call - 4.5).abs() < 1e-9);
        assert_eq!(stats.dropped_total["send_blocked"], 2 * (1 + 2), "worker and socket");
        assert_eq!((stats.dropped_total["send_error"], stats.dropped_total["srtp_auth"]), (6, 10));
        assert_eq!(stats.forward_latency.count, 14);
        assert_eq!((stats.workers, stats.streams), (3, 4));
        let loads: Vec<_> = stats.per_worker.iter().map(|w| (w.worker, w.rebuilds)).collect();
        assert_eq!(loads, [(0, 1), (1, 1)], "a worker that does not answer is left out");
        assert!((stats.per_worker[0].load - 0.65).abs() < 1e-9);
    }

    #[test]
    fn sessions_are_counted_by_role_and_by_close_reason() {
        let totals = Totals::default();
        totals.count_accepted(Role::Publisher);
        totals.count_accepted(Role::Subscriber);
        totals.count_accepted(Role::Subscriber);
        for reason in CloseReason::ALL {
            totals.count_closed(*reason);
        }
        totals.count_closed(CloseReason::Evicted);
        let mut sum = StatsSum::new(&totals);
        sum.add_session(Role::Subscriber);
        let stats = sum.finish(1, 0);
        assert_eq!(stats.sessions_total, SessionTotals { publishers: 1, subscribers: 2 });
        assert_eq!((stats.publishers, stats.subscribers), (0, 1));
        assert_eq!(stats.closed_total.len(), CloseReason::ALL.len());
        assert_eq!((stats.closed_total["evicted"], stats.closed_total["kicked"]), (2, 1));
    }

    #[test]
    fn counts_by_label_are_objects_in_json() {
        let stats = StatsSum::new(&Totals::default()).finish(1, 0);
        let json = serde_json::to_value(&stats).unwrap();
        for name in ["closed_total", "dropped_total", "keyframe_requests_received_total"] {
            assert!(json[name].is_object(), "{name}");
        }
        assert_eq!(json["sessions_total"]["publishers"], 0);
        assert_eq!(json["keyframe_answers_total"]["unanswered"], 0);
        assert_eq!(json["closed_total"]["evicted"], 0);
    }
}
