//! One received VP8 frame: depacketizer (RFC 7741) and check of its bytes.
//!
//! Called by `assembly`. The publisher's side is `vp8`.

use super::frame_content::FrameContent;
use crate::flaw::Flaw;
use crate::stamp::{self, Stamp};

/// The bytes of one frame.
#[derive(Debug, Default)]
pub(crate) struct Vp8Assembly {
    /// The frame without payload descriptors.
    pub(super) data: Vec<u8>,
    /// Whether the packet that begins the frame came first.
    begun: bool,
}

impl Vp8Assembly {
    /// Adds a payload without its descriptor. `false` if it does not parse, or if it begins a frame
    /// that has already begun.
    pub(super) fn push(&mut self, payload: &[u8]) -> bool {
        let Some(first) = payload.first() else { return false };
        let mut at = 1;
        if first & 0x80 != 0 {
            let Some(flags) = payload.get(1) else { return false };
            at += 1;
            if flags & 0x80 != 0 {
                let Some(id) = payload.get(at) else { return false };
                at += if id & 0x80 != 0 { 2 } else { 1 };
            }
            at += usize::from(flags & 0x40 != 0) + usize::from(flags & 0x30 != 0);
        }
        let begins = first & 0x17 == 0x10; // S bit and partition 0
        if begins == self.begun {
            return false;
        }
        self.begun = true;
        let Some(piece) = payload.get(at..) else { return false };
        self.data.extend_from_slice(piece);
        !piece.is_empty()
    }

    pub(super) fn inspect(&self) -> Result<FrameContent, Flaw> {
        // RFC 6386 section 9.1: bit 0 is 0 in keyframes, and a start code follows the frame tag.
        let key = self.data.first().is_some_and(|first| first & 1 == 0);
        if key && self.data.get(3..6) != Some(&[0x9d, 0x01, 0x2a]) {
            return Err(Flaw::Altered);
        }
        let stamp = self
            .data
            .len()
            .checked_sub(stamp::LEN)
            .and_then(|at| Stamp::read(self.data.get(at..)?));
        let Some((stamp, sent_crc)) = stamp else {
            return Ok(FrameContent { key, stamp: None });
        };
        let covered = self.data.get(..self.data.len() - stamp::CRC_LEN).unwrap_or_default();
        if crc32fast::hash(covered) != sent_crc || stamp.key != key {
            return Err(Flaw::Altered);
        }
        Ok(FrameContent { key, stamp: Some(stamp) })
    }
}
