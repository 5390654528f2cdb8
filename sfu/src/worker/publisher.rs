//! One publisher: what comes in, and the feedback that goes back.
//!
//! Opens each packet once, finds its track and layer, unwraps RTX, parses once, and hands it to the
//! stream here and to the rings of workers that have viewers. Sends NACK, TWCC, RR, REMB and keyframe
//! requests. Called by the hallway in `mod.rs`; next: `stream.rs`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Cache;

use super::context::{Context, REPORT_INTERVAL};
use super::layer::Layer;
use super::packet_inspector::{Incoming, PacketInspector};
use super::report::{LayerInfo, TrackInfo};
use super::ssrcs::{SsrcTable, Target};
use super::stream::LocalStream;
use crate::congestion::twcc_receiver::TwccReceiver;
use crate::error::{CloseReason, DropReason};
use crate::ids::{LayerIdx, LayerKey, SessionId, TrackIdx};
use crate::media::packet::FORWARDED_EXTS_MAX;
use crate::media::source_clock::PublisherClock;
use crate::media::{Packet, PacketMeta};
use crate::repair::nack_generator::Arrival;
use crate::repair::red_recovery::Recovered;
use crate::repair::rtt::RtxRtt;
use crate::router::ring::MEDIA_RING_ITEMS;
use crate::router::{LayerInfoUpdate, MediaItem, Route, SourceInfo, StreamShared};
use crate::rtp::ext::ExtKind;
use crate::rtp::packet::RtpHeader;
use crate::rtp::rtcp::Rtcp;
use crate::sdp::{PublishPlan, PublishTrack};
use crate::transport::FiveTuple;
use crate::transport::peer::Peer;

/// How often other workers are told what is known of a layer.
const ANCHOR_INTERVAL: Duration = Duration::from_millis(200);

type RouteCache = Cache<RouteOf, Arc<Route>>;

/// Lets the cache read the route inside the shared stream.
struct RouteOf(Arc<StreamShared>);

impl std::ops::Deref for RouteOf {
    type Target = arc_swap::ArcSwap<Route>;

    fn deref(&self) -> &Self::Target {
        &self.0.route
    }
}

/// One publisher.
pub(super) struct Publisher {
    /// What it publishes, with the epoch it has once it is connected.
    pub(super) source: Arc<SourceInfo>,
    pub(super) tracks: Vec<Track>,
    pub(super) ssrcs: SsrcTable,
    pub(super) twcc: TwccReceiver,
    pub(super) clock: PublisherClock,
    route: RouteCache,
    /// The workers that its packets went to.
    served: Vec<usize>,
    pub(super) rtt: RtxRtt,
    pub(super) our_ssrc: u32,
    pub(super) next_report: Instant,
    /// While it has viewers on other workers.
    pub(super) next_request_poll: Option<Instant>,
    /// When it connected or last sent media; `None` before.
    last_media: Option<Instant>,
}

/// A publisher that is connected and sends no media for this long is ended
/// ([`CloseReason::NoMedia`], quality B2), so that its name is free and its viewers know.
const MEDIA_TIMEOUT: Duration = Duration::from_secs(30);

/// Cached packets of a layer that a worker gets with its first viewer, so that the ring between has room for all
/// layers. Of a longer group the end is missing there: its viewer begins with the keyframe alone.
const PREFILL_PACKETS_MAX: usize = 200;

pub(super) struct Track {
    pub(super) plan: PublishTrack,
    pub(super) layers: Vec<Layer>,
    /// One for each layer.
    inspectors: Vec<PacketInspector>,
}

impl Publisher {
    /// A publisher that has not sent anything. `our_ssrc` signs its feedback.
    pub(super) fn new(
        id: SessionId,
        plan: PublishPlan,
        stream: &Arc<StreamShared>,
        our_ssrc: u32,
        now: Instant,
    ) -> Self {
        let source = Arc::new(SourceInfo::offered(id, &plan));
        let tracks: Vec<Track> = plan
            .tracks
            .into_iter()
            .map(|plan| {
                let layers = Layer::for_track(&plan);
                let inspectors = layers.iter().map(|_| PacketInspector::new(&plan)).collect();
                Track { plan, layers, inspectors }
            })
            .collect();
        let ssrcs = SsrcTable::declared(tracks.iter().map(|track| &track.plan));
        Self {
            source,
            tracks,
            ssrcs,
            twcc: TwccReceiver::new(),
            clock: PublisherClock::new(),
            route: Cache::new(RouteOf(Arc::clone(stream))),
            served: Vec::new(),
            rtt: RtxRtt::default(),
            our_ssrc,
            next_report: now + REPORT_INTERVAL,
            next_request_poll: None,
            last_media: None,
        }
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        self.twcc.warm();
        self.ssrcs.warm();
        black_box((self.source.epoch, self.served.first().copied(), self.last_media));
        for track in &self.tracks {
            black_box((track.plan.pt, track.plan.exts.allow_mixed, track.inspectors.len()));
        }
    }

    /// The same of what lies behind its tracks.
    pub(super) fn warm_layers(&self) {
        for track in &self.tracks {
            black_box(track.plan.exts.id(ExtKind::TransportCc));
            track.layers.iter().for_each(Layer::warm);
            track.inspectors.iter().for_each(PacketInspector::warm);
        }
    }

    /// Its keys are known: the stream is its from now on.
    pub(super) fn on_connected(&mut self, now: Instant, stream: &StreamShared) {
        self.last_media = Some(now);
        self.source = stream.connect(&self.source);
    }

    /// Why it must end, if it must. Its reports wake it each second.
    pub(super) fn verdict(&self, now: Instant) -> Option<CloseReason> {
        let silent = |at| now.saturating_duration_since(at) >= MEDIA_TIMEOUT;
        self.last_media.is_some_and(silent).then_some(CloseReason::NoMedia)
    }

    /// One SRTP packet from a validated path.
    ///
    /// # Errors
    /// Why it went no further.
    pub(super) fn handle_rtp(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        peer: &mut Peer,
        stream: &mut LocalStream,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        let header = RtpHeader::parse(datagram).map_err(|_| DropReason::RtpMalformed)?;
        let mut packet = context.pool.take(datagram.len()).ok_or(DropReason::PoolExhausted)?;
        let outcome = self.open(now, path, datagram, &header, peer, &mut packet, context);
        match outcome {
            Ok(Some(key)) => {
                self.recover(now, key, &packet, stream, context);
                self.publish(now, key, packet, stream, context)
            }
            Ok(None) => {
                context.pool.give(packet);
                Ok(())
            }
            Err(reason) => {
                context.pool.give(packet);
                Err(reason)
            }
        }
    }

    /// Decrypts into the pool buffer, finds track and layer, and describes what is in it. `None` for
    /// packets that carry nothing to forward (RTX padding).
    #[expect(clippy::too_many_arguments, reason = "one step of handle_rtp, split off to be read")]
    fn open(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        header: &RtpHeader,
        peer: &mut Peer,
        packet: &mut Arc<Packet>,
        context: &mut Context,
    ) -> Result<Option<LayerKey>, DropReason> {
        // The pool promises that nobody else holds the buffer.
        let packet = Arc::get_mut(packet).ok_or(DropReason::PoolExhausted)?;
        let opened = peer.open_rtp(now, path, datagram, header, packet.buffer_mut())?;
        context.report.packets_in += 1;
        context.report.bytes_in += datagram.len() as u64;

        let plaintext = packet.buffer().get(..opened.len).ok_or(DropReason::RtpMalformed)?;
        let payload_len = header.payload_len(plaintext).map_err(|_| DropReason::RtpMalformed)?;
        let target = self.find_target(now, header, opened.index, plaintext)?;
        let track =
            self.tracks.get_mut(usize::from(target.track)).ok_or(DropReason::UnknownTrack)?;
        if let Some(sequence) = transport_sequence(&track.plan, header, plaintext) {
            self.twcc.on_packet(now, sequence);
        }
        let layer =
            track.layers.get_mut(usize::from(target.layer)).ok_or(DropReason::UnknownTrack)?;
        let payload_start = header.header_len;
        let (ext_seq, start, len) = if target.rtx {
            // RFC 4588: two bytes of original sequence number, then the payload. Nothing after them
            // is padding that probes the path.
            let payload = plaintext.get(payload_start..payload_start + payload_len);
            let number = payload.and_then(|payload| payload.first_chunk::<2>());
            let Some(number) = number.filter(|_| payload_len > 2) else { return Ok(None) };
            let ext_seq = layer.near(u16::from_be_bytes(*number));
            if !layer.nack.knows(ext_seq) {
                // Given up, or a repeat of an SSRC that was left.
                return Err(DropReason::TooOld);
            }
            layer.repairs += 1;
            (ext_seq, payload_start + 2, payload_len - 2)
        } else {
            (layer.extend(opened.index), payload_start, payload_len)
        };
        match layer.nack.on_packet(now, ext_seq) {
            Arrival::Duplicate => return Err(DropReason::Duplicate),
            Arrival::TooOld => return Err(DropReason::TooOld),
            Arrival::Repaired => self.rtt.on_repair(now, ext_seq),
            Arrival::InOrder | Arrival::Reordered => {}
        }
        // Only now: what the limit drops has arrived and must not be asked for again.
        if !layer.within(context.publisher_limits, now, datagram.len()) {
            return Err(DropReason::PublisherRate);
        }
        let clock_rate = track.plan.format.codec.clock_rate();
        let timestamp = layer.timeline.on_packet(now, ext_seq, header.timestamp, clock_rate);
        let incoming = Incoming { ext_seq, timestamp, start, len };
        let inspector = track.inspectors.get_mut(usize::from(target.layer));
        let inspector = inspector.ok_or(DropReason::UnknownTrack)?;
        let announced = inspector.announced();
        let meta = inspector.describe(&track.plan, header, plaintext, &incoming, now)?;
        if inspector.announced() != announced {
            layer.anchored_at = None; // others are told at once
        }
        layer.on_media(now, context.clock.ntp(now), &meta, clock_rate, target.rtx);
        packet.describe(meta);
        self.last_media = Some(now);
        Ok(Some(LayerKey { epoch: self.source.epoch, track: target.track, layer: target.layer }))
    }

    /// Which track and layer a packet belongs to: MID and RID extensions, then what is known or was
    /// declared of its SSRC, then a payload type that only one m-line has (whip-whep C58).
    fn find_target(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        index: u64,
        plaintext: &[u8],
    ) -> Result<Target, DropReason> {
        if let Some(target) = self.ssrcs.known(header.ssrc) {
            let track = self.tracks.get_mut(usize::from(target.track));
            let Track { plan, layers, .. } = track.ok_or(DropReason::UnknownTrack)?;
            let fits = match target.rtx {
                true => plan.rtx_pt == Some(header.payload_type),
                false => is_media(plan, header.payload_type),
            };
            if !fits {
                return Err(DropReason::UnknownPayloadType);
            }
            let layer = layers.get_mut(usize::from(target.layer));
            let layer = layer.ok_or(DropReason::UnknownTrack)?;
            if !target.rtx && layer.ssrc() != Some(header.ssrc) {
                // A late packet of an SSRC that was left, or the encoder went back to it.
                if !layer.is_silent(now) {
                    return Err(DropReason::UnknownTrack);
                }
                layer.bind(header.ssrc, index);
            }
            return Ok(target);
        }
        let target = resolve(&self.tracks, &self.ssrcs, header, plaintext)?;
        self.ssrcs.learn(header.ssrc, target)?;
        let layer = self
            .tracks
            .get_mut(usize::from(target.track))
            .and_then(|track| track.layers.get_mut(usize::from(target.layer)))
            .ok_or(DropReason::UnknownTrack)?;
        if !target.rtx {
            layer.bind(header.ssrc, index);
        }
        Ok(target)
    }

    /// Publishes what was lost directly before a packet of sound and came back inside it.
    fn recover(
        &mut self,
        now: Instant,
        key: LayerKey,
        packet: &Packet,
        stream: &mut LocalStream,
        context: &mut Context,
    ) {
        let of =
            self.tracks.get_mut(usize::from(key.track)).filter(|track| track.plan.red_pt.is_some());
        let state = of.and_then(|track| track.layers.get_mut(usize::from(key.layer)));
        let (Some(state), Some(meta)) = (state, packet.meta()) else { return };
        let red = meta.red.then(|| packet.payload());
        for lost in state.red.on_packet(meta.ext_seq, meta.timestamp, red).into_iter().flatten() {
            // From here on the number has come: the packet itself, if it is only late, is a duplicate.
            let state = self.tracks.get_mut(usize::from(key.track));
            let state = state.and_then(|track| track.layers.get_mut(usize::from(key.layer)));
            let Some(state) = state else { return };
            if matches!(
                state.nack.on_packet(now, lost.ext_seq),
                Arrival::Duplicate | Arrival::TooOld
            ) {
                continue;
            }
            if !state.within(context.publisher_limits, now, lost.payload.len()) {
                context.report.dropped.count(DropReason::PublisherRate);
                continue;
            }
            let Some(twin) = recovered(&lost, meta, context) else {
                context.report.dropped.count(DropReason::PoolExhausted);
                continue;
            };
            state.repairs += 1;
            if let Err(reason) = self.publish(now, key, twin, stream, context) {
                context.report.dropped.count(reason);
            }
        }
    }

    /// Gives a described packet to the viewers here and to the workers that have others.
    fn publish(
        &mut self,
        now: Instant,
        key: LayerKey,
        packet: Arc<Packet>,
        stream: &mut LocalStream,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        if stream.epoch() != Some(key.epoch) || !stream.is_owned() {
            // Another publisher holds the stream; ours is being closed or waits for its turn.
            context.pool.give(packet);
            return Err(DropReason::UnknownTrack);
        }
        let update = self.due_layer_info(now, key);
        if let Some(update) = update {
            stream.update_layer_info(key, update);
        }
        let id = stream.shared.id;
        let route = self.route.load();
        if route.destinations != self.served {
            // Whoever comes anew begins with what is cached here.
            for &worker in route.destinations.iter().filter(|w| !self.served.contains(w)) {
                seed(worker, stream, context);
            }
            self.served.clone_from(&route.destinations);
            let elsewhere = self.served.iter().any(|worker| *worker != context.port.index);
            self.next_request_poll = elsewhere.then_some(now);
        }
        for &worker in &route.destinations {
            if worker == context.port.index {
                continue;
            }
            if let Some(update) = update {
                let item = MediaItem::Layer { stream: id, layer: key, update };
                context.port.send_media(worker, item);
            }
            let packet = Arc::clone(&packet);
            let item = MediaItem::Packet { stream: id, layer: key, packet };
            if !context.port.send_media(worker, item) {
                context.report.dropped.count(DropReason::RingFull);
            }
        }
        let packet = stream.keep(key, packet, &mut context.pool)?;
        stream.viewers.queue(packet);
        Ok(())
    }

    fn due_layer_info(&mut self, now: Instant, key: LayerKey) -> Option<LayerInfoUpdate> {
        let track = self.tracks.get_mut(usize::from(key.track))?;
        let inspector = track.inspectors.get(usize::from(key.layer))?;
        let layer = track.layers.get_mut(usize::from(key.layer))?;
        let due =
            layer.anchored_at.is_none_or(|at| now.saturating_duration_since(at) >= ANCHOR_INTERVAL);
        if !due {
            return None;
        }
        layer.anchored_at = Some(now);
        let resolution = layer.resolution().or(inspector.announced());
        Some(LayerInfoUpdate { anchor: layer.anchor(&self.clock), resolution })
    }

    /// One decrypted RTCP compound.
    pub(super) fn handle_rtcp(&mut self, now: Instant, compound: &[u8], context: &mut Context) {
        for packet in crate::rtp::rtcp::packets(compound) {
            let Ok(packet) = packet else {
                context.report.dropped.count(DropReason::RtcpMalformed);
                return;
            };
            if let Rtcp::SenderReport(report) = packet {
                let server = context.clock.ntp(now);
                self.clock.on_sender_report(server, report.ntp);
                if let Some((layer, clock_rate)) = self.layer_of_ssrc(report.ssrc) {
                    layer.on_sender_report(now, report.ntp, report.rtp_time, clock_rate);
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let layers = self.tracks.iter().flat_map(|track| &track.layers);
        let feedback = layers.flat_map(|layer| {
            [layer.nack.next_timeout(), layer.keyframes.next_timeout()].into_iter().flatten()
        });
        let others = [self.twcc.next_timeout(), self.next_request_poll, Some(self.next_report)];
        feedback.chain(others.into_iter().flatten()).min()
    }

    /// Its tracks for the API.
    pub(super) fn report(&mut self, now: Instant) -> Vec<TrackInfo> {
        self.tracks
            .iter_mut()
            .map(|track| TrackInfo {
                mid: track.plan.mid.clone(),
                kind: track.plan.kind,
                codec: Some(track.plan.format.codec),
                layers: track
                    .layers
                    .iter_mut()
                    .filter_map(|layer| layer.report(now))
                    .collect::<Vec<LayerInfo>>(),
                reason: None,
                current_layer: None,
                target_layer: None,
                target_reason: None,
                current_temporal_layer: None,
                target_temporal_layer: None,
                preference: None,
            })
            .collect()
    }

    /// The layer of a media SSRC, with its clock rate in Hz.
    fn layer_of_ssrc(&mut self, ssrc: u32) -> Option<(&mut Layer, u32)> {
        let target = self.ssrcs.known(ssrc).filter(|target| !target.rtx)?;
        let track = self.tracks.get_mut(usize::from(target.track))?;
        let clock_rate = track.plan.format.codec.clock_rate();
        Some((track.layers.get_mut(usize::from(target.layer))?, clock_rate))
    }
}

/// Gives a worker that had no viewers of the stream the last keyframe of each layer and what followed it.
fn seed(worker: usize, stream: &LocalStream, context: &mut Context) {
    let id = stream.shared.id;
    if worker == context.port.index {
        return;
    }
    for (layer, packet) in stream.kept(PREFILL_PACKETS_MAX) {
        let packet = Arc::clone(packet);
        let item = MediaItem::Prefill { stream: id, layer, packet };
        // Half of the ring stays for everybody's live packets.
        let room = context.port.media_room(worker) > MEDIA_RING_ITEMS / 2;
        if !room || !context.port.send_media(worker, item) {
            return;
        }
    }
}

fn is_media(plan: &PublishTrack, payload_type: u8) -> bool {
    plan.pt == payload_type || plan.red_pt == Some(payload_type)
}

fn transport_sequence(plan: &PublishTrack, header: &RtpHeader, plaintext: &[u8]) -> Option<u16> {
    let id = plan.exts.id(ExtKind::TransportCc)?;
    let (_, data) = header.elements(plaintext).find(|(element, _)| *element == id)?;
    data.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

/// A packet of its own for what came back inside another one.
fn recovered(
    lost: &Recovered<'_>,
    inside: &PacketMeta,
    context: &mut Context,
) -> Option<Arc<Packet>> {
    let mut twin = context.pool.take(lost.payload.len())?;
    let packet = Arc::get_mut(&mut twin)?;
    packet.buffer_mut().get_mut(..lost.payload.len())?.copy_from_slice(lost.payload);
    packet.describe(PacketMeta {
        ext_seq: lost.ext_seq,
        timestamp: lost.timestamp,
        marker: false,
        red: false,
        payload_start: 0,
        payload_len: lost.payload.len() as u16,
        prefix_len: 0,
        exts: [None; FORWARDED_EXTS_MAX],
        ..*inside
    });
    Some(twin)
}

fn resolve(
    tracks: &[Track],
    ssrcs: &SsrcTable,
    header: &RtpHeader,
    plaintext: &[u8],
) -> Result<Target, DropReason> {
    let pt = header.payload_type;
    let takes = |plan: &PublishTrack| is_media(plan, pt) || plan.rtx_pt == Some(pt);
    let index = track_by_mid(tracks, header, plaintext)
        .or_else(|| ssrcs.declared_track(header.ssrc))
        .or_else(|| {
            let mut fitting = TrackIdx::all().zip(tracks).filter(|(_, track)| takes(&track.plan));
            let (index, _) = fitting.next()?;
            fitting.next().is_none().then_some(index)
        })
        .ok_or(DropReason::UnknownTrack)?;
    let plan = &tracks.get(usize::from(index)).ok_or(DropReason::UnknownTrack)?.plan;
    if !takes(plan) {
        return Err(DropReason::UnknownPayloadType);
    }
    let rtx = plan.rtx_pt == Some(pt);
    if plan.rids.is_empty() {
        // OBS stamps a rid whatever the answer said (whip-whep C59): one layer, nothing to choose.
        return Ok(Target { track: index, layer: LayerIdx(0), rtx });
    }
    let kind = if rtx { ExtKind::RepairedRid } else { ExtKind::Rid };
    let layer = plan
        .exts
        .id(kind)
        .and_then(|id| header.elements(plaintext).find(|(element, _)| *element == id))
        .and_then(|(_, rid)| plan.rids.iter().position(|name| name.as_bytes() == rid))
        .ok_or(DropReason::UnknownTrack)?;
    Ok(Target { track: index, layer: LayerIdx(layer as u8), rtx })
}

fn track_by_mid(tracks: &[Track], header: &RtpHeader, plaintext: &[u8]) -> Option<TrackIdx> {
    // BUNDLE gives an extension one id in all sections, so the first that has it tells (RFC 9143).
    let id = tracks.iter().find_map(|track| track.plan.exts.id(ExtKind::Mid))?;
    let (_, mid) = header.elements(plaintext).find(|(element, _)| *element == id)?;
    let index = tracks.iter().position(|track| track.plan.mid.as_bytes() == mid)?;
    Some(TrackIdx(index as u8))
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("epoch", &self.source.epoch).finish_non_exhaustive()
    }
}
