//! Request bodies: their limits in bytes and in time, and their media type.
//!
//! A body above a limit never reaches the media plane. Called by the POST and PATCH handlers. Next:
//! `body_budget.rs`, the memory of all of them.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::body_budget::{BodyBudget, Collected, NotTaken};
use crate::error::Problem;

/// Maximum SDP body in bytes; a longer one is refused with 413 (quality B2).
pub const SDP_MAX: usize = 64 * 1024;
/// Maximum PATCH body in bytes; a longer one is refused with 413 (quality B2).
pub const PATCH_MAX: usize = 8 * 1024;
/// Time in which a body must arrive; later it is refused with 408 (quality B2).
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a body must bring [`PROGRESS_BYTES`] or end; later it is refused with 408. A packet that was lost
/// twice comes again in it at a round trip of 500 ms.
pub const PROGRESS_TIME: Duration = Duration::from_secs(5);
/// See [`PROGRESS_TIME`].
pub const PROGRESS_BYTES: usize = 4 * 1024;
/// Bytes above the limit that are read and discarded, so that a client which writes everything
/// before it reads gets the 413 and not a reset. The connection is closed at more.
const DISCARD_MAX: usize = 1024 * 1024;

/// Reads the body of a request of this client network, of at most `limit` bytes. It counts in the budget until it
/// is dropped.
///
/// # Errors
/// 413 if the body is longer, 408 if it takes longer than [`READ_TIMEOUT`], 400 if it breaks off, 503 if all
/// memory for bodies is taken and this one has to give way.
pub async fn read(
    budget: &BodyBudget,
    network: Option<IpAddr>,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let length = headers.get(CONTENT_LENGTH);
    let announced = length.and_then(|length| length.to_str().ok()?.parse().ok());
    collect(budget.begin(network), body, limit, announced).await
}

async fn collect(
    mut collected: Collected,
    mut body: Body,
    limit: usize,
    announced: Option<usize>,
) -> Result<Bytes, Problem> {
    let mut seen = 0_usize;
    // A length far above the limit is refused before a byte is read: with `Expect: 100-continue`
    // the client then sends no body at all.
    if announced.is_some_and(|length| length > limit.saturating_add(DISCARD_MAX)) {
        return Err(too_long(limit));
    }
    let mut deadlines = Deadlines::new(Instant::now());
    loop {
        let (at, reason) = deadlines.next();
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = collected.gives_way() => return Err(no_memory()),
            () = tokio::time::sleep_until(at) => {
                collected.count(reason);
                return Err(too_slow(reason));
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "the body ended before its announced length; send it again",
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        deadlines.received(data.len(), Instant::now());
        seen = seen.saturating_add(data.len());
        if seen > limit {
            collected.release();
            if seen > limit.saturating_add(DISCARD_MAX) {
                break;
            }
        } else {
            collected.extend(&data).map_err(|_| no_memory())?;
        }
    }
    if seen > limit {
        return Err(too_long(limit));
    }
    collected.finish().map_err(|_| no_memory())?;
    Ok(Bytes::from_owner(collected))
}

/// Moments until which a body must have brought something.
#[derive(Debug)]
struct Deadlines {
    whole: Instant,
    progress: Instant,
    /// Bytes since the last progress.
    received: usize,
}

impl Deadlines {
    fn new(now: Instant) -> Self {
        Self { whole: now + READ_TIMEOUT, progress: now + PROGRESS_TIME, received: 0 }
    }

    fn received(&mut self, bytes: usize, now: Instant) {
        self.received += bytes;
        if self.received >= PROGRESS_BYTES {
            self.received = 0;
            self.progress = now + PROGRESS_TIME;
        }
    }

    fn next(&self) -> (Instant, NotTaken) {
        match self.whole <= self.progress {
            true => (self.whole, NotTaken::Late),
            false => (self.progress, NotTaken::Slow),
        }
    }
}

fn too_slow(reason: NotTaken) -> Problem {
    let detail = match reason {
        NotTaken::Slow => format!(
            "less than {PROGRESS_BYTES} bytes of the body came in {} s; send it without pauses",
            PROGRESS_TIME.as_secs()
        ),
        _ => format!(
            "the body did not arrive within {} s; send it without pauses",
            READ_TIMEOUT.as_secs()
        ),
    };
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        .with(CONNECTION, HeaderValue::from_static("close"))
}

fn no_memory() -> Problem {
    let detail = "the server has as many bodies of requests as it may have in memory, and this one came \
                  slowly; send it again, without pauses";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .retry_after(1)
        .with(CONNECTION, HeaderValue::from_static("close"))
}

fn too_long(limit: usize) -> Problem {
    let detail = format!("the body is longer than {limit} bytes, the most that this URL takes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Whether `Content-Type` is `expected`, without regard to case and parameters (whip-whep A8).
pub fn is_type(headers: &HeaderMap, expected: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(expected))
}

#[cfg(test)]
mod tests;
