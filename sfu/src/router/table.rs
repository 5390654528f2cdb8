//! One stream's shared state: its route (which workers have viewers), its publisher, and the
//! keyframe wishes that travel back.
//!
//! The control plane writes, workers read. A packet is routed by the old snapshot or the new one,
//! never by a mix (`arc-swap`). One snapshot per stream, not one for all: a join on one stream then
//! copies nothing of the others.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::wishes::{KeyframeWishes, WishBoard};
use crate::ids::{SessionId, StreamName};
use crate::sdp::{ExtMap, SourceTrack};

/// Tracks of one publisher; an offer with more is refused (whip-whep C23).
pub const TRACKS_MAX: usize = 8;

/// Layers (rids) of one track (quality B2).
pub const LAYERS_MAX: usize = 8;

/// Identifies a stream for workers: a small index, and a generation so that a reused index is not
/// mistaken for the stream before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// Position in each worker's stream table.
    pub index: u32,
    /// How often the index was used before.
    pub generation: u32,
}

/// Which workers have viewers of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// Worker indices, ascending.
    pub destinations: Vec<usize>,
}

/// The publisher behind a stream, as viewers need it. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceInfo {
    /// Grows with each publisher of the stream.
    pub epoch: u32,
    /// The publisher's session.
    pub publisher: SessionId,
    /// Its tracks in offer order.
    pub tracks: Vec<SourceTrackInfo>,
}

/// One track of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTrackInfo {
    /// Kind and codec.
    pub source: SourceTrack,
    /// Accepted rids; empty without simulcast.
    pub rids: Vec<String>,
    /// Extensions the publisher sends.
    pub exts: ExtMap,
}

impl SourceInfo {
    /// The tracks as the SDP matcher takes them.
    pub fn source_tracks(&self) -> Vec<SourceTrack> {
        self.tracks.iter().map(|track| track.source.clone()).collect()
    }
}

/// What workers share about one stream.
#[derive(Debug)]
pub struct StreamShared {
    /// Its id in worker tables.
    pub id: StreamId,
    /// Its name, for logs.
    pub name: StreamName,
    /// Read by the publisher's worker for each packet, through a cache.
    pub route: ArcSwap<Route>,
    /// The live publisher. Level-triggered: a worker that missed the hint sees it at its next sweep.
    pub source: ArcSwapOption<SourceInfo>,
    wishes: WishBoard,
}

impl StreamShared {
    /// A stream nobody publishes or watches yet.
    pub fn new(id: StreamId, name: StreamName) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            route: ArcSwap::from_pointee(Route::default()),
            source: ArcSwapOption::empty(),
            wishes: WishBoard::default(),
        })
    }

    /// A viewer needs a keyframe of this layer.
    pub fn wish_keyframe(&self, track: u8, layer: u8) {
        self.wishes.wish(track, layer);
    }

    /// Takes all wishes; the publisher's worker acts on them.
    pub fn take_keyframe_wishes(&self) -> KeyframeWishes {
        self.wishes.take()
    }
}
