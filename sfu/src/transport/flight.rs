//! Handshake flights of the peer, put together from fragments (RFC 6347 section 4.2.3).
//!
//! Owns reassembly with hard limits: fragments may come in any order, overlap, repeat or give wrong
//! lengths. The DTLS backend then sees each message once, whole and in order, so hostile fragments
//! never reach it. Never reads a message beyond its type. Called by `client_hello.rs` and
//! `dtls/rtc.rs`.

use crate::sdp::DtlsRole;

/// Bytes of a DTLS record header.
const RECORD_HEADER: usize = 13;
/// Bytes of a handshake message header.
const MESSAGE_HEADER: usize = 12;

/// Messages beyond the next one that are kept when they arrive early. Later ones are dropped and come
/// again with the peer's next repeat.
const MAX_AHEAD: u16 = 8;

/// Record content types (RFC 6347 section 4.1).
pub(super) mod content {
    pub(in crate::transport) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(in crate::transport) const ALERT: u8 = 21;
    pub(in crate::transport) const HANDSHAKE: u8 = 22;
}

/// Record of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) content_type: u8,
    /// 0 is plaintext.
    pub(super) epoch: u16,
    /// Header and body.
    pub(super) raw: &'a [u8],
    pub(super) body: &'a [u8],
}

/// Records of a datagram, up to the first one that is cut short or not DTLS 1.0 to 1.2.
pub(super) fn records(mut datagram: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; RECORD_HEADER] = datagram.first_chunk()?;
        let &[content_type, 0xfe, _, epoch_high, epoch_low, .., len_high, len_low] = header else {
            return None;
        };
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let (raw, rest) = datagram.split_at_checked(RECORD_HEADER.checked_add(len)?)?;
        datagram = rest;
        let epoch = u16::from_be_bytes([epoch_high, epoch_low]);
        Some(Record { content_type, epoch, raw, body: raw.get(RECORD_HEADER..)? })
    })
}

/// Appends a plaintext record with this record number.
pub(super) fn write_record(out: &mut Vec<u8>, content_type: u8, number: u64, body: &[u8]) {
    out.extend_from_slice(&[content_type, 0xfe, 0xfd]);
    out.extend_from_slice(&(number & 0xffff_ffff_ffff).to_be_bytes());
    out.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(body);
}

/// Whole handshake message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Handshake type.
    pub(super) kind: u8,
    /// `message_seq`.
    pub(super) sequence: u16,
    /// Body without the header.
    pub(super) body: Vec<u8>,
}

impl Message {
    /// Message as one unfragmented handshake record body.
    pub(super) fn unfragmented(&self) -> Vec<u8> {
        let len = (self.body.len() as u32).to_be_bytes();
        let sequence = self.sequence.to_be_bytes();
        let [_, l0, l1, l2] = len;
        let [s0, s1] = sequence;
        let mut out = vec![self.kind, l0, l1, l2, s0, s1, 0, 0, 0, l0, l1, l2];
        out.extend_from_slice(&self.body);
        out
    }
}

/// Error: a record claims more bytes than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Collector of fragments, which gives messages in the order of their `message_seq`.
#[derive(Debug)]
pub(super) struct Messages {
    next: u16,
    partial: Vec<Partial>,
    /// Bytes that all unfinished messages may claim together.
    limit: usize,
}

/// Message of which bytes are missing.
#[derive(Debug)]
struct Partial {
    message: Message,
    have: Vec<bool>,
    missing: usize,
}

impl Messages {
    /// Collector that waits for message 0.
    pub(super) fn new(limit: usize) -> Self {
        Self { next: 0, partial: Vec::new(), limit }
    }

    /// Same collector with another limit.
    pub(super) fn with_limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Whether no message is unfinished.
    pub(super) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Forgets unfinished messages.
    pub(super) fn clear(&mut self) {
        self.partial.clear();
    }

    /// Adds the fragments in one handshake record's body. Returns true when one of them belongs to a
    /// message that was taken before: the peer repeats itself. Fragments that contradict themselves
    /// or earlier ones are skipped.
    pub(super) fn add(&mut self, mut body: &[u8]) -> Result<bool, TooLarge> {
        let mut repeated = false;
        while let Some((fragment, rest)) = Fragment::read(body) {
            body = rest;
            let ahead = fragment.sequence.wrapping_sub(self.next);
            if ahead > MAX_AHEAD {
                repeated |= ahead > u16::MAX / 2;
                continue;
            }
            self.add_fragment(&fragment)?;
        }
        Ok(repeated)
    }

    fn add_fragment(&mut self, fragment: &Fragment<'_>) -> Result<(), TooLarge> {
        let found = self.partial.iter().position(|p| p.message.sequence == fragment.sequence);
        let index = match found {
            Some(index) => index,
            None => {
                let held: usize = self.partial.iter().map(|p| p.have.len()).sum();
                if fragment.message_len > self.limit.saturating_sub(held) {
                    return Err(TooLarge);
                }
                self.partial.push(Partial {
                    message: Message {
                        kind: fragment.kind,
                        sequence: fragment.sequence,
                        body: vec![0; fragment.message_len],
                    },
                    have: vec![false; fragment.message_len],
                    missing: fragment.message_len,
                });
                self.partial.len() - 1
            }
        };
        if let Some(partial) = self.partial.get_mut(index)
            && partial.message.kind == fragment.kind
            && partial.have.len() == fragment.message_len
        {
            partial.put(fragment);
        }
        Ok(())
    }

    /// Next message in order, once it is whole.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let next = self.next;
        let whole = |p: &Partial| p.message.sequence == next && p.missing == 0;
        let index = self.partial.iter().position(whole)?;
        self.next = next.wrapping_add(1);
        Some(self.partial.swap_remove(index).message)
    }

    /// Undoes [`pop`](Self::pop), as if the message never came: the true one with its number may
    /// follow.
    pub(super) fn reject(&mut self, message: &Message) {
        self.next = message.sequence;
    }
}

impl Partial {
    fn put(&mut self, fragment: &Fragment<'_>) {
        let end = fragment.offset.saturating_add(fragment.data.len());
        let (Some(to), Some(have)) = (
            self.message.body.get_mut(fragment.offset..end),
            self.have.get_mut(fragment.offset..end),
        ) else {
            return;
        };
        for ((to, have), from) in to.iter_mut().zip(have).zip(fragment.data) {
            // The first copy of a byte counts.
            if !std::mem::replace(have, true) {
                *to = *from;
                self.missing = self.missing.saturating_sub(1);
            }
        }
    }
}

/// Fragment of a handshake message.
struct Fragment<'a> {
    kind: u8,
    message_len: usize,
    sequence: u16,
    offset: usize,
    data: &'a [u8],
}

impl<'a> Fragment<'a> {
    fn read(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let header: &[u8; MESSAGE_HEADER] = body.first_chunk()?;
        let &[kind, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2] = header;
        let u24 = |a, b, c| u32::from_be_bytes([0, a, b, c]) as usize;
        let (data, rest) = body.get(MESSAGE_HEADER..)?.split_at_checked(u24(f0, f1, f2))?;
        let fragment = Self {
            kind,
            message_len: u24(l0, l1, l2),
            sequence: u16::from_be_bytes([s0, s1]),
            offset: u24(o0, o1, o2),
            data,
        };
        Some((fragment, rest))
    }
}

/// Flight of the peer after the hellos, collected until it is whole.
#[derive(Debug)]
pub(super) struct Flight {
    role: DtlsRole,
    messages: Messages,
    whole: Vec<Message>,
    /// All plaintext messages before the peer's ChangeCipherSpec were returned or are in `whole`.
    before_cipher: bool,
    change_cipher: bool,
    sealed: Option<Vec<u8>>,
}

/// Flight, or its encrypted end, for the DTLS backend in one piece.
pub(super) struct Ready {
    pub(super) messages: Vec<Message>,
    /// Record with `Finished`, which follows a ChangeCipherSpec.
    pub(super) sealed: Option<Vec<u8>>,
}

/// Handshake types (RFC 5246 section 7.4).
mod kind {
    pub(super) const HELLO_VERIFY_REQUEST: u8 = 3;
    pub(super) const CERTIFICATE: u8 = 11;
    pub(super) const SERVER_HELLO_DONE: u8 = 14;
    pub(super) const CERTIFICATE_VERIFY: u8 = 15;
    pub(super) const CLIENT_KEY_EXCHANGE: u8 = 16;
}

impl Flight {
    pub(super) fn new(role: DtlsRole, messages: Messages) -> Self {
        Self {
            role,
            messages,
            whole: Vec::new(),
            before_cipher: false,
            change_cipher: false,
            sealed: None,
        }
    }

    /// Takes one datagram. Returns true when the peer repeats messages that we have.
    pub(super) fn handle(&mut self, datagram: &[u8]) -> Result<bool, TooLarge> {
        let mut repeated = false;
        for record in records(datagram) {
            match (record.content_type, record.epoch) {
                (content::HANDSHAKE, 0) => {
                    repeated |= self.messages.add(record.body)?;
                }
                (content::CHANGE_CIPHER_SPEC, 0) => self.change_cipher = true,
                (content::HANDSHAKE, 1) if self.sealed.is_none() => {
                    self.sealed = Some(record.raw.to_vec());
                }
                _ => {}
            }
        }
        Ok(repeated)
    }

    /// Flight that became whole; call until `None`.
    pub(super) fn take_ready(&mut self) -> Option<Ready> {
        while !self.before_cipher
            && let Some(message) = self.messages.pop()
        {
            let kind = message.kind;
            self.whole.push(message);
            match self.role {
                DtlsRole::Client if kind == kind::HELLO_VERIFY_REQUEST => return self.take(None),
                DtlsRole::Client if kind == kind::SERVER_HELLO_DONE => {
                    self.before_cipher = true;
                    return self.take(None);
                }
                DtlsRole::Client => {}
                DtlsRole::Server => self.before_cipher = self.client_flight_is_whole(),
            }
        }
        if !self.before_cipher || !self.change_cipher {
            return None;
        }
        let sealed = self.sealed.take()?;
        self.take(Some(sealed))
    }

    fn take(&mut self, sealed: Option<Vec<u8>>) -> Option<Ready> {
        Some(Ready { messages: std::mem::take(&mut self.whole), sealed })
    }

    /// Whether ClientKeyExchange and CertificateVerify are there. Without a certificate there is no
    /// CertificateVerify; the handshake is refused later.
    fn client_flight_is_whole(&self) -> bool {
        const EMPTY_LIST: usize = 3;
        let has = |kind| self.whole.iter().any(|message| message.kind == kind);
        let with_certificate = self
            .whole
            .iter()
            .any(|message| message.kind == kind::CERTIFICATE && message.body.len() > EMPTY_LIST);
        has(kind::CLIENT_KEY_EXCHANGE) && (!with_certificate || has(kind::CERTIFICATE_VERIFY))
    }
}

/// Splits every handshake message in a datagram's plaintext records into fragments of `size` bytes,
/// one datagram each.
#[cfg(test)]
pub(super) fn fragments_of(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for record in records(datagram).filter(|r| r.content_type == content::HANDSHAKE) {
        assert_eq!(record.epoch, 0);
        let (header, body) = record.body.split_at(MESSAGE_HEADER);
        for (n, data) in body.chunks(size).enumerate() {
            let mut fragment = header.to_vec();
            fragment[6..9].copy_from_slice(&((n * size) as u32).to_be_bytes()[1..]);
            fragment[9..12].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
            fragment.extend_from_slice(data);
            let mut datagram = Vec::new();
            write_record(&mut datagram, content::HANDSHAKE, 1_000 + out.len() as u64, &fragment);
            out.push(datagram);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(sequence: u16, len: usize, offset: usize, data: &[u8]) -> Vec<u8> {
        let mut out = vec![11];
        out.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&(offset as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(data);
        out
    }

    #[test]
    fn fragments_in_any_order_become_messages_in_order_and_once() {
        let mut messages = Messages::new(1_000);
        assert_eq!(messages.add(&fragment(1, 2, 0, b"no")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 6, 3, b"def")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 6, 2, b"cd")), Ok(false));
        assert_eq!(messages.pop(), None);
        let both = [fragment(0, 6, 0, b"ab"), fragment(2, 0, 0, b"")].concat();
        assert_eq!(messages.add(&both), Ok(false));
        let bodies: Vec<_> =
            std::iter::from_fn(|| messages.pop()).map(|m| (m.sequence, m.body)).collect();
        assert_eq!(bodies, [(0, b"abcdef".to_vec()), (1, b"no".to_vec()), (2, vec![])]);
        assert_eq!(messages.add(&fragment(1, 2, 0, b"no")), Ok(true));
        assert!(messages.is_empty());
    }

    // quality B4 item 5
    #[test]
    fn fragments_with_false_lengths_cost_no_more_than_the_limit() {
        let mut messages = Messages::new(100);
        assert_eq!(messages.add(&fragment(0, 101, 0, b"")), Err(TooLarge));
        assert_eq!(messages.add(&fragment(0, 0xff_ffff, 0, b"x")), Err(TooLarge));
        assert_eq!(messages.add(&fragment(0, 60, 0, b"")), Ok(false));
        assert_eq!(messages.add(&fragment(1, 41, 0, b"")), Err(TooLarge));
        assert_eq!(messages.add(&fragment(0, 60, 59, b"xy")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 61, 0, &[7; 61])), Ok(false));
        assert_eq!(messages.add(&fragment(MAX_AHEAD + 1, 1, 0, b"x")), Ok(false));
        for _ in 0..10_000 {
            assert_eq!(messages.add(&fragment(0, 60, 30, b"")), Ok(false));
        }
        assert_eq!((messages.partial.len(), messages.partial[0].missing), (1, 60));
        assert_eq!(messages.pop(), None);
    }
}
