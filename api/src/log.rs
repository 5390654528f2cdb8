//! Logs on stderr: text or one JSON object per line, with a filter that SIGHUP can change.
//!
//! Never filters content: whoever logs must not log a secret, an SDP or an address above DEBUG.
//! Called by `main.rs`.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The value of `--log-format`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Handle that changes the filter of a running process.
pub struct LogFilter(reload::Handle<Targets, Registry>);

/// Starts logging; call once. `settings.rs` has checked `filter`; a bad one logs errors only.
pub fn init(filter: &str, format: LogFormat) -> LogFilter {
    let (filter, handle) = reload::Layer::new(targets(filter));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogFilter(handle)
}

impl LogFilter {
    /// Replaces the filter.
    pub fn set(&self, filter: &str) {
        if let Err(error) = self.0.reload(targets(filter)) {
            tracing::error!(%error, "the log filter cannot be changed and stays as it was");
        }
    }
}

/// The filter without warnings of the DTLS library, unless `filter` names it: it warns of every
/// extension that it does not know, several per handshake of a browser.
fn targets(filter: &str) -> Targets {
    let targets =
        parse_filter(filter).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::ERROR));
    match filter.contains("rtc_dtls") {
        true => targets,
        false => targets.with_target("rtc_dtls", LevelFilter::ERROR),
    }
}

/// Reads a filter: levels for modules and one for all others, such as `weir_sfu=debug,info`.
///
/// # Errors
///
/// What is wrong in the text.
pub(crate) fn parse_filter(filter: &str) -> Result<Targets, ParseError> {
    filter.parse()
}
