//! A light viewer: receives media, sends the feedback of a browser, and passes every packet to
//! `receiver`.
//!
//! The feedback is NACK for gaps, PLI while it waits for a keyframe, transport-wide arrival times
//! every 100 ms, and a receiver report each second. Called by `run`; `full::viewer` uses its result
//! and limits.

mod report_source;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc_rtcp::packet::Packet as RtcpPacket;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use tokio::sync::watch;

use crate::context::{RunContext, StartupGuard};
use crate::live::LiveCounters;
use crate::measures::{MediaMeasures, ViewerResult};
use crate::peer::Peer;
use crate::phase::Phase;
use crate::receiver::{CheckLevel, FeedbackRequests, Receiver};
use crate::reconnect::Reconnect;
use crate::recording;
use crate::role::Role;
use crate::rtp::{self, HeaderView};
use crate::sdp::{Answer, NegotiatedMedia, OfferConfig};
use crate::session::Session;
use crate::session_error::SessionError;
use crate::twcc::TwccReporter;
use report_source::ReportSource;

/// Maximum time from the connection to the first complete keyframe. After it the viewer has failed.
pub(crate) const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two receiver reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two updates of the live counters.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A viewer must have received something, if it was counted for at least this time and is live.
const COUNTED_MIN: Duration = Duration::from_millis(500);

/// Bytes of the authentication tag that SRTP appends (AES-GCM).
const AUTH_TAG_BYTES: usize = 16;

/// Maximum frames kept for `--record`: five minutes at 30 frames per second.
const RECORDED_FRAMES_MAX: usize = 9000;

/// Runs one viewer. It is started again when it is lost.
pub(crate) async fn watch(
    context: Arc<RunContext>,
    index: u32,
    startup: StartupGuard,
    phases: watch::Receiver<Phase>,
) -> ViewerResult {
    let mut reconnect = Reconnect::new(phases);
    let (mut startup, mut recording) = (Some(startup), Vec::new());
    let (mut sum, mut counted) = (None::<ViewerResult>, false);
    loop {
        let started = Instant::now();
        let phases = reconnect.phases();
        let (role, end) = attempt(&context, index, startup.take(), recording, phases).await;
        let connected = role.as_ref().and_then(|role| role.connected);
        recording = Vec::new();
        let receiver = match role {
            Some(role) => {
                counted |= role.counted;
                recording = role.recording;
                role.receiver
            }
            None => receiver(&context, index, started),
        };
        let had_media = receiver.first_frame().is_some();
        LiveCounters::add(&context.live.left, u64::from(connected.is_some()));
        let result = measured(receiver, started, connected);
        match &mut sum {
            Some(sum) => sum.add(result),
            None => sum = Some(result),
        }
        if reconnect.again(&end, had_media).await {
            LiveCounters::add(&context.live.restarted, 1);
            continue;
        }
        let Some(mut result) = sum else { continue };
        result.reconnects = reconnect.returned();
        result.failure = failure(reconnect.failure(end), counted, &result.media);
        context.live.note_end("viewer", result.failure.as_deref());
        if index == 0 {
            write_recording(&context, &recording).await;
        }
        return result;
    }
}

/// One try from POST to DELETE, which adds to `recording` if it is recorded. Returns the role, unless the event
/// loop broke.
async fn attempt(
    context: &Arc<RunContext>,
    index: u32,
    startup: Option<StartupGuard>,
    recording: Vec<Vec<u8>>,
    phases: watch::Receiver<Phase>,
) -> (Option<Viewer>, Result<(), SessionError>) {
    let mut role = Viewer::new(context, index, startup, recording);
    let options = &context.options;
    let config = OfferConfig {
        codec: options.video_codec(),
        audio: options.audio,
        twcc: !options.common.no_twcc,
        sends: None,
    };
    let (mut role, end) = match Session::open(context, &options.whep_url(index), &config).await {
        Ok(session) => {
            role.apply_answer(&session.answer);
            session.run(&context.viewer_loops, role, phases).await
        }
        Err(error) => (Some(role), Err(error)),
    };
    if let Some(role) = &mut role
        && role.records
    {
        role.recording.extend(role.receiver.take_recording());
    }
    (role, end)
}

/// The receiver of viewer `index`.
pub(crate) fn receiver(context: &RunContext, index: u32, now: Instant) -> Receiver {
    let options = &context.options;
    let stamped = options.publishers > 0;
    let level = CheckLevel::of_viewer(options, index);
    Receiver::new(now, level, options.video_codec(), stamped, context.run)
}

/// The result of a viewer. `counted` tells whether it was counted long enough to expect media.
pub(crate) fn result(
    live: &LiveCounters,
    receiver: Receiver,
    started: Instant,
    connected: Option<Instant>,
    counted: bool,
    end: Result<(), SessionError>,
) -> ViewerResult {
    let mut result = measured(receiver, started, connected);
    result.failure = failure(end.err().map(SessionError::text), counted, &result.media);
    live.note_end("viewer", result.failure.as_deref());
    LiveCounters::add(&live.left, u64::from(connected.is_some()));
    result
}

/// The result of one try of a viewer, without a judgement.
fn measured(receiver: Receiver, started: Instant, connected: Option<Instant>) -> ViewerResult {
    let ms = |at: Option<Instant>| {
        at.map(|at| at.saturating_duration_since(started).as_secs_f64() * 1000.0)
    };
    ViewerResult {
        connected: connected.is_some(),
        failure: None,
        join_ms: ms(connected),
        first_frame_ms: ms(receiver.first_frame()),
        media: receiver.finish(),
        reconnects: 0,
    }
}

/// Why a viewer failed: its `error`, or what its media lacks.
fn failure(error: Option<String>, counted: bool, media: &MediaMeasures) -> Option<String> {
    if error.is_some() {
        error
    } else if counted && media.packets_received == 0 {
        Some("no media in the window".to_owned())
    } else {
        media.silent_at_end.then(|| "media stopped before the window ended".to_owned())
    }
}

async fn write_recording(context: &RunContext, frames: &[Vec<u8>]) {
    let Some(path) = &context.options.common.record else { return };
    let video = &context.options.video;
    let file = recording::container(video.codec, video.fps, frames);
    if let Err(error) = tokio::task::block_in_place(|| std::fs::write(path, file)) {
        tracing::error!("--record {}: {error}", path.display());
    }
}

/// The error of a viewer that got no frame in time.
pub(crate) fn no_first_frame() -> SessionError {
    let seconds = FIRST_FRAME_TIMEOUT.as_secs();
    SessionError::lost(format!("no first frame within {seconds} s of connecting"))
}

struct Viewer {
    context: Arc<RunContext>,
    receiver: Receiver,
    video: NegotiatedMedia,
    audio: NegotiatedMedia,
    /// Dropped with the first frame; none for a viewer that was started again.
    startup: Option<StartupGuard>,
    has_frame: bool,
    connected: Option<Instant>,
    /// Whether the viewer was counted for [`COUNTED_MIN`].
    counted: bool,
    /// Since when the viewer is counted.
    counted_since: Option<Instant>,
    phase: Phase,
    /// The viewer's own SSRC, for feedback.
    ssrc: u32,
    /// Id of the header extension with the transport-wide sequence number, and the arrival times to
    /// report.
    twcc: Option<(u8, TwccReporter)>,
    video_source: ReportSource,
    audio_source: ReportSource,
    next_report: Instant,
    next_progress: Instant,
    records: bool,
    recording: Vec<Vec<u8>>,
}

impl Viewer {
    fn new(
        context: &Arc<RunContext>,
        index: u32,
        startup: Option<StartupGuard>,
        recording: Vec<Vec<u8>>,
    ) -> Self {
        let now = Instant::now();
        let mut receiver = receiver(context, index, now);
        let records = index == 0 && context.options.common.record.is_some();
        if records {
            receiver.start_recording();
        }
        Self {
            context: context.clone(),
            receiver,
            video: NegotiatedMedia::default(),
            audio: NegotiatedMedia::default(),
            startup,
            has_frame: false,
            connected: None,
            counted: false,
            counted_since: None,
            phase: Phase::Ramp,
            ssrc: rand::random(),
            twcc: None,
            video_source: ReportSource::default(),
            audio_source: ReportSource::default(),
            next_report: now + REPORT_INTERVAL,
            next_progress: now + PROGRESS_INTERVAL,
            records,
            recording,
        }
    }

    fn apply_answer(&mut self, answer: &Answer) {
        self.video = answer.video.clone().unwrap_or_default();
        self.audio = answer.audio.clone().unwrap_or_default();
        self.video_source = ReportSource::new(self.video.ssrc);
        self.audio_source = ReportSource::new(self.audio.ssrc);
        self.twcc = self.video.twcc_id.or(self.audio.twcc_id).map(|id| (id, TwccReporter::new()));
    }

    /// Takes a protected RTP packet. `None` if it is not RTP, not authentic, or has wrong padding.
    fn on_media(&mut self, now: Instant, peer: &mut Peer, datagram: &[u8]) -> Option<()> {
        let view = HeaderView::parse(datagram)?;
        if let Some((id, twcc)) = &mut self.twcc
            && let Some(number) = rtp::extension_u16(datagram, *id)
        {
            twcc.on_packet(now, number);
        }
        let is_rtx = Some(view.payload_type) == self.video.rtx;
        if !is_rtx && !self.receiver.samples(&view) && !self.receiver.needs_payload() {
            // The header is enough. The authentication tag is not part of the length.
            let length = datagram.len().saturating_sub(AUTH_TAG_BYTES);
            if view.payload_type == self.video.payload_type {
                self.video_source.ssrc = Some(view.ssrc);
                self.receiver.on_video(now, &view, None, length);
            } else if view.payload_type == self.audio.payload_type {
                self.audio_source.ssrc = Some(view.ssrc);
                self.receiver.on_audio(now, &view, None, length);
            }
            return Some(());
        }
        let packet = peer.decrypt_rtp(datagram);
        self.receiver.on_decrypted(packet.is_some());
        let packet = packet?;
        let length = packet.len();
        let payload = view.payload(packet)?;
        if is_rtx {
            self.receiver.on_retransmission(now, &view, &payload);
        } else if view.payload_type == self.video.payload_type {
            self.video_source.ssrc = Some(view.ssrc);
            // A frame is judged by its headers or by its payloads, not by a mixture.
            let payload = self.receiver.needs_payload().then_some(payload);
            self.receiver.on_video(now, &view, payload, length);
        } else if view.payload_type == self.audio.payload_type {
            self.audio_source.ssrc = Some(view.ssrc);
            self.receiver.on_audio(now, &view, Some(&payload), length);
        }
        Some(())
    }

    /// Follows the window. A viewer that joins within the window is counted from its first frame:
    /// media before it was not meant for this viewer.
    fn update_counting(&mut self, now: Instant) {
        let counts = self.phase == Phase::Count && self.receiver.first_frame().is_some();
        let since = if counts { self.counted_since.or(Some(now)) } else { None };
        let before = std::mem::replace(&mut self.counted_since, since);
        self.counted |= self.receiver.is_live(now)
            && before.is_some_and(|before| now.saturating_duration_since(before) >= COUNTED_MIN);
        self.receiver.set_counting(now, counts);
    }

    fn send_receiver_report(&mut self, now: Instant, peer: &mut Peer) -> Result<(), SessionError> {
        let [video, audio] = self.receiver.reception();
        let reports: Vec<_> = [(&mut self.video_source, video), (&mut self.audio_source, audio)]
            .into_iter()
            .filter_map(|(source, reception)| source.report_block(now, reception?))
            .collect();
        let report = ReceiverReport { ssrc: self.ssrc, reports, ..Default::default() };
        peer.send_rtcp(&[Box::new(report)])
    }

    fn send_twcc(&mut self, now: Instant, peer: &mut Peer) -> Result<(), SessionError> {
        let media = self.video_source.ssrc.or(self.audio_source.ssrc);
        if let (Some((_, twcc)), Some(media)) = (&mut self.twcc, media)
            && let Some(report) = twcc.report(now, self.ssrc, media)
        {
            peer.send_rtcp_bytes(&report)?;
        }
        Ok(())
    }

    /// Sends NACK and PLI for the video track.
    fn send_requests(
        &self,
        requests: &FeedbackRequests,
        peer: &mut Peer,
    ) -> Result<(), SessionError> {
        let Some(media_ssrc) = self.video_source.ssrc else { return Ok(()) };
        let sender_ssrc = self.ssrc;
        let mut feedback: Vec<Box<dyn RtcpPacket>> = Vec::new();
        if !requests.nacks.is_empty() && self.video.nack {
            let nacks = nack_pairs_from_sequence_numbers(&requests.nacks);
            feedback.push(Box::new(TransportLayerNack { sender_ssrc, media_ssrc, nacks }));
        }
        if requests.keyframe {
            feedback.push(Box::new(PictureLossIndication { sender_ssrc, media_ssrc }));
        }
        if feedback.is_empty() { Ok(()) } else { peer.send_rtcp(&feedback) }
    }
}

impl Role for Viewer {
    fn on_connected(&mut self, now: Instant) {
        self.connected = Some(now);
        self.next_report = now + REPORT_INTERVAL;
        LiveCounters::add(&self.context.live.watching, 1);
    }

    fn on_rtp(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        datagram: &[u8],
    ) -> Result<(), SessionError> {
        self.on_media(now, peer, datagram);
        if !self.has_frame && self.receiver.first_frame().is_some() {
            self.has_frame = true;
            self.startup = None;
            self.update_counting(now);
        }
        Ok(())
    }

    fn on_rtcp(&mut self, now: Instant, _: &mut Peer, mut rtcp: Bytes) -> Result<(), SessionError> {
        for packet in rtc_rtcp::packet::unmarshal(&mut rtcp).unwrap_or_default() {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>() {
                self.video_source.on_sender_report(now, report);
                self.audio_source.on_sender_report(now, report);
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

    fn handle_timeout(&mut self, now: Instant, peer: &mut Peer) -> Result<(), SessionError> {
        let Some(connected) = self.connected else { return Ok(()) };
        if self.receiver.first_frame().is_none() && now >= connected + FIRST_FRAME_TIMEOUT {
            return Err(no_first_frame());
        }
        let requests = self.receiver.handle_timeout(now);
        self.send_twcc(now, peer)?;
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_INTERVAL;
            self.context.live.add_progress(self.receiver.take_progress());
        }
        self.send_requests(&requests, peer)?;
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.send_receiver_report(now, peer)?;
            if self.records && self.recording.len() < RECORDED_FRAMES_MAX {
                self.recording.extend(self.receiver.take_recording());
            }
        }
        Ok(())
    }

    fn set_phase(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.update_counting(now);
    }
}
