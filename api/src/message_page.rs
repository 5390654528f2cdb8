//! A small page with one text: what a person who opens an address in a browser is told.
//!
//! It stands in place of problem details where a browser asks for a page, and at the addresses that are
//! meant for programs. Programs never get it. Text is escaped; a link holds nothing but a stream name.
//! Called by `app.rs`, `whip.rs` and `whep.rs`; the frame is `pages/message.html`.

use axum::body::Body;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use weir_sfu::ids::{Role, StreamName};

use crate::error::Problem;
use crate::pages;
use crate::state::AppState;

const FRAME: &str = include_str!("../pages/message.html");

/// Whether a request is that of a person who opens an address in a browser: scripts and players
/// accept anything, and name `text/html` never.
pub fn is_wanted(method: &Method, headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    *method == Method::GET && accepted.any(|line| line.contains("text/html"))
}

/// The page in place of a refusal: with its status and headers, and with its text.
pub fn in_place_of(state: &AppState, path: &str, refusal: Response, detail: &str) -> Response {
    let (mut parts, _) = refusal.into_parts();
    let title = match parts.status {
        StatusCode::NOT_FOUND => "There is nothing here",
        StatusCode::BAD_REQUEST => "This address cannot be right",
        StatusCode::FORBIDDEN => "Not served here",
        status => status.canonical_reason().unwrap_or("Error"),
    };
    match page(state, title, detail, named_stream(path).as_ref()) {
        Ok(page) => {
            let (headers, body) = page.into_parts();
            parts.headers.remove(CONTENT_LENGTH);
            parts.headers.extend(headers.headers);
            Response::from_parts(parts, body)
        }
        Err(problem) => problem.into_response(),
    }
}

/// The page at the WHIP or WHEP address of a stream.
///
/// # Errors
/// 500 as a [`Problem`] for a setting that no header can hold.
pub fn of_endpoint(state: &AppState, role: Role, stream: &StreamName) -> Result<Response, Problem> {
    let (title, text) = match role {
        Role::Publisher => (
            "This address is for programs that publish",
            "It is the WHIP address of a stream: enter it as the server in OBS, FFmpeg or GStreamer.",
        ),
        Role::Subscriber => (
            "This address is for players",
            "It is the WHEP address of a stream: a player posts its offer here.",
        ),
    };
    page(state, title, text, Some(stream))
}

fn page(
    state: &AppState,
    title: &str,
    text: &str,
    stream: Option<&StreamName>,
) -> Result<Response, Problem> {
    let links = stream.map_or_else(String::new, |stream| {
        format!(
            "<a class=\"button primary\" href=\"/watch/{stream}\">Watch {stream}</a>\
             <a class=\"button\" href=\"/publish/{stream}\">Publish {stream}</a>"
        )
    });
    let mut page = String::with_capacity(FRAME.len() + text.len() + links.len());
    let mut rest = FRAME;
    // One pass, so that a text which holds a mark is not taken for one.
    while let Some((before, mark)) = rest.split_once('{') {
        let (mark, after) = mark.split_once('}').unwrap_or((mark, ""));
        page.push_str(before);
        page.push_str(&match mark {
            "title" => escaped(title),
            "text" => escaped(&sentence(text)),
            _ => links.clone(),
        });
        rest = after;
    }
    page.push_str(rest);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_SECURITY_POLICY, pages::policy(state, "'none'")?),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    Ok((headers, Body::from(page)).into_response())
}

/// The stream of `/NAME` and of `/NAME/`; none where a person meant something else.
fn named_stream(path: &str) -> Option<StreamName> {
    let name = path.strip_prefix('/')?;
    let name = name.strip_suffix('/').unwrap_or(name);
    let is_page = matches!(name, "watch" | "publish" | "whip" | "whep" | "api" | "metrics");
    StreamName::new(name).ok().filter(|_| !is_page && !name.contains('.'))
}

/// Problem details begin in lower case and have no full stop.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at_checked(1).unwrap_or(("", text));
    let stop = if text.ends_with('.') { "" } else { "." };
    format!("{}{rest}{stop}", first.to_ascii_uppercase())
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_that_opens_an_address_is_told_from_scripts_and_players() {
        let wanted = |method, accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            is_wanted(&method, &headers)
        };
        assert!(wanted(Method::GET, "text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(!wanted(Method::GET, "*/*"));
        assert!(!wanted(Method::POST, "text/html"));
        assert!(!is_wanted(&Method::GET, &HeaderMap::new()));
    }

    #[test]
    fn text_of_a_refusal_is_a_sentence_on_a_page() {
        assert_eq!(sentence("there is no such session"), "There is no such session.");
        assert_eq!(sentence("It is so."), "It is so.");
        assert_eq!((sentence("é"), sentence("")), ("é.".into(), ".".into()));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
    }

    #[test]
    fn a_lone_segment_is_the_name_of_a_stream_unless_it_is_a_page_or_a_file() {
        let named = |path| named_stream(path).map(|name| name.to_string());
        assert_eq!(named("/demo").as_deref(), Some("demo"));
        assert_eq!(named("/demo/").as_deref(), Some("demo"));
        for path in ["/", "/watch", "/publish/", "/favicon.ico", "/a/b", "/a%20b"] {
            assert_eq!(named(path), None, "{path}");
        }
    }
}
