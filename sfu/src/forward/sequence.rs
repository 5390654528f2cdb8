//! Which numbers of a line were given out, and which of the publisher's it closes over: of the newest ones, as bits.
//!
//! Knows numbers only, neither packets nor why one is left out. Called by `rtp_sender.rs`.

use std::hint::black_box;

/// How many numbers back either is remembered. What comes later than that has no place any more: it is dropped, as a number
/// that was given out before it ([`IssuedSeqs`]) or as too old ([`DroppedSeqs`]).
pub(super) const SPAN: u64 = 1024;

/// A set of numbers, all within one span.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits([u64; (SPAN / 64) as usize]);

impl Bits {
    const NONE: Self = Self([0; (SPAN / 64) as usize]);

    fn set(&mut self, number: u64, value: bool) {
        let bit = 1 << (number % 64);
        if let Some(word) = self.0.get_mut((number % SPAN / 64) as usize) {
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    fn is_set(&self, number: u64) -> bool {
        self.word(number) & (1 << (number % 64)) != 0
    }

    /// The numbers that begin at `from` and end before `to` are not in it; more than a span of them empties it.
    fn clear(&mut self, from: u64, to: u64) {
        if to.saturating_sub(from) >= SPAN {
            *self = Self::NONE;
        } else {
            (from..to).for_each(|number| self.set(number, false));
        }
    }

    /// How many numbers from `from` to before `to` are in it; at most a span apart.
    fn count(&self, from: u64, to: u64) -> u64 {
        let (mut at, mut count) = (from, 0);
        while at < to {
            let place = at % 64;
            let width = (64 - place).min(to - at);
            let mask = (u64::MAX >> (64 - width)) << place;
            count += u64::from((self.word(at) & mask).count_ones());
            at += width;
        }
        count
    }

    fn word(&self, number: u64) -> u64 {
        self.0.get((number % SPAN / 64) as usize).copied().unwrap_or(u64::MAX)
    }
}

/// Which outgoing numbers were given out: each at most once, none older than [`SPAN`] behind.
#[derive(Debug)]
pub(super) struct IssuedSeqs {
    next: u64,
    bits: Bits,
}

impl IssuedSeqs {
    /// Nothing was; numbers begin here.
    pub(super) fn new(first: u64) -> Self {
        Self { next: first, bits: Bits::NONE }
    }

    /// One past the newest number given out.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reads the place of the next number, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        black_box(self.bits.is_set(self.next));
    }

    /// Gives a number out; false if it was before, or may have been.
    pub(super) fn issue(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.bits.clear(self.next, number);
            self.next = number + 1;
        } else if self.next - number > SPAN || self.bits.is_set(number) {
            return false;
        }
        self.bits.set(number, true);
        true
    }

    /// The full index behind the low 32 bits of a number given out recently.
    pub(super) fn widen(&self, low: u32) -> u64 {
        let newest = self.next.wrapping_sub(1);
        newest.wrapping_sub(u64::from((newest as u32).wrapping_sub(low)))
    }
}

/// What one stretch of the publisher's numbers leaves out: its line closes over these.
#[derive(Debug, Clone)]
pub(super) struct DroppedSeqs {
    numbers: Bits,
    /// The first closed number of each picture that was left out.
    pictures: Bits,
    /// One past the highest closed number; 0 while none is.
    end: u64,
    /// Timestamp of the newest picture that was left out.
    picture: Option<u32>,
}

impl DroppedSeqs {
    /// Nothing is closed.
    pub(super) const NONE: Self =
        Self { numbers: Bits::NONE, pictures: Bits::NONE, end: 0, picture: None };

    /// Closes a number above which none was given out; true if a picture begins with it that is left out. A picture
    /// that was overtaken by another one is not counted: its id stays a gap. `None` if the number is too old.
    pub(super) fn close(&mut self, number: u64, timestamp: u32) -> Option<bool> {
        let mut begins = false;
        if number >= self.end {
            for bits in [&mut self.numbers, &mut self.pictures] {
                bits.clear(self.end, number);
            }
            begins = self.picture.replace(timestamp) != Some(timestamp);
            self.end = number + 1;
        } else if self.end - number > SPAN {
            return None;
        }
        self.numbers.set(number, true);
        self.pictures.set(number, begins);
        Some(begins)
    }

    /// One past the highest closed number; 0 while none is.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether the number is closed, as far as is remembered.
    pub(super) fn holds(&self, number: u64) -> bool {
        number < self.end && self.end - number <= SPAN && self.numbers.is_set(number)
    }

    /// How many numbers and pictures are closed from this number on; `None` if it is too old to tell.
    pub(super) fn since(&self, number: u64) -> Option<(u64, u16)> {
        if self.end.saturating_sub(number) > SPAN {
            return None;
        }
        let pictures = self.pictures.count(number, self.end);
        Some((self.numbers.count(number, self.end), pictures as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_issued_at_most_once() {
        let first = 1 << 15;
        let mut issued = IssuedSeqs::new(first);
        assert!(issued.issue(first) && !issued.issue(first));
        assert!(issued.issue(first + 500));
        assert!(issued.issue(first + 499) && !issued.issue(first + 499));
        assert!(!issued.issue(first), "still remembered");
        let far = first + 500 + SPAN;
        assert!(issued.issue(far));
        assert!(!issued.issue(far - SPAN - 1), "behind the span: refused unseen");
        assert!(issued.issue(far - SPAN + 1));
        assert!(issued.issue(far + 10 * SPAN));
        for number in far + 9 * SPAN + 1..far + 10 * SPAN {
            assert!(issued.issue(number), "a jump leaves no stale marks");
        }
    }

    #[test]
    fn an_index_is_found_again_by_its_low_bits() {
        let mut issued = IssuedSeqs::new(0);
        issued.issue((1 << 33) + 5);
        assert_eq!(issued.widen(5), (1 << 33) + 5);
        assert_eq!(issued.widen(u32::MAX), (1 << 33) - 1);
    }

    #[test]
    fn closed_numbers_are_counted_as_one_by_one() {
        let mut dropped_seqs = DroppedSeqs::NONE;
        // Every third number, two to a picture, over several spans.
        let is_closed = |number: u64| number.is_multiple_of(3);
        let last = 70_000 + 5 * SPAN;
        for number in (70_000..last).filter(|number| is_closed(*number)) {
            assert_eq!(
                dropped_seqs.close(number, (number / 6) as u32),
                Some(number.is_multiple_of(6))
            );
        }
        let end = dropped_seqs.end();
        for from in end - SPAN..=end + 1 {
            let numbers = (from..end).filter(|number| is_closed(*number)).count() as u64;
            let pictures = (from..end).filter(|number| number.is_multiple_of(6)).count() as u16;
            assert_eq!(dropped_seqs.since(from), Some((numbers, pictures)), "{from}");
            assert_eq!(dropped_seqs.holds(from), from < end && is_closed(from));
        }
        assert_eq!(dropped_seqs.since(end - SPAN - 1), None, "too old to tell");
        assert!(!dropped_seqs.holds(end - SPAN - 1));
        assert_eq!(dropped_seqs.close(end - SPAN - 1, 0), None);
    }

    #[test]
    fn a_number_that_was_overtaken_is_closed_too_and_a_jump_leaves_nothing_stale() {
        let mut dropped_seqs = DroppedSeqs::NONE;
        assert_eq!(dropped_seqs.close(102, 7), Some(true));
        assert_eq!(dropped_seqs.close(101, 6), Some(false), "its picture is not counted");
        assert_eq!(dropped_seqs.since(100), Some((2, 1)));
        assert_eq!(dropped_seqs.close(102 + SPAN + 3, 9), Some(true));
        assert_eq!(dropped_seqs.since(106), Some((1, 1)));
    }
}
