//! DTLS for one peer, as client or server, up to the SRTP keys.
//!
//! A thin layer over `rtc-dtls`: one association, whose certificate is checked against the
//! fingerprint in the answer. Owned by `peer`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_srtp::config::{Config, LABEL_EXTRACTOR_DTLS_SRTP};
use rtc_srtp::context::Context;
use rtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc_srtp::protection_profile::ProtectionProfile;

/// Retransmission interval of handshake flights.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(200);

/// SRTP replay window in packets. It is wide, because a server without RTX retransmits packets
/// under their old sequence numbers (whip-whep C57).
const REPLAY_WINDOW: usize = 1024;

/// The certificate and crypto that all peers of this process share.
pub(crate) struct Identity {
    /// The cryptography library.
    pub(crate) provider: Arc<dyn RTCCryptoProvider>,
    certificate: Certificate,
    /// SHA-256 fingerprint of the certificate, in the form of SDP.
    pub(crate) fingerprint: String,
}

impl Identity {
    /// A new self-signed ECDSA certificate.
    ///
    /// # Errors
    /// If the cryptography library refuses.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provider = rtc_crypto::default_provider()?;
        let certificate =
            Certificate::generate_self_signed(vec!["weir-loadtest".to_owned()], provider.crypto())?;
        let der =
            certificate.certificate.first().ok_or_else(|| anyhow::anyhow!("no certificate"))?;
        let fingerprint = fingerprint(der);
        Ok(Self { provider, certificate, fingerprint })
    }
}

fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// SRTP contexts of both directions.
pub(crate) struct SrtpContexts {
    /// For packets to send.
    pub(crate) outgoing: Context,
    /// For received packets.
    pub(crate) incoming: Context,
}

/// What a DTLS datagram changed.
pub(crate) enum DtlsEvent {
    /// The handshake is not complete, or the record changed nothing.
    Nothing,
    /// The handshake is complete: these are the keys.
    Keys(Box<SrtpContexts>),
    /// The peer closed the association.
    Closed,
}

/// One DTLS association.
pub(crate) struct Dtls {
    endpoint: Endpoint,
    /// The address that identifies the association inside the endpoint. Datagrams may come from
    /// other addresses; `peer` decides.
    remote: SocketAddr,
    provider: Arc<dyn RTCCryptoProvider>,
}

impl Dtls {
    /// A new association. As client it has its first flight ready at once.
    ///
    /// # Errors
    /// If the configuration is refused.
    pub(crate) fn new(
        now: Instant,
        identity: &Identity,
        is_client: bool,
        remote: SocketAddr,
        remote_fingerprints: Vec<String>,
    ) -> anyhow::Result<Self> {
        let verify = move |chain: &[Vec<u8>], _: &[_]| {
            let seen = chain.first().map(|der| fingerprint(der));
            if seen.is_some_and(|seen| remote_fingerprints.contains(&seen)) {
                return Ok(());
            }
            Err(rtc_shared::error::Error::Other(
                "the server's certificate is not the one in its answer".to_owned(),
            ))
        };
        let config = ConfigBuilder::default()
            .with_crypto_provider(identity.provider.clone())
            .with_certificates(vec![identity.certificate.clone()])
            .with_srtp_protection_profiles(vec![
                SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            ])
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(FLIGHT_INTERVAL)
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(verify)))
            .build(is_client, Some(remote))?;
        let config = Arc::new(config);
        let local = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint =
            Endpoint::new(local, TransportProtocol::UDP, (!is_client).then(|| config.clone()));
        if is_client {
            endpoint.connect(now, remote, config, None)?;
        }
        Ok(Self { endpoint, remote, provider: identity.provider.clone() })
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.endpoint.poll_transmit().map(|transmit| transmit.message)
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.endpoint.poll_timeout(&self.remote)
    }

    /// Retransmits a flight that was not answered.
    ///
    /// # Errors
    /// If the flight was retransmitted too often.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.endpoint.handle_timeout(self.remote, now)?;
        }
        Ok(())
    }

    /// Takes a DTLS datagram.
    ///
    /// # Errors
    /// If the handshake fails, or if the certificate does not match the fingerprint.
    pub(crate) fn handle(&mut self, now: Instant, datagram: &[u8]) -> anyhow::Result<DtlsEvent> {
        for event in self.endpoint.read(now, self.remote, None, datagram.into())? {
            match event {
                EndpointEvent::HandshakeComplete => {
                    return Ok(DtlsEvent::Keys(Box::new(self.keys()?)));
                }
                EndpointEvent::PeerClosed => return Ok(DtlsEvent::Closed),
                _ => {}
            }
        }
        Ok(DtlsEvent::Nothing)
    }

    /// Closes the association. [`Self::poll_transmit`] returns the alert.
    pub(crate) fn close(&mut self, now: Instant) {
        self.endpoint.stop(now, self.remote);
    }

    fn keys(&self) -> anyhow::Result<SrtpContexts> {
        let state = self
            .endpoint
            .get_connection_state(self.remote)
            .ok_or_else(|| anyhow::anyhow!("the DTLS association is gone"))?;
        let profile = match state.srtp_protection_profile() {
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => ProtectionProfile::AeadAes256Gcm,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => {
                ProtectionProfile::Aes128CmHmacSha1_80
            }
            _ => anyhow::bail!("the server chose no SRTP profile that was offered"),
        };
        let mut config = Config { profile, ..Default::default() };
        let material = state.export_keying_material(
            LABEL_EXTRACTOR_DTLS_SRTP,
            &[],
            config.keying_material_len(),
        )?;
        config.set_session_keys_from_keying_material(material.as_ref(), state.is_client())?;
        let crypto = self.provider.crypto();
        let keys = &config.keys;
        Ok(SrtpContexts {
            outgoing: Context::new(
                &keys.local_master_key,
                &keys.local_master_salt,
                profile,
                None,
                None,
                crypto,
            )?,
            incoming: Context::new(
                &keys.remote_master_key,
                &keys.remote_master_salt,
                profile,
                Some(srtp_replay_protection(REPLAY_WINDOW)),
                Some(srtcp_replay_protection(REPLAY_WINDOW)),
                crypto,
            )?,
        })
    }
}
