//! Payloads that describe themselves: a stamp after a real codec descriptor, and a filler that
//! shows every damaged byte.

use weir_sfu::codec::Codec;

use super::spec::SetsMode;

/// Stamp that a packet carries beside its codec's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// One encoder run: a layer of a publisher until its numbers start again.
    pub source: u32,
    /// The source's extended sequence number.
    pub serial: u64,
    /// Frame number of the source, from 0.
    pub frame: u32,
    /// Position in the frame.
    pub index: u16,
    /// Packets of the frame.
    pub count: u16,
    /// Whether it belongs to a keyframe.
    pub key: bool,
    /// Capture time, in ns of true time since the world began.
    pub captured_ns: u64,
    /// References between frames of the source.
    pub layer_position: LayerPosition,
}

/// Position of a frame in the order of its temporal layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerPosition {
    pub temporal: u8,
    /// Distances in frames to the frames that it refers to; 0 for none.
    pub refers_to: [u8; 2],
    /// Frames of the lowest layer before it.
    pub bases: u32,
}

impl LayerPosition {
    /// A frame without temporal layers: it refers to the one before, or to none.
    pub(crate) fn plain(key: bool, frame: u32) -> Self {
        Self { temporal: 0, refers_to: [u8::from(!key), 0], bases: frame }
    }

    /// The `nth` frame after a keyframe in `layers` temporal layers (1 to 3). The pattern is
    /// dyadic, and the second half of the uppermost of three layers refers to the middle one.
    pub(crate) fn nth(layers: u8, nth: u32, bases: u32) -> Self {
        let (temporal, refers_to) = match (layers, nth % 4) {
            _ if nth == 0 => (0, [0, 0]),
            (1, _) => (0, [1, 0]),
            (2, 1 | 3) => (1, [1, 0]),
            (2, _) => (0, [2, 0]),
            (_, 0) => (0, [4, 0]),
            (_, 1) => (2, [1, 0]),
            (_, 2) => (1, [2, 0]),
            (_, _) => (2, [1, 3]),
        };
        Self { temporal, refers_to, bases }
    }

    /// Whether it refers to lower layers only.
    pub(crate) fn is_switch_point(&self) -> bool {
        self.temporal > 0 && self.refers_to[1] == 0
    }
}

/// A recording to publish instead of stamped filler: frames as RTP payloads, looped. It begins with
/// a keyframe; requested keyframes do not come.
#[derive(Debug)]
pub(crate) struct Clip {
    pub frames: Vec<ClipFrame>,
}

#[derive(Debug)]
pub(crate) struct ClipFrame {
    pub key: bool,
    pub payloads: Vec<Vec<u8>>,
}

impl Clip {
    /// Frame `number` of an endless loop.
    pub(crate) fn frame(&self, number: u32) -> &ClipFrame {
        &self.frames[number as usize % self.frames.len()]
    }
}

const MAGIC: [u8; 4] = *b"\xa5Wei";
const STAMP_BYTES: usize = 4 + 4 + 8 + 4 + 2 + 2 + 1 + 8 + 3 + 4;

impl Stamp {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend(self.source.to_be_bytes());
        out.extend(self.serial.to_be_bytes());
        out.extend(self.frame.to_be_bytes());
        out.extend(self.index.to_be_bytes());
        out.extend(self.count.to_be_bytes());
        out.push(u8::from(self.key));
        out.extend(self.captured_ns.to_be_bytes());
        out.push(self.layer_position.temporal);
        out.extend(self.layer_position.refers_to);
        out.extend(self.layer_position.bases.to_be_bytes());
    }

    /// Finds the stamp in a payload and checks the filler behind it.
    pub(crate) fn find(payload: &[u8]) -> Option<Self> {
        let at = payload.windows(4).take(96).position(|window| window == MAGIC)?;
        let bytes = payload.get(at + 4..at + STAMP_BYTES)?;
        let u32_at = |n: usize| u32::from_be_bytes(bytes[n..n + 4].try_into().expect("4 bytes"));
        let u64_at = |n: usize| u64::from_be_bytes(bytes[n..n + 8].try_into().expect("8 bytes"));
        let u16_at = |n: usize| u16::from_be_bytes(bytes[n..n + 2].try_into().expect("2 bytes"));
        let stamp = Self {
            source: u32_at(0),
            serial: u64_at(4),
            frame: u32_at(12),
            index: u16_at(16),
            count: u16_at(18),
            key: bytes[20] == 1,
            captured_ns: u64_at(21),
            layer_position: LayerPosition {
                temporal: bytes[29],
                refers_to: [bytes[30], bytes[31]],
                bases: u32_at(32),
            },
        };
        let filler = &payload[at + STAMP_BYTES..];
        let intact = filler.iter().enumerate().all(|(n, byte)| *byte == stamp.filler(n));
        assert!(intact, "payload of {stamp:?} was damaged on its way");
        Some(stamp)
    }

    /// Ends a payload of about this many bytes: the stamp, then its filler.
    pub(crate) fn finish(&self, out: &mut Vec<u8>, bytes: usize) {
        self.write(out);
        let filler = bytes.saturating_sub(out.len());
        out.extend((0..filler).map(|n| self.filler(n)));
    }

    /// Adds a NAL unit to an aggregate: header, stamp, and filler for a payload of this size.
    fn push_unit(&self, out: &mut Vec<u8>, header: &[u8], bytes: usize) {
        let mut unit = header.to_vec();
        self.finish(&mut unit, bytes.saturating_sub(out.len() + 2).max(STAMP_BYTES + 10));
        push_units(out, &[unit]);
    }

    fn filler(&self, n: usize) -> u8 {
        (self.serial as u8).wrapping_mul(31).wrapping_add(n as u8) & 0x5f
    }
}

/// VP8 picture numbers of a frame; layers of the stamp are written if the stream has any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Picture {
    pub id: u16,
    /// 15, 7, or 0 for none.
    pub bits: u8,
    pub tl0: u8,
    /// Temporal layers of the stream.
    pub layers: u8,
}

/// The payload of one packet, `bytes` long or a little more.
pub(crate) fn payload(
    codec: Codec,
    stamp: &Stamp,
    picture: Picture,
    (size, mode): ((u16, u16), SetsMode),
    bytes: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 16);
    let first = stamp.index == 0;
    let in_frame = mode.in_frame(stamp.key, stamp.frame);
    let sets = first && in_frame;
    // A larger keyframe has its sets in a packet of their own; other frames in that of the slice.
    let apart = in_frame && stamp.key && stamp.count > 1;
    let sets_alone = first && apart;
    // First packet of the picture.
    let begins = stamp.index == u16::from(apart);
    let idr = stamp.key && mode != SetsMode::RecoveryPoint;
    match codec {
        Codec::Vp8 => {
            let start = if first { 0x10 } else { 0 };
            match picture.bits {
                0 => out.push(start),
                bits => {
                    out.extend([0x80 | start, 0xe0]);
                    match bits {
                        7 => out.push(picture.id as u8 & 0x7f),
                        _ => out.extend((picture.id | 0x8000).to_be_bytes()),
                    }
                    out.extend([picture.tl0, vp8_layer(&stamp.layer_position)]);
                }
            }
            if first {
                let (width, height) = size;
                match stamp.key {
                    true => {
                        out.extend([0x10, 0, 0, 0x9d, 0x01, 0x2a]);
                        out.extend(width.to_le_bytes());
                        out.extend(height.to_le_bytes());
                    }
                    false => out.extend([0x11, 0, 0]),
                }
            } else {
                out.push(0x01);
            }
        }
        Codec::H264 => {
            // No frame refers to the upper of its two layers.
            let delta = if stamp.layer_position.temporal > 0 { 0x01 } else { 0x41 };
            let slice = if idr { 0x65 } else { delta };
            if sets {
                // As one STAP-A: SPS, PPS, and an SEI that holds the stamp, or the slice.
                let mut units = vec![h264_sps(size), vec![0x68, 0xce, 0x3c, 0x80]];
                if mode == SetsMode::RecoveryPoint && stamp.key {
                    units.push(vec![0x06, 6, 1, 0xc4, 0x80]);
                }
                out.push(0x78);
                push_units(&mut out, &units);
                match sets_alone {
                    true => stamp.push_unit(&mut out, &[0x06], 0),
                    false => stamp.push_unit(&mut out, &[slice, FIRST_SLICE], bytes),
                }
                return out;
            }
            out.extend([slice, if begins { FIRST_SLICE } else { 0x08 }]);
        }
        // RFC 9628: a picture id of 15 bits, one spatial layer, whole pictures.
        Codec::Vp9 => {
            let last = stamp.index + 1 == stamp.count;
            let delta = if stamp.key { 0 } else { 0x40 };
            let layered = picture.layers > 1;
            let has_layers = if layered { 0x20 } else { 0 };
            out.push(0x80 | delta | has_layers | u8::from(first) << 3 | u8::from(last) << 2);
            out.extend((stamp.frame as u16 | 0x8000).to_be_bytes());
            if layered {
                let LayerPosition { temporal, bases, .. } = stamp.layer_position;
                let switch = u8::from(stamp.layer_position.is_switch_point());
                out.extend([temporal << 5 | switch << 4, bases as u8]);
            }
        }
        // RFC 7798: an aggregation packet of the sets and an SEI that holds the stamp, and
        // fragmentation units of an IDR or a trailing picture.
        Codec::H265 => {
            let last = stamp.index + 1 == stamp.count;
            // No frame refers to the upper of its two layers, and the temporal id is always 0.
            let delta = if stamp.layer_position.temporal > 0 { 0 } else { 1 };
            let kind = if idr { 19 } else { delta };
            if sets {
                let mut units = H265_SETS.map(hex).to_vec();
                if mode == SetsMode::RecoveryPoint && stamp.key {
                    units.push(vec![39 << 1, 1, 6, 1, 0xd0, 0x80]);
                }
                out.extend([48 << 1, 1]);
                push_units(&mut out, &units);
                match sets_alone {
                    true => stamp.push_unit(&mut out, &[39 << 1, 1], 0),
                    false => stamp.push_unit(&mut out, &[kind << 1, 1, FIRST_SLICE], bytes),
                }
                return out;
            }
            out.extend([49 << 1, 1, kind | u8::from(begins) << 7 | u8::from(last) << 6]);
            out.extend(begins.then_some(FIRST_SLICE));
        }
        // The AV1 payload format: one frame in pieces, with the sequence header before the first.
        Codec::Av1 => {
            let last = stamp.index + 1 == stamp.count;
            let pieces = u8::from(!first) << 7 | u8::from(!last) << 6;
            match sets {
                true => {
                    let header = hex(AV1_SEQUENCE_HEADER);
                    out.extend([pieces | 0x28, header.len() as u8]);
                    out.extend(header);
                }
                false => out.push(pieces | 0x10),
            }
            if first {
                out.extend([6 << 3, if stamp.key { 0x10 } else { 0x30 }]);
            }
        }
        Codec::Opus => out.push(0x78),
        _ => out.push(0x55),
    }
    stamp.finish(&mut out, bytes);
    out
}

/// First byte of a slice header, whose first bit tells the first slice of a picture.
const FIRST_SLICE: u8 = 0x88;

/// VPS, SPS and PPS of x265, 1280x720.
const H265_SETS: [&str; 3] = [
    "40010c01ffff01600000030090000003000003005d9598",
    "42010101600000030090000003000003005da00280802d165959a4932bc05a020000030002000003000a10",
    "4401c172b46240",
];

/// The parameters with which an offer states the sets of a codec.
pub(crate) fn stated_sets(codec: Codec, size: (u16, u16)) -> String {
    let [vps, sps, pps] = H265_SETS.map(|set| base64(&hex(set)));
    match codec {
        Codec::H264 => {
            let (sps, pps) = (base64(&h264_sps(size)), base64(&[0x68, 0xce, 0x3c, 0x80]));
            format!(";sprop-parameter-sets={sps},{pps}")
        }
        Codec::H265 => format!(";sprop-vps={vps};sprop-sps={sps};sprop-pps={pps}"),
        _ => String::new(),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, n| bits << 8 | usize::from(*group.get(n).unwrap_or(&0)));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if place > group.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

/// Sequence header of libaom, 320x180.
const AV1_SEQUENCE_HEADER: &str = "08000000043cfeccdaf980";

/// Adds NAL units to an aggregate, each with its length.
fn push_units(out: &mut Vec<u8>, units: &[Vec<u8>]) {
    for unit in units {
        out.extend((unit.len() as u16).to_be_bytes());
        out.extend(unit);
    }
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    pairs.map(|byte| byte.expect("hexadecimal")).collect()
}

/// Whether a payload is one parameter set, or one sequence header of AV1.
pub(crate) fn is_one_set(codec: Codec, payload: &[u8]) -> bool {
    match (codec, payload) {
        (Codec::H264, [header, ..]) => matches!(header & 0x1f, 7 | 8),
        (Codec::H265, [header, ..]) => matches!(header >> 1 & 0x3f, 32..=34),
        (Codec::Av1, [0x18, header, ..]) => header >> 3 == 1,
        _ => false,
    }
}

/// Whether a payload with a stamp holds parameter sets before it.
pub(crate) fn begins_with_sets(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => payload[0] & 0x1f == 24,
        Codec::H265 => payload[0] >> 1 == 48,
        Codec::Av1 => payload[0] & 0x30 == 0x20 && payload[2] >> 3 == 1,
        _ => false,
    }
}

/// The byte of the VP8 layer: TID and the Y bit.
pub(crate) fn vp8_layer(layer_position: &LayerPosition) -> u8 {
    layer_position.temporal << 6 | u8::from(layer_position.is_switch_point()) << 5
}

/// A baseline SPS of this size, which must be in whole macroblocks.
fn h264_sps((width, height): (u16, u16)) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.ue(0); // seq_parameter_set_id
    bits.ue(0); // log2_max_frame_num_minus4
    bits.ue(2); // pic_order_cnt_type
    bits.ue(1); // max_num_ref_frames
    bits.push(0, 1);
    bits.ue(u32::from(width) / 16 - 1);
    bits.ue(u32::from(height) / 16 - 1);
    bits.push(0b110, 3); // frames only, direct 8x8, no cropping
    bits.push(0b01, 2); // no VUI, stop bit
    let mut sps = vec![0x67, 0x42, 0xe0, 0x1f];
    sps.extend(bits.bytes());
    sps
}

#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        self.0.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
    }

    fn ue(&mut self, value: u32) {
        let len = 32 - (value + 1).leading_zeros();
        self.push(0, len - 1);
        self.push(value + 1, len);
    }

    fn bytes(&self) -> Vec<u8> {
        self.0
            .chunks(8)
            .map(|chunk| {
                (0..8).fold(0, |byte, n| byte << 1 | u8::from(chunk.get(n) == Some(&true)))
            })
            .collect()
    }
}
