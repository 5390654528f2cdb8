//! A full viewer: passes the packets of a `webrtc` PeerConnection to `receiver`, and sends the
//! keyframe requests that are due.
//!
//! The PeerConnection sends NACKs, receiver reports and congestion feedback itself. Called by
//! `run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use tokio::sync::watch;
use webrtc::media_stream::track_remote::TrackRemote;

use super::connection::{Connection, Event};
use crate::context::{RunContext, StartupGuard};
use crate::live::LiveCounters;
use crate::measures::ViewerResult;
use crate::phase::Phase;
use crate::receiver::Receiver;
use crate::rtp::HeaderView;
use crate::session_error::SessionError;
use crate::viewer::{self, FIRST_FRAME_TIMEOUT};

/// Maximum time between two looks at the receiver, so that its progress is shown.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Runs one full viewer from POST to DELETE.
pub(crate) async fn watch(
    context: Arc<RunContext>,
    index: u32,
    startup: StartupGuard,
    mut phases: watch::Receiver<Phase>,
) -> ViewerResult {
    let started = Instant::now();
    let mut viewer = Viewer {
        receiver: viewer::receiver(&context, index, started),
        connected: None,
        startup: Some(startup),
        video: None,
    };
    let session = async {
        let mut connection = Connection::open(&context).await?;
        let end = viewer.run(&context, index, &mut connection, &mut phases).await;
        connection.close(&context).await;
        end
    };
    let end = session.await;
    let counted = *phases.borrow() != Phase::Ramp;
    viewer::result(&context.live, viewer.receiver, started, viewer.connected, counted, end)
}

struct Viewer {
    receiver: Receiver,
    connected: Option<Instant>,
    /// Dropped with the first frame.
    startup: Option<StartupGuard>,
    /// The video track and its SSRC, for keyframe requests.
    video: Option<(Arc<dyn TrackRemote>, u32)>,
}

impl Viewer {
    async fn run(
        &mut self,
        context: &RunContext,
        index: u32,
        connection: &mut Connection,
        phases: &mut watch::Receiver<Phase>,
    ) -> Result<(), SessionError> {
        let recvonly = || RTCRtpTransceiverInit {
            direction: RTCRtpTransceiverDirection::Recvonly,
            ..Default::default()
        };
        if context.options.audio {
            connection.pc.add_transceiver_from_kind(RtpCodecKind::Audio, Some(recvonly())).await?;
        }
        connection.pc.add_transceiver_from_kind(RtpCodecKind::Video, Some(recvonly())).await?;
        connection.connect(context, &context.options.whep_url(index)).await?;
        let connected = Instant::now();
        self.connected = Some(connected);
        LiveCounters::add(&context.live.watching, 1);

        self.receiver.set_counting(connected, *phases.borrow_and_update() == Phase::Count);
        loop {
            let first_frame_deadline =
                self.receiver.first_frame().is_none().then_some(connected + FIRST_FRAME_TIMEOUT);
            let deadline = self
                .receiver
                .deadline()
                .into_iter()
                .chain(first_frame_deadline)
                .fold(Instant::now() + IDLE_MAX, Instant::min);
            tokio::select! {
                event = connection.next_event() => self.on_event(event?, connection).await,
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = Instant::now();
                    if first_frame_deadline.is_some_and(|deadline| now >= deadline) {
                        return Err(viewer::no_first_frame());
                    }
                    self.handle_timeout(now).await?;
                    context.live.add_progress(self.receiver.take_progress());
                }
                changed = phases.changed() => {
                    changed?;
                    let phase = *phases.borrow_and_update();
                    self.receiver.set_counting(Instant::now(), phase == Phase::Count);
                    if phase == Phase::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn on_event(&mut self, event: Event, connection: &Connection) {
        match event {
            Event::Track(track) => {
                if track.kind().await == RtpCodecKind::Video
                    && let Some(ssrc) = track.ssrcs().await.first()
                {
                    self.video = Some((track.clone(), *ssrc));
                }
                connection.read_track(track);
            }
            Event::Packet { kind, packet, at } => {
                let view = HeaderView::of(&packet.header);
                let length = view.payload_at + packet.payload.len();
                match kind {
                    RtpCodecKind::Video => {
                        let needed = self.receiver.needs_payload();
                        let payload = needed.then_some(packet.payload);
                        self.receiver.on_video(at, &view, payload, length);
                    }
                    _ => self.receiver.on_audio(at, &view, Some(&packet.payload), length),
                }
                if self.receiver.first_frame().is_some() {
                    self.startup = None;
                }
            }
            _ => {}
        }
    }

    async fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        // NACKs are sent by the PeerConnection.
        let requests = self.receiver.handle_timeout(now);
        if requests.keyframe
            && let Some((track, media_ssrc)) = &self.video
        {
            let pli = PictureLossIndication { sender_ssrc: 0, media_ssrc: *media_ssrc };
            track.write_rtcp(vec![Box::new(pli)]).await?;
        }
        Ok(())
    }
}
