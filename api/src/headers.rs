//! What a request's headers cost in memory while the request is open, and how little of them is kept.
//!
//! An HTTP/2 client sends 16 KiB of headers in a few bytes, 32 times on one connection, and lets them wait. The
//! decoder's buffers and maps are larger still. So each request gets headers of their own size, without those
//! that nobody reads, and their sum on a connection is limited. Pure. Called by `server.rs`; `activity.rs` has
//! the sum.

use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use crate::connections::NoRoom;
use crate::error::Problem;

/// Maximum headers of a request; one with more is refused with 431, as by HTTP/1 libraries. A map of thousands of
/// empty ones takes ten times what a header block may have.
pub const FIELDS_MAX: usize = 100;
/// Bytes of memory that a header takes besides its name and value.
const ENTRY_BYTES: usize = 100;

/// Replaces headers and URL by copies that keep no buffer of the connection; returns their size in memory.
/// Cookies are left out: this server has none, and a proxy may pass on those of others.
///
/// # Errors
/// 431 for more than [`FIELDS_MAX`] headers. They are gone then.
pub fn compact(head: &mut Parts) -> Result<usize, Problem> {
    if head.headers.len() > FIELDS_MAX {
        head.headers = HeaderMap::new();
        let detail = format!("the request has more than {FIELDS_MAX} headers; leave some out");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail));
    }
    let kept = || head.headers.iter().filter(|(name, _)| *name != COOKIE);
    let mut headers = HeaderMap::with_capacity(kept().count());
    let mut bytes = 0;
    for (name, value) in kept() {
        bytes += name.as_str().len() + value.len() + ENTRY_BYTES;
        let own_name = HeaderName::from_bytes(name.as_str().as_bytes());
        let own_value = HeaderValue::from_bytes(value.as_bytes());
        // What came through the decoder is valid.
        let (Ok(name), Ok(mut own_value)) = (own_name, own_value) else { continue };
        own_value.set_sensitive(value.is_sensitive());
        headers.append(name, own_value);
    }
    head.headers = headers;
    let uri = head.uri.to_string();
    bytes += uri.len();
    if let Ok(own) = uri.parse::<Uri>() {
        head.uri = own;
    }
    Ok(bytes)
}

/// 431 for a request whose headers do not fit beside those of others of its connection; 503 for one that has no
/// memory left beside those of all others.
pub fn no_room(reason: NoRoom) -> Problem {
    match reason {
        NoRoom::Headers => {
            let detail = "the requests that wait on this connection have too many bytes of headers \
                          together; wait for their responses first";
            Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        }
        NoRoom::Memory => {
            let detail =
                "the server has as many requests as it may have in memory; try again later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    #[test]
    fn compact_headers_are_the_same_without_cookies_and_counted() {
        let request = Request::get("http://example.org/whep/a?b=%20c")
            .header("cookie", "a=b")
            .header("x-forwarded-for", "192.0.2.1")
            .header("x-forwarded-for", "192.0.2.2")
            .header("if-match", "\"tag\"");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let before = head.clone();
        let bytes = compact(&mut head).unwrap();
        assert_eq!(head.uri, before.uri);
        assert!(!head.headers.contains_key(COOKIE));
        let others = before.headers.iter().filter(|(name, _)| *name != COOKIE);
        assert!(head.headers.iter().eq(others));
        assert_eq!(bytes, 2 * (15 + 9) + 8 + 5 + 3 * ENTRY_BYTES + 32);
    }

    #[test]
    fn one_header_too_many_is_refused() {
        for (count, fits) in [(FIELDS_MAX, true), (FIELDS_MAX + 1, false)] {
            let request = (0..count)
                .fold(Request::get("/"), |request, n| request.header(format!("x-{}", n / 2), ""));
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(compact(&mut head).is_ok(), fits, "{count}");
        }
    }

    #[test]
    fn url_of_every_form_is_kept() {
        for uri in ["/", "*", "/whip/%C3%A4?x", "http://[::1]:80/a", "example.org:443"] {
            let (mut head, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
            compact(&mut head).unwrap();
            assert_eq!(head.uri.to_string(), uri.parse::<Uri>().unwrap().to_string());
        }
    }
}
