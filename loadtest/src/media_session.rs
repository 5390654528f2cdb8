//! One light session in an event loop: its socket, its peer and its role.
//!
//! It reads datagrams in batches that the kernel has joined (UDP_GRO), and takes the kernel's
//! receive time for each. So a late event loop does not look like a late server. It never blocks:
//! `event_loop` calls it when there is something to do.

use std::io::{ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use mio::net::UdpSocket;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use tokio::sync::{oneshot, watch};

use crate::loop_stats::LoopStats;
use crate::peer::{Incoming, Peer};
use crate::phase::Phase;
use crate::role::Role;
use crate::session_error::SessionError;

/// Messages read in one call. Each may hold up to 64 datagrams.
const MESSAGES: usize = 8;

/// Buffer size for one message with all its datagrams.
const MESSAGE_BYTES_MAX: usize = 65_536;

/// Maximum messages read from one socket before other sockets are read.
const MESSAGES_PER_TURN: usize = 64;

/// Requested receive buffer. The kernel may give less (`net.core.rmem_max`).
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// A session that an event loop can run, whatever its role.
pub(crate) trait PollSession: Send {
    /// The socket that the event loop waits for.
    fn socket(&mut self) -> &mut UdpSocket;

    /// Starts the session. It is the first call.
    ///
    /// # Errors
    /// Why the session is over.
    fn start(&mut self, now: Instant, stats: &mut LoopStats) -> Result<(), SessionError>;

    /// Reads datagrams. Returns whether there may be more.
    ///
    /// # Errors
    /// Why the session is over.
    fn read(
        &mut self,
        clocks: &Clocks,
        buffers: &mut ReceiveBuffers,
        stats: &mut LoopStats,
    ) -> Result<bool, SessionError>;

    /// Does what is due.
    ///
    /// # Errors
    /// Why the session is over.
    fn handle_timeout(&mut self, now: Instant, stats: &mut LoopStats) -> Result<(), SessionError>;

    /// Follows the phase of the run. Returns whether the session must end.
    fn update_phase(&mut self, now: Instant) -> bool;

    /// When [`Self::handle_timeout`] is due.
    fn deadline(&self) -> Instant;

    /// Closes the connection and hands the role back, with the reason why the session is over.
    fn close(self: Box<Self>, now: Instant, end: Result<(), SessionError>, stats: &mut LoopStats);
}

/// Monotonic clock and wall clock, read at the beginning of a loop iteration. The kernel's receive
/// times are of the wall clock.
pub(crate) struct Clocks {
    /// The monotonic clock.
    pub(crate) now: Instant,
    /// The wall clock, since the epoch of Unix.
    wall: Duration,
}

impl Clocks {
    /// Reads both clocks.
    pub(crate) fn read() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { now: Instant::now(), wall }
    }

    /// Time since the wall clock was `wall_time`.
    fn elapsed_since(&self, wall_time: Duration) -> Duration {
        self.wall.saturating_sub(wall_time)
    }
}

/// Buffers for received datagrams, shared by all sessions of an event loop.
pub(crate) struct ReceiveBuffers {
    buffers: Vec<Vec<u8>>,
}

impl ReceiveBuffers {
    /// Half a megabyte of buffers.
    pub(crate) fn new() -> Self {
        Self { buffers: vec![vec![0; MESSAGE_BYTES_MAX]; MESSAGES] }
    }
}

/// A light session.
pub(crate) struct MediaSession<R> {
    peer: Peer,
    socket: UdpSocket,
    state: UdpSocketState,
    role: R,
    phases: watch::Receiver<Phase>,
    done: oneshot::Sender<(R, Result<(), SessionError>)>,
}

impl<R: Role> MediaSession<R> {
    /// A session of `peer` on `socket`. At its end it sends the role to `done`.
    ///
    /// # Errors
    /// If the socket refuses its options.
    pub(crate) fn new(
        peer: Peer,
        socket: std::net::UdpSocket,
        role: R,
        phases: watch::Receiver<Phase>,
        done: oneshot::Sender<(R, Result<(), SessionError>)>,
    ) -> std::io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Best effort: in a smaller buffer a keyframe may not fit, and then the drops are counted.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        Ok(Self { peer, socket: UdpSocket::from_std(socket), state, role, phases, done })
    }

    fn on_datagram(
        &mut self,
        now: Instant,
        arrived: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), SessionError> {
        match self.peer.handle(now, from, datagram)? {
            Incoming::Handled => Ok(()),
            Incoming::Connected => {
                self.role.on_connected(now);
                Ok(())
            }
            Incoming::Rtp => self.role.on_rtp(arrived, &mut self.peer, datagram),
            Incoming::Rtcp(rtcp) => self.role.on_rtcp(arrived, &mut self.peer, rtcp),
        }
    }

    fn flush(&mut self, stats: &mut LoopStats) -> Result<(), SessionError> {
        while let Some((datagram, to)) = self.peer.poll_transmit() {
            match self.send(&datagram, to) {
                Ok(()) => {}
                // The fault of this generator, not of the server: it is counted.
                Err(error) if error.kind() == ErrorKind::WouldBlock => stats.on_send_refused(),
                // No socket receives at the other end, not yet or no longer. ICE finds out which.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(SessionError::Final(format!("sending to {to}: {error}"))),
            }
        }
        Ok(())
    }

    fn send(&self, datagram: &BytesMut, to: SocketAddr) -> std::io::Result<()> {
        self.socket.send_to(datagram, to).map(drop)
    }
}

impl<R: Role> PollSession for MediaSession<R> {
    fn socket(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    fn start(&mut self, now: Instant, stats: &mut LoopStats) -> Result<(), SessionError> {
        let phase = *self.phases.borrow_and_update();
        self.role.set_phase(now, phase);
        self.handle_timeout(now, stats)
    }

    fn read(
        &mut self,
        clocks: &Clocks,
        buffers: &mut ReceiveBuffers,
        stats: &mut LoopStats,
    ) -> Result<bool, SessionError> {
        let mut read = 0;
        loop {
            let mut meta = [RecvMeta::default(); MESSAGES];
            let count = {
                let mut slices = buffers.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
                let mut slices: [IoSliceMut<'_>; MESSAGES] =
                    std::array::from_fn(|_| slices.next().expect("there are MESSAGES buffers"));
                match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    // An ICMP error for a datagram sent earlier. ICE finds out what it means.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                    Err(error) => return Err(SessionError::Final(format!("receiving: {error}"))),
                }
            };
            for (buffer, meta) in buffers.buffers.iter().zip(&meta).take(count) {
                let waited = meta.timestamp.map_or(Duration::ZERO, |at| clocks.elapsed_since(at));
                let arrived = clocks.now.checked_sub(waited).unwrap_or(clocks.now);
                let message = buffer.get(..meta.len).unwrap_or_default();
                let datagrams = message.chunks(meta.stride.max(1));
                stats.on_read(waited, datagrams.len());
                for datagram in datagrams {
                    self.on_datagram(clocks.now, arrived, meta.addr, datagram)?;
                }
            }
            read += count;
            if count < MESSAGES || read >= MESSAGES_PER_TURN {
                self.flush(stats)?;
                return Ok(count == MESSAGES);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, stats: &mut LoopStats) -> Result<(), SessionError> {
        self.peer.handle_timeout(now)?;
        self.role.handle_timeout(now, &mut self.peer)?;
        self.flush(stats)
    }

    fn update_phase(&mut self, now: Instant) -> bool {
        match self.phases.has_changed() {
            Ok(false) => false,
            Ok(true) => {
                let phase = *self.phases.borrow_and_update();
                if phase != Phase::Stop {
                    self.role.set_phase(now, phase);
                }
                phase == Phase::Stop
            }
            // The run is gone and will set no more phases.
            Err(_) => true,
        }
    }

    fn deadline(&self) -> Instant {
        self.role.deadline().into_iter().fold(self.peer.deadline(), Instant::min)
    }

    fn close(
        mut self: Box<Self>,
        now: Instant,
        end: Result<(), SessionError>,
        stats: &mut LoopStats,
    ) {
        self.peer.close(now);
        let _ = self.flush(stats);
        let _ = self.done.send((self.role, end));
    }
}
