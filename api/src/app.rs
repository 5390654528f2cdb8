//! The routes, and what happens to every request before and after its handler.
//!
//! [`app`] is what `--http` serves, [`admin_app`] what `--admin-http` serves. One front step
//! ([`front`]) opens a span, asks the door, and adds the headers that every answer carries, so that
//! no route can forget them. Knows no socket: `server.rs` serves it, tests call it directly.

use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tracing::Instrument;

use crate::door::Door;
use crate::error::Problem;
use crate::state::AppState;
use crate::{admin, cors, health, layer, metrics, pages, path, session, sse, whep, whip};

/// Everything: WHIP, WHEP, pages, admin API, metrics, health.
pub fn app(state: AppState) -> Router {
    let session_url = || {
        axum::routing::patch(session::patch)
            .delete(session::delete)
            .get(session::look)
            .options(cors::session_options)
    };
    let stats = || get(session::stats).options(cors::stats_options);
    let media = Router::new()
        .route(
            "/whip/{stream}",
            post(whip::publish).get(whip::look).options(cors::endpoint_options),
        )
        .route(
            "/whep/{stream}",
            post(whep::subscribe).get(whep::look).options(cors::endpoint_options),
        )
        .route("/whip/{stream}/{secret}", session_url())
        .route("/whep/{stream}/{secret}", session_url())
        .route("/whip/{stream}/{secret}/stats", stats())
        .route("/whep/{stream}/{secret}/stats", stats())
        .route(
            "/whep/{stream}/{secret}/layer",
            post(layer::select)
                .delete(layer::unselect)
                .get(layer::look)
                .options(cors::layer_options),
        )
        .route(
            "/whep/{stream}/{secret}/sse",
            post(sse::subscribe).get(sse::listen).options(cors::events_options),
        )
        .route(
            "/whep/{stream}/{secret}/sse/{number}",
            get(sse::resume).delete(sse::unsubscribe).options(cors::event_stream_options),
        )
        .route("/", get(pages::index))
        .route("/publish/{stream}", get(pages::publish))
        .route("/watch/{stream}", get(pages::watch))
        .route("/weir.js", get(pages::library))
        .route("/assets/{file}", get(pages::asset));
    finish(media.merge(admin_routes()), state)
}

/// Administration alone: admin API, metrics, health.
pub fn admin_app(state: AppState) -> Router {
    finish(admin_routes(), state)
}

fn admin_routes() -> Router<AppState> {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/api/v1/streams", get(admin::streams))
        .route("/api/v1/streams/{stream}", get(admin::stream))
        .route("/api/v1/sessions/{id}", get(admin::session).delete(admin::kick))
        .route("/api/v1/stats", get(admin::stats))
        .route("/api/v1/openapi.json", get(admin::openapi))
}

fn finish(routes: Router<AppState>, state: AppState) -> Router {
    routes
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            // The router adds `Allow` (whip-whep A22).
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this URL does not take this method")
        })
        .layer(middleware::from_fn_with_state(state.clone(), front))
        .with_state(state)
}

/// What a path is for decides who may use it and which headers its answers carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    /// WHIP, WHEP and the client library: open to scripts of every origin.
    Media,
    /// The pages, and every path that is nothing.
    Pages,
    /// Metrics and the admin API: never readable from another origin.
    Admin,
    /// Probes, open to all.
    Health,
}

impl Area {
    fn of(path: &str) -> Self {
        match path {
            "/livez" | "/readyz" => Self::Health,
            "/metrics" => Self::Admin,
            _ if path.starts_with("/api/") => Self::Admin,
            "/weir.js" => Self::Media,
            _ if path.starts_with("/whip/") || path.starts_with("/whep/") => Self::Media,
            _ => Self::Pages,
        }
    }
}

async fn front(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // A media thread that became ready to run on this core would else wait for the rest of our time slice, some
    // milliseconds of other requests.
    std::thread::yield_now();
    let area = Area::of(request.uri().path());
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = path::loggable(request.uri().path()),
    );
    async {
        let begun = Instant::now();
        let door = match area {
            Area::Media | Area::Pages => state.media_door,
            Area::Admin => state.admin_door,
            Area::Health => Door::Open,
        };
        let mut response = match door.check(request.uri(), request.headers()) {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if area == Area::Media {
            cors::open(headers);
        }
        let (status, elapsed) = (response.status().as_u16(), begun.elapsed());
        tracing::debug!(status, elapsed_us = elapsed.as_micros() as u64, "answered");
        response
    }
    .instrument(span)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_admin_path_is_behind_the_admin_door() {
        for path in ["/metrics", "/api/v1/streams", "/api/v1/sessions/s0", "/api/v1/openapi.json"] {
            assert_eq!(Area::of(path), Area::Admin, "{path}");
        }
        for path in ["/whip/a", "/whep/a/b/stats", "/weir.js"] {
            assert_eq!(Area::of(path), Area::Media, "{path}");
        }
        for path in ["/", "/publish/a", "/assets/weir.css", "/nothing", "/whip"] {
            assert_eq!(Area::of(path), Area::Pages, "{path}");
        }
    }
}
