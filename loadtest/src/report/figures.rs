//! The figures of a run, as the JSON output has them at its top level.
//!
//! The fields are a contract with scripts: their names and meanings do not change. Filled by
//! `totals`, read by `summary` and `html`.

use serde::Serialize;

/// The figures of a run. Counts are sums over all viewers within the window; the ramp and the
/// warm-up are not counted.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Figures {
    /// Media packets that the publishers sent, without retransmissions.
    pub packets_sent: u64,
    /// Distinct media packets that the viewers received, retransmitted ones included.
    pub packets_received: u64,
    /// Packets still missing after retransmission.
    pub packets_lost: u64,
    /// Bytes of the packets received, RTP headers included.
    pub bytes_received: u64,
    /// Viewers that got their media keys.
    pub viewers_connected: u32,
    /// Viewers that did not connect, never got a frame, or were cut off.
    pub viewers_failed: u32,
    /// Time from the POST to the media keys, in milliseconds.
    pub join_ms: Option<JoinTimes>,
    /// Time from the POST to the first complete keyframe, in milliseconds.
    pub first_frame_ms: Option<JoinTimes>,
    /// Time from the publisher's stamp to the arrival of the frame's last packet, in microseconds.
    /// Null if no frame carries a stamp of this process, or if no viewer checks frames.
    pub latency_us: Option<Latency>,
    /// Frames that a decoder could have shown.
    pub frames_decodable: u64,
    /// Frames that a decoder could not have shown: incomplete, altered, missing, or referring to
    /// such a frame.
    pub frames_broken: u64,
    /// Gaps between decodable frames of at least max(3 x mean, mean + 150 ms).
    pub freezes: u64,
    /// Times that a session was lost and came back, publishers and viewers.
    pub reconnects: u64,
    /// CPU seconds of `--server-pid` within the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_s: Option<f64>,
    /// Largest resident memory of `--server-pid` within the window, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_rss_bytes: Option<u64>,
    /// `server_cpu_s` per packet received, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns_per_packet: Option<f64>,
}

/// Percentiles of a time in milliseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct JoinTimes {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl JoinTimes {
    /// Nearest-rank percentiles of sorted values; `None` without values.
    pub(super) fn of_sorted(values_ms: &[f64]) -> Option<Self> {
        let at = |percent: usize| {
            let rank = (values_ms.len() * percent).div_ceil(100).max(1);
            values_ms.get(rank - 1).map(|value| (value * 1000.0).round() / 1000.0)
        };
        Some(Self { p50: at(50)?, p95: at(95)?, p99: at(99)? })
    }
}

/// Percentiles of the latency in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
}
