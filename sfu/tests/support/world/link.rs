//! A client's end of one connection: ICE as the controlling agent, DTLS, SRTP contexts.
//!
//! The switches are public, so that a scenario can break it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc_srtp::context::Context;
use rtc_stun::message::{BINDING_REQUEST, BINDING_SUCCESS};
use weir_sfu::sdp::{DtlsRole, Fingerprint, IceCredentials, RemoteTransport};

use super::dtls::{self, HELLO, Identity, RealDtls, goodbye, welcome};
use super::spec::DtlsMode;
use super::wire::{self, Check, Class};

/// Interval of checks until the first answer.
const CHECK_SOON: Duration = Duration::from_millis(50);

/// Interval of checks afterwards, as libwebrtc paces them.
const CHECK_LATER: Duration = Duration::from_millis(2_500);

/// Maximum checks whose answers are still accepted; the oldest is forgotten.
const WAITING_MAX: usize = 20;

/// Which packet of which source a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub source: u32,
    pub serial: u64,
    /// Number of packets directly before it that it carries (RED).
    pub carries: u64,
    /// Whether its frame may be left out for a viewer.
    pub upper: bool,
    /// Time when it was sent for the first time.
    pub sent_at: Instant,
}

/// One datagram to the server.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
    pub note: Option<Note>,
}

pub(crate) struct Link {
    /// Present address of the client.
    pub addr: SocketAddr,
    /// Every address of the client so far; datagrams to earlier ones are lost.
    pub addrs: Vec<SocketAddr>,
    pub local: IceCredentials,
    /// Credentials before a restart; checks with them are answered until the new pair works.
    previous: Option<IceCredentials>,
    pub server: IceCredentials,
    /// Whether it sends checks.
    pub checks: bool,
    /// Whether it answers the server's checks.
    pub answers: bool,
    /// Whether it begins the DTLS handshake once its path works.
    pub speaks_dtls: bool,
    /// Whether it sends and receives at all.
    pub alive: bool,
    pub fingerprint: Fingerprint,
    pub connected_at: Option<Instant>,
    pub closed_by_server: bool,
    /// Every check that was sent, for scenarios that record.
    pub sent_checks: Vec<Vec<u8>>,
    /// Checks of the server that it answered.
    pub server_checks: u32,
    /// Answers to its own checks.
    pub answered_checks: u32,
    /// Datagrams for another client: signed or sealed with other keys.
    pub foreign: u32,
    /// Media that the server sent before the end of a real handshake.
    pub early: Vec<Vec<u8>>,
    pub out: Vec<Outgoing>,
    mode: DtlsMode,
    real: Option<RealDtls>,
    seal: Option<Context>,
    open: Option<Context>,
    number: u64,
    next_check: Instant,
    next_hello: Option<Instant>,
    check_count: u64,
    /// Checks that were not answered yet; more than one where the round trip is long.
    waiting_for: Vec<[u8; 12]>,
    path_works: bool,
    /// Whether a check of its was ever answered. DTLS that comes before is lost, as FFmpeg loses it.
    has_path: bool,
}

impl Link {
    pub(crate) fn new(number: u64, addr: SocketAddr, mode: DtlsMode, now: Instant) -> Self {
        let (fingerprint, real) = match mode {
            DtlsMode::Preset(profile) => (dtls::preset_fingerprint(number, profile), None),
            DtlsMode::Client | DtlsMode::Server => {
                let identity = Identity::generate();
                let real = RealDtls::new(&identity, mode == DtlsMode::Client, &[7, 8, 1]);
                (identity.fingerprint, Some(real))
            }
        };
        let (seal, open) = match mode {
            DtlsMode::Preset(_) => {
                let (seal, open) = dtls::preset_keys(&fingerprint);
                (Some(seal), Some(open))
            }
            _ => (None, None),
        };
        Self {
            addr,
            addrs: vec![addr],
            local: credentials("client", number, 0),
            previous: None,
            server: IceCredentials { ufrag: String::new(), pwd: String::new() },
            checks: true,
            answers: true,
            speaks_dtls: true,
            alive: true,
            fingerprint,
            connected_at: None,
            closed_by_server: false,
            sent_checks: Vec::new(),
            server_checks: 0,
            answered_checks: 0,
            foreign: 0,
            early: Vec::new(),
            out: Vec::new(),
            mode,
            real,
            seal,
            open,
            number,
            next_check: now,
            next_hello: None,
            check_count: 0,
            waiting_for: Vec::new(),
            path_works: false,
            has_path: false,
        }
    }

    /// The client's side of the offer.
    pub(crate) fn offer(&self) -> RemoteTransport {
        let dtls_role = match self.mode {
            DtlsMode::Server => DtlsRole::Client,
            DtlsMode::Preset(_) | DtlsMode::Client => DtlsRole::Server,
        };
        let fingerprints = vec![self.fingerprint.clone()];
        RemoteTransport { ice: self.local.clone(), fingerprints, dtls_role }
    }

    /// New credentials for an ICE restart; the next check uses them.
    pub(crate) fn restart(&mut self, now: Instant, generation: u64, server: IceCredentials) {
        let fresh = credentials("client", self.number, generation);
        self.previous = Some(std::mem::replace(&mut self.local, fresh));
        self.server = server;
        self.path_works = false;
        self.next_check = now;
    }

    /// Moves to another address (a NAT that rebinds, Wi-Fi to mobile) and checks from there.
    pub(crate) fn move_to(&mut self, now: Instant, addr: SocketAddr) {
        self.addr = addr;
        self.addrs.push(addr);
        self.next_check = now;
        self.path_works = false;
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected_at.is_some()
    }

    /// A check as it would be sent now, under a new transaction id.
    pub(crate) fn new_check(&mut self, use_candidate: bool) -> Vec<u8> {
        self.check_count += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&(self.number as u32).to_be_bytes());
        id[4..].copy_from_slice(&self.check_count.to_be_bytes());
        Check {
            id,
            to_ufrag: &self.server.ufrag,
            from_ufrag: &self.local.ufrag,
            pwd: &self.server.pwd,
            use_candidate,
        }
        .bytes()
    }

    pub(crate) fn seal_rtp(&mut self, plaintext: &[u8]) -> Option<Vec<u8>> {
        Some(self.seal.as_mut()?.encrypt_rtp(plaintext).ok()?.to_vec())
    }

    pub(crate) fn seal_rtcp(&mut self, plaintext: &[u8]) -> Option<Vec<u8>> {
        Some(self.seal.as_mut()?.encrypt_rtcp(plaintext).ok()?.to_vec())
    }

    /// Whether it has keys; before that, media is kept in [`Self::early`].
    pub(crate) fn can_open(&self) -> bool {
        self.open.is_some()
    }

    /// Opens SRTP or SRTCP of the server. `None` for packets of another client.
    pub(crate) fn open(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let open = self.open.as_mut()?;
        let opened = match wire::class(bytes) {
            Class::Rtp => open.decrypt_rtp(bytes),
            _ => open.decrypt_rtcp(bytes),
        };
        self.foreign += u32::from(opened.is_err());
        Some(opened.ok()?.to_vec())
    }

    pub(crate) fn send(&mut self, bytes: Vec<u8>, note: Option<Note>) {
        if self.alive {
            self.out.push(Outgoing { from: self.addr, bytes, note });
        }
    }

    pub(crate) fn send_rtcp(&mut self, plaintext: &[u8]) {
        if self.is_connected()
            && let Some(sealed) = self.seal_rtcp(plaintext)
        {
            self.send(sealed, None);
        }
    }

    /// Sends a DTLS close_notify.
    pub(crate) fn say_goodbye(&mut self) {
        assert!(self.real.is_none(), "only a preset peer says goodbye");
        let goodbye = goodbye(&self.fingerprint.digest);
        self.send(goodbye, None);
    }

    /// A STUN or DTLS datagram that came to `at`.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        at: SocketAddr,
        server: SocketAddr,
        bytes: &[u8],
    ) {
        match wire::class(bytes) {
            Class::Stun => self.handle_stun(now, at, server, bytes),
            Class::Dtls => self.handle_dtls(now, bytes),
            Class::Rtp | Class::Rtcp | Class::Junk => panic!("the server sent {bytes:02x?}"),
        }
    }

    fn handle_stun(&mut self, now: Instant, at: SocketAddr, server: SocketAddr, bytes: &[u8]) {
        let mut message = wire::parse_stun(bytes).expect("the server's STUN parses");
        if message.typ == BINDING_REQUEST {
            let own = std::iter::once(&self.local).chain(&self.previous);
            let key = own.into_iter().find(|own| wire::is_signed(&mut message, &own.pwd)).cloned();
            let Some(key) = key else {
                self.foreign += 1;
                return;
            };
            if self.answers {
                self.server_checks += 1;
                let reply = wire::answer(&message, server, &key);
                self.out.push(Outgoing { from: at, bytes: reply, note: None });
            }
            return;
        }
        assert_eq!(message.typ, BINDING_SUCCESS, "the server refused a valid check");
        if !self.waiting_for.contains(&message.transaction_id.0) {
            return;
        }
        if !wire::is_signed(&mut message, &self.server.pwd) {
            self.foreign += 1;
            return;
        }
        self.answered_checks += 1;
        self.waiting_for.clear();
        self.has_path = true;
        if !std::mem::replace(&mut self.path_works, true) && self.speaks_dtls {
            self.next_check = now + CHECK_LATER;
            if let Some(real) = &mut self.real {
                real.start(now);
                self.pump(now);
            } else if !self.is_connected() {
                self.next_hello = Some(now);
            }
        }
    }

    fn handle_dtls(&mut self, now: Instant, bytes: &[u8]) {
        if !self.has_path {
            return;
        }
        if let Some(real) = &mut self.real {
            real.handle(now, bytes);
            self.closed_by_server |= real.closed;
            self.pump(now);
            return;
        }
        if bytes == goodbye(&self.fingerprint.digest) {
            self.closed_by_server = true;
        } else if bytes == welcome(&self.fingerprint.digest) {
            self.connected_at.get_or_insert(now);
        } else {
            self.foreign += 1;
            return;
        }
        self.next_hello = None;
    }

    fn pump(&mut self, now: Instant) {
        let Some(real) = &mut self.real else { return };
        let sent = real.sent();
        if real.connected && self.seal.is_none() {
            let (seal, open) = real.keys().expect("a finished handshake has keys");
            (self.seal, self.open) = (Some(seal), Some(open));
            self.connected_at = Some(now);
        }
        for bytes in sent {
            self.send(bytes, None);
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if !self.alive {
            return None;
        }
        let real = self.real.as_ref().and_then(RealDtls::next_timeout);
        let check = self.checks.then_some(self.next_check);
        [check, self.next_hello, real].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if !self.alive {
            return;
        }
        if self.checks && self.next_check <= now {
            self.next_check = now + if self.path_works { CHECK_LATER } else { CHECK_SOON };
            let check = self.new_check(true);
            self.waiting_for
                .extend(wire::parse_stun(&check).map(|message| message.transaction_id.0));
            if self.waiting_for.len() > WAITING_MAX {
                self.waiting_for.remove(0);
            }
            self.sent_checks.push(check.clone());
            self.send(check, None);
        }
        if self.next_hello.is_some_and(|at| at <= now) {
            self.next_hello = Some(now + Duration::from_millis(100));
            self.send(HELLO.to_vec(), None);
        }
        if let Some(real) = &mut self.real
            && real.next_timeout().is_some_and(|at| at <= now)
        {
            real.handle_timeout(now);
            self.pump(now);
        }
    }
}

/// Credentials whose ufrag names their owner.
pub(crate) fn credentials(side: &str, number: u64, generation: u64) -> IceCredentials {
    IceCredentials {
        ufrag: format!("{side}{number}g{generation}"),
        pwd: format!("{side}-{number}-{generation}-password-of-22-chars"),
    }
}
