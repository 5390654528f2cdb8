//! What sessions measure: the result of each session, and the counts that a viewer reports while it
//! runs.
//!
//! Values only: nothing here looks at a packet or a clock. Filled by `receiver`, `viewer` and
//! `publisher`. Read by `report`, which adds results up, and by `live`, which shows the progress of
//! a run.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies of frames. Two significant digits need about 10 KB for any number of latencies.
pub(crate) type LatencyHistogram = Histogram<u32>;

/// An empty histogram for latencies up to one minute.
pub(crate) fn latency_histogram() -> LatencyHistogram {
    Histogram::new_with_max(60_000_000, 2).expect("these bounds are within the crate's")
}

/// The result of one viewer session.
#[derive(Debug)]
pub(crate) struct ViewerResult {
    /// Whether the session got its media keys.
    pub(crate) connected: bool,
    /// Why the session failed, if it did.
    pub(crate) failure: Option<String>,
    /// Time from the POST to the media keys.
    pub(crate) join_ms: Option<f64>,
    /// Time from the POST to the first complete keyframe.
    pub(crate) first_frame_ms: Option<f64>,
    /// Media received within the window.
    pub(crate) media: MediaMeasures,
    /// Times that the session was lost and came back.
    pub(crate) reconnects: u32,
}

impl ViewerResult {
    /// Adds the result of a later try of the same viewer. Join times stay those of the first.
    pub(crate) fn add(&mut self, later: Self) {
        self.connected |= later.connected;
        self.failure = later.failure;
        self.join_ms = self.join_ms.or(later.join_ms);
        self.first_frame_ms = self.first_frame_ms.or(later.first_frame_ms);
        self.media.add(&later.media);
        self.reconnects += later.reconnects;
    }
}

/// The result of one publisher session.
#[derive(Debug, Default)]
pub(crate) struct PublisherResult {
    /// Media packets sent within the window, without retransmissions.
    pub(crate) packets_sent: u64,
    /// Why the session failed, if it did.
    pub(crate) failure: Option<String>,
    /// Times that the session was lost and came back.
    pub(crate) reconnects: u32,
}

/// Media that one viewer received within the window.
#[derive(Debug)]
pub(crate) struct MediaMeasures {
    /// Distinct packets received, of both tracks.
    pub(crate) packets_received: u64,
    /// Packets still missing after retransmission, of both tracks.
    pub(crate) packets_lost: u64,
    /// Bytes of the packets received, RTP headers included.
    pub(crate) bytes: u64,
    /// Frames that a decoder could have shown.
    pub(crate) decodable: u64,
    /// Frames that a decoder could not have shown.
    pub(crate) broken: u64,
    /// Gaps between frames that are long enough to be freezes.
    pub(crate) freezes: u64,
    /// Why frames were broken, and how often.
    pub(crate) flaws: BTreeMap<&'static str, u64>,
    /// Retransmission, authentication and keyframe requests.
    pub(crate) repair: RepairCounts,
    /// Latencies of frames; without video, of audio packets.
    pub(crate) latency_us: LatencyHistogram,
    /// Whether the last packet of the window came long before its end.
    pub(crate) silent_at_end: bool,
    /// Times that the first frame was a still picture: what followed it was a later keyframe.
    pub(crate) posters: u64,
}

impl MediaMeasures {
    /// Measures of a viewer that received nothing.
    pub(crate) fn new() -> Self {
        Self {
            packets_received: 0,
            packets_lost: 0,
            bytes: 0,
            decodable: 0,
            broken: 0,
            freezes: 0,
            flaws: BTreeMap::new(),
            repair: RepairCounts::default(),
            latency_us: latency_histogram(),
            silent_at_end: false,
            posters: 0,
        }
    }

    /// Adds the measures of a later try.
    fn add(&mut self, later: &Self) {
        self.packets_received += later.packets_received;
        self.packets_lost += later.packets_lost;
        self.bytes += later.bytes;
        self.decodable += later.decodable;
        self.broken += later.broken;
        self.freezes += later.freezes;
        for (flaw, count) in &later.flaws {
            *self.flaws.entry(flaw).or_default() += count;
        }
        self.repair.add(&later.repair);
        // Both histograms have the same bounds, so the addition cannot fail.
        let _ = self.latency_us.add(&later.latency_us);
        self.silent_at_end = later.silent_at_end;
        self.posters += later.posters;
    }
}

/// Retransmissions, authentication and keyframe requests of viewers within the window. The fields
/// are JSON fields.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct RepairCounts {
    /// Packets that filled a gap, late or retransmitted.
    pub filled: u64,
    /// Duplicates, and packets that came after they were counted as lost.
    pub useless: u64,
    /// Packets received as retransmissions, whether they filled a gap or not.
    pub retransmitted: u64,
    /// Packets that were decrypted.
    pub opened: u64,
    /// Decrypted packets that failed authentication.
    pub unauthentic: u64,
    /// Failed authentications at viewers that check samples only. More packets may be wrong that no
    /// viewer checked.
    pub spots_failed: u64,
    /// Sequence numbers requested by NACK.
    pub nacked: u64,
    /// Keyframes requested by PLI.
    pub plis: u64,
    /// Jumps in the sequence numbers that began a new numbering.
    pub restarts: u64,
}

impl RepairCounts {
    /// Adds the counts of another viewer.
    pub(crate) fn add(&mut self, other: &Self) {
        self.filled += other.filled;
        self.useless += other.useless;
        self.retransmitted += other.retransmitted;
        self.opened += other.opened;
        self.unauthentic += other.unauthentic;
        self.spots_failed += other.spots_failed;
        self.nacked += other.nacked;
        self.plis += other.plis;
        self.restarts += other.restarts;
    }
}

/// Counts of one viewer since its last update, within the window or not.
#[derive(Debug, Default)]
pub(crate) struct ProgressUpdate {
    /// Packets received.
    pub(crate) packets: u64,
    /// Bytes of the packets received.
    pub(crate) bytes: u64,
    /// Packets lost.
    pub(crate) lost: u64,
    /// Packets lost within the window.
    pub(crate) counted_lost: u64,
    /// Frames broken within the window.
    pub(crate) broken: u64,
    /// Latencies of frames, at most as many as the receiver keeps.
    pub(crate) latencies_us: Vec<u64>,
}
