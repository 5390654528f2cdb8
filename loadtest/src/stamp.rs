//! The mark inside every frame we publish: which frame it is, when it left, and a checksum over its bytes.
//!
//! Written as hexadecimal text, so that it needs no escaping in any bitstream and can be read in a dump. In H264 it is an SEI
//! message "user data unregistered" (H.264 D.1.7), in VP8 it stands behind the frame's last partition, where decoders do not
//! look. Written by `video`, read by `frame_checker` and `video`.

/// Marks our stamp, as an SEI `uuid_iso_iec_11578`. Sixteen bytes, none of them zero.
pub(crate) const UUID: [u8; 16] = *b"weir-load-stamp1";

/// Length of the text behind the UUID: run 16, frame 8, sent 16, layer 1, key 1, crc 8 digits.
const TEXT_LEN: usize = 50;

/// Length of the whole stamp.
pub(crate) const LEN: usize = UUID.len() + TEXT_LEN;

/// The checksum's place at the end of the stamp. It is the only part that the checksum does not cover.
pub(crate) const CRC_LEN: usize = 8;

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Random number of the sending process: a clock may only be compared with itself.
    pub(crate) run: u64,
    /// Frame number, the same in all layers of one instant, rising by one.
    pub(crate) frame: u32,
    /// When the frame was handed to the network, microseconds of the sender's clock.
    pub(crate) sent_us: u64,
    /// Simulcast layer, 0 the smallest.
    pub(crate) layer: u8,
    /// Whether the frame can be decoded without others.
    pub(crate) key: bool,
}

impl Stamp {
    /// The stamp with the checksum still to be filled in (its last [`CRC_LEN`] bytes).
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

    /// Reads a stamp and its checksum from exactly [`LEN`] bytes; `None` if they are something else.
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

/// Writes the checksum into the place [`Stamp::write`] left for it; `at` is where the stamp begins in `frame_part`.
pub(crate) fn fill_crc(frame_part: &mut [u8], at: usize, crc: u32) {
    let end = at + LEN;
    frame_part[end - CRC_LEN..end].copy_from_slice(format!("{crc:08x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_contains_no_zero_byte() {
        let stamp =
            Stamp { run: 0xdead_beef, frame: 77, sent_us: 123_456_789, layer: 2, key: true };
        let mut bytes = stamp.write();
        assert!(!bytes.contains(&0), "a zero byte would need escaping in H264");
        fill_crc(&mut bytes, 0, 0x0102_0304);
        assert_eq!(Stamp::read(&bytes), Some((stamp, 0x0102_0304)));
    }

    #[test]
    fn anything_else_is_not_a_stamp() {
        let mut bytes = Stamp { run: 1, frame: 1, sent_us: 1, layer: 0, key: false }.write();
        assert_eq!(Stamp::read(&bytes[..LEN - 1]), None);
        bytes[20] = b'z';
        assert_eq!(Stamp::read(&bytes), None);
        assert_eq!(Stamp::read(&[0; LEN]), None);
    }
}
