//! A write position in the buffer of one RTCP packet.
//!
//! Owns bounds checks only. Never knows a format: `write.rs` and `twcc.rs` do. Called by both.

/// Writes at a growing position and refuses to pass the end.
#[derive(Debug)]
pub(super) struct Cursor<'b> {
    buf: &'b mut [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    /// A cursor at the beginning of `buf`.
    pub(super) fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// Bytes written so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Appends bytes; `None`, and nothing written, if they do not fit.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        self.buf.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }

    /// Writes a word in network byte order.
    pub(super) fn u32(&mut self, word: u32) -> Option<()> {
        self.bytes(&word.to_be_bytes())
    }
    /// Replaces the first four bytes, once the length of the packet is known.
    pub(super) fn overwrite_header(&mut self, header: [u8; 4]) -> Option<()> {
        *self.buf.first_chunk_mut()? = header;
        Some(())
    }
}
