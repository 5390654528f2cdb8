//! SRTP and SRTCP (RFC 3711, RFC 7714): profiles, keys, and the two directions.
//!
//! Owns the packet cryptography of one session. Never parses RTP beyond what it is told (header
//! length, SSRC, sequence number) and never negotiates: `dtls.rs` hands it the keys. Called by
//! `transport/peer` for each packet in and by the forwarders for each packet out.
//! Next: `receiver.rs` (roll-over, replay, open), `sender.rs` (seal), `gcm.rs` and `cm.rs`
//! (the two ciphers), `kdf.rs` (session keys), `replay.rs` (the window).

use std::fmt;

mod cm;
mod gcm;
mod kdf;
mod receiver;
mod replay;
mod sender;

pub use receiver::{MAX_SSRCS, Opened, SrtpReceiver};
pub use replay::REPLAY_WINDOW;
pub use sender::SrtpSender;

use self::cm::Cm;
use self::gcm::Gcm;
use self::kdf::SessionKeys;

/// Longest master key in bytes (AES-256).
const KEY_MAX: usize = 32;
/// Longest master salt in bytes (AES-CM).
const SALT_MAX: usize = 14;
/// The SRTCP trailer: E flag and 31-bit index.
const RTCP_INDEX_LEN: usize = 4;
/// RTCP bytes that stay in the clear: first header word and sender SSRC.
const RTCP_CLEAR_LEN: usize = 8;
/// The E flag of the SRTCP trailer: the packet is encrypted.
const E_FLAG: u32 = 0x8000_0000;

/// What follows the header and the bytes written behind it: shared plaintext, then RTP padding of this
/// packet alone (RFC 3550 section 5.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail<'a> {
    pub(crate) shared: &'a [u8],
    pub(crate) padding: &'a [u8],
}

impl Tail<'_> {
    fn len(&self) -> Option<usize> {
        self.shared.len().checked_add(self.padding.len())
    }
}

impl<'a> From<&'a [u8]> for Tail<'a> {
    fn from(shared: &'a [u8]) -> Self {
        Self { shared, padding: &[] }
    }
}

/// The SRTP protection profiles Weir speaks, best first (whip-whep C56).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SrtpProfile {
    /// `SRTP_AEAD_AES_128_GCM` (RFC 7714), the cheapest: one pass on AES-NI.
    AeadAes128Gcm,
    /// `SRTP_AEAD_AES_256_GCM` (RFC 7714).
    AeadAes256Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80` (RFC 5764 section 4.1.2), the one that everybody has.
    Aes128CmHmacSha1_80,
}

impl SrtpProfile {
    /// All of them in our order of preference.
    pub const PREFERENCE: [Self; 3] =
        [Self::AeadAes128Gcm, Self::AeadAes256Gcm, Self::Aes128CmHmacSha1_80];

    /// The name in `/api/v1`.
    pub fn label(self) -> &'static str {
        match self {
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Self::Aes128CmHmacSha1_80 => "AES128_CM_HMAC_SHA1_80",
        }
    }

    /// The number in `use_srtp` (IANA "DTLS-SRTP Protection Profiles").
    pub fn id(self) -> u16 {
        match self {
            Self::AeadAes128Gcm => 0x0007,
            Self::AeadAes256Gcm => 0x0008,
            Self::Aes128CmHmacSha1_80 => 0x0001,
        }
    }

    /// The profile with this number, if it is one of ours.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::PREFERENCE.into_iter().find(|profile| profile.id() == id)
    }

    /// Master key length in bytes.
    pub fn key_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::Aes128CmHmacSha1_80 => 16,
        }
    }

    /// Master salt length in bytes.
    pub fn salt_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => gcm::SALT_LEN,
            Self::Aes128CmHmacSha1_80 => cm::SALT_LEN,
        }
    }

    /// How many bytes to export from DTLS (RFC 5764 section 4.2).
    pub fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }

    /// Bytes that sealing adds to an RTP packet.
    pub fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => gcm::TAG_LEN,
            Self::Aes128CmHmacSha1_80 => cm::TAG_LEN,
        }
    }

    /// Bytes that sealing adds to an RTCP packet.
    pub fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + RTCP_INDEX_LEN
    }
}

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

    fn key(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or_default()
    }

    /// The salt, zeros on the right up to 14 bytes: RFC 7714 keys their 12-byte salts so.
    fn padded_salt(&self) -> [u8; SALT_MAX] {
        self.salt
    }

    fn fits(&self, profile: SrtpProfile) -> bool {
        self.key_len == profile.key_len() && self.salt_len == profile.salt_len()
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.key.fill(0);
        self.salt.fill(0);
        // Keeps the two stores above: without a reader they may be optimised away.
        std::hint::black_box((&self.key, &self.salt));
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The keys of both directions as DTLS exported them.
#[derive(Debug)]
pub struct SrtpKeys {
    /// What we seal with.
    pub local: MasterKey,
    /// What the peer seals with.
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

/// The cipher of one direction, with its session keys for RTP and RTCP.
enum Cipher {
    Gcm(Box<Gcm>),
    Cm(Box<Cm>),
}

impl Cipher {
    /// Derives the session keys. A master key of another profile's lengths is our bug.
    fn new(profile: SrtpProfile, master: &MasterKey) -> Self {
        assert!(master.fits(profile), "the master key was exported for this profile");
        let rtp = SessionKeys::derive(master, kdf::Kind::Rtp);
        let rtcp = SessionKeys::derive(master, kdf::Kind::Rtcp);
        match profile {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => {
                Self::Gcm(Box::new(Gcm::new(&rtp, &rtcp)))
            }
            SrtpProfile::Aes128CmHmacSha1_80 => Self::Cm(Box::new(Cm::new(&rtp, &rtcp))),
        }
    }
}

/// Splits one SRTP packet at `header_len` and before a tag of `tag_len` bytes.
fn split_rtp(packet: &[u8], header_len: usize, tag_len: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, body) = packet.split_at_checked(header_len)?;
    let (ciphertext, tag) = body.split_at_checked(body.len().checked_sub(tag_len)?)?;
    Some((header, ciphertext, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exporter_is_split_by_role() {
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
