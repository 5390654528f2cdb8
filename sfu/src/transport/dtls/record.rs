//! DTLS records (RFC 6347 section 4.1): reading those of a datagram, writing plaintext ones.
//!
//! Owns the record header, and nothing of what is inside. Called by the other files of `dtls/`.

/// Bytes of a record header.
pub(super) const RECORD_HEADER: usize = 13;

/// Bytes of a record's seal (RFC 5288 section 3, RFC 7905 section 2): no encrypted record is shorter.
const SEAL_BYTES: usize = 16;

/// Record content types (RFC 6347 section 4.1).
pub(super) mod content {
    pub(in crate::transport::dtls) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(in crate::transport::dtls) const ALERT: u8 = 21;
    pub(in crate::transport::dtls) const HANDSHAKE: u8 = 22;
}

/// Record of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) content_type: u8,
    /// 0 is plaintext, 1 has the keys of the handshake. There is no other: nothing is renegotiated.
    pub(super) epoch: u16,
    /// Header and body.
    pub(super) raw: &'a [u8],
    pub(super) body: &'a [u8],
}

impl Record<'_> {
    /// Whether this is a plaintext record of the handshake.
    pub(super) fn is_plain_handshake(&self) -> bool {
        self.content_type == content::HANDSHAKE && self.epoch == 0
    }

    /// Whether this is an encrypted record of the handshake: a Finished.
    pub(super) fn is_sealed_handshake(&self) -> bool {
        self.content_type == content::HANDSHAKE && self.is_sealed()
    }

    /// Whether this may be a record under the keys of the handshake.
    pub(super) fn is_sealed(&self) -> bool {
        self.epoch == 1 && self.body.len() > SEAL_BYTES
    }
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
