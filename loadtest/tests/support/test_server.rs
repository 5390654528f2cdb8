//! A small WHIP/WHEP server of independent parts (`webrtc` and axum). It forwards one stream per
//! name, with a given fault.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::interceptor_registry::register_default_interceptors;
use rtc::peer_connection::configuration::media_engine::{
    MIME_TYPE_H264, MIME_TYPE_OPUS, MIME_TYPE_VP8,
};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
    RtpCodecKind,
};
use tokio::sync::{broadcast, mpsc};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription, Registry,
};

/// What the server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Changes one byte of every hundredth video packet before the packet is protected.
    AltersBytes,
    /// Leaves out every fortieth frame, without a gap in the sequence numbers.
    LeavesOutFrames,
}

/// A running server.
#[derive(Clone)]
pub(crate) struct TestServer {
    /// Its HTTP address.
    pub(crate) http: SocketAddr,
    state: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    viewer_port: u16,
    streams: Mutex<HashMap<String, Stream>>,
    sessions: Mutex<HashMap<String, Arc<dyn PeerConnection>>>,
}

#[derive(Clone)]
struct Stream {
    packets: broadcast::Sender<(bool, rtc::rtp::Packet)>,
    keyframe: mpsc::Sender<()>,
}

impl TestServer {
    /// Starts the server. Viewers get their media from UDP port `viewer_port` (0: any port, which
    /// is needed for several viewers).
    pub(crate) async fn start(fault: Fault, viewer_port: u16) -> Self {
        let state = Arc::new(Shared {
            fault,
            viewer_port,
            streams: Mutex::default(),
            sessions: Mutex::default(),
        });
        let app = Router::new()
            .route("/whip/{stream}", post(whip))
            .route("/whep/{stream}", post(whep))
            .route("/session/{id}", delete(end))
            .with_state(state.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let http = listener.local_addr().expect("is bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { http, state }
    }

    /// The URL of `stream`; `role` is `whip` or `whep`.
    pub(crate) fn url(&self, role: &str, stream: &str) -> String {
        format!("http://{}/{role}/{stream}", self.http)
    }

    /// Sessions that were not deleted.
    pub(crate) fn sessions(&self) -> usize {
        self.state.sessions.lock().expect("not poisoned").len()
    }
}

struct Handler {
    gathered: mpsc::Sender<()>,
    /// For a publisher: the receivers of its packets, and the channel of keyframe requests.
    stream: Option<Stream>,
    keyframe_requests: tokio::sync::Mutex<Option<mpsc::Receiver<()>>>,
    /// For a viewer: requests a keyframe from its publisher.
    request_keyframe: Option<mpsc::Sender<()>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.gathered.try_send(());
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        if state == RTCPeerConnectionState::Connected
            && let Some(request_keyframe) = &self.request_keyframe
        {
            let _ = request_keyframe.try_send(());
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let Some(stream) = self.stream.clone() else { return };
        let is_video = track.kind().await == RtpCodecKind::Video;
        if is_video
            && let Some(mut requests) = self.keyframe_requests.lock().await.take()
            && let Some(media_ssrc) = track.ssrcs().await.first().copied()
        {
            let track = track.clone();
            tokio::spawn(async move {
                while requests.recv().await.is_some() {
                    let pli = PictureLossIndication { sender_ssrc: 0, media_ssrc };
                    let _ = track.write_rtcp(vec![Box::new(pli)]).await;
                }
            });
        }
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event {
                    let _ = stream.packets.send((is_video, packet));
                }
            }
        });
    }
}

fn engine(offer: &str) -> (MediaEngine, RTCRtpCodec, RTCRtpCodec) {
    let video = |mime: &str, fmtp: &str| RTCRtpCodec {
        mime_type: mime.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: fmtp.to_owned(),
        rtcp_feedback: vec![],
    };
    let (payload_type, video) = if offer.contains("VP8") {
        (96, video(MIME_TYPE_VP8, ""))
    } else {
        let fmtp = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
        (102, video(MIME_TYPE_H264, fmtp))
    };
    let audio = RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: vec![],
    };
    let mut engine = MediaEngine::default();
    for (payload_type, codec, kind) in
        [(payload_type, &video, RtpCodecKind::Video), (111, &audio, RtpCodecKind::Audio)]
    {
        let codec = RTCRtpCodecParameters { rtp_codec: codec.clone(), payload_type };
        engine.register_codec(codec, kind).expect("the codec is accepted");
    }
    (engine, video, audio)
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Answers the offer of a publisher, or of a viewer that gets `tracks`.
async fn answer(
    state: &Shared,
    offer: String,
    port: u16,
    publisher: Option<(Stream, mpsc::Receiver<()>)>,
    request_keyframe: Option<mpsc::Sender<()>>,
    tracks: &[Arc<TrackLocalStaticRTP>],
) -> Result<Response, Failure> {
    let (gathered, mut wait) = mpsc::channel(1);
    let (stream, requests) = publisher.unzip();
    let handler =
        Handler { gathered, stream, keyframe_requests: requests.into(), request_keyframe };
    let (mut engine, _, _) = engine(&offer);
    let registry = register_default_interceptors(Registry::new(), &mut engine)?;
    let pc: Arc<dyn PeerConnection> = Arc::new(
        PeerConnectionBuilder::new()
            .with_media_engine(engine)
            .with_interceptor_registry(registry)
            .with_handler(Arc::new(handler))
            .with_udp_addrs(vec![SocketAddr::from(([127, 0, 0, 1], port))])
            .build()
            .await?,
    );
    for track in tracks {
        pc.add_track(track.clone()).await?;
    }
    pc.set_remote_description(RTCSessionDescription::offer(offer)?).await?;
    let answer = pc.create_answer(None).await?;
    pc.set_local_description(answer).await?;
    wait.recv().await;
    let sdp = pc.local_description().await.ok_or("no description")?.sdp;
    let id = format!("{:p}", Arc::as_ptr(&pc));
    let location = format!("/session/{id}");
    state.sessions.lock().expect("not poisoned").insert(id, pc);
    let headers =
        [(header::CONTENT_TYPE, "application/sdp".to_owned()), (header::LOCATION, location)];
    Ok((StatusCode::CREATED, headers, sdp).into_response())
}

fn refused(error: Failure) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

async fn whip(
    State(state): State<Arc<Shared>>,
    Path(name): Path<String>,
    offer: String,
) -> Response {
    let (packets, _) = broadcast::channel(2048);
    let (keyframe, requests) = mpsc::channel(1);
    let stream = Stream { packets, keyframe };
    state.streams.lock().expect("not poisoned").insert(name, stream.clone());
    answer(&state, offer, 0, Some((stream, requests)), None, &[]).await.unwrap_or_else(refused)
}

async fn whep(
    State(state): State<Arc<Shared>>,
    Path(name): Path<String>,
    offer: String,
) -> Response {
    let Some(stream) = state.streams.lock().expect("not poisoned").get(&name).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (_, video, audio) = engine(&offer);
    let with_audio = offer.contains("m=audio");
    let track = |kind, codec, ssrc: u32, name: &str| {
        let coding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters {
                ssrc: Some(ssrc),
                ..Default::default()
            },
            codec,
            ..Default::default()
        };
        let name = name.to_owned();
        let track =
            MediaStreamTrack::new("test".to_owned(), name.clone(), name, kind, vec![coding]);
        Arc::new(TrackLocalStaticRTP::new(track))
    };
    let video = track(RtpCodecKind::Video, video, 1111, "video");
    let audio = track(RtpCodecKind::Audio, audio, 2222, "audio");
    let tracks = if with_audio { vec![audio.clone(), video.clone()] } else { vec![video.clone()] };
    let response = match answer(
        &state,
        offer,
        state.viewer_port,
        None,
        Some(stream.keyframe.clone()),
        &tracks,
    )
    .await
    {
        Ok(response) => response,
        Err(error) => return refused(error),
    };
    let fault = state.fault;
    tokio::spawn(async move {
        let mut packets = stream.packets.subscribe();
        let mut numbering = VideoNumbering::default();
        while let Ok((is_video, mut packet)) = packets.recv().await {
            let out = if is_video { &video } else { &audio };
            packet.header.extensions.clear();
            packet.header.extension = false;
            packet.header.ssrc = if is_video { 1111 } else { 2222 };
            if is_video && !numbering.passes(fault, &mut packet) {
                continue;
            }
            if !is_video {
                packet.header.sequence_number = packet.header.sequence_number.wrapping_add(7);
            }
            // This fails before the viewer is connected, and after it has left.
            let _ = out.write_rtp(packet).await;
        }
    });
    response
}

/// The sequence numbers of one viewer's video, and the fault in it.
#[derive(Default)]
struct VideoNumbering {
    sequence: u16,
    packets: u64,
    frames: u64,
    leaving_out: Option<u32>,
}

impl VideoNumbering {
    fn passes(&mut self, fault: Fault, packet: &mut rtc::rtp::Packet) -> bool {
        self.packets += 1;
        match fault {
            Fault::None => {}
            Fault::AltersBytes if self.packets.is_multiple_of(100) => {
                let mut bytes = packet.payload.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x08;
                packet.payload = bytes.into();
            }
            Fault::AltersBytes => {}
            Fault::LeavesOutFrames => {
                if self.leaving_out == Some(packet.header.timestamp) {
                    return false;
                }
                self.frames += u64::from(packet.header.marker);
                if packet.header.marker && self.frames.is_multiple_of(40) {
                    // The next frame is 1/30 s later.
                    self.leaving_out = Some(packet.header.timestamp.wrapping_add(3000));
                }
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        packet.header.sequence_number = self.sequence;
        true
    }
}

async fn end(State(state): State<Arc<Shared>>, Path(id): Path<String>) -> StatusCode {
    let session = state.sessions.lock().expect("not poisoned").remove(&id);
    match session {
        Some(pc) => {
            let _ = pc.close().await;
            StatusCode::OK
        }
        None => StatusCode::NOT_FOUND,
    }
}
