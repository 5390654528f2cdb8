//! ClientHello, read before the DTLS backend does.
//!
//! Owns one question: which SRTP profiles the client offers, so that our order of preference decides
//! (whip-whep C56) and not the client's. The hello may come in fragments, reordered, repeated
//! (Chromium and Firefox need two datagrams: whip-whep C52). One hello is in progress at a time, of
//! [`CLIENT_HELLO_MAX`] bytes and for [`CLIENT_HELLO_TIME`] at most. Never negotiates anything
//! itself. Called by `dtls/rtc.rs`. Next: `flight.rs`.

use std::time::{Duration, Instant};

use super::flight::{Messages, Record, content, records};
use super::srtp::SrtpProfile;

/// Bytes of the longest ClientHello; a longer one is refused.
pub const CLIENT_HELLO_MAX: usize = 4_096;

/// Time after which the fragments of an unfinished ClientHello are forgotten; the client repeats it.
pub const CLIENT_HELLO_TIME: Duration = Duration::from_secs(10);

const CLIENT_HELLO: u8 = 1;
const EXTENSION_USE_SRTP: u16 = 14;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;

/// Reassembly of the ClientHellos: the first one, and the one with the cookie.
#[derive(Debug)]
pub struct ClientHelloGate {
    messages: Messages,
    since: Option<Instant>,
}

/// Result of one datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloVerdict {
    /// Part of a ClientHello; the rest is missing.
    Incomplete,
    /// A whole ClientHello.
    Complete(ClientHello),
    /// ClientHello, or part of one, that was complete before: the client has not seen our answer.
    Repeated,
    /// No plaintext handshake record, or another message.
    NotClientHello,
    /// ClientHello that is longer than [`CLIENT_HELLO_MAX`] or does not parse.
    Refused,
}

/// ClientHello, as far as we read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// Our profiles among those offered, in our order of preference.
    pub profiles: Vec<SrtpProfile>,
    /// Message as one unfragmented handshake record body.
    pub message: Vec<u8>,
}

impl Default for ClientHelloGate {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientHelloGate {
    /// Gate that waits for the first ClientHello.
    pub fn new() -> Self {
        Self { messages: Messages::new(CLIENT_HELLO_MAX), since: None }
    }

    /// Takes one datagram.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> HelloVerdict {
        if self.since.is_some_and(|at| now.saturating_duration_since(at) >= CLIENT_HELLO_TIME) {
            self.messages.clear();
            self.since = None;
        }
        let is_plain =
            |record: &Record<'_>| record.content_type == content::HANDSHAKE && record.epoch == 0;
        let (mut any, mut repeated) = (false, false);
        for record in records(datagram).filter(is_plain) {
            any = true;
            match self.messages.add(record.body) {
                Ok(again) => repeated |= again,
                Err(_) => return HelloVerdict::Refused,
            }
        }
        if let Some(message) = self.messages.pop() {
            self.since = None;
            if message.kind != CLIENT_HELLO {
                self.messages.reject(&message);
                return HelloVerdict::NotClientHello;
            }
            let Some(profiles) = read_profiles(&message.body) else {
                self.messages.reject(&message);
                return HelloVerdict::Refused;
            };
            let message = message.unfragmented();
            return HelloVerdict::Complete(ClientHello { profiles, message });
        }
        if repeated {
            return HelloVerdict::Repeated;
        }
        if !any {
            return HelloVerdict::NotClientHello;
        }
        if !self.messages.is_empty() {
            self.since.get_or_insert(now);
        }
        HelloVerdict::Incomplete
    }

    /// Reassembly for what follows the hellos: the key exchange continues their numbering.
    pub(super) fn into_messages(self, limit: usize) -> Messages {
        self.messages.with_limit(limit)
    }
}

/// Our profiles on offer, best first. `None` if the hello is malformed.
fn read_profiles(body: &[u8]) -> Option<Vec<SrtpProfile>> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?; // version, random
    hello.vector8()?; // session id
    hello.vector8()?; // cookie
    hello.vector16()?; // cipher suites
    hello.vector8()?; // compression methods
    let mut profiles = Vec::new();
    if hello.0.is_empty() {
        return Some(profiles);
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
    Some(profiles)
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
    use super::super::flight::{fragments_of, write_record};
    use super::*;

    /// ClientHello with a filler extension: ML-KEM key shares make real ones as long.
    fn hello(sequence: u16, profiles: &[u16], filler: usize) -> Vec<u8> {
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
        body.extend_from_slice(&[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]);
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(&extensions);

        let len = (body.len() as u32).to_be_bytes();
        let mut message = vec![1, len[1], len[2], len[3]];
        message.extend_from_slice(&sequence.to_be_bytes());
        message.extend_from_slice(&[0, 0, 0, len[1], len[2], len[3]]);
        message.extend_from_slice(&body);
        let mut datagram = Vec::new();
        write_record(&mut datagram, content::HANDSHAKE, 0, &message);
        datagram
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
            let read = complete(ClientHelloGate::new().handle(start(), &hello(0, offered, 0)));
            assert_eq!(read.profiles, expected);
        }
    }

    // whip-whep C52
    #[test]
    fn client_hello_in_reordered_and_repeated_fragments_is_read() {
        let whole = hello(0, &[7], 1_400);
        let fragments = fragments_of(&whole, 300);
        assert!(fragments.len() >= 5);
        let mut gate = ClientHelloGate::new();
        for fragment in fragments.iter().skip(1).rev() {
            assert_eq!(gate.handle(start(), fragment), HelloVerdict::Incomplete);
            assert_eq!(gate.handle(start(), fragment), HelloVerdict::Incomplete);
        }
        let read = complete(gate.handle(start(), &fragments[0]));
        assert_eq!(read.profiles, [SrtpProfile::AeadAes128Gcm]);
        assert_eq!(read.message, whole[13..]);
        assert_eq!(gate.handle(start(), &fragments[2]), HelloVerdict::Repeated);
        let second = complete(gate.handle(start(), &hello(1, &[8], 0)));
        assert_eq!(second.profiles, [SrtpProfile::AeadAes256Gcm]);
    }

    // architecture D1: 4 KiB reassembled, 10 s
    #[test]
    fn client_hello_over_its_limit_of_bytes_or_time_is_refused() {
        let now = start();
        let overhead = hello(0, &[7], 0).len() - 13 - 12;
        let longest = CLIENT_HELLO_MAX - overhead;
        complete(ClientHelloGate::new().handle(now, &hello(0, &[7], longest)));
        let refused = ClientHelloGate::new().handle(now, &hello(0, &[7], longest + 1));
        assert_eq!(refused, HelloVerdict::Refused);

        for (wait, expected_complete) in
            [(CLIENT_HELLO_TIME - Duration::from_millis(1), true), (CLIENT_HELLO_TIME, false)]
        {
            let fragments = fragments_of(&hello(0, &[7], 500), 400);
            let mut gate = ClientHelloGate::new();
            assert_eq!(gate.handle(now, &fragments[0]), HelloVerdict::Incomplete);
            let verdict = gate.handle(now + wait, &fragments[1]);
            assert_eq!(matches!(verdict, HelloVerdict::Complete(_)), expected_complete);
        }
    }

    // quality B4 item 8
    #[test]
    fn client_hello_cut_at_any_byte_is_refused_without_a_panic() {
        let whole = hello(0, &[7, 1], 10);
        let body = &whole[25..];
        for len in 0..body.len() {
            // Only a hello without any extension is whole although it is shorter.
            assert_eq!(read_profiles(&body[..len]).is_some(), len == 42, "{len}");
        }
        for len in 0..=64 {
            for fill in [0, 22, 0xfe, 0xff] {
                let verdict = ClientHelloGate::new().handle(start(), &vec![fill; len]);
                assert_eq!(verdict, HelloVerdict::NotClientHello);
            }
            let verdict = ClientHelloGate::new().handle(start(), &whole[..len]);
            assert_eq!(verdict, HelloVerdict::NotClientHello);
        }
    }
}
