//! Keyframe requests of viewers, on their way to the publisher's planner.
//!
//! Subscriptions and viewers' PLI set bits of the stream, on any worker. The publisher's worker
//! collects them after each step in which a viewer of its own may have set one; bits from elsewhere
//! are found by the publisher's timer. Never sends: `repair/keyframe_planner.rs` decides when, and
//! `publisher_feedback.rs` writes the PLI.

use std::time::Instant;

use super::Worker;
use super::keys::SessionKey;
use super::publisher::Publisher;
use super::session::{RoleState, Session};
use super::stream::LocalStream;
use super::subscription::Subscription;
use crate::ids::{LayerIdx, TrackIdx};
use crate::repair::keyframe_planner::KeyframeNeed;
use crate::router::{StreamId, StreamShared};
use crate::transport::egress::Egress;

impl Worker {
    /// Plans the keyframe requests that this session may have made.
    pub(super) fn collect_requests_of(
        &mut self,
        now: Instant,
        key: SessionKey,
        egress: &mut dyn Egress,
    ) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(subscriber) = session.subscriber() else {
            return self.collect_keyframe_requests(now, session.stream.id, egress);
        };
        let streams = subscriber.subscriptions.iter().filter_map(Subscription::stream);
        let requested = streams.filter(|shared| shared.has_keyframe_requests());
        // Empty, and without an allocation, unless something is requested.
        for id in requested.map(|shared| shared.id).collect::<Vec<_>>() {
            self.collect_keyframe_requests(now, id, egress);
        }
    }

    /// Plans a stream's keyframe requests at once, if its publisher is here. Requests of viewers
    /// elsewhere are found by its timer.
    pub(super) fn collect_keyframe_requests(
        &mut self,
        now: Instant,
        id: StreamId,
        egress: &mut dyn Egress,
    ) {
        let requested =
            |stream: &&LocalStream| stream.is_owned() && stream.shared.has_keyframe_requests();
        let Some(stream) = self.streams.get(id).filter(requested) else { return };
        let publisher = stream.source().and_then(|source| self.by_id.get(&source.publisher));
        let Some(key) = publisher.copied() else { return };
        self.guarded(now, key, egress, |worker, _| {
            let Some(Session { role, stream, .. }) = worker.sessions.get_mut(key) else { return };
            if let RoleState::Publisher(publisher) = role {
                publisher.take_keyframe_requests(now, stream);
                worker.schedule(key);
            }
        });
    }
}

impl Publisher {
    /// Plans the viewers' keyframe requests.
    pub(super) fn take_keyframe_requests(&mut self, now: Instant, stream: &StreamShared) {
        // During a takeover the requests are for the publisher that is the source.
        let holds = stream.source.load().as_ref().is_none_or(|s| s.epoch == self.source.epoch);
        if !holds {
            return;
        }
        let starts = stream.take_keyframe_requests();
        let refreshes = stream.take_refresh_requests();
        if starts.is_empty() && refreshes.is_empty() {
            return;
        }
        for (track_index, track) in TrackIdx::all().zip(&mut self.tracks) {
            if !track.plan.feedback.asks_keyframes() {
                continue;
            }
            for (layer_index, layer) in LayerIdx::all().zip(&mut track.layers) {
                if layer.ssrc().is_none() {
                    // The request is for the publisher before; viewers that still wait request
                    // again.
                    continue;
                }
                if starts.contains(track_index, layer_index) {
                    layer.keyframes.add_need(now, KeyframeNeed::Start);
                }
                if refreshes.contains(track_index, layer_index) {
                    layer.keyframes.add_need(now, KeyframeNeed::Refresh);
                }
            }
        }
    }
}
