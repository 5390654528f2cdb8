//! Decides, packet by packet, what one viewer gets of one track.
//!
//! The old layer flows until the new one's keyframe is in hand; a publisher that returns continues
//! the same line. Never looks at other viewers and never at bytes. Called by `worker/subscriber.rs`
//! for each fresh packet; next: `line.rs` numbers and writes it.

use std::time::Instant;

use super::decision::{DecisionLog, Reason};
use super::line::{Line, LineConfig, OutgoingFormat, Splice, Stamp};
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
        self.line.forget();
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

    /// Whether packets of this layer are forwarded, or would be once a keyframe comes, or were lately.
    pub fn wants(&self, epoch: u32, layer: u8) -> bool {
        let source = Some((epoch, layer));
        self.current == source || self.target == source || self.line.remembers(epoch, layer)
    }

    /// Decides on one fresh packet, which gets `stamp` if it is forwarded.
    ///
    /// # Errors
    /// Why the packet is not for this viewer.
    pub fn on_packet(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        stamp: impl Into<Stamp>,
    ) -> Result<SentRecord, DropReason> {
        let format = self.line.format().ok_or(DropReason::CodecNotNegotiated)?;
        let came_on = (context.epoch, context.layer);
        let stamp = stamp.into();
        let flows = self.current == Some(came_on);
        if !flows || self.jumped(meta) {
            let wanted = flows || self.target == Some(came_on);
            let starts = wanted && can_start(format.codec, meta, context.inband_parameter_sets);
            match (starts, flows) {
                (true, _) => self.start(context, format.codec, meta),
                (false, true) => return Err(DropReason::AwaitingKeyframe),
                // A late packet of a stretch that ended, or nothing for us.
                (false, false) => {
                    let late = self.line.assign(context.epoch, context.layer, meta, stamp);
                    return late.map_err(|_| match wanted {
                        true => DropReason::AwaitingKeyframe,
                        false => DropReason::LayerNotSelected,
                    });
                }
            }
        }
        let record = self.line.assign(context.epoch, context.layer, meta, stamp)?;
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
            let complete = meta.frame.resolution.is_some() || !inband_parameter_sets;
            // A descriptor marks the first packet of the frame, and the payload may be encrypted.
            meta.frame.keyframe && (complete || meta.frame.described)
        }
        Codec::Vp8 | Codec::Vp9 | Codec::Av1 => meta.frame.keyframe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Packet;
    use crate::rtp::codec::{FrameInfo, PictureIds, descriptor_prefix_len, peek};
    use crate::rtp::ext::ExtKind;
    use crate::rtp::packet::RtpHeader;
    use crate::units::Ntp;
    use std::time::Duration;

    const FRAME: u32 = 3_000;

    fn forwarder(now: Instant) -> Forwarder {
        let config = LineConfig {
            ssrc: 0x5eed,
            rtx_ssrc: 0x5eee,
            mid: b"v".as_slice().into(),
            exts: vec![(ExtKind::Mid, 1), (ExtKind::TransportCc, 2)],
            two_byte_exts: false,
            remember: 1024,
            first_sequence: 1_000,
            first_timestamp: 50_000,
        };
        Forwarder::new(config, now)
    }

    fn format(codec: Codec) -> OutgoingFormat {
        OutgoingFormat { codec, pt: 96, rtx_pt: Some(97), red_pt: None }
    }

    /// A publisher's packet: `seq`, `ts`, whether a keyframe starts here, whether its frame ends.
    fn meta(now: Instant, seq: u64, ts: u32, keyframe: bool, marker: bool) -> PacketMeta {
        PacketMeta {
            ext_seq: seq,
            timestamp: ts,
            marker,
            red: false,
            payload_start: 12,
            payload_len: 100,
            prefix_len: 0,
            frame: FrameInfo { keyframe, starts_frame: true, ..FrameInfo::default() },
            exts: [None; 4],
            arrival: now,
        }
    }

    fn on(epoch: u32, layer: u8) -> LayerContext {
        LayerContext { epoch, layer, anchor: None, inband_parameter_sets: true }
    }

    fn numbers(record: &SentRecord) -> (u32, u32) {
        (record.out, record.timestamp)
    }

    #[test]
    fn nothing_flows_before_a_keyframe_and_everything_after_it() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        assert_eq!(
            viewer.on_packet(on(1, 0), &meta(now, 70_000, 9, true, true), 0),
            Err(DropReason::CodecNotNegotiated)
        );
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        assert_eq!(viewer.awaits_keyframe(), Some(0));
        let delta = viewer.on_packet(on(1, 0), &meta(now, 70_000, 9, false, true), 0);
        assert_eq!(delta, Err(DropReason::AwaitingKeyframe));
        let key = viewer.on_packet(on(1, 0), &meta(now, 70_001, 100, true, true), 0).unwrap();
        assert_eq!(numbers(&key), (1_000, 50_000));
        let next = viewer.on_packet(on(1, 0), &meta(now, 70_003, 100 + FRAME, false, true), 1);
        assert_eq!(numbers(&next.unwrap()), (1_002, 50_000 + FRAME), "a hole stays a hole");
        let late = viewer.on_packet(on(1, 0), &meta(now, 70_002, 100 + FRAME, false, false), 2);
        assert_eq!(numbers(&late.unwrap()), (1_001, 50_000 + FRAME), "its number was kept for it");
        let again = viewer.on_packet(on(1, 0), &meta(now, 70_002, 100 + FRAME, false, false), 3);
        assert!(again.is_err(), "a number is given out once");
        assert_eq!(viewer.awaits_keyframe(), None);
    }

    #[test]
    fn viewer_keeps_old_layer_until_new_keyframe_arrives() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), 0).unwrap();
        viewer.set_target(1, 2, Reason::LargestLiveLayer);
        let other = viewer.on_packet(on(1, 2), &meta(now, 9_000, 777, false, true), 0);
        assert_eq!(other, Err(DropReason::AwaitingKeyframe));
        let old = viewer.on_packet(on(1, 0), &meta(now, 101, FRAME, false, false), 0).unwrap();
        assert_eq!(numbers(&old), (1_001, 50_000 + FRAME));
        // The old frame was cut: one number stays unused, so that the decoder sees it.
        let new = viewer.on_packet(on(1, 2), &meta(now, 9_001, 888, true, true), 0).unwrap();
        assert_eq!(numbers(&new), (1_003, 50_000 + 2 * FRAME));
        let stale = viewer.on_packet(on(1, 0), &meta(now, 102, FRAME, false, true), 0);
        assert_eq!(stale, Err(DropReason::LayerNotSelected));
        let layers: Vec<_> = viewer.decisions().iter().map(|d| (d.layer, d.reason)).collect();
        assert_eq!(
            layers,
            [
                (None, Reason::AwaitingKeyframe),
                (Some(0), Reason::LargestLiveLayer),
                (Some(2), Reason::LargestLiveLayer)
            ]
        );
    }

    #[test]
    fn a_publisher_that_returns_continues_numbers_time_and_picture_ids() {
        // whip-whep G7
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        let picture = |mut meta: PacketMeta, id, tl0| {
            let picture = PictureIds { picture_id: Some((id, 15)), tl0_pic_idx: Some(tl0) };
            meta.frame.picture = Some(picture);
            meta
        };
        let second = Ntp(5 << 32);
        let at = |ntp, rtp| Some(ClockAnchor { ntp, rtp });
        let first = LayerContext { anchor: at(second, 0), ..on(1, 0) };
        let key = picture(meta(now, 100, 0, true, true), 32_000, 255);
        let sent = viewer.on_packet(first, &key, 0).unwrap();
        assert_eq!((sent.picture_id, sent.tl0_pic_idx), (32_000, 255));

        viewer.detach(now, Reason::NoPublisher);
        assert_eq!(viewer.outgoing_anchor(), None, "no reports while nothing flows");
        let later = now + Duration::from_secs(2);
        viewer.attach(later, format(Codec::Vp8));
        viewer.set_target(2, 0, Reason::LargestLiveLayer);
        let second_later = second.plus(Duration::from_secs(2));
        let back = LayerContext { anchor: at(second_later, 4_000_000_000), ..on(2, 0) };
        let key = picture(meta(later, 5, 4_000_000_000, true, true), 7, 1);
        let sent = viewer.on_packet(back, &key, 1).unwrap();
        assert_eq!(numbers(&sent), (1_001, 50_000 + 2 * 90_000), "two seconds went by");
        assert_eq!((sent.picture_id, sent.tl0_pic_idx), (32_001, 0));
        assert_eq!(viewer.decisions().last().map(|d| d.reason), Some(Reason::PublisherChanged));
    }

    #[test]
    fn h264_starts_with_its_parameter_sets_unless_they_never_come_in_band() {
        // whip-whep G16
        let now = Instant::now();
        let idr = meta(now, 101, 0, true, true);
        let mut sps = meta(now, 100, 0, true, false);
        sps.frame.resolution = Some((640, 360));
        assert!(!can_start(Codec::H264, &idr, true));
        assert!(can_start(Codec::H264, &sps, true));
        assert!(can_start(Codec::H264, &idr, false));
        let mut described = idr;
        described.frame.described = true;
        assert!(can_start(Codec::H264, &described, true));
        assert!(can_start(Codec::Opus, &meta(now, 1, 0, false, false), false));
        assert!(!can_start(Codec::Opus, &PacketMeta { payload_len: 0, ..idr }, false));
    }

    #[test]
    fn a_jump_of_the_publishers_numbers_is_not_a_hole_to_repair() {
        // quality B4 item 12
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        viewer.on_packet(on(1, 0), &meta(now, 100, 0, true, true), 0).unwrap();
        let jumped = meta(now, 20_000, FRAME, false, true);
        assert_eq!(viewer.on_packet(on(1, 0), &jumped, 0), Err(DropReason::AwaitingKeyframe));
        let key = meta(now, 20_001, 2 * FRAME, true, true);
        let sent = viewer.on_packet(on(1, 0), &key, 0).unwrap();
        assert_eq!(sent.out, 1_001, "the viewer sees no hole");
    }

    #[test]
    fn time_never_goes_back_over_a_splice() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        let ntp = Ntp(9 << 32);
        let anchored = |epoch, layer, rtp| LayerContext {
            anchor: Some(ClockAnchor { ntp, rtp }),
            ..on(epoch, layer)
        };
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        viewer.on_packet(anchored(1, 0, 0), &meta(now, 1 << 20, 0, true, true), 0).unwrap();
        viewer.set_target(1, 1, Reason::LargestLiveLayer);
        // By its clock this frame was captured a second before the last one that was sent.
        let early = meta(now, 1 << 20, 500_000 - 90_000, true, true);
        let sent = viewer.on_packet(anchored(1, 1, 500_000), &early, 0).unwrap();
        assert_eq!(sent.timestamp, 50_000 + FRAME);
    }

    #[test]
    fn a_record_is_written_the_same_each_time_and_wrapped_for_rtx() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        // VP8 descriptor with 15-bit picture id and TL0PICIDX, then a keyframe's first bytes.
        let payload = [0x90, 0xe0, 0x80 | 0x12, 0x34, 0x56, 0x20, 0x10, 0, 0, 0x9d, 0x01, 0x2a];
        let mut packet = Packet::with_capacity(200);
        packet.buffer_mut()[12..24].copy_from_slice(&payload);
        let described = PacketMeta {
            payload_len: 12,
            prefix_len: descriptor_prefix_len(Codec::Vp8, &payload) as u8,
            frame: peek(Codec::Vp8, &payload),
            ..meta(now, 300, 0, true, true)
        };
        packet.describe(described);
        let record = viewer.on_packet(on(1, 0), &described, 0xbeef).unwrap();

        let written = |line: &Line| {
            let mut out = [0; 300];
            let plain = line.write_media(&record, &packet, &mut out).unwrap();
            let (header_len, prefix_len, index) = (plain.header_len, plain.prefix_len, plain.index);
            let rest = plain.rest.to_vec();
            (out[..header_len + prefix_len].to_vec(), rest, index)
        };
        let (head, rest, index) = written(viewer.line());
        assert_eq!(written(viewer.line()), (head.clone(), rest.clone(), index));
        let header = RtpHeader::parse(&head).unwrap();
        assert_eq!((header.sequence, header.ssrc, header.payload_type), (1_000, 0x5eed, 96));
        assert!(header.marker && index == 1_000);
        let exts: Vec<_> = header.elements(&head).map(|(id, data)| (id, data.to_vec())).collect();
        assert_eq!(exts, [(1, b"v".to_vec()), (2, vec![0xbe, 0xef])]);
        let media = [&head[header.header_len..], &rest].concat();
        assert_eq!(media, payload, "picture ids start where the publisher's did");

        let repeat = viewer.line_mut().claim_repeat(now, 1_000, Duration::ZERO).unwrap();
        let mut out = [0; 300];
        let plain = viewer.line_mut().write_rtx(&repeat, &packet, 7, &mut out).unwrap();
        let (header_len, prefix_len) = (plain.header_len, plain.prefix_len);
        let rest = plain.rest.to_vec();
        let header = RtpHeader::parse(&out).unwrap();
        assert_eq!((header.ssrc, header.payload_type, header.timestamp), (0x5eee, 97, 50_000));
        let wrapped = [&out[header_len..header_len + prefix_len], &rest].concat();
        assert_eq!(wrapped[..2], 1_000u16.to_be_bytes(), "RFC 4588: original number first");
        assert_eq!(wrapped[2..], payload);
    }
}
