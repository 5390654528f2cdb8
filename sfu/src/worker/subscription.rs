//! Subscription of a viewer: an outgoing RTP sender (m-line, stable SSRC) and the track it carries
//! now.
//!
//! A subscription can be bound to a track of any stream, and bound again while it runs; SSRC,
//! sequence numbers and timestamps continue. Owns what is sent of the track and why; the send path
//! itself is `outbox.rs`. Called by `subscriber.rs`, which knows all subscriptions of a viewer.
//! Next: `forward/forwarder.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Context;
use super::outbox::Outbox;
use super::stream::{LocalStream, StreamCache};
use super::streams::Streams;
use super::viewer_queue::{Delivery, PacketRef};
use crate::codec::MediaKind;
use crate::error::DropReason;
use crate::forward::sent::{NotClaimed, SENT_AUDIO_MAX, SENT_MAX};
use crate::forward::start::StartMode;
use crate::forward::{
    Choice, ForwardDecision, Forwarder, LayerContext, LayerPreference, Numbered, OutgoingFormat,
    Reason, RtpSenderConfig, Step,
};
use crate::ids::{LayerIdx, LayerKey, TrackIdx};
use crate::limiter::PerSecondLimit;
use crate::media::stats::SenderStats;
use crate::media::{Packet, PacketCache, PacketMeta};
use crate::repair::rtx_budget::RtxBudget;
use crate::router::{SourceInfo, StreamId, StreamShared};
use crate::rtp::rtcp::{ReportBlock, SenderReportOut};
use crate::sdp::{SubscribeTrack, codec_matches};
use crate::units::{Bitrate, Ntp};

/// Maximum sequence numbers per second that a viewer may send NACKs for, per sender (quality A3.2).
/// More are dropped (`DropReason::RepairLimited`). Each sender has its own limit, so that video
/// cannot use up the retransmissions of audio.
const NACKS_PER_SECOND: u32 = 1_000;

/// Maximum round trip by which retransmissions are paced: clients give up after some tries.
const RETRANSMIT_RTT_MAX: Duration = Duration::from_millis(300);

/// Round trip assumed until the first receiver report.
const RTT_UNKNOWN: Duration = Duration::from_millis(50);

/// One subscription. What each turn needs is in the forwarder.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Publisher and track that it carries now; `layer` is 0.
    source: Option<LayerKey>,
    pub(super) forwarder: Forwarder,
    pub(super) plan: SubscribeTrack,
    /// The track it is bound to, whether it is published or not.
    binding: Binding,
    pub(super) stats: SenderStats,
    pub(super) rate: SendRateMeter,
    pub(super) nacks: u64,
    nack_limit: PerSecondLimit,
    pub(super) retransmits: u64,
    pub(super) keyframes: SentKeyframes,
    /// PLI and FIR for this sender.
    pub(super) keyframe_requests: u64,
    rtx_budget: RtxBudget,
    /// Preference in force; `None` is the automatic choice.
    preference: Option<Box<LayerPreference>>,
    /// Preference that is applied next.
    next_preference: Option<Box<LayerPreference>>,
    /// The layer that should be sent, and the reason.
    pub(super) choice: Option<Choice>,
}

/// Binding of a subscription.
#[derive(Debug)]
enum Binding {
    /// The track that the viewer's offer requested.
    Offered(BoundTrack),
    /// A track that the control plane bound later, or none.
    Rebound(Option<BoundTrack>),
}

impl Binding {
    fn track(&self) -> Option<&BoundTrack> {
        match self {
            Self::Offered(track) => Some(track),
            Self::Rebound(track) => track.as_ref(),
        }
    }
}

/// A track of a stream, by its position among the stream's tracks of one kind.
#[derive(Debug, Clone)]
pub struct BoundTrack {
    /// The stream.
    pub stream: Arc<StreamShared>,
    /// Position among its tracks of the subscription's kind (whip-whep G15).
    pub ordinal: usize,
}

/// Bitrate of one sender in bits per second, from its octets between two sender reports: costs
/// nothing per packet.
#[derive(Debug)]
pub(super) struct SendRateMeter {
    since: Instant,
    octets: u64,
    bitrate: Bitrate,
}

impl SendRateMeter {
    /// Minimum time between two figures; after a shorter time the last figure stands.
    const SPAN_MIN: Duration = Duration::from_millis(500);

    pub(super) fn bitrate(&self, now: Instant, octets: u64) -> Bitrate {
        let span = now.saturating_duration_since(self.since);
        match span >= Self::SPAN_MIN {
            true => Bitrate::from_bytes(octets.saturating_sub(self.octets), span),
            false => self.bitrate,
        }
    }

    fn turn(&mut self, now: Instant, octets: u64) {
        *self = Self { since: now, octets, bitrate: self.bitrate(now, octets) };
    }
}

/// Video keyframes that were sent, each frame once.
#[derive(Debug, Default)]
pub(super) struct SentKeyframes {
    count: u64,
    /// Publisher and timestamp of the newest.
    newest: Option<(LayerKey, u32)>,
}

impl SentKeyframes {
    /// Keyframes so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Notes a packet of a keyframe that was sent.
    fn on_packet(&mut self, layer: LayerKey, timestamp: u32) {
        if self.newest.replace((layer, timestamp)) != Some((layer, timestamp)) {
            self.count += 1;
        }
    }
}

impl Subscription {
    /// A subscription to the track that a viewer's offer requested.
    pub(super) fn new(
        plan: SubscribeTrack,
        stream: Arc<StreamShared>,
        start: StartMode,
        context: &mut Context,
        now: Instant,
    ) -> Self {
        let ordinal = plan.ordinal;
        Self {
            source: None,
            forwarder: Forwarder::new(sender_config(&plan, context), start),
            plan,
            binding: Binding::Offered(BoundTrack { stream, ordinal }),
            stats: SenderStats::new(),
            rate: SendRateMeter { since: now, octets: 0, bitrate: Bitrate(0) },
            nacks: 0,
            nack_limit: PerSecondLimit::per_second(NACKS_PER_SECOND),
            retransmits: 0,
            keyframes: SentKeyframes::default(),
            keyframe_requests: 0,
            rtx_budget: RtxBudget::new(now),
            preference: None,
            next_preference: None,
            choice: None,
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        self.forwarder.warm();
    }

    /// The stream it is bound to.
    pub(super) fn stream(&self) -> Option<&Arc<StreamShared>> {
        self.binding.track().map(|track| &track.stream)
    }

    /// Whether the subscription is bound to this stream.
    pub(super) fn is_of(&self, stream: StreamId) -> bool {
        self.stream().is_some_and(|shared| shared.id == stream)
    }

    /// The source track that it carries now.
    pub(super) fn track(&self) -> Option<TrackIdx> {
        self.source.map(|source| source.track)
    }

    /// Binds it to another track, or to none. [`Self::apply_source`] applies its source.
    pub(super) fn bind(&mut self, now: Instant, track: Option<BoundTrack>) {
        let reason = if track.is_some() { Reason::NoPublisher } else { Reason::Unbound };
        self.binding = Binding::Rebound(track);
        self.detach(now, reason);
        self.forwarder.forget_source();
    }

    fn detach(&mut self, now: Instant, reason: Reason) {
        self.source = None;
        self.choice = None;
        self.forwarder.detach(now, reason);
    }

    /// Applies a change of publisher of the stream it is bound to. A track whose codec is not in
    /// the viewer's answer is not sent. False if the viewer's offer requested that track.
    pub(super) fn apply_source(&mut self, now: Instant, source: Option<&SourceInfo>) -> bool {
        let epoch = source.map(|source| source.epoch);
        if self.source.is_some_and(|carried| Some(carried.epoch) == epoch) {
            // Another subscription to the same stream was bound.
            return true;
        }
        let found = source.zip(self.binding.track()).and_then(|(source, binding)| {
            let tracks = TrackIdx::all().zip(&source.tracks);
            let mut of_kind = tracks.filter(|(_, track)| track.source.kind == self.plan.kind);
            let (track, info) = of_kind.nth(binding.ordinal)?;
            Some((LayerKey { epoch: source.epoch, track, layer: LayerIdx(0) }, info))
        });
        let Some((key, info)) = found else {
            let reason = if source.is_some() { Reason::NoTrack } else { Reason::NoPublisher };
            self.detach(now, reason);
            return true;
        };
        let fitting = self.plan.codecs.iter().filter_map(|codec| {
            codec_matches(&info.source.format, &codec.format).map(|rank| (rank, codec))
        });
        let best = fitting.min_by_key(|(rank, _)| *rank);
        let Some((_, codec)) = best else {
            self.detach(now, Reason::CodecNotNegotiated);
            return matches!(self.binding, Binding::Rebound(_));
        };
        self.source = Some(key);
        self.choice = None;
        self.forwarder.attach(
            now,
            OutgoingFormat {
                codec: codec.format.codec,
                pt: codec.pt,
                rtx_pt: codec.rtx_pt,
                red_pt: codec.red_pt,
            },
        );
        true
    }

    /// Why nothing of its track is sent, for the viewer: its codec, if that is the reason.
    pub(super) fn refusal(&self, streams: &Streams) -> Option<String> {
        if self.source.is_some() || self.reason() != Reason::CodecNotNegotiated {
            return None;
        }
        let binding = self.binding.track()?;
        let source = streams.get(binding.stream.id)?.source()?;
        let mut of_kind = source.tracks.iter().filter(|track| track.source.kind == self.plan.kind);
        let published = of_kind.nth(binding.ordinal)?.source.format.codec.name();
        let mut offered: Vec<_> = self.plan.codecs.iter().map(|c| c.format.codec.name()).collect();
        offered.dedup();
        let offered = offered.join(", ");
        Some(format!("the publisher sends {published}, which the viewer did not offer ({offered})"))
    }

    /// The viewer's newest preference, applied or not.
    pub(super) fn preference(&self) -> Option<&LayerPreference> {
        let preference = self.next_preference.as_deref().or(self.preference.as_deref());
        preference.filter(|preference| !preference.is_automatic())
    }

    /// Sets the preference that [`Self::apply_preference`] applies.
    pub(super) fn set_preference(&mut self, preference: LayerPreference) {
        self.next_preference = Some(Box::new(preference));
    }

    /// Applies the viewer's newest preference.
    pub(super) fn apply_preference(&mut self) {
        if let Some(preference) = self.next_preference.take() {
            self.forwarder.set_temporal_cap(preference.temporal_cap());
            self.preference = Some(preference).filter(|preference| !preference.is_automatic());
        }
    }

    /// Applies the best layer of its track, or the viewer's preferred one.
    pub(super) fn choose_layer(&mut self, now: Instant, stream: &LocalStream) {
        let Some(source) = self.source else { return };
        // While no layer is live the last choice stands.
        let Some(choice) = self.choose(source, stream, now) else { return };
        self.choice = Some(choice);
        self.forwarder.set_target(source.with_layer(choice.layer), choice.reason);
    }

    /// The layer that should be sent, and the reason.
    fn choose(&self, source: LayerKey, stream: &LocalStream, now: Instant) -> Option<Choice> {
        if let Some(preference) = &self.preference {
            let rids = &stream.source()?.tracks.get(usize::from(source.track))?.rids;
            return preference.choose(rids, &stream.views(source.track, now));
        }
        let layer = stream.best_layer(source.track)?;
        let left = self.forwarder.current_layer().is_some_and(|current| {
            current != layer && !stream.is_live(source.with_layer(current), now)
        });
        let reason = if left { Reason::LayerStopped } else { Reason::LargestLiveLayer };
        Some(Choice { layer, reason })
    }

    /// Requests once the keyframe that a start or a layer switch waits for, unless it just came.
    pub(super) fn request_keyframes(&mut self, now: Instant, stream: &LocalStream) {
        if let Some(key) = self.forwarder.take_keyframe_request() {
            self.request_keyframe(key, stream, now);
        }
        if let Some(key) = self.forwarder.take_stuck(now) {
            stream.shared.request_refresh(key.track, key.layer);
        }
    }

    /// Requests a keyframe of this layer for a start or for a layer switch. A switch costs other
    /// viewers no more than a viewer's own request: the first five switches in a row are as quick
    /// as a start, and later ones wait longer than a start does (quality A2.3 "stay low").
    fn request_keyframe(&self, key: LayerKey, stream: &LocalStream, now: Instant) {
        let switches = self
            .forwarder
            .current_layer()
            .is_some_and(|shown| shown != key.layer && stream.is_live(key.with_layer(shown), now));
        match switches {
            true => stream.shared.request_refresh(key.track, key.layer),
            false => stream.shared.request_keyframe(key.track, key.layer),
        }
    }

    /// Handles the viewer's request for a keyframe of the layer that it is sent or waits for.
    pub(super) fn on_keyframe_request(&self) {
        let current = self.forwarder.current_layer();
        let waiting = self.forwarder.awaits_keyframe().map(|key| key.layer);
        if let Some((source, layer)) = self.source.zip(waiting.or(current))
            && let Some(shared) = self.stream()
        {
            match current {
                None => shared.request_keyframe(source.track, layer),
                Some(_) => shared.request_refresh(source.track, layer),
            }
        }
    }

    /// Sends cached packets that are due.
    pub(super) fn send_cached(
        &mut self,
        stream: &LocalStream,
        delivery: Delivery,
        outbox: &mut Outbox<'_>,
    ) {
        if self.source.is_none() || self.forwarder.is_passthrough() {
            return;
        }
        if self.forwarder.current_layer().is_none() {
            // Cached packets were not spread over the time of waiting.
            self.rtx_budget.on_media(outbox.now, self.forwarder.sender().totals().1);
        }
        let cache = StreamCache { stream, delivery };
        loop {
            match self.forwarder.poll(outbox.now, &cache) {
                Step::Send(numbered, packet) => {
                    self.send(numbered, packet, None, outbox);
                    let layer = self.source.zip(self.forwarder.current_layer());
                    if let Some(((source, layer), meta)) = layer.zip(packet.meta()) {
                        self.note_keyframe(source.with_layer(layer), meta);
                    }
                }
                Step::Drop(reason) => outbox.count_dropped(reason, 1),
                Step::Idle => return,
            }
        }
    }

    /// Forwards packets of one layer that arrived.
    pub(super) fn forward_run(
        &mut self,
        run: &[PacketRef],
        cache: &PacketCache,
        layer: LayerContext,
        (stream, delivery): (&LocalStream, Delivery),
        outbox: &mut Outbox<'_>,
    ) {
        if !self.forwarder.wants(layer.key) {
            outbox.count_dropped(DropReason::LayerNotSelected, run.len());
            return;
        }
        for &packet in run {
            if self.forward(packet, cache, layer, stream, outbox)
                && !stream.delivers_from(delivery, layer.key, packet.ext_seq)
            {
                // Packets that overtook the first packet of the start arrived in an earlier turn or
                // round.
                self.forwarder.catch_up_behind(outbox.now, packet.ext_seq);
            }
        }
    }

    /// Forwards one packet. True if a source segment begins with it.
    #[inline]
    fn forward(
        &mut self,
        packet: PacketRef,
        cache: &PacketCache,
        layer: LayerContext,
        stream: &LocalStream,
        outbox: &mut Outbox<'_>,
    ) -> bool {
        let PacketRef { ext_seq, padded, .. } = packet;
        let packet = cache.get(ext_seq);
        let Some((packet, meta)) = packet.and_then(|packet| Some((packet, packet.meta()?))) else {
            return false;
        };
        match self.forwarder.number_packet(layer, meta, padded) {
            Ok(numbered) => {
                let sender = self.forwarder.sender_mut();
                let sent = outbox.media(sender, numbered, packet, Some(meta.arrival));
                if sent == Err(DropReason::TooLargeToSend) {
                    stream.shared.note_unsendable(meta.payload_len);
                }
                self.note_keyframe(layer.key, meta);
            }
            Err(ForwardDecision::Send(numbered)) => {
                self.send(numbered, packet, Some(meta.arrival), outbox);
                self.note_keyframe(layer.key, meta);
                return self.forwarder.sender().begins_with() == Some(ext_seq);
            }
            Err(ForwardDecision::Later) => {}
            Err(ForwardDecision::NeedKeyframe) => {
                outbox.count_dropped(DropReason::AwaitingKeyframe, 1);
                self.request_keyframe(layer.key, stream, outbox.now);
            }
            Err(ForwardDecision::Drop(reason)) => outbox.count_dropped(reason, 1),
        }
        false
    }

    /// Counts a keyframe that is sent. Every packet of audio is marked as one.
    #[inline(always)]
    fn note_keyframe(&mut self, layer: LayerKey, meta: &PacketMeta) {
        let video = |format: OutgoingFormat| format.codec.kind() == MediaKind::Video;
        if meta.frame.keyframe && self.forwarder.sender().format().is_some_and(video) {
            self.keyframes.on_packet(layer, meta.timestamp);
        }
    }

    /// Sends a packet that is cached, or not ordinary; apart, as [`Forwarder::number_packet`]
    /// explains.
    #[inline(never)]
    fn send(
        &mut self,
        numbered: Numbered,
        packet: &Packet,
        arrived: Option<Instant>,
        outbox: &mut Outbox<'_>,
    ) {
        let sent = outbox.media(self.forwarder.sender_mut(), numbered, packet, arrived);
        if sent == Err(DropReason::TooLargeToSend)
            && let Some((shared, meta)) = self.stream().zip(packet.meta())
        {
            shared.note_unsendable(meta.payload_len);
        }
    }

    /// Counts the sequence numbers of a NACK; returns how many of them may be looked up now. The
    /// others cost nothing each.
    pub(super) fn take_nacked(&mut self, now: Instant, numbers: usize) -> usize {
        self.nacks += numbers as u64;
        self.nack_limit.take_up_to(now, numbers as u32) as usize
    }

    /// Answers one NACKed sequence number of those that [`Self::take_nacked`] allowed.
    pub(super) fn retransmit(
        &mut self,
        sequence: u16,
        stream: Option<&LocalStream>,
        outbox: &mut Outbox<'_>,
    ) {
        if let Err(reason) = self.try_retransmit(sequence, stream, outbox) {
            outbox.count_dropped(reason, 1);
        }
    }

    fn try_retransmit(
        &mut self,
        sequence: u16,
        stream: Option<&LocalStream>,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), DropReason> {
        let now = outbox.now;
        let sender = self.forwarder.sender_mut();
        let (_, octets) = sender.totals();
        if !self.rtx_budget.allows(now, octets) {
            return Err(DropReason::RepairBudget);
        }
        let rtt = self.stats.rtt().into_iter().chain(outbox.check_rtt()).min();
        let rtt = rtt.unwrap_or(RTT_UNKNOWN).min(RETRANSMIT_RTT_MAX);
        let record =
            sender.claim_retransmit(outbox.sent_at(), sequence, rtt).map_err(|why| match why {
                NotClaimed::Limited => DropReason::RepairLimited,
                NotClaimed::Unknown => DropReason::RepairExpired,
            })?;
        let source = record.source();
        let cached = self.source.zip(stream).and_then(|(carried, stream)| {
            stream.packet(source.layer_in(carried.epoch)?, source.ext_seq())
        });
        let packet = cached.ok_or(DropReason::RepairExpired)?;
        if let Some(octets) = outbox.retransmit(sender, &record, packet) {
            self.retransmits += 1;
            self.rtx_budget.on_retransmit(octets);
        }
        Ok(())
    }

    /// Handles a block of the viewer's receiver report about this sender.
    ///
    /// # Errors
    ///
    /// [`DropReason::ReportRefused`] if it cannot be true.
    pub(super) fn on_report(&mut self, server: Ntp, block: &ReportBlock) -> Result<(), DropReason> {
        let numbers = self.forwarder.sender().numbers();
        self.stats.on_report(server, block, numbers).map_err(|_| DropReason::ReportRefused)
    }

    /// Whether the viewer's answer to this m-line has NACK.
    pub(super) fn takes_nack(&self) -> bool {
        self.plan.codecs.iter().any(|codec| codec.feedback.nack)
    }

    /// The sender report that is due, if there is anything to report. Updates the rate meters.
    pub(super) fn sender_report(&mut self, now: Instant, server: Ntp) -> Option<SenderReportOut> {
        let sender = self.forwarder.sender();
        let (packets, octets) = sender.totals();
        self.rtx_budget.on_media(now, octets);
        let (format, anchor) = sender.format().zip(self.forwarder.outgoing_anchor())?;
        if packets == 0 {
            return None;
        }
        self.rate.turn(now, octets);
        self.stats.on_sender_report(server);
        Some(SenderReportOut {
            ssrc: sender.ssrc(),
            ntp: server.0,
            rtp_time: anchor.rtp_at(server, format.codec.clock_rate()),
            packets: packets as u32,
            octets: octets as u32,
        })
    }

    /// Reason for what the viewer is sent of this track.
    pub(super) fn reason(&self) -> Reason {
        self.forwarder.decisions().last().map_or(Reason::NoPublisher, |last| last.reason)
    }
}

fn sender_config(plan: &SubscribeTrack, context: &mut Context) -> RtpSenderConfig {
    let mut random = [0; 6];
    context.entropy.fill(&mut random);
    let [a, b, timestamp @ ..] = random;
    RtpSenderConfig {
        ssrc: plan.ssrc,
        rtx_ssrc: plan.rtx_ssrc,
        mid: plan.mid.as_bytes().into(),
        exts: plan.exts.iter().collect(),
        two_byte_exts: plan.exts.allow_mixed,
        remember: match plan.codecs.iter().any(|codec| codec.feedback.nack) {
            false => 0,
            true if plan.kind == MediaKind::Audio => SENT_AUDIO_MAX,
            true => SENT_MAX,
        },
        first_sequence: u16::from_be_bytes([a, b]) & 0x7fff,
        first_timestamp: u32::from_be_bytes(timestamp),
    }
}
