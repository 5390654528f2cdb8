//! Viewer information for the API: its tracks, the layers it can choose from, the decisions on
//! them.
//!
//! Reads a [`Subscriber`] and the streams it watches; decides nothing. Called by the worker's
//! `mod.rs`.

use std::time::Instant;

use super::report::{
    DecisionInfo, LayerInfo, LayerState, TrackInfo, TrackLayers, UnservedTrack, seconds,
};
use super::streams::Streams;
use super::subscriber::Subscriber;
use super::subscription::Subscription;
use super::warning::Warning;
use crate::codec::MediaKind;
use crate::forward::layer_preference::spatial_layer;
use crate::ids::LayerIdx;

/// Layers that can be chosen for a viewer's video tracks, largest layer first.
pub(super) fn layers(subscriber: &Subscriber, now: Instant, streams: &Streams) -> Vec<TrackLayers> {
    let video = subscriber.subscriptions.iter().filter(|s| s.plan.kind == MediaKind::Video);
    video.map(|subscription| layers_of(subscription, now, streams)).collect()
}

fn layers_of(subscription: &Subscription, now: Instant, streams: &Streams) -> TrackLayers {
    let stream = subscription.stream().and_then(|shared| streams.get(shared.id));
    let views =
        subscription.track().and_then(|track| Some(stream?.views(track, now))).unwrap_or_default();
    let current = subscription.forwarder.current_layer();
    let target = subscription.choice.map(|choice| choice.layer);
    let known = LayerIdx::all().zip(views.iter()).filter(|(_, view)| view.is_known());
    let mut layers: Vec<_> = known
        .map(|(index, view)| {
            let state = LayerState {
                rid: rid(subscription, Some(index), streams).unwrap_or_default(),
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
    TrackLayers {
        mid: subscription.plan.mid.clone(),
        layers,
        awaits_keyframe: subscription.forwarder.stands_still(),
        filters_in_vain: subscription.forwarder.filters_in_vain(),
    }
}

/// What is wrong with what a viewer asked for.
pub(super) fn warnings(subscriber: &Subscriber) -> Vec<Warning> {
    let in_vain = |subscription: &Subscription| subscription.forwarder.filters_in_vain();
    let any = subscriber.subscriptions.iter().any(in_vain);
    any.then_some(Warning::NothingToLeaveOut).into_iter().collect()
}

/// A viewer's tracks for the API.
pub(super) fn tracks(subscriber: &Subscriber, now: Instant, streams: &Streams) -> Vec<TrackInfo> {
    let of = |subscription: &Subscription| {
        let sender = subscription.forwarder.sender();
        let (packets, bytes) = sender.totals();
        let (temporal_flows, temporal_cap) = subscription.forwarder.temporal_layers();
        let last_report = subscription.stats.last_report();
        let lost = last_report.map_or(0, |report| report.cumulative_lost);
        let rid = |layer: Option<LayerIdx>| {
            layer.map(|_| rid(subscription, layer, streams).unwrap_or_default())
        };
        let current_layer = rid(subscription.forwarder.current_layer());
        let layer = LayerInfo {
            rid: current_layer.clone().unwrap_or_default(),
            codec_string: None,
            ssrc: sender.ssrc(),
            packets,
            bytes,
            bitrate_bps: subscription.rate.bitrate(now, bytes).0,
            lost: lost.max(0).unsigned_abs().into(),
            duplicates: lost.min(0).unsigned_abs().into(),
            keyframes: subscription.keyframes.count(),
            keyframe_requests: subscription.keyframe_requests,
            nacks: subscription.nacks,
            repairs: subscription.retransmits,
            resolution: size(subscription, now, streams),
            learned: None,
        };
        TrackInfo {
            mid: subscription.plan.mid.clone(),
            kind: subscription.plan.kind,
            codec: sender.format().map(|format| format.codec),
            layers: vec![layer],
            reason: Some(subscription.reason().label()),
            reason_text: subscription.refusal(streams),
            current_layer,
            target_layer: rid(subscription.choice.map(|choice| choice.layer)),
            target_reason: subscription.choice.map(|choice| choice.reason.label()),
            current_temporal_layer: temporal_flows,
            target_temporal_layer: temporal_cap,
            preference: subscription.preference().cloned(),
        }
    };
    subscriber.subscriptions.iter().map(of).collect()
}

/// Size of the layer that is sent, as the publisher's keyframes tell it.
fn size(subscription: &Subscription, now: Instant, streams: &Streams) -> Option<(u16, u16)> {
    let stream = streams.get(subscription.stream()?.id)?;
    let views = stream.views(subscription.track()?, now);
    views.get(usize::from(subscription.forwarder.current_layer()?))?.size
}

/// A viewer's m-lines whose track has a codec that is not in its answer.
pub(super) fn unserved(subscriber: &Subscriber, streams: &Streams) -> Vec<UnservedTrack> {
    let refused = |subscription: &Subscription| {
        Some(UnservedTrack {
            text: subscription.refusal(streams)?,
            mid: subscription.plan.mid.clone(),
            kind: subscription.plan.kind,
            reason: subscription.reason().label(),
        })
    };
    subscriber.subscriptions.iter().filter_map(refused).collect()
}

/// The last decisions of all tracks of a viewer, oldest first, for the API.
pub(super) fn decisions(
    subscriber: &Subscriber,
    created: Instant,
    streams: &Streams,
) -> Vec<DecisionInfo> {
    let mut all: Vec<(Instant, DecisionInfo)> = Vec::new();
    for subscription in &subscriber.subscriptions {
        for decision in subscription.forwarder.decisions().iter() {
            let what = match decision.layer {
                None => "nothing is sent".to_owned(),
                layer => match rid(subscription, layer, streams) {
                    Some(rid) if !rid.is_empty() => format!("layer {rid}"),
                    _ => "the only layer".to_owned(),
                },
            };
            all.push((
                decision.at,
                DecisionInfo {
                    at_s: seconds(decision.at.saturating_duration_since(created)),
                    decision: format!("mid {}: {what}", subscription.plan.mid),
                    reason: decision.reason.label(),
                },
            ));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, decision)| decision).collect()
}

/// The publisher's rid of a layer of the track that a subscription carries.
fn rid(subscription: &Subscription, layer: Option<LayerIdx>, streams: &Streams) -> Option<String> {
    let stream = streams.get(subscription.stream()?.id)?;
    let track = stream.source()?.tracks.get(usize::from(subscription.track()?))?;
    track.rids.get(usize::from(layer?)).cloned()
}
