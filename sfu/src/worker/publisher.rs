//! Publisher: packets from one publisher, and the feedback to it.
//!
//! Opens each packet once, finds its track and layer, and has the layer account for it. Hands it to
//! the stream here and to the rings of workers that have viewers. `publisher_feedback.rs` sends
//! NACK, TWCC, RR, REMB and keyframe requests. Called by `dispatch.rs` for each packet; next:
//! `transport/peer.rs`, `lookup.rs`, `layer.rs`, `routing.rs`, and `stream.rs` for the viewers
//! here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::{Context, REPORT_INTERVAL};
use super::drop_warnings::DropWarnings;
use super::ingress_rate::IngressRate;
use super::layer::{Arrived, Layer, Track};
use super::lookup::{self, transport_sequence};
use super::report::{LayerInfo, PublisherStatus, TrackInfo};
use super::routing::Routing;
use super::ssrcs::{SsrcTable, Target};
use super::stream::LocalStream;
use super::warning::Warning;
use crate::codec::MediaKind;
use crate::config::PublisherLimits;
use crate::congestion::twcc_receiver::TwccReceiver;
use crate::error::DropReason;
use crate::ids::{LayerKey, SessionId};
use crate::media::packet::FORWARDED_EXTS_MAX;
use crate::media::source_clock::PublisherClock;
use crate::media::{HolderId, Packet, PacketMeta};
use crate::repair::nack_generator::Arrival;
use crate::repair::red_recovery::Recovered;
use crate::repair::rtt::RtxRtt;
use crate::router::{SourceInfo, StreamShared};
use crate::rtp::ext::ExtKind;
use crate::rtp::packet::RtpHeader;
use crate::rtp::rtcp::Rtcp;
use crate::sdp::PublishPlan;
use crate::transport::FiveTuple;
use crate::transport::peer::Peer;
use crate::warm::warm;

/// One publisher.
pub(super) struct Publisher {
    /// The publisher's source, with its epoch once it is connected.
    pub(super) source: Arc<SourceInfo>,
    pub(super) tracks: Vec<Track>,
    pub(super) ssrcs: SsrcTable,
    pub(super) twcc: TwccReceiver,
    pub(super) clock: PublisherClock,
    pub(super) routing: Routing,
    pub(super) rtt: RtxRtt,
    /// Warnings about its packets that are dropped.
    pub(super) dropped: DropWarnings,
    rate: IngressRate,
    /// For what the pool counts its buffers.
    pub(super) holder: HolderId,
    pub(super) our_ssrc: u32,
    pub(super) next_report: Instant,
    /// Warnings that were reported.
    warned: Vec<&'static str>,
    /// Whether it was reported as silent.
    silent: bool,
}

impl Publisher {
    /// A publisher that has not sent anything. `our_ssrc` signs its feedback, and the pool counts its
    /// buffers for `holder`.
    pub(super) fn new(
        id: SessionId,
        plan: PublishPlan,
        stream: &Arc<StreamShared>,
        our_ssrc: u32,
        holder: HolderId,
        limits: PublisherLimits,
        now: Instant,
    ) -> Self {
        let source = Arc::new(SourceInfo::offered(id, &plan));
        let tracks: Vec<Track> = plan
            .tracks
            .into_iter()
            .map(|plan| {
                let layers = Layer::for_track(&plan);
                Track { plan, layers }
            })
            .collect();
        let ssrcs = SsrcTable::declared(tracks.iter().map(|track| &track.plan));
        Self {
            source,
            tracks,
            ssrcs,
            twcc: TwccReceiver::new(),
            clock: PublisherClock::new(),
            routing: Routing::new(stream),
            rtt: RtxRtt::default(),
            dropped: DropWarnings::default(),
            rate: IngressRate::new(limits),
            holder,
            our_ssrc,
            next_report: now + REPORT_INTERVAL,
            warned: Vec::new(),
            silent: false,
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        self.twcc.warm();
        self.ssrcs.warm();
        self.routing.warm();
        warm!(self.source.epoch, self.rate);
        for track in &self.tracks {
            warm!(track.plan.pt, track.plan.exts.allow_mixed);
        }
    }

    /// Reads the layers' state, to which the tracks point, after [`Self::warm`].
    pub(super) fn warm_layers(&self) {
        for track in &self.tracks {
            warm!(track.plan.exts.id(ExtKind::TransportCc));
            track.layers.iter().for_each(Layer::warm);
        }
    }

    /// Makes the publisher the stream's source, once its keys are known.
    pub(super) fn on_connected(&mut self, stream: &StreamShared) {
        self.source = stream.connect(&self.source);
    }

    /// Handles one SRTP packet from a validated path.
    ///
    /// # Errors
    ///
    /// The reason why the packet is dropped.
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
        let Some(mut packet) = context.pool.take(datagram.len(), self.holder) else {
            self.dropped.note(now, Warning::PoolExhausted);
            return Err(DropReason::PoolExhausted);
        };
        let outcome = self.open(now, path, datagram, &header, peer, &mut packet, context);
        match outcome {
            Ok(Some(key)) => {
                settle_time(key, &mut packet, stream);
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

    /// Decrypts into the pool buffer, finds track and layer, and describes the content. `None` for
    /// packets without media to forward (RTX padding).
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
        // A new buffer of the pool has no other owner.
        let packet = Arc::get_mut(packet).ok_or(DropReason::PoolExhausted)?;
        let opened = peer.open_rtp(now, path, datagram, header, packet.buffer_mut())?;
        context.report.packets_in += 1;
        context.report.bytes_in += datagram.len() as u64;

        let plaintext = packet.buffer().get(..opened.len).ok_or(DropReason::RtpMalformed)?;
        let target = match self.classify(now, header, opened.index, plaintext) {
            Ok(target) => target,
            // Of no track, and charged like all that was authenticated.
            Err(reason) => match self.rate.take(now, MediaKind::Video, datagram.len()) {
                true => return Err(reason),
                false => return Err(self.refuse(now, context)),
            },
        };
        let arrived = Arrived {
            header,
            plaintext,
            index: opened.index,
            rtx: target.rtx,
            wire_len: datagram.len(),
        };
        let track = self.tracks.get_mut(usize::from(target.track));
        let Track { plan, layers } = track.ok_or(DropReason::UnknownTrack)?;
        let layer = layers.get_mut(usize::from(target.layer)).ok_or(DropReason::UnknownTrack)?;
        let rate = &mut self.rate;
        let accepted = layer.accept(now, plan, &arrived, rate, &mut self.rtt, context);
        if accepted.err() == Some(DropReason::PublisherRate) {
            return Err(self.refuse(now, context));
        }
        let Some(meta) = accepted? else { return Ok(None) };
        packet.describe(meta);
        Ok(Some(LayerKey { epoch: self.source.epoch, track: target.track, layer: target.layer }))
    }

    /// Notes a packet above the publisher's limits; returns why it is dropped.
    fn refuse(&mut self, now: Instant, context: &Context) -> DropReason {
        self.dropped.note(now, Warning::PublisherRate(context.publisher_limits));
        DropReason::PublisherRate
    }

    /// Finds the packet's track and layer; records its arrival for transport-wide feedback.
    fn classify(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        index: u64,
        plaintext: &[u8],
    ) -> Result<Target, DropReason> {
        let Self { tracks, ssrcs, twcc, .. } = self;
        let target = lookup::find_target(tracks, ssrcs, now, header, index, plaintext)?;
        let plan = tracks.get(usize::from(target.track)).map(|track| &track.plan);
        if let Some(sequence) = plan.and_then(|plan| transport_sequence(plan, header, plaintext)) {
            twcc.on_packet(now, sequence);
        }
        Ok(target)
    }

    /// Publishes lost packets that came back as redundancy inside an audio packet after the gap.
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
            // From here on the number counts as received: the packet itself, if it is only late, is
            // a duplicate.
            let state = self.tracks.get_mut(usize::from(key.track));
            let state = state.and_then(|track| track.layers.get_mut(usize::from(key.layer)));
            let Some(state) = state else { return };
            let arrival = state.nack.on_packet(now, lost.ext_seq);
            if matches!(arrival, Arrival::Duplicate | Arrival::TooOld) {
                continue;
            }
            if !self.rate.take(now, MediaKind::Audio, lost.payload.len()) {
                state.stats.on_refused(lost.ext_seq);
                context.report.dropped.count(self.refuse(now, context));
                continue;
            }
            state.rate.add(now, lost.payload.len());
            let Some(twin) = recovered(&lost, meta, self.holder, context) else {
                context.report.dropped.count(DropReason::PoolExhausted);
                continue;
            };
            // One that was requested counts as an answered NACK already.
            state.recovered += u64::from(arrival != Arrival::Repaired);
            if let Err(reason) = self.publish(now, key, twin, stream, context) {
                context.report.dropped.count(reason);
            }
        }
    }

    /// Gives a described packet to the viewers here and to the other workers with viewers.
    fn publish(
        &mut self,
        now: Instant,
        key: LayerKey,
        packet: Arc<Packet>,
        stream: &mut LocalStream,
        context: &mut Context,
    ) -> Result<(), DropReason> {
        if stream.epoch() != Some(key.epoch) || !stream.is_owned() {
            // Another publisher is the stream's source; this one is being closed or is not
            // connected yet.
            context.pool.give(packet);
            return Err(DropReason::UnknownTrack);
        }
        let layer = self
            .tracks
            .get_mut(usize::from(key.track))
            .and_then(|track| track.layers.get_mut(usize::from(key.layer)));
        let update = layer.and_then(|layer| layer.due_info(now, &self.clock));
        if let Some(update) = update {
            stream.update_layer_info(key, update);
        }
        self.routing.send(now, key, update, &packet, stream, context);
        stream.take_packet(key, packet, &mut context.pool)
    }

    /// Handles one decrypted RTCP compound.
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

    /// Time at which [`Self::handle_timeout`] is to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let layers = self.tracks.iter().flat_map(|track| &track.layers);
        let feedback = layers.flat_map(|layer| {
            [layer.nack.next_timeout(), layer.keyframes.next_timeout()].into_iter().flatten()
        });
        let others =
            [self.twcc.next_timeout(), self.routing.next_request_poll(), Some(self.next_report)];
        feedback.chain(others.into_iter().flatten()).min()
    }

    /// Notes whether nothing comes from the client any more; true if that is new.
    pub(super) fn note_silence(&mut self, silent: bool) -> bool {
        std::mem::replace(&mut self.silent, silent) != silent
    }

    /// What is wrong with the stream, each code once; of several layers the worst.
    pub(super) fn warnings(&mut self, now: Instant) -> Vec<Warning> {
        let layers = || self.tracks.iter().flat_map(|track| &track.layers);
        let b_frames = layers().any(Layer::has_b_frames).then_some(Warning::BFrames);
        let bare =
            self.tracks.iter().find(|track| track.layers.iter().any(|layer| layer.lacks_sets(now)));
        let bare = bare.map(|track| Warning::NoParameterSets { codec: track.plan.format.codec });
        let layers = self.tracks.iter_mut().flat_map(|track| &mut track.layers);
        let slowest = layers.filter_map(|layer| layer.slow_keyframes(now)).max();
        let interval = slowest.map(|interval| Warning::KeyframeInterval {
            // To a tenth of a second, so that it does not change all the time.
            interval: Duration::from_millis((interval.as_millis() as u64 + 50) / 100 * 100),
        });
        let layers = self.tracks.iter_mut().flat_map(|track| &mut track.layers);
        let lacking = layers.filter_map(|layer| layer.lacks_keyframe(now)).min();
        let none = lacking.map(|had_one| Warning::NoKeyframe { had_one });
        let encoder = b_frames.into_iter().chain(bare).chain(interval).chain(none);
        encoder.chain(self.dropped.recent(now)).collect()
    }

    /// A warning that was not reported yet.
    pub(super) fn take_new_warning(&mut self, now: Instant) -> Option<Warning> {
        let all = self.warnings(now);
        let new = all.into_iter().find(|warning| !self.warned.contains(&warning.code()))?;
        self.warned.push(new.code());
        Some(new)
    }

    /// Status of the stream for its viewers.
    pub(super) fn status(&mut self, now: Instant) -> PublisherStatus {
        let layers = self.tracks.iter().flat_map(|track| &track.layers);
        let (interval, next) = layers.filter_map(Layer::keyframe_times).max().unzip();
        PublisherStatus {
            warnings: self.warnings(now),
            keyframe_interval: interval,
            next_keyframe: next.flatten(),
        }
    }

    /// Tracks for the API.
    pub(super) fn report(&mut self, now: Instant) -> Vec<TrackInfo> {
        self.tracks
            .iter_mut()
            .map(|track| TrackInfo {
                codec: Some(track.plan.format.codec),
                layers: track
                    .layers
                    .iter_mut()
                    .filter_map(|layer| layer.report(now))
                    .collect::<Vec<LayerInfo>>(),
                ..TrackInfo::bare(&track.plan.mid, track.plan.kind)
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

/// Packets before a late one without payload of which one should be cached.
const NEIGHBOURS: u64 = 16;

/// Gives a late packet without payload the timestamp of a packet before it. Its own may mean nothing,
/// and times must not go back along the numbers.
fn settle_time(key: LayerKey, packet: &mut Arc<Packet>, stream: &LocalStream) {
    let meta = packet.meta().copied().filter(|meta| meta.payload_len == 0);
    let (Some(meta), Some(cache)) = (meta, stream.cache(key)) else { return };
    if meta.ext_seq > cache.newest() {
        return;
    }
    let mut before = (1..=NEIGHBOURS).filter_map(|back| cache.get(meta.ext_seq.checked_sub(back)?));
    let timestamp = before.next().and_then(|packet| packet.meta()).map(|meta| meta.timestamp);
    if let Some((timestamp, packet)) = timestamp.zip(Arc::get_mut(packet)) {
        packet.describe(PacketMeta { timestamp, ..meta });
    }
}

/// A packet of its own for media that came back inside another packet.
fn recovered(
    lost: &Recovered<'_>,
    inside: &PacketMeta,
    holder: HolderId,
    context: &mut Context,
) -> Option<Arc<Packet>> {
    let mut twin = context.pool.take(lost.payload.len(), holder)?;
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

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("epoch", &self.source.epoch).finish_non_exhaustive()
    }
}
