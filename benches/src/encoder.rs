//! Encoder: packets of a publisher, RTP as a browser sends it, with the bytes that a forwarder
//! reads.
//!
//! Header extensions are mid and transport-cc. Payloads begin as the codec's payload format says;
//! the rest is filler, because it is never decoded. Used by all benches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::media::{HolderId, Packet, PacketMeta, PacketPool};
use weir_sfu::rtp::codec::{descriptor_prefix_len, peek};
use weir_sfu::rtp::ext::{ExtKind, ExtWriter};
use weir_sfu::rtp::packet::{RTP_HEADER_LEN, RtpHeader};
use weir_sfu::sdp::{CodecFormat, ExtMap};

/// SSRC of the packets.
pub const SSRC: u32 = 0x5eed;

/// Mid of the only m-line.
pub const MID: &str = "0";

/// Payload type of publisher and viewers.
pub const PT: u8 = 96;

/// Bytes in front of the payload: fixed header, and an extension block with mid and transport-cc.
pub const HEADER_LEN: usize = RTP_HEADER_LEN + 12;

/// Maximum payload bytes of a packet, as in libwebrtc beside its headers.
const PAYLOAD_BYTES_MAX: usize = 1_180;

/// Frames from one keyframe to the next in [`Frames::Video`].
const KEYFRAME_INTERVAL: u64 = 60;

/// Size of a keyframe in mean frames.
const KEYFRAME_FACTOR: u64 = 6;

// Parameter sets of x264 and x265 at 640 x 360, and the first bytes of an IDR slice.
const H264_SPS: &[u8] =
    b"\x67\x42\xe0\x1f\x96\x54\x0a\x0f\xd8\x08\x80\x00\x00\x03\x00\x80\x00\x00\x18\x07\x11\x06\x0c";
const H264_PPS: &[u8] = b"\x68\xce\x3c\x80";
const H264_IDR: &[u8] = b"\x65\x88\x84\x0a\x0b";
const H265_VPS: &[u8] =
    b"\x40\x01\x0c\x01\xff\xff\x01\x60\x00\x00\x03\x00\x90\x00\x00\x03\x00\x00\x03\x00\x5d\x95\x98";
const H265_SPS: &[u8] = b"\x42\x01\x01\x01\x60\x00\x00\x03\x00\x90\x00\x00\x03\x00\x00\x03\x00\x5d\xa0\x02\x80\x80\x2d\x16\x59\x59\xa4\x93\x2b\xc0\x5a\x02\x00\x00\x03\x00\x02\x00\x00\x03\x00\x0a\x10";
const H265_PPS: &[u8] = b"\x44\x01\xc1\x72\xb4\x62\x40";
const H265_IDR: &[u8] = b"\x26\x01\xaf\x0a\x0b";

/// Sizes of frames and packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// Equal frames. The first is a keyframe, all others are not.
    Equal {
        /// Packets of a frame.
        packets: usize,
        /// Payload bytes of each packet.
        payload_len: usize,
    },
    /// Frames as an encoder sends them: of 0.6 to 1.4 times the mean, and a keyframe of six times
    /// the mean every 60 frames. A frame is split about equally as libwebrtc does, the larger
    /// packets last, so the packets of a frame may differ by one byte.
    Video {
        /// Bits per millisecond.
        kbps: u64,
    },
}

impl Frames {
    /// Label in tables.
    pub fn label(self) -> String {
        match self {
            Self::Equal { packets, payload_len } => format!("{packets} x {payload_len} B"),
            Self::Video { kbps } => format!("video at {:.1} Mbps", kbps as f64 / 1e3),
        }
    }

    /// Approximate number of packets of a frame.
    pub fn mean_packets(self) -> usize {
        match self {
            Self::Equal { packets, .. } => packets,
            Self::Video { kbps } => (frame_bytes(kbps) / PAYLOAD_BYTES_MAX as u64) as usize + 1,
        }
    }

    /// Payload bytes of a frame's packets.
    fn split(self, frame: u64) -> Vec<usize> {
        let kbps = match self {
            Self::Equal { packets, payload_len } => return vec![payload_len; packets],
            Self::Video { kbps } => kbps,
        };
        let bytes = match frame % KEYFRAME_INTERVAL {
            0 => frame_bytes(kbps) * KEYFRAME_FACTOR,
            // The bytes that the keyframe leaves to the other frames, times 0.6 to 1.4 in an order
            // without a pattern.
            _ => {
                let rest = frame_bytes(kbps) * (KEYFRAME_INTERVAL - KEYFRAME_FACTOR)
                    / (KEYFRAME_INTERVAL - 1);
                rest * (600 + frame.wrapping_mul(0x9e37_79b9) % 801) / 1_000
            }
        } as usize;
        let packets = bytes.div_ceil(PAYLOAD_BYTES_MAX);
        let larger = bytes % packets;
        (0..packets).map(|n| bytes / packets + usize::from(n + larger >= packets)).collect()
    }

    fn is_key(self, frame: u64) -> bool {
        match self {
            Self::Equal { .. } => frame == 0,
            Self::Video { .. } => frame.is_multiple_of(KEYFRAME_INTERVAL),
        }
    }
}

/// Bytes of the mean frame at 30 frames per second.
fn frame_bytes(kbps: u64) -> u64 {
    kbps * 1_000 / 8 / 30
}

/// Publisher's packets, one after the other.
#[derive(Debug)]
pub struct Encoder {
    codec: Codec,
    frames: Frames,
    /// Payload bytes of the present frame's packets.
    sizes: Vec<usize>,
    frame: u64,
    position: usize,
    packets: u64,
}

impl Encoder {
    /// An encoder before its first frame.
    pub fn new(codec: Codec, frames: Frames) -> Self {
        Self { codec, frames, sizes: frames.split(0), frame: 0, position: 0, packets: 0 }
    }

    /// Format in the offer.
    pub fn format(&self) -> CodecFormat {
        CodecFormat { codec: self.codec, fmtp: String::new() }
    }

    /// Time from one frame to the next.
    pub fn frame_interval(&self) -> Duration {
        match self.codec.kind() {
            MediaKind::Audio => Duration::from_millis(20),
            MediaKind::Video => Duration::from_micros(33_333),
        }
    }

    /// Header-extension ids of the m-line.
    pub fn exts() -> ExtMap {
        let mut exts = ExtMap::default();
        exts.insert(ExtKind::Mid, 1);
        exts.insert(ExtKind::TransportCc, 2);
        exts
    }

    /// The packets of the next frame in plaintext.
    pub fn next_frame(&mut self) -> Vec<Vec<u8>> {
        (0..self.sizes.len()).map(|_| self.next_rtp()).collect()
    }

    /// The next packet in plaintext.
    pub fn next_rtp(&mut self) -> Vec<u8> {
        let number = self.packets;
        self.packets += 1;
        let (frame, position) = (self.frame, self.position);
        let last = position + 1 == self.sizes.len();

        let mut packet = vec![0; HEADER_LEN + self.sizes[position]];
        self.position += 1;
        if last {
            self.frame += 1;
            self.position = 0;
            self.sizes = self.frames.split(self.frame);
        }
        let (header, payload) = packet.split_at_mut(HEADER_LEN);
        let mut writer = ExtWriter::new(&mut header[RTP_HEADER_LEN..], false);
        writer.push(1, MID.as_bytes());
        writer.push(2, &(number as u16).to_be_bytes());
        writer.finish();
        let per_frame = self.frame_interval().as_millis() as u32 * self.codec.clock_rate() / 1_000;
        header[0] = 0x90;
        header[1] = PT | if last { 0x80 } else { 0 };
        header[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        header[4..8].copy_from_slice(&(frame as u32).wrapping_mul(per_frame).to_be_bytes());
        header[8..12].copy_from_slice(&SSRC.to_be_bytes());

        for (n, byte) in payload.iter_mut().enumerate() {
            *byte = n as u8;
        }
        let start = self.payload_start(frame, position, last, payload.len());
        payload[..start.len()].copy_from_slice(&start);
        packet
    }

    fn payload_start(&self, frame: u64, position: usize, last: bool, len: usize) -> Vec<u8> {
        let (first, key) = (position == 0, self.frames.is_key(frame));
        match self.codec {
            // A viewer begins with a keyframe whose parameter sets are known.
            Codec::H264 if first && key => aggregate(&[0x78], &[H264_SPS, H264_PPS], H264_IDR, len),
            Codec::H264 => {
                let nal = if key { 5 } else { 1 };
                match first && last {
                    true => vec![0x60 | nal],
                    false => vec![0x7c, nal | u8::from(first) << 7 | u8::from(last) << 6],
                }
            }
            Codec::Vp8 => {
                let [high, low] = ((frame as u16) | 0x8000).to_be_bytes();
                let start = if first { 0x90 } else { 0x80 };
                let mut bytes = vec![start, 0xe0, high, low, frame as u8, 0x20];
                if first {
                    bytes.push(u8::from(!key));
                }
                bytes
            }
            Codec::H265 if first && key => {
                aggregate(&[48 << 1, 1], &[H265_VPS, H265_SPS, H265_PPS], H265_IDR, len)
            }
            // RFC 7798: a fragmentation unit of an IDR or a trailing picture.
            Codec::H265 => {
                let kind = if key { 19 } else { 1 };
                vec![49 << 1, 1, kind | u8::from(first) << 7 | u8::from(last) << 6]
            }
            // RFC 9628: picture id of 15 bits, one layer.
            Codec::Vp9 => {
                let [high, low] = ((frame as u16) | 0x8000).to_be_bytes();
                let flags = u8::from(!key) << 6 | u8::from(first) << 3 | u8::from(last) << 2;
                vec![0x80 | flags, high, low]
            }
            // The AV1 payload format: a frame in pieces, with a sequence header before a key frame.
            Codec::Av1 => {
                let flags = u8::from(!first) << 7 | u8::from(!last) << 6;
                match (first, key) {
                    (true, true) => vec![flags | 2 << 4 | 1 << 3, 2, 1 << 3, 0, 6 << 3, 0x10],
                    (true, false) => vec![flags | 1 << 4, 6 << 3, 0x30],
                    (false, _) => vec![flags | 1 << 4],
                }
            }
            _ => vec![0xfc],
        }
    }

    /// The next packet as a worker keeps it after opening: described, ready to be forwarded.
    ///
    /// # Panics
    /// The pool is empty.
    pub fn next_packet(&mut self, pool: &mut PacketPool, now: Instant) -> Arc<Packet> {
        let ext_seq = self.packets;
        let bytes = self.next_rtp();
        let header = RtpHeader::parse(&bytes).expect("it is RTP");
        let payload = &bytes[header.header_len..];
        let mut packet =
            pool.take(bytes.len(), HolderId::default()).expect("the pool is large enough");
        let buffer = Arc::get_mut(&mut packet).expect("a new buffer");
        buffer.buffer_mut()[..bytes.len()].copy_from_slice(&bytes);
        buffer.describe(PacketMeta {
            ext_seq,
            timestamp: header.timestamp,
            marker: header.marker,
            red: false,
            payload_start: header.header_len as u16,
            payload_len: payload.len() as u16,
            prefix_len: descriptor_prefix_len(self.codec, payload) as u8,
            frame: peek(self.codec, payload),
            exts: Default::default(),
            arrival: now,
        });
        packet
    }
}

/// Start of an aggregation packet (RFC 6184 section 5.7.1, RFC 7798 section 4.4.2) of `len` bytes: the
/// sets, then a slice that fills the rest.
fn aggregate(header: &[u8], sets: &[&[u8]], slice: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = header.to_vec();
    for set in sets {
        bytes.extend((set.len() as u16).to_be_bytes());
        bytes.extend(*set);
    }
    bytes.extend(((len - bytes.len() - 2) as u16).to_be_bytes());
    bytes.extend(slice);
    bytes
}
