//! Layout of SRTP and SRTCP packets, as both ciphers share it (RFC 3711 sections 3.1 and 3.4).
//!
//! Owns the lengths of the fixed parts and the pieces of a packet. Never encrypts. Called by `gcm.rs`,
//! `cm.rs`, `receiver.rs` and `sender.rs`.

/// Bytes of the SRTCP trailer: E flag and 31-bit index.
pub(super) const RTCP_INDEX_LEN: usize = 4;
/// RTCP bytes that stay in the clear: first header word and sender SSRC.
pub(super) const RTCP_CLEAR_LEN: usize = 8;
/// E flag of the SRTCP trailer: the packet is encrypted.
pub(super) const E_FLAG: u32 = 0x8000_0000;

/// End of an RTP packet, behind its header and the bytes written after that: shared plaintext, then
/// RTP padding of this packet alone (RFC 3550 section 5.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail<'a> {
    pub(crate) shared: &'a [u8],
    pub(crate) padding: &'a [u8],
}

impl Tail<'_> {
    pub(super) fn len(&self) -> Option<usize> {
        self.shared.len().checked_add(self.padding.len())
    }
}

impl<'a> From<&'a [u8]> for Tail<'a> {
    fn from(shared: &'a [u8]) -> Self {
        Self { shared, padding: &[] }
    }
}

/// Header, ciphertext and tag of one SRTP packet.
pub(super) fn split_rtp(
    packet: &[u8],
    header_len: usize,
    tag_len: usize,
) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, body) = packet.split_at_checked(header_len)?;
    let (ciphertext, tag) = body.split_at_checked(body.len().checked_sub(tag_len)?)?;
    Some((header, ciphertext, tag))
}
