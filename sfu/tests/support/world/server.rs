//! The world: workers, clients and the network between them, one event after the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use weir_netsim::{Profile, Rng};
use weir_sfu::codec::MediaKind;
use weir_sfu::config::PublisherLimits;
use weir_sfu::error::{CloseReason, DropReason};
use weir_sfu::forward::LayerPreference;
use weir_sfu::ids::SessionId;
use weir_sfu::router::{WakeFlag, Waker, mesh};
use weir_sfu::transport::dtls::DtlsCertificate;
use weir_sfu::transport::egress::{Egress, Transmit};
use weir_sfu::transport::{Entropy, FiveTuple};
use weir_sfu::units::ClockBase;
use weir_sfu::worker::{
    Command, Event, Lobby, SessionInfo, UnservedTrack, Warning, Worker, WorkerConfig, WorkerReport,
};

use super::control::{Control, Order};
use super::dtls::Backend;
use super::guard::{Reached, Seen};
use super::link::{Link, Note, Outgoing};
use super::path::Way;
use super::publisher::Publisher;
use super::spec::{PublisherSpec, ViewerSpec};
use super::viewer::Viewer;
use super::wire::{self, Class};

/// Minimum step of time when a worker wants to be called again at once.
const STEP_MIN: Duration = Duration::from_millis(1);

/// Time after which a retransmission of the publisher may be given up (quality A3.2).
const REPAIR_DEADLINE: Duration = Duration::from_millis(600);

/// A client of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClientId(pub usize);

#[derive(Debug, Clone)]
pub(crate) struct WorldConfig {
    /// Seed of the network's random numbers and of the server's secrets.
    pub seed: u64,
    pub workers: usize,
    pub pool_packets: usize,
    pub limits: PublisherLimits,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { seed: 0, workers: 1, pool_packets: 8_192, limits: PublisherLimits::default() }
    }
}

pub(crate) struct Client {
    pub id: SessionId,
    pub link: Link,
    pub role: Role,
    pub up: Way<Up>,
    pub down: Way<Down>,
    generation: u64,
}

/// A datagram on its way to the server.
#[derive(Debug, Clone)]
pub(crate) struct Up {
    from: SocketAddr,
    note: Option<Note>,
    bytes: Vec<u8>,
}

/// A datagram on its way to a client, opened where the guard has checked it.
#[derive(Debug, Clone)]
pub(crate) struct Down {
    at: SocketAddr,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// STUN and DTLS.
    Plain(Vec<u8>),
    Rtp(Seen),
    Rtcp(Vec<u8>),
}

pub(crate) enum Role {
    Publisher(Box<Publisher>),
    Viewer(Box<Viewer>),
}

/// Egress to one address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SentTo {
    pub datagrams: u64,
    pub bytes: u64,
    /// RTP and RTCP among the datagrams.
    pub media: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Up,
    Down,
}

pub(crate) struct World {
    pub now: Instant,
    /// Time when true time began.
    pub epoch: Instant,
    pub server: SocketAddr,
    pub workers: Vec<Worker>,
    pub control: Control,
    pub clients: Vec<Client>,
    /// Addresses whose datagrams arrive at this worker, whatever the hash says.
    pub receiving_workers: HashMap<SocketAddr, usize>,
    /// Egress by address.
    pub sent_to: HashMap<SocketAddr, SentTo>,
    /// Datagrams to addresses of no client.
    pub to_strangers: Vec<(SocketAddr, Vec<u8>)>,
    /// Serials that reached the server, by source.
    pub delivered: HashMap<u32, HashSet<u64>>,
    /// Serials that came past [`REPAIR_DEADLINE`]: the server may forward them or not.
    pub late: HashMap<u32, HashSet<u64>>,
    /// Serials of frames that may be left out for a viewer.
    pub upper: HashMap<u32, HashSet<u64>>,
    /// Whether a worker may have panicked.
    pub panics_allowed: bool,
    /// Whether clients may get datagrams of others, because they share an address.
    pub foreign_allowed: bool,
    /// Whether the server may drop packets inside a run.
    pub drops_allowed: bool,
    /// Messages of media that ended with a report.
    pub reports_with_media: u64,
    /// Workers that take no turns; their datagrams wait in the socket.
    stalled: HashMap<usize, Vec<(SocketAddr, Vec<u8>)>>,
    /// Clients that are still part of the world.
    active: Vec<usize>,
    owners: HashMap<SocketAddr, usize>,
    seed: u64,
    /// Times when datagrams may arrive on a path: the time, the order of requests, the client.
    wakes: BinaryHeap<Reverse<(Instant, u64, usize, Direction)>>,
    next_wake: u64,
    egress: DefaultHasher,
    next_reap: Instant,
    hosts: u32,
}

#[derive(Default)]
struct Outbox(Vec<(FiveTuple, Vec<u8>)>, u64);

impl Egress for Outbox {
    fn send(&mut self, transmit: Transmit<'_>) {
        assert!(transmit.segments() <= 64, "more than a kernel takes in one message");
        let last = transmit.datagrams().last().map(wire::class);
        self.1 += u64::from(transmit.segments() > 1 && last == Some(Class::Rtcp));
        self.0.extend(transmit.datagrams().map(|datagram| (transmit.path, datagram.to_vec())));
    }
}

struct SeededEntropy(u64);

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

fn certificate() -> DtlsCertificate {
    static CERTIFICATE: OnceLock<DtlsCertificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| DtlsCertificate::generate().expect("a certificate")).clone()
}

impl World {
    pub(crate) fn new(workers: usize) -> Self {
        Self::with(WorldConfig { workers, ..WorldConfig::default() })
    }

    pub(crate) fn with(config: WorldConfig) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time needs one real instant")]
        let now = Instant::now() + Duration::from_secs(1_000);
        let lobby = Arc::new(Lobby::default());
        let wakes: Vec<_> = (0..config.workers).map(|_| WakeFlag::new(Arc::new(NoWaker))).collect();
        let workers = (1..).zip(mesh(&wakes)).map(|(number, port)| {
            Worker::new(WorkerConfig {
                clock: ClockBase::new(now, Duration::from_secs(1_700_000_000)),
                entropy: Box::new(SeededEntropy(config.seed.wrapping_add(number))),
                dtls: Arc::new(Backend(certificate())),
                lobby: Arc::clone(&lobby),
                port,
                pool_packets: config.pool_packets,
                publisher_limits: config.limits,
            })
        });
        Self {
            now,
            epoch: now,
            server: "192.0.2.1:8189".parse().expect("an address"),
            workers: workers.collect(),
            control: Control::new(lobby, config.workers),
            clients: Vec::new(),
            receiving_workers: HashMap::new(),
            sent_to: HashMap::new(),
            to_strangers: Vec::new(),
            delivered: HashMap::new(),
            late: HashMap::new(),
            upper: HashMap::new(),
            panics_allowed: false,
            foreign_allowed: false,
            drops_allowed: false,
            reports_with_media: 0,
            stalled: HashMap::new(),
            active: Vec::new(),
            owners: HashMap::new(),
            seed: config.seed,
            wakes: BinaryHeap::new(),
            next_wake: 0,
            egress: DefaultHasher::new(),
            next_reap: now + Duration::from_secs(1),
            hosts: 0,
        }
    }

    /// An address that no client had before.
    pub(crate) fn new_addr(&mut self) -> SocketAddr {
        self.hosts += 1;
        let [_, a, b, c] = self.hosts.to_be_bytes();
        SocketAddr::from(([10, a, b, c], 40_000 + (self.hosts % 20_000) as u16))
    }

    /// A publisher posts its offer; its checks start at once.
    pub(crate) fn publish(&mut self, stream: &str, spec: PublisherSpec) -> ClientId {
        self.publish_as(stream, spec, |_| {})
    }

    /// A publisher posts an offer that `forge` changed.
    pub(crate) fn publish_as(
        &mut self,
        stream: &str,
        spec: PublisherSpec,
        forge: impl FnOnce(&mut Link),
    ) -> ClientId {
        let number = self.clients.len() as u64 + 1;
        let addr = self.new_addr();
        let mut link = Link::new(number, addr, spec.dtls, self.now);
        let ways = [spec.up.clone(), spec.down.clone()];
        let publisher = Publisher::new(spec, number, self.now);
        forge(&mut link);
        let (id, server) = self.control.publish(self.now, stream, publisher.plan(&link));
        link.server = server;
        self.enter(id, link, Role::Publisher(Box::new(publisher)), ways)
    }

    /// A viewer posts its offer.
    pub(crate) fn watch(&mut self, stream: &str, spec: ViewerSpec) -> ClientId {
        let number = self.clients.len() as u64 + 1;
        let addr = self.new_addr();
        let mut link = Link::new(number, addr, spec.dtls, self.now);
        let control = &self.control;
        let plan = Viewer::plan(&spec, number, &link, |kind, ordinal, offered| {
            control.answer_codecs(stream, kind, ordinal, offered)
        });
        let (ways, worker) = ([spec.up.clone(), spec.down.clone()], spec.worker);
        let start = spec.start;
        let viewer = Viewer::new(spec, &plan, number, self.now);
        let (id, server) = self.control.subscribe(self.now, stream, plan, start, worker);
        link.server = server;
        self.enter(id, link, Role::Viewer(Box::new(viewer)), ways)
    }

    fn enter(&mut self, id: SessionId, link: Link, role: Role, ways: [Profile; 2]) -> ClientId {
        let index = self.clients.len();
        let (seed, number, now) = (self.seed, 2 * index as u64, self.now);
        let [up, down] = ways;
        self.owners.insert(link.addr, index);
        self.active.push(index);
        self.clients.push(Client {
            id,
            link,
            role,
            up: Way::new(up, seed, number, now),
            down: Way::new(down, seed, number + 1, now),
            generation: 0,
        });
        ClientId(index)
    }

    pub(crate) fn client(&mut self, client: ClientId) -> &mut Client {
        &mut self.clients[client.0]
    }

    pub(crate) fn link(&mut self, client: ClientId) -> &mut Link {
        &mut self.clients[client.0].link
    }

    pub(crate) fn publisher(&mut self, client: ClientId) -> &mut Publisher {
        match &mut self.clients[client.0].role {
            Role::Publisher(publisher) => publisher,
            Role::Viewer(_) => panic!("{client:?} watches"),
        }
    }

    pub(crate) fn viewer(&mut self, client: ClientId) -> &mut Viewer {
        match &mut self.clients[client.0].role {
            Role::Viewer(viewer) => viewer,
            Role::Publisher(_) => panic!("{client:?} publishes"),
        }
    }

    /// Tells the viewer's guard that layers may be filtered from now on.
    pub(crate) fn expect_filtered(&mut self, client: ClientId) {
        for sender in &mut self.viewer(client).guard.senders {
            sender.filters_layers = sender.plan.kind == MediaKind::Video;
        }
    }

    /// A publisher and its link, for what a publisher does by itself.
    pub(crate) fn with_publisher<T>(
        &mut self,
        client: ClientId,
        act: impl FnOnce(&mut Publisher, &mut Link) -> T,
    ) -> T {
        let client = &mut self.clients[client.0];
        match &mut client.role {
            Role::Publisher(publisher) => act(publisher, &mut client.link),
            Role::Viewer(_) => panic!("it watches"),
        }
    }

    pub(crate) fn with_viewer<T>(
        &mut self,
        client: ClientId,
        act: impl FnOnce(&mut Viewer, &mut Link) -> T,
    ) -> T {
        let client = &mut self.clients[client.0];
        match &mut client.role {
            Role::Viewer(viewer) => act(viewer, &mut client.link),
            Role::Publisher(_) => panic!("it publishes"),
        }
    }

    /// Loses datagrams on their way up.
    pub(crate) fn lose_up(&mut self, client: ClientId, loss: impl FnMut(&[u8]) -> bool + 'static) {
        self.client(client).up.filter = Some(Box::new(loss));
    }

    /// Loses datagrams on their way down.
    pub(crate) fn lose_down(
        &mut self,
        client: ClientId,
        loss: impl FnMut(&[u8]) -> bool + 'static,
    ) {
        self.client(client).down.filter = Some(Box::new(loss));
    }

    pub(crate) fn lose_nothing(&mut self, client: ClientId) {
        self.client(client).up.filter = None;
        self.client(client).down.filter = None;
    }

    /// Replaces the client's network, up and down.
    pub(crate) fn change_network(&mut self, client: ClientId, up: Profile, down: Profile) {
        let (now, client) = (self.now, self.client(client));
        client.up.link.change(now, up);
        client.down.link.change(now, down);
    }

    /// A random generator of this run's seed, for what a scenario leaves open.
    pub(crate) fn rng(&self, stream: u64) -> Rng {
        Rng::new(self.seed, u64::MAX - stream)
    }

    /// Hash of every datagram that left the server: time, destination, and bytes.
    pub(crate) fn egress_hash(&self) -> u64 {
        self.egress.finish()
    }

    /// Silences the client without a goodbye.
    pub(crate) fn kill(&mut self, client: ClientId) {
        self.link(client).alive = false;
    }

    /// Moves the client to another address.
    pub(crate) fn move_client(&mut self, client: ClientId) -> SocketAddr {
        let addr = self.new_addr();
        let now = self.now;
        self.link(client).move_to(now, addr);
        self.owners.insert(addr, client.0);
        addr
    }

    /// Moves the client to an address that others had before.
    pub(crate) fn reuse_addr(&mut self, client: ClientId, addr: SocketAddr) {
        let link = &mut self.clients[client.0].link;
        (link.addr, link.addrs) = (addr, vec![addr]);
        self.owners.insert(addr, client.0);
    }

    /// DELETE on the session's URL.
    pub(crate) fn delete(&mut self, client: ClientId) {
        let id = self.clients[client.0].id;
        let orders = self.control.close(id, CloseReason::Deleted);
        self.carry_out(orders);
        self.active.retain(|index| *index != client.0);
    }

    /// PATCH with new ICE credentials.
    pub(crate) fn restart_ice(&mut self, client: ClientId) {
        let now = self.now;
        let target = &mut self.clients[client.0];
        target.generation += 1;
        let (id, generation) = (target.id, target.generation);
        let server = target.link.server.clone();
        target.link.restart(now, generation, server);
        let remote = target.link.local.clone();
        let (server, order) = self.control.restart(id, generation, remote);
        self.clients[client.0].link.server = server;
        self.carry_out(order.into_iter().collect());
    }

    /// Sets a viewer's layer preference for video.
    pub(crate) fn set_preference(&mut self, client: ClientId, preference: LayerPreference) {
        let senders = &self.viewer(client).guard.senders;
        let picture = senders.iter().position(|sender| sender.plan.kind == MediaKind::Video);
        let picture = picture.expect("it watches a picture") as u8;
        let order = self.control.set_preference(self.clients[client.0].id, picture, preference);
        self.carry_out(order.into_iter().collect());
    }

    /// Gives a worker an order.
    pub(crate) fn command(&mut self, worker: usize, command: Command) {
        self.carry_out(vec![(worker, command)]);
    }

    fn carry_out(&mut self, orders: Vec<Order>) {
        for (worker, command) in orders {
            let mut outbox = Outbox::default();
            self.workers[worker].handle_command(self.now, command, &mut outbox);
            self.post(outbox);
        }
    }

    /// Warnings of a publisher so far.
    pub(crate) fn warned(&self, client: ClientId) -> Vec<Warning> {
        let id = self.clients[client.0].id;
        let of = self.control.warned.iter().filter(|(warned, _)| *warned == id);
        of.map(|(_, warning)| *warning).collect()
    }

    /// The reason why a client's session ended, if it did.
    pub(crate) fn closed(&self, client: ClientId) -> Option<CloseReason> {
        let id = self.clients[client.0].id;
        self.control.closed.iter().find(|(closed, _)| *closed == id).map(|(_, reason)| *reason)
    }

    pub(crate) fn worker_of(&self, client: ClientId) -> Option<usize> {
        self.control.sessions.get(&self.clients[client.0].id)?.worker
    }

    /// The API's report of a client's session.
    pub(crate) fn info(&mut self, client: ClientId) -> Option<SessionInfo> {
        let (id, now) = (self.clients[client.0].id, self.now);
        let worker = self.worker_of(client)?;
        self.workers[worker].session_info(id, now)
    }

    /// M-lines of a viewer that its status shows as unserved.
    pub(crate) fn unserved(&mut self, client: ClientId) -> Vec<UnservedTrack> {
        let worker = self.worker_of(client).expect("adopted");
        self.workers[worker].unserved_tracks(self.clients[client.0].id)
    }

    pub(crate) fn report(&self, worker: usize) -> WorkerReport {
        self.workers[worker].report()
    }

    /// Packets dropped for a reason, by all workers.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|worker| worker.report().dropped.get(reason)).sum()
    }

    pub(crate) fn sent_to(&self, addr: SocketAddr) -> SentTo {
        self.sent_to.get(&addr).copied().unwrap_or_default()
    }

    /// The worker whose socket gets datagrams from this address.
    pub(crate) fn receiving_worker(&self, from: SocketAddr) -> usize {
        let chosen = self.receiving_workers.get(&from).copied();
        chosen.unwrap_or_else(|| {
            let IpAddr::V4(ip) = from.ip() else { return 0 };
            let bytes = ip.octets().into_iter().chain(from.port().to_be_bytes());
            let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            (hash >> 32) as usize % self.workers.len()
        })
    }

    /// Puts a datagram into the server now, with any source address.
    pub(crate) fn inject(&mut self, from: SocketAddr, bytes: &[u8]) {
        let worker = self.receiving_worker(from);
        if let Some(socket) = self.stalled.get_mut(&worker) {
            socket.push((from, bytes.to_vec()));
            return;
        }
        let path = FiveTuple::udp(Some(self.server.ip()), from);
        let mut outbox = Outbox::default();
        self.workers[worker].handle_datagram(self.now, path, &mut bytes.to_vec(), &mut outbox);
        self.post(outbox);
    }

    /// Puts a datagram in as [`Self::inject`] does, and lets the workers finish with it.
    pub(crate) fn inject_and_run(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.inject(from, bytes);
        self.work();
    }

    /// Stops a worker's thread until [`Self::wake`].
    pub(crate) fn stall(&mut self, worker: usize) {
        self.stalled.entry(worker).or_default();
    }

    pub(crate) fn wake(&mut self, worker: usize) {
        for (from, bytes) in self.stalled.remove(&worker).unwrap_or_default() {
            self.inject(from, &bytes);
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.turn();
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            let stuck = at <= self.now;
            self.now = if stuck { self.now + STEP_MIN } else { at };
            if self.now > end {
                break;
            }
            self.turn();
        }
        self.now = end;
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    pub(crate) fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Lets time pass until this holds, at most so long; returns whether it did.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + limit;
        while !holds(self) {
            if self.now >= end {
                return false;
            }
            self.run(Duration::from_millis(5));
        }
        true
    }

    fn next_event(&self) -> Option<Instant> {
        let flight = self.wakes.peek().map(|Reverse((at, ..))| *at);
        let workers = self
            .workers
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.stalled.contains_key(index))
            .filter_map(|(_, worker)| worker.next_timeout());
        let clients = self.active.iter().filter_map(|index| {
            let client = &self.clients[*index];
            let link = client.link.next_timeout()?;
            let role = match &client.role {
                _ if !client.link.is_connected() => None,
                Role::Publisher(publisher) => publisher.next_timeout(),
                Role::Viewer(viewer) => viewer.next_timeout(),
            };
            Some(role.map_or(link, |at| at.min(link)))
        });
        flight.into_iter().chain(workers).chain(clients).chain([self.next_reap]).min()
    }

    fn turn(&mut self) {
        for index in self.active.clone() {
            self.serve_client(index);
        }
        while let Some(Reverse((at, _, index, direction))) = self.wakes.peek().copied() {
            if at > self.now {
                break;
            }
            self.wakes.pop();
            self.arrive(at, index, direction);
        }
        if self.next_reap <= self.now {
            self.next_reap = self.now + Duration::from_secs(1);
            self.control.reap(self.now);
        }
        self.work();
    }

    /// Runs turns of every worker until no work is left now.
    fn work(&mut self) {
        for _ in 0..8 {
            let mut orders = Vec::new();
            for index in 0..self.workers.len() {
                if self.stalled.contains_key(&index) {
                    continue;
                }
                let mut outbox = Outbox::default();
                let worker = &mut self.workers[index];
                worker.handle_rings(self.now, &mut outbox);
                worker.flush(self.now, &mut outbox);
                worker.handle_timeout(self.now, &mut outbox);
                let mut events = Vec::new();
                worker.drain_events(|event| {
                    events.push(event);
                    true
                });
                self.post(outbox);
                for event in events {
                    if let Event::Closed(id, _) = event {
                        self.active.retain(|client| self.clients[*client].id != id);
                    }
                    orders.extend(self.control.on_event(index, event));
                }
            }
            let idle = orders.is_empty()
                && !self.workers.iter().enumerate().any(|(index, worker)| {
                    !self.stalled.contains_key(&index) && worker.has_ring_work()
                });
            self.carry_out(orders);
            if idle {
                return;
            }
        }
    }

    fn serve_client(&mut self, index: usize) {
        let (now, epoch) = (self.now, self.epoch);
        let client = &mut self.clients[index];
        if client.link.alive {
            client.link.handle_timeout(now);
            match &mut client.role {
                Role::Publisher(publisher) => {
                    publisher.handle_timeout(now, epoch, &mut client.link);
                }
                Role::Viewer(viewer) => viewer.handle_timeout(now, &mut client.link),
            }
        }
        self.send_from(index);
    }

    /// Sends a client's queued datagrams.
    pub(crate) fn send_from(&mut self, index: usize) {
        let now = self.now;
        let out = std::mem::take(&mut self.clients[index].link.out);
        for Outgoing { from, bytes, note } in out {
            let up = &mut self.clients[index].up;
            if !up.filters(&bytes) {
                let wake = up.send(now, bytes.len(), Up { from, note, bytes });
                self.wake_for(wake, index, Direction::Up);
            }
        }
    }

    fn wake_for(&mut self, at: Option<Instant>, index: usize, direction: Direction) {
        if let Some(at) = at {
            self.wakes.push(Reverse((at, self.next_wake, index, direction)));
            self.next_wake += 1;
        }
    }

    /// Delivers the datagrams that have arrived on a path.
    fn arrive(&mut self, at: Instant, index: usize, direction: Direction) {
        let now = self.now;
        let wake = match direction {
            Direction::Up => {
                if !self.clients[index].up.woken(at) {
                    return;
                }
                while let Some(packet) = self.clients[index].up.link.poll(now) {
                    self.reach_server(packet);
                }
                self.clients[index].up.next_wake()
            }
            Direction::Down => {
                if !self.clients[index].down.woken(at) {
                    return;
                }
                while let Some(packet) = self.clients[index].down.link.poll(now) {
                    self.reach_client(index, packet);
                }
                self.clients[index].down.next_wake()
            }
        };
        self.wake_for(wake, index, direction);
    }

    fn reach_server(&mut self, Up { from, note, bytes }: Up) {
        if let Some(note) = note {
            let delivered = self.delivered.entry(note.source).or_default();
            delivered.extend(note.serial - note.carries..note.serial);
            let fresh = delivered.insert(note.serial);
            if note.upper {
                self.upper.entry(note.source).or_default().insert(note.serial);
            }
            if fresh && self.now - note.sent_at > REPAIR_DEADLINE {
                self.late.entry(note.source).or_default().insert(note.serial);
            }
        }
        self.inject(from, &bytes);
    }

    /// Sends the server's egress: counted, checked by the guard, and on its way to the client.
    fn post(&mut self, outbox: Outbox) {
        self.reports_with_media += outbox.1;
        for (path, bytes) in outbox.0 {
            assert!(bytes.len() <= 1_472, "a datagram of {} bytes", bytes.len());
            assert_eq!(path.local, Some(self.server.ip()), "from the address the peer came to");
            (self.now - self.epoch, path.remote, &bytes).hash(&mut self.egress);
            let count = self.sent_to.entry(path.remote).or_default();
            count.datagrams += 1;
            count.bytes += bytes.len() as u64;
            count.media += u64::from(matches!(wire::class(&bytes), Class::Rtp | Class::Rtcp));
            let Some(&index) = self.owners.get(&path.remote) else {
                self.to_strangers.push((path.remote, bytes));
                continue;
            };
            let len = bytes.len();
            let filtered = self.clients[index].down.filters(&bytes);
            let Some(content) = self.guard(index, bytes) else { continue };
            let client = &mut self.clients[index];
            // Datagrams to an earlier address of the client are lost.
            if !filtered && client.link.addr == path.remote {
                let wake = client.down.send(self.now, len, Down { at: path.remote, content });
                self.wake_for(wake, index, Direction::Down);
            }
        }
    }

    /// Checks a datagram as it leaves the server, whatever the network will do to it.
    fn guard(&mut self, index: usize, bytes: Vec<u8>) -> Option<Content> {
        let client = &mut self.clients[index];
        let class = wire::class(&bytes);
        if !matches!(class, Class::Rtp | Class::Rtcp) {
            return Some(Content::Plain(bytes));
        }
        if !client.link.can_open() {
            client.link.early.push(bytes);
            return None;
        }
        let opened = client.link.open(&bytes)?;
        match (class, &mut client.role) {
            (_, Role::Viewer(viewer)) if !viewer.guard.watches => None,
            (Class::Rtp, Role::Viewer(viewer)) => {
                Some(Content::Rtp(viewer.guard.on_rtp(&bytes, &opened)))
            }
            (_, Role::Viewer(viewer)) => {
                viewer.guard.on_rtcp(&opened);
                Some(Content::Rtcp(opened))
            }
            (Class::Rtp, Role::Publisher(_)) => panic!("media to a publisher"),
            (_, Role::Publisher(_)) => Some(Content::Rtcp(opened)),
        }
    }

    fn reach_client(&mut self, index: usize, Down { at, content }: Down) {
        let (now, server) = (self.now, self.server);
        let client = &mut self.clients[index];
        if !client.link.alive {
            return;
        }
        match (content, &mut client.role) {
            (Content::Plain(bytes), _) => {
                client.link.handle(now, at, server, &bytes);
                self.receive_early(index);
            }
            (Content::Rtp(seen), Role::Viewer(viewer)) => viewer.on_rtp(now, &seen),
            (Content::Rtcp(opened), Role::Viewer(viewer)) => viewer.on_rtcp(now, &opened),
            (Content::Rtcp(opened), Role::Publisher(publisher)) => {
                publisher.handle_rtcp(now, &opened, &mut client.link);
            }
            (Content::Rtp(_), Role::Publisher(_)) => unreachable!("the guard refused it"),
        }
        self.send_from(index);
    }

    /// Handles media that was sent before the end of a real handshake.
    fn receive_early(&mut self, index: usize) {
        if self.clients[index].link.is_connected() {
            for bytes in std::mem::take(&mut self.clients[index].link.early) {
                let at = self.clients[index].link.addr;
                if let Some(content) = self.guard(index, bytes) {
                    self.reach_client(index, Down { at, content });
                }
            }
        }
    }

    /// Final checks of every scenario.
    fn check(&self) {
        for (index, worker) in self.workers.iter().enumerate() {
            let panics = worker.report().panics;
            assert!(panics == 0 || self.panics_allowed, "worker {index} panicked {panics} times");
        }
        for client in &self.clients {
            let foreign = client.link.foreign;
            assert!(foreign == 0 || self.foreign_allowed, "{foreign} datagrams with wrong keys");
            if let Role::Viewer(viewer) = &client.role {
                let reached =
                    Reached { all: &self.delivered, late: &self.late, upper: &self.upper };
                viewer.guard.finish(&reached, !self.drops_allowed);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}
