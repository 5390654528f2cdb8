//! The pictures we publish: small, really decodable, exactly as many bytes as asked for, every frame stamped.
//!
//! Makes frames as RTP payloads; knows no clock and no network. Called by `publisher`; `h264` and `vp8` do the work.

mod bits;
pub(crate) mod h264;
pub(crate) mod vp8;

use bytes::Bytes;

use crate::options::Codec;
use crate::stamp::Stamp;

/// A keyframe is this many times as large as the frames between, as in real streams; the mean stays at the bitrate.
const KEYFRAME_WEIGHT: u32 = 4;

/// The longest span between keyframes.
pub(crate) const KEYFRAME_INTERVAL_S: u32 = 2;

/// Width and height in pixels.
pub(crate) type Size = (u32, u32);

/// The sizes there are, by simulcast layer. Without simulcast the middle one is used.
pub(crate) const SIZES: [Size; 3] = [(320, 180), (640, 360), (1280, 720)];

/// One layer of one publisher: turns stamps into packets' payloads at a steady bitrate.
pub(crate) struct Source {
    encoder: Encoder,
    fps: u32,
    bytes_per_s: u32,
    /// What earlier frames left over or took too much, in bytes: macroblocks are coarse.
    carry: i64,
}

enum Encoder {
    H264(h264::Encoder),
    Vp8(vp8::Encoder),
}

impl Source {
    /// A layer of `size` at `kbps` kbit/s of payload.
    pub(crate) fn new(codec: Codec, size: Size, kbps: u32, fps: u32) -> Self {
        let encoder = match codec {
            Codec::H264 => Encoder::H264(h264::Encoder::new(size)),
            Codec::Vp8 => Encoder::Vp8(vp8::Encoder::new(size)),
        };
        Self { encoder, fps, bytes_per_s: kbps * 125, carry: 0 }
    }

    /// The next frame as RTP payloads, the last of which ends the frame. A keyframe if the stamp says so.
    pub(crate) fn next(&mut self, stamp: Stamp) -> Vec<Bytes> {
        // Over one keyframe interval of n frames: (n - 1) + KEYFRAME_WEIGHT units are to be n mean frames.
        let frames = (self.fps * KEYFRAME_INTERVAL_S).max(1);
        let unit = (self.bytes_per_s / self.fps) * frames / (frames - 1 + KEYFRAME_WEIGHT);
        let target = if stamp.key { unit * KEYFRAME_WEIGHT } else { unit };
        let budget = usize::try_from(i64::from(target) + self.carry).unwrap_or(0);
        let packets = match &mut self.encoder {
            Encoder::H264(encoder) => encoder.encode(stamp, budget),
            Encoder::Vp8(encoder) => encoder.encode(stamp, budget),
        };
        let spent: usize = packets.iter().map(Bytes::len).sum();
        // Keyframes that were asked for come on top of the bitrate, and so does a picture that cannot be made smaller: the
        // debt is bounded to one frame.
        let left = i64::try_from(budget).unwrap_or(0) - i64::try_from(spent).unwrap_or(0);
        self.carry = left.clamp(-i64::from(unit), i64::from(unit));
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Frames, Piece, Verdict};

    #[test]
    fn independent_decoder_shows_every_frame_of_every_size_and_codec() {
        for (codec, extension) in [(Codec::H264, "h264"), (Codec::Vp8, "ivf")] {
            for (size, kbps) in SIZES.into_iter().zip([150, 1400, 4000]) {
                let mut source = Source::new(codec, size, kbps, 30);
                let (mut frames, mut verdicts) = (Frames::new(codec, true), Vec::new());
                let mut shown = Vec::new();
                for frame in 0..100 {
                    // One keyframe comes early, as if it were asked for.
                    let key = [0, 37, 60].contains(&frame);
                    let packets = source.next(Stamp { run: 1, frame, sent_us: 7, layer: 0, key });
                    for (n, payload) in packets.iter().enumerate() {
                        let marker = n + 1 == packets.len();
                        let piece =
                            Piece { timestamp: frame, marker, payload: Some(payload.clone()) };
                        frames.piece(&piece, &mut verdicts);
                    }
                    shown.push(frames.shown().to_vec());
                }
                assert!(verdicts.iter().all(|v| matches!(v, Verdict::Decodable { .. })));
                let file = crate::viewer::container(codec, 30, &shown);
                crate::ffmpeg::assert_decodes(&file, extension, 100);
            }
        }
    }

    #[test]
    fn bitrate_is_met_for_both_codecs_over_one_keyframe_interval() {
        for (codec, kbps) in
            [(Codec::H264, 1400), (Codec::H264, 300), (Codec::Vp8, 1400), (Codec::Vp8, 400)]
        {
            let mut source = Source::new(codec, (640, 360), kbps, 30);
            let bytes: usize = (0..60)
                .map(|frame| {
                    let stamp = Stamp { run: 1, frame, sent_us: 0, layer: 0, key: frame == 0 };
                    source.next(stamp).iter().map(Bytes::len).sum::<usize>()
                })
                .sum();
            let got = bytes as f64 * 8.0 / 2.0 / 1000.0;
            assert!((got / f64::from(kbps) - 1.0).abs() < 0.03, "{codec:?} asked {kbps} got {got}");
        }
    }
}
