//! Start of a viewer on a layer: at a cached keyframe, or at the next one.
//!
//! A viewer without a picture gets one at once: all packets since the last keyframe if they are
//! few, else the keyframe alone as a poster until the next one. A [`StartMode`] may allow less. A
//! viewer with a picture keeps it until the keyframe of another layer is whole. Both start at any
//! keyframe that comes while they wait, however late and large: the cache sends what came before
//! its first packet. [`StartPolicy`] remembers which cached keyframes one viewer was offered of one
//! track. Pure; called by `forwarder.rs`, which sees the cache as a [`LayerCache`].

use std::str::FromStr;
use std::time::{Duration, Instant};

use super::catch_up::Tail;
use super::layer_cache::{Cached, LayerCache};
use crate::ids::LayerKey;
use crate::limiter::TokenBucket;
use crate::media::DecoderStart;

/// Age up to which a keyframe is sent with all packets after it, at any rate (quality A3.3).
const RECENT: Duration = Duration::from_millis(400);

/// Milliseconds of the layer's rate that may follow an older keyframe: a catch-up at two and a half
/// times the rate sends them in 300 ms (quality A3.3).
const FAST_FORWARD_MS: u64 = 750;

/// Maximum payload bytes sent from the cache at a start, and at a layer switch, if the keyframe came
/// before the viewer waited for it. For a later one the packet cache is the limit.
const START_BYTES_MAX: usize = 256 * 1024;

/// Payload bytes that a layer switch sends from the cache without a pace (quality A2.3).
pub const SWITCH_BURST_BYTES: usize = 60_000;

/// Maximum packets behind a keyframe of the past that are searched and sent from the cache.
pub const TAIL_PACKETS_MAX: usize = 400;

/// Most data of the past that is sent to a viewer without a picture. Each mode falls back to the
/// next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartMode {
    /// All packets since the last keyframe, if they are few.
    #[default]
    FastForward,
    /// The last keyframe alone, until the next one comes.
    Poster,
    /// No packets of the past: the picture begins with the next keyframe.
    Wait,
}

/// Error: no [`StartMode`] has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be fast-forward, poster or wait")]
pub struct UnknownStartMode;

impl StartMode {
    /// Name in configuration and URLs.
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

/// Way in which a viewer starts on a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Send all packets since the keyframe.
    FastForward(Tail),
    /// Send the cached packets of a keyframe that is still arriving; the rest follows live.
    JoinInProgress,
    /// Send the keyframe alone, then wait for the next one.
    Poster,
    /// Wait for the next keyframe.
    Wait,
}

/// Start of a viewer without a picture at a keyframe of its past.
pub fn begin(now: Instant, mode: StartMode, cached: &Cached<'_>) -> Start {
    if mode == StartMode::Wait {
        return Start::Wait;
    }
    let all = mode == StartMode::FastForward;
    // If no frame follows the keyframe, it need not be a poster.
    let allowed = |tail: &Tail| is_affordable(now, tail, cached) && (all || tail.frames == 1);
    match (cached.tail.filter(allowed), cached.keyframe) {
        (Some(tail), _) => Start::FastForward(tail),
        (None, _) if all && is_recent(now, cached) && cached.tail.is_none() => {
            Start::JoinInProgress
        }
        // However old it is, as long as it is the newest: an encoder with a keyframe every 250 frames
        // sends none for 25 s at 10 frames per second.
        (None, Some(_)) => Start::Poster,
        (None, None) => Start::Wait,
    }
}

/// Start of a viewer with a picture on another layer, at a whole keyframe of its past.
pub fn switch(now: Instant, cached: &Cached<'_>) -> Start {
    match cached.tail.filter(|tail| is_affordable(now, tail, cached)) {
        Some(tail) => Start::FastForward(tail),
        None => Start::Wait,
    }
}

/// Whether the packets since a keyframe are few enough to be sent from the cache: the same bound
/// for starts and for layer switches.
fn is_affordable(now: Instant, tail: &Tail, cached: &Cached<'_>) -> bool {
    let budget = (cached.bitrate.0 / 8 * FAST_FORWARD_MS / 1_000) as usize;
    tail.bytes <= START_BYTES_MAX && (is_recent(now, cached) || tail.bytes <= budget)
}

fn is_recent(now: Instant, cached: &Cached<'_>) -> bool {
    cached.begun.is_some_and(|at| age(now, at) <= RECENT)
}

fn age(now: Instant, at: Instant) -> Duration {
    now.saturating_duration_since(at)
}

/// Time for which a keyframe that is arriving is waited for instead of requested: a packet that the
/// publisher does not repair is given up after 600 ms, and one that was lost between two workers is
/// repaired by nobody.
const ARRIVAL_MAX: Duration = Duration::from_millis(700);

/// Interval and burst of layer switches that may use cached packets. Above it a switch waits for
/// the next keyframe.
const SWITCH_EVERY: Duration = Duration::from_millis(500);
const SWITCH_BURST: u32 = 2;

/// The part of the cache that a viewer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPart {
    /// The keyframe.
    pub start: DecoderStart,
    /// One past the last packet to send, for a poster.
    pub end: Option<u64>,
    /// Cached packets from the first one to the present; `None` if a packet is missing yet.
    pub tail: Option<Tail>,
}

/// A cached keyframe, as complete as it was when it was considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    key: LayerKey,
    begins: Option<u64>,
    whole: Option<u64>,
    is_decided: bool,
}

/// Policy of starts for one viewer on one track, with the keyframes it was offered.
#[derive(Debug)]
pub struct StartPolicy {
    mode: StartMode,
    /// Time when the cache was first considered for this viewer.
    since: Option<Instant>,
    /// Time when the cache was first considered for the layer that is awaited now.
    awaited_since: Option<Instant>,
    /// First packet of the keyframe that is arriving and will be started with: it needs no request.
    arriving: Option<(LayerKey, u64)>,
    /// Time until which it is waited for.
    arrives_until: Option<Instant>,
    /// The keyframe that was considered last; each one is considered once.
    considered: Option<Candidate>,
    /// The keyframe that was sent as a poster: its layer and first packet.
    shown: Option<(LayerKey, u64)>,
    switches: TokenBucket,
}

impl StartPolicy {
    /// A policy that has offered no keyframe.
    pub fn new(mode: StartMode) -> Self {
        let switches = TokenBucket::new(SWITCH_EVERY, SWITCH_BURST);
        Self {
            mode,
            since: None,
            awaited_since: None,
            arriving: None,
            arrives_until: None,
            considered: None,
            shown: None,
            switches,
        }
    }

    /// Forgets which keyframes were offered: keyframes of another stream may bear the same numbers.
    pub fn forget(&mut self) {
        (self.since, self.considered, self.shown) = (None, None, None);
        self.end_wait();
    }

    /// Notes that the layer that was awaited is awaited no more, or was started with.
    pub fn end_wait(&mut self) {
        (self.awaited_since, self.arriving) = (None, None);
    }

    /// Layer and first packet of the keyframe that is arriving and will be started with, if any.
    pub fn arriving(&self) -> Option<(LayerKey, u64)> {
        self.arriving
    }

    /// The part of the cache to start with now on this layer, if any.
    pub fn consider<'a>(
        &mut self,
        now: Instant,
        key: LayerKey,
        has_picture: bool,
        cache: &impl LayerCache<'a>,
    ) -> Option<StartPart> {
        let awaited_since = *self.awaited_since.get_or_insert(now);
        let since = *self.since.get_or_insert(now);
        let keyframe = cache.keyframe(key)?;
        let (whole, start) = (keyframe.whole(), keyframe.start());
        let candidate = Candidate {
            key,
            begins: start.map(|start| start.first),
            whole: whole.map(|keyframe| keyframe.first()),
            is_decided: keyframe.is_decided(),
        };
        if self.considered.replace(candidate) == Some(candidate) {
            if self.arrives_until.is_some_and(|until| until <= now) {
                self.arriving = None;
            }
            return None;
        }
        self.arriving = None;
        self.arrives_until = Some(now + ARRIVAL_MAX);
        let start = start?;
        let begins = start.first;
        let cached = cache.start(key, now)?;
        let came_since = |since| cached.begun.is_some_and(|at| at >= since);
        let how = if has_picture {
            let awaited = came_since(awaited_since);
            if !candidate.is_decided {
                // The picture that is shown goes on until the keyframe is whole.
                let soon = awaited || is_recent(now, &cached);
                self.arriving = soon.then_some((key, begins));
                return None;
            }
            match switch(now, &cached) {
                _ if awaited => cached.tail.map_or(Start::JoinInProgress, Start::FastForward),
                Start::FastForward(_) if !self.switches.take(now) => Start::Wait,
                how => how,
            }
        } else if cache.delivers_from(key, start.key) {
            // Parameter sets before the picture may have come in an earlier delivery.
            // It is handed to this viewer anyway: there is nothing to catch up with.
            self.arriving = Some((key, begins));
            return None;
        } else if came_since(since) || keyframe.used_since().is_some_and(|at| at >= since) {
            // It came after the viewer joined and is not of its past, such as one that waited for a
            // poster to end, or whose first packet was repaired, or is repaired no more.
            cached.tail.map_or(Start::JoinInProgress, Start::FastForward)
        } else {
            begin(now, self.mode, &cached)
        };
        match how {
            Start::FastForward(tail) => Some(StartPart { start, end: None, tail: Some(tail) }),
            Start::JoinInProgress => Some(StartPart { start, end: None, tail: None }),
            Start::Poster => {
                let whole = whole?;
                let this = (key, whole.first());
                if self.shown.replace(this) == Some(this) {
                    return None;
                }
                let (first, end, bytes) = (whole.first(), whole.end(), whole.bytes());
                let tail = Tail { first, newest: end - 1, frames: 1, bytes };
                Some(StartPart { start: whole.start(), end: Some(end), tail: Some(tail) })
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
    fn recent_keyframe_starts_a_viewer_and_an_old_one_only_if_few_packets_follow() {
        let now = Instant::now() + Duration::from_secs(60);
        let aged = |ms, bytes| {
            let begun = Some(now - Duration::from_millis(ms));
            let cached = Cached { tail: tail(bytes), begun, bitrate: Bitrate(800_000), ..NOTHING };
            begin(now, StartMode::FastForward, &cached)
        };
        let fast_forward = |bytes| tail(bytes).map(Start::FastForward).unwrap();
        assert_eq!(aged(400, 200_000), fast_forward(200_000));
        assert_eq!(aged(400, START_BYTES_MAX + 1), Start::Wait, "recent, but too many bytes");
        assert_eq!(aged(401, 75_000), fast_forward(75_000));
        assert_eq!(aged(401, 75_001), Start::Wait);
        let begun = Some(now - RECENT);
        let gap = Cached { begun, ..NOTHING };
        assert_eq!(
            begin(now, StartMode::FastForward, &gap),
            Start::JoinInProgress,
            "a packet is missing"
        );
        assert_eq!(begin(now, StartMode::FastForward, &NOTHING), Start::Wait);
    }

    #[test]
    fn start_mode_limits_what_is_sent_of_the_past() {
        let now = Instant::now() + RECENT;
        let with = |mode, frames| {
            let tail = Tail { first: 1, newest: 9, frames, bytes: 5_000 };
            begin(now, mode, &Cached { tail: Some(tail), begun: Some(now), ..NOTHING })
        };
        assert!(matches!(with(StartMode::FastForward, 2), Start::FastForward(_)));
        assert_eq!(with(StartMode::Poster, 2), Start::Wait, "no whole keyframe to send");
        assert!(
            matches!(with(StartMode::Poster, 1), Start::FastForward(_)),
            "the keyframe is the present"
        );
        assert_eq!(with(StartMode::Wait, 1), Start::Wait);
        for mode in [StartMode::FastForward, StartMode::Poster, StartMode::Wait] {
            assert_eq!(mode.label().parse(), Ok(mode));
        }
        assert_eq!("Wait".parse::<StartMode>(), Err(UnknownStartMode));
    }

    #[test]
    fn layer_switch_sends_as_much_from_the_cache_as_a_start() {
        let now = Instant::now();
        let cached = |bytes, begun| Cached { tail: tail(bytes), begun, ..NOTHING };
        for bytes in [1, SWITCH_BURST_BYTES, START_BYTES_MAX] {
            let whole = tail(bytes).map(Start::FastForward).unwrap();
            assert_eq!(switch(now, &cached(bytes, Some(now))), whole);
        }
        assert_eq!(switch(now, &cached(START_BYTES_MAX + 1, Some(now))), Start::Wait);
        assert_eq!(switch(now, &cached(1, None)), Start::Wait, "more than the layer's rate allows");
        assert_eq!(switch(now, &NOTHING), Start::Wait);
    }
}
