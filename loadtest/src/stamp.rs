//! The stamp inside every published frame: frame number, send time, and a checksum over the frame's
//! bytes.
//!
//! It is hexadecimal text, so that it needs no escaping in any bitstream and is readable in a dump.
//! In H.264 it is an SEI message "user data unregistered" (H.264 D.1.7). In VP8 it follows the last
//! partition of the frame, which decoders ignore. Written and read by `video`; audio by `opus` and
//! `receiver`.

/// Identifies the stamp, as an SEI `uuid_iso_iec_11578`. Sixteen bytes, none of them zero.
pub(crate) const UUID: [u8; 16] = *b"weir-load-stamp1";

/// Length of the text after the UUID: run 16, frame 8, send time 16, layer 1, key 1, CRC 8 digits.
const TEXT_LEN: usize = 50;

/// Length of the whole stamp.
pub(crate) const LEN: usize = UUID.len() + TEXT_LEN;

/// Length of the checksum at the end of the stamp. It is the only part that the checksum does not
/// cover.
pub(crate) const CRC_LEN: usize = 8;

/// The contents of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Random number of the run. Send times can only be compared with the clock of the same
    /// process.
    pub(crate) run: u64,
    /// Frame number, the same in all layers at one time. It increases by one.
    pub(crate) frame: u32,
    /// When the frame was sent, in microseconds of the sender's clock.
    pub(crate) sent_us: u64,
    /// Simulcast layer; 0 is the smallest.
    pub(crate) layer: u8,
    /// Whether the frame is a keyframe.
    pub(crate) key: bool,
}

impl Stamp {
    /// The stamp with a checksum of zeros in its last [`CRC_LEN`] bytes; see [`fill_crc`].
    pub(crate) fn write(&self) -> [u8; LEN] {
        let text = format!(
            "{:016x}{:08x}{:016x}{:01x}{:01x}{:08x}",
            self.run,
            self.frame,
            self.sent_us,
            self.layer & 0xf,
            u8::from(self.key),
            0
        );
        let mut out = [0; LEN];
        let (uuid, digits) = out.split_at_mut(UUID.len());
        uuid.copy_from_slice(&UUID);
        digits.copy_from_slice(text.as_bytes());
        out
    }

    /// Reads a stamp and its checksum from exactly [`LEN`] bytes; `None` if they are not a stamp.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, u32)> {
        let text = bytes.strip_prefix(&UUID)?;
        if text.len() != TEXT_LEN {
            return None;
        }
        let number = |range: std::ops::Range<usize>| {
            let digits = std::str::from_utf8(text.get(range)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let stamp = Self {
            run: number(0..16)?,
            frame: u32::try_from(number(16..24)?).ok()?,
            sent_us: number(24..40)?,
            layer: u8::try_from(number(40..41)?).ok()?,
            key: number(41..42)? == 1,
        };
        Some((stamp, u32::try_from(number(42..50)?).ok()?))
    }
}

/// Writes the checksum into the last bytes of the stamp that begins at `at` in `frame_part`.
pub(crate) fn fill_crc(frame_part: &mut [u8], at: usize, crc: u32) {
    let end = at + LEN;
    frame_part[end - CRC_LEN..end].copy_from_slice(format!("{crc:08x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_is_read_as_written_and_contains_no_zero_byte() {
        let stamp =
            Stamp { run: 0xdead_beef, frame: 77, sent_us: 123_456_789, layer: 2, key: true };
        let mut bytes = stamp.write();
        assert!(!bytes.contains(&0), "a zero byte would need escaping in H264");
        fill_crc(&mut bytes, 0, 0x0102_0304);
        assert_eq!(Stamp::read(&bytes), Some((stamp, 0x0102_0304)));
    }

    #[test]
    fn other_bytes_are_not_a_stamp() {
        let mut bytes = Stamp { run: 1, frame: 1, sent_us: 1, layer: 0, key: false }.write();
        assert_eq!(Stamp::read(&bytes[..LEN - 1]), None);
        bytes[20] = b'z';
        assert_eq!(Stamp::read(&bytes), None);
        assert_eq!(Stamp::read(&[0; LEN]), None);
    }
}
