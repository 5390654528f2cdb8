//! Logs on stderr: text for people or one JSON object per line, with a filter that SIGHUP can
//! change.
//!
//! No secret, SDP or address above DEBUG; that is the duty of whoever logs.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::cli::LogFormat;

/// Changes the filter of a running process.
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// Starts logging; call once. `filter` has been checked by `config.rs`; a bad one logs errors only.
pub fn init(filter: &str, format: LogFormat) -> LogFilter {
    let (filter, handle) = reload::Layer::new(env_filter(filter));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogFilter(handle)
}

impl LogFilter {
    /// Uses another filter from now on.
    pub fn set(&self, filter: &str) {
        if let Err(error) = self.0.reload(env_filter(filter)) {
            tracing::error!(%error, "the log filter stays as it was");
        }
    }
}

/// The DTLS library warns of every extension it does not know, several per handshake of a browser;
/// unless it is named in the filter, only its errors are shown.
fn env_filter(filter: &str) -> EnvFilter {
    if filter.contains("rtc_dtls") {
        EnvFilter::new(filter)
    } else {
        EnvFilter::new(format!("{filter},rtc_dtls=error"))
    }
}
