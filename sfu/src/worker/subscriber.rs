//! One viewer: its tracks, what it gets of each packet, and its feedback.
//!
//! [`Subscriber::forward`] is the inner loop of the fan-out: decide, write, seal, batch. NACKs are
//! answered from the stream's shared cache. Called by the hallway in `mod.rs`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, DATAGRAM_BYTES_MAX};
use super::context::{Context, REPORT_INTERVAL, RTCP_BYTES_MAX};
use super::replays::Replays;
use super::report::{DecisionInfo, LayerInfo, LayerState, TrackInfo, TrackLayers};
use super::session::{Budget, Pacing};
use super::stream::{Fresh, LocalStream};
use crate::codec::MediaKind;
use crate::error::{CloseReason, DropReason};
use crate::forward::forwarder::LayerContext;
use crate::forward::sent::{SENT_AUDIO_MAX, SENT_MAX};
use crate::forward::start::StartMode;
use crate::forward::wish::spatial_layer;
use crate::forward::{
    Choice, Forwarder, LayerWish, Line, LineConfig, OutgoingFormat, Plaintext, Reason, SentRecord,
    Stamp, Verdict,
};
use crate::media::stats::SenderStats;
use crate::media::{Packet, ReplayRing};
use crate::repair::rtx_budget::RtxBudget;
use crate::router::{SourceInfo, table::TRACKS_MAX};
use crate::rtp::rtcp::{Rtcp, RtcpWriter, SenderReportOut};
use crate::sdp::{SubscribePlan, SubscribeTrack, codec_matches};
use crate::transport::Path;
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

/// A viewer's wishes for layers take effect this often, and so many at once; the newest one waits for its
/// turn and those between are forgotten. Each change may cost everybody a keyframe.
const WISH_EVERY: Duration = Duration::from_millis(200);
const WISH_BURST: u32 = 4;

/// Repeats are paced by the round trip, but by no longer one: clients give up after some tries.
const REPEAT_RTT_MAX: Duration = Duration::from_millis(300);

/// Assumed until the first report tells it.
const RTT_UNKNOWN: Duration = Duration::from_millis(50);

/// The first sender report follows the first packet this soon, so that lips are right at once.
const FIRST_REPORT_AFTER: Duration = Duration::from_millis(50);

/// Packets behind the one that a line starts with that may have come before it; more than one frame's
/// disorder is none.
pub(super) const OVERTAKEN_MAX: usize = 64;

/// Our canonical name in SDES: one for all lines of a session, so that players sync them.
const CNAME: &str = "weir";

/// One viewer. What each turn needs stands at the top, as in a [`Line`].
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscriber {
    tracks: Vec<SubTrack>,
    /// Which of `tracks` takes a source track.
    by_source: [Option<u8>; TRACKS_MAX],
    epoch: Option<u32>,
    /// The stream's selection that was applied.
    selection: Option<u64>,
    next_report: Option<Instant>,
    next_twcc: u16,
    connected: bool,
    /// Some track has a wish that is not in force yet.
    wishes_wait: bool,
    keyframe_requests: u64,
    keyframe_pace: Pacing,
    wish_pace: Pacing,
}

/// One track of a viewer; likewise.
#[derive(Debug)]
#[repr(C)]
struct SubTrack {
    /// The source track it takes.
    source: Option<u8>,
    /// The keyframe that was asked for: publisher epoch and layer.
    asked: Option<(u32, u8)>,
    forwarder: Forwarder,
    plan: SubscribeTrack,
    stats: SenderStats,
    pace: Pace,
    nacks: u64,
    nack_budget: Budget,
    repairs: u64,
    rtx_budget: RtxBudget,
    replays: Replays,
    /// What the viewer asked for; nothing is the automatic choice.
    wish: Option<Box<LayerWish>>,
    /// What it asked for since, to be in force next.
    next_wish: Option<Box<LayerWish>>,
    /// The layer that should flow, and why.
    choice: Option<Choice>,
}

/// What a packet meets on its way to one viewer, for one turn.
pub(super) struct Way<'a> {
    pub now: Instant,
    pub path: Path,
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
    pub(super) fn emit(&mut self, line: &mut Line, record: &SentRecord, packet: &Packet) {
        self.next_twcc = self.next_twcc.wrapping_add(1);
        let written = line.write_media(record, packet, self.batch.slot());
        let octets = written.as_ref().map_or(0, Plaintext::payload_len);
        let sealed = written.and_then(|plaintext| self.peer.seal(plaintext));
        match sealed.filter(|bytes| *bytes <= DATAGRAM_BYTES_MAX) {
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
    ring: &'a ReplayRing,
    stream: &'a LocalStream,
    track: u8,
}

/// Bits per second of one line, by its octets between two sender reports: costs nothing per packet.
#[derive(Debug)]
struct Pace {
    since: Instant,
    octets: u64,
    bitrate: Bitrate,
}

impl Pace {
    /// A shorter time tells nothing; the last figure stands.
    const SPAN_MIN: Duration = Duration::from_millis(500);

    fn bitrate(&self, now: Instant, octets: u64) -> Bitrate {
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
            .map(|plan| SubTrack {
                forwarder: Forwarder::new(line_config(&plan, context), now),
                plan,
                source: None,
                stats: SenderStats::new(),
                pace: Pace { since: now, octets: 0, bitrate: Bitrate(0) },
                nacks: 0,
                nack_budget: Budget::per_second(NACKS_PER_SECOND),
                repairs: 0,
                rtx_budget: RtxBudget::new(now),
                asked: None,
                replays: Replays::new(start),
                wish: None,
                next_wish: None,
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
            keyframe_pace: Pacing::new(KEYFRAME_REQUEST_EVERY, KEYFRAME_REQUEST_BURST),
            wishes_wait: false,
            wish_pace: Pacing::new(WISH_EVERY, WISH_BURST),
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
            track.forwarder.line().warm();
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

    /// Forwards this turn's packets of the stream: for each, decide, write, seal, batch.
    pub(super) fn forward(
        &mut self,
        now: Instant,
        stream: &LocalStream,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let Some(path) = peer.selected().filter(|_| self.connected) else {
            context.report.dropped.add(DropReason::NotConnected, stream.fresh.len() as u64);
            return;
        };
        self.choose_layers(now, stream);
        if !peer.is_confirmed() {
            // A start that is cut off in the middle of its keyframe would be worse than none.
            context.report.dropped.add(DropReason::UnconfirmedEgress, stream.fresh.len() as u64);
            return;
        }
        let next_twcc = self.next_twcc;
        let way = Way { now, path, peer, batch, context, egress, next_twcc, sent: (0, 0) };
        self.turn(&stream.fresh, stream, way);
        self.ask_keyframes(now, stream);
    }

    /// Sends what is due of cached keyframes, between two packets of the stream.
    pub(super) fn handle_replay_timeout(
        &mut self,
        now: Instant,
        stream: &LocalStream,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let due = |track: &SubTrack| track.forwarder.next_timeout().is_some_and(|at| at <= now);
        let Some(path) = peer.selected().filter(|_| self.tracks.iter().any(due)) else { return };
        if !self.connected || !peer.is_confirmed() {
            return;
        }
        let next_twcc = self.next_twcc;
        let way = Way { now, path, peer, batch, context, egress, next_twcc, sent: (0, 0) };
        self.turn(&[], stream, way);
    }

    /// One turn: fresh packets, and what is due of cached ones.
    fn turn(&mut self, fresh: &[Fresh], stream: &LocalStream, mut way: Way<'_>) {
        let way = &mut way;
        // Nearly every viewer in nearly every turn: only what is fresh.
        let straight = self.tracks.iter().all(|track| track.forwarder.is_straight());
        let flowed = (!straight).then(|| self.flowing());
        if !straight {
            for track in self.tracks.iter_mut().filter(|t| t.forwarder.current_layer().is_none()) {
                // What comes now was not spread over the time of waiting.
                track.rtx_budget.on_media(way.now, track.forwarder.line().totals().1);
            }
            self.replay(stream, way);
        }
        for run in fresh.chunk_by(Fresh::is_with) {
            self.forward_run(run, stream, way);
        }
        if !straight && !fresh.is_empty() {
            self.replay(stream, way);
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
            if let Some(source) = track.source.filter(|_| !track.forwarder.is_straight()) {
                track.replays.advance(&mut track.forwarder, source, stream, way);
            }
        }
    }

    /// Tracks of which something flows.
    fn flowing(&self) -> usize {
        self.tracks.iter().filter(|track| track.forwarder.current_layer().is_some()).count()
    }

    /// This turn's packets of one layer.
    fn forward_run(&mut self, run: &[Fresh], stream: &LocalStream, way: &mut Way<'_>) {
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
                // What overtook the packet that it starts with is here since an earlier turn.
                for ext_seq in (fresh.ext_seq + 1..=ring.newest()).take(OVERTAKEN_MAX) {
                    if !run.iter().any(|later| later.ext_seq == ext_seq) {
                        track.forward(Fresh { ext_seq, ..fresh }, &origin, way);
                    }
                }
            }
        }
    }

    /// What the viewer asks for from now on, by track. Takes effect with the next packets of the stream.
    pub(super) fn ask(&mut self, wishes: impl IntoIterator<Item = (u8, LayerWish)>) {
        for (index, wish) in wishes {
            if let Some(track) = self.tracks.get_mut(usize::from(index)) {
                track.next_wish = Some(Box::new(wish));
                self.wishes_wait = true;
            }
        }
    }

    /// Follows the best layer of each track, or the one that its viewer wishes, when something changed.
    fn choose_layers(&mut self, now: Instant, stream: &LocalStream) {
        let Some(epoch) = self.epoch else { return };
        let selection = Some(stream.selection());
        let changed = std::mem::replace(&mut self.selection, selection) != selection;
        let wished = self.wishes_wait && self.wish_pace.take(now);
        if !changed && !wished {
            return;
        }
        self.wishes_wait &= !wished;
        for track in &mut self.tracks {
            if let Some(wish) = track.next_wish.take_if(|_| wished) {
                track.forwarder.set_temporal_cap(wish.temporal_cap());
                track.wish = Some(wish).filter(|wish| !wish.is_automatic());
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
                track.wish_keyframe(source, layer, stream, now);
            }
            track.asked = awaited;
            let stuck = track.forwarder.take_stuck(now);
            if let Some((layer, source)) = stuck.zip(track.source) {
                stream.shared.wish_refresh(source, layer);
            }
        }
    }

    /// One decrypted RTCP compound.
    #[expect(clippy::too_many_arguments, reason = "the parts of one session and its worker")]
    pub(super) fn handle_rtcp(
        &mut self,
        now: Instant,
        compound: &[u8],
        stream: &LocalStream,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        for packet in crate::rtp::rtcp::packets(compound) {
            let Ok(packet) = packet else {
                context.report.dropped.count(DropReason::RtcpMalformed);
                return;
            };
            match packet {
                Rtcp::ReceiverReport(report) => {
                    let server = context.clock.ntp(now);
                    for block in report.blocks() {
                        if let Some(track) = self.track_of_ssrc(block.ssrc) {
                            track.stats.on_report(server, &block);
                        }
                    }
                }
                Rtcp::Nack(nack) => {
                    for sequence in nack.sequences() {
                        self.repeat(
                            now,
                            nack.media_ssrc,
                            sequence,
                            stream,
                            peer,
                            batch,
                            context,
                            egress,
                        );
                    }
                    if let Some(path) = peer.selected() {
                        batch.flush(path, egress);
                    }
                }
                Rtcp::Pli { media_ssrc, .. } => {
                    self.on_keyframe_request(now, media_ssrc, stream, context);
                }
                Rtcp::Fir(fir) => {
                    for (ssrc, _) in fir.entries() {
                        self.on_keyframe_request(now, ssrc, stream, context);
                    }
                }
                // Feedback for the estimator, which does not exist yet; never passed on
                // (whip-whep G12).
                Rtcp::Twcc(_) | Rtcp::Remb(_) => {}
                Rtcp::SenderReport(_) | Rtcp::Bye(_) | Rtcp::Other { .. } => {}
            }
        }
    }

    fn on_keyframe_request(
        &mut self,
        now: Instant,
        ssrc: u32,
        stream: &LocalStream,
        context: &mut Context,
    ) {
        self.keyframe_requests += 1;
        if !self.keyframe_pace.take(now) {
            context.report.dropped.count(DropReason::KeyframeLimited);
            return;
        }
        let Some(track) = self.track_of_ssrc(ssrc) else { return };
        let current = track.forwarder.current_layer();
        let layer = track.forwarder.awaits_keyframe().or(current);
        if let Some((source, layer)) = track.source.zip(layer) {
            match current {
                None => stream.shared.wish_keyframe(source, layer),
                Some(_) => stream.shared.wish_refresh(source, layer),
            }
        }
    }

    /// Answers one NACKed number: RTX where negotiated, else the byte-identical packet again.
    #[expect(clippy::too_many_arguments, reason = "the parts of one session and its worker")]
    fn repeat(
        &mut self,
        now: Instant,
        media_ssrc: u32,
        sequence: u16,
        stream: &LocalStream,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let rtt = peer.check_rtt();
        let next_twcc = self.next_twcc;
        let Some(track) = self.track_of_ssrc(media_ssrc) else { return };
        track.nacks += 1;
        let allowed = track.nack_budget.take(now);
        let Some(path) = peer.selected().filter(|_| allowed) else {
            context.report.dropped.count(DropReason::RepairLimited);
            return;
        };
        let (_, octets) = track.forwarder.line().totals();
        if !track.rtx_budget.allows(now, octets) {
            context.report.dropped.count(DropReason::RepairBudget);
            return;
        }
        let rtt = track.stats.rtt().into_iter().chain(rtt).min();
        let rtt = rtt.unwrap_or(RTT_UNKNOWN).min(REPEAT_RTT_MAX);
        let line = track.forwarder.line_mut();
        let record = match line.claim_repeat(now, sequence, rtt) {
            Ok(record) => record,
            Err(known) => {
                let reason =
                    if known { DropReason::RepairLimited } else { DropReason::RepairExpired };
                context.report.dropped.count(reason);
                return;
            }
        };
        let source = record.source();
        let cached: Option<&Arc<Packet>> = stream
            .epoch()
            .filter(|epoch| source.is_epoch(*epoch))
            .zip(track.source)
            .and_then(|(_, index)| stream.packet(index, source.layer(), source.ext_seq()));
        let Some(packet) = cached else {
            context.report.dropped.count(DropReason::RepairExpired);
            return;
        };
        // The RTX payload type stands for the bare codec: a receiver would take RED for it (RFC 4588 section 8.1).
        let red = packet.meta().is_some_and(|meta| meta.red);
        let rtx = line
            .format()
            .is_some_and(|format| format.rtx_pt.is_some() && !(red && format.red_pt.is_some()));
        let written = match rtx {
            true => line.write_rtx(&record, packet, next_twcc, batch.slot()),
            false => line.write_media(&record, packet, batch.slot()),
        };
        let octets = written.as_ref().map_or(0, Plaintext::payload_len);
        let sealed = written.and_then(|plaintext| peer.seal(plaintext));
        if commit(sealed, peer, path, batch, context, egress).is_some() {
            track.repairs += 1;
            track.rtx_budget.on_repeat(octets);
            context.report.repairs_out += 1;
            if rtx {
                self.next_twcc = next_twcc.wrapping_add(1);
            }
        }
    }

    /// Sends the sender reports that are due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        if self.next_report.is_none_or(|at| at > now) {
            return;
        }
        self.next_report = Some(now + REPORT_INTERVAL);
        let server = context.clock.ntp(now);
        for track in &mut self.tracks {
            let line = track.forwarder.line();
            let (packets, octets) = line.totals();
            track.rtx_budget.on_media(now, octets);
            let Some(format) = line.format() else { continue };
            let Some(anchor) = track.forwarder.outgoing_anchor() else { continue };
            if packets == 0 {
                continue;
            }
            track.pace.turn(now, octets);
            let report = SenderReportOut {
                ssrc: line.ssrc(),
                ntp: server.0,
                rtp_time: anchor.rtp_at(server, format.codec.clock_rate()),
                packets: packets as u32,
                octets: octets as u32,
            };
            let end = RTCP_BYTES_MAX.min(context.scratch.len());
            let mut writer = RtcpWriter::new(context.scratch.get_mut(..end).unwrap_or(&mut []));
            writer.sender_report(&report, &[]);
            writer.sdes_cname(line.ssrc(), CNAME);
            let len = writer.len();
            peer.send_rtcp(&mut context.scratch, len, line.ssrc(), egress);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let replays = self.tracks.iter().filter_map(|track| track.forwarder.next_timeout());
        replays.chain(self.next_report).min()
    }

    /// Round-trip time as the viewer's reports tell it.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.tracks.iter().filter_map(|track| track.stats.rtt()).min()
    }

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
                let line = track.forwarder.line();
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
                    wish: track.asked_for().cloned(),
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

    fn track_of_ssrc(&mut self, ssrc: u32) -> Option<&mut SubTrack> {
        self.tracks.iter_mut().find(|track| track.plan.ssrc == ssrc)
    }
}

impl SubTrack {
    /// The layer that should flow, and why.
    fn choose(&self, source: u8, stream: &LocalStream, now: Instant) -> Option<Choice> {
        if let Some(wish) = &self.wish {
            let rids = &stream.source()?.tracks.get(usize::from(source))?.rids;
            return wish.choose(rids, &stream.views(source, now));
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
    fn wish_keyframe(&self, source: u8, layer: u8, stream: &LocalStream, now: Instant) {
        let moves = self
            .forwarder
            .current_layer()
            .is_some_and(|shown| shown != layer && stream.is_live(source, shown, now));
        match moves {
            true => stream.shared.wish_refresh(source, layer),
            false => stream.shared.wish_keyframe(source, layer),
        }
    }

    /// What the viewer asked for last, in force or about to be.
    fn asked_for(&self) -> Option<&LayerWish> {
        let wish = self.next_wish.as_deref().or(self.wish.as_deref());
        wish.filter(|wish| !wish.is_automatic())
    }

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

    /// Why the viewer gets what it gets of this track.
    fn reason(&self) -> Reason {
        self.forwarder.decisions().last().map_or(Reason::NoPublisher, |last| last.reason)
    }

    /// One packet: decides, writes, seals. True if a stretch of the line began with it.
    fn forward(&mut self, fresh: Fresh, origin: &Origin<'_>, way: &mut Way<'_>) -> bool {
        let packet = origin.ring.get(fresh.ext_seq);
        let Some((packet, meta)) = packet.and_then(|packet| Some((packet, packet.meta()?))) else {
            return false;
        };
        let stamp = Stamp { twcc: way.next_twcc, padded: fresh.padded };
        match self.forwarder.on_packet(origin.layer, meta, stamp) {
            Verdict::Send(record) => way.emit(self.forwarder.line_mut(), &record, packet),
            Verdict::Later => return false,
            Verdict::Drop(reason) => {
                way.context.report.dropped.count(reason);
                if reason == DropReason::AwaitingKeyframe {
                    self.wish_keyframe(origin.track, fresh.layer, origin.stream, way.now);
                }
                return false;
            }
        }
        self.forwarder.line().begins_with() == Some(fresh.ext_seq)
    }
}

/// Takes the sealed packet in the batch's slot into the message; returns its bytes.
fn commit(
    sealed: Option<usize>,
    peer: &mut Peer,
    path: Path,
    batch: &mut Batch,
    context: &mut Context,
    egress: &mut dyn Egress,
) -> Option<usize> {
    let Some(bytes) = sealed.filter(|bytes| *bytes <= DATAGRAM_BYTES_MAX) else {
        context.report.dropped.count(DropReason::TooLargeToSend);
        return None;
    };
    if !peer.may_send(bytes) {
        context.report.dropped.count(DropReason::UnconfirmedEgress);
        return None;
    }
    context.report.packets_out += 1;
    context.report.bytes_out += bytes as u64;
    batch.commit(bytes, path, egress);
    Some(bytes)
}

fn line_config(plan: &SubscribeTrack, context: &mut Context) -> LineConfig {
    let mut random = [0; 6];
    context.entropy.fill(&mut random);
    let [a, b, timestamp @ ..] = random;
    LineConfig {
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

fn rid_of(
    source: Option<&Arc<SourceInfo>>,
    track: Option<u8>,
    layer: Option<u8>,
) -> Option<String> {
    source?.tracks.get(usize::from(track?))?.rids.get(usize::from(layer?)).cloned()
}
