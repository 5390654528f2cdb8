//! One worker's UDP socket: batched receive with GRO, sends with GSO, packet info both ways.
//!
//! All workers share one port (`SO_REUSEPORT`). IPv4 addresses on a dual-stack socket are IPv4 everywhere else.
//! `quinn-udp` sets don't-fragment and kernel timestamps; a datagram too large for the first link (a tunnel, a VPN) is
//! sent again in IP fragments, because the other choice is that nobody behind it gets it. Send errors are counted by kind and never end the
//! socket. Called by `shell.rs`, and by workers as a [`SocketEgress`]; `gso.rs` remembers which paths refuse segments.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit as UdpTransmit, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::gso::{GsoMemory, is_refusal};
use super::latency::ForwardLatency;
use crate::media::packet::PACKET_BYTES_MAX;
use crate::transport::FiveTuple;
use crate::transport::egress::{Egress, Transmit, TransmitClass};

/// Kernel buffer that is requested in each direction (limits design 3: at least 4 MB). The kernel may give less,
/// and a smaller one only drops earlier.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Shortest interval between two logged send errors.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Longest age of a datagram. A larger difference between its timestamp and the wall clock means that the clock
/// was set.
const AGE_MAX: Duration = Duration::from_secs(10);

/// Counters of the socket; cumulative, except the last one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SocketStats {
    /// Send calls that succeeded.
    pub send_calls: u64,
    /// Datagrams in those send calls.
    pub datagrams_out: u64,
    /// Datagrams dropped because the send buffer was full.
    pub send_blocked: u64,
    /// Datagrams dropped for any other error of the send call.
    pub send_errors: u64,
    /// Send calls of several datagrams that were refused as such; the datagrams were sent one by one.
    pub gso_refused: u64,
    /// Datagrams sent one by one that could have shared a message.
    pub gso_spared_datagrams: u64,
    /// Datagrams sent in IP fragments, because the first link is too narrow for them.
    pub fragmented_datagrams: u64,
    /// Paths that get one datagram per call now; `None` for all paths.
    pub gso_spared_paths: Option<usize>,
}

/// Whether a socket may be bound to a port that another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// It may not: the first socket of a group.
    Exclusive,
    /// It joins the sockets of its group.
    Group,
}

/// Result of one send call.
enum Sent {
    Taken,
    Blocked,
    Failed(io::Error),
}

/// UDP socket of one worker.
pub(super) struct MediaSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    gso: GsoMemory,
    ipv6: bool,
    stats: SocketStats,
    logged: Option<Instant>,
}

impl MediaSocket {
    /// Binds one socket per worker to the same address; port 0 is chosen by the first.
    ///
    /// The first is bound without `SO_REUSEPORT`, which fails if any other socket has the port, also one that
    /// would share it. So of two servers on one port the second cannot start, even if both start at once. Linux
    /// lets a bound socket join the group afterwards.
    pub(super) fn bind_group(addr: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        let first = match Self::bind(addr, Sharing::Exclusive) {
            // On a host without IPv6 only the IPv4 half of the wildcard exists.
            Err(error)
                if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    && error.kind() != io::ErrorKind::AddrInUse =>
            {
                let half = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port());
                Self::bind(half, Sharing::Exclusive)?
            }
            first => first?,
        };
        first.explain_buffers();
        let bound = first.local_addr()?;
        if count > 1 {
            SockRef::from(&first.socket).set_reuse_port(true)?;
        }
        let mut group = vec![first];
        for _ in 1..count {
            group.push(Self::bind(bound, Sharing::Group)?);
        }
        Ok(group)
    }

    fn bind(addr: SocketAddr, sharing: Sharing) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(sharing == Sharing::Group)?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        // Best effort; `explain_buffers` warns if the buffers are smaller.
        _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        let state = UdpSocketState::new((&socket).into())?;
        if state.may_fragment() {
            tracing::warn!("this kernel cannot forbid IP fragmentation of media");
        }
        Ok(Self {
            gso: GsoMemory::new(state.max_gso_segments() > 1),
            socket: socket.into(),
            state,
            ipv6: addr.is_ipv6(),
            stats: SocketStats::default(),
            logged: None,
        })
    }

    /// Logs once per start if the kernel gave smaller buffers than requested.
    fn explain_buffers(&self) {
        let socket = (&self.socket).into();
        let given = [
            ("receive", "net.core.rmem_max", self.state.recv_buffer_size(socket)),
            ("send", "net.core.wmem_max", self.state.send_buffer_size((&self.socket).into())),
        ];
        for (direction, sysctl, given) in given {
            // Linux shows twice the requested size, because it counts its own bookkeeping.
            let Ok(bytes) = given.map(|doubled| doubled / 2) else { continue };
            if bytes < SOCKET_BUFFER_BYTES {
                tracing::warn!(
                    "the kernel gave a {direction} buffer of {} KiB instead of {} KiB, so bursts may lose \
                     packets; allow it with: sysctl -w {sysctl}={SOCKET_BUFFER_BYTES}",
                    bytes / 1024,
                    SOCKET_BUFFER_BYTES / 1024,
                );
            }
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn stats(&self) -> SocketStats {
        SocketStats { gso_spared_paths: self.gso.spared(), ..self.stats }
    }

    /// Receives one batch into `buffers`; `WouldBlock` when the socket is empty. Fewer than [`BATCH_SIZE`] means
    /// that it is empty now.
    pub(super) fn receive(&mut self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = {
            let mut chunks = buffers.bytes.chunks_mut(buffers.stride);
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or(&mut [])))
        };
        self.state.recv((&self.socket).into(), &mut slices, &mut buffers.meta)
    }

    /// Buffers for the largest batch that one call may return.
    pub(super) fn receive_buffers(&self) -> ReceiveBuffers {
        // One byte more than the largest packet, so that an oversized one is recognized.
        let stride = (PACKET_BYTES_MAX + 1) * self.state.gro_segments();
        ReceiveBuffers {
            bytes: vec![0; stride * BATCH_SIZE].into_boxed_slice(),
            meta: [RecvMeta::default(); BATCH_SIZE],
            stride,
        }
    }

    /// Sends one message, in one call where the path takes segments. Returns how many datagrams the kernel took;
    /// the others are dropped and counted.
    pub(super) fn send(&mut self, transmit: Transmit<'_>) -> u64 {
        let Transmit { path, contents, segment_size, .. } = transmit;
        let datagrams = transmit.segments() as u64;
        let Some(size) = segment_size.filter(|_| datagrams > 1) else {
            return self.send_single(path, contents);
        };
        if !self.gso.allows(path.remote.ip(), Instant::now) {
            return self.send_one_by_one(transmit);
        }
        match self.call(path, contents, Some(size)) {
            Sent::Failed(error) if is_refusal(&error) => {
                let sent = self.send_one_by_one(transmit);
                // If single datagrams fail too, segments are not the cause.
                if sent > 0 {
                    self.stats.gso_refused += 1;
                    self.gso.refuse(path.remote.ip(), Instant::now());
                    tracing::debug!(%error, "a path refuses segments; its datagrams go one by one");
                }
                sent
            }
            sent => self.count(sent, datagrams),
        }
    }

    fn send_one_by_one(&mut self, transmit: Transmit<'_>) -> u64 {
        let mut taken = 0;
        for datagram in transmit.datagrams() {
            taken += self.send_single(transmit.path, datagram);
        }
        self.stats.gso_spared_datagrams += taken;
        taken
    }

    /// Sends one datagram, whole or in fragments.
    fn send_single(&mut self, path: FiveTuple, contents: &[u8]) -> u64 {
        let sent = match self.call(path, contents, None) {
            Sent::Failed(error) if is_too_large(&error) && contents.len() <= PACKET_BYTES_MAX => {
                self.call_with_fragments(path, contents).inspect(|sent| {
                    self.stats.fragmented_datagrams += u64::from(matches!(sent, Sent::Taken));
                })
            }
            sent => Ok(sent),
        };
        self.count(sent.unwrap_or_else(Sent::Failed), 1)
    }

    /// Allows IP fragments for one call: the don't-fragment bit belongs to the socket.
    fn call_with_fragments(&self, path: FiveTuple, contents: &[u8]) -> io::Result<Sent> {
        let set = |v4, v6| match path.remote {
            SocketAddr::V4(_) => set_ip_mtu_discover(&self.socket, v4),
            SocketAddr::V6(_) => set_ipv6_mtu_discover(&self.socket, v6),
        };
        set(Ipv4PathMtuDiscovery::DONT, Ipv6PathMtuDiscovery::DONT)?;
        let sent = self.call(path, contents, None);
        // As `quinn-udp` had it.
        set(Ipv4PathMtuDiscovery::PROBE, Ipv6PathMtuDiscovery::PROBE)?;
        Ok(sent)
    }

    fn call(&self, path: FiveTuple, contents: &[u8], segment_size: Option<usize>) -> Sent {
        let transmit = UdpTransmit {
            destination: self.to_wire(path.remote.ip(), path.remote.port()),
            ecn: None,
            contents,
            segment_size,
            src_ip: path.local.map(|ip| self.to_wire(ip, 0).ip()),
        };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => Sent::Taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            Err(error) => Sent::Failed(error),
        }
    }

    /// Counts a call and returns how many datagrams it sent.
    fn count(&mut self, sent: Sent, datagrams: u64) -> u64 {
        match sent {
            Sent::Taken => {
                self.stats.send_calls += 1;
                self.stats.datagrams_out += datagrams;
                return datagrams;
            }
            Sent::Blocked => self.stats.send_blocked += datagrams,
            Sent::Failed(error) => {
                self.stats.send_errors += datagrams;
                self.log_error(&error);
            }
        }
        0
    }

    fn log_error(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL) {
            self.logged = Some(now);
            tracing::warn!(%error, "sending failed; further errors are counted, not logged");
        }
    }

    fn to_wire(&self, ip: IpAddr, port: u16) -> SocketAddr {
        match ip {
            IpAddr::V4(v4) if self.ipv6 => SocketAddr::new(v4.to_ipv6_mapped().into(), port),
            ip => SocketAddr::new(ip, port),
        }
    }
}

/// Whether the datagram is larger than the link or IP carries.
fn is_too_large(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

impl AsFd for MediaSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Buffers of one receive call.
pub(super) struct ReceiveBuffers {
    bytes: Box<[u8]>,
    meta: [RecvMeta; BATCH_SIZE],
    stride: usize,
}

impl ReceiveBuffers {
    /// Calls `handle` for each datagram of the last receive call, with GRO undone. `wall` is the Unix time after
    /// that call; the first argument is how long before it the kernel received the datagram.
    pub(super) fn for_each(
        &mut self,
        count: usize,
        wall: Duration,
        mut handle: impl FnMut(Duration, FiveTuple, &mut [u8]),
    ) {
        let received = self.bytes.chunks_mut(self.stride).zip(&self.meta).take(count);
        for (bytes, meta) in received {
            let remote = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let path = FiveTuple::udp(meta.dst_ip.map(|ip| ip.to_canonical()), remote);
            let age = meta.timestamp.map_or(Duration::ZERO, |at| wall.saturating_sub(at));
            let age = if age > AGE_MAX { Duration::ZERO } else { age };
            let Some(bytes) = bytes.get_mut(..meta.len) else { continue };
            for datagram in bytes.chunks_mut(meta.stride.max(1)) {
                handle(age, path, datagram);
            }
        }
    }
}

/// Egress of a worker: its socket, with clock readings for the forwarding latency. Made by `shell.rs` for each call of
/// the worker.
pub(super) struct SocketEgress<'a> {
    pub socket: &'a mut MediaSocket,
    pub forward_latency: &'a mut ForwardLatency,
}

impl Egress for SocketEgress<'_> {
    fn send(&mut self, transmit: Transmit<'_>) {
        let sent = self.socket.send(transmit);
        if let Some(arrived) = transmit.arrived {
            let joining = transmit.class == TransmitClass::JoiningMedia;
            self.forward_latency.on_sent(arrived, joining, sent, Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn unix_time() -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    fn pair() -> (MediaSocket, MediaSocket, FiveTuple) {
        let [sender, receiver] = [0, 1]
            .map(|_| MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0));
        let local = Some(sender.local_addr().unwrap().ip());
        let path = FiveTuple::udp(local, receiver.local_addr().unwrap());
        (sender, receiver, path)
    }

    fn receive(socket: &mut MediaSocket) -> Vec<(FiveTuple, Vec<u8>)> {
        let mut buffers = socket.receive_buffers();
        let mut got = Vec::new();
        while let Ok(count) = socket.receive(&mut buffers) {
            buffers.for_each(count, unix_time(), |_, path, datagram| {
                got.push((path, datagram.to_vec()));
            });
        }
        got
    }

    #[test]
    fn group_shares_one_port_and_a_message_of_segments_arrives_as_datagrams() {
        let group = MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let ports: Vec<_> = group.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_eq!(ports[0], ports[1]);
        let (mut sender, mut receiver, path) = pair();
        let from = sender.local_addr().unwrap();
        let contents: Vec<u8> = (0..250).collect();
        sender.send(Transmit::media(path, &contents, Some(100)));
        let got = receive(&mut receiver);
        assert_eq!(got.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(got.iter().all(|(p, _)| p.remote == from && p.local == Some(path.remote.ip())));
        let stats = sender.stats();
        assert_eq!((stats.send_calls, stats.datagrams_out), (1, 3));
    }

    #[test]
    fn second_group_on_a_port_is_refused_whatever_its_size() {
        for (first, second) in [(1, 1), (4, 1), (1, 4), (4, 4)] {
            let group = MediaSocket::bind_group("[::]:0".parse().unwrap(), first).unwrap();
            let port = group[0].local_addr().unwrap().port();
            for other in ["[::]", "127.0.0.1", "0.0.0.0"] {
                let other = format!("{other}:{port}").parse().unwrap();
                let refused = MediaSocket::bind_group(other, second).err().expect("it is taken");
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{first} {second} {other}");
            }
            let addr = group[0].local_addr().unwrap();
            drop(group);
            MediaSocket::bind_group(addr, second).expect("it is free at once");
        }
    }

    #[test]
    fn of_groups_that_are_bound_at_once_to_one_port_at_most_one_exists() {
        let free = MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let addr = free[0].local_addr().unwrap();
        drop(free);
        for _ in 0..50 {
            let start = std::sync::Barrier::new(4);
            let bind = || {
                start.wait();
                MediaSocket::bind_group(addr, 4)
            };
            let bound = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(bind));
                threads.map(|thread| thread.join().unwrap())
            });
            assert_eq!(bound.iter().filter(|group| group.is_ok()).count(), 1);
        }
    }

    #[test]
    fn datagrams_are_spread_over_a_group() {
        let mut group = MediaSocket::bind_group("[::]:0".parse().unwrap(), 4).unwrap();
        let port = group[0].local_addr().unwrap().port();
        for _ in 0..200 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", ("127.0.0.1", port)).unwrap();
        }
        let got: Vec<_> = group.iter_mut().map(|socket| receive(socket).len()).collect();
        assert_eq!(got.iter().sum::<usize>(), 200);
        assert!(got.iter().all(|count| *count > 10), "{got:?}");
    }

    #[test]
    fn socket_works_on_after_send_errors_and_counts_them() {
        let (mut sender, mut receiver, path) = pair();
        let oversized = vec![0; 70_000]; // EMSGSIZE
        sender.send(Transmit::media(path, &oversized, None));
        let wrong_family = FiveTuple::udp(None, "[::1]:9".parse().unwrap());
        sender.send(Transmit::media(wrong_family, b"x", None));
        assert_eq!(sender.stats().send_errors, 2);
        sender.send(Transmit::media(path, b"still alive", None));
        assert_eq!(receive(&mut receiver).len(), 1);
    }

    #[test]
    fn dual_stack_socket_shows_ipv4_as_ipv4() {
        let mut dual = MediaSocket::bind_group("[::]:0".parse().unwrap(), 1).unwrap().remove(0);
        let port = dual.local_addr().unwrap().port();
        let mut v4 = MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let to_dual = FiveTuple::udp(None, SocketAddr::new([127, 0, 0, 1].into(), port));
        v4.send(Transmit::media(to_dual, b"ping", None));
        let got = receive(&mut dual);
        let (path, _) = got.first().expect("it arrived");
        assert_eq!(path.remote, v4.local_addr().unwrap());
        assert_eq!(path.local, Some([127, 0, 0, 1].into()));
        dual.send(Transmit::media(*path, b"pong", None));
        assert_eq!(receive(&mut v4).first().map(|(p, _)| p.remote), Some(to_dual.remote));
    }

    /// The kernel refuses messages of more segments than it knows (EINVAL) and of more bytes than IP
    /// carries (EMSGSIZE). The same errors come from a route with a small MTU.
    #[test]
    fn refused_segments_are_sent_one_by_one_and_the_refusal_is_remembered() {
        for (segments, size) in [(200, 10), (60, 1_200)] {
            let (mut sender, mut receiver, path) = pair();
            let contents: Vec<u8> = (0..segments * size).map(|n| (n / size) as u8).collect();
            let message = Transmit::media(path, &contents, Some(size));
            assert_eq!(sender.send(message), segments as u64);
            let got = receive(&mut receiver);
            let firsts: Vec<u8> = got.iter().map(|(_, bytes)| bytes[0]).collect();
            assert_eq!(firsts, (0..segments as u8).collect::<Vec<_>>(), "nothing lost, in order");
            assert!(got.iter().all(|(_, bytes)| bytes.len() == size));
            let stats = sender.stats();
            assert_eq!((stats.gso_refused, stats.gso_spared_paths), (1, Some(1)));

            let small = Transmit::media(path, &contents[..3 * size], Some(size));
            assert_eq!(sender.send(small), 3);
            let stats = sender.stats();
            assert_eq!(stats.gso_refused, 1, "GSO is not tried again");
            assert_eq!(stats.gso_spared_datagrams, segments as u64 + 3);
            assert_eq!(stats.send_errors, 0);
        }
    }

    /// A forged datagram may have source port 0, to which nothing can be sent (EINVAL).
    #[test]
    fn address_that_cannot_be_sent_to_does_not_affect_other_paths() {
        let (mut sender, mut receiver, path) = pair();
        let nowhere = FiveTuple { remote: SocketAddr::new(path.remote.ip(), 0), ..path };
        for segment_size in [None, Some(100)] {
            assert_eq!(sender.send(Transmit::media(nowhere, &[7; 250], segment_size)), 0);
        }
        assert_eq!(sender.send(Transmit::media(path, &[7; 250], Some(100))), 3);
        let stats = sender.stats();
        assert_eq!((stats.send_calls, stats.datagrams_out), (1, 3), "still one message");
        assert_eq!((stats.gso_refused, stats.gso_spared_paths), (0, Some(0)));
        assert_eq!(receive(&mut receiver).len(), 3);
    }

    #[test]
    fn datagram_has_the_age_of_its_kernel_timestamp_unless_the_clock_was_set() {
        let (mut sender, mut receiver, path) = pair();
        let mut ages = |later: Duration| {
            sender.send(Transmit::media(path, b"x", None));
            let mut buffers = receiver.receive_buffers();
            let count = receiver.receive(&mut buffers).unwrap();
            let mut ages = Vec::new();
            buffers.for_each(count, unix_time() + later, |age, _, _| ages.push(age));
            ages
        };
        let waited = Duration::from_secs(3);
        assert!(ages(waited).iter().all(|age| (waited..AGE_MAX).contains(age)));
        assert_eq!(ages(AGE_MAX * 2), [Duration::ZERO]);
    }
}
