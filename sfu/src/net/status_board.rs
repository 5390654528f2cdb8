//! Status of each viewer that somebody listens for: is its stream live, how many watch, which layers exist and
//! which one flows (whip-whep E8).
//!
//! Level-triggered: each receiver finds the newest status and nothing older, so a slow one costs one value. Asks
//! no worker: `status_writer.rs` writes here. How often a client is told is the business of `api`.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{Notify, watch};

use super::received_track::{MediaLayers, UnservedMedia};
use crate::error::CloseReason;
use crate::ids::SessionId;
use crate::worker::PublisherStatus;

/// State of a stream as one viewer sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewerStatus {
    /// A publisher is live.
    pub active: bool,
    /// Number of viewers.
    pub viewers: usize,
    /// Layers to choose from in each video m-line.
    pub layers: Vec<MediaLayers>,
    /// State of the publisher's stream.
    pub publisher: PublisherStatus,
    /// M-lines on which nothing is sent although the viewer asked for them.
    pub unserved: Vec<UnservedMedia>,
    /// Why the session ended; nothing follows.
    pub ended: Option<CloseReason>,
}

/// One listener's end. It does not keep the session alive.
#[derive(Debug)]
pub struct StatusReceiver(watch::Receiver<Option<ViewerStatus>>);

impl StatusReceiver {
    /// Waits for a status that this receiver has not seen; false when the session has ended and the last
    /// status was seen.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Newest status; `None` before the first.
    pub fn newest(&mut self) -> Option<ViewerStatus> {
        self.0.borrow_and_update().clone()
    }
}

/// Viewers that somebody listens for, with their newest status.
#[derive(Debug, Default)]
pub(super) struct StatusBoard {
    senders: DashMap<SessionId, watch::Sender<Option<ViewerStatus>>>,
    changed: Arc<Notify>,
}

impl StatusBoard {
    /// Notified when a new listener comes, and when the server is gone.
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Adds a listener of a session.
    pub(super) fn subscribe(&self, id: SessionId) -> StatusReceiver {
        let sender = self.senders.entry(id).or_insert_with(|| watch::channel(None).0);
        let mut receiver = sender.subscribe();
        // A status that others have seen is new to this one.
        receiver.mark_changed();
        self.changed.notify_one();
        StatusReceiver(receiver)
    }

    /// Writes the status of a session; without effect if nobody listens.
    pub(super) fn set(&self, id: SessionId, status: ViewerStatus) {
        if let Some(sender) = self.senders.get(&id) {
            sender.send_if_modified(|old| old.replace(status.clone()).as_ref() != Some(&status));
        }
    }

    /// Ends a session for its listeners.
    pub(super) fn close(&self, id: SessionId, reason: CloseReason) {
        if let Some((_, sender)) = self.senders.remove(&id) {
            sender.send_modify(|status| status.get_or_insert_default().ended = Some(reason));
        }
    }

    /// Removes the listeners of a session that had ended before they came.
    pub(super) fn forget(&self, id: SessionId) {
        self.senders.remove(&id);
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// Sessions that somebody still listens for; the others are removed.
    pub(super) fn listened(&self) -> Vec<SessionId> {
        self.senders.retain(|_, sender| sender.receiver_count() > 0);
        self.senders.iter().map(|entry| *entry.key()).collect()
    }
}

impl Drop for StatusBoard {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(viewers: usize) -> ViewerStatus {
        ViewerStatus { active: true, viewers, ..ViewerStatus::default() }
    }

    #[tokio::test]
    async fn receiver_finds_the_newest_status_and_then_the_end() {
        let board = StatusBoard::default();
        let id = SessionId(1);
        board.set(id, status(1));
        assert!(board.is_empty(), "nobody listens");
        let mut receiver = board.subscribe(id);
        for viewers in 1..=1_000 {
            board.set(id, status(viewers));
        }
        assert!(receiver.changed().await);
        assert_eq!(receiver.newest(), Some(status(1_000)));
        let mut late = board.subscribe(id);
        assert!(late.changed().await);
        assert_eq!(late.newest(), Some(status(1_000)), "what others have seen already");
        board.set(id, status(1_000));
        board.close(id, CloseReason::Shutdown);
        for receiver in [&mut receiver, &mut late] {
            assert!(receiver.changed().await, "the end is told");
            let last = ViewerStatus { ended: Some(CloseReason::Shutdown), ..status(1_000) };
            assert_eq!(receiver.newest(), Some(last));
            assert!(!receiver.changed().await);
        }
        assert!(board.is_empty());
    }

    #[tokio::test]
    async fn session_is_listened_for_until_its_last_receiver_is_dropped() {
        let board = StatusBoard::default();
        let receivers = [board.subscribe(SessionId(1)), board.subscribe(SessionId(1))];
        let other = board.subscribe(SessionId(2));
        drop(other);
        assert_eq!(board.listened(), [SessionId(1)]);
        drop(receivers);
        assert_eq!(board.listened(), []);
        assert!(board.is_empty());
    }
}
