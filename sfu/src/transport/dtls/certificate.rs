//! Certificates: ours, and the check of the peer's against its fingerprints.
//!
//! Owns our key pair, one per process. Never takes part in a handshake: that is `rtc.rs`, which
//! calls it; `net` makes the certificate.

use std::sync::Arc;

use aws_lc_rs::digest;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_dtls::crypto::Certificate;

use crate::sdp::{Fingerprint, FingerprintAlgorithm};

/// Our certificate: self-signed ECDSA P-256, one per process. Cheap to clone, shared by threads.
#[derive(Clone)]
pub struct DtlsCertificate {
    pub(super) certificate: Arc<Certificate>,
    fingerprint_sha256: [u8; 32],
}

impl DtlsCertificate {
    /// Makes a new key and certificate.
    ///
    /// # Errors
    /// Text from the cryptographic library, for the operator.
    pub fn generate() -> Result<Self, String> {
        let provider = AwsLcRsProvider::new();
        let certificate =
            Certificate::generate_self_signed(vec!["weir".to_owned()], provider.crypto())
                .map_err(|error| error.to_string())?;
        let der = certificate.certificate.first().ok_or("no certificate was made")?;
        let digest = digest::digest(&digest::SHA256, der);
        let fingerprint_sha256 =
            digest.as_ref().try_into().map_err(|_| "SHA-256 has 32 bytes".to_owned())?;
        Ok(Self { certificate: Arc::new(certificate), fingerprint_sha256 })
    }

    /// Fingerprint for `a=fingerprint:sha-256` of the answer.
    pub fn fingerprint_sha256(&self) -> [u8; 32] {
        self.fingerprint_sha256
    }
}

/// Whether the certificate has one of the fingerprints of the offer.
pub(super) fn matches_any(fingerprints: &[Fingerprint], der: &[u8]) -> bool {
    fingerprints.iter().any(|promised| {
        let algorithm = match promised.algorithm {
            FingerprintAlgorithm::Sha256 => &digest::SHA256,
            FingerprintAlgorithm::Sha384 => &digest::SHA384,
            FingerprintAlgorithm::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, der).as_ref() == promised.digest
    })
}
