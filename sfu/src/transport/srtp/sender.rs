//! Sealing of the packets that we send to one peer.
//!
//! Owns the keys of our direction and the SRTCP index. Never chooses an RTP index: the caller
//! numbers its packets, and with GCM must never seal one number of an SSRC twice with different
//! bytes (architecture D1, GCM rule). That is why [`SrtpSender::seal_rtp`] stays in this crate.
//! Called by `transport/peer`, for RTP with what an `RtpSender` wrote. Next: `gcm.rs`, `cm.rs`.

use super::cipher::Cipher;
use super::keys::MasterKey;
use super::packet::{E_FLAG, RTCP_CLEAR_LEN, Tail};
use super::profile::SrtpProfile;

/// Session keys and SRTCP index of one session's outgoing direction.
pub struct SrtpSender {
    cipher: Cipher,
    next_rtcp_index: u32,
}

/// Highest RTP index, of 48 bits. A session beyond it needs new keys, so nothing is sealed.
const RTP_INDEX_MAX: u64 = (1 << 48) - 1;

impl SrtpSender {
    /// Derives the session keys.
    ///
    /// # Panics
    /// When the master key is not of this profile's lengths, which is our bug.
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Self {
        Self { cipher: Cipher::new(profile, master), next_rtcp_index: 0 }
    }

    /// SRTCP index of the next report.
    pub(crate) fn rtcp_index(&self) -> u32 {
        self.next_rtcp_index
    }

    /// Reads what sealing needs behind this value, so that it is in the caches by then.
    pub(crate) fn warm(&self) {
        if let Cipher::Gcm(gcm) = &self.cipher {
            gcm.warm();
        }
    }

    /// Seals the header in `out[..header_len]` (authenticated, clear), `prefix_len` bytes that are
    /// already behind it, and then `tail`, which is only read. Returns the packet's length in `out`,
    /// or `None` when `out` is too short or the 48-bit `index` (`ROC << 16 | sequence`) is over its
    /// end.
    pub(crate) fn seal_rtp(
        &mut self,
        out: &mut [u8],
        header_len: usize,
        prefix_len: usize,
        tail: Tail<'_>,
        ssrc: u32,
        index: u64,
    ) -> Option<usize> {
        if index > RTP_INDEX_MAX {
            return None;
        }
        match &self.cipher {
            Cipher::Gcm(gcm) => gcm.seal_rtp(out, header_len, prefix_len, tail, ssrc, index),
            Cipher::Cm(cm) => cm.seal_rtp(out, header_len, prefix_len, tail, ssrc, index),
        }
    }

    /// Seals the compound RTCP packet in `buf[..len]` in place; returns the SRTCP packet's length.
    /// `ssrc` is the sender SSRC of its header. `None` when `buf` lacks room for the overhead, the packet
    /// is shorter than 8 bytes, or all 2^31 indices are used.
    pub fn seal_rtcp(&mut self, buf: &mut [u8], len: usize, ssrc: u32) -> Option<usize> {
        if len < RTCP_CLEAR_LEN || self.next_rtcp_index >= E_FLAG {
            return None;
        }
        let trailer = E_FLAG | self.next_rtcp_index;
        let sealed = match &self.cipher {
            Cipher::Gcm(gcm) => gcm.seal_rtcp(buf, len, ssrc, trailer),
            Cipher::Cm(cm) => cm.seal_rtcp(buf, len, ssrc, trailer),
        }?;
        self.next_rtcp_index += 1;
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(profile: SrtpProfile) -> SrtpSender {
        let master =
            MasterKey::new(&vec![1; profile.key_len()], &vec![2; profile.salt_len()]).unwrap();
        SrtpSender::new(profile, &master)
    }

    #[test]
    fn buffer_with_space_for_the_tag_suffices_and_one_byte_less_does_not() {
        for profile in SrtpProfile::PREFERENCE {
            let mut sender = sender(profile);
            let mut out = [0u8; 200];
            let full = 12 + 2 + 50 + profile.rtp_overhead();
            let tail = || Tail { shared: &[9; 49], padding: &[1] };
            assert_eq!(sender.seal_rtp(&mut out[..full], 12, 2, tail(), 1, 0), Some(full));
            assert_eq!(sender.seal_rtp(&mut out[..full - 1], 12, 2, tail(), 1, 1), None);
            let full = 28 + profile.rtcp_overhead();
            assert_eq!(sender.seal_rtcp(&mut out[..full], 28, 1), Some(full));
            assert_eq!(sender.seal_rtcp(&mut out[..full - 1], 28, 1), None);
            assert_eq!(sender.seal_rtcp(&mut out, 7, 1), None);
        }
    }

    #[test]
    fn nothing_is_sealed_after_the_last_index() {
        for profile in SrtpProfile::PREFERENCE {
            let mut sender = sender(profile);
            let mut out = [0u8; 100];
            let none = || Tail::from([].as_slice());
            assert!(sender.seal_rtp(&mut out, 12, 0, none(), 1, RTP_INDEX_MAX).is_some());
            assert!(sender.seal_rtp(&mut out, 12, 0, none(), 1, RTP_INDEX_MAX + 1).is_none());
            sender.next_rtcp_index = E_FLAG - 1;
            assert!(sender.seal_rtcp(&mut out, 8, 1).is_some());
            assert!(sender.seal_rtcp(&mut out, 8, 1).is_none());
        }
    }
}
