//! Decides, packet by packet, what one viewer gets of one track.
//!
//! The old layer flows until the new one's keyframe is in hand; a publisher that returns continues
//! the same line. Never looks at other viewers and never at bytes. Called by `worker/subscriber.rs`
//! for each fresh packet; next: `line.rs` numbers and writes it.

use std::time::Instant;

use super::decision::{DecisionLog, Reason};
use super::line::{Line, LineConfig, OutgoingFormat, Splice};
use super::sent::SentRecord;
use crate::codec::{Codec, MediaKind};
use crate::error::DropReason;
use crate::media::PacketMeta;
use crate::media::source_clock::ClockAnchor;

/// A jump of the publisher's numbers beyond this is a new start, not loss: the viewer must not be
/// asked to repair a hole that size (quality A3.2).
const JUMP_MAX: u64 = 300;

/// Smallest step between the last timestamp before a splice and the first after it, in ticks: one
/// frame at 90 kHz / 30 fps. Audio uses its own frame of 20 ms.
const VIDEO_STEP: u32 = 3000;

/// What the forwarder needs to know of the layer a packet came on.
#[derive(Debug, Clone, Copy)]
pub struct LayerContext {
    /// Publisher epoch: changes with each new publisher of the stream.
    pub epoch: u32,
    /// Layer index.
    pub layer: u8,
    /// The layer's timestamps against server time.
    pub anchor: Option<ClockAnchor>,
    /// The stream carries its parameter sets in-band, so a start needs them (H264, H265).
    pub inband_parameter_sets: bool,
}

/// One viewer × one track.
#[derive(Debug)]
pub struct Forwarder {
    line: Line,
    /// What flows now.
    current: Option<(u32, u8)>,
    /// What should flow; a keyframe there makes it current.
    target: Option<(u32, u8)>,
    target_reason: Reason,
    highest_in: u64,
    /// Server-time line of the outgoing timestamps, kept over splices.
    outgoing: Option<ClockAnchor>,
    decisions: DecisionLog,
}

impl Forwarder {
    /// A forwarder that has no source yet.
    pub fn new(config: LineConfig, now: Instant) -> Self {
        Self {
            line: Line::new(config, now),
            current: None,
            target: None,
            target_reason: Reason::NoPublisher,
            highest_in: 0,
            outgoing: None,
            decisions: DecisionLog::default(),
        }
    }

    /// The line, for writing, repeats and reports.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// The line, for writing retransmissions.
    pub fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }

    /// The last decisions.
    pub fn decisions(&self) -> &DecisionLog {
        &self.decisions
    }

    /// A publisher with this codec is here now; its first keyframe continues the line.
    pub fn attach(&mut self, now: Instant, format: OutgoingFormat) {
        let first = self.line.format().is_none();
        self.line.set_format(format);
        self.current = None;
        self.target = None;
        self.target_reason =
            if first { Reason::LargestLiveLayer } else { Reason::PublisherChanged };
        let waiting = match format.codec.kind() {
            MediaKind::Audio => Reason::AudioFlows,
            MediaKind::Video => Reason::AwaitingKeyframe,
        };
        self.decisions.note(now, None, waiting);
    }

    /// The publisher is gone; the line waits.
    pub fn detach(&mut self, now: Instant, reason: Reason) {
        self.current = None;
        self.target = None;
        self.decisions.note(now, None, reason);
    }

    /// Chooses the layer that should flow.
    pub fn set_target(&mut self, epoch: u32, layer: u8, reason: Reason) {
        if self.target != Some((epoch, layer)) {
            self.target = Some((epoch, layer));
            if self.current.is_some() {
                self.target_reason = reason;
            }
        }
    }

    /// The layer that waits for a keyframe, if any.
    pub fn awaits_keyframe(&self) -> Option<u8> {
        let (_, layer) = self.target.filter(|_| self.target != self.current)?;
        Some(layer)
    }

    /// The layer that flows.
    pub fn current_layer(&self) -> Option<u8> {
        self.current.map(|(_, layer)| layer)
    }

    /// Decides on one fresh packet. `twcc` is the number to stamp if it is forwarded.
    ///
    /// # Errors
    /// Why the packet is not for this viewer.
    pub fn on_packet(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        twcc: u16,
    ) -> Result<SentRecord, DropReason> {
        let format = self.line.format().ok_or(DropReason::CodecNotNegotiated)?;
        let came_on = (context.epoch, context.layer);
        if self.current != Some(came_on) || self.jumped(meta) {
            if self.target != Some(came_on) {
                return Err(DropReason::LayerNotSelected);
            }
            if !can_start(format.codec, meta, context.inband_parameter_sets) {
                return Err(DropReason::AwaitingKeyframe);
            }
            self.start(context, format.codec, meta);
        }
        let record = self
            .line
            .assign(context.epoch, context.layer, meta, twcc)
            .ok_or(DropReason::AwaitingKeyframe)?;
        self.highest_in = self.highest_in.max(meta.ext_seq);
        if let (Some(anchor), Some(delta)) = (context.anchor, self.line.timestamp_delta()) {
            self.outgoing = Some(ClockAnchor { rtp: anchor.rtp.wrapping_add(delta), ..anchor });
        }
        Ok(record)
    }

    /// Server time against outgoing timestamps, for sender reports; `None` while nothing flows.
    pub fn outgoing_anchor(&self) -> Option<ClockAnchor> {
        self.outgoing.filter(|_| self.current.is_some())
    }

    fn jumped(&self, meta: &PacketMeta) -> bool {
        meta.ext_seq.saturating_sub(self.highest_in) > JUMP_MAX
    }

    fn start(&mut self, context: LayerContext, codec: Codec, meta: &PacketMeta) {
        let reason = match codec.kind() {
            MediaKind::Audio => Reason::AudioFlows,
            MediaKind::Video => self.target_reason,
        };
        let gap = codec.kind() == MediaKind::Video && !self.line.frame_finished();
        let timestamp = self.splice_timestamp(context, codec, meta);
        self.line.splice(context.epoch, context.layer, meta, Splice { timestamp, gap });
        self.current = Some((context.epoch, context.layer));
        self.highest_in = meta.ext_seq;
        self.target_reason = Reason::LargestLiveLayer;
        self.decisions.note(meta.arrival, Some(context.layer), reason);
    }

    /// Continues the timestamp line at the capture time of this packet, always forward.
    fn splice_timestamp(&self, context: LayerContext, codec: Codec, meta: &PacketMeta) -> u32 {
        let Some(last) = self.line.last_timestamp() else { return self.line.first_timestamp() };
        let step = match codec.kind() {
            MediaKind::Audio => codec.clock_rate() / 50,
            MediaKind::Video => VIDEO_STEP,
        };
        let earliest = last.wrapping_add(step);
        let aligned = self.outgoing.zip(context.anchor).map(|(outgoing, anchor)| {
            let captured = anchor.ntp_of(meta.timestamp, codec.clock_rate());
            outgoing.rtp_at(captured, codec.clock_rate())
        });
        match aligned {
            Some(aligned) if aligned.wrapping_sub(earliest) < 1 << 31 => aligned,
            _ => earliest,
        }
    }
}

/// Whether a decoder that knows nothing can begin at this packet.
fn can_start(codec: Codec, meta: &PacketMeta, inband_parameter_sets: bool) -> bool {
    if meta.payload_len == 0 {
        return false;
    }
    match codec {
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => true,
        // Parameter sets come in packets of their own before the picture: start with them, not
        // with a picture whose sets are behind us. Only an SPS tells the size.
        Codec::H264 | Codec::H265 => {
            meta.frame.keyframe && (meta.frame.resolution.is_some() || !inband_parameter_sets)
        }
        Codec::Vp8 | Codec::Vp9 | Codec::Av1 => meta.frame.keyframe,
    }
}
