//! Subscriber: one viewer's subscriptions, and the packets that it is sent in each visit.
//!
//! [`Subscriber::forward`] is the inner loop of the fan-out: one visit per viewer and turn,
//! whatever number of streams has packets for it. Called by `fanout.rs`, `lifecycle.rs` and
//! `dispatch.rs` with an open [`Outbox`]. `subscription.rs` decides what is sent of one track. What
//! the API shows of a viewer is in `viewer_info.rs`.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::context::{REPORT_INTERVAL, RTCP_BYTES_MAX};
use super::outbox::Outbox;
use super::stream::LocalStream;
use super::streams::Streams;
use super::subscription::{BoundTrack, Subscription};
use super::viewer_queue::{Delivery, PacketRef};
use crate::codec::MediaKind;
use crate::error::{CloseReason, DropReason};
use crate::forward::LayerPreference;
use crate::ids::TrackIdx;
use crate::limiter::TokenBucket;
use crate::router::StreamId;
use crate::rtp::rtcp::{Rtcp, RtcpWriter};
use crate::warm::warm;

/// Interval and burst of keyframe requests of one viewer, because each keyframe costs all viewers.
/// More are dropped (`DropReason::KeyframeLimited`). Keyframes for starts are requested separately.
const KEYFRAME_REQUEST_EVERY: Duration = Duration::from_secs(3);
const KEYFRAME_REQUEST_BURST: u32 = 3;

/// Interval and burst at which a viewer's layer preferences are applied, because each change may
/// cost all viewers a keyframe. The newest preference waits for its time, and those between are
/// forgotten.
const PREFERENCE_EVERY: Duration = Duration::from_millis(200);
const PREFERENCE_BURST: u32 = 4;

/// Time from the first packet to the first sender report, so that lip sync is right early.
const FIRST_REPORT_AFTER: Duration = Duration::from_millis(50);

/// Maximum wait of a due report for packets of media: with them it costs no send call of its own.
const REPORT_WAIT_MAX: Duration = Duration::from_millis(50);

/// Canonical name in SDES: one for all senders of a session, so that players synchronise them.
const CNAME: &str = "weir";

/// One viewer. Fields that each turn needs are at the top.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscriber {
    pub(super) subscriptions: Vec<Subscription>,
    /// Subscriptions by source track; a table of its own, because each turn reads it. Inline for
    /// the viewer of one stream.
    routes: SmallVec<[Route; 2]>,
    next_report: Option<Instant>,
    connected: bool,
    /// Whether some subscription has a preference that is not applied yet.
    preferences_wait: bool,
    keyframe_limit: TokenBucket,
    preference_limit: TokenBucket,
}

/// Route of a source track to one subscription.
#[derive(Debug, Clone, Copy)]
struct Route {
    stream: StreamId,
    track: TrackIdx,
    /// Position in `Subscriber::subscriptions`.
    subscription: u8,
    /// Layer selection of the stream that was applied last; `None` before the first.
    selection: Option<NonZeroU64>,
}

impl Subscriber {
    /// A viewer that is not connected yet.
    pub(super) fn new(subscriptions: Vec<Subscription>) -> Self {
        Self {
            subscriptions,
            routes: SmallVec::new(),
            next_report: None,
            connected: false,
            preferences_wait: false,
            keyframe_limit: TokenBucket::new(KEYFRAME_REQUEST_EVERY, KEYFRAME_REQUEST_BURST),
            preference_limit: TokenBucket::new(PREFERENCE_EVERY, PREFERENCE_BURST),
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.routes.first().map(|route| route.selection), self.next_report);
        self.subscriptions.iter().for_each(Subscription::warm);
    }

    /// Reads the RTP senders of the subscriptions, and what they point to, after [`Self::warm`].
    pub(super) fn warm_senders(&self) {
        for subscription in &self.subscriptions {
            subscription.forwarder.sender().warm();
        }
    }

    /// Allows packets to be sent, once keys are known.
    pub(super) fn on_connected(&mut self) {
        self.connected = true;
    }

    /// Whether a subscription is bound to this stream.
    pub(super) fn watches(&self, stream: StreamId) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.is_of(stream))
    }

    /// Binds a subscription to another track, or to none; false if there is no such subscription.
    pub(super) fn bind(&mut self, now: Instant, index: usize, track: Option<BoundTrack>) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(index) else { return false };
        subscription.bind(now, track);
        self.routes.retain(|route| usize::from(route.subscription) != index);
        true
    }

    /// Applies a change of publisher of one stream.
    ///
    /// # Errors
    ///
    /// [`CloseReason::CodecNotNegotiated`] if the viewer's answer has the codec of no track that its
    /// offer requested, so that nothing would be sent: then only a new offer helps (whip-whep G6).
    pub(super) fn apply_source(
        &mut self,
        now: Instant,
        stream: &LocalStream,
    ) -> Result<(), CloseReason> {
        let id = stream.shared.id;
        let mut fits = true;
        self.routes.retain(|route| route.stream != id);
        for (index, subscription) in (0u8..).zip(&mut self.subscriptions) {
            if subscription.is_of(id) {
                fits &= subscription.apply_source(now, stream.source().map(|source| &**source));
                let route =
                    |track| Route { stream: id, track, subscription: index, selection: None };
                self.routes.extend(subscription.track().map(route));
            }
        }
        let carries = self.subscriptions.iter().any(|sub| sub.track().is_some());
        if fits || carries { Ok(()) } else { Err(CloseReason::CodecNotNegotiated) }
    }

    /// Sets the viewer's layer preferences, by subscription. They apply from the next packets of
    /// their streams.
    pub(super) fn set_preferences(
        &mut self,
        preferences: impl IntoIterator<Item = (u8, LayerPreference)>,
    ) {
        for (index, preference) in preferences {
            if let Some(subscription) = self.subscriptions.get_mut(usize::from(index)) {
                subscription.set_preference(preference);
                self.preferences_wait = true;
            }
        }
    }

    /// Forwards the streams' packets for this viewer in one visit, and cached packets that are due.
    pub(super) fn forward<'s>(
        &mut self,
        streams: impl Iterator<Item = &'s LocalStream> + Clone,
        delivery: Delivery,
        outbox: &mut Outbox<'_>,
    ) {
        let packets = |stream: &LocalStream| stream.viewers.packets(delivery).len();
        if !self.connected {
            outbox.count_dropped(DropReason::NotConnected, streams.map(packets).sum());
            return;
        }
        self.choose_layers(outbox.now, streams.clone());
        if !outbox.is_confirmed() {
            outbox.count_dropped(DropReason::UnconfirmedEgress, streams.map(packets).sum());
            return;
        }
        // Most viewers in most turns: only packets that arrived.
        let passthrough = self.is_passthrough();
        let sending = (!passthrough).then(|| self.sending());
        if !passthrough {
            self.send_cached(streams.clone(), delivery, outbox);
        }
        // Small packets of audio go last, of all streams together, so that they share a message.
        for audio in [false, true] {
            for stream in streams.clone() {
                for run in stream.viewers.runs(delivery, audio) {
                    self.forward_run(run, stream, delivery, outbox);
                }
            }
        }
        if !passthrough || !self.is_passthrough() {
            self.send_cached(streams.clone(), delivery, outbox);
        }
        if self.next_report.is_some_and(|at| at <= outbox.now) {
            self.send_reports(outbox);
        }
        self.expect_report(sending, outbox.now);
        self.request_keyframes(outbox.now, streams);
    }

    /// Whether packets of all subscriptions are sent as they arrive, or not at all.
    fn is_passthrough(&self) -> bool {
        self.subscriptions.iter().all(|subscription| subscription.forwarder.is_passthrough())
    }

    /// Number of subscriptions of which something is sent.
    fn sending(&self) -> usize {
        self.subscriptions.iter().filter(|s| s.forwarder.current_layer().is_some()).count()
    }

    /// Schedules an early sender report if more subscriptions are sent than `before`.
    fn expect_report(&mut self, before: Option<usize>, now: Instant) {
        if before.is_some_and(|before| self.sending() > before) {
            let soon = now + FIRST_REPORT_AFTER;
            self.next_report = Some(self.next_report.map_or(soon, |at| at.min(soon)));
        }
    }

    fn send_cached<'s>(
        &mut self,
        streams: impl Iterator<Item = &'s LocalStream>,
        delivery: Delivery,
        outbox: &mut Outbox<'_>,
    ) {
        for stream in streams {
            for_each_of(stream.shared.id, &self.routes, &mut self.subscriptions, |subscription| {
                subscription.send_cached(stream, delivery, outbox);
            });
        }
    }

    /// Forwards this turn's packets of one layer.
    fn forward_run(
        &mut self,
        run: &[PacketRef],
        stream: &LocalStream,
        delivery: Delivery,
        outbox: &mut Outbox<'_>,
    ) {
        let Some(key) = run.first().map(|packet| packet.layer) else { return };
        let (Some(cache), Some(layer)) = (stream.cache(key), stream.context(key)) else { return };
        for route in &self.routes {
            if (route.stream, route.track) == (stream.shared.id, key.track)
                && let Some(subscription) =
                    self.subscriptions.get_mut(usize::from(route.subscription))
            {
                subscription.forward_run(run, cache, layer, (stream, delivery), outbox);
            }
        }
    }

    /// Applies the best layer of each track, or the viewer's preferred one, where something
    /// changed.
    fn choose_layers<'s>(&mut self, now: Instant, streams: impl Iterator<Item = &'s LocalStream>) {
        let preferred = self.preferences_wait && self.preference_limit.take(now);
        if preferred {
            self.preferences_wait = false;
            self.subscriptions.iter_mut().for_each(Subscription::apply_preference);
            // Subscriptions whose streams have no packets now choose with their next packets.
            self.routes.iter_mut().for_each(|route| route.selection = None);
        }
        for stream in streams {
            let selection = Some(stream.selection());
            for route in self.routes.iter_mut().filter(|route| route.stream == stream.shared.id) {
                if std::mem::replace(&mut route.selection, selection) != selection
                    && let Some(subscription) =
                        self.subscriptions.get_mut(usize::from(route.subscription))
                {
                    subscription.choose_layer(now, stream);
                }
            }
        }
    }

    fn request_keyframes<'s>(
        &mut self,
        now: Instant,
        streams: impl Iterator<Item = &'s LocalStream>,
    ) {
        for stream in streams {
            for_each_of(stream.shared.id, &self.routes, &mut self.subscriptions, |subscription| {
                subscription.request_keyframes(now, stream);
            });
        }
    }

    /// Time at which [`Self::handle_timeout`] is to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let cached = self.subscriptions.iter().filter_map(|s| s.forwarder.next_timeout());
        cached.chain(self.next_report.map(|at| at + REPORT_WAIT_MAX)).min()
    }

    /// Sends cached packets that are due between two packets of their streams. Also sends due
    /// sender reports that were not sent with media.
    pub(super) fn handle_timeout(&mut self, streams: &Streams, outbox: &mut Outbox<'_>) {
        let now = outbox.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.connected
            && outbox.is_confirmed()
            && self.subscriptions.iter().any(|s| due(s.forwarder.next_timeout()))
        {
            let before = self.sending();
            for subscription in &mut self.subscriptions {
                let stream = subscription.stream().and_then(|shared| streams.get(shared.id));
                if let Some(stream) = stream {
                    // Packets that wait for joining viewers do not hold back cached packets.
                    subscription.send_cached(stream, Delivery::Immediate, outbox);
                }
            }
            self.expect_report(Some(before), now);
        }
        if due(self.next_report.map(|at| at + REPORT_WAIT_MAX)) {
            self.send_reports(outbox);
        }
    }

    /// Postpones reports that cannot be sent.
    pub(super) fn skip_reports(&mut self, now: Instant) {
        if self.next_report.is_some_and(|at| at + REPORT_WAIT_MAX <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
        }
    }

    /// Batches a sender report of each subscription. Reports are small, so that the first one ends
    /// a message of media.
    fn send_reports(&mut self, outbox: &mut Outbox<'_>) {
        let now = outbox.now;
        self.next_report = Some(now + REPORT_INTERVAL);
        let server = outbox.context.clock.ntp(now);
        for subscription in &mut self.subscriptions {
            let Some(report) = subscription.sender_report(now, server) else { continue };
            outbox.rtcp(report.ssrc, RTCP_BYTES_MAX, |buffer| {
                let mut writer = RtcpWriter::new(buffer);
                writer.sender_report(&report, &[]);
                writer.sdes_cname(report.ssrc, CNAME);
                writer.len()
            });
        }
    }

    /// Handles one decrypted RTCP compound: reports, NACKs, keyframe requests.
    pub(super) fn handle_rtcp(
        &mut self,
        compound: &[u8],
        streams: &Streams,
        outbox: &mut Outbox<'_>,
    ) {
        for packet in crate::rtp::rtcp::packets(compound) {
            let Ok(packet) = packet else {
                outbox.count_dropped(DropReason::RtcpMalformed, 1);
                return;
            };
            match packet {
                Rtcp::ReceiverReport(report) => {
                    let server = outbox.context.clock.ntp(outbox.now);
                    for block in report.blocks() {
                        if let Some(subscription) = self.by_ssrc(block.ssrc)
                            && let Err(reason) = subscription.on_report(server, &block)
                        {
                            outbox.count_dropped(reason, 1);
                        }
                    }
                }
                Rtcp::Nack(nack) => {
                    let Some(subscription) = self.nacked(nack.media_ssrc) else {
                        outbox.count_dropped(DropReason::FeedbackUnknownSsrc, 1);
                        continue;
                    };
                    let stream = subscription.stream().and_then(|shared| streams.get(shared.id));
                    let looked_up = subscription.take_nacked(outbox.now, nack.count());
                    for sequence in nack.sequences().take(looked_up) {
                        subscription.retransmit(sequence, stream, outbox);
                    }
                    outbox.count_dropped(DropReason::RepairLimited, nack.count() - looked_up);
                }
                Rtcp::Pli { media_ssrc, .. } => self.on_keyframe_request(media_ssrc, outbox),
                Rtcp::Fir(fir) => {
                    for (ssrc, _) in fir.entries() {
                        self.on_keyframe_request(ssrc, outbox);
                    }
                }
                // Feedback for the estimator, which does not exist yet; never passed on
                // (whip-whep G12).
                Rtcp::Twcc(_) | Rtcp::Remb(_) => {}
                Rtcp::SenderReport(_) | Rtcp::Bye(_) | Rtcp::Other { .. } => {}
            }
        }
    }

    fn on_keyframe_request(&mut self, ssrc: u32, outbox: &mut Outbox<'_>) {
        let Self { subscriptions, keyframe_limit, .. } = self;
        let Some(subscription) = asked_for_keyframe(subscriptions, ssrc) else {
            outbox.count_dropped(DropReason::FeedbackUnknownSsrc, 1);
            return;
        };
        subscription.keyframe_requests += 1;
        if keyframe_limit.take(outbox.now) {
            subscription.on_keyframe_request();
        } else {
            outbox.count_dropped(DropReason::KeyframeLimited, 1);
        }
    }

    /// The subscription whose packets a NACK names. Media SSRC 0 means the only one that takes
    /// NACK. The RTX SSRC means none: its own numbers could be meant.
    fn nacked(&mut self, ssrc: u32) -> Option<&mut Subscription> {
        match ssrc {
            0 => only(self.subscriptions.iter_mut().filter(|sub| sub.takes_nack())),
            _ => self.by_ssrc(ssrc),
        }
    }

    /// Round-trip time from the viewer's reports.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.subscriptions.iter().filter_map(|subscription| subscription.stats.rtt()).min()
    }

    fn by_ssrc(&mut self, ssrc: u32) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.plan.ssrc == ssrc)
    }
}

/// The video that a PLI or FIR names by its SSRC or, as some clients do, by the RTX SSRC or by 0
/// where there is only one video.
fn asked_for_keyframe(subscriptions: &mut [Subscription], ssrc: u32) -> Option<&mut Subscription> {
    let mut videos = subscriptions.iter_mut().filter(|sub| sub.plan.kind == MediaKind::Video);
    match ssrc {
        0 => only(videos),
        _ => videos.find(|sub| [sub.plan.ssrc, sub.plan.rtx_ssrc].contains(&ssrc)),
    }
}

/// The only item, if there is one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}

/// Runs `each` for the subscriptions that carry a track of this stream.
fn for_each_of(
    stream: StreamId,
    routes: &[Route],
    subscriptions: &mut [Subscription],
    mut each: impl FnMut(&mut Subscription),
) {
    for route in routes.iter().filter(|route| route.stream == stream) {
        if let Some(subscription) = subscriptions.get_mut(usize::from(route.subscription)) {
            each(subscription);
        }
    }
}
