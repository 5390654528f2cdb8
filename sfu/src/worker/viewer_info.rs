//! What the API shows of one viewer: its tracks, what can be chosen of them, and what was decided.
//!
//! Part of `subscriber.rs`. Decides nothing.

use std::sync::Arc;
use std::time::Instant;

use super::report::{DecisionInfo, LayerInfo, LayerState, TrackInfo, TrackLayers};
use super::stream::LocalStream;
use super::subscriber::{Subscriber, Subscription};
use crate::codec::MediaKind;
use crate::forward::layer_preference::spatial_layer;
use crate::router::SourceInfo;

impl Subscriber {
    /// What can be chosen of its video tracks, largest layer first.
    pub(super) fn layers(&self, now: Instant, stream: &LocalStream) -> Vec<TrackLayers> {
        let video = self.tracks.iter().filter(|track| track.plan.kind == MediaKind::Video);
        video.map(|track| track.layers(now, stream)).collect()
    }

    /// Its tracks for the API.
    pub(super) fn report(
        &mut self,
        now: Instant,
        source: Option<&Arc<SourceInfo>>,
    ) -> Vec<TrackInfo> {
        let keyframe_requests = self.keyframe_requests;
        self.tracks
            .iter_mut()
            .map(|track| {
                let line = track.forwarder.sender();
                let (packets, bytes) = line.totals();
                let (temporal_flows, temporal_cap) = track.forwarder.temporal_layers();
                let lost =
                    track.stats.last_report().map_or(0, |report| report.cumulative_lost.into());
                let rid = |layer: Option<u8>| {
                    layer.map(|_| rid_of(source, track.source, layer).unwrap_or_default())
                };
                let current_layer = rid(track.forwarder.current_layer());
                let layer = LayerInfo {
                    rid: current_layer.clone().unwrap_or_default(),
                    ssrc: line.ssrc(),
                    packets,
                    bytes,
                    bitrate_bps: track.pace.bitrate(now, bytes).0,
                    lost,
                    keyframes: 0,
                    keyframe_requests,
                    nacks: track.nacks,
                    repairs: track.repairs,
                    resolution: None,
                    learned: None,
                };
                TrackInfo {
                    mid: track.plan.mid.clone(),
                    kind: track.plan.kind,
                    codec: line.format().map(|format| format.codec),
                    layers: vec![layer],
                    reason: Some(track.reason().label()),
                    current_layer,
                    target_layer: rid(track.choice.map(|choice| choice.layer as u8)),
                    target_reason: track.choice.map(|choice| choice.reason.label()),
                    current_temporal_layer: temporal_flows,
                    target_temporal_layer: temporal_cap,
                    preference: track.preference().cloned(),
                }
            })
            .collect()
    }

    /// The last decisions of all its tracks, oldest first, for the API.
    pub(super) fn decisions(
        &self,
        created: Instant,
        source: Option<&Arc<SourceInfo>>,
    ) -> Vec<DecisionInfo> {
        let mut all: Vec<(Instant, DecisionInfo)> = Vec::new();
        for track in &self.tracks {
            for decision in track.forwarder.decisions().iter() {
                let what = match decision.layer {
                    None => "nothing is sent".to_owned(),
                    Some(layer) => match rid_of(source, track.source, Some(layer)) {
                        Some(rid) if !rid.is_empty() => format!("layer {rid}"),
                        _ => "the only layer".to_owned(),
                    },
                };
                all.push((
                    decision.at,
                    DecisionInfo {
                        at_s: decision.at.saturating_duration_since(created).as_secs_f64(),
                        decision: format!("mid {}: {what}", track.plan.mid),
                        reason: decision.reason.label(),
                    },
                ));
            }
        }
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, decision)| decision).collect()
    }
}

impl Subscription {
    fn layers(&self, now: Instant, stream: &LocalStream) -> TrackLayers {
        let source = self.source.zip(stream.source());
        let info = source.and_then(|(index, source)| source.tracks.get(usize::from(index)));
        let views = self.source.map(|index| stream.views(index, now)).unwrap_or_default();
        let rids = info.map_or(&[][..], |info| info.rids.as_slice());
        let current = self.forwarder.current_layer().map(usize::from);
        let target = self.choice.map(|choice| choice.layer);
        let known = views.iter().enumerate().filter(|(_, view)| view.is_known());
        let mut layers: Vec<_> = known
            .map(|(index, view)| {
                let state = LayerState {
                    rid: rids.get(index).cloned().unwrap_or_default(),
                    spatial_layer: spatial_layer(view, &views),
                    size: view.size,
                    bitrate_bps: if view.live { view.bitrate } else { 0 },
                    flows: current == Some(index),
                    target: target == Some(index),
                };
                (std::cmp::Reverse(view.weight()), state)
            })
            .collect();
        layers.sort_by_key(|(weight, _)| *weight);
        let layers = layers.into_iter().map(|(_, state)| state).collect();
        TrackLayers { mid: self.plan.mid.clone(), layers }
    }
}

fn rid_of(
    source: Option<&Arc<SourceInfo>>,
    track: Option<u8>,
    layer: Option<u8>,
) -> Option<String> {
    source?.tracks.get(usize::from(track?))?.rids.get(usize::from(layer?)).cloned()
}
