//! Which layers of a stream need a keyframe: one bit each, set by viewers on any worker, taken by the
//! publisher's.
//!
//! Bits and not ring items: level-triggered, idempotent, never lost in a full ring. One word, so that
//! no two values must agree, and relaxed, because a wish carries nothing but itself. Knows nothing of
//! why a keyframe is needed. `tests/loom.rs` compiles this very file under loom.

use super::sync::{AtomicU64, Ordering};
use super::table::{LAYERS_MAX, TRACKS_MAX};

/// The wishes of one stream that nobody acted on yet.
#[derive(Debug, Default)]
pub struct WishBoard {
    /// Bit `track * LAYERS_MAX + layer`.
    bits: AtomicU64,
}

impl WishBoard {
    /// A viewer needs a keyframe of this layer. Cheap to repeat: it only writes when it is news.
    ///
    /// A viewer that has seen what came of its last wish is heard again: what it saw was sent after
    /// the bit was taken. Tracks and layers beyond the limits are ignored.
    pub fn wish(&self, track: u8, layer: u8) {
        let Some(bit) = wish_bit(track, layer) else { return };
        if self.bits.load(Ordering::Relaxed) & bit == 0 {
            self.bits.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether nobody wishes anything.
    pub fn is_empty(&self) -> bool {
        self.bits.load(Ordering::Relaxed) == 0
    }

    /// Takes all wishes.
    pub fn take(&self) -> KeyframeWishes {
        // The load keeps the cache line shared while nobody wishes anything.
        if self.is_empty() {
            return KeyframeWishes(0);
        }
        KeyframeWishes(self.bits.swap(0, Ordering::Relaxed))
    }
}

/// A set of (track, layer) wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyframeWishes(u64);

impl KeyframeWishes {
    /// Whether anything is wished at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a keyframe of this layer is wished.
    pub fn contains(self, track: u8, layer: u8) -> bool {
        wish_bit(track, layer).is_some_and(|bit| self.0 & bit != 0)
    }
}

fn wish_bit(track: u8, layer: u8) -> Option<u64> {
    let in_range = usize::from(track) < TRACKS_MAX && usize::from(layer) < LAYERS_MAX;
    in_range.then(|| 1 << (usize::from(track) * LAYERS_MAX + usize::from(layer)))
}
