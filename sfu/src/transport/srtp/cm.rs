//! AES-128 counter mode with HMAC-SHA1-80 for SRTP and SRTCP (RFC 3711).
//!
//! Owns the session keys of one direction, for clients without GCM. HMAC-SHA1 is serial and takes
//! four fifths of the time, so the keyed HMAC state is cloned per packet instead of keyed again.
//! Never decides about replay or indices. Called by `receiver.rs` and `sender.rs`.

use aes::Aes128;
use ctr::cipher::{InnerIvInit, KeyInit, StreamCipher};
use ctr::{Ctr128BE, CtrCore};
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::kdf::SessionKeys;
use super::packet::{E_FLAG, RTCP_CLEAR_LEN, RTCP_INDEX_LEN, Tail, split_rtp};
use super::profile::{CM_SALT_LEN as SALT_LEN, CM_TAG_LEN as TAG_LEN};

/// Session keys of one direction.
pub(super) struct Cm {
    rtp: Half,
    rtcp: Half,
}

/// Keys of RTP, or of RTCP.
struct Half {
    aes: Aes128,
    mac: Hmac<Sha1>,
    salt: [u8; SALT_LEN],
}

impl Half {
    fn new(keys: &SessionKeys) -> Self {
        Self {
            aes: Aes128::new_from_slice(keys.key()).expect("this profile's key has 16 bytes"),
            mac: Hmac::new_from_slice(&keys.auth).expect("HMAC takes a key of any length"),
            salt: keys.salt,
        }
    }

    /// Key stream (RFC 3711 section 4.1.1): its start is the salt, XOR the SSRC from bit 64, XOR the
    /// index from bit 16.
    fn keystream(&self, ssrc: u32, index: u64) -> Ctr128BE<&Aes128> {
        let block = (u128::from(ssrc) << 64) | (u128::from(index & 0xffff_ffff_ffff) << 16);
        let mut iv = block.to_be_bytes();
        for (to, salt) in iv.iter_mut().zip(self.salt) {
            *to ^= salt;
        }
        Ctr128BE::from_core(CtrCore::inner_iv_init(&self.aes, &iv.into()))
    }

    /// Untruncated MAC over `parts`.
    fn mac(&self, parts: [&[u8]; 2]) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

/// Roll-over counter, which RFC 3711 section 4.2 appends to the authenticated RTP packet.
fn roc_bytes(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

impl Cm {
    pub(super) fn new(rtp: &SessionKeys, rtcp: &SessionKeys) -> Self {
        Self { rtp: Half::new(rtp), rtcp: Half::new(rtcp) }
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
        let mac = self.rtp.mac([packet.get(..len)?, &roc_bytes(index)]);
        mac.verify_truncated_left(tag).ok()?;
        let (out_header, plaintext) = out.get_mut(..len)?.split_at_mut_checked(header_len)?;
        self.rtp.keystream(ssrc, index).try_apply_keystream_b2b(ciphertext, plaintext).ok()?;
        out_header.copy_from_slice(header);
        Some(len)
    }

    /// Seals the header, then `prefix_len` bytes that are already behind it, then `tail`.
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
        let len = header_len.checked_add(body_len)?;
        let total = len.checked_add(TAG_LEN)?;
        let (packet, tag_out) = out.get_mut(..total)?.split_at_mut_checked(len)?;
        let (prefix, rest) = packet.get_mut(header_len..)?.split_at_mut_checked(prefix_len)?;
        let (shared, padding) = rest.split_at_mut_checked(tail.shared.len())?;
        let mut keystream = self.rtp.keystream(ssrc, index);
        keystream.apply_keystream(prefix);
        keystream.try_apply_keystream_b2b(tail.shared, shared).ok()?;
        keystream.try_apply_keystream_b2b(tail.padding, padding).ok()?;
        let tag = self.rtp.mac([packet, &roc_bytes(index)]).finalize().into_bytes();
        tag_out.copy_from_slice(tag.first_chunk::<TAG_LEN>()?);
        Some(total)
    }

    /// Opens SRTCP in place: 8 clear bytes, ciphertext, E flag with index, tag.
    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, trailer: u32) -> Option<usize> {
        let signed_len = packet.len().checked_sub(TAG_LEN)?;
        let (signed, tag) = packet.split_at_mut_checked(signed_len)?;
        self.rtcp.mac([signed, &[]]).verify_truncated_left(tag).ok()?;
        let len = signed_len.checked_sub(RTCP_INDEX_LEN)?;
        let ciphertext = signed.get_mut(RTCP_CLEAR_LEN..len)?;
        self.rtcp.keystream(ssrc, u64::from(trailer & !E_FLAG)).apply_keystream(ciphertext);
        Some(len)
    }

    /// Seals `len` bytes of RTCP in place; returns the SRTCP packet's length.
    pub(super) fn seal_rtcp(
        &self,
        buf: &mut [u8],
        len: usize,
        ssrc: u32,
        trailer: u32,
    ) -> Option<usize> {
        let signed_len = len.checked_add(RTCP_INDEX_LEN)?;
        let total = signed_len.checked_add(TAG_LEN)?;
        let (signed, tag_out) = buf.get_mut(..total)?.split_at_mut_checked(signed_len)?;
        let plaintext = signed.get_mut(RTCP_CLEAR_LEN..len)?;
        self.rtcp.keystream(ssrc, u64::from(trailer & !E_FLAG)).apply_keystream(plaintext);
        signed.get_mut(len..)?.copy_from_slice(&trailer.to_be_bytes());
        let tag = self.rtcp.mac([signed, &[]]).finalize().into_bytes();
        tag_out.copy_from_slice(tag.first_chunk::<TAG_LEN>()?);
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3711 appendix B.2: key stream of SSRC 0, index 0.
    #[test]
    fn key_stream_of_rfc_3711_is_made() {
        let keys = SessionKeys::from_parts(
            &0x2B7E_1516_28AE_D2A6_ABF7_1588_09CF_4F3Cu128.to_be_bytes(),
            &0xF0F1_F2F3_F4F5_F6F7_F8F9_FAFB_FCFDu128.to_be_bytes()[2..],
        );
        let mut stream = [0u8; 48];
        Half::new(&keys).keystream(0, 0).apply_keystream(&mut stream);
        let expected = [
            0xE03E_AD09_35C9_5E80_E166_B16D_D92B_4EB4u128,
            0xD235_1316_2B02_D0F7_2A43_A2FE_4A5F_97AB,
            0x41E9_5B3B_B0A2_E8DD_4779_01E4_FCA8_94C0,
        ];
        for (block, expected) in stream.chunks(16).zip(expected) {
            assert_eq!(block, expected.to_be_bytes());
        }
    }
}
