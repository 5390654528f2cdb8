//! Read position over received bytes: big-endian numbers, and never past the end.
//!
//! Used by the parsers of `rtp/` only; bit-level reading is in `codec/bits.rs`.

/// The bytes that are not read yet.
#[derive(Debug, Clone, Copy)]
pub(in crate::rtp) struct Reader<'a>(pub(in crate::rtp) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `N` bytes, or `None` (and nothing consumed) when fewer are left.
    pub(in crate::rtp) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next `len` bytes, or `None` (and nothing consumed) when fewer are left.
    pub(in crate::rtp) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(in crate::rtp) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(in crate::rtp) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(in crate::rtp) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(in crate::rtp) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
