//! Mailbox of a viewer's layer preferences, from the control plane to its worker: the newest
//! preference per track, never a queue.
//!
//! However often a viewer changes its preferences, at most one order is in flight. The worker reads
//! the preferences that hold at that time. The lock is held for an assignment, and packets never
//! wait for it. Written by `net/signalling.rs`, read by [`super::Command::ApplyPreferences`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::forward::LayerPreference;

/// Preferences of one viewer that its worker has not read yet.
#[derive(Debug, Default)]
pub struct PreferenceMailbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Preferences by the index of the track in the viewer's plan, which bounds them.
    preferences: BTreeMap<u8, LayerPreference>,
    /// Whether an order to read them is in flight.
    ordered: bool,
}

impl PreferenceMailbox {
    /// Replaces the preference for a track.
    pub fn put(&self, track: u8, preference: LayerPreference) {
        self.lock().preferences.insert(track, preference);
    }

    /// Whether the worker must be ordered to read: preferences wait and no order is in flight. If
    /// so, one is in flight from now on.
    pub fn order(&self) -> bool {
        let mut waiting = self.lock();
        !waiting.preferences.is_empty() && !std::mem::replace(&mut waiting.ordered, true)
    }

    /// Reports that the order could not be given; the preferences wait for the next one.
    pub fn recall(&self) {
        self.lock().ordered = false;
    }

    /// Takes the preferences, for the worker.
    pub(super) fn take(&self) -> BTreeMap<u8, LayerPreference> {
        let mut waiting = self.lock();
        waiting.ordered = false;
        std::mem::take(&mut waiting.preferences)
    }

    /// Locks the state. A panic cannot leave it half written, because each change is an assignment.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousand_preferences_are_one_order_and_the_last_one_applies() {
        let mailbox = PreferenceMailbox::default();
        assert!(!mailbox.order(), "nothing to read");
        let orders = (0..1_000u16).filter(|n| {
            mailbox.put(1, LayerPreference { max_height: Some(*n), ..LayerPreference::default() });
            mailbox.order()
        });
        assert_eq!(orders.count(), 1);
        mailbox.put(0, LayerPreference::default());
        let read = mailbox.take();
        assert_eq!(read.len(), 2);
        assert_eq!(read[&1].max_height, Some(999));
        assert!(mailbox.take().is_empty() && !mailbox.order());
        mailbox.put(1, LayerPreference::default());
        assert!(mailbox.order() && !mailbox.order());
        mailbox.recall();
        assert!(mailbox.order(), "an order that was not given is given again");
    }
}
