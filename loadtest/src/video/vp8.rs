//! VP8 to publish: recorded clips of 60 frames in a loop, padded to the bitrate; and the packetizer
//! (RFC 7741).
//!
//! The last partition of a VP8 frame extends to the end of the frame, and a decoder stops where its
//! symbols end. So padding and stamp can follow it. A clip begins with its only keyframe: a
//! requested keyframe restarts the clip, and without requests the clip restarts at its end at the
//! latest. The clips are `testsrc` of ffmpeg at 30 frames/s, encoded with libvpx. Called by
//! `source`.

use bytes::Bytes;

use super::size::Size;
use crate::rtp::PAYLOAD_MAX;
use crate::stamp::{self, Stamp};

const IVF_HEADER: usize = 32;
const IVF_FRAME_HEADER: usize = 12;

/// Frames in a clip: a keyframe and 59 others.
pub(crate) const CLIP_FRAMES: u32 = 60;

/// Bytes of the payload descriptor: flags, extension flags, picture id of 15 bits.
const DESCRIPTOR_BYTES: usize = 4;

/// Padding of frames.
const FILLER: u8 = 0x55;

/// One layer's clip.
pub(crate) struct Encoder {
    frames: Vec<&'static [u8]>,
    next: usize,
    picture_id: u16,
}

impl Encoder {
    /// The clip of `size` (320x180, 1280x720, else 640x360).
    pub(crate) fn new(size: Size) -> Self {
        let mut file: &'static [u8] = match size {
            (320, 180) => include_bytes!("../../clips/vp8-l.ivf"),
            (1280, 720) => include_bytes!("../../clips/vp8-h.ivf"),
            _ => include_bytes!("../../clips/vp8-m.ivf"),
        };
        let mut frames = Vec::new();
        file = &file[IVF_HEADER..];
        while let Some((length, _)) = file.split_first_chunk::<4>() {
            let end = IVF_FRAME_HEADER + u32::from_le_bytes(*length) as usize;
            frames.push(&file[IVF_FRAME_HEADER..end]);
            file = &file[end..];
        }
        Self { frames, next: 0, picture_id: 0x1000 }
    }

    /// The frame of `stamp` as RTP payloads of `budget` bytes in all, or more if the frame needs
    /// more. The caller must request a keyframe at least every [`CLIP_FRAMES`] frames, because the
    /// clip cannot continue after its end.
    pub(crate) fn encode(&mut self, stamp: Stamp, budget: usize) -> Vec<Bytes> {
        if stamp.key {
            self.next = 0;
        }
        let mut frame = self.frames[self.next % self.frames.len()].to_vec();
        self.next += 1;
        let packets = budget.div_ceil(PAYLOAD_MAX).max(1);
        let padded = budget.saturating_sub(packets * DESCRIPTOR_BYTES + stamp::LEN);
        frame.resize(frame.len().max(padded), FILLER);
        let stamp_at = frame.len();
        frame.extend_from_slice(&stamp.write());
        let crc = crc32fast::hash(&frame[..frame.len() - stamp::CRC_LEN]);
        stamp::fill_crc(&mut frame, stamp_at, crc);

        self.picture_id = self.picture_id.wrapping_add(1) | 0x8000;
        let [id_high, id_low] = self.picture_id.to_be_bytes();
        frame
            .chunks(PAYLOAD_MAX - DESCRIPTOR_BYTES)
            .enumerate()
            .map(|(n, piece)| {
                let start = if n == 0 { 0x10 } else { 0 };
                let mut packet = vec![0x80 | start, 0x80, id_high, id_low];
                packet.extend_from_slice(piece);
                packet.into()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_of_sixty_frames_in_a_clip_is_a_keyframe() {
        for size in [(320, 180), (640, 360), (1280, 720)] {
            let frames = Encoder::new(size).frames;
            assert_eq!(frames.len(), CLIP_FRAMES as usize);
            let keys: Vec<_> = frames.iter().map(|f| f[0] & 1 == 0).collect();
            assert!(keys[0] && !keys[1..].contains(&true));
        }
    }
}
