//! From which keyframe a viewer starts, or changes layers: one that is cached, or the next one.
//!
//! A viewer without a picture gets one at once: everything since the last keyframe where that is little, else
//! the keyframe alone as a poster until the next one comes; a [`StartMode`] may allow less. A viewer with a
//! picture jumps to another layer only where little lies between. [`StartPolicy`] remembers what one viewer was
//! offered of one track. Pure; called by `forwarder.rs`, which sees the cache as a [`LayerCache`].

use std::str::FromStr;
use std::time::{Duration, Instant};

use super::catch_up::Tail;
use super::layer_cache::{Cached, LayerCache};
use crate::ids::LayerKey;
use crate::limiter::TokenBucket;

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
    JoinInProgress,
    /// Show the keyframe alone, then wait for the next.
    Poster,
    /// Wait for the next keyframe.
    Wait,
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
        (None, _) if all && fresh && cached.tail.is_none() => Start::JoinInProgress,
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

/// A viewer that changes layers may get cached packets this often, and so many times in a row; else it
/// waits for the next keyframe.
const SWITCH_EVERY: Duration = Duration::from_millis(500);
const SWITCH_BURST: u32 = 2;

/// Packets behind the first one of a switch that may have come before it; more than one frame's
/// disorder is none.
pub const OVERTAKEN_MAX: usize = 64;

/// The part of the cache that a viewer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPart {
    /// First packet of the keyframe.
    pub first: u64,
    /// One past the last packet to send, for a poster.
    pub end: Option<u64>,
    /// What is cached from the first packet to the present; `None` if something is missing yet.
    pub tail: Option<Tail>,
}

/// A cached keyframe, and as much of it as there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    key: LayerKey,
    begins: Option<u64>,
    whole: Option<u64>,
}

/// What one viewer was offered of one track's cached keyframes.
#[derive(Debug)]
pub struct StartPolicy {
    mode: StartMode,
    /// When the cache was first looked at for this viewer.
    since: Option<Instant>,
    /// The keyframe that was looked at last; each is looked at once.
    considered: Option<Candidate>,
    /// The keyframe that was shown as a poster: its layer and first packet.
    shown: Option<(LayerKey, u64)>,
    switches: TokenBucket,
}

impl StartPolicy {
    /// Nothing was offered yet.
    pub fn new(mode: StartMode) -> Self {
        let switches = TokenBucket::new(SWITCH_EVERY, SWITCH_BURST);
        Self { mode, since: None, considered: None, shown: None, switches }
    }

    /// Forgets what was offered: keyframes of another stream may bear the same numbers.
    pub fn forget(&mut self) {
        (self.since, self.considered, self.shown) = (None, None, None);
    }

    /// What to begin with now on this layer, if anything.
    pub fn consider<'a>(
        &mut self,
        now: Instant,
        key: LayerKey,
        has_picture: bool,
        cache: &impl LayerCache<'a>,
    ) -> Option<StartPart> {
        let keyframe = cache.keyframe(key)?;
        let whole = keyframe.whole();
        let candidate = Candidate {
            key,
            begins: keyframe.begins(),
            whole: whole.map(|keyframe| keyframe.first()),
        };
        if self.considered.replace(candidate) == Some(candidate) {
            return None;
        }
        let cached = cache.start(key, now)?;
        // What came since the viewer is here is not its past, such as a keyframe that waited for a poster to end.
        let since = *self.since.get_or_insert(now);
        let live = cached.begun.is_some_and(|at| at >= since);
        let mode = if live { StartMode::FastForward } else { self.mode };
        let comes_now = |tail: &Tail| {
            let few = tail.newest - tail.first <= OVERTAKEN_MAX as u64;
            few && cache.delivers(key, tail.first)
        };
        if cached.tail.as_ref().is_some_and(comes_now) {
            // It comes just now: nothing to catch up with.
            return None;
        }
        let how = match has_picture {
            false => begin(now, mode, &cached),
            true => match switch(&cached) {
                Start::FastForward(_) if !self.switches.take(now) => Start::Wait,
                how => how,
            },
        };
        match how {
            Start::FastForward(tail) => {
                Some(StartPart { first: tail.first, end: None, tail: Some(tail) })
            }
            Start::JoinInProgress => {
                Some(StartPart { first: candidate.begins?, end: None, tail: None })
            }
            Start::Poster => {
                let whole = whole?;
                let this = (key, whole.first());
                if self.shown.replace(this) == Some(this) {
                    return None;
                }
                let (first, end, bytes) = (whole.first(), whole.end(), whole.bytes());
                let tail = Tail { first, newest: end - 1, frames: 1, bytes };
                Some(StartPart { first, end: Some(end), tail: Some(tail) })
            }
            Start::Wait => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bitrate;

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
        assert_eq!(
            begin(now, StartMode::FastForward, &hole),
            Start::JoinInProgress,
            "a packet is missing"
        );
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
