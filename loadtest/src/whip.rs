//! HTTP requests of a session, WHIP (RFC 9725) and WHEP: one POST, one DELETE.
//!
//! Called by `session` and `full::connection`.

use std::time::Duration;

use reqwest::{StatusCode, Url, header};

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
    pub(crate) async fn post(&self, url: &str, offer: String) -> anyhow::Result<Created> {
        let request =
            self.client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offer);
        let mut response = self
            .authorized(request)
            .send()
            .await
            .map_err(|error| anyhow::anyhow!("POST failed: {}", root_cause(&error)))?;
        let (status, base) = (response.status(), response.url().clone());
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            anyhow::ensure!(
                bytes.len() <= ANSWER_BYTES_MAX,
                "the answer has more than {ANSWER_BYTES_MAX} bytes"
            );
        }
        let body = String::from_utf8_lossy(&bytes).into_owned();
        if status != StatusCode::CREATED {
            let shown: String = body.chars().take(ERROR_CHARS_MAX).collect();
            anyhow::bail!("POST answered {status} {}", shown.replace(['\r', '\n'], " ").trim());
        }
        let location =
            location.ok_or_else(|| anyhow::anyhow!("the 201 response has no Location"))?;
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

/// The innermost reason, because `connection refused` says more than `error sending request`.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}
