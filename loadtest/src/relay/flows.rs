//! Clients of the relay, the links their datagrams travel on, and who has to be served when.
//!
//! Takes the time as an argument; of sockets it only sends. Called by `relay/mod.rs`.

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
use super::{DATAGRAM_MAX, Summary, Way};

/// Client addresses served at once; datagrams of others are dropped and counted.
pub(crate) const CLIENTS_MAX: usize = 4_096;

/// Datagrams read from the server but not looked at yet; when full they wait in the kernel's buffers, which drop.
const INBOX_MAX: usize = 1_024;

/// A socket that fails so often in a row is given up.
const ERRORS_MAX: u32 = 100;

/// A datagram and the client it belongs to.
type Parcel = (usize, Vec<u8>);

pub(crate) struct Flows {
    to: SocketAddr,
    up: Profile,
    down: Profile,
    shared: bool,
    seed: u64,
    ids: HashMap<SocketAddr, usize>,
    clients: Vec<Client>,
    /// Pairs of ways: one for all, or one for each client.
    lines: Vec<[Line; 2]>,
    /// When something may arrive: line, and whether up (0) or down (1).
    wakes: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    readers: JoinSet<()>,
    to_inbox: mpsc::Sender<Parcel>,
    refused: u64,
    unsent: u64,
}

struct Client {
    address: SocketAddr,
    upstream: Arc<UdpSocket>,
}

struct Line {
    link: Link<Parcel>,
    /// The earliest wake-up that was asked for.
    wake: Option<Instant>,
}

const UP: usize = 0;
const DOWN: usize = 1;

impl Flows {
    /// No client yet; the receiver gives what the server sends.
    pub(crate) fn new(
        options: &RelayOptions,
        up: Profile,
        down: Profile,
    ) -> (Self, mpsc::Receiver<Parcel>) {
        let (to_inbox, inbox) = mpsc::channel(INBOX_MAX);
        let flows = Self {
            to: options.to,
            up,
            down,
            shared: options.shared,
            seed: options.seed,
            ids: HashMap::new(),
            clients: Vec::new(),
            lines: Vec::new(),
            wakes: BinaryHeap::new(),
            readers: JoinSet::new(),
            to_inbox,
            refused: 0,
            unsent: 0,
        };
        (flows, inbox)
    }

    /// A client's datagram; the first of an address opens its way to the server.
    pub(crate) async fn on_client(
        &mut self,
        now: Instant,
        address: SocketAddr,
        datagram: &[u8],
    ) -> anyhow::Result<()> {
        let client = match self.ids.get(&address) {
            Some(client) => *client,
            None if self.clients.len() >= CLIENTS_MAX => {
                self.refused += 1;
                return Ok(());
            }
            None => self.admit(now, address).await?,
        };
        self.send(now, client, UP, datagram.to_vec());
        Ok(())
    }

    /// A datagram of the server for a client.
    pub(crate) fn on_server(&mut self, now: Instant, client: usize, datagram: Vec<u8>) {
        self.send(now, client, DOWN, datagram);
    }

    async fn admit(&mut self, now: Instant, address: SocketAddr) -> anyhow::Result<usize> {
        let any: SocketAddr = match self.to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let upstream = Arc::new(UdpSocket::bind(any).await?);
        upstream.connect(self.to).await?;
        let client = self.clients.len();
        self.readers.spawn(read(client, Arc::clone(&upstream), self.to_inbox.clone()));
        self.clients.push(Client { address, upstream });
        self.ids.insert(address, client);
        if self.lines.is_empty() || !self.shared {
            let number = self.lines.len() as u64;
            let line = |profile: &Profile, way: u64| {
                let seed = Rng::new(self.seed, 2 * number + way).next_u64();
                Line { link: Link::new(profile.clone(), seed, now), wake: None }
            };
            self.lines.push([line(&self.up, 0), line(&self.down, 1)]);
        }
        Ok(client)
    }

    fn send(&mut self, now: Instant, client: usize, way: usize, datagram: Vec<u8>) {
        let index = if self.shared { 0 } else { client };
        let Some(line) = self.lines.get_mut(index).and_then(|pair| pair.get_mut(way)) else {
            return;
        };
        line.link.send(now, datagram.len(), (client, datagram));
        self.wakes.extend(line.next_wake().map(|at| Reverse((at, index, way))));
    }

    /// When something arrives next.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.wakes.peek().map(|Reverse((at, ..))| *at)
    }

    /// Sends on what has arrived by now.
    pub(crate) async fn deliver(&mut self, now: Instant, listen: &UdpSocket) {
        while let Some(Reverse((at, index, way))) = self.wakes.peek().copied()
            && at <= now
        {
            self.wakes.pop();
            let Some(line) = self.lines.get_mut(index).and_then(|pair| pair.get_mut(way)) else {
                continue;
            };
            if line.wake != Some(at) {
                continue;
            }
            line.wake = None;
            while let Some((client, datagram)) = line.link.poll(now) {
                let Some(client) = self.clients.get(client) else { continue };
                let sent = match way {
                    UP => client.upstream.send(&datagram).await,
                    _ => listen.send_to(&datagram, client.address).await,
                };
                self.unsent += u64::from(sent.is_err());
            }
            self.wakes.extend(line.next_wake().map(|at| Reverse((at, index, way))));
        }
    }

    /// The sum over all lines.
    pub(crate) fn summary(&self, seed: u64, ran: Duration) -> Summary {
        let sum = |way: usize| {
            let (mut counts, mut queued) = (Counts::default(), 0);
            for line in self.lines.iter().filter_map(|pair| pair.get(way)) {
                counts.add(&line.link.counts());
                queued += line.link.queued() as u64;
            }
            Way::new(&counts, queued)
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

impl Line {
    /// The time of the next arrival, unless a wake-up for it or before it is under way.
    fn next_wake(&mut self) -> Option<Instant> {
        let at = self.link.next_timeout()?;
        if self.wake.is_some_and(|wake| wake <= at) {
            return None;
        }
        self.wake = Some(at);
        Some(at)
    }
}

/// Reads what the server sends to one client, for as long as the relay lives.
async fn read(client: usize, upstream: Arc<UdpSocket>, inbox: mpsc::Sender<Parcel>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut errors = 0;
    while errors < ERRORS_MAX {
        match upstream.recv(&mut buffer).await {
            Ok(length) => {
                errors = 0;
                if inbox.send((client, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
            // "Connection refused": the server was not there for an earlier datagram.
            Err(_) => errors += 1,
        }
    }
}
