//! Floor: the lower bound of what forwarding costs. It writes a header and seals with aws-lc-rs,
//! nothing else.
//!
//! Every viewer has its own key, the plaintext is shared. Ciphertext goes into an arena that is
//! used again and again, as the worker's. Costs of a forwarder above this are bookkeeping. Used by
//! `srtp.rs`, and by `fanout.rs` as the in-run floor.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use weir_sfu::transport::srtp::SrtpProfile;

use crate::encoder::HEADER_LEN;

/// Keys of viewers, one each, and an arena.
#[derive(Debug)]
pub struct Floor {
    keys: Vec<RawKey>,
    plaintext: Vec<u8>,
    arena: Vec<u8>,
    sealed_len: usize,
    used: usize,
    sequence: u32,
}

impl Floor {
    /// A floor for that many viewers of packets like `plaintext` (header and payload), with an
    /// arena of `arena_packets` packets.
    pub fn new(
        profile: SrtpProfile,
        viewers: usize,
        arena_packets: usize,
        plaintext: Vec<u8>,
    ) -> Self {
        let keys = (0..viewers as u32).map(|viewer| RawKey::new(profile, viewer)).collect();
        let sealed_len = plaintext.len() + profile.rtp_overhead();
        let arena = vec![0; arena_packets * sealed_len];
        Self { keys, plaintext, arena, sealed_len, used: 0, sequence: 0 }
    }

    /// Seals `packets` packets for each viewer, viewer by viewer; returns the number of sealed
    /// packets.
    pub fn turn(&mut self, packets: usize) -> u64 {
        let (header, payload) = self.plaintext.split_at(HEADER_LEN);
        for (ssrc, key) in (0u32..).zip(&self.keys) {
            for n in 0..packets {
                self.used = if self.used == self.arena.len() { 0 } else { self.used };
                let slot = &mut self.arena[self.used..self.used + self.sealed_len];
                self.used += self.sealed_len;
                let sequence = self.sequence.wrapping_add(n as u32);
                slot[..HEADER_LEN].copy_from_slice(header);
                slot[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
                slot[8..12].copy_from_slice(&ssrc.to_be_bytes());
                key.seal(ssrc, sequence, payload, slot);
            }
        }
        self.sequence = self.sequence.wrapping_add(packets as u32);
        (self.keys.len() * packets) as u64
    }
}

/// Cipher of a profile, with a salt of zeros. It keeps no state and checks no replay.
#[derive(Debug)]
pub enum RawKey {
    /// RFC 7714.
    Gcm(LessSafeKey),
    /// RFC 3711.
    Cm(Box<(EncryptingKey, hmac::Key)>),
}

/// Bytes of HMAC-SHA1 cut to 80 bits.
const CM_TAG_LEN: usize = 10;

impl RawKey {
    /// A key of the profile's length that follows from a number.
    ///
    /// # Panics
    /// Never: the lengths are right.
    pub fn new(profile: SrtpProfile, number: u32) -> Self {
        let bytes = number.to_be_bytes().repeat(profile.key_len() / 4);
        let gcm = |algorithm| {
            Self::Gcm(LessSafeKey::new(UnboundKey::new(algorithm, &bytes).expect("it fits")))
        };
        match profile {
            SrtpProfile::AeadAes128Gcm => gcm(&AES_128_GCM),
            SrtpProfile::AeadAes256Gcm => gcm(&AES_256_GCM),
            SrtpProfile::Aes128CmHmacSha1_80 => {
                let key = UnboundCipherKey::new(&AES_128, &bytes).expect("it fits");
                let mac = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes);
                Self::Cm(Box::new((EncryptingKey::ctr(key).expect("AES has a counter mode"), mac)))
            }
        }
    }

    /// Seals `payload` behind the header that stands in `packet`, which ends with the tag.
    ///
    /// # Panics
    /// `packet` is not as long as header, payload and tag.
    pub fn seal(&self, ssrc: u32, index: u32, payload: &[u8], packet: &mut [u8]) {
        let (clear, tag) = packet.split_at_mut(HEADER_LEN + payload.len());
        let (header, body) = clear.split_at_mut(HEADER_LEN);
        match self {
            Self::Gcm(key) => key
                .seal_out_of_place_scatter(
                    nonce(ssrc, index),
                    Aad::from(header),
                    payload,
                    body,
                    &[],
                    tag,
                )
                .expect("the lengths are right"),
            Self::Cm(keys) => {
                let (key, mac) = &**keys;
                body.copy_from_slice(payload);
                apply_keystream(key, ssrc, index, body);
                tag.copy_from_slice(&cm_tag(mac, clear)[..CM_TAG_LEN]);
            }
        }
    }

    /// Opens a packet with a tag of `tag_len` bytes; its payload is written to `out`.
    ///
    /// # Panics
    /// The packet is not authentic.
    pub fn open(&self, ssrc: u32, index: u32, packet: &[u8], tag_len: usize, out: &mut [u8]) {
        let (clear, tag) = packet.split_at(packet.len() - tag_len);
        let (header, body) = clear.split_at(HEADER_LEN);
        let out = &mut out[..body.len()];
        match self {
            Self::Gcm(key) => key
                .open_separate_gather(nonce(ssrc, index), Aad::from(header), body, tag, out)
                .expect("it is authentic"),
            Self::Cm(keys) => {
                let (key, mac) = &**keys;
                let expected = cm_tag(mac, clear);
                verify_slices_are_equal(&expected[..CM_TAG_LEN], tag).expect("it is authentic");
                out.copy_from_slice(body);
                apply_keystream(key, ssrc, index, out);
            }
        }
    }
}

/// RFC 7714 section 8.1.
fn nonce(ssrc: u32, index: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[2..6].copy_from_slice(&ssrc.to_be_bytes());
    bytes[8..12].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// RFC 3711 section 4.1.1.
fn apply_keystream(key: &EncryptingKey, ssrc: u32, index: u32, body: &mut [u8]) {
    let block = (u128::from(ssrc) << 64) | (u128::from(index) << 16);
    let iv = EncryptionContext::Iv128(FixedLength::from(block.to_be_bytes()));
    key.less_safe_encrypt(body, iv).expect("counter mode takes any length");
}

/// RFC 3711 section 4.2, with a roll-over count of zero.
fn cm_tag(mac: &hmac::Key, clear: &[u8]) -> [u8; 20] {
    let mut context = hmac::Context::with_key(mac);
    context.update(clear);
    context.update(&[0; 4]);
    context.sign().as_ref().try_into().expect("SHA-1 has 20 bytes")
}
