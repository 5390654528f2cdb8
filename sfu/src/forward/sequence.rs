//! Which numbers of a line were given out, and which of the publisher's it closes over: of the newest ones, as bits.
//!
//! Knows numbers only, neither packets nor why one is left out. Called by `rtp_sender.rs`.

use std::hint::black_box;

use crate::rtp::window::SeqWindow;

/// How many numbers back either is remembered. What comes later than that has no place any more: it is dropped, as a number
/// that was given out before it ([`IssuedSeqs`]) or as too old ([`DroppedSeqs`]).
pub(super) const SPAN: u64 = 1024;

/// Set of the numbers in one span.
type Bits = SeqWindow<{ (SPAN / 64) as usize }>;

/// Which outgoing numbers were given out: each at most once, none older than [`SPAN`] behind.
#[derive(Debug)]
pub(super) struct IssuedSeqs {
    next: u64,
    bits: Bits,
}

impl IssuedSeqs {
    /// Nothing was; numbers begin here.
    pub(super) fn new(first: u64) -> Self {
        Self { next: first, bits: Bits::EMPTY }
    }

    /// One past the newest number given out.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reads the place of the next number, so that it is in the caches by then.
    pub(super) fn warm(&self) {
        black_box(self.bits.contains(self.next));
    }

    /// Gives a number out; false if it was before, or may have been.
    pub(super) fn issue(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.bits.clear(self.next..number);
            self.next = number + 1;
            self.bits.insert(number);
            return true;
        }
        self.next - number <= SPAN && self.bits.insert(number)
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
        Self { numbers: Bits::EMPTY, pictures: Bits::EMPTY, end: 0, picture: None };

    /// Closes a number above which none was given out; true if a picture begins with it that is left out. A picture
    /// that was overtaken by another one is not counted: its id stays a gap. `None` if the number is too old.
    pub(super) fn close(&mut self, number: u64, timestamp: u32) -> Option<bool> {
        let mut begins = false;
        if number >= self.end {
            for bits in [&mut self.numbers, &mut self.pictures] {
                bits.clear(self.end..number);
            }
            begins = self.picture.replace(timestamp) != Some(timestamp);
            self.end = number + 1;
        } else if self.end - number > SPAN {
            return None;
        }
        self.numbers.insert(number);
        if begins {
            self.pictures.insert(number);
        } else {
            self.pictures.remove(number);
        }
        Some(begins)
    }

    /// One past the highest closed number; 0 while none is.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether the number is closed, as far as is remembered.
    pub(super) fn holds(&self, number: u64) -> bool {
        number < self.end && self.end - number <= SPAN && self.numbers.contains(number)
    }

    /// How many numbers and pictures are closed from this number on; `None` if it is too old to tell.
    pub(super) fn since(&self, number: u64) -> Option<(u64, u16)> {
        if self.end.saturating_sub(number) > SPAN {
            return None;
        }
        let pictures = self.pictures.count(number..self.end);
        Some((self.numbers.count(number..self.end), pictures as u16))
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
