//! A set of recent sequence numbers, one bit each, addressed by the number modulo the span.
//!
//! Owns the bits only. Never knows which number is the newest: the caller keeps it, clears the
//! numbers that it skips, and asks only about numbers within one span. Called by
//! `repair/nack_generator.rs`, `forward/sequence.rs` and `transport/srtp/replay.rs`.

use std::ops::Range;

/// Set of extended sequence numbers that lie within one span of `64 * WORDS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeqWindow<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> SeqWindow<WORDS> {
    /// Distance in numbers after which a bit stands for another number.
    pub const SPAN: u64 = 64 * WORDS as u64;

    /// The empty set.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Whether the number is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        // The index is always within the array; if it were not, "seen" is the safe answer.
        self.0.get(Self::index(seq)).is_none_or(|word| word & mask(seq) != 0)
    }

    /// Adds a number; false if it was in the set already.
    pub fn insert(&mut self, seq: u64) -> bool {
        let Some(word) = self.0.get_mut(Self::index(seq)) else { return false };
        let is_new = *word & mask(seq) == 0;
        *word |= mask(seq);
        is_new
    }

    /// Takes a number out.
    pub fn remove(&mut self, seq: u64) {
        if let Some(word) = self.0.get_mut(Self::index(seq)) {
            *word &= !mask(seq);
        }
    }

    /// Takes all numbers of a range out; a range of a span or more empties the set.
    pub fn clear(&mut self, range: Range<u64>) {
        if range.end.saturating_sub(range.start) >= Self::SPAN {
            *self = Self::EMPTY;
            return;
        }
        for (seq, mask) in word_masks(range) {
            if let Some(word) = self.0.get_mut(Self::index(seq)) {
                *word &= !mask;
            }
        }
    }

    /// Numbers of a range that are in the set; the range is at most a span long.
    pub fn count(&self, range: Range<u64>) -> u64 {
        let words =
            word_masks(range).filter_map(|(seq, mask)| Some(self.0.get(Self::index(seq))? & mask));
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    fn index(seq: u64) -> usize {
        (seq / 64) as usize % WORDS
    }
}

fn mask(seq: u64) -> u64 {
    1 << (seq % 64)
}

/// The words that a range touches: a number in each, and the mask of the bits in the range.
fn word_masks(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let mut next = range.start;
    std::iter::from_fn(move || {
        let left = range.end.checked_sub(next).filter(|left| *left > 0)?;
        let (seq, offset) = (next, next % 64);
        let width = left.min(64 - offset);
        next += width;
        Some((seq, (u64::MAX >> (64 - width)) << offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    type Window = SeqWindow<2>;

    #[test]
    fn bit_is_shared_by_numbers_one_span_apart() {
        let mut window = Window::EMPTY;
        assert!(window.insert(5) && !window.insert(5) && window.contains(5));
        assert!(window.contains(5 + Window::SPAN), "the caller clears what it skips");
        window.clear(6..6 + Window::SPAN - 1);
        assert!(window.contains(5), "all but number 5");
        window.clear(6..6 + Window::SPAN);
        assert_eq!(window, Window::EMPTY);
    }

    #[test]
    fn ranges_end_at_word_edges_and_at_the_largest_number() {
        let mut window = Window::EMPTY;
        for seq in 60..70 {
            window.insert(seq);
        }
        assert_eq!((window.count(60..70), window.count(64..64), window.count(63..65)), (10, 0, 2));
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range in either form")]
        let empty = 70..60;
        assert_eq!(window.count(empty.clone()), 0);
        window.clear(empty);
        window.clear(64..128);
        assert_eq!(window.count(0..Window::SPAN), 4);
        window.insert(u64::MAX - 1);
        assert_eq!(window.count(u64::MAX - 60..u64::MAX), 1);
    }

    proptest::proptest! {
        /// Numbers move forward, jump and come late, as callers use the window.
        #[test]
        fn window_agrees_with_a_plain_set(
            first in proptest::prelude::any::<u32>(),
            steps in proptest::collection::vec((-150i64..300, 0u8..8), 1..300),
        ) {
            let mut window = Window::EMPTY;
            let (mut set, mut newest) = (BTreeSet::new(), (1 << 16) + u64::from(first));
            window.insert(newest);
            set.insert(newest);
            for (step, action) in steps {
                let step = if action < 4 { step / 50 } else { step };
                let seq = newest.saturating_add_signed(step);
                if seq > newest {
                    window.clear(newest + 1..seq);
                    window.remove(seq);
                    newest = seq;
                    set = set.split_off(&(newest + 1 - Window::SPAN));
                } else if newest - seq >= Window::SPAN {
                    continue;
                }
                if action == 7 {
                    window.remove(seq);
                    set.remove(&seq);
                } else {
                    assert_eq!(window.insert(seq), set.insert(seq));
                }
                for seq in newest + 1 - Window::SPAN..=newest {
                    assert_eq!(window.contains(seq), set.contains(&seq), "{seq} of {newest}");
                }
                let oldest = newest + 1 - Window::SPAN;
                for (from, to) in [(oldest, newest + 1), (oldest + 30, newest - 30)] {
                    assert_eq!(window.count(from..to), set.range(from..to).count() as u64);
                }
            }
        }
    }
}
