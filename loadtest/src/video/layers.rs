//! Simulcast layers of a publisher: size and bitrate of each.
//!
//! Called by `publisher` and `full`.

use super::size::{SIZES, Size};
use crate::options::Video;

/// Bitrate of a layer as a fraction of the next larger one: one third.
const BITRATE_DIVISOR: u32 = 3;

/// Minimum bitrate of a layer in kbit/s.
const LAYER_KBPS_MIN: u32 = 50;

/// Size and bitrate of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerSpec {
    /// Size of the pictures.
    pub(crate) size: Size,
    /// Bitrate of the RTP payload in kbit/s.
    pub(crate) kbps: u32,
}

/// The layers of `video`, smallest first. Empty without video.
pub(crate) fn layers(video: &Video) -> Vec<LayerSpec> {
    if video.none {
        return Vec::new();
    }
    if video.simulcast == 1 {
        return vec![LayerSpec { size: SIZES[1], kbps: video.kbps }];
    }
    let count = video.simulcast;
    (0..count)
        .zip(SIZES)
        .map(|(n, size)| {
            let kbps = video.kbps / BITRATE_DIVISOR.pow(count - 1 - n);
            LayerSpec { size, kbps: kbps.max(LAYER_KBPS_MIN) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(args: &[&str]) -> Video {
        let url = ["weir-loadtest", "--whip", "http://h", "--viewers", "0"];
        crate::options::parse_options([&url[..], args].concat()).expect("parses").video
    }

    #[test]
    fn each_layer_has_three_times_the_bitrate_of_the_smaller_one() {
        let layer = |size, kbps| LayerSpec { size, kbps };
        assert_eq!(layers(&video(&[])), [layer((640, 360), 1400)], "without simulcast");
        let three = layers(&video(&["--simulcast", "3", "--video-kbps", "1800"]));
        let expected = [layer((320, 180), 200), layer((640, 360), 600), layer((1280, 720), 1800)];
        assert_eq!(three, expected);
    }
}
