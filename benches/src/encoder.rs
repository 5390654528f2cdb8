//! A publisher's packets: RTP as a browser sends it, with the bytes a forwarder looks at.
//!
//! Header extensions are mid and transport-cc. Payloads begin as RFC 6184, RFC 7741 and RFC 7587
//! say; the rest is filler, for nobody decodes it. Used by all benches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::media::{Packet, PacketMeta, PacketPool};
use weir_sfu::rtp::codec::{descriptor_prefix_len, peek};
use weir_sfu::rtp::ext::{ExtKind, ExtWriter};
use weir_sfu::rtp::packet::{RTP_HEADER_LEN, RtpHeader};
use weir_sfu::sdp::{CodecFormat, ExtMap};

/// The SSRC of what it sends.
pub const SSRC: u32 = 0x5eed;

/// The mid of its only m-line.
pub const MID: &str = "0";

/// The payload type it uses, and viewers too.
pub const PT: u8 = 96;

/// Bytes in front of the payload: fixed header, and an extension block with mid and transport-cc.
pub const HEADER_LEN: usize = RTP_HEADER_LEN + 12;

/// Makes one packet after the other.
#[derive(Debug)]
pub struct Encoder {
    codec: Codec,
    payload_len: usize,
    frame_packets: usize,
    packets: u64,
}

impl Encoder {
    /// Frames of `frame_packets` packets with `payload_len` bytes of payload each. The first frame
    /// is a keyframe, all others are not.
    pub fn new(codec: Codec, payload_len: usize, frame_packets: usize) -> Self {
        Self { codec, payload_len, frame_packets, packets: 0 }
    }

    /// Bytes of one packet in plaintext.
    pub fn packet_len(&self) -> usize {
        HEADER_LEN + self.payload_len
    }

    /// What the offer calls it.
    pub fn format(&self) -> CodecFormat {
        CodecFormat { codec: self.codec, fmtp: String::new() }
    }

    /// From one frame to the next.
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

    /// The next packet in plaintext.
    pub fn next_rtp(&mut self) -> Vec<u8> {
        let number = self.packets;
        self.packets += 1;
        let frame = number / self.frame_packets as u64;
        let position = (number % self.frame_packets as u64) as usize;
        let last = position + 1 == self.frame_packets;

        let mut packet = vec![0; self.packet_len()];
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
        let start = self.payload_start(frame, position, last);
        payload[..start.len()].copy_from_slice(&start);
        packet
    }

    fn payload_start(&self, frame: u64, position: usize, last: bool) -> Vec<u8> {
        let (first, key) = (position == 0, frame == 0);
        match self.codec {
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
            _ => vec![0xfc],
        }
    }

    /// The next packet as a worker keeps it after opening: described, ready to be forwarded.
    ///
    /// # Panics
    /// When the pool is empty.
    pub fn next_packet(&mut self, pool: &mut PacketPool, now: Instant) -> Arc<Packet> {
        let ext_seq = self.packets;
        let bytes = self.next_rtp();
        let header = RtpHeader::parse(&bytes).expect("it is RTP");
        let payload = &bytes[header.header_len..];
        let mut packet = pool.take(bytes.len()).expect("the pool is large enough");
        let buffer = Arc::get_mut(&mut packet).expect("a fresh buffer");
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
