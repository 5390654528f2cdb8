//! A POSTed offer and its `201`: the part that WHIP and WHEP share.
//!
//! Checks what is cheap first (rate, media type, size), then asks the media plane. A client that
//! leaves before its `201` leaves no session behind (whip-whep A13). Never reads SDP.
//! Called by `whip.rs` and `whep.rs`. Next: [`weir_sfu::net::Signalling`].

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LINK, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use tokio::sync::oneshot;
use weir_sfu::ids::{Role, StreamName};
use weir_sfu::net::{Created, Grammar, OfferError, OfferText, Sfu, StartMode};

use crate::cors::{ACCEPT_PATCH, ACCEPT_POST};
use crate::error::Problem;
use crate::events::EventFilter;
use crate::state::AppState;
use crate::{SDP, TRICKLE, body, path};

/// Time in which the media plane must answer; then 503. OBS gives up after 8 s (whip-whep A12).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Purpose of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To publish, by WHIP.
    Publish,
    /// To watch, by WHEP; cached media is sent as the mode allows.
    Watch(StartMode),
}

impl Purpose {
    fn role(self) -> Role {
        match self {
            Self::Publish => Role::Publisher,
            Self::Watch(_) => Role::Subscriber,
        }
    }
}

/// Answers an offer: `201` with the session's URL, tag and SDP.
///
/// # Errors
/// 400, 408, 409, 413, 415, 422, 429 or 503 as a [`Problem`].
pub async fn answer(
    state: &AppState,
    purpose: Purpose,
    stream: StreamName,
    parts: Parts,
    body: Body,
) -> Result<Response, Problem> {
    let config = state.config();
    let client = state.client(&parts);
    let network = client.and_then(|client| client.network);
    if let Some(client) = client {
        tracing::debug!(client = %client.ip, "offer");
    }
    state.posts.take(network, config.post_rate, Instant::now()).map_err(|wait| {
        let detail = "this network asks for more sessions per second than --post-rate allows; \
                      try again after Retry-After";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            .retry_after(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
    })?;
    if !body::is_type(&parts.headers, SDP) {
        let detail = "Content-Type must be application/sdp: POST an SDP offer";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with(ACCEPT_POST, HeaderValue::from_static(SDP)));
    }
    let offer = body::read(&state.bodies, network, &parts.headers, body, body::SDP_MAX).await?;
    if offer.is_empty() {
        // 400 and not 406, which some players take as a counter-offer (whip-whep A10).
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is empty; POST an SDP offer"));
    }
    state.refresh_addresses();
    let grammar = if config.strict { Grammar::Strict } else { Grammar::Lenient };
    let session = tokio::time::timeout(
        ANSWER_TIMEOUT,
        create(&state.sfu, purpose, &stream, (offer, grammar), network),
    )
    .await
    .unwrap_or(Err(OfferError::Unavailable { retry_after_s: 1 }))?;
    Ok(created(state, session.keep()))
}

fn created(state: &AppState, session: NewSession) -> Response {
    let NewSession { role, stream, created, .. } = session;
    let public_url = state.config().public_url.clone();
    let location = path::location(public_url.as_deref(), role, &stream, &created.secret);
    let links = AppendHeaders(links(role, &location).map(|link| (LINK, link)));
    let headers = [
        (CONTENT_TYPE, SDP.to_owned()),
        (CACHE_CONTROL, "no-store".to_owned()),
        (LOCATION, location),
        (ETAG, created.etag),
        (ACCEPT_PATCH, TRICKLE.to_owned()),
    ];
    (StatusCode::CREATED, links, headers, created.answer).into_response()
}

/// `Link` headers of a session, one per extension (whip-whep E8, E9). Their URLs are absolute, or
/// paths from the root: naive clients do not resolve others.
fn links(role: Role, session: &str) -> impl Iterator<Item = String> + use<> {
    let events = EventFilter::of(role).names().join(",");
    let extension = |name| format!("rel=\"urn:ietf:params:whep:ext:core:{name}\"");
    let sse = format!("<{session}/sse>; {}; events=\"{events}\"", extension("server-sent-events"));
    let layer = format!("<{session}/layer>; {}", extension("layer"));
    [Some(sse), (role == Role::Subscriber).then_some(layer)].into_iter().flatten()
}

/// Asks the media plane in a task of its own. If the client has left when the answer comes, the
/// answer is dropped, which deletes the session.
async fn create(
    sfu: &Sfu,
    purpose: Purpose,
    stream: &StreamName,
    (bytes, grammar): (Bytes, Grammar),
    network: Option<IpAddr>,
) -> Result<Unclaimed, OfferError> {
    let (answered, answer) = oneshot::channel();
    let (sfu, stream) = (sfu.clone(), stream.clone());
    tokio::spawn(async move {
        let role = purpose.role();
        let offer = OfferText { bytes: &bytes, grammar };
        let created = match purpose {
            Purpose::Publish => sfu.signalling().publish(stream.clone(), offer, network).await,
            Purpose::Watch(start) => {
                sfu.signalling().subscribe(stream.clone(), offer, start, network).await
            }
        };
        let session = created
            .map(|created| Unclaimed(Some(NewSession { sfu: sfu.clone(), role, stream, created })));
        // A dropped receiver drops `session` here, which deletes it.
        let _ = answered.send(session);
    });
    answer.await.unwrap_or(Err(OfferError::Unavailable { retry_after_s: 1 }))
}

struct NewSession {
    sfu: Sfu,
    role: Role,
    stream: StreamName,
    created: Created,
}

/// Session whose client has not been answered. Dropping it deletes the session.
struct Unclaimed(Option<NewSession>);

impl Unclaimed {
    /// Hands the session over to its client, which gets its `201` now.
    fn keep(mut self) -> NewSession {
        self.0.take().expect("only keep() and drop() take it, and each consumes self")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let Some(NewSession { sfu, role, stream, created }) = self.0.take() else { return };
        tokio::spawn(async move {
            tracing::debug!(session = %created.id, %stream, "client left before its answer; session deleted");
            sfu.signalling().delete(role, &stream, created.secret.expose()).await;
        });
    }
}
