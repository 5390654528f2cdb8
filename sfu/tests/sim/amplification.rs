//! The amplification table: bytes that an address is sent for the bytes that came from it, timers
//! and repeats included. An attacker writes the source address; the victim answers nothing.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use weir_sfu::transport::ice::HANDSHAKE_ALLOWANCE_BYTES;

use crate::world::dtls::{HELLO, Identity, RealDtls};
use crate::world::spec::{DtlsMode, PublisherSpec, ViewerSpec};
use crate::world::wire::{self, Check};
use crate::world::{ClientId, World};
use crate::{TestRng, watched};

/// What an address may be sent.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// For each request as many bytes as this, or as the request has.
    Answer(u64),
    /// A multiple of what came from there, and a number of bytes.
    Factor(u64, u64),
}

/// Bytes that came from the addresses of a row's victims, and that went there.
struct Counted {
    requests: u64,
    received: u64,
    sent: u64,
}

/// A world in which datagrams are sent from victims' addresses.
struct Attack {
    world: World,
    victims: Vec<SocketAddr>,
    requests: u64,
    received: Rc<Cell<u64>>,
}

impl Attack {
    fn new(mut world: World) -> Self {
        let victims = vec![world.new_addr()];
        Self { world, victims, requests: 0, received: Rc::default() }
    }

    fn victim(&self) -> SocketAddr {
        *self.victims.last().expect("one")
    }

    fn send(&mut self, bytes: &[u8]) {
        self.requests += 1;
        self.received.set(self.received.get() + bytes.len() as u64);
        let victim = self.victim();
        self.world.inject_and_run(victim, bytes);
    }

    fn check(&mut self, client: ClientId) {
        let check = self.world.link(client).new_check(true);
        self.send(&check);
    }

    /// Lets the client send all that it has from the victim's address.
    fn aim(&mut self, client: ClientId) {
        let victim = self.victim();
        let now = self.world.now;
        self.world.link(client).move_to(now, victim);
        let received = Rc::clone(&self.received);
        self.world.lose_up(client, move |bytes| {
            received.set(received.get() + bytes.len() as u64);
            false
        });
    }

    fn counted(self) -> Counted {
        let sent = self.victims.iter().map(|victim| self.world.sent_to(*victim).bytes).sum();
        Counted { requests: self.requests, received: self.received.get(), sent }
    }
}

/// A session whose client does nothing by itself.
fn silent_publisher(world: &mut World, dtls: DtlsMode) -> ClientId {
    let publisher = world.publish("live", PublisherSpec { dtls, ..PublisherSpec::browser() });
    world.link(publisher).checks = false;
    publisher
}

fn plain_binding(ip: [u8; 2]) -> Counted {
    let mut attack = Attack::new(World::new(1));
    if ip == [6, 6] {
        attack.victims = vec!["[2001:db8::9]:9".parse().expect("an address")];
    }
    for n in 0..40 {
        attack.send(&wire::plain_request([n; 12]));
        attack.world.run_ms(100);
    }
    attack.counted()
}

/// Plain Binding requests with attributes, some of them unknown.
fn plain_binding_with_attributes() -> Counted {
    let mut attack = Attack::new(World::new(1));
    attack.victims = vec!["[2001:db8::9]:9".parse().expect("an address")];
    for unknown in 0..12u8 {
        let request = wire::plain_request([unknown; 12]);
        let extra: Vec<u8> = (0..unknown).flat_map(|n| [0x7f, n, 0, 0]).collect();
        attack.send(&[&[0, 1, 0, 4 * unknown][..], &request[4..], &extra].concat());
    }
    attack.counted()
}

/// Everything else that a stranger can send to a live conference.
fn stranger() -> Counted {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    let waiting = silent_publisher(&mut world, DtlsMode::Server);
    let servers = [publisher, viewer, waiting].map(|client| world.link(client).server.clone());
    let sealed =
        world.link(publisher).seal_rtp(&[0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4]);
    let mut rng = TestRng(5);
    let mut datagrams = vec![HELLO.to_vec(), sealed.expect("keys"), vec![0x80; 300], Vec::new()];
    let mut dtls = RealDtls::new(&Identity::generate(), true, &[7, 1]);
    dtls.start(world.now);
    datagrams.extend(dtls.sent());
    for (n, server) in servers.iter().enumerate() {
        for (to_ufrag, pwd) in [(&server.ufrag[..], "wrong-wrong-wrong-wrong"), ("nobody", "x")] {
            let id = [n as u8; 12];
            let use_candidate = true;
            datagrams.push(Check { id, to_ufrag, from_ufrag: "me", pwd, use_candidate }.bytes());
        }
    }
    let request = wire::plain_request([5; 12]);
    for class in [[0x01, 0x01], [0x00, 0x11], [0x01, 0x11], [0x00, 0x03]] {
        datagrams.push([&class[..], &request[2..]].concat());
    }
    datagrams.extend((1..60).map(|len| rng.bytes(len)).filter(|bytes| bytes[0] > 3));
    let mut attack = Attack::new(world);
    for datagram in datagrams.iter().cycle().take(1_000) {
        attack.send(datagram);
        attack.world.run_ms(10);
    }
    attack.world.run_s(31);
    attack.counted()
}

/// The first checks of a session come from the victim, and whatever a client can say of a handshake
/// without hearing the answers.
fn first_path(of_viewer: bool, dtls: DtlsMode, checks: usize, hellos: bool) -> Counted {
    let mut world = World::new(1);
    let client = if of_viewer {
        world.publish("live", PublisherSpec::browser());
        let viewer = world.watch("live", ViewerSpec { dtls, ..ViewerSpec::browser() });
        world.link(viewer).checks = false;
        world.run_s(1);
        viewer
    } else {
        silent_publisher(&mut world, dtls)
    };
    let mut client_dtls = RealDtls::new(&Identity::generate(), true, &[7, 1]);
    client_dtls.start(world.now);
    let hello = client_dtls.sent();
    let mut attack = Attack::new(world);
    for _ in 0..checks {
        attack.check(client);
        for datagram in hello.iter().filter(|_| hellos) {
            attack.send(datagram);
        }
        attack.world.run_ms(200);
    }
    attack.world.run_s(31);
    attack.counted()
}

/// One session shows its checks from many victims, after ICE restarts, too: the allowance of its
/// handshake is there once.
fn first_path_that_moves() -> Counted {
    let mut world = World::new(1);
    let publisher = silent_publisher(&mut world, DtlsMode::Server);
    let mut attack = Attack::new(world);
    for n in 0..30 {
        attack.check(publisher);
        attack.world.run_ms(400);
        if n % 3 == 2 && n < 24 {
            attack.world.restart_ice(publisher);
        }
        let next = attack.world.new_addr();
        attack.victims.push(next);
    }
    attack.world.run_s(31);
    attack.counted()
}

/// A live publisher nominates the victim and sends its media from there, for a minute.
fn publisher_that_moves(dtls: DtlsMode, sends: bool) -> Counted {
    let spec = PublisherSpec { dtls, ..PublisherSpec::browser() };
    let (mut world, publisher, viewer) = watched(1, spec, ViewerSpec::browser());
    // Its viewer has losses, so that there is much feedback.
    let mut rng = TestRng(8);
    world.lose_down(viewer, move |_| rng.chance(20));
    world.publisher(publisher).sends = sends;
    let mut attack = Attack::new(world);
    attack.aim(publisher);
    attack.world.run_s(60);
    attack.counted()
}

/// A live publisher shows the victim's address in a check and one packet, now and then, and goes on
/// from its own. With `pauses` it stops there before, for as long as its own address is in doubt.
fn publisher_that_nominates(dtls: DtlsMode, pauses: bool) -> Counted {
    let spec = PublisherSpec { dtls, ..PublisherSpec::browser() };
    let (mut world, publisher, _) = watched(1, spec, ViewerSpec::browser());
    let mut rng = TestRng(8);
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && rng.chance(20));
    // It never tells the server by an answer where it is.
    world.link(publisher).answers = false;
    let mut attack = Attack::new(world);
    for _ in 0..12 {
        if pauses {
            attack.world.publisher(publisher).sends = false;
            attack.world.publisher(publisher).spec.sends_reports = false;
            attack.world.run_s(4);
        }
        attack.check(publisher);
        let packet = attack.world.with_publisher(publisher, |publisher, link| {
            let layer = &publisher.tracks[1].layers[0];
            let (ssrc, seq) = (layer.ssrc, layer.next_seq - 1);
            publisher.retransmit(ssrc, seq as u16, link);
            link.out.pop().map(|out| out.bytes)
        });
        attack.send(&packet.expect("sealed"));
        attack.world.publisher(publisher).sends = true;
        attack.world.publisher(publisher).spec.sends_reports = true;
        attack.world.run_s(3);
    }
    attack.counted()
}

/// A publisher's first check comes from its own address, and it nominates the victim before its
/// handshake is done.
fn publisher_that_nominates_in_its_handshake(dtls: DtlsMode) -> Counted {
    let mut world = World::new(1);
    let publisher = silent_publisher(&mut world, dtls);
    let own = world.link(publisher).addr;
    let check = world.link(publisher).new_check(false);
    world.inject_and_run(own, &check);
    world.run_ms(25);
    let mut attack = Attack::new(world);
    attack.check(publisher);
    attack.world.run_s(31);
    attack.counted()
}

fn viewer_that_moves() -> Counted {
    let (world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    let mut attack = Attack::new(world);
    attack.aim(viewer);
    attack.world.run_s(60);
    attack.counted()
}

// quality B1 (coturn#1829), quality B4 item 2
#[test]
fn no_address_is_sent_more_than_the_amplification_table_allows() {
    use DtlsMode::{Client, Server};
    const ALLOWANCE: u64 = HANDSHAKE_ALLOWANCE_BYTES;
    assert_eq!(ALLOWANCE, 2_048, "docs/SECURITY.md tells the number");
    let gcm = PublisherSpec::browser().dtls;
    let rows: Vec<(&str, Limit, Counted)> = vec![
        ("stranger, plain Binding over IPv4", Limit::Answer(44), plain_binding([4, 4])),
        ("stranger, plain Binding over IPv6", Limit::Answer(44), plain_binding([6, 6])),
        ("stranger, with attributes", Limit::Answer(44), plain_binding_with_attributes()),
        ("stranger, anything else", Limit::Factor(1, 0), stranger()),
        ("viewer, one check", Limit::Factor(3, 0), first_path(true, Client, 1, false)),
        ("viewer, checks and hellos", Limit::Factor(3, 0), first_path(true, Client, 40, true)),
        ("viewer, passive", Limit::Factor(3, 0), first_path(true, Server, 40, false)),
        (
            "passive publisher, one check",
            Limit::Factor(3, ALLOWANCE),
            first_path(false, Server, 1, false),
        ),
        (
            "passive publisher, checks",
            Limit::Factor(3, ALLOWANCE),
            first_path(false, Server, 40, false),
        ),
        (
            "publisher, checks and hellos",
            Limit::Factor(3, ALLOWANCE),
            first_path(false, Client, 40, true),
        ),
        ("passive publisher, 30 victims", Limit::Factor(3, ALLOWANCE), first_path_that_moves()),
        (
            "passive publisher nominates in its handshake",
            Limit::Factor(3, ALLOWANCE),
            publisher_that_nominates_in_its_handshake(Server),
        ),
        ("publisher nominates", Limit::Factor(1, 0), publisher_that_nominates(gcm, false)),
        (
            "passive publisher nominates",
            Limit::Factor(1, 0),
            publisher_that_nominates(Server, false),
        ),
        (
            "publisher pauses and nominates",
            Limit::Factor(1, 0),
            publisher_that_nominates(gcm, true),
        ),
        ("publisher aims its media", Limit::Factor(1, 0), publisher_that_moves(gcm, true)),
        (
            "passive publisher aims its media",
            Limit::Factor(1, 0),
            publisher_that_moves(Server, true),
        ),
        ("publisher aims its checks", Limit::Factor(1, 0), publisher_that_moves(gcm, false)),
        ("viewer aims its checks and reports", Limit::Factor(3, 0), viewer_that_moves()),
    ];
    for (name, limit, Counted { requests, received, sent }) in rows {
        println!("{name}: {sent} bytes for {received}, {:.2}", sent as f64 / received as f64);
        let allowed = match limit {
            Limit::Answer(bytes) => (requests * bytes).max(received),
            Limit::Factor(factor, allowance) => factor * received + allowance,
        };
        assert!(sent <= allowed, "{name}: {sent} bytes for {received}, of {allowed}");
    }
}
