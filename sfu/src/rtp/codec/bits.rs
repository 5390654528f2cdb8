//! Reader of bits and variable-length numbers in headers inside a payload.
//!
//! Called by the SPS and sequence header readers and by the dependency descriptor. Every read can
//! end with `None`; the work is bounded by the bytes given.

/// A bit cursor, most significant bit first.
pub(in crate::rtp) struct BitReader<'a> {
    rest: &'a [u8],
    byte: u8,
    /// Bits of `byte` not read yet.
    left: u8,
    /// Consecutive zero bytes before the next one, when it removes emulation prevention.
    zeros: Option<u8>,
}

impl<'a> BitReader<'a> {
    /// Reads the bytes as they are (AV1).
    pub(in crate::rtp) fn plain(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, byte: 0, left: 0, zeros: None }
    }

    /// Reads a NAL unit behind its header and skips emulation prevention bytes: the 3 in 0 0 3
    /// (H.264 section 7.3.1).
    pub(in crate::rtp) fn nal_unit(bytes: &'a [u8]) -> Self {
        Self { zeros: Some(0), ..Self::plain(bytes) }
    }

    fn next_byte(&mut self) -> Option<u8> {
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let Some(zeros) = &mut self.zeros else { return Some(byte) };
            let escape = *zeros >= 2 && byte == 3;
            *zeros = if byte == 0 { zeros.saturating_add(1) } else { 0 };
            if !escape {
                return Some(byte);
            }
        }
    }

    pub(in crate::rtp) fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            self.byte = self.next_byte()?;
            self.left = 8;
        }
        self.left -= 1;
        Some(u32::from(self.byte >> self.left) & 1)
    }

    pub(in crate::rtp) fn flag(&mut self) -> Option<bool> {
        self.bit().map(|bit| bit == 1)
    }

    /// An unsigned number of `count` bits, at most 32.
    pub(in crate::rtp) fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | self.bit()?;
        }
        Some(value)
    }

    pub(in crate::rtp) fn skip(&mut self, count: u32) -> Option<()> {
        for _ in 0..count {
            self.bit()?;
        }
        Some(())
    }

    /// Unsigned Exp-Golomb number, `ue(v)`. `None` above 2^32 - 2.
    pub(in crate::rtp) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros == 32 {
                return None;
            }
        }
        let above = self.bits(zeros)?;
        Some((1u32 << zeros) - 1 + above)
    }

    /// Signed Exp-Golomb number, `se(v)`.
    pub(in crate::rtp) fn se(&mut self) -> Option<i32> {
        let code = self.ue()?;
        let magnitude = i32::try_from(code.div_ceil(2)).ok()?;
        Some(if code % 2 == 1 { magnitude } else { -magnitude })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_numbers_from_the_standard() {
        // H.264 table 9-2 and 9-3: 1, 010, 011, 00100, 00101
        let bytes = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut reader = BitReader::plain(&bytes);
        let unsigned: Vec<_> = (0..5).map(|_| reader.ue().unwrap()).collect();
        assert_eq!(unsigned, [0, 1, 2, 3, 4]);
        let mut reader = BitReader::plain(&bytes);
        let signed: Vec<_> = (0..5).map(|_| reader.se().unwrap()).collect();
        assert_eq!(signed, [0, 1, -1, 2, -2]);
    }

    #[test]
    fn the_largest_number_and_one_more_zero() {
        let mut largest = BitReader::plain(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(largest.ue(), Some(u32::MAX - 1));
        let mut too_large = BitReader::plain(&[0, 0, 0, 0, 0x80, 0, 0, 0, 0]);
        assert_eq!(too_large.ue(), None);
        assert_eq!(BitReader::plain(&[0; 3]).ue(), None, "ends inside");
    }

    #[test]
    fn emulation_prevention_is_skipped_only_in_nal_units() {
        let bytes = [0, 0, 3, 1, 0, 0, 3, 0, 0, 3, 3];
        let all =
            |mut reader: BitReader<'_>| std::iter::from_fn(|| reader.bits(8)).collect::<Vec<_>>();
        assert_eq!(all(BitReader::nal_unit(&bytes)), [0, 0, 1, 0, 0, 0, 0, 3]);
        assert_eq!(all(BitReader::plain(&bytes)).len(), bytes.len());
    }
}
