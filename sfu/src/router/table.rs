//! Shared state of one stream: its route (which workers have viewers), its publisher, and the
//! keyframe requests of its viewers.
//!
//! The control plane writes the route. The worker where a publisher connects or ends writes the
//! source. All workers read both. A packet is routed by the old snapshot or the new one, never by a
//! mix (`arc-swap`). There is one snapshot per stream, not one for all, so that a join on one
//! stream copies nothing of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::keyframe_requests::{KeyframeRequestBits, KeyframeRequests};
use crate::ids::{Epoch, LayerIdx, SessionId, StreamName, TrackIdx};
use crate::sdp::{ExtMap, PublishPlan, SourceTrack};

pub use crate::sdp::TRACKS_MAX;

/// Id of a stream for workers: a small index and a generation, so that a reused index is not
/// mistaken for the stream before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// Position in each worker's stream table.
    pub index: u32,
    /// Number of earlier uses of the index.
    pub generation: u32,
}

/// Route of a stream: the workers that have viewers of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// Worker indices, ascending.
    pub destinations: Vec<usize>,
}

/// Publisher of a stream, as viewers need it. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceInfo {
    /// Epoch of the publisher: grows with each one that connects; 0 before it connects.
    pub epoch: Epoch,
    /// The publisher's session.
    pub publisher: SessionId,
    /// Tracks in offer order.
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
    /// Codecs of the tracks with their number of simulcast layers: `opus, VP8 x3`.
    pub fn codecs(&self) -> String {
        let one = |track: &SourceTrackInfo| match track.rids.len() {
            0 | 1 => track.source.format.codec.name().to_owned(),
            layers => format!("{} x{layers}", track.source.format.codec.name()),
        };
        self.tracks.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The source that a publisher offers, before it connects.
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

/// State of one stream that workers share.
#[derive(Debug)]
pub struct StreamShared {
    /// Index and generation in worker tables.
    pub id: StreamId,
    /// Name of the stream, for logs.
    pub name: StreamName,
    /// Route, which the publisher's worker reads for each packet, through a cache.
    pub route: ArcSwap<Route>,
    /// The live publisher: the one that connected last. Level-triggered: a worker that missed the
    /// order sees it with the publisher's first packet, or at its next sweep.
    pub source: ArcSwapOption<SourceInfo>,
    /// Number of publishers that connected so far.
    epochs: AtomicU32,
    /// Requests of viewers without a picture, and of others. They are separate because each kind is
    /// paced by itself.
    requests: KeyframeRequestBits,
    refreshes: KeyframeRequestBits,
    /// Payload bytes of the largest packet that was too large for the path to a viewer, since the
    /// publisher's worker asked last; 0 if there was none.
    unsendable_bytes: AtomicU32,
}

impl StreamShared {
    /// A stream without publisher and viewers.
    pub fn new(id: StreamId, name: StreamName) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            route: ArcSwap::from_pointee(Route::default()),
            source: ArcSwapOption::empty(),
            epochs: AtomicU32::new(0),
            requests: KeyframeRequestBits::default(),
            refreshes: KeyframeRequestBits::default(),
            unsendable_bytes: AtomicU32::new(0),
        })
    }

    /// Makes a publisher that connected the stream's source, and replaces the one before. Returns
    /// the source with its epoch.
    pub fn connect(&self, offered: &SourceInfo) -> Arc<SourceInfo> {
        let epoch = Epoch(self.epochs.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        let source = Arc::new(SourceInfo { epoch, ..offered.clone() });
        // Two publishers may connect at once on two workers: the later epoch stays.
        self.source.rcu(|now| match now {
            Some(now) if now.epoch > epoch => Some(Arc::clone(now)),
            _ => Some(Arc::clone(&source)),
        });
        source
    }

    /// Removes a publisher that ended. A publisher that took over the stream stays.
    pub fn disconnect(&self, publisher: SessionId) {
        self.source.rcu(|now| now.clone().filter(|now| now.publisher != publisher));
    }

    /// Requests a keyframe of this layer for a viewer without a picture. Repeat it with each packet
    /// that cannot be sent: a keyframe counts as the answer to all requests before it.
    pub fn request_keyframe(&self, track: TrackIdx, layer: LayerIdx) {
        self.requests.request(track, layer);
    }

    /// Requests a keyframe of this layer for a viewer that has a picture, of this layer or another
    /// one. It may wait for some seconds.
    pub fn request_refresh(&self, track: TrackIdx, layer: LayerIdx) {
        self.refreshes.request(track, layer);
    }

    /// Notes a packet that was too large for the path to a viewer.
    pub fn note_unsendable(&self, payload_bytes: u16) {
        self.unsendable_bytes.fetch_max(payload_bytes.into(), Ordering::Relaxed);
    }

    /// Takes the payload bytes of the largest packet that was too large for the path to a viewer; the
    /// publisher's worker tells of it.
    pub fn take_unsendable(&self) -> Option<usize> {
        if self.unsendable_bytes.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.unsendable_bytes.swap(0, Ordering::Relaxed) as usize)
    }

    /// Whether any keyframe is requested.
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
    fn codecs_are_named_with_their_simulcast_layers() {
        use crate::codec::Codec;
        use crate::sdp::CodecFormat;
        let track = |codec: Codec, rids: &[&str]| SourceTrackInfo {
            source: SourceTrack {
                kind: codec.kind(),
                format: CodecFormat { codec, fmtp: String::new() },
            },
            rids: rids.iter().map(|rid| (*rid).to_owned()).collect(),
            exts: ExtMap::default(),
        };
        let tracks = vec![track(Codec::Opus, &[]), track(Codec::Vp8, &["h", "m", "l"])];
        let source = SourceInfo { epoch: Epoch(1), publisher: SessionId(1), tracks };
        assert_eq!(source.codecs(), "opus, VP8 x3");
    }

    #[test]
    fn publisher_that_connected_last_is_the_stream_s_source() {
        let id = StreamId { index: 0, generation: 0 };
        let stream = StreamShared::new(id, StreamName::new("a").unwrap());
        let offer = |n| SourceInfo { epoch: Epoch(0), publisher: SessionId(n), tracks: Vec::new() };
        let source =
            || stream.source.load_full().map(|source| (source.publisher.0, source.epoch.0));
        assert_eq!(stream.connect(&offer(2)).epoch, Epoch(1));
        assert_eq!(stream.connect(&offer(1)).epoch, Epoch(2));
        assert_eq!(source(), Some((1, 2)));
        stream.disconnect(SessionId(2));
        assert_eq!(source(), Some((1, 2)), "a replaced publisher does not end the stream");
        stream.disconnect(SessionId(1));
        assert_eq!(source(), None);
    }
}
