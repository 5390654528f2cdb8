//! Packets in order → frames, and for each the verdict of a decoder: could it have been shown?
//!
//! Checks what no receiver statistic shows: that every frame is whole by its codec's own framing, that its bytes are those the
//! publisher stamped, that it begins with a keyframe and parameter sets, and that no frame in between was left out. Pure. Fed by
//! `receiver`; knows the stamp from `stamp`.

use bytes::Bytes;

use crate::options::Codec;
use crate::stamp::{self, Stamp};
use crate::video::h264;

/// The largest frame that is put together; a larger one is broken.
const FRAME_MAX: usize = 4 << 20;

/// Missing frames counted at one gap in the frame numbers; beyond it the publisher is taken to have begun anew.
const MISSING_MAX: u32 = 10_000;

/// A packet as this page wants it.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// Media timestamp: one value per frame.
    pub(crate) timestamp: u32,
    /// Last packet of the frame.
    pub(crate) marker: bool,
    /// RTP payload; `None` if only the header was looked at.
    pub(crate) payload: Option<Bytes>,
}

/// Why a frame is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flaw {
    /// Packets of it never came, or it does not begin or end as its codec wants.
    Incomplete,
    /// All packets authenticated, and yet the bytes are not those that were sent.
    Altered,
    /// A keyframe without its parameter sets, or with other ones than were sent.
    ParameterSets,
    /// It was never delivered, although the numbers of the packets show no gap.
    Missing,
    /// Itself whole, but it refers to a frame that is not.
    Reference,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A decoder shows it.
    Decodable {
        /// Whether it was a keyframe.
        key: bool,
        /// The sender's stamp, if there is one.
        stamp: Option<Stamp>,
    },
    /// A decoder cannot.
    Broken(Flaw),
}

/// Assembles and judges the frames of one video stream.
#[derive(Debug)]
pub(crate) struct Frames {
    codec: Codec,
    /// Whether the publisher is known to stamp every frame.
    stamped: bool,
    current: Option<Current>,
    /// Whether the frame before was shown, so that the next may refer to it.
    intact: bool,
    last: Option<Stamp>,
    /// Broken frames since `last`, already reported: they explain that many missing numbers.
    explained: u32,
    /// A packet was lost since the last frame ended, so a whole frame may have gone unseen.
    gap_before: bool,
    /// Timestamp of the last frame that ended: more packets of it are padding.
    ended: Option<u32>,
    /// The last frame that was shown, as a file of its codec wants it, for recordings.
    shown: Vec<u8>,
}

#[derive(Debug)]
struct Current {
    timestamp: u32,
    /// No packet is known to be missing.
    whole: bool,
    /// The payloads follow each other as the codec's packetization wants.
    formed: bool,
    /// H264: NAL units behind start codes. VP8: the frame.
    data: Vec<u8>,
    /// H264: where the NAL units begin in `data`.
    nals: Vec<usize>,
    /// H264: inside a fragmented NAL unit.
    fragment_open: bool,
    headers_only: bool,
    /// VP8: the packet that begins the frame came first.
    begun: bool,
    /// A packet was lost between the frame before and the first packet of this one.
    after_gap: bool,
}

impl Frames {
    /// Frames of `codec`; `stamped` if a frame without stamp is one that lost it.
    pub(crate) fn new(codec: Codec, stamped: bool) -> Self {
        Self {
            codec,
            stamped,
            current: None,
            intact: false,
            last: None,
            explained: 0,
            gap_before: false,
            ended: None,
            shown: Vec::new(),
        }
    }

    /// The next packet in order. Reports what it settles, in order.
    pub(crate) fn piece(&mut self, piece: &Piece, out: &mut Vec<Verdict>) {
        if self.current.as_ref().is_some_and(|current| current.timestamp != piece.timestamp) {
            // No marker came: the frame before had no end.
            self.incomplete(out);
        }
        if self.current.is_none() && self.ended == Some(piece.timestamp) {
            return;
        }
        let begins_after_gap = std::mem::take(&mut self.gap_before) && self.current.is_none();
        let current = self.current.get_or_insert_with(|| Current {
            timestamp: piece.timestamp,
            whole: true,
            formed: true,
            data: Vec::new(),
            nals: Vec::new(),
            fragment_open: false,
            headers_only: false,
            begun: false,
            after_gap: begins_after_gap,
        });
        match &piece.payload {
            Some(payload) => {
                let fits = current.data.len() + payload.len() <= FRAME_MAX;
                current.formed &= fits
                    && match self.codec {
                        Codec::H264 => current.h264(payload),
                        Codec::Vp8 => current.vp8(payload),
                    };
            }
            // Without payloads the beginning of a frame is not seen: after a loss nobody knows how much of it is gone.
            None => {
                current.headers_only = true;
                current.whole &= !begins_after_gap;
            }
        }
        if begins_after_gap && !self.stamped {
            // No frame numbers tell whether a whole frame is missing: assume it.
            self.intact = false;
        }
        if piece.marker {
            self.ended = Some(piece.timestamp);
            self.finish(out);
        }
    }

    /// A packet never came.
    pub(crate) fn lost(&mut self) {
        match &mut self.current {
            Some(current) => current.whole = false,
            None => self.gap_before = true,
        }
    }

    /// The stream began anew: nothing after refers to anything before.
    pub(crate) fn restart(&mut self, out: &mut Vec<Verdict>) {
        if self.current.is_some() {
            self.incomplete(out);
        }
        self.intact = false;
        self.gap_before = true;
        self.ended = None;
    }

    /// Whether a decoder waits for a keyframe.
    pub(crate) fn needs_keyframe(&self) -> bool {
        !self.intact
    }

    /// The frame just reported as decodable, as a file of its codec wants it (H264: Annex B).
    pub(crate) fn shown(&self) -> &[u8] {
        &self.shown
    }

    fn incomplete(&mut self, out: &mut Vec<Verdict>) {
        self.current = None;
        self.broken(Flaw::Incomplete, out);
    }

    fn broken(&mut self, flaw: Flaw, out: &mut Vec<Verdict>) {
        self.intact = false;
        self.explained += 1;
        out.push(Verdict::Broken(flaw));
    }

    fn finish(&mut self, out: &mut Vec<Verdict>) {
        let Some(current) = self.current.take() else { return };
        if !current.whole {
            return self.broken(Flaw::Incomplete, out);
        }
        if current.headers_only {
            // All packets are there: that is all that can be said.
            self.intact = true;
            self.explained = 0;
            return out.push(Verdict::Decodable { key: false, stamp: None });
        }
        if !current.formed || current.fragment_open {
            return self.broken(Flaw::Incomplete, out);
        }
        let content = match self.codec {
            Codec::H264 => current.inspect_h264(),
            Codec::Vp8 => current.inspect_vp8(),
        };
        let Content { key, stamp } = match content {
            Ok(content) => content,
            Err(flaw) => return self.broken(flaw, out),
        };
        if self.stamped && stamp.is_none() {
            // Its first packet was lost with the stamp in it, or the stamp was defaced.
            return self
                .broken(if current.after_gap { Flaw::Incomplete } else { Flaw::Altered }, out);
        }
        if let (Some(stamp), Some(last)) = (stamp, self.last) {
            let step = stamp.frame.wrapping_sub(last.frame);
            if stamp.run != last.run || stamp.layer != last.layer {
                // Where a server changes layers it may leave out frames, if it goes on with a keyframe.
                self.intact = false;
            } else if step != 1 {
                let missing = if step <= MISSING_MAX { step.saturating_sub(1) } else { 0 };
                let unexplained = missing.saturating_sub(self.explained);
                out.extend((0..unexplained).map(|_| Verdict::Broken(Flaw::Missing)));
                self.intact = false;
            }
        }
        self.last = stamp.or(self.last);
        self.explained = 0;
        if !key && !self.intact {
            // Not `broken()`: the frame's number is known, it explains nothing.
            return out.push(Verdict::Broken(Flaw::Reference));
        }
        self.intact = true;
        self.shown = current.data;
        out.push(Verdict::Decodable { key, stamp });
    }
}

struct Content {
    key: bool,
    stamp: Option<Stamp>,
}

impl Current {
    /// RFC 6184: single NAL units, STAP-A and FU-A, as packetization mode 1 allows.
    fn h264(&mut self, payload: &[u8]) -> bool {
        let Some((header, body)) = payload.split_first() else { return false };
        match header & 0x1f {
            1..=23 if !self.fragment_open => {
                self.nal(&[], payload);
                true
            }
            24 if !self.fragment_open => {
                let mut rest = body;
                while let Some((length, after)) = rest.split_first_chunk::<2>() {
                    let Some((nal, after)) =
                        after.split_at_checked(u16::from_be_bytes(*length).into())
                    else {
                        return false;
                    };
                    self.nal(&[], nal);
                    rest = after;
                }
                rest.is_empty()
            }
            28 => {
                let Some((fu, piece)) = body.split_first() else { return false };
                let (start, end) = (fu & 0x80 != 0, fu & 0x40 != 0);
                if start == self.fragment_open {
                    return false;
                }
                if start {
                    self.nal(&[(header & 0xe0) | (fu & 0x1f)], piece);
                } else {
                    self.data.extend_from_slice(piece);
                }
                self.fragment_open = !end;
                true
            }
            _ => false,
        }
    }

    fn nal(&mut self, header: &[u8], body: &[u8]) {
        self.data.extend_from_slice(&[0, 0, 0, 1]);
        self.nals.push(self.data.len());
        self.data.extend_from_slice(header);
        self.data.extend_from_slice(body);
    }

    /// RFC 7741: the descriptor is cut off, the rest is the frame.
    fn vp8(&mut self, payload: &[u8]) -> bool {
        let Some(first) = payload.first() else { return false };
        let mut at = 1;
        if first & 0x80 != 0 {
            let Some(flags) = payload.get(1) else { return false };
            at += 1;
            if flags & 0x80 != 0 {
                let Some(id) = payload.get(at) else { return false };
                at += if id & 0x80 != 0 { 2 } else { 1 };
            }
            at += usize::from(flags & 0x40 != 0) + usize::from(flags & 0x30 != 0);
        }
        let begins = first & 0x17 == 0x10; // S bit and partition 0
        if begins == self.begun {
            return false;
        }
        self.begun = true;
        let Some(piece) = payload.get(at..) else { return false };
        self.data.extend_from_slice(piece);
        !piece.is_empty()
    }

    fn inspect_h264(&self) -> Result<Content, Flaw> {
        let ends = self.nals.iter().skip(1).map(|begin| begin - 4).chain([self.data.len()]);
        let nals: Vec<&[u8]> = self
            .nals
            .iter()
            .zip(ends)
            .filter_map(|(begin, end)| self.data.get(*begin..end))
            .collect();
        let kind = |nal: &&[u8]| nal.first().map_or(0, |header| header & 0x1f);
        let key = nals.iter().any(|nal| kind(nal) == 5);
        if !nals.iter().any(|nal| (1..=5).contains(&kind(nal))) {
            return Err(Flaw::Incomplete);
        }
        let (sps, pps) =
            (nals.iter().find(|nal| kind(nal) == 7), nals.iter().find(|nal| kind(nal) == 8));
        if key && (sps.is_none() || pps.is_none()) {
            return Err(Flaw::ParameterSets);
        }
        let stamp = nals.iter().filter(|nal| kind(nal) == 6).find_map(|nal| {
            let at = h264::find_stamp(nal)?;
            Stamp::read(nal.get(at..at + stamp::LEN)?)
        });
        let Some((stamp, sent_crc)) = stamp else {
            return Ok(Content { key, stamp: None });
        };
        let mut crc = crc32fast::Hasher::new();
        nals.iter().for_each(|nal| h264::crc_of_nal(&mut crc, nal));
        if crc.finalize() != sent_crc || stamp.key != key {
            return Err(Flaw::Altered);
        }
        let ours = |sps: &[u8]| crate::video::SIZES.iter().any(|size| sps == h264::sps(*size));
        if key && !(sps.is_some_and(|sps| ours(sps)) && pps.is_some_and(|pps| *pps == h264::pps()))
        {
            return Err(Flaw::ParameterSets);
        }
        Ok(Content { key, stamp: Some(stamp) })
    }

    fn inspect_vp8(&self) -> Result<Content, Flaw> {
        // RFC 6386 section 9.1: bit 0 is 0 in keyframes, which go on with a start code.
        let key = self.data.first().is_some_and(|first| first & 1 == 0);
        if key && self.data.get(3..6) != Some(&[0x9d, 0x01, 0x2a]) {
            return Err(Flaw::Altered);
        }
        let stamp = self
            .data
            .len()
            .checked_sub(stamp::LEN)
            .and_then(|at| Stamp::read(self.data.get(at..)?));
        let Some((stamp, sent_crc)) = stamp else {
            return Ok(Content { key, stamp: None });
        };
        let covered = self.data.get(..self.data.len() - stamp::CRC_LEN).unwrap_or_default();
        if crc32fast::hash(covered) != sent_crc || stamp.key != key {
            return Err(Flaw::Altered);
        }
        Ok(Content { key, stamp: Some(stamp) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::Source;

    /// A publisher, a road on which a test may do harm, and the viewer's verdicts.
    struct Road {
        source: Source,
        frames: Frames,
        frame: u32,
        verdicts: Vec<Verdict>,
    }

    impl Road {
        fn of(codec: Codec) -> Self {
            Self {
                source: Source::new(&crate::video::plain(codec), (640, 360), 1400),
                frames: Frames::new(codec, true),
                frame: 0,
                verdicts: Vec::new(),
            }
        }

        fn next(&mut self, key: bool) -> Vec<Bytes> {
            let stamp = Stamp { run: 3, frame: self.frame, sent_us: 0, layer: 0, key };
            self.frame += 1;
            self.source.next(stamp)
        }

        fn arrive(&mut self, packets: &[Option<Bytes>]) {
            let timestamp = self.frame * 3000;
            for (n, packet) in packets.iter().enumerate() {
                match packet {
                    Some(payload) => {
                        let marker = n + 1 == packets.len();
                        let piece = Piece { timestamp, marker, payload: Some(payload.clone()) };
                        self.frames.piece(&piece, &mut self.verdicts);
                    }
                    None => self.frames.lost(),
                }
            }
        }

        fn send(&mut self, key: bool) {
            let packets: Vec<_> = self.next(key).into_iter().map(Some).collect();
            self.arrive(&packets);
        }

        fn story(&mut self) -> Vec<&'static str> {
            let word = |verdict: Verdict| match verdict {
                Verdict::Decodable { key: true, .. } => "key",
                Verdict::Decodable { .. } => "ok",
                Verdict::Broken(Flaw::Incomplete) => "incomplete",
                Verdict::Broken(Flaw::Altered) => "altered",
                Verdict::Broken(Flaw::ParameterSets) => "sets",
                Verdict::Broken(Flaw::Missing) => "missing",
                Verdict::Broken(Flaw::Reference) => "reference",
            };
            self.verdicts.drain(..).map(word).collect()
        }
    }

    const BOTH: [Codec; 2] = [Codec::H264, Codec::Vp8];

    #[test]
    fn untouched_stream_is_all_decodable() {
        for codec in BOTH {
            let mut road = Road::of(codec);
            for n in 0..70 {
                road.send(n % 30 == 0);
            }
            let story = road.story();
            assert_eq!(story.len(), 70);
            assert!(story.iter().all(|word| matches!(*word, "key" | "ok")), "{codec:?} {story:?}");
        }
    }

    #[test]
    fn viewer_that_begins_between_keyframes_shows_nothing_until_the_next() {
        for codec in BOTH {
            let mut road = Road::of(codec);
            road.next(true);
            road.send(false);
            assert!(road.frames.needs_keyframe());
            road.send(true);
            road.send(false);
            assert_eq!(road.story(), ["reference", "key", "ok"], "{codec:?}");
        }
    }

    #[test]
    fn each_single_lost_packet_breaks_its_frame_and_those_that_refer_to_it() {
        for codec in BOTH {
            for lost in 0.. {
                let mut road = Road::of(codec);
                road.send(true);
                let mut packets: Vec<_> = road.next(false).into_iter().map(Some).collect();
                let Some(packet) = packets.get_mut(lost) else { break };
                *packet = None;
                road.arrive(&packets);
                road.send(false);
                road.send(true);
                assert_eq!(
                    road.story(),
                    ["key", "incomplete", "reference", "key"],
                    "{codec:?} {lost}"
                );
            }
        }
    }

    #[test]
    fn frame_that_the_server_swallowed_is_missed_although_no_packet_is() {
        for codec in BOTH {
            let mut road = Road::of(codec);
            road.send(true);
            road.next(false);
            road.next(false);
            road.send(false);
            road.send(true);
            road.send(false);
            assert_eq!(
                road.story(),
                ["key", "missing", "missing", "reference", "key", "ok"],
                "{codec:?}"
            );
        }
    }

    #[test]
    fn lost_frame_is_counted_once_and_not_again_as_missing() {
        for codec in BOTH {
            let mut road = Road::of(codec);
            road.send(true);
            let packets: Vec<_> = road.next(false).iter().map(|_| None).collect();
            road.arrive(&packets);
            road.send(true);
            assert_eq!(road.story(), ["key", "missing", "key"], "{codec:?}");
        }
    }

    #[test]
    fn every_altered_byte_is_seen_wherever_it_is() {
        for codec in BOTH {
            let lengths: Vec<_> = Road::of(codec).next(true).iter().map(Bytes::len).collect();
            for (n, length) in lengths.iter().enumerate() {
                // VP8's payload descriptor is not part of the frame.
                let begin = if codec == Codec::Vp8 { 4 } else { 0 };
                for at in (begin..*length).step_by(37) {
                    let mut road = Road::of(codec);
                    let mut packets: Vec<_> = road.next(true).into_iter().map(Some).collect();
                    let mut bytes = packets[n].take().expect("is there").to_vec();
                    bytes[at] ^= 0x04;
                    packets[n] = Some(bytes.into());
                    road.arrive(&packets);
                    let story = road.story();
                    assert!(!story.contains(&"key"), "{codec:?} packet {n} byte {at}: {story:?}");
                }
            }
        }
    }

    #[test]
    fn keyframe_without_parameter_sets_is_not_decodable() {
        let mut road = Road::of(Codec::H264);
        let mut packets = road.next(true);
        packets.remove(0);
        let packets: Vec<_> = packets.into_iter().map(Some).collect();
        road.arrive(&packets);
        assert_eq!(road.story(), ["sets"]);
    }

    #[test]
    fn frames_are_judged_by_headers_alone_when_that_is_all_there_is() {
        let mut frames = Frames::new(Codec::H264, true);
        let mut out = Vec::new();
        let piece = |timestamp, marker| Piece { timestamp, marker, payload: None };
        frames.piece(&piece(1, false), &mut out);
        frames.piece(&piece(1, true), &mut out);
        frames.piece(&piece(2, false), &mut out);
        frames.lost();
        frames.piece(&piece(2, true), &mut out);
        frames.piece(&piece(3, true), &mut out);
        let broken: Vec<_> = out.iter().map(|v| matches!(v, Verdict::Broken(_))).collect();
        assert_eq!(broken, [false, true, false]);
    }

    #[test]
    fn change_of_layer_at_a_keyframe_may_leave_out_frames() {
        let mut frames = Frames::new(Codec::H264, true);
        let mut out = Vec::new();
        let mut layers = [(320, 180), (640, 360)]
            .map(|size| Source::new(&crate::video::plain(Codec::H264), size, 700));
        for (layer, frame, key) in
            [(0, 0, true), (0, 1, false), (1, 5, true), (1, 6, false), (0, 7, false)]
        {
            let stamp = Stamp { run: 1, frame, sent_us: 0, layer: layer as u8, key };
            let packets = layers[layer].next(stamp);
            for (n, payload) in packets.iter().enumerate() {
                let marker = n + 1 == packets.len();
                let piece = Piece { timestamp: frame, marker, payload: Some(payload.clone()) };
                frames.piece(&piece, &mut out);
            }
        }
        let shown: Vec<_> = out.iter().map(|v| matches!(v, Verdict::Decodable { .. })).collect();
        assert_eq!(
            shown,
            [true, true, true, true, false],
            "the last changed layer without a keyframe"
        );
    }
}
