//! Local stream: one stream on one worker, with the packet cache of each layer and the viewers
//! here.
//!
//! The publisher's own worker fills it directly, others from their rings; serving viewers is the
//! same in both cases. A packet that is taken waits in `viewer_queue.rs` until `fanout.rs` serves
//! the stream. Called by `publisher.rs`, `dispatch.rs`, `fanout.rs` and the subscriptions.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::{Evicted, Held, SLICE, SLICE_PACKETS_MAX};
use super::viewer_queue::{Delivery, PacketRef, ViewerQueue};
use crate::codec::{Codec, MediaKind};
use crate::error::DropReason;
use crate::forward::catch_up::Tail;
use crate::forward::selector::{LayerView, LayerViews, dead_after, largest_live};
use crate::forward::start::TAIL_PACKETS_MAX;
use crate::forward::{Cached, LayerCache, LayerContext};
use crate::ids::{Epoch, LayerIdx, LayerKey, TrackIdx};
use crate::media::pool::EvictionCause;
use crate::media::source_clock::ClockAnchor;
use crate::media::stats::RateMeter;
use crate::media::{FrameInterval, KeyframeCache, Packet, PacketCache, PacketMeta, PacketPool};
use crate::router::{LayerInfoUpdate, SourceInfo, StreamShared};
use crate::sdp::stated_sets;
use crate::warm::warm;

/// Interval at which the best layer is chosen again.
const SELECT_INTERVAL: Duration = Duration::from_millis(50);

/// One stream on one worker.
#[derive(Debug)]
pub(super) struct LocalStream {
    /// State that all workers share of the stream.
    pub shared: Arc<StreamShared>,
    /// Viewers here, and the packets to forward to them.
    pub viewers: ViewerQueue,
    /// Number of publisher sessions here; two during a takeover.
    pub publishers: usize,
    source: Option<Arc<SourceInfo>>,
    /// Whether the publisher is on this worker, so that packets go back to our pool.
    owned: bool,
    tracks: Vec<LocalTrack>,
    /// What the layers hold together.
    held: Held,
    selected_at: Option<Instant>,
    /// Counter that grows whenever the choice of a layer may change: best layer, layer sizes,
    /// source.
    selection: NonZeroU64,
}

/// Maximum difference in payload length that padding makes equal. libwebrtc splits a frame about
/// equally, and only equal packets share a send call (architecture D5).
const PADDING_MAX: u16 = 1;

/// One track of the stream.
#[derive(Debug)]
pub(super) struct LocalTrack {
    layers: Vec<LocalLayer>,
    best: Option<LayerIdx>,
    codec: Codec,
}

#[derive(Debug, Default)]
struct LocalLayer {
    cache: PacketCache,
    keyframe: KeyframeCache,
    frames: FrameInterval,
    anchor: Option<ClockAnchor>,
    rate: RateMeter,
    size: Option<(u16, u16)>,
    last_packet: Option<Instant>,
    /// State by which the layer was chosen last: whether it was live, and its size.
    chosen_by: (bool, Option<(u16, u16)>),
}

impl LocalStream {
    /// A stream that has no source on this worker yet.
    pub(super) fn new(shared: Arc<StreamShared>) -> Self {
        Self {
            shared,
            viewers: ViewerQueue::default(),
            publishers: 0,
            source: None,
            owned: false,
            tracks: Vec::new(),
            held: Held::default(),
            selected_at: None,
            selection: NonZeroU64::MIN,
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.selected_at);
        self.viewers.warm();
        warm!(self.epoch(), self.shared.id);
        for track in &self.tracks {
            warm!(track.best, track.layers.len());
        }
    }

    /// Reads the layers' state, to which the tracks point, after [`Self::warm`].
    pub(super) fn warm_layers(&self) {
        for layer in self.tracks.iter().flat_map(|track| &track.layers) {
            layer.keyframe.warm();
            layer.rate.warm();
            warm!(layer.frames, layer.last_packet, layer.size, layer.anchor);
            warm!(layer.cache.newest());
        }
    }

    /// Reads the packet caches, to which the layers point, after [`Self::warm_layers`].
    pub(super) fn warm_packets(&self) {
        self.tracks.iter().flat_map(|track| &track.layers).for_each(|layer| layer.cache.warm());
    }

    /// The publisher as applied here.
    pub(super) fn source(&self) -> Option<&Arc<SourceInfo>> {
        self.source.as_ref()
    }

    /// Epoch of the publisher as applied here.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.source.as_ref().map(|source| source.epoch)
    }

    /// Whether the stream has neither publisher nor viewers here any more.
    pub(super) fn is_unused(&self) -> bool {
        self.viewers.viewers().is_empty() && self.publishers == 0
    }

    /// Applies a new publisher, or its absence. Packet caches start empty. True if anything
    /// changed.
    pub(super) fn install(
        &mut self,
        source: Option<Arc<SourceInfo>>,
        owned: bool,
        pool: &mut PacketPool,
    ) -> bool {
        let new_epoch = source.as_ref().map(|source| source.epoch);
        if self.epoch() == new_epoch {
            return false;
        }
        self.clear(pool);
        self.owned = owned;
        self.tracks =
            source.iter().flat_map(|source| &source.tracks).map(LocalTrack::new).collect();
        self.source = source;
        self.selected_at = None;
        self.selection = self.selection.saturating_add(1);
        true
    }

    /// Returns all cached packets to the pool.
    pub(super) fn clear(&mut self, pool: &mut PacketPool) {
        self.viewers.clear();
        let owned = self.owned;
        for layer in self.tracks.iter_mut().flat_map(|track| &mut track.layers) {
            layer.keyframe.clear();
            layer.cache.clear(|packet| release(owned, pool, packet));
        }
        self.held = Held::default();
    }

    /// Drops cached packets that are too old, so that a silent publisher's cache empties too.
    pub(super) fn expire(&mut self, now: Instant, pool: &mut PacketPool) {
        let owned = self.owned;
        for layer in self.tracks.iter_mut().flat_map(|track| &mut track.layers) {
            layer.keyframe.expire(now, layer.last_packet);
            layer.cache.expire(now, |packet| release(owned, pool, packet));
        }
        self.count_held();
    }

    /// Evicts a slice of the packets that came at `latest` or before, the oldest of all layers.
    /// Returns their number.
    pub(super) fn evict_slice(
        &mut self,
        now: Instant,
        latest: Instant,
        pool: &mut PacketPool,
    ) -> Option<Evicted> {
        let owned = self.owned;
        let layers = self.tracks.iter_mut().flat_map(|track| &mut track.layers);
        let oldest = layers.filter_map(|layer| layer.cache.oldest_arrival()).min();
        let oldest = oldest.filter(|oldest| *oldest <= latest)?;
        let until = latest.min(oldest + now.saturating_duration_since(oldest) / SLICE);
        let mut packets = 0;
        for layer in self.tracks.iter_mut().flat_map(|track| &mut track.layers) {
            let before = layer.held();
            let release = |packet| release(owned, pool, packet);
            packets += layer.cache.evict_until(until, SLICE_PACKETS_MAX, release);
            self.held.change(before, layer.held());
        }
        Some(Evicted { until, packets })
    }

    /// Drops all kept keyframes. Viewers that join wait for the next one.
    pub(super) fn forget_keyframes(&mut self) {
        for layer in self.tracks.iter_mut().flat_map(|track| &mut track.layers) {
            layer.keyframe.forget_whole();
        }
        self.count_held();
    }

    /// Evicts the oldest packets and keyframes while the layers hold too much together.
    fn keep_within_limits(&mut self, now: Instant, pool: &mut PacketPool) {
        while self.held.has_too_many_packets()
            && let Some(evicted) = self.evict_slice(now, now, pool)
        {
            if self.owned {
                pool.count_evicted(EvictionCause::SessionLimit, evicted.packets);
            }
        }
        if self.held.has_too_many_keyframes() {
            let layers = self.tracks.iter_mut().flat_map(|track| &mut track.layers);
            layers.for_each(|layer| layer.keyframe.forget_replaced());
            self.count_held();
        }
        while self.held.has_too_many_keyframes() {
            let layers = self.tracks.iter_mut().flat_map(|track| &mut track.layers);
            let kept = layers.filter_map(|layer| Some((layer.keyframe.kept_since()?, layer)));
            let Some((_, layer)) = kept.min_by_key(|(since, _)| *since) else { return };
            layer.keyframe.forget_whole();
            self.count_held();
        }
    }

    fn count_held(&mut self) {
        self.held = Held::default();
        for layer in self.tracks.iter().flat_map(|track| &track.layers) {
            self.held.change(Held::default(), layer.held());
        }
    }

    /// Takes a packet that arrived: caches it, and queues it for the viewers here.
    ///
    /// # Errors
    ///
    /// The reason why it is not taken; the packet is released then.
    pub(super) fn take_packet(
        &mut self,
        key: LayerKey,
        packet: Arc<Packet>,
        pool: &mut PacketPool,
    ) -> Result<(), DropReason> {
        let packet = self.keep(key, packet, pool)?;
        self.viewers.queue(packet);
        Ok(())
    }

    /// Caches a packet for starts and retransmissions.
    ///
    /// # Errors
    ///
    /// The reason why it is not cached; the packet is released then.
    pub(super) fn keep(
        &mut self,
        key: LayerKey,
        packet: Arc<Packet>,
        pool: &mut PacketPool,
    ) -> Result<PacketRef, DropReason> {
        let owned = self.owned;
        let current = self.epoch() == Some(key.epoch);
        let layer_state = self
            .tracks
            .get_mut(usize::from(key.track))
            .and_then(|track| {
                // The first layer that sends anything is the best until measurements exist, so that
                // its first keyframe is not missed.
                if track.best.is_none() {
                    track.best = Some(key.layer);
                    self.selection = self.selection.saturating_add(1);
                }
                Some((track.layers.get_mut(usize::from(key.layer))?, track.codec))
            })
            .filter(|_| current);
        let (Some((state, codec)), Some(meta)) = (layer_state, packet.meta().copied()) else {
            release(owned, pool, packet);
            return Err(DropReason::UnknownTrack);
        };
        let before = state.held();
        state.last_packet = Some(meta.arrival);
        state.rate.add(meta.arrival, usize::from(meta.payload_len));
        state.size = meta.frame.resolution.or(state.size);
        if !state.cache.insert(packet, |packet| release(owned, pool, packet)) {
            return Err(DropReason::TooOld);
        }
        if codec.kind() == MediaKind::Video {
            state.frames.on_packet(meta.arrival, meta.timestamp);
            state.keyframe.on_packet(codec, &meta, &state.cache);
        }
        let after = state.held();
        self.held.change(before, after);
        self.keep_within_limits(meta.arrival, pool);
        Ok(PacketRef { layer: key, ext_seq: meta.ext_seq, padded: false })
    }

    /// Marks the packet that was cached last as one from before this worker had viewers.
    pub(super) fn mark_prefilled(&mut self, key: LayerKey) {
        if let Some(layer) = self.layer_mut(key) {
            layer.keyframe.mark_prefilled();
        }
    }

    /// Keeps parameter sets that another worker received, in a packet with this number.
    pub(super) fn learn_sets(&mut self, key: LayerKey, packet: &Packet, ext_seq: u64) {
        let codec = self.tracks.get(usize::from(key.track)).map(|track| track.codec);
        if let Some((layer, codec)) = self.layer_mut(key).zip(codec) {
            layer.keyframe.learn_sets(codec, packet, ext_seq);
        }
    }

    /// Takes the layer information of the publisher's worker.
    pub(super) fn update_layer_info(&mut self, key: LayerKey, update: LayerInfoUpdate) {
        if let Some(layer) = self.layer_mut(key) {
            layer.anchor = update.anchor.or(layer.anchor);
            layer.size = update.resolution.or(layer.size);
        }
    }

    /// Chooses the best layer of each track again, if it is time.
    pub(super) fn select(&mut self, now: Instant) {
        let due =
            self.selected_at.is_none_or(|at| now.saturating_duration_since(at) >= SELECT_INTERVAL);
        if !due {
            return;
        }
        self.selected_at = Some(now);
        for track in &mut self.tracks {
            let mut changed = false;
            for layer in &mut track.layers {
                let view = layer.view(now);
                let chosen_by = (view.live, view.size);
                changed |= std::mem::replace(&mut layer.chosen_by, chosen_by) != chosen_by;
            }
            // While no layer is live the last choice stands: the publisher may only be silent.
            let best = largest_live(track.layers.iter().map(|layer| layer.view(now)));
            if let Some(best) = best
                && track.best != Some(best)
            {
                track.best = Some(best);
                changed = true;
            }
            self.selection = self.selection.saturating_add(changed.into());
        }
    }

    /// Orders the packets so that a viewer needs the fewest send calls: layer by layer, the small
    /// packets of audio last.
    pub(super) fn arrange(&mut self, delivery: Delivery) {
        let Self { viewers, tracks, .. } = self;
        let track = |key: LayerKey| tracks.get(usize::from(key.track));
        let list = viewers.list_mut(delivery);
        list.arrange(|key| track(key).is_some_and(LocalTrack::is_audio));
        for run in list.video_runs_mut().filter(|run| run.len() > 1) {
            let key = run.first().map(|packet| packet.layer);
            let layer = key.and_then(|key| track(key)?.layers.get(usize::from(key.layer)));
            if let Some(layer) = layer {
                pad_to_neighbours(run, |ext_seq| layer.cache.get(ext_seq)?.meta());
            }
        }
    }

    /// Counter that changes whenever [`Self::best_layer`] or a viewer's preference may choose
    /// another layer.
    pub(super) fn selection(&self) -> NonZeroU64 {
        self.selection
    }

    /// The packets cached of a layer.
    pub(super) fn cache(&self, key: LayerKey) -> Option<&PacketCache> {
        self.layer(key).map(|layer| &layer.cache)
    }

    /// The present best layer of a track.
    pub(super) fn best_layer(&self, track: TrackIdx) -> Option<LayerIdx> {
        self.tracks.get(usize::from(track))?.best
    }

    /// Whether a layer sent a packet recently.
    pub(super) fn is_live(&self, key: LayerKey, now: Instant) -> bool {
        self.layer(key).is_some_and(|layer| layer.is_live(now))
    }

    /// Present measurements of each layer of a track.
    pub(super) fn views(&self, track: TrackIdx, now: Instant) -> LayerViews {
        let track = self.tracks.get(usize::from(track));
        track.iter().flat_map(|track| &track.layers).map(|layer| layer.view(now)).collect()
    }

    /// A cached packet.
    pub(super) fn packet(&self, key: LayerKey, ext_seq: u64) -> Option<&Packet> {
        let layer = self.layer(key)?;
        layer.cache.get(ext_seq).or_else(|| layer.keyframe.get(ext_seq)).map(|packet| &**packet)
    }

    /// Whether this packet and all cached ones behind it are part of the present delivery anyway.
    pub(super) fn delivers_from(&self, delivery: Delivery, key: LayerKey, first: u64) -> bool {
        let delivered = self.viewers.delivered_from(delivery, key, first);
        let cache = self.cache(key).filter(|cache| cache.get(first).is_some());
        cache.is_some_and(|cache| delivered == cache.held_from(first))
    }

    /// Facts that a forwarder needs about a layer.
    pub(super) fn context(&self, key: LayerKey) -> Option<LayerContext> {
        let state = self.layer(key)?;
        Some(LayerContext { key, anchor: state.anchor, start: state.keyframe.start() })
    }

    /// The last whole keyframe of each video layer and the packets after it, without a gap. At most
    /// `packets_max` per layer, else none of it.
    pub(super) fn kept(
        &self,
        packets_max: usize,
    ) -> impl Iterator<Item = (LayerKey, &Arc<Packet>)> {
        self.layers().flat_map(move |(key, state)| {
            let whole = state.keyframe.whole();
            let end = whole.map_or(0, |keyframe| keyframe.end());
            let rest = (end..=state.cache.newest()).map_while(|ext_seq| state.cache.get(ext_seq));
            let kept = whole.into_iter().flat_map(|keyframe| keyframe.packets());
            let all = kept.chain(rest.take(packets_max)).take(packets_max);
            all.map(move |packet| (key, packet))
        })
    }

    /// Parameter sets that are to be sent before the keyframes of [`Self::kept`].
    pub(super) fn sets_before_kept(&self) -> impl Iterator<Item = (LayerKey, &Arc<Packet>)> {
        self.layers().flat_map(|(key, state)| {
            let first = state.keyframe.whole().map_or(0, |keyframe| keyframe.first());
            state.keyframe.sets_before(first).iter().map(move |packet| (key, packet))
        })
    }

    /// The newest parameter sets of each video layer, with the number of its newest packet.
    pub(super) fn newest_sets(&self) -> impl Iterator<Item = (LayerKey, u64, &Arc<Packet>)> {
        self.layers().flat_map(|(key, state)| {
            let newest = state.cache.newest();
            state.keyframe.sets().iter().map(move |packet| (key, newest, packet))
        })
    }

    /// Number of packets and payload bytes cached here.
    pub(super) fn cached(&self) -> (usize, usize) {
        self.tracks.iter().flat_map(|track| &track.layers).fold((0, 0), |(p, b), layer| {
            let (packets, bytes) = layer.keyframe_beyond_cache();
            (p + layer.cache.packets() + packets, b + layer.cache.bytes() + bytes)
        })
    }

    /// Whether the packets are ours (and not handles to another worker's).
    pub(super) fn is_owned(&self) -> bool {
        self.owned
    }

    fn layers(&self) -> impl Iterator<Item = (LayerKey, &LocalLayer)> {
        let epoch = self.epoch().unwrap_or_default();
        TrackIdx::all().zip(&self.tracks).flat_map(move |(track, state)| {
            let key = move |layer| LayerKey { epoch, track, layer };
            LayerIdx::all().zip(&state.layers).map(move |(layer, state)| (key(layer), state))
        })
    }

    fn layer_mut(&mut self, key: LayerKey) -> Option<&mut LocalLayer> {
        let current = self.epoch() == Some(key.epoch);
        let track = self.tracks.get_mut(usize::from(key.track)).filter(|_| current)?;
        track.layers.get_mut(usize::from(key.layer))
    }

    fn layer(&self, key: LayerKey) -> Option<&LocalLayer> {
        let track = self.tracks.get(usize::from(key.track))?;
        track.layers.get(usize::from(key.layer)).filter(|_| self.epoch() == Some(key.epoch))
    }
}

/// Packet caches of a stream's layers for one viewer, which is served with `delivery`.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamCache<'a> {
    pub stream: &'a LocalStream,
    pub delivery: Delivery,
}

impl<'a> LayerCache<'a> for StreamCache<'a> {
    fn context(&self, key: LayerKey) -> Option<LayerContext> {
        self.stream.context(key)
    }

    fn newest(&self, key: LayerKey) -> Option<u64> {
        self.stream.cache(key).map(PacketCache::newest)
    }

    fn packet(&self, key: LayerKey, ext_seq: u64) -> Option<&'a Packet> {
        self.stream.packet(key, ext_seq)
    }

    fn keyframe(&self, key: LayerKey) -> Option<&'a KeyframeCache> {
        self.stream.layer(key).map(|layer| &layer.keyframe)
    }

    fn start(&self, key: LayerKey, now: Instant) -> Option<Cached<'a>> {
        let layer = self.stream.layer(key)?;
        let begins = layer.keyframe.begins();
        let live = begins.filter(|_| !layer.keyframe.is_prefilled());
        Some(Cached {
            tail: begins.and_then(|first| Tail::find(&layer.cache, first, TAIL_PACKETS_MAX)),
            begun: live.and_then(|first| Some(layer.cache.get(first)?.meta()?.arrival)),
            keyframe: layer.keyframe.whole(),
            bitrate: layer.rate.bitrate(now),
        })
    }

    fn delivers_from(&self, key: LayerKey, first: u64) -> bool {
        self.stream.delivers_from(self.delivery, key, first)
    }
}

impl LocalLayer {
    fn held(&self) -> Held {
        Held {
            packets: self.cache.packets(),
            bytes: self.cache.bytes(),
            keyframe_packets: self.keyframe.packets_kept(),
        }
    }

    fn is_live(&self, now: Instant) -> bool {
        let silent = |at| now.saturating_duration_since(at);
        self.last_packet.is_some_and(|at| silent(at) < dead_after(self.frames.get()))
    }

    /// Packets and bytes of the keyframe that are not in the packet cache any more.
    fn keyframe_beyond_cache(&self) -> (usize, usize) {
        let kept = self.keyframe.whole().map_or(&[][..], |keyframe| keyframe.packets());
        let metas = kept.iter().filter_map(|packet| packet.meta());
        let beyond = metas.filter(|meta| self.cache.get(meta.ext_seq).is_none());
        beyond.fold((0, 0), |(p, b), meta| (p + 1, b + usize::from(meta.payload_len)))
    }

    fn view(&self, now: Instant) -> LayerView {
        let bitrate = self.rate.bitrate(now).0;
        LayerView { live: self.is_live(now), size: self.size, bitrate }
    }
}

impl LocalTrack {
    fn new(info: &crate::router::table::SourceTrackInfo) -> Self {
        // Which of several layers they belong to is not said.
        let layers = match info.rids.len() {
            0 | 1 => {
                let keyframe = KeyframeCache::with_sets(stated_sets(&info.source.format));
                vec![LocalLayer { keyframe, ..LocalLayer::default() }]
            }
            count => (0..count).map(|_| LocalLayer::default()).collect(),
        };
        Self { layers, best: None, codec: info.source.format.codec }
    }

    fn is_audio(&self) -> bool {
        self.codec.kind() == MediaKind::Audio
    }
}

/// Marks packets that one byte of padding makes as long as the longest packet of their run. A run
/// of nearly equal packets ends where the next one is much longer or shorter.
fn pad_to_neighbours<'a>(run: &mut [PacketRef], meta: impl Fn(u64) -> Option<&'a PacketMeta>) {
    let len = |packet: &PacketRef| meta(packet.ext_seq).map_or(0, |meta| meta.payload_len);
    let nearly = |a: &PacketRef, b: &PacketRef| len(a).abs_diff(len(b)) <= PADDING_MAX;
    for equals in run.chunk_by_mut(nearly) {
        let longest = equals.iter().map(len).max().unwrap_or(0);
        for packet in equals {
            let short_by = longest - len(packet);
            packet.padded = short_by > 0 && short_by <= PADDING_MAX;
        }
    }
}

fn release(owned: bool, pool: &mut PacketPool, packet: Arc<Packet>) {
    if owned {
        pool.give(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(lens: &[u16]) -> Vec<bool> {
        let metas: Vec<PacketMeta> = (0u64..)
            .zip(lens)
            .map(|(ext_seq, len)| PacketMeta {
                ext_seq,
                timestamp: 0,
                marker: false,
                red: false,
                payload_start: 12,
                payload_len: *len,
                prefix_len: 0,
                frame: Default::default(),
                exts: [None; crate::media::packet::FORWARDED_EXTS_MAX],
                arrival: Instant::now(),
            })
            .collect();
        let (epoch, track) = (Epoch(1), TrackIdx(0));
        let layer = LayerKey { epoch, track, layer: LayerIdx(0) };
        let mut run: Vec<PacketRef> = (0..lens.len() as u64)
            .map(|ext_seq| PacketRef { layer, ext_seq, padded: false })
            .collect();
        pad_to_neighbours(&mut run, |ext_seq| metas.get(ext_seq as usize));
        run.iter().map(|packet| packet.padded).collect()
    }

    // architecture D5
    #[test]
    fn packets_that_differ_by_one_byte_are_padded_and_no_others() {
        assert_eq!(marked(&[1199, 1199, 1200, 1200]), [true, true, false, false]);
        assert_eq!(marked(&[1200, 1199, 700]), [false, true, false]);
        assert_eq!(marked(&[1200, 1200, 1200, 40]), [false; 4]);
        assert_eq!(marked(&[10, 12, 14]), [false; 3]);
        assert_eq!(marked(&[900, 901, 902]), [false, true, false], "one byte at most");
        assert_eq!(marked(&[900, 901, 1200, 1200, 1199]), [true, false, false, false, true]);
    }
}
