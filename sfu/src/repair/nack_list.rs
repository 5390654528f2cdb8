//! The numbers that one NACK packet asks for.
//!
//! Filled by `nack_generator.rs`, written by `rtp::rtcp` for the worker. Never decides anything.

/// Numbers for one NACK packet (RFC 4585 section 6.2.1), oldest first.
///
/// All lie within `nack_generator::NACK_WINDOW`, and each pair of packet id and bitmask covers 17 numbers, so they
/// never need more than 61 pairs on the wire (64 are allowed, quality B2).
#[derive(Debug)]
pub struct NackList {
    numbers: [u16; Self::MAX_NUMBERS],
    len: usize,
}

impl Default for NackList {
    fn default() -> Self {
        Self::new()
    }
}

impl NackList {
    /// Most numbers in one list.
    pub const MAX_NUMBERS: usize = 256;

    /// An empty list.
    pub fn new() -> Self {
        Self { numbers: [0; Self::MAX_NUMBERS], len: 0 }
    }

    /// The numbers as they stand on the wire; order survives the wrap (65,535 before 0).
    pub fn as_slice(&self) -> &[u16] {
        self.numbers.get(..self.len).unwrap_or_default()
    }

    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// False if it is full.
    pub(super) fn push(&mut self, seq: u16) -> bool {
        let Some(slot) = self.numbers.get_mut(self.len) else { return false };
        *slot = seq;
        self.len += 1;
        true
    }
}
