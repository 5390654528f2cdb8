//! Memory of accepted requests, so that a copy of one is recognised.
//!
//! Owns the newest transaction ids. Never decides what a copy may do. Called by `ice/mod.rs`.

use crate::transport::stun::TransactionId;

/// Remembered transaction ids of accepted requests. A copy of an older one counts as new, but can
/// still move nothing without an answer to a check of ours.
const SEEN_MAX: usize = 64;

/// Transaction ids of the last [`SEEN_MAX`] accepted requests.
pub(super) struct SeenRequests {
    ids: [TransactionId; SEEN_MAX],
    len: usize,
    next: usize,
}

impl Default for SeenRequests {
    fn default() -> Self {
        Self { ids: [TransactionId::default(); SEEN_MAX], len: 0, next: 0 }
    }
}

impl SeenRequests {
    /// Whether no accepted request had this id.
    pub(super) fn is_new(&self, id: &TransactionId) -> bool {
        !self.ids.iter().take(self.len).any(|seen| seen == id)
    }

    /// Remembers an accepted request, in place of the oldest one.
    pub(super) fn insert(&mut self, id: TransactionId) {
        if let Some(slot) = self.ids.get_mut(self.next) {
            *slot = id;
        }
        self.next = (self.next + 1) % SEEN_MAX;
        self.len = (self.len + 1).min(SEEN_MAX);
    }
}
