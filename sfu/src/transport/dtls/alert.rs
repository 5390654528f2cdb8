//! Alerts (RFC 5246 section 7.2): their names, and those in plaintext.
//!
//! Owns what an alert says to an operator. A plaintext alert may be anybody's: `rtc.rs`, which calls this,
//! decides what follows from it.

use super::record::{Record, content, records};

pub(super) const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
pub(super) const BAD_CERTIFICATE: u8 = 42;
pub(super) const DECRYPT_ERROR: u8 = 51;

/// Plaintext alert that would end a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndingAlert {
    /// The sender closes.
    Close,
    /// The sender cannot go on.
    Fatal(u8),
}

/// First plaintext alert in a datagram that would end a handshake.
pub(super) fn ending(datagram: &[u8]) -> Option<EndingAlert> {
    records(datagram).find_map(|record| match record {
        Record { content_type: content::ALERT, epoch: 0, body: [_, CLOSE_NOTIFY], .. } => {
            Some(EndingAlert::Close)
        }
        Record { content_type: content::ALERT, epoch: 0, body: [FATAL, code], .. } => {
            Some(EndingAlert::Fatal(*code))
        }
        _ => None,
    })
}

/// Name and number of an alert (RFC 5246 section 7.2), with what it mostly means here.
pub(super) fn name(code: u8) -> String {
    let (name, meaning) = match code {
        CLOSE_NOTIFY => ("close_notify", ""),
        10 => ("unexpected_message", ""),
        20 => ("bad_record_mac", ""),
        22 => ("record_overflow", ""),
        40 => ("handshake_failure", "no cipher suite, curve or SRTP profile in common"),
        BAD_CERTIFICATE => ("bad_certificate", "the certificate is broken or not that of the SDP"),
        43 => ("unsupported_certificate", "its key or curve is not supported; use P-256"),
        44 => ("certificate_revoked", ""),
        45 => ("certificate_expired", ""),
        46 => ("certificate_unknown", "the certificate is not that of the SDP"),
        47 => ("illegal_parameter", "a curve or another value is not supported; use P-256"),
        48 => ("unknown_ca", "the client wants a certificate of an authority"),
        49 => ("access_denied", ""),
        50 => ("decode_error", "a message could not be read, often a certificate of another curve"),
        DECRYPT_ERROR => ("decrypt_error", "a signature or the end of the handshake does not fit"),
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
