//! DTLS association by `rtc-dtls` (DTLS 1.2).
//!
//! Owns the handshake of one session: our choice of SRTP profile, the check of the peer's
//! certificate against the offered fingerprints before any key leaves, limits, and repeats. Never
//! sees addresses or ICE. Made by `DtlsBackend`, called through the trait `Dtls`.
//! Next: `client_hello.rs`, `flight.rs`.
//!
//! The peer's plaintext messages are put together before `rtc-dtls` sees them, and handed over a
//! whole flight at a time. Reasons, all seen in version 0.21.1: it stops its own repeats when half a
//! flight or an old message arrives; it holds up to 2 MB of fragments; it gives up after seven
//! repeats at a fixed interval, 1 s at 150 ms. So we time the repeats, too: the interval doubles, and
//! our flight is repeated at once when the peer shows by repeating itself that it lacks it.

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
use super::{Dtls, DtlsBackend, DtlsEvent, DtlsFailure};
use crate::error::{CloseReason, DropReason};
use crate::sdp::{DtlsRole, Fingerprint};
use crate::transport::client_hello::{ClientHello, ClientHelloGate, HelloVerdict};
use crate::transport::flight::{self, Flight, Messages, Record, content, records};
use crate::transport::srtp::{SrtpKeys, SrtpProfile};

/// Time for a handshake from its first record; then it has failed (quality B1).
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// Bytes taken from the peer during a handshake; more are dropped, and the handshake runs out of time.
pub(super) const HANDSHAKE_BYTES: usize = 64 * 1024;

/// First wait before our flight is repeated; doubles with each repeat.
pub(super) const FLIGHT_INTERVAL: Duration = Duration::from_millis(150);

/// Repeats of one flight. `rtc-dtls` counts too, and ends the handshake after as many; the last one
/// leaves after 19 s.
pub(super) const FLIGHT_REPEATS: u32 = 7;

/// Bytes of encrypted handshake records taken after the handshake; more are dropped. A client that
/// repeats its last flight needs some hundred.
const LATE_HANDSHAKE_BYTES: usize = 16 * 1024;

/// Bytes that the unfinished messages of one flight may claim together; a datagram over it is
/// dropped.
const FLIGHT_BYTES: usize = 32 * 1024;

/// Bytes of the longest datagram that we write.
const MTU: usize = 1_200;

impl DtlsBackend for DtlsCertificate {
    fn associate(&self, role: DtlsRole, fingerprints: Vec<Fingerprint>) -> Box<dyn Dtls> {
        Box::new(RtcDtls {
            role,
            certificate: self.clone(),
            fingerprints: fingerprints.into(),
            endpoint: Endpoint::new(PEER, TransportProtocol::UDP, None),
            phase: Phase::Idle,
            out: VecDeque::new(),
            events: VecDeque::new(),
        })
    }
}

/// Cause of a failed handshake with the wrong certificate (whip-whep C55).
const NO_FINGERPRINT: &str = "the client's certificate matches no fingerprint of its offer";

/// Address by which `rtc-dtls` tells associations apart; ours has one and moves with ICE.
pub(super) const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// DTLS 1.2 by `rtc-dtls`.
struct RtcDtls {
    role: DtlsRole,
    certificate: DtlsCertificate,
    fingerprints: Arc<[Fingerprint]>,
    endpoint: Endpoint,
    phase: Phase,
    out: VecDeque<BytesMut>,
    events: VecDeque<DtlsEvent>,
}

/// How far the association is.
enum Phase {
    /// Nothing was sent or taken yet.
    Idle,
    /// The handshake runs.
    Handshake(Handshake),
    /// Keys are out.
    Connected {
        /// Bytes of encrypted handshake records since.
        late_bytes: usize,
    },
    /// The association failed or was closed by either side.
    Closed,
}

/// State of a handshake under way.
struct Handshake {
    /// When it has failed.
    deadline: Instant,
    /// Bytes taken from the peer.
    bytes_in: usize,
    inbound: Inbound,
    /// Number of the next plaintext record for `rtc-dtls`.
    record_number: u64,
    /// When our flight is sent again, if it is.
    repeat: Option<Repeat>,
}

/// Collector of the peer's plaintext messages.
enum Inbound {
    /// Server, until the ClientHello with our cookie.
    Hello { gate: ClientHelloGate, answered: Option<HelloAnswer> },
    /// The peer's flights.
    Flight(Flight),
}

/// Our answer to the first ClientHello.
struct HelloAnswer {
    /// Profile that the hello with the cookie must still offer.
    profile: SrtpProfile,
    /// HelloVerifyRequest: it has no repeat timer, the client's repeat asks for it.
    hello_verify: Option<BytesMut>,
}

/// Repeats of our flight.
struct Repeat {
    sent: Instant,
    wait: Duration,
    left: u32,
}

impl Handshake {
    fn new(role: DtlsRole, now: Instant) -> Self {
        let inbound = match role {
            DtlsRole::Server => Inbound::Hello { gate: ClientHelloGate::new(), answered: None },
            DtlsRole::Client => Inbound::Flight(Flight::new(role, Messages::new(FLIGHT_BYTES))),
        };
        let deadline = now + HANDSHAKE_TIME;
        Self { deadline, bytes_in: 0, inbound, record_number: 0, repeat: None }
    }

    /// Counts a datagram; false when it is over [`HANDSHAKE_BYTES`] and must not be looked at.
    fn allow_bytes(&mut self, bytes: usize) -> bool {
        let bytes_in = self.bytes_in.saturating_add(bytes);
        let allowed = bytes_in <= HANDSHAKE_BYTES;
        if allowed {
            self.bytes_in = bytes_in;
        }
        allowed
    }

    /// Appends a plaintext record with the next number: reassembly has made the peer's obsolete.
    fn write_record(&mut self, out: &mut Vec<u8>, content_type: u8, body: &[u8]) {
        flight::write_record(out, content_type, self.record_number, body);
        self.record_number += 1;
    }

    /// When our flight is due again, or the handshake has failed.
    fn next_timeout(&self) -> Instant {
        self.repeat.as_ref().map_or(self.deadline, |repeat| self.deadline.min(repeat.at()))
    }
}

impl Repeat {
    fn at(&self) -> Instant {
        self.sent + self.wait
    }
}

impl Dtls for RtcDtls {
    fn start(&mut self, now: Instant) {
        if self.role == DtlsRole::Server || !matches!(self.phase, Phase::Idle) {
            return;
        }
        self.phase = Phase::Handshake(Handshake::new(self.role, now));
        let config = self.config(&SrtpProfile::PREFERENCE);
        let connected =
            config.and_then(|config| self.endpoint.connect(now, PEER, Arc::new(config), None));
        match connected {
            Ok(()) => self.on_flight_sent(now),
            Err(error) => self.refuse(&error, None),
        }
    }

    fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        if records(datagram).next().is_none() {
            return Err(DropReason::DtlsMalformed);
        }
        if matches!(self.phase, Phase::Idle) && self.role == DtlsRole::Server {
            self.phase = Phase::Handshake(Handshake::new(self.role, now));
        }
        match &mut self.phase {
            Phase::Idle | Phase::Closed => Err(DropReason::DtlsLimit),
            Phase::Handshake(handshake) => {
                if !handshake.allow_bytes(datagram.len()) {
                    return Err(DropReason::DtlsLimit);
                }
                self.handle_handshake(now, datagram)
            }
            Phase::Connected { late_bytes } => {
                let records = encrypted_records(datagram, self.role, late_bytes)?;
                self.handle_connected(now, &records)
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
        match &self.phase {
            Phase::Handshake(handshake) => Some(handshake.next_timeout()),
            Phase::Idle | Phase::Connected { .. } | Phase::Closed => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Phase::Handshake(handshake) = &self.phase else { return };
        if handshake.deadline <= now {
            let cause = format!("the handshake did not end within {} s", HANDSHAKE_TIME.as_secs());
            self.fail(CloseReason::DtlsTimeout, &cause);
        } else if handshake.repeat.as_ref().is_some_and(|repeat| repeat.at() <= now) {
            self.repeat_flight(now);
        }
    }

    fn close(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Closed) {
            self.endpoint.stop(now, PEER);
            self.drain();
            self.phase = Phase::Closed;
        }
    }
}

impl RtcDtls {
    /// Takes a datagram of the handshake.
    fn handle_handshake(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        if self.endpoint.get_connections_keys().next().is_some()
            && let Some(end) = ending_alert(datagram)
        {
            self.end(end);
            return Ok(());
        }
        let Phase::Handshake(handshake) = &mut self.phase else { return Ok(()) };
        match &mut handshake.inbound {
            Inbound::Hello { gate, answered } => match gate.handle(now, datagram) {
                HelloVerdict::Incomplete => Ok(()),
                HelloVerdict::NotClientHello => Err(DropReason::DtlsMalformed),
                HelloVerdict::Refused => Err(DropReason::DtlsLimit),
                HelloVerdict::Repeated => {
                    let answered = answered.as_ref();
                    self.out.extend(answered.and_then(|answer| answer.hello_verify.clone()));
                    Ok(())
                }
                HelloVerdict::Complete(hello) => {
                    self.on_client_hello(now, &hello);
                    Ok(())
                }
            },
            Inbound::Flight(flight) => {
                let repeated = flight.handle(datagram).map_err(|_| DropReason::DtlsLimit)?;
                self.on_flight(now, repeated);
                Ok(())
            }
        }
    }

    fn on_client_hello(&mut self, now: Instant, hello: &ClientHello) {
        let Phase::Handshake(handshake) = &mut self.phase else { return };
        let Inbound::Hello { gate, answered } = &mut handshake.inbound else { return };
        let first = answered.is_none();
        let profile = match answered {
            Some(answer) => hello.profiles.contains(&answer.profile).then_some(answer.profile),
            None => hello.profiles.first().copied(),
        };
        let Some(profile) = profile else {
            let cause = "the client offers no SRTP profile that this server has";
            return self.fail(CloseReason::DtlsFailed, cause);
        };
        if !first {
            let messages = std::mem::take(gate).into_messages(FLIGHT_BYTES);
            handshake.inbound = Inbound::Flight(Flight::new(self.role, messages));
        }
        let mut record = Vec::new();
        handshake.write_record(&mut record, content::HANDSHAKE, &hello.message);
        if !first {
            return self.feed(now, &record);
        }
        let config = match self.config(&[profile]) {
            Ok(config) => config,
            Err(error) => return self.refuse(&error, None),
        };
        self.endpoint.set_server_config(Some(Arc::new(config)));
        self.feed(now, &record);
        let hello_verify = self.out.back().cloned();
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.repeat = None;
            if let Inbound::Hello { answered, .. } = &mut handshake.inbound {
                *answered = Some(HelloAnswer { profile, hello_verify });
            }
        }
    }

    fn on_flight(&mut self, now: Instant, repeated: bool) {
        // At most twice: the client's view of a server flight, then its encrypted end.
        while let Phase::Handshake(handshake) = &mut self.phase
            && let Inbound::Flight(flight) = &mut handshake.inbound
            && let Some(ready) = flight.take_ready()
        {
            let mut bytes = Vec::new();
            for message in &ready.messages {
                handshake.write_record(&mut bytes, content::HANDSHAKE, &message.unfragmented());
            }
            if let Some(sealed) = ready.sealed {
                handshake.write_record(&mut bytes, content::CHANGE_CIPHER_SPEC, &[1]);
                bytes.extend_from_slice(&sealed);
            }
            self.feed(now, &bytes);
        }
        let Phase::Handshake(Handshake { repeat: Some(repeat), .. }) = &self.phase else { return };
        if repeated && now.saturating_duration_since(repeat.sent) >= FLIGHT_INTERVAL {
            self.repeat_flight(now);
        }
    }

    /// Takes encrypted records of a connected association.
    fn handle_connected(&mut self, now: Instant, bytes: &[u8]) -> Result<(), DropReason> {
        let result = self.endpoint.read(now, PEER, None, BytesMut::from(bytes));
        self.drain();
        let closed = match &result {
            Ok(events) => events.iter().any(|event| matches!(event, EndpointEvent::PeerClosed)),
            Err(error) => matches!(error, Error::ErrAlertFatalOrClose),
        };
        if closed {
            self.end(DtlsEvent::PeerClosed);
        }
        result.map(|_| ()).map_err(|_| DropReason::DtlsMalformed)
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
            Ok(_) => self.on_flight_sent(now),
            Err(error) => {
                let before = self.out.len();
                self.drain();
                let alert = self.out.iter().skip(before).find_map(|datagram| fatal_alert(datagram));
                match self.peer_certificate() {
                    Some(der) if !matches_any(&self.fingerprints, der) => {
                        self.fail(CloseReason::FingerprintMismatch, NO_FINGERPRINT);
                    }
                    _ => self.refuse(&error, alert),
                }
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
            self.fail(CloseReason::FingerprintMismatch, NO_FINGERPRINT);
            return;
        }
        match self.export() {
            Some((profile, keys)) => {
                self.phase = Phase::Connected { late_bytes: 0 };
                self.events.push_back(DtlsEvent::Connected { profile, keys });
            }
            None => {
                self.close(now);
                self.fail(CloseReason::DtlsFailed, "the handshake gave no SRTP profile or keys");
            }
        }
    }

    /// Profile and keys (RFC 5764 section 4.2).
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

    /// Takes what `rtc-dtls` wants sent; a new flight gets a new repeat timer.
    fn on_flight_sent(&mut self, now: Instant) {
        if self.drain() > 0
            && self.endpoint.poll_timeout(&PEER).is_some()
            && let Phase::Handshake(handshake) = &mut self.phase
        {
            handshake.repeat =
                Some(Repeat { sent: now, wait: FLIGHT_INTERVAL, left: FLIGHT_REPEATS });
        }
    }

    fn repeat_flight(&mut self, now: Instant) {
        let Phase::Handshake(handshake) = &mut self.phase else { return };
        let at = self.endpoint.poll_timeout(&PEER);
        let Some((repeat, at)) = handshake.repeat.as_mut().filter(|repeat| repeat.left > 0).zip(at)
        else {
            handshake.repeat = None;
            return;
        };
        *repeat = Repeat { sent: now, wait: repeat.wait * 2, left: repeat.left - 1 };
        // Its timer has a fixed interval; we come later, or earlier when the peer asks.
        let repeated = self.endpoint.handle_timeout(PEER, now.max(at));
        self.drain();
        if let Err(error) = repeated {
            self.refuse(&error, None);
        }
    }

    /// Queues what `rtc-dtls` wants sent; returns the number of datagrams.
    fn drain(&mut self) -> usize {
        let before = self.out.len();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.out.push_back(transmit.message);
        }
        self.out.len() - before
    }

    fn fail(&mut self, reason: CloseReason, cause: &str) {
        self.end(DtlsEvent::Failed(DtlsFailure { reason, cause: cause.into() }));
    }

    /// Fails because of what `rtc-dtls` says of the peer's messages; `alert` is what it sent to the peer.
    fn refuse(&mut self, error: &Error, alert: Option<u8>) {
        let sent = match alert {
            Some(code) => format!(", and the alert {} was sent", alert_name(code)),
            None => String::new(),
        };
        let hint = match error {
            // FFmpeg with GnuTLS makes itself a certificate of P-224, for which no signature fits.
            Error::ErrKeySignatureMismatch => {
                "; perhaps the client's certificate is of a curve that this server does not have, such as \
                 P-224: give the client one of P-256"
            }
            _ => "",
        };
        let cause = format!("the client's handshake cannot be used: {error}{hint}{sent}");
        self.fail(CloseReason::DtlsFailed, &cause);
    }

    /// Ends the association and tells why.
    fn end(&mut self, event: DtlsEvent) {
        self.phase = Phase::Closed;
        self.events.push_back(event);
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

/// Encrypted records of a datagram, for a connected association: without the keys nobody can do
/// anything to it. Counts those of the handshake in `late_bytes`.
///
/// # Errors
/// [`DropReason::DtlsLimit`] for handshake records that are too many or not expected,
/// [`DropReason::DtlsMalformed`] when nothing is encrypted.
fn encrypted_records(
    datagram: &[u8],
    role: DtlsRole,
    late_bytes: &mut usize,
) -> Result<Vec<u8>, DropReason> {
    let mut bytes = Vec::new();
    for record in records(datagram).filter(|record| record.epoch > 0) {
        if record.content_type == content::HANDSHAKE {
            // Only a server's last flight is asked for by the peer's repeat.
            *late_bytes = late_bytes.saturating_add(record.raw.len());
            if role == DtlsRole::Client || *late_bytes > LATE_HANDSHAKE_BYTES {
                return Err(DropReason::DtlsLimit);
            }
        }
        bytes.extend_from_slice(record.raw);
    }
    if bytes.is_empty() { Err(DropReason::DtlsMalformed) } else { Ok(bytes) }
}

const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

/// Event of a plaintext alert that ends a handshake.
fn ending_alert(datagram: &[u8]) -> Option<DtlsEvent> {
    records(datagram).find_map(|record| match record {
        Record { content_type: content::ALERT, epoch: 0, body: [_, CLOSE_NOTIFY], .. } => {
            Some(DtlsEvent::PeerClosed)
        }
        Record { content_type: content::ALERT, epoch: 0, body: [FATAL, code], .. } => {
            let cause = format!("the client sent the alert {}", alert_name(*code)).into();
            Some(DtlsEvent::Failed(DtlsFailure { reason: CloseReason::DtlsFailed, cause }))
        }
        _ => None,
    })
}

/// Code of a fatal plaintext alert in a datagram.
fn fatal_alert(datagram: &[u8]) -> Option<u8> {
    records(datagram).find_map(|record| match record {
        Record { content_type: content::ALERT, epoch: 0, body: [FATAL, code], .. } => Some(*code),
        _ => None,
    })
}

/// Name and number of an alert (RFC 5246 section 7.2), with what it mostly means here.
fn alert_name(code: u8) -> String {
    let (name, meaning) = match code {
        CLOSE_NOTIFY => ("close_notify", ""),
        10 => ("unexpected_message", ""),
        20 => ("bad_record_mac", ""),
        22 => ("record_overflow", ""),
        40 => ("handshake_failure", "no cipher suite, curve or SRTP profile in common"),
        42 => ("bad_certificate", "the certificate is broken or not that of the SDP"),
        43 => ("unsupported_certificate", "its key or curve is not supported; use P-256"),
        44 => ("certificate_revoked", ""),
        45 => ("certificate_expired", ""),
        46 => ("certificate_unknown", "the certificate is not that of the SDP"),
        47 => ("illegal_parameter", "a curve or another value is not supported; use P-256"),
        48 => ("unknown_ca", "the client wants a certificate of an authority"),
        49 => ("access_denied", ""),
        50 => ("decode_error", "a message could not be read, often a certificate of another curve"),
        51 => ("decrypt_error", "a signature or the end of the handshake does not fit"),
        70 => ("protocol_version", "no DTLS version in common; this server has DTLS 1.2"),
        71 => ("insufficient_security", "no cipher suite that the client takes"),
        80 => ("internal_error", "a fault of the sender's own"),
        90 => ("user_canceled", ""),
        109 => ("missing_extension", ""),
        110 => ("unsupported_extension", ""),
        _ => ("", ""),
    };
    let name = if name.is_empty() { "without a name" } else { name };
    match meaning {
        "" => format!("{name} ({code})"),
        meaning => format!("{name} ({code}: {meaning})"),
    }
}
