//! `/whep/{stream}/{secret}/sse`: a viewer listens (WHEP extension `core:server-sent-events`).
//!
//! GET there tells everything; POST names the events and gives an address of its own, for GET and
//! DELETE. A stream ends with its session. Each costs one task and at most one message that is not sent
//! yet: the next is written, from the newest state, when the client has taken it. What is told is
//! decided in `events.rs`.

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
use weir_sfu::ids::{Role, SessionId};
use weir_sfu::net::StatusReceiver;

use crate::cors::ACCEPT_POST;
use crate::error::Problem;
use crate::events::{Told, Wanted};
use crate::path::SessionUrl;
use crate::state::AppState;
use crate::{JSON, body};

/// Longest list of events in bytes; 413 past it.
const EVENTS_MAX: usize = 1024;
/// A comment line after so much silence, so that proxies keep the connection and we notice its end.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long is let go.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Tells nginx to pass on what it gets.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET …/sse`: every event.
///
/// # Errors
/// 404, 429 or 503 as a [`Problem`].
pub async fn listen(State(state): State<AppState>, url: SessionUrl) -> Result<Response, Problem> {
    open(&state, &url, Wanted::ALL, None)
}

/// `POST …/sse`: a JSON array of events, or nothing for all; 201 with the stream's address.
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
    let body = body::read(&parts.headers, body, EVENTS_MAX).await?;
    if !body.is_empty() && !body::is_type(&parts.headers, JSON) {
        let detail = "POST a list of events with Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with(ACCEPT_POST, HeaderValue::from_static(JSON)));
    }
    let wanted = Wanted::parse(&body).map_err(|d| Problem::new(StatusCode::BAD_REQUEST, d))?;
    let number = state.listeners.subscribe(id, wanted, |id| state.sfu.is_live(id))?;
    let base = state.live().public_url.clone().unwrap_or_default();
    let SessionUrl { stream, secret, .. } = url;
    let location = format!("{base}/whep/{stream}/{secret}/sse/{number}");
    Ok((StatusCode::CREATED, [(LOCATION, location)]).into_response())
}

/// `GET …/sse/{number}`: the events that were asked for.
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
    let (wanted, alive) = found.ok_or_else(no_stream)?;
    open(&state, &url, wanted, Some(alive))
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
    let id = state.sfu.resolve(Role::Subscriber, &url.stream, &url.secret);
    id.ok_or_else(Problem::no_session)
}

/// The same for what costs a task or an address: a client may not open and leave streams all the time.
fn admitted(state: &AppState, url: &SessionUrl) -> Result<SessionId, Problem> {
    Ok(state.sfu.rate_limited_lookup(Role::Subscriber, &url.stream, &url.secret)?)
}

fn no_stream() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such event stream: it never was here or was deleted")
}

fn open(
    state: &AppState,
    url: &SessionUrl,
    wanted: Wanted,
    alive: Option<watch::Receiver<()>>,
) -> Result<Response, Problem> {
    let seat = state.listeners.open(admitted(state, url)?)?;
    let news = state.sfu.news(&url.stream, &url.secret).ok_or_else(Problem::no_session)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        // Ends whichever comes first; what was not sent is dropped with the client or its stream.
        tokio::select! {
            () = tell(news, wanted, &sender) => {}
            () = deleted(alive) => {}
            () = sender.closed() => {}
        }
        drop(seat);
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

/// Writes until the session is over, or the client takes nothing any more.
async fn tell(mut news: StatusReceiver, wanted: Wanted, client: &mpsc::Sender<Bytes>) {
    let mut told = Told::new(wanted);
    let mut spoke = Instant::now();
    let mut again = None;
    loop {
        let keep_alive = spoke + KEEP_ALIVE;
        let wake = again.map_or(keep_alive, |at: Instant| at.min(keep_alive));
        tokio::select! {
            biased;
            more = news.changed() => if !more { return },
            () = tokio::time::sleep_until(wake) => {}
        }
        // Room first, then the words: what is written is what holds when it can be sent.
        let Ok(Ok(room)) = tokio::time::timeout(STUCK_AFTER, client.reserve()).await else {
            return;
        };
        let now = Instant::now();
        let mut text = String::new();
        if let Some(newest) = news.newest() {
            let due;
            (text, due) = told.tell(now.into_std(), &newest);
            again = due.map(Instant::from_std);
        }
        if text.is_empty() && now >= keep_alive {
            text.push_str(":\n\n");
        }
        if !text.is_empty() {
            spoke = now;
            room.send(text.into());
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
