//! What viewers that listen are told of their stream: is it live, how many watch, which layers are
//! there and which one flows (whip-whep E8).
//!
//! Level-triggered: each listener finds the newest state and nothing older, so that a slow one costs
//! one value. One task asks each worker for its listening viewers, some at a time, and only while
//! anybody listens. What is said to whom and how often is the listener's business (`api`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::{Notify, watch};

use super::control::{Control, SessionEntry};
use super::handle::Sfu;
use super::layers::MediaLayers;
use crate::error::CloseReason;
use crate::ids::{Role, SessionId, StreamName};
use crate::worker::Worker;

/// How old news may be.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// However many begin to listen, each waits for no more than this and the workers are asked no oftener.
const FIRST_STATUS: Duration = Duration::from_millis(20);

/// Viewers that one question to a worker asks about, so that it holds media up for some tens of
/// microseconds.
const VIEWERS_PER_QUESTION: usize = 32;

/// The state of a stream as one viewer sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewerStatus {
    /// Somebody publishes.
    pub active: bool,
    /// How many watch.
    pub viewers: usize,
    /// What can be chosen in each video section.
    pub layers: Vec<MediaLayers>,
    /// The session is over, and why; nothing follows.
    pub ended: Option<CloseReason>,
}

/// One listener's end. It has no say in when the session ends.
#[derive(Debug)]
pub struct StatusReceiver(watch::Receiver<Option<ViewerStatus>>);

impl StatusReceiver {
    /// Waits for news that this reader has not seen; false when the session is over and nothing is left
    /// to be told.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// What is known now, if anything is yet.
    pub fn newest(&mut self) -> Option<ViewerStatus> {
        self.0.borrow_and_update().clone()
    }
}

/// The viewers that somebody listens for.
#[derive(Debug, Default)]
pub(super) struct StatusBoard {
    readers: DashMap<SessionId, watch::Sender<Option<ViewerStatus>>>,
    wanted: Arc<Notify>,
}

impl StatusBoard {
    /// Rings when somebody new listens, and when the server is gone.
    pub(super) fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// The session is over.
    pub(super) fn close(&self, id: SessionId, reason: CloseReason) {
        if let Some((_, sender)) = self.readers.remove(&id) {
            sender.send_modify(|news| news.get_or_insert_default().ended = Some(reason));
        }
    }

    fn subscribe(&self, id: SessionId) -> StatusReceiver {
        let sender = self.readers.entry(id).or_insert_with(|| watch::channel(None).0);
        let mut receiver = sender.subscribe();
        // What others have been told already is news to this one.
        receiver.mark_changed();
        self.wanted.notify_one();
        StatusReceiver(receiver)
    }

    fn tell(&self, id: SessionId, news: ViewerStatus) {
        if let Some(sender) = self.readers.get(&id) {
            sender.send_if_modified(|told| told.replace(news.clone()).as_ref() != Some(&news));
        }
    }
}

impl Drop for StatusBoard {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

impl Sfu {
    /// ViewerStatus of a viewer's session until it ends; `None` if there is no such session.
    pub fn news(&self, stream: &StreamName, secret: &str) -> Option<StatusReceiver> {
        let entry = self.live(Role::Subscriber, stream, secret)?;
        let reader = self.control.status_board.subscribe(entry.id);
        if !self.control.sessions.contains_key(&entry.id) {
            // It ended in between: nobody would tell this reader.
            self.control.status_board.readers.remove(&entry.id);
        }
        Some(reader)
    }
}

/// Tells listeners what changed, until the last handle of the server is dropped.
pub(super) async fn write(control: Weak<Control>, wanted: Arc<Notify>) {
    loop {
        let Some(now) = control.upgrade() else { return };
        let idle = now.status_board.readers.is_empty();
        now.write_status().await;
        drop(now);
        let rung = wanted.notified();
        if idle {
            rung.await;
        } else if tokio::time::timeout(STATUS_INTERVAL, rung).await.is_err() {
            continue;
        }
        tokio::time::sleep(FIRST_STATUS).await;
    }
}

impl Control {
    async fn write_status(self: &Arc<Self>) {
        self.status_board.readers.retain(|_, sender| sender.receiver_count() > 0);
        let ids: Vec<SessionId> =
            self.status_board.readers.iter().map(|entry| *entry.key()).collect();
        let mut by_worker: BTreeMap<Option<usize>, Vec<Arc<SessionEntry>>> = BTreeMap::new();
        for id in ids {
            let Some(entry) = self.sessions.get(&id).map(|entry| Arc::clone(entry.value())) else {
                continue;
            };
            let worker = entry.lock().worker;
            by_worker.entry(worker).or_default().push(entry);
        }
        for (worker, entries) in by_worker {
            for entries in entries.chunks(VIEWERS_PER_QUESTION) {
                self.write_some(worker, entries).await;
            }
        }
    }

    async fn write_some(self: &Arc<Self>, worker: Option<usize>, entries: &[Arc<SessionEntry>]) {
        let ids: Vec<SessionId> = entries.iter().map(|entry| entry.id).collect();
        let answered = match worker {
            None => None,
            Some(worker) => {
                let sfu = Sfu { control: Arc::clone(self) };
                let look = move |worker: &mut Worker, now: Instant| {
                    ids.into_iter().map(|id| worker.viewer_layers(id, now)).collect::<Vec<_>>()
                };
                sfu.inspect(worker, look).await
            }
        };
        let mut layers = answered.unwrap_or_default().into_iter();
        for entry in entries {
            let layers = layers.next().flatten().unwrap_or_default();
            let (active, viewers) = {
                let state = entry.stream.lock();
                (state.publisher.is_some(), state.viewers.len())
            };
            let layers = entry.by_m_line(layers);
            self.status_board.tell(entry.id, ViewerStatus { active, viewers, layers, ended: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(viewers: usize) -> ViewerStatus {
        ViewerStatus { active: true, viewers, ..ViewerStatus::default() }
    }

    #[tokio::test]
    async fn a_reader_finds_the_newest_state_and_then_the_end() {
        let status_board = StatusBoard::default();
        let id = SessionId(1);
        status_board.tell(id, news(1));
        assert!(status_board.readers.is_empty(), "nobody listens");
        let mut reader = status_board.subscribe(id);
        for viewers in 1..=1_000 {
            status_board.tell(id, news(viewers));
        }
        assert!(reader.changed().await);
        assert_eq!(reader.newest(), Some(news(1_000)));
        let mut late = status_board.subscribe(id);
        assert!(late.changed().await);
        assert_eq!(late.newest(), Some(news(1_000)), "what others know already");
        status_board.tell(id, news(1_000));
        status_board.close(id, CloseReason::Shutdown);
        for reader in [&mut reader, &mut late] {
            assert!(reader.changed().await, "the end is told");
            let last = ViewerStatus { ended: Some(CloseReason::Shutdown), ..news(1_000) };
            assert_eq!(reader.newest(), Some(last));
            assert!(!reader.changed().await);
        }
        assert!(status_board.readers.is_empty());
    }
}
