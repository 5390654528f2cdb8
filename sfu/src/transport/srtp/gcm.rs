//! AES-GCM for SRTP and SRTCP (RFC 7714).
//!
//! Owns the session keys of one direction. Makes one AEAD call per packet and does not allocate:
//! opening writes into the pool buffer, sealing reads shared plaintext and writes ciphertext into the
//! send arena. Never decides about replay or indices. Called by `receiver.rs` and `sender.rs`.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::warm::warm;

use super::kdf::SessionKeys;
use super::packet::{E_FLAG, RTCP_CLEAR_LEN, RTCP_INDEX_LEN, Tail, split_rtp};
use super::profile::{GCM_SALT_LEN as SALT_LEN, GCM_TAG_LEN as TAG_LEN};

/// Session keys of one direction.
pub(super) struct Gcm {
    rtp: Half,
    rtcp: Half,
}

/// Key of RTP, or of RTCP.
struct Half {
    key: LessSafeKey,
    /// The salt, as the low 96 bits of a big-endian number.
    salt: u128,
}

impl Half {
    fn new(keys: &SessionKeys) -> Self {
        let algorithm = if keys.key().len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, keys.key()).expect("the key has the cipher's length");
        let salt =
            keys.salt.iter().take(SALT_LEN).fold(0, |sum, byte| sum << 8 | u128::from(*byte));
        Self { key: LessSafeKey::new(key), salt }
    }

    /// Nonce (RFC 7714 sections 8.1 and 9.1): two zero bytes, SSRC, and the low 48 bits of the index,
    /// XOR the salt. An SRTCP index has 31 bits, which leaves the two zero bytes of its format.
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let block = (u128::from(ssrc) << 48) | u128::from(index & 0xffff_ffff_ffff);
        let [_, _, _, _, nonce @ ..] = (block ^ self.salt).to_be_bytes();
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Gcm {
    pub(super) fn new(rtp: &SessionKeys, rtcp: &SessionKeys) -> Self {
        Self { rtp: Half::new(rtp), rtcp: Half::new(rtcp) }
    }

    /// Reads what sealing needs, so that it is in the caches by then. The library's own state cannot be
    /// read from here.
    pub(super) fn warm(&self) {
        warm!(self.rtp.salt, self.rtp.key.algorithm().tag_len());
    }

    /// Opens one packet into `out` behind a copy of its header; returns the plaintext packet's length.
    pub(super) fn open_rtp(
        &self,
        packet: &[u8],
        header_len: usize,
        ssrc: u32,
        index: u64,
        out: &mut [u8],
    ) -> Option<usize> {
        let (header, ciphertext, tag) = split_rtp(packet, header_len, TAG_LEN)?;
        let len = header_len.checked_add(ciphertext.len())?;
        let (out_header, plaintext) = out.get_mut(..len)?.split_at_mut_checked(header_len)?;
        let nonce = self.rtp.nonce(ssrc, index);
        self.rtp
            .key
            .open_separate_gather(nonce, Aad::from(header), ciphertext, tag, plaintext)
            .ok()?;
        out_header.copy_from_slice(header);
        Some(len)
    }

    /// Seals the header (AAD), then `prefix_len` bytes that are already behind it, then `tail`.
    pub(super) fn seal_rtp(
        &self,
        out: &mut [u8],
        header_len: usize,
        prefix_len: usize,
        tail: Tail<'_>,
        ssrc: u32,
        index: u64,
    ) -> Option<usize> {
        let body_len = prefix_len.checked_add(tail.len()?)?;
        let len = header_len.checked_add(body_len)?.checked_add(TAG_LEN)?;
        let (header, body) = out.get_mut(..len)?.split_at_mut_checked(header_len)?;
        let nonce = self.rtp.nonce(ssrc, index);
        let aad = Aad::from(&*header);
        let Tail { shared, padding } = tail;
        let key = &self.rtp.key;
        if prefix_len == 0 {
            let (out, rest) = body.split_at_mut_checked(shared.len())?;
            key.seal_out_of_place_scatter(nonce, aad, shared, out, padding, rest).ok()?;
        } else if padding.is_empty() {
            let (prefix, rest) = body.split_at_mut_checked(prefix_len)?;
            key.seal_in_place_scatter(nonce, aad, prefix, shared, rest).ok()?;
        } else {
            // Three pieces are one more than the cipher takes.
            let (text, tag) = body.split_at_mut_checked(body_len)?;
            let copied = text.get_mut(prefix_len..)?.split_at_mut_checked(shared.len())?;
            copied.0.copy_from_slice(shared);
            copied.1.copy_from_slice(padding);
            key.seal_in_place_scatter(nonce, aad, text, &[], tag).ok()?;
        }
        Some(len)
    }

    /// Opens SRTCP in place: 8 clear bytes, ciphertext, tag, E flag with index.
    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, trailer: u32) -> Option<usize> {
        let end = packet.len().checked_sub(RTCP_INDEX_LEN)?;
        let (header, body) = packet.get_mut(..end)?.split_at_mut_checked(RTCP_CLEAR_LEN)?;
        let plaintext_len = body.len().checked_sub(TAG_LEN)?;
        let nonce = self.rtcp.nonce(ssrc, u64::from(trailer & !E_FLAG));
        let aad = rtcp_aad(header, trailer)?;
        self.rtcp.key.open_in_place(nonce, Aad::from(aad), body).ok()?;
        RTCP_CLEAR_LEN.checked_add(plaintext_len)
    }

    /// Seals `len` bytes of RTCP in place; returns the SRTCP packet's length.
    pub(super) fn seal_rtcp(
        &self,
        buf: &mut [u8],
        len: usize,
        ssrc: u32,
        trailer: u32,
    ) -> Option<usize> {
        let total = len.checked_add(TAG_LEN + RTCP_INDEX_LEN)?;
        let (packet, index) =
            buf.get_mut(..total)?.split_at_mut_checked(total.checked_sub(RTCP_INDEX_LEN)?)?;
        let (header, body) = packet.split_at_mut_checked(RTCP_CLEAR_LEN)?;
        let (plaintext, tag_out) = body.split_at_mut_checked(len.checked_sub(RTCP_CLEAR_LEN)?)?;
        let nonce = self.rtcp.nonce(ssrc, u64::from(trailer & !E_FLAG));
        let aad = Aad::from(rtcp_aad(header, trailer)?);
        let tag = self.rtcp.key.seal_in_place_separate_tag(nonce, aad, plaintext).ok()?;
        tag_out.copy_from_slice(tag.as_ref());
        index.copy_from_slice(&trailer.to_be_bytes());
        Some(total)
    }
}

/// AAD of SRTCP (RFC 7714 section 9.2): the clear header, then the E flag with the index.
fn rtcp_aad(header: &[u8], trailer: u32) -> Option<[u8; RTCP_CLEAR_LEN + RTCP_INDEX_LEN]> {
    let mut aad = [0u8; RTCP_CLEAR_LEN + RTCP_INDEX_LEN];
    let (head, tail) = aad.split_at_mut_checked(RTCP_CLEAR_LEN)?;
    head.copy_from_slice(header.first_chunk::<RTCP_CLEAR_LEN>()?);
    tail.copy_from_slice(&trailer.to_be_bytes());
    Some(aad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &[u8] = b"Quid pro quo";
    const SSRC: u32 = 0x5501_a0b2;
    const SEQUENCE: u64 = 0xf17b;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn gcm(key_len: u8) -> Gcm {
        let key: Vec<u8> = (0..key_len).collect();
        let keys = SessionKeys::from_parts(&key, SALT);
        Gcm::new(&keys, &keys)
    }

    /// RFC 7714 sections 16.1.1 and 16.2.1.
    #[test]
    fn srtp_packets_of_rfc_7714_are_sealed_and_opened() {
        let header = hex("8040f17b 8041f8d3 5501a0b2");
        let text = b"Gallia est omnis divisa in partes tres";
        let cases = [
            (
                16,
                "f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b
                 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce",
            ),
            (
                32,
                "32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f
                 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
            ),
        ];
        for (key_len, expected) in cases {
            let gcm = gcm(key_len);
            // The split between prefix and shared plaintext makes no difference in the packet.
            for prefix_len in [0, 1, 2, 13, 16, text.len()] {
                let mut out = [0u8; 100];
                out[..12].copy_from_slice(&header);
                out[12..12 + prefix_len].copy_from_slice(&text[..prefix_len]);
                for padding_len in [0, 1, 7].into_iter().filter(|n| prefix_len + n <= text.len()) {
                    out[12..12 + prefix_len].copy_from_slice(&text[..prefix_len]);
                    let (shared, padding) =
                        text[prefix_len..].split_at(text.len() - prefix_len - padding_len);
                    let tail = Tail { shared, padding };
                    let len = gcm.seal_rtp(&mut out, 12, prefix_len, tail, SSRC, SEQUENCE).unwrap();
                    assert_eq!(out[..12], header);
                    assert_eq!(
                        out[12..len],
                        hex(expected),
                        "prefix {prefix_len}, padding {padding_len}"
                    );
                }
                let len = 12 + hex(expected).len();
                let mut back = [0u8; 100];
                let opened = gcm.open_rtp(&out[..len], 12, SSRC, SEQUENCE, &mut back).unwrap();
                assert_eq!(back[12..opened], *text);
            }
        }
    }

    /// RFC 7714 section 17.1.
    #[test]
    fn srtcp_packet_of_rfc_7714_is_sealed_and_opened() {
        let plain = hex("81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930
             4c756e61 deadbeef deadbeef deadbeef deadbeef deadbeef");
        let sealed = hex("81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7
             6c06f32d c676a5f1 730d6fda 4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872
             45d9eade 800005d4");
        let gcm = gcm(16);
        let mut buf = [0u8; 128];
        buf[..plain.len()].copy_from_slice(&plain);
        let len = gcm.seal_rtcp(&mut buf, plain.len(), 0x4d61_7273, 0x8000_05d4).unwrap();
        assert_eq!(buf[..len], sealed);
        let opened = gcm.open_rtcp(&mut buf[..len], 0x4d61_7273, 0x8000_05d4).unwrap();
        assert_eq!(buf[..opened], plain);
    }
}
