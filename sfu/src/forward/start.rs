//! From which keyframe a viewer starts, or changes layers: one that is cached, or the next one.
//!
//! A viewer without a picture gets one at once: everything since the last keyframe where that is little, else
//! the keyframe alone as a poster until the next one comes; a [`StartMode`] may allow less. A viewer with a
//! picture jumps to another layer only where little lies between. Pure; called by `worker/replays.rs`.

use std::str::FromStr;
use std::time::{Duration, Instant};

use super::catch_up::Tail;
use crate::media::Keyframe;
use crate::units::Bitrate;

/// A keyframe of this age is replayed with all that followed, whatever that is (quality A3.3).
const FRESH: Duration = Duration::from_millis(400);

/// An older one only if what followed goes out in 300 ms at two and a half times the layer's rate: so much
/// of it, in milliseconds (quality A3.3).
const FAST_FORWARD_MS: u64 = 750;

/// Payload bytes replayed at a start, at most.
const START_BYTES_MAX: usize = 256 * 1024;

/// Payload bytes replayed at a change of layers, at most (quality A2.3).
const SWITCH_BYTES_MAX: usize = 60_000;

/// Packets looked at and replayed, at most.
pub const TAIL_PACKETS_MAX: usize = 400;

/// A picture older than this says nothing about the present.
const POSTER_AGE_MAX: Duration = Duration::from_secs(10);

/// The most that is sent of the past to a viewer without a picture. Each falls back to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartMode {
    /// Everything since the last keyframe, where that is little.
    #[default]
    FastForward,
    /// The last keyframe alone, until the next one comes.
    Poster,
    /// Nothing: the picture begins with the next keyframe.
    Wait,
}

/// A name that no [`StartMode`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be fast-forward, poster or wait")]
pub struct UnknownStartMode;

impl StartMode {
    /// The name in configuration and URLs.
    pub fn label(self) -> &'static str {
        match self {
            Self::FastForward => "fast-forward",
            Self::Poster => "poster",
            Self::Wait => "wait",
        }
    }
}

impl FromStr for StartMode {
    type Err = UnknownStartMode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::FastForward, Self::Poster, Self::Wait];
        all.into_iter().find(|mode| mode.label() == name).ok_or(UnknownStartMode)
    }
}

/// How to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Replay everything since the keyframe.
    FastForward(Tail),
    /// Replay what is here of a keyframe that came a moment ago; the rest is on its way.
    Catch,
    /// Show the keyframe alone, then wait for the next.
    Poster,
    /// Wait for the next keyframe.
    Wait,
}

/// What is known of the layer that shall flow.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// From its last keyframe to the present.
    pub tail: Option<Tail>,
    /// When that keyframe began to arrive.
    pub begun: Option<Instant>,
    /// Its last whole keyframe.
    pub keyframe: Option<&'a Keyframe>,
    /// What it carries now.
    pub bitrate: Bitrate,
}

/// How a viewer without a picture begins.
pub fn begin(now: Instant, mode: StartMode, cached: &Cached<'_>) -> Start {
    if mode == StartMode::Wait {
        return Start::Wait;
    }
    let all = mode == StartMode::FastForward;
    let age = |at: Instant| now.saturating_duration_since(at);
    let fresh = cached.begun.is_some_and(|at| age(at) <= FRESH);
    let budget = (cached.bitrate.0 / 8 * FAST_FORWARD_MS / 1_000) as usize;
    let affordable = |tail: &Tail| tail.bytes <= START_BYTES_MAX && (fresh || tail.bytes <= budget);
    // Nothing has followed the keyframe yet: it need not be a poster.
    let allowed = |tail: &Tail| affordable(tail) && (all || tail.frames == 1);
    match (cached.tail.filter(allowed), cached.keyframe) {
        (Some(tail), _) => Start::FastForward(tail),
        (None, _) if all && fresh && cached.tail.is_none() => Start::Catch,
        (None, Some(keyframe)) if age(keyframe.arrival()) <= POSTER_AGE_MAX => Start::Poster,
        _ => Start::Wait,
    }
}

/// How a viewer with a picture comes to another layer.
pub fn switch(cached: &Cached<'_>) -> Start {
    match cached.tail.filter(|tail| tail.bytes <= SWITCH_BYTES_MAX) {
        Some(tail) => Start::FastForward(tail),
        None => Start::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Cached<'_> =
        Cached { tail: None, begun: None, keyframe: None, bitrate: Bitrate(0) };

    fn tail(bytes: usize) -> Option<Tail> {
        Some(Tail { first: 1, newest: 9, frames: 3, bytes })
    }

    #[test]
    fn a_fresh_keyframe_is_replayed_and_an_old_one_where_little_followed() {
        let now = Instant::now() + Duration::from_secs(60);
        let aged = |ms, bytes| {
            let begun = Some(now - Duration::from_millis(ms));
            let cached = Cached { tail: tail(bytes), begun, bitrate: Bitrate(800_000), ..NOTHING };
            begin(now, StartMode::FastForward, &cached)
        };
        let replay = |bytes| tail(bytes).map(Start::FastForward).unwrap();
        assert_eq!(aged(400, 200_000), replay(200_000));
        assert_eq!(aged(400, START_BYTES_MAX + 1), Start::Wait, "fresh, but too much");
        assert_eq!(aged(401, 75_000), replay(75_000));
        assert_eq!(aged(401, 75_001), Start::Wait);
        let begun = Some(now - FRESH);
        let hole = Cached { begun, ..NOTHING };
        assert_eq!(begin(now, StartMode::FastForward, &hole), Start::Catch, "a packet is missing");
        assert_eq!(begin(now, StartMode::FastForward, &NOTHING), Start::Wait);
    }

    #[test]
    fn a_mode_allows_no_more_than_its_name() {
        let now = Instant::now() + FRESH;
        let with = |mode, frames| {
            let tail = Tail { first: 1, newest: 9, frames, bytes: 5_000 };
            begin(now, mode, &Cached { tail: Some(tail), begun: Some(now), ..NOTHING })
        };
        assert!(matches!(with(StartMode::FastForward, 2), Start::FastForward(_)));
        assert_eq!(with(StartMode::Poster, 2), Start::Wait, "no whole keyframe to show");
        assert!(matches!(with(StartMode::Poster, 1), Start::FastForward(_)), "it is the present");
        assert_eq!(with(StartMode::Wait, 1), Start::Wait);
        for mode in [StartMode::FastForward, StartMode::Poster, StartMode::Wait] {
            assert_eq!(mode.label().parse(), Ok(mode));
        }
        assert_eq!("Wait".parse::<StartMode>(), Err(UnknownStartMode));
    }

    #[test]
    fn a_change_of_layers_replays_less() {
        let cached = |bytes| Cached { tail: tail(bytes), ..NOTHING };
        assert_eq!(
            switch(&cached(SWITCH_BYTES_MAX)),
            tail(SWITCH_BYTES_MAX).map(Start::FastForward).unwrap()
        );
        assert_eq!(switch(&cached(SWITCH_BYTES_MAX + 1)), Start::Wait);
        assert_eq!(switch(&NOTHING), Start::Wait);
    }
}
