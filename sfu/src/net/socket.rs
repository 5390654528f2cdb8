//! One worker's UDP socket: batched receive with GRO, sends with GSO, packet info both ways.
//!
//! All workers share one port (`SO_REUSEPORT`). IPv4 addresses on a dual-stack socket are shown as
//! IPv4 everywhere else. Send errors are counted by kind and survived.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit as UdpTransmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::media::packet::PACKET_BYTES_MAX;
use crate::transport::Path;
use crate::transport::egress::{Egress, Transmit};

/// Kernel buffer asked for in each direction; the kernel may give less (`net.core.rmem_max`).
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A repeated send error is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What the socket did; cumulative.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SocketStats {
    /// Send calls that the kernel took.
    pub send_calls: u64,
    /// Datagrams in them.
    pub datagrams_out: u64,
    /// Datagrams dropped because the send buffer was full.
    pub send_blocked: u64,
    /// Datagrams dropped for any other error of the send call.
    pub send_errors: u64,
}

/// One worker's socket.
pub(super) struct MediaSocket {
    socket: mio::net::UdpSocket,
    state: UdpSocketState,
    ipv6: bool,
    stats: SocketStats,
    logged: Option<Instant>,
}

impl MediaSocket {
    /// Binds one socket per worker to the same address; port 0 is chosen by the first.
    pub(super) fn bind_group(addr: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        let first = match Self::bind(addr) {
            // A host without IPv6: the IPv4 half of the wildcard is all there is.
            Err(_) if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                Self::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()))?
            }
            first => first?,
        };
        let bound = first.local_addr()?;
        let mut group = vec![first];
        for _ in 1..count {
            group.push(Self::bind(bound)?);
        }
        Ok(group)
    }

    fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        // Best effort: the kernel caps it, and a smaller buffer only drops earlier.
        _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            socket: mio::net::UdpSocket::from_std(socket.into()),
            state,
            ipv6: addr.is_ipv6(),
            stats: SocketStats::default(),
            logged: None,
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn stats(&self) -> SocketStats {
        self.stats
    }

    pub(super) fn register(
        &mut self,
        registry: &mio::Registry,
        token: mio::Token,
    ) -> io::Result<()> {
        registry.register(&mut self.socket, token, mio::Interest::READABLE)
    }

    /// Receives one batch into `buffers`; `WouldBlock` when there is nothing.
    pub(super) fn receive(&mut self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = {
            let mut chunks = buffers.bytes.chunks_mut(buffers.stride);
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or(&mut [])))
        };
        self.state.recv((&self.socket).into(), &mut slices, &mut buffers.meta)
    }

    /// Buffers that fit what one call may return.
    pub(super) fn receive_buffers(&self) -> ReceiveBuffers {
        // One byte more than the largest packet, so that an oversized one is seen as such.
        let stride = (PACKET_BYTES_MAX + 1) * self.state.gro_segments();
        ReceiveBuffers {
            bytes: vec![0; stride * BATCH_SIZE].into_boxed_slice(),
            meta: [RecvMeta::default(); BATCH_SIZE],
            stride,
        }
    }

    fn transmit(&mut self, path: Path, contents: &[u8], segment_size: Option<usize>) {
        let transmit = UdpTransmit {
            destination: self.to_wire(path.remote.ip(), path.remote.port()),
            ecn: None,
            contents,
            segment_size,
            src_ip: path.local.map(|ip| self.to_wire(ip, 0).ip()),
        };
        let datagrams = segment_size.map_or(1, |size| contents.len().div_ceil(size.max(1))) as u64;
        match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => {
                self.stats.send_calls += 1;
                self.stats.datagrams_out += datagrams;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.stats.send_blocked += datagrams;
            }
            Err(error) => {
                self.stats.send_errors += datagrams;
                self.log_error(&error);
            }
        }
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

impl Egress for MediaSocket {
    fn send(&mut self, transmit: Transmit<'_>) {
        let Transmit { path, contents, segment_size } = transmit;
        match segment_size {
            // The kernel or the NIC refused segmentation before: one by one from now on.
            Some(size) if transmit.segments() > self.state.max_gso_segments() => {
                for datagram in contents.chunks(size.max(1)) {
                    self.transmit(path, datagram, None);
                }
            }
            segment_size => self.transmit(path, contents, segment_size),
        }
    }
}

/// Memory for one receive call.
pub(super) struct ReceiveBuffers {
    bytes: Box<[u8]>,
    meta: [RecvMeta; BATCH_SIZE],
    stride: usize,
}

impl ReceiveBuffers {
    /// Hands out the datagrams of the last receive call, GRO undone.
    pub(super) fn for_each(&mut self, count: usize, mut handle: impl FnMut(Path, &mut [u8])) {
        let received = self.bytes.chunks_mut(self.stride).zip(&self.meta).take(count);
        for (bytes, meta) in received {
            let remote = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let path = Path { local: meta.dst_ip.map(|ip| ip.to_canonical()), remote };
            let Some(bytes) = bytes.get_mut(..meta.len) else { continue };
            for datagram in bytes.chunks_mut(meta.stride.max(1)) {
                handle(path, datagram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &mut MediaSocket) -> Vec<(Path, Vec<u8>)> {
        let mut buffers = socket.receive_buffers();
        let mut got = Vec::new();
        while let Ok(count) = socket.receive(&mut buffers) {
            buffers.for_each(count, |path, datagram| got.push((path, datagram.to_vec())));
        }
        got
    }

    #[test]
    fn a_group_shares_one_port_and_a_message_of_segments_arrives_as_datagrams() {
        let group = MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let ports: Vec<_> = group.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_eq!(ports[0], ports[1]);
        let [mut sender, mut receiver] = [0, 1]
            .map(|_| MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0));
        let from = sender.local_addr().unwrap();
        let path = Path { local: Some(from.ip()), remote: receiver.local_addr().unwrap() };
        let contents: Vec<u8> = (0..250).collect();
        sender.send(Transmit { path, contents: &contents, segment_size: Some(100) });
        let got = receive(&mut receiver);
        assert_eq!(got.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(got.iter().all(|(p, _)| p.remote == from && p.local == Some(path.remote.ip())));
        let stats = sender.stats();
        assert_eq!((stats.send_calls, stats.datagrams_out), (1, 3));
    }

    #[test]
    fn errors_of_the_send_call_are_counted_and_survived() {
        let mut sender =
            MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let mut receiver =
            MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let path = Path { local: None, remote: receiver.local_addr().unwrap() };
        let oversized = vec![0; 70_000]; // EMSGSIZE
        sender.send(Transmit { path, contents: &oversized, segment_size: None });
        let wrong_family = Path { local: None, remote: "[::1]:9".parse().unwrap() };
        sender.send(Transmit { path: wrong_family, contents: b"x", segment_size: None });
        assert_eq!(sender.stats().send_errors, 2);
        sender.send(Transmit { path, contents: b"still alive", segment_size: None });
        assert_eq!(receive(&mut receiver).len(), 1);
    }

    #[test]
    fn a_dual_stack_socket_shows_ipv4_as_ipv4() {
        let mut dual = MediaSocket::bind_group("[::]:0".parse().unwrap(), 1).unwrap().remove(0);
        let port = dual.local_addr().unwrap().port();
        let mut v4 = MediaSocket::bind_group("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let to_dual = Path { local: None, remote: SocketAddr::new([127, 0, 0, 1].into(), port) };
        v4.send(Transmit { path: to_dual, contents: b"ping", segment_size: None });
        let got = receive(&mut dual);
        let (path, _) = got.first().expect("it arrived");
        assert_eq!(path.remote, v4.local_addr().unwrap());
        assert_eq!(path.local, Some([127, 0, 0, 1].into()));
        dual.send(Transmit { path: *path, contents: b"pong", segment_size: None });
        assert_eq!(receive(&mut v4).first().map(|(p, _)| p.remote), Some(to_dual.remote));
    }
}
