//! The control side of one light session: the POST, the socket, a seat in a loop, the DELETE.
//!
//! Knows neither what is sent nor what is checked: that is the [`Role`]. Called by `publisher` and `viewer`; media runs in `seat`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use reqwest::Url;
use tokio::sync::{mpsc, oneshot, watch};

use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::live::Live;
use crate::options::Options;
use crate::peer::{Over, Peer};
use crate::pool::Pool;
use crate::sdp::{self, Answer, Wish};
use crate::seat::{Phase, Role, Taken};
use crate::whip::Http;

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
    /// Loops for publishers, apart from those of viewers: their beat shall not wait for what viewers receive.
    pub(crate) publishing: Pool,
    /// Loops for viewers.
    pub(crate) watching: Pool,
}

/// Dropped by a session when it is settled: its first frame has come, or it has failed.
pub(crate) type Settled = mpsc::Sender<()>;

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
        let usable = || {
            let answer = sdp::parse_answer(&created.answer)?;
            let via = context.options.common.media_via;
            let peer = Peer::new(Instant::now(), context.identity.clone(), local, &answer, via)
                .map_err(|over| anyhow::anyhow!(over.0))?;
            let any = match peer.remote_addr() {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            };
            anyhow::Ok((peer, UdpSocket::bind(any)?, answer))
        };
        match usable() {
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

    /// Runs the session in a loop of `pool` until it is told to stop or it is over. Gives the role back, unless the loop broke.
    pub(crate) async fn run<R: Role>(
        self,
        pool: &Pool,
        role: R,
        phases: watch::Receiver<Phase>,
    ) -> (Option<R>, Result<(), Over>) {
        let (done, wait) = oneshot::channel();
        let seated = match Taken::new(self.peer, self.socket, role, phases, done) {
            Ok(seat) => {
                pool.take(Box::new(seat)).await;
                wait.await.map_err(|_| Over("a loop broke (a bug of this tool)".to_owned()))
            }
            Err(error) => Err(Over(format!("socket options: {error}"))),
        };
        self.http.delete(self.url).await;
        match seated {
            Ok((role, result)) => (Some(role), result),
            Err(over) => (None, Err(over)),
        }
    }
}
