//! The way back: what a viewer's RTCP asks for, and the reports it gets.
//!
//! Part of `subscriber.rs`. Repeats come from the stream's shared cache; keyframe requests become requests on
//! the stream's board.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::context::{Context, REPORT_INTERVAL, RTCP_BYTES_MAX};
use super::stream::LocalStream;
use super::subscriber::{REPORT_WAIT_MAX, Subscriber, Way};
use super::viewer_queue::Delivery;
use crate::error::DropReason;
use crate::forward::Plaintext;
use crate::media::Packet;
use crate::rtp::rtcp::{Rtcp, RtcpWriter, SenderReportOut};
use crate::transport::FiveTuple;
use crate::transport::egress::Egress;
use crate::transport::peer::Peer;

/// Repeats are paced by the round trip, but by no longer one: clients give up after some tries.
const REPEAT_RTT_MAX: Duration = Duration::from_millis(300);

/// Assumed until the first report tells it.
const RTT_UNKNOWN: Duration = Duration::from_millis(50);

/// Our canonical name in SDES: one for all lines of a session, so that players sync them.
const CNAME: &str = "weir";

impl Subscriber {
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
                None => stream.shared.request_keyframe(source, layer),
                Some(_) => stream.shared.request_refresh(source, layer),
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
        let (_, octets) = track.forwarder.sender().totals();
        if !track.rtx_budget.allows(now, octets) {
            context.report.dropped.count(DropReason::RepairBudget);
            return;
        }
        let rtt = track.stats.rtt().into_iter().chain(rtt).min();
        let rtt = rtt.unwrap_or(RTT_UNKNOWN).min(REPEAT_RTT_MAX);
        let line = track.forwarder.sender_mut();
        let record = match line.claim_retransmit(now, sequence, rtt) {
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
            track.rtx_budget.on_retransmit(octets);
            context.report.retransmits_out += 1;
            if rtx {
                self.next_twcc = next_twcc.wrapping_add(1);
            }
        }
    }

    /// Sends the sender reports that are due and that no media took along.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        batch: &mut Batch,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        if self.next_report.is_none_or(|at| at + REPORT_WAIT_MAX > now) {
            return;
        }
        let Some(path) = peer.selected() else {
            self.next_report = Some(now + REPORT_INTERVAL);
            return;
        };
        let (serving, next_twcc) = (Delivery::Immediate, self.next_twcc);
        let mut way =
            Way { now, serving, path, peer, batch, context, egress, next_twcc, sent: (0, 0) };
        self.send_reports(&mut way);
        way.batch.flush(path, way.egress);
    }

    /// Batches a sender report of each track. They are small, so that the first one ends a message of media.
    pub(super) fn send_reports(&mut self, way: &mut Way<'_>) {
        let now = way.now;
        self.next_report = Some(now + REPORT_INTERVAL);
        let server = way.context.clock.ntp(now);
        for track in &mut self.tracks {
            let line = track.forwarder.sender();
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
            let slot = way.batch.slot();
            let mut writer = RtcpWriter::new(slot.get_mut(..RTCP_BYTES_MAX).unwrap_or(&mut []));
            writer.sender_report(&report, &[]);
            writer.sdes_cname(line.ssrc(), CNAME);
            let len = writer.len();
            let sealed = way.peer.seal_rtcp(slot, len, line.ssrc());
            if let Some(bytes) = sealed.filter(|bytes| way.peer.reserve(*bytes)) {
                way.batch.commit(bytes, way.path, way.egress);
            }
        }
    }
}

/// Takes the sealed packet in the batch's slot into the message; returns its bytes.
fn commit(
    sealed: Option<usize>,
    peer: &mut Peer,
    path: FiveTuple,
    batch: &mut Batch,
    context: &mut Context,
    egress: &mut dyn Egress,
) -> Option<usize> {
    let Some(bytes) = sealed.filter(|bytes| *bytes <= path.datagram_bytes_max()) else {
        context.report.dropped.count(DropReason::TooLargeToSend);
        return None;
    };
    if !peer.reserve(bytes) {
        context.report.dropped.count(DropReason::UnconfirmedEgress);
        return None;
    }
    context.report.packets_out += 1;
    context.report.bytes_out += bytes as u64;
    batch.commit(bytes, path, egress);
    Some(bytes)
}
