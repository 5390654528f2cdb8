//! One layer of one publisher: decodable frames at a steady bitrate, each with a stamp.
//!
//! Returns frames as RTP payloads. Called by `publisher` and `full`; `h264` and `vp8` encode.

use bytes::Bytes;

use super::layers::LayerSpec;
use super::vp8::CLIP_FRAMES;
use super::{h264, vp8};
use crate::options::{Codec, Video};
use crate::stamp::Stamp;

/// Size of a keyframe as a multiple of the mean size of other frames, as in real streams. The mean
/// bitrate is not affected.
const KEYFRAME_WEIGHT: u32 = 9;

/// Sizes of the frames between keyframes in percent of their mean: twenty quantiles of a log-normal
/// distribution (sigma 0.35, mean 1), shuffled. Their sum is 2000, so that the bitrate holds over
/// every twenty frames.
const SIZE_PERCENT: [u32; 20] =
    [80, 117, 65, 93, 151, 72, 106, 188, 84, 123, 46, 97, 76, 137, 101, 59, 111, 88, 129, 77];

/// One layer of one publisher: turns stamps into the payloads of frames at a steady bitrate.
pub(crate) struct Source {
    encoder: Encoder,
    fps: u32,
    /// Frames from one keyframe to the next, if no keyframe is requested.
    interval: u32,
    bytes_per_s: u32,
    /// Bytes that earlier frames left over (or exceeded, if negative): the size of a macroblock is
    /// coarse.
    carry: i64,
}

enum Encoder {
    H264(h264::Encoder),
    Vp8(vp8::Encoder),
}

impl Source {
    /// A source for the layer `spec` of `video`.
    pub(crate) fn new(video: &Video, spec: LayerSpec) -> Self {
        let LayerSpec { size, kbps } = spec;
        let encoder = match video.codec {
            Codec::H264 => Encoder::H264(h264::Encoder::new(size)),
            Codec::Vp8 => Encoder::Vp8(vp8::Encoder::new(size)),
        };
        let fps = video.fps.max(1);
        let interval = match video.codec {
            Codec::H264 => fps * video.keyframe_s.max(1),
            Codec::Vp8 => (fps * video.keyframe_s.max(1)).min(CLIP_FRAMES),
        };
        Self { encoder, fps, interval, bytes_per_s: kbps * 125, carry: 0 }
    }

    /// The next frame as RTP payloads; the last payload ends the frame. It is a keyframe if the
    /// stamp says so.
    pub(crate) fn next(&mut self, stamp: Stamp) -> Vec<Bytes> {
        // One keyframe interval has n frames: (n - 1) + KEYFRAME_WEIGHT units equal n mean frames.
        let frames = self.interval;
        let unit = (self.bytes_per_s / self.fps) * frames / (frames - 1 + KEYFRAME_WEIGHT);
        let percent = SIZE_PERCENT[stamp.frame as usize % SIZE_PERCENT.len()];
        let target =
            if stamp.key { unit * KEYFRAME_WEIGHT } else { (unit * percent).div_ceil(100) };
        let budget = usize::try_from(i64::from(target) + self.carry).unwrap_or(0);
        let packets = match &mut self.encoder {
            Encoder::H264(encoder) => encoder.encode(stamp, budget),
            Encoder::Vp8(encoder) => encoder.encode(stamp, budget),
        };
        let spent: usize = packets.iter().map(Bytes::len).sum();
        // Requested keyframes exceed the bitrate, and so does a picture that cannot be made
        // smaller: the carry is limited to one frame.
        let left = i64::try_from(budget).unwrap_or(0) - i64::try_from(spent).unwrap_or(0);
        self.carry = left.clamp(-i64::from(unit), i64::from(unit));
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame_checker::{FrameChecker, FrameJudgement, FramePacket};
    use crate::video::size::SIZES;
    use crate::video::test_options as options;

    #[test]
    fn frame_sizes_vary_around_a_steady_mean() {
        assert_eq!(SIZE_PERCENT.iter().sum::<u32>(), 2000);
        let mut source =
            Source::new(&options(Codec::H264), LayerSpec { size: (640, 360), kbps: 1400 });
        let sizes: Vec<usize> = (0..60)
            .map(|frame| {
                let stamp = Stamp { run: 1, frame, sent_us: 0, layer: 0, key: frame == 0 };
                source.next(stamp).iter().map(Bytes::len).sum()
            })
            .collect();
        let between = &sizes[1..];
        let mean = between.iter().sum::<usize>() / between.len();
        let (least, most) = (between.iter().min().copied(), between.iter().max().copied());
        assert!(least.is_some_and(|least| least < mean * 2 / 3), "{least:?} of {mean}");
        assert!(most.is_some_and(|most| most > mean * 3 / 2), "{most:?} of {mean}");
        assert!((8..=10).contains(&(sizes[0] / mean)), "{} of {mean}", sizes[0]);
    }

    #[test]
    fn ffmpeg_decodes_every_frame_of_every_size_and_codec() {
        for (codec, extension) in [(Codec::H264, "h264"), (Codec::Vp8, "ivf")] {
            for (size, kbps) in SIZES.into_iter().zip([150, 1400, 4000]) {
                let mut source = Source::new(&options(codec), LayerSpec { size, kbps });
                let (mut checker, mut judgements) = (FrameChecker::new(codec, true), Vec::new());
                let mut shown = Vec::new();
                for frame in 0..100 {
                    // One keyframe comes early, as if it had been requested.
                    let key = [0, 37, 60].contains(&frame);
                    let packets = source.next(Stamp { run: 1, frame, sent_us: 7, layer: 0, key });
                    for (n, payload) in packets.iter().enumerate() {
                        let marker = n + 1 == packets.len();
                        let packet = FramePacket {
                            timestamp: frame,
                            marker,
                            payload: Some(payload.clone()),
                        };
                        checker.on_packet(&packet, &mut judgements);
                    }
                    shown.push(checker.shown().to_vec());
                }
                assert!(judgements.iter().all(|j| matches!(j, FrameJudgement::Decodable { .. })));
                let file = crate::recording::container(codec, 30, &shown);
                crate::ffmpeg::assert_decodes(&file, extension, 100);
            }
        }
    }

    #[test]
    fn bitrate_of_both_codecs_is_met_over_one_keyframe_interval() {
        for (codec, kbps) in
            [(Codec::H264, 1400), (Codec::H264, 300), (Codec::Vp8, 1400), (Codec::Vp8, 400)]
        {
            let mut source = Source::new(&options(codec), LayerSpec { size: (640, 360), kbps });
            let bytes: usize = (0..60)
                .map(|frame| {
                    let stamp = Stamp { run: 1, frame, sent_us: 0, layer: 0, key: frame == 0 };
                    source.next(stamp).iter().map(Bytes::len).sum::<usize>()
                })
                .sum();
            let got = bytes as f64 * 8.0 / 2.0 / 1000.0;
            assert!(
                (got / f64::from(kbps) - 1.0).abs() < 0.03,
                "{codec:?} wanted {kbps} got {got}"
            );
        }
    }
}
