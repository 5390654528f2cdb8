//! Sockets: accepts connections, limits their number and their silence, and closes them at a stop.
//!
//! HTTP/1.1 and HTTP/2 without TLS. Everything about requests is in `app.rs`; the counting is in
//! `limits.rs`. Called by `main.rs`, once per listener.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::Service;

use crate::limits::{ConnectionLimit, ConnectionPermit};

/// Address at the other end of the connection, as an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Time for the headers of a request, and after which a silent connection is closed (quality B2).
/// Before the first request the client gets 408, later a plain close.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum header block in bytes; a longer one is refused with 431 (quality B2).
const HEADERS_MAX: usize = 16 * 1024;
/// Maximum concurrent requests on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// Interval of HTTP/2 pings, and the time after which an unanswered one ends the connection.
const PING: Duration = Duration::from_secs(20);
/// Time that requests in flight get when the server stops.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed `accept`, so that a lack of file descriptors does not make it spin (quality
/// B4 item 32).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Serves `app` until `stop` turns true, then lets requests in flight finish.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    connections: ConnectionLimit,
    mut stop: watch::Receiver<bool>,
) {
    let builder = builder();
    let graceful = GracefulShutdown::new();
    let mut refused = LimitedLog::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                refused.log(|| tracing::warn!(%error, "a connection could not be accepted"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(permit) = connections.take(peer.ip()) else {
            refused.log(|| {
                tracing::warn!("the limit of open connections is reached; new ones are refused")
            });
            let _ = stream.try_write(FULL);
            continue;
        };
        // Responses are small, and clients wait for them.
        let _ = stream.set_nodelay(true);
        let connection = Connection { stream: Shared(Arc::new(stream)), peer, permit };
        tokio::spawn(connection.run(app.clone(), builder.clone(), graceful.watcher()));
    }
    drop(listener);
    let _ = tokio::time::timeout(FINISH_TIMEOUT, graceful.shutdown()).await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).title_case_headers(true);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

struct Connection {
    stream: Shared,
    peer: SocketAddr,
    permit: ConnectionPermit,
}

impl Connection {
    async fn run(
        self,
        app: Router,
        builder: Builder<TokioExecutor>,
        watcher: hyper_util::server::graceful::Watcher,
    ) {
        let Self { stream, peer, permit } = self;
        let asked = Arc::new(AtomicBool::new(false));
        let service = service_fn(|mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Peer(peer));
            app.clone().call(request)
        });
        let serving = builder.serve_connection(TokioIo::new(stream.clone()), service);
        // Until the protocol is known hyper has no timer of its own, so the first request is timed
        // here: a connection that sends no request is closed.
        let silent = async {
            tokio::time::sleep(HEADER_TIMEOUT).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let too_slow = tokio::select! {
            ended = watcher.watch(serving) => ended.is_err_and(|error| {
                tracing::debug!(%error, "connection ended");
                error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
            }),
            () = silent => true,
        };
        if too_slow && !asked.load(Ordering::Relaxed) {
            let _ = stream.0.try_write(TOO_SLOW);
        }
        drop(permit);
    }
}

/// Log line that is written at most once in ten seconds (quality B2, logs).
#[derive(Default)]
struct LimitedLog(Option<tokio::time::Instant>);

impl LimitedLog {
    fn log(&mut self, log: impl FnOnce()) {
        let now = tokio::time::Instant::now();
        if self.0.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(10)) {
            self.0 = Some(now);
            log();
        }
    }
}

/// TCP stream that can still be written to after hyper has given it up.
#[derive(Clone)]
struct Shared(Arc<TcpStream>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Shared {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

/// Raises the soft limit of open files to the hard one: the default of 1,024 is below the
/// connection limits. Returns the limit that is now in force, if there is one.
pub fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current
}
