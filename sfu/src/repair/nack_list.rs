//! Sequence numbers that one NACK packet requests.
//!
//! Filled by `nack_generator.rs`, written by `rtp::rtcp` for the worker. Never decides anything.

/// Sequence numbers for one NACK packet (RFC 4585 section 6.2.1), oldest first.
///
/// All lie within `nack_generator::NACK_WINDOW`, and each pair of packet id and bitmask covers 17
/// numbers. So 61 pairs are always enough (64 are allowed, quality B2).
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
    /// Maximum sequence numbers in one list; the rest follows in the next NACK.
    pub const MAX_NUMBERS: usize = 256;

    /// Creates an empty list.
    pub fn new() -> Self {
        Self { numbers: [0; Self::MAX_NUMBERS], len: 0 }
    }

    /// Sequence numbers as on the wire; the order survives the wrap (65,535 before 0).
    pub fn as_slice(&self) -> &[u16] {
        self.numbers.get(..self.len).unwrap_or_default()
    }

    /// Whether nothing is requested.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes all numbers.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends a number; false if the list is full.
    pub(super) fn push(&mut self, seq: u16) -> bool {
        let Some(slot) = self.numbers.get_mut(self.len) else { return false };
        *slot = seq;
        self.len += 1;
        true
    }
}
