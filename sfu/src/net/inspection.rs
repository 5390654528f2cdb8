//! Inspection: what an operator sees of streams, sessions and totals. Changes nothing.
//!
//! A view of the control plane. A listing asks each worker once, all of them at the same time, however many
//! streams there are. Called by `/api/v1`, `/metrics` and the health routes of `api`; next: `control.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::admission::NotReady;
use super::control::Control;
use super::session_entry::SessionEntry;
use super::stats::{SfuStats, StatsSum};
use super::stream_entry::StreamEntry;
use crate::error::CloseReason;
use crate::ids::{SessionId, StreamName};
use crate::worker::{SessionInfo, TrackInfo, Worker};

/// Maximum viewer ids listed per stream.
const VIEWER_IDS_MAX: usize = 1_000;

/// One stream as `/api/v1/streams` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StreamInfo {
    /// Name of the stream.
    pub name: StreamName,
    /// Publisher that is live or connecting, if any.
    pub publisher: Option<SessionInfo>,
    /// Number of viewers.
    pub viewers: usize,
    /// Public ids of the viewers, at most 1,000 of them.
    pub viewer_ids: Vec<SessionId>,
}

/// View of the server for operators: streams, sessions and totals. Cheap to clone.
#[derive(Clone)]
pub struct Inspection {
    control: Arc<Control>,
}

impl Inspection {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    /// All streams with a publisher or a viewer, sorted by name.
    pub async fn streams(&self) -> Vec<StreamInfo> {
        let mut streams = self.control.directory.streams();
        streams.sort_by(|a, b| a.shared.name.cmp(&b.shared.name));
        self.describe(&streams).await
    }

    /// One stream.
    pub async fn stream(&self, stream: &StreamName) -> Option<StreamInfo> {
        let stream = self.control.directory.stream(stream)?;
        self.describe(&[stream]).await.pop()
    }

    /// One session in detail.
    pub async fn session(&self, id: SessionId) -> Option<SessionInfo> {
        let session = self.control.directory.session(id)?;
        self.session_infos(vec![session]).await.remove(&id)
    }

    /// Number of viewers of a stream; asks no worker.
    pub fn viewers(&self, stream: &StreamName) -> usize {
        let stream = self.control.directory.stream(stream);
        stream.map_or(0, |stream| stream.lock().viewer_count())
    }

    /// Why a session ended, for as long as its URL is remembered.
    pub fn ended(&self, id: SessionId) -> Option<SessionEnd> {
        let ended = self.control.directory.ended(id)?;
        let ago_s = Instant::now().saturating_duration_since(ended.at).as_secs_f64();
        Some(SessionEnd { reason: ended.reason, cause: ended.cause, ago_s })
    }

    /// Totals over all workers.
    pub async fn stats(&self) -> SfuStats {
        let control = &self.control;
        let mut sum = StatsSum::new(&control.totals);
        let streams = control.directory.stream_count();
        for session in control.directory.sessions() {
            sum.add_session(session.role);
        }
        let reports: Vec<_> =
            (0..control.workers.len()).map(|w| control.workers.report(w)).collect();
        for (index, report) in reports.into_iter().enumerate() {
            let Some((worker, shell)) = report.await else { continue };
            sum.add_worker(index, control.workers.load_permille(index), &worker, &shell);
        }
        sum.finish(control.workers.len(), streams)
    }

    /// Whether new sessions are taken.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), NotReady> {
        self.control.ready()
    }

    /// Streams in the given order.
    async fn describe(&self, streams: &[Arc<StreamEntry>]) -> Vec<StreamInfo> {
        let mut shown = Vec::new();
        let mut infos = Vec::with_capacity(streams.len());
        for stream in streams {
            let state = stream.lock();
            shown.push(state.publishers.shown());
            infos.push(StreamInfo {
                name: stream.shared.name.clone(),
                publisher: None,
                viewers: state.viewer_count(),
                viewer_ids: state.viewer_ids(VIEWER_IDS_MAX),
            });
        }
        let directory = &self.control.directory;
        let publishers = shown.iter().copied().flatten().filter_map(|id| directory.session(id));
        let mut sessions = self.session_infos(publishers.collect()).await;
        for (info, publisher) in infos.iter_mut().zip(shown) {
            info.publisher = publisher.and_then(|id| sessions.remove(&id));
        }
        infos
    }

    /// Details of sessions, with one question to each worker that owns some of them. A session is missing if
    /// it ended meanwhile or its worker does not answer in time.
    async fn session_infos(
        &self,
        sessions: Vec<Arc<SessionEntry>>,
    ) -> HashMap<SessionId, SessionInfo> {
        let mut infos = HashMap::with_capacity(sessions.len());
        let mut by_worker: BTreeMap<usize, Vec<SessionId>> = BTreeMap::new();
        let mut rejected = Vec::new();
        for session in sessions {
            if !session.rejected.is_empty() {
                rejected.push(Arc::clone(&session));
            }
            match session.worker() {
                Some(worker) => by_worker.entry(worker).or_default().push(session.id),
                None => {
                    infos.insert(session.id, session.waiting_info(Instant::now()));
                }
            }
        }
        let ask = |(worker, ids): (usize, Vec<SessionId>)| {
            self.control.workers.inspect(worker, move |worker: &mut Worker, now| {
                let infos = ids.into_iter().filter_map(|id| worker.session_info(id, now));
                infos.collect::<Vec<_>>()
            })
        };
        let questions: Vec<_> = by_worker.into_iter().map(ask).collect();
        for question in questions {
            let answer = question.await.unwrap_or_default();
            infos.extend(answer.into_iter().map(|info| (info.id, info)));
        }
        for session in rejected {
            if let Some(info) = infos.get_mut(&session.id) {
                info.tracks.extend(session.rejected.iter().map(TrackInfo::rejected));
            }
        }
        infos
    }
}

/// End of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionEnd {
    /// Why it ended.
    pub reason: CloseReason,
    /// What happened in its DTLS handshake, if that failed: who sent which alert, and why.
    pub cause: Option<Arc<str>>,
    /// Seconds since.
    pub ago_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::detached::Detached;

    #[tokio::test]
    async fn listing_of_many_streams_asks_each_worker_once() {
        const STREAMS: usize = 300;
        let server = Detached::new(3);
        for n in 0..STREAMS {
            let id = server.publish(&format!("s{n:03}"));
            server.adopt(id, n % 3);
            server.subscribe(&format!("s{n:03}"));
        }
        let waiting = server.publish("waits");
        let infos = Inspection::new(Arc::clone(&server.control)).streams().await;
        assert_eq!(infos.len(), STREAMS + 1);
        assert!(infos.is_sorted_by(|a, b| a.name < b.name));
        let last = infos.last().unwrap();
        assert_eq!(last.publisher.as_ref().map(|info| info.id), Some(waiting));
        assert_eq!(infos[0].viewers, 1);
        let count =
            |name| Inspection::new(Arc::clone(&server.control)).viewers(&Detached::name(name));
        assert_eq!((count("s000"), count("waits"), count("nobody")), (1, 0, 0));
        assert_eq!(server.stop(), [1, 1, 1]);
    }

    #[tokio::test]
    async fn worker_without_a_listed_session_is_not_asked() {
        let server = Detached::new(2);
        let id = server.publish("a");
        server.adopt(id, 1);
        assert!(
            Inspection::new(Arc::clone(&server.control))
                .stream(&Detached::name("a"))
                .await
                .is_some()
        );
        assert!(
            Inspection::new(Arc::clone(&server.control))
                .stream(&Detached::name("b"))
                .await
                .is_none()
        );
        assert!(
            Inspection::new(Arc::clone(&server.control)).session(id).await.is_none(),
            "its worker does not answer"
        );
        assert_eq!(server.stop(), [0, 2]);
    }

    #[tokio::test]
    async fn stats_ask_each_worker_once_and_count_sessions_by_role() {
        let server = Detached::new(2);
        server.publish("a");
        server.subscribe("a");
        server.subscribe("b");
        let stats = Inspection::new(Arc::clone(&server.control)).stats().await;
        assert_eq!((stats.publishers, stats.subscribers, stats.streams), (1, 2, 2));
        assert_eq!((stats.workers, stats.per_worker.len()), (2, 0), "no worker answers");
        assert_eq!(server.stop(), [1, 1]);
    }
}
