//! A constrained baseline H.264 encoder that writes every bit itself, and its RTP packetizer (RFC
//! 6184, packetization mode 1).
//!
//! A keyframe is a flat picture with raw (I_PCM) macroblocks at its end. Other frames skip all
//! macroblocks except a band of raw ones, which moves with the frame number. So each frame depends
//! on all frames since the keyframe, needs no motion search, and can have any size in steps of one
//! macroblock. The first packet of a frame has the parameter sets (in keyframes) and the stamp,
//! padded to a full packet. So all packets of a frame except the last have the same length, as
//! those of real encoders. Deblocking is off, and output order is decoding order (picture order
//! count type 2). Called by `source`; the parameter sets by `h264_assembly`.

use bytes::Bytes;

use super::bits::BitWriter;
use super::size::Size;
use crate::rtp::PAYLOAD_MAX;
use crate::stamp::{self, Stamp};

/// Bytes of an I_PCM macroblock: 256 luma and 2 x 64 chroma samples, and two bytes for type,
/// alignment and skip run.
const PCM_MACROBLOCK: usize = 386;

/// `profile-level-id`: constrained baseline, level 3.1 (1280x720 at 30 frames/s).
const PROFILE_LEVEL: [u8; 3] = [0x42, 0xe0, 0x1f];

/// Bits of `frame_num` (`log2_max_frame_num_minus4` is 4): frame numbers are modulo 256.
const FRAME_NUM_BITS: u32 = 8;

const NAL_SLICE: u8 = 0x41;
const NAL_IDR: u8 = 0x65;
const NAL_SEI: u8 = 0x06;
const NAL_SPS: u8 = 0x67;
const NAL_PPS: u8 = 0x68;
const NAL_TYPE_STAP_A: u8 = 24;
const NAL_TYPE_FU_A: u8 = 28;

/// One layer's encoder.
pub(crate) struct Encoder {
    sps: Vec<u8>,
    pps: Vec<u8>,
    macroblocks: usize,
    frame_num: u32,
    idr_pic_id: u32,
}

impl Encoder {
    /// An encoder for pictures of `size`. Width and height must be even.
    pub(crate) fn new(size: Size) -> Self {
        let (wide, high) = in_macroblocks(size);
        Self {
            sps: sps(size),
            pps: pps(),
            macroblocks: (wide * high) as usize,
            frame_num: 0,
            idr_pic_id: 0,
        }
    }

    /// The frame of `stamp` as RTP payloads of about `budget` bytes in all.
    pub(crate) fn encode(&mut self, stamp: Stamp, budget: usize) -> Vec<Bytes> {
        // The STAP-A with parameter sets and stamp has a header of one byte, and two bytes before
        // each NAL unit.
        let overhead = if stamp.key { 1 + 2 + self.sps.len() + 2 + self.pps.len() + 2 } else { 0 };
        let full_first_packet = budget >= 2 * PAYLOAD_MAX;
        let mut sei = stamp_sei(stamp, if full_first_packet { PAYLOAD_MAX - overhead } else { 0 });
        let left = budget.saturating_sub(sei.nal.len() + overhead);
        let slice = if stamp.key { self.idr(left) } else { self.inter(stamp.frame, left) };

        let mut crc = crc32fast::Hasher::new();
        crc_of_nal(&mut crc, &sei.nal);
        crc_of_nal(&mut crc, &slice);
        stamp::fill_crc(&mut sei.nal, sei.stamp_at, crc.finalize());

        let mut packets = Vec::new();
        if stamp.key {
            let mut aggregate = vec![0x60 | NAL_TYPE_STAP_A];
            for nal in [&self.sps, &self.pps, &sei.nal] {
                let length =
                    u16::try_from(nal.len()).expect("parameter sets and stamp fit one packet");
                aggregate.extend_from_slice(&length.to_be_bytes());
                aggregate.extend_from_slice(nal);
            }
            packets.push(aggregate.into());
        } else {
            packets.push(sei.nal.into());
        }
        packetize(&slice, &mut packets);
        packets
    }

    /// An IDR slice: flat Intra16x16 macroblocks, then as many raw ones as fit into `bytes`. The
    /// raw ones come last, because a raw neighbour to the left or above would change the code for
    /// "no coefficients" in a flat macroblock.
    fn idr(&mut self, bytes: usize) -> Vec<u8> {
        self.frame_num = 0;
        self.idr_pic_id ^= 1;
        let raw = (bytes.saturating_sub(self.macroblocks) / PCM_MACROBLOCK).min(self.macroblocks);
        let mut out = BitWriter::after(vec![NAL_IDR]);
        out.ue(0); // first_mb_in_slice
        out.ue(7); // slice_type: I, all slices of the picture
        out.ue(0); // pic_parameter_set_id
        out.put(self.frame_num, FRAME_NUM_BITS);
        out.ue(self.idr_pic_id);
        out.put(0, 2); // no_output_of_prior_pics_flag, long_term_reference_flag
        out.ue(0); // slice_qp_delta: se(0)
        out.ue(1); // disable_deblocking_filter_idc
        for _ in raw..self.macroblocks {
            // mb_type I_16x16_2_0_0 (DC prediction, nothing coded) is ue(3). Then
            // intra_chroma_pred_mode DC, mb_qp_delta 0 and the coefficient token for "none" are one
            // bit "1" each.
            out.put(0b0010_0111, 8);
        }
        for n in 0..raw {
            out.ue(25); // mb_type I_PCM in I slices
            pcm(&mut out, n);
        }
        out.into_nal()
    }

    /// A P slice that skips all macroblocks except a band of raw ones. The frame number determines
    /// the position of the band.
    fn inter(&mut self, frame: u32, bytes: usize) -> Vec<u8> {
        self.frame_num = (self.frame_num + 1) % (1 << FRAME_NUM_BITS);
        let raw = (bytes / PCM_MACROBLOCK).min(self.macroblocks);
        let positions = self.macroblocks - raw + 1;
        let first = (frame as usize * raw.max(1)) % positions;
        let mut out = BitWriter::after(vec![NAL_SLICE]);
        out.ue(0); // first_mb_in_slice
        out.ue(5); // slice_type: P, all slices of the picture
        out.ue(0); // pic_parameter_set_id
        out.put(self.frame_num, FRAME_NUM_BITS);
        out.put(0, 1); // num_ref_idx_active_override_flag
        out.put(0, 1); // ref_pic_list_modification_flag_l0
        out.put(0, 1); // adaptive_ref_pic_marking_mode_flag
        out.ue(0); // slice_qp_delta: se(0)
        out.ue(1); // disable_deblocking_filter_idc
        for n in 0..raw {
            out.ue(if n == 0 { count(first) } else { 0 }); // mb_skip_run
            out.ue(5 + 25); // mb_type I_PCM in P slices
            pcm(&mut out, frame as usize + n);
        }
        let rest = if raw == 0 { self.macroblocks } else { self.macroblocks - raw - first };
        if rest > 0 {
            out.ue(count(rest)); // mb_skip_run
        }
        out.into_nal()
    }
}

fn count(macroblocks: usize) -> u32 {
    u32::try_from(macroblocks).expect("a picture has less than 2^32 macroblocks")
}

/// Writes the samples of a raw macroblock: a gradient whose shade depends on `n`. No sample is
/// zero, so none needs escaping.
fn pcm(out: &mut BitWriter, n: usize) {
    let shade = 16 + (n * 7 % 160) as u8;
    out.align_zero();
    out.bytes((0..=255u8).map(|sample| shade + (sample & 0x0f) * 3));
    out.bytes((0..128u8).map(|sample| if sample < 64 { 90 + shade / 4 } else { 200 - shade / 4 }));
}

struct Sei {
    nal: Vec<u8>,
    stamp_at: usize,
}

/// The stamp as SEI NAL unit, padded to `total` bytes if that is more than it needs.
fn stamp_sei(stamp: Stamp, total: usize) -> Sei {
    // NAL header and payload type, length in steps of 255, payload, trailing bits.
    let nal_bytes = |payload: usize| 2 + payload / 255 + 1 + payload + 1;
    let mut payload = total.max(nal_bytes(stamp::LEN)) - 4;
    while payload > stamp::LEN && nal_bytes(payload) > total {
        payload -= 1;
    }
    let mut nal = vec![NAL_SEI, 5];
    nal.extend(std::iter::repeat_n(255, payload / 255));
    nal.push((payload % 255) as u8);
    let stamp_at = nal.len();
    nal.extend_from_slice(&stamp.write());
    nal.resize(stamp_at + payload, FILLER);
    nal.push(0x80);
    Sei { nal, stamp_at }
}

/// Padding after the stamp in its SEI message.
const FILLER: u8 = 0x55;

/// Adds a NAL unit to a frame's checksum: slices, and the stamp without its own checksum. Parameter
/// sets are left out, because a server may repeat them.
pub(crate) fn crc_of_nal(crc: &mut crc32fast::Hasher, nal: &[u8]) {
    match nal.first().map(|header| header & 0x1f) {
        Some(1..=5) => crc.update(nal),
        Some(6) => {
            if let Some(at) = find_stamp(nal) {
                let (before, from) = nal.split_at(at + stamp::LEN - stamp::CRC_LEN);
                crc.update(before);
                crc.update(from.get(stamp::CRC_LEN..).unwrap_or_default());
            }
        }
        _ => {}
    }
}

/// Offset of the stamp in an SEI NAL unit; at least [`stamp::LEN`] bytes follow from there. `None`
/// if it is another message.
pub(crate) fn find_stamp(sei: &[u8]) -> Option<usize> {
    let at = 3 + sei.get(2..)?.iter().take_while(|byte| **byte == 255).count();
    let is_stamp =
        sei.get(1) == Some(&5) && sei.get(at..at + stamp::LEN)?.starts_with(&stamp::UUID);
    is_stamp.then_some(at)
}

/// Appends the packets of a slice: a single NAL unit if it fits, else fragments, all full except
/// the last (RFC 6184 section 5.8).
fn packetize(nal: &[u8], packets: &mut Vec<Bytes>) {
    if nal.len() <= PAYLOAD_MAX {
        packets.push(Bytes::copy_from_slice(nal));
        return;
    }
    let (header, body) = nal.split_first().expect("a NAL unit has a header");
    let pieces = body.chunks(PAYLOAD_MAX - 2);
    let last = pieces.len() - 1;
    for (n, piece) in pieces.enumerate() {
        let flags = if n == 0 {
            0x80
        } else if n == last {
            0x40
        } else {
            0
        };
        let mut packet = vec![(header & 0xe0) | NAL_TYPE_FU_A, flags | (header & 0x1f)];
        packet.extend_from_slice(piece);
        packets.push(packet.into());
    }
}

fn in_macroblocks((width, height): Size) -> (u32, u32) {
    (width.div_ceil(16), height.div_ceil(16))
}

/// The sequence parameter set for pictures of `size`.
pub(crate) fn sps(size: Size) -> Vec<u8> {
    let (wide, high) = in_macroblocks(size);
    let mut out = BitWriter::after(vec![NAL_SPS]);
    out.bytes(PROFILE_LEVEL);
    out.ue(0); // seq_parameter_set_id
    out.ue(FRAME_NUM_BITS - 4);
    out.ue(2); // pic_order_cnt_type
    out.ue(1); // max_num_ref_frames
    out.put(0, 1); // gaps_in_frame_num_value_allowed_flag
    out.ue(wide - 1);
    out.ue(high - 1);
    out.put(1, 1); // frame_mbs_only_flag
    out.put(1, 1); // direct_8x8_inference_flag
    let (right, bottom) = ((wide * 16 - size.0) / 2, (high * 16 - size.1) / 2);
    out.put(u32::from(right + bottom > 0), 1); // frame_cropping_flag
    if right + bottom > 0 {
        for edge in [0, right, 0, bottom] {
            out.ue(edge);
        }
    }
    out.put(0, 1); // vui_parameters_present_flag
    out.into_nal()
}

/// The picture parameter set. It is the same for every size.
pub(crate) fn pps() -> Vec<u8> {
    let mut out = BitWriter::after(vec![NAL_PPS]);
    out.ue(0); // pic_parameter_set_id
    out.ue(0); // seq_parameter_set_id
    out.put(0, 2); // entropy_coding_mode_flag: CAVLC; bottom_field_pic_order_in_frame_present_flag
    for _ in 0..3 {
        out.ue(0); // num_slice_groups_minus1, num_ref_idx_l0/l1_default_active_minus1
    }
    out.put(0, 3); // weighted_pred_flag, weighted_bipred_idc
    for _ in 0..3 {
        out.ue(0); // pic_init_qp_minus26, pic_init_qs_minus26, chroma_qp_index_offset: se(0)
    }
    out.put(0b100, 3); // deblocking_filter_control_present_flag; constrained_intra_pred, redundant_pic_cnt
    out.into_nal()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(frame: u32) -> Stamp {
        Stamp { run: 9, frame, sent_us: 5, layer: 0, key: frame.is_multiple_of(20) }
    }

    #[test]
    fn all_packets_of_a_frame_except_the_last_are_full() {
        let mut encoder = Encoder::new((640, 360));
        for frame in 0..3 {
            let packets = encoder.encode(stamp(frame), 6000);
            let (last, full) = packets.split_last().expect("has packets");
            assert!(full.iter().all(|p| p.len().abs_diff(PAYLOAD_MAX) <= 1), "{:?}", full[0].len());
            assert!(last.len() <= PAYLOAD_MAX);
        }
    }

    #[test]
    fn small_budget_gives_the_smallest_decodable_frame() {
        let mut encoder = Encoder::new((640, 360));
        assert!(encoder.encode(stamp(0), 0).iter().map(Bytes::len).sum::<usize>() < 1100);
        assert!(encoder.encode(stamp(1), 0).iter().map(Bytes::len).sum::<usize>() < 100);
    }

    #[test]
    fn stamp_is_found_in_messages_of_every_size() {
        for total in (0..1200).step_by(7) {
            let sei = stamp_sei(stamp(1), total);
            assert_eq!(find_stamp(&sei.nal), Some(sei.stamp_at));
            assert!(total < 80 || sei.nal.len().abs_diff(total) <= 1, "{total} {}", sei.nal.len());
        }
    }
}
