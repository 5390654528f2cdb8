//! DTLS behind a trait.
#![allow(unused_variables, reason = "signatures first")]
use std::time::Instant;

use super::srtp::{SrtpKeys, SrtpProfile};
use crate::error::{CloseReason, DropReason};
use crate::sdp::{DtlsRole, Fingerprint};

/// One DTLS association.
#[allow(missing_docs, reason = "signatures first")]
pub trait Dtls: Send {
    fn start(&mut self, now: Instant);
    fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason>;
    fn poll_transmit(&mut self) -> Option<bytes::BytesMut>;
    fn poll_event(&mut self) -> Option<DtlsEvent>;
    fn next_timeout(&self) -> Option<Instant>;
    fn handle_timeout(&mut self, now: Instant);
    fn close(&mut self, now: Instant);
}
/// What happened.
#[derive(Debug)]
pub enum DtlsEvent {
    /// Keys are ready, the peer's certificate matched.
    Connected {
        /// Chosen profile.
        profile: SrtpProfile,
        /// Keys.
        keys: SrtpKeys,
    },
    /// Failed: `FingerprintMismatch` or `DtlsFailed`.
    Failed(CloseReason),
    /// close_notify.
    PeerClosed,
}
/// Our certificate.
#[derive(Clone)]
pub struct DtlsCertificate(());
impl DtlsCertificate {
    /// P-256, self-signed.
    ///
    /// # Errors
    /// Text.
    pub fn generate() -> Result<Self, String> {
        unimplemented!()
    }
    /// Digest.
    pub fn fingerprint_sha256(&self) -> [u8; 32] {
        unimplemented!()
    }
}
/// Makes an association.
pub fn new_dtls(
    cert: &DtlsCertificate,
    role: DtlsRole,
    fingerprints: Vec<Fingerprint>,
    now: Instant,
) -> Box<dyn Dtls> {
    unimplemented!()
}
