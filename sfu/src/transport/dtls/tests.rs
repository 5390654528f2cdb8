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
use crate::transport::flight::{self, content, fragments_of, records};
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
                flight::write_record(&mut alert, content::ALERT, 9, &[2, code]);
                return vec![alert];
            }
            vec![datagram]
        });
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

/// Connects our client and our server over a link that loses datagrams; returns which side is
/// connected after `span`. The oracle does not do here: its repeats stop (see the head of `rtc.rs`).
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
fn any_one_lost_datagram_is_repeated_within_a_third_of_a_second() {
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
fn link_that_loses_a_quarter_connects_within_the_time() {
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
        flights += link.sent_by_us().len();
        if let Some(DtlsEvent::Failed(failure)) = link.ours.poll_event() {
            assert_eq!(failure.reason, CloseReason::DtlsTimeout);
            assert_eq!(&*failure.cause, "the handshake did not end within 30 s");
            ended_at = Some(at - begin);
        }
    }
    assert_eq!(flights, 2 + FLIGHT_REPEATS as usize);
    assert_eq!(ended_at, Some(HANDSHAKE_TIME));
}

#[test]
fn handshake_takes_sixty_four_kilobytes_and_no_more() {
    let mut link = Link::with_client(&[7]);
    let mut filler = Vec::new();
    flight::write_record(&mut filler, 23, 0, &[0; 1_011]);
    assert_eq!(filler.len(), 1_024);
    for _ in 0..HANDSHAKE_BYTES / 1_024 {
        assert_eq!(link.ours.handle(link.now, &filler), Err(DropReason::DtlsMalformed));
    }
    assert_eq!(link.ours.handle(link.now, &filler), Err(DropReason::DtlsLimit));
    link.now += HANDSHAKE_TIME;
    link.ours.handle_timeout(link.now);
    assert!(matches!(link.ours.poll_event(), Some(DtlsEvent::Failed(_))));
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

#[test]
fn connected_association_ignores_everything_in_plaintext() {
    let mut link = Link::with_client(&[7]);
    let mut seen = Vec::new();
    link.carry(&mut |to_us, datagram| {
        if to_us && is_plain_handshake(&datagram) {
            seen.push(datagram.clone());
        }
        vec![datagram]
    });
    link.connected_profile();
    for body in [[2, 0], [2, 40], [1, 0]] {
        let mut alert = Vec::new();
        flight::write_record(&mut alert, content::ALERT, 999, &body);
        seen.push(alert);
    }
    for datagram in &seen {
        assert_eq!(link.ours.handle(link.now, datagram), Err(DropReason::DtlsMalformed));
    }
    assert!(link.ours.poll_event().is_none() && link.ours.poll_transmit().is_none());
}

// architecture D1: the hello after HelloVerifyRequest must not change the profile
#[test]
fn second_client_hello_without_the_chosen_profile_fails() {
    let mut link = Link::with_client(&[7]);
    let mut hellos = 0;
    link.carry(&mut |to_us, mut datagram| {
        hellos += usize::from(to_us);
        if to_us && hellos == 2 {
            let offer = [0, 14, 0, 5, 0, 2, 0, 7, 0];
            let at = datagram.windows(9).position(|window| window == offer).unwrap();
            datagram[at + 7] = 1;
        }
        vec![datagram]
    });
    assert_eq!(failure(&link.events).reason, CloseReason::DtlsFailed);
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
