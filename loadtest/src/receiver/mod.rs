//! The media of one viewer: order and loss of both tracks, frames of the video, freezes, latency,
//! and feedback to send.
//!
//! Pure, and the same for both kinds of client. Called by `viewer` and `full::viewer`. Next:
//! `reorder_buffer` (order and loss), `frame_checker` (frames), `freeze_meter`.

mod freeze_meter;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::flaw::Flaw;
use crate::frame_checker::{FrameChecker, FrameJudgement, FramePacket};
use crate::measures::{MediaMeasures, ProgressUpdate};
use crate::options::{Codec, Options, Verify};
use crate::reorder_buffer::{Delivery, Inserted, Reception, ReorderBuffer};
use crate::rtp::HeaderView;
use crate::stamp::{self, Stamp};
use freeze_meter::FreezeMeter;

/// Time between two keyframe requests.
const PLI_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks for gaps.
const GAP_INTERVAL: Duration = Duration::from_millis(10);

/// A viewer that received nothing for this long at the end of the window was cut off.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Maximum time from the first frame to what follows it. A server may show a cached keyframe until the next one
/// comes, and it does not ask the publisher for one at each join: after many joins every two seconds.
pub(crate) const POSTER_MAX: Duration = Duration::from_secs(4);

/// A viewer at [`CheckLevel::Headers`] authenticates one packet in this many.
const SAMPLE_ONE_IN: u32 = 16;

/// Maximum latencies kept between two calls of [`Receiver::take_progress`]: more than a second of
/// frames and audio packets.
const LATENCIES_MAX: usize = 256;

/// How thoroughly one viewer checks what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckLevel {
    /// Authenticates every packet and judges every frame.
    Full,
    /// Follows order, loss and complete frames by headers, and authenticates a sample of the
    /// packets.
    Headers,
    /// Follows order and loss by headers.
    Counts,
}

impl CheckLevel {
    /// The level of viewer `index`.
    pub(crate) fn of_viewer(options: &Options, index: u32) -> Self {
        let one_in = options.common.verify_viewers;
        match options.common.verify {
            Verify::All => Self::Full,
            Verify::Sample if one_in > 0 && index.is_multiple_of(one_in) => Self::Full,
            Verify::Sample => Self::Headers,
            Verify::None => Self::Counts,
        }
    }
}

/// Feedback that is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FeedbackRequests {
    /// Video packets to request by NACK.
    pub(crate) nacks: Vec<u16>,
    /// Whether to request a keyframe by PLI.
    pub(crate) keyframe: bool,
}

/// The media of one viewer.
pub(crate) struct Receiver {
    level: CheckLevel,
    has_video: bool,
    /// Whether the publishers belong to this process, so that every frame has a stamp.
    stamped: bool,
    run: u64,
    video: ReorderBuffer<FramePacket>,
    audio: ReorderBuffer<()>,
    checker: FrameChecker,
    judgements: Vec<FrameJudgement>,
    /// Whether a counted packet was lost. Its frame counts too, although the frame's last packet
    /// may come after the window.
    loss_counted: bool,
    counting: bool,
    measures: MediaMeasures,
    /// Counts since the last [`Self::take_progress`], within the window or not.
    progress: ProgressUpdate,
    /// Lost packets that [`Self::take_progress`] has returned.
    lost_reported: u64,
    /// The same of those within the window.
    counted_lost_reported: u64,
    /// Whether a frame was broken and, without payloads, no keyframe will show the repair: one PLI
    /// is due.
    pli_pending: bool,
    last_packet: Instant,
    first_frame: Option<Instant>,
    /// Whether anything came after the first frame.
    is_live: bool,
    freezes: FreezeMeter,
    next_pli: Instant,
    next_gap_check: Instant,
    recording: Option<Vec<Vec<u8>>>,
}

impl Receiver {
    /// A receiver for a connection made at `now`. With `stamped` the publishers belong to this
    /// process and stamp their frames with the random number `run`.
    pub(crate) fn new(
        now: Instant,
        level: CheckLevel,
        codec: Option<Codec>,
        stamped: bool,
        run: u64,
    ) -> Self {
        Self {
            level,
            has_video: codec.is_some(),
            stamped,
            run,
            video: ReorderBuffer::new(),
            audio: ReorderBuffer::new(),
            checker: FrameChecker::new(codec.unwrap_or(Codec::H264), stamped),
            judgements: Vec::new(),
            loss_counted: false,
            counting: false,
            measures: MediaMeasures::new(),
            progress: ProgressUpdate::default(),
            lost_reported: 0,
            counted_lost_reported: 0,
            pli_pending: false,
            last_packet: now,
            first_frame: None,
            is_live: false,
            freezes: FreezeMeter::new(),
            next_pli: now + PLI_INTERVAL,
            next_gap_check: now,
            recording: None,
        }
    }

    /// Keeps every decodable frame until [`Self::take_recording`].
    pub(crate) fn start_recording(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// The decodable frames since the last call.
    pub(crate) fn take_recording(&mut self) -> Vec<Vec<u8>> {
        self.recording.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether [`Self::on_video`] and [`Self::on_audio`] need decrypted payloads. Every viewer
    /// needs them until its first frame.
    pub(crate) fn needs_payload(&self) -> bool {
        self.level == CheckLevel::Full || self.first_frame.is_none()
    }

    /// Whether a packet belongs to the sample that is authenticated although its payload is not
    /// needed. A server cannot predict the sample from the position in a frame, because the bits of
    /// the sequence number are mixed.
    pub(crate) fn samples(&self, view: &HeaderView) -> bool {
        let mixed = (u32::from(view.sequence) ^ view.ssrc).wrapping_mul(0x9e37_79b1) >> 16;
        self.level == CheckLevel::Headers && mixed.is_multiple_of(SAMPLE_ONE_IN)
    }

    /// When the first frame was complete; without video, when the first packet came.
    pub(crate) fn first_frame(&self) -> Option<Instant> {
        self.first_frame
    }

    /// Whether media must have come after the first frame, at `now`.
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        let is_late = |first| now.saturating_duration_since(first) >= POSTER_MAX;
        self.is_live || self.first_frame.is_some_and(is_late)
    }

    /// The counts since the last call.
    pub(crate) fn take_progress(&mut self) -> ProgressUpdate {
        let lost = self.reception().into_iter().flatten().map(|reception| reception.lost).sum();
        self.progress.lost = lost - std::mem::replace(&mut self.lost_reported, lost);
        let counted = self.video.counted_lost() + self.audio.counted_lost();
        self.progress.counted_lost =
            counted - std::mem::replace(&mut self.counted_lost_reported, counted);
        std::mem::take(&mut self.progress)
    }

    /// Opens or closes the window.
    pub(crate) fn set_counting(&mut self, now: Instant, counting: bool) {
        if self.counting && !counting {
            let silence_max = if self.is_live { SILENCE_MAX } else { POSTER_MAX };
            self.measures.silent_at_end =
                now.saturating_duration_since(self.last_packet) >= silence_max;
            if self.level != CheckLevel::Counts {
                // A freeze that lasts until the end of the window has no frame that ends it.
                self.measures.freezes += u64::from(self.freezes.is_frozen(now));
            }
        }
        self.counting = counting;
        self.video.set_counting(counting);
        self.audio.set_counting(counting);
    }

    /// Takes a video packet. `payload` is `Some` if it was decrypted; `length` is that of the
    /// unprotected packet.
    pub(crate) fn on_video(
        &mut self,
        now: Instant,
        view: &HeaderView,
        payload: Option<Bytes>,
        length: usize,
    ) {
        let HeaderView { timestamp, marker, sequence, .. } = *view;
        let packet = FramePacket { timestamp, marker, payload };
        let inserted = self.video.insert(now, sequence, packet);
        self.on_arrival(now, inserted, length);
        self.advance(now);
    }

    /// Takes a decrypted retransmission of a video packet: original sequence number, then the
    /// payload (RFC 4588 section 4).
    pub(crate) fn on_retransmission(&mut self, now: Instant, view: &HeaderView, payload: &Bytes) {
        let Some(original) = payload.first_chunk::<2>() else { return };
        let mut view = *view;
        view.sequence = u16::from_be_bytes(*original);
        let rest = payload.slice(2..);
        // Probes and padding carry no payload.
        if !rest.is_empty() {
            let length = view.payload_at + rest.len();
            self.measures.repair.retransmitted += u64::from(self.counting);
            self.on_video(now, &view, Some(rest), length);
        }
    }

    /// Takes an audio packet. `payload` is `Some` if it was decrypted; `length` is that of the
    /// unprotected packet.
    pub(crate) fn on_audio(
        &mut self,
        now: Instant,
        view: &HeaderView,
        payload: Option<&Bytes>,
        length: usize,
    ) {
        let inserted = self.audio.insert(now, view.sequence, ());
        self.on_arrival(now, inserted, length);
        if let Some(payload) = payload.filter(|_| inserted != Inserted::Redundant) {
            self.check_audio(now, payload);
        }
        if !self.has_video {
            self.first_frame.get_or_insert(now);
        }
        while self.audio.pop(now).is_some() {}
    }

    /// Counts a packet that was decrypted, and whether it was authentic.
    pub(crate) fn on_decrypted(&mut self, authentic: bool) {
        if self.counting {
            self.measures.repair.opened += 1;
            self.measures.repair.unauthentic += u64::from(!authentic);
            self.measures.repair.spots_failed +=
                u64::from(!authentic && self.level == CheckLevel::Headers);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let gaps = (self.video.has_gaps() || self.audio.has_gaps()).then_some(self.next_gap_check);
        let keyframe = (self.waits_for_keyframe() || self.pli_pending).then_some(self.next_pli);
        gaps.into_iter().chain(keyframe).min()
    }

    /// Counts packets as lost that are too late, and returns the feedback that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> FeedbackRequests {
        let mut requests = FeedbackRequests::default();
        if now >= self.next_gap_check {
            self.next_gap_check = now + GAP_INTERVAL;
            self.advance(now);
            while self.audio.pop(now).is_some() {}
            requests.nacks = self.video.packets_to_nack(now);
        }
        if (self.waits_for_keyframe() || self.pli_pending) && now >= self.next_pli {
            self.next_pli = now + PLI_INTERVAL;
            self.pli_pending = false;
            requests.keyframe = true;
        }
        if self.counting {
            self.measures.repair.nacked += requests.nacks.len() as u64;
            self.measures.repair.plis += u64::from(requests.keyframe);
        }
        requests
    }

    /// The numbers for receiver reports: video, then audio.
    pub(crate) fn reception(&self) -> [Option<Reception>; 2] {
        [self.video.reception(), self.audio.reception()]
    }

    /// The measures. Packets that are still missing are lost.
    pub(crate) fn finish(self) -> MediaMeasures {
        let mut measures = self.measures;
        for counts in [self.video.finish(), self.audio.finish()] {
            measures.packets_received += counts.received;
            measures.packets_lost += counts.lost;
            measures.repair.filled += counts.filled;
            measures.repair.useless += counts.redundant;
            measures.repair.restarts += counts.restarts;
        }
        measures
    }

    fn waits_for_keyframe(&self) -> bool {
        // Headers do not show keyframes. Then only the first frame is waited for, and `pli_pending`
        // requests a keyframe once.
        self.has_video
            && (self.first_frame.is_none()
                || (self.level == CheckLevel::Full && self.checker.needs_keyframe()))
    }

    fn on_arrival(&mut self, now: Instant, inserted: Inserted, length: usize) {
        self.last_packet = now;
        self.is_live |= self.first_frame.is_some();
        if inserted != Inserted::Redundant {
            self.progress.packets += 1;
            self.progress.bytes += length as u64;
            if self.counting {
                self.measures.bytes += length as u64;
            }
        }
    }

    /// Passes video packets that are in order on to the frame checker.
    fn advance(&mut self, now: Instant) {
        let judges = self.level != CheckLevel::Counts || self.first_frame.is_none();
        while let Some(delivery) = self.video.pop(now) {
            if !judges {
                continue;
            }
            let counted = match delivery {
                // Padding with sequence numbers of the media.
                Delivery::Packet { packet: FramePacket { payload: Some(payload), .. }, .. }
                    if payload.is_empty() =>
                {
                    continue;
                }
                Delivery::Packet { packet, counted } => {
                    self.checker.on_packet(&packet, &mut self.judgements);
                    counted
                }
                Delivery::Lost { counted } => {
                    self.checker.on_lost();
                    self.loss_counted |= counted;
                    continue;
                }
                Delivery::Restart => {
                    self.checker.on_restart(&mut self.judgements);
                    self.counting
                }
            };
            if self.judgements.is_empty() {
                continue;
            }
            let counted = counted | std::mem::take(&mut self.loss_counted);
            for at in 0..self.judgements.len() {
                self.on_judgement(now, self.judgements[at], counted);
            }
            self.judgements.clear();
        }
    }

    fn on_judgement(&mut self, now: Instant, judgement: FrameJudgement, counted: bool) {
        match judgement {
            FrameJudgement::Decodable { key, stamp } => {
                if self.first_frame.is_none() && !key {
                    return;
                }
                self.first_frame.get_or_insert(now);
                let was_frozen = self.freezes.on_frame(now);
                self.measures.freezes += u64::from(was_frozen && self.counting);
                if let Some(recording) = &mut self.recording {
                    recording.push(self.checker.shown().to_vec());
                }
                if !counted {
                    return;
                }
                self.measures.decodable += 1;
                self.count_latency(now, stamp);
            }
            FrameJudgement::Poster => self.measures.posters += u64::from(counted),
            FrameJudgement::Broken(flaw) => {
                self.pli_pending |= self.level == CheckLevel::Headers;
                if counted {
                    self.count_broken(flaw);
                }
            }
        }
    }

    /// Checks the stamp in an audio packet of this process.
    fn check_audio(&mut self, now: Instant, payload: &Bytes) {
        if !self.stamped || !self.counting {
            return;
        }
        let at = payload.len().checked_sub(stamp::LEN);
        let stamp = at.and_then(|at| Stamp::read(payload.get(at..)?));
        let covered = payload.len().saturating_sub(stamp::CRC_LEN);
        let actual_crc = payload.get(..covered).map(crc32fast::hash);
        let intact = stamp.filter(|(_, crc)| Some(*crc) == actual_crc).map(|(stamp, _)| stamp);
        if intact.is_none() {
            self.count_broken(Flaw::AlteredAudio);
        } else if !self.has_video {
            self.count_latency(now, intact);
        }
    }

    fn count_broken(&mut self, flaw: Flaw) {
        self.measures.broken += 1;
        self.progress.broken += 1;
        *self.measures.flaws.entry(flaw.text()).or_default() += 1;
    }

    /// Counts a latency, if the stamp was written with the clock of this process.
    fn count_latency(&mut self, now: Instant, stamp: Option<Stamp>) {
        let Some(stamp) = stamp.filter(|stamp| stamp.run == self.run) else { return };
        let latency = crate::clock::since_start_us(now).saturating_sub(stamp.sent_us);
        self.measures.latency_us.saturating_record(latency);
        if self.progress.latencies_us.len() < LATENCIES_MAX {
            self.progress.latencies_us.push(latency);
        }
    }
}

#[cfg(test)]
mod tests;
