//! Full clients: a `webrtc` PeerConnection for each publisher and viewer, an independent stack with its own ICE, DTLS, SRTP, NACK
//! and congestion feedback.
//!
//! Costs tens of microseconds per packet and several tasks per session: for a few. The pictures, the checks and the report are
//! the same as those of the light client. Spawned by `run`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use rtc::interceptor::{Attribute, Interceptor, Packet, Slot, StreamInfo, TaggedPacket};
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::interceptor_registry::register_default_interceptors;
use rtc::peer_connection::configuration::media_engine::{
    MIME_TYPE_H264, MIME_TYPE_OPUS, MIME_TYPE_VP8,
};
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
    RtpCodecKind,
};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use rtc::sansio::Protocol;
use rtc_rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use tokio::sync::{mpsc, watch};
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_local::{TrackLocal, TrackLocalEvent};
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCConfigurationBuilder, RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription,
    Registry,
};

use crate::live::Live;
use crate::measures::{PublisherResult, ViewerResult};
use crate::options::{Codec, Options};
use crate::peer::{CONNECT_TIMEOUT, Over};
use crate::publisher::{self, Beat, Keyframes};
use crate::receiver::Receiver;
use crate::rtp::{OutgoingPacket, HeaderView};
use crate::seat::Phase;
use crate::session::{Context, Settled};
use crate::stamp::Stamp;
use crate::video::{self, Source};
use crate::viewer::{self, FIRST_FRAME_TIMEOUT};

/// Gathering only looks at one local address.
const GATHER_TIMEOUT: Duration = Duration::from_secs(5);

/// Events and packets of one connection that wait for its task; past it the stack is held back.
const QUEUE: usize = 512;

const AUDIO_PT: u8 = 111;

/// Behind every interceptor of the stack, so that each has seen the feedback before it is handed up.
const APPLICATION_SLOT: usize = 14_000;

/// One full publisher from POST to DELETE.
pub(crate) async fn publish(
    context: Arc<Context>,
    index: u32,
    settled: Settled,
    mut phases: watch::Receiver<Phase>,
) -> PublisherResult {
    let mut part = PublisherResult::default();
    let result = async {
        let connection = Connection::open(&context).await?;
        let result = connection.publish(&context, index, settled, &mut phases, &mut part).await;
        connection.close(&context).await;
        result
    };
    part.failure = result.await.err().map(|over: Over| over.0);
    Live::add(&context.live.failed, u64::from(part.failure.is_some()));
    part
}

/// One full viewer from POST to DELETE.
pub(crate) async fn watch(
    context: Arc<Context>,
    index: u32,
    settled: Settled,
    mut phases: watch::Receiver<Phase>,
) -> ViewerResult {
    let started = Instant::now();
    let mut receiver = viewer::receiver(&context, index, started);
    let mut connected = None;
    let result = async {
        let connection = Connection::open(&context).await?;
        let watched =
            Watched { receiver: &mut receiver, connected: &mut connected, settled: Some(settled) };
        let result = connection.watch(&context, index, &mut phases, watched).await;
        connection.close(&context).await;
        result
    };
    let over = result.await;
    let counted = *phases.borrow() != Phase::Ramp;
    viewer::result(&context.live, receiver, started, connected, counted, over)
}

struct Watched<'a> {
    receiver: &'a mut Receiver,
    connected: &'a mut Option<Instant>,
    settled: Option<Settled>,
}

enum Event {
    Gathered,
    Connected,
    Gone(RTCPeerConnectionState),
    Track(Arc<dyn TrackRemote>),
    Packet { kind: RtpCodecKind, packet: rtc::rtp::Packet, at: Instant },
    KeyframeWanted,
}

/// A PeerConnection and what it tells.
struct Connection {
    pc: Arc<dyn PeerConnection>,
    events: tokio::sync::Mutex<mpsc::Receiver<Event>>,
    tell: mpsc::Sender<Event>,
    session: std::sync::Mutex<Option<Url>>,
}

struct Handler {
    tell: mpsc::Sender<Event>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.tell.send(Event::Gathered).await;
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let event = match state {
            RTCPeerConnectionState::Connected => Event::Connected,
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => Event::Gone(state),
            _ => return,
        };
        let _ = self.tell.send(event).await;
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let _ = self.tell.send(Event::Track(track)).await;
    }
}

fn codec(codec: Codec) -> (u8, RTCRtpCodec) {
    let (payload_type, mime_type, fmtp) = match codec {
        Codec::H264 => {
            let fmtp = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
            (102, MIME_TYPE_H264, fmtp)
        }
        Codec::Vp8 => (96, MIME_TYPE_VP8, ""),
    };
    let codec = RTCRtpCodec {
        mime_type: mime_type.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: fmtp.to_owned(),
        rtcp_feedback: vec![],
    };
    (payload_type, codec)
}

fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: vec![],
    }
}

/// A local track with one random source.
fn track(kind: RtpCodecKind, codec: RTCRtpCodec, ssrc: u32) -> Arc<TrackLocalStaticRTP> {
    let coding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
        codec,
        ..Default::default()
    };
    let name = if kind == RtpCodecKind::Video { "video" } else { "audio" };
    let track = MediaStreamTrack::new(
        "load".to_owned(),
        name.to_owned(),
        name.to_owned(),
        kind,
        vec![coding],
    );
    Arc::new(TrackLocalStaticRTP::new(track))
}

impl Connection {
    async fn open(context: &Context) -> Result<Self, Over> {
        let options = &context.options;
        let mut engine = MediaEngine::default();
        let (payload_type, rtp_codec) = codec(options.video.codec);
        let video = RTCRtpCodecParameters { rtp_codec, payload_type };
        engine.register_codec(video, RtpCodecKind::Video)?;
        if options.audio {
            let audio = RTCRtpCodecParameters { rtp_codec: opus(), payload_type: AUDIO_PT };
            engine.register_codec(audio, RtpCodecKind::Audio)?;
        }
        let registry = register_default_interceptors(Registry::new(), &mut engine)?
            .with(Slot::Custom(APPLICATION_SLOT), KeyframeRequests::default());
        let (tell, events) = mpsc::channel(QUEUE);
        let pc = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::default().build())
            .with_media_engine(engine)
            .with_interceptor_registry(registry)
            .with_handler(Arc::new(Handler { tell: tell.clone() }))
            .with_udp_addrs(vec![SocketAddr::new(local_ip(options).await?, 0)])
            .build()
            .await?;
        Ok(Self {
            pc: Arc::new(pc),
            events: tokio::sync::Mutex::new(events),
            tell,
            session: std::sync::Mutex::new(None),
        })
    }

    /// Offer, POST, answer, and the wait for the connection. Tracks that come meanwhile are read from at once.
    async fn connect(&self, context: &Context, url: &str) -> Result<(), Over> {
        let offer = self.pc.create_offer(None).await?;
        self.pc.set_local_description(offer).await?;
        let mut events = self.events.lock().await;
        let gathered =
            async { while !matches!(events.recv().await, Some(Event::Gathered) | None) {} };
        tokio::time::timeout(GATHER_TIMEOUT, gathered).await?;
        let offer = self
            .pc
            .local_description()
            .await
            .ok_or_else(|| Over("no local description".to_owned()))?;
        let created = context.http.post(url, offer.sdp).await?;
        *self.session.lock().expect("nobody panics while holding it") = Some(created.session);
        self.pc.set_remote_description(RTCSessionDescription::answer(created.answer)?).await?;
        let connected = async {
            loop {
                match events.recv().await {
                    Some(Event::Connected) => return Ok(()),
                    Some(Event::Gone(state)) => {
                        return Err(Over(format!("the connection is {state}")));
                    }
                    Some(Event::Track(track)) => self.read(track),
                    Some(_) => {}
                    None => return Err(Over("the connection is gone".to_owned())),
                }
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connected)
            .await
            .map_err(|_| Over(format!("not connected within {} s", CONNECT_TIMEOUT.as_secs())))?
    }

    /// Sends what arrives on a track to this connection's events, until the track ends.
    fn read(&self, track: Arc<dyn TrackRemote>) {
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let kind = track.kind().await;
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event
                    && tell.send(Event::Packet { kind, packet, at: Instant::now() }).await.is_err()
                {
                    return;
                }
            }
        });
    }

    async fn watch(
        &self,
        context: &Context,
        index: u32,
        phases: &mut watch::Receiver<Phase>,
        mut watched: Watched<'_>,
    ) -> Result<(), Over> {
        let recvonly = || RTCRtpTransceiverInit {
            direction: RTCRtpTransceiverDirection::Recvonly,
            ..Default::default()
        };
        if context.options.audio {
            self.pc.add_transceiver_from_kind(RtpCodecKind::Audio, Some(recvonly())).await?;
        }
        self.pc.add_transceiver_from_kind(RtpCodecKind::Video, Some(recvonly())).await?;
        self.connect(context, &context.options.whep_url(index)).await?;
        let connected = Instant::now();
        *watched.connected = Some(connected);
        Live::add(&context.live.watching, 1);

        let mut video_track: Option<(Arc<dyn TrackRemote>, u32)> = None;
        let receiver = watched.receiver;
        let mut events = self.events.lock().await;
        receiver.set_counting(connected, *phases.borrow_and_update() == Phase::Count);
        loop {
            let first = receiver.first_frame().is_none().then_some(connected + FIRST_FRAME_TIMEOUT);
            let late = Instant::now() + Duration::from_secs(1);
            let deadline = receiver.deadline().into_iter().chain(first).fold(late, Instant::min);
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Track(track)) => {
                        if track.kind().await == RtpCodecKind::Video && let Some(ssrc) = track.ssrcs().await.first() {
                            video_track = Some((track.clone(), *ssrc));
                        }
                        self.read(track);
                    }
                    Some(Event::Packet { kind, packet, at }) => {
                        let view = HeaderView::of(&packet.header);
                        let length = view.payload_at + packet.payload.len();
                        match kind {
                            RtpCodecKind::Video => {
                                // The stack may name the track only once its first packet is there.
                                let payload = receiver.needs_payload().then_some(packet.payload);
                                receiver.on_video(at, &view, payload, length);
                            }
                            _ => receiver.on_audio(at, &view, Some(&packet.payload), length),
                        }
                        if receiver.first_frame().is_some() {
                            watched.settled = None;
                        }
                    }
                    Some(Event::Gone(state)) => return Err(Over(format!("the connection is {state}"))),
                    Some(_) => {}
                    None => return Err(Over("the connection is gone".to_owned())),
                },
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = Instant::now();
                    if first.is_some_and(|first| now >= first) {
                        return Err(viewer::no_first_frame());
                    }
                    // The stack asks for lost packets itself.
                    let requests = receiver.handle_timeout(now);
                    if requests.keyframe && let Some((track, media_ssrc)) = &video_track {
                        let pli = PictureLossIndication { sender_ssrc: 0, media_ssrc: *media_ssrc };
                        track.write_rtcp(vec![Box::new(pli)]).await?;
                    }
                    context.live.add_progress(receiver.take_progress());
                }
                changed = phases.changed() => {
                    changed?;
                    let phase = *phases.borrow_and_update();
                    receiver.set_counting(Instant::now(), phase == Phase::Count);
                    if phase == Phase::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn publish(
        &self,
        context: &Context,
        index: u32,
        settled: Settled,
        phases: &mut watch::Receiver<Phase>,
        part: &mut PublisherResult,
    ) -> Result<(), Over> {
        let options = &context.options;
        let (payload_type, video_codec) = codec(options.video.codec);
        let (video_ssrc, audio_ssrc) = (rand::random::<u32>() | 1, rand::random::<u32>() | 1);
        let video = track(RtpCodecKind::Video, video_codec, video_ssrc);
        let audio = track(RtpCodecKind::Audio, opus(), audio_ssrc);
        if options.audio {
            self.pc.add_track(audio.clone()).await?;
        }
        self.pc.add_track(video.clone()).await?;
        self.connect(context, &options.whip_url(index)).await?;
        drop(settled);
        Live::add(&context.live.publishing, 1);

        let (tell, feedback) = (self.tell.clone(), video.clone());
        tokio::spawn(async move {
            while let Some(TrackLocalEvent::OnRtcpPacket(_)) = feedback.poll().await {
                if tell.send(Event::KeyframeWanted).await.is_err() {
                    return;
                }
            }
        });

        let start = Instant::now();
        let (mut video_beat, mut audio_beat) =
            (Beat::new(start, options.video.fps), Beat::new(start, 50));
        let mut keyframes = Keyframes::new(&options.video);
        let layer = *video::layers(&options.video).last().expect("there is a layer");
        let mut source = Source::new(&options.video, layer);
        let (mut video_sequence, mut audio_sequence) =
            (rand::random::<u16>(), rand::random::<u16>());
        let mut frame = 0;
        let mut events = self.events.lock().await;
        let mut counting = *phases.borrow_and_update() == Phase::Count;
        loop {
            let mut next = video_beat.next();
            if options.audio {
                next = next.min(audio_beat.next());
            }
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {
                    let now = Instant::now();
                    if let Some(tick) = video_beat.take(now) {
                        let key = keyframes.next(now);
                        let stamp = Stamp { run: context.run, frame, sent_us: crate::since_start_us(now), layer: 0, key };
                        frame += 1;
                        let timestamp = (tick * 90_000 / u64::from(options.video.fps)) as u32;
                        let payloads = source.next(stamp);
                        let last = payloads.len().saturating_sub(1);
                        for (n, payload) in payloads.into_iter().enumerate() {
                            video_sequence = video_sequence.wrapping_add(1);
                            let packet = OutgoingPacket::new(payload_type, video_sequence, timestamp, video_ssrc, n == last, &[], payload);
                            video.write_rtp(packet.into()).await?;
                            part.packets_sent += u64::from(counting);
                        }
                    }
                    if options.audio && let Some(tick) = audio_beat.take(now) {
                        audio_sequence = audio_sequence.wrapping_add(1);
                        let sent_us = crate::since_start_us(now);
                        let stamp = Stamp { run: context.run, frame: tick as u32, sent_us, layer: 0, key: true };
                        let (timestamp, opus) = ((tick * 960) as u32, publisher::opus_silence(stamp));
                        let packet = OutgoingPacket::new(AUDIO_PT, audio_sequence, timestamp, audio_ssrc, tick == 0, &[], opus);
                        audio.write_rtp(packet.into()).await?;
                        part.packets_sent += u64::from(counting);
                    }
                }
                event = events.recv() => match event {
                    Some(Event::KeyframeWanted) => keyframes.ask(),
                    Some(Event::Gone(state)) => return Err(Over(format!("the connection is {state}"))),
                    Some(_) => {}
                    None => return Err(Over("the connection is gone".to_owned())),
                },
                changed = phases.changed() => {
                    changed?;
                    let phase = *phases.borrow_and_update();
                    counting = phase == Phase::Count;
                    if phase == Phase::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn close(&self, context: &Context) {
        let _ = self.pc.close().await;
        let session = self.session.lock().expect("nobody panics while holding it").take();
        if let Some(session) = session {
            context.http.delete(session).await;
        }
    }
}

/// The local address from which the server is reached.
async fn local_ip(options: &Options) -> Result<std::net::IpAddr, Over> {
    let url =
        if options.common.whep.is_empty() { options.whip_url(0) } else { options.whep_url(0) };
    let url = Url::parse(&url)?;
    let host = url.host_str().ok_or_else(|| Over("the URL has no host".to_owned()))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let host = host.trim_matches(['[', ']']);
    let server = tokio::net::lookup_host((host, port)).await?.next();
    let server = server.ok_or_else(|| Over(format!("{host} has no address")))?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket.local_addr()?.ip())
}

impl From<OutgoingPacket> for rtc::rtp::Packet {
    fn from(packet: OutgoingPacket) -> Self {
        Self { header: packet.header, payload: packet.payload }
    }
}

/// Marks incoming keyframe requests for the application; the stack keeps all other feedback to itself.
#[derive(Default)]
struct KeyframeRequests {
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for KeyframeRequests {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = rtc_shared::error::Error;
    type Time = Instant;

    fn handle_read(&mut self, mut message: TaggedPacket) -> Result<(), Self::Error> {
        if let Packet::Rtcp(packets) = &message.message.packet
            && packets.iter().any(|packet| {
                packet.as_any().is::<PictureLossIndication>()
                    || packet.as_any().is::<FullIntraRequest>()
            })
        {
            message.message.add(Attribute::DeliverToApplication);
        }
        self.incoming.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), Self::Error> {
        self.outgoing.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }
}

impl Interceptor for KeyframeRequests {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
