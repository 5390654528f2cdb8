//! Task that keeps the status of listened viewers current.
//!
//! Asks each worker for its viewers, some at a time, and only while somebody listens; writes what it learns to
//! `status_board.rs`. Decides nothing. Started by `handle.rs`, ends with the server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::control::Control;
use super::received_track::UnservedMedia;
use super::session_entry::SessionEntry;
use super::status_board::ViewerStatus;
use crate::ids::SessionId;
use crate::router::SourceInfo;
use crate::worker::{PublisherStatus, Worker};

/// Interval at which the status is renewed while somebody listens.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// Time that a new listener waits for its first status. Those who come meanwhile share the questions, so a
/// storm of listeners asks the workers no more often.
const FIRST_STATUS: Duration = Duration::from_millis(20);

/// Maximum sessions in one question to a worker, so that it delays media by some tens of microseconds.
const SESSIONS_PER_QUESTION: usize = 32;

/// Writes the status of listened viewers until the last handle of the server is dropped.
pub(super) async fn run(control: Weak<Control>, changed: Arc<Notify>) {
    loop {
        let Some(now) = control.upgrade() else { return };
        let idle = now.status_board.is_empty();
        write_all(&now).await;
        drop(now);
        let notified = changed.notified();
        if idle {
            notified.await;
        } else if tokio::time::timeout(STATUS_INTERVAL, notified).await.is_err() {
            continue;
        }
        tokio::time::sleep(FIRST_STATUS).await;
    }
}

/// Writes the status of every listened viewer once.
async fn write_all(control: &Control) {
    let mut by_worker: BTreeMap<Option<usize>, Vec<Arc<SessionEntry>>> = BTreeMap::new();
    let listened = control.status_board.listened();
    for session in listened.into_iter().filter_map(|id| control.directory.session(id)) {
        by_worker.entry(session.worker()).or_default().push(session);
    }
    let publishers = publishers(control, by_worker.values().flatten()).await;
    for (worker, sessions) in by_worker {
        for sessions in sessions.chunks(SESSIONS_PER_QUESTION) {
            write_some(control, worker, sessions, &publishers).await;
        }
    }
}

/// Status of the publishers of these viewers, asked of their workers some at a time.
async fn publishers(
    control: &Control,
    viewers: impl Iterator<Item = &Arc<SessionEntry>>,
) -> HashMap<SessionId, PublisherStatus> {
    let live: HashSet<SessionId> =
        viewers.filter_map(|session| live(session.stream.lock().publishers.live())).collect();
    let mut by_worker: BTreeMap<usize, Vec<SessionId>> = BTreeMap::new();
    for session in live.into_iter().filter_map(|id| control.directory.session(id)) {
        if let Some(worker) = session.worker() {
            by_worker.entry(worker).or_default().push(session.id);
        }
    }
    let mut found = HashMap::new();
    for (worker, ids) in by_worker {
        for ids in ids.chunks(SESSIONS_PER_QUESTION) {
            let ids = ids.to_vec();
            let look = move |worker: &mut Worker, now: Instant| {
                let status = |id| Some((id, worker.publisher_status(id, now)?));
                ids.into_iter().filter_map(status).collect::<Vec<_>>()
            };
            found.extend(control.workers.inspect(worker, look).await.unwrap_or_default());
        }
    }
    found
}

fn live(source: Option<&Arc<SourceInfo>>) -> Option<SessionId> {
    source.map(|source| source.publisher)
}

/// Writes the status of viewers of one worker.
async fn write_some(
    control: &Control,
    worker: Option<usize>,
    sessions: &[Arc<SessionEntry>],
    publishers: &HashMap<SessionId, PublisherStatus>,
) {
    let ids: Vec<_> = sessions.iter().map(|session| session.id).collect();
    let answer = match worker {
        None => None,
        Some(worker) => {
            let look = move |worker: &mut Worker, now: Instant| {
                let look = |id| (worker.viewer_layers(id, now), worker.unserved_tracks(id));
                ids.into_iter().map(look).collect::<Vec<_>>()
            };
            control.workers.inspect(worker, look).await
        }
    };
    let mut answers = answer.unwrap_or_default().into_iter();
    for session in sessions {
        let (layers, refused) = answers.next().unwrap_or_default();
        let layers = session.tracks.by_m_line(layers.unwrap_or_default());
        let (source, viewers) = {
            let state = session.stream.lock();
            (state.publishers.live().cloned(), state.viewer_count())
        };
        let rejected = session.rejected.iter().map(UnservedMedia::from);
        let missed = source.iter().flat_map(|source| {
            session.idle.iter().filter_map(|section| UnservedMedia::missed(section, source))
        });
        let mut unserved: Vec<_> =
            rejected.chain(missed).chain(session.tracks.unserved(refused)).collect();
        unserved.sort_by_key(|media| media.m_line);
        let live = live(source.as_ref());
        let publisher = live.and_then(|id| publishers.get(&id)).cloned().unwrap_or_default();
        let active = live.is_some();
        let status = ViewerStatus { active, viewers, layers, publisher, unserved, ended: None };
        control.status_board.set(session.id, status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::detached::Detached;

    #[tokio::test]
    async fn worker_is_asked_once_per_thirty_two_listened_viewers() {
        for (viewers, questions) in [(SESSIONS_PER_QUESTION, 1), (SESSIONS_PER_QUESTION + 1, 2)] {
            let server = Detached::new(2);
            let mut receivers = Vec::new();
            for _ in 0..viewers {
                let id = server.subscribe("a");
                server.adopt(id, 1);
                receivers.push(server.control.status_board.subscribe(id));
            }
            write_all(&server.control).await;
            for receiver in &mut receivers {
                assert_eq!(receiver.newest().map(|status| status.viewers), Some(viewers));
            }
            drop(receivers);
            write_all(&server.control).await;
            assert_eq!(server.stop(), [0, questions], "and none when nobody listens any more");
        }
    }

    #[tokio::test]
    async fn viewer_that_waits_for_its_first_check_has_a_status_without_layers() {
        let server = Detached::new(1);
        let id = server.subscribe("a");
        let mut receiver = server.control.status_board.subscribe(id);
        write_all(&server.control).await;
        let status = ViewerStatus { viewers: 1, ..ViewerStatus::default() };
        assert_eq!(receiver.newest(), Some(status));
        assert_eq!(server.stop(), [0], "no worker knows it yet");
    }
}
