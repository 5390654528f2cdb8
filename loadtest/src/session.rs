//! The shell around one light session: the POST, the socket, the loop, the DELETE.
//!
//! Knows neither what is sent nor what is checked: that is the [`Role`]. Called by `publisher` and `viewer`; below it: `peer`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use reqwest::Url;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::live::Live;
use crate::options::Options;
use crate::peer::{Incoming, Over, Peer};
use crate::sdp::{self, Answer, Wish};
use crate::whip::Http;

/// Datagrams read before anything else has its turn.
const READ_BURST: usize = 64;

/// Largest datagram; media stays under 1500.
const DATAGRAM_MAX: usize = 2048;

/// What all sessions of a run share.
pub(crate) struct Context {
    /// What to do.
    pub(crate) options: Options,
    /// Our certificate.
    pub(crate) identity: Arc<Identity>,
    /// The way to the server's HTTP.
    pub(crate) http: Http,
    /// What can be seen meanwhile.
    pub(crate) live: Arc<Live>,
    /// This run's random number, in every stamp.
    pub(crate) run: u64,
}

/// Where the run is. Only ever goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connecting and warming up: nothing counts.
    Ramp,
    /// The counted window.
    Count,
    /// The window is over, repair may still arrive.
    Drain,
    /// Leave.
    Stop,
}

/// Dropped by a session when it is settled: its first frame has come, or it has failed.
pub(crate) type Settled = mpsc::Sender<()>;

/// What a session is for.
pub(crate) trait Role {
    /// The media keys are there.
    fn connected(&mut self, now: Instant);
    /// A media packet, protected.
    ///
    /// # Errors
    /// Ends the session.
    fn rtp(&mut self, now: Instant, peer: &mut Peer, datagram: &[u8]) -> Result<(), Over>;
    /// Reports or feedback.
    ///
    /// # Errors
    /// Ends the session.
    fn rtcp(&mut self, now: Instant, peer: &mut Peer, rtcp: Bytes) -> Result<(), Over>;
    /// When [`Self::handle_timeout`] wants to be called.
    fn deadline(&self) -> Option<Instant>;
    /// Does what is due.
    ///
    /// # Errors
    /// Ends the session.
    fn handle_timeout(&mut self, now: Instant, peer: &mut Peer) -> Result<(), Over>;
    /// The run goes on.
    fn phase(&mut self, now: Instant, phase: Phase);
}

/// A session that the server has accepted.
pub(crate) struct Session {
    peer: Peer,
    socket: UdpSocket,
    http: Http,
    url: Url,
    /// What the server answered.
    pub(crate) answer: Answer,
}

impl Session {
    /// Posts the offer and opens the socket.
    ///
    /// # Errors
    /// If the server refuses, or its answer is of no use.
    pub(crate) async fn open(context: &Context, url: &str, wish: &Wish) -> Result<Self, Over> {
        let local = Credentials::random();
        let offer = sdp::offer(wish, &local, &context.identity);
        let created = context.http.post(url, offer).await?;
        let usable = async {
            let answer = sdp::parse_answer(&created.answer)?;
            let via = context.options.media_via;
            let peer = Peer::new(Instant::now(), context.identity.clone(), local, &answer, via)
                .map_err(|over| anyhow::anyhow!(over.0))?;
            let any = match peer.remote_addr() {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            };
            anyhow::Ok((peer, UdpSocket::bind(any).await?, answer))
        };
        match usable.await {
            Ok((peer, socket, answer)) => {
                let (http, url) = (context.http.clone(), created.session);
                Ok(Self { peer, socket, http, url, answer })
            }
            Err(error) => {
                context.http.delete(created.session).await;
                Err(error.into())
            }
        }
    }

    /// Runs the session until it is told to stop or it is over. Says goodbye either way.
    ///
    /// # Errors
    /// Why it was over before its time.
    pub(crate) async fn run(
        mut self,
        role: &mut impl Role,
        phases: &mut watch::Receiver<Phase>,
    ) -> Result<(), Over> {
        let result = self.drive(role, phases).await;
        self.peer.close(Instant::now());
        let _ = self.flush().await;
        self.http.delete(self.url).await;
        result
    }

    async fn drive(
        &mut self,
        role: &mut impl Role,
        phases: &mut watch::Receiver<Phase>,
    ) -> Result<(), Over> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let timer = tokio::time::sleep_until(Instant::now().into());
        tokio::pin!(timer);
        role.phase(Instant::now(), *phases.borrow_and_update());
        loop {
            self.flush().await?;
            let deadline = role.deadline().into_iter().fold(self.peer.deadline(), Instant::min);
            if timer.deadline() != deadline.into() {
                timer.as_mut().reset(deadline.into());
            }
            tokio::select! {
                readable = self.socket.readable() => {
                    readable?;
                    for _ in 0..READ_BURST {
                        let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) else { break };
                        let datagram = buffer.get(..length).unwrap_or_default();
                        let now = Instant::now();
                        match self.peer.handle(now, from, datagram)? {
                            Incoming::Handled => {}
                            Incoming::Connected => role.connected(now),
                            Incoming::Rtp => role.rtp(now, &mut self.peer, datagram)?,
                            Incoming::Rtcp(rtcp) => role.rtcp(now, &mut self.peer, rtcp)?,
                        }
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    self.peer.handle_timeout(now)?;
                    role.handle_timeout(now, &mut self.peer)?;
                }
                changed = phases.changed() => {
                    changed?;
                    let phase = *phases.borrow_and_update();
                    if phase == Phase::Stop {
                        return Ok(());
                    }
                    role.phase(Instant::now(), phase);
                }
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        while let Some((datagram, to)) = self.peer.poll_transmit() {
            let sent = match self.socket.try_send_to(&datagram, to) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.socket.send_to(&datagram, to).await
                }
                sent => sent,
            };
            // Nobody may be listening yet, or any more: ICE finds out which.
            if let Err(error) = sent
                && error.kind() != std::io::ErrorKind::ConnectionRefused
            {
                return Err(Over(format!("sending to {to}: {error}")));
            }
        }
        Ok(())
    }
}
