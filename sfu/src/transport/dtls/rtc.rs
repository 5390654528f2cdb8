//! DTLS association by `rtc-dtls` (DTLS 1.2).
//!
//! Owns the handshake of one session: our choice of SRTP profile, the check of the peer's
//! certificate against the offered fingerprints before any key leaves, limits, and repeats. Never
//! sees addresses or ICE. Made by `DtlsBackend`, called through the trait `Dtls`.
//! Next: `client_hello.rs`, `flight.rs`.
//!
//! Between the wire and `rtc-dtls` the peer's plaintext messages are put together and handed over
//! a whole flight at a time. Reasons, all seen in version 0.21.1: it stops its own repeats when
//! half a flight or an old message arrives; it holds up to 2 MB of fragments; it gives up after
//! seven repeats at a fixed interval, 1 s at 150 ms. So we also time the repeats: doubling, and at
//! once when the peer shows by repeating itself that it lacks our flight.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;

use super::certificate::{DtlsCertificate, matches_any};
use super::{Dtls, DtlsBackend, DtlsEvent};
use crate::error::{CloseReason, DropReason};
use crate::sdp::{DtlsRole, Fingerprint};
use crate::transport::client_hello::{ClientHelloGate, HelloVerdict};
use crate::transport::flight::{self, Flight, Messages, Record, content, records};
use crate::transport::srtp::{SrtpKeys, SrtpProfile};

/// Time for a handshake from its first record; then it has failed (quality B1).
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// Bytes taken from the peer during a handshake; more are dropped and the clock runs out.
pub(super) const HANDSHAKE_BYTES: usize = 64 * 1024;

/// First wait before our flight is repeated; doubles with each repeat.
pub(super) const FLIGHT_INTERVAL: Duration = Duration::from_millis(150);

/// Repeats of one flight. `rtc-dtls` counts too, and breaks the handshake off after as many; the
/// last one leaves after 19 s.
pub(super) const FLIGHT_REPEATS: u32 = 7;

/// Bytes of encrypted handshake records taken after the handshake (a client that repeats its last
/// flight needs some hundred); more are dropped.
const LATE_HANDSHAKE_BYTES: usize = 16 * 1024;

/// Bytes that the unfinished messages of one flight may claim.
const FLIGHT_BYTES: usize = 32 * 1024;

/// Longest datagram we write.
const MTU: usize = 1_200;

impl DtlsBackend for DtlsCertificate {
    fn associate(&self, role: DtlsRole, fingerprints: Vec<Fingerprint>) -> Box<dyn Dtls> {
        let inbound = match role {
            DtlsRole::Server => Inbound::Hello(ClientHelloGate::new()),
            DtlsRole::Client => Inbound::Flight(Flight::new(role, Messages::new(FLIGHT_BYTES))),
        };
        Box::new(RtcDtls {
            role,
            certificate: self.clone(),
            fingerprints: fingerprints.into(),
            phase: Phase::Idle,
            inbound,
            profile: None,
            endpoint: Endpoint::new(PEER, TransportProtocol::UDP, None),
            hello_verify: None,
            record_number: 0,
            bytes_in: 0,
            late_bytes: 0,
            deadline: None,
            repeat: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
        })
    }
}

/// `rtc-dtls` wants an address to tell associations apart; ours has one and moves with ICE.
pub(super) const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// DTLS 1.2 by `rtc-dtls`.
struct RtcDtls {
    role: DtlsRole,
    certificate: DtlsCertificate,
    fingerprints: Arc<[Fingerprint]>,
    phase: Phase,
    inbound: Inbound,
    /// Server: fixed by the first ClientHello.
    profile: Option<SrtpProfile>,
    endpoint: Endpoint,
    /// Our HelloVerifyRequest: it has no repeat timer, the client's repeat asks for it.
    hello_verify: Option<BytesMut>,
    record_number: u64,
    bytes_in: usize,
    late_bytes: usize,
    deadline: Option<Instant>,
    repeat: Option<Repeat>,
    out: VecDeque<BytesMut>,
    events: VecDeque<DtlsEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Handshake,
    Connected,
    Closed,
}

/// What collects the peer's plaintext messages.
enum Inbound {
    /// Server, until the ClientHello with our cookie.
    Hello(ClientHelloGate),
    Flight(Flight),
}

/// When our flight is sent again.
struct Repeat {
    sent: Instant,
    wait: Duration,
    left: u32,
}

impl Dtls for RtcDtls {
    fn start(&mut self, now: Instant) {
        if self.role == DtlsRole::Server || self.phase != Phase::Idle {
            return;
        }
        self.begin(now);
        let config = self.config(&SrtpProfile::PREFERENCE);
        let connected =
            config.and_then(|config| self.endpoint.connect(now, PEER, Arc::new(config), None));
        match connected {
            Ok(()) => self.flight_sent(now),
            Err(_) => self.fail(CloseReason::DtlsFailed),
        }
    }

    fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        if records(datagram).next().is_none() {
            return Err(DropReason::DtlsMalformed);
        }
        match self.phase {
            Phase::Closed => return Err(DropReason::DtlsLimit),
            Phase::Connected => return self.handle_connected(now, datagram),
            Phase::Idle if self.role == DtlsRole::Client => return Err(DropReason::DtlsLimit),
            Phase::Idle => self.begin(now),
            Phase::Handshake => {}
        }
        let bytes_in = self.bytes_in.saturating_add(datagram.len());
        if bytes_in > HANDSHAKE_BYTES {
            return Err(DropReason::DtlsLimit);
        }
        self.bytes_in = bytes_in;
        if self.endpoint.get_connections_keys().next().is_some() && self.take_alerts(datagram) {
            return Ok(());
        }
        match &mut self.inbound {
            Inbound::Hello(gate) => {
                let verdict = gate.handle(now, datagram);
                self.on_hello(now, verdict)
            }
            Inbound::Flight(flight) => {
                let repeated = flight.handle(datagram).map_err(|_| DropReason::DtlsLimit)?;
                self.on_flight(now, repeated);
                Ok(())
            }
        }
    }

    fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.out.pop_front()
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    fn next_timeout(&self) -> Option<Instant> {
        let repeat = self.repeat.as_ref().map(|repeat| repeat.sent + repeat.wait);
        [repeat, self.deadline].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.fail(CloseReason::DtlsTimeout);
        } else if self.repeat.as_ref().is_some_and(|repeat| repeat.sent + repeat.wait <= now) {
            self.repeat_flight(now);
        }
    }

    fn close(&mut self, now: Instant) {
        if self.phase != Phase::Closed {
            self.endpoint.stop(now, PEER);
            self.drain();
            self.end();
        }
    }
}

impl RtcDtls {
    fn begin(&mut self, now: Instant) {
        self.phase = Phase::Handshake;
        self.deadline = Some(now + HANDSHAKE_TIME);
    }

    fn on_hello(&mut self, now: Instant, verdict: HelloVerdict) -> Result<(), DropReason> {
        let hello = match verdict {
            HelloVerdict::Incomplete => return Ok(()),
            HelloVerdict::NotClientHello => return Err(DropReason::DtlsMalformed),
            HelloVerdict::Refused => return Err(DropReason::DtlsLimit),
            HelloVerdict::Repeated => {
                self.out.extend(self.hello_verify.clone());
                return Ok(());
            }
            HelloVerdict::Complete(hello) => hello,
        };
        let profile = match self.profile {
            // The hello with the cookie must still offer what the first one was answered with.
            Some(profile) => hello.profiles.contains(&profile).then_some(profile),
            None => hello.profiles.first().copied(),
        };
        let Some(profile) = profile else {
            self.fail(CloseReason::DtlsFailed);
            return Ok(());
        };
        let mut flight = Vec::new();
        self.number(&mut flight, content::HANDSHAKE, &hello.message);
        if self.profile.is_none() {
            self.profile = Some(profile);
            match self.config(&[profile]) {
                Ok(config) => self.endpoint.set_server_config(Some(Arc::new(config))),
                Err(_) => {
                    self.fail(CloseReason::DtlsFailed);
                    return Ok(());
                }
            }
            self.feed(now, &flight);
            self.hello_verify = self.out.back().cloned();
            self.repeat = None;
        } else {
            if let Inbound::Hello(gate) = std::mem::replace(
                &mut self.inbound,
                Inbound::Flight(Flight::new(self.role, Messages::new(FLIGHT_BYTES))),
            ) {
                let messages = gate.into_messages(FLIGHT_BYTES);
                self.inbound = Inbound::Flight(Flight::new(self.role, messages));
            }
            self.feed(now, &flight);
        }
        Ok(())
    }

    fn on_flight(&mut self, now: Instant, repeated: bool) {
        // At most twice: the client's view of a server flight, then its encrypted end.
        while let Inbound::Flight(flight) = &mut self.inbound
            && self.phase == Phase::Handshake
            && let Some(ready) = flight.take_ready()
        {
            let mut bytes = Vec::new();
            for message in &ready.messages {
                self.number(&mut bytes, content::HANDSHAKE, &message.unfragmented());
            }
            if let Some(sealed) = ready.sealed {
                self.number(&mut bytes, content::CHANGE_CIPHER_SPEC, &[1]);
                bytes.extend_from_slice(&sealed);
            }
            self.feed(now, &bytes);
        }
        let is_due =
            |repeat: &Repeat| now.saturating_duration_since(repeat.sent) >= FLIGHT_INTERVAL;
        if repeated && self.phase == Phase::Handshake && self.repeat.as_ref().is_some_and(is_due) {
            self.repeat_flight(now);
        }
    }

    /// Encrypted records only: nobody without the keys can do anything to a connected association.
    fn handle_connected(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        let mut bytes = Vec::new();
        for record in records(datagram).filter(|record| record.epoch > 0) {
            if record.content_type == content::HANDSHAKE {
                // Only a server's last flight is asked for by the peer's repeat.
                self.late_bytes = self.late_bytes.saturating_add(record.raw.len());
                if self.role == DtlsRole::Client || self.late_bytes > LATE_HANDSHAKE_BYTES {
                    return Err(DropReason::DtlsLimit);
                }
            }
            bytes.extend_from_slice(record.raw);
        }
        if bytes.is_empty() {
            return Err(DropReason::DtlsMalformed);
        }
        let result = self.endpoint.read(now, PEER, None, BytesMut::from(&*bytes));
        self.drain();
        let closed = match &result {
            Ok(events) => events.iter().any(|event| matches!(event, EndpointEvent::PeerClosed)),
            Err(error) => matches!(error, Error::ErrAlertFatalOrClose),
        };
        if closed {
            self.end();
            self.events.push_back(DtlsEvent::PeerClosed);
        }
        result.map(|_| ()).map_err(|_| DropReason::DtlsMalformed)
    }

    /// Plaintext alerts during the handshake; true when one ended it.
    fn take_alerts(&mut self, datagram: &[u8]) -> bool {
        const FATAL: u8 = 2;
        const CLOSE_NOTIFY: u8 = 0;
        for record in records(datagram) {
            match record {
                Record {
                    content_type: content::ALERT, epoch: 0, body: [_, CLOSE_NOTIFY], ..
                } => {
                    self.end();
                    self.events.push_back(DtlsEvent::PeerClosed);
                    return true;
                }
                Record { content_type: content::ALERT, epoch: 0, body: [FATAL, _], .. } => {
                    self.fail(CloseReason::DtlsFailed);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// Gives `rtc-dtls` the peer's records and looks at what became of it.
    fn feed(&mut self, now: Instant, bytes: &[u8]) {
        let result = self.endpoint.read(now, PEER, None, BytesMut::from(bytes));
        let complete = |events: &Vec<EndpointEvent>| {
            events.iter().any(|event| matches!(event, EndpointEvent::HandshakeComplete))
        };
        match result {
            Ok(events) if complete(&events) => {
                self.drain();
                self.on_complete(now);
            }
            Ok(_) => self.flight_sent(now),
            Err(_) => {
                self.drain();
                let reason = match self.peer_certificate() {
                    Some(der) if !matches_any(&self.fingerprints, der) => {
                        CloseReason::FingerprintMismatch
                    }
                    _ => CloseReason::DtlsFailed,
                };
                self.fail(reason);
            }
        }
    }

    /// The handshake is done. The fingerprint was checked while it went on, so that the peer got an
    /// alert; it is checked again here, because from here keys leave.
    fn on_complete(&mut self, now: Instant) {
        let matches =
            self.peer_certificate().is_some_and(|der| matches_any(&self.fingerprints, der));
        if !matches {
            self.close(now);
            self.events.push_back(DtlsEvent::Failed(CloseReason::FingerprintMismatch));
            return;
        }
        match self.export() {
            Some((profile, keys)) => {
                self.phase = Phase::Connected;
                (self.deadline, self.repeat, self.hello_verify) = (None, None, None);
                self.events.push_back(DtlsEvent::Connected { profile, keys });
            }
            None => {
                self.close(now);
                self.events.push_back(DtlsEvent::Failed(CloseReason::DtlsFailed));
            }
        }
    }

    /// RFC 5764 section 4.2.
    fn export(&self) -> Option<(SrtpProfile, SrtpKeys)> {
        let state = self.endpoint.get_connection_state(PEER)?;
        let profile = SrtpProfile::from_id(state.srtp_protection_profile() as u16)?;
        let len = profile.keying_material_len();
        let material = state.export_keying_material("EXTRACTOR-dtls_srtp", &[], len).ok()?;
        let is_client = self.role == DtlsRole::Client;
        Some((profile, SrtpKeys::from_exporter(profile, is_client, material.as_ref())?))
    }

    fn peer_certificate(&self) -> Option<&[u8]> {
        let state = self.endpoint.get_connection_state(PEER)?;
        state.peer_certificates.first().map(Vec::as_slice)
    }

    /// Appends a plaintext record with the next number: reassembly has made the peer's obsolete.
    fn number(&mut self, out: &mut Vec<u8>, content_type: u8, body: &[u8]) {
        flight::write_record(out, content_type, self.record_number, body);
        self.record_number += 1;
    }

    /// Takes what `rtc-dtls` wants sent; a new flight gets a new repeat timer.
    fn flight_sent(&mut self, now: Instant) {
        if self.drain() > 0 && self.endpoint.poll_timeout(&PEER).is_some() {
            self.repeat = Some(Repeat { sent: now, wait: FLIGHT_INTERVAL, left: FLIGHT_REPEATS });
        }
    }

    fn repeat_flight(&mut self, now: Instant) {
        let at = self.endpoint.poll_timeout(&PEER);
        let Some((repeat, at)) = self.repeat.as_mut().filter(|repeat| repeat.left > 0).zip(at)
        else {
            self.repeat = None;
            return;
        };
        *repeat = Repeat { sent: now, wait: repeat.wait * 2, left: repeat.left - 1 };
        // Its timer has a fixed interval; we come later, or earlier when the peer asks.
        let repeated = self.endpoint.handle_timeout(PEER, now.max(at));
        self.drain();
        if repeated.is_err() {
            self.fail(CloseReason::DtlsFailed);
        }
    }

    fn drain(&mut self) -> usize {
        let before = self.out.len();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.out.push_back(transmit.message);
        }
        self.out.len() - before
    }

    fn fail(&mut self, reason: CloseReason) {
        self.end();
        self.events.push_back(DtlsEvent::Failed(reason));
    }

    fn end(&mut self) {
        self.phase = Phase::Closed;
        (self.deadline, self.repeat, self.hello_verify) = (None, None, None);
    }

    fn config(&self, profiles: &[SrtpProfile]) -> Result<HandshakeConfig, Error> {
        let fingerprints = Arc::clone(&self.fingerprints);
        ConfigBuilder::default()
            .with_crypto_provider(Arc::new(AwsLcRsProvider::new()))
            .with_certificates(vec![self.certificate.certificate.as_ref().clone()])
            .with_cipher_suites(vec![
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
                CipherSuiteId::Tls_Ecdhe_Rsa_With_ChaCha20_Poly1305_Sha256,
            ])
            .with_srtp_protection_profiles(
                profiles.iter().map(|profile| SrtpProtectionProfile::from(profile.id())).collect(),
            )
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            // Binds the keys to the whole handshake; as server `rtc-dtls` does not compare the
            // client's Finished hash, so this must not be optional.
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            // There is no CA: the fingerprint in the SDP is the identity (RFC 8122).
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(move |chain, _| match chain.first() {
                Some(der) if matches_any(&fingerprints, der) => Ok(()),
                _ => Err(Error::ErrInvalidCertificate),
            })))
            .with_flight_interval(FLIGHT_INTERVAL)
            .with_mtu(MTU)
            .build(self.role == DtlsRole::Client, Some(PEER))
    }
}
