//! Opening of the packets that one peer sends.
//!
//! Owns the peer's session keys and, per SSRC, the roll-over counter and the replay window. Both
//! change only after a packet has passed authentication: forged packets change nothing (quality B1).
//! Never parses RTP and never drops for a media reason. Called by `transport/peer`.
//! Next: `replay.rs`.

use super::cipher::Cipher;
use super::keys::MasterKey;
use super::packet::{E_FLAG, RTCP_CLEAR_LEN, RTCP_INDEX_LEN};
use super::profile::{CM_TAG_LEN, SrtpProfile};
use super::replay::{ReplayCheck, ReplayWindow};
use crate::error::DropReason;

/// Inbound SSRCs of one session at a time, for RTP and RTCP each (quality B2). One more retires the
/// SSRC that was silent longest: an encoder that restarts takes a new SSRC.
pub const MAX_SSRCS: usize = 32;

/// Retired SSRCs that are remembered, so that recorded packets of one are dropped
/// ([`DropReason::SrtpReplay`]). At the limit new SSRCs are refused ([`DropReason::TooManySsrcs`]).
const RETIRED_MAX: usize = 1_024;

/// Packet that authenticated and was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Length of the plaintext packet, header included.
    pub len: usize,
    /// Extended sequence number of 48 bits, `ROC << 16 | sequence`.
    pub index: u64,
}

/// Session keys, roll-over counters and replay windows of one session's incoming direction.
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
            // The first packet may follow a wrap that we did not see.
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

    /// Authenticates and decrypts one SRTCP packet in place; returns the plaintext length.
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
    /// Packets accepted so far; `Live::last` counts in them.
    accepted: u64,
}

/// SSRC with its window.
struct Live {
    ssrc: u32,
    /// Value of `Windows::accepted` at the SSRC's newest packet.
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

/// Index nearest to the newest one (RFC 3711 section 3.3.1 and appendix A), if it is not below zero,
/// and the first one ahead of it, if that differs. For an unknown SSRC the roll-over counter starts
/// at zero; a number in the lower half may also follow a wrap that we missed.
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
mod tests;
