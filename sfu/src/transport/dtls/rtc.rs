//! DTLS association by `rtc-dtls` (DTLS 1.2).
//!
//! Owns the handshake of one session: our choice of SRTP profile, whose messages count, limits, and
//! repeats. Never sees addresses or ICE. Made by `DtlsBackend`, called through the trait `Dtls`.
//! Next: `handshake.rs`, `authenticity.rs`, `crypto.rs`, `outgoing.rs`.
//!
//! Who knows a client's address can send datagrams in its name, so nothing may end a session that is not shown
//! to be the client's:
//! - A ClientHello counts once it carries our cookie, a flight once its certificate and its signature fit, a
//!   record of the encrypted end once its seal does. What does not is forgotten, and the client's repeat counts.
//! - A plaintext alert, or a flight that does not fit, ends a handshake that makes no progress for
//!   [`DOUBT_TIME`](super::handshake::DOUBT_TIME): a client that gives up says so in plaintext, too.
//! - After the handshake only encrypted alerts and handshake records reach `rtc-dtls`. It takes a
//!   ChangeCipherSpec of any epoch as it is, and a broken one for the peer's close.
//!
//! The peer's plaintext messages are put together before `rtc-dtls` sees them, and handed over a
//! whole flight at a time. Reasons, all seen in version 0.21.1: it stops its own repeats when half a
//! flight or an old message arrives; it holds up to 2 MB of fragments; it gives up after seven
//! repeats at a fixed interval, 1 s at 150 ms; it keeps the random value of the first ClientHello, whoever sent
//! that. So we time the repeats, too: the interval doubles, and our flight is repeated at once when the peer
//! shows by repeating itself that it lacks it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;

use super::alert::{self, EndingAlert};
use super::authenticity::{self, Fault};
use super::certificate::{DtlsCertificate, matches_any};
use super::client_hello::{ClientHello, HelloVerdict};
use super::crypto::{AssociationCrypto, Finished};
use super::flight::FlightKind;
use super::handshake::{
    Doubt, FLIGHT_BYTES, FLIGHT_INTERVAL, FLIGHT_REPEATS, FULL_SIZE_REPEATS, HANDSHAKE_TIME,
    Handshake, Inbound, Repeat, is_hello_verify,
};
use super::message::Message;
use super::outgoing::Outgoing;
use super::record::{Record, content, records};
use super::{Dtls, DtlsBackend, DtlsEvent, DtlsFailure};
use crate::error::{CloseReason, DropReason};
use crate::sdp::{DtlsRole, Fingerprint};
use crate::transport::srtp::{SrtpKeys, SrtpProfile};

/// Bytes of authentic handshake records taken after the handshake; more are dropped. A client that repeats
/// its last flight needs some hundred.
pub(super) const LATE_HANDSHAKE_BYTES: usize = 16 * 1024;

/// Encrypted records of one datagram that are looked at after the handshake. A peer sends one or two.
pub(super) const RECORDS_PER_DATAGRAM: usize = 4;

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
            out: Outgoing::new(),
            events: VecDeque::new(),
        })
    }
}

/// Address by which `rtc-dtls` tells associations apart; ours has one and moves with ICE.
pub(super) const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// DTLS 1.2 by `rtc-dtls`.
struct RtcDtls {
    role: DtlsRole,
    certificate: DtlsCertificate,
    fingerprints: Arc<[Fingerprint]>,
    endpoint: Endpoint,
    phase: Phase,
    out: Outgoing,
    events: VecDeque<DtlsEvent>,
}

/// How far the association is.
enum Phase {
    /// Nothing was sent or taken yet.
    Idle,
    /// The handshake runs.
    Handshake(Box<Handshake>),
    /// Keys are out.
    Connected {
        crypto: AssociationCrypto,
        /// Bytes of authentic handshake records since.
        late_bytes: usize,
    },
    /// The association failed or was closed by either side.
    Closed,
}

impl Dtls for RtcDtls {
    fn start(&mut self, now: Instant) {
        if self.role == DtlsRole::Server || !matches!(self.phase, Phase::Idle) {
            return;
        }
        self.phase = Phase::Handshake(Box::new(Handshake::new(self.role, now)));
        self.connect(now);
    }

    fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        if records(datagram).next().is_none() {
            return Err(DropReason::DtlsMalformed);
        }
        if matches!(self.phase, Phase::Idle) && self.role == DtlsRole::Server {
            self.phase = Phase::Handshake(Box::new(Handshake::new(self.role, now)));
        }
        match &mut self.phase {
            Phase::Idle | Phase::Closed => Err(DropReason::DtlsLimit),
            Phase::Handshake(_) => self.handle_handshake(now, datagram),
            Phase::Connected { .. } => self.handle_connected(now, datagram),
        }
    }

    fn is_answered(&self) -> bool {
        match &self.phase {
            Phase::Idle | Phase::Closed => false,
            Phase::Handshake(handshake) => match &handshake.inbound {
                Inbound::Hello(_) => false,
                Inbound::Flight { has_keys, .. } => *has_keys,
            },
            Phase::Connected { .. } => true,
        }
    }

    fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.out.pop()
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
        let Phase::Handshake(handshake) = &mut self.phase else { return };
        if let Some(doubt) = handshake.doubt.take_if(|doubt| doubt.ends() <= now) {
            if let Some(code) = doubt.alert {
                self.out.write(content::ALERT, &[alert::FATAL, code]);
            }
            self.end(doubt.event);
        } else if handshake.deadline <= now {
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
    /// Sends the ClientHello.
    fn connect(&mut self, now: Instant) {
        let Phase::Handshake(handshake) = &self.phase else { return };
        let config = self.config(&SrtpProfile::PREFERENCE, &handshake.crypto);
        let connected =
            config.and_then(|config| self.endpoint.connect(now, PEER, Arc::new(config), None));
        match connected {
            Ok(()) => self.on_flight_sent(now),
            Err(error) => self.refuse(&error, None),
        }
    }

    /// Takes a datagram of the handshake.
    fn handle_handshake(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        let Phase::Handshake(handshake) = &mut self.phase else { return Ok(()) };
        let is_wanted =
            |record: Record<'_>| record.is_plain_handshake() || record.is_sealed_handshake();
        if !records(datagram).any(is_wanted) {
            return self.handle_no_handshake(now, datagram);
        }
        match &mut handshake.inbound {
            Inbound::Hello(gate) => match gate.handle(now, datagram) {
                HelloVerdict::Incomplete => Ok(()),
                HelloVerdict::Refused => Err(DropReason::DtlsMalformed),
                HelloVerdict::TooLong => Err(DropReason::DtlsLimit),
                HelloVerdict::AskForCookie => {
                    self.out.write(content::HANDSHAKE, &gate.request().unfragmented());
                    Ok(())
                }
                HelloVerdict::Complete(hello) => {
                    self.on_client_hello(now, hello);
                    Ok(())
                }
            },
            Inbound::Flight { flight, .. } => {
                let repeated = flight.handle(datagram).map_err(|_| DropReason::DtlsLimit)?;
                handshake.other_cookie |= handshake.asks_for_another_cookie(datagram);
                self.on_flight(now, repeated)
            }
        }
    }

    /// Takes a datagram without a handshake record. An alert in plaintext says that the client gives up, or that
    /// somebody wants it to.
    fn handle_no_handshake(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        let is_change = |record: Record<'_>| record.content_type == content::CHANGE_CIPHER_SPEC;
        if records(datagram).all(is_change) {
            // It belongs to a flight, and says nothing that the flight does not.
            return Ok(());
        }
        let Some(alert) = alert::ending(datagram) else {
            return Err(DropReason::DtlsUnexpectedRecord);
        };
        if let Phase::Handshake(handshake) = &self.phase
            && matches!(handshake.inbound, Inbound::Flight { .. })
        {
            let event = match alert {
                EndingAlert::Close => DtlsEvent::PeerClosed,
                EndingAlert::Fatal(code) => {
                    let cause = format!("the client sent the alert {}", alert::name(code)).into();
                    DtlsEvent::Failed(DtlsFailure { reason: CloseReason::DtlsFailed, cause })
                }
            };
            self.doubt(now, event, None);
        }
        Err(DropReason::DtlsUnauthenticated)
    }

    fn on_client_hello(&mut self, now: Instant, hello: ClientHello) {
        let Some(profile) = hello.profiles.first().copied() else {
            let cause = "the client offers no SRTP profile that this server has";
            return self.fail(CloseReason::DtlsFailed, cause);
        };
        let Phase::Handshake(handshake) = &mut self.phase else { return };
        let Inbound::Hello(gate) = &handshake.inbound else { return };
        let messages = gate.following(FLIGHT_BYTES);
        let [first, second] = [&hello.first, &hello.message].map(|message| {
            let mut record = Vec::new();
            handshake.write_record(&mut record, content::HANDSHAKE, &message.unfragmented());
            record
        });
        handshake.inbound = Inbound::flight(self.role, messages, Some(hello.message));
        let crypto = handshake.crypto.clone();
        match self.config(&[profile], &crypto) {
            Ok(config) => self.endpoint.set_server_config(Some(Arc::new(config))),
            Err(error) => return self.refuse(&error, None),
        }
        // The client has its HelloVerifyRequest already, with this cookie.
        let before = self.out.len();
        self.feed(now, &first);
        let Phase::Handshake(handshake) = &mut self.phase else { return };
        handshake.repeat = None;
        self.out.truncate(before);
        self.feed(now, &second);
    }

    /// Begins the handshake again as client.
    fn start_over(&mut self, now: Instant) {
        let Phase::Handshake(old) = &self.phase else { return };
        let mut new = Handshake::new(self.role, now);
        new.deadline = old.deadline;
        new.restarts = old.restarts + 1;
        self.phase = Phase::Handshake(Box::new(new));
        self.endpoint = Endpoint::new(PEER, TransportProtocol::UDP, None);
        self.out.forget_messages();
        self.connect(now);
    }

    /// Looks at what the peer's messages are by now. `repeated` tells that it repeats itself.
    fn on_flight(&mut self, now: Instant, repeated: bool) -> Result<(), DropReason> {
        // Behind its key exchange the peer has no plaintext messages.
        while let Phase::Handshake(handshake) = &mut self.phase
            && let Inbound::Flight { flight, hello, accepted, has_keys: has_keys @ false } =
                &mut handshake.inbound
            && let Some((found, messages)) = flight.collect()
        {
            if found == FlightKind::HelloVerify {
                let request = messages.first().filter(|request| is_hello_verify(&request.body));
                let Some(request) = request.cloned() else {
                    flight.refuse();
                    return Err(DropReason::DtlsMalformed);
                };
                *hello = Some(request);
            } else {
                let checked = match self.role {
                    DtlsRole::Server => {
                        let before = transcript(hello.as_ref(), &self.out);
                        let (crypto, promised) = (&handshake.crypto, &self.fingerprints);
                        authenticity::check_client(crypto, &before, messages, promised).map(|()| {
                            let flight = messages.iter().flat_map(Message::unfragmented);
                            crypto.expect_finished(
                                &before.into_iter().chain(flight).collect::<Vec<_>>(),
                            );
                        })
                    }
                    DtlsRole::Client => {
                        let hellos = self.out.messages();
                        hellos.last().ok_or(Fault::Signature).and_then(|hello| {
                            let (crypto, promised) = (&handshake.crypto, &self.fingerprints);
                            authenticity::check_server(crypto, hello, messages, promised)
                        })
                    }
                };
                if let Err(fault) = checked {
                    flight.refuse();
                    let (reason, cause, alert) = fault.describe();
                    let failure = DtlsFailure { reason, cause: cause.into() };
                    self.doubt(now, DtlsEvent::Failed(failure), Some(alert));
                    return Err(DropReason::DtlsUnauthenticated);
                }
                *has_keys = true;
            }
            accepted.extend(flight.accept());
            handshake.doubt = None;
            self.feed_ready(now)?;
        }
        self.feed_ready(now)?;
        if repeated
            && let Phase::Handshake(handshake) = &self.phase
            && let Some(repeat) = &handshake.repeat
            && now.saturating_duration_since(repeat.sent) >= FLIGHT_INTERVAL
        {
            self.repeat_flight(now);
        }
        Ok(())
    }

    /// Gives `rtc-dtls` what is ready for it.
    fn feed_ready(&mut self, now: Instant) -> Result<(), DropReason> {
        let Phase::Handshake(handshake) = &mut self.phase else { return Ok(()) };
        let Some(bytes) = handshake.take_ready(self.role) else { return Ok(()) };
        let crypto = handshake.crypto.clone();
        let opened = crypto.opened();
        self.feed(now, &bytes);
        if crypto.finished() == Finished::Differs {
            let cause = "the client's Finished does not fit the handshake";
            self.out.write(content::ALERT, &[alert::FATAL, alert::DECRYPT_ERROR]);
            self.fail(CloseReason::DtlsFailed, cause);
        }
        let is_sealed = records(&bytes).any(|record| record.is_sealed_handshake());
        match is_sealed && crypto.opened() == opened {
            true => Err(DropReason::DtlsUnauthenticated),
            false => Ok(()),
        }
    }

    /// Takes a datagram of a connected association: without the keys nobody can do anything to it.
    fn handle_connected(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        let Phase::Connected { crypto, late_bytes } = &mut self.phase else { return Ok(()) };
        // Only a server's last flight is asked for by the peer's repeat.
        let takes_handshake = self.role == DtlsRole::Server && *late_bytes < LATE_HANDSHAKE_BYTES;
        let (mut bytes, mut late, mut refused) = (Vec::new(), 0, DropReason::DtlsUnexpectedRecord);
        let sealed = |record: &Record<'_>| {
            record.is_sealed() && matches!(record.content_type, content::ALERT | content::HANDSHAKE)
        };
        for record in records(datagram).filter(sealed).take(RECORDS_PER_DATAGRAM) {
            if record.is_sealed_handshake() {
                if !takes_handshake {
                    refused = DropReason::DtlsLimit;
                    continue;
                }
                late += record.raw.len();
            }
            bytes.extend_from_slice(record.raw);
        }
        if bytes.is_empty() {
            return Err(refused);
        }
        let opened = crypto.opened();
        let result = self.endpoint.read(now, PEER, None, BytesMut::from(bytes.as_slice()));
        let is_authentic = crypto.opened() > opened;
        if is_authentic {
            *late_bytes = late_bytes.saturating_add(late);
        }
        self.drain();
        let closed = match &result {
            Ok(events) => events.iter().any(|event| matches!(event, EndpointEvent::PeerClosed)),
            Err(error) => matches!(error, Error::ErrAlertFatalOrClose),
        };
        match is_authentic {
            true if closed => self.end(DtlsEvent::PeerClosed),
            true => {}
            false => return Err(DropReason::DtlsUnauthenticated),
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
                let sent = self.out.since(before).find_map(|datagram| alert::ending(datagram));
                let alert = match sent {
                    Some(EndingAlert::Fatal(code)) => Some(code),
                    Some(EndingAlert::Close) | None => None,
                };
                self.refuse(&error, alert);
            }
        }
    }

    /// The handshake is done. Fingerprint and Finished were checked while it went on; they are looked at
    /// again here, because from here keys leave.
    fn on_complete(&mut self, now: Instant) {
        let Phase::Handshake(handshake) = &self.phase else { return };
        let crypto = handshake.crypto.clone();
        let matches =
            self.peer_certificate().is_some_and(|der| matches_any(&self.fingerprints, der));
        let exported = self.export().filter(|_| {
            // As client `rtc-dtls` compares the server's.
            self.role == DtlsRole::Client || crypto.finished() == Finished::Fits
        });
        let (reason, cause) = match exported {
            Some((profile, keys)) if matches => {
                self.out.forget_messages();
                self.phase = Phase::Connected { crypto, late_bytes: 0 };
                return self.events.push_back(DtlsEvent::Connected { profile, keys });
            }
            Some(_) => {
                let (reason, cause, _) = Fault::Fingerprint.describe();
                (reason, cause)
            }
            None => (CloseReason::DtlsFailed, "the handshake gave no SRTP profile or keys"),
        };
        self.close(now);
        self.fail(reason, cause);
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
        if handshake.must_start_over() {
            return self.start_over(now);
        }
        let at = self.endpoint.poll_timeout(&PEER);
        let Some((repeat, at)) = handshake.repeat.as_mut().filter(|repeat| repeat.left > 0).zip(at)
        else {
            handshake.repeat = None;
            return;
        };
        if FLIGHT_REPEATS - repeat.left >= FULL_SIZE_REPEATS {
            self.out.use_small_datagrams();
        }
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
            self.out.push(&transmit.message);
        }
        self.out.len() - before
    }

    /// Notes why the handshake ends if it makes no progress. The first reason since stays.
    fn doubt(&mut self, now: Instant, event: DtlsEvent, alert: Option<u8>) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.doubt.get_or_insert(Doubt { since: now, event, alert });
        }
    }

    fn fail(&mut self, reason: CloseReason, cause: &str) {
        self.end(DtlsEvent::Failed(DtlsFailure { reason, cause: cause.into() }));
    }

    /// Fails because of what `rtc-dtls` says of the peer's messages; `alert` is what it sent to the peer.
    fn refuse(&mut self, error: &Error, alert: Option<u8>) {
        let sent = match alert {
            Some(code) => format!(", and the alert {} was sent", alert::name(code)),
            None => String::new(),
        };
        let cause = format!("the client's handshake cannot be used: {error}{sent}");
        self.fail(CloseReason::DtlsFailed, &cause);
    }

    /// Ends the association and tells why.
    fn end(&mut self, event: DtlsEvent) {
        self.phase = Phase::Closed;
        self.events.push_back(event);
    }

    fn config(
        &self,
        profiles: &[SrtpProfile],
        crypto: &AssociationCrypto,
    ) -> Result<HandshakeConfig, Error> {
        let fingerprints = Arc::clone(&self.fingerprints);
        ConfigBuilder::default()
            .with_crypto_provider(Arc::new(crypto.clone()))
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
            // Binds the keys to the whole handshake (RFC 7627).
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

/// All messages before a client's first flight, whole: its ClientHello with our cookie, and ours.
fn transcript(hello: Option<&Message>, out: &Outgoing) -> Vec<u8> {
    hello.into_iter().chain(out.messages()).flat_map(Message::unfragmented).collect()
}
