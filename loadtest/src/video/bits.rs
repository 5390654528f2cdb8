//! Writer for H.264 bitstreams: fixed fields, Exp-Golomb codes (clause 9.1), trailing bits,
//! escaping of NAL units.
//!
//! Called by `h264`, and has only what `h264` needs.

/// Collects bits, most significant first.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits used in the last byte, 0 to 7. 0 means that the last byte is full.
    used: u32,
}

impl BitWriter {
    /// A writer that continues after whole bytes, for example a NAL header.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, used: 0 }
    }

    /// `u(n)`: writes the low `count` bits of `value`, `count` up to 32.
    pub(crate) fn put(&mut self, value: u32, count: u32) {
        for shift in (0..count).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::from((value >> shift) & 1 == 1) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
    }

    /// `ue(v)`: writes an unsigned Exp-Golomb code, for values below 2^31 - 1.
    pub(crate) fn ue(&mut self, value: u32) {
        let code = value + 1;
        let width = u32::BITS - code.leading_zeros();
        self.put(0, width - 1);
        self.put(code, width);
    }

    /// Writes zero bits up to the next byte (`pcm_alignment_zero_bit`).
    pub(crate) fn align_zero(&mut self) {
        self.used = 0;
    }

    /// Writes whole bytes. The writer must be aligned.
    pub(crate) fn bytes(&mut self, bytes: impl IntoIterator<Item = u8>) {
        debug_assert_eq!(self.used, 0, "whole bytes need alignment");
        self.bytes.extend(bytes);
    }

    /// Writes `rbsp_trailing_bits` and returns the NAL unit with emulation prevention (clause
    /// 7.4.1.1). The first byte is its header.
    pub(crate) fn into_nal(mut self) -> Vec<u8> {
        self.put(1, 1);
        self.align_zero();
        let mut nal = Vec::with_capacity(self.bytes.len() + 8);
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros >= 2 && byte <= 3 {
                nal.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            nal.push(byte);
        }
        nal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_are_those_of_table_9_2() {
        for (value, bits) in
            [(0, "1"), (1, "010"), (2, "011"), (3, "00100"), (7, "0001000"), (30, "000011111")]
        {
            let mut writer = BitWriter::default();
            writer.ue(value);
            let text: String = writer.bytes.iter().map(|byte| format!("{byte:08b}")).collect();
            assert_eq!(&text[..bits.len()], bits, "ue({value})");
        }
    }

    #[test]
    fn start_codes_cannot_appear_inside_a_nal_unit() {
        let mut writer = BitWriter::after(vec![0x65]);
        writer.bytes([0, 0, 0, 0, 0, 1, 9]);
        assert_eq!(writer.into_nal(), [0x65, 0, 0, 3, 0, 0, 3, 0, 1, 9, 0x80]);
    }
}
