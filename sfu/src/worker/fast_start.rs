//! A viewer begins at a cached keyframe: finds it, starts there, and is brought to the present.
//!
//! Part of `subscriber.rs`, which calls it for viewers that are not simply served packet by packet. What to do is
//! decided in `forward/start.rs` and `forward/forwarder.rs`; here is only what they need of the cache.

use std::time::{Duration, Instant};

use super::session::TokenBucket;
use super::stream::LocalStream;
use super::subscriber::{OVERTAKEN_MAX, Way};
use crate::forward::catch_up::Tail;
use crate::forward::forwarder::Beginning;
use crate::forward::start::{self, Start, StartMode};
use crate::forward::{Forwarder, Stamp};

/// A viewer that changes layers may replay cached packets so often, and so many times at once; else it
/// waits for the next keyframe.
const SWITCH_EVERY: Duration = Duration::from_millis(500);
const SWITCH_BURST: u32 = 2;

/// What is remembered of one viewer's track about cached keyframes.
#[derive(Debug)]
pub(super) struct FastStart {
    mode: StartMode,
    /// When it was first looked at what is cached for this viewer.
    since: Option<Instant>,
    /// The keyframe that was looked at last; each is looked at once.
    considered: Option<Candidate>,
    /// The keyframe that was shown as a poster: publisher epoch and first packet.
    shown: Option<(u32, u64)>,
    switches: TokenBucket,
}

/// A cached keyframe, and as much of it as there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    epoch: u32,
    layer: u8,
    begins: Option<u64>,
    whole: Option<u64>,
}

impl FastStart {
    pub(super) fn new(mode: StartMode) -> Self {
        let switches = TokenBucket::new(SWITCH_EVERY, SWITCH_BURST);
        Self { mode, since: None, considered: None, shown: None, switches }
    }

    /// Begins at a cached keyframe where that helps, and sends what is due of one.
    pub(super) fn advance(
        &mut self,
        forwarder: &mut Forwarder,
        source: u8,
        stream: &LocalStream,
        way: &mut Way<'_>,
    ) {
        let layer = forwarder.awaits_keyframe();
        if forwarder.may_begin() {
            let how = layer.and_then(|layer| self.consider(forwarder, source, layer, stream, way));
            if let Some((layer, part)) = layer.zip(how)
                && !forwarder.waits_for_frame_end(way.now, part.first)
            {
                begin(forwarder, source, layer, stream, part, way.now);
            }
        } else if let Some((first, layer)) = forwarder.handover(way.now).zip(layer) {
            let cached = stream.cached_start(source, layer, way.now);
            let tail = cached.and_then(|cached| cached.tail).filter(|tail| tail.first == first);
            let part = Part { first, end: None, tail };
            if begin(forwarder, source, layer, stream, part, way.now).is_none() {
                // It left the cache meanwhile: the next keyframe will do.
                forwarder.forget_handover();
            }
        }
        send(forwarder, source, stream, way);
    }

    /// What to begin with now, if anything; each keyframe is looked at once.
    fn consider(
        &mut self,
        forwarder: &Forwarder,
        source: u8,
        layer: u8,
        stream: &LocalStream,
        way: &Way<'_>,
    ) -> Option<Part> {
        let keyframe = stream.keyframe(source, layer)?;
        let candidate = Candidate {
            epoch: stream.epoch()?,
            layer,
            begins: keyframe.begins(),
            whole: keyframe.whole().map(|keyframe| keyframe.first()),
        };
        if self.considered.replace(candidate) == Some(candidate) {
            return None;
        }
        let cached = stream.cached_start(source, layer, way.now)?;
        // What came since the viewer is here is not its past, such as a keyframe that waited for a poster to end.
        let since = *self.since.get_or_insert(way.now);
        let live = cached.begun.is_some_and(|at| at >= since);
        let mode = if live { StartMode::FastForward } else { self.mode };
        let comes_now = |tail: &Tail| {
            let few = tail.newest - tail.first <= OVERTAKEN_MAX as u64;
            few && stream.brings(way.serving, source, layer, tail.first)
        };
        if cached.tail.as_ref().is_some_and(comes_now) {
            // It comes just now: nothing to catch up with.
            return None;
        }
        let how = match forwarder.current_layer() {
            None => start::begin(way.now, mode, &cached),
            Some(_) => match start::switch(&cached) {
                Start::FastForward(_) if !self.switches.take(way.now) => Start::Wait,
                how => how,
            },
        };
        match how {
            Start::FastForward(tail) => {
                Some(Part { first: tail.first, end: None, tail: Some(tail) })
            }
            Start::Catch => Some(Part { first: candidate.begins?, end: None, tail: None }),
            Start::Poster => {
                let whole = keyframe.whole()?;
                let this = (candidate.epoch, whole.first());
                if self.shown.replace(this) == Some(this) {
                    return None;
                }
                let (first, end, bytes) = (whole.first(), whole.end(), whole.bytes());
                let tail = Tail { first, newest: end - 1, frames: 1, bytes };
                Some(Part { first, end: Some(end), tail: Some(tail) })
            }
            Start::Wait => None,
        }
    }
}

/// What of the cache a viewer begins with; see [`Beginning`].
struct Part {
    first: u64,
    end: Option<u64>,
    tail: Option<Tail>,
}

fn begin(
    forwarder: &mut Forwarder,
    source: u8,
    layer: u8,
    stream: &LocalStream,
    part: Part,
    now: Instant,
) -> Option<()> {
    let Part { first, end, tail } = part;
    let newest = stream.ring(source, layer)?.newest();
    let newest = stream.packet(source, layer, newest).or_else(|| {
        // Nothing came lately: the picture is all there is.
        stream.keyframe(source, layer)?.whole()?.packets().last()
    });
    let beginning = Beginning {
        first: stream.packet(source, layer, first)?.meta()?,
        newest: newest?.meta()?,
        tail,
        end,
        bitrate: stream.bitrate(source, layer, now)?,
    };
    forwarder.begin(now, stream.context(source, layer)?, &beginning);
    Some(())
}

/// Sends what is due.
fn send(
    forwarder: &mut Forwarder,
    source: u8,
    stream: &LocalStream,
    way: &mut Way<'_>,
) -> Option<()> {
    let layer = forwarder.current_layer().filter(|_| forwarder.is_replaying())?;
    let (context, newest) = (stream.context(source, layer)?, stream.ring(source, layer)?.newest());
    while let Some(ext_seq) = forwarder.next_replay(way.now, newest) {
        let packet = stream.packet(source, layer, ext_seq);
        let Some((packet, meta)) = packet.and_then(|packet| Some((packet, packet.meta()?))) else {
            // On its way to us, or lost.
            forwarder.skip_replay(way.now);
            continue;
        };
        let stamp = Stamp { twcc: way.next_twcc, padded: false };
        match forwarder.replay(way.now, context, meta, stamp) {
            Ok(record) => way.emit(forwarder.sender_mut(), &record, packet),
            Err(reason) => way.context.report.dropped.count(reason),
        }
    }
    forwarder.end_replay(newest);
    Some(())
}
