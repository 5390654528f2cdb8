//! Parts of a WHIP or WHEP URL: role, stream name, session secret.
//!
//! The router percent-decodes a name once, and it is checked here; a bad one is 400, never 404 or
//! 500. Handlers use the types as extractors.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::StatusCode;
use axum::http::request::Parts;
use weir_sfu::ids::{Role, SessionSecret, StreamName};

use crate::error::Problem;

/// URL that names a stream: `/whip/{stream}`, `/whep/{stream}`, and those of the API and the pages.
#[derive(Debug)]
pub struct Endpoint {
    /// The stream that the URL names.
    pub stream: StreamName,
}

/// URL of a session: `/whip/{stream}/{secret}` or `/whep/{stream}/{secret}`, and the URLs below.
pub struct SessionUrl {
    /// Publisher below `/whip/`, subscriber below `/whep/`.
    pub role: Role,
    /// The stream that the URL names.
    pub stream: StreamName,
    /// Secret that gives access to the session. It must not be logged.
    pub secret: String,
}

/// First segment of the endpoint URLs of a role.
pub fn prefix(role: Role) -> &'static str {
    match role {
        Role::Publisher => "whip",
        Role::Subscriber => "whep",
    }
}

/// Session URL as an absolute path, or below `public_url` when that is set (whip-whep A5, A6).
pub fn location(
    public_url: Option<&str>,
    role: Role,
    stream: &StreamName,
    secret: &SessionSecret,
) -> String {
    // Every character that a stream name may hold is unreserved in URLs: nothing to encode.
    let base = public_url.unwrap_or("");
    format!("{base}/{}/{stream}/{}", prefix(role), secret.expose())
}

/// Part of a path that may be logged: what follows the stream name may be a secret.
pub fn loggable(path: &str) -> &str {
    match path.match_indices('/').nth(2) {
        Some((end, _)) if path.starts_with("/wh") => path.get(..end).unwrap_or("/"),
        _ => path,
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Endpoint {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (stream, _) = names(parts, state).await?;
        Ok(Self { stream })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SessionUrl {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (stream, secret) = names(parts, state).await?;
        let publishing = parts.uri.path().starts_with("/whip/");
        let role = if publishing { Role::Publisher } else { Role::Subscriber };
        Ok(Self { role, stream, secret })
    }
}

async fn names<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<(StreamName, String), Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let not_text = |_| {
        bad("the path is not UTF-8 after percent-decoding; a stream name has only the characters \
             A-Z a-z 0-9 . _ ~ -"
            .into())
    };
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(not_text)?;
    let param = |wanted| params.iter().find(|(name, _)| *name == wanted).map_or("", |(_, v)| v);
    let stream = StreamName::new(param("stream")).map_err(|error| bad(error.to_string()))?;
    Ok((stream, param("secret").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_an_absolute_path_or_below_the_public_url() {
        let stream = StreamName::new("demo").unwrap();
        let secret = SessionSecret::from_random([0; 24]);
        let at = |base| location(base, Role::Subscriber, &stream, &secret);
        let tail = format!("/whep/demo/{}", "A".repeat(32));
        assert_eq!(at(None), tail); // whip-whep A5
        assert_eq!(at(Some("https://a.example/weir")), format!("https://a.example/weir{tail}"));
    }

    #[test]
    fn secrets_are_never_logged() {
        assert_eq!(loggable("/whip/demo/secret"), "/whip/demo");
        assert_eq!(loggable("/whep/demo/secret/stats"), "/whep/demo");
        assert_eq!(loggable("/whip/demo"), "/whip/demo");
        assert_eq!(loggable("/api/v1/streams/demo"), "/api/v1/streams/demo");
    }
}
