//! What all layers of one publisher hold together on one worker, and how much that may be.
//!
//! Owns the sums and their limits. The packets are in `stream.rs`, which evicts them.

use std::time::Instant;

use crate::media::keyframe::KEYFRAME_PACKETS_MAX;
use crate::media::packet_cache::{CACHE_BYTES_MAX, CACHE_PACKETS_MAX};

/// Maximum cached packets of all layers of a publisher: what four layers of any rate hold. At the
/// limit the oldest are evicted, whatever layer they are of.
pub(super) const SESSION_PACKETS_MAX: usize = 4 * CACHE_PACKETS_MAX;

/// Maximum cached payload bytes of all layers of a publisher. At the limit the oldest packets are
/// evicted, whatever layer they are of.
pub(super) const SESSION_BYTES_MAX: usize = 4 * CACHE_BYTES_MAX;

/// Maximum packets in kept keyframes of all layers of a publisher: five of the largest. At the limit
/// those that another one replaced are dropped, and then the oldest.
pub(super) const SESSION_KEYFRAME_PACKETS_MAX: usize = 5 * KEYFRAME_PACKETS_MAX;

/// Part of the time that is cached which is evicted at once from all layers: one of 32, so that the
/// layers are looked at once for many packets.
pub(super) const SLICE: u32 = 32;

/// Packets of one layer that are evicted at once.
pub(super) const SLICE_PACKETS_MAX: usize = 64;

/// What layers hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Packets in packet caches.
    pub packets: usize,
    /// Payload bytes of these.
    pub bytes: usize,
    /// Packets of kept keyframes, in packet caches or not.
    pub keyframe_packets: usize,
}

impl Held {
    /// Takes over what changed at a layer.
    pub(super) fn change(&mut self, before: Self, after: Self) {
        self.packets = self.packets + after.packets - before.packets;
        self.bytes = self.bytes + after.bytes - before.bytes;
        self.keyframe_packets =
            self.keyframe_packets + after.keyframe_packets - before.keyframe_packets;
    }

    /// Whether packets of the caches have to go.
    pub(super) fn has_too_many_packets(self) -> bool {
        self.packets > SESSION_PACKETS_MAX || self.bytes > SESSION_BYTES_MAX
    }

    /// Whether kept keyframes have to go.
    pub(super) fn has_too_many_keyframes(self) -> bool {
        self.keyframe_packets > SESSION_KEYFRAME_PACKETS_MAX
    }
}

/// Packets that were evicted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evicted {
    /// Arrival up to which they came.
    pub until: Instant,
    pub packets: usize,
}
