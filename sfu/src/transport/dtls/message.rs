//! Handshake messages (RFC 6347 section 4.2.2), put together from fragments.
//!
//! Owns reassembly with hard limits: fragments may come in any order, overlap, repeat or give wrong
//! lengths. Anybody who knows a client's address can send some of them, and nothing shows which ones are the
//! client's until a flight is complete. So a fragment never rules out another: copies that differ in type or length
//! are put together beside each other, newer bytes replace older ones, and where memory ends the oldest copy
//! goes. A client that repeats its flight gets through. Never reads a message beyond its type. Called by
//! `client_hello.rs`, `flight.rs` and `outgoing.rs`.

use std::collections::VecDeque;

/// Bytes of a handshake message header.
pub(super) const MESSAGE_HEADER: usize = 12;

/// Messages beyond the next one that are kept when they arrive early. Later ones are dropped and come
/// again with the peer's next repeat.
pub(super) const MAX_AHEAD: u16 = 8;

/// Maximum unfinished messages, copies included. At the limit the oldest is dropped.
pub(super) const UNFINISHED_MAX: usize = 16;

/// Handshake types (RFC 5246 section 7.4, RFC 6347 section 4.3.2).
pub(super) mod kind {
    pub(in crate::transport::dtls) const CLIENT_HELLO: u8 = 1;
    pub(in crate::transport::dtls) const SERVER_HELLO: u8 = 2;
    pub(in crate::transport::dtls) const HELLO_VERIFY_REQUEST: u8 = 3;
    pub(in crate::transport::dtls) const CERTIFICATE: u8 = 11;
    pub(in crate::transport::dtls) const SERVER_KEY_EXCHANGE: u8 = 12;
    pub(in crate::transport::dtls) const CERTIFICATE_REQUEST: u8 = 13;
    pub(in crate::transport::dtls) const SERVER_HELLO_DONE: u8 = 14;
    pub(in crate::transport::dtls) const CERTIFICATE_VERIFY: u8 = 15;
    pub(in crate::transport::dtls) const CLIENT_KEY_EXCHANGE: u8 = 16;
    pub(in crate::transport::dtls) const FINISHED: u8 = 20;
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
    /// Message as one unfragmented handshake record body; so it is hashed, too (RFC 6347 section 4.2.6).
    pub(super) fn unfragmented(&self) -> Vec<u8> {
        self.fragment(0, self.body.len())
    }

    /// Fragment with at most `size` bytes of the body from `offset` on, with its header.
    pub(super) fn fragment(&self, offset: usize, size: usize) -> Vec<u8> {
        let rest = self.body.get(offset..).unwrap_or_default();
        let data = rest.get(..size).unwrap_or(rest);
        let (kind, sequence, message_len) = (self.kind, self.sequence, self.body.len());
        Fragment { kind, message_len, sequence, offset, data }.bytes()
    }
}

/// Error: a fragment claims a message of more bytes than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Collector of fragments, which gives messages in the order of their `message_seq`.
#[derive(Debug)]
pub(super) struct Messages {
    next: u16,
    /// Messages of which bytes are missing, oldest first.
    unfinished: VecDeque<Unfinished>,
    /// Bytes that all unfinished messages may claim together.
    limit: usize,
}

#[derive(Debug)]
struct Unfinished {
    message: Message,
    have: Vec<bool>,
    missing: usize,
}

impl Messages {
    /// Collector that waits for message 0.
    pub(super) fn new(limit: usize) -> Self {
        Self::starting_at(0, limit)
    }

    /// Collector that waits for this message.
    pub(super) fn starting_at(next: u16, limit: usize) -> Self {
        Self { next, unfinished: VecDeque::new(), limit }
    }

    /// Number of the message that [`pop`](Self::pop) waits for.
    pub(super) fn next_sequence(&self) -> u16 {
        self.next
    }

    /// Adds the fragments in one handshake record's body. Returns true when one of them belongs to a
    /// message that was taken before: the peer repeats itself. Fragments that contradict themselves are
    /// skipped.
    pub(super) fn add(&mut self, body: &[u8]) -> Result<bool, TooLarge> {
        let mut repeated = false;
        for fragment in fragments(body) {
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
        if let Some(found) = self.unfinished.iter_mut().find(|held| held.is_of(fragment)) {
            found.put(fragment);
            return Ok(());
        }
        if fragment.message_len > self.limit {
            return Err(TooLarge);
        }
        let claimed = |held: &VecDeque<Unfinished>| -> usize {
            held.iter().map(|held| held.have.len()).sum()
        };
        while self.unfinished.len() >= UNFINISHED_MAX
            || claimed(&self.unfinished) > self.limit - fragment.message_len
        {
            self.unfinished.pop_front();
        }
        let mut new = Unfinished::new(fragment);
        new.put(fragment);
        self.unfinished.push_back(new);
        Ok(())
    }

    /// Next message in order, once it is whole; of several copies the newest. One that waited for messages
    /// before it may have been made up beforehand.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let next = self.next;
        let whole = |held: &Unfinished| held.message.sequence == next && held.missing == 0;
        let index = self.unfinished.iter().rposition(whole)?;
        self.next = next.wrapping_add(1);
        self.unfinished.remove(index).map(|held| held.message)
    }

    /// Undoes [`pop`](Self::pop) back to the message with this number, as if none of them ever came: the
    /// true ones may follow.
    pub(super) fn go_back(&mut self, sequence: u16) {
        self.next = sequence;
    }

    /// Forgets unfinished messages.
    pub(super) fn clear(&mut self) {
        self.unfinished.clear();
    }

    /// Forgets copies of messages that were taken: they turned out to be the peer's.
    pub(super) fn forget_taken(&mut self) {
        let next = self.next;
        self.unfinished.retain(|held| held.message.sequence.wrapping_sub(next) <= MAX_AHEAD);
    }
}

impl Unfinished {
    fn new(fragment: &Fragment<'_>) -> Self {
        Self {
            message: Message {
                kind: fragment.kind,
                sequence: fragment.sequence,
                body: vec![0; fragment.message_len],
            },
            have: vec![false; fragment.message_len],
            missing: fragment.message_len,
        }
    }

    fn is_of(&self, fragment: &Fragment<'_>) -> bool {
        self.message.sequence == fragment.sequence
            && self.message.kind == fragment.kind
            && self.have.len() == fragment.message_len
    }

    fn put(&mut self, fragment: &Fragment<'_>) {
        let end = fragment.offset.saturating_add(fragment.data.len());
        let (Some(to), Some(have)) = (
            self.message.body.get_mut(fragment.offset..end),
            self.have.get_mut(fragment.offset..end),
        ) else {
            return;
        };
        let differs = |((to, have), from): ((&u8, &bool), &u8)| *have && to != from;
        if to.iter().zip(have.iter()).zip(fragment.data).any(differs) {
            // One of the two is not the peer's: begin again with the newer one.
            self.have.fill(false);
            self.missing = self.have.len();
            return self.put(fragment);
        }
        self.missing -= have.iter().filter(|have| !**have).count();
        to.copy_from_slice(fragment.data);
        have.fill(true);
    }
}

/// Fragments in one handshake record's body, up to the first that is cut short.
pub(super) fn fragments(mut body: &[u8]) -> impl Iterator<Item = Fragment<'_>> {
    std::iter::from_fn(move || {
        let (fragment, rest) = Fragment::read(body)?;
        body = rest;
        Some(fragment)
    })
}

/// Fragment of a handshake message.
pub(super) struct Fragment<'a> {
    kind: u8,
    message_len: usize,
    pub(super) sequence: u16,
    offset: usize,
    data: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Whether this is a part of the message.
    pub(super) fn is_of(&self, message: &Message) -> bool {
        let end = self.offset.saturating_add(self.data.len());
        self.kind == message.kind
            && self.sequence == message.sequence
            && self.message_len == message.body.len()
            && message.body.get(self.offset..end) == Some(self.data)
    }

    /// The fragment cut into pieces of at most `size` bytes of data; an empty one stays as it is.
    pub(super) fn pieces(self, size: usize) -> impl Iterator<Item = Self> {
        let Self { kind, message_len, sequence, offset, data } = self;
        let starts = (0..data.len().max(1)).step_by(size);
        starts.map(move |start| {
            let rest = data.get(start..).unwrap_or_default();
            let data = rest.get(..size).unwrap_or(rest);
            Self { kind, message_len, sequence, offset: offset + start, data }
        })
    }

    /// The fragment with its header (RFC 6347 section 4.2.2).
    pub(super) fn bytes(&self) -> Vec<u8> {
        let [_, l0, l1, l2] = (self.message_len as u32).to_be_bytes();
        let [s0, s1] = self.sequence.to_be_bytes();
        let [_, o0, o1, o2] = (self.offset as u32).to_be_bytes();
        let [_, f0, f1, f2] = (self.data.len() as u32).to_be_bytes();
        let mut out = vec![self.kind, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2];
        out.extend_from_slice(self.data);
        out
    }

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

/// Splits every handshake message in a datagram's plaintext records into fragments of `size` bytes,
/// one datagram each.
#[cfg(test)]
pub(super) fn fragments_of(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    use super::record::{content, records, write_record};
    let mut out = Vec::new();
    for record in records(datagram).filter(|r| r.content_type == content::HANDSHAKE) {
        assert_eq!(record.epoch, 0);
        let (header, body) = record.body.split_at(MESSAGE_HEADER);
        let sequence = u16::from_be_bytes([header[4], header[5]]);
        let message = Message { kind: header[0], sequence, body: body.to_vec() };
        for offset in (0..body.len()).step_by(size) {
            let mut datagram = Vec::new();
            let fragment = message.fragment(offset, size);
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

    fn popped(messages: &mut Messages) -> Vec<(u16, Vec<u8>)> {
        std::iter::from_fn(|| messages.pop()).map(|m| (m.sequence, m.body)).collect()
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
        let expected = [(0, b"abcdef".to_vec()), (1, b"no".to_vec()), (2, vec![])];
        assert_eq!(popped(&mut messages), expected);
        assert_eq!(messages.add(&fragment(1, 2, 0, b"no")), Ok(true));
        assert!(messages.unfinished.is_empty());
    }

    #[test]
    fn message_is_cut_into_fragments_that_make_it_again() {
        let message = Message { kind: 11, sequence: 0, body: (0..100).collect() };
        let mut messages = Messages::new(1_000);
        for offset in (0..100).step_by(30) {
            assert_eq!(messages.add(&message.fragment(offset, 30)), Ok(false));
        }
        assert_eq!(messages.pop(), Some(message));
    }

    // quality B4 item 5
    #[test]
    fn fragments_with_false_lengths_cost_no_more_than_the_limit() {
        let mut messages = Messages::new(100);
        assert_eq!(messages.add(&fragment(0, 101, 0, b"")), Err(TooLarge));
        assert_eq!(messages.add(&fragment(0, 0xff_ffff, 0, b"x")), Err(TooLarge));
        assert_eq!(messages.add(&fragment(0, 60, 59, b"xy")), Ok(false));
        assert_eq!(messages.add(&fragment(MAX_AHEAD + 1, 1, 0, b"x")), Ok(false));
        for _ in 0..10_000 {
            assert_eq!(messages.add(&fragment(0, 60, 30, b"")), Ok(false));
        }
        assert_eq!((messages.unfinished.len(), messages.unfinished[0].missing), (1, 60));
        // Over the limit the oldest goes.
        assert_eq!(messages.add(&fragment(1, 40, 0, b"")), Ok(false));
        assert_eq!(messages.unfinished.len(), 2);
        assert_eq!(messages.add(&fragment(2, 1, 0, b"")), Ok(false));
        let left: Vec<_> = messages.unfinished.iter().map(|held| held.message.sequence).collect();
        assert_eq!(left, [1, 2]);
        let mut small = Messages::new(1_000);
        for len in 1..=UNFINISHED_MAX + 1 {
            assert_eq!(small.add(&fragment(0, len, 0, b"")), Ok(false));
        }
        assert_eq!((small.unfinished.len(), small.unfinished[0].have.len()), (UNFINISHED_MAX, 2));
    }

    #[test]
    fn forged_fragment_of_another_length_or_type_costs_the_peer_nothing() {
        let mut messages = Messages::new(1_000);
        let mut forged = fragment(0, 6, 0, b"xyz");
        assert_eq!(messages.add(&fragment(0, 6, 0, b"abc")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 900, 0, b"forged")), Ok(false));
        forged[0] = 14;
        assert_eq!(messages.add(&forged), Ok(false));
        assert_eq!(messages.add(&fragment(0, 6, 3, b"def")), Ok(false));
        assert_eq!(popped(&mut messages), [(0, b"abcdef".to_vec())]);
    }

    #[test]
    fn forged_bytes_are_never_mixed_with_the_peers() {
        let mut messages = Messages::new(1_000);
        assert_eq!(messages.add(&fragment(0, 6, 0, b"for")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 6, 3, b"def")), Ok(false));
        assert_eq!(popped(&mut messages), [(0, b"fordef".to_vec())], "nothing shows it yet");
        messages.go_back(0);
        assert_eq!(messages.add(&fragment(0, 6, 3, b"ged")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 6, 2, b"cdef")), Ok(false));
        assert_eq!(messages.add(&fragment(0, 6, 0, b"abc")), Ok(false));
        assert_eq!(popped(&mut messages), [(0, b"abcdef".to_vec())]);
    }
}
