//! Logs on stderr: text or one JSON object per line, with a filter that SIGHUP can change.
//!
//! Never filters content: whoever logs must not log a secret, an SDP or an address above DEBUG.
//! Never waits for stderr: `stderr.rs` writes. `repeats.rs` limits repeated lines. Called by `main.rs`;
//! `metrics.rs` shows how many lines are missing.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Deserialize;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::nearest::distance;
use crate::repeats::{self, RepeatLimit, Summary};
use crate::stderr::{Dropped, StderrQueue};

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

/// Time that the lines of the end get to be written when the process ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The process's log; none before [`Log::start`], and in tests.
static LOG: OnceLock<Log> = OnceLock::new();

/// Queue of lines, and the limit of repeated ones.
#[derive(Debug, Clone)]
pub struct Log {
    lines: StderrQueue,
    repeats: RepeatLimit,
}

/// Handle that changes the filter of a running process.
pub struct LogFilter(reload::Handle<Targets, Registry>);

impl Log {
    /// Starts the thread that writes lines; call once. Nothing else may write to stderr from then on.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> std::io::Result<Self> {
        let lines = StderrQueue::start(|lines| {
            tracing::warn!(lines, "log lines were dropped, because stderr was not read in time");
        })?;
        let log = Self { lines, repeats: RepeatLimit::default() };
        let _ = LOG.set(log.clone());
        Ok(log)
    }

    /// Starts log lines; call once. `settings.rs` has checked `filter`; a bad one logs errors only.
    pub fn init(&self, filter: &str, format: LogFormat) -> LogFilter {
        let (filter, handle) = reload::Layer::new(targets(filter));
        let queue = self.lines.clone();
        // Its own complaints would go to stderr directly.
        let lines = tracing_subscriber::fmt::layer().log_internal_errors(false);
        let lines = lines.with_writer(Lines(queue));
        let lines = match format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry().with(filter).with(self.repeats.clone()).with(lines).init();
        std::panic::set_hook(Box::new(log_panic));
        LogFilter(handle)
    }

    /// Writes text that is no log line, such as the effective configuration.
    pub fn text(&self, text: &str) {
        self.lines.push(format!("{text}\n").as_bytes());
    }

    /// Tells of repeated lines that were left out. Called each second.
    pub fn sum_up(&self) {
        self.tell(false);
    }

    /// Writes what waits, for a second at most. The process ends then.
    pub fn close(&self) {
        self.tell(true);
        self.lines.close(CLOSE_TIMEOUT);
    }

    fn tell(&self, is_end: bool) {
        for Summary { level, module, text, lines } in self.repeats.summaries(Instant::now(), is_end)
        {
            match level {
                Level::ERROR => {
                    tracing::error!(target: repeats::TARGET, module, lines, "left out, like: {text}");
                }
                Level::WARN => {
                    tracing::warn!(target: repeats::TARGET, module, lines, "left out, like: {text}");
                }
                _ => {
                    tracing::info!(target: repeats::TARGET, module, lines, "left out, like: {text}")
                }
            }
        }
    }
}

/// Log lines that were not written since the start, by reason.
pub fn lines_dropped() -> [(&'static str, u64); 3] {
    let (dropped, repeated) = LOG
        .get()
        .map_or_else(Default::default, |log| (log.lines.dropped(), log.repeats.left_out()));
    let Dropped { queue_full, write_failed } = dropped;
    [("queue_full", queue_full), ("write_failed", write_failed), ("repeated", repeated)]
}

/// Logs a panic. The standard hook writes to stderr itself, so a media thread would wait there for ever if
/// nobody read it.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("?");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => tracing::error!("thread {name} {info}\n{backtrace}"),
        _ => tracing::error!("thread {name} {info}"),
    }
}

/// Makes the writer of one line.
struct Lines(StderrQueue);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a StderrQueue;

    fn make_writer(&'a self) -> Self::Writer {
        &self.0
    }
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
/// The part that is neither a level nor `module=level`. It would stand for a module whose name
/// nobody has, and all others would fall silent.
pub(crate) fn parse_filter(filter: &str) -> Result<Targets, String> {
    let mut parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    if parts.peek().is_none() {
        return Ok(Targets::new().with_default(LevelFilter::ERROR));
    }
    parts.try_fold(Targets::new(), |targets, part| {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module.trim()), level.trim()),
            None => (None, part),
        };
        let level: LevelFilter = match level {
            "" => return Err(format!("`{part}` names no level")),
            level => level.parse().map_err(|_| format!("`{level}` is no level"))?,
        };
        let is_module = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
            !name.is_empty() && name.chars().all(fits)
        };
        match module {
            None => Ok(targets.with_default(level)),
            Some(module) if is_module(module) => match misspelled(module) {
                Some(meant) => Err(format!("there is no module `{module}`; is `{meant}` meant?")),
                None => Ok(targets.with_target(module, level)),
            },
            Some(module) => Err(format!("`{module}` is no module")),
        }
    })
}

/// Crates of this server.
const CRATES: [&str; 2] = ["weir", "weir_sfu"];

/// Crate of this server that a module is nearly, but not, named after: the filter would then have
/// no effect. Names of other crates cannot be checked.
fn misspelled(module: &str) -> Option<&'static str> {
    let name = module.split("::").next().unwrap_or(module);
    if CRATES.contains(&name) {
        return None;
    }
    // `weir-sfu` and `weir_api` too: no other crate has such a name.
    let begins = name.starts_with("weir").then_some("weir_sfu");
    CRATES.into_iter().find(|known| distance(name, known) <= 2).or(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_sets_levels_of_modules_and_one_for_all_others() {
        for filter in ["info, weir_sfu=debug", "weir_sfu=debug,info,", ",info,,weir_sfu = debug"] {
            let targets = parse_filter(filter).unwrap();
            assert!(targets.would_enable("weir_sfu::worker", &Level::DEBUG), "{filter}");
            assert!(targets.would_enable("hyper", &Level::INFO), "{filter}");
            assert!(!targets.would_enable("hyper", &Level::DEBUG), "{filter}");
        }
        for filter in ["", " , "] {
            let targets = parse_filter(filter).unwrap();
            assert!(targets.would_enable("hyper", &Level::ERROR), "{filter:?}");
            assert!(!targets.would_enable("hyper", &Level::WARN), "{filter:?}");
        }
    }

    #[test]
    fn text_that_would_silence_the_log_is_refused_and_named() {
        let cases = [
            ("debgu", "`debgu` is no level"),
            ("weir_sfu=debgu,info", "`debgu` is no level"),
            ("\"info\"", "`\"info\"` is no level"),
            ("weir_sfu=", "`weir_sfu=` names no level"),
            ("[session]=debug", "`[session]` is no module"),
            ("=debug", "`` is no module"),
            ("weir_sfuu=debug", "there is no module `weir_sfuu`; is `weir_sfu` meant?"),
            ("wier::app=debug", "there is no module `wier::app`; is `weir` meant?"),
            ("weir-sfu=debug", "there is no module `weir-sfu`; is `weir_sfu` meant?"),
        ];
        for (filter, problem) in cases {
            assert_eq!(parse_filter(filter).unwrap_err(), problem);
        }
    }

    #[test]
    fn dtls_library_logs_errors_only_unless_the_filter_names_it() {
        assert!(!targets("info").would_enable("rtc_dtls", &Level::WARN));
        assert!(targets("info,rtc_dtls=warn").would_enable("rtc_dtls", &Level::WARN));
    }
}
