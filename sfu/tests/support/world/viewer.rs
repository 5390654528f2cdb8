//! A viewer: repairs losses, counts frames that it could show, sends reports.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use rtc_shared::marshal::Marshal;
use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::sdp::{Feedback, SubscribeCodec, SubscribePlan, SubscribeTrack};

use super::guard::{Guard, Seen};
use super::link::Link;
use super::spec::{ViewerSpec, ext_map, format};

/// Interval of requests for the same number.
const NACK_EVERY: Duration = Duration::from_millis(60);
const NACK_TRIES: u8 = 6;

/// Interval of keyframe requests until one comes.
const PLI_EVERY: Duration = Duration::from_millis(300);

pub(crate) struct Viewer {
    pub spec: ViewerSpec,
    pub guard: Guard,
    senders: Vec<GuardedSender>,
    /// Complete frames in the order they became complete.
    pub frames: Vec<Frame>,
    got: HashMap<(u32, u32), u16>,
    pub nacks_sent: u64,
    next_report: Instant,
    number: u64,
    ssrc: u32,
    /// Numbers that were given up and replaced by a keyframe request.
    pub given_up: u64,
    given_up_video: u64,
    /// Time of the next keyframe request, while it waits for one.
    asks_key_at: Option<Instant>,
    /// Number of the newest packet with a kept parameter set.
    set_at: Option<u64>,
    /// Video payloads by outgoing number, with timestamp and marker, if the guard keeps them.
    pub recorded: BTreeMap<u64, (u32, bool, Vec<u8>)>,
    /// Packets that came.
    pub received: u64,
    /// Time when the last packet came.
    pub last_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub at: Instant,
    pub kind: MediaKind,
    pub source: u32,
    pub number: u32,
    /// Time of its capture since true time began.
    pub captured: Duration,
    pub key: bool,
    /// Distances in frames to the frames that it refers to; 0 for none.
    refers_to: [u8; 2],
    pub codec: Codec,
}

impl Frame {
    /// Frames of its source that it refers to.
    fn needs(&self) -> impl Iterator<Item = Option<u32>> {
        let back = self.refers_to.into_iter().filter(|back| *back > 0);
        back.map(|back| self.number.checked_sub(back.into()))
    }
}

#[derive(Default)]
struct GuardedSender {
    highest: Option<u64>,
    received: HashSet<u64>,
    missing: BTreeMap<u64, (Instant, u8)>,
    report: Option<(u32, Instant)>,
}

impl Viewer {
    /// Negotiated result; `codecs` limits the codecs to those of the answer.
    pub(crate) fn plan(
        spec: &ViewerSpec,
        number: u64,
        link: &Link,
        mut codecs: impl FnMut(MediaKind, usize, Vec<SubscribeCodec>) -> Vec<SubscribeCodec>,
    ) -> SubscribePlan {
        let mut tracks: Vec<SubscribeTrack> = Vec::new();
        for (index, track) in (0u32..).zip(&spec.tracks) {
            let offered = track.codecs.iter().map(|codec| SubscribeCodec {
                format: format(codec.codec, "42e01f"),
                pt: codec.pt,
                rtx_pt: codec.rtx_pt,
                red_pt: codec.red_pt,
                feedback: Feedback { nack: codec.nack, pli: true, ..Feedback::default() },
            });
            let ordinal = tracks.iter().filter(|other| other.kind == track.kind).count();
            let ssrc = 0x7000_0000 + number as u32 * 100 + index * 10;
            tracks.push(SubscribeTrack {
                mid: track.mid.to_owned(),
                kind: track.kind,
                ordinal,
                codecs: codecs(track.kind, ordinal, offered.collect()),
                exts: ext_map(&track.exts, track.allow_mixed),
                ssrc,
                rtx_ssrc: ssrc + 1,
            });
        }
        SubscribePlan { transport: link.offer(), tracks, rejected: Vec::new(), idle: Vec::new() }
    }

    pub(crate) fn new(spec: ViewerSpec, plan: &SubscribePlan, number: u64, now: Instant) -> Self {
        Self {
            senders: plan.tracks.iter().map(|_| GuardedSender::default()).collect(),
            guard: Guard::new(plan),
            spec,
            frames: Vec::new(),
            got: HashMap::new(),
            nacks_sent: 0,
            next_report: now + Duration::from_millis(number % 900),
            number,
            ssrc: 0x6000_0000 + number as u32,
            given_up: 0,
            given_up_video: 0,
            asks_key_at: None,
            set_at: None,
            recorded: BTreeMap::new(),
            received: 0,
            last_at: None,
        }
    }

    /// Handles a packet that the guard saw and the network carried.
    pub(crate) fn on_rtp(&mut self, now: Instant, seen: &Seen) {
        self.received += 1;
        self.last_at = Some(now);
        let sender = &mut self.senders[seen.sender];
        if !sender.received.insert(seen.seq) {
            return;
        }
        sender.missing.remove(&seen.seq);
        let next = sender.highest.map_or(seen.seq, |highest| highest + 1);
        if sender.highest.is_none() && self.guard.senders[seen.sender].plan.kind == MediaKind::Video
        {
            // The very first packet may have been lost: then no later packet shows that it is
            // missing.
            self.asks_key_at = Some(now + PLI_EVERY);
        }
        let repairable =
            self.guard.senders[seen.sender].plan.codecs.iter().any(|c| c.feedback.nack);
        if seen.seq >= next {
            for missing in next..seen.seq {
                match repairable {
                    true => _ = sender.missing.insert(missing, (now, 0)),
                    false => self.given_up += 1,
                }
            }
            sender.highest = Some(seen.seq);
        }
        if let Some(payload) = &seen.payload
            && self.guard.senders[seen.sender].plan.kind == MediaKind::Video
        {
            let packet = (seen.head.timestamp, seen.head.marker, payload.clone());
            self.recorded.insert(seen.seq, packet);
        }
        let plan = &self.guard.senders[seen.sender].plan;
        let codec = plan.codecs.iter().find(|codec| {
            [Some(codec.pt), codec.rtx_pt, codec.red_pt].contains(&Some(seen.head.pt))
        });
        let codec = codec.expect("the guard checked it").format.codec;
        let Some(stamp) = seen.stamp else {
            if seen.kept_set {
                self.set_at = Some(seen.seq);
            }
            return;
        };
        // Kept parameter sets take the place of the packet of sets that the server did not get.
        let replaced =
            stamp.key && stamp.index == 1 && self.set_at.is_some_and(|at| at + 1 == seen.seq);
        let got = self.got.entry((stamp.source, stamp.frame)).or_default();
        *got += 1 + u16::from(replaced);
        if *got == stamp.count {
            if stamp.key && self.guard.senders[seen.sender].plan.kind == MediaKind::Video {
                self.asks_key_at = None;
            }
            self.frames.push(Frame {
                at: now,
                kind: self.guard.senders[seen.sender].plan.kind,
                source: stamp.source,
                number: stamp.frame,
                captured: Duration::from_nanos(stamp.captured_ns),
                key: stamp.key,
                refers_to: stamp.layer_position.refers_to,
                codec,
            });
        }
    }

    pub(crate) fn on_rtcp(&mut self, now: Instant, compound: &[u8]) {
        for packet in rtc_rtcp::packet::unmarshal(&mut &compound[..]).expect("their RTCP parses") {
            let Some(report) = packet.as_any().downcast_ref::<SenderReport>() else { continue };
            let sender =
                self.guard.senders.iter().position(|sender| sender.plan.ssrc == report.ssrc);
            let sender = sender.expect("the guard checked it");
            self.senders[sender].report = Some(((report.ntp_time >> 16) as u32, now));
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let nack = self
            .senders
            .iter()
            .flat_map(|sender| sender.missing.values())
            .filter(|_| self.spec.sends_nack)
            .map(|(at, _)| *at)
            .min();
        let report = self.spec.sends_reports.then_some(self.next_report);
        nack.into_iter().chain(report).chain(self.asks_key_at).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, link: &mut Link) {
        for index in 0..self.senders.len() {
            if !self.spec.sends_nack {
                break;
            }
            let due: Vec<u16> = self.senders[index]
                .missing
                .iter_mut()
                .filter(|(_, (at, tries))| *at <= now && *tries < NACK_TRIES)
                .map(|(seq, (at, tries))| {
                    (*at, *tries) = (now + NACK_EVERY, *tries + 1);
                    *seq as u16
                })
                .collect();
            if !due.is_empty() {
                self.nack(index, &due, link);
            }
        }
        self.give_up(now);
        if self.asks_key_at.is_some_and(|at| at <= now) {
            self.asks_key_at = Some(now + PLI_EVERY);
            self.pli(link);
        }
        if self.next_report <= now {
            self.next_report = now + Duration::from_secs(1);
            if self.spec.sends_reports {
                self.report(now, link);
            }
        }
    }

    /// Gives up numbers that were requested often enough: video needs a keyframe then.
    fn give_up(&mut self, now: Instant) {
        let mut needs_keyframe = false;
        for (sender, sent) in self.senders.iter_mut().zip(&self.guard.senders) {
            let before = sender.missing.len();
            sender.missing.retain(|_, (at, tries)| *tries < NACK_TRIES || *at > now);
            let lost = before - sender.missing.len();
            self.given_up += lost as u64;
            if sent.plan.kind == MediaKind::Video {
                self.given_up_video += lost as u64;
                needs_keyframe |= lost > 0;
            }
        }
        if needs_keyframe {
            self.asks_key_at.get_or_insert(now);
        }
    }

    /// Sends a NACK for numbers of a sender.
    pub(crate) fn nack(&mut self, sender: usize, numbers: &[u16], link: &mut Link) {
        self.nacks_sent += numbers.len() as u64;
        let nack = TransportLayerNack {
            sender_ssrc: self.ssrc,
            media_ssrc: self.guard.senders[sender].plan.ssrc,
            nacks: nack_pairs_from_sequence_numbers(numbers),
        };
        link.send_rtcp(&nack.marshal().expect("a NACK fits"));
    }

    /// Requests a keyframe of the video.
    pub(crate) fn pli(&mut self, link: &mut Link) {
        let media_ssrc = self.guard.sender(MediaKind::Video).plan.ssrc;
        let pli = PictureLossIndication { sender_ssrc: self.ssrc, media_ssrc };
        link.send_rtcp(&pli.marshal().expect("a PLI fits"));
    }

    fn report(&mut self, now: Instant, link: &mut Link) {
        let reports = self.senders.iter().zip(&self.guard.senders).filter_map(|(sender, sent)| {
            let highest = sender.highest?;
            let (last_sender_report, delay) = match sender.report {
                Some((middle, at)) => {
                    (middle, (now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000))
                }
                None => (0, 0),
            };
            Some(ReceptionReport {
                ssrc: sent.plan.ssrc,
                last_sequence_number: highest as u32,
                total_lost: sender.missing.len() as u32,
                last_sender_report,
                delay: delay as u32,
                ..ReceptionReport::default()
            })
        });
        let report = ReceiverReport {
            ssrc: self.ssrc,
            reports: reports.collect(),
            ..ReceiverReport::default()
        };
        link.send_rtcp(&report.marshal().expect("a report fits"));
    }

    /// Complete frames of a kind.
    pub(crate) fn count(&self, kind: MediaKind) -> usize {
        self.frames.iter().filter(|frame| frame.kind == kind).count()
    }

    pub(crate) fn video_frames(&self) -> usize {
        self.count(MediaKind::Video)
    }

    pub(crate) fn audio_frames(&self) -> usize {
        self.count(MediaKind::Audio)
    }

    /// Video frames that a decoder could not show: incomplete, or with a missing reference. Those
    /// still under way at the very end are not counted.
    pub(crate) fn broken_frames(&self) -> usize {
        self.video_frames_by_number().filter(|(_, shown)| shown.is_none()).count()
    }

    /// Times when each video frame could be shown, in order: it and its references had come.
    pub(crate) fn shown_at(&self) -> Vec<Instant> {
        let mut shown: Vec<_> = self.video_frames_by_number().filter_map(|(_, at)| at).collect();
        shown.sort_unstable();
        shown
    }

    /// Complete video frames, source by source, and since when each can be shown, if it can.
    fn video_frames_by_number(&self) -> impl Iterator<Item = (&Frame, Option<Instant>)> {
        let mut runs: BTreeMap<u32, BTreeMap<u32, &Frame>> = BTreeMap::new();
        for frame in self.frames.iter().filter(|frame| frame.kind == MediaKind::Video) {
            runs.entry(frame.source).or_default().insert(frame.number, frame);
        }
        runs.into_values().flat_map(|frames| {
            let mut shown: HashMap<u32, Instant> = HashMap::new();
            let judged = frames.into_values().map(move |frame| {
                let needs = frame.needs().map(|number| shown.get(&number?).copied());
                let at = needs.chain([Some(frame.at)]).collect::<Option<Vec<_>>>();
                let at = at.and_then(|at| at.into_iter().max());
                shown.extend(at.map(|at| (frame.number, at)));
                (frame, at)
            });
            judged.collect::<Vec<_>>()
        })
    }

    /// Numbers of video that were given up.
    pub(crate) fn given_up_video(&self) -> usize {
        self.given_up_video as usize
    }

    /// Numbers of a sender that did not come yet.
    pub(crate) fn missing_of(&self, sender: usize) -> Vec<u16> {
        self.senders[sender].missing.keys().map(|seq| *seq as u16).collect()
    }

    /// Numbers of all senders that never came.
    pub(crate) fn missing(&self) -> usize {
        self.senders.iter().map(|sender| sender.missing.len()).sum()
    }

    /// Sources whose video frames were shown, in order of appearance.
    pub(crate) fn video_sources(&self) -> Vec<u32> {
        let mut sources = Vec::new();
        for frame in self.frames.iter().filter(|frame| frame.kind == MediaKind::Video) {
            if sources.last() != Some(&frame.source) {
                sources.push(frame.source);
            }
        }
        sources
    }

    /// The longest time without a new video frame after the first one.
    pub(crate) fn longest_freeze(&self) -> Duration {
        let times: Vec<_> = self
            .frames
            .iter()
            .filter(|frame| frame.kind == MediaKind::Video)
            .map(|frame| frame.at)
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}
