//! Handshake under way: how far it is, when it ends, and what the peer has sent of it.
//!
//! Owns the times of a handshake, the collector of the peer's messages, and what of it is ready for
//! `rtc-dtls`. Never decides whose messages they are, and never calls `rtc-dtls`: that is `rtc.rs`, which
//! calls this. Next: `client_hello.rs`, `flight.rs`.

use std::time::{Duration, Instant};

use super::DtlsEvent;
use super::client_hello::{COOKIE_BYTES, ClientHelloGate};
use super::crypto::AssociationCrypto;
use super::flight::Flight;
use super::message::{MESSAGE_HEADER, Message, Messages, kind};
use super::record::{Record, content, records, write_record};
use crate::sdp::DtlsRole;

/// Time for a handshake from its first record; then it has failed (quality B1).
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// Time without progress after which a plaintext alert, or a flight that does not fit, ends the handshake.
/// Anybody could have sent it; the client's own next message comes sooner.
pub(super) const DOUBT_TIME: Duration = Duration::from_secs(5);

/// First wait before our flight is repeated; doubles with each repeat.
pub(super) const FLIGHT_INTERVAL: Duration = Duration::from_millis(150);

/// Repeats of one flight. `rtc-dtls` counts too, and ends the handshake after as many; the last one
/// leaves after 19 s.
pub(super) const FLIGHT_REPEATS: u32 = 7;

/// Repeats of one flight at full size; further ones are cut to small datagrams, because the path may not
/// carry large ones.
pub(super) const FULL_SIZE_REPEATS: u32 = 1;

/// Times that a handshake in which we are client begins again because the server asks for two cookies.
const RESTARTS_MAX: u8 = 3;

/// Repeats of our hello, one second in all, before that: the server may have taken the first cookie.
const REPEATS_BEFORE_RESTART: u32 = 2;

/// Bytes that the unfinished messages of one flight may claim together; the oldest are dropped for newer ones. With
/// what is kept beside them a handshake holds 64 KiB at most (quality B1). How much comes is not limited: who can
/// send in the client's name could use such a limit up, and a refused datagram costs less than it took to arrive.
pub(super) const FLIGHT_BYTES: usize = 16 * 1024;

/// State of a handshake under way.
pub(super) struct Handshake {
    /// When it has failed.
    pub(super) deadline: Instant,
    pub(super) inbound: Inbound,
    pub(super) crypto: AssociationCrypto,
    /// Number of the next plaintext record for `rtc-dtls`.
    record_number: u64,
    /// When our flight is sent again, if it is.
    pub(super) repeat: Option<Repeat>,
    pub(super) doubt: Option<Doubt>,
    /// As client: whether the server asked for another cookie, too.
    pub(super) other_cookie: bool,
    pub(super) restarts: u8,
}

/// Collector of the peer's plaintext messages.
pub(super) enum Inbound {
    /// Server, until the ClientHello with our cookie.
    Hello(ClientHelloGate),
    /// The peer's flights.
    Flight {
        flight: Flight,
        /// Server: the ClientHello with our cookie. Client: the last HelloVerifyRequest, if there was one.
        hello: Option<Message>,
        /// Messages that are the peer's and wait for the rest of the flight.
        accepted: Vec<Message>,
        /// Whether the peer's key exchange was accepted: from there on its encrypted records count.
        has_keys: bool,
    },
}

/// Repeats of our flight.
pub(super) struct Repeat {
    pub(super) sent: Instant,
    pub(super) wait: Duration,
    pub(super) left: u32,
}

/// Why the handshake ends if it makes no progress.
pub(super) struct Doubt {
    pub(super) since: Instant,
    pub(super) event: DtlsEvent,
    /// Alert for the peer.
    pub(super) alert: Option<u8>,
}

impl Handshake {
    pub(super) fn new(role: DtlsRole, now: Instant) -> Self {
        let mut cookie = [0; COOKIE_BYTES];
        aws_lc_rs::rand::fill(&mut cookie).expect("the operating system gives random bytes");
        let inbound = match role {
            DtlsRole::Server => Inbound::Hello(ClientHelloGate::new(cookie)),
            DtlsRole::Client => Inbound::flight(role, Messages::new(FLIGHT_BYTES), None),
        };
        Self {
            deadline: now + HANDSHAKE_TIME,
            inbound,
            crypto: AssociationCrypto::new(cookie),
            record_number: 0,
            repeat: None,
            doubt: None,
            other_cookie: false,
            restarts: 0,
        }
    }

    /// Appends a plaintext record with the next number: reassembly has made the peer's obsolete.
    pub(super) fn write_record(&mut self, out: &mut Vec<u8>, content_type: u8, body: &[u8]) {
        write_record(out, content_type, self.record_number, body);
        self.record_number += 1;
    }

    /// Whether a server asks us for another cookie than it did before: one of the two requests was forged.
    pub(super) fn asks_for_another_cookie(&self, datagram: &[u8]) -> bool {
        let Inbound::Flight { hello: Some(before), has_keys: false, .. } = &self.inbound else {
            return false;
        };
        before.kind == kind::HELLO_VERIFY_REQUEST
            && records(datagram).filter(Record::is_plain_handshake).any(|record| {
                let cookie = record.body.get(MESSAGE_HEADER..).unwrap_or_default();
                record.body.first() == Some(&kind::HELLO_VERIFY_REQUEST)
                    && is_hello_verify(cookie)
                    && cookie != before.body
            })
    }

    /// Whether our hello was answered with two cookies, and with nothing else for some repeats.
    pub(super) fn must_start_over(&self) -> bool {
        let Inbound::Flight { has_keys: false, .. } = &self.inbound else { return false };
        let repeats = self.repeat.as_ref().map_or(0, |repeat| FLIGHT_REPEATS - repeat.left);
        self.other_cookie && self.restarts < RESTARTS_MAX && repeats >= REPEATS_BEFORE_RESTART
    }

    /// When our flight is due again, or the handshake has failed.
    pub(super) fn next_timeout(&self) -> Instant {
        let repeat = self.repeat.as_ref().map(Repeat::at);
        let doubt = self.doubt.as_ref().map(Doubt::ends);
        [repeat, doubt].into_iter().flatten().fold(self.deadline, Instant::min)
    }

    /// What `rtc-dtls` gets of the peer's now: messages that are the peer's, and encrypted records.
    pub(super) fn take_ready(&mut self, role: DtlsRole) -> Option<Vec<u8>> {
        let Inbound::Flight { flight, accepted, has_keys, .. } = &mut self.inbound else {
            return None;
        };
        let has_end = *has_keys && flight.has_sealed();
        // A client's flight goes to `rtc-dtls` with its encrypted end.
        if !has_end && (accepted.is_empty() || role == DtlsRole::Server) {
            return None;
        }
        let messages = std::mem::take(accepted);
        let sealed: Vec<_> = match has_end {
            true => std::iter::from_fn(|| flight.take_sealed()).collect(),
            false => Vec::new(),
        };
        let mut bytes = Vec::new();
        for message in &messages {
            self.write_record(&mut bytes, content::HANDSHAKE, &message.unfragmented());
        }
        if !sealed.is_empty() {
            self.write_record(&mut bytes, content::CHANGE_CIPHER_SPEC, &[1]);
            bytes.extend(sealed.into_iter().flatten());
        }
        Some(bytes)
    }
}

impl Inbound {
    pub(super) fn flight(role: DtlsRole, messages: Messages, hello: Option<Message>) -> Self {
        let flight = Flight::new(role, messages);
        Self::Flight { flight, hello, accepted: Vec::new(), has_keys: false }
    }
}

impl Repeat {
    pub(super) fn at(&self) -> Instant {
        self.sent + self.wait
    }
}

impl Doubt {
    pub(super) fn ends(&self) -> Instant {
        self.since + DOUBT_TIME
    }
}

/// Whether this is the body of a HelloVerifyRequest: version 1.2 or 1.0, and a cookie (RFC 6347 section 4.2.1).
pub(super) fn is_hello_verify(body: &[u8]) -> bool {
    matches!(body, [0xfe, 0xfd | 0xff, len, cookie @ ..] if cookie.len() == usize::from(*len))
}
