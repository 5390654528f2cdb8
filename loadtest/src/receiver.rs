//! A viewer's media: order and loss of both tracks, the frames of the video, freezes, latency, and what to ask the server for.
//!
//! Pure, and the same for both kinds of client. Fed by `viewer` and `full`; made of `stream` and `frame_checker`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::flaw::Flaw;
use crate::frame_checker::{FrameChecker, FrameJudgement, FramePacket};
use crate::measures::{MediaMeasures, ProgressUpdate};
use crate::options::{Codec, Options, Verify};
use crate::rtp::View;
use crate::stamp::{self, Stamp};
use crate::stream::{Delivery, Inserted, Stream};

/// Between two requests for a keyframe.
const PLI_INTERVAL: Duration = Duration::from_secs(1);

/// How often gaps are looked at.
const GAP_INTERVAL: Duration = Duration::from_millis(10);

/// Gaps between frames over which the mean is taken (as in webrtc-stats, `freezeCount`).
const FREEZE_MEMORY: usize = 30;

/// A gap this much above the mean is a freeze, if it is three times the mean as well.
const FREEZE_ABOVE_MEAN_S: f64 = 0.150;

/// A viewer to whom nothing was sent for so long at the end of the window was cut off.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// With `--verify sample` viewers that are not checked fully authenticate one packet in so many.
const SPOT: u32 = 16;

/// Latencies kept until they are asked for by [`Receiver::take_progress`]: more than a second of frames and sound.
const LATENCIES_MAX: usize = 256;

/// How closely one viewer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Every packet authenticated, every frame judged.
    Frames,
    /// By headers: order, loss, whole frames; and a packet authenticated here and there.
    Order,
    /// By headers: order and loss.
    Counts,
}

impl Level {
    /// The level of viewer `index`.
    pub(crate) fn of(options: &Options, index: u32) -> Self {
        let one_in = options.common.verify_viewers;
        match options.common.verify {
            Verify::All => Self::Frames,
            Verify::Sample if one_in > 0 && index.is_multiple_of(one_in) => Self::Frames,
            Verify::Sample => Self::Order,
            Verify::None => Self::Counts,
        }
    }
}

/// What the server is to be asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Video packets to send again.
    pub(crate) packets: Vec<u16>,
    /// A keyframe.
    pub(crate) keyframe: bool,
}

/// The media of one viewer.
pub(crate) struct Receiver {
    level: Level,
    has_video: bool,
    stamped: bool,
    run: u64,
    video: Stream<FramePacket>,
    audio: Stream<()>,
    frames: FrameChecker,
    judgements: Vec<FrameJudgement>,
    /// A loss was counted: the frame it broke counts too, though its last packet may come after the window.
    owes_judgement: bool,
    counting: bool,
    measured: MediaMeasures,
    /// All there was, within the window or not, since the last [`Self::take_progress`].
    progress: ProgressUpdate,
    /// Lost packets that `news` has told.
    lost_told: u64,
    /// A frame was broken that no keyframe will be seen to heal.
    owes_pli: bool,
    last_packet: Instant,
    first_frame: Option<Instant>,
    last_frame: Option<Instant>,
    gaps_s: VecDeque<f64>,
    next_pli: Instant,
    next_gap_check: Instant,
    recording: Option<Vec<Vec<u8>>>,
}

impl Receiver {
    /// A receiver for a connection made at `now`. `stamped`: the publishers are ours, with the random number `run`.
    pub(crate) fn new(
        now: Instant,
        level: Level,
        codec: Option<Codec>,
        stamped: bool,
        run: u64,
    ) -> Self {
        Self {
            level,
            has_video: codec.is_some(),
            stamped,
            run,
            video: Stream::new(),
            audio: Stream::new(),
            frames: FrameChecker::new(codec.unwrap_or(Codec::H264), stamped),
            judgements: Vec::new(),
            owes_judgement: false,
            counting: false,
            measured: MediaMeasures::new(),
            last_packet: now,
            progress: ProgressUpdate::default(),
            lost_told: 0,
            owes_pli: false,
            first_frame: None,
            last_frame: None,
            gaps_s: VecDeque::with_capacity(FREEZE_MEMORY),
            next_pli: now + PLI_INTERVAL,
            next_gap_check: now,
            recording: None,
        }
    }

    /// Keeps every frame that is shown, until [`Self::take_recording`].
    pub(crate) fn record(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// The frames shown since the last call.
    pub(crate) fn take_recording(&mut self) -> Vec<Vec<u8>> {
        self.recording.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether packets are to be opened before they are given to [`Self::video`] and [`Self::audio`]. Everybody opens them until
    /// the first frame.
    pub(crate) fn wants_payload(&self) -> bool {
        self.level == Level::Frames || self.first_frame.is_none()
    }

    /// Whether a packet is to be opened although nobody wants its payload. Which ones cannot be guessed from their place in a
    /// frame: the bits of their number are mixed.
    pub(crate) fn spots(&self, view: &View) -> bool {
        let mixed = (u32::from(view.sequence) ^ view.ssrc).wrapping_mul(0x9e37_79b1) >> 16;
        self.level == Level::Order && mixed.is_multiple_of(SPOT)
    }

    /// When the first frame was whole; without video, when the first packet came.
    pub(crate) fn first_frame(&self) -> Option<Instant> {
        self.first_frame
    }

    /// What is new since the last call.
    pub(crate) fn take_progress(&mut self) -> ProgressUpdate {
        let receptions = self.reception().into_iter().flatten();
        let lost = receptions.map(|(_, _, lost)| lost).sum();
        self.progress.lost = lost - std::mem::replace(&mut self.lost_told, lost);
        std::mem::take(&mut self.progress)
    }

    /// Opens or closes the counted window.
    pub(crate) fn count(&mut self, now: Instant, counting: bool) {
        if self.counting && !counting {
            self.measured.silent_at_end =
                now.saturating_duration_since(self.last_packet) >= SILENCE_MAX;
            if self.level != Level::Counts {
                // A picture that stands still at the end stands still.
                self.judge_gap(now);
            }
        }
        self.counting = counting;
        self.video.count(counting);
        self.audio.count(counting);
    }

    /// A video packet; `payload` if it was opened. `length` is that of the packet in the clear.
    pub(crate) fn video(
        &mut self,
        now: Instant,
        view: &View,
        payload: Option<Bytes>,
        length: usize,
    ) {
        let View { timestamp, marker, sequence, .. } = *view;
        let inserted = self.video.insert(now, sequence, FramePacket { timestamp, marker, payload });
        self.arrived(now, inserted, length);
        self.advance(now);
    }

    /// A video packet sent again, opened: the number it had first, and the payload behind it (RFC 4588 section 4).
    pub(crate) fn video_again(&mut self, now: Instant, view: &View, payload: &Bytes) {
        let Some(original) = payload.first_chunk::<2>() else { return };
        let mut view = *view;
        view.sequence = u16::from_be_bytes(*original);
        let rest = payload.slice(2..);
        // Probes and padding carry nothing.
        if !rest.is_empty() {
            let length = view.payload_at + rest.len();
            self.measured.repair.retransmitted += u64::from(self.counting);
            self.video(now, &view, Some(rest), length);
        }
    }

    /// An audio packet; `payload` if it was opened.
    pub(crate) fn audio(
        &mut self,
        now: Instant,
        view: &View,
        payload: Option<&Bytes>,
        length: usize,
    ) {
        let inserted = self.audio.insert(now, view.sequence, ());
        self.arrived(now, inserted, length);
        if let Some(payload) = payload.filter(|_| inserted != Inserted::Useless) {
            self.sound(now, payload);
        }
        if !self.has_video {
            self.first_frame.get_or_insert(now);
        }
        while self.audio.pop(now).is_some() {}
    }

    /// A packet was opened, and was it authentic?
    pub(crate) fn opened(&mut self, authentic: bool) {
        if self.counting {
            self.measured.repair.opened += 1;
            self.measured.repair.unauthentic += u64::from(!authentic);
            self.measured.repair.spots_failed +=
                u64::from(!authentic && self.level == Level::Order);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let gaps = (self.video.has_gaps() || self.audio.has_gaps()).then_some(self.next_gap_check);
        let keyframe = (self.waits_for_keyframe() || self.owes_pli).then_some(self.next_pli);
        gaps.into_iter().chain(keyframe).min()
    }

    /// Gives up what is too late, and says what to ask for.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Wants {
        let mut wants = Wants::default();
        if now >= self.next_gap_check {
            self.next_gap_check = now + GAP_INTERVAL;
            self.advance(now);
            while self.audio.pop(now).is_some() {}
            wants.packets = self.video.wanted(now);
        }
        if (self.waits_for_keyframe() || self.owes_pli) && now >= self.next_pli {
            self.next_pli = now + PLI_INTERVAL;
            self.owes_pli = false;
            wants.keyframe = true;
        }
        if self.counting {
            self.measured.repair.nacked += wants.packets.len() as u64;
            self.measured.repair.plis += u64::from(wants.keyframe);
        }
        wants
    }

    /// For receiver reports: highest number, numbers passed, lost; video, then audio.
    pub(crate) fn reception(&self) -> [Option<(u16, u64, u64)>; 2] {
        [self.video.reception(), self.audio.reception()]
    }

    /// The result. What is still missing is lost.
    pub(crate) fn finish(self) -> MediaMeasures {
        let mut measured = self.measured;
        for counts in [self.video.settle(), self.audio.settle()] {
            measured.packets.received += counts.received;
            measured.packets.lost += counts.lost;
            measured.repair.filled += counts.filled;
            measured.repair.useless += counts.useless;
            measured.repair.restarts += counts.restarts;
        }
        measured
    }

    fn waits_for_keyframe(&self) -> bool {
        // Headers tell nothing of keyframes: then it is the first frame that is waited for, and `owes_pli` asks once.
        self.has_video
            && (self.first_frame.is_none()
                || (self.level == Level::Frames && self.frames.needs_keyframe()))
    }

    fn arrived(&mut self, now: Instant, inserted: Inserted, length: usize) {
        self.last_packet = now;
        if inserted != Inserted::Useless {
            self.progress.packets += 1;
            self.progress.bytes += length as u64;
            if self.counting {
                self.measured.bytes += length as u64;
            }
        }
    }

    /// Passes on what is in order.
    fn advance(&mut self, now: Instant) {
        let judge = self.level != Level::Counts || self.first_frame.is_none();
        while let Some(delivery) = self.video.pop(now) {
            if !judge {
                continue;
            }
            let counted = match delivery {
                // Padding on the media's own numbering.
                Delivery::Packet { packet: FramePacket { payload: Some(payload), .. }, .. }
                    if payload.is_empty() =>
                {
                    continue;
                }
                Delivery::Packet { packet, counted } => {
                    self.frames.on_packet(&packet, &mut self.judgements);
                    counted
                }
                Delivery::Lost { counted } => {
                    self.frames.on_lost();
                    self.owes_judgement |= counted;
                    continue;
                }
                Delivery::Restart => {
                    self.frames.on_restart(&mut self.judgements);
                    self.counting
                }
            };
            if self.judgements.is_empty() {
                continue;
            }
            let counted = counted | std::mem::take(&mut self.owes_judgement);
            for at in 0..self.judgements.len() {
                self.on_frame(now, self.judgements[at], counted);
            }
            self.judgements.clear();
        }
    }

    fn on_frame(&mut self, now: Instant, judgement: FrameJudgement, counted: bool) {
        match judgement {
            FrameJudgement::Decodable { key, stamp } => {
                if self.first_frame.is_none() && !key {
                    return;
                }
                self.first_frame.get_or_insert(now);
                self.judge_gap(now);
                if let Some(last) = self.last_frame.replace(now) {
                    if self.gaps_s.len() == FREEZE_MEMORY {
                        self.gaps_s.pop_front();
                    }
                    self.gaps_s.push_back(now.saturating_duration_since(last).as_secs_f64());
                }
                if let Some(recording) = &mut self.recording {
                    recording.push(self.frames.shown().to_vec());
                }
                if !counted {
                    return;
                }
                self.measured.decodable += 1;
                self.took(now, stamp);
            }
            FrameJudgement::Broken(flaw) => {
                self.progress.broken += u64::from(self.first_frame.is_some());
                self.owes_pli |= self.level == Level::Order;
                if counted {
                    self.measured.broken += 1;
                    *self.measured.flaws.entry(flaw.text()).or_default() += 1;
                }
            }
        }
    }

    /// Judges the stamp inside a sound packet of ours.
    fn sound(&mut self, now: Instant, payload: &Bytes) {
        if !self.stamped {
            return;
        }
        let at = payload.len().checked_sub(stamp::LEN);
        let stamp = at.and_then(|at| Stamp::read(payload.get(at..)?));
        let covered = payload.len().saturating_sub(stamp::CRC_LEN);
        let sound = payload.get(..covered).map(crc32fast::hash);
        match stamp {
            Some((stamp, crc)) if Some(crc) == sound && self.counting && !self.has_video => {
                self.took(now, Some(stamp));
            }
            Some((_, crc)) if Some(crc) == sound => {}
            _ if self.counting => {
                self.progress.broken += 1;
                self.measured.broken += 1;
                *self.measured.flaws.entry(Flaw::AlteredAudio.text()).or_default() += 1;
            }
            _ => {}
        }
    }

    /// Counts a latency, if the stamp is by our own clock.
    fn took(&mut self, now: Instant, stamp: Option<Stamp>) {
        let Some(stamp) = stamp.filter(|stamp| stamp.run == self.run) else { return };
        let latency = crate::since_start_us(now).saturating_sub(stamp.sent_us);
        self.measured.latency_us.saturating_record(latency);
        if self.progress.latencies_us.len() < LATENCIES_MAX {
            self.progress.latencies_us.push(latency);
        }
    }

    /// Counts a freeze if the time since the last frame is one.
    fn judge_gap(&mut self, now: Instant) {
        let Some(last) = self.last_frame else { return };
        if !self.counting || self.gaps_s.is_empty() {
            return;
        }
        let mean = self.gaps_s.iter().sum::<f64>() / self.gaps_s.len() as f64;
        let gap = now.saturating_duration_since(last).as_secs_f64();
        self.measured.freezes += u64::from(gap >= (3.0 * mean).max(mean + FREEZE_ABOVE_MEAN_S));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;
    use crate::stream::GIVE_UP;
    use crate::video::{LayerSpec, Source, test_options};

    const LAYER: LayerSpec = LayerSpec { size: (640, 360), kbps: 1400 };

    const FRAME: Duration = Duration::from_millis(33);

    struct Scene {
        source: Source,
        receiver: Receiver,
        now: Instant,
        frame: u32,
        sequence: u16,
    }

    impl Scene {
        fn at(level: Level) -> Self {
            let now = Instant::now();
            Self {
                source: Source::new(&test_options(Codec::H264), LAYER),
                receiver: Receiver::new(now, level, Some(Codec::H264), true, 1),
                now,
                frame: 0,
                sequence: 100,
            }
        }

        /// Sends the next frame; packets for which `lost` says so do not arrive but stay numbered.
        fn frame(&mut self, lost: impl Fn(usize) -> bool) -> &mut Self {
            let sent_us = crate::since_start_us(self.now);
            let key = self.frame.is_multiple_of(60);
            let packets =
                self.source.next(Stamp { run: 1, frame: self.frame, sent_us, layer: 0, key });
            self.frame += 1;
            self.now += Duration::from_millis(2);
            for (n, payload) in packets.iter().enumerate() {
                self.sequence = self.sequence.wrapping_add(1);
                if lost(n) {
                    continue;
                }
                let view = self.view(n + 1 == packets.len());
                let payload = self.receiver.wants_payload().then(|| payload.clone());
                self.receiver.video(self.now, &view, payload, 1000);
            }
            self.now += FRAME - Duration::from_millis(2);
            self
        }

        fn view(&self, marker: bool) -> View {
            let mut packet = vec![0x80, if marker { 0x80 | 102 } else { 102 }];
            packet.extend_from_slice(&self.sequence.to_be_bytes());
            packet.extend_from_slice(&(self.frame * 3000).to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0, 9]);
            View::parse(&packet).expect("is a header")
        }

        fn frames(&mut self, count: usize) -> &mut Self {
            for _ in 0..count {
                self.frame(|_| false);
            }
            self
        }

        fn window(&mut self, open: bool) -> &mut Self {
            self.receiver.count(self.now, open);
            self
        }
    }

    #[test]
    fn only_what_falls_into_the_window_is_counted() {
        let mut scene = Scene::at(Level::Frames);
        scene.frames(10).window(true).frames(20).window(false).frames(5);
        let measured = scene.receiver.finish();
        assert_eq!((measured.decodable, measured.broken, measured.freezes), (20, 0, 0));
        assert!(!measured.silent_at_end);
        assert_eq!(measured.bytes, measured.packets.received * 1000);
        let latency = measured.latency_us.value_at_quantile(0.5);
        assert!(latency.abs_diff(2000) < 50, "the road takes 2 ms, measured {latency} us");
    }

    #[test]
    fn loss_that_is_repaired_in_time_breaks_nothing() {
        let mut scene = Scene::at(Level::Frames);
        scene.frames(3).window(true);
        let source = Source::new(&test_options(Codec::H264), LAYER);
        let mut twin = std::mem::replace(&mut scene.source, source);
        let stamp = Stamp { run: 1, frame: scene.frame, sent_us: 0, layer: 0, key: false };
        let packets = twin.next(stamp);
        scene.source = twin;
        scene.frame += 1;
        for (n, payload) in packets.iter().enumerate() {
            scene.sequence += 1;
            if n != 1 {
                let view = scene.view(n + 1 == packets.len());
                scene.receiver.video(scene.now, &view, Some(payload.clone()), 1000);
            }
        }
        let lost = scene.sequence - packets.len() as u16 + 2;
        scene.now += Duration::from_millis(20);
        assert_eq!(scene.receiver.handle_timeout(scene.now).packets, [lost]);
        let mut again = lost.to_be_bytes().to_vec();
        again.extend_from_slice(&packets[1]);
        scene.receiver.video_again(scene.now, &scene.view(false), &again.into());
        scene.frames(2).window(false);
        let measured = scene.receiver.finish();
        assert_eq!((measured.decodable, measured.broken, measured.packets.lost), (3, 0, 0));
        assert_eq!((measured.repair.filled, measured.repair.nacked), (1, 1));
    }

    #[test]
    fn loss_beyond_repair_breaks_frames_and_asks_for_a_keyframe() {
        for level in [Level::Frames, Level::Order] {
            let mut scene = Scene::at(level);
            scene.frames(3).window(true).frame(|n| n == 1).frames(2);
            scene.now += GIVE_UP;
            let wants = scene.receiver.handle_timeout(scene.now);
            assert!(wants.keyframe, "a browser would ask as well");
            scene.window(false);
            let measured = scene.receiver.finish();
            assert_eq!(measured.packets.lost, 1, "{level:?}");
            assert_eq!(measured.broken, if level == Level::Frames { 3 } else { 1 }, "{level:?}");
        }
    }

    #[test]
    fn loss_at_the_very_end_of_the_window_breaks_its_frame_too() {
        let mut scene = Scene::at(Level::Frames);
        scene.frames(3).window(true).frames(3).frame(|n| n == 1).window(false).frames(3);
        scene.now += GIVE_UP;
        scene.receiver.handle_timeout(scene.now);
        let measured = scene.receiver.finish();
        assert_eq!((measured.decodable, measured.broken, measured.packets.lost), (3, 1, 1));
    }

    #[test]
    fn picture_that_stands_still_is_a_freeze_and_also_at_the_end() {
        let mut scene = Scene::at(Level::Frames);
        scene.frames(30).window(true).frames(10);
        scene.now += Duration::from_millis(120);
        scene.frames(10);
        scene.now += Duration::from_millis(200);
        scene.frames(10);
        scene.now += Duration::from_secs(2);
        scene.window(false);
        let measured = scene.receiver.finish();
        assert_eq!(measured.freezes, 2, "120 ms is none, 200 ms is, the end is");
        assert!(measured.silent_at_end, "two seconds are more than a freeze");
    }

    #[test]
    fn viewer_without_any_frame_asks_for_a_keyframe_after_a_second() {
        let mut scene = Scene::at(Level::Counts);
        assert_eq!(scene.receiver.handle_timeout(scene.now), Wants::default());
        scene.now += PLI_INTERVAL;
        assert!(scene.receiver.handle_timeout(scene.now).keyframe);
        assert!(!scene.receiver.handle_timeout(scene.now).keyframe);
        scene.frame(|_| false);
        assert!(scene.receiver.first_frame().is_some() && !scene.receiver.wants_payload());
        scene.window(true).frames(3).window(false);
        let measured = scene.receiver.finish();
        assert_eq!((measured.decodable, measured.broken), (0, 0), "counts only");
        assert!(measured.packets.received > 9);
    }

    #[test]
    fn padding_packets_disturb_no_frame() {
        let mut scene = Scene::at(Level::Frames);
        scene.frames(2).window(true);
        scene.sequence += 1;
        let view = scene.view(false);
        scene.receiver.video(scene.now, &view, Some(Bytes::new()), 300);
        scene.frames(2).window(false);
        let measured = scene.receiver.finish();
        assert_eq!((measured.decodable, measured.broken), (2, 0));
    }

    #[test]
    fn sample_checks_some_viewers_fully_and_some_packets_of_the_others() {
        let options = |more: &[&str]| {
            let args = ["weir-loadtest", "--publishers", "0", "--whep", "http://h", "--verify"];
            Options::parse_from([&args[..], more].concat()).expect("parses")
        };
        let full = |options: &Options| {
            (0..100).filter(|n| Level::of(options, *n) == Level::Frames).count()
        };
        assert_eq!(full(&options(&["sample"])), 2);
        assert_eq!(full(&options(&["sample", "--verify-viewers", "0"])), 0);
        assert_eq!(full(&options(&["all"])), 100);

        let mut scene = Scene::at(Level::Order);
        let spots = (0..16_000).filter(|n| {
            scene.sequence = *n;
            scene.receiver.spots(&scene.view(false))
        });
        let spots = spots.count();
        assert!((900..1100).contains(&spots), "about one in sixteen, not {spots}");
    }

    #[test]
    fn sound_is_measured_by_its_stamp_and_altered_sound_is_seen() {
        let now = Instant::now();
        let mut receiver = Receiver::new(now, Level::Frames, None, true, 5);
        assert!(!receiver.handle_timeout(now + PLI_INTERVAL).keyframe, "there is no video");
        receiver.count(now, true);
        let stamp =
            Stamp { run: 5, frame: 1, sent_us: crate::since_start_us(now), layer: 0, key: true };
        let good = crate::publisher::opus_silence(stamp);
        let mut bad = good.to_vec();
        bad[30] ^= 1;
        let header =
            |n: u8| View::parse(&[0x80, 111, 0, n, 0, 0, 0, n, 0, 0, 0, 9]).expect("is one");
        let later = now + Duration::from_millis(3);
        receiver.audio(later, &header(1), Some(&good), 92);
        receiver.audio(later, &header(2), Some(&bad.into()), 92);
        assert_eq!(receiver.first_frame(), Some(later));
        let progress = receiver.take_progress();
        assert_eq!((progress.packets, progress.bytes, progress.broken), (2, 184, 1));
        let measured = receiver.finish();
        assert_eq!((measured.packets.received, measured.broken), (2, 1));
        assert!(measured.latency_us.value_at_quantile(0.5).abs_diff(3000) < 50);
    }
}
