//! Handshake flights of the peer after the hellos.
//!
//! Owns which messages make a flight, in which order. The DTLS backend sees a flight once, whole, and
//! only after `authenticity.rs` has found it to be the peer's; one that is not is forgotten, and the
//! peer's repeat is taken. Records with a Finished are handed on one by one: their seal shows whose they
//! are. Called by `rtc.rs`. Next: `message.rs`.

use std::collections::VecDeque;

use super::message::{Message, Messages, TooLarge, fragments, kind};
use super::record::records;
use crate::sdp::DtlsRole;

/// Encrypted records that are kept until the plaintext messages before them are there. At the limit the
/// oldest is dropped; the peer repeats its own.
pub(super) const SEALED_MAX: usize = 4;

/// Flight of the peer that is being collected.
#[derive(Debug)]
pub(super) struct Flight {
    role: DtlsRole,
    messages: Messages,
    /// `message_seq` of the first message of the flight.
    first: u16,
    /// Messages of the flight so far, in order.
    whole: Vec<Message>,
    sealed: VecDeque<Vec<u8>>,
}

/// What a flight is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlightKind {
    /// A server's HelloVerifyRequest.
    HelloVerify,
    /// A server's ServerHello to ServerHelloDone, or a client's Certificate to CertificateVerify.
    KeyExchange,
}

impl Flight {
    /// Flight for us in this role.
    pub(super) fn new(role: DtlsRole, messages: Messages) -> Self {
        let first = messages.next_sequence();
        Self { role, messages, first, whole: Vec::new(), sealed: VecDeque::new() }
    }

    /// Takes one datagram. Returns true when the peer repeats messages that we have.
    pub(super) fn handle(&mut self, datagram: &[u8]) -> Result<bool, TooLarge> {
        let mut repeated = false;
        for record in records(datagram) {
            if record.is_plain_handshake() {
                if self.contradicts(record.body) {
                    self.refuse();
                }
                repeated |= self.messages.add(record.body)?;
            } else if record.is_sealed_handshake() {
                if self.sealed.len() >= SEALED_MAX {
                    self.sealed.pop_front();
                }
                self.sealed.push_back(record.raw.to_vec());
            }
        }
        Ok(repeated)
    }

    /// The next flight, once it is whole; then tell by [`accept`](Self::accept) or
    /// [`refuse`](Self::refuse) whose it is.
    pub(super) fn collect(&mut self) -> Option<(FlightKind, &[Message])> {
        while let Some(message) = self.messages.pop() {
            let before = self.whole.last().map(|message| message.kind);
            let is_well_formed = match message.kind {
                // A server asks for the cookie in its first message, and once.
                kind::HELLO_VERIFY_REQUEST => message.sequence == 0,
                kind::SERVER_HELLO_DONE => message.body.is_empty(),
                _ => true,
            };
            if !is_well_formed || !follows(self.role, before, message.kind) {
                self.messages.go_back(message.sequence);
                continue;
            }
            let kind = message.kind;
            self.whole.push(message);
            match (self.role, kind) {
                (DtlsRole::Client, kind::HELLO_VERIFY_REQUEST) => {
                    return Some((FlightKind::HelloVerify, &self.whole));
                }
                (DtlsRole::Client, kind::SERVER_HELLO_DONE)
                | (DtlsRole::Server, kind::CERTIFICATE_VERIFY) => {
                    return Some((FlightKind::KeyExchange, &self.whole));
                }
                // Without a certificate there is no CertificateVerify.
                (DtlsRole::Server, kind::CLIENT_KEY_EXCHANGE) if !self.has_certificate() => {
                    return Some((FlightKind::KeyExchange, &self.whole));
                }
                _ => {}
            }
        }
        None
    }

    /// Whether a fragment here is of a message that was taken into the flight, but another one: one of the two
    /// is not the peer's.
    fn contradicts(&self, body: &[u8]) -> bool {
        fragments(body).any(|fragment| {
            let index = usize::from(fragment.sequence.wrapping_sub(self.first));
            self.whole.get(index).is_some_and(|message| !fragment.is_of(message))
        })
    }

    fn has_certificate(&self) -> bool {
        const EMPTY_LIST: usize = 3;
        let certificate = |message: &&Message| message.kind == kind::CERTIFICATE;
        let found = self.whole.iter().find(certificate);
        found.is_some_and(|message| message.body.len() > EMPTY_LIST)
    }

    /// The flight is the peer's; returns its messages.
    pub(super) fn accept(&mut self) -> Vec<Message> {
        self.messages.forget_taken();
        self.first = self.messages.next_sequence();
        std::mem::take(&mut self.whole)
    }

    /// The flight is not the peer's, or cannot be told to be: as if it never came.
    pub(super) fn refuse(&mut self) {
        self.messages.go_back(self.first);
        self.messages.clear();
        self.whole.clear();
    }

    /// Takes the oldest record with a Finished.
    pub(super) fn take_sealed(&mut self) -> Option<Vec<u8>> {
        self.sealed.pop_front()
    }

    /// Whether a record with a Finished waits.
    pub(super) fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }
}

/// Whether a message of this type may follow `before` in a flight to us (RFC 5246 section 7.3). So a flight
/// has five messages at most.
fn follows(role: DtlsRole, before: Option<u8>, next: u8) -> bool {
    match role {
        DtlsRole::Server => matches!(
            (before, next),
            (None, kind::CERTIFICATE | kind::CLIENT_KEY_EXCHANGE)
                | (Some(kind::CERTIFICATE), kind::CLIENT_KEY_EXCHANGE)
                | (Some(kind::CLIENT_KEY_EXCHANGE), kind::CERTIFICATE_VERIFY)
        ),
        DtlsRole::Client => matches!(
            (before, next),
            (None, kind::HELLO_VERIFY_REQUEST | kind::SERVER_HELLO)
                | (Some(kind::SERVER_HELLO), kind::CERTIFICATE)
                | (Some(kind::CERTIFICATE), kind::SERVER_KEY_EXCHANGE)
                | (Some(kind::SERVER_KEY_EXCHANGE), kind::CERTIFICATE_REQUEST)
                // FFmpeg does not ask for our certificate.
                | (
                    Some(kind::SERVER_KEY_EXCHANGE | kind::CERTIFICATE_REQUEST),
                    kind::SERVER_HELLO_DONE
                )
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{content, write_record};
    use super::*;

    fn datagram(sequence: u16, kind: u8, body: &[u8]) -> Vec<u8> {
        let message = Message { kind, sequence, body: body.to_vec() };
        let mut out = Vec::new();
        write_record(&mut out, content::HANDSHAKE, u64::from(sequence), &message.unfragmented());
        out
    }

    #[test]
    fn messages_out_of_place_are_no_part_of_a_flight() {
        let mut flight = Flight::new(DtlsRole::Server, Messages::new(1_000));
        for wrong in [0, kind::CLIENT_HELLO, kind::CERTIFICATE_VERIFY, kind::FINISHED, 255] {
            assert_eq!(flight.handle(&datagram(0, wrong, b"")), Ok(false));
            assert_eq!(flight.collect(), None);
        }
        assert_eq!(flight.handle(&datagram(0, kind::CERTIFICATE, b"certificate")), Ok(false));
        assert_eq!(flight.handle(&datagram(1, kind::CERTIFICATE, b"another")), Ok(false));
        assert_eq!(flight.handle(&datagram(2, kind::CERTIFICATE_VERIFY, b"")), Ok(false));
        assert_eq!(flight.collect(), None);
        assert_eq!(flight.handle(&datagram(1, kind::CLIENT_KEY_EXCHANGE, b"key")), Ok(false));
        let (found, messages) = flight.collect().unwrap();
        assert_eq!((found, messages.len()), (FlightKind::KeyExchange, 3));
        flight.refuse();
        assert_eq!(flight.collect(), None);
        assert_eq!(flight.messages.next_sequence(), 0);
    }

    #[test]
    fn message_that_was_taken_gives_way_to_another_with_its_number() {
        let mut flight = Flight::new(DtlsRole::Client, Messages::new(1_000));
        assert_eq!(flight.handle(&datagram(0, kind::SERVER_HELLO, b"forged")), Ok(false));
        assert_eq!(flight.collect(), None);
        assert_eq!(flight.handle(&datagram(0, kind::SERVER_HELLO, b"forged")), Ok(true));
        assert_eq!(flight.whole.len(), 1, "the same again is no other");
        assert_eq!(flight.handle(&datagram(0, kind::HELLO_VERIFY_REQUEST, b"")), Ok(false));
        assert_eq!(flight.collect().unwrap().0, FlightKind::HelloVerify);
    }

    // The oldest goes: a forged one does not keep the peer's out for long.
    #[test]
    fn encrypted_records_that_come_early_are_kept_up_to_a_limit() {
        let mut flight = Flight::new(DtlsRole::Server, Messages::new(1_000));
        for number in 0..=SEALED_MAX as u8 {
            let mut record = vec![22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 40];
            record.extend([number; 40]);
            assert_eq!(flight.handle(&record), Ok(false));
        }
        let kept = std::iter::from_fn(|| flight.take_sealed()).map(|record| record[13]);
        assert_eq!(kept.collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
