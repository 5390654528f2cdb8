//! Audio of the generator: Opus packets of silence, each with a stamp.
//!
//! Used by both kinds of publishers. Viewers check the stamp in `receiver`.

use bytes::Bytes;

use crate::stamp::{self, Stamp};

/// Packets per second: each has 20 ms of audio.
pub(crate) const PACKETS_PER_S: u32 = 50;

/// Clock units (48 kHz) in one packet.
pub(crate) const PACKET_CLOCK_UNITS: u64 = 960;

/// Clock rate of Opus in RTP (RFC 7587).
pub(crate) const CLOCK_HZ: u128 = 48_000;

/// Bytes of a packet, as an encoder at 32 kbit/s makes them.
const PACKET_BYTES: usize = 80;

/// Twenty milliseconds of silence in [`PACKET_BYTES`] bytes: one padded frame (RFC 6716 section
/// 3.2.5, code 3). The stamp is at the end of the padding, which a decoder must not read.
pub(crate) fn silence(stamp: Stamp) -> Bytes {
    // TOC: full-band CELT, 20 ms, mono, code 3. Frame count: one frame, constant bitrate, padding.
    // Padding length. The frame.
    let mut packet = vec![0xfb, 0x41, (PACKET_BYTES - 5) as u8, 0xff, 0xfe];
    packet.resize(PACKET_BYTES - stamp::LEN, 0);
    let stamp_at = packet.len();
    packet.extend_from_slice(&stamp.write());
    let crc = crc32fast::hash(&packet[..PACKET_BYTES - stamp::CRC_LEN]);
    stamp::fill_crc(&mut packet, stamp_at, crc);
    packet.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_has_one_padded_frame_and_its_length() {
        let packet = silence(Stamp { run: 1, frame: 2, sent_us: 3, layer: 0, key: true });
        assert_eq!(packet.len(), PACKET_BYTES);
        let (code, frames, padding) = (packet[0] & 3, packet[1] & 0x3f, usize::from(packet[2]));
        assert_eq!((code, frames, padding), (3, 1, PACKET_BYTES - 5));
    }
}
