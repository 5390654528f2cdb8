//! Feedback to a publisher: transport-wide feedback, NACK, keyframe requests, receiver reports,
//! REMB. Each kind has its own pace; all are written into the worker's scratch and sealed from
//! there.
//!
//! The other half of `publisher.rs`. The times and contents are decided in `repair/` and
//! `congestion/`.

use std::time::{Duration, Instant};

use super::context::{Context, REPORT_INTERVAL, RTCP_BYTES_MAX};
use super::publisher::Publisher;
use super::warning::Warning;
use crate::ids::LayerIdx;
use crate::repair::keyframe_planner::KeyframeNeed;
use crate::repair::nack_list::NackList;
use crate::router::StreamShared;
use crate::rtp::rtcp::{ReportBlock, RtcpWriter};
use crate::transport::egress::Egress;
use crate::transport::peer::Peer;

/// Round trip assumed until a repair was timed: most publishers are nearer.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);

impl Publisher {
    /// Sends the feedback that is due. True once in each [`REPORT_INTERVAL`].
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        stream: &StreamShared,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) -> bool {
        if self.routing.take_request_poll(now) {
            self.take_keyframe_requests(now, stream);
        }
        self.send_twcc(now, peer, context, egress);
        self.send_nacks(now, peer, context, egress);
        self.send_keyframe_requests(now, peer, context, egress);
        let reports = self.next_report <= now;
        if reports {
            self.next_report = now + REPORT_INTERVAL;
            if let Some(payload_bytes) = stream.take_unsendable() {
                self.dropped.note(now, Warning::TooLargeToSend { payload_bytes });
            }
            self.send_reports(now, peer, context, egress);
        }
        reports
    }

    /// Sends transport-wide feedback that is due by now or soon, after packets were handled.
    pub(super) fn send_due_feedback(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        self.twcc.bring_forward(now);
        self.send_twcc(now, peer, context, egress);
    }

    fn send_twcc(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let media_ssrc = self.ssrcs.any_media().unwrap_or(0);
        while let Some(report) = self.twcc.poll(now) {
            let mut writer = rtcp_writer(context);
            let written = writer.twcc(
                self.our_ssrc,
                media_ssrc,
                report.base_seq,
                report.feedback_count,
                report.reference_time_64ms,
                report.arrivals,
            );
            if !written {
                return;
            }
            let len = writer.len();
            peer.send_rtcp(&mut context.scratch, len, self.our_ssrc, egress);
        }
    }

    fn send_nacks(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let rtt = self.rtt.get().unwrap_or(RTT_UNKNOWN);
        let mut list = NackList::new();
        for track in &mut self.tracks {
            for layer in &mut track.layers {
                let Some(ssrc) = layer.ssrc() else { continue };
                layer.nack.poll(now, rtt, &mut list);
                if layer.nack.take_keyframe_need() && track.plan.feedback.asks_keyframes() {
                    layer.keyframes.add_need(now, KeyframeNeed::Hole);
                }
                if list.is_empty() {
                    continue;
                }
                if let Some(first) = list.as_slice().first() {
                    self.rtt.on_nack(now, layer.near(*first));
                }
                let mut writer = rtcp_writer(context);
                writer.nack(self.our_ssrc, ssrc, list.as_slice());
                let len = writer.len();
                peer.send_rtcp(&mut context.scratch, len, self.our_ssrc, egress);
            }
        }
    }

    fn send_keyframe_requests(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let rtt = self.rtt.get().or(peer.check_rtt());
        for track in &mut self.tracks {
            let feedback = track.plan.feedback;
            if !feedback.asks_keyframes() {
                continue;
            }
            let mut asked = None;
            for (index, layer) in LayerIdx::all().zip(&mut track.layers) {
                let Some(ssrc) = layer.ssrc() else { continue };
                let asks = layer.keyframes.poll(now, rtt);
                context.report.keyframes.merge(&layer.keyframes.take_counts());
                if !asks {
                    continue;
                }
                asked = Some(index);
                let mut writer = rtcp_writer(context);
                if feedback.pli {
                    writer.pli(self.our_ssrc, ssrc);
                } else {
                    writer.fir(self.our_ssrc, ssrc, layer.next_fir());
                }
                let len = writer.len();
                peer.send_rtcp(&mut context.scratch, len, self.our_ssrc, egress);
                context.report.keyframe_requests += 1;
            }
            for (index, layer) in LayerIdx::all().zip(&mut track.layers) {
                if asked.is_some_and(|asked| asked != index) {
                    layer.keyframes.on_sibling_request(now);
                }
            }
        }
    }

    /// Sends receiver reports for every layer, and REMB for clients that read no other feedback.
    fn send_reports(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        context: &mut Context,
        egress: &mut dyn Egress,
    ) {
        let mut blocks = [ReportBlock::default(); BLOCKS_MAX];
        let mut count = 0;
        let mut remb = [0; BLOCKS_MAX];
        let mut remb_count = 0;
        for track in &mut self.tracks {
            for layer in &mut track.layers {
                let Some(ssrc) = layer.ssrc() else { continue };
                if let Some(block) = layer.stats.report_block(now, ssrc)
                    && let Some(slot) = blocks.get_mut(count)
                {
                    *slot = block;
                    count += 1;
                }
                if track.plan.feedback.remb
                    && let Some(slot) = remb.get_mut(remb_count)
                {
                    *slot = ssrc;
                    remb_count += 1;
                }
            }
        }
        let bitrate = context.publisher_limits.bitrate.0;
        let mut writer = rtcp_writer(context);
        writer.receiver_report(self.our_ssrc, blocks.get(..count).unwrap_or(&[]));
        writer.sdes_cname(self.our_ssrc, "weir");
        if remb_count > 0 {
            // A ceiling, not an estimate: transport-wide feedback carries the real signal.
            writer.remb(self.our_ssrc, bitrate, remb.get(..remb_count).unwrap_or(&[]));
        }
        let len = writer.len();
        peer.send_rtcp(&mut context.scratch, len, self.our_ssrc, egress);
    }
}

/// Report blocks in one packet (RFC 3550 section 6.4.1).
const BLOCKS_MAX: usize = 31;

fn rtcp_writer(context: &mut Context) -> RtcpWriter<'_> {
    let end = RTCP_BYTES_MAX.min(context.scratch.len());
    RtcpWriter::new(context.scratch.get_mut(..end).unwrap_or(&mut []))
}
