//! DTLS behind a small trait: keys out, records in and out.
//!
//! Owns the interface: association, events, and the backend that makes associations. Never sees RTP,
//! addresses or ICE; the caller lets only records from validated pairs in (quality B1). Called by
//! `transport/peer`. Next: `rtc.rs` (the association by `rtc-dtls`), `certificate.rs`.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

mod alert;
mod authenticity;
mod certificate;
mod client_hello;
mod crypto;
mod flight;
mod handshake;
mod message;
mod outgoing;
mod record;
mod rtc;

pub use self::certificate::DtlsCertificate;

use super::srtp::{SrtpKeys, SrtpProfile};
use crate::error::{CloseReason, DropReason};
use crate::sdp::{DtlsRole, Fingerprint};

/// DTLS association, free of I/O.
pub trait Dtls: Send {
    /// Sends the ClientHello of a client, once. Does nothing for a server.
    fn start(&mut self, now: Instant);

    /// Takes one datagram of DTLS records.
    ///
    /// # Errors
    /// Why it was dropped: [`DropReason::DtlsMalformed`], [`DropReason::DtlsLimit`],
    /// [`DropReason::DtlsUnexpectedRecord`] or [`DropReason::DtlsUnauthenticated`]. The association goes on; its
    /// end is an event.
    fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason>;

    /// Whether the peer has sent what only it could, and only after it received our datagrams: a flight signed
    /// with the key of its fingerprint, over our random value. A cookie that comes back is none: any client at the
    /// address returns it.
    fn is_answered(&self) -> bool;

    /// Next datagram to send. Call until `None` after every other call.
    fn poll_transmit(&mut self) -> Option<BytesMut>;

    /// Next event. Call until `None` after every other call.
    fn poll_event(&mut self) -> Option<DtlsEvent>;

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    fn next_timeout(&self) -> Option<Instant>;

    /// Repeats our flight, or ends a handshake that took too long.
    fn handle_timeout(&mut self, now: Instant);

    /// Queues a close_notify and ends the association.
    fn close(&mut self, now: Instant);
}

/// Event of an association. After `Failed` or `PeerClosed` nothing follows.
#[derive(Debug)]
pub enum DtlsEvent {
    /// The handshake is done, and the peer's certificate matches a fingerprint of its offer.
    Connected {
        /// Negotiated profile.
        profile: SrtpProfile,
        /// Keys for this profile.
        keys: SrtpKeys,
    },
    /// The handshake failed.
    Failed(DtlsFailure),
    /// The peer sent close_notify, or a fatal alert after the handshake.
    PeerClosed,
}

/// Failed handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DtlsFailure {
    /// `FingerprintMismatch`, `DtlsTimeout` or `DtlsFailed`.
    pub reason: CloseReason,
    /// What happened, for the log and the session's record: who sent which alert, and why.
    pub cause: Arc<str>,
}

/// Maker of associations. [`DtlsCertificate`] is the shipped one; the simulator has one whose
/// associations have preset keys.
pub trait DtlsBackend: Send + Sync {
    /// Makes the association of one session. `fingerprints` are the offer's; one match suffices
    /// (whip-whep C4). Nothing is sent and no timer runs before [`Dtls::start`] or the first datagram.
    fn associate(&self, role: DtlsRole, fingerprints: Vec<Fingerprint>) -> Box<dyn Dtls>;
}

#[cfg(test)]
mod tests;
