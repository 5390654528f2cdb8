//! Requests that the access rules refused: how many by reason, and a log line now and then.
//!
//! Counts every one, and writes at most one line per reason in [`REPEAT_INTERVAL`]. Offers have lines of
//! their own (`refused_offers.rs`). Called by `access.rs`; shown by `metrics.rs` and `admin.rs`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;

use crate::access::Refusal;
use crate::{path, refused_offers};

/// Time in which a refusal for the same reason is written once (quality B2, logs).
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum characters of a path that is logged.
const PATH_MAX: usize = 80;

/// Labels of the counter, in its order.
const LABELS: [&str; 3] = ["not_local", "foreign_page", "not_here"];

/// Requests that were refused since the start.
#[derive(Debug, Default)]
pub struct RefusedRequests(Mutex<[Kind; LABELS.len()]>);

#[derive(Debug, Default)]
struct Kind {
    count: u64,
    written: Option<Instant>,
    /// Refusals without a line since the last line.
    unwritten: u64,
}

impl RefusedRequests {
    /// Counts a refusal, and writes its line if one is due.
    pub fn note(&self, refusal: &Refusal, request: &Request) {
        let at = index(refusal);
        let (method, path) = (request.method(), request.uri().path());
        let is_offer = refused_offers::is_offer(method, path, request.headers());
        let Some(unwritten) = self.count(at, is_offer, Instant::now()) else { return };
        let path = refused_offers::shortened(path::loggable(path), PATH_MAX);
        let (detail, reason) = (refusal.to_string(), LABELS.get(at).copied());
        let unwritten = (unwritten > 0).then_some(unwritten);
        tracing::warn!(%method, path, reason, detail, unwritten, "request refused");
    }

    /// Number of refusals by label, every label included.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        LABELS.into_iter().zip(kinds.iter().map(|kind| kind.count)).collect()
    }

    /// Counts; the number of refusals without a line if one is due.
    fn count(&self, at: usize, is_offer: bool, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.get_mut(at)?;
        kind.count += 1;
        if is_offer {
            return None;
        }
        let recent = |at: Instant| now.saturating_duration_since(at) < REPEAT_INTERVAL;
        if kind.written.is_some_and(recent) {
            kind.unwritten += 1;
            return None;
        }
        kind.written = Some(now);
        Some(std::mem::take(&mut kind.unwritten))
    }
}

fn index(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::NotLocal { .. } => 0,
        Refusal::ForeignPage(_) => 1,
        Refusal::NotHere => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_and_one_in_ten_seconds_is_written() {
        let (refused, start) = (RefusedRequests::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(refused.count(1, false, at(0)), Some(0));
        assert!((1..1_000).all(|n| refused.count(1, false, at(n)).is_none()));
        assert_eq!(refused.count(0, false, at(9_999)), Some(0), "another reason");
        assert_eq!(refused.count(1, true, at(10_000)), None, "an offer has a line of its own");
        assert_eq!(refused.count(1, false, at(10_000)), Some(999));
        assert_eq!(refused.counts(), [("not_local", 1), ("foreign_page", 1_002), ("not_here", 0)]);
    }
}
