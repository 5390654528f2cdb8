//! Master keys, as DTLS exports them.
//!
//! Owns keys and salts of both directions, overwrites them when they are dropped, and never prints
//! them. Made by `transport/dtls`, called by `cipher.rs`. Next: `kdf.rs` (session keys).

use std::fmt;

use super::profile::SrtpProfile;

/// Longest master key in bytes (AES-256).
pub(super) const KEY_MAX: usize = 32;
/// Longest master salt in bytes (AES-CM).
pub(super) const SALT_MAX: usize = 14;

/// Master key and salt of one direction. Never printed; overwritten when dropped.
pub struct MasterKey {
    key: [u8; KEY_MAX],
    salt: [u8; SALT_MAX],
    key_len: usize,
    salt_len: usize,
}

impl MasterKey {
    /// Wraps a key and a salt; `None` when one is longer than any profile's.
    pub fn new(key: &[u8], salt: &[u8]) -> Option<Self> {
        let mut master = Self {
            key: [0; KEY_MAX],
            salt: [0; SALT_MAX],
            key_len: key.len(),
            salt_len: salt.len(),
        };
        master.key.get_mut(..key.len())?.copy_from_slice(key);
        master.salt.get_mut(..salt.len())?.copy_from_slice(salt);
        Some(master)
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or_default()
    }

    /// Salt with zeros on the right up to 14 bytes, as RFC 7714 pads its 12-byte salts.
    pub(super) fn padded_salt(&self) -> [u8; SALT_MAX] {
        self.salt
    }

    pub(super) fn fits(&self, profile: SrtpProfile) -> bool {
        self.key_len == profile.key_len() && self.salt_len == profile.salt_len()
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.key.fill(0);
        self.salt.fill(0);
        // A reader of the two stores above: without one they may be optimised away.
        std::hint::black_box((&self.key, &self.salt));
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Master keys of both directions as DTLS exported them.
#[derive(Debug)]
pub struct SrtpKeys {
    /// Key that we seal with.
    pub local: MasterKey,
    /// Key that the peer seals with.
    pub remote: MasterKey,
}

impl SrtpKeys {
    /// Splits the exporter's output (RFC 5764 section 4.2: client key, server key, client salt,
    /// server salt). `is_client` is our DTLS role. `None` unless `material` has exactly
    /// [`SrtpProfile::keying_material_len`] bytes.
    pub fn from_exporter(profile: SrtpProfile, is_client: bool, material: &[u8]) -> Option<Self> {
        if material.len() != profile.keying_material_len() {
            return None;
        }
        let (keys, salts) = material.split_at_checked(2 * profile.key_len())?;
        let (client_key, server_key) = keys.split_at_checked(profile.key_len())?;
        let (client_salt, server_salt) = salts.split_at_checked(profile.salt_len())?;
        let client = MasterKey::new(client_key, client_salt)?;
        let server = MasterKey::new(server_key, server_salt)?;
        Some(if is_client {
            Self { local: client, remote: server }
        } else {
            Self { local: server, remote: client }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_keys_are_split_by_dtls_role() {
        for profile in SrtpProfile::PREFERENCE {
            let material: Vec<u8> = (0..profile.keying_material_len() as u8).collect();
            let client = SrtpKeys::from_exporter(profile, true, &material).unwrap();
            let server = SrtpKeys::from_exporter(profile, false, &material).unwrap();
            assert_eq!(client.local.key(), server.remote.key());
            assert_eq!(client.remote.salt, server.local.salt);
            assert_eq!(client.local.key()[0], 0);
            assert_eq!(client.local.salt[0] as usize, 2 * profile.key_len());
            assert!(SrtpKeys::from_exporter(profile, true, &material[1..]).is_none());
            assert_eq!(format!("{client:?}"), "SrtpKeys { local: ***, remote: *** }");
            assert_eq!(SrtpProfile::from_id(profile.id()), Some(profile));
        }
        assert_eq!(SrtpProfile::from_id(2), None);
    }
}
