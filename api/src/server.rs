//! Listeners: they accept connections, close those that are overdue, and end all of them at a stop.
//!
//! HTTP/1.1 and HTTP/2 without TLS. Everything about requests is in `app.rs`; `connections.rs` counts,
//! `activity.rs` knows when a connection is overdue, `socket.rs` reads and writes. Called by `main.rs`, once
//! per listener.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Method;
use axum::response::IntoResponse;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tower::Service;

use crate::activity::{Activity, Timeouts};
use crate::connections::{Closed, ConnectionLimit};
use crate::headers;
use crate::socket::Socket;

/// Address at the other end of the connection, as an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Maximum header block in bytes; a longer one is refused with 431 (quality B2).
pub const HEADERS_MAX: usize = 16 * 1024;
/// Maximum concurrent requests on one HTTP/2 connection; one more is refused (REFUSED_STREAM).
pub const STREAMS_MAX: u32 = 32;
/// Maximum bytes of one HTTP/2 stream, and of all streams of a connection, that the client may send before they
/// are read. For a connection the standard allows no less, and it is as much as an offer may have.
const WINDOW: u32 = 65_535;
/// Maximum HTTP/2 frame in bytes, the smallest that the standard allows; a longer one ends the connection.
const FRAME_MAX: u32 = 16 * 1024;
/// Maximum bytes of one HTTP/2 stream that wait for the client's window or for the socket.
const SEND_BUFFER: usize = 64 * 1024;
/// Maximum HTTP/2 streams that the client opened and reset before they were looked at; with more the
/// connection is ended (rapid reset, CVE-2023-44487).
pub const RESETS_MAX: usize = 20;
/// Maximum HTTP/2 streams that this side reset because of what the client sent; with more the connection is
/// ended (MadeYouReset, CVE-2025-8671).
pub const ERRORS_MAX: usize = 64;
/// Interval of HTTP/2 pings, and the time after which an unanswered one ends the connection.
const PING: Duration = Duration::from_secs(20);
/// Time that requests in flight get when the server stops.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed `accept`, so that a lack of file descriptors does not make it spin (quality
/// B4 item 32).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The same after a connection was closed to have a file descriptor for the new one.
const EVICT_PAUSE: Duration = Duration::from_millis(1);

/// What the operator does about a lack of file descriptors.
pub const OPEN_FILES_REMEDY: &str = "; raise the limit of open files: `ulimit -n` of a shell, LimitNOFILE= of \
    systemd, `--ulimit nofile=` of Docker";

/// Connections that wait in the kernel until they are accepted. It takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;

/// The error numbers of Linux for "this process has, or all processes have, too many open files".
const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A listener at this address.
///
/// # Errors
/// Those of the system, as that another program has the port.
pub fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port can be used again at once after a stop.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Serves `app` until `stop` turns true, then lets requests in flight finish.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    connections: ConnectionLimit,
    timeouts: Timeouts,
    mut stop: watch::Receiver<bool>,
) {
    let builder = builder(timeouts);
    let stopped = stop.clone();
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let (mut refused, mut evicted) = (LimitedLog::default(), LimitedLog::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let needs_files = matches!(error.raw_os_error(), Some(EMFILE | ENFILE));
                let remedy = if needs_files { OPEN_FILES_REMEDY } else { "" };
                refused.log(|| {
                    tracing::warn!(%error, "a connection could not be accepted{remedy}");
                });
                // An evicted connection gives its file back at once; otherwise it would spin.
                let waits = !(needs_files && connections.make_room(Instant::now()));
                tokio::time::sleep(if waits { ACCEPT_PAUSE } else { EVICT_PAUSE }).await;
                continue;
            }
        };
        let now = Instant::now();
        let Some((place, displaced)) = connections.take(peer.ip(), now) else {
            refused.log(|| {
                tracing::warn!("the limit of open connections is reached; new ones are refused")
            });
            let _ = stream.try_write(FULL);
            continue;
        };
        if displaced {
            evicted.log(|| {
                tracing::warn!(
                    "the limit of open connections is reached; idle and slow ones are closed"
                )
            });
        }
        let activity = Activity::new(place, timeouts, now);
        let connection = Connection { stream: Arc::new(stream), peer, activity };
        let (app, builder, stopped) = (app.clone(), builder.clone(), stopped.clone());
        let open = open.clone();
        tokio::spawn(async move {
            connection.run(app, builder, stopped).await;
            drop(open);
        });
    }
    drop((listener, open));
    let _ = tokio::time::timeout(FINISH_TIMEOUT, all_closed.recv()).await;
}

fn builder(timeouts: Timeouts) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).title_case_headers(true);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.header)
        .max_buf_size(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

struct Connection {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    activity: Arc<Activity>,
}

impl Connection {
    async fn run(
        self,
        app: Router,
        builder: Builder<TokioExecutor>,
        mut stop: watch::Receiver<bool>,
    ) {
        let Self { stream, peer, activity } = self;
        let service = service_fn(|request: Request<Incoming>| {
            let (mut head, body) = request.into_parts();
            let compact = headers::compact(&mut head);
            let open = activity.begin(compact.as_ref().map_or(0, |bytes| *bytes));
            let mut app = app.clone();
            async move {
                let (mut open, refusal) = match open {
                    Ok(open) => (open, compact.err()),
                    Err((open, reason)) => (open, Some(headers::no_room(reason))),
                };
                open.start();
                if let Some(refusal) = refusal {
                    return Ok(refusal.into_response().map(|body| open.outgoing(body)));
                }
                // Answers to others are small, and wait for bodies that a client may send slowly.
                let body = if head.method == Method::GET {
                    drop(body);
                    open.wait_for_turn().await;
                    Body::empty()
                } else {
                    Body::new(open.incoming(body))
                };
                head.extensions.insert(Peer(peer));
                let response = app.call(Request::from_parts(head, body)).await?;
                Ok::<_, Infallible>(response.map(|body| open.outgoing(body)))
            }
        });
        let socket = TokioIo::new(Socket::new(stream.clone(), activity.clone()));
        let mut serving = pin!(builder.serve_connection(socket, service));
        let mut told = None;
        let end = loop {
            tokio::select! {
                ended = serving.as_mut() => {
                    let timed_out = ended.is_err_and(|error| {
                        tracing::debug!(%error, "connection ended");
                        error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
                    });
                    break match (timed_out, activity.was_asked()) {
                        (false, _) => End::Served,
                        (true, true) => End::Closed(Closed::Idle),
                        (true, false) => End::Closed(Closed::Silent),
                    };
                }
                // Until the protocol is known hyper has no timer of its own.
                closed = activity.overdue(told) => match closed {
                    Closed::Idle if told.is_some() => break End::Served,
                    Closed::Idle => {
                        activity.place().count(closed);
                        serving.as_mut().graceful_shutdown();
                        told = Some(Instant::now());
                    }
                    _ => break End::Closed(closed),
                },
                () = activity.place().evicted() => break End::Evicted,
                () = stopped(&mut stop), if told.is_none() => {
                    serving.as_mut().graceful_shutdown();
                    told = Some(Instant::now());
                }
            }
        };
        match end {
            End::Served => {}
            End::Closed(closed) => {
                activity.place().count(closed);
                tracing::debug!(reason = closed.label(), "connection closed");
                if closed == Closed::Silent && !activity.was_asked() {
                    let _ = stream.try_write(TOO_SLOW);
                }
            }
            End::Evicted => {
                serving.as_mut().graceful_shutdown();
                // Polled once, to write the notice: the place is given away.
                let _ = tokio::time::timeout(Duration::ZERO, serving).await;
            }
        }
    }
}

/// How a connection ended.
enum End {
    /// By its client, by a fault of its bytes, or after a notice.
    Served,
    /// It was overdue.
    Closed(Closed),
    /// Its place was given away.
    Evicted,
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Log line that is written at most once in ten seconds (quality B2, logs).
#[derive(Default)]
struct LimitedLog(Option<Instant>);

impl LimitedLog {
    fn log(&mut self, log: impl FnOnce()) {
        let now = Instant::now();
        if self.0.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(10)) {
            self.0 = Some(now);
            log();
        }
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
