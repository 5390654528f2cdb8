//! Reads a ClientHello before the DTLS backend does.
//!
//! Owns one question: which SRTP profiles the client offers, so that we choose (whip-whep C56) and
//! not the client's order. The hello may come in fragments, reordered, repeated (Chromium and
//! Firefox need two datagrams: whip-whep C52). Bounded: [`CLIENT_HELLO_MAX`] bytes, one in
//! progress, [`CLIENT_HELLO_TIME`]. Never negotiates anything itself. Called by `dtls.rs`.

use std::time::{Duration, Instant};

use super::flight::{Messages, Record, content, records};
use super::srtp::SrtpProfile;

/// Longest ClientHello; a longer one is refused.
pub const CLIENT_HELLO_MAX: usize = 4_096;

/// Fragments of an unfinished ClientHello are forgotten after this time; the client repeats it.
pub const CLIENT_HELLO_TIME: Duration = Duration::from_secs(10);

const CLIENT_HELLO: u8 = 1;
const EXTENSION_USE_SRTP: u16 = 14;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const DTLS_1_3: u16 = 0xfefc;

/// Puts the fragments of ClientHellos together: the first one, and the one with the cookie.
#[derive(Debug)]
pub struct ClientHelloGate {
    messages: Messages,
    since: Option<Instant>,
}

/// What a datagram brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloVerdict {
    /// Part of a ClientHello; wait for the rest.
    Incomplete,
    /// A whole ClientHello.
    Complete(ClientHello),
    /// (Part of) a ClientHello that was complete before: the client has not seen our answer.
    Repeated,
    /// No plaintext handshake record, or another message.
    NotClientHello,
    /// Longer than [`CLIENT_HELLO_MAX`], or it does not parse.
    Refused,
}

/// What we read of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// Our profiles among those offered, in our order of preference.
    pub profiles: Vec<SrtpProfile>,
    /// DTLS 1.3 is among `supported_versions`.
    pub offers_dtls13: bool,
    /// The message as one unfragmented handshake record body.
    pub message: Vec<u8>,
}

impl Default for ClientHelloGate {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientHelloGate {
    /// Waits for the first ClientHello.
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
            let Some((profiles, offers_dtls13)) = read(&message.body) else {
                self.messages.reject(&message);
                return HelloVerdict::Refused;
            };
            let message = message.unfragmented();
            return HelloVerdict::Complete(ClientHello { profiles, offers_dtls13, message });
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

    /// Hands reassembly over when the hellos are done: the key exchange continues the numbering.
    pub(super) fn into_messages(self, limit: usize) -> Messages {
        self.messages.with_limit(limit)
    }
}

/// Our profiles on offer, best first, and whether DTLS 1.3 is offered. `None` if it is malformed.
fn read(body: &[u8]) -> Option<(Vec<SrtpProfile>, bool)> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?; // version, random
    hello.vector8()?; // session id
    hello.vector8()?; // cookie
    hello.vector16()?; // cipher suites
    hello.vector8()?; // compression methods
    let mut profiles = Vec::new();
    let mut offers_dtls13 = false;
    if hello.0.is_empty() {
        return Some((profiles, offers_dtls13));
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
            EXTENSION_SUPPORTED_VERSIONS => offers_dtls13 = has_u16(value.vector8()?, DTLS_1_3),
            _ => {}
        }
    }
    Some((profiles, offers_dtls13))
}

fn has_u16(list: &[u8], wanted: u16) -> bool {
    list.chunks_exact(2).any(|pair| pair == wanted.to_be_bytes())
}

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

    /// A byte string behind its 8-bit length.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(*self.take(1)?.first()?);
        self.take(len)
    }

    /// A byte string behind its 16-bit length.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::flight::{shatter, write_record};
    use super::*;

    /// A ClientHello with a filler extension, as ML-KEM key shares make it long.
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
    fn our_order_of_profiles_counts_not_the_clients() {
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
            assert!(read.offers_dtls13);
        }
    }

    // whip-whep C52
    #[test]
    fn fragments_may_come_reordered_and_repeated() {
        let whole = hello(0, &[7], 1_400);
        let fragments = shatter(&whole, 300);
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
    fn the_limits_of_size_and_time() {
        let now = start();
        let overhead = hello(0, &[7], 0).len() - 13 - 12;
        let longest = CLIENT_HELLO_MAX - overhead;
        complete(ClientHelloGate::new().handle(now, &hello(0, &[7], longest)));
        let refused = ClientHelloGate::new().handle(now, &hello(0, &[7], longest + 1));
        assert_eq!(refused, HelloVerdict::Refused);

        for (wait, expected_complete) in
            [(CLIENT_HELLO_TIME - Duration::from_millis(1), true), (CLIENT_HELLO_TIME, false)]
        {
            let fragments = shatter(&hello(0, &[7], 500), 400);
            let mut gate = ClientHelloGate::new();
            assert_eq!(gate.handle(now, &fragments[0]), HelloVerdict::Incomplete);
            let verdict = gate.handle(now + wait, &fragments[1]);
            assert_eq!(matches!(verdict, HelloVerdict::Complete(_)), expected_complete);
        }
    }

    // quality B4 item 8
    #[test]
    fn every_cut_and_every_short_length_is_survived() {
        let whole = hello(0, &[7, 1], 10);
        let body = &whole[25..];
        for len in 0..body.len() {
            // Only a hello without any extension is whole although it is shorter.
            assert_eq!(read(&body[..len]).is_some(), len == 42, "{len}");
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
