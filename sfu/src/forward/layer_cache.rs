//! View that a forwarder has of a layer: its context, and its cached packets.
//!
//! Implemented by `worker/stream.rs`, which owns the packet caches. Decides nothing.

use std::time::Instant;

use super::catch_up::Tail;
use crate::ids::LayerKey;
use crate::media::source_clock::ClockAnchor;
use crate::media::{DecoderStart, Keyframe, KeyframeCache, Packet};
use crate::units::Bitrate;

/// Facts that the forwarder needs about the layer of a packet.
#[derive(Debug, Clone, Copy)]
pub struct LayerContext {
    /// The layer.
    pub key: LayerKey,
    /// Server time of the layer's timestamps.
    pub anchor: Option<ClockAnchor>,
    /// The newest access unit that a decoder can begin with; video only.
    pub start: Option<DecoderStart>,
}

/// Cached data with which a viewer could start on a layer.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// Packets from the last keyframe to the present.
    pub tail: Option<Tail>,
    /// Time at which that keyframe began to arrive.
    pub begun: Option<Instant>,
    /// The last whole keyframe.
    pub keyframe: Option<&'a Keyframe>,
    /// Present bitrate of the layer.
    pub bitrate: Bitrate,
}

/// Cached packets of a stream's layers, as the viewer's worker has them.
pub trait LayerCache<'a> {
    /// Facts about a layer; `None` if the publisher has no such layer now.
    fn context(&self, key: LayerKey) -> Option<LayerContext>;

    /// Extended number of the layer's newest packet.
    fn newest(&self, key: LayerKey) -> Option<u64>;

    /// A cached packet.
    fn packet(&self, key: LayerKey, ext_seq: u64) -> Option<&'a Packet>;

    /// The layer's last keyframe.
    fn keyframe(&self, key: LayerKey) -> Option<&'a KeyframeCache>;

    /// Cached data with which a viewer could start.
    fn start(&self, key: LayerKey, now: Instant) -> Option<Cached<'a>>;

    /// Whether this packet and all cached ones behind it are handed to this viewer in the present
    /// delivery.
    fn delivers_from(&self, key: LayerKey, first: u64) -> bool;
}
