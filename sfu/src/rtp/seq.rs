//! Extended sequence numbers: 16-bit wire numbers as 64-bit ones that never wrap.
//!
//! Owns the number of wraps of one source. Never judges: a jump, a duplicate or a very late
//! packet is named by `repair/`. Called once for each incoming packet. SRTP has its own rollover
//! counter, which moves only after authentication (`transport/srtp`).

/// Extends the 16-bit sequence numbers of one source. The first becomes `1 << 16 | number`, so
/// that packets older than the first stay positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeqUnwrapper {
    /// Largest extended number so far.
    newest: Option<u64>,
}

impl SeqUnwrapper {
    /// An unwrapper without a reference: the first number sets it.
    pub const fn new() -> Self {
        Self { newest: None }
    }

    /// Result of [`unwrap`](Self::unwrap), without taking the number as the reference.
    pub fn peek(&self, number: u16) -> u64 {
        match self.newest {
            None => (1 << 16) | u64::from(number),
            Some(newest) => {
                let ahead = number.wrapping_sub(newest as u16) as i16;
                newest.wrapping_add_signed(i64::from(ahead))
            }
        }
    }

    /// Takes an extended number that was found by other means as the reference.
    pub fn follow(&mut self, extended: u64) {
        self.newest = self.newest.max(Some(extended));
    }

    /// The extended number nearest to the newest one so far; exactly half the circle away counts
    /// as older. The reference only moves forward, so late packets do not pull it back and a
    /// result is never below half a circle.
    #[cfg(feature = "internals")]
    pub fn unwrap(&mut self, number: u16) -> u64 {
        let extended = self.peek(number);
        self.newest = self.newest.max(Some(extended));
        extended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrap_at_join_keeps_older_packets_positive() {
        // quality B4 item 12
        let mut seq = SeqUnwrapper::new();
        assert_eq!(seq.unwrap(0), 65_536);
        assert_eq!(seq.unwrap(65_535), 65_535, "one before the first");
        assert_eq!(seq.unwrap(1), 65_537, "the late packet did not pull the reference back");
        assert_eq!(seq.peek(32_769), 32_769, "exactly half a circle away counts as older");
        assert_eq!(seq.peek(32_768), 98_304);
    }

    #[test]
    fn many_wraps_with_reordering_count_on() {
        let mut seq = SeqUnwrapper::new();
        for n in 65_536u64..65_536 * 4 {
            let late = n.saturating_sub(20).max(65_536);
            assert_eq!(seq.unwrap(n as u16), n);
            assert_eq!(seq.unwrap(late as u16), late);
        }
    }

    #[test]
    fn jumps_of_half_the_circle_do_not_panic() {
        // quality B4 item 12: +-32,768 in sequence
        let mut seq = SeqUnwrapper::new();
        assert_eq!(seq.unwrap(100), 65_636);
        assert_eq!(seq.unwrap(100 + 32_767), 65_636 + 32_767);
        assert_eq!(seq.unwrap(99), 65_636 + 32_767 - 32_768);
    }
}
