//! `/whep/{stream}/{secret}/sse`: event streams of a viewer (WHEP extension
//! `core:server-sent-events`), and the same below `/whip/` for a publisher: the page of Broadcast Box
//! publishes only where the `201` has a `Link` to one.
//!
//! GET opens a stream of every event. POST selects events and creates an address for GET and
//! DELETE. A stream ends with its session. A stream costs one task and at most one unsent message:
//! the next one is written from the newest status when the client has taken the last one.
//! `events.rs` decides what is written, `listeners.rs` how many streams there may be.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weir_sfu::ids::SessionId;
use weir_sfu::net::StatusReceiver;

use crate::cors::ACCEPT_POST;
use crate::error::Problem;
use crate::events::{EventFilter, SseState};
use crate::path::SessionUrl;
use crate::state::AppState;
use crate::{JSON, body, path};

/// Maximum body of a POST in bytes; a longer one is refused with 413.
const EVENTS_MAX: usize = 1024;
/// Silence after which a comment line is sent, so that proxies keep the connection and a client
/// that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time after which the stream of a client that reads nothing is ended.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Header that switches buffering off in nginx.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET …/sse`: every event.
///
/// # Errors
/// 404, 429 or 503 as a [`Problem`].
pub async fn listen(State(state): State<AppState>, url: SessionUrl) -> Result<Response, Problem> {
    open(&state, &url, EventFilter::of(url.role), None)
}

/// `POST …/sse`: a JSON array of events, or no body for all; 201 with the stream's address.
///
/// # Errors
/// 400, 404, 408, 413, 415, 429 or 503 as a [`Problem`].
pub async fn subscribe(
    State(state): State<AppState>,
    url: SessionUrl,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let id = admitted(&state, &url)?;
    let body =
        body::read(&state.bodies, state.network(&parts), &parts.headers, body, EVENTS_MAX).await?;
    if !body.is_empty() && !body::is_type(&parts.headers, JSON) {
        let detail = "Content-Type must be application/json: POST a JSON array of event names, \
                      or no body for every event";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with(ACCEPT_POST, HeaderValue::from_static(JSON)));
    }
    let filter = EventFilter::parse(url.role, &body);
    let filter = filter.map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let number = state.listeners.subscribe(id, filter, |id| state.sfu.signalling().is_live(id))?;
    let base = state.config().public_url.clone().unwrap_or_default();
    let SessionUrl { role, stream, secret } = url;
    let location = format!("{base}/{}/{stream}/{secret}/sse/{number}", path::prefix(role));
    Ok((StatusCode::CREATED, [(LOCATION, location)]).into_response())
}

/// `GET …/sse/{number}`: the selected events.
///
/// # Errors
/// 404, 429 or 503 as a [`Problem`].
pub async fn resume(
    State(state): State<AppState>,
    url: SessionUrl,
    Path((_, _, number)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    let id = live(&state, &url)?;
    let found = number.parse().ok().and_then(|number| state.listeners.find(id, number));
    let (filter, alive) = found.ok_or_else(no_stream)?;
    open(&state, &url, filter, Some(alive))
}

/// `DELETE …/sse/{number}`: 200, and the stream ends (whip-whep E8).
///
/// # Errors
/// 404 as a [`Problem`].
pub async fn unsubscribe(
    State(state): State<AppState>,
    url: SessionUrl,
    Path((_, _, number)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let id = live(&state, &url)?;
    let removed = number.parse().is_ok_and(|number| state.listeners.remove(id, number));
    if removed { Ok(StatusCode::OK) } else { Err(no_stream()) }
}

fn live(state: &AppState, url: &SessionUrl) -> Result<SessionId, Problem> {
    let id = state.sfu.signalling().resolve(url.role, &url.stream, &url.secret);
    id.ok_or_else(Problem::no_session)
}

/// The session for requests that cost a task or an address: a client may not open and leave streams
/// all the time.
fn admitted(state: &AppState, url: &SessionUrl) -> Result<SessionId, Problem> {
    Ok(state.sfu.signalling().rate_limited_lookup(url.role, &url.stream, &url.secret)?)
}

fn no_stream() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "there is no such event stream; it was deleted, or its address is wrong",
    )
}

fn open(
    state: &AppState,
    url: &SessionUrl,
    filter: EventFilter,
    alive: Option<watch::Receiver<()>>,
) -> Result<Response, Problem> {
    let permit = state.listeners.open(admitted(state, url)?)?;
    let status = state
        .sfu
        .signalling()
        .session_status(url.role, &url.stream, &url.secret)
        .ok_or_else(Problem::no_session)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        // The first to end ends the stream; what was not sent is dropped.
        tokio::select! {
            () = send_events(status, filter, &sender) => {}
            () = deleted(alive) => {}
            () = sender.closed() => {}
        }
        drop(permit);
    });
    let headers =
        [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store"), (UNBUFFERED, "no")];
    Ok((headers, Body::new(Messages(receiver))).into_response())
}

async fn deleted(alive: Option<watch::Receiver<()>>) {
    match alive {
        Some(mut alive) => while alive.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

/// Sends events until the session ends, or until the client reads nothing for [`STUCK_AFTER`].
async fn send_events(
    mut status: StatusReceiver,
    filter: EventFilter,
    client: &mpsc::Sender<Bytes>,
) {
    let mut state = SseState::new(filter);
    let mut last_sent = Instant::now();
    let mut again = None;
    loop {
        let keep_alive = last_sent + KEEP_ALIVE;
        let wake = again.map_or(keep_alive, |at: Instant| at.min(keep_alive));
        tokio::select! {
            biased;
            more = status.changed() => if !more { return },
            () = tokio::time::sleep_until(wake) => {}
        }
        // Reserve first, then write: the text is of the moment in which it can be sent.
        let Ok(Ok(slot)) = tokio::time::timeout(STUCK_AFTER, client.reserve()).await else {
            return;
        };
        let now = Instant::now();
        let mut text = String::new();
        if let Some(newest) = status.newest() {
            let due;
            (text, due) = state.update(now.into_std(), &newest);
            again = due.map(Instant::from_std);
        }
        if text.is_empty() && now >= keep_alive {
            text.push_str(":\n\n");
        }
        if !text.is_empty() {
            last_sent = now;
            slot.send(text.into());
        }
    }
}

/// The body of an event stream.
struct Messages(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}
