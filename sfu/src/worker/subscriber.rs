//! One viewer: its tracks, and what it gets of each packet.
//!
//! [`Subscriber::forward`] is the inner loop of the fan-out: decide, write, seal, batch. Called by the hallway in
//! `mod.rs`. Its other parts: `viewer_feedback.rs`, the way back, and `viewer_info.rs`, what the API shows.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::context::Context;
use super::fast_start::FastStart;
use super::session::{PerSecondLimit, TokenBucket};
use super::stream::{LocalStream, PacketRef};
use super::viewer_queue::Delivery;
use crate::codec::MediaKind;
use crate::error::{CloseReason, DropReason};
use crate::forward::forwarder::LayerContext;
use crate::forward::sent::{SENT_AUDIO_MAX, SENT_MAX};
use crate::forward::start::StartMode;
use crate::forward::{
    Choice, ForwardDecision, Forwarder, LayerPreference, OutgoingFormat, Plaintext, Reason,
    RtpSender, RtpSenderConfig, SentRecord, Stamp,
};
use crate::media::stats::SenderStats;
use crate::media::{Packet, PacketCache};
use crate::repair::rtx_budget::RtxBudget;
use crate::router::{SourceInfo, table::TRACKS_MAX};
use crate::sdp::{SubscribePlan, SubscribeTrack, codec_matches};
use crate::transport::FiveTuple;
use crate::transport::egress::Egress;
use crate::transport::peer::Peer;
use crate::units::Bitrate;

/// Numbers of one line that a viewer may ask for again per second (quality A3.2); more are dropped
/// (`DropReason::RepairLimited`). For each line apart, so that pictures leave sound its repeats.
const NACKS_PER_SECOND: u32 = 1_000;

/// One viewer may ask for a keyframe this often, and so many times at once: each costs everybody who
/// watches. More are dropped (`DropReason::KeyframeLimited`). What a start waits for is asked for apart.
const KEYFRAME_REQUEST_EVERY: Duration = Duration::from_secs(3);
const KEYFRAME_REQUEST_BURST: u32 = 3;

/// A viewer's preferences for layers take effect this often, and so many at once; the newest one waits for its
/// turn and those between are forgotten. Each change may cost everybody a keyframe.
const PREFERENCE_EVERY: Duration = Duration::from_millis(200);
const PREFERENCE_BURST: u32 = 4;

/// The first sender report follows the first packet this soon, so that lips are right at once.
const FIRST_REPORT_AFTER: Duration = Duration::from_millis(50);

/// A report that is due waits so long for packets of media: with them it costs no send call of its own.
pub(super) const REPORT_WAIT_MAX: Duration = Duration::from_millis(50);

/// Packets behind the one that a line starts with that may have come before it; more than one frame's
/// disorder is none.
pub(super) const OVERTAKEN_MAX: usize = 64;

/// One viewer. What each turn needs stands at the top, as in a [`RtpSender`].
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscriber {
    pub(super) tracks: Vec<Subscription>,
    /// Which of `tracks` takes a source track.
    by_source: [Option<u8>; TRACKS_MAX],
    epoch: Option<u32>,
    /// The stream's selection that was applied.
    selection: Option<u64>,
    pub(super) next_report: Option<Instant>,
    pub(super) next_twcc: u16,
    connected: bool,
    /// Some track has a preference that is not in force yet.
    preferences_wait: bool,
    pub(super) keyframe_requests: u64,
    pub(super) keyframe_pace: TokenBucket,
    preference_pace: TokenBucket,
}

/// One track of a viewer; likewise.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscription {
    /// The source track it takes.
    pub(super) source: Option<u8>,
    /// The keyframe that was asked for: publisher epoch and layer.
    asked: Option<(u32, u8)>,
    pub(super) forwarder: Forwarder,
    pub(super) plan: SubscribeTrack,
    pub(super) stats: SenderStats,
    pub(super) pace: SendRateMeter,
    pub(super) nacks: u64,
    pub(super) nack_budget: PerSecondLimit,
    pub(super) repairs: u64,
    pub(super) rtx_budget: RtxBudget,
    fast_start: FastStart,
    /// What the viewer asked for; nothing is the automatic choice.
    preference: Option<Box<LayerPreference>>,
    /// What it asked for since, to be in force next.
    next_preference: Option<Box<LayerPreference>>,
    /// The layer that should flow, and why.
    pub(super) choice: Option<Choice>,
}

/// What a packet meets on its way to one viewer, for one turn.
pub(super) struct Way<'a> {
    pub now: Instant,
    pub serving: Delivery,
    pub path: FiveTuple,
    pub peer: &'a mut Peer,
    pub batch: &'a mut Batch,
    pub context: &'a mut Context,
    pub egress: &'a mut dyn Egress,
    /// The next transport-wide number.
    pub next_twcc: u16,
    /// Packets and bytes that left.
    pub sent: (u64, u64),
}

impl Way<'_> {
    /// Writes, seals and batches a packet that has its number.
    pub(super) fn emit(&mut self, line: &mut RtpSender, record: &SentRecord, packet: &Packet) {
        self.next_twcc = self.next_twcc.wrapping_add(1);
        let written = line.write_media(record, packet, self.batch.slot());
        let octets = written.as_ref().map_or(0, Plaintext::payload_len);
        let sealed = written.and_then(|plaintext| self.peer.seal(plaintext));
        match sealed.filter(|bytes| *bytes <= self.path.datagram_bytes_max()) {
            None => self.context.report.dropped.count(DropReason::TooLargeToSend),
            Some(bytes) => {
                self.sent = (self.sent.0 + 1, self.sent.1 + bytes as u64);
                self.batch.commit(bytes, self.path, self.egress);
                line.count(octets);
            }
        }
    }
}

/// A layer whose packets are forwarded.
struct Origin<'a> {
    layer: LayerContext,
    ring: &'a PacketCache,
    stream: &'a LocalStream,
    track: u8,
}

/// Bits per second of one line, by its octets between two sender reports: costs nothing per packet.
#[derive(Debug)]
pub(super) struct SendRateMeter {
    since: Instant,
    octets: u64,
    bitrate: Bitrate,
}

impl SendRateMeter {
    /// A shorter time tells nothing; the last figure stands.
    const SPAN_MIN: Duration = Duration::from_millis(500);

    pub(super) fn bitrate(&self, now: Instant, octets: u64) -> Bitrate {
        let span = now.saturating_duration_since(self.since);
        match span >= Self::SPAN_MIN {
            true => Bitrate::from_bytes(octets.saturating_sub(self.octets), span),
            false => self.bitrate,
        }
    }

    pub(super) fn turn(&mut self, now: Instant, octets: u64) {
        *self = Self { since: now, octets, bitrate: self.bitrate(now, octets) };
    }
}

impl Subscriber {
    /// A viewer that is not connected yet.
    pub(super) fn new(
        plan: SubscribePlan,
        start: StartMode,
        context: &mut Context,
        now: Instant,
    ) -> Self {
        let tracks = plan
            .tracks
            .into_iter()
            .map(|plan| Subscription {
                forwarder: Forwarder::new(line_config(&plan, context), now),
                plan,
                source: None,
                stats: SenderStats::new(),
                pace: SendRateMeter { since: now, octets: 0, bitrate: Bitrate(0) },
                nacks: 0,
                nack_budget: PerSecondLimit::per_second(NACKS_PER_SECOND),
                repairs: 0,
                rtx_budget: RtxBudget::new(now),
                asked: None,
                fast_start: FastStart::new(start),
                preference: None,
                next_preference: None,
                choice: None,
            })
            .collect();
        Self {
            tracks,
            by_source: [None; TRACKS_MAX],
            epoch: None,
            selection: None,
            connected: false,
            next_twcc: 0,
            next_report: None,
            keyframe_requests: 0,
            keyframe_pace: TokenBucket::new(KEYFRAME_REQUEST_EVERY, KEYFRAME_REQUEST_BURST),
            preferences_wait: false,
            preference_pace: TokenBucket::new(PREFERENCE_EVERY, PREFERENCE_BURST),
        }
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        black_box((self.selection, self.next_report, self.by_source));
        for track in &self.tracks {
            black_box(track.source);
            track.forwarder.warm();
        }
    }

    /// The same of what lies behind the tracks.
    pub(super) fn warm_lines(&self) {
        for track in &self.tracks {
            track.forwarder.sender().warm();
        }
    }

    /// Keys are known: packets may flow.
    pub(super) fn on_connected(&mut self) {
        self.connected = true;
    }

    /// Follows a change of publisher.
    ///
    /// # Errors
    /// [`CloseReason::CodecNotNegotiated`] if a track's codec is not in this viewer's answer: the
    /// session is closed rather than left silent (whip-whep G6).
    pub(super) fn apply_source(
        &mut self,
        now: Instant,
        source: Option<&Arc<SourceInfo>>,
    ) -> Result<(), CloseReason> {
        let epoch = source.map(|source| source.epoch);
        if self.epoch == epoch && epoch.is_some() {
            return Ok(());
        }
        self.epoch = epoch;
        self.selection = None;
        self.by_source = [None; TRACKS_MAX];
        for (index, track) in (0u8..).zip(&mut self.tracks) {
            let found = source.and_then(|source| find_source(source, &track.plan));
            track.source = found;
            track.choice = None;
            let Some((source, source_index)) = source.zip(found) else {
                let reason = if source.is_some() { Reason::NoTrack } else { Reason::NoPublisher };
                track.forwarder.detach(now, reason);
                continue;
            };
            let info = source
                .tracks
                .get(usize::from(source_index))
                .ok_or(CloseReason::CodecNotNegotiated)?;
            let codec = track
                .plan
                .codecs
                .iter()
                .filter_map(|codec| {
                    codec_matches(&info.source.format, &codec.format).map(|rank| (rank, codec))
                })
                .min_by_key(|(rank, _)| *rank)
                .map(|(_, codec)| codec)
                .ok_or(CloseReason::CodecNotNegotiated)?;
            track.forwarder.attach(
                now,
                OutgoingFormat {
                    codec: codec.format.codec,
                    pt: codec.pt,
                    rtx_pt: codec.rtx_pt,
                    red_pt: codec.red_pt,
                },
            );
            if let Some(slot) = self.by_source.get_mut(usize::from(source_index)) {
                *slot = Some(index);
            }
        }
        Ok(())
    }

    /// Forwards packets of the stream: for each, decide, write, seal, batch.
    #[expect(clippy::too_many_arguments, reason = "the parts of one session and its worker")]
    pub(super) fn forward(
        &mut self,
        now: Instant,
        serving: Delivery,
        stream: &LocalStream,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let fresh = stream.viewers.packets(serving);
        let Some(path) = peer.selected().filter(|_| self.connected) else {
            context.report.dropped.add(DropReason::NotConnected, fresh.len() as u64);
            return;
        };
        self.choose_layers(now, stream);
        if !peer.is_confirmed() {
            // A start that is cut off in the middle of its keyframe would be worse than none.
            context.report.dropped.add(DropReason::UnconfirmedEgress, fresh.len() as u64);
            return;
        }
        let next_twcc = self.next_twcc;
        let way = Way { now, serving, path, peer, batch, context, egress, next_twcc, sent: (0, 0) };
        self.turn(fresh, stream, way);
        self.ask_keyframes(now, stream);
    }

    /// Sends what is due of cached keyframes, between two packets of the stream.
    pub(super) fn handle_fast_start_timeout(
        &mut self,
        now: Instant,
        stream: &LocalStream,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let due = |track: &Subscription| track.forwarder.next_timeout().is_some_and(|at| at <= now);
        let Some(path) = peer.selected().filter(|_| self.tracks.iter().any(due)) else { return };
        if !self.connected || !peer.is_confirmed() {
            return;
        }
        let next_twcc = self.next_twcc;
        // Of what waits for newcomers nothing is waited for: what is cached may go.
        let serving = Delivery::Immediate;
        let way = Way { now, serving, path, peer, batch, context, egress, next_twcc, sent: (0, 0) };
        self.turn(&[], stream, way);
    }

    /// One turn: fresh packets, and what is due of cached ones.
    fn turn(&mut self, fresh: &[PacketRef], stream: &LocalStream, mut way: Way<'_>) {
        let way = &mut way;
        // Nearly every viewer in nearly every turn: only what is fresh.
        let straight = self.tracks.iter().all(|track| track.forwarder.is_passthrough());
        let flowed = (!straight).then(|| self.flowing());
        if !straight {
            for track in self.tracks.iter_mut().filter(|t| t.forwarder.current_layer().is_none()) {
                // What comes now was not spread over the time of waiting.
                track.rtx_budget.on_media(way.now, track.forwarder.sender().totals().1);
            }
            self.replay(stream, way);
        }
        for run in fresh.chunk_by(PacketRef::is_with) {
            self.forward_run(run, stream, way);
        }
        if !straight && !fresh.is_empty() {
            self.replay(stream, way);
        }
        if !fresh.is_empty() && self.next_report.is_some_and(|at| at <= way.now) {
            self.send_reports(way);
        }
        way.batch.flush(way.path, way.egress);
        let (packets, bytes) = way.sent;
        way.peer.count_sent(bytes);
        way.context.report.packets_out += packets;
        way.context.report.bytes_out += bytes;
        self.next_twcc = way.next_twcc;
        if flowed.is_some_and(|flowed| self.flowing() > flowed) {
            let soon = way.now + FIRST_REPORT_AFTER;
            self.next_report = Some(self.next_report.map_or(soon, |at| at.min(soon)));
        }
    }

    fn replay(&mut self, stream: &LocalStream, way: &mut Way<'_>) {
        for track in &mut self.tracks {
            if let Some(source) = track.source.filter(|_| !track.forwarder.is_passthrough()) {
                track.fast_start.advance(&mut track.forwarder, source, stream, way);
            }
        }
    }

    /// Tracks of which something flows.
    fn flowing(&self) -> usize {
        self.tracks.iter().filter(|track| track.forwarder.current_layer().is_some()).count()
    }

    /// This turn's packets of one layer.
    fn forward_run(&mut self, run: &[PacketRef], stream: &LocalStream, way: &mut Way<'_>) {
        let Some(&first) = run.first() else { return };
        let index = self.by_source.get(usize::from(first.track)).copied().flatten();
        let track = index.and_then(|index| self.tracks.get_mut(usize::from(index)));
        let ring = stream.ring(first.track, first.layer);
        let layer = stream.context(first.track, first.layer);
        let (Some(track), Some(ring), Some(layer)) = (track, ring, layer) else { return };
        if !track.forwarder.wants(layer.epoch, layer.layer) {
            way.context.report.dropped.add(DropReason::LayerNotSelected, run.len() as u64);
            return;
        }
        let origin = Origin { layer, ring, stream, track: first.track };
        for &fresh in run {
            if track.forward(fresh, &origin, way) {
                // What overtook the packet that it starts with is here since an earlier turn or round.
                for ext_seq in (fresh.ext_seq + 1..=ring.newest()).take(OVERTAKEN_MAX) {
                    if !stream.brings(way.serving, fresh.track, fresh.layer, ext_seq) {
                        track.forward(PacketRef { ext_seq, ..fresh }, &origin, way);
                    }
                }
            }
        }
    }

    /// What the viewer asks for from now on, by track. Takes effect with the next packets of the stream.
    pub(super) fn set_preferences(
        &mut self,
        preferences: impl IntoIterator<Item = (u8, LayerPreference)>,
    ) {
        for (index, preference) in preferences {
            if let Some(track) = self.tracks.get_mut(usize::from(index)) {
                track.next_preference = Some(Box::new(preference));
                self.preferences_wait = true;
            }
        }
    }

    /// Follows the best layer of each track, or the one that its viewer preferences, when something changed.
    fn choose_layers(&mut self, now: Instant, stream: &LocalStream) {
        let Some(epoch) = self.epoch else { return };
        let selection = Some(stream.selection());
        let changed = std::mem::replace(&mut self.selection, selection) != selection;
        let preferred = self.preferences_wait && self.preference_pace.take(now);
        if !changed && !preferred {
            return;
        }
        self.preferences_wait &= !preferred;
        for track in &mut self.tracks {
            if let Some(preference) = track.next_preference.take_if(|_| preferred) {
                track.forwarder.set_temporal_cap(preference.temporal_cap());
                track.preference = Some(preference).filter(|preference| !preference.is_automatic());
            }
            let Some(source) = track.source else { continue };
            // While no layer is alive the last choice stands.
            let Some(choice) = track.choose(source, stream, now) else { continue };
            track.choice = Some(choice);
            track.forwarder.set_target(epoch, choice.layer as u8, choice.reason);
        }
    }

    /// Asks once for the keyframe that a start or a change of layer waits for, unless it just came.
    fn ask_keyframes(&mut self, now: Instant, stream: &LocalStream) {
        for track in &mut self.tracks {
            let awaited = self.epoch.zip(track.forwarder.awaits_keyframe());
            if let Some(((_, layer), source)) = awaited.zip(track.source)
                && track.asked != awaited
            {
                track.request_keyframe(source, layer, stream, now);
            }
            track.asked = awaited;
            let stuck = track.forwarder.take_stuck(now);
            if let Some((layer, source)) = stuck.zip(track.source) {
                stream.shared.request_refresh(source, layer);
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let fast_start = self.tracks.iter().filter_map(|track| track.forwarder.next_timeout());
        fast_start.chain(self.next_report.map(|at| at + REPORT_WAIT_MAX)).min()
    }

    /// Round-trip time as the viewer's reports tell it.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.tracks.iter().filter_map(|track| track.stats.rtt()).min()
    }

    pub(super) fn track_of_ssrc(&mut self, ssrc: u32) -> Option<&mut Subscription> {
        self.tracks.iter_mut().find(|track| track.plan.ssrc == ssrc)
    }
}

impl Subscription {
    /// The layer that should flow, and why.
    fn choose(&self, source: u8, stream: &LocalStream, now: Instant) -> Option<Choice> {
        if let Some(preference) = &self.preference {
            let rids = &stream.source()?.tracks.get(usize::from(source))?.rids;
            return preference.choose(rids, &stream.views(source, now));
        }
        let best = stream.best_layer(source)?;
        let left = self
            .forwarder
            .current_layer()
            .is_some_and(|layer| layer != best && !stream.is_live(source, layer, now));
        let reason = if left { Reason::LayerStopped } else { Reason::LargestLiveLayer };
        Some(Choice { layer: usize::from(best), reason })
    }

    /// A keyframe of this layer is waited for: by a viewer without a picture, or by one who is shown another layer
    /// until then. That one costs the others no more than who asks for a fresh picture: the first five changes in a
    /// row are as quick as a start, and then they wait before a start does (quality A2.3 "stay low").
    fn request_keyframe(&self, source: u8, layer: u8, stream: &LocalStream, now: Instant) {
        let moves = self
            .forwarder
            .current_layer()
            .is_some_and(|shown| shown != layer && stream.is_live(source, shown, now));
        match moves {
            true => stream.shared.request_refresh(source, layer),
            false => stream.shared.request_keyframe(source, layer),
        }
    }

    /// What the viewer asked for last, in force or about to be.
    pub(super) fn preference(&self) -> Option<&LayerPreference> {
        let preference = self.next_preference.as_deref().or(self.preference.as_deref());
        preference.filter(|preference| !preference.is_automatic())
    }

    /// Why the viewer gets what it gets of this track.
    pub(super) fn reason(&self) -> Reason {
        self.forwarder.decisions().last().map_or(Reason::NoPublisher, |last| last.reason)
    }

    /// One packet: decides, writes, seals. True if a stretch of the line began with it.
    fn forward(&mut self, fresh: PacketRef, origin: &Origin<'_>, way: &mut Way<'_>) -> bool {
        let packet = origin.ring.get(fresh.ext_seq);
        let Some((packet, meta)) = packet.and_then(|packet| Some((packet, packet.meta()?))) else {
            return false;
        };
        let stamp = Stamp { twcc: way.next_twcc, padded: fresh.padded };
        match self.forwarder.on_packet(origin.layer, meta, stamp) {
            ForwardDecision::Send(record) => way.emit(self.forwarder.sender_mut(), &record, packet),
            ForwardDecision::Later => return false,
            ForwardDecision::Drop(reason) => {
                way.context.report.dropped.count(reason);
                if reason == DropReason::AwaitingKeyframe {
                    self.request_keyframe(origin.track, fresh.layer, origin.stream, way.now);
                }
                return false;
            }
        }
        self.forwarder.sender().begins_with() == Some(fresh.ext_seq)
    }
}

fn line_config(plan: &SubscribeTrack, context: &mut Context) -> RtpSenderConfig {
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

/// The n-th published track of the m-line's kind (whip-whep G15).
fn find_source(source: &SourceInfo, plan: &SubscribeTrack) -> Option<u8> {
    source
        .tracks
        .iter()
        .enumerate()
        .filter(|(_, track)| track.source.kind == plan.kind)
        .nth(plan.ordinal)
        .map(|(index, _)| index as u8)
}
