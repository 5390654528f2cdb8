//! Placement: which worker a viewer goes to, and how many sessions each worker has.
//!
//! Decides by counts and loads only; knows no stream and sends nothing. Called by `control.rs`. Publishers are
//! not placed: the worker where their first check arrives adopts them (`worker/lobby.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Load in thousandths of a core from which a worker gets no more viewers while another worker is less busy,
/// not even viewers of its own streams.
const BUSY_PERMILLE: u32 = 700;

/// Sessions per worker, those on their way to it included.
#[derive(Debug)]
pub(super) struct Placement {
    sessions: Vec<AtomicUsize>,
    sessions_per_worker: usize,
}

impl Placement {
    /// No sessions on any worker.
    pub(super) fn new(workers: usize, sessions_per_worker: usize) -> Self {
        let sessions = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        Self { sessions, sessions_per_worker }
    }

    /// Worker for a viewer: the publisher's while it has room and is not busy, so that packets do not cross
    /// threads. Otherwise the one with the fewest sessions among those that are not busy, or among all.
    pub(super) fn choose(
        &self,
        publisher_worker: Option<usize>,
        load_permille: impl Fn(usize) -> u32,
    ) -> usize {
        let busy = |worker: usize| load_permille(worker) >= BUSY_PERMILLE;
        let has_room =
            |worker: usize| self.count(worker) < self.sessions_per_worker && !busy(worker);
        publisher_worker.filter(|worker| has_room(*worker)).unwrap_or_else(|| {
            let all = 0..self.sessions.len();
            all.min_by_key(|worker| (busy(*worker), self.count(*worker))).unwrap_or(0)
        })
    }

    /// Counts a session on `worker` instead of on the one in `placed`.
    pub(super) fn reserve(&self, placed: &mut Option<usize>, worker: usize) {
        self.release(placed);
        if let Some(sessions) = self.sessions.get(worker) {
            sessions.fetch_add(1, Ordering::Relaxed);
            *placed = Some(worker);
        }
    }

    /// Counts a session on no worker any more.
    pub(super) fn release(&self, placed: &mut Option<usize>) {
        if let Some(sessions) = placed.take().and_then(|worker| self.sessions.get(worker)) {
            sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Sessions of a worker; the largest number for one that does not exist.
    fn count(&self, worker: usize) -> usize {
        self.sessions.get(worker).map_or(usize::MAX, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u32 = BUSY_PERMILLE - 1;

    /// Workers with these numbers of sessions, and room for ten each.
    fn with(sessions: &[usize]) -> Placement {
        let placement = Placement::new(sessions.len(), 10);
        for (worker, n) in sessions.iter().enumerate() {
            for _ in 0..*n {
                placement.reserve(&mut None, worker);
            }
        }
        placement
    }

    #[test]
    fn viewer_goes_to_its_publishers_worker_until_that_is_full() {
        assert_eq!(with(&[0, 9]).choose(Some(1), |_| IDLE), 1, "one place is left");
        assert_eq!(with(&[0, 10]).choose(Some(1), |_| IDLE), 0, "none is left");
    }

    #[test]
    fn viewer_goes_to_its_publishers_worker_until_that_is_busy() {
        let loads = |of_1: u32| move |worker: usize| if worker == 1 { of_1 } else { 0 };
        assert_eq!(with(&[5, 5]).choose(Some(1), loads(BUSY_PERMILLE - 1)), 1);
        assert_eq!(with(&[5, 5]).choose(Some(1), loads(BUSY_PERMILLE)), 0);
    }

    #[test]
    fn viewer_of_a_stream_without_publisher_goes_to_the_worker_with_the_fewest_sessions() {
        assert_eq!(with(&[3, 1, 2]).choose(None, |_| IDLE), 1);
        let busy = |worker: usize| if worker == 1 { BUSY_PERMILLE } else { IDLE };
        assert_eq!(with(&[3, 1, 2]).choose(None, busy), 2, "the next that is not busy");
        assert_eq!(with(&[3, 1, 2]).choose(None, |_| BUSY_PERMILLE), 1, "all are busy");
        assert_eq!(with(&[3, 1, 2]).choose(Some(7), |_| IDLE), 1, "no such worker");
    }

    #[test]
    fn session_is_counted_on_one_worker_at_a_time() {
        let placement = with(&[0, 0]);
        let mut placed = None;
        placement.reserve(&mut placed, 0);
        placement.reserve(&mut placed, 1);
        placement.reserve(&mut placed, 1);
        assert_eq!((placed, placement.count(0), placement.count(1)), (Some(1), 0, 1));
        placement.release(&mut placed);
        placement.release(&mut placed);
        assert_eq!((placed, placement.count(0), placement.count(1)), (None, 0, 0));
    }
}
