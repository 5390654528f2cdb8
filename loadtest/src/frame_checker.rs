//! Packets in order go in; for each frame comes out whether a decoder could have shown it.
//!
//! It checks what no receiver statistic shows: a frame is complete by its codec's framing, its
//! bytes are those that the publisher stamped, the stream begins with a keyframe and parameter
//! sets, and no frame in between is missing. It never reads a clock. Called by `receiver`; the
//! codecs are in `video::assembly`.

use bytes::Bytes;

use crate::flaw::Flaw;
use crate::options::Codec;
use crate::stamp::Stamp;
use crate::video::{FrameAssembly, FrameContent};

/// Maximum frames that one gap in the frame numbers counts as missing. A larger gap means that the
/// publisher started again.
const MISSING_MAX: u32 = 10_000;

/// A packet of a frame.
#[derive(Debug, Clone)]
pub(crate) struct FramePacket {
    /// RTP timestamp: one value per frame.
    pub(crate) timestamp: u32,
    /// Whether the packet is the last of its frame.
    pub(crate) marker: bool,
    /// RTP payload; `None` if only the header was read.
    pub(crate) payload: Option<Bytes>,
}

/// Whether a decoder could have shown a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameJudgement {
    /// A decoder shows the frame.
    Decodable {
        /// Whether the frame is a keyframe.
        key: bool,
        /// The publisher's stamp, if there is one.
        stamp: Option<Stamp>,
    },
    /// A decoder cannot show the frame.
    Broken(Flaw),
    /// The first frame was a still picture that a server shows until the next keyframe, which follows. What
    /// lies between was not meant for this viewer.
    Poster,
}

/// Assembles and judges the frames of one video stream.
#[derive(Debug)]
pub(crate) struct FrameChecker {
    codec: Codec,
    /// Whether the publisher is known to stamp every frame.
    stamped: bool,
    current: Option<CurrentFrame>,
    /// Whether the frame before could be shown, so that the next frame may refer to it.
    intact: bool,
    last: Option<Stamp>,
    /// Broken frames since `last` that were already reported. They explain as many missing frame
    /// numbers.
    explained: u32,
    /// Whether a packet was lost since the last frame ended, so that a complete frame may be
    /// missing.
    gap_before: bool,
    /// RTP timestamp of the last frame that ended. More packets with this timestamp are padding.
    ended: Option<u32>,
    /// Decodable frames so far, at most 2.
    decodable: u8,
    /// The last decodable frame as a file of its codec needs it, for recordings.
    shown: Vec<u8>,
}

#[derive(Debug)]
struct CurrentFrame {
    timestamp: u32,
    /// Whether no packet is known to be missing.
    complete: bool,
    /// Whether the payloads follow each other as the codec's packetization requires.
    well_formed: bool,
    assembly: FrameAssembly,
    headers_only: bool,
    /// Whether a packet was lost between the frame before and the first packet of this frame.
    after_gap: bool,
}

impl FrameChecker {
    /// A checker for frames of `codec`. With `stamped` a frame without stamp is one that lost its
    /// stamp.
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
            decodable: 0,
            shown: Vec::new(),
        }
    }

    /// Takes the next packet in order, and appends the judgements that it allows to `out`, in
    /// order.
    pub(crate) fn on_packet(&mut self, packet: &FramePacket, out: &mut Vec<FrameJudgement>) {
        if self.current.as_ref().is_some_and(|current| current.timestamp != packet.timestamp) {
            // No marker came: the frame before has no end.
            self.drop_incomplete(out);
        }
        if self.current.is_none() && self.ended == Some(packet.timestamp) {
            return;
        }
        let begins_after_gap = std::mem::take(&mut self.gap_before) && self.current.is_none();
        let current = self.current.get_or_insert_with(|| CurrentFrame {
            timestamp: packet.timestamp,
            complete: true,
            well_formed: true,
            assembly: FrameAssembly::new(self.codec),
            headers_only: false,
            after_gap: begins_after_gap,
        });
        match &packet.payload {
            Some(payload) => current.well_formed &= current.assembly.push(payload),
            // Headers do not show where a frame begins. After a loss it is unknown how much of the
            // frame is missing.
            None => {
                current.headers_only = true;
                current.complete &= !begins_after_gap;
            }
        }
        if begins_after_gap && !self.stamped {
            // No frame numbers tell whether a complete frame is missing: assume that one is.
            self.intact = false;
        }
        if packet.marker {
            self.ended = Some(packet.timestamp);
            self.finish(out);
        }
    }

    /// Notes that the next packet in order never arrived.
    pub(crate) fn on_lost(&mut self) {
        match &mut self.current {
            Some(current) => current.complete = false,
            None => self.gap_before = true,
        }
    }

    /// Notes a new numbering of the packets: frames after this do not refer to frames before.
    pub(crate) fn on_restart(&mut self, out: &mut Vec<FrameJudgement>) {
        if self.current.is_some() {
            self.drop_incomplete(out);
        }
        self.intact = false;
        self.gap_before = true;
        self.ended = None;
    }

    /// Whether a decoder waits for a keyframe.
    pub(crate) fn needs_keyframe(&self) -> bool {
        !self.intact
    }

    /// The frame just reported as decodable, as a file of its codec needs it (H.264: Annex B).
    pub(crate) fn shown(&self) -> &[u8] {
        &self.shown
    }

    fn drop_incomplete(&mut self, out: &mut Vec<FrameJudgement>) {
        self.current = None;
        self.broken(Flaw::Incomplete, out);
    }

    fn broken(&mut self, flaw: Flaw, out: &mut Vec<FrameJudgement>) {
        self.intact = false;
        self.explained += 1;
        out.push(FrameJudgement::Broken(flaw));
    }

    /// Whether nothing broke or was lost between the last frame and this one.
    fn is_unexplained(&self, current: &CurrentFrame) -> bool {
        self.explained == 0 && !current.after_gap
    }

    fn finish(&mut self, out: &mut Vec<FrameJudgement>) {
        let Some(current) = self.current.take() else { return };
        if !current.complete {
            return self.broken(Flaw::Incomplete, out);
        }
        if current.headers_only {
            // All packets arrived. Headers say no more.
            self.intact = true;
            self.explained = 0;
            return out.push(FrameJudgement::Decodable { key: false, stamp: None });
        }
        if !current.well_formed {
            return self.broken(Flaw::Incomplete, out);
        }
        let FrameContent { key, stamp } = match current.assembly.inspect() {
            Ok(content) => content,
            Err(flaw) => return self.broken(flaw, out),
        };
        if self.stamped && stamp.is_none() {
            // The first packet was lost with the stamp in it, or the stamp was altered.
            return self
                .broken(if current.after_gap { Flaw::Incomplete } else { Flaw::Altered }, out);
        }
        if let (Some(stamp), Some(last)) = (stamp, self.last) {
            let step = stamp.frame.wrapping_sub(last.frame);
            if stamp.run != last.run || stamp.layer != last.layer {
                // A server that switches layers may leave out frames, if it continues with a
                // keyframe.
                self.intact = false;
            } else if step != 1 && key && self.decodable == 1 && self.is_unexplained(&current) {
                out.push(FrameJudgement::Poster);
            } else if step != 1 {
                let missing = if step <= MISSING_MAX { step.saturating_sub(1) } else { 0 };
                let unexplained = missing.saturating_sub(self.explained);
                out.extend((0..unexplained).map(|_| FrameJudgement::Broken(Flaw::Missing)));
                self.intact = false;
            }
        }
        self.last = stamp.or(self.last);
        self.explained = 0;
        if !key && !self.intact {
            // Not `broken()`: the number of this frame is known, so it explains no missing number.
            return out.push(FrameJudgement::Broken(Flaw::Reference));
        }
        self.intact = true;
        self.decodable = self.decodable.saturating_add(1).min(2);
        self.shown = current.assembly.into_data();
        out.push(FrameJudgement::Decodable { key, stamp });
    }
}

#[cfg(test)]
mod tests;
