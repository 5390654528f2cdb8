//! Refused offers: how many by reason, and a log line of each that tells something new.
//!
//! Programs that publish often hide the text of a refusal, so the operator finds it here. Counts every
//! refusal and writes a bounded number of lines: what clients sent is shortened and escaped. Called
//! by `app.rs` with the response; `error.rs` leaves the text in it. Shown by `metrics.rs`, `admin.rs`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method, StatusCode};

use crate::path;
use crate::{SDP, body};

/// Time in which a refusal of the same kind for the same path is written once (quality B2, logs).
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum lines in one [`REPEAT_INTERVAL`]; further refusals are counted, and the next line says
/// how many.
const LINES_MAX: usize = 10;
/// Maximum characters of a text that is logged; the rest is cut.
const TEXT_MAX: usize = 300;
/// Maximum characters of a path that is logged.
const PATH_MAX: usize = 80;

/// Text of a refusal, left in the extensions of its response.
#[derive(Debug, Clone)]
pub struct RefusalText(pub String);

/// Kind of a refusal: the label of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// 400: a bad name, or not SDP.
    Malformed,
    /// 403: the access rule of the listener.
    Forbidden,
    /// 404 and 405: not the URL of a stream.
    WrongUrl,
    /// 408: the body did not arrive in time.
    Timeout,
    /// 409: the stream has a publisher that stays.
    Conflict,
    /// 413: the body is too long.
    TooLong,
    /// 415: not `application/sdp`.
    MediaType,
    /// 422: SDP that cannot be served.
    Unacceptable,
    /// 429: more offers than the rate limit allows.
    RateLimited,
    /// 503: the server is full, stopping, or without an address.
    Unavailable,
    /// Any other status.
    Other,
}

impl RefusalKind {
    /// Every kind, in the order of the metric.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Forbidden,
        Self::WrongUrl,
        Self::Timeout,
        Self::Conflict,
        Self::TooLong,
        Self::MediaType,
        Self::Unacceptable,
        Self::RateLimited,
        Self::Unavailable,
        Self::Other,
    ];

    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Malformed,
            403 => Self::Forbidden,
            404 | 405 => Self::WrongUrl,
            408 => Self::Timeout,
            409 => Self::Conflict,
            413 => Self::TooLong,
            415 => Self::MediaType,
            422 => Self::Unacceptable,
            429 => Self::RateLimited,
            503 => Self::Unavailable,
            _ => Self::Other,
        }
    }

    /// The `reason` label in metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forbidden => "forbidden",
            Self::WrongUrl => "wrong_url",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::TooLong => "too_long",
            Self::MediaType => "media_type",
            Self::Unacceptable => "unacceptable",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Other => "other",
        }
    }
}

/// Offers that were refused since the start.
#[derive(Debug, Default)]
pub struct RefusedOffers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    counts: [u64; RefusalKind::ALL.len()],
    /// When a line was written, by kind and loggable path; at most [`LINES_MAX`], the recent ones.
    written: HashMap<(RefusalKind, String), Instant>,
    /// Refusals without a line since the last line.
    unwritten: u64,
}

/// Log line that is due.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    path: String,
    detail: String,
    /// Refusals since the line before that have none.
    unwritten: u64,
}

impl RefusedOffers {
    /// Counts the refusal of the offer that was POSTed to `path`, and writes its line if one is due.
    pub fn note(&self, path: &str, status: StatusCode, detail: &str) {
        let kind = RefusalKind::of(status);
        let Some(line) = self.count(kind, path, detail, Instant::now()) else { return };
        let Line { path, detail, unwritten } = line;
        let reason = kind.label();
        let (status, unwritten) = (status.as_u16(), (unwritten > 0).then_some(unwritten));
        let stream = stream_of(&path);
        tracing::warn!(stream, path, status, reason, detail, unwritten, "offer refused");
    }

    /// Number of refusals by label, every label included.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        RefusalKind::ALL.iter().map(|kind| kind.label()).zip(state.counts).collect()
    }

    fn count(&self, kind: RefusalKind, path: &str, detail: &str, now: Instant) -> Option<Line> {
        let path = shortened(path::loggable(path), PATH_MAX);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.counts.get_mut(kind as usize) {
            *count += 1;
        }
        state.written.retain(|_, at| now.saturating_duration_since(*at) < REPEAT_INTERVAL);
        let key = (kind, path);
        if state.written.len() >= LINES_MAX || state.written.contains_key(&key) {
            state.unwritten += 1;
            return None;
        }
        let path = key.1.clone();
        state.written.insert(key, now);
        let unwritten = std::mem::take(&mut state.unwritten);
        Some(Line { path, detail: shortened(detail, TEXT_MAX), unwritten })
    }
}

/// Whether a request offers a session: a POST of SDP, or one to the URL of a stream.
pub fn is_offer(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    *method == Method::POST && (stream_of(path).is_some() || body::is_type(headers, SDP))
}

/// Name in the URL of a stream, as the client wrote it; none in another URL.
fn stream_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/whip/").or_else(|| path.strip_prefix("/whep/"))?;
    let name = name.trim_end_matches('/');
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// `text` on one line of printable ASCII: what a client sent must not look like another log line.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let mut short: String = text.chars().take(max).map(printable).collect();
    if text.chars().nth(max).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::CONTENT_TYPE;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_repeated_refusal_is_counted_each_time_and_written_once_per_interval() {
        let (refused, start) = (RefusedOffers::default(), Instant::now());
        let note = |path, ms| refused.count(RefusalKind::Conflict, path, "taken", at(start, ms));
        let first = Line { path: "/whip/demo".into(), detail: "taken".into(), unwritten: 0 };
        assert_eq!(note("/whip/demo", 0), Some(first));
        assert!((1..10).all(|second| note("/whip/demo", second * 1_000).is_none()));
        assert_eq!(note("/whip/other", 9_500).unwrap().unwritten, 9);
        assert_eq!(note("/whip/demo", 10_000).unwrap().unwritten, 0);
        assert!(refused.counts().contains(&("conflict", 12)));
        assert!(refused.counts().contains(&("malformed", 0)));
    }

    #[test]
    fn a_flood_of_names_and_kinds_writes_ten_lines_in_ten_seconds() {
        let (refused, start) = (RefusedOffers::default(), Instant::now());
        let mut lines = 0;
        for n in 0..10_000_u64 {
            let kind = RefusalKind::ALL[n as usize % RefusalKind::ALL.len()];
            let path = format!("/whip/{n}");
            lines += usize::from(refused.count(kind, &path, "x", at(start, n)).is_some());
        }
        assert_eq!(lines, LINES_MAX);
        assert!(refused.0.lock().unwrap().written.len() <= LINES_MAX);
        let next = refused.count(RefusalKind::Other, "/whip/x", "x", at(start, 20_000)).unwrap();
        assert_eq!(next.unwritten, 10_000 - LINES_MAX as u64);
    }

    #[test]
    fn what_a_client_sent_is_short_and_on_one_line() {
        let refused = RefusedOffers::default();
        let detail = format!("a\n2026-12-01 WARN forged\r\x1b[31m\u{202e}é{}", "x".repeat(9_999));
        let line =
            refused.count(RefusalKind::Malformed, "/whip/demo/secret", &detail, Instant::now());
        let line = line.unwrap();
        assert_eq!(line.path, "/whip/demo", "never a secret");
        assert!(line.detail.starts_with("a?2026-12-01 WARN forged??[31m??x"), "{}", line.detail);
        assert!(line.detail.ends_with("x...") && line.detail.len() == TEXT_MAX + 3);
    }

    #[test]
    fn labels_are_unique_and_statuses_have_their_kind() {
        let mut labels: Vec<_> = RefusalKind::ALL.iter().map(|kind| kind.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), RefusalKind::ALL.len());
        assert!(RefusalKind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
        assert_eq!(RefusalKind::of(StatusCode::CONFLICT), RefusalKind::Conflict);
        assert_eq!(RefusalKind::of(StatusCode::IM_A_TEAPOT), RefusalKind::Other);
    }

    #[test]
    fn an_offer_is_a_post_of_sdp_or_to_the_url_of_a_stream() {
        let sdp = HeaderMap::from_iter([(CONTENT_TYPE, SDP.parse().unwrap())]);
        let none = HeaderMap::new();
        assert!(is_offer(&Method::POST, "/whip/demo", &none));
        assert!(is_offer(&Method::POST, "/whep/demo/", &none));
        assert!(is_offer(&Method::POST, "/whip/live/demo", &sdp));
        assert!(is_offer(&Method::POST, "/demo/whip", &sdp));
        assert!(!is_offer(&Method::POST, "/whep/demo/secret/layer", &none));
        assert!(!is_offer(&Method::GET, "/whip/demo", &none));
    }
}
