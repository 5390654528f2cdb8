//! Layer filter of one stream: leaves out upper temporal and spatial layers, at legal points only.
//!
//! Knows dependencies as packets report them, and nothing of codecs. A lower cap applies from the
//! next picture. More frames are sent again where a frame allows it. A larger picture is sent again
//! at a keyframe, or where the dependency descriptor allows it. Never renumbers (`rtp_sender.rs`
//! closes the gaps), never chooses the cap. Called by `forwarder.rs` for packets of the layer that
//! is or was sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ids::LayerKey;
use crate::media::PacketMeta;
use crate::rtp::layer_set::TEMPORAL_LAYERS_MAX;
use crate::rtp::unit_parts::UnitParts;

/// The highest layers that may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCap {
    /// Temporal id; 0 leaves the base frame rate. Frames that no frame refers to count as layer 1
    /// where the stream has no ids.
    pub temporal: u8,
    /// Spatial id within one stream; 0 leaves the smallest picture.
    pub spatial: u8,
}

impl LayerCap {
    /// A cap that leaves out nothing.
    pub const OPEN: Self = Self { temporal: u8::MAX, spatial: u8::MAX };
}

/// Decision on one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterDecision {
    /// The packet is sent with this marker bit. The last packet of a picture that is sent has it.
    Keep {
        /// The marker bit to write.
        marker: bool,
    },
    /// The packet is left out with all of its frame, and the numbers close over it.
    Drop,
}

/// Changes of the level that are remembered for late packets. At the limit the oldest change is
/// forgotten, and late packets from before it are left out.
const CHANGES_MAX: usize = 32;

/// Packets after the last one that was left out, until no late packet from before can be numbered
/// any more. An RTP sender remembers so many of its numbers.
const REOPENS_AFTER: u64 = 1024;

/// Time for which allowed frames are left out before a keyframe is requested. Encoders that mark no
/// switching points send no keyframes by themselves, and browsers send keyframes only on request.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Pictures kept in a row after which a cap counts as one without effect. Encoders put at most 16
/// B-frames between two others, and layers in use repeat within 8 frames.
const IN_VAIN_AFTER: u32 = 30;

/// Layer filter of one viewer and track.
#[derive(Debug)]
#[repr(C)]
pub struct LayerFilter {
    cap: LayerCap,
    /// Layers of the newest picture that are sent.
    level: LayerCap,
    /// Epoch and layer of the stream that is sent.
    source: Option<LayerKey>,
    /// The highest number seen of the stream; not updated while open.
    newest: u64,
    /// The packet with which the stream that is sent began. It is kept whatever it holds: numbers
    /// continue from it.
    first: u64,
    /// The highest number of the stream that was left out.
    left_out: u64,
    /// Timestamp and marker of the newest packet, if it was seen here.
    tail: Option<(u32, bool)>,
    /// Time since which allowed frames are left out, because no switching point came.
    waits_since: Option<Instant>,
    /// Pictures since the last one that was left out, or since the cap was set.
    kept: u32,
    /// Whether a packet of the newest picture was kept. Its delimiter is not.
    keeps_picture: bool,
    /// Changes of the level, oldest first; empty while open.
    changes: VecDeque<Change>,
    /// Whether nothing is left out, and nothing was left out recently. Last, next to what each
    /// packet needs of a `Forwarder`.
    open: bool,
}

/// Change of the level: from packet `first` of this stream on, `level` is sent.
#[derive(Debug, Clone, Copy)]
struct Change {
    source: Option<LayerKey>,
    first: u64,
    level: LayerCap,
}

impl Default for LayerFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerFilter {
    /// A filter that leaves out nothing.
    pub fn new() -> Self {
        Self {
            cap: LayerCap::OPEN,
            level: LayerCap::OPEN,
            source: None,
            newest: 0,
            first: 0,
            left_out: 0,
            tail: None,
            waits_since: None,
            kept: 0,
            keeps_picture: true,
            changes: VecDeque::new(),
            open: true,
        }
    }

    /// Whether every packet passes unchanged, so that [`Self::decide`] need not be called.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The highest layers that may be sent, as set.
    pub fn cap(&self) -> LayerCap {
        self.cap
    }

    /// Layers of the newest picture that are sent: more than the cap until the next picture, less
    /// until a legal point.
    pub fn level(&self) -> LayerCap {
        self.level
    }

    /// Whether a cap is set, and the stream has had nothing above it for long.
    pub fn leaves_out_nothing(&self) -> bool {
        self.cap != LayerCap::OPEN && self.kept > IN_VAIN_AFTER
    }

    /// Sets the highest layers that may be sent. A lower cap applies from the next picture, a
    /// higher one from the next legal point. `newest` is the highest number of the stream that was
    /// sent so far: a packet with a lower number is late.
    pub fn set(&mut self, cap: LayerCap, newest: u64) {
        self.cap = cap;
        self.waits_since = None;
        (self.kept, self.keeps_picture) = (0, true);
        if self.open && cap != LayerCap::OPEN {
            self.open = false;
            (self.newest, self.tail) = (newest, None);
            self.changes.reserve(CHANGES_MAX);
            // All packets up to here were sent.
            self.remember(0);
        }
    }

    /// Begins at this packet, the first of a keyframe of this stream (a start, a switch, or a jump
    /// of its numbers). All layers within the cap are sent from here.
    pub fn begin(&mut self, key: LayerKey, meta: &PacketMeta) {
        self.source = Some(key);
        self.level = self.cap;
        self.waits_since = None;
        self.newest = meta.ext_seq.saturating_sub(1);
        self.first = meta.ext_seq;
        self.left_out = 0;
        self.tail = Some((meta.timestamp, true));
        if !self.open {
            self.remember(meta.ext_seq);
        }
    }

    /// Forgets the streams that were sent: packets of another publisher may bear the same numbers.
    pub fn forget(&mut self) {
        self.source = None;
        self.changes.clear();
        self.waits_since = None;
    }

    /// Whether a keyframe should be requested, because no frame allows more layers. It is
    /// reported again after [`STUCK_AFTER`].
    pub fn take_stuck(&mut self, now: Instant) -> bool {
        let waited = |since: Instant| now.saturating_duration_since(since);
        let stuck = self.waits_since.is_some_and(|since| waited(since) >= STUCK_AFTER);
        if stuck {
            self.waits_since = Some(now);
        }
        stuck
    }

    /// Decides on a packet of the stream that is sent, or on a late one of a stream that was sent.
    pub fn decide(&mut self, key: LayerKey, meta: &PacketMeta) -> FilterDecision {
        if self.open {
            return FilterDecision::Keep { marker: meta.marker };
        }
        if self.source == Some(key) {
            self.advance(meta);
        }
        let Some(level) = self.level_at(key, meta.ext_seq) else {
            return FilterDecision::Drop;
        };
        let begins = self.source == Some(key) && meta.ext_seq == self.first;
        if !is_within(meta, level) && !begins {
            if self.source == Some(key) {
                self.left_out = self.left_out.max(meta.ext_seq);
                if is_within(meta, self.cap) {
                    self.waits_since.get_or_insert(meta.arrival);
                }
            }
            return FilterDecision::Drop;
        }
        self.keeps_picture = true;
        let (_, spatial) = layers(meta);
        let last = meta.frame.ends_frame && spatial == level.spatial;
        FilterDecision::Keep { marker: meta.marker || last }
    }

    /// Changes the level, if this packet is a legal point for it.
    fn advance(&mut self, meta: &PacketMeta) {
        if meta.ext_seq <= self.newest {
            return;
        }
        let begins_picture = self.begins_picture(meta);
        if begins_picture {
            self.kept = if self.keeps_picture { self.kept.saturating_add(1) } else { 0 };
            self.keeps_picture = false;
        }
        let level = self.next_level(meta, begins_picture);
        self.newest = meta.ext_seq;
        self.tail = Some((meta.timestamp, meta.marker));
        if level != self.level {
            self.level = level;
            self.waits_since = None;
            self.remember(meta.ext_seq);
        } else if self.cap == LayerCap::OPEN {
            // Either all layers may be sent, or there is none above those that are sent.
            let since = self.changes.back().map_or(0, |change| change.first).max(self.left_out);
            if meta.ext_seq.saturating_sub(since) > REOPENS_AFTER {
                (self.open, self.level) = (true, LayerCap::OPEN);
                self.changes.clear();
            }
        }
    }

    /// Whether a picture certainly begins here: the frame says so, or no packet is missing since
    /// the last picture.
    fn begins_picture(&self, meta: &PacketMeta) -> bool {
        meta.frame.starts_frame
            || self.tail.is_some_and(|(timestamp, marker)| {
                meta.ext_seq == self.newest + 1 && (marker || timestamp != meta.timestamp)
            })
    }

    fn next_level(&self, meta: &PacketMeta, begins_picture: bool) -> LayerCap {
        let frame = &meta.frame;
        let mut level = self.level;
        // Parameter sets in a packet of their own begin the picture; its first slice comes behind them.
        let is_first_slice = frame.parts.contains(UnitParts::FIRST_SLICE);
        if frame.keyframe && (begins_picture || is_first_slice) {
            return self.cap;
        }
        if begins_picture {
            level.temporal = level.temporal.min(self.cap.temporal);
            level.spatial = level.spatial.min(self.cap.spatial);
        }
        let higher =
            |now: u8, cap: u8| (now.saturating_add(1)..=cap.min(TEMPORAL_LAYERS_MAX)).rev();
        if is_within(meta, level) {
            if begins_picture
                && let Some(spatial) = higher(level.spatial, self.cap.spatial)
                    .find(|spatial| frame.opens.contains(*spatial, level.temporal))
            {
                level.spatial = top(spatial, self.cap.spatial);
            }
            if let Some(temporal) = higher(level.temporal, self.cap.temporal)
                .find(|temporal| frame.opens.contains(level.spatial, *temporal))
            {
                level.temporal = top(temporal, self.cap.temporal);
            }
        } else if begins_picture && layers(meta).0 == level.temporal.saturating_add(1) {
            let above = layers(meta).0;
            let allowed = above <= self.cap.temporal && layers(meta).1 <= level.spatial;
            if allowed && frame.temporal_id.is_none() {
                // Frames that no frame refers to: there is no layer above them.
                level.temporal = self.cap.temporal;
            } else if allowed && frame.switch_point {
                level.temporal = above;
            }
        }
        level
    }

    fn remember(&mut self, first: u64) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { source: self.source, first, level: self.level });
    }

    /// The level that was sent of a stream at this number.
    fn level_at(&self, key: LayerKey, ext_seq: u64) -> Option<LayerCap> {
        let mut changes = self.changes.iter().rev().filter(|change| change.source == Some(key));
        let newest = changes.next();
        if newest.is_none() {
            // The stream was sent before any packet was left out.
            return Some(LayerCap::OPEN);
        }
        let at = newest.into_iter().chain(changes).find(|change| change.first <= ext_seq);
        at.map(|change| change.level)
    }
}

/// The highest id of the search stands for all ids above it.
fn top(found: u8, cap: u8) -> u8 {
    if found == TEMPORAL_LAYERS_MAX { cap } else { found }
}

/// Temporal and spatial layer of a packet.
fn layers(meta: &PacketMeta) -> (u8, u8) {
    let frame = &meta.frame;
    (frame.temporal_id.unwrap_or(frame.discardable.into()), frame.spatial_id.unwrap_or(0))
}

fn is_within(meta: &PacketMeta, level: LayerCap) -> bool {
    let (temporal, spatial) = layers(meta);
    temporal <= level.temporal && spatial <= level.spatial
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, LayerIdx, TrackIdx};
    use crate::rtp::codec::FrameInfo;
    use crate::rtp::layer_set::LayerSet;

    fn key(epoch: u32, layer: u8) -> LayerKey {
        LayerKey { epoch: Epoch(epoch), track: TrackIdx(0), layer: LayerIdx(layer) }
    }

    const KEEP: FilterDecision = FilterDecision::Keep { marker: true };

    /// A frame of one packet.
    fn frame(seq: u64, temporal_id: Option<u8>, edit: impl FnOnce(&mut FrameInfo)) -> PacketMeta {
        let mut frame = FrameInfo { starts_frame: true, temporal_id, ..FrameInfo::default() };
        edit(&mut frame);
        PacketMeta {
            ext_seq: seq,
            timestamp: seq as u32 * 3_000,
            marker: true,
            red: false,
            payload_start: 12,
            payload_len: 100,
            prefix_len: 0,
            frame,
            exts: [None; 4],
            arrival: Instant::now(),
        }
    }

    fn temporal(seq: u64, id: u8) -> PacketMeta {
        frame(seq, Some(id), |_| ())
    }

    fn cap(temporal: u8) -> LayerCap {
        LayerCap { temporal, ..LayerCap::OPEN }
    }

    #[test]
    fn every_packet_passes_unchanged_without_a_cap() {
        let mut layer_filter = LayerFilter::new();
        assert!(layer_filter.is_open());
        let meta = PacketMeta { marker: false, ..temporal(9, 2) };
        assert_eq!(layer_filter.decide(key(1, 0), &meta), FilterDecision::Keep { marker: false });
    }

    #[test]
    fn level_falls_at_the_next_frame_and_never_inside_one() {
        let mut layer_filter = LayerFilter::new();
        let first = PacketMeta { marker: false, ..temporal(1, 1) };
        let middle = |seq| PacketMeta {
            timestamp: first.timestamp,
            marker: false,
            ..frame(seq, Some(1), |frame| frame.starts_frame = false)
        };
        layer_filter.begin(key(1, 0), &first);
        layer_filter.set(cap(0), 1);
        // The cap was set in the middle of this frame.
        assert_eq!(
            layer_filter.decide(key(1, 0), &middle(2)),
            FilterDecision::Keep { marker: false }
        );
        assert_eq!(layer_filter.decide(key(1, 0), &PacketMeta { marker: true, ..middle(3) }), KEEP);
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(4, 0)), KEEP);
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(5, 1)), FilterDecision::Drop);
        assert_eq!(
            layer_filter.decide(key(1, 0), &middle(1)),
            FilterDecision::Keep { marker: false },
            "late"
        );
    }

    /// An access unit delimiter may come first in a keyframe, and no frame needs it.
    #[test]
    fn first_packet_of_the_stream_is_kept_whatever_it_holds() {
        let delimiter = |seq| PacketMeta {
            marker: false,
            ..frame(seq, None, |frame| (frame.starts_frame, frame.discardable) = (false, true))
        };
        let mut layer_filter = LayerFilter::new();
        layer_filter.set(cap(0), 0);
        layer_filter.begin(key(1, 0), &delimiter(1));
        let kept = FilterDecision::Keep { marker: false };
        assert_eq!(layer_filter.decide(key(1, 0), &delimiter(1)), kept);
        assert_eq!(layer_filter.decide(key(1, 0), &delimiter(2)), FilterDecision::Drop);
    }

    #[test]
    fn cap_without_effect_is_known_after_thirty_pictures() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(cap(0), 1);
        for seq in 2..=u64::from(IN_VAIN_AFTER) + 2 {
            assert!(!layer_filter.leaves_out_nothing(), "{seq}");
            layer_filter.decide(key(1, 0), &temporal(seq, 0));
        }
        assert!(layer_filter.leaves_out_nothing());
        layer_filter.decide(key(1, 0), &temporal(40, 1));
        layer_filter.decide(key(1, 0), &temporal(41, 0));
        assert!(!layer_filter.leaves_out_nothing(), "a frame was left out");
    }

    /// The earlier packets were not seen by the filter, but a number that is lower than theirs is
    /// late.
    #[test]
    fn late_frame_does_not_lower_the_level() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(cap(0), 5);
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(3, 1)), KEEP);
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(6, 1)), FilterDecision::Drop);
    }

    #[test]
    fn level_rises_one_temporal_layer_at_a_time_at_switching_points() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(cap(0), 1);
        layer_filter.decide(key(1, 0), &temporal(2, 0));
        layer_filter.set(LayerCap::OPEN, 1);
        let sync = |seq, id| frame(seq, Some(id), |frame| frame.switch_point = true);
        for (meta, is_sent) in [
            (temporal(3, 1), false),
            (sync(4, 2), false), // layer 1 is not sent yet
            (sync(5, 1), true),
            (temporal(6, 2), false),
            (sync(7, 2), true),
            (temporal(8, 2), true),
            (temporal(3, 1), false), // late, from before
        ] {
            assert_eq!(layer_filter.decide(key(1, 0), &meta) == KEEP, is_sent, "{}", meta.ext_seq);
        }
    }

    #[test]
    fn keyframe_opens_all_layers_and_then_the_filter_opens() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(LayerCap { temporal: 0, spatial: 0 }, 1);
        layer_filter.decide(key(1, 0), &temporal(2, 0));
        layer_filter.set(LayerCap::OPEN, 1);
        let upper = |seq| frame(seq, Some(0), |frame| frame.spatial_id = Some(1));
        assert_eq!(layer_filter.decide(key(1, 0), &upper(3)), FilterDecision::Drop);
        layer_filter.decide(key(1, 0), &frame(4, Some(0), |frame| frame.keyframe = true));
        assert_eq!(layer_filter.decide(key(1, 0), &upper(5)), KEEP);
        layer_filter.decide(key(1, 0), &temporal(4 + REOPENS_AFTER, 2));
        assert!(!layer_filter.is_open(), "late packets may come");
        layer_filter.decide(key(1, 0), &temporal(5 + REOPENS_AFTER, 2));
        assert!(layer_filter.is_open());
    }

    #[test]
    fn keyframe_behind_a_packet_of_parameter_sets_opens_all_layers() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(LayerCap { temporal: 0, ..LayerCap::OPEN }, 1);
        layer_filter.decide(key(1, 0), &temporal(2, 0));
        layer_filter.set(LayerCap::OPEN, 1);
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(3, 1)), FilterDecision::Drop);
        // H.265: the sets in a packet of their own, then the slice with the same timestamp.
        let part = |seq, keyframe, parts| {
            let mut meta = frame(seq, Some(0), |frame| {
                (frame.starts_frame, frame.keyframe, frame.parts) = (false, keyframe, parts);
            });
            (meta.timestamp, meta.marker) = (12_000, keyframe);
            meta
        };
        layer_filter.decide(key(1, 0), &part(4, false, UnitParts::SPS));
        let slice = UnitParts::PICTURE.with(UnitParts::FIRST_SLICE);
        layer_filter.decide(key(1, 0), &part(5, true, slice));
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(6, 1)), KEEP);
    }

    /// No packet reports how many layers there are.
    #[test]
    fn filter_opens_after_nothing_was_left_out_for_long() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(cap(0), 1);
        layer_filter.decide(key(1, 0), &temporal(2, 1));
        layer_filter.set(LayerCap::OPEN, 1);
        layer_filter.decide(key(1, 0), &frame(3, Some(1), |frame| frame.switch_point = true));
        assert_eq!(layer_filter.level(), cap(1));
        let above = 3 + REOPENS_AFTER / 2;
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(above, 2)), FilterDecision::Drop);
        layer_filter.decide(key(1, 0), &temporal(above + REOPENS_AFTER, 1));
        assert!(!layer_filter.is_open());
        layer_filter.decide(key(1, 0), &temporal(above + REOPENS_AFTER + 1, 1));
        assert!(layer_filter.is_open() && layer_filter.level() == LayerCap::OPEN);
    }

    #[test]
    fn last_packet_of_a_picture_that_is_sent_gets_the_marker() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(LayerCap { spatial: 1, ..LayerCap::OPEN }, 1);
        let part = |seq: u64, spatial, starts_frame, ends_frame| PacketMeta {
            timestamp: 7,
            marker: spatial == 2 && ends_frame,
            ..frame(seq, Some(0), |frame| {
                (frame.spatial_id, frame.starts_frame) = (Some(spatial), starts_frame);
                frame.ends_frame = ends_frame;
            })
        };
        for (meta, decision) in [
            (part(2, 0, true, true), FilterDecision::Keep { marker: false }),
            (part(3, 1, false, false), FilterDecision::Keep { marker: false }),
            (part(4, 1, false, true), KEEP),
            (part(5, 2, false, true), FilterDecision::Drop),
        ] {
            assert_eq!(layer_filter.decide(key(1, 0), &meta), decision, "{}", meta.ext_seq);
        }
    }

    #[test]
    fn descriptor_opens_layers_at_a_frame_that_is_sent_anyway() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(LayerCap { temporal: 0, spatial: 0 }, 1);
        layer_filter.decide(key(1, 0), &temporal(2, 0));
        layer_filter.set(LayerCap { temporal: 1, spatial: 1 }, 1);
        let opens = |seq, id, set| {
            frame(seq, Some(id), |frame| (frame.spatial_id, frame.opens) = (Some(0), set))
        };
        let both = LayerSet::default().with(0, 1).with(1, 0).with(1, 1).with(1, 2);
        assert_eq!(
            layer_filter.decide(key(1, 0), &opens(3, 2, both)),
            FilterDecision::Drop,
            "the frame itself is not sent"
        );
        layer_filter.decide(key(1, 0), &opens(4, 0, LayerSet::default().with(0, 1)));
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(5, 1)), KEEP, "more frames");
        let upper = |seq, id| frame(seq, Some(id), |frame| frame.spatial_id = Some(1));
        assert_eq!(layer_filter.decide(key(1, 0), &upper(6, 0)), FilterDecision::Drop);
        layer_filter.decide(key(1, 0), &opens(7, 0, both));
        assert_eq!(layer_filter.decide(key(1, 0), &upper(8, 1)), KEEP, "and a larger picture");
        assert_eq!(
            layer_filter.decide(key(1, 0), &upper(9, 2)),
            FilterDecision::Drop,
            "not above the cap"
        );
    }

    #[test]
    fn discardable_frames_are_left_out_first() {
        let mut layer_filter = LayerFilter::new();
        let plain = |seq, discardable| {
            frame(seq, None, |frame| {
                (frame.starts_frame, frame.discardable) = (false, discardable);
            })
        };
        layer_filter.begin(key(0, 0), &plain(0, false));
        layer_filter.set(cap(0), 0);
        assert_eq!(
            layer_filter.decide(key(0, 0), &plain(1, true)),
            KEEP,
            "the frame may have begun before"
        );
        assert_eq!(layer_filter.decide(key(0, 0), &plain(2, true)), FilterDecision::Drop);
        assert_eq!(layer_filter.decide(key(0, 0), &plain(3, false)), KEEP);
        layer_filter.set(LayerCap::OPEN, 1);
        assert_eq!(layer_filter.decide(key(0, 0), &plain(4, true)), KEEP);
    }

    #[test]
    fn late_packets_of_an_earlier_stream_are_filtered_by_its_level() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(100, 0));
        layer_filter.begin(key(1, 1), &temporal(5, 0));
        layer_filter.set(cap(0), 1);
        layer_filter.decide(key(1, 1), &temporal(6, 0));
        layer_filter.begin(key(1, 2), &frame(70, Some(0), |frame| frame.keyframe = true));
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(101, 2)), KEEP, "all of it was sent");
        assert_eq!(layer_filter.decide(key(1, 1), &temporal(7, 1)), FilterDecision::Drop);
        assert_eq!(layer_filter.decide(key(1, 2), &temporal(71, 1)), FilterDecision::Drop);
    }

    #[test]
    fn changes_above_the_limit_are_forgotten_and_their_late_packets_left_out() {
        let mut layer_filter = LayerFilter::new();
        layer_filter.begin(key(1, 0), &temporal(1, 0));
        layer_filter.set(cap(1), 1);
        let sync = |seq| frame(seq, Some(1), |frame| frame.switch_point = true);
        // The first entry is the level from before, so that one entry less is left.
        for seq in 2..CHANGES_MAX as u64 + 1 {
            layer_filter.set(cap((seq % 2) as u8), 1);
            layer_filter.decide(key(1, 0), &sync(seq));
        }
        assert_eq!(
            layer_filter.decide(key(1, 0), &temporal(1, 0)),
            KEEP,
            "the oldest is still known"
        );
        layer_filter.set(cap(((CHANGES_MAX + 1) % 2) as u8), 1);
        layer_filter.decide(key(1, 0), &sync(CHANGES_MAX as u64 + 1));
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(1, 0)), FilterDecision::Drop);
        assert_eq!(layer_filter.decide(key(1, 0), &temporal(2, 0)), KEEP);
    }
}
