//! One PeerConnection of a full client: offer, POST, answer, events, DELETE.
//!
//! Knows nothing of frames. Used by `publisher` and `viewer` of this folder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use rtc::interceptor::Slot;
use rtc::peer_connection::configuration::interceptor_registry::register_default_interceptors;
use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use tokio::sync::mpsc;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCConfigurationBuilder, RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription,
    Registry,
};

use super::codecs;
use super::keyframe_requests::KeyframeRequests;
use crate::context::RunContext;
use crate::options::Options;
use crate::peer::CONNECT_TIMEOUT;
use crate::session_error::SessionError;

/// Maximum time for gathering, which only looks at one local address.
const GATHER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum events and packets that wait for the task of a connection. Above it the PeerConnection
/// has to wait.
const QUEUE_MAX: usize = 512;

/// Position behind every interceptor of the `webrtc` crate, so that each has seen the feedback
/// before the application gets it.
const APPLICATION_SLOT: usize = 14_000;

/// What happened on a connection.
pub(super) enum Event {
    /// All local candidates are known.
    Gathered,
    /// ICE and DTLS are done.
    Connected,
    /// The connection failed or was closed.
    Disconnected(RTCPeerConnectionState),
    /// The server sends a track.
    Track(Arc<dyn TrackRemote>),
    /// A packet of a track that [`Connection::read_track`] reads.
    Packet {
        /// Audio or video.
        kind: RtpCodecKind,
        /// The decrypted packet.
        packet: rtc::rtp::Packet,
        /// When it was read.
        at: Instant,
    },
    /// The server requested a keyframe.
    KeyframeRequested,
}

/// A PeerConnection and its events.
pub(super) struct Connection {
    /// The PeerConnection.
    pub(super) pc: Arc<dyn PeerConnection>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    /// URL of the session, once the server has created it.
    session: Option<Url>,
}

struct Handler {
    sender: mpsc::Sender<Event>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.sender.send(Event::Gathered).await;
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let event = match state {
            RTCPeerConnectionState::Connected => Event::Connected,
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => {
                Event::Disconnected(state)
            }
            _ => return,
        };
        let _ = self.sender.send(event).await;
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let _ = self.sender.send(Event::Track(track)).await;
    }
}

impl Connection {
    /// A new PeerConnection with the codecs of the run.
    pub(super) async fn open(context: &RunContext) -> Result<Self, SessionError> {
        let options = &context.options;
        let mut engine = MediaEngine::default();
        engine.register_codec(codecs::video(options.video.codec), RtpCodecKind::Video)?;
        if options.audio {
            engine.register_codec(codecs::opus(), RtpCodecKind::Audio)?;
        }
        let registry = register_default_interceptors(Registry::new(), &mut engine)?
            .with(Slot::Custom(APPLICATION_SLOT), KeyframeRequests::default());
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        let pc = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::default().build())
            .with_media_engine(engine)
            .with_interceptor_registry(registry)
            .with_handler(Arc::new(Handler { sender: sender.clone() }))
            .with_udp_addrs(vec![SocketAddr::new(local_ip(options).await?, 0)])
            .build()
            .await?;
        Ok(Self { pc: Arc::new(pc), events, sender, session: None })
    }

    /// Sends the offer to `url`, applies the answer, and waits until media can flow. Tracks that
    /// arrive meanwhile are read.
    pub(super) async fn connect(
        &mut self,
        context: &RunContext,
        url: &str,
    ) -> Result<(), SessionError> {
        let offer = self.pc.create_offer(None).await?;
        self.pc.set_local_description(offer).await?;
        let gathered =
            async { while !matches!(self.events.recv().await, Some(Event::Gathered) | None) {} };
        tokio::time::timeout(GATHER_TIMEOUT, gathered).await?;
        let offer = self
            .pc
            .local_description()
            .await
            .ok_or_else(|| SessionError::Final("no local description".to_owned()))?;
        let created = context.http.post(url, offer.sdp).await?;
        self.session = Some(created.session);
        self.pc.set_remote_description(RTCSessionDescription::answer(created.answer)?).await?;
        let connected = async {
            loop {
                match self.next_event().await? {
                    Event::Connected => return Ok(()),
                    Event::Track(track) => self.read_track(track),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connected).await.map_err(|_| {
            SessionError::Final(format!("not connected within {} s", CONNECT_TIMEOUT.as_secs()))
        })?
    }

    /// The next event.
    ///
    /// # Errors
    /// If the connection is over.
    pub(super) async fn next_event(&mut self) -> Result<Event, SessionError> {
        match self.events.recv().await {
            Some(Event::Disconnected(state)) => {
                Err(SessionError::Final(format!("the connection is {state}")))
            }
            Some(event) => Ok(event),
            None => Err(SessionError::Final("the connection is gone".to_owned())),
        }
    }

    /// A sender for events of this connection.
    pub(super) fn event_sender(&self) -> mpsc::Sender<Event> {
        self.sender.clone()
    }

    /// Reads a track until it ends, and turns its packets into events of this connection.
    pub(super) fn read_track(&self, track: Arc<dyn TrackRemote>) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let kind = track.kind().await;
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event
                    && sender
                        .send(Event::Packet { kind, packet, at: Instant::now() })
                        .await
                        .is_err()
                {
                    return;
                }
            }
        });
    }

    /// Closes the PeerConnection and deletes the session.
    pub(super) async fn close(self, context: &RunContext) {
        let _ = self.pc.close().await;
        if let Some(session) = self.session {
            context.http.delete(session).await;
        }
    }
}

/// The local address from which the server is reached.
async fn local_ip(options: &Options) -> Result<std::net::IpAddr, SessionError> {
    let url =
        if options.common.whep.is_empty() { options.whip_url(0) } else { options.whep_url(0) };
    let url = Url::parse(&url)?;
    let host =
        url.host_str().ok_or_else(|| SessionError::Final("the URL has no host".to_owned()))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let host = host.trim_matches(['[', ']']);
    let server = tokio::net::lookup_host((host, port)).await?.next();
    let server = server.ok_or_else(|| SessionError::Final(format!("{host} has no address")))?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket.local_addr()?.ip())
}
