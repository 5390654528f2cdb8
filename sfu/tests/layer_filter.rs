//! Layer filter against a decoder that knows the references of each frame. Ten thousand changes of
//! the cap per kind of stream, over a path that reorders, and every frame can be decoded.
//!
//! The encoders here know dependencies first and derive the fields of packets from them, as the
//! payload formats and the dependency descriptor define them. The layer filter sees only the
//! fields.

#![allow(clippy::disallowed_methods, reason = "a test takes one real instant to count from")]

use std::collections::BTreeMap;
use std::time::Instant;

use weir_sfu::forward::layer_filter::{FilterDecision, LayerCap, LayerFilter};
use weir_sfu::ids::{Epoch, LayerIdx, LayerKey, TrackIdx};
use weir_sfu::media::PacketMeta;
use weir_sfu::rtp::codec::FrameInfo;
use weir_sfu::rtp::layer_set::LayerSet;

const LAYER: LayerKey = LayerKey { epoch: Epoch(1), track: TrackIdx(0), layer: LayerIdx(0) };

/// Changes of the cap for each kind of stream.
const CHANGES: usize = 10_000;

/// Maximum positions that a packet may fall behind.
const REORDER: usize = 6;

/// Pseudo-random numbers, the same on each run.
struct TestRng(u64);

impl TestRng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One coded frame: a spatial layer of a picture.
#[derive(Debug, Clone, Default)]
struct Frame {
    picture: u64,
    spatial: u8,
    temporal: u8,
    key: bool,
    /// Frames that it refers to, by index.
    refers_to: Vec<usize>,
    info: FrameInfo,
}

/// An encoder: the frames of the next picture. `base` is the index of its first frame.
trait Encoder {
    fn picture(&mut self, number: u64, base: usize, key: bool, rng: &mut TestRng) -> Vec<Frame>;
}

/// VP8 with three temporal layers in a pattern of eight, where upper layers refer to themselves, so
/// that only frames with the Y bit are switching points.
#[derive(Default)]
struct Vp8 {
    place: usize,
    last: [usize; 3],
}

impl Encoder for Vp8 {
    fn picture(&mut self, number: u64, base: usize, key: bool, _: &mut TestRng) -> Vec<Frame> {
        self.place = if key { 0 } else { (self.place + 1) % 8 };
        let (temporal, refers_to, sync): (u8, &[usize], bool) = match self.place {
            0 | 4 => (0, &[0], false),
            1 => (2, &[0], true),
            2 => (1, &[0], true),
            6 => (1, &[0, 1], false),
            _ => (2, &[0, 1, 2], false),
        };
        let refers_to = refers_to.iter().map(|layer| self.last[*layer]).collect();
        let frame = Frame {
            picture: number,
            temporal,
            key,
            refers_to: if key { Vec::new() } else { refers_to },
            info: FrameInfo {
                temporal_id: Some(temporal),
                switch_point: sync,
                discardable: temporal == 2 && self.place == 7,
                ..FrameInfo::default()
            },
            ..Frame::default()
        };
        self.last[usize::from(temporal)] = base;
        if key {
            self.last = [base; 3];
        }
        vec![frame]
    }
}

/// Slices only, some of which no frame refers to: B pictures between P pictures.
#[derive(Default)]
struct H264 {
    place: usize,
    last: [usize; 2],
}

impl Encoder for H264 {
    fn picture(&mut self, number: u64, base: usize, key: bool, rng: &mut TestRng) -> Vec<Frame> {
        let discardable = !key && self.place > 0;
        self.place = if discardable { self.place - 1 } else { rng.below(4) };
        let refers_to = match (key, discardable) {
            (true, _) => Vec::new(),
            (_, true) => self.last.to_vec(),
            (_, false) => vec![self.last[0]],
        };
        if !discardable {
            self.last = [base, if key { base } else { self.last[0] }];
        }
        let info = FrameInfo { discardable, ..FrameInfo::default() };
        vec![Frame { picture: number, key, refers_to, info, ..Frame::default() }]
    }
}

/// Three spatial by three temporal layers.
struct Svc {
    /// Whether layers are described by a dependency descriptor; else by the VP9 payload descriptor.
    described: bool,
    kind: SvcKind,
    place: usize,
    cycle: usize,
    /// The newest frame by spatial and temporal layer.
    last: [[usize; 3]; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SvcKind {
    /// Upper layers refer to lower ones in every picture.
    Full,
    /// Upper layers refer to lower ones in keyframes only.
    Key,
    /// As `Full`, and the largest picture's second temporal layer refers to itself: only every
    /// third cycle is a switching point there.
    Chained,
}

impl Svc {
    fn new(described: bool, kind: SvcKind) -> Self {
        Self { described, kind, place: 0, cycle: 0, last: [[0; 3]; 3] }
    }
}

impl Encoder for Svc {
    fn picture(&mut self, number: u64, base: usize, key: bool, rng: &mut TestRng) -> Vec<Frame> {
        self.place = if key { 0 } else { (self.place + 1) % 4 };
        let temporal = [0u8, 2, 1, 2][self.place];
        self.cycle += usize::from(self.place == 0);
        let sync = key || self.kind != SvcKind::Chained || self.cycle.is_multiple_of(3);
        // The upper layers can begin again in the middle: then they refer to the picture alone.
        let fresh = key || (self.described && temporal == 0 && rng.chance(5));
        let mut frames = Vec::new();
        for spatial in 0..3 {
            let below = spatial > 0 && (fresh || self.kind != SvcKind::Key);
            let last = self.last[usize::from(spatial)];
            let before = match temporal {
                0 | 1 => last[0],
                _ => last[0].max(last[1]),
            };
            let mut refers_to = Vec::new();
            if !key && (!fresh || spatial == 0) {
                refers_to.push(before);
            }
            if temporal == 1 && spatial == 2 && !sync {
                refers_to.push(last[1]);
            }
            if below {
                refers_to.push(base + usize::from(spatial) - 1);
            }
            let mut info = FrameInfo {
                temporal_id: Some(temporal),
                spatial_id: Some(spatial),
                described: self.described,
                switch_point: !self.described && temporal > 0,
                ..FrameInfo::default()
            };
            if self.described {
                info.opens = opens(spatial, temporal, fresh, sync);
                info.discardable = temporal == 2 && (spatial == 2 || self.kind == SvcKind::Key);
            }
            self.last[usize::from(spatial)][usize::from(temporal)] = base + usize::from(spatial);
            if key || (fresh && self.kind != SvcKind::Chained) {
                self.last[usize::from(spatial)] = [base + usize::from(spatial); 3];
            }
            frames.push(Frame { picture: number, spatial, temporal, key, refers_to, info });
        }
        frames
    }
}

/// The decode targets for which such a frame is a switch, spread over the layers past the last.
fn opens(spatial: u8, temporal: u8, fresh: bool, sync: bool) -> LayerSet {
    let mut set = LayerSet::default();
    for (s, t) in (0..4).flat_map(|s| (0..8).map(move |t| (s, t))) {
        let target = (u8::min(s, 2), u8::min(t, 2));
        let here = target.0 == spatial || (fresh && target.0 > spatial);
        // A frame of the second layer is a switch for the third, which refers to it.
        let later = temporal == 0 || (temporal == 1 && target.1 == 2);
        let chained = !sync && temporal == 0 && target.0 == 2 && target.1 > 0;
        if here && later && !chained {
            set = set.with(s, t);
        }
    }
    set
}

#[derive(Debug, Clone)]
struct Sent {
    frame: usize,
    /// Whether it is the first packet of its picture.
    begins: bool,
    meta: PacketMeta,
}

/// The packets of some pictures. `starts` says whether the format marks the first packet of a
/// picture.
fn packets(
    frames: &[Frame],
    first: usize,
    seq: &mut u64,
    starts: bool,
    rng: &mut TestRng,
) -> Vec<Sent> {
    let mut all = Vec::new();
    let now = Instant::now();
    for (index, frame) in frames.iter().enumerate() {
        let count = 1 + rng.below(3);
        for packet in 0..count {
            let (begins, ends) = (packet == 0, packet + 1 == count);
            let last = index + 1 == frames.len();
            let info = FrameInfo {
                starts_frame: starts && begins && frame.spatial == 0,
                ends_frame: ends && frame.info.spatial_id.is_some(),
                keyframe: frame.key && begins && frame.spatial == 0,
                ..frame.info
            };
            let meta = PacketMeta {
                ext_seq: *seq,
                timestamp: frame.picture as u32 * 3_000,
                marker: ends && last,
                red: false,
                payload_start: 12,
                payload_len: 100,
                prefix_len: 0,
                frame: info,
                exts: [None; 4],
                arrival: now,
            };
            all.push(Sent { frame: first + index, begins: begins && index == 0, meta });
            *seq += 1;
        }
    }
    all
}

/// Results of a run.
#[derive(Debug, Default)]
struct Seen {
    kept: usize,
    dropped: usize,
    /// Number of times that more layers were sent than before, with and without a keyframe.
    up_at_key: usize,
    up_between: usize,
}

/// Plays a stream until the cap was changed often enough.
fn play(name: &str, mut encoder: impl Encoder, starts: bool, seed: u64) -> Seen {
    let mut rng = TestRng(seed);
    let (mut seq, mut changes, mut number) = (70_000u64, 0, 0u64);
    let mut frames: Vec<Frame> = Vec::new();
    let mut waiting: Vec<Sent> = Vec::new();
    let mut arrived: Vec<(Sent, LayerCap)> = Vec::new();
    let mut layer_filter = LayerFilter::new();
    let mut cap = LayerCap::OPEN;
    let mut verdicts: BTreeMap<u64, (Sent, FilterDecision)> = BTreeMap::new();
    let (mut begun, mut newest) = (false, 0);
    while changes < CHANGES {
        let key = number == 0 || rng.chance(1);
        let coded = encoder.picture(number, frames.len(), key, &mut rng);
        waiting.extend(packets(&coded, frames.len(), &mut seq, starts, &mut rng));
        frames.extend(coded);
        number += 1;
        while waiting.len() > REORDER {
            let late = if number > 2 && rng.chance(15) { rng.below(REORDER) } else { 0 };
            let packet = waiting.remove(late);
            if rng.chance(15) {
                let pick = |rng: &mut TestRng| [0, 1, 2, u8::MAX][rng.below(4)];
                cap = LayerCap { temporal: pick(&mut rng), spatial: pick(&mut rng) };
                if rng.chance(20) {
                    cap = LayerCap::OPEN;
                }
                layer_filter.set(cap, newest);
                changes += 1;
            }
            if !begun {
                layer_filter.begin(LAYER, &packet.meta);
                begun = true;
            }
            let verdict = layer_filter.decide(LAYER, &packet.meta);
            newest = newest.max(packet.meta.ext_seq);
            arrived.push((packet.clone(), cap));
            let before = verdicts.insert(packet.meta.ext_seq, (packet, verdict));
            assert!(before.is_none());
        }
    }
    check_caps(name, &frames, &arrived, &verdicts);
    check_markers(name, &frames, &verdicts);
    check_decoding(name, &frames, &verdicts)
}

fn kept(verdict: FilterDecision) -> bool {
    verdict != FilterDecision::Drop
}

/// Each frame is sent as a whole or not at all, and each frame that is sent can be decoded.
fn check_decoding(
    name: &str,
    frames: &[Frame],
    verdicts: &BTreeMap<u64, (Sent, FilterDecision)>,
) -> Seen {
    let mut flows: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
    for (sent, verdict) in verdicts.values() {
        flows.entry(sent.frame).or_default().push(kept(*verdict));
    }
    let mut seen = Seen::default();
    let mut decoded = vec![false; frames.len()];
    let mut dropped: BTreeMap<(u8, u8), u64> = BTreeMap::new();
    let mut last_key = 0;
    for (index, packets) in flows {
        let frame = &frames[index];
        let whole = packets.iter().all(|flows| *flows);
        assert!(whole || !packets.iter().any(|flows| *flows), "{name}: torn {frame:?}");
        let layer = (frame.spatial, frame.temporal.max(frame.info.discardable.into()));
        if frame.key {
            last_key = frame.picture;
        }
        if !whole {
            seen.dropped += 1;
            dropped.insert(layer, frame.picture);
            continue;
        }
        seen.kept += 1;
        let missing: Vec<_> = frame.refers_to.iter().filter(|on| !decoded[**on]).collect();
        assert!(missing.is_empty(), "{name}: {frame:?} refers to {missing:?}");
        decoded[index] = true;
        // The layer is sent again: since a keyframe, or in the middle.
        match dropped.remove(&layer) {
            Some(picture) if picture < last_key => seen.up_at_key += 1,
            Some(_) => seen.up_between += 1,
            None => {}
        }
    }
    seen
}

/// The last packet of each picture that is sent has the marker, and no other.
fn check_markers(name: &str, frames: &[Frame], verdicts: &BTreeMap<u64, (Sent, FilterDecision)>) {
    let mut before: Option<(u64, bool)> = None;
    for (sent, verdict) in verdicts.values() {
        let FilterDecision::Keep { marker } = *verdict else { continue };
        let picture = frames[sent.frame].picture;
        if let Some((other, ended)) = before {
            assert_eq!(ended, other != picture, "{name}: marker before {sent:?}");
        }
        before = Some((picture, marker));
    }
}

/// A picture whose first packet came in order has no layer above the cap of that moment.
fn check_caps(
    name: &str,
    frames: &[Frame],
    arrived: &[(Sent, LayerCap)],
    verdicts: &BTreeMap<u64, (Sent, FilterDecision)>,
) {
    let mut caps: BTreeMap<u64, LayerCap> = BTreeMap::new();
    let mut newest = 0;
    for (sent, cap) in arrived {
        if sent.begins && sent.meta.ext_seq == newest + 1 {
            caps.insert(frames[sent.frame].picture, *cap);
        }
        newest = newest.max(sent.meta.ext_seq);
    }
    let mut judged = 0;
    for (sent, verdict) in verdicts.values().filter(|(_, verdict)| kept(*verdict)) {
        let frame = &frames[sent.frame];
        let Some(cap) = caps.get(&frame.picture) else { continue };
        judged += 1;
        let temporal = frame.info.temporal_id.unwrap_or(frame.info.discardable.into());
        let below = temporal <= cap.temporal && frame.spatial <= cap.spatial;
        assert!(below, "{name}: {frame:?} is above {cap:?}: {verdict:?}");
    }
    assert!(judged > CHANGES / 4, "{name}: only {judged} packets judged");
}

fn check(name: &str, seen: &Seen) {
    println!("{name}: {seen:?}");
    assert!(seen.kept > CHANGES / 2 && seen.dropped > CHANGES / 4, "{name}: {seen:?}");
    assert!(seen.up_between > 100 && seen.up_at_key > 10, "{name}: {seen:?}");
}

#[test]
fn vp8_temporal_layers() {
    for seed in 1..=3 {
        check("VP8", &play("VP8", Vp8::default(), true, seed));
    }
}

#[test]
fn h264_discardable_frames() {
    for seed in 1..=3 {
        check("H264", &play("H264", H264::default(), false, seed));
    }
}

#[test]
fn vp9_spatial_and_temporal_layers() {
    for kind in [SvcKind::Full, SvcKind::Key] {
        let name = format!("VP9, {kind:?}");
        let seen = play(&name, Svc::new(false, kind), true, 5);
        check(&name, &seen);
    }
}

#[test]
fn av1_layers_by_the_dependency_descriptor() {
    for kind in [SvcKind::Full, SvcKind::Key, SvcKind::Chained] {
        let name = format!("AV1, {kind:?}");
        let seen = play(&name, Svc::new(true, kind), true, 9);
        check(&name, &seen);
    }
}

/// When the cap is removed for good, all layers are sent from the next keyframe, and the filter is
/// open.
#[test]
fn filter_is_open_after_the_cap_is_removed() {
    let (mut rng, mut seq, mut layer_filter) = (TestRng(3), 70_000, LayerFilter::new());
    let mut encoder = Svc::new(false, SvcKind::Full);
    let mut index = 0;
    for number in 0..600 {
        let key = number % 100 == 0;
        let frames = encoder.picture(number, index, key, &mut rng);
        match number {
            20 => layer_filter.set(LayerCap { temporal: 0, spatial: 1 }, seq - 1),
            150 => layer_filter.set(LayerCap::OPEN, seq - 1),
            _ => {}
        }
        for sent in packets(&frames, index, &mut seq, true, &mut rng) {
            if number == 0 && sent.meta.frame.keyframe {
                layer_filter.begin(LAYER, &sent.meta);
            }
            let verdict = layer_filter.decide(LAYER, &sent.meta);
            let all = !(20..200).contains(&number);
            assert!(kept(verdict) || !all, "{number}");
        }
        index += frames.len();
        if number <= 200 {
            assert_eq!(layer_filter.is_open(), number < 20, "{number}");
        }
    }
    assert!(layer_filter.is_open());
}
