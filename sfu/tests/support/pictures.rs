//! Real pictures for the simulator: FFmpeg encodes a clip, it is cut into RTP payloads as browsers
//! cut it, put together again after its way through the server, and judged by FFmpeg.
//!
//! Cut and joined by `rtc-rtp`, where that can; nothing here is the server's own code. Without
//! FFmpeg the tests fail. Used by `tests/sim/ffmpeg_decoding.rs`.

#[path = "../../../loadtest/tests/support/ffmpeg.rs"]
mod ffmpeg;

use std::process::{Command, Stdio};

use bytes::Bytes;
use rtc_rtp::codec::av1::{Av1Depacketizer, Av1Payloader};
use rtc_rtp::codec::h264::{H264Packet, H264Payloader};
use rtc_rtp::codec::h265::{H265Packet, H265Payload, HevcPayloader};
use rtc_rtp::codec::vp8::{Vp8Packet, Vp8Payloader};
use rtc_rtp::codec::vp9::Vp9Packet;
use rtc_rtp::packetizer::{Depacketizer, Payloader};
use weir_sfu::codec::Codec;

use crate::world::media::{Clip, ClipFrame};

/// Maximum payload bytes, so that all headers and the RTX number fit.
const PAYLOAD_MAX: usize = 1_100;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// A temporal delimiter, which begins each unit in a file and is left out in RTP (AV1 RTP section
/// 5).
const TEMPORAL_DELIMITER: [u8; 2] = [0x12, 0];

/// Frames of a clip: four seconds.
pub(crate) const CLIP_FRAMES: usize = 4 * 30;

/// FFmpeg's test picture as RTP payloads, with a keyframe each second, encoded so that each run
/// gives the same bytes.
pub(crate) fn clip(codec: Codec, size: (u16, u16)) -> Clip {
    let pictures = encode(codec, size);
    assert_eq!(pictures.len(), CLIP_FRAMES);
    let mut cutter = Cutter::default();
    let frames = pictures.into_iter().map(|picture| {
        let key = is_key(codec, &picture);
        ClipFrame { key, payloads: cutter.cut(codec, size, key, Bytes::from(picture)) }
    });
    Clip { frames: frames.collect() }
}

fn encode(codec: Codec, (width, height): (u16, u16)) -> Vec<Vec<u8>> {
    let (encoder, container) = match codec {
        Codec::Vp8 => ("libvpx -deadline good -cpu-used 5 -threads 1 -lag-in-frames 0", "ivf"),
        Codec::Vp9 => (
            "libvpx-vp9 -deadline realtime -cpu-used 8 -threads 1 -lag-in-frames 0 -auto-alt-ref 0",
            "ivf",
        ),
        Codec::Av1 => {
            ("libaom-av1 -usage realtime -cpu-used 8 -threads 1 -row-mt 0 -lag-in-frames 0", "ivf")
        }
        Codec::H264 => (
            "libx264 -profile:v baseline -preset ultrafast -tune zerolatency \
             -x264-params aud=1:repeat-headers=1:slices=1:threads=1",
            "h264",
        ),
        Codec::H265 => (
            "libx265 -preset ultrafast -tune zerolatency -x265-params \
             aud=1:repeat-headers=1:info=0:slices=1:frame-threads=1:pools=none:bframes=0:\
             scenecut=0:keyint=30:min-keyint=30:open-gop=0:log-level=error",
            "hevc",
        ),
        _ => panic!("{codec:?} has no pictures"),
    };
    let source = format!("testsrc=size={width}x{height}:rate=30");
    let output = Command::new(ffmpeg::find().expect("an ffmpeg, see loadtest/tests/support"))
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", &source, "-t", "4"])
        .args(["-pix_fmt", "yuv420p", "-c:v"])
        .args(encoder.split_whitespace())
        .args(["-g", "30", "-b:v", "500k", "-f", container, "-"])
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    match container {
        "ivf" => ivf_frames(&output.stdout),
        _ => access_units(codec, &output.stdout),
    }
}

/// State of a packetiser between frames.
struct Cutter {
    vp8: Vp8Payloader,
    h264: H264Payloader,
    picture: u16,
    tl0: u8,
}

impl Default for Cutter {
    fn default() -> Self {
        let mut vp8 = Vp8Payloader::default();
        vp8.enable_picture_id = true;
        // Both numbers wrap within the clip.
        Self { vp8, h264: H264Payloader::default(), picture: 0x7fff - 50, tl0: 200 }
    }
}

impl Cutter {
    fn cut(&mut self, codec: Codec, size: (u16, u16), key: bool, picture: Bytes) -> Vec<Vec<u8>> {
        let payloads = match codec {
            Codec::Vp8 => self.vp8.payload(PAYLOAD_MAX, &picture),
            Codec::Vp9 => return self.cut_vp9(size, key, &picture),
            Codec::Av1 => Av1Payloader::default().payload(PAYLOAD_MAX, &picture),
            Codec::H265 => HevcPayloader.payload(PAYLOAD_MAX, &picture),
            _ => self.h264.payload(PAYLOAD_MAX, &picture),
        };
        payloads.expect("a sound frame").iter().map(|payload| payload.to_vec()).collect()
    }

    /// RFC 9628 section 4.2 as Chromium writes it for a single layer: a picture id of 15 bits,
    /// layer indices with TL0PICIDX, and the scalability structure before each keyframe. `rtc-rtp`
    /// writes neither P nor layers.
    fn cut_vp9(&mut self, (width, height): (u16, u16), key: bool, picture: &[u8]) -> Vec<Vec<u8>> {
        self.picture = (self.picture + 1) & 0x7fff;
        self.tl0 = self.tl0.wrapping_add(1);
        let mut payloads = Vec::new();
        let last = picture.len().div_ceil(PAYLOAD_MAX) - 1;
        for (index, part) in picture.chunks(PAYLOAD_MAX).enumerate() {
            let structure = key && index == 0;
            let mut payload = vec![
                0x80 | u8::from(!key) << 6
                    | 0x20
                    | u8::from(index == 0) << 3
                    | u8::from(index == last) << 2
                    | u8::from(structure) << 1,
            ];
            payload.extend((self.picture | 0x8000).to_be_bytes());
            payload.extend([0, self.tl0]);
            if structure {
                // One layer with its size, and a group of one picture that refers to the one
                // before.
                payload.push(0x18);
                payload.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
                payload.extend([1, 0x04, 1]);
            }
            payload.extend(part);
            payloads.push(payload);
        }
        payloads
    }
}

/// RFC 7741 4.2 and RFC 9628 4.2: the S and the B bit; RFC 6184 5.8 and RFC 7798 4.4.3: the start
/// bit of a fragment; AV1 RTP 4.4: no Z bit.
pub(crate) fn begins_frame(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => payload[0] & 0x10 != 0,
        Codec::Vp9 => payload[0] & 0x08 != 0,
        Codec::Av1 => payload[0] & 0x80 == 0,
        Codec::H265 => nal_type(codec, payload) != 49 || payload[2] & 0x80 != 0,
        _ => nal_type(codec, payload) != 28 || payload[1] & 0x80 != 0,
    }
}

/// The frame of these payloads.
pub(crate) fn joined(codec: Codec, payloads: &[&[u8]]) -> Vec<u8> {
    let payloads = payloads.iter().map(|payload| Bytes::copy_from_slice(payload));
    let mut frame = Vec::new();
    let (mut h264, mut av1) = (H264Packet::default(), Av1Depacketizer::new());
    for payload in payloads {
        let part = match codec {
            Codec::Vp8 => Vp8Packet::default().depacketize(&payload),
            Codec::Vp9 => Vp9Packet::default().depacketize(&payload),
            Codec::Av1 => av1.depacketize(&payload),
            Codec::H265 => Ok(Bytes::from(h265_units(&payload))),
            _ => h264.depacketize(&payload),
        };
        frame.extend(part.expect("the payload is sound"));
    }
    frame
}

/// The Annex B bytes of one H.265 payload; a fragment gives its part.
fn h265_units(payload: &Bytes) -> Vec<u8> {
    let mut packet = H265Packet::default();
    packet.depacketize(payload).expect("the payload is sound");
    let mut out = Vec::new();
    let mut unit = |bytes: &[u8]| {
        out.extend(START_CODE);
        out.extend(bytes);
    };
    match packet.payload() {
        H265Payload::H265SingleNALUnitPacket(_) => unit(payload),
        H265Payload::H265AggregationPacket(packet) => {
            unit(&packet.first_unit().expect("it holds units").nal_unit());
            packet.other_units().iter().for_each(|other| unit(&other.nal_unit()));
        }
        H265Payload::H265FragmentationUnitPacket(packet) => {
            let (header, body) = (packet.fu_header(), packet.payload());
            if header.s() {
                // The unit's own type in the place of 49.
                unit(&[payload[0] & 0x81 | header.fu_type() << 1, payload[1]]);
            }
            out.extend(body);
        }
        other => panic!("unexpected unit {other:?}"),
    }
    out
}

/// The picture id that a payload carries, and its TL0PICIDX where the clip has one.
pub(crate) fn picture_numbers(codec: Codec, payload: &[u8]) -> Option<(u16, Option<u8>)> {
    let payload = Bytes::copy_from_slice(payload);
    match codec {
        Codec::Vp8 => {
            let mut packet = Vp8Packet::default();
            packet.depacketize(&payload).ok()?;
            Some((packet.picture_id, None))
        }
        Codec::Vp9 => {
            let mut packet = Vp9Packet::default();
            packet.depacketize(&payload).ok()?;
            Some((packet.picture_id, Some(packet.tl0picidx)))
        }
        _ => None,
    }
}

/// Whether a decoder can begin at this frame.
pub(crate) fn is_key(codec: Codec, frame: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => frame[0] & 1 == 0,
        // No frame that exists already, and not predicted.
        Codec::Vp9 => frame[0] & 0x0c == 0,
        _ => told_size(codec, frame).is_some(),
    }
}

/// The bytes of a keyframe that carry its size: its head, SPS or sequence header.
pub(crate) fn told_size(codec: Codec, frame: &[u8]) -> Option<&[u8]> {
    match codec {
        Codec::Vp8 => Some(&frame[6..10]).filter(|_| is_key(codec, frame)),
        Codec::Vp9 => Some(&frame[4..8]).filter(|_| is_key(codec, frame)),
        Codec::Av1 => {
            let units = frame.strip_prefix(&TEMPORAL_DELIMITER).unwrap_or(frame);
            let sequence = units.first().is_some_and(|header| header >> 3 & 15 == 1);
            sequence.then(|| &units[..2 + usize::from(units[1])])
        }
        _ => {
            let sps = if codec == Codec::H265 { 33 } else { 7 };
            nals(frame).into_iter().find(|nal| nal_type(codec, nal) == sps)
        }
    }
}

/// Checks that FFmpeg decodes every frame without a complaint.
pub(crate) fn assert_decodes(codec: Codec, largest: (u16, u16), frames: &[Vec<u8>]) {
    let fourcc = match codec {
        Codec::Vp8 => b"VP80",
        Codec::Vp9 => b"VP90",
        Codec::Av1 => b"AV01",
        _ => {
            let extension = if codec == Codec::H265 { "hevc" } else { "h264" };
            return ffmpeg::assert_decodes(&frames.concat(), extension, frames.len());
        }
    };
    let delimiter: &[u8] = if codec == Codec::Av1 { &TEMPORAL_DELIMITER } else { &[] };
    // IVF: a header of 32 bytes, then each frame behind its length and time.
    let mut file = [&b"DKIF\0\0\x20\0"[..], fourcc].concat();
    file.extend([largest.0.to_le_bytes(), largest.1.to_le_bytes()].concat());
    file.extend([30u32.to_le_bytes(), 1u32.to_le_bytes()].concat());
    file.extend([(frames.len() as u32).to_le_bytes(), [0; 4]].concat());
    for (time, frame) in (0u64..).zip(frames) {
        file.extend(((delimiter.len() + frame.len()) as u32).to_le_bytes());
        file.extend(time.to_le_bytes());
        file.extend(delimiter);
        file.extend(frame);
    }
    ffmpeg::assert_decodes(&file, "ivf", frames.len());
}

fn ivf_frames(mut file: &[u8]) -> Vec<Vec<u8>> {
    file = &file[32..];
    let mut frames = Vec::new();
    while let Some((len, rest)) = file.split_first_chunk::<4>() {
        let (frame, next) = rest[8..].split_at(u32::from_le_bytes(*len) as usize);
        frames.push(frame.to_vec());
        file = next;
    }
    frames
}

/// Annex B cut at its access unit delimiters, which are left out.
fn access_units(codec: Codec, file: &[u8]) -> Vec<Vec<u8>> {
    let delimiter = if codec == Codec::H265 { 35 } else { 9 };
    let mut units: Vec<Vec<u8>> = Vec::new();
    for nal in nals(file) {
        if nal_type(codec, nal) == delimiter {
            units.push(Vec::new());
            continue;
        }
        let unit = units.last_mut().expect("a delimiter comes first");
        unit.extend(START_CODE);
        unit.extend(nal);
    }
    units
}

fn nal_type(codec: Codec, nal: &[u8]) -> u8 {
    if codec == Codec::H265 { nal[0] >> 1 & 63 } else { nal[0] & 31 }
}

/// The NAL units of Annex B.
fn nals(bytes: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<_> =
        bytes.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let cut = starts.iter().zip(ends).map(|(start, end)| {
        let nal = &bytes[start + 3..end];
        // The zero of a four-byte start code is part of no unit.
        let len = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &nal[..len]
    });
    cut.filter(|nal| !nal.is_empty()).collect()
}
