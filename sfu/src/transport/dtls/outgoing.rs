//! What an association sends: datagrams in order, with the numbers and sizes that we want.
//!
//! Owns the numbers of plaintext records, because a HelloVerifyRequest leaves before the DTLS backend knows of
//! anything, and the size of repeats: a flight that was not answered may have been too large for the path, so
//! later ones are cut to [`SMALL_DATAGRAM`]. Keeps our plaintext messages, which the peer signs. Encrypted
//! records pass untouched. Called by `rtc.rs`.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::message::{MESSAGE_HEADER, Message, Messages, fragments, kind};
use super::record::{RECORD_HEADER, content, records, write_record};

/// Bytes of the longest datagram of a flight that is repeated in small ones. Every IPv4 path carries 548
/// bytes of UDP (RFC 791 section 3.1, RFC 8899 section 5.1.2).
pub(super) const SMALL_DATAGRAM: usize = 512;

/// Bytes that our own messages may have together; they have about 1,500.
const OWN_BYTES: usize = 64 * 1024;

/// Datagrams that wait to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    queue: VecDeque<BytesMut>,
    /// Number of the next plaintext record.
    next_number: u64,
    /// Our messages under way of being put together again.
    own: Messages,
    sent: Vec<Message>,
    small: bool,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        let own = Messages::new(OWN_BYTES);
        Self { queue: VecDeque::new(), next_number: 0, own, sent: Vec::new(), small: false }
    }

    /// Cuts what follows to small datagrams.
    pub(super) fn use_small_datagrams(&mut self) {
        self.small = true;
    }

    /// Queues a plaintext record as one datagram.
    pub(super) fn write(&mut self, content_type: u8, body: &[u8]) {
        let datagram = self.record(content_type, body);
        self.queue.push_back(BytesMut::from(datagram.as_slice()));
    }

    /// Queues a datagram of the DTLS backend.
    pub(super) fn push(&mut self, datagram: &[u8]) {
        let limit = if self.small { SMALL_DATAGRAM } else { usize::MAX };
        let mut current = Vec::with_capacity(datagram.len());
        for record in records(datagram) {
            let pieces = if record.epoch > 0 {
                vec![record.raw.to_vec()]
            } else {
                self.keep_message(record.content_type, record.body);
                self.plain_records(record.content_type, record.body)
            };
            for piece in pieces {
                if !current.is_empty() && current.len() + piece.len() > limit {
                    self.queue.push_back(BytesMut::from(current.as_slice()));
                    current.clear();
                }
                current.extend_from_slice(&piece);
            }
        }
        if !current.is_empty() {
            self.queue.push_back(BytesMut::from(current.as_slice()));
        }
    }

    /// Plaintext record as one, or as several small ones, with our numbers.
    fn plain_records(&mut self, content_type: u8, body: &[u8]) -> Vec<Vec<u8>> {
        const DATA: usize = SMALL_DATAGRAM - RECORD_HEADER - MESSAGE_HEADER;
        if content_type != content::HANDSHAKE || !self.small {
            return vec![self.record(content_type, body)];
        }
        let pieces = fragments(body).flat_map(|fragment| fragment.pieces(DATA));
        pieces.map(|piece| self.record(content_type, &piece.bytes())).collect()
    }

    /// Plaintext record with the next number.
    fn record(&mut self, content_type: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(RECORD_HEADER + body.len());
        write_record(&mut out, content_type, self.next_number, body);
        self.next_number += 1;
        out
    }

    fn keep_message(&mut self, content_type: u8, body: &[u8]) {
        if content_type == content::HANDSHAKE && self.own.add(body).is_ok() {
            self.sent.extend(std::iter::from_fn(|| self.own.pop()));
        }
    }

    pub(super) fn pop(&mut self) -> Option<BytesMut> {
        self.queue.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Drops the datagrams behind the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.queue.truncate(len);
    }

    /// Datagrams behind the first `len`.
    pub(super) fn since(&self, len: usize) -> impl Iterator<Item = &BytesMut> {
        self.queue.iter().skip(len)
    }

    /// Our messages so far, whole and in order, but for a HelloVerifyRequest.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.sent.iter().filter(|message| message.kind != kind::HELLO_VERIFY_REQUEST)
    }

    /// Forgets our messages: the handshake is over, or begins anew.
    pub(super) fn forget_messages(&mut self) {
        self.own = Messages::new(OWN_BYTES);
        self.sent = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_record(&mut out, content::HANDSHAKE, number, body);
        out
    }

    #[test]
    fn small_repeats_carry_the_same_messages_under_new_numbers() {
        let body: Vec<u8> = (0..1_100).map(|n| n as u8).collect();
        let certificate = Message { kind: kind::CERTIFICATE, sequence: 1, body };
        let hello = Message { kind: kind::SERVER_HELLO, sequence: 0, body: vec![5; 80] };
        let sealed = [22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 8, 9];
        let mut datagram = record(0, &hello.unfragmented());
        datagram.extend(record(1, &certificate.unfragmented()));
        datagram.extend_from_slice(&sealed);

        let mut out = Outgoing::new();
        out.push(&datagram);
        assert_eq!(out.pop().unwrap(), datagram);
        out.use_small_datagrams();
        out.push(&datagram);
        let (mut numbers, mut messages, mut seals) = (Vec::new(), Messages::new(9_000), 0);
        while let Some(datagram) = out.pop() {
            assert!(datagram.len() <= SMALL_DATAGRAM);
            for record in records(&datagram) {
                if record.epoch > 0 {
                    assert_eq!(record.raw, sealed);
                    seals += 1;
                    continue;
                }
                numbers.push(record.raw[10]);
                assert_eq!(messages.add(record.body), Ok(false));
            }
        }
        assert_eq!((numbers.as_slice(), seals), (&[2, 3, 4, 5][..], 1));
        let expected = [hello, certificate];
        assert_eq!([messages.pop().unwrap(), messages.pop().unwrap()], expected);
        assert_eq!(out.messages().cloned().collect::<Vec<_>>(), expected, "kept once");
    }
}
