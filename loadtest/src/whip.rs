//! The HTTP side of a session (RFC 9725 and its WHEP sibling): one POST, one DELETE.
//!
//! Called by `session` and `full`.

use std::time::Duration;

use reqwest::{StatusCode, Url, header};

/// Nothing answers slower than this and lives.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is read.
const ANSWER_MAX: usize = 256 * 1024;

/// Characters of an error body that the report shows.
const ERROR_SHOWN: usize = 160;

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
    /// The session's own URL.
    pub(crate) session: Url,
}

impl Http {
    /// A client that sends `token` as bearer with every request.
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
    /// A sentence with the status, for the report.
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
                bytes.len() <= ANSWER_MAX,
                "the answer has more than {ANSWER_MAX} bytes"
            );
        }
        let body = String::from_utf8_lossy(&bytes).into_owned();
        if status != StatusCode::CREATED {
            let shown: String = body.chars().take(ERROR_SHOWN).collect();
            anyhow::bail!("POST answered {status} {}", shown.replace(['\r', '\n'], " ").trim());
        }
        let location = location.ok_or_else(|| anyhow::anyhow!("the 201 has no Location"))?;
        Ok(Created { answer: body, session: base.join(&location)? })
    }

    /// Ends a session. A failure is not worth a word: the server reaps it.
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

/// The innermost reason: `connection refused` says more than `error sending request`.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}
