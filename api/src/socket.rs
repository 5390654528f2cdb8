//! TCP stream of one connection: it ends when nothing can be written for too long, or when too many bytes
//! come that belong to no request.
//!
//! Has the bytes looked at by `header_block.rs`, and changes none. Made by `server.rs` for hyper; reports to `activity.rs`.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::activity::Activity;
use crate::connections::Closed;
use crate::header_block::HeaderBlocks;

/// Bytes of responses that the kernel holds for one client. Linux counts its own overhead too and doubles
/// the figure.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of requests that the kernel holds for one client.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Time after which the kernel drops bytes that a client does not acknowledge, also of a connection that was
/// closed here.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// TCP stream that can still be written to after hyper has given it up.
pub struct Socket {
    stream: Arc<TcpStream>,
    activity: Arc<Activity>,
    blocks: HeaderBlocks,
    /// Runs while the client takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Limits the buffers of a stream that was accepted.
    pub fn new(stream: Arc<TcpStream>, activity: Arc<Activity>) -> Self {
        // Responses are small, and clients wait for them.
        let _ = stream.set_nodelay(true);
        let options = SockRef::from(&*stream);
        for set in [
            options.set_send_buffer_size(SEND_BUFFER),
            options.set_recv_buffer_size(RECEIVE_BUFFER),
            #[cfg(target_os = "linux")]
            options.set_tcp_user_timeout(Some(UNACKNOWLEDGED)),
        ] {
            if let Err(error) = set {
                tracing::debug!(%error, "a connection keeps the buffers of the system");
            }
        }
        Self { stream, activity, blocks: HeaderBlocks::default(), blocked: None }
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.stream.poll_write_ready(cx)?.is_pending() {
                return self.poll_blocked(cx);
            }
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.blocked = None;
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let timeout = self.activity.timeouts().write;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(blocked.as_mut().poll(cx));
        self.activity.place().count(Closed::Stalled);
        let text = "the client takes nothing of its responses";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let place = buf.initialize_unfilled();
            match self.stream.try_read(place) {
                Ok(n) if !self.activity.received(n, Instant::now()) => {
                    self.activity.place().count(Closed::Flood);
                    let text = "the client sends too much that belongs to no request";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Ok(n) => {
                    let open = self.blocks.read(place.get(..n).unwrap_or_default());
                    if !self.activity.set_block(open, Instant::now()) {
                        let text = "there is no memory for the headers of another request";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::OutOfMemory, text)));
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
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
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}
