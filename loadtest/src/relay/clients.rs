//! The clients of the relay, the links of their datagrams, and the times at which datagrams arrive.
//!
//! Takes the time as an argument, and only sends on sockets. Called by `relay/mod.rs`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weir_netsim::{Counts, Link, Profile, Rng};

use super::options::RelayOptions;
use super::summary::{DirectionCounts, Summary};

/// Maximum bytes of a datagram.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Maximum client addresses. Datagrams from other addresses are dropped and counted.
const CLIENTS_MAX: usize = 4_096;

/// Maximum datagrams of the server that wait to be handled. Above it they wait in the kernel's
/// buffers, which drop.
const INBOX_MAX: usize = 1_024;

/// Maximum errors of a socket in a row. After them the socket is no longer read.
const ERRORS_MAX: u32 = 100;

/// Index of a client, and a datagram from it or for it.
type ClientDatagram = (usize, Vec<u8>);

pub(super) struct Clients {
    to: SocketAddr,
    up: Profile,
    down: Profile,
    shared: bool,
    seed: u64,
    indices: HashMap<SocketAddr, usize>,
    clients: Vec<Client>,
    /// Pairs of links (up and down): one pair for all clients, or one for each client.
    links: Vec<[TimedLink; 2]>,
    /// When datagrams arrive: time, index of the link pair, and [`UP`] or [`DOWN`].
    timers: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    readers: JoinSet<()>,
    inbox: mpsc::Sender<ClientDatagram>,
    refused: u64,
    unsent: u64,
}

struct Client {
    address: SocketAddr,
    /// The socket through which the server sees this client.
    upstream: Arc<UdpSocket>,
}

struct TimedLink {
    link: Link<ClientDatagram>,
    /// The earliest timer set for this link.
    timer: Option<Instant>,
}

const UP: usize = 0;
const DOWN: usize = 1;

impl Clients {
    /// No clients yet. The receiver returns what the server sends.
    pub(super) fn new(
        options: &RelayOptions,
        up: Profile,
        down: Profile,
    ) -> (Self, mpsc::Receiver<ClientDatagram>) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let clients = Self {
            to: options.to,
            up,
            down,
            shared: options.shared,
            seed: options.seed,
            indices: HashMap::new(),
            clients: Vec::new(),
            links: Vec::new(),
            timers: BinaryHeap::new(),
            readers: JoinSet::new(),
            inbox: sender,
            refused: 0,
            unsent: 0,
        };
        (clients, inbox)
    }

    /// Takes a datagram of a client. The first one of an address opens a socket to the server.
    pub(super) async fn on_client_datagram(
        &mut self,
        now: Instant,
        address: SocketAddr,
        datagram: &[u8],
    ) -> anyhow::Result<()> {
        let client = match self.indices.get(&address) {
            Some(client) => *client,
            None if self.clients.len() >= CLIENTS_MAX => {
                self.refused += 1;
                return Ok(());
            }
            None => self.add(now, address).await?,
        };
        self.enqueue(now, client, UP, datagram.to_vec());
        Ok(())
    }

    /// Takes a datagram of the server for a client.
    pub(super) fn on_server_datagram(&mut self, now: Instant, client: usize, datagram: Vec<u8>) {
        self.enqueue(now, client, DOWN, datagram);
    }

    async fn add(&mut self, now: Instant, address: SocketAddr) -> anyhow::Result<usize> {
        let any: SocketAddr = match self.to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let upstream = Arc::new(UdpSocket::bind(any).await?);
        upstream.connect(self.to).await?;
        let client = self.clients.len();
        self.readers.spawn(read(client, Arc::clone(&upstream), self.inbox.clone()));
        self.clients.push(Client { address, upstream });
        self.indices.insert(address, client);
        if self.links.is_empty() || !self.shared {
            let number = self.links.len() as u64;
            let link = |profile: &Profile, direction: u64| {
                let seed = Rng::new(self.seed, 2 * number + direction).next_u64();
                TimedLink { link: Link::new(profile.clone(), seed, now), timer: None }
            };
            self.links.push([link(&self.up, 0), link(&self.down, 1)]);
        }
        Ok(client)
    }

    fn enqueue(&mut self, now: Instant, client: usize, direction: usize, datagram: Vec<u8>) {
        let index = if self.shared { 0 } else { client };
        let link = self.links.get_mut(index).and_then(|pair| pair.get_mut(direction));
        let Some(link) = link else { return };
        link.link.send(now, datagram.len(), (client, datagram));
        self.timers.extend(link.next_timer().map(|at| Reverse((at, index, direction))));
    }

    /// When the next datagram arrives.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// Sends the datagrams that have arrived by `now`: to clients through `listen`, to the server
    /// through the clients' sockets.
    pub(super) async fn deliver(&mut self, now: Instant, listen: &UdpSocket) {
        while let Some(Reverse((at, index, direction))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let link = self.links.get_mut(index).and_then(|pair| pair.get_mut(direction));
            let Some(link) = link else { continue };
            if link.timer != Some(at) {
                continue;
            }
            link.timer = None;
            while let Some((client, datagram)) = link.link.poll(now) {
                let Some(client) = self.clients.get(client) else { continue };
                let sent = match direction {
                    UP => client.upstream.send(&datagram).await,
                    _ => listen.send_to(&datagram, client.address).await,
                };
                self.unsent += u64::from(sent.is_err());
            }
            self.timers.extend(link.next_timer().map(|at| Reverse((at, index, direction))));
        }
    }

    /// The sum over all links.
    pub(super) fn summary(&self, seed: u64, ran: Duration) -> Summary {
        let sum = |direction: usize| {
            let (mut counts, mut queued) = (Counts::default(), 0);
            for link in self.links.iter().filter_map(|pair| pair.get(direction)) {
                counts.add(&link.link.counts());
                queued += link.link.queued() as u64;
            }
            DirectionCounts::new(&counts, queued)
        };
        Summary {
            seed,
            duration_s: ran.as_secs_f64(),
            clients: self.clients.len(),
            refused: self.refused,
            unsent: self.unsent,
            up: sum(UP),
            down: sum(DOWN),
        }
    }
}

impl TimedLink {
    /// The time of the next arrival, unless a timer for it or an earlier one is set.
    fn next_timer(&mut self) -> Option<Instant> {
        let at = self.link.next_timeout()?;
        if self.timer.is_some_and(|timer| timer <= at) {
            return None;
        }
        self.timer = Some(at);
        Some(at)
    }
}

/// Reads what the server sends to one client, until the relay ends.
async fn read(client: usize, upstream: Arc<UdpSocket>, inbox: mpsc::Sender<ClientDatagram>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut errors = 0;
    while errors < ERRORS_MAX {
        match upstream.recv(&mut buffer).await {
            Ok(length) => {
                errors = 0;
                if inbox.send((client, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
            // "Connection refused": the server did not receive an earlier datagram.
            Err(_) => errors += 1,
        }
    }
}
