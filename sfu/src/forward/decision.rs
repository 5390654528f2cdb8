//! Decisions that a viewer notices, each with its reason, kept for the API (architecture D7).

use std::collections::VecDeque;
use std::time::Instant;

use crate::ids::LayerIdx;

/// Decisions kept per viewer track; at the limit the oldest is removed.
pub const DECISIONS_MAX: usize = 32;

/// Reason why a viewer gets a layer, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The stream has no publisher now.
    NoPublisher,
    /// The publisher has no track for this m-line.
    NoTrack,
    /// The first picture needs a keyframe.
    AwaitingKeyframe,
    /// The m-line is bound to no track now.
    Unbound,
    /// The m-line was bound to this track.
    Bound,
    /// The codec of the track is not in the viewer's answer.
    CodecNotNegotiated,
    /// Audio starts with any packet.
    AudioFlows,
    /// The largest live layer.
    LargestLiveLayer,
    /// The layer that was sent before stopped.
    LayerStopped,
    /// The viewer starts at a cached keyframe and gets all packets after it.
    CachedKeyframe,
    /// The last keyframe is shown alone until the next one comes.
    Poster,
    /// A new publisher took over the stream, or the old one came back.
    PublisherChanged,
    /// The layer that the viewer prefers.
    Pinned,
    /// The layer that the viewer prefers sends nothing now; the next smaller one is sent.
    PinnedNotLive,
    /// The publisher has no layer of the rid or number that the viewer prefers; the largest is
    /// sent.
    PinnedUnknown,
    /// A larger layer is live, but exceeds the limits that the viewer set.
    Capped,
    /// All live layers exceed the limits that the viewer set; the smallest is sent.
    CapBelowAll,
}

impl Reason {
    /// The code shown by the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoPublisher => "no_publisher",
            Self::NoTrack => "no_track",
            Self::AwaitingKeyframe => "awaiting_keyframe",
            Self::Unbound => "unbound",
            Self::Bound => "bound",
            Self::CodecNotNegotiated => "codec_not_negotiated",
            Self::AudioFlows => "audio_flows",
            Self::LargestLiveLayer => "largest_live_layer",
            Self::LayerStopped => "layer_stopped",
            Self::CachedKeyframe => "cached_keyframe",
            Self::Poster => "poster",
            Self::PublisherChanged => "publisher_changed",
            Self::Pinned => "pinned",
            Self::PinnedNotLive => "pinned_not_live",
            Self::PinnedUnknown => "pinned_unknown",
            Self::Capped => "capped",
            Self::CapBelowAll => "cap_below_all",
        }
    }
}

/// One decision: the layer from now on (`None`: nothing is sent), and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Time of the decision.
    pub at: Instant,
    /// The layer that is sent from now on, as an index into the publisher's layers.
    pub layer: Option<LayerIdx>,
    /// Reason of the decision.
    pub reason: Reason,
}

/// The last decisions on one viewer track, oldest first.
#[derive(Debug, Default)]
pub struct DecisionLog(VecDeque<Decision>);

impl DecisionLog {
    /// Records a decision, unless it equals the last one.
    pub fn note(&mut self, at: Instant, layer: Option<LayerIdx>, reason: Reason) {
        if self.0.back().is_some_and(|last| last.layer == layer && last.reason == reason) {
            return;
        }
        if self.0.len() == DECISIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Decision { at, layer, reason });
    }

    /// All kept decisions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Decision> {
        self.0.iter()
    }

    /// The decision in force.
    pub fn last(&self) -> Option<&Decision> {
        self.0.back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_the_last_decisions_and_skips_equal_ones() {
        let at = Instant::now();
        let mut log = DecisionLog::default();
        for n in 0..DECISIONS_MAX as u8 + 5 {
            log.note(at, Some(LayerIdx(n)), Reason::LargestLiveLayer);
            log.note(at, Some(LayerIdx(n)), Reason::LargestLiveLayer);
        }
        assert_eq!(log.iter().count(), DECISIONS_MAX);
        assert_eq!(log.iter().next().and_then(|d| d.layer), Some(LayerIdx(5)));
    }
}
