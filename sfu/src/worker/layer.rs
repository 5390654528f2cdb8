//! One incoming layer of a publisher: an SSRC and its RTX.
//!
//! Called by `publisher.rs` for each packet. Knows nothing of viewers.

use std::time::{Duration, Instant};

use super::context::Context;
use super::ingress_rate::IngressRate;
use super::packet_inspector::{Incoming, PacketInspector, has_unsound_red, without_payload};
use super::report::{LayerInfo, LearnedInfo, ResponseInfo};
use crate::codec::MediaKind;
use crate::error::DropReason;
use crate::media::PacketMeta;
use crate::media::keyframe::needed_sets;
use crate::media::source_clock::{PublisherClock, TrackClock};
use crate::media::stats::{RateMeter, ReceiverStats};
use crate::media::timeline::Timeline;
use crate::repair::keyframe_planner::KeyframePlanner;
use crate::repair::nack_generator::{Arrival, NackGenerator};
use crate::repair::red_recovery::RedRecovery;
use crate::repair::responses::Responsiveness;
use crate::repair::rtt::RtxRtt;
use crate::router::LayerInfoUpdate;
use crate::rtp::codec::{FrameInfo, parameter_sets};
use crate::rtp::packet::RtpHeader;
use crate::rtp::seq::SeqUnwrapper;
use crate::rtp::unit_parts::UnitParts;
use crate::sdp::{PublishTrack, stated_sets};
use crate::units::Ntp;
use crate::warm::warm;

/// Silence of the present SSRC after which an earlier SSRC may be used again.
const SILENT_AFTER: Duration = Duration::from_millis(100);

/// Distance of a layer's numbers when its SSRC changes. The new numbers start this far above the
/// old ones, so that no cache or viewer mistakes them for repairs.
const REBIND_GAP: u64 = 1 << 20;

/// Offset of SRTP indices, so that packets from before the first one stay positive.
const INDEX_BASE: u64 = 1 << 16;

/// One track of a publisher.
pub(super) struct Track {
    pub(super) plan: PublishTrack,
    pub(super) layers: Vec<Layer>,
}

/// Interval at which all workers with viewers are told the layer information.
const ANCHOR_INTERVAL: Duration = Duration::from_millis(200);

/// An opened packet of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived<'a> {
    /// RTP header.
    pub header: &'a RtpHeader,
    /// The packet in plaintext, header included.
    pub plaintext: &'a [u8],
    /// SRTP index, which was authenticated.
    pub index: u64,
    /// Whether the packet is a retransmission (RFC 4588).
    pub rtx: bool,
    /// Bytes on the wire.
    pub wire_len: usize,
}

/// Interval of keyframes above which a new viewer waits long for one: an encoder that is set to 4 s
/// is not warned, however its keyframes jitter.
const SLOW_INTERVAL: Duration = Duration::from_millis(4_500);

/// Intervals of a publisher that was not asked for a keyframe yet, before it is warned: browsers
/// send one keyframe or two by themselves while they adapt.
const UNREQUESTED_INTERVALS_MIN: usize = 2;

/// Time without a keyframe after which a publisher that sends none on request is warned. If it sent
/// some by itself, it is twice their interval.
const NO_KEYFRAME_AFTER: Duration = Duration::from_secs(15);

/// Interval up to which a publisher that was not asked for a keyframe yet is taken for one with a
/// fixed interval. Browsers answer requests, and send one in 100 s unrequested.
const UNREQUESTED_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Time from the first keyframe after which parameter sets that did not come are missed. They may be
/// late, and repaired.
const SETS_MISSING_AFTER: Duration = Duration::from_secs(2);

/// One layer.
pub(super) struct Layer {
    /// Gaps, and the NACKs to send for them.
    pub nack: NackGenerator,
    /// Loss and jitter for receiver reports.
    pub stats: ReceiverStats,
    /// Keyframe requests, and when to send them.
    pub keyframes: KeyframePlanner,
    /// Timestamps of the layer, continued over jumps.
    timeline: Timeline,
    /// Server time of those timestamps.
    clock: TrackClock,
    /// Time when all workers with viewers were last told the layer information.
    anchored_at: Option<Instant>,
    inspector: PacketInspector,
    /// Recovery of lost packets from RED.
    pub red: RedRecovery,
    /// Packets that came back inside RED.
    pub recovered: u64,
    last_media: Option<Instant>,
    rid: String,
    video: bool,
    /// Whether PLI or FIR was negotiated.
    asks_keyframes: bool,
    ssrc: Option<u32>,
    unwrapper: SeqUnwrapper,
    base: u64,
    highest: u64,
    /// Rate of the packets that were taken.
    pub rate: RateMeter,
    keyframes_seen: u64,
    last_keyframe_ts: Option<u32>,
    resolution: Option<(u16, u16)>,
    fir_number: u8,
    sets: SetsSeen,
}

/// Parameter sets that the layer needs and had so far.
#[derive(Debug, Default)]
struct SetsSeen {
    needed: UnitParts,
    seen: UnitParts,
    /// When the first keyframe came without a descriptor.
    since: Option<Instant>,
}

impl SetsSeen {
    fn new(plan: &PublishTrack) -> Self {
        let (codec, format) = (plan.format.codec, &plan.format);
        let mut seen = UnitParts::NONE;
        // As in `stream.rs`: of several layers it is not said which one they belong to.
        for stated in stated_sets(format).iter().filter(|_| plan.rids.len() < 2) {
            seen = parameter_sets(codec, stated).fold(seen, |seen, set| seen.with(set.kind));
        }
        Self { needed: needed_sets(codec), seen, since: None }
    }

    fn on_packet(&mut self, now: Instant, frame: &FrameInfo) {
        self.seen = self.seen.with(frame.parts.sets());
        if frame.keyframe && !frame.described {
            self.since.get_or_insert(now);
        }
    }

    fn are_missing(&self, now: Instant) -> bool {
        let waited = |since| now.saturating_duration_since(since) >= SETS_MISSING_AFTER;
        !self.seen.contains(self.needed) && self.since.is_some_and(waited)
    }
}

impl Layer {
    /// The layers of a track: one per rid, or a single one without simulcast.
    pub(super) fn for_track(plan: &PublishTrack) -> Vec<Self> {
        match plan.rids.as_slice() {
            [] => vec![Self::new(String::new(), plan)],
            rids => rids.iter().map(|rid| Self::new(rid.clone(), plan)).collect(),
        }
    }

    fn new(rid: String, plan: &PublishTrack) -> Self {
        Self {
            nack: NackGenerator::new(plan.feedback.nack),
            stats: ReceiverStats::new(),
            keyframes: KeyframePlanner::new(),
            timeline: Timeline::default(),
            clock: TrackClock::new(),
            anchored_at: None,
            inspector: PacketInspector::new(plan),
            red: RedRecovery::default(),
            recovered: 0,
            last_media: None,
            rid,
            video: plan.kind == MediaKind::Video,
            asks_keyframes: plan.feedback.asks_keyframes(),
            ssrc: None,
            unwrapper: SeqUnwrapper::new(),
            base: 0,
            highest: 0,
            rate: RateMeter::new(),
            keyframes_seen: 0,
            last_keyframe_ts: None,
            resolution: None,
            fir_number: 0,
            sets: SetsSeen::new(plan),
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        self.nack.warm();
        self.inspector.warm();
        self.stats.warm();
        self.keyframes.warm();
        self.rate.warm();
        self.timeline.warm();
        warm!(self.anchored_at, self.last_media, self.ssrc, self.highest);
        warm!(self.last_keyframe_ts, self.resolution);
    }

    /// The layer's media SSRC, once a packet came.
    pub(super) fn ssrc(&self) -> Option<u32> {
        self.ssrc
    }

    /// Binds a media SSRC to this layer; a second one replaces the first (an encoder that
    /// restarted). `index` is the SRTP index of its first packet.
    pub(super) fn bind(&mut self, ssrc: u32, index: u64) {
        if self.ssrc.replace(ssrc).is_some() {
            self.unwrapper = SeqUnwrapper::new();
            self.base = (self.highest + REBIND_GAP).saturating_sub(index + INDEX_BASE);
            self.nack.restart();
            self.keyframes.restart();
            self.stats = ReceiverStats::new();
            self.timeline = Timeline::default();
            self.clock = TrackClock::new();
        }
    }

    /// Whether the present SSRC sent nothing recently, so that another one may replace it.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.last_media.is_none_or(|at| now.saturating_duration_since(at) > SILENT_AFTER)
    }

    /// The extended number of a media packet. Its SRTP index was authenticated, so a jump of the
    /// sequence number is unambiguous.
    pub(super) fn extend(&mut self, index: u64) -> u64 {
        let number = index + INDEX_BASE;
        self.unwrapper.follow(number);
        let ext_seq = number + self.base;
        self.highest = self.highest.max(ext_seq);
        ext_seq
    }

    /// The extended number of a recent sequence number.
    pub(super) fn near(&self, sequence: u16) -> u64 {
        self.unwrapper.peek(sequence) + self.base
    }

    /// Handles a sender report of the layer's SSRC.
    pub(super) fn on_sender_report(
        &mut self,
        now: Instant,
        sender_ntp: u64,
        rtp: u32,
        clock_rate: u32,
    ) {
        self.stats.on_sender_report(now, sender_ntp);
        if let Some(rtp) = self.timeline.of_report(now, rtp, clock_rate) {
            self.clock.on_sender_report(sender_ntp, rtp);
            self.anchored_at = None;
        }
    }

    /// The layer information for this worker and others with viewers, if it is due.
    pub(super) fn due_info(
        &mut self,
        now: Instant,
        publisher: &PublisherClock,
    ) -> Option<LayerInfoUpdate> {
        let since = |at| now.saturating_duration_since(at);
        if self.anchored_at.is_some_and(|at| since(at) < ANCHOR_INTERVAL) {
            return None;
        }
        self.anchored_at = Some(now);
        let resolution = self.resolution.or(self.inspector.announced());
        Some(LayerInfoUpdate { anchor: self.clock.anchor(publisher), resolution })
    }

    /// Accounts for an opened packet of this layer and describes its content. `None` for packets
    /// without media to forward (RTX padding).
    ///
    /// # Errors
    ///
    /// The reason why the packet is dropped.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        plan: &PublishTrack,
        arrived: &Arrived<'_>,
        limit: &mut IngressRate,
        rtt: &mut RtxRtt,
        context: &mut Context,
    ) -> Result<Option<PacketMeta>, DropReason> {
        let Arrived { header, plaintext, index, rtx, wire_len } = *arrived;
        // Whatever it is: what costs us the decryption is charged.
        let within = limit.take(now, plan.kind, wire_len);
        let unneeded = |reason| if within { reason } else { DropReason::PublisherRate };
        let (payload_len, useless) = match header.payload_len(plaintext) {
            _ if !rtx && !plan.is_media(header.payload_type) => {
                (0, Some(DropReason::UnknownPayloadType))
            }
            Ok(len) => (len, None),
            Err(_) if rtx => return Err(unneeded(DropReason::RtpMalformed)),
            Err(_) => (0, Some(DropReason::RtpMalformed)),
        };
        let payload_start = header.header_len;
        let (ext_seq, start, len) = if rtx {
            // RFC 4588: two bytes of original sequence number, then the payload. A packet without
            // payload is padding that probes the path.
            let payload = plaintext.get(payload_start..payload_start + payload_len);
            let number = payload.and_then(|payload| payload.first_chunk::<2>());
            let Some(number) = number.filter(|_| payload_len > 2) else {
                return if within { Ok(None) } else { Err(DropReason::PublisherRate) };
            };
            let ext_seq = self.near(u16::from_be_bytes(*number));
            if !self.nack.knows(ext_seq) {
                // Not requested any more, or a retransmission of an earlier SSRC.
                return Err(unneeded(DropReason::TooOld));
            }
            (ext_seq, payload_start + 2, payload_len - 2)
        } else {
            (self.extend(index), payload_start, payload_len)
        };
        let in_order = match self.nack.on_packet(now, ext_seq) {
            Arrival::Duplicate => return Err(unneeded(DropReason::Duplicate)),
            Arrival::TooOld => return Err(unneeded(DropReason::TooOld)),
            Arrival::Repaired => {
                rtt.on_repair(now, ext_seq);
                false
            }
            Arrival::Reordered => false,
            Arrival::InOrder => true,
        };
        // Only now, because a packet that the limit drops has arrived and must not be requested again.
        if !within {
            self.stats.on_refused(ext_seq);
            return Err(DropReason::PublisherRate);
        }
        self.rate.add(now, wire_len);
        let clock_rate = plan.format.codec.clock_rate();
        let unsound = || has_unsound_red(plan, header, plaintext.get(start..start + len));
        let useless = useless.or_else(|| unsound().then_some(DropReason::RtpMalformed));
        let timestamp = match useless {
            None => self.timeline.on_packet(now, ext_seq, header.timestamp, clock_rate),
            Some(_) => self.timeline.of_useless(ext_seq, header.timestamp),
        };
        let incoming = Incoming { ext_seq, timestamp, start, len };
        let announced = self.inspector.announced();
        let described = match useless {
            None => self.inspector.describe(plan, header, plaintext, &incoming, now),
            Some(reason) => Err(reason),
        };
        let meta = match described {
            Ok(meta) => {
                let server = in_order.then(|| context.clock.ntp(now));
                self.on_media(now, server, &meta, clock_rate);
                meta
            }
            // The packet is authentic, so its number has come and is requested no more. It is sent
            // on without a payload: a viewer would send NACKs for a number that never comes, and a
            // decoder of H264 would wait for it.
            Err(reason) => {
                context.report.dropped.count(reason);
                self.last_media = Some(now);
                self.stats.on_useless(ext_seq);
                without_payload(&incoming, now)?
            }
        };
        if self.inspector.announced() != announced {
            self.anchored_at = None; // it is due at once
        }
        Ok(Some(meta))
    }

    /// Records a media packet that will be forwarded. `server` is our time, or `None` for a packet
    /// that is late: it tells nothing of the publisher's clock.
    fn on_media(&mut self, now: Instant, server: Option<Ntp>, meta: &PacketMeta, clock_rate: u32) {
        self.last_media = Some(now);
        let bytes = usize::from(meta.payload_len);
        self.stats.on_packet(now, meta.ext_seq, meta.timestamp, clock_rate, bytes);
        if let Some(server) = server {
            self.clock.on_packet(server, meta.timestamp, clock_rate);
        }
        if meta.frame.resolution.is_some() && meta.frame.resolution != self.resolution {
            self.resolution = meta.frame.resolution;
            self.anchored_at = None;
        }
        self.sets.on_packet(now, &meta.frame);
        // Slices of one picture come as several keyframe packets.
        if self.video && meta.frame.keyframe && self.last_keyframe_ts != Some(meta.timestamp) {
            self.last_keyframe_ts = Some(meta.timestamp);
            self.keyframes_seen += 1;
            self.keyframes.on_keyframe(now);
            let first = match meta.frame.starts_frame {
                true => Some(meta.ext_seq),
                false => self.inspector.unit_begins(),
            };
            self.nack.on_keyframe(first);
        }
        let of_keyframe = self.last_keyframe_ts == Some(meta.timestamp);
        self.keyframes.on_packet(now, bytes, of_keyframe);
    }

    /// The next FIR command number (RFC 5104 section 4.3.1.1).
    pub(super) fn next_fir(&mut self) -> u8 {
        self.fir_number = self.fir_number.wrapping_add(1);
        self.fir_number
    }

    /// The layer for the API; `None` while nothing came.
    pub(super) fn report(&mut self, now: Instant) -> Option<LayerInfo> {
        let counters = self.nack.counters();
        Some(LayerInfo {
            rid: self.rid.clone(),
            codec_string: self.inspector.encoding().codec().map(|codec| codec.to_string()),
            ssrc: self.ssrc?,
            packets: self.stats.packets(),
            bytes: self.stats.bytes(),
            bitrate_bps: self.rate.bitrate(now).0,
            lost: self.stats.lost().max(0) as u64,
            duplicates: counters.duplicates,
            keyframes: self.keyframes_seen,
            keyframe_requests: self.keyframes.sent(),
            nacks: counters.requested,
            repairs: counters.repaired + self.recovered,
            resolution: self.resolution,
            learned: self.learned(now),
        })
    }

    /// Interval of the keyframes that come unrequested, and when the next one is due; `None` for
    /// audio and before the second keyframe.
    pub(super) fn keyframe_times(&self) -> Option<(Duration, Option<Instant>)> {
        let schedule = self.keyframes.schedule();
        let interval = schedule.interval().filter(|_| self.video)?;
        Some((interval, schedule.next_expected()))
    }

    /// Whether keyframes came, and no parameter sets to decode them with.
    pub(super) fn lacks_sets(&self, now: Instant) -> bool {
        self.sets.are_missing(now)
    }

    /// Whether the layer has B-frames.
    pub(super) fn has_b_frames(&self) -> bool {
        self.inspector.encoding().has_b_frames()
    }

    /// Interval of the keyframes, if a new viewer has to wait long for one.
    pub(super) fn slow_keyframes(&mut self, now: Instant) -> Option<Duration> {
        let (interval, _) = self.keyframe_times()?;
        let (least, longest) = match self.responsiveness(now) {
            Responsiveness::Answered => return None,
            Responsiveness::Unknown => (UNREQUESTED_INTERVALS_MIN, UNREQUESTED_INTERVAL_MAX),
            Responsiveness::Ignored => (1, Duration::MAX),
        };
        let known = self.keyframes.schedule().unrequested_count() >= least;
        (known && interval > SLOW_INTERVAL && interval <= longest).then_some(interval)
    }

    /// If keyframes do not come, neither by themselves nor on request: whether one came before.
    pub(super) fn lacks_keyframe(&mut self, now: Instant) -> Option<bool> {
        let without = self.keyframes.without_keyframe(now).filter(|_| self.video)?;
        let usual = self.keyframes.schedule().interval().unwrap_or_default();
        let ignores = self.responsiveness(now) == Responsiveness::Ignored;
        (ignores && without > NO_KEYFRAME_AFTER.max(usual * 2)).then_some(self.keyframes_seen > 0)
    }

    /// Response to keyframe requests. A publisher to which none may be sent sends none on request.
    fn responsiveness(&mut self, now: Instant) -> Responsiveness {
        match self.asks_keyframes {
            true => self.keyframes.responses(now).responsiveness(),
            false => Responsiveness::Ignored,
        }
    }

    fn learned(&mut self, now: Instant) -> Option<LearnedInfo> {
        if !self.video {
            return None;
        }
        let pli = self.asks_keyframes.then(|| ResponseInfo::of(self.keyframes.responses(now)));
        let schedule = self.keyframes.schedule();
        let until = schedule.next_expected().and_then(|due| due.checked_duration_since(now));
        let ms = |time: Duration| time.as_millis() as u64;
        Some(LearnedInfo {
            pli,
            nack: self.nack.responses().map(ResponseInfo::of),
            keyframe_period_ms: schedule.period().map(ms),
            keyframe_interval_ms: schedule.interval().map(ms),
            next_keyframe_ms: until.map(ms),
        })
    }
}
