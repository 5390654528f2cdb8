//! One stream's shared state: its route (which workers have viewers), its publisher, and the
//! keyframe requests that travel back.
//!
//! The control plane writes the route, the worker where a publisher connects or ends writes the source,
//! all read. A packet is routed by the old snapshot or the new one,
//! never by a mix (`arc-swap`). One snapshot per stream, not one for all: a join on one stream then
//! copies nothing of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::keyframe_requests::{KeyframeRequestBits, KeyframeRequests};
use crate::ids::{Epoch, LayerIdx, SessionId, StreamName, TrackIdx};
use crate::sdp::{ExtMap, PublishPlan, SourceTrack};

pub use crate::sdp::TRACKS_MAX;

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
    /// Grows with each publisher of the stream that connects; 0 until then.
    pub epoch: Epoch,
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
    /// What a publisher offers, before it connects.
    pub fn offered(publisher: SessionId, plan: &PublishPlan) -> Self {
        let tracks = plan.tracks.iter().map(|track| SourceTrackInfo {
            source: SourceTrack { kind: track.kind, format: track.format.clone() },
            rids: track.rids.clone(),
            exts: track.exts.clone(),
        });
        Self { epoch: Epoch::default(), publisher, tracks: tracks.collect() }
    }

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
    /// The live publisher: the one that connected last. Level-triggered: a worker that missed the hint
    /// sees it with the publisher's first packet, or at its next sweep.
    pub source: ArcSwapOption<SourceInfo>,
    /// Publishers that connected so far.
    epochs: AtomicU32,
    /// Requests of viewers that have no picture, and of others. Apart, since they are paced apart.
    requests: KeyframeRequestBits,
    refreshes: KeyframeRequestBits,
}

impl StreamShared {
    /// A stream nobody publishes or watches yet.
    pub fn new(id: StreamId, name: StreamName) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            route: ArcSwap::from_pointee(Route::default()),
            source: ArcSwapOption::empty(),
            epochs: AtomicU32::new(0),
            requests: KeyframeRequestBits::default(),
            refreshes: KeyframeRequestBits::default(),
        })
    }

    /// A publisher connected: it is the stream's from now on, whoever was there before. Returns it with
    /// its epoch.
    pub fn connect(&self, offered: &SourceInfo) -> Arc<SourceInfo> {
        let epoch = Epoch(self.epochs.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        let source = Arc::new(SourceInfo { epoch, ..offered.clone() });
        // Two may connect at once on two workers: the later number wins.
        self.source.rcu(|now| match now {
            Some(now) if now.epoch > epoch => Some(Arc::clone(now)),
            _ => Some(Arc::clone(&source)),
        });
        source
    }

    /// A publisher ended. One that took the stream over stays.
    pub fn disconnect(&self, publisher: SessionId) {
        self.source.rcu(|now| now.clone().filter(|now| now.publisher != publisher));
    }

    /// A viewer without a picture needs a keyframe of this layer. Repeat it with each packet that cannot be
    /// sent: a request that was set before a keyframe came counts as fulfilled by it.
    pub fn request_keyframe(&self, track: TrackIdx, layer: LayerIdx) {
        self.requests.request(track, layer);
    }

    /// A viewer with a picture, of this layer or another one, asks for a keyframe of this layer: it may wait some
    /// seconds for it.
    pub fn request_refresh(&self, track: TrackIdx, layer: LayerIdx) {
        self.refreshes.request(track, layer);
    }

    /// Whether a viewer requests for a keyframe.
    pub fn has_keyframe_requests(&self) -> bool {
        !(self.requests.is_empty() && self.refreshes.is_empty())
    }

    /// Takes all requests of viewers without a picture; the publisher's worker acts on them.
    pub fn take_keyframe_requests(&self) -> KeyframeRequests {
        self.requests.take()
    }

    /// Takes all other requests.
    pub fn take_refresh_requests(&self) -> KeyframeRequests {
        self.refreshes.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_publisher_that_connected_last_holds_the_stream() {
        let id = StreamId { index: 0, generation: 0 };
        let stream = StreamShared::new(id, StreamName::new("a").unwrap());
        let offer = |n| SourceInfo { epoch: Epoch(0), publisher: SessionId(n), tracks: Vec::new() };
        let holder =
            || stream.source.load_full().map(|source| (source.publisher.0, source.epoch.0));
        assert_eq!(stream.connect(&offer(2)).epoch, Epoch(1));
        assert_eq!(stream.connect(&offer(1)).epoch, Epoch(2));
        assert_eq!(holder(), Some((1, 2)));
        stream.disconnect(SessionId(2));
        assert_eq!(holder(), Some((1, 2)), "who was replaced takes nothing along");
        stream.disconnect(SessionId(1));
        assert_eq!(holder(), None);
    }
}
