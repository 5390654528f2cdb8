//! Limit of repeated log lines: ten per second and kind, and one line that tells how many more there were.
//!
//! A kind is a place in the code. Lines at DEBUG and TRACE are not limited: who asks for them wants all, and the
//! queue of `stderr.rs` is bounded. Called by `log.rs`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Maximum lines of one kind in one [`WINDOW`]; further ones are counted (quality B2, logs).
pub const LINES_MAX: u64 = 10;
/// Time in which lines of a kind are counted.
pub const WINDOW: Duration = Duration::from_secs(1);
/// Maximum characters of a line's text that the summary repeats.
const TEXT_MAX: usize = 120;
/// Target of the summaries, which are not limited: there is one per second and kind.
pub const TARGET: &str = "weir::repeats";

/// Layer that refuses lines above the limit. Cheap to clone; clones count the same lines. It holds one entry
/// per place in the code that logs.
#[derive(Debug, Clone, Default)]
pub struct RepeatLimit(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    kinds: HashMap<Identifier, Kind>,
    left_out: u64,
}

#[derive(Debug)]
struct Kind {
    begun: Instant,
    lines: u64,
    left_out: u64,
    /// Of the first line that was left out.
    text: String,
    metadata: &'static Metadata<'static>,
}

/// Lines of one kind that were left out and of which no line tells yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// Level of the lines.
    pub level: Level,
    /// Module that wrote them.
    pub module: &'static str,
    /// Text of the first one.
    pub text: String,
    /// How many.
    pub lines: u64,
}

impl RepeatLimit {
    /// Lines that were left out since the start.
    pub fn left_out(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).left_out
    }

    /// Summaries of the kinds whose second is over; of all kinds at the end.
    pub fn summaries(&self, now: Instant, is_end: bool) -> Vec<Summary> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |kind: &Kind| now.saturating_duration_since(kind.begun) >= WINDOW;
        let due = state.kinds.values_mut().filter(|kind| kind.left_out > 0);
        due.filter(|kind| is_end || over(kind))
            .map(|kind| Summary {
                level: *kind.metadata.level(),
                module: kind.metadata.target(),
                text: std::mem::take(&mut kind.text),
                lines: std::mem::take(&mut kind.left_out),
            })
            .collect()
    }

    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if *metadata.level() >= Level::DEBUG || metadata.target() == TARGET {
            return true;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { kinds, left_out } = &mut *state;
        let kind = kinds.entry(metadata.callsite()).or_insert_with(|| Kind {
            begun: now,
            lines: 0,
            left_out: 0,
            text: String::new(),
            metadata,
        });
        if now.saturating_duration_since(kind.begun) >= WINDOW {
            (kind.begun, kind.lines) = (now, 0);
        }
        kind.lines += 1;
        if kind.lines <= LINES_MAX {
            return true;
        }
        if kind.left_out == 0 {
            event.record(&mut Text(&mut kind.text));
        }
        kind.left_out += 1;
        *left_out += 1;
        false
    }
}

impl<S: Subscriber> Layer<S> for RepeatLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event, Instant::now())
    }
}

/// Takes the text of an event, without its fields.
struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}").chars().take(TEXT_MAX).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// Counts the events that reach it.
    #[derive(Clone, Default)]
    struct Reached(Arc<Mutex<u64>>);

    impl<S: Subscriber> Layer<S> for Reached {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock().unwrap() += 1;
        }
    }

    #[test]
    fn ten_lines_per_second_and_kind_are_written_and_the_rest_is_summed_up() {
        let (limit, reached) = (RepeatLimit::default(), Reached::default());
        let written = || std::mem::take(&mut *reached.0.lock().unwrap());
        let subscriber = tracing_subscriber::registry().with(limit.clone()).with(reached.clone());
        tracing::subscriber::with_default(subscriber, || {
            let one_kind = |n: u64| tracing::info!(n, "one of {n} lines");
            (1..=LINES_MAX).for_each(one_kind);
            assert_eq!((written(), limit.left_out()), (LINES_MAX, 0));
            (0..5).for_each(one_kind);
            assert_eq!((written(), limit.left_out()), (0, 5));
            (0..LINES_MAX).for_each(|_| tracing::warn!("another kind"));
            assert_eq!(written(), LINES_MAX);
            (0..1_000).for_each(|_| tracing::debug!("asked for"));
            assert_eq!(written(), 1_000);
            (0..1_000).for_each(|_| tracing::info!(target: TARGET, "a summary"));
            assert_eq!(written(), 1_000);
            assert_eq!(limit.summaries(Instant::now(), false), [], "the second is not over");
            let summary = Summary {
                level: Level::INFO,
                module: "weir::repeats::tests",
                text: "one of 0 lines".into(),
                lines: 5,
            };
            assert_eq!(limit.summaries(Instant::now() + WINDOW, false), [summary]);
            assert_eq!(limit.summaries(Instant::now() + WINDOW, true), []);
            for kind in limit.0.lock().unwrap().kinds.values_mut() {
                kind.begun -= WINDOW;
            }
            one_kind(1);
            assert_eq!(written(), 1, "a new second");
        });
    }
}
