//! What happens on one connection: its requests, its responses that the client has not taken, its useless
//! bytes, and from these the moment at which it is to be closed.
//!
//! A quiet event stream owes its client nothing and stays open; a response that the connection does not
//! take ends it. Pure but for its lock and timer. Made by `server.rs` for each connection; `socket.rs` reports
//! bytes, and the bodies here report to it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::connections::{Closed, NoRoom, Place, Use};

/// Times after which a connection is closed.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until the headers of a request are there, the first one included (quality B2).
    pub header: Duration,
    /// Without a request. HTTP/1 connections are closed after `header` already.
    pub idle: Duration,
    /// In which the client takes nothing of a response. It ends half of it later at the latest.
    pub write: Duration,
    /// For a whole response, event streams excepted.
    pub response: Duration,
    /// From the notice that no more requests are served (GOAWAY) until the close.
    pub goodbye: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(20),
            response: Duration::from_secs(60),
            goodbye: Duration::from_secs(5),
        }
    }
}

/// Maximum GETs of one connection that are worked on or whose response the client has not taken; further
/// ones wait. Event streams do not count.
pub const REQUESTS_AT_WORK: usize = 8;
/// Maximum bytes of a response that are handed to the connection at once.
pub const CHUNK_MAX: usize = 16 * 1024;
/// Bytes that a connection may send besides requests and their bodies (settings, pings, empty frames,
/// headers of frames): so many at once. With more it is closed.
pub const USELESS_BYTES_BURST: usize = 256 * 1024;
/// The same per second.
pub const USELESS_BYTES_PER_S: usize = 16 * 1024;
/// Bytes that a request may have in headers without being useless.
const REQUEST_BYTES: usize = 16 * 1024;
/// Maximum bytes of the headers of all requests that a connection has at once; one more request is refused
/// with 431. A single request may have as many as there may be in a header block. A browser's have about 2 KiB
/// by this count.
pub const HEADERS_AT_ONCE: usize = 64 * 1024;

/// Memory that is counted for a request besides its headers, until its response was taken: its task and its place
/// in the HTTP library (11.3 KiB were measured).
pub const REQUEST_MEMORY: usize = 12 * 1024;
/// Memory that is counted for a header block that has begun and not ended: the library has decoded it so far
/// (61 KiB were measured).
pub const BLOCK_MEMORY: usize = 64 * 1024;

/// Activity of one connection.
#[derive(Debug)]
pub struct Activity {
    timeouts: Timeouts,
    place: Place,
    at_work: Arc<Semaphore>,
    /// The first request of an idle connection came, or a header block began.
    began: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Whether there was a request at all.
    asked: bool,
    last: u64,
    requests: HashMap<u64, Request>,
    /// Bytes of all requests' headers.
    header_bytes: usize,
    /// Since when a header block is open.
    block: Option<Instant>,
    /// Since when there is no request.
    idle_since: Instant,
    /// What the table of connections knows.
    told: Use,
    useless: Allowance,
}

/// One request until its response was handed to the connection.
#[derive(Debug, Clone, Copy)]
enum Request {
    /// The handler works, or the source of the body has nothing yet.
    Working,
    /// It waits until the client takes the responses to others, or its task has not run yet.
    Queued { since: Instant },
    /// The handler waits for the body of the request, which began to arrive then.
    Receiving { since: Instant },
    /// The connection does not ask for the next part of the body.
    NotTaken {
        since: Instant,
        /// When the whole response must have been taken.
        whole_by: Option<Instant>,
    },
}

impl State {
    /// The next moment at which to look at the requests, and what has become too old then.
    fn next(
        &self,
        timeouts: &Timeouts,
        told: Option<Instant>,
        now: Instant,
    ) -> (Instant, Option<Closed>) {
        if self.requests.is_empty() {
            return match (told, self.asked) {
                (Some(told), _) => {
                    (self.idle_since.max(told) + timeouts.goodbye, Some(Closed::Idle))
                }
                (None, true) => (self.idle_since + timeouts.idle, Some(Closed::Idle)),
                (None, false) => (self.idle_since + timeouts.header, Some(Closed::Silent)),
            };
        }
        let deadline = |request: &Request| match *request {
            Request::Working | Request::Queued { .. } | Request::Receiving { .. } => None,
            Request::NotTaken { since, whole_by } => {
                let progress = since + timeouts.write;
                Some(whole_by.map_or(progress, |whole_by| progress.min(whole_by)))
            }
        };
        let first = self.requests.values().filter_map(deadline).min();
        // What is not waited for now may be soon, without a notice.
        let again = now + timeouts.write / 2;
        match first {
            Some(first) if first <= again => (first, Some(Closed::Stalled)),
            _ => (again, None),
        }
    }

    /// What the connection is used for now.
    fn uses(&self, timeouts: &Timeouts) -> Use {
        let requests = self.requests.values().map(|request| request.waits_for_client(timeouts));
        let waiting = requests.chain(self.block.map(Some));
        let Some(latest) = waiting.clone().reduce(|one, other| Some(one?.max(other?))) else {
            return Use::Idle(self.idle_since);
        };
        match (latest, waiting.flatten().min()) {
            (Some(latest), _) => Use::Waiting(latest),
            (None, Some(first)) => Use::PartlyWaiting(first),
            (None, None) => Use::Busy,
        }
    }
}

impl Request {
    /// Since when the request only waits for its client, whether that sends or takes a byte now and then or not.
    fn waits_for_client(&self, timeouts: &Timeouts) -> Option<Instant> {
        match *self {
            Self::Working => None,
            Self::Queued { since } | Self::Receiving { since } => Some(since),
            Self::NotTaken { since, whole_by } => Some(
                whole_by.map_or(since, |by| by.checked_sub(timeouts.response).unwrap_or(since)),
            ),
        }
    }
}

/// Bytes that may still come; refilled with time.
#[derive(Debug)]
struct Allowance {
    left: usize,
    filled: Instant,
}

impl Allowance {
    fn refill(&mut self, now: Instant) {
        let idle = now.saturating_duration_since(self.filled);
        let more = idle.as_millis().saturating_mul(USELESS_BYTES_PER_S as u128) / 1_000;
        if more > 0 {
            self.give(usize::try_from(more).unwrap_or(USELESS_BYTES_BURST));
            self.filled = now;
        }
    }

    fn give(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(USELESS_BYTES_BURST);
    }

    /// False if so many bytes are not left.
    fn take(&mut self, bytes: usize) -> bool {
        self.left.checked_sub(bytes).map(|left| self.left = left).is_some()
    }
}

impl Activity {
    /// Activity of a connection that was accepted now.
    pub fn new(place: Place, timeouts: Timeouts, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            timeouts,
            place,
            at_work: Arc::new(Semaphore::new(REQUESTS_AT_WORK)),
            began: Notify::new(),
            state: Mutex::new(State {
                asked: false,
                last: 0,
                requests: HashMap::new(),
                header_bytes: 0,
                block: None,
                idle_since: now,
                told: Use::Idle(now),
                useless: Allowance { left: USELESS_BYTES_BURST, filled: now },
            }),
        })
    }

    /// The connection's place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Times after which the connection is closed.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Whether there was a request.
    pub fn was_asked(&self) -> bool {
        self.lock().asked
    }

    /// A request with so many bytes of headers came; it lasts until the value is dropped. The error is the same
    /// for one that is to be refused.
    ///
    /// # Errors
    /// All of this connection at once have more headers than [`HEADERS_AT_ONCE`], or there is no memory for it.
    pub fn begin(
        self: &Arc<Self>,
        header_bytes: usize,
    ) -> Result<OpenRequest, (OpenRequest, NoRoom)> {
        let mut state = self.lock();
        state.asked = true;
        state.useless.give(REQUEST_BYTES);
        state.last += 1;
        let id = state.last;
        let is_first = state.requests.is_empty();
        let fits = is_first || state.header_bytes + header_bytes <= HEADERS_AT_ONCE;
        let header_bytes = if fits { header_bytes } else { 0 };
        state.header_bytes += header_bytes;
        // The request does not count as one that waits while others give way to it.
        let held = REQUEST_MEMORY + header_bytes;
        let has_memory = self.place.hold(held);
        state.requests.insert(id, Request::Queued { since: Instant::now() });
        self.tell(&mut state);
        drop(state);
        if is_first {
            self.began.notify_one();
        }
        let held = if has_memory { held } else { 0 };
        let open = OpenRequest { activity: self.clone(), id, header_bytes, held, turn: None };
        let no_room = match (fits, has_memory) {
            (true, true) => return Ok(open),
            (false, _) => NoRoom::Headers,
            (true, false) => NoRoom::Memory,
        };
        self.place.refuse(no_room);
        Err((open, no_room))
    }

    /// Bytes arrived. False when there were too many that belong to no request: the connection is to end.
    pub fn received(&self, bytes: usize, now: Instant) -> bool {
        let mut state = self.lock();
        state.useless.refill(now);
        state.useless.take(bytes)
    }

    /// Says whether a header block has begun and not ended. False when there is no memory for it: the connection
    /// is to end.
    pub fn set_block(&self, open: bool, now: Instant) -> bool {
        let mut state = self.lock();
        match (state.block, open) {
            (None, true) => {
                if !self.place.hold(BLOCK_MEMORY) {
                    self.place.refuse(NoRoom::Memory);
                    return false;
                }
                state.block = Some(now);
                self.began.notify_one();
            }
            (Some(_), false) => {
                self.place.release(BLOCK_MEMORY);
                state.block = None;
            }
            (None, false) | (Some(_), true) => return true,
        }
        self.tell(&mut state);
        true
    }

    /// Waits until the connection is to be closed; `told` is when it was told that no more requests are served.
    pub async fn overdue(&self, told: Option<Instant>) -> Closed {
        loop {
            let now = Instant::now();
            let (at, closed) = self.next(told, now);
            if let Some(closed) = closed.filter(|_| at <= now) {
                return closed;
            }
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = self.began.notified() => {}
            }
        }
    }

    /// The next moment at which to look again, and what has become too old then.
    fn next(&self, told: Option<Instant>, now: Instant) -> (Instant, Option<Closed>) {
        let state = self.lock();
        let (at, closed) = state.next(&self.timeouts, told, now);
        match state.block.map(|since| since + self.timeouts.header) {
            Some(whole_by) if whole_by <= at => (whole_by, Some(Closed::Silent)),
            _ => (at, closed),
        }
    }

    fn set(&self, id: u64, request: Request) {
        let mut state = self.lock();
        if let Some(known) = state.requests.get_mut(&id) {
            *known = request;
        }
        self.tell(&mut state);
    }

    /// Tells the table of connections what this one is used for, if that has changed.
    fn tell(&self, state: &mut State) {
        let uses = state.uses(&self.timeouts);
        if uses != state.told {
            state.told = uses;
            self.place.set(uses);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Request that the connection has; over when dropped.
#[derive(Debug)]
pub struct OpenRequest {
    activity: Arc<Activity>,
    id: u64,
    header_bytes: usize,
    /// Memory that is counted until the request is over.
    held: usize,
    turn: Option<OwnedSemaphorePermit>,
}

impl OpenRequest {
    /// Says that its task runs.
    pub fn start(&self) {
        self.activity.set(self.id, Request::Working);
    }

    /// Waits until fewer than [`REQUESTS_AT_WORK`] are at work.
    pub async fn wait_for_turn(&mut self) {
        let at_work = self.activity.at_work.clone();
        self.turn = at_work.clone().try_acquire_owned().ok();
        if self.turn.is_none() {
            self.activity.set(self.id, Request::Queued { since: Instant::now() });
            self.turn = at_work.acquire_owned().await.ok();
            self.activity.set(self.id, Request::Working);
        }
    }

    /// The body of the request, which is not useless.
    pub fn incoming<B>(&self, body: B) -> IncomingBody<B> {
        IncomingBody { body, activity: self.activity.clone(), id: self.id, began: None }
    }

    /// The response with a body that reports whether the connection takes it.
    pub fn outgoing(mut self, body: Body) -> OutgoingBody {
        let now = Instant::now();
        let whole_by = match body.size_hint().exact() {
            Some(_) => Some(now + self.activity.timeouts.response),
            None => {
                self.turn = None;
                None
            }
        };
        self.activity.set(self.id, Request::NotTaken { since: now, whole_by });
        OutgoingBody { body, rest: Bytes::new(), whole_by, request: self }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.requests.remove(&self.id);
        state.header_bytes -= self.header_bytes;
        if state.requests.is_empty() {
            state.idle_since = Instant::now();
        }
        self.activity.tell(&mut state);
        self.activity.place.release(self.held);
    }
}

/// Body of a request.
pub struct IncomingBody<B> {
    body: B,
    activity: Arc<Activity>,
    id: u64,
    /// When the handler first waited for it.
    began: Option<Instant>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for IncomingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {
                let since = *self.began.get_or_insert_with(Instant::now);
                self.activity.set(self.id, Request::Receiving { since });
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.activity.lock().useless.give(bytes);
            }
            Poll::Ready(_) => self.activity.set(self.id, Request::Working),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Body of a response, in parts of at most [`CHUNK_MAX`]. HTTP/2 takes a part when the client's window has room
/// for a byte of it, and the next one when the window had room for all of it. So the last byte is a part of its
/// own: without it the library would hold a response that the client never takes, and nobody would know.
pub struct OutgoingBody {
    body: Body,
    rest: Bytes,
    whole_by: Option<Instant>,
    request: OpenRequest,
}

impl HttpBody for OutgoingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.as_mut();
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    this.request.activity.set(this.request.id, Request::Working);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return ended,
            }
        }
        let at = match this.rest.len() {
            length if length > CHUNK_MAX => CHUNK_MAX,
            length if length > 1 && this.body.is_end_stream() => length - 1,
            length => length,
        };
        let part = this.rest.split_to(at);
        let not_taken = Request::NotTaken { since: Instant::now(), whole_by: this.whole_by };
        this.request.activity.set(this.request.id, not_taken);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let hint = self.body.size_hint();
        let mut with_rest = SizeHint::new();
        with_rest.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            with_rest.set_upper(upper.saturating_add(rest));
        }
        with_rest
    }
}

#[cfg(test)]
mod tests;
