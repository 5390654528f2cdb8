//! One light session from POST to DELETE; its media runs in an event loop.
//!
//! Knows neither what is sent nor what is checked: that is the [`Role`]'s. Called by `publisher`
//! and `viewer`. Next: `media_session`.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use reqwest::Url;
use tokio::sync::{oneshot, watch};

use crate::context::RunContext;
use crate::event_loop::LoopPool;
use crate::ice::Credentials;
use crate::media_session::MediaSession;
use crate::peer::Peer;
use crate::phase::Phase;
use crate::role::Role;
use crate::sdp::{self, Answer, OfferConfig};
use crate::session_error::SessionError;
use crate::whip::Http;

/// A session that the server has accepted.
pub(crate) struct Session {
    peer: Peer,
    socket: UdpSocket,
    http: Http,
    url: Url,
    /// The server's answer.
    pub(crate) answer: Answer,
}

impl Session {
    /// Posts the offer to `url` and opens the socket.
    ///
    /// # Errors
    /// If the server refuses the offer, or if its answer cannot be used.
    pub(crate) async fn open(
        context: &RunContext,
        url: &str,
        config: &OfferConfig,
    ) -> Result<Self, SessionError> {
        let local = Credentials::random();
        let offer = sdp::offer(config, &local, &context.identity);
        let created = context.http.post(url, offer).await?;
        let open_socket = || {
            let answer = sdp::parse_answer(&created.answer)?;
            let via = context.options.common.media_via;
            let peer = Peer::new(Instant::now(), context.identity.clone(), local, &answer, via)
                .map_err(|error| anyhow::anyhow!(error.text()))?;
            let any = match peer.remote_addr() {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            };
            anyhow::Ok((peer, UdpSocket::bind(any)?, answer))
        };
        match open_socket() {
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

    /// Runs the session in an event loop of `pool` until it is over. Returns the role, unless the
    /// event loop broke, and why the session ended.
    pub(crate) async fn run<R: Role>(
        self,
        pool: &LoopPool,
        role: R,
        phases: watch::Receiver<Phase>,
    ) -> (Option<R>, Result<(), SessionError>) {
        let (done, wait) = oneshot::channel();
        let ended = match MediaSession::new(self.peer, self.socket, role, phases, done) {
            Ok(session) => {
                pool.add(Box::new(session)).await;
                wait.await.map_err(|_| {
                    SessionError::Final("an event loop broke (a bug of this tool)".to_owned())
                })
            }
            Err(error) => Err(SessionError::Final(format!("socket options: {error}"))),
        };
        self.http.delete(self.url).await;
        match ended {
            Ok((role, end)) => (Some(role), end),
            Err(error) => (None, Err(error)),
        }
    }
}
