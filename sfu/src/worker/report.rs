//! Reports of sessions and workers for the API: plain values, never a secret or an address.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::codec::{Codec, MediaKind};
use crate::error::DropCounters;
use crate::forward::LayerPreference;
use crate::ids::{Role, SessionId, StreamName};
use crate::media::PoolBytes;
use crate::media::pool::Evictions;
use crate::repair::keyframe_planner::KeyframeCounts;
use crate::repair::responses::ResponseStats;
use crate::sdp::RejectedSection;
use crate::transport::peer::PeerState;

use super::warning::Warning;

/// Time after which a client from which nothing comes is shown as silent. Media and RTCP come at least
/// each second; a client that sends no media is asked for consent each 4 to 6 s, so that it may be
/// shown as silent in between.
const SILENT_AFTER: Duration = Duration::from_secs(3);

impl SessionInfo {
    /// How long a connected client was silent, if that is longer than [`SILENT_AFTER`].
    pub(super) fn silence(state: PeerState, last_alive: Instant, now: Instant) -> Option<f64> {
        let silent = now.saturating_duration_since(last_alive);
        let shown = state == PeerState::Connected && silent >= SILENT_AFTER;
        shown.then(|| seconds(silent))
    }
}

/// One session as `/api/v1/sessions/{id}` shows it. It never holds a secret or an address.
#[derive(Debug, Clone, Serialize)]
pub struct SessionInfo {
    /// Public id.
    pub id: SessionId,
    /// Publisher or subscriber.
    pub role: Role,
    /// Name of its stream.
    pub stream: StreamName,
    /// Connection state: `waiting_ice`, `waiting_dtls`, `connected`.
    pub state: &'static str,
    /// Seconds since the POST, to the millisecond.
    pub age_s: f64,
    /// Seconds since anything authenticated came from a connected client, if it should have sent
    /// something by now: from 3 s on. At 30 s its session ends.
    pub silent_s: Option<f64>,
    /// The worker that owns it.
    pub worker: usize,
    /// SRTP profile once connected.
    pub srtp_profile: Option<&'static str>,
    /// Round-trip time in milliseconds: from RTCP, our own checks or answers to NACKs, or, while
    /// there are none of these, the least time in which a flight of the handshake was answered.
    pub rtt_ms: Option<f64>,
    /// Bytes and packets of media since the start.
    pub tracks: Vec<TrackInfo>,
    /// The last decisions with their reasons, oldest first.
    pub decisions: Vec<DecisionInfo>,
    /// What is wrong with the publisher's stream, or with what the viewer asked for.
    pub warnings: Vec<Warning>,
}

/// One track of a session.
#[derive(Debug, Clone, Serialize)]
pub struct TrackInfo {
    /// `a=mid`
    pub mid: String,
    /// `audio` or `video`.
    pub kind: MediaKind,
    /// Codec in use, once known.
    pub codec: Option<Codec>,
    /// Layers (publisher) or the one outgoing RTP stream (subscriber); none for an m-line that was
    /// rejected.
    pub layers: Vec<LayerInfo>,
    /// Reason code of what is sent to this viewer, e.g. `largest_live_layer`, `awaiting_keyframe`,
    /// `no_publisher`; `null` for a publisher.
    pub reason: Option<&'static str>,
    /// The reason in words, where a viewer's m-line is not served.
    pub reason_text: Option<String>,
    /// Rid of the layer that is sent to this viewer, empty without simulcast; `null` while none is.
    pub current_layer: Option<String>,
    /// Rid of the layer that should be sent: it is from its next keyframe on.
    pub target_layer: Option<String>,
    /// Reason for the target layer, e.g. `largest_live_layer`, `pinned`, `capped`.
    pub target_reason: Option<&'static str>,
    /// The highest temporal layer that is sent to this viewer; `null` where nothing was left out
    /// recently. It follows the target down with the next frame, and up where frames of a higher
    /// layer may begin.
    pub current_temporal_layer: Option<u8>,
    /// The highest temporal layer that may be sent to this viewer; `null` without a limit.
    pub target_temporal_layer: Option<u8>,
    /// Layer preference of the viewer; `null` is the automatic choice.
    pub preference: Option<LayerPreference>,
}

/// State of a publisher's stream that its viewers are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublisherStatus {
    /// What is wrong with the stream.
    pub warnings: Vec<Warning>,
    /// Time between two keyframes that come unrequested, once it is known; of several layers the
    /// longest.
    pub keyframe_interval: Option<Duration>,
    /// Time at which the next of them is expected; in the past if it is late.
    pub next_keyframe: Option<Instant>,
}

impl TrackInfo {
    /// An m-line without codec and layers, and without what only a viewer's track has.
    pub(super) fn bare(mid: &str, kind: MediaKind) -> Self {
        Self {
            mid: mid.to_owned(),
            kind,
            codec: None,
            layers: Vec::new(),
            reason: None,
            reason_text: None,
            current_layer: None,
            target_layer: None,
            target_reason: None,
            current_temporal_layer: None,
            target_temporal_layer: None,
            preference: None,
        }
    }

    /// An m-line of a viewer that the answer rejected.
    pub fn rejected(section: &RejectedSection) -> Self {
        Self {
            reason: Some(section.cause.label()),
            reason_text: Some(section.cause.to_string()),
            ..Self::bare(&section.mid, section.kind)
        }
    }
}

/// M-line of a viewer on which nothing is sent although the viewer asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedTrack {
    /// `a=mid`
    pub mid: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// Reason code.
    pub reason: &'static str,
    /// The reason in words.
    pub text: String,
}

/// Layers that a viewer can choose for one of its video tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackLayers {
    /// `a=mid` of the viewer's section.
    pub mid: String,
    /// Layers that ever sent anything, the largest first.
    pub layers: Vec<LayerState>,
    /// Whether nothing moves until a keyframe comes.
    pub awaits_keyframe: bool,
    /// Whether temporal layers are limited, and the stream has none that can be left out.
    pub filters_in_vain: bool,
}

/// One layer as its viewer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerState {
    /// `a=rid` of the publisher's layer, empty without simulcast.
    pub rid: String,
    /// Number by size, 0 for the smallest.
    pub spatial_layer: u8,
    /// Width and height in pixels, once a keyframe carried them.
    pub size: Option<(u16, u16)>,
    /// Bits per second over the last second; 0 if it sends nothing.
    pub bitrate_bps: u64,
    /// Whether it is sent to this viewer.
    pub flows: bool,
    /// Whether it should be sent to this viewer.
    pub target: bool,
}

/// One layer (simulcast encoding) of a track.
#[derive(Debug, Clone, Serialize)]
pub struct LayerInfo {
    /// `a=rid` of the publisher's layer, empty without simulcast.
    pub rid: String,
    /// Profile and level as the publisher's parameter sets state them, e.g. `avc1.64001e`. The
    /// profile in its offer may be another.
    pub codec_string: Option<String>,
    /// SSRC on this connection.
    pub ssrc: u32,
    /// Packets received (publisher) or sent (subscriber).
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Bits per second over the last second.
    pub bitrate_bps: u64,
    /// Cumulative packets lost: not repaired (publisher), or reported by the viewer.
    pub lost: u64,
    /// Packets that arrived more than once (publisher). Of a viewer, by how many such packets exceed
    /// its losses: its reports tell only the difference (RFC 3550 section 6.4.1).
    pub duplicates: u64,
    /// Video keyframes received (publisher) or sent (subscriber), one per frame; 0 for audio.
    pub keyframes: u64,
    /// PLI or FIR for this layer: sent (publisher) or received (subscriber).
    pub keyframe_requests: u64,
    /// Packets that were requested by NACK: by us (publisher) or by the viewer (subscriber).
    pub nacks: u64,
    /// Packets repaired: NACKs answered, by RTX or by the packet itself, and packets recovered from
    /// RED (publisher); retransmissions sent (subscriber).
    pub repairs: u64,
    /// Width and height in pixels of the layer's last keyframe that carried them. In JSON an object
    /// with these names.
    #[serde(serialize_with = "named_size")]
    pub resolution: Option<(u16, u16)>,
    /// Learned behaviour of a publisher's video layer; `null` for audio and for a viewer.
    pub learned: Option<LearnedInfo>,
}

/// Seconds to the millisecond, for the API.
pub(crate) fn seconds(span: Duration) -> f64 {
    span.as_millis() as f64 / 1e3
}

/// Milliseconds to the microsecond, for the API.
pub(super) fn milliseconds(span: Duration) -> f64 {
    span.as_micros() as f64 / 1e3
}

/// Writes a size as `{"width": 1280, "height": 720}`, or `null`.
fn named_size<S: Serializer>(size: &Option<(u16, u16)>, output: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Size {
        width: u16,
        height: u16,
    }
    size.map(|(width, height)| Size { width, height }).serialize(output)
}

/// Learned behaviour of one video layer of a publisher.
#[derive(Debug, Clone, Serialize)]
pub struct LearnedInfo {
    /// Responses to keyframe requests; `null` if neither PLI nor FIR was negotiated.
    pub pli: Option<ResponseInfo>,
    /// Responses to NACKs; `null` if NACK was not negotiated.
    pub nack: Option<ResponseInfo>,
    /// Milliseconds between the keyframes that it sends unrequested, if they are periodic.
    pub keyframe_period_ms: Option<u64>,
    /// Median of the last intervals between keyframes that came unrequested, periodic or not, in
    /// milliseconds; `null` before the second of them.
    pub keyframe_interval_ms: Option<u64>,
    /// Milliseconds until the next keyframe is due by that interval.
    pub next_keyframe_ms: Option<u64>,
}

/// Responses to requests of one kind to one layer.
#[derive(Debug, Clone, Serialize)]
pub struct ResponseInfo {
    /// `unknown`, `answered` or `ignored`.
    pub state: &'static str,
    /// Requests sent (for NACKs: numbers requested, without repetitions).
    pub asked: u64,
    /// Requests that were clearly answered.
    pub answered: u64,
    /// Median of the last eight answer times in milliseconds.
    pub answer_ms: Option<f64>,
}

impl ResponseInfo {
    pub(super) fn of(answers: &ResponseStats) -> Self {
        Self {
            state: answers.responsiveness().label(),
            asked: answers.requested(),
            answered: answers.answered(),
            answer_ms: answers.median_time().map(milliseconds),
        }
    }
}

/// One decision that a viewer notices.
#[derive(Debug, Clone, Serialize)]
pub struct DecisionInfo {
    /// Seconds since the session began, to the millisecond.
    pub at_s: f64,
    /// The decision, e.g. `layer h`.
    pub decision: String,
    /// Reason code.
    pub reason: &'static str,
}

/// One worker's cumulative counters.
#[derive(Debug, Clone, Default)]
pub struct WorkerReport {
    /// RTP packets received from publishers.
    pub packets_in: u64,
    /// Bytes of these packets on the wire.
    pub bytes_in: u64,
    /// RTP packets sent to viewers, retransmissions included.
    pub packets_out: u64,
    /// Bytes of these packets on the wire.
    pub bytes_out: u64,
    /// Retransmissions sent to viewers.
    pub retransmits_out: u64,
    /// Keyframe requests sent to publishers.
    pub keyframe_requests: u64,
    /// Causes and results of keyframe requests.
    pub keyframes: KeyframeCounts,
    /// Dropped packets by reason.
    pub dropped: DropCounters,
    /// Packets in packet caches now.
    pub cache_packets: u64,
    /// Payload bytes in packet caches now.
    pub cache_bytes: u64,
    /// Bytes of packet buffers now.
    pub pool_bytes: PoolBytes,
    /// Packets evicted from packet caches before they were old.
    pub evictions: Evictions,
    /// Panics caught.
    pub panics: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_to_what_they_can_mean() {
        let span = Duration::from_nanos(12_345_678_901);
        assert_eq!((seconds(span), milliseconds(span)), (12.345, 12_345.678));
    }

    #[test]
    fn size_in_json_is_an_object_or_null() {
        let json = |size| named_size(&size, serde_json::value::Serializer).unwrap();
        assert_eq!(json(Some((1280, 720))), serde_json::json!({ "width": 1280, "height": 720 }));
        assert!(json(None).is_null());
    }
}
