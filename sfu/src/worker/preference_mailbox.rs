//! What a viewer asked for, on its way from the control plane to its worker: the newest preference per
//! track, never a queue.
//!
//! However often a viewer changes its mind, at most one order is under way, and it carries what holds
//! when the worker reads it. The lock is held for an assignment; packets never meet it. Written by
//! `net/layers.rs`, read by [`super::Command::ApplyPreferences`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::forward::LayerPreference;

/// The preferences of one viewer that its worker has not read yet.
#[derive(Debug, Default)]
pub struct PreferenceMailbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// By the index of the track in the viewer's plan, which bounds them.
    preferences: BTreeMap<u8, LayerPreference>,
    /// An order to read them is under way.
    ordered: bool,
}

impl PreferenceMailbox {
    /// Replaces the preference for a track.
    pub fn put(&self, track: u8, preference: LayerPreference) {
        self.lock().preferences.insert(track, preference);
    }

    /// Whether the worker must be told to read: something waits and no order is under way. From now on
    /// one is.
    pub fn order(&self) -> bool {
        let mut waiting = self.lock();
        !waiting.preferences.is_empty() && !std::mem::replace(&mut waiting.ordered, true)
    }

    /// The order could not be given; what waits goes with the next one.
    pub fn recall(&self) {
        self.lock().ordered = false;
    }

    /// The worker reads.
    pub(super) fn take(&self) -> BTreeMap<u8, LayerPreference> {
        let mut waiting = self.lock();
        waiting.ordered = false;
        std::mem::take(&mut waiting.preferences)
    }

    /// A panic cannot leave it half written: each change is an assignment.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_preferences_are_one_order_and_the_last_of_them_holds() {
        let asked = PreferenceMailbox::default();
        assert!(!asked.order(), "nothing to read");
        let orders = (0..1_000u16).filter(|n| {
            asked.put(1, LayerPreference { max_height: Some(*n), ..LayerPreference::default() });
            asked.order()
        });
        assert_eq!(orders.count(), 1);
        asked.put(0, LayerPreference::default());
        let read = asked.take();
        assert_eq!(read.len(), 2);
        assert_eq!(read[&1].max_height, Some(999));
        assert!(asked.take().is_empty() && !asked.order());
        asked.put(1, LayerPreference::default());
        assert!(asked.order() && !asked.order());
        asked.recall();
        assert!(asked.order(), "an order that was not given is given again");
    }
}
