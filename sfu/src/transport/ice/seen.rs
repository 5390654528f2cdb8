//! The transaction ids of accepted requests.
//!
//! Called by `ice/mod.rs`.

use crate::transport::stun::TransactionId;

/// Remembered transaction ids of accepted requests. A copy of an older one counts as new, but can
/// still move nothing without an answer to a check of ours.
const SEEN_MAX: usize = 64;

/// The transaction ids of the last [`SEEN_MAX`] accepted requests.
pub(super) struct Seen {
    pub(super) ids: [TransactionId; SEEN_MAX],
    pub(super) len: usize,
    pub(super) next: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self { ids: [TransactionId::default(); SEEN_MAX], len: 0, next: 0 }
    }
}

impl Seen {
    pub(super) fn is_new(&self, id: &TransactionId) -> bool {
        !self.ids.iter().take(self.len).any(|seen| seen == id)
    }

    pub(super) fn insert(&mut self, id: TransactionId) {
        if let Some(slot) = self.ids.get_mut(self.next) {
            *slot = id;
        }
        self.next = (self.next + 1) % SEEN_MAX;
        self.len = (self.len + 1).min(SEEN_MAX);
    }
}
