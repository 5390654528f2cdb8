//! Session keys from a master key (RFC 3711 section 4.3, key derivation rate 0).
//!
//! Owns the key derivation. Never keeps a key longer than the cipher needs it. Called by `cipher.rs`
//! once per direction and kind. Next: `gcm.rs`, `cm.rs`.

use aes::{Aes128, Aes256};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};

use super::keys::{KEY_MAX, MasterKey, SALT_MAX};

/// Bytes of an HMAC-SHA1 key.
pub(super) const AUTH_KEY_LEN: usize = 20;

/// Kind of packets that the keys are for: the labels of RFC 3711 section 4.3.1 differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Labels 0, 1, 2.
    Rtp,
    /// Labels 3, 4, 5.
    Rtcp,
}

/// Session keys of one cipher. Overwritten when dropped.
pub(super) struct SessionKeys {
    key: [u8; KEY_MAX],
    key_len: usize,
    /// HMAC key of AES-CM; GCM does not use it.
    pub(super) auth: [u8; AUTH_KEY_LEN],
    /// Salt of 14 bytes for AES-CM; GCM takes the first 12.
    pub(super) salt: [u8; SALT_MAX],
}

impl SessionKeys {
    /// Derives the three keys of one kind.
    pub(super) fn derive(master: &MasterKey, kind: Kind) -> Self {
        let first_label = match kind {
            Kind::Rtp => 0,
            Kind::Rtcp => 3,
        };
        let mut keys = Self {
            key: [0; KEY_MAX],
            key_len: master.key().len(),
            auth: [0; AUTH_KEY_LEN],
            salt: [0; SALT_MAX],
        };
        prf(master, first_label, &mut keys.key);
        prf(master, first_label + 1, &mut keys.auth);
        prf(master, first_label + 2, &mut keys.salt);
        keys
    }

    /// Cipher key, as long as the master key.
    pub(super) fn key(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or_default()
    }

    /// Session keys given directly, as in the test vectors.
    #[cfg(test)]
    pub(super) fn from_parts(key: &[u8], salt: &[u8]) -> Self {
        let mut keys = Self {
            key: [0; KEY_MAX],
            key_len: key.len(),
            auth: [0; AUTH_KEY_LEN],
            salt: [0; SALT_MAX],
        };
        keys.key[..key.len()].copy_from_slice(key);
        keys.salt[..salt.len()].copy_from_slice(salt);
        keys
    }
}

impl Drop for SessionKeys {
    fn drop(&mut self) {
        self.key.fill(0);
        self.auth.fill(0);
        std::hint::black_box((&self.key, &self.auth));
    }
}

/// Pseudo-random function by AES-CM: the key stream from `label` XOR salt.
fn prf(master: &MasterKey, label: u8, out: &mut [u8]) {
    let mut iv = [0u8; 16];
    for (to, from) in iv.iter_mut().zip(master.padded_salt()) {
        *to = from;
    }
    if let Some(byte) = iv.get_mut(7) {
        *byte ^= label;
    }
    out.fill(0);
    let right_length = "the lengths are those of the cipher";
    match master.key().len() {
        32 => Ctr128BE::<Aes256>::new_from_slices(master.key(), &iv)
            .expect(right_length)
            .apply_keystream(out),
        _ => Ctr128BE::<Aes128>::new_from_slices(master.key(), &iv)
            .expect(right_length)
            .apply_keystream(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3711 appendix B.3.
    #[test]
    fn session_keys_of_rfc_3711_are_derived() {
        let master = MasterKey::new(
            &0xE1F9_7A0D_3E01_8BE0_D64F_A32C_06DE_4139u128.to_be_bytes(),
            &0x0EC6_75AD_498A_FEEB_B696_0B3A_ABE6u128.to_be_bytes()[2..],
        )
        .unwrap();
        let keys = SessionKeys::derive(&master, Kind::Rtp);
        assert_eq!(keys.key(), 0xC61E_7A93_744F_39EE_1073_4AFE_3FF7_A087u128.to_be_bytes());
        assert_eq!(keys.salt, 0x30CB_BC08_863D_8C85_D49D_B34A_9AE1u128.to_be_bytes()[2..]);
        assert_eq!(keys.auth[..16], 0xCEBE_321F_6FF7_716B_6FD4_AB49_AF25_6A15u128.to_be_bytes());
        assert_eq!(keys.auth[16..], [0x6D, 0x38, 0xBA, 0xA4]);
    }
}
