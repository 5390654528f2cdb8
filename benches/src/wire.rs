//! Real UDP sockets for a worker without the shell: one that sends, one that receives, and viewers.
//!
//! [`Wire`] sends as the shell does: `quinn-udp`, one call per message with UDP_SEGMENT, our
//! address as packet info, don't-fragment. It fails loudly, for a bench must not lose a datagram
//! unseen. Used by `egress.rs`.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit as UdpTransmit, UdpSocketState};
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use weir_sfu::rtp::packet::{PacketClass, classify};
use weir_sfu::transport::egress::{Egress, Transmit};

use crate::session::{Client, SERVER_ADDRESS, media_of};

/// Kernel buffer that is requested.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Maximum bytes of a datagram.
const DATAGRAM_BYTES_MAX: usize = 1_500;

/// Sends datagrams, and records how one viewer's media was cut into messages.
#[derive(Debug)]
pub struct Wire {
    socket: UdpSocket,
    state: UdpSocketState,
    watched: Option<SocketAddr>,
    cut: Vec<Message>,
    /// Number of datagrams sent.
    pub datagrams: u64,
    /// Number of send calls.
    pub messages: u64,
    /// Number of batches of media: messages of media to one address in a row.
    pub visits: u64,
    visited: Option<SocketAddr>,
}

/// Shape of one message of media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Bytes of the whole message.
    pub len: usize,
    /// Bytes of each datagram but the last.
    pub segment_size: Option<usize>,
}

impl Message {
    /// Lengths of its datagrams.
    pub fn datagrams(self) -> impl Iterator<Item = usize> {
        let size = self.segment_size.unwrap_or(self.len);
        let whole = self.len / size;
        let rest = self.len % size;
        std::iter::repeat_n(size, whole).chain((rest > 0).then_some(rest))
    }
}

impl Wire {
    /// A sending socket.
    ///
    /// # Errors
    ///
    /// The kernel's error; also when it has no UDP_SEGMENT.
    pub fn new() -> io::Result<Self> {
        let socket = bind(Ipv4Addr::UNSPECIFIED.into(), 0)?;
        let state = UdpSocketState::new((&socket).into())?;
        if state.max_gso_segments() < 16 {
            return Err(io::Error::other("this kernel does not take messages of 16 segments"));
        }
        Ok(Self {
            socket,
            state,
            watched: None,
            cut: Vec::new(),
            datagrams: 0,
            messages: 0,
            visits: 0,
            visited: None,
        })
    }

    /// Records from now on how media to this viewer is cut.
    pub fn watch(&mut self, viewer: Client) {
        self.watched = Some(viewer.path().remote);
        self.visited = None;
    }

    /// Shape of the recorded viewer's media since the last call.
    pub fn take_cut(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.cut)
    }
}

impl Egress for Wire {
    fn send(&mut self, transmit: Transmit<'_>) {
        let Transmit { path, contents, segment_size, .. } = transmit;
        let media = classify(contents) == PacketClass::Rtp;
        if media && self.visited.replace(path.remote) != Some(path.remote) {
            self.visits += 1;
        }
        if self.watched == Some(path.remote) && media {
            // The floor sends media only.
            let (_, len) = media_of(&transmit);
            self.cut.push(Message { len, segment_size: segment_size.filter(|size| *size < len) });
        }
        let udp = UdpTransmit {
            destination: path.remote,
            ecn: None,
            contents,
            segment_size,
            src_ip: path.local,
        };
        self.state.try_send((&self.socket).into(), &udp).expect("the kernel takes every message");
        self.datagrams += transmit.segments() as u64;
        self.messages += 1;
    }
}

/// The receiving half: wait and read as the shell does, from a publisher beside it.
#[derive(Debug)]
pub struct Inlet {
    socket: UdpSocket,
    state: UdpSocketState,
    epoll: rustix::fd::OwnedFd,
    publisher: UdpSocket,
    bytes: Box<[u8]>,
    stride: usize,
    meta: [RecvMeta; BATCH_SIZE],
}

impl Inlet {
    /// Both sockets.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn new() -> io::Result<Self> {
        let socket = bind(SERVER_ADDRESS.into(), 0)?;
        let state = UdpSocketState::new((&socket).into())?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        let publisher = bind(SERVER_ADDRESS.into(), 0)?;
        publisher.connect(socket.local_addr()?)?;
        let stride = DATAGRAM_BYTES_MAX * state.gro_segments();
        let bytes = vec![0; stride * BATCH_SIZE].into_boxed_slice();
        let meta = [RecvMeta::default(); BATCH_SIZE];
        Ok(Self { socket, state, epoll, publisher, bytes, stride, meta })
    }

    /// Sends a datagram as the publisher.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn publish(&self, datagram: &[u8]) -> io::Result<()> {
        self.publisher.send(datagram).map(drop)
    }

    /// Waits once and receives what follows.
    ///
    /// # Errors
    ///
    /// The kernel's error; also when no datagram comes, because then the bench is wrong.
    pub fn receive(&mut self, mut handle: impl FnMut(&mut [u8])) -> io::Result<()> {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::IN, data: epoll::EventData::new_u64(0) }];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&self.epoll, &mut events, Some(&now))? == 0 {
            return Err(io::Error::other("the publisher's datagrams did not arrive"));
        }
        loop {
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = {
                let mut chunks = self.bytes.chunks_mut(self.stride);
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or(&mut [])))
            };
            let count = self.state.recv((&self.socket).into(), &mut slices, &mut self.meta)?;
            for (bytes, meta) in self.bytes.chunks_mut(self.stride).zip(&self.meta).take(count) {
                for datagram in bytes[..meta.len].chunks_mut(meta.stride.max(1)) {
                    handle(datagram);
                }
            }
            if count < BATCH_SIZE {
                return Ok(());
            }
        }
    }
}

/// Sockets of clients, one each, in the order of their numbers from 0, for devices that deliver.
#[derive(Debug)]
pub struct Viewers(Vec<UdpSocket>);

impl Viewers {
    /// Binds one socket to the address of each client.
    ///
    /// # Errors
    ///
    /// The kernel's error, such as too few file descriptors.
    pub fn new(clients: impl Iterator<Item = Client>) -> io::Result<Self> {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
        let bind_one = |client: Client| {
            let at = client.path().remote;
            bind(at.ip(), at.port())
        };
        clients.map(bind_one).collect::<io::Result<_>>().map(Self)
    }

    /// Reads all datagrams that arrived; returns their number.
    pub fn drain(&self) -> u64 {
        self.0.iter().map(drain_one).sum()
    }

    /// Reads the datagrams that arrived for these clients; returns their number.
    pub fn drain_of(&self, clients: impl Iterator<Item = Client>) -> u64 {
        clients.filter_map(|client| self.0.get(client.0 as usize)).map(drain_one).sum()
    }
}

fn drain_one(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count() as u64
}

fn bind(ip: std::net::IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(ip, port))?;
    socket.set_nonblocking(true)?;
    // Best effort: the kernel caps it.
    _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    _ = SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}
