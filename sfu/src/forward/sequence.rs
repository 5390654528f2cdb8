//! Numbers that an RTP sender has assigned, and publisher numbers that it closes over; recent ones,
//! as bits.
//!
//! Knows numbers only, neither packets nor why one is left out. Called by `rtp_sender.rs`.

use crate::rtp::window::SeqWindow;
use crate::warm::warm;

/// Numbers for which either set is kept. A packet that comes later is dropped: as a number that was
/// assigned before ([`IssuedSeqs`]) or as too old ([`DroppedSeqs`]).
pub(super) const SPAN: u64 = 1024;

/// Set of the numbers in one span.
type Bits = SeqWindow<{ (SPAN / 64) as usize }>;

/// Outgoing numbers that were assigned: each at most once, none older than [`SPAN`].
#[derive(Debug)]
#[repr(C)]
pub(super) struct IssuedSeqs {
    next: u64,
    bits: Bits,
}

impl IssuedSeqs {
    /// An empty set; numbers begin at `first`.
    pub(super) fn new(first: u64) -> Self {
        Self { next: first, bits: Bits::EMPTY }
    }

    /// One past the newest number that was assigned.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reads the bits of the next number, so that they are in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.bits.contains(self.next));
    }

    /// Assigns a number; false if it was assigned before, or may have been.
    pub(super) fn issue(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.bits.clear(self.next..number);
            self.next = number + 1;
            self.bits.insert(number);
            return true;
        }
        self.next - number <= SPAN && self.bits.insert(number)
    }

    /// The full index of the low 32 bits of a recent number.
    pub(super) fn widen(&self, low: u32) -> u64 {
        let newest = self.next.wrapping_sub(1);
        newest.wrapping_sub(u64::from((newest as u32).wrapping_sub(low)))
    }
}

/// Numbers that one segment leaves out: the outgoing numbers close over these.
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
    /// A set without closed numbers.
    pub(super) const NONE: Self =
        Self { numbers: Bits::EMPTY, pictures: Bits::EMPTY, end: 0, picture: None };

    /// Closes a number above which none was assigned. True if a picture that is left out begins
    /// with it. A picture that arrives after a later one is not counted: its id stays a gap. `None`
    /// if the number is too old.
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

    /// Whether the number is closed, within the span.
    pub(super) fn holds(&self, number: u64) -> bool {
        number < self.end && self.end - number <= SPAN && self.numbers.contains(number)
    }

    /// Closed numbers and pictures from this number on; `None` if it is too old to tell.
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
    fn number_is_assigned_at_most_once() {
        let first = 1 << 15;
        let mut issued = IssuedSeqs::new(first);
        assert!(issued.issue(first) && !issued.issue(first));
        assert!(issued.issue(first + 500));
        assert!(issued.issue(first + 499) && !issued.issue(first + 499));
        assert!(!issued.issue(first), "still remembered");
        let far = first + 500 + SPAN;
        assert!(issued.issue(far));
        assert!(!issued.issue(far - SPAN - 1), "older than the span");
        assert!(issued.issue(far - SPAN + 1));
        assert!(issued.issue(far + 10 * SPAN));
        for number in far + 9 * SPAN + 1..far + 10 * SPAN {
            assert!(issued.issue(number), "a jump leaves no stale bits");
        }
    }

    #[test]
    fn index_is_restored_from_its_low_bits() {
        let mut issued = IssuedSeqs::new(0);
        issued.issue((1 << 33) + 5);
        assert_eq!(issued.widen(5), (1 << 33) + 5);
        assert_eq!(issued.widen(u32::MAX), (1 << 33) - 1);
    }

    #[test]
    fn closed_numbers_are_counted() {
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
    fn late_number_is_closed_and_a_jump_leaves_no_stale_bits() {
        let mut dropped_seqs = DroppedSeqs::NONE;
        assert_eq!(dropped_seqs.close(102, 7), Some(true));
        assert_eq!(dropped_seqs.close(101, 6), Some(false), "its picture is not counted");
        assert_eq!(dropped_seqs.since(100), Some((2, 1)));
        assert_eq!(dropped_seqs.close(102 + SPAN + 3, 9), Some(true));
        assert_eq!(dropped_seqs.since(106), Some((1, 1)));
    }
}
