//! A light viewer: takes what the server sends, gives the feedback a browser would, and hands everything to `receiver`.
//!
//! NACK for gaps, PLI while it waits for a keyframe, arrival times every 100 ms, a receiver report each second. Spawned by `run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc_rtcp::packet::Packet as RtcpPacket;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use tokio::sync::watch;

use crate::live::Live;
use crate::measures::ViewerResult;
use crate::options::{Codec, Options};
use crate::peer::{Over, Peer};
use crate::receiver::{CheckLevel, Receiver};
use crate::reorder_buffer::Reception;
use crate::recording;
use crate::rtp::{self, HeaderView};
use crate::sdp::{Answer, Media, Wish};
use crate::seat::{Phase, Role};
use crate::session::{Context, Session, Settled};
use crate::twcc::Twcc;

/// A viewer that saw no whole keyframe this long after it was connected has failed.
pub(crate) const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two receiver reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Between two words to those who watch the run.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A viewer for whom the window was open for less need not have got anything in it.
const COUNTED_MIN: Duration = Duration::from_millis(500);

/// One viewer from POST to DELETE.
pub(crate) async fn watch(
    context: Arc<Context>,
    index: u32,
    settled: Settled,
    phases: watch::Receiver<Phase>,
) -> ViewerResult {
    let started = Instant::now();
    let mut role = Viewer::new(&context, index, settled);
    let wish = Wish {
        codec: codec(&context.options),
        audio: context.options.audio,
        twcc: !context.options.common.no_twcc,
        sends: None,
    };
    let (role, over) = match Session::open(&context, &context.options.whep_url(index), &wish).await
    {
        Ok(session) => {
            role.answer(&session.answer);
            session.run(&context.watching, role, phases).await
        }
        Err(over) => (Some(role), Err(over)),
    };
    match role {
        Some(role) => role.finish(started, over).await,
        None => {
            let lost = receiver(&context, index, started);
            result(&context.live, lost, started, None, false, over)
        }
    }
}

/// The codec of the video, if there is video.
pub(crate) fn codec(options: &Options) -> Option<Codec> {
    (!options.video.none).then_some(options.video.codec)
}

/// The receiver of viewer `index`.
pub(crate) fn receiver(context: &Context, index: u32, now: Instant) -> Receiver {
    let options = &context.options;
    let stamped = options.publishers > 0;
    Receiver::new(now, CheckLevel::of_viewer(options, index), codec(options), stamped, context.run)
}

/// A viewer's part of the report. `counted`: the window was open while it was there.
pub(crate) fn result(
    live: &Live,
    receiver: Receiver,
    started: Instant,
    connected: Option<Instant>,
    counted: bool,
    over: Result<(), Over>,
) -> ViewerResult {
    let ms = |at: Option<Instant>| {
        at.map(|at| at.saturating_duration_since(started).as_secs_f64() * 1000.0)
    };
    let first_frame_ms = ms(receiver.first_frame());
    let measured = receiver.finish();
    let mut failure = over.err().map(|over| over.0);
    if failure.is_none() && counted && measured.packets_received == 0 {
        failure = Some("no media in the window".to_owned());
    } else if failure.is_none() && measured.silent_at_end {
        failure = Some("media stopped before the window ended".to_owned());
    }
    Live::add(&live.failed, u64::from(failure.is_some()));
    Live::add(&live.left, u64::from(connected.is_some()));
    ViewerResult {
        connected: connected.is_some(),
        failure,
        join_ms: ms(connected),
        first_frame_ms,
        media: measured,
    }
}

/// The end of a viewer that never saw anything.
pub(crate) fn no_first_frame() -> Over {
    Over(format!("no first frame within {} s of connecting", FIRST_FRAME_TIMEOUT.as_secs()))
}

struct Viewer {
    context: Arc<Context>,
    receiver: Receiver,
    video: Media,
    audio: Media,
    settled: Option<Settled>,
    connected: Option<Instant>,
    /// Whether the window was open for it long enough to expect something.
    counted: bool,
    counts_since: Option<Instant>,
    phase: Phase,
    /// Our own source, for feedback.
    ssrc: u32,
    /// Arrival times to report, and the header extension that numbers packets.
    twcc: Option<(u8, Twcc)>,
    video_source: Source,
    audio_source: Source,
    next_report: Instant,
    next_progress: Instant,
    records: bool,
    recording: Vec<Vec<u8>>,
}

/// What is known of a source from its own reports.
#[derive(Debug, Default)]
struct Source {
    ssrc: Option<u32>,
    /// Middle 32 bits of the last sender report's NTP time, and when it came.
    last_report: Option<(u32, Instant)>,
    /// Numbers at the last report, for the fraction lost since then.
    reported: Reported,
    cycles: u32,
    highest_seq: u16,
}

#[derive(Debug, Default)]
struct Reported {
    expected: u64,
    lost: u64,
}

/// Frames kept for `--record`: five minutes at 30 per second.
const RECORD_MAX: usize = 9000;

impl Viewer {
    fn new(context: &Arc<Context>, index: u32, settled: Settled) -> Self {
        let options = &context.options;
        let now = Instant::now();
        let mut receiver = receiver(context, index, now);
        let records = index == 0 && options.common.record.is_some();
        if records {
            receiver.start_recording();
        }
        Self {
            context: context.clone(),
            receiver,
            video: Media::default(),
            audio: Media::default(),
            settled: Some(settled),
            connected: None,
            counted: false,
            counts_since: None,
            phase: Phase::Ramp,
            ssrc: rand::random(),
            twcc: None,
            video_source: Source::default(),
            audio_source: Source::default(),
            next_report: now + REPORT_INTERVAL,
            next_progress: now + PROGRESS_INTERVAL,
            records,
            recording: Vec::new(),
        }
    }

    fn answer(&mut self, answer: &Answer) {
        self.video = answer.video.clone().unwrap_or_default();
        self.audio = answer.audio.clone().unwrap_or_default();
        self.video_source.ssrc = self.video.ssrc;
        self.audio_source.ssrc = self.audio.ssrc;
        self.twcc = self.video.twcc_id.or(self.audio.twcc_id).map(|id| (id, Twcc::new()));
    }

    async fn finish(mut self, started: Instant, over: Result<(), Over>) -> ViewerResult {
        if self.records {
            self.recording.extend(self.receiver.take_recording());
            self.write_recording().await;
        }
        result(&self.context.live, self.receiver, started, self.connected, self.counted, over)
    }

    async fn write_recording(&self) {
        let Some(path) = &self.context.options.common.record else { return };
        let options = &self.context.options;
        let file = recording::container(options.video.codec, options.video.fps, &self.recording);
        if let Err(error) = tokio::task::block_in_place(|| std::fs::write(path, file)) {
            tracing::error!("--record {}: {error}", path.display());
        }
    }

    fn media(&mut self, now: Instant, peer: &mut Peer, datagram: &[u8]) -> Option<()> {
        let view = HeaderView::parse(datagram)?;
        if let Some((id, twcc)) = &mut self.twcc
            && let Some(number) = rtp::extension_u16(datagram, *id)
        {
            twcc.arrived(now, number);
        }
        let pt = Some(view.payload_type);
        let is_rtx = pt == self.video.rtx;
        let is_sample = self.receiver.samples(&view);
        if !is_rtx && !is_sample && !self.receiver.needs_payload() {
            // By the header alone; the tag at the end is not counted.
            let length = datagram.len().saturating_sub(16);
            if view.payload_type == self.video.payload_type {
                self.video_source.ssrc = Some(view.ssrc);
                self.receiver.on_video(now, &view, None, length);
            } else if view.payload_type == self.audio.payload_type {
                self.audio_source.ssrc = Some(view.ssrc);
                self.receiver.on_audio(now, &view, None, length);
            }
            return Some(());
        }
        let clear = peer.open(datagram);
        self.receiver.on_decrypted(clear.is_some());
        let clear = clear?;
        let length = clear.len();
        let payload = view.payload(clear)?;
        if is_rtx {
            self.receiver.on_retransmission(now, &view, &payload);
        } else if view.payload_type == self.video.payload_type {
            self.video_source.ssrc = Some(view.ssrc);
            // A frame is judged by headers or by payloads, never by half of them.
            let payload = self.receiver.needs_payload().then_some(payload);
            self.receiver.on_video(now, &view, payload, length);
        } else if view.payload_type == self.audio.payload_type {
            self.audio_source.ssrc = Some(view.ssrc);
            self.receiver.on_audio(now, &view, Some(&payload), length);
        }
        Some(())
    }

    fn report(&mut self, now: Instant, peer: &mut Peer) -> Result<(), Over> {
        let [video, audio] = self.receiver.reception();
        let reports: Vec<_> = [(&mut self.video_source, video), (&mut self.audio_source, audio)]
            .into_iter()
            .filter_map(|(source, reception)| source.report(now, reception?))
            .collect();
        let report = ReceiverReport { ssrc: self.ssrc, reports, ..Default::default() };
        peer.send_rtcp(&[Box::new(report)])
    }

    fn congestion_feedback(&mut self, now: Instant, peer: &mut Peer) -> Result<(), Over> {
        let media = self.video_source.ssrc.or(self.audio_source.ssrc);
        if let (Some((_, twcc)), Some(media)) = (&mut self.twcc, media)
            && let Some(report) = twcc.report(now, self.ssrc, media)
        {
            peer.send_rtcp_bytes(&report)?;
        }
        Ok(())
    }
}

impl Role for Viewer {
    fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
        self.next_report = now + REPORT_INTERVAL;
        Live::add(&self.context.live.watching, 1);
    }

    fn rtp(&mut self, now: Instant, peer: &mut Peer, datagram: &[u8]) -> Result<(), Over> {
        self.media(now, peer, datagram);
        if self.settled.is_some() && self.receiver.first_frame().is_some() {
            self.settled = None;
            self.count(now);
        }
        Ok(())
    }

    fn rtcp(&mut self, now: Instant, _: &mut Peer, mut rtcp: Bytes) -> Result<(), Over> {
        for packet in rtc_rtcp::packet::unmarshal(&mut rtcp).unwrap_or_default() {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>() {
                for source in [&mut self.video_source, &mut self.audio_source] {
                    if source.ssrc == Some(report.ssrc) {
                        source.last_report = Some(((report.ntp_time >> 16) as u32, now));
                    }
                }
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let connected = self.connected?;
        let first =
            self.receiver.first_frame().is_none().then_some(connected + FIRST_FRAME_TIMEOUT);
        let twcc = self.twcc.as_ref().and_then(|(_, twcc)| twcc.deadline());
        let others = first.into_iter().chain(twcc).chain([self.next_report]);
        self.receiver.deadline().into_iter().chain(others).min()
    }

    fn handle_timeout(&mut self, now: Instant, peer: &mut Peer) -> Result<(), Over> {
        let Some(connected) = self.connected else { return Ok(()) };
        if self.receiver.first_frame().is_none() && now >= connected + FIRST_FRAME_TIMEOUT {
            return Err(no_first_frame());
        }
        let requests = self.receiver.handle_timeout(now);
        self.congestion_feedback(now, peer)?;
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_INTERVAL;
            self.context.live.add_progress(self.receiver.take_progress());
        }
        if let Some(media_ssrc) = self.video_source.ssrc {
            let sender_ssrc = self.ssrc;
            let mut feedback: Vec<Box<dyn RtcpPacket>> = Vec::new();
            if !requests.nacks.is_empty() && self.video.nack {
                let nacks = nack_pairs_from_sequence_numbers(&requests.nacks);
                feedback.push(Box::new(TransportLayerNack { sender_ssrc, media_ssrc, nacks }));
            }
            if requests.keyframe {
                feedback.push(Box::new(PictureLossIndication { sender_ssrc, media_ssrc }));
            }
            if !feedback.is_empty() {
                peer.send_rtcp(&feedback)?;
            }
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(now, peer)?;
            if self.records && self.recording.len() < RECORD_MAX {
                self.recording.extend(self.receiver.take_recording());
            }
        }
        Ok(())
    }

    fn phase(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.count(now);
    }
}

impl Viewer {
    /// A viewer that joins within the window counts from its first frame on: what it missed before was not for it.
    fn count(&mut self, now: Instant) {
        let counts = self.phase == Phase::Count && self.receiver.first_frame().is_some();
        let since = if counts { self.counts_since.or(Some(now)) } else { None };
        let before = std::mem::replace(&mut self.counts_since, since);
        self.counted |=
            before.is_some_and(|before| now.saturating_duration_since(before) >= COUNTED_MIN);
        self.receiver.set_counting(now, counts);
    }
}

impl Source {
    /// The report block for `reception` (RFC 3550 section 6.4.1); `None` as long as the SSRC is not known.
    fn report(&mut self, now: Instant, reception: Reception) -> Option<ReceptionReport> {
        let Reception { highest_seq, expected, lost } = reception;
        let ssrc = self.ssrc?;
        self.cycles +=
            u32::from(highest_seq < self.highest_seq && self.highest_seq - highest_seq > 0x8000);
        self.highest_seq = highest_seq;
        let (expected_now, lost_now) =
            (expected - self.reported.expected, lost - self.reported.lost);
        self.reported = Reported { expected, lost };
        let (last_sender_report, delay) = self.last_report.map_or((0, 0), |(ntp, at)| {
            let delay = now.saturating_duration_since(at).as_secs_f64() * 65_536.0;
            (ntp, delay as u32)
        });
        Some(ReceptionReport {
            ssrc,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            total_lost: u32::try_from(lost).unwrap_or(u32::MAX).min(0x7f_ffff),
            last_sequence_number: (self.cycles << 16) | u32::from(highest_seq),
            jitter: 0,
            last_sender_report,
            delay,
        })
    }
}
