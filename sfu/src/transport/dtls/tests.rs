//! Tests of the DTLS association against `rtc-dtls` itself, as clients use it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, HandshakeConfig};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;

use super::handshake::{DOUBT_TIME, FLIGHT_REPEATS, HANDSHAKE_TIME};
use super::message::{Message, fragments_of, kind};
use super::outgoing::SMALL_DATAGRAM;
use super::record::{content, records, write_record};
use super::rtc::{LATE_HANDSHAKE_BYTES, PEER, RECORDS_PER_DATAGRAM};
use super::*;
use crate::sdp::FingerprintAlgorithm;
use crate::transport::srtp::{SrtpReceiver, SrtpSender};

fn start() -> Instant {
    Instant::now()
}

fn promise(algorithm: FingerprintAlgorithm, der: &[u8]) -> Fingerprint {
    let with = match algorithm {
        FingerprintAlgorithm::Sha256 => &digest::SHA256,
        FingerprintAlgorithm::Sha384 => &digest::SHA384,
        FingerprintAlgorithm::Sha512 => &digest::SHA512,
    };
    Fingerprint { algorithm, digest: digest::digest(with, der).as_ref().to_vec() }
}

fn der(certificate: &DtlsCertificate) -> &[u8] {
    certificate.certificate.certificate.first().unwrap()
}

fn sha256(certificate: &DtlsCertificate) -> Vec<Fingerprint> {
    vec![promise(FingerprintAlgorithm::Sha256, der(certificate))]
}

/// Other side: `rtc-dtls` itself, in the place of a client.
struct Oracle {
    endpoint: Endpoint,
    certificate: DtlsCertificate,
    is_client: bool,
    connected: bool,
    closed: bool,
}

impl Oracle {
    fn config(
        certificate: &DtlsCertificate,
        is_client: bool,
        profiles: &[u16],
    ) -> Arc<HandshakeConfig> {
        let config = ConfigBuilder::default()
            .with_crypto_provider(Arc::new(AwsLcRsProvider::new()))
            .with_certificates(vec![certificate.certificate.as_ref().clone()])
            .with_srtp_protection_profiles(profiles.iter().map(|&id| id.into()).collect())
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .build(is_client, Some(PEER));
        Arc::new(config.unwrap())
    }

    fn client(now: Instant, profiles: &[u16]) -> Self {
        let certificate = DtlsCertificate::generate().unwrap();
        let mut endpoint = Endpoint::new(PEER, TransportProtocol::UDP, None);
        let config = Self::config(&certificate, true, profiles);
        endpoint.connect(now, PEER, config, None).unwrap();
        Self { endpoint, certificate, is_client: true, connected: false, closed: false }
    }

    fn server(profiles: &[u16]) -> Self {
        let certificate = DtlsCertificate::generate().unwrap();
        let config = Self::config(&certificate, false, profiles);
        let endpoint = Endpoint::new(PEER, TransportProtocol::UDP, Some(config));
        Self { endpoint, certificate, is_client: false, connected: false, closed: false }
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.endpoint.poll_transmit())
            .map(|transmit| transmit.message.to_vec())
            .collect()
    }

    fn handle(&mut self, now: Instant, datagram: &[u8]) {
        let events = self.endpoint.read(now, PEER, None, datagram.into()).unwrap_or_default();
        for event in events {
            self.connected |= matches!(event, EndpointEvent::HandshakeComplete);
            self.closed |= matches!(event, EndpointEvent::PeerClosed);
        }
    }

    fn keys(&self) -> (SrtpProfile, SrtpKeys) {
        let state = self.endpoint.get_connection_state(PEER).unwrap();
        let profile = SrtpProfile::from_id(state.srtp_protection_profile() as u16).unwrap();
        let material = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], profile.keying_material_len())
            .unwrap();
        let keys = SrtpKeys::from_exporter(profile, self.is_client, material.as_ref());
        (profile, keys.unwrap())
    }
}

/// Both sides and the network between them, which a test may impair.
struct Link {
    ours: Box<dyn Dtls>,
    oracle: Oracle,
    now: Instant,
    events: Vec<DtlsEvent>,
}

type Impair<'a> = dyn FnMut(bool, Vec<u8>) -> Vec<Vec<u8>> + 'a;

impl Link {
    fn with_client(profiles: &[u16]) -> Self {
        let now = start();
        let oracle = Oracle::client(now, profiles);
        let fingerprints = sha256(&oracle.certificate);
        Self::new(DtlsRole::Server, oracle, fingerprints, now)
    }

    fn new(role: DtlsRole, oracle: Oracle, fingerprints: Vec<Fingerprint>, now: Instant) -> Self {
        let certificate = DtlsCertificate::generate().unwrap();
        let mut ours = certificate.associate(role, fingerprints);
        ours.start(now);
        Self { ours, oracle, now, events: Vec::new() }
    }

    fn sent_by_us(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.ours.poll_transmit()).map(|d| d.to_vec()).collect()
    }

    /// Carries datagrams until both are silent. `impair(to_us, datagram)` says what arrives.
    fn carry(&mut self, impair: &mut Impair<'_>) {
        loop {
            let to_us: Vec<_> =
                self.oracle.sent().into_iter().flat_map(|d| impair(true, d)).collect();
            for datagram in &to_us {
                let _ = self.ours.handle(self.now, datagram);
            }
            let to_oracle: Vec<_> =
                self.sent_by_us().into_iter().flat_map(|d| impair(false, d)).collect();
            for datagram in &to_oracle {
                self.oracle.handle(self.now, datagram);
            }
            self.events.extend(std::iter::from_fn(|| self.ours.poll_event()));
            if to_us.is_empty() && to_oracle.is_empty() {
                return;
            }
        }
    }

    /// Carries datagrams as [`carry`](Self::carry) does, and lets time pass in steps of 50 ms for
    /// repeats.
    fn carry_for(&mut self, span: Duration, impair: &mut Impair<'_>) {
        let end = self.now + span;
        while self.now < end {
            self.carry(impair);
            self.now += Duration::from_millis(50);
            if self.ours.next_timeout().is_some_and(|at| at <= self.now) {
                self.ours.handle_timeout(self.now);
            }
            let _ = self.oracle.endpoint.handle_timeout(PEER, self.now);
        }
        self.carry(impair);
    }

    /// Lets the time pass after which a doubt ends a handshake without progress.
    fn pass_doubt(&mut self) {
        assert!(self.events.is_empty(), "nothing ends it at once");
        self.now += DOUBT_TIME;
        self.ours.handle_timeout(self.now);
        self.carry(&mut faithful);
    }

    /// Negotiated profile, once the keys of both sides have opened each other's packets.
    fn connected_profile(&mut self) -> SrtpProfile {
        let event = self.events.pop();
        let Some(DtlsEvent::Connected { profile, keys }) = event else {
            panic!("{event:?}");
        };
        assert!(self.oracle.connected && self.events.is_empty());
        let (their_profile, theirs) = self.oracle.keys();
        assert_eq!(profile, their_profile);
        for (local, remote) in [(&keys.local, &theirs.remote), (&theirs.local, &keys.remote)] {
            let mut packet = [0u8; 64];
            packet[..2].copy_from_slice(&[0x80, 201]);
            let len = SrtpSender::new(profile, local).seal_rtcp(&mut packet, 8, 0).unwrap();
            let mut receiver = SrtpReceiver::new(profile, remote);
            assert_eq!(receiver.open_rtcp(&mut packet[..len]), Ok(8));
        }
        profile
    }
}

fn faithful(_to_us: bool, datagram: Vec<u8>) -> Vec<Vec<u8>> {
    vec![datagram]
}

// whip-whep C56, clients finding 10
#[test]
fn server_prefers_gcm_whatever_the_order_of_the_client() {
    use SrtpProfile::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmHmacSha1_80};
    let cases: [(&[u16], SrtpProfile); 4] = [
        (&[1, 8, 7], AeadAes128Gcm),
        (&[1, 8], AeadAes256Gcm),
        (&[2, 1], Aes128CmHmacSha1_80),
        (&[7], AeadAes128Gcm),
    ];
    for (offered, expected) in cases {
        let mut link = Link::with_client(offered);
        link.carry(&mut faithful);
        assert_eq!(link.connected_profile(), expected);
        assert_eq!(link.ours.next_timeout(), None);
    }
}

#[test]
fn client_offers_gcm_first() {
    for (known, expected) in [
        (&[1, 8, 7][..], SrtpProfile::AeadAes128Gcm),
        (&[1, 8], SrtpProfile::AeadAes256Gcm),
        (&[1], SrtpProfile::Aes128CmHmacSha1_80),
    ] {
        let oracle = Oracle::server(known);
        let fingerprints = sha256(&oracle.certificate);
        let mut link = Link::new(DtlsRole::Client, oracle, fingerprints, start());
        link.carry(&mut faithful);
        assert_eq!(link.connected_profile(), expected);
    }
}

// FFmpeg publishes so.
#[test]
fn server_that_asks_for_no_certificate_connects() {
    let mut oracle = Oracle::server(&[7]);
    let config = ConfigBuilder::default()
        .with_crypto_provider(Arc::new(AwsLcRsProvider::new()))
        .with_certificates(vec![oracle.certificate.certificate.as_ref().clone()])
        .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm])
        .with_client_auth(ClientAuthType::NoClientCert)
        .with_insecure_skip_verify(true)
        .build(false, Some(PEER));
    oracle.endpoint.set_server_config(Some(Arc::new(config.unwrap())));
    let fingerprints = sha256(&oracle.certificate);
    let mut link = Link::new(DtlsRole::Client, oracle, fingerprints, start());
    link.carry(&mut faithful);
    assert_eq!(link.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

/// The one event of an association: that it failed.
fn failure(events: &[DtlsEvent]) -> &DtlsFailure {
    match events {
        [DtlsEvent::Failed(failure)] => failure,
        events => panic!("{events:?}"),
    }
}

#[test]
fn alert_of_the_client_is_named_with_what_it_means() {
    for (code, named) in
        [(50, "decode_error (50: "), (43, "unsupported_certificate (43: "), (99, "(99)")]
    {
        let mut link = Link::with_client(&[7]);
        let mut hellos = 0;
        link.carry(&mut |to_us, datagram| {
            hellos += usize::from(to_us);
            if to_us && hellos > 2 {
                let mut alert = Vec::new();
                write_record(&mut alert, content::ALERT, 9, &[2, code]);
                return vec![alert];
            }
            vec![datagram]
        });
        link.pass_doubt();
        let failure = failure(&link.events);
        assert_eq!(failure.reason, CloseReason::DtlsFailed);
        assert!(failure.cause.starts_with("the client sent the alert "), "{failure:?}");
        assert!(failure.cause.contains(named), "{failure:?}");
    }
}

#[test]
fn handshake_without_a_common_profile_fails() {
    let mut link = Link::with_client(&[2]);
    link.carry(&mut faithful);
    let failure = failure(&link.events);
    assert_eq!(failure.reason, CloseReason::DtlsFailed);
    assert!(failure.cause.contains("no SRTP profile"), "{failure:?}");
}

// whip-whep C4
#[test]
fn any_one_matching_fingerprint_suffices() {
    use FingerprintAlgorithm::{Sha256, Sha384, Sha512};
    for algorithm in [Sha256, Sha384, Sha512] {
        let now = start();
        let oracle = Oracle::client(now, &[7]);
        let wrong = promise(Sha256, b"another certificate");
        let right = promise(algorithm, der(&oracle.certificate));
        let mut link = Link::new(DtlsRole::Server, oracle, vec![wrong, right], now);
        link.carry(&mut faithful);
        link.connected_profile();
    }
}

// whip-whep C55
#[test]
fn certificate_that_matches_no_fingerprint_gets_no_keys() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        let now = start();
        let oracle = match role {
            DtlsRole::Server => Oracle::client(now, &[7]),
            DtlsRole::Client => Oracle::server(&[7]),
        };
        let wrong = vec![promise(FingerprintAlgorithm::Sha256, b"another certificate")];
        let mut link = Link::new(role, oracle, wrong, now);
        link.carry(&mut faithful);
        link.pass_doubt();
        let failure = failure(&link.events);
        assert_eq!(failure.reason, CloseReason::FingerprintMismatch);
        assert!(failure.cause.contains("matches no fingerprint"), "{failure:?}");
        assert!(!link.oracle.connected);
        assert_eq!(link.ours.next_timeout(), None);
    }
}

#[test]
fn client_without_a_certificate_gets_no_keys() {
    let now = start();
    let mut oracle = Oracle::client(now, &[7]);
    let config = ConfigBuilder::default()
        .with_crypto_provider(Arc::new(AwsLcRsProvider::new()))
        .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm])
        .with_insecure_skip_verify(true)
        .build(true, Some(PEER))
        .unwrap();
    oracle.endpoint = Endpoint::new(PEER, TransportProtocol::UDP, None);
    oracle.endpoint.connect(now, PEER, Arc::new(config), None).unwrap();
    let fingerprints = sha256(&oracle.certificate);
    let mut link = Link::new(DtlsRole::Server, oracle, fingerprints, now);
    link.carry(&mut faithful);
    link.pass_doubt();
    let failure = failure(&link.events);
    assert_eq!(failure.reason, CloseReason::DtlsFailed);
    assert!(failure.cause.starts_with("the client's handshake cannot be used: "), "{failure:?}");
}

fn is_plain_handshake(datagram: &[u8]) -> bool {
    records(datagram).all(|record| record.epoch == 0 && record.content_type == 22)
}

// whip-whep C52
#[test]
fn client_hello_in_reordered_and_repeated_fragments_connects() {
    let mut link = Link::with_client(&[1, 7]);
    link.carry(&mut |to_us, datagram| {
        if !to_us || !is_plain_handshake(&datagram) {
            return vec![datagram];
        }
        let mut fragments = fragments_of(&datagram, 40);
        assert!(fragments.len() > 3);
        fragments.reverse();
        fragments.extend(fragments.clone());
        fragments
    });
    assert_eq!(link.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

// whip-whep C52: "the first one lost"
#[test]
fn client_hello_whose_first_fragment_is_lost_completes_with_the_repeat() {
    let mut link = Link::with_client(&[1, 7]);
    let mut lost = false;
    link.carry_for(Duration::from_secs(3), &mut |to_us, datagram| {
        if !to_us || !is_plain_handshake(&datagram) {
            return vec![datagram];
        }
        let skip = usize::from(!std::mem::replace(&mut lost, true));
        fragments_of(&datagram, 100).into_iter().skip(skip).collect()
    });
    assert_eq!(link.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

/// Connects our client and our server; returns which side is connected after `span`.
/// `impair(from_server, datagram)` says what arrives of a datagram. The oracle does not do here: its
/// repeats stop (see the head of `rtc.rs`).
fn connect_ourselves(
    span: Duration,
    mut impair: impl FnMut(bool, Vec<u8>) -> Vec<Vec<u8>>,
) -> [bool; 2] {
    let mut now = start();
    let certificates = [(); 2].map(|()| DtlsCertificate::generate().unwrap());
    let promised = [sha256(&certificates[1]), sha256(&certificates[0])];
    let roles = [DtlsRole::Client, DtlsRole::Server];
    let mut sides: Vec<_> = certificates
        .iter()
        .zip(roles)
        .zip(promised)
        .map(|((certificate, role), promised)| certificate.associate(role, promised))
        .collect();
    sides[0].start(now);
    let mut connected = [false; 2];
    let end = now + span;
    while now < end {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for from in [0, 1] {
                while let Some(datagram) = sides[from].poll_transmit() {
                    quiet = false;
                    for datagram in impair(from == 1, datagram.to_vec()) {
                        let _ = sides[1 - from].handle(now, &datagram);
                    }
                }
            }
        }
        for (side, connected) in sides.iter_mut().zip(&mut connected) {
            while let Some(event) = side.poll_event() {
                *connected = matches!(event, DtlsEvent::Connected { .. });
            }
        }
        let next = sides.iter().filter_map(|side| side.next_timeout()).min();
        now = next.unwrap_or(end).min(end);
        for side in &mut sides {
            side.handle_timeout(now);
        }
    }
    connected
}

#[test]
fn any_one_lost_datagram_is_repeated_within_a_third_of_a_second() {
    for lost in 1..=6 {
        let mut n = 0;
        let connected = connect_ourselves(Duration::from_millis(330), |_, datagram| {
            n += 1;
            if n == lost { Vec::new() } else { vec![datagram] }
        });
        assert_eq!(connected, [true; 2], "{lost}");
        assert!(n > lost);
    }
}

#[test]
fn link_that_loses_a_quarter_connects_within_the_time() {
    for seed in 1..=40u32 {
        let mut state = seed;
        let connected = connect_ourselves(HANDSHAKE_TIME, |_, datagram| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 24 < 64 { Vec::new() } else { vec![datagram] }
        });
        assert_eq!(connected, [true; 2], "seed {seed}");
    }
}

#[test]
fn path_that_carries_no_large_datagram_connects_by_small_repeats() {
    let mut large = 0;
    let connected = connect_ourselves(Duration::from_millis(1_400), |_, datagram| {
        let fits = datagram.len() <= SMALL_DATAGRAM;
        large += usize::from(!fits);
        if fits { vec![datagram] } else { Vec::new() }
    });
    assert_eq!(connected, [true; 2]);
    assert!(large >= 2, "{large} large datagrams");
}

fn record(content_type: u8, epoch: u8, number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![content_type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, number];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// One of each kind of datagram that somebody can send who knows no more than the address.
fn forged() -> Vec<Vec<u8>> {
    let mut out = vec![
        record(content::CHANGE_CIPHER_SPEC, 0, 9, &[1]),
        record(content::CHANGE_CIPHER_SPEC, 0, 9, &[2]),
        record(content::CHANGE_CIPHER_SPEC, 1, 7, &[1]),
        record(content::CHANGE_CIPHER_SPEC, 1, 7, &[2]),
        record(content::HANDSHAKE, 1, 0, &[7; 40]),
        record(content::HANDSHAKE, 1, 0, &[]),
        record(content::ALERT, 1, 1, &[7; 26]),
        record(content::ALERT, 2, 1, &[7; 26]),
        record(23, 0, 3, b"data"),
        record(23, 1, 3, &[7; 40]),
        record(content::HANDSHAKE, 0, 0, b"short"),
    ];
    for alert in [[2, 40], [1, 0], [2, 0], [2, 255], [1, 90]] {
        out.push(record(content::ALERT, 0, 200, &alert));
    }
    // Random, session, no cookie, a cookie, suites that nobody has, compression.
    let mut hello = vec![0xfe, 0xfd];
    hello.extend_from_slice(&[6; 32]);
    let bodies = [
        [&hello[..], &[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]].concat(),
        [&hello[..], &[0, 20], &[5; 20], &[0, 2, 0xc0, 0x2b, 1, 0]].concat(),
        [&hello[..], &[0, 0, 0, 2, 0, 1, 1, 0]].concat(),
        [&[0xfe, 0xff, 20][..], &[8; 20]].concat(),
        vec![0, 0, 3, 0, 0, 0],
        vec![0, 0, 6, 0, 0, 3, 1, 2, 3],
        vec![65; 66],
        Vec::new(),
    ];
    for sequence in 0..6 {
        for kind in [
            kind::CLIENT_HELLO,
            kind::SERVER_HELLO,
            kind::HELLO_VERIFY_REQUEST,
            kind::CERTIFICATE,
            kind::SERVER_KEY_EXCHANGE,
            kind::SERVER_HELLO_DONE,
            kind::CERTIFICATE_VERIFY,
            kind::CLIENT_KEY_EXCHANGE,
            kind::FINISHED,
        ] {
            for body in &bodies {
                let message = Message { kind, sequence, body: body.clone() };
                out.push(record(content::HANDSHAKE, 0, 250, &message.unfragmented()));
            }
        }
        // The beginning of a message that never ends, and of one as long as a true one may be.
        for len in [400, 30_000] {
            let message = Message { kind: kind::CERTIFICATE, sequence, body: vec![3; len] };
            out.push(record(content::HANDSHAKE, 0, 251, &message.fragment(0, 100)));
        }
    }
    out
}

// quality B1: anybody may send datagrams in the name of a client whose address is known
#[test]
fn forged_datagram_before_any_datagram_of_a_handshake_does_not_end_it() {
    let mut n = 0;
    let clean = connect_ourselves(Duration::from_secs(3), |_, datagram| {
        n += 1;
        vec![datagram]
    });
    assert_eq!((clean, n), ([true; 2], 6));
    for forged in forged() {
        for at in 1..=n {
            let mut n = 0;
            let connected = connect_ourselves(Duration::from_secs(3), |_, datagram| {
                n += 1;
                if n == at { vec![forged.clone(), datagram] } else { vec![datagram] }
            });
            assert_eq!(connected, [true; 2], "{forged:?} before datagram {at}");
        }
    }
}

// Not promised against one who reads a hello on its way, and sends another before it arrives.
#[test]
fn copy_of_a_flight_with_one_byte_changed_does_not_end_a_handshake() {
    let all = &[14, 25, 30, 60, 100, 200, 300, 400, 500][..];
    for (at, bytes) in [(1, all), (2, all), (4, &[14, 30, 200, 300, 400, 500]), (5, all), (6, all)]
    {
        for &byte in bytes {
            let mut n = 0;
            let connected = connect_ourselves(Duration::from_secs(3), |_, datagram| {
                n += 1;
                let mut changed = datagram.clone();
                if n == at
                    && let Some(byte) = changed.get_mut(byte)
                {
                    *byte ^= 1;
                    return vec![changed, datagram];
                }
                vec![datagram]
            });
            assert_eq!(connected, [true; 2], "byte {byte} of datagram {at}");
        }
    }
}

// The forged request comes first, so our hello carries a cookie that the server never gave.
#[test]
fn forged_request_for_a_cookie_costs_a_second() {
    for valid_first in [false, true] {
        let body = [&[0xfe, 0xfd, 20][..], &[8; 20]].concat();
        let request = Message { kind: kind::HELLO_VERIFY_REQUEST, sequence: 0, body };
        let forged = record(content::HANDSHAKE, 0, 40, &request.unfragmented());
        let mut n = 0;
        let connected = connect_ourselves(Duration::from_millis(1_500), |from_server, datagram| {
            n += 1;
            match (from_server && n == 2, valid_first) {
                (true, false) => vec![forged.clone(), datagram],
                (true, true) => vec![datagram, forged.clone()],
                (false, _) => vec![datagram],
            }
        });
        assert_eq!(connected, [true; 2], "the true one first: {valid_first}");
    }
}

/// Each record of a datagram as a datagram of its own.
fn one_by_one(datagram: &[u8]) -> Vec<Vec<u8>> {
    records(datagram).map(|record| record.raw.to_vec()).collect()
}

// A ClientKeyExchange behind the CertificateVerify was taken for a flight of its own.
#[test]
fn forged_datagram_between_any_two_records_of_a_handshake_does_not_end_it() {
    let mut n = 0;
    let clean = connect_ourselves(Duration::from_secs(3), |_, datagram| {
        let pieces = one_by_one(&datagram);
        n += pieces.len();
        pieces
    });
    assert_eq!(clean, [true; 2]);
    assert!(n > 12, "{n} records");
    // A server's flight may end without a CertificateRequest (FFmpeg), so this one cannot be told from a true end.
    let end = Message { kind: kind::SERVER_HELLO_DONE, sequence: 4, body: Vec::new() };
    let end = record(content::HANDSHAKE, 0, 250, &end.unfragmented());
    for (index, forged) in forged().into_iter().filter(|forged| *forged != end).enumerate() {
        // A third of all pairs, each datagram and each place among them.
        for at in (1..=n).filter(|at| (at + index) % 3 == 0) {
            let mut n = 0;
            let connected = connect_ourselves(Duration::from_secs(3), |_, datagram| {
                let mut out = Vec::new();
                for piece in one_by_one(&datagram) {
                    n += 1;
                    if n == at {
                        out.push(forged.clone());
                    }
                    out.push(piece);
                }
                out
            });
            assert_eq!(connected, [true; 2], "{forged:?} before record {at}");
        }
    }
}

/// Order of P-256.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
    0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The other signature with the same meaning: ECDSA takes -s for s.
fn other_signature(der: &[u8]) -> Vec<u8> {
    let integer = |der: &[u8]| {
        assert_eq!(der[0], 2);
        let len = usize::from(der[1]);
        (der[2..2 + len].to_vec(), der[2 + len..].to_vec())
    };
    let (r, rest) = integer(&der[2..]);
    let (s, _) = integer(&rest);
    let mut padded = vec![0; 33 - s.len()];
    padded.extend(s);
    let (mut negative, mut borrow) = (vec![0u8; 32], 0);
    for n in (0..32).rev() {
        let difference = i32::from(ORDER[n]) - i32::from(padded[n + 1]) - borrow;
        borrow = i32::from(difference < 0);
        negative[n] = difference.rem_euclid(256) as u8;
    }
    let zeros = negative.iter().take_while(|byte| **byte == 0).count();
    negative.drain(..zeros);
    if negative[0] >= 128 {
        negative.insert(0, 0);
    }
    let mut out = vec![0x30, (4 + r.len() + negative.len()) as u8, 2, r.len() as u8];
    out.extend(r);
    out.extend([2, negative.len() as u8]);
    out.extend(negative);
    out
}

// RFC 5246 section 7.4.9. All else of such a handshake is right: keys, certificate, signature.
#[test]
fn finished_that_does_not_fit_the_handshake_gets_no_keys() {
    let mut link = Link::with_client(&[7]);
    let mut changed = 0;
    link.carry(&mut |to_us, datagram| {
        if !to_us {
            return vec![datagram];
        }
        let mut out = Vec::new();
        for found in records(&datagram) {
            if !found.is_plain_handshake() || found.body[0] != kind::CERTIFICATE_VERIFY {
                out.extend_from_slice(found.raw);
                continue;
            }
            changed += 1;
            let signature = other_signature(&found.body[16..]);
            let mut body = found.body[12..14].to_vec();
            body.extend((signature.len() as u16).to_be_bytes());
            body.extend(signature);
            let sequence = u16::from_be_bytes([found.body[4], found.body[5]]);
            let message = Message { kind: kind::CERTIFICATE_VERIFY, sequence, body };
            write_record(&mut out, content::HANDSHAKE, 77, &message.unfragmented());
        }
        vec![out]
    });
    assert_eq!(changed, 1);
    let failure = failure(&link.events);
    assert_eq!(failure.reason, CloseReason::DtlsFailed);
    assert!(failure.cause.contains("Finished does not fit"), "{failure:?}");
    assert!(!link.oracle.connected);
}

#[test]
fn last_flight_is_sent_again_when_the_client_repeats_its_own() {
    let mut link = Link::with_client(&[7]);
    let mut last = Vec::new();
    link.carry(&mut |to_us, datagram| {
        let has_sealed = records(&datagram).any(|record| record.epoch == 1);
        if to_us || !has_sealed {
            return vec![datagram];
        }
        last = datagram;
        Vec::new()
    });
    assert!(!last.is_empty() && !link.oracle.connected);
    assert!(matches!(link.events[..], [DtlsEvent::Connected { .. }]));
    link.carry_for(Duration::from_secs(2), &mut faithful);
    assert_eq!(link.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

// quality B1, B4 item 5
#[test]
fn silent_client_is_sent_eight_flights_and_ended_after_thirty_seconds() {
    let mut link = Link::with_client(&[7]);
    let (mut flights, mut quiet) = (0, false);
    let begin = link.now;
    link.carry(&mut |to_us, datagram| {
        flights += usize::from(!to_us);
        quiet |= flights == 2;
        if quiet { Vec::new() } else { vec![datagram] }
    });
    assert_eq!(flights, 2);
    let mut ended_at = None;
    while let Some(at) = link.ours.next_timeout() {
        link.now = at;
        link.ours.handle_timeout(at);
        flights += usize::from(!link.sent_by_us().is_empty());
        if let Some(DtlsEvent::Failed(failure)) = link.ours.poll_event() {
            assert_eq!(failure.reason, CloseReason::DtlsTimeout);
            assert_eq!(&*failure.cause, "the handshake did not end within 30 s");
            ended_at = Some(at - begin);
        }
    }
    assert_eq!(flights, 2 + FLIGHT_REPEATS as usize);
    assert_eq!(ended_at, Some(HANDSHAKE_TIME));
}

// Who sends in the client's name must not use up what the client may send.
#[test]
fn flood_of_forged_datagrams_does_not_keep_a_handshake_from_its_end() {
    let flood = |kind, sequence, len: usize| {
        let message = Message { kind, sequence, body: vec![6; len] };
        record(content::HANDSHAKE, 0, 250, &message.fragment(0, len.min(1_100)))
    };
    let floods: Vec<_> = (0..400)
        .flat_map(|n| {
            let sequence = n as u16 % 7;
            let len = 500 + n;
            [
                flood(kind::CLIENT_HELLO, sequence, len),
                flood(kind::CERTIFICATE, sequence, len),
                flood(kind::CLIENT_KEY_EXCHANGE, sequence, len),
                flood(kind::SERVER_HELLO, sequence, 2_000),
                record(content::HANDSHAKE, 1, n as u8, &[n as u8; 40]),
            ]
        })
        .collect();
    let bytes: usize = floods.iter().map(Vec::len).sum();
    assert!(bytes > 1_000_000);
    let connected = connect_ourselves(Duration::from_secs(3), |_, datagram| {
        floods.iter().cloned().chain([datagram]).collect()
    });
    assert_eq!(connected, [true; 2]);
}

// whip-whep C61
#[test]
fn close_notify_is_sent_and_understood() {
    let mut link = Link::with_client(&[7]);
    link.carry(&mut faithful);
    link.connected_profile();
    link.ours.close(link.now);
    link.carry(&mut faithful);
    assert!(link.oracle.closed);
    assert_eq!(link.ours.handle(link.now, &[22; 20]), Err(DropReason::DtlsMalformed));

    let mut link = Link::with_client(&[7]);
    link.carry(&mut faithful);
    link.connected_profile();
    link.oracle.endpoint.close(link.now).unwrap();
    link.carry(&mut faithful);
    assert!(matches!(link.events[..], [DtlsEvent::PeerClosed]));
}

// A ChangeCipherSpec of epoch 1 with a bad body ended a session; with a good one, of epochs 1 to 65,535, it took
// 15 kB each and had the true close ignored.
#[test]
fn connected_association_takes_nothing_that_has_no_seal() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        let now = start();
        let oracle = match role {
            DtlsRole::Server => Oracle::client(now, &[7]),
            DtlsRole::Client => Oracle::server(&[7]),
        };
        let fingerprints = sha256(&oracle.certificate);
        let mut link = Link::new(role, oracle, fingerprints, now);
        let mut seen = Vec::new();
        link.carry(&mut |to_us, datagram| {
            if to_us {
                seen.push(datagram.clone());
            }
            vec![datagram]
        });
        link.connected_profile();
        for body in [&[1][..], &[2], &[], &[1, 1]] {
            for epoch in 0..=u16::MAX {
                let [high, low] = epoch.to_be_bytes();
                let mut forged = record(content::CHANGE_CIPHER_SPEC, low, 7, body);
                forged[3] = high;
                let refused = Err(DropReason::DtlsUnexpectedRecord);
                assert_eq!(link.ours.handle(link.now, &forged), refused);
            }
        }
        let mut counted = [0; 3];
        for datagram in seen.iter().chain(&forged()) {
            match link.ours.handle(link.now, datagram) {
                Err(DropReason::DtlsUnexpectedRecord) => counted[0] += 1,
                Err(DropReason::DtlsUnauthenticated) => counted[1] += 1,
                Err(DropReason::DtlsLimit) if role == DtlsRole::Client => counted[2] += 1,
                other => panic!("{datagram:?}: {other:?}"),
            }
        }
        // Alerts and Finished with a broken seal; a replayed one has an old number.
        assert!(counted[0] > 400 && counted[1] + counted[2] == 3, "{counted:?}");
        assert!(link.ours.poll_event().is_none() && link.ours.poll_transmit().is_none());
        link.oracle.endpoint.close(link.now).unwrap();
        link.carry(&mut faithful);
        assert!(matches!(link.events[..], [DtlsEvent::PeerClosed]), "the true close");
    }
}

#[test]
fn few_records_of_a_datagram_are_opened_after_the_handshake() {
    let mut link = Link::with_client(&[7]);
    link.carry(&mut faithful);
    link.connected_profile();
    link.oracle.endpoint.close(link.now).unwrap();
    let close = link.oracle.sent().remove(0);
    for (forged, expected) in [(RECORDS_PER_DATAGRAM, 0), (RECORDS_PER_DATAGRAM - 1, 1)] {
        let mut datagram = record(content::ALERT, 1, 9, &[7; 26]).repeat(forged);
        datagram.extend_from_slice(&close);
        let _ = link.ours.handle(link.now, &datagram);
        assert_eq!(std::iter::from_fn(|| link.ours.poll_event()).count(), expected);
    }
}

// The client's repeat of its last flight must still be answered, and its close understood.
#[test]
fn forged_end_of_a_handshake_uses_nothing_up() {
    let mut link = Link::with_client(&[7]);
    let (mut close, forged) = (Vec::new(), record(content::HANDSHAKE, 1, 9, &[7; 1_000]));
    let mut lost = false;
    link.carry_for(Duration::from_secs(3), &mut |to_us, datagram| {
        let is_end = records(&datagram).any(|record| record.is_sealed_handshake());
        if !to_us && is_end && !std::mem::replace(&mut lost, true) {
            close = vec![forged.clone(); 2 * LATE_HANDSHAKE_BYTES / 1_000];
            return Vec::new();
        }
        match to_us {
            true => close.drain(..).chain([datagram]).collect(),
            false => vec![datagram],
        }
    });
    assert!(lost && close.is_empty());
    link.connected_profile();
}

// architecture D1
#[test]
fn only_the_hello_with_the_cookie_decides_the_profile() {
    for (changed, connects) in [(1, true), (2, false)] {
        let mut link = Link::with_client(&[7]);
        let mut hellos = 0;
        link.carry(&mut |to_us, mut datagram| {
            hellos += usize::from(to_us);
            if to_us && hellos == changed {
                let offer = [0, 14, 0, 5, 0, 2, 0, 7, 0];
                let at = datagram.windows(9).position(|window| window == offer).unwrap();
                datagram[at + 7] = 1;
            }
            vec![datagram]
        });
        let connected =
            link.events.iter().any(|event| matches!(event, DtlsEvent::Connected { .. }));
        assert_eq!(connected, connects, "hello {changed}");
    }
}

// quality B4 item 8
#[test]
fn junk_of_any_short_length_is_refused_without_a_panic() {
    for fill in [0u8, 20, 21, 22, 23, 0xfe, 0xff] {
        for len in 0..=64 {
            let mut link = Link::with_client(&[7]);
            let mut junk = vec![fill; len];
            assert_eq!(link.ours.handle(link.now, &junk), Err(DropReason::DtlsMalformed));
            // With a right header in front.
            if let Some(header) = junk.first_chunk_mut::<13>() {
                *header = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, len as u8 - 13];
                let _ = link.ours.handle(link.now, &junk);
            }
            link.carry(&mut faithful);
            link.connected_profile();
        }
    }
}
