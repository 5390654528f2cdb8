//! Decisions a viewer feels, each with its reason, kept for the API (architecture D7).

use std::collections::VecDeque;
use std::time::Instant;

use crate::ids::LayerIdx;

/// Decisions kept per viewer track; the oldest leaves.
pub const DECISIONS_MAX: usize = 32;

/// Why a viewer gets what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No publisher on the stream now.
    NoPublisher,
    /// The publisher has no track for this m-line.
    NoTrack,
    /// The first picture needs a keyframe.
    AwaitingKeyframe,
    /// The m-line is bound to no track now.
    Unbound,
    /// The m-line was bound to this track.
    Bound,
    /// The codec of the track that the m-line was bound to is not in the viewer's answer.
    CodecNotNegotiated,
    /// Audio starts with any packet.
    AudioFlows,
    /// The largest layer that is alive.
    LargestLiveLayer,
    /// The layer watched before stopped.
    LayerStopped,
    /// The picture begins at a keyframe that was cached, with all that followed.
    CachedKeyframe,
    /// The last keyframe is shown alone until the next one comes.
    Poster,
    /// A new publisher took the stream over, or the old one came back.
    PublisherChanged,
    /// The layer that the viewer asked for.
    Pinned,
    /// The layer that the viewer asked for sends nothing now: the next smaller one instead.
    PinnedNotLive,
    /// The publisher has no layer of the name or number that the viewer asked for: the largest instead.
    PinnedUnknown,
    /// A larger layer is alive, and the viewer asked for no more than this.
    Capped,
    /// Every layer alive is larger than what the viewer asked for: the smallest.
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

/// One decision: which layer from now on (`None`: nothing is sent), and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// When.
    pub at: Instant,
    /// The layer that flows from now on, as an index into the publisher's layers.
    pub layer: Option<LayerIdx>,
    /// Why.
    pub reason: Reason,
}

/// The last decisions of one viewer track, oldest first.
#[derive(Debug, Default)]
pub struct DecisionLog(VecDeque<Decision>);

impl DecisionLog {
    /// Notes a decision, unless it repeats the last one.
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
    fn keeps_the_last_and_skips_repeats() {
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
