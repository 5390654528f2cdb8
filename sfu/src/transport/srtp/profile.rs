//! SRTP protection profiles (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
//!
//! Owns their numbers, lengths and our order of preference. Never encrypts. Called by
//! `transport/dtls` and the files beside it.

use super::packet::RTCP_INDEX_LEN;

/// Bytes of the authentication tag of AES-GCM.
pub(super) const GCM_TAG_LEN: usize = 16;
/// Bytes of master and session salt with AES-GCM.
pub(super) const GCM_SALT_LEN: usize = 12;
/// Bytes of the authentication tag of AES-CM: HMAC-SHA1 cut to 80 bits.
pub(super) const CM_TAG_LEN: usize = 10;
/// Bytes of master and session salt with AES-CM.
pub(super) const CM_SALT_LEN: usize = 14;

/// SRTP protection profiles that Weir supports, best first (whip-whep C56).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SrtpProfile {
    /// `SRTP_AEAD_AES_128_GCM` (RFC 7714). It is the cheapest: one pass with AES-NI.
    AeadAes128Gcm,
    /// `SRTP_AEAD_AES_256_GCM` (RFC 7714).
    AeadAes256Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80` (RFC 5764 section 4.1.2). Every client has it.
    Aes128CmHmacSha1_80,
}

impl SrtpProfile {
    /// All profiles in our order of preference.
    pub const PREFERENCE: [Self; 3] =
        [Self::AeadAes128Gcm, Self::AeadAes256Gcm, Self::Aes128CmHmacSha1_80];

    /// Name of the profile in `/api/v1`.
    pub fn label(self) -> &'static str {
        match self {
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Self::Aes128CmHmacSha1_80 => "AES128_CM_HMAC_SHA1_80",
        }
    }

    /// Number of the profile in `use_srtp` (IANA "DTLS-SRTP Protection Profiles").
    pub fn id(self) -> u16 {
        match self {
            Self::AeadAes128Gcm => 0x0007,
            Self::AeadAes256Gcm => 0x0008,
            Self::Aes128CmHmacSha1_80 => 0x0001,
        }
    }

    /// Profile with this number, if it is one of ours.
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
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => GCM_SALT_LEN,
            Self::Aes128CmHmacSha1_80 => CM_SALT_LEN,
        }
    }

    /// Bytes to export from DTLS (RFC 5764 section 4.2).
    pub fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }

    /// Bytes that sealing adds to an RTP packet.
    #[cfg(feature = "internals")]
    pub fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => GCM_TAG_LEN,
            Self::Aes128CmHmacSha1_80 => CM_TAG_LEN,
        }
    }

    /// Bytes that sealing adds to an RTCP packet.
    #[cfg(feature = "internals")]
    pub fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + RTCP_INDEX_LEN
    }
}
