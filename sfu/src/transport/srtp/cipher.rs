//! Cipher of one direction.
//!
//! Owns the choice between the two ciphers, by profile. Never decides about replay or indices. Called
//! by `receiver.rs` and `sender.rs`. Next: `gcm.rs`, `cm.rs`.

use super::cm::Cm;
use super::gcm::Gcm;
use super::kdf::{Kind, SessionKeys};
use super::keys::MasterKey;
use super::profile::SrtpProfile;

/// Cipher with the session keys of one direction for RTP and RTCP.
pub(super) enum Cipher {
    Gcm(Box<Gcm>),
    Cm(Box<Cm>),
}

impl Cipher {
    /// Derives the session keys. A master key of another profile's lengths is our bug.
    pub(super) fn new(profile: SrtpProfile, master: &MasterKey) -> Self {
        assert!(master.fits(profile), "the master key was exported for this profile");
        let rtp = SessionKeys::derive(master, Kind::Rtp);
        let rtcp = SessionKeys::derive(master, Kind::Rtcp);
        match profile {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => {
                Self::Gcm(Box::new(Gcm::new(&rtp, &rtcp)))
            }
            SrtpProfile::Aes128CmHmacSha1_80 => Self::Cm(Box::new(Cm::new(&rtp, &rtcp))),
        }
    }
}
