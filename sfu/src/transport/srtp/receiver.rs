//! Opens what one peer sends.
//!
//! Owns the peer's keys and, per SSRC, the roll-over count and the replay window. They change only
//! after a packet has passed authentication: forged packets move nothing (quality B1). Never
//! parses RTP and never drops for a media reason. Called by `transport/peer`. Next: `replay.rs`.

use super::cipher::Cipher;
use super::keys::MasterKey;
use super::packet::{E_FLAG, RTCP_CLEAR_LEN, RTCP_INDEX_LEN};
use super::profile::{CM_TAG_LEN, SrtpProfile};
use super::replay::{ReplayCheck, ReplayWindow};
use crate::error::DropReason;

/// Inbound SSRCs of one session at a time, for RTP and RTCP each (quality B2). One more retires the one
/// that was silent longest: an encoder that starts anew takes a new SSRC.
pub const MAX_SSRCS: usize = 32;

/// Retired SSRCs, remembered so that a recording of theirs is not taken for a new start
/// ([`DropReason::SrtpReplay`]). At the limit new SSRCs are refused ([`DropReason::TooManySsrcs`]).
const RETIRED_MAX: usize = 1_024;

/// A packet that authenticated and was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Length of the plaintext packet, header included.
    pub len: usize,
    /// The 48-bit extended sequence number, `ROC << 16 | sequence`.
    pub index: u64,
}

/// The keys, roll-over counts and replay windows of one session's incoming direction.
pub struct SrtpReceiver {
    cipher: Cipher,
    rtp: Windows,
    rtcp: Windows,
}

impl SrtpReceiver {
    /// Derives the session keys.
    ///
    /// # Panics
    /// When the master key is not of this profile's lengths, which is our bug.
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Self {
        Self {
            cipher: Cipher::new(profile, master),
            rtp: Windows::default(),
            rtcp: Windows::default(),
        }
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub(crate) fn warm(&self) {
        if let Cipher::Gcm(gcm) = &self.cipher {
            gcm.warm();
        }
        self.rtp.live.iter().for_each(|live| live.window.warm());
    }

    /// Authenticates and decrypts one RTP packet into `out`: the header is copied, the payload
    /// decrypted behind it. `header_len` (CSRCs and extensions included), `ssrc` and `sequence` are
    /// the packet's own. `out` may be as long as the packet, or shorter by the tag.
    ///
    /// # Errors
    /// [`DropReason::SrtpAuth`] for a wrong tag or an impossible length, [`DropReason::SrtpReplay`]
    /// for a number seen before or too old, [`DropReason::TooManySsrcs`].
    pub fn open_rtp(
        &mut self,
        packet: &[u8],
        header_len: usize,
        ssrc: u32,
        sequence: u16,
        out: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let mut attempt = |index| match &self.cipher {
            Cipher::Gcm(gcm) => gcm.open_rtp(packet, header_len, ssrc, index, out),
            Cipher::Cm(cm) => cm.open_rtp(packet, header_len, ssrc, index, out),
        };
        let window = self.rtp.get(ssrc);
        let (nearest, later) = guess(window.map(ReplayWindow::newest), sequence);
        let verdict = match (nearest, window) {
            (None, _) => ReplayCheck::Old,
            (Some(index), Some(window)) => window.check(index),
            (Some(_), None) => ReplayCheck::New,
        };
        let attempts = match verdict {
            ReplayCheck::Seen => return Err(DropReason::SrtpReplay),
            ReplayCheck::New if window.is_some() => [nearest, None],
            // A first packet may follow a wrap that we did not see.
            ReplayCheck::New => [nearest, later],
            // Behind the window, or ahead by more than half the number space: a long gap.
            ReplayCheck::Old => [None, later],
        };
        let opened = attempts
            .into_iter()
            .flatten()
            .find_map(|index| attempt(index).map(|len| Opened { len, index }));
        let Some(opened) = opened else {
            return Err(match verdict {
                ReplayCheck::Old => DropReason::SrtpReplay,
                ReplayCheck::New | ReplayCheck::Seen => DropReason::SrtpAuth,
            });
        };
        self.rtp.accept(ssrc, opened.index)?;
        Ok(opened)
    }

    /// Authenticates and decrypts one SRTCP packet in place; the plaintext length.
    ///
    /// # Errors
    /// [`DropReason::SrtpAuth`] for a wrong tag, an impossible length or an unencrypted packet
    /// (RFC 8827 section 6.5 wants encryption), [`DropReason::SrtpReplay`] for an index seen
    /// before or too old, [`DropReason::TooManySsrcs`].
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let (ssrc, trailer) = match &self.cipher {
            Cipher::Gcm(_) => rtcp_fields(packet, 0),
            Cipher::Cm(_) => rtcp_fields(packet, CM_TAG_LEN),
        }
        .ok_or(DropReason::SrtpAuth)?;
        if trailer & E_FLAG == 0 {
            return Err(DropReason::SrtpAuth);
        }
        let index = u64::from(trailer & !E_FLAG);
        let window = self.rtcp.get(ssrc);
        if window.is_some_and(|window| window.check(index) != ReplayCheck::New) {
            return Err(DropReason::SrtpReplay);
        }
        let len = match &self.cipher {
            Cipher::Gcm(gcm) => gcm.open_rtcp(packet, ssrc, trailer),
            Cipher::Cm(cm) => cm.open_rtcp(packet, ssrc, trailer),
        }
        .ok_or(DropReason::SrtpAuth)?;
        self.rtcp.accept(ssrc, index)?;
        Ok(len)
    }
}

/// Replay windows by SSRC; few, so a scan of a vector beats hashing.
#[derive(Default)]
struct Windows {
    live: Vec<Live>,
    retired: Vec<u32>,
    /// Packets accepted so far: the clock of `Live::last`.
    accepted: u64,
}

struct Live {
    ssrc: u32,
    last: u64,
    window: ReplayWindow,
}

impl Windows {
    fn get(&self, ssrc: u32) -> Option<&ReplayWindow> {
        self.live.iter().find(|live| live.ssrc == ssrc).map(|live| &live.window)
    }

    /// Notes a packet that authenticated and was new.
    fn accept(&mut self, ssrc: u32, index: u64) -> Result<(), DropReason> {
        self.accepted += 1;
        if let Some(live) = self.live.iter_mut().find(|live| live.ssrc == ssrc) {
            live.last = self.accepted;
            live.window.accept(index);
            return Ok(());
        }
        if self.retired.contains(&ssrc) {
            return Err(DropReason::SrtpReplay);
        }
        if self.live.len() >= MAX_SSRCS {
            if self.retired.len() >= RETIRED_MAX {
                return Err(DropReason::TooManySsrcs);
            }
            let silent = self.live.iter().enumerate().min_by_key(|(_, live)| live.last);
            let silent = silent.map(|(place, _)| place).ok_or(DropReason::TooManySsrcs)?;
            self.retired.push(self.live.swap_remove(silent).ssrc);
        }
        self.live.push(Live { ssrc, last: self.accepted, window: ReplayWindow::new(index) });
        Ok(())
    }
}

/// The index nearest to the newest one (RFC 3711 section 3.3.1 and appendix A), if it is not below
/// zero, and the first one ahead of it, if that differs. For an unknown SSRC the count starts at
/// zero; a number in the lower half may also stand right behind a wrap that we missed.
fn guess(newest: Option<u64>, sequence: u16) -> (Option<u64>, Option<u64>) {
    const CYCLE: u64 = 1 << 16;
    const HALF: u64 = 1 << 15;
    let sequence = u64::from(sequence);
    let Some(newest) = newest else {
        return (Some(sequence), (sequence < HALF).then_some(sequence + CYCLE));
    };
    let same_cycle = (newest & !(CYCLE - 1)) | sequence;
    let ahead = if same_cycle > newest { same_cycle } else { same_cycle + CYCLE };
    if ahead >> 48 != 0 {
        return (ahead.checked_sub(CYCLE), None);
    }
    if ahead - newest <= HALF {
        (Some(ahead), None)
    } else {
        (ahead.checked_sub(CYCLE), Some(ahead))
    }
}

/// Sender SSRC and trailer word of an SRTCP packet whose tag follows (`tag_after` bytes) or
/// precedes (0) that word.
fn rtcp_fields(packet: &[u8], tag_after: usize) -> Option<(u32, u32)> {
    let ssrc = packet.get(4..RTCP_CLEAR_LEN)?.first_chunk::<4>()?;
    let end = packet.len().checked_sub(tag_after)?;
    let trailer = packet.get(RTCP_CLEAR_LEN..end)?.last_chunk::<RTCP_INDEX_LEN>()?;
    Some((u32::from_be_bytes(*ssrc), u32::from_be_bytes(*trailer)))
}

#[cfg(test)]
mod tests {
    use super::super::SrtpSender;
    use super::*;
    use rtc_srtp::context::Context;
    use rtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
    use rtc_srtp::protection_profile::ProtectionProfile;

    fn key(profile: SrtpProfile) -> Vec<u8> {
        (0..profile.key_len() as u8).map(|i| i.wrapping_mul(37)).collect()
    }

    fn salt(profile: SrtpProfile) -> Vec<u8> {
        (0..profile.salt_len() as u8).map(|i| 200 - i).collect()
    }

    fn pair(profile: SrtpProfile) -> (SrtpSender, SrtpReceiver) {
        let master = MasterKey::new(&key(profile), &salt(profile)).unwrap();
        (SrtpSender::new(profile, &master), SrtpReceiver::new(profile, &master))
    }

    fn oracle(profile: SrtpProfile) -> Context {
        let theirs = match profile {
            SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
            SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        };
        let provider = rtc_crypto::default_provider().unwrap();
        Context::new(
            &key(profile),
            &salt(profile),
            theirs,
            Some(srtp_replay_protection(64)),
            Some(srtcp_replay_protection(64)),
            provider.crypto(),
        )
        .unwrap()
    }

    fn header(ssrc: u32, sequence: u16) -> [u8; 12] {
        let mut header = [0x80, 96, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&sequence.to_be_bytes());
        header[8..].copy_from_slice(&ssrc.to_be_bytes());
        header
    }

    fn seal(sender: &mut SrtpSender, ssrc: u32, index: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 12 + payload.len() + 16];
        out[..12].copy_from_slice(&header(ssrc, index as u16));
        let len = sender.seal_rtp(&mut out, 12, 0, payload.into(), ssrc, index).unwrap();
        out.truncate(len);
        out
    }

    fn open(receiver: &mut SrtpReceiver, ssrc: u32, packet: &[u8]) -> Result<Opened, DropReason> {
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        let mut out = [0u8; 1500];
        receiver.open_rtp(packet, 12, ssrc, sequence, &mut out)
    }

    #[test]
    fn agrees_with_the_oracle_in_both_directions() {
        for profile in SrtpProfile::PREFERENCE {
            let (mut sender, mut receiver) = pair(profile);
            let (mut open_oracle, mut seal_oracle) = (oracle(profile), oracle(profile));
            for (n, size) in (65_500u64..65_600).zip((0..).step_by(12)) {
                let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
                let mut plain = header(7, n as u16).to_vec();
                plain.extend_from_slice(&payload);

                let ours = seal(&mut sender, 7, n, &payload);
                assert_eq!(ours.len(), plain.len() + profile.rtp_overhead());
                assert_eq!(open_oracle.decrypt_rtp(&ours).unwrap(), plain, "{profile:?} {n}");

                let theirs = seal_oracle.encrypt_rtp(&plain).unwrap();
                assert_eq!(theirs, ours);
                let mut out = [0u8; 1500];
                let opened = receiver.open_rtp(&theirs, 12, 7, n as u16, &mut out).unwrap();
                assert_eq!(opened, Opened { len: plain.len(), index: n });
                assert_eq!(out[..opened.len], plain);
            }
        }
    }

    #[test]
    fn rtcp_agrees_with_the_oracle_in_both_directions() {
        for profile in SrtpProfile::PREFERENCE {
            let (mut sender, mut receiver) = pair(profile);
            let (mut open_oracle, mut seal_oracle) = (oracle(profile), oracle(profile));
            for n in 0..50u8 {
                let mut plain = vec![0x81, 201, 0, 7, 0, 0, 0, 9];
                plain.extend(std::iter::repeat_n(n, 24));
                let mut buf = [0u8; 100];
                buf[..32].copy_from_slice(&plain);
                let len = sender.seal_rtcp(&mut buf, 32, 9).unwrap();
                assert_eq!(len, 32 + profile.rtcp_overhead());
                assert_eq!(open_oracle.decrypt_rtcp(&buf[..len]).unwrap(), plain);

                let mut theirs = seal_oracle.encrypt_rtcp(&plain).unwrap().to_vec();
                let mut again = theirs.clone();
                let opened = receiver.open_rtcp(&mut theirs).unwrap();
                assert_eq!(theirs[..opened], plain);
                assert_eq!(receiver.open_rtcp(&mut again), Err(DropReason::SrtpReplay));
            }
        }
    }

    #[test]
    fn unencrypted_or_damaged_rtcp_is_refused_and_leaves_the_window() {
        for profile in SrtpProfile::PREFERENCE {
            let (mut sender, mut receiver) = pair(profile);
            let mut good = [0u8; 100];
            good[..8].copy_from_slice(&[0x80, 201, 0, 1, 0, 0, 0, 9]);
            let len = sender.seal_rtcp(&mut good, 8, 9).unwrap();
            for at in 0..len {
                let mut bad = good;
                bad[at] ^= 0x80;
                assert_eq!(receiver.open_rtcp(&mut bad[..len]), Err(DropReason::SrtpAuth), "{at}");
            }
            assert_eq!(receiver.open_rtcp(&mut good[..len]), Ok(8));
        }
    }

    // quality B4 item 7
    #[test]
    fn forged_packets_leave_the_window_where_it_was() {
        for profile in SrtpProfile::PREFERENCE {
            let (mut sender, mut receiver) = pair(profile);
            let first = seal(&mut sender, 7, 100, b"first");
            assert!(open(&mut receiver, 7, &first).is_ok());
            for sequence in (0..=u16::MAX).step_by(97) {
                let mut forged = seal(&mut sender, 7, 100, b"first");
                forged[2..4].copy_from_slice(&sequence.to_be_bytes());
                let verdict = open(&mut receiver, 7, &forged).unwrap_err();
                assert!(matches!(verdict, DropReason::SrtpAuth | DropReason::SrtpReplay));
            }
            let next = seal(&mut sender, 7, 101, b"next");
            assert_eq!(open(&mut receiver, 7, &next).unwrap().index, 101);
            // A forged SSRC stores nothing either.
            let mut stranger = next;
            stranger[8..12].copy_from_slice(&8u32.to_be_bytes());
            assert_eq!(open(&mut receiver, 8, &stranger), Err(DropReason::SrtpAuth));
            assert_eq!(receiver.rtp.live.len(), 1);
        }
    }

    // quality B4 item 7
    #[test]
    fn a_replayed_second_is_dropped_whole() {
        for profile in SrtpProfile::PREFERENCE {
            let (mut sender, mut receiver) = pair(profile);
            let second: Vec<_> =
                (65_000..66_500).map(|n| seal(&mut sender, 7, n, &[n as u8; 40])).collect();
            assert!(second.iter().all(|packet| open(&mut receiver, 7, packet).is_ok()));
            for packet in &second {
                assert_eq!(open(&mut receiver, 7, packet), Err(DropReason::SrtpReplay));
            }
            let next = seal(&mut sender, 7, 66_500, b"live");
            assert_eq!(open(&mut receiver, 7, &next).unwrap().index, 66_500);
        }
    }

    // quality B2
    #[test]
    fn one_ssrc_too_many_retires_the_one_silent_longest_which_never_comes_back() {
        let (mut sender, mut receiver) = pair(SrtpProfile::AeadAes128Gcm);
        let first = seal(&mut sender, 0, 1, b"x");
        let all = (MAX_SSRCS + RETIRED_MAX) as u32;
        for ssrc in 0..all {
            let packet = seal(&mut sender, ssrc, 1, b"x");
            assert!(open(&mut receiver, ssrc, &packet).is_ok());
            // The second one goes on all the time.
            let steady = seal(&mut sender, 1, 2 + u64::from(ssrc), b"x");
            assert!(ssrc == 0 || open(&mut receiver, 1, &steady).is_ok());
            assert!(receiver.rtp.live.len() <= MAX_SSRCS);
        }
        assert_eq!(open(&mut receiver, 0, &first), Err(DropReason::SrtpReplay));
        let one_more = seal(&mut sender, all, 1, b"x");
        assert_eq!(open(&mut receiver, all, &one_more), Err(DropReason::TooManySsrcs));
    }

    // quality B1: ROC at join, at wrap, after a gap of 40,000
    #[test]
    fn roll_over_is_followed_at_join_at_wrap_and_over_long_gaps() {
        let stories: &[&[u64]] = &[
            // The wrap right after joining, in order and disordered around it.
            &[65_534, 65_535, 65_536, 65_537],
            &[65_530, 65_538, 65_535, 65_536, 65_534],
            // Joined after a wrap that was lost: the very first packet has ROC 1.
            &[65_536 + 3, 65_536 + 4, 65_536 + 1],
            // Gaps below and above half of the number space, within a cycle and over a wrap.
            &[10, 10 + 30_000, 10 + 60_000, 10 + 92_000],
            &[1_000, 41_000, 81_000, 121_000],
            &[100_000 - 65_536, 140_000 - 65_536, 180_000 - 65_536],
            // Late by almost the whole window.
            &[70_000, 70_000 - REPLAY_WINDOW_LESS_ONE, 70_001],
        ];
        const REPLAY_WINDOW_LESS_ONE: u64 = super::super::REPLAY_WINDOW - 1;
        for profile in SrtpProfile::PREFERENCE {
            for story in stories {
                let (mut sender, mut receiver) = pair(profile);
                for &index in *story {
                    let packet = seal(&mut sender, 7, index, b"payload");
                    let opened = open(&mut receiver, 7, &packet);
                    assert_eq!(opened.map(|o| o.index), Ok(index), "{profile:?} {story:?}");
                }
            }
        }
    }

    #[test]
    fn a_jump_by_nearly_a_cycle_opens_as_what_it_is_and_its_past_stays_shut() {
        let (mut sender, mut receiver) = pair(SrtpProfile::Aes128CmHmacSha1_80);
        let first = seal(&mut sender, 7, 5, b"x");
        assert!(open(&mut receiver, 7, &first).is_ok());
        // Nearest would be 11 before the very first packet, which cannot be.
        let far = seal(&mut sender, 7, 65_530, b"x");
        assert_eq!(open(&mut receiver, 7, &far).unwrap().index, 65_530);
        // The old packet now looks like one ahead, and fails as such.
        assert_eq!(open(&mut receiver, 7, &first), Err(DropReason::SrtpAuth));
    }

    // quality B4 item 8
    #[test]
    fn every_short_length_is_refused_without_a_panic() {
        for profile in SrtpProfile::PREFERENCE {
            let (_, mut receiver) = pair(profile);
            for len in 0..=64usize {
                let junk = vec![0x80; len];
                for header_len in [0, 12, 16, 72, usize::MAX] {
                    let mut out = [0u8; 64];
                    let opened = receiver.open_rtp(&junk, header_len, 1, 1, &mut out);
                    assert_eq!(opened, Err(DropReason::SrtpAuth));
                }
                assert_eq!(receiver.open_rtcp(&mut junk.clone()), Err(DropReason::SrtpAuth));
            }
        }
    }
}
