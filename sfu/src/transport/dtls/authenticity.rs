//! Whose flight it is: the certificate and the signature in it, checked before the DTLS backend sees it.
//!
//! Owns the check of a key exchange against the fingerprints of the offer. A client signs all messages up to
//! its key exchange, a server its key and both random values (RFC 5246 sections 7.4.8, 7.4.3), so nobody
//! else can make a flight that passes, nor change one. Never decides what follows. Called by `rtc.rs`.

use rtc_crypto::{PublicKey, PublicKeyEncoding, RTCCrypto, SignatureScheme};

use super::alert;
use super::certificate::matches_any;
use super::message::{Message, kind};
use crate::error::CloseReason;
use crate::sdp::Fingerprint;

/// Bytes of the random value in a hello, behind its version.
const RANDOM: std::ops::Range<usize> = 2..34;

/// Why a flight is not, or cannot be shown to be, the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no certificate in it.
    NoCertificate,
    /// The certificate matches no fingerprint (whip-whep C55).
    Fingerprint,
    /// The signature is not by the certificate's key, or of a kind that we do not have.
    Signature,
}

impl Fault {
    /// Reason and cause of an end for this, and the alert for the peer (RFC 5246 section 7.2.2).
    pub(super) fn describe(self) -> (CloseReason, &'static str, u8) {
        match self {
            Self::NoCertificate => (
                CloseReason::DtlsFailed,
                "the client's handshake cannot be used: it sent no certificate",
                alert::BAD_CERTIFICATE,
            ),
            Self::Fingerprint => (
                CloseReason::FingerprintMismatch,
                "the client's certificate matches no fingerprint of its offer",
                alert::BAD_CERTIFICATE,
            ),
            // FFmpeg with GnuTLS makes itself a certificate of P-224, for which no signature fits.
            Self::Signature => (
                CloseReason::DtlsFailed,
                "the client's handshake cannot be used: its signature does not fit; perhaps the client's \
                 certificate is of a curve that this server does not have, such as P-224: give the client one \
                 of P-256",
                alert::DECRYPT_ERROR,
            ),
        }
    }
}

/// Checks a client's flight. `transcript` are all messages before it, whole, from the ClientHello with our
/// cookie on.
pub(super) fn check_client(
    crypto: &dyn RTCCrypto,
    transcript: &[u8],
    flight: &[Message],
    fingerprints: &[Fingerprint],
) -> Result<(), Fault> {
    let certificate = certificate(flight, fingerprints)?;
    let [before @ .., verify] = flight else { return Err(Fault::Signature) };
    let mut signed = transcript.to_vec();
    before.iter().for_each(|message| signed.extend(message.unfragmented()));
    check_signature(crypto, certificate, &signed, &verify.body)
}

/// Checks a server's flight, which answers this ClientHello of ours.
pub(super) fn check_server(
    crypto: &dyn RTCCrypto,
    client_hello: &Message,
    flight: &[Message],
    fingerprints: &[Fingerprint],
) -> Result<(), Fault> {
    let certificate = certificate(flight, fingerprints)?;
    let body = |kind| {
        let found = flight.iter().find(|message| message.kind == kind);
        found.map(|message| message.body.as_slice()).ok_or(Fault::Signature)
    };
    let exchange = body(kind::SERVER_KEY_EXCHANGE)?;
    // Curve type, curve, and the key behind its length (RFC 8422 section 5.4).
    let key_len = usize::from(*exchange.get(3).ok_or(Fault::Signature)?);
    let (key, signature) = exchange.split_at_checked(4 + key_len).ok_or(Fault::Signature)?;
    let ours = client_hello.body.get(RANDOM).ok_or(Fault::Signature)?;
    let theirs = body(kind::SERVER_HELLO)?.get(RANDOM).ok_or(Fault::Signature)?;
    check_signature(crypto, certificate, &[ours, theirs, key].concat(), signature)
}

/// The peer's own certificate, the first of its list (RFC 5246 section 7.4.2).
fn certificate<'a>(flight: &'a [Message], fingerprints: &[Fingerprint]) -> Result<&'a [u8], Fault> {
    let message = flight.iter().find(|message| message.kind == kind::CERTIFICATE);
    let list = message.and_then(|message| message.body.get(3..)).ok_or(Fault::NoCertificate)?;
    let (len, rest) = list.split_first_chunk::<3>().ok_or(Fault::NoCertificate)?;
    let [l0, l1, l2] = *len;
    let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    let der = rest.get(..len).ok_or(Fault::NoCertificate)?;
    if matches_any(fingerprints, der) { Ok(der) } else { Err(Fault::Fingerprint) }
}

/// Checks a signature behind its algorithm and length (RFC 5246 section 4.7).
fn check_signature(
    crypto: &dyn RTCCrypto,
    der: &[u8],
    signed: &[u8],
    with_algorithm: &[u8],
) -> Result<(), Fault> {
    let (&[hash, algorithm, l0, l1], signature) =
        with_algorithm.split_first_chunk().ok_or(Fault::Signature)?;
    if signature.len() != usize::from(u16::from_be_bytes([l0, l1])) {
        return Err(Fault::Signature);
    }
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| Fault::Signature)?;
    let key = &*certificate.tbs_certificate.subject_pki.subject_public_key.data;
    let (encoding, scheme) = scheme(hash, algorithm, key).ok_or(Fault::Signature)?;
    crypto
        .verify_signature(scheme, PublicKey { encoding, bytes: key }, signed, signature)
        .map_err(|_| Fault::Signature)
}

/// Scheme of a `SignatureAndHashAlgorithm` (RFC 5246 section 7.4.1.4.1, RFC 8422 section 5.1.3), of those that
/// `rtc-dtls` takes.
fn scheme(hash: u8, algorithm: u8, key: &[u8]) -> Option<(PublicKeyEncoding, SignatureScheme)> {
    /// Bytes of an uncompressed point of P-384.
    const P384_POINT: usize = 97;
    Some(match (algorithm, hash) {
        (1, 4) => (PublicKeyEncoding::RsaPkcs1Der, SignatureScheme::RsaPkcs1Sha256),
        (1, 5) => (PublicKeyEncoding::RsaPkcs1Der, SignatureScheme::RsaPkcs1Sha384),
        (1, 6) => (PublicKeyEncoding::RsaPkcs1Der, SignatureScheme::RsaPkcs1Sha512),
        (3, 4) if key.len() == P384_POINT => {
            (PublicKeyEncoding::EcUncompressedPoint, SignatureScheme::EcdsaP384Sha256)
        }
        (3, 4) => (PublicKeyEncoding::EcUncompressedPoint, SignatureScheme::EcdsaP256Sha256),
        (3, 5) => (PublicKeyEncoding::EcUncompressedPoint, SignatureScheme::EcdsaP384Sha384),
        (7, 8) => (PublicKeyEncoding::Ed25519Raw, SignatureScheme::Ed25519),
        _ => return None,
    })
}
