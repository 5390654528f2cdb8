//! DTLS of the simulated world: associations with preset keys, which cost nothing, and real ones by
//! `rtc-dtls`.
//!
//! A peer with a [`preset fingerprint`](preset_fingerprint) gets a preset association at the
//! server; any other gets the server's real one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_shared::TransportProtocol;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use weir_sfu::error::DropReason;
use weir_sfu::sdp::{DtlsRole, Fingerprint, FingerprintAlgorithm};
use weir_sfu::transport::dtls::{Dtls, DtlsBackend, DtlsCertificate, DtlsEvent};
use weir_sfu::transport::srtp::{SrtpKeys, SrtpProfile};

use super::wire;

/// Message of a preset client that a preset server answers: a record header that reads as DTLS.
pub(crate) const HELLO: &[u8] = b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x05hello";

/// The answer, which only the right end can compute.
pub(crate) fn welcome(fingerprint: &[u8]) -> Vec<u8> {
    [b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x20", fingerprint].concat()
}

/// A close_notify, which only the two ends can compute.
pub(crate) fn goodbye(fingerprint: &[u8]) -> Vec<u8> {
    [b"\x15\xfe\xfd\0\x01\0\0\0\0\0\0\0\x20", fingerprint].concat()
}

const PRESET: &[u8; 6] = b"preset";

/// Fingerprint of a peer whose keys are known beforehand: a number that makes them, and the
/// profile.
pub(crate) fn preset_fingerprint(number: u64, profile: SrtpProfile) -> Fingerprint {
    let mut digest = vec![0; 32];
    digest[..6].copy_from_slice(PRESET);
    digest[8..16].copy_from_slice(&number.to_be_bytes());
    digest[16..18].copy_from_slice(&profile.id().to_be_bytes());
    Fingerprint { algorithm: FingerprintAlgorithm::Sha256, digest }
}

fn preset_material(digest: &[u8], profile: SrtpProfile) -> Vec<u8> {
    (0..profile.keying_material_len())
        .map(|n| digest[n % digest.len()] ^ (n as u8).wrapping_mul(37) ^ 0x5a)
        .collect()
}

/// The client's side of a preset association: (what it seals with, what the server seals with).
pub(crate) fn preset_keys(fingerprint: &Fingerprint) -> (Context, Context) {
    let profile = preset_profile(&fingerprint.digest);
    wire::split_keys(oracle(profile), &preset_material(&fingerprint.digest, profile))
}

fn preset_profile(digest: &[u8]) -> SrtpProfile {
    SrtpProfile::from_id(u16::from_be_bytes([digest[16], digest[17]])).expect("a profile of ours")
}

pub(crate) fn oracle(profile: SrtpProfile) -> ProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    }
}

/// The server's backend.
pub(crate) struct Backend(pub DtlsCertificate);

impl DtlsBackend for Backend {
    fn associate(&self, role: DtlsRole, fingerprints: Vec<Fingerprint>) -> Box<dyn Dtls> {
        match fingerprints.first().filter(|first| first.digest.starts_with(PRESET)) {
            Some(first) => Box::new(Preset { digest: first.digest.clone(), ..Preset::default() }),
            None => self.0.associate(role, fingerprints),
        }
    }
}

#[derive(Default)]
struct Preset {
    digest: Vec<u8>,
    connected: bool,
    out: VecDeque<BytesMut>,
    events: VecDeque<DtlsEvent>,
}

impl Dtls for Preset {
    fn start(&mut self, _now: Instant) {}

    fn handle(&mut self, _now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        match datagram {
            HELLO => {
                self.out.push_back(welcome(&self.digest)[..].into());
                if !std::mem::replace(&mut self.connected, true) {
                    let profile = preset_profile(&self.digest);
                    let material = preset_material(&self.digest, profile);
                    let keys = SrtpKeys::from_exporter(profile, false, &material)
                        .expect("as long as the profile wants");
                    self.events.push_back(DtlsEvent::Connected { profile, keys });
                }
                Ok(())
            }
            _ if self.connected && datagram == goodbye(&self.digest) => {
                self.events.push_back(DtlsEvent::PeerClosed);
                Ok(())
            }
            _ => Err(DropReason::DtlsMalformed),
        }
    }

    fn is_answered(&self) -> bool {
        self.connected
    }

    fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.out.pop_front()
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn close(&mut self, _now: Instant) {
        self.out.push_back(goodbye(&self.digest)[..].into());
    }
}

/// A certificate of a real peer.
#[derive(Clone)]
pub(crate) struct Identity {
    certificate: Certificate,
    pub fingerprint: Fingerprint,
}

impl Identity {
    pub(crate) fn generate() -> Self {
        let certificate =
            Certificate::generate_self_signed(vec!["peer".to_owned()], wire::provider().crypto())
                .expect("a certificate can be made");
        let der = certificate.certificate.first().expect("it has one");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref().to_vec();
        let fingerprint = Fingerprint { algorithm: FingerprintAlgorithm::Sha256, digest };
        Self { certificate, fingerprint }
    }
}

/// `rtc-dtls` tells associations apart by address; a peer has one.
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A real peer's association, client or server.
pub(crate) struct RealDtls {
    endpoint: Endpoint,
    config: Arc<HandshakeConfig>,
    is_client: bool,
    started: bool,
    pub connected: bool,
    pub closed: bool,
}

impl RealDtls {
    pub(crate) fn new(identity: &Identity, is_client: bool, profiles: &[u16]) -> Self {
        let config = ConfigBuilder::default()
            .with_crypto_provider(Arc::clone(wire::provider()))
            .with_certificates(vec![identity.certificate.clone()])
            .with_srtp_protection_profiles(profiles.iter().map(|&id| id.into()).collect())
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .build(is_client, Some(SERVER))
            .expect("a valid configuration");
        let config = Arc::new(config);
        let as_server = (!is_client).then(|| Arc::clone(&config));
        let endpoint = Endpoint::new(SERVER, TransportProtocol::UDP, as_server);
        Self { endpoint, config, is_client, started: false, connected: false, closed: false }
    }

    /// A path to the server exists: the client speaks first.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.is_client && !std::mem::replace(&mut self.started, true) {
            let config = Arc::clone(&self.config);
            self.endpoint.connect(now, SERVER, config, None).expect("a first connect works");
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, datagram: &[u8]) {
        let events = self.endpoint.read(now, SERVER, None, datagram.into()).unwrap_or_default();
        for event in events {
            self.connected |= matches!(event, EndpointEvent::HandshakeComplete);
            self.closed |= matches!(event, EndpointEvent::PeerClosed);
        }
    }

    pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.endpoint.poll_transmit())
            .map(|transmit| transmit.message.to_vec())
            .collect()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.endpoint.poll_timeout(&SERVER).filter(|_| !self.connected)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let _ = self.endpoint.handle_timeout(SERVER, now);
    }

    /// (What we seal with, what the server seals with).
    pub(crate) fn keys(&self) -> Option<(Context, Context)> {
        let state = self.endpoint.get_connection_state(SERVER)?;
        let profile = SrtpProfile::from_id(state.srtp_protection_profile() as u16)?;
        let len = profile.keying_material_len();
        let material = state.export_keying_material("EXTRACTOR-dtls_srtp", &[], len).ok()?;
        let (client, server) = wire::split_keys(oracle(profile), material.as_ref());
        Some(if self.is_client { (client, server) } else { (server, client) })
    }
}
