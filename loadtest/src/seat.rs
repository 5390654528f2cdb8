//! One light session at its place in a loop: the socket, the peer, and the role that judges what comes.
//!
//! Reads datagrams in batches that the kernel has glued together (UDP_GRO), and dates each by the kernel's own receive time, so
//! that a late loop does not look like a late server. Never waits: `pool` says when there is something to do.

use std::io::{ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use mio::net::UdpSocket;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use tokio::sync::{oneshot, watch};

use crate::peer::{Incoming, Over, Peer};
use crate::vitals::Vitals;

/// Messages read in one call; each may hold up to 64 datagrams.
const MESSAGES: usize = 8;

/// Room for one message with all its datagrams.
const MESSAGE_MAX: usize = 65_536;

/// Messages read from one socket before others have their turn.
const MESSAGES_PER_TURN: usize = 64;

/// Receive buffer asked for; the kernel may give less (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 1 << 20;

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

/// What a session is for. Times are those of arrival, which may lie a little before that of the last call.
pub(crate) trait Role: Send + 'static {
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

/// A seat, whatever its role.
pub(crate) trait Seat: Send {
    /// What the loop waits for.
    fn socket(&mut self) -> &mut UdpSocket;
    /// The first thing to be called.
    ///
    /// # Errors
    /// As all below: why the session is over.
    fn begin(&mut self, now: Instant, vitals: &mut Vitals) -> Result<(), Over>;
    /// Reads what is there; `true` if there may be more.
    fn readable(&mut self, turn: &Turn, room: &mut Room, vitals: &mut Vitals)
    -> Result<bool, Over>;
    /// Does what is due.
    fn handle_timeout(&mut self, now: Instant, vitals: &mut Vitals) -> Result<(), Over>;
    /// Looks whether the run goes on; `true` if the session is to leave.
    fn look_at_phase(&mut self, now: Instant) -> bool;
    /// When [`Self::handle_timeout`] wants to be called.
    fn deadline(&self) -> Instant;
    /// Says goodbye and hands the role back.
    fn leave(self: Box<Self>, now: Instant, result: Result<(), Over>, vitals: &mut Vitals);
}

/// Both clocks, read at the beginning of a turn.
pub(crate) struct Turn {
    /// Ours.
    pub(crate) now: Instant,
    /// The kernel's.
    wall: Duration,
}

impl Turn {
    /// Reads the clocks.
    pub(crate) fn begin() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { now: Instant::now(), wall }
    }

    /// How long ago the kernel's time `at` was.
    fn ago(&self, at: Duration) -> Duration {
        self.wall.saturating_sub(at)
    }
}

/// Where a loop's datagrams are read into.
pub(crate) struct Room {
    buffers: Vec<Vec<u8>>,
}

impl Room {
    /// Half a megabyte, shared by all seats of a loop.
    pub(crate) fn new() -> Self {
        Self { buffers: vec![vec![0; MESSAGE_MAX]; MESSAGES] }
    }
}

/// A seat with its role.
pub(crate) struct Taken<R> {
    peer: Peer,
    socket: UdpSocket,
    state: UdpSocketState,
    role: R,
    phases: watch::Receiver<Phase>,
    done: oneshot::Sender<(R, Result<(), Over>)>,
}

impl<R: Role> Taken<R> {
    /// A seat for `peer` on `socket`; `done` gets the role back in the end.
    ///
    /// # Errors
    /// If the socket refuses its options.
    pub(crate) fn new(
        peer: Peer,
        socket: std::net::UdpSocket,
        role: R,
        phases: watch::Receiver<Phase>,
        done: oneshot::Sender<(R, Result<(), Over>)>,
    ) -> std::io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Best effort: without it a keyframe may not fit, and the drops are counted.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        Ok(Self { peer, socket: UdpSocket::from_std(socket), state, role, phases, done })
    }

    fn datagram(
        &mut self,
        now: Instant,
        arrived: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), Over> {
        match self.peer.handle(now, from, datagram)? {
            Incoming::Handled => Ok(()),
            Incoming::Connected => {
                self.role.connected(now);
                Ok(())
            }
            Incoming::Rtp => self.role.rtp(arrived, &mut self.peer, datagram),
            Incoming::Rtcp(rtcp) => self.role.rtcp(arrived, &mut self.peer, rtcp),
        }
    }

    fn flush(&mut self, vitals: &mut Vitals) -> Result<(), Over> {
        while let Some((datagram, to)) = self.peer.poll_transmit() {
            match self.send(&datagram, to) {
                Ok(()) => {}
                // Ours to answer for, not the server's: it is counted.
                Err(error) if error.kind() == ErrorKind::WouldBlock => vitals.send_refused(),
                // Nobody may be listening yet, or any more: ICE finds out which.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(Over(format!("sending to {to}: {error}"))),
            }
        }
        Ok(())
    }

    fn send(&self, datagram: &BytesMut, to: SocketAddr) -> std::io::Result<()> {
        self.socket.send_to(datagram, to).map(drop)
    }
}

impl<R: Role> Seat for Taken<R> {
    fn socket(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    fn begin(&mut self, now: Instant, vitals: &mut Vitals) -> Result<(), Over> {
        let phase = *self.phases.borrow_and_update();
        self.role.phase(now, phase);
        self.handle_timeout(now, vitals)
    }

    fn readable(
        &mut self,
        turn: &Turn,
        room: &mut Room,
        vitals: &mut Vitals,
    ) -> Result<bool, Over> {
        let mut read = 0;
        loop {
            let mut meta = [RecvMeta::default(); MESSAGES];
            let count = {
                let mut slices = room.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
                let mut slices: [IoSliceMut<'_>; MESSAGES] =
                    std::array::from_fn(|_| slices.next().expect("there are so many buffers"));
                match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    // An ICMP error of something sent earlier: ICE finds out what it means.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                    Err(error) => return Err(Over(format!("receiving: {error}"))),
                }
            };
            for (buffer, meta) in room.buffers.iter().zip(&meta).take(count) {
                let waited = meta.timestamp.map_or(Duration::ZERO, |at| turn.ago(at));
                let arrived = turn.now.checked_sub(waited).unwrap_or(turn.now);
                let message = buffer.get(..meta.len).unwrap_or_default();
                let datagrams = message.chunks(meta.stride.max(1));
                vitals.read(waited, datagrams.len());
                for datagram in datagrams {
                    self.datagram(turn.now, arrived, meta.addr, datagram)?;
                }
            }
            read += count;
            if count < MESSAGES || read >= MESSAGES_PER_TURN {
                self.flush(vitals)?;
                return Ok(count == MESSAGES);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, vitals: &mut Vitals) -> Result<(), Over> {
        self.peer.handle_timeout(now)?;
        self.role.handle_timeout(now, &mut self.peer)?;
        self.flush(vitals)
    }

    fn look_at_phase(&mut self, now: Instant) -> bool {
        // A conductor that is gone has nothing more to say: leave.
        match self.phases.has_changed() {
            Ok(false) => false,
            Ok(true) => {
                let phase = *self.phases.borrow_and_update();
                if phase != Phase::Stop {
                    self.role.phase(now, phase);
                }
                phase == Phase::Stop
            }
            Err(_) => true,
        }
    }

    fn deadline(&self) -> Instant {
        self.role.deadline().into_iter().fold(self.peer.deadline(), Instant::min)
    }

    fn leave(mut self: Box<Self>, now: Instant, result: Result<(), Over>, vitals: &mut Vitals) {
        self.peer.close(now);
        let _ = self.flush(vitals);
        let _ = self.done.send((self.role, result));
    }
}
