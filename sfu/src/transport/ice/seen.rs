//! Memory of accepted requests, so that a copy of one is recognised.
//!
//! Owns which transaction ids were there, in two filters of fixed size. Never decides what a copy may do.
//! Called by `ice/mod.rs`.

use std::hash::{BuildHasher, RandomState};

use crate::transport::stun::TransactionId;

/// Requests that one filter remembers; then the older filter is forgotten and begins anew. So the last 512 to
/// 1,024 are known: those of at least 20 minutes of a browser. A copy of an older one counts as new, but can still
/// move nothing without an answer to a check of ours.
const SEEN_MAX: usize = 512;

/// Bits of a filter, a power of two. With [`SEEN_MAX`] requests one new request in 400 is taken for a copy; the
/// client's next one is not.
const BITS: usize = 8_192;

/// Bits of a filter that a request sets.
const BITS_PER_REQUEST: u32 = 4;

/// Filter (Bloom) of transaction ids.
type Filter = [u64; BITS / 64];

/// Transaction ids of the last [`SEEN_MAX`] to `2 * SEEN_MAX` accepted requests.
pub(super) struct SeenRequests {
    /// The present filter, then the one before.
    filters: Box<[Filter; 2]>,
    /// Requests in the present filter.
    len: usize,
    /// Keyed, because clients count their transactions, and a hostile one could choose them.
    hasher: RandomState,
}

impl Default for SeenRequests {
    fn default() -> Self {
        Self { filters: Box::new([[0; BITS / 64]; 2]), len: 0, hasher: RandomState::new() }
    }
}

impl SeenRequests {
    /// Whether no accepted request had this id.
    pub(super) fn is_new(&self, id: &TransactionId) -> bool {
        let is_set = |filter: &Filter, bit: usize| {
            filter.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
        };
        !self.filters.iter().any(|filter| self.bits(id).all(|bit| is_set(filter, bit)))
    }

    /// Remembers an accepted request.
    pub(super) fn insert(&mut self, id: &TransactionId) {
        if self.len >= SEEN_MAX {
            self.filters.swap(0, 1);
            self.len = 0;
            if let Some(present) = self.filters.first_mut() {
                present.fill(0);
            }
        }
        self.len += 1;
        for bit in self.bits(id) {
            let word = self.filters.first_mut().and_then(|filter| filter.get_mut(bit / 64));
            if let Some(word) = word {
                *word |= 1 << (bit % 64);
            }
        }
    }

    fn bits(&self, id: &TransactionId) -> impl Iterator<Item = usize> + use<> {
        let hash = self.hasher.hash_one(id);
        (0..BITS_PER_REQUEST).map(move |n| (hash >> (16 * n)) as usize % BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> TransactionId {
        let mut id = TransactionId::default();
        id[8..].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn last_512_requests_are_known_and_few_new_ones_are_taken_for_copies() {
        let mut seen = SeenRequests::default();
        let (mut mistaken, all) = (0, 20_000);
        for n in 0..all {
            mistaken += u32::from(!seen.is_new(&id(n)));
            seen.insert(&id(n));
            let oldest = n.saturating_sub(SEEN_MAX as u32 - 1);
            assert!([oldest, n / 2 + oldest / 2, n].iter().all(|n| !seen.is_new(&id(*n))), "{n}");
        }
        assert!(mistaken < all / 100, "{mistaken} of {all}");
        let forgotten = (0..1_000).filter(|n| seen.is_new(&id(*n))).count();
        assert!(forgotten > 980, "{forgotten} of 1,000 old ones");
    }
}
