//! The least that forwarding costs: write a header and seal, nothing else.
//!
//! Every viewer has its own key, the plaintext is shared, ciphertext goes into an arena that is used
//! over and over, as the worker's. Whatever a forwarder costs above this is bookkeeping. Used by `srtp.rs` and by
//! `fanout.rs` as the in-run floor.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use weir_sfu::transport::srtp::SrtpProfile;

use crate::encoder::HEADER_LEN;

/// AES-GCM's tag.
pub const TAG_LEN: usize = 16;

/// One key per viewer and an arena.
pub struct Floor {
    keys: Vec<LessSafeKey>,
    plaintext: Vec<u8>,
    arena: Vec<u8>,
    used: usize,
    sequence: u32,
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Floor").field("viewers", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Floor {
    /// For that many viewers of packets like `plaintext` (header and payload), with an arena of
    /// `arena_packets` packets.
    ///
    /// # Panics
    /// For a profile other than GCM.
    pub fn new(
        profile: SrtpProfile,
        viewers: usize,
        arena_packets: usize,
        plaintext: Vec<u8>,
    ) -> Self {
        let keys = (0..viewers).map(|viewer| gcm_key(profile, viewer as u32)).collect();
        let arena = vec![0; arena_packets * (plaintext.len() + TAG_LEN)];
        Self { keys, plaintext, arena, used: 0, sequence: 0 }
    }

    /// Seals `packets` packets for each viewer, viewer by viewer; how many that were.
    ///
    /// # Panics
    /// When sealing fails, which it cannot.
    pub fn turn(&mut self, packets: usize) -> u64 {
        let (header, payload) = self.plaintext.split_at(HEADER_LEN);
        let sealed = self.plaintext.len() + TAG_LEN;
        for (ssrc, key) in (0u32..).zip(&self.keys) {
            for n in 0..packets {
                self.used = if self.used == self.arena.len() { 0 } else { self.used };
                let slot = &mut self.arena[self.used..self.used + sealed];
                self.used += sealed;
                let sequence = self.sequence.wrapping_add(n as u32);
                let (head, body) = slot.split_at_mut(HEADER_LEN);
                head.copy_from_slice(header);
                head[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
                head[8..12].copy_from_slice(&ssrc.to_be_bytes());
                let (ciphertext, tag) = body.split_at_mut(payload.len());
                let (nonce, aad) = (nonce(ssrc, sequence), Aad::from(&*head));
                key.seal_out_of_place_scatter(nonce, aad, payload, ciphertext, &[], tag)
                    .expect("the slot has room");
            }
        }
        self.sequence = self.sequence.wrapping_add(packets as u32);
        (self.keys.len() * packets) as u64
    }
}

/// A key of the profile's length that follows from a number.
///
/// # Panics
/// For a profile other than GCM.
pub fn gcm_key(profile: SrtpProfile, number: u32) -> LessSafeKey {
    let algorithm = match profile {
        SrtpProfile::AeadAes128Gcm => &AES_128_GCM,
        SrtpProfile::AeadAes256Gcm => &AES_256_GCM,
        SrtpProfile::Aes128CmHmacSha1_80 => panic!("not an AEAD"),
    };
    let bytes: Vec<u8> = number.to_be_bytes().repeat(profile.key_len() / 4);
    LessSafeKey::new(UnboundKey::new(algorithm, &bytes).expect("the length is right"))
}

/// The nonce of RFC 7714 section 8.1, with a salt of zeros.
pub fn nonce(ssrc: u32, index: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[2..6].copy_from_slice(&ssrc.to_be_bytes());
    bytes[8..12].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
