//! Decides, packet by packet, what one viewer gets of one track.
//!
//! The old layer flows until the new one's keyframe is in hand and its own frame is finished; a publisher that
//! returns continues the same line. A viewer may begin at a cached keyframe, and then catches up. Never looks at
//! other viewers and never at bytes. Called by `worker/subscriber.rs` for each fresh packet; next: `rtp_sender.rs`
//! numbers and writes it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::catch_up::{CatchUp, Tail};
use super::catch_up_timestamps::{self, CatchUpTimestamps, is_ahead};
use super::decision::{DecisionLog, Reason};
use super::layer_filter::{self, LayerCap, LayerFilter};
use super::rtp_sender::{OutgoingFormat, RtpSender, RtpSenderConfig, SourceSwitch, Stamp};
use super::sent::SentRecord;
use crate::codec::{Codec, MediaKind};
use crate::error::DropReason;
use crate::media::PacketMeta;
use crate::media::keyframe::can_start;
use crate::media::source_clock::ClockAnchor;
use crate::units::Bitrate;

/// A jump of the publisher's numbers beyond this is a new start, not loss: the viewer must not be
/// asked to repair a hole that size (quality A3.2).
const JUMP_MAX: u64 = 300;

/// From the last timestamp to the first after a splice whose times are unknown, in ticks: one frame at 90 kHz /
/// 30 fps. Audio uses its own frame of 20 ms.
const VIDEO_STEP: u32 = 3000;

/// A picture that was captured so much before the last one that was sent, in ticks of 90 kHz, still tells the
/// truth about time; beyond half a second the clocks are not to be trusted.
const BEHIND_MAX: u32 = 45_000;

/// A frame that is cut by a change of layers gets this long to end (quality A2.3).
const FRAME_END_MAX: Duration = Duration::from_millis(15);

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

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardDecision {
    /// It goes out now.
    Send(SentRecord),
    /// It goes out when its turn comes: the viewer is on its way to it.
    Later,
    /// It is not for this viewer.
    Drop(DropReason),
}

impl ForwardDecision {
    /// The record of a packet that goes out now.
    pub fn sent(self) -> Option<SentRecord> {
        match self {
            Self::Send(record) => Some(record),
            Self::Later | Self::Drop(_) => None,
        }
    }
}

impl From<Result<SentRecord, DropReason>> for ForwardDecision {
    fn from(numbered: Result<SentRecord, DropReason>) -> Self {
        match numbered {
            Ok(record) => Self::Send(record),
            Err(reason) => Self::Drop(reason),
        }
    }
}

/// The target's keyframe is in hand, but the present layer's frame is not finished.
#[derive(Debug, Clone, Copy)]
struct Handover {
    first: u64,
    until: Instant,
}

/// Where a cached keyframe lies.
#[derive(Debug, Clone, Copy)]
pub struct Beginning<'a> {
    /// Its first packet.
    pub first: &'a PacketMeta,
    /// The newest packet of the layer: the present.
    pub newest: &'a PacketMeta,
    /// What is cached from one to the other; none if something is missing yet.
    pub tail: Option<Tail>,
    /// One past the last packet to send, for a poster.
    pub end: Option<u64>,
    /// What the layer carries, for the pace.
    pub bitrate: Bitrate,
}

/// One viewer × one track. What each packet needs stands together, as in a [`RtpSender`].
#[derive(Debug)]
#[repr(C)]
pub struct Forwarder {
    decisions: DecisionLog,
    catch_up: Option<CatchUp>,
    handover: Option<Handover>,
    /// What flows now.
    current: Option<(u32, u8)>,
    /// What should flow; a keyframe there makes it current.
    target: Option<(u32, u8)>,
    target_reason: Reason,
    highest_in: u64,
    /// Server-time line of the outgoing timestamps, kept over splices.
    outgoing: Option<ClockAnchor>,
    /// What is left out of the layer that flows.
    layer_filter: LayerFilter,
    sender: RtpSender,
}

impl Forwarder {
    /// A forwarder that has no source yet.
    pub fn new(config: RtpSenderConfig, now: Instant) -> Self {
        Self {
            sender: RtpSender::new(config, now),
            layer_filter: LayerFilter::new(),
            current: None,
            target: None,
            target_reason: Reason::NoPublisher,
            handover: None,
            catch_up: None,
            highest_in: 0,
            outgoing: None,
            decisions: DecisionLog::default(),
        }
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box((
            self.is_passthrough(),
            self.highest_in,
            self.outgoing,
            self.layer_filter.is_open(),
        ));
    }

    /// The line, for writing, repeats and reports.
    pub fn sender(&self) -> &RtpSender {
        &self.sender
    }

    /// The line, for writing retransmissions.
    pub fn sender_mut(&mut self) -> &mut RtpSender {
        &mut self.sender
    }

    /// The last decisions.
    pub fn decisions(&self) -> &DecisionLog {
        &self.decisions
    }

    /// A publisher with this codec is here now; its first keyframe continues the line.
    pub fn attach(&mut self, now: Instant, format: OutgoingFormat) {
        let first = self.sender.format().is_none();
        self.sender.set_format(format);
        self.sender.forget();
        self.leave();
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
        self.leave();
        self.decisions.note(now, None, reason);
    }

    fn leave(&mut self) {
        self.current = None;
        self.target = None;
        self.handover = None;
        self.catch_up = None;
        self.sender.close();
    }

    /// Chooses the layer that should flow.
    pub fn set_target(&mut self, epoch: u32, layer: u8, reason: Reason) {
        if self.target != Some((epoch, layer)) {
            self.target = Some((epoch, layer));
            self.handover = None;
            // A new publisher explains the first picture better than what is chosen of it.
            if self.current.is_some() || self.target_reason != Reason::PublisherChanged {
                self.target_reason = reason;
            }
        }
    }

    /// Frames above this temporal layer are left out from now on, whatever layer or publisher flows. Less takes
    /// effect with the next frame, more where frames of a higher layer may begin.
    pub fn set_temporal_cap(&mut self, cap: Option<u8>) {
        let cap = cap.map_or(LayerCap::OPEN, |temporal| LayerCap { temporal, ..LayerCap::OPEN });
        if cap != self.layer_filter.cap() {
            self.sender.enable_drops();
            self.layer_filter.set(cap, self.highest_in);
        }
    }

    /// The highest temporal layers that flow now, and that may flow; `None` is all.
    pub fn temporal_layers(&self) -> (Option<u8>, Option<u8>) {
        let shown = |cap: LayerCap| (cap != LayerCap::OPEN).then_some(cap.temporal);
        (shown(self.layer_filter.level()), shown(self.layer_filter.cap()))
    }

    /// The layer that waits for a keyframe, if any.
    pub fn awaits_keyframe(&self) -> Option<u8> {
        let poster = self.catch_up.is_some_and(|catch_up| catch_up.is_poster());
        let (_, layer) = self.target.filter(|_| poster || self.target != self.current)?;
        Some(layer)
    }

    /// The layer that flows.
    pub fn current_layer(&self) -> Option<u8> {
        self.current.map(|(_, layer)| layer)
    }

    /// Whether packets of this layer are forwarded, or would be once a keyframe comes, or were lately.
    pub fn wants(&self, epoch: u32, layer: u8) -> bool {
        let source = Some((epoch, layer));
        self.current == source || self.target == source || self.sender.remembers(epoch, layer)
    }

    /// Whether packets go out as they come: nothing is cached for this viewer and it waits for nothing.
    pub fn is_passthrough(&self) -> bool {
        self.catch_up.is_none() && self.handover.is_none() && self.target == self.current
    }

    /// The layer that flows if more of its frames may, but only a keyframe would let them; see
    /// [`LayerFilter::take_stuck`].
    pub fn take_stuck(&mut self, now: Instant) -> Option<u8> {
        let stuck = !self.layer_filter.is_open() && self.layer_filter.take_stuck(now);
        self.current_layer().filter(|_| stuck)
    }

    /// Whether a cached keyframe of the target would help now.
    pub fn may_begin(&self) -> bool {
        self.catch_up.is_none() && self.handover.is_none() && self.awaits_keyframe().is_some()
    }

    /// Decides on one fresh packet, which gets `stamp` if it is forwarded now.
    // As all that a record passes on its way: see `RtpSender::write_media`.
    #[inline]
    pub fn on_packet(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        stamp: impl Into<Stamp>,
    ) -> ForwardDecision {
        let Some(format) = self.sender.format() else {
            return ForwardDecision::Drop(DropReason::CodecNotNegotiated);
        };
        let came_on = (context.epoch, context.layer);
        let stamp = stamp.into();
        let flows = self.current == Some(came_on);
        if self.catch_up.is_some_and(|way| flows && way.is_before(meta.ext_seq)) {
            // What follows a poster has lost what it refers to, unless it is a keyframe; that one is found in
            // the cache when the poster is out.
            return ForwardDecision::Later;
        }
        let wanted = flows || self.target == Some(came_on);
        if !flows && wanted && self.handover.is_some_and(|handover| meta.ext_seq >= handover.first)
        {
            return ForwardDecision::Later;
        }
        if !flows || self.jumped(meta) {
            let starts = wanted && can_start(format.codec, meta, context.inband_parameter_sets);
            match (starts, flows) {
                (true, false) if self.waits_for_frame_end(meta.arrival, meta.ext_seq) => {
                    return ForwardDecision::Later;
                }
                (true, _) => self.start(context, format.codec, meta),
                (false, true) => return ForwardDecision::Drop(DropReason::AwaitingKeyframe),
                // A late packet of a stretch that ended, or nothing for us.
                (false, false) => {
                    let late = self.place(context, meta, stamp);
                    return late
                        .map_err(|reason| match reason {
                            DropReason::AwaitingKeyframe if !wanted => DropReason::LayerNotSelected,
                            reason => reason,
                        })
                        .into();
                }
            }
        }
        self.number(context, meta, stamp).into()
    }

    /// Whether the present layer's frame must end before a cached keyframe of the target is begun;
    /// [`Self::handover`] tells when it has.
    pub fn waits_for_frame_end(&mut self, now: Instant, first: u64) -> bool {
        let waits = self.current.is_some() && !self.sender.frame_finished();
        if waits {
            self.handover = Some(Handover { first, until: now + FRAME_END_MAX });
        }
        waits
    }

    /// The cached keyframe that the viewer begins with now, if the frame before is finished or took too
    /// long: its first packet.
    pub fn handover(&self, now: Instant) -> Option<u64> {
        let handover = self.handover?;
        (self.sender.frame_finished() || handover.until <= now).then_some(handover.first)
    }

    /// There is nothing to begin with after all.
    pub fn forget_handover(&mut self) {
        self.handover = None;
    }

    /// Continues the line at a cached keyframe of the target; [`Self::replay`] sends what is cached.
    pub fn begin(&mut self, now: Instant, context: LayerContext, beginning: &Beginning<'_>) {
        let Some(format) = self.sender.format() else { return };
        let Beginning { first, newest, tail, end, bitrate } = *beginning;
        // Also where something is missing of what is cached: it lies in the past all the same.
        let past = Some(end.unwrap_or(newest.ext_seq + 1));
        let frames = tail.map_or(1, |tail| tail.frames);
        // A picture that is shown must not stand still meanwhile.
        let pace = tail.filter(|_| self.sender.last_timestamp().is_none());
        self.switch_source(context, format.codec, first, newest, frames, past);
        self.catch_up = Some(match pace {
            Some(tail) => CatchUp::paced(now, first.ext_seq, end, tail.bytes, bitrate),
            None => CatchUp::at_once(now, first.ext_seq, end),
        });
        if self.decisions.last().is_none_or(|last| last.layer.is_none()) {
            let how = if end.is_some() { Reason::Poster } else { Reason::CachedKeyframe };
            self.decisions.note(now, Some(context.layer), how);
        }
        if end.is_none() {
            self.arrive(now, context.layer, self.target_reason);
        }
    }

    /// The next cached packet that may go now; `newest` is the newest that is here.
    pub fn next_replay(&self, now: Instant, newest: u64) -> Option<u64> {
        self.catch_up.as_ref()?.poll(now, newest)
    }

    /// Whether cached packets of the layer that flows are still to come.
    pub fn is_replaying(&self) -> bool {
        self.catch_up.is_some()
    }

    /// Numbers a cached packet.
    ///
    /// # Errors
    /// As [`RtpSender::assign`].
    pub fn replay(
        &mut self,
        now: Instant,
        context: LayerContext,
        meta: &PacketMeta,
        stamp: impl Into<Stamp>,
    ) -> Result<SentRecord, DropReason> {
        let numbered = self.number(context, meta, stamp.into());
        let bytes = numbered.map_or(0, |_| usize::from(meta.payload_len));
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.advance(now, bytes);
        }
        numbered
    }

    /// The next cached packet is not there: the line leaves room for it. A poster ends with it.
    pub fn skip_replay(&mut self, now: Instant) {
        let Some(catch_up) = &mut self.catch_up else { return };
        catch_up.advance(now, 0);
        if catch_up.is_poster() {
            self.end_poster();
        }
    }

    /// Ends the replay if all is out.
    pub fn end_replay(&mut self, newest: u64) {
        let Some(catch_up) = self.catch_up.filter(|catch_up| catch_up.is_done(newest)) else {
            return;
        };
        self.catch_up = None;
        if catch_up.is_poster() {
            self.end_poster();
        }
    }

    fn end_poster(&mut self) {
        self.catch_up = None;
        self.current = None;
        self.sender.close();
    }

    /// When [`Self::handover`] or [`Self::next_replay`] may have something.
    pub fn next_timeout(&self) -> Option<Instant> {
        let handover = self.handover.map(|handover| handover.until);
        handover.or(self.catch_up.map(|catch_up| catch_up.next_timeout()))
    }

    #[inline]
    fn number(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        stamp: Stamp,
    ) -> Result<SentRecord, DropReason> {
        // What is left out came, too: no jump follows it.
        self.highest_in = self.highest_in.max(meta.ext_seq);
        let record = self.place(context, meta, stamp)?;
        if let (Some(anchor), Some(delta)) = (context.anchor, self.sender.timestamp_delta()) {
            self.outgoing = Some(ClockAnchor { rtp: anchor.rtp.wrapping_add(delta), ..anchor });
        }
        Ok(record)
    }

    /// Gives a packet its place on the line, or leaves it out.
    #[inline]
    fn place(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        stamp: Stamp,
    ) -> Result<SentRecord, DropReason> {
        let LayerContext { epoch, layer, .. } = context;
        if self.layer_filter.is_open() {
            return self.sender.assign(epoch, layer, meta, meta.marker, stamp);
        }
        match self.layer_filter.decide(epoch, layer, meta) {
            layer_filter::FilterDecision::Keep { marker } => {
                self.sender.assign(epoch, layer, meta, marker, stamp)
            }
            layer_filter::FilterDecision::Drop => {
                self.sender.drop_packet(epoch, layer, meta, stamp)
            }
        }
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
        self.switch_source(context, codec, meta, meta, 1, None);
        self.arrive(meta.arrival, context.layer, reason);
    }

    fn arrive(&mut self, now: Instant, layer: u8, reason: Reason) {
        self.target_reason = Reason::LargestLiveLayer;
        self.decisions.note(now, Some(layer), reason);
    }

    /// From this packet on the layer continues the line, at the capture time of its newest packet. Packets
    /// before `past` are not of the present; so many frames of them follow.
    fn switch_source(
        &mut self,
        context: LayerContext,
        codec: Codec,
        first: &PacketMeta,
        newest: &PacketMeta,
        frames: u32,
        past: Option<u64>,
    ) {
        let gap = codec.kind() == MediaKind::Video && !self.sender.frame_finished();
        let span = frames.saturating_mul(catch_up_timestamps::STEP);
        let present = self.present(context, codec, newest, span);
        let start = present.wrapping_sub(span);
        let last = self.sender.last_timestamp().filter(|last| !is_ahead(start, *last));
        let catch_up = match (codec.kind(), last) {
            (MediaKind::Audio, _) => None,
            // Less room than frames: they run into the present, and the line catches up with its clock.
            (_, Some(last)) => Some(CatchUpTimestamps::after(last, past.unwrap_or(first.ext_seq))),
            (_, None) => past.map(|past| CatchUpTimestamps::after(start, past)),
        };
        let ts_delta = present.wrapping_sub(newest.timestamp);
        self.sender.switch_source(
            context.epoch,
            context.layer,
            first,
            SourceSwitch { ts_delta, gap, catch_up },
        );
        self.layer_filter.begin(context.epoch, context.layer, first);
        self.current = Some((context.epoch, context.layer));
        self.highest_in = first.ext_seq;
        self.handover = None;
        self.catch_up = None;
    }

    /// The outgoing timestamp of the newest packet of a layer that takes over: its capture time on the
    /// line's clock.
    fn present(&self, context: LayerContext, codec: Codec, newest: &PacketMeta, span: u32) -> u32 {
        let Some(last) = self.sender.last_timestamp() else {
            return self
                .sender
                .first_timestamp()
                .wrapping_add(span.saturating_sub(catch_up_timestamps::STEP));
        };
        let (step, behind_max) = match codec.kind() {
            MediaKind::Audio => (codec.clock_rate() / 50, 0),
            MediaKind::Video => (VIDEO_STEP, BEHIND_MAX),
        };
        let earliest = last.wrapping_add(step);
        let aligned = self.outgoing.zip(context.anchor).map(|(outgoing, anchor)| {
            let captured = anchor.ntp_of(newest.timestamp, codec.clock_rate());
            outgoing.rtp_at(captured, codec.clock_rate())
        });
        // Before `earliest` only pictures: sound has no place for a frame twice.
        let trusted = earliest.wrapping_sub(behind_max);
        aligned.filter(|aligned| aligned.wrapping_sub(trusted) < 1 << 31).unwrap_or(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{ForwardedExt, Packet};
    use crate::rtp::codec::{FrameInfo, PictureIds, descriptor_prefix_len, peek};
    use crate::rtp::ext::ExtKind;
    use crate::rtp::packet::RtpHeader;
    use crate::units::Ntp;
    use std::time::Duration;

    const FRAME: u32 = 3_000;

    impl ForwardDecision {
        fn unwrap(self) -> SentRecord {
            self.sent().unwrap_or_else(|| panic!("{self:?}"))
        }

        fn is_drop(self) -> bool {
            matches!(self, Self::Drop(_))
        }
    }

    fn forwarder(now: Instant) -> Forwarder {
        forwarder_with(now, vec![(ExtKind::Mid, 1), (ExtKind::TransportCc, 2)])
    }

    fn forwarder_with(now: Instant, exts: Vec<(ExtKind, u8)>) -> Forwarder {
        let config = RtpSenderConfig {
            ssrc: 0x5eed,
            rtx_ssrc: 0x5eee,
            mid: b"v".as_slice().into(),
            exts,
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

    /// The same, of a layer whose clock was at `rtp` at a moment that is the same for all.
    fn anchored(epoch: u32, layer: u8, rtp: u32) -> LayerContext {
        LayerContext { anchor: Some(ClockAnchor { ntp: Ntp(9 << 32), rtp }), ..on(epoch, layer) }
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
            ForwardDecision::Drop(DropReason::CodecNotNegotiated)
        );
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        assert_eq!(viewer.awaits_keyframe(), Some(0));
        let delta = viewer.on_packet(on(1, 0), &meta(now, 70_000, 9, false, true), 0);
        assert_eq!(delta, ForwardDecision::Drop(DropReason::AwaitingKeyframe));
        let key = viewer.on_packet(on(1, 0), &meta(now, 70_001, 100, true, true), 0).unwrap();
        assert_eq!(numbers(&key), (1_000, 50_000));
        let next = viewer.on_packet(on(1, 0), &meta(now, 70_003, 100 + FRAME, false, true), 1);
        assert_eq!(numbers(&next.unwrap()), (1_002, 50_000 + FRAME), "a hole stays a hole");
        let late = viewer.on_packet(on(1, 0), &meta(now, 70_002, 100 + FRAME, false, false), 2);
        assert_eq!(numbers(&late.unwrap()), (1_001, 50_000 + FRAME), "its number was kept for it");
        let again = viewer.on_packet(on(1, 0), &meta(now, 70_002, 100 + FRAME, false, false), 3);
        assert!(again.is_drop(), "a number is given out once");
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
        assert_eq!(other, ForwardDecision::Drop(DropReason::AwaitingKeyframe));
        let old = viewer.on_packet(on(1, 0), &meta(now, 101, FRAME, false, false), 0).unwrap();
        assert_eq!(numbers(&old), (1_001, 50_000 + FRAME));
        // The old frame is not finished: the new layer waits for its end, but not for long.
        let key = meta(now, 9_001, 888, true, true);
        assert_eq!(viewer.on_packet(on(1, 2), &key, 0), ForwardDecision::Later);
        assert_eq!(viewer.handover(now), None);
        assert_eq!(viewer.next_timeout(), Some(now + FRAME_END_MAX));
        assert_eq!(viewer.handover(now + FRAME_END_MAX), Some(9_001));
        let end = viewer.on_packet(on(1, 0), &meta(now, 102, FRAME, false, true), 0).unwrap();
        assert_eq!(numbers(&end), (1_002, 50_000 + FRAME));
        assert_eq!(viewer.handover(now), Some(9_001), "it ended");
        let tail = Tail { first: 9_001, newest: 9_001, frames: 1, bytes: 100 };
        let bitrate = Bitrate::kbps(500);
        let tail = Some(tail);
        let cached = Beginning { first: &key, newest: &key, tail, end: None, bitrate };
        viewer.begin(now, on(1, 2), &cached);
        assert_eq!(viewer.next_replay(now, 9_001), Some(9_001));
        let new = viewer.replay(now, on(1, 2), &key, 0).unwrap();
        assert_eq!(numbers(&new), (1_003, 50_000 + FRAME + FRAME));
        viewer.end_replay(9_001);
        assert!(viewer.is_passthrough());
        let stale = viewer.on_packet(on(1, 0), &meta(now, 103, 2 * FRAME, false, true), 0);
        assert_eq!(stale, ForwardDecision::Drop(DropReason::LayerNotSelected));
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
        assert_eq!(
            viewer.on_packet(on(1, 0), &jumped, 0),
            ForwardDecision::Drop(DropReason::AwaitingKeyframe)
        );
        let key = meta(now, 20_001, 2 * FRAME, true, true);
        let sent = viewer.on_packet(on(1, 0), &key, 0).unwrap();
        assert_eq!(sent.out, 1_001, "the viewer sees no hole");
    }

    #[test]
    fn many_frames_left_out_are_no_jump_and_leave_no_hole() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        viewer.set_temporal_cap(Some(0));
        let layered = |seq: u64, temporal_id| {
            let mut meta = meta(now, seq, (seq as u32 - 100) * FRAME, seq == 100, true);
            meta.frame.temporal_id = Some(temporal_id);
            meta
        };
        viewer.on_packet(on(1, 0), &layered(100, 0), 0).unwrap();
        for seq in 101..101 + 2 * JUMP_MAX {
            let left_out = viewer.on_packet(on(1, 0), &layered(seq, 1), 0);
            assert_eq!(left_out, ForwardDecision::Drop(DropReason::LayerFiltered));
        }
        let next = 101 + 2 * JUMP_MAX;
        let sent = viewer.on_packet(on(1, 0), &layered(next, 0), 0).unwrap();
        assert_eq!(numbers(&sent), (1_001, 50_000 + (next as u32 - 100) * FRAME));
        assert_eq!(viewer.temporal_layers(), (Some(0), Some(0)));
    }

    #[test]
    fn time_never_goes_back_over_a_splice() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
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

        let written = |line: &RtpSender| {
            let mut out = [0; 300];
            let plain = line.write_media(&record, &packet, &mut out).unwrap();
            let (header_len, prefix_len, index) = (plain.header_len, plain.prefix_len, plain.index);
            let rest = plain.rest.to_vec();
            (out[..header_len + prefix_len].to_vec(), rest, index)
        };
        let (head, rest, index) = written(viewer.sender());
        assert_eq!(written(viewer.sender()), (head.clone(), rest.clone(), index));
        let header = RtpHeader::parse(&head).unwrap();
        assert_eq!((header.sequence, header.ssrc, header.payload_type), (1_000, 0x5eed, 96));
        assert!(header.marker && index == 1_000);
        let exts: Vec<_> = header.elements(&head).map(|(id, data)| (id, data.to_vec())).collect();
        assert_eq!(exts, [(1, b"v".to_vec()), (2, vec![0xbe, 0xef])]);
        let media = [&head[header.header_len..], &rest].concat();
        assert_eq!(media, payload, "picture ids start where the publisher's did");

        let repeat = viewer.sender_mut().claim_retransmit(now, 1_000, Duration::ZERO).unwrap();
        let mut out = [0; 300];
        let plain = viewer.sender_mut().write_rtx(&repeat, &packet, 7, &mut out).unwrap();
        let (header_len, prefix_len) = (plain.header_len, plain.prefix_len);
        let rest = plain.rest.to_vec();
        let header = RtpHeader::parse(&out).unwrap();
        assert_eq!((header.ssrc, header.payload_type, header.timestamp), (0x5eee, 97, 50_000));
        let wrapped = [&out[header_len..header_len + prefix_len], &rest].concat();
        assert_eq!(wrapped[..2], 1_000u16.to_be_bytes(), "RFC 4588: original number first");
        assert_eq!(wrapped[2..], payload);
    }

    /// A layer's packets 500.. of a frame each, with the first a keyframe.
    fn cached(now: Instant, frames: u32) -> Vec<PacketMeta> {
        (0..frames).map(|n| meta(now, 500 + u64::from(n), n * FRAME, n == 0, true)).collect()
    }

    fn begin(
        viewer: &mut Forwarder,
        now: Instant,
        layer: LayerContext,
        cached: &[PacketMeta],
        poster: bool,
    ) {
        let (first, newest) = (&cached[0], cached.last().unwrap());
        let frames = if poster { 1 } else { cached.len() as u32 };
        let tail = Tail { first: 500, newest: newest.ext_seq, frames, bytes: 100 * cached.len() };
        let end = poster.then_some(501);
        let bitrate = Bitrate::kbps(500);
        let tail = Some(tail);
        viewer.begin(now, layer, &Beginning { first, newest, tail, end, bitrate });
    }

    #[test]
    fn a_viewer_that_joins_gets_the_cached_frames_squeezed_and_then_the_present() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        assert!(viewer.may_begin());
        let cached = cached(now, 4);
        begin(&mut viewer, now, on(1, 0), &cached, false);
        assert_eq!(viewer.awaits_keyframe(), None, "nobody needs to be asked");
        // A fresh packet meanwhile waits for its turn.
        let fresh = meta(now, 504, 4 * FRAME, false, true);
        assert_eq!(viewer.on_packet(on(1, 0), &fresh, 0), ForwardDecision::Later);
        let mut sent = Vec::new();
        while let Some(ext_seq) = viewer.next_replay(now + Duration::from_secs(1), 504) {
            let meta = cached.get(ext_seq as usize - 500).unwrap_or(&fresh);
            sent.push(numbers(&viewer.replay(now, on(1, 0), meta, 0).unwrap()));
        }
        let ms = catch_up_timestamps::STEP;
        let expected =
            [0, ms, 2 * ms, 3 * ms, 3 * ms + FRAME].map(|after| 50_000 + after).into_iter();
        assert_eq!(sent, (1_000..).zip(expected).collect::<Vec<_>>());
        viewer.end_replay(504);
        let next = viewer.on_packet(on(1, 0), &meta(now, 505, 5 * FRAME, false, true), 0).unwrap();
        assert_eq!(numbers(&next), (1_005, 50_000 + 3 * ms + 2 * FRAME));
        let reasons: Vec<_> = viewer.decisions().iter().map(|d| d.reason).collect();
        use Reason::*;
        assert_eq!(reasons, [AwaitingKeyframe, CachedKeyframe, LargestLiveLayer]);
    }

    #[test]
    fn a_cached_keyframe_with_a_hole_behind_it_is_of_the_past_too() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        let at = |layer, rtp| anchored(1, layer, rtp);
        viewer.set_target(1, 1, Reason::LargestLiveLayer);
        viewer.on_packet(at(1, 0), &meta(now, 100, 0, true, true), 0).unwrap();
        // The layer's newest frame was captured four frames after the last one sent, its keyframe 45 before.
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        let cached = cached(now, 50);
        let (first, newest) = (&cached[0], cached.last().unwrap());
        let beginning =
            Beginning { first, newest, tail: None, end: None, bitrate: Bitrate::kbps(500) };
        viewer.begin(now, at(0, 45 * FRAME), &beginning);
        let sent = viewer.replay(now, at(0, 45 * FRAME), first, 0).unwrap();
        assert!(is_ahead(sent.timestamp, 50_000), "time went back to {}", sent.timestamp);
    }

    #[test]
    fn a_poster_is_shown_as_of_now_and_the_next_keyframe_follows_it() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        let at = |rtp| anchored(1, 0, rtp);
        let cached = cached(now, 90);
        begin(&mut viewer, now, at(0), &cached, true);
        let delta = meta(now, 590, 90 * FRAME, false, true);
        assert_eq!(viewer.on_packet(at(0), &delta, 0), ForwardDecision::Later);
        assert_eq!(viewer.next_replay(now, 590), Some(500));
        let poster = viewer.replay(now, at(0), &cached[0], 0).unwrap();
        assert_eq!(numbers(&poster), (1_000, 50_000));
        viewer.end_replay(590);
        assert_eq!((viewer.current_layer(), viewer.awaits_keyframe()), (None, Some(0)));
        let late = viewer.on_packet(at(0), &delta, 0);
        assert_eq!(
            late,
            ForwardDecision::Drop(DropReason::AwaitingKeyframe),
            "it refers to nothing shown"
        );
        // Ten frames after the newest one at the time of the poster.
        let key = meta(now, 600, 99 * FRAME, true, true);
        let sent = viewer.on_packet(at(0), &key, 0).unwrap();
        assert_eq!(numbers(&sent), (1_001, 50_000 + 10 * FRAME));
    }

    #[test]
    fn the_same_picture_in_another_size_comes_a_moment_later_and_leaves_no_offset() {
        let now = Instant::now();
        let mut viewer = forwarder(now);
        viewer.attach(now, format(Codec::Vp8));
        let at = |layer, rtp| anchored(1, layer, rtp);
        viewer.set_target(1, 0, Reason::LargestLiveLayer);
        viewer.on_packet(at(0, 0), &meta(now, 100, 0, true, true), 0).unwrap();
        let shift = 777_000;
        for switch in 1..=50u32 {
            let layer = (switch % 2) as u8;
            let base = if layer == 1 { shift } else { 0 };
            viewer.set_target(1, layer, Reason::LargestLiveLayer);
            let seq = 100 + u64::from(switch) * 10 + u64::from(layer) * 100_000;
            // The keyframe of the same capture as the last frame sent, then the next frame.
            let captured = (switch - 1) * FRAME;
            let key = meta(now, seq, base + captured, true, true);
            let key = viewer.on_packet(at(layer, base), &key, 0).unwrap();
            assert_eq!(key.timestamp, 50_000 + captured + catch_up_timestamps::STEP);
            let next = meta(now, seq + 1, base + captured + FRAME, false, true);
            let next = viewer.on_packet(at(layer, base), &next, 0).unwrap();
            assert_eq!(next.timestamp, 50_000 + captured + FRAME, "switch {switch}");
        }
    }

    // whip-whep G10
    #[test]
    fn frame_numbers_of_descriptors_go_on_over_splices_and_repeats_are_the_same() {
        let now = Instant::now();
        let mut viewer = forwarder_with(now, vec![(ExtKind::DependencyDescriptor, 5)]);
        viewer.attach(now, format(Codec::Vp8));
        let described = |seq, ts, number: u16| {
            let mut packet = Packet::with_capacity(200);
            let [high, low] = number.to_be_bytes();
            packet.buffer_mut()[150..153].copy_from_slice(&[0xc0, high, low]);
            let mut meta = meta(now, seq, ts, true, true);
            meta.frame.frame_number = Some(number);
            let kind = ExtKind::DependencyDescriptor;
            meta.exts[0] = Some(ForwardedExt { kind, start: 150, len: 3 });
            packet.describe(meta);
            (packet, meta)
        };
        let send = |viewer: &mut Forwarder, layer, (packet, meta): &(Packet, PacketMeta)| {
            viewer.set_target(1, layer, Reason::LargestLiveLayer);
            let record = viewer.on_packet(on(1, layer), meta, 7).unwrap();
            (record, written_number(viewer.sender(), &record, packet))
        };
        let first = described(1 << 17, 0, 60_000);
        let (record, number) = send(&mut viewer, 0, &first);
        assert_eq!(number, Some(60_000), "the first publisher's numbers are kept");
        // Another layer, whose numbers are far behind.
        let other = send(&mut viewer, 1, &described(1 << 18, FRAME, 5));
        assert_eq!(other.1, Some(60_001));
        let next = send(&mut viewer, 1, &described((1 << 18) + 1, 2 * FRAME, 6));
        assert_eq!(next.1, Some(60_002));
        assert_eq!(written_number(viewer.sender(), &record, &first.0), Some(60_000), "a repeat");
        for layer in 2..6 {
            send(&mut viewer, layer, &described(u64::from(layer) << 20, 9 * FRAME, 9));
        }
        assert_eq!(written_number(viewer.sender(), &record, &first.0), None, "forgotten: not sent");
    }

    fn written_number(line: &RtpSender, record: &SentRecord, packet: &Packet) -> Option<u16> {
        let mut out = [0; 300];
        let header_len = line.write_media(record, packet, &mut out)?.header_len;
        let header = RtpHeader::parse(&out[..header_len]).unwrap();
        let (_, data) = header.elements(&out).find(|(id, _)| *id == 5).unwrap();
        Some(u16::from_be_bytes([data[1], data[2]]))
    }
}
