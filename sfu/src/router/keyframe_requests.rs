//! Keyframe request bits of a stream: one bit per layer, set by viewers on any worker, taken by the
//! publisher's worker.
//!
//! Bits and not ring items: level-triggered, idempotent, never lost in a full ring. One word, so
//! that no two values must agree. Relaxed ordering, because a request carries no other data. Knows
//! nothing of why a keyframe is needed. `tests/loom.rs` compiles this very file under loom.

use super::sync::{AtomicU64, Ordering};
use crate::ids::{LAYERS_MAX, LayerIdx, TrackIdx};
use crate::sdp::TRACKS_MAX;

/// Requests of one stream that the publisher's worker has not taken yet.
#[derive(Debug, Default)]
pub struct KeyframeRequestBits {
    /// Bit `track * LAYERS_MAX + layer`.
    bits: AtomicU64,
}

impl KeyframeRequestBits {
    /// Requests a keyframe of this layer. Repeated calls are cheap: only a new request writes.
    ///
    /// A viewer that has seen the result of its last request can request again: what it saw was
    /// sent after the bit was taken. Tracks and layers beyond the limits are ignored.
    pub fn request(&self, track: TrackIdx, layer: LayerIdx) {
        let Some(bit) = request_bit(track, layer) else { return };
        if self.bits.load(Ordering::Relaxed) & bit == 0 {
            self.bits.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether no layer is requested.
    pub fn is_empty(&self) -> bool {
        self.bits.load(Ordering::Relaxed) == 0
    }

    /// Takes all requests.
    pub fn take(&self) -> KeyframeRequests {
        // The load keeps the cache line shared while no bit is set.
        if self.is_empty() {
            return KeyframeRequests(0);
        }
        KeyframeRequests(self.bits.swap(0, Ordering::Relaxed))
    }
}

/// A set of (track, layer) requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyframeRequests(u64);

impl KeyframeRequests {
    /// Whether anything is requested at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a keyframe of this layer is requested.
    pub fn contains(self, track: TrackIdx, layer: LayerIdx) -> bool {
        request_bit(track, layer).is_some_and(|bit| self.0 & bit != 0)
    }
}

fn request_bit(track: TrackIdx, layer: LayerIdx) -> Option<u64> {
    let in_range = usize::from(track) < TRACKS_MAX && usize::from(layer) < LAYERS_MAX;
    in_range.then(|| 1 << (usize::from(track) * LAYERS_MAX + usize::from(layer)))
}
