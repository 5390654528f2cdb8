//! Routing of a publisher's packets to other workers: one handle per worker that has viewers.
//!
//! Reads the stream's route through a cache, and prefills a worker that gets its first viewer.
//! Knows nothing of viewers. Called by `publisher.rs` for each packet; next: `router/ring.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Cache;

use super::context::Context;
use super::stream::LocalStream;
use crate::error::DropReason;
use crate::ids::{Epoch, LayerKey};
use crate::media::Packet;
use crate::router::ring::MEDIA_RING_ITEMS;
use crate::router::{LayerInfoUpdate, MediaItem, RingPort, Route, StreamId, StreamShared};
use crate::warm::warm;

/// Interval at which keyframe requests of other workers' viewers are read; those of viewers here
/// are read at once.
const REQUEST_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum cached packets of a layer that a worker is sent with its first viewer, so that the ring
/// has space for all layers. The end of a longer group of pictures is missing there: its viewer
/// starts with the keyframe alone.
const PREFILL_PACKETS_MAX: usize = 200;

type RouteCache = Cache<RouteOf, Arc<Route>>;

/// Shared stream, from which the cache reads the route.
struct RouteOf(Arc<StreamShared>);

impl std::ops::Deref for RouteOf {
    type Target = arc_swap::ArcSwap<Route>;

    fn deref(&self) -> &Self::Target {
        &self.0.route
    }
}

/// Destinations of a publisher's packets.
pub(super) struct Routing {
    route: RouteCache,
    /// The workers that its packets were sent to.
    served: Vec<usize>,
    /// Time when keyframe requests are read next; `None` while it has no viewers on other workers.
    next_request_poll: Option<Instant>,
}

impl Routing {
    /// A publisher of this stream that has sent nothing.
    pub(super) fn new(stream: &Arc<StreamShared>) -> Self {
        let route = Cache::new(RouteOf(Arc::clone(stream)));
        Self { route, served: Vec::new(), next_request_poll: None }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.served.first().copied());
    }

    /// Time when keyframe requests are to be read next.
    pub(super) fn next_request_poll(&self) -> Option<Instant> {
        self.next_request_poll
    }

    /// Whether keyframe requests are to be read now; if so, the next time is an interval later.
    pub(super) fn take_request_poll(&mut self, now: Instant) -> bool {
        let due = self.next_request_poll.is_some_and(|at| at <= now);
        if due {
            self.next_request_poll = Some(now + REQUEST_POLL_INTERVAL);
        }
        due
    }

    /// Sends a packet to the workers that have viewers of the stream, with due layer information.
    pub(super) fn send(
        &mut self,
        now: Instant,
        layer: LayerKey,
        update: Option<LayerInfoUpdate>,
        packet: &Arc<Packet>,
        stream: &LocalStream,
        context: &mut Context,
    ) {
        let id = stream.shared.id;
        let route = self.route.load();
        if route.destinations != self.served {
            // A worker that is new in the route starts with the packets cached here.
            for &worker in route.destinations.iter().filter(|w| !self.served.contains(w)) {
                prefill(worker, stream, context);
            }
            self.served.clone_from(&route.destinations);
            let elsewhere = self.served.iter().any(|worker| *worker != context.port.index);
            self.next_request_poll = elsewhere.then_some(now);
        }
        for &worker in &route.destinations {
            if worker == context.port.index {
                continue;
            }
            if let Some(update) = update {
                context.port.send_media(worker, MediaItem::Layer { stream: id, layer, update });
            }
            let packet = Arc::clone(packet);
            let item = MediaItem::Packet { stream: id, layer, packet };
            if !context.port.send_media(worker, item) {
                context.report.dropped.count(DropReason::RingFull);
            }
        }
    }

    /// Has the other workers evict the packets that came at `until` or before; without a time, the
    /// kept keyframes. A worker whose ring is full evicts them with the next order.
    pub(super) fn evict(
        &self,
        epoch: Epoch,
        until: Option<Instant>,
        stream: StreamId,
        port: &mut RingPort,
    ) {
        let here = port.index;
        for &worker in self.served.iter().filter(|worker| **worker != here) {
            port.send_media(worker, MediaItem::Evict { stream, epoch, until });
        }
    }
}

/// Sends a worker that had no viewers of the stream the last keyframe of each layer and the packets
/// after it, and parameter sets that were received before.
fn prefill(worker: usize, stream: &LocalStream, context: &mut Context) {
    let id = stream.shared.id;
    if worker == context.port.index {
        return;
    }
    let set = |layer, ext_seq, packet: &Arc<Packet>| MediaItem::ParameterSet {
        stream: id,
        layer,
        ext_seq,
        packet: Arc::clone(packet),
    };
    let packet = |layer, packet: &Arc<Packet>| MediaItem::Prefill {
        stream: id,
        layer,
        packet: Arc::clone(packet),
    };
    let before = stream.sets_before_kept().map(|(layer, packet)| set(layer, 0, packet));
    let packets = stream.kept(PREFILL_PACKETS_MAX).map(|(layer, kept)| packet(layer, kept));
    let newest = stream.newest_sets().map(|(layer, ext_seq, packet)| set(layer, ext_seq, packet));
    for item in before.chain(packets).chain(newest) {
        // Half of the ring stays free for live packets.
        let has_space = context.port.media_room(worker) > MEDIA_RING_ITEMS / 2;
        if !has_space || !context.port.send_media(worker, item) {
            return;
        }
    }
}
