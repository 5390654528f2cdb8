//! A full publisher: sends frames and audio packets through a `webrtc` PeerConnection, and answers
//! keyframe requests.
//!
//! The PeerConnection answers NACKs and sends sender reports itself. Called by `run`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rtc::rtp_transceiver::rtp_sender::{RTCRtpCodecParameters, RtpCodecKind};
use tokio::sync::watch;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_local::{TrackLocal, TrackLocalEvent};

use super::codecs;
use super::connection::{Connection, Event};
use crate::context::{RunContext, StartupGuard};
use crate::keyframe_schedule::KeyframeSchedule;
use crate::live::LiveCounters;
use crate::measures::PublisherResult;
use crate::opus;
use crate::phase::Phase;
use crate::rtp::{self, OutgoingPacket};
use crate::session_error::SessionError;
use crate::stamp::Stamp;
use crate::ticker::Ticker;
use crate::video::{self, Source};

/// Runs one full publisher from POST to DELETE.
pub(crate) async fn publish(
    context: Arc<RunContext>,
    index: u32,
    startup: StartupGuard,
    mut phases: watch::Receiver<Phase>,
) -> PublisherResult {
    let mut publisher = Publisher::new(&context);
    let session = async {
        let mut connection = Connection::open(&context).await?;
        let end = publisher.run(index, startup, &mut connection, &mut phases).await;
        connection.close(&context).await;
        end
    };
    let end: Result<(), SessionError> = session.await;
    let (packets_sent, failure) = (publisher.packets_sent, end.err().map(SessionError::text));
    context.live.note_end("publisher", failure.as_deref());
    PublisherResult { packets_sent, failure, reconnects: 0 }
}

struct Publisher<'a> {
    context: &'a RunContext,
    video: OutgoingTrack,
    audio: OutgoingTrack,
    source: Source,
    keyframes: KeyframeSchedule,
    /// Number of the next frame.
    frame: u32,
    counting: bool,
    packets_sent: u64,
}

/// A track and the numbering of its packets.
struct OutgoingTrack {
    track: Arc<TrackLocalStaticRTP>,
    payload_type: u8,
    ssrc: u32,
    sequence: u16,
}

impl OutgoingTrack {
    fn new(kind: RtpCodecKind, codec: RTCRtpCodecParameters) -> Self {
        let ssrc = rtp::random_ssrc();
        Self {
            track: codecs::local_track(kind, codec.rtp_codec, ssrc),
            payload_type: codec.payload_type,
            ssrc,
            sequence: rand::random(),
        }
    }

    async fn send(
        &mut self,
        timestamp: u32,
        marker: bool,
        payload: Bytes,
    ) -> Result<(), SessionError> {
        self.sequence = self.sequence.wrapping_add(1);
        let OutgoingPacket { header, payload } = OutgoingPacket::new(
            self.payload_type,
            self.sequence,
            timestamp,
            self.ssrc,
            marker,
            &[],
            payload,
        );
        Ok(self.track.write_rtp(rtc::rtp::Packet { header, payload }).await?)
    }
}

impl<'a> Publisher<'a> {
    fn new(context: &'a RunContext) -> Self {
        let video = &context.options.video;
        let layer = *video::layers(video).last().expect("full clients have video");
        Self {
            context,
            video: OutgoingTrack::new(RtpCodecKind::Video, codecs::video(video.codec)),
            audio: OutgoingTrack::new(RtpCodecKind::Audio, codecs::opus()),
            source: Source::new(video, layer),
            keyframes: KeyframeSchedule::new(video),
            frame: 0,
            counting: false,
            packets_sent: 0,
        }
    }

    async fn run(
        &mut self,
        index: u32,
        startup: StartupGuard,
        connection: &mut Connection,
        phases: &mut watch::Receiver<Phase>,
    ) -> Result<(), SessionError> {
        let options = &self.context.options;
        if options.audio {
            connection.pc.add_track(self.audio.track.clone()).await?;
        }
        connection.pc.add_track(self.video.track.clone()).await?;
        connection.connect(self.context, &options.whip_url(index)).await?;
        drop(startup);
        LiveCounters::add(&self.context.live.publishing, 1);
        self.watch_keyframe_requests(connection);

        let start = Instant::now();
        let mut video_ticker = Ticker::new(start, options.video.fps);
        let mut audio_ticker = Ticker::new(start, opus::PACKETS_PER_S);
        self.counting = *phases.borrow_and_update() == Phase::Count;
        loop {
            let mut deadline = video_ticker.deadline();
            if options.audio {
                deadline = deadline.min(audio_ticker.deadline());
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = Instant::now();
                    if let Some(tick) = video_ticker.take(now) {
                        self.send_frame(now, tick).await?;
                    }
                    if options.audio && let Some(tick) = audio_ticker.take(now) {
                        self.send_audio(now, tick).await?;
                    }
                }
                event = connection.next_event() => {
                    if matches!(event?, Event::KeyframeRequested) {
                        self.keyframes.request();
                    }
                }
                changed = phases.changed() => {
                    changed?;
                    let phase = *phases.borrow_and_update();
                    self.counting = phase == Phase::Count;
                    if phase == Phase::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Turns keyframe requests for the video track into events of the connection.
    fn watch_keyframe_requests(&self, connection: &Connection) {
        let (events, track) = (connection.event_sender(), self.video.track.clone());
        tokio::spawn(async move {
            while let Some(TrackLocalEvent::OnRtcpPacket(_)) = track.poll().await {
                if events.send(Event::KeyframeRequested).await.is_err() {
                    return;
                }
            }
        });
    }

    async fn send_frame(&mut self, now: Instant, tick: u64) -> Result<(), SessionError> {
        let fps = u64::from(self.context.options.video.fps);
        let timestamp = (tick * 90_000 / fps) as u32;
        let payloads = self.source.next(Stamp {
            run: self.context.run,
            frame: self.frame,
            sent_us: crate::clock::since_start_us(now),
            layer: 0,
            key: self.keyframes.next_is_key(now),
        });
        self.frame += 1;
        let count = payloads.len();
        for (n, payload) in payloads.into_iter().enumerate() {
            self.video.send(timestamp, n + 1 == count, payload).await?;
            self.packets_sent += u64::from(self.counting);
        }
        Ok(())
    }

    async fn send_audio(&mut self, now: Instant, tick: u64) -> Result<(), SessionError> {
        let (run, sent_us) = (self.context.run, crate::clock::since_start_us(now));
        let payload =
            opus::silence(Stamp { run, frame: tick as u32, sent_us, layer: 0, key: true });
        let timestamp = (tick * opus::PACKET_CLOCK_UNITS) as u32;
        self.audio.send(timestamp, tick == 0, payload).await?;
        self.packets_sent += u64::from(self.counting);
        Ok(())
    }
}
