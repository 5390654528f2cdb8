//! The routes of both listeners, by route group, and what every request gets before its handler.
//!
//! [`app`] is what `--http` serves, [`admin_app`] is what `--admin-http` serves. A route exists
//! only inside a [`RouteGroup`], and its group decides who may use it and whether other origins may
//! read it, so no route can be left without an access rule. Never opens a socket: `server.rs` does.
//! Next: `access.rs` for the rules, then the handler's own file.

use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, patch, post};
use tracing::Instrument;

use crate::access::{self, AccessRule, ListenerAccess};
use crate::error::Problem;
use crate::other_url::{self, Meant};
use crate::refused_offers::RefusalText;
use crate::state::AppState;
use crate::{
    admin, cors, health, layer, message_page, metrics, pages, path, refused_offers, session, sse,
    whep, whip,
};

/// Everything: WHIP, WHEP, pages, admin API, metrics, health.
pub fn app(state: AppState, access: ListenerAccess) -> Router {
    router(&RouteGroup::ALL, state, access)
}

/// Administration alone: admin API, metrics, health.
pub fn admin_app(state: AppState, access: ListenerAccess) -> Router {
    router(&[RouteGroup::Admin, RouteGroup::Health], state, access)
}

/// Routes that share an access rule and the rules for other origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteGroup {
    /// WHIP, WHEP and the client library: readable by scripts of every origin.
    Media,
    /// The pages and their files.
    Pages,
    /// Metrics and the admin API: never readable from another origin.
    Admin,
    /// Probes: served to everyone.
    Health,
}

type Routes = Vec<(&'static str, MethodRouter<AppState>)>;

impl RouteGroup {
    /// Every group, in the order in which the router takes them.
    pub const ALL: [Self; 4] = [Self::Media, Self::Pages, Self::Admin, Self::Health];

    /// The paths of the group, as the router and `openapi.json` write them.
    pub fn paths(self) -> Vec<&'static str> {
        self.routes().into_iter().map(|(path, _)| path).collect()
    }

    fn routes(self) -> Routes {
        match self {
            Self::Media => media_routes(),
            Self::Pages => vec![
                ("/", get(pages::index)),
                ("/publish/{stream}", get(pages::publish)),
                ("/watch/{stream}", get(pages::watch)),
                ("/assets/{file}", get(pages::asset)),
            ],
            Self::Admin => vec![
                ("/metrics", get(metrics::metrics)),
                ("/api/v1/streams", get(admin::streams)),
                ("/api/v1/streams/{stream}", get(admin::stream)),
                ("/api/v1/sessions/{id}", get(admin::session).delete(admin::kick)),
                ("/api/v1/stats", get(admin::stats)),
                ("/api/v1/openapi.json", get(admin::openapi)),
            ],
            Self::Health => {
                vec![("/livez", get(health::livez)), ("/readyz", get(health::readyz))]
            }
        }
    }

    /// Paths that have no handler and belong to the group all the same: their 404 follows its
    /// rules. A script that misspells a session URL can read the 404 (whip-whep A34).
    fn unknown_paths(self) -> &'static [&'static str] {
        match self {
            Self::Media => &[
                "/whip",
                "/whep",
                "/whip/",
                "/whep/",
                "/whip/{stream}/{secret}/{*rest}",
                "/whep/{stream}/{secret}/{*rest}",
            ],
            Self::Admin => &["/api/", "/api/{*rest}"],
            Self::Pages | Self::Health => &[],
        }
    }

    fn rule(self, access: ListenerAccess) -> AccessRule {
        match self {
            Self::Media | Self::Pages => access.media,
            Self::Admin => access.admin,
            Self::Health => AccessRule::Everyone,
        }
    }

    fn router(self, access: ListenerAccess, state: &AppState) -> Router<AppState> {
        let gate = (self.rule(access), state.clone());
        let mut router = Router::new();
        for (path, handlers) in self.routes() {
            // People and players add a slash; it means nothing else (whip-whep A37).
            if self == Self::Media && path.starts_with("/wh") {
                router = router.route(&format!("{path}/"), handlers.clone());
            }
            if self == Self::Pages && path.ends_with("/{stream}") {
                router = router.route(&format!("{path}/"), get(pages::without_slash));
            }
            router = router.route(path, handlers);
        }
        for path in self.unknown_paths() {
            router = match self {
                Self::Media => router.route(path, any(no_such_media)),
                Self::Pages | Self::Admin | Self::Health => router.route(path, any(not_found)),
            };
        }
        // The refusals of the router itself come after the access rule too, so it is added last.
        let router = router
            .method_not_allowed_fallback(method_not_allowed)
            .route_layer(middleware::from_fn_with_state(gate, access::enforce));
        match self {
            Self::Media => router.route_layer(middleware::map_response(cors::open)),
            Self::Pages | Self::Admin | Self::Health => router,
        }
    }
}

fn media_routes() -> Routes {
    let session_url = || {
        patch(session::patch)
            .delete(session::delete)
            .get(session::look)
            .options(cors::session_options)
    };
    let events = || post(sse::subscribe).get(sse::listen).options(cors::events_options);
    let event_stream =
        || get(sse::resume).delete(sse::unsubscribe).options(cors::event_stream_options);
    let stats = || get(session::stats).options(cors::stats_options);
    vec![
        ("/whip/{stream}", post(whip::publish).get(whip::look).options(cors::endpoint_options)),
        ("/whep/{stream}", post(whep::subscribe).get(whep::look).options(cors::endpoint_options)),
        ("/whip/{stream}/{secret}", session_url()),
        ("/whep/{stream}/{secret}", session_url()),
        ("/whip/{stream}/{secret}/stats", stats()),
        ("/whep/{stream}/{secret}/stats", stats()),
        (
            "/whep/{stream}/{secret}/layer",
            post(layer::select)
                .delete(layer::unselect)
                .get(layer::look)
                .options(cors::layer_options),
        ),
        ("/whip/{stream}/{secret}/sse", events()),
        ("/whep/{stream}/{secret}/sse", events()),
        ("/whip/{stream}/{secret}/sse/{number}", event_stream()),
        ("/whep/{stream}/{secret}/sse/{number}", event_stream()),
        ("/weir.js", get(pages::library)),
    ]
}

fn router(groups: &[RouteGroup], state: AppState, access: ListenerAccess) -> Router {
    // A path that belongs to no group follows the rule of the listener's first group.
    let rule = groups.first().map_or(AccessRule::Nobody, |group| group.rule(access));
    let enforce = middleware::from_fn_with_state((rule, state.clone()), access::enforce);
    let router = groups
        .iter()
        .fold(Router::new(), |router, group| router.merge(group.router(access, &state)));
    let router = match groups.contains(&RouteGroup::Media) {
        true => router.fallback(unknown_path.layer(enforce)),
        false => router.fallback(not_found.layer(enforce)),
    };
    router.layer(middleware::from_fn_with_state(state.clone(), front)).with_state(state)
}

/// 404. If the path has the form of another server's, the text names the right one.
async fn not_found(State(state): State<AppState>, request: Request) -> Problem {
    let path = request.uri().path();
    let slashes = other_url::advice_on_slashes(path);
    if let Some(advice) = slashes.filter(|_| *request.method() == Method::POST) {
        return Problem::new(StatusCode::NOT_FOUND, advice);
    }
    let detail = match Meant::of(path, request.uri().query()) {
        Some(meant) => meant.advice(state.config().public_url.as_deref()),
        None => other_url::advice_for_people(path),
    };
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// The same where scripts of other origins may read it: their preflight is answered, without which
/// a browser does not send the request.
async fn no_such_media(state: State<AppState>, request: Request) -> Response {
    match *request.method() {
        Method::OPTIONS => cors::endpoint_options(request.headers().clone()).await,
        _ => not_found(state, request).await.into_response(),
    }
}

/// A path of no group, at a listener that serves media.
async fn unknown_path(state: State<AppState>, request: Request) -> Response {
    match Meant::of(request.uri().path(), None) {
        Some(_) => cors::open(no_such_media(state, request).await).await,
        None => not_found(state, request).await.into_response(),
    }
}

async fn method_not_allowed(request: Request) -> Problem {
    // The router adds `Allow` (whip-whep A22).
    let posted = *request.method() == Method::POST;
    let advice = other_url::advice_on_slashes(request.uri().path()).filter(|_| posted);
    let detail = advice.unwrap_or_else(|| {
        "this URL does not take this method; see the Allow header for those it takes".into()
    });
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Outermost step of every request: its span, and the headers that every response carries.
async fn front(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // A media thread that became ready to run on this core would otherwise wait for the rest of our
    // time slice, some milliseconds of other requests.
    std::thread::yield_now();
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = path::loggable(request.uri().path()),
    );
    let is_offer =
        refused_offers::is_offer(request.method(), request.uri().path(), request.headers());
    let wants_page = message_page::is_wanted(request.method(), request.headers());
    let path = (is_offer || wants_page).then(|| request.uri().path().to_owned());
    let mut response = async {
        let begun = Instant::now();
        let mut response = next.run(request).await;
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        let (status, elapsed) = (response.status().as_u16(), begun.elapsed());
        tracing::debug!(status, elapsed_us = elapsed.as_micros() as u64, "answered");
        response
    }
    .instrument(span)
    .await;
    let text = response.extensions_mut().remove::<RefusalText>();
    // Outside the span, which holds the whole path.
    let (Some(path), Some(RefusalText(detail))) = (path, text) else { return response };
    if is_offer {
        state.refused.note(&path, response.status(), &detail);
    }
    if wants_page { message_page::in_place_of(&state, &path, response, &detail) } else { response }
}
