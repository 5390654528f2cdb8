//! Sessions under preset keys: connected by one STUN check, without a DTLS handshake.
//!
//! Each session has a number; credentials, address and SRTP keys follow from it, so that both sides
//! know them. Used by `world.rs` for whole workers and by `srtp.rs` for single peers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use weir_sfu::error::DropReason;
use weir_sfu::ids::Role;
use weir_sfu::rtp::packet::{PacketClass, classify};
use weir_sfu::sdp::{DtlsRole, Fingerprint, FingerprintAlgorithm, IceCredentials, RemoteTransport};
use weir_sfu::transport::dtls::{Dtls, DtlsBackend, DtlsEvent};
use weir_sfu::transport::egress::{Egress, Transmit};
use weir_sfu::transport::peer::{Peer, PeerEvent};
use weir_sfu::transport::srtp::{MasterKey, SrtpKeys, SrtpProfile};
use weir_sfu::transport::stun::{self, CheckRequest, IceRole, StunClass, StunView};
use weir_sfu::transport::{Entropy, FiveTuple};

/// Maximum bytes of a STUN message here.
const STUN_BYTES: usize = 200;

/// Address of session 0, from the test network of RFC 2544, which is a /15.
pub const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Our own address.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// One session by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub u32);

impl Client {
    /// Our side's credentials.
    pub fn local(self) -> IceCredentials {
        IceCredentials { ufrag: format!("ours{}", self.0), pwd: format!("{:0>24}", self.0) }
    }

    /// Transport of the client's offer.
    pub fn remote(self) -> RemoteTransport {
        let digest = self.0.to_be_bytes().to_vec();
        let ice =
            IceCredentials { ufrag: format!("theirs{}", self.0), pwd: format!("{:x>24}", self.0) };
        RemoteTransport {
            ice,
            fingerprints: vec![Fingerprint { algorithm: FingerprintAlgorithm::Sha256, digest }],
            dtls_role: DtlsRole::Client,
        }
    }

    /// Address pair of the client.
    pub fn path(self) -> FiveTuple {
        let remote = Ipv4Addr::from(u32::from(FIRST_ADDRESS) + self.0);
        let local = IpAddr::V4(SERVER_ADDRESS);
        FiveTuple::udp(Some(local), SocketAddr::new(remote.into(), 40_000))
    }

    /// The session of this address pair.
    ///
    /// # Panics
    ///
    /// For any other address.
    pub fn at(path: FiveTuple) -> Self {
        match path.remote.ip() {
            IpAddr::V4(ip) => Self(u32::from(ip) - u32::from(FIRST_ADDRESS)),
            IpAddr::V6(_) => panic!("no client has an IPv6 address"),
        }
    }

    /// An authenticated check of the client.
    pub fn check(self) -> Vec<u8> {
        let (local, remote) = (self.local(), self.remote().ice);
        let mut out = [0; STUN_BYTES];
        let request = CheckRequest {
            transaction_id: [7; 12],
            remote_ufrag: &local.ufrag,
            local_ufrag: &remote.ufrag,
            priority: 1,
            role: IceRole::Controlling,
            tie_breaker: 1,
            key: local.pwd.as_bytes(),
        };
        let len = stun::write_check(&mut out, &request).expect("the check fits");
        out[..len].to_vec()
    }

    /// The client's response to a check of ours.
    pub fn answer(self, request: &[u8]) -> Vec<u8> {
        let id = StunView::parse(request).expect("our check is well-formed").transaction_id();
        let key = self.remote().ice.pwd;
        let mut out = [0; STUN_BYTES];
        let source = SocketAddr::from((SERVER_ADDRESS, 8189));
        let len = stun::write_success(&mut out, &id, source, key.as_bytes()).expect("it fits");
        out[..len].to_vec()
    }

    /// Master key and salt of the client's packets.
    pub fn sending_key(self, profile: SrtpProfile) -> (Vec<u8>, Vec<u8>) {
        // Exporter layout (RFC 5764 section 4.2); we are the DTLS client, so it is the server.
        let material = self.keying_material(profile);
        let (key, salt) = (profile.key_len(), profile.salt_len());
        (material[key..2 * key].to_vec(), material[2 * key + salt..].to_vec())
    }

    /// The client's key as an `rtc-srtp` context, to seal with.
    pub fn sealer(self, profile: SrtpProfile) -> Context {
        let (key, salt) = self.sending_key(profile);
        context(profile, &key, &salt)
    }

    fn keying_material(self, profile: SrtpProfile) -> Vec<u8> {
        let seed = (1..).map(|n| (n * 37) ^ self.0 ^ (self.0 >> 8)).map(|n: u32| n as u8);
        seed.take(profile.keying_material_len()).collect()
    }
}

/// An `rtc-srtp` context of one direction.
pub fn context(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Context {
    let profile = match profile {
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    };
    let provider = rtc_crypto::default_provider().expect("a provider is compiled in");
    Context::new(key, salt, profile, None, None, provider.crypto()).expect("lengths are right")
}

/// Associations that are done with the first check, each under its session's keys.
#[derive(Debug, Clone, Copy)]
pub struct PresetKeys(pub SrtpProfile);

impl DtlsBackend for PresetKeys {
    fn associate(&self, role: DtlsRole, fingerprints: Vec<Fingerprint>) -> Box<dyn Dtls> {
        let number = fingerprints.first().and_then(|print| print.digest.first_chunk());
        let client = Client(u32::from_be_bytes(*number.expect("the digest is the number")));
        let material = client.keying_material(self.0);
        let keys = SrtpKeys::from_exporter(self.0, role == DtlsRole::Client, &material);
        let keys = keys.expect("the material has the profile's length");
        Box::new(Preset {
            connected: DtlsEvent::Connected { profile: self.0, keys }.into(),
            started: false,
        })
    }
}

struct Preset {
    connected: Option<DtlsEvent>,
    started: bool,
}

impl Dtls for Preset {
    fn start(&mut self, _: Instant) {
        self.started = true;
    }

    fn handle(&mut self, _: Instant, _: &[u8]) -> Result<(), DropReason> {
        Err(DropReason::DtlsMalformed)
    }

    fn is_answered(&self) -> bool {
        self.started
    }

    fn poll_transmit(&mut self) -> Option<BytesMut> {
        None
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.connected.take_if(|_| self.started)
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn close(&mut self, _: Instant) {}
}

/// A single connected peer, without a worker.
///
/// # Panics
/// The session does not connect, which is a bug.
pub fn connected(client: Client, profile: SrtpProfile, now: Instant) -> Peer {
    let backend = PresetKeys(profile);
    let mut peer = Peer::new(Role::Subscriber, client.local(), &client.remote(), &backend, now);
    let mut sink = Sink::new(Nowhere);
    peer.handle_stun(now, client.path(), &client.check(), &mut sink).expect("the check is valid");
    let event = peer.poll(now, &mut Sequence::default(), &mut sink);
    assert_eq!(event, Some(PeerEvent::Connected));
    peer
}

/// The receiving key of the peer that [`connected`] makes, for opening what the client seals.
pub fn receiving_key(client: Client, profile: SrtpProfile) -> MasterKey {
    let (key, salt) = client.sending_key(profile);
    MasterKey::new(&key, &salt).expect("no longer than any profile's")
}

/// Randomness that is the same in every run.
#[derive(Debug, Default)]
pub struct Sequence(u64);

impl Entropy for Sequence {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

/// Destination of media when only its making is measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

impl Egress for Nowhere {
    fn send(&mut self, _: Transmit<'_>) {}
}

/// Sink of datagrams: media is counted and goes to `W` with its reports, checks are kept to be
/// answered.
#[derive(Debug)]
pub struct Sink<W = Nowhere> {
    /// RTP datagrams.
    pub packets: u64,
    /// Messages (calls of the kernel, were there one) that carried them.
    pub messages: u64,
    /// Bytes of the datagrams.
    pub bytes: u64,
    /// STUN to be answered.
    checks: VecDeque<(FiveTuple, usize, [u8; STUN_BYTES])>,
    wire: W,
}

impl<W> Sink<W> {
    /// A sink without datagrams.
    pub fn new(wire: W) -> Self {
        Self { packets: 0, messages: 0, bytes: 0, checks: VecDeque::new(), wire }
    }

    /// Destination of media.
    pub fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// The next check of ours that has no response yet, with its path.
    pub fn next_check(&mut self) -> Option<(FiveTuple, Vec<u8>)> {
        let (path, len, bytes) = self.checks.pop_front()?;
        Some((path, bytes[..len].to_vec()))
    }
}

impl<W: Egress> Egress for Sink<W> {
    fn send(&mut self, transmit: Transmit<'_>) {
        let contents = transmit.contents;
        match classify(contents) {
            PacketClass::Rtp => {
                let (packets, bytes) = media_of(&transmit);
                self.packets += packets as u64;
                self.bytes += bytes as u64;
                self.messages += 1;
                self.wire.send(transmit);
            }
            PacketClass::Stun if is_check(contents) => {
                let mut bytes = [0; STUN_BYTES];
                bytes[..contents.len()].copy_from_slice(contents);
                self.checks.push_back((transmit.path, contents.len(), bytes));
            }
            PacketClass::Stun => {}
            _ => self.wire.send(transmit),
        }
    }
}

/// Packets and bytes of media in a message of it, without the report that may follow.
pub fn media_of(transmit: &Transmit<'_>) -> (usize, usize) {
    let report = transmit.datagrams().last().filter(|last| classify(last) != PacketClass::Rtp);
    let bytes = report.map_or(0, <[u8]>::len);
    (transmit.segments() - usize::from(report.is_some()), transmit.contents.len() - bytes)
}

fn is_check(message: &[u8]) -> bool {
    StunView::parse(message).is_ok_and(|view| view.class() == StunClass::Request)
}
