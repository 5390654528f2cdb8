//! What a viewer asked for, on its way from the control plane to its worker: the newest wish per
//! track, never a queue.
//!
//! However often a viewer changes its mind, at most one order is under way, and it carries what holds
//! when the worker reads it. The lock is held for an assignment; packets never meet it. Written by
//! `net/layers.rs`, read by [`super::Command::Ask`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::forward::LayerWish;

/// The wishes of one viewer that its worker has not read yet.
#[derive(Debug, Default)]
pub struct Asked(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// By the index of the track in the viewer's plan, which bounds them.
    wishes: BTreeMap<u8, LayerWish>,
    /// An order to read them is under way.
    ordered: bool,
}

impl Asked {
    /// Replaces the wish for a track.
    pub fn put(&self, track: u8, wish: LayerWish) {
        self.lock().wishes.insert(track, wish);
    }

    /// Whether the worker must be told to read: something waits and no order is under way. From now on
    /// one is.
    pub fn order(&self) -> bool {
        let mut waiting = self.lock();
        !waiting.wishes.is_empty() && !std::mem::replace(&mut waiting.ordered, true)
    }

    /// The order could not be given; what waits goes with the next one.
    pub fn recall(&self) {
        self.lock().ordered = false;
    }

    /// The worker reads.
    pub(super) fn take(&self) -> BTreeMap<u8, LayerWish> {
        let mut waiting = self.lock();
        waiting.ordered = false;
        std::mem::take(&mut waiting.wishes)
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
    fn a_thousand_wishes_are_one_order_and_the_last_of_them_holds() {
        let asked = Asked::default();
        assert!(!asked.order(), "nothing to read");
        let orders = (0..1_000u16).filter(|n| {
            asked.put(1, LayerWish { max_height: Some(*n), ..LayerWish::default() });
            asked.order()
        });
        assert_eq!(orders.count(), 1);
        asked.put(0, LayerWish::default());
        let read = asked.take();
        assert_eq!(read.len(), 2);
        assert_eq!(read[&1].max_height, Some(999));
        assert!(asked.take().is_empty() && !asked.order());
        asked.put(1, LayerWish::default());
        assert!(asked.order() && !asked.order());
        asked.recall();
        assert!(asked.order(), "an order that was not given is given again");
    }
}
