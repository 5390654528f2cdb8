//! ClientHello, read before the DTLS backend does.
//!
//! Owns two questions: whether the hello carries our cookie, and which SRTP profiles it offers, so that our
//! order of preference decides (whip-whep C56) and not the client's. The hello may come in fragments,
//! reordered, repeated (Chromium and Firefox need two datagrams: whip-whep C52). A hello without our cookie may
//! be anybody's, so nothing in it counts: it is answered, and forgotten. Never negotiates anything itself.
//! Called by `rtc.rs`. Next: `message.rs`.

use std::time::{Duration, Instant};

use super::message::{Message, Messages, kind};
use super::record::{Record, records};
use crate::transport::srtp::SrtpProfile;

/// Bytes of the longest ClientHello; a longer one is refused.
pub(super) const CLIENT_HELLO_MAX: usize = 4_096;

/// Time after which the fragments of an unfinished ClientHello are forgotten; the client repeats it.
pub(super) const CLIENT_HELLO_TIME: Duration = Duration::from_secs(10);

/// Bytes of our cookie, which are random: who sends them back got our answer. As many as `rtc-dtls` has.
pub(super) const COOKIE_BYTES: usize = 20;

/// Unguessable bytes that the second ClientHello must carry (RFC 6347 section 4.2.1).
pub(super) type Cookie = [u8; COOKIE_BYTES];

const EXTENSION_USE_SRTP: u16 = 14;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;

/// Reassembly of the ClientHellos: the first one, and the one with the cookie.
#[derive(Debug)]
pub(super) struct ClientHelloGate {
    messages: Messages,
    cookie: Cookie,
    since: Option<Instant>,
}

/// Result of one datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HelloVerdict {
    /// Part of a ClientHello; the rest is missing.
    Incomplete,
    /// A ClientHello to be answered with our cookie: the first one, or a repeat of it.
    AskForCookie,
    /// The ClientHello with our cookie: its sender gets what we send.
    Complete(ClientHello),
    /// No plaintext handshake record, or a message that cannot be used.
    Refused,
    /// A message longer than [`CLIENT_HELLO_MAX`].
    TooLong,
}

/// ClientHello with our cookie, as far as we read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientHello {
    /// Our profiles among those offered, in our order of preference.
    pub(super) profiles: Vec<SrtpProfile>,
    pub(super) message: Message,
    /// The hello that the client sent before, as it must have been: the same without the cookie.
    pub(super) first: Message,
}

impl ClientHelloGate {
    /// Gate that waits for the first ClientHello.
    pub(super) fn new(cookie: Cookie) -> Self {
        Self { messages: Messages::new(CLIENT_HELLO_MAX), cookie, since: None }
    }

    /// Takes one datagram.
    pub(super) fn handle(&mut self, now: Instant, datagram: &[u8]) -> HelloVerdict {
        if self.since.is_some_and(|at| now.saturating_duration_since(at) >= CLIENT_HELLO_TIME) {
            self.messages.clear();
            self.since = None;
        }
        let (mut any, mut repeated) = (false, false);
        for record in records(datagram).filter(Record::is_plain_handshake) {
            any = true;
            match self.messages.add(record.body) {
                Ok(again) => repeated |= again,
                Err(_) => return HelloVerdict::TooLong,
            }
        }
        if let Some(message) = self.messages.pop() {
            self.since = None;
            return self.judge(message);
        }
        if repeated {
            return HelloVerdict::AskForCookie;
        }
        if !any {
            return HelloVerdict::Refused;
        }
        self.since.get_or_insert(now);
        HelloVerdict::Incomplete
    }

    fn judge(&mut self, message: Message) -> HelloVerdict {
        let is_first = message.sequence == 0;
        let hello = Some(&message)
            .filter(|message| message.kind == kind::CLIENT_HELLO)
            .and_then(|message| Hello::read(&message.body));
        match hello {
            Some(_) if is_first => HelloVerdict::AskForCookie,
            Some(hello) if hello.cookie == self.cookie => {
                let first = Message { kind: message.kind, sequence: 0, body: hello.first };
                HelloVerdict::Complete(ClientHello { profiles: hello.profiles, message, first })
            }
            _ => {
                self.messages.go_back(message.sequence);
                HelloVerdict::Refused
            }
        }
    }

    /// HelloVerifyRequest that asks for the cookie (RFC 6347 section 4.2.1).
    pub(super) fn request(&self) -> Message {
        let body = [&[0xfe, 0xfd, COOKIE_BYTES as u8], &self.cookie[..]].concat();
        Message { kind: kind::HELLO_VERIFY_REQUEST, sequence: 0, body }
    }

    /// Reassembly for what follows the hellos: the key exchange continues their numbering.
    pub(super) fn following(&self, limit: usize) -> Messages {
        Messages::starting_at(self.messages.next_sequence(), limit)
    }
}

/// Body of a ClientHello (RFC 6347 section 4.2.1).
struct Hello<'a> {
    cookie: &'a [u8],
    /// Our profiles on offer, best first.
    profiles: Vec<SrtpProfile>,
    /// The same body without the cookie.
    first: Vec<u8>,
}

impl<'a> Hello<'a> {
    /// `None` if it is malformed.
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut hello = Reader(body);
        hello.take(2 + 32)?; // version, random
        hello.vector8()?; // session id
        let before_cookie = body.len() - hello.0.len();
        let cookie = hello.vector8()?;
        let first = [body.get(..before_cookie)?, &[0], hello.0].concat();
        hello.vector16()?; // cipher suites
        hello.vector8()?; // compression methods
        let mut profiles = Vec::new();
        if hello.0.is_empty() {
            return Some(Self { cookie, profiles, first });
        }
        let mut extensions = Reader(hello.vector16()?);
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let mut value = Reader(extensions.vector16()?);
            match kind {
                EXTENSION_USE_SRTP => {
                    let ids = value.vector16()?;
                    profiles = SrtpProfile::PREFERENCE.to_vec();
                    profiles.retain(|profile| has_u16(ids, profile.id()));
                }
                // The list of versions is not used; a malformed one is refused here.
                EXTENSION_SUPPORTED_VERSIONS => {
                    value.vector8()?;
                }
                _ => {}
            }
        }
        Some(Self { cookie, profiles, first })
    }
}

fn has_u16(list: &[u8], wanted: u16) -> bool {
    list.chunks_exact(2).any(|pair| pair == wanted.to_be_bytes())
}

/// Rest of the bytes that are read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    /// Byte string behind its 8-bit length.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(*self.take(1)?.first()?);
        self.take(len)
    }

    /// Byte string behind its 16-bit length.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::fragments_of;
    use super::super::record::{content, write_record};
    use super::*;

    const COOKIE: Cookie = [0xc0; COOKIE_BYTES];

    /// ClientHello with a filler extension: ML-KEM key shares make real ones as long.
    fn hello(sequence: u16, cookie: &[u8], profiles: &[u16], filler: usize) -> Vec<u8> {
        let mut extensions = vec![0xff, 0xaa];
        extensions.extend_from_slice(&(filler as u16).to_be_bytes());
        extensions.extend(std::iter::repeat_n(7, filler));
        extensions.extend_from_slice(&[0, 43, 0, 5, 4, 0xfe, 0xfc, 0xfe, 0xfd]);
        let list = 2 * profiles.len() as u16;
        extensions.extend_from_slice(&[0, 14]);
        extensions.extend_from_slice(&(list + 3).to_be_bytes());
        extensions.extend_from_slice(&list.to_be_bytes());
        extensions.extend(profiles.iter().flat_map(|id| id.to_be_bytes()));
        extensions.push(0);

        let mut body = vec![0xfe, 0xfd];
        body.extend_from_slice(&[9; 32]);
        body.extend_from_slice(&[0, cookie.len() as u8]);
        body.extend_from_slice(cookie);
        body.extend_from_slice(&[0, 2, 0xc0, 0x2b, 1, 0]);
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(&extensions);

        let message = Message { kind: kind::CLIENT_HELLO, sequence, body };
        let mut datagram = Vec::new();
        write_record(&mut datagram, content::HANDSHAKE, 0, &message.unfragmented());
        datagram
    }

    fn first() -> Vec<u8> {
        hello(0, &[], &[7], 0)
    }

    /// Gate that has asked for the cookie.
    fn asked() -> ClientHelloGate {
        let mut gate = ClientHelloGate::new(COOKIE);
        assert_eq!(gate.handle(start(), &first()), HelloVerdict::AskForCookie);
        gate
    }

    fn start() -> Instant {
        Instant::now()
    }

    fn complete(verdict: HelloVerdict) -> ClientHello {
        match verdict {
            HelloVerdict::Complete(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    // whip-whep C56
    #[test]
    fn profiles_come_in_our_order_of_preference() {
        use SrtpProfile::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmHmacSha1_80};
        let cases: [(&[u16], &[SrtpProfile]); 5] = [
            (&[1, 8, 7], &[AeadAes128Gcm, AeadAes256Gcm, Aes128CmHmacSha1_80]),
            (&[1, 2, 8], &[AeadAes256Gcm, Aes128CmHmacSha1_80]),
            (&[1], &[Aes128CmHmacSha1_80]),
            (&[2, 5], &[]),
            (&[], &[]),
        ];
        for (offered, expected) in cases {
            let read = complete(asked().handle(start(), &hello(1, &COOKIE, offered, 0)));
            assert_eq!(read.profiles, expected);
        }
    }

    // Who knows the client's address may send hellos, but does not see the cookie.
    #[test]
    fn only_the_hello_with_our_cookie_counts() {
        let mut gate = asked();
        for cookie in [&[][..], &[0xc1; COOKIE_BYTES], &COOKIE[1..], &[0xc0; COOKIE_BYTES + 1]] {
            let forged = hello(1, cookie, &[1], 30);
            assert_eq!(gate.handle(start(), &forged), HelloVerdict::Refused);
        }
        assert_eq!(gate.handle(start(), &hello(0, &[], &[1], 5)), HelloVerdict::AskForCookie);
        let read = complete(gate.handle(start(), &hello(1, &COOKIE, &[7], 0)));
        assert_eq!(read.profiles, [SrtpProfile::AeadAes128Gcm]);
        assert_eq!(read.message.unfragmented(), hello(1, &COOKIE, &[7], 0)[13..]);
        assert_eq!(read.first.unfragmented(), first()[13..]);
        assert_eq!(gate.following(100).next_sequence(), 2);
    }

    // whip-whep C52
    #[test]
    fn client_hello_in_reordered_and_repeated_fragments_is_read() {
        let fragments = fragments_of(&hello(0, &[], &[7], 1_400), 300);
        assert!(fragments.len() >= 5);
        let mut gate = ClientHelloGate::new(COOKIE);
        for fragment in fragments.iter().skip(1).rev() {
            assert_eq!(gate.handle(start(), fragment), HelloVerdict::Incomplete);
            assert_eq!(gate.handle(start(), fragment), HelloVerdict::Incomplete);
        }
        assert_eq!(gate.handle(start(), &fragments[0]), HelloVerdict::AskForCookie);
        assert_eq!(gate.handle(start(), &fragments[2]), HelloVerdict::AskForCookie, "a repeat");
        let whole = hello(1, &COOKIE, &[7], 1_400);
        let mut fragments = fragments_of(&whole, 300);
        let last = fragments.remove(0);
        for fragment in &fragments {
            assert_eq!(gate.handle(start(), fragment), HelloVerdict::Incomplete);
        }
        assert_eq!(complete(gate.handle(start(), &last)).message.unfragmented(), whole[13..]);
    }

    // architecture D1: 4 KiB reassembled, 10 s
    #[test]
    fn client_hello_over_its_limit_of_bytes_or_time_is_refused() {
        let now = start();
        let overhead = hello(1, &COOKIE, &[7], 0).len() - 13 - 12;
        let longest = CLIENT_HELLO_MAX - overhead;
        complete(asked().handle(now, &hello(1, &COOKIE, &[7], longest)));
        let refused = asked().handle(now, &hello(1, &COOKIE, &[7], longest + 1));
        assert_eq!(refused, HelloVerdict::TooLong);

        for (wait, expected) in [
            (CLIENT_HELLO_TIME - Duration::from_millis(1), HelloVerdict::AskForCookie),
            (CLIENT_HELLO_TIME, HelloVerdict::Incomplete),
        ] {
            let fragments = fragments_of(&hello(0, &[], &[7], 500), 400);
            let mut gate = ClientHelloGate::new(COOKIE);
            assert_eq!(gate.handle(now, &fragments[0]), HelloVerdict::Incomplete);
            assert_eq!(gate.handle(now + wait, &fragments[1]), expected);
        }
    }

    // quality B4 item 8
    #[test]
    fn client_hello_cut_at_any_byte_is_refused_without_a_panic() {
        let whole = hello(1, &COOKIE, &[7, 1], 10);
        let body = &whole[25..];
        for len in 0..body.len() {
            // Only a hello without any extension is whole although it is shorter.
            assert_eq!(Hello::read(&body[..len]).is_some(), len == 42 + COOKIE_BYTES, "{len}");
        }
        for len in 0..=64 {
            for fill in [0, 22, 0xfe, 0xff] {
                let verdict = ClientHelloGate::new(COOKIE).handle(start(), &vec![fill; len]);
                assert_eq!(verdict, HelloVerdict::Refused);
            }
            assert_eq!(asked().handle(start(), &whole[..len]), HelloVerdict::Refused);
        }
    }
}
