//! A running conference under attack: datagrams that were recorded, changed or made up, sent from every
//! address that takes part. Nobody has the keys. Nothing may end or disturb a session
//! (quality B1).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use super::*;
use crate::world::spec::DtlsMode;
use crate::world::wire::{self, Check};

/// Datagrams that the attacker keeps; a newer one takes the place of a random older one.
const KEPT: usize = 600;

/// Datagrams for each millisecond of the attack.
const PER_MS: usize = 4;

/// Attacker who sees everything that the clients send, and can send in their name.
struct Attacker {
    rng: Rng,
    seen: Rc<RefCell<Vec<Vec<u8>>>>,
    addresses: Vec<SocketAddr>,
    /// (our ufrag, the client's), as they are in its checks.
    ufrags: Vec<(String, String)>,
}

impl Attacker {
    fn new(world: &World) -> Self {
        let stranger: SocketAddr = "203.0.113.66:6666".parse().expect("an address");
        Self {
            rng: world.rng(99),
            seen: Rc::default(),
            addresses: vec![stranger],
            ufrags: Vec::new(),
        }
    }

    /// Listens to a client from now on.
    fn tap(&mut self, world: &mut World, client: ClientId) {
        let (seen, mut rng) = (Rc::clone(&self.seen), Rng::new(self.rng.next_u64(), 5));
        world.lose_up(client, move |bytes| {
            let mut seen = seen.borrow_mut();
            if seen.len() < KEPT {
                seen.push(bytes.to_vec());
            } else if rng.chance(0.2) {
                let index = rng.below(KEPT as u64) as usize;
                seen[index] = bytes.to_vec();
            }
            false
        });
        let link = world.link(client);
        self.addresses.push(link.addr);
        self.ufrags.push((link.server.ufrag.clone(), link.local.ufrag.clone()));
    }

    fn pick(&mut self, count: usize) -> usize {
        self.rng.below(count.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.rng.next_u64() as u8).collect()
    }

    fn recorded(&mut self) -> Vec<u8> {
        let count = self.seen.borrow().len();
        let index = self.pick(count);
        self.seen.borrow().get(index).cloned().unwrap_or_default()
    }

    /// DTLS record with any contents; a plausible handshake message is among them.
    fn dtls(&mut self) -> Vec<u8> {
        let content_type = [20, 21, 22, 22, 22, 23, 24, 20 + self.pick(44) as u8][self.pick(8)];
        let epoch = [0, 0, 1, 1, 2, self.rng.next_u64() as u16][self.pick(6)];
        let body = match (content_type, self.pick(3)) {
            (20, 0) => vec![1],
            (20, _) => vec![2],
            (21, 0 | 1) => vec![1 + self.pick(2) as u8, [0, 10, 40, 42, 51, 90][self.pick(6)]],
            (22, 0 | 1) => {
                let len = self.pick(60);
                let kind = [1, 2, 3, 11, 12, 13, 14, 15, 16, 20][self.pick(10)];
                let claimed = [len, len, len + 30, 0, 0xff_ffff][self.pick(5)] as u32;
                let mut body = vec![kind];
                body.extend_from_slice(&claimed.to_be_bytes()[1..]);
                body.extend_from_slice(&(self.pick(8) as u16).to_be_bytes());
                body.extend_from_slice(&[0, 0, 0]);
                body.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
                let data = self.bytes(len);
                body.extend(data);
                body
            }
            _ => {
                let len = self.pick(80);
                self.bytes(len)
            }
        };
        let mut record = vec![content_type, 0xfe, 0xfd];
        record.extend_from_slice(&epoch.to_be_bytes());
        let number = [self.rng.below(40), self.rng.next_u64() >> 16][self.pick(2)];
        record.extend_from_slice(&number.to_be_bytes()[2..]);
        record.extend_from_slice(&(body.len() as u16).to_be_bytes());
        record.extend(body);
        record
    }

    /// A check for a session whose name is known, but not its password; or an answer to none.
    fn stun(&mut self) -> Vec<u8> {
        let index = self.pick(self.ufrags.len());
        let Some((ours, theirs)) = self.ufrags.get(index).cloned() else { return vec![0, 1] };
        let id = self.bytes(12).try_into().expect("twelve");
        let check = Check {
            id,
            to_ufrag: &ours,
            from_ufrag: &theirs,
            pwd: "a-guess-of-the-password",
            use_candidate: self.rng.chance(0.5),
        };
        let mut bytes = match self.pick(4) {
            0 => wire::plain_request(id),
            _ => check.bytes(),
        };
        // Answers, errors and indications, too.
        let class = [0x0001, 0x0001, 0x0101, 0x0111, 0x0011, 0x0003][self.pick(6)] as u16;
        bytes[..2].copy_from_slice(&class.to_be_bytes());
        bytes
    }

    fn datagram(&mut self) -> Vec<u8> {
        match self.pick(8) {
            0 | 1 => self.dtls(),
            2 => self.stun(),
            3 | 4 => self.recorded(),
            5 | 6 => {
                let mut bytes = self.recorded();
                match self.pick(4) {
                    0 => bytes.truncate(self.pick(bytes.len() + 1)),
                    1 if bytes.len() > 12 => {
                        // An SSRC or a number of its own.
                        let at = [2, 4, 8][self.pick(3)];
                        let new = self.bytes(4);
                        bytes[at..at + 4].copy_from_slice(&new);
                    }
                    _ => {
                        for _ in 0..=self.pick(3) {
                            let (at, bit) = (self.pick(bytes.len()), self.pick(8));
                            if let Some(byte) = bytes.get_mut(at) {
                                *byte ^= 1 << bit;
                            }
                        }
                    }
                }
                bytes
            }
            _ => {
                let len = [self.pick(40), self.pick(1_500)][self.pick(2)];
                self.bytes(len)
            }
        }
    }

    /// Attacks for a span of time.
    fn attack(&mut self, world: &mut World, span_ms: u64) {
        for _ in 0..span_ms {
            for _ in 0..PER_MS {
                let index = self.pick(self.addresses.len());
                let from = self.addresses[index];
                let datagram = self.datagram();
                world.inject(from, &datagram);
            }
            world.run_ms(1);
        }
    }
}

/// Any of the ways to make keys; the real handshake is nobody's preset.
fn any_dtls(scenario: &mut Scenario) -> DtlsMode {
    if scenario.chance() { DtlsMode::Client } else { DtlsMode::Server }
}

#[test]
fn nobody_without_keys_ends_or_disturbs_a_session() {
    each_seed_with_real_handshakes(|scenario| {
        let mut attacker = Attacker::new(&scenario.world);
        let mut spec = if scenario.chance() { scenario.simulcast() } else { scenario.browser() };
        spec.dtls = any_dtls(scenario);
        let (publisher, first) = scenario.watched(spec);
        let mut clients = vec![publisher, first];
        for dtls in [DtlsMode::Client, DtlsMode::Client, any_dtls(scenario)] {
            let spec = ViewerSpec { dtls, ..scenario.viewer() };
            clients.push(scenario.world.watch("live", spec));
        }
        for &client in &clients {
            attacker.tap(&mut scenario.world, client);
        }
        scenario.world.run_s(2);
        let viewers = clients[1..].to_vec();
        for &viewer in &viewers {
            scenario.assert_receives(viewer);
        }
        let from = scenario.world.now;
        attacker.attack(&mut scenario.world, 6_000);
        for &viewer in &viewers {
            let wait = scenario.longest_wait_since(from, viewer);
            assert!(wait <= Duration::from_millis(150), "no picture for {wait:?}");
            scenario.assert_whole(viewer);
        }
        // Who joins meanwhile connects, and the attacker knows the new address at once.
        let late = scenario.viewer();
        let late = scenario.world.watch("live", ViewerSpec { dtls: DtlsMode::Client, ..late });
        attacker.tap(&mut scenario.world, late);
        clients.push(late);
        attacker.attack(&mut scenario.world, 4_000);
        for &client in &clients {
            assert_eq!(scenario.world.closed(client), None, "ended by nobody");
            assert!(scenario.world.link(client).is_connected());
        }
        for viewer in viewers.into_iter().chain([late]) {
            scenario.assert_receives(viewer);
        }
        for &client in &clients {
            // A copy of a check may overtake it and be answered, or checked, at another client's address.
            scenario.world.link(client).foreign = 0;
        }
    });
}
