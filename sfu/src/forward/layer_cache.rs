//! What a forwarder sees of a layer: its context, and what is cached of it.
//!
//! Implemented by `worker/stream.rs`, which owns the packet caches. Decides nothing.

use std::time::Instant;

use super::catch_up::Tail;
use crate::ids::LayerKey;
use crate::media::source_clock::ClockAnchor;
use crate::media::{Keyframe, KeyframeCache, Packet};
use crate::units::Bitrate;

/// What the forwarder needs to know of the layer a packet came on.
#[derive(Debug, Clone, Copy)]
pub struct LayerContext {
    /// The layer.
    pub key: LayerKey,
    /// The layer's timestamps against server time.
    pub anchor: Option<ClockAnchor>,
    /// The stream carries its parameter sets in-band, so a start needs them (H264, H265).
    pub inband_parameter_sets: bool,
}

/// What a viewer could begin with on a layer.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// From its last keyframe to the present.
    pub tail: Option<Tail>,
    /// When that keyframe began to arrive.
    pub begun: Option<Instant>,
    /// Its last whole keyframe.
    pub keyframe: Option<&'a Keyframe>,
    /// What it carries now.
    pub bitrate: Bitrate,
}

/// What is cached of a stream's layers, as the worker that serves the viewer has it.
pub trait LayerCache<'a> {
    /// What the forwarder needs to know of a layer; `None` if the publisher has no such layer now.
    fn context(&self, key: LayerKey) -> Option<LayerContext>;

    /// Extended number of the layer's newest packet.
    fn newest(&self, key: LayerKey) -> Option<u64>;

    /// A packet that is cached.
    fn packet(&self, key: LayerKey, ext_seq: u64) -> Option<&'a Packet>;

    /// The layer's last keyframe.
    fn keyframe(&self, key: LayerKey) -> Option<&'a KeyframeCache>;

    /// What a viewer could begin with.
    fn start(&self, key: LayerKey, now: Instant) -> Option<Cached<'a>>;

    /// Whether this viewer is handed the packet with others that arrived now, cached or not.
    fn delivers(&self, key: LayerKey, ext_seq: u64) -> bool;
}
