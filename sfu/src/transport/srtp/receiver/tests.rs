//! Tests of opening SRTP and SRTCP, with `rtc-srtp` as a second opinion.

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
fn rtp_agrees_with_rtc_srtp_in_both_directions() {
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
fn rtcp_agrees_with_rtc_srtp_in_both_directions() {
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
fn unencrypted_or_damaged_rtcp_is_refused_and_leaves_the_window_unchanged() {
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
fn forged_packets_leave_the_window_unchanged() {
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
fn each_packet_of_a_replayed_second_is_dropped() {
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
fn ssrc_over_the_limit_retires_the_one_silent_longest_for_good() {
    let (mut sender, mut receiver) = pair(SrtpProfile::AeadAes128Gcm);
    let first = seal(&mut sender, 0, 1, b"x");
    let all = (MAX_SSRCS + RETIRED_MAX) as u32;
    for ssrc in 0..all {
        let packet = seal(&mut sender, ssrc, 1, b"x");
        assert!(open(&mut receiver, ssrc, &packet).is_ok());
        // The second SSRC sends all the time.
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
fn roll_over_is_followed_at_join_at_wrap_and_across_long_gaps() {
    let cases: &[&[u64]] = &[
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
        for indices in cases {
            let (mut sender, mut receiver) = pair(profile);
            for &index in *indices {
                let packet = seal(&mut sender, 7, index, b"payload");
                let opened = open(&mut receiver, 7, &packet);
                assert_eq!(opened.map(|o| o.index), Ok(index), "{profile:?} {indices:?}");
            }
        }
    }
}

#[test]
fn jump_by_nearly_a_cycle_opens_and_older_packets_do_not() {
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
fn packet_of_any_short_length_is_refused_without_a_panic() {
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
