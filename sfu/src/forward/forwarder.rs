//! Forwarder of one track to one viewer: decides on each packet.
//!
//! Packets of the old layer are sent until a whole keyframe of the new one is cached and the old
//! frame is complete. A publisher that returns continues the same numbers. A viewer begins with a
//! keyframe's first packet as it arrives, or from the cache if packets behind it came earlier, and
//! then catches up: no number is left out. The state is one [`Flow`]. [`Forwarder::number_packet`]
//! decides on packets that arrive, [`Forwarder::poll`] on cached ones. Never looks at other viewers
//! and never at bytes. Called by `worker/subscription.rs`; next: `start.rs` chooses the keyframe,
//! `rtp_sender.rs` numbers and writes.

use std::time::{Duration, Instant};

use super::catch_up::CatchUp;
use super::catch_up_timestamps::{self, CatchUpTimestamps, STEP, is_ahead};
use super::decision::{DecisionLog, Reason};
use super::layer_cache::{LayerCache, LayerContext};
use super::layer_filter::{FilterDecision, LayerCap, LayerFilter};
use super::rtp_sender::{NotNumbered, OutgoingFormat, RtpSender, RtpSenderConfig, SourceSwitch};
use super::sent::Numbered;
use super::start::{SWITCH_BURST_BYTES, StartMode, StartPart, StartPolicy, TAIL_PACKETS_MAX};
use crate::codec::{Codec, MediaKind};
use crate::error::DropReason;
use crate::ids::{LayerIdx, LayerKey};
use crate::media::source_clock::ClockAnchor;
use crate::media::{DecoderStart, Packet, PacketMeta};
use crate::warm::warm;

/// Jump of the publisher's numbers above which the layer starts again. It is no loss: the viewer
/// must not try to repair a gap of that size (quality A3.2).
const JUMP_MAX: u64 = 300;

/// Ticks from the last timestamp to the first one after a source switch whose times are unknown:
/// one frame at 90 kHz and 30 fps. Audio uses its own frame of 20 ms.
const VIDEO_STEP: u32 = 3000;

/// Ticks of 90 kHz by which a keyframe may precede the last frame that was sent and still keep its
/// own time. Beyond half a second the clocks are not reliable.
const BEHIND_MAX: u32 = 45_000;

/// Time that a frame gets to end before a layer switch cuts it (quality A2.3).
const FRAME_END_MAX: Duration = Duration::from_millis(15);

/// Decision on a packet that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum ForwardDecision {
    /// The packet is sent now.
    Send(Numbered),
    /// The packet is sent when [`Forwarder::poll`] reaches it.
    Later,
    /// No packet of the layer can be sent before a keyframe: one is to be requested.
    NeedKeyframe,
    /// The packet is not sent to this viewer.
    Drop(DropReason),
}

impl ForwardDecision {
    /// The packet, if it is sent now.
    #[cfg(feature = "internals")]
    pub fn numbered(self) -> Option<Numbered> {
        match self {
            Self::Send(numbered) => Some(numbered),
            Self::Later | Self::NeedKeyframe | Self::Drop(_) => None,
        }
    }
}

/// Result of one call of [`Forwarder::poll`].
#[derive(Debug)]
pub enum Step<'a> {
    /// A cached packet is sent now. Poll again.
    Send(Numbered, &'a Packet),
    /// A cached packet is not sent to this viewer. Poll again.
    Drop(DropReason),
    /// Nothing is due before [`Forwarder::next_timeout`], or before a packet arrives.
    Idle,
}

/// State of a forwarder: the layer that is sent now, and the one that follows. What only a start or
/// a switch needs is boxed: each packet of each viewer reads the rest.
#[derive(Debug)]
enum Flow {
    /// Nothing is sent, until a keyframe of the target (if any) is found.
    Waiting { target: Option<LayerKey> },
    /// Packets of `layer` are sent.
    Sending { layer: LayerKey, pass: Pass, next: Next },
}

/// Which packets of a layer are sent.
#[derive(Debug)]
enum Pass {
    /// Packets as they arrive.
    Live,
    /// Kept parameter sets that go before the first cached packet, then as [`Self::Cached`].
    Sets(Box<SetsFirst>),
    /// Cached packets, up to the present or, for a poster, to the end of its keyframe.
    Cached(Box<CatchUp>),
}

/// Parameter sets before a keyframe that has none of its own.
#[derive(Debug, Clone, Copy)]
struct SetsFirst {
    /// Number of sets that are sent.
    sent: usize,
    /// What follows.
    then: CatchUp,
}

impl Pass {
    /// Cached packets, after the parameter sets that the first of them needs.
    fn cached(then: CatchUp, needs_sets: bool) -> Self {
        match needs_sets {
            true => Self::Sets(Box::new(SetsFirst { sent: 0, then })),
            false => Self::Cached(Box::new(then)),
        }
    }

    /// The position among cached packets, if these are sent.
    fn catch_up(&self) -> Option<&CatchUp> {
        match self {
            Self::Live => None,
            Self::Sets(sets) => Some(&sets.then),
            Self::Cached(catch_up) => Some(catch_up),
        }
    }
}

/// Beginning of a viewer at a packet that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// With this packet.
    Here,
    /// With packets that are cached: parameter sets, or others of its access unit before it.
    Before(DecoderStart),
}

/// Layer that follows the one that is sent.
#[derive(Debug)]
enum Next {
    /// The same layer.
    Same,
    /// Another layer, from its next keyframe on.
    Keyframe(LayerKey),
    /// Another layer, whose keyframe is cached, at the end of the frame that is being sent.
    FrameEnd(Box<FrameEnd>),
}

/// Wait for the end of the frame that is being sent, before another layer starts.
#[derive(Debug, Clone, Copy)]
struct FrameEnd {
    /// Layer that starts then.
    target: LayerKey,
    /// Its keyframe.
    start: DecoderStart,
    /// Time at which it starts at the latest.
    until: Instant,
}

impl Next {
    /// The layer that follows, if it is another one.
    fn target(&self) -> Option<LayerKey> {
        match self {
            Self::Same => None,
            Self::Keyframe(target) => Some(*target),
            Self::FrameEnd(end) => Some(end.target),
        }
    }
}

impl Flow {
    const STOPPED: Self = Self::Waiting { target: None };

    /// The layer that is sent.
    fn layer(&self) -> Option<LayerKey> {
        match self {
            Self::Waiting { .. } => None,
            Self::Sending { layer, .. } => Some(*layer),
        }
    }

    /// The layer that should be sent.
    fn target(&self) -> Option<LayerKey> {
        match self {
            Self::Waiting { target } => *target,
            Self::Sending { layer, next, .. } => next.target().or(Some(*layer)),
        }
    }

    /// The layer whose keyframe is awaited.
    fn awaits_keyframe(&self) -> Option<LayerKey> {
        match self {
            Self::Waiting { target } => *target,
            Self::Sending { layer, pass, next: Next::Same } => {
                pass.catch_up().filter(|catch_up| catch_up.is_poster()).map(|_| *layer)
            }
            Self::Sending { next, .. } => next.target(),
        }
    }
}

/// Forwarder of one track to one viewer. Fields that each packet needs are next to each other: the
/// end of the filter, up to the beginning of the [`RtpSender`].
#[derive(Debug)]
#[repr(C)]
pub struct Forwarder {
    decisions: DecisionLog,
    starts: StartPolicy,
    target_reason: Reason,
    /// The next source is another one, not a publisher that returns.
    rebound: bool,
    /// Filter of upper layers inside the stream that is sent.
    filter: LayerFilter,
    flow: Flow,
    /// The layer of which a keyframe was requested, while it is awaited.
    requested_keyframe: Option<LayerKey>,
    highest_in: u64,
    /// Server time of outgoing timestamps, kept over source switches.
    outgoing: Option<ClockAnchor>,
    sender: RtpSender,
}

impl Forwarder {
    /// A forwarder that has no source yet.
    pub fn new(config: RtpSenderConfig, mode: StartMode) -> Self {
        Self {
            decisions: DecisionLog::default(),
            starts: StartPolicy::new(mode),
            target_reason: Reason::NoPublisher,
            rebound: false,
            filter: LayerFilter::new(),
            flow: Flow::STOPPED,
            requested_keyframe: None,
            highest_in: 0,
            outgoing: None,
            sender: RtpSender::new(config),
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.filter.is_open(), self.is_passthrough(), self.highest_in, self.outgoing);
    }

    /// The RTP sender, for reports.
    pub fn sender(&self) -> &RtpSender {
        &self.sender
    }

    /// The RTP sender, for writing.
    pub fn sender_mut(&mut self) -> &mut RtpSender {
        &mut self.sender
    }

    /// The last decisions.
    pub fn decisions(&self) -> &DecisionLog {
        &self.decisions
    }

    /// Takes a publisher with this codec; its first keyframe continues the outgoing numbers.
    pub fn attach(&mut self, now: Instant, format: OutgoingFormat) {
        self.target_reason = match (self.sender.format(), std::mem::take(&mut self.rebound)) {
            (_, true) => Reason::Bound,
            (None, false) => Reason::LargestLiveLayer,
            (Some(_), false) => Reason::PublisherChanged,
        };
        self.stop();
        self.sender.set_format(format);
        self.sender.forget();
        self.filter.forget();
        let waiting = match format.codec.kind() {
            MediaKind::Audio => Reason::AudioFlows,
            MediaKind::Video => Reason::AwaitingKeyframe,
        };
        self.decisions.note(now, None, waiting);
    }

    /// Removes the publisher; nothing is sent until the next one is attached.
    pub fn detach(&mut self, now: Instant, reason: Reason) {
        self.stop();
        self.decisions.note(now, None, reason);
    }

    /// Marks the next source as another one, not a publisher that returns.
    pub fn forget_source(&mut self) {
        self.starts.forget();
        self.rebound = true;
        self.requested_keyframe = None;
    }

    fn stop(&mut self) {
        self.flow = Flow::STOPPED;
        self.starts.end_wait();
        self.sender.close();
    }

    /// Chooses the layer that should be sent.
    pub fn set_target(&mut self, key: LayerKey, reason: Reason) {
        if self.flow.target() == Some(key) {
            return;
        }
        // A new source explains the first picture better than the choice of its layer.
        let new_source = matches!(self.target_reason, Reason::PublisherChanged | Reason::Bound);
        if self.flow.layer().is_some() || !new_source {
            self.target_reason = reason;
        }
        self.starts.end_wait();
        match &mut self.flow {
            Flow::Waiting { target } => *target = Some(key),
            Flow::Sending { layer, next, .. } if *layer == key => *next = Next::Same,
            Flow::Sending { next, .. } => *next = Next::Keyframe(key),
        }
    }

    /// Limits the temporal layers that are sent, whatever layer or publisher is sent. A lower cap
    /// applies from the next frame, a higher one where frames of a higher layer may begin.
    pub fn set_temporal_cap(&mut self, cap: Option<u8>) {
        let cap = cap.map_or(LayerCap::OPEN, |temporal| LayerCap { temporal, ..LayerCap::OPEN });
        if cap != self.filter.cap() {
            self.sender.enable_drops();
            self.filter.set(cap, self.highest_in);
        }
    }

    /// The highest temporal layers that are sent now, and that may be sent; `None` is all.
    pub fn temporal_layers(&self) -> (Option<u8>, Option<u8>) {
        let shown = |cap: LayerCap| (cap != LayerCap::OPEN).then_some(cap.temporal);
        (shown(self.filter.level()), shown(self.filter.cap()))
    }

    /// Whether temporal layers are limited, and no frame of late could be left out.
    pub fn filters_in_vain(&self) -> bool {
        self.filter.leaves_out_nothing()
    }

    /// The layer whose keyframe is awaited, if any.
    pub fn awaits_keyframe(&self) -> Option<LayerKey> {
        self.flow.awaits_keyframe()
    }

    /// Whether nothing moves until a keyframe comes: nothing is sent, or a poster.
    pub fn stands_still(&self) -> bool {
        match &self.flow {
            Flow::Waiting { target } => target.is_some(),
            Flow::Sending { pass, .. } => pass.catch_up().is_some_and(CatchUp::is_poster),
        }
    }

    /// The layer of which a keyframe is to be requested: once for each layer that is awaited, unless
    /// a keyframe of it is arriving.
    pub fn take_keyframe_request(&mut self) -> Option<LayerKey> {
        // A visit that awaits nothing does not read the starts, which lie in a cold cache line.
        let arrives = |key: &LayerKey| self.starts.arriving().is_some_and(|(of, _)| of == *key);
        let awaited = self.flow.awaits_keyframe().filter(|key| !arrives(key));
        let requested = std::mem::replace(&mut self.requested_keyframe, awaited);
        awaited.filter(|_| requested != awaited)
    }

    /// The layer that is sent.
    pub fn current_layer(&self) -> Option<LayerIdx> {
        self.flow.layer().map(|key| key.layer)
    }

    /// Whether packets of this layer are sent, await a keyframe, or may still be late for it.
    pub fn wants(&self, key: LayerKey) -> bool {
        let key_or = Some(key);
        self.flow.layer() == key_or || self.flow.target() == key_or || self.sender.remembers(key)
    }

    /// Whether [`Self::poll`] has nothing to do: packets are sent as they arrive, or none is.
    pub fn is_passthrough(&self) -> bool {
        matches!(
            self.flow,
            Flow::Waiting { target: None }
                | Flow::Sending { pass: Pass::Live, next: Next::Same, .. }
        )
    }

    /// The layer that is sent, if more of its frames may be sent but only a keyframe would allow
    /// them; see [`LayerFilter::take_stuck`].
    pub fn take_stuck(&mut self, now: Instant) -> Option<LayerKey> {
        let stuck = !self.filter.is_open() && self.filter.take_stuck(now);
        self.flow.layer().filter(|_| stuck)
    }

    /// Time at which [`Self::poll`] may have something to send.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.flow {
            Flow::Sending { next: Next::FrameEnd(end), .. } => Some(end.until),
            Flow::Sending { pass, .. } => pass.catch_up().map(CatchUp::next_timeout),
            Flow::Waiting { .. } => None,
        }
    }

    /// Server time of outgoing timestamps, for sender reports; `None` while nothing is sent.
    pub fn outgoing_anchor(&self) -> Option<ClockAnchor> {
        self.outgoing.filter(|_| self.flow.layer().is_some())
    }

    /// Decides on one packet that arrived. A packet that is sent now carries one byte of padding if
    /// `padded`. A keyframe begins with this packet unless `context` says otherwise.
    #[cfg(feature = "internals")]
    pub fn on_packet(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        padded: bool,
    ) -> ForwardDecision {
        let (seq, timestamp) = (meta.ext_seq, meta.timestamp);
        let this = DecoderStart { first: seq, key: seq, timestamp, needs_sets: false };
        let start = context.start.or(meta.frame.keyframe.then_some(this));
        let context = LayerContext { start, ..context };
        self.number_packet(context, meta, padded).map_or_else(|other| other, ForwardDecision::Send)
    }

    /// Decides on one packet that arrived: its number if it is of the layer that is sent live, and
    /// nothing is filtered. Nearly every packet is.
    ///
    /// # Errors
    ///
    /// The decision on any other packet, which may be to send it as well.
    // Apart from other packets, and inlined: a record that is returned through memory is read in
    // other widths than it was written, which costs 20 ns per packet.
    #[inline(always)]
    pub fn number_packet(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        padded: bool,
    ) -> Result<Numbered, ForwardDecision> {
        if let Flow::Sending { layer, pass: Pass::Live, .. } = &self.flow
            && *layer == context.key
            && self.filter.is_open()
            && !self.jumped(meta)
        {
            self.highest_in = self.highest_in.max(meta.ext_seq);
            return match self.sender.assign(context.key, meta, meta.marker, padded) {
                Ok(numbered) => {
                    self.note_clock(context);
                    Ok(numbered)
                }
                Err(reason) => Err(not_sent(reason)),
            };
        }
        Err(self.on_other_packet(context, meta, padded))
    }

    /// Decides on a packet that is not of the layer that is sent live, or that may be filtered.
    #[inline(never)]
    fn on_other_packet(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        padded: bool,
    ) -> ForwardDecision {
        let Some(format) = self.sender.format() else {
            return ForwardDecision::Drop(DropReason::CodecNotNegotiated);
        };
        let key = context.key;
        let sent = self.flow.layer() == Some(key);
        if let Flow::Sending { layer, pass, next } = &self.flow {
            let later = match (pass.catch_up(), next) {
                // Packets after a poster refer to frames that were not sent, unless they are a
                // keyframe. That one is found in the cache when the poster is complete.
                (Some(catch_up), _) if *layer == key => catch_up.is_before(meta.ext_seq),
                (_, Next::FrameEnd(end)) if *layer != key => {
                    end.target == key && meta.ext_seq >= end.start.first
                }
                _ => false,
            };
            if later {
                return ForwardDecision::Later;
            }
        }
        if !sent || self.jumped(meta) {
            let wanted = sent || self.flow.target() == Some(key);
            let arriving = self.starts.arriving().filter(|(of, _)| *of == key);
            let entry = entry(format.codec, &context, meta).filter(|_| wanted);
            // The picture that is shown goes on until all of the keyframe is cached.
            let keeps_picture = !sent && self.flow.layer().is_some();
            match (entry, sent) {
                (Some(_), _) if keeps_picture => return ForwardDecision::Later,
                (Some(Entry::Here), _) => self.start(context, format.codec, meta, Pass::Live),
                (Some(Entry::Before(start)), _) => {
                    let then = CatchUp::at_once(meta.arrival, start.first, None);
                    let pass = Pass::cached(then, start.needs_sets);
                    let (ext_seq, timestamp) = (start.first, start.timestamp);
                    let first = PacketMeta { ext_seq, timestamp, ..*meta };
                    self.start(context, format.codec, &first, pass);
                    return ForwardDecision::Later;
                }
                (None, true) => return ForwardDecision::NeedKeyframe,
                (None, false) => {
                    return match (self.number_or_drop(context, meta, padded), arriving) {
                        (Err(NotNumbered::OutsideSegments), _) if !wanted => {
                            ForwardDecision::Drop(DropReason::LayerNotSelected)
                        }
                        (Err(NotNumbered::OutsideSegments), Some((_, first))) => {
                            match meta.ext_seq > first {
                                true => ForwardDecision::Later,
                                false => ForwardDecision::Drop(DropReason::AwaitingKeyframe),
                            }
                        }
                        (Err(NotNumbered::OutsideSegments), None) => ForwardDecision::NeedKeyframe,
                        // A late packet of an earlier segment.
                        (numbered, _) => decision(numbered),
                    };
                }
            }
        }
        decision(self.number(context, meta, padded))
    }

    /// Has the packets behind the first one of a segment sent from the cache: some of them arrived
    /// before it, and are not handed to this viewer any more.
    pub fn catch_up_behind(&mut self, now: Instant, first: u64) {
        if let Flow::Sending { pass: pass @ Pass::Live, .. } = &mut self.flow {
            *pass = Pass::Cached(Box::new(CatchUp::at_once(now, first + 1, None)));
        }
    }

    /// Decides on cached packets that are due: starts at a cached keyframe where that helps, and
    /// sends the rest of one. Call it until it is idle.
    pub fn poll<'a>(&mut self, now: Instant, cache: &impl LayerCache<'a>) -> Step<'a> {
        self.begin_if_due(now, cache);
        if let Some(step) = self.poll_sets(cache) {
            return step;
        }
        let Flow::Sending { layer, pass: Pass::Cached(catch_up), .. } = &self.flow else {
            return Step::Idle;
        };
        let (layer, mut catch_up) = (*layer, **catch_up);
        let Some((context, newest)) = cache.context(layer).zip(cache.newest(layer)) else {
            return Step::Idle;
        };
        while let Some(ext_seq) = catch_up.poll(now, newest) {
            let packet = cache.packet(layer, ext_seq);
            let Some((packet, meta)) = packet.and_then(|packet| Some((packet, packet.meta()?)))
            else {
                // The packet is delayed or lost: its number stays free. A poster is of no use
                // without it.
                catch_up.advance(now, 0);
                if catch_up.is_poster() {
                    self.end_poster();
                    return Step::Idle;
                }
                continue;
            };
            let numbered = self.number(context, meta, false);
            let bytes = numbered.as_ref().map_or(0, |_| usize::from(meta.payload_len));
            catch_up.advance(now, bytes);
            self.note_progress(catch_up);
            return match decision(numbered) {
                ForwardDecision::Send(numbered) => Step::Send(numbered, packet),
                ForwardDecision::Drop(reason) => Step::Drop(reason),
                ForwardDecision::Later | ForwardDecision::NeedKeyframe => {
                    Step::Drop(DropReason::AwaitingKeyframe)
                }
            };
        }
        match (catch_up.is_done(newest), catch_up.is_poster(), &mut self.flow) {
            (true, true, _) => self.end_poster(),
            (true, false, Flow::Sending { pass, .. }) => *pass = Pass::Live,
            _ => self.note_progress(catch_up),
        }
        Step::Idle
    }

    /// The next parameter set that goes before the first cached packet, if there is one.
    fn poll_sets<'a>(&mut self, cache: &impl LayerCache<'a>) -> Option<Step<'a>> {
        let Flow::Sending { layer, pass, .. } = &mut self.flow else { return None };
        let Pass::Sets(state) = pass else { return None };
        let (layer, first) = (*layer, state.then.next());
        let set = cache.keyframe(layer).and_then(|keyframe| {
            Some((keyframe.sets_before(first).get(state.sent)?, cache.packet(layer, first)?))
        });
        let metas = set.and_then(|(set, first)| Some((&**set, set.meta()?, first.meta()?)));
        let numbered = metas.and_then(|(set, set_meta, first_meta)| {
            Some((self.sender.assign_before(layer, first_meta, set_meta).ok()?, set))
        });
        match numbered {
            Some(_) => state.sent += 1,
            None => *pass = Pass::Cached(Box::new(state.then)),
        }
        numbered.map(|(numbered, set)| Step::Send(numbered, set))
    }

    /// Keeps the position of the catch-up that lasts.
    fn note_progress(&mut self, catch_up: CatchUp) {
        if let Flow::Sending { pass: Pass::Cached(kept), .. } = &mut self.flow {
            **kept = catch_up;
        }
    }

    /// Starts at a cached keyframe of the target, if there is one that may be used now.
    fn begin_if_due<'a>(&mut self, now: Instant, cache: &impl LayerCache<'a>) {
        match &self.flow {
            &(Flow::Waiting { target: Some(key) }
            | Flow::Sending { pass: Pass::Live, next: Next::Keyframe(key), .. }) => {
                let has_picture = self.flow.layer().is_some();
                if let Some(part) = self.starts.consider(now, key, has_picture, cache)
                    && !self.waits_for_frame_end(now, key, part.start)
                {
                    self.begin(now, key, part, cache);
                }
            }
            Flow::Sending { next: Next::FrameEnd(end), .. }
                if self.sender.frame_finished() || end.until <= now =>
            {
                let FrameEnd { target, start, .. } = **end;
                let tail = cache.start(target, now).and_then(|cached| cached.tail);
                let tail = tail.filter(|tail| tail.first == start.first);
                if !self.begin(now, target, StartPart { start, end: None, tail }, cache)
                    && let Flow::Sending { next, .. } = &mut self.flow
                {
                    // The keyframe left the cache meanwhile: the next one starts the layer.
                    *next = Next::Keyframe(target);
                }
            }
            Flow::Waiting { target: None } | Flow::Sending { .. } => {}
        }
    }

    /// Whether the frame that is being sent must end before another layer's keyframe is sent.
    fn waits_for_frame_end(&mut self, now: Instant, target: LayerKey, start: DecoderStart) -> bool {
        if self.sender.frame_finished() {
            return false;
        }
        let Flow::Sending { next, .. } = &mut self.flow else { return false };
        *next = Next::FrameEnd(Box::new(FrameEnd { target, start, until: now + FRAME_END_MAX }));
        true
    }

    /// Continues the outgoing numbers at a cached keyframe; [`Self::poll`] sends the cached
    /// packets. False if the keyframe is not cached any more.
    fn begin<'a>(
        &mut self,
        now: Instant,
        key: LayerKey,
        part: StartPart,
        cache: &impl LayerCache<'a>,
    ) -> bool {
        let StartPart { start, end, tail } = part;
        let meta = |ext_seq| cache.packet(key, ext_seq)?.meta();
        let format = self.sender.format();
        let (Some(format), Some(context), Some(first)) =
            (format, cache.context(key), meta(start.first))
        else {
            return false;
        };
        // Without recent packets the cached keyframe is the present.
        let newest = cache
            .newest(key)
            .and_then(meta)
            .or_else(|| cache.keyframe(key)?.whole()?.packets().last()?.meta());
        let (Some(newest), Some(cached)) = (newest, cache.start(key, now)) else { return false };
        // A picture that is shown must not freeze meanwhile.
        let has_picture = self.sender.last_timestamp().is_some();
        let behind = newest.ext_seq.saturating_sub(first.ext_seq);
        let bytes = match tail {
            Some(tail) => (!has_picture || tail.bytes > SWITCH_BURST_BYTES).then_some(tail.bytes),
            // Too many packets to count, or one is missing.
            None => (behind >= TAIL_PACKETS_MAX as u64)
                .then_some(behind as usize * usize::from(first.payload_len)),
        };
        // A poster is the present, whatever its age.
        let span = match end {
            None => catch_up_timestamps::span(start.timestamp, newest.timestamp),
            Some(_) => 0,
        };
        self.switch_source(context, format.codec, (first, Some(start)), newest, span);
        let catch_up = match bytes {
            Some(bytes) => CatchUp::paced(now, first.ext_seq, end, bytes, cached.bitrate),
            None => CatchUp::at_once(now, first.ext_seq, end),
        };
        let needs_sets = cache
            .keyframe(key)
            .is_some_and(|keyframe| !keyframe.sets_before(first.ext_seq).is_empty());
        let pass = Pass::cached(catch_up, needs_sets);
        self.flow = Flow::Sending { layer: key, pass, next: Next::Same };
        if self.decisions.last().is_none_or(|last| last.layer.is_none()) {
            let how = if end.is_some() { Reason::Poster } else { Reason::CachedKeyframe };
            self.decisions.note(now, Some(key.layer), how);
        }
        if end.is_none() {
            self.note_switched(now, key.layer, self.target_reason);
        }
        true
    }

    fn end_poster(&mut self) {
        self.flow = Flow::Waiting { target: self.flow.target() };
        self.sender.close();
    }

    fn number(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        padded: bool,
    ) -> Result<Numbered, NotNumbered> {
        // Packets that were left out did arrive: the next number is no jump.
        self.highest_in = self.highest_in.max(meta.ext_seq);
        let numbered = self.number_or_drop(context, meta, padded)?;
        self.note_clock(context);
        Ok(numbered)
    }

    /// Keeps the server time of outgoing timestamps.
    #[inline(always)]
    fn note_clock(&mut self, context: LayerContext) {
        if let (Some(anchor), Some(delta)) = (context.anchor, self.sender.timestamp_delta()) {
            self.outgoing = Some(ClockAnchor { rtp: anchor.rtp.wrapping_add(delta), ..anchor });
        }
    }

    /// Gives a packet its number, or leaves it out.
    fn number_or_drop(
        &mut self,
        context: LayerContext,
        meta: &PacketMeta,
        padded: bool,
    ) -> Result<Numbered, NotNumbered> {
        let key = context.key;
        if self.filter.is_open() {
            return self.sender.assign(key, meta, meta.marker, padded);
        }
        match self.filter.decide(key, meta) {
            FilterDecision::Keep { marker } => self.sender.assign(key, meta, marker, padded),
            FilterDecision::Drop => self.sender.drop_packet(key, meta),
        }
    }

    fn jumped(&self, meta: &PacketMeta) -> bool {
        meta.ext_seq.saturating_sub(self.highest_in) > JUMP_MAX
    }

    /// Starts at a keyframe that just arrived, with this packet.
    fn start(&mut self, context: LayerContext, codec: Codec, meta: &PacketMeta, pass: Pass) {
        let reason = match codec.kind() {
            MediaKind::Audio => Reason::AudioFlows,
            MediaKind::Video => self.target_reason,
        };
        let layer = context.key;
        let next = match self.flow.target() {
            // The numbers of the layer that is sent jumped while another layer was awaited.
            Some(target) if target != layer => Next::Keyframe(target),
            _ => Next::Same,
        };
        // Parameter sets in front of the picture have its timestamp.
        let start = context.start.filter(|start| start.first == meta.ext_seq);
        let timestamp = start.map_or(meta.timestamp, |start| start.timestamp);
        let newest = PacketMeta { timestamp, ..*meta };
        self.switch_source(context, codec, (meta, start), &newest, 0);
        self.flow = Flow::Sending { layer, pass, next };
        self.note_switched(meta.arrival, layer.layer, reason);
    }

    fn note_switched(&mut self, now: Instant, layer: LayerIdx, reason: Reason) {
        self.target_reason = Reason::LargestLiveLayer;
        self.decisions.note(now, Some(layer), reason);
    }

    /// Continues the outgoing numbers with this packet's layer, at the capture time of the layer's
    /// newest packet. The first picture precedes that time by `span` ticks. It begins with packet
    /// `first`; `key` is where it begins a video.
    fn switch_source(
        &mut self,
        context: LayerContext,
        codec: Codec,
        (first, key): (&PacketMeta, Option<DecoderStart>),
        newest: &PacketMeta,
        span: u32,
    ) {
        let gap = codec.kind() == MediaKind::Video && !self.sender.frame_finished();
        let present = self.present(context, codec, newest, span);
        let ts_delta = present.wrapping_sub(newest.timestamp);
        let start = present.wrapping_sub(span);
        // Fewer ticks than frames: they run into the present, and the sender catches up with its
        // clock.
        let earliest = self.sender.last_timestamp().map(|last| last.wrapping_add(STEP));
        let start = earliest.filter(|earliest| is_ahead(*earliest, start)).unwrap_or(start);
        let picture = key.map_or(first.timestamp, |key| key.timestamp);
        let follows_clock =
            codec.kind() == MediaKind::Audio || start == picture.wrapping_add(ts_delta);
        // What comes live, with the publisher's times, is sent as it comes.
        let is_live = follows_clock && newest.ext_seq == first.ext_seq;
        let key = key.filter(|_| !is_live);
        let lead = key.map_or(0, |key| key.key.saturating_sub(first.ext_seq));
        let lead = u8::try_from(lead).unwrap_or(u8::MAX);
        let catch_up = CatchUpTimestamps::from(picture, start, follows_clock, lead);
        self.starts.end_wait();
        self.sender.switch_source(context.key, first, SourceSwitch { ts_delta, gap, catch_up });
        self.filter.begin(context.key, first);
        self.highest_in = first.ext_seq;
    }

    /// The outgoing timestamp of the newest packet of a layer that is switched to: its capture time
    /// on the sender's clock.
    fn present(&self, context: LayerContext, codec: Codec, newest: &PacketMeta, span: u32) -> u32 {
        let Some(last) = self.sender.last_timestamp() else {
            return self.sender.first_timestamp().wrapping_add(span);
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
        // Only video may begin before `earliest`: audio cannot play two frames at one time.
        let trusted = earliest.wrapping_sub(behind_max);
        aligned.filter(|aligned| aligned.wrapping_sub(trusted) < 1 << 31).unwrap_or(earliest)
    }
}

/// How a decoder without any state can begin at a packet that arrived, if it can.
fn entry(codec: Codec, context: &LayerContext, meta: &PacketMeta) -> Option<Entry> {
    if meta.payload_len == 0 {
        return None;
    }
    if codec.kind() == MediaKind::Audio {
        return Some(Entry::Here);
    }
    let start = context.start?;
    if meta.ext_seq == start.first && !start.needs_sets {
        return Some(Entry::Here);
    }
    let belongs = (start.first..=start.key).contains(&meta.ext_seq);
    belongs.then_some(Entry::Before(start))
}

fn decision(numbered: Result<Numbered, NotNumbered>) -> ForwardDecision {
    numbered.map_or_else(not_sent, ForwardDecision::Send)
}

/// The decision on a packet that gets no number.
fn not_sent(reason: NotNumbered) -> ForwardDecision {
    match reason {
        // A late packet from before the keyframe that the viewer began with.
        NotNumbered::OutsideSegments => ForwardDecision::Drop(DropReason::AwaitingKeyframe),
        NotNumbered::Duplicate => ForwardDecision::Drop(DropReason::Duplicate),
        NotNumbered::TooOld => ForwardDecision::Drop(DropReason::TooOld),
        NotNumbered::Filtered => ForwardDecision::Drop(DropReason::LayerFiltered),
    }
}

#[cfg(test)]
mod tests;
