//! The embedded pages: one table of files, compiled in.
//!
//! Files are served as they are in `api/pages/`. The browser reads the stream's name from its URL,
//! so nothing that a client sent is ever inserted into HTML here. Only `/watch` may be framed. Routed by `app.rs`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::access::{AccessRule, ListenerAccess};
use crate::error::Problem;
use crate::path::Endpoint;
use crate::state::AppState;

macro_rules! files {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../pages/", $name))),)* README]
    };
}

/// The README of the repository: the documentation that a server has with it.
const README: (&str, &str) = ("assets/readme.txt", include_str!("../../README.md"));

/// Every file of `api/pages/` and the README; a test finds those that are missing here.
const FILES: &[(&str, &str)] = files![
    "index.html",
    "message.html",
    "publish.html",
    "watch.html",
    "weir.js",
    "assets/index.js",
    "assets/publish.js",
    "assets/quality.js",
    "assets/testcard.js",
    "assets/ui.js",
    "assets/watch.js",
    "assets/weir.css",
    "assets/weir.svg",
];

/// The start page, and the same where the listener serves no list of streams: it neither asks for one
/// nor links what is answered 403.
static INDEX: LazyLock<[String; 2]> = LazyLock::new(|| {
    let page = include_str!("../pages/index.html");
    [page.to_owned(), page.replacen("<body>", "<body data-list=\"none\">", 1)]
});

/// `GET /`.
pub async fn index(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    let [with_list, without_list] = &*INDEX;
    let access = ListenerAccess::of_http(state.config().http, state.config().insecure_open);
    let content = match access.admin {
        AccessRule::Nobody => without_list,
        AccessRule::LoopbackOnly | AccessRule::Everyone => with_list,
    };
    framed(&state, content_response("index.html", content, &headers))
}

/// `GET /publish/{stream}/` and `GET /watch/{stream}/`: people add a slash.
pub async fn without_slash(endpoint: Endpoint, uri: Uri) -> Response {
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    // Relative, so that it holds below a path of a proxy too.
    let location = format!("../{}{query}", endpoint.stream);
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, location)]).into_response()
}

/// `GET /publish/{stream}`.
pub async fn publish(
    State(state): State<AppState>,
    _: Endpoint,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    page(&state, "publish.html", &headers)
}

/// `GET /watch/{stream}`, which other sites may frame.
pub async fn watch(
    State(state): State<AppState>,
    _: Endpoint,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut response = page(&state, "watch.html", &headers)?;
    response.headers_mut().remove(X_FRAME_OPTIONS);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy(&state, "*")?);
    Ok(response)
}

/// `GET /weir.js`: the client library, for pages of every origin.
pub async fn library(headers: HeaderMap) -> Result<Response, Problem> {
    file("weir.js", &headers)
}

/// `GET /assets/{file}`.
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    file(&format!("assets/{name}"), &headers)
}

fn page(state: &AppState, name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    framed(state, file(name, headers)?)
}

fn framed(state: &AppState, mut response: Response) -> Result<Response, Problem> {
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy(state, "'none'")?);
    response.headers_mut().insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    Ok(response)
}

/// Content security policy: no inline script or style, nothing from other origins. `blob:` is for
/// recordings that are made in the page.
pub(crate) fn policy(state: &AppState, framed_by: &str) -> Result<HeaderValue, Problem> {
    let config = state.config();
    // Session URLs are below the public URL; a policy names an origin without a path.
    let public = config.public_url.as_deref().map_or("", origin);
    let policy = format!(
        "default-src 'self'; connect-src 'self' {public}; media-src 'self' blob:; \
         img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; \
         frame-ancestors {framed_by}"
    );
    HeaderValue::from_str(&policy).map_err(|_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the setting public-url is not ASCII; correct it",
        )
    })
}

fn origin(url: &str) -> &str {
    let end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    url.get(..end).unwrap_or(url)
}

/// A file with a tag of its content: browsers ask each time and get 304 until an upgrade.
fn file(name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "the pages have no such file");
    let (_, content) = FILES.iter().find(|(known, _)| *known == name).ok_or_else(missing)?;
    Ok(content_response(name, content, headers))
}

fn content_response(name: &str, content: &'static str, headers: &HeaderMap) -> Response {
    let tag = tag(content);
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|line| {
        line.to_str()
            .is_ok_and(|line| line.split(',').any(|t| t.trim().trim_start_matches("W/") == tag))
    });
    let caching = [(CACHE_CONTROL, "no-cache".to_owned()), (ETAG, tag)];
    if known {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, media_type(name))], content).into_response()
}

fn tag(content: &str) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_in(folder: &str) -> Vec<String> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pages");
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.path().is_file());
        files.map(|entry| format!("{folder}{}", entry.file_name().to_str().unwrap())).collect()
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let mut there = files_in("");
        there.retain(|name| name != "README.md");
        there.extend(files_in("assets/"));
        there.push(README.0.to_owned());
        there.sort();
        let mut embedded: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        embedded.sort();
        assert_eq!(there, embedded);
    }

    #[test]
    fn an_origin_has_no_path() {
        assert_eq!(origin("https://a.example:8443/weir"), "https://a.example:8443");
        assert_eq!(origin("https://a.example"), "https://a.example");
    }

    #[test]
    fn a_browser_that_has_the_file_gets_304_and_every_type_is_known() {
        for (name, _) in FILES {
            let first = file(name, &HeaderMap::new()).unwrap();
            assert_ne!(media_type(name), "application/octet-stream", "{name}");
            let tag = first.headers()[ETAG].clone();
            let again = HeaderMap::from_iter([(IF_NONE_MATCH, tag)]);
            assert_eq!(file(name, &again).unwrap().status(), 304, "{name}");
        }
        assert!(file("assets/../index.html", &HeaderMap::new()).is_err());
    }
}
