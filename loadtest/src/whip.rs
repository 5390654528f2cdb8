//! HTTP requests of a session, WHIP (RFC 9725) and WHEP: one POST, one DELETE.
//!
//! Called by `session` and `full::connection`.

use std::time::Duration;

use reqwest::{StatusCode, Url, header};

use crate::session_error::SessionError;

/// Maximum time of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum bytes of an answer. A larger answer is an error.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Maximum characters of an error body in the report.
const ERROR_CHARS_MAX: usize = 160;

/// The HTTP client that all sessions share.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    token: Option<String>,
}

/// A session the server created.
#[derive(Debug)]
pub(crate) struct Created {
    /// The SDP answer.
    pub(crate) answer: String,
    /// The URL of the session.
    pub(crate) session: Url,
}

impl Http {
    /// A client that sends `token` as bearer token with every request.
    ///
    /// # Errors
    /// If the HTTP library refuses.
    pub(crate) fn new(token: Option<String>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).no_proxy().build()?;
        Ok(Self { client, token })
    }

    /// Posts an offer.
    ///
    /// # Errors
    /// If the request failed, or if the server answered with anything but 201 and a Location.
    pub(crate) async fn post(&self, url: &str, offer: String) -> Result<Created, SessionError> {
        let request =
            self.client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offer);
        let mut response =
            self.authorized(request).send().await.map_err(|error| {
                SessionError::lost(format!("POST failed: {}", root_cause(&error)))
            })?;
        let (status, base) = (response.status(), response.url().clone());
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let seconds = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let retry_after = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let mut bytes = Vec::new();
        let cut_off = |error| SessionError::lost(format!("POST failed: {}", root_cause(&error)));
        while let Some(chunk) = response.chunk().await.map_err(cut_off)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                let reason = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(SessionError::Final(reason));
            }
        }
        let body = String::from_utf8_lossy(&bytes).into_owned();
        if status != StatusCode::CREATED {
            let shown: String = body.chars().take(ERROR_CHARS_MAX).collect();
            let shown = shown.replace(['\r', '\n'], " ");
            let reason = format!("POST answered {status} {}", shown.trim());
            return Err(match may_heal(status) {
                true => SessionError::Lost { reason, retry_after },
                false => SessionError::Final(reason),
            });
        }
        let location = location
            .ok_or_else(|| SessionError::Final("the 201 response has no Location".to_owned()))?;
        Ok(Created { answer: body, session: base.join(&location)? })
    }

    /// Deletes a session. A failure is ignored: the server ends the session after a time.
    pub(crate) async fn delete(&self, session: Url) {
        let _ = self.authorized(self.client.delete(session)).send().await;
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// Whether a later POST may succeed: the server is busy, has no such stream yet, or has another publisher of it
/// still.
fn may_heal(status: StatusCode) -> bool {
    use StatusCode as S;
    let client = [S::NOT_FOUND, S::REQUEST_TIMEOUT, S::CONFLICT, S::TOO_MANY_REQUESTS];
    client.contains(&status) || status.is_server_error()
}

/// The innermost reason, because `connection refused` says more than `error sending request`.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_may_heal_are_those_of_a_busy_server_or_of_a_stream() {
        for (status, heals) in [
            (400, false),
            (401, false),
            (403, false),
            (404, true),
            (409, true),
            (413, false),
            (422, false),
            (429, true),
            (500, true),
            (502, true),
            (503, true),
            (301, false),
        ] {
            assert_eq!(may_heal(StatusCode::from_u16(status).expect("is one")), heals, "{status}");
        }
    }
}
