//! Tests of the DTLS association against `rtc-dtls` itself, as clients use it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, HandshakeConfig};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;

use super::rtc::{FLIGHT_REPEATS, HANDSHAKE_BYTES, HANDSHAKE_TIME, PEER};
use super::*;
use crate::sdp::FingerprintAlgorithm;
use crate::transport::flight::{self, content, records, shatter};
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

/// The other side: `rtc-dtls` itself, as browsers would be.
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

/// Both sides and the network between them, which a story may spoil.
struct Line {
    ours: Box<dyn Dtls>,
    oracle: Oracle,
    now: Instant,
    events: Vec<DtlsEvent>,
}

type Spoil<'a> = dyn FnMut(bool, Vec<u8>) -> Vec<Vec<u8>> + 'a;

impl Line {
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

    /// Carries datagrams until both are silent. `spoil(to_us, datagram)` says what arrives.
    fn carry(&mut self, spoil: &mut Spoil<'_>) {
        loop {
            let to_us: Vec<_> =
                self.oracle.sent().into_iter().flat_map(|d| spoil(true, d)).collect();
            for datagram in &to_us {
                let _ = self.ours.handle(self.now, datagram);
            }
            let to_oracle: Vec<_> =
                self.sent_by_us().into_iter().flat_map(|d| spoil(false, d)).collect();
            for datagram in &to_oracle {
                self.oracle.handle(self.now, datagram);
            }
            self.events.extend(std::iter::from_fn(|| self.ours.poll_event()));
            if to_us.is_empty() && to_oracle.is_empty() {
                return;
            }
        }
    }

    /// As [`carry`](Self::carry), and lets time pass in steps of 50 ms for repeats.
    fn carry_for(&mut self, span: Duration, spoil: &mut Spoil<'_>) {
        let end = self.now + span;
        while self.now < end {
            self.carry(spoil);
            self.now += Duration::from_millis(50);
            if self.ours.next_timeout().is_some_and(|at| at <= self.now) {
                self.ours.handle_timeout(self.now);
            }
            let _ = self.oracle.endpoint.handle_timeout(PEER, self.now);
        }
        self.carry(spoil);
    }

    /// The profile, once the keys of both sides have opened each other's packets.
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
fn as_server_we_take_gcm_from_whatever_order_the_client_has() {
    use SrtpProfile::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmHmacSha1_80};
    let cases: [(&[u16], SrtpProfile); 4] = [
        (&[1, 8, 7], AeadAes128Gcm),
        (&[1, 8], AeadAes256Gcm),
        (&[2, 1], Aes128CmHmacSha1_80),
        (&[7], AeadAes128Gcm),
    ];
    for (offered, expected) in cases {
        let mut line = Line::with_client(offered);
        line.carry(&mut faithful);
        assert_eq!(line.connected_profile(), expected);
        assert_eq!(line.ours.next_timeout(), None);
    }
}

#[test]
fn as_client_we_offer_gcm_first() {
    for (known, expected) in [
        (&[1, 8, 7][..], SrtpProfile::AeadAes128Gcm),
        (&[1, 8], SrtpProfile::AeadAes256Gcm),
        (&[1], SrtpProfile::Aes128CmHmacSha1_80),
    ] {
        let oracle = Oracle::server(known);
        let fingerprints = sha256(&oracle.certificate);
        let mut line = Line::new(DtlsRole::Client, oracle, fingerprints, start());
        line.carry(&mut faithful);
        assert_eq!(line.connected_profile(), expected);
    }
}

#[test]
fn without_a_common_profile_the_handshake_fails() {
    let mut line = Line::with_client(&[2]);
    line.carry(&mut faithful);
    assert!(matches!(line.events[..], [DtlsEvent::Failed(CloseReason::DtlsFailed)]));
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
        let mut line = Line::new(DtlsRole::Server, oracle, vec![wrong, right], now);
        line.carry(&mut faithful);
        line.connected_profile();
    }
}

// whip-whep C55
#[test]
fn a_certificate_that_nobody_promised_gets_no_keys() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        let now = start();
        let oracle = match role {
            DtlsRole::Server => Oracle::client(now, &[7]),
            DtlsRole::Client => Oracle::server(&[7]),
        };
        let wrong = vec![promise(FingerprintAlgorithm::Sha256, b"another certificate")];
        let mut line = Line::new(role, oracle, wrong, now);
        line.carry(&mut faithful);
        let [DtlsEvent::Failed(CloseReason::FingerprintMismatch)] = line.events[..] else {
            panic!("{:?}", line.events);
        };
        assert!(!line.oracle.connected);
        assert_eq!(line.ours.next_timeout(), None);
    }
}

#[test]
fn a_client_without_a_certificate_gets_no_keys() {
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
    let mut line = Line::new(DtlsRole::Server, oracle, fingerprints, now);
    line.carry(&mut faithful);
    assert!(matches!(line.events[..], [DtlsEvent::Failed(CloseReason::DtlsFailed)]));
}

fn is_plain_handshake(datagram: &[u8]) -> bool {
    records(datagram).all(|record| record.epoch == 0 && record.content_type == 22)
}

// whip-whep C52
#[test]
fn hellos_in_reordered_and_repeated_fragments_are_understood() {
    let mut line = Line::with_client(&[1, 7]);
    line.carry(&mut |to_us, datagram| {
        if !to_us || !is_plain_handshake(&datagram) {
            return vec![datagram];
        }
        let mut fragments = shatter(&datagram, 40);
        assert!(fragments.len() > 3);
        fragments.reverse();
        fragments.extend(fragments.clone());
        fragments
    });
    assert_eq!(line.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

// whip-whep C52: "the first one lost"
#[test]
fn a_hello_whose_first_fragment_is_lost_completes_with_the_clients_repeat() {
    let mut line = Line::with_client(&[1, 7]);
    let mut lost = false;
    line.carry_for(Duration::from_secs(3), &mut |to_us, datagram| {
        if !to_us || !is_plain_handshake(&datagram) {
            return vec![datagram];
        }
        let skip = usize::from(!std::mem::replace(&mut lost, true));
        shatter(&datagram, 100).into_iter().skip(skip).collect()
    });
    assert_eq!(line.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

/// Our client and our server on a line that loses; the oracle cannot stand in here, for its own
/// repeats stop (see the head of this file). The result of both sides after `span`.
fn connect_ourselves(span: Duration, mut lose: impl FnMut() -> bool) -> [bool; 2] {
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
                    if !lose() {
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
fn any_one_lost_datagram_is_repaired_within_a_third_of_a_second() {
    for lost in 1..=6 {
        let mut n = 0;
        let connected = connect_ourselves(Duration::from_millis(330), || {
            n += 1;
            n == lost
        });
        assert_eq!(connected, [true; 2], "{lost}");
        assert!(n > lost);
    }
}

#[test]
fn a_line_that_loses_a_quarter_connects_within_the_time() {
    for seed in 1..=40u32 {
        let mut state = seed;
        let connected = connect_ourselves(HANDSHAKE_TIME, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 24 < 64
        });
        assert_eq!(connected, [true; 2], "seed {seed}");
    }
}

#[test]
fn our_last_flight_is_sent_again_when_the_client_repeats_its_own() {
    let mut line = Line::with_client(&[7]);
    let mut last = Vec::new();
    line.carry(&mut |to_us, datagram| {
        let has_sealed = records(&datagram).any(|record| record.epoch == 1);
        if to_us || !has_sealed {
            return vec![datagram];
        }
        last = datagram;
        Vec::new()
    });
    assert!(!last.is_empty() && !line.oracle.connected);
    assert!(matches!(line.events[..], [DtlsEvent::Connected { .. }]));
    line.carry_for(Duration::from_secs(2), &mut faithful);
    assert_eq!(line.connected_profile(), SrtpProfile::AeadAes128Gcm);
}

// quality B1, B4 item 5
#[test]
fn a_silent_client_costs_eight_flights_and_ends_after_thirty_seconds() {
    let mut line = Line::with_client(&[7]);
    let (mut flights, mut quiet) = (0, false);
    let begin = line.now;
    line.carry(&mut |to_us, datagram| {
        flights += usize::from(!to_us);
        quiet |= flights == 2;
        if quiet { Vec::new() } else { vec![datagram] }
    });
    assert_eq!(flights, 2);
    let mut ended_at = None;
    while let Some(at) = line.ours.next_timeout() {
        line.now = at;
        line.ours.handle_timeout(at);
        flights += line.sent_by_us().len();
        if let Some(DtlsEvent::Failed(reason)) = line.ours.poll_event() {
            assert_eq!(reason, CloseReason::DtlsTimeout);
            ended_at = Some(at - begin);
        }
    }
    assert_eq!(flights, 2 + FLIGHT_REPEATS as usize);
    assert_eq!(ended_at, Some(HANDSHAKE_TIME));
}

#[test]
fn sixty_four_kilobytes_are_taken_and_no_more() {
    let mut line = Line::with_client(&[7]);
    let mut filler = Vec::new();
    flight::write_record(&mut filler, 23, 0, &[0; 1_011]);
    assert_eq!(filler.len(), 1_024);
    for _ in 0..HANDSHAKE_BYTES / 1_024 {
        assert_eq!(line.ours.handle(line.now, &filler), Err(DropReason::DtlsMalformed));
    }
    assert_eq!(line.ours.handle(line.now, &filler), Err(DropReason::DtlsLimit));
    line.now += HANDSHAKE_TIME;
    line.ours.handle_timeout(line.now);
    assert!(matches!(line.ours.poll_event(), Some(DtlsEvent::Failed(_))));
}

// whip-whep C61
#[test]
fn close_notify_is_told_and_heard() {
    let mut line = Line::with_client(&[7]);
    line.carry(&mut faithful);
    line.connected_profile();
    line.ours.close(line.now);
    line.carry(&mut faithful);
    assert!(line.oracle.closed);
    assert_eq!(line.ours.handle(line.now, &[22; 20]), Err(DropReason::DtlsMalformed));

    let mut line = Line::with_client(&[7]);
    line.carry(&mut faithful);
    line.connected_profile();
    line.oracle.endpoint.close(line.now).unwrap();
    line.carry(&mut faithful);
    assert!(matches!(line.events[..], [DtlsEvent::PeerClosed]));
}

#[test]
fn a_connected_association_ignores_everything_in_plaintext() {
    let mut line = Line::with_client(&[7]);
    let mut seen = Vec::new();
    line.carry(&mut |to_us, datagram| {
        if to_us && is_plain_handshake(&datagram) {
            seen.push(datagram.clone());
        }
        vec![datagram]
    });
    line.connected_profile();
    for body in [[2, 0], [2, 40], [1, 0]] {
        let mut alert = Vec::new();
        flight::write_record(&mut alert, content::ALERT, 999, &body);
        seen.push(alert);
    }
    for datagram in &seen {
        assert_eq!(line.ours.handle(line.now, datagram), Err(DropReason::DtlsMalformed));
    }
    assert!(line.ours.poll_event().is_none() && line.ours.poll_transmit().is_none());
}

// architecture D1: the hello after HelloVerifyRequest must not change the profile
#[test]
fn the_second_hello_cannot_take_the_chosen_profile_back() {
    let mut line = Line::with_client(&[7]);
    let mut hellos = 0;
    line.carry(&mut |to_us, mut datagram| {
        hellos += usize::from(to_us);
        if to_us && hellos == 2 {
            let offer = [0, 14, 0, 5, 0, 2, 0, 7, 0];
            let at = datagram.windows(9).position(|window| window == offer).unwrap();
            datagram[at + 7] = 1;
        }
        vec![datagram]
    });
    assert!(matches!(line.events[..], [DtlsEvent::Failed(CloseReason::DtlsFailed)]));
}

// quality B4 item 8
#[test]
fn every_short_length_of_junk_is_refused_without_a_panic() {
    for fill in [0u8, 20, 21, 22, 23, 0xfe, 0xff] {
        for len in 0..=64 {
            let mut line = Line::with_client(&[7]);
            let mut junk = vec![fill; len];
            assert_eq!(line.ours.handle(line.now, &junk), Err(DropReason::DtlsMalformed));
            // With a right header in front.
            if let Some(header) = junk.first_chunk_mut::<13>() {
                *header = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, len as u8 - 13];
                let _ = line.ours.handle(line.now, &junk);
            }
            line.carry(&mut faithful);
            line.connected_profile();
        }
    }
}
