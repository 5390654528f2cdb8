//! DTLS behind a small trait: keys out, records in and out.
//!
//! Owns the interface: association, events, and the backend that makes associations. Never sees RTP,
//! addresses or ICE; the caller lets only records from validated pairs in (quality B1). Called by
//! `transport/peer`. Next: `rtc.rs` (the association by `rtc-dtls`), `certificate.rs`.

use std::time::Instant;

use bytes::BytesMut;

mod certificate;
mod rtc;

pub use self::certificate::DtlsCertificate;

use super::srtp::{SrtpKeys, SrtpProfile};
use crate::error::{CloseReason, DropReason};
use crate::sdp::{DtlsRole, Fingerprint};

/// One DTLS association, free of I/O.
pub trait Dtls: Send {
    /// Client: sends the ClientHello, once. Server: nothing.
    fn start(&mut self, now: Instant);

    /// Takes one datagram of DTLS records.
    ///
    /// # Errors
    /// Why nothing came of it: [`DropReason::DtlsMalformed`] or [`DropReason::DtlsLimit`]. Never a
    /// reason to close: that is an event.
    fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason>;

    /// The next datagram to send. Call until `None` after every other call.
    fn poll_transmit(&mut self) -> Option<BytesMut>;

    /// The next event. Call until `None` after every other call.
    fn poll_event(&mut self) -> Option<DtlsEvent>;

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    fn next_timeout(&self) -> Option<Instant>;

    /// Repeats our flight, or ends a handshake that took too long.
    fn handle_timeout(&mut self, now: Instant);

    /// Queues a close_notify and ends the association.
    fn close(&mut self, now: Instant);
}

/// What an association tells its session. After `Failed` or `PeerClosed` nothing follows.
#[derive(Debug)]
pub enum DtlsEvent {
    /// The handshake is done and the peer's certificate is the one it promised.
    Connected {
        /// The negotiated profile.
        profile: SrtpProfile,
        /// Its keys.
        keys: SrtpKeys,
    },
    /// `FingerprintMismatch`, `DtlsTimeout` or `DtlsFailed`.
    Failed(CloseReason),
    /// The peer sent close_notify, or a fatal alert after the handshake.
    PeerClosed,
}

/// Makes the association of one session. [`DtlsCertificate`] is the real one; a simulation puts
/// associations with preset keys here.
pub trait DtlsBackend: Send + Sync {
    /// `fingerprints` are the offer's; any one match suffices (whip-whep C4). Nothing is sent and no
    /// clock runs before [`Dtls::start`] or the first datagram.
    fn associate(&self, role: DtlsRole, fingerprints: Vec<Fingerprint>) -> Box<dyn Dtls>;
}

#[cfg(test)]
mod tests;
