//! Packet inspector: describes the opened packets of one incoming layer, each once, for all
//! viewers.
//!
//! The dependency descriptor is read first and the payload second, so that decisions hold where the
//! payload is encrypted end to end. Keeps state that spans packets: the structure that descriptors
//! refer to, which H.264 and H.265 frames no frame refers to, and the access unit that is arriving.
//! Called by `layer.rs`.

use std::collections::VecDeque;
use std::time::Instant;

use crate::codec::{Codec, MediaKind};
use crate::error::DropReason;
use crate::media::Encoding;
use crate::media::packet::{FORWARDED_EXTS_MAX, ForwardedExt, PacketMeta};
use crate::rtp::codec::{FrameInfo, Reference, descriptor_prefix_len, h264, h265, peek};
use crate::rtp::dependency_descriptor::DependencyReader;
use crate::rtp::ext::ExtKind;
use crate::rtp::layers_allocation::LayersAllocation;
use crate::rtp::packet::RtpHeader;
use crate::rtp::red::{is_sound, red_prefix_len};
use crate::rtp::unit_parts::UnitParts;
use crate::sdp::PublishTrack;
use crate::warm::warm;

/// Position of the media in an opened packet, after RTX was unwrapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    /// Extended sequence number of the publisher's media stream.
    pub ext_seq: u64,
    /// RTP timestamp, continued over jumps.
    pub timestamp: u32,
    /// First payload byte in the packet.
    pub start: usize,
    /// Payload bytes without padding.
    pub len: usize,
}

/// State of one layer that describes its packets.
#[derive(Debug, Default)]
pub(super) struct PacketInspector {
    /// Ids of the extensions that describe layers, where they were negotiated.
    descriptor_id: Option<u8>,
    allocation_id: Option<u8>,
    dependencies: DependencyReader,
    unreferenced: UnreferencedFrames,
    /// Whether a packet of H.265 had a temporal id above 0.
    has_sub_layers: bool,
    unit: ArrivingUnit,
    announced: Option<(u16, u16)>,
    encoding: Encoding,
}

impl PacketInspector {
    /// An inspector for one layer of this section.
    pub(super) fn new(plan: &PublishTrack) -> Self {
        let id = |kind| plan.exts.id(kind).filter(|_| plan.kind == MediaKind::Video);
        Self {
            descriptor_id: id(ExtKind::DependencyDescriptor),
            allocation_id: id(ExtKind::VideoLayersAllocation),
            ..Self::default()
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.announced, self.unreferenced.newest.is_some());
        warm!(self.unreferenced.frames.back().map(|(at, _)| *at));
    }

    /// Describes an opened packet.
    ///
    /// # Errors
    ///
    /// [`DropReason::RtpMalformed`] if its lengths are inconsistent.
    pub(super) fn describe(
        &mut self,
        plan: &PublishTrack,
        header: &RtpHeader,
        plaintext: &[u8],
        incoming: &Incoming,
        now: Instant,
    ) -> Result<PacketMeta, DropReason> {
        let end = incoming.start + incoming.len;
        let payload = plaintext.get(incoming.start..end).ok_or(DropReason::RtpMalformed)?;
        // A packet without payload probes the path or fills a pause: nothing to rewrite.
        let red = plan.red_pt == Some(header.payload_type) && !payload.is_empty();
        let codec = plan.format.codec;
        let (seen, prefix_len) = match red {
            true => (peek(codec, &[]), red_prefix_len(payload)),
            false => (peek(codec, payload), descriptor_prefix_len(codec, payload)),
        };
        let frame = match self.read_elements(header, plaintext, incoming, &seen) {
            Some(described) => described,
            None => {
                if !red {
                    self.encoding.on_payload(codec, payload);
                }
                let (discardable, temporal_id) =
                    self.dispensable((codec, payload), header.marker, incoming, &seen);
                let keyframe = seen.keyframe | self.unit.completes_recovery_point(incoming, &seen);
                FrameInfo { discardable, temporal_id, keyframe, ..seen }
            }
        };
        let narrow = |number: usize| u16::try_from(number).map_err(|_| DropReason::RtpMalformed);
        Ok(PacketMeta {
            ext_seq: incoming.ext_seq,
            timestamp: incoming.timestamp,
            marker: header.marker,
            red,
            payload_start: narrow(incoming.start)?,
            payload_len: narrow(incoming.len)?,
            prefix_len: prefix_len.min(incoming.len).min(usize::from(u8::MAX)) as u8,
            frame,
            exts: forwarded_exts(plan, header, plaintext),
            arrival: now,
        })
    }

    /// Whether no frame depends on the frame of a packet, and its temporal layer.
    fn dispensable(
        &mut self,
        (codec, payload): (Codec, &[u8]),
        marker: bool,
        incoming: &Incoming,
        seen: &FrameInfo,
    ) -> (bool, Option<u8>) {
        let reference = match codec {
            Codec::H264 => h264::reference(payload),
            Codec::H265 => h265::reference(payload),
            _ => return (seen.discardable, seen.temporal_id),
        };
        let unreferenced = self.unreferenced.holds(incoming, marker, reference);
        self.has_sub_layers |= seen.temporal_id.is_some_and(|id| id > 0);
        match self.has_sub_layers {
            // Pictures of higher sub-layers may refer to it.
            true => (seen.discardable, seen.temporal_id),
            // All pictures have id 0, which says nothing.
            false => (unreferenced, None),
        }
    }

    /// Number of the first packet of the access unit that is arriving, if it is known: with a
    /// sequence parameter set or sequence header in it.
    pub(super) fn unit_begins(&self) -> Option<u64> {
        self.unit.begins()
    }

    /// Width and height of the layer as the publisher announced them, before or without a keyframe
    /// that carries them.
    pub(super) fn announced(&self) -> Option<(u16, u16)> {
        self.announced
    }

    /// Profile and level of the layer, and whether it has B-frames.
    pub(super) fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// Reads the extension elements that describe layers; returns the frame if the dependency
    /// descriptor describes it.
    fn read_elements(
        &mut self,
        header: &RtpHeader,
        plaintext: &[u8],
        incoming: &Incoming,
        seen: &FrameInfo,
    ) -> Option<FrameInfo> {
        self.descriptor_id.or(self.allocation_id)?;
        let mut described = None;
        for (id, data) in header.elements(plaintext) {
            if self.descriptor_id == Some(id) {
                described = self.described(incoming.ext_seq, data, seen);
            } else if self.allocation_id == Some(id) {
                let told = LayersAllocation::parse(data);
                self.announced = told.and_then(|told| told.own_size()).or(self.announced);
            }
        }
        described
    }

    /// The frame as its dependency descriptor describes it; `None` without a usable one.
    fn described(&mut self, ext_seq: u64, data: &[u8], seen: &FrameInfo) -> Option<FrameInfo> {
        let told = self.dependencies.read(ext_seq, data)?;
        if self.dependencies.is_refused() {
            return None;
        }
        // Payload descriptors are not encrypted, and their numbers must be continued in any case.
        let known = FrameInfo {
            ends_frame: told.ends_frame,
            described: true,
            frame_number: Some(told.frame_number),
            picture: seen.picture,
            ..FrameInfo::default()
        };
        // Until its structure comes, no viewer can start on this stream.
        let Some(frame) = told.frame else { return Some(known) };
        // Not every structure carries sizes, and an encrypted payload hardly looks like a keyframe.
        let peeked = seen.resolution.filter(|_| frame.keyframe && seen.keyframe);
        Some(FrameInfo {
            starts_frame: told.starts_frame && frame.spatial_id == 0,
            keyframe: frame.keyframe,
            discardable: frame.indications.is_discardable(),
            opens: frame.opens,
            resolution: frame.resolution.or(peeked),
            temporal_id: Some(frame.temporal_id),
            spatial_id: Some(frame.spatial_id),
            ..known
        })
    }
}

/// Whether a payload is RED that is cut short, or carries another codec: viewers could not play it.
pub(super) fn has_unsound_red(
    plan: &PublishTrack,
    header: &RtpHeader,
    payload: Option<&[u8]>,
) -> bool {
    let red = payload.filter(|payload| !payload.is_empty());
    plan.red_pt == Some(header.payload_type) && red.is_some_and(|red| !is_sound(red, plan.pt))
}

/// Describes an authentic packet of no use: nothing but its number is forwarded.
///
/// # Errors
///
/// [`DropReason::RtpMalformed`] if its header is longer than a packet may be.
pub(super) fn without_payload(incoming: &Incoming, now: Instant) -> Result<PacketMeta, DropReason> {
    Ok(PacketMeta {
        ext_seq: incoming.ext_seq,
        timestamp: incoming.timestamp,
        marker: false,
        red: false,
        payload_start: u16::try_from(incoming.start).map_err(|_| DropReason::RtpMalformed)?,
        payload_len: 0,
        prefix_len: 0,
        frame: FrameInfo::default(),
        exts: [None; FORWARDED_EXTS_MAX],
        arrival: now,
    })
}

/// The access unit of the newest packet: what its packets held so far.
#[derive(Debug, Default)]
struct ArrivingUnit {
    /// Number of the newest packet.
    newest: u64,
    timestamp: u32,
    /// First packet since which none was missing.
    first: u64,
    parts: UnitParts,
}

impl ArrivingUnit {
    /// Takes a packet. True if it completes an access unit without an IDR picture that a decoder
    /// may begin with: parameter sets and a recovery point. Some cameras send no IDR pictures.
    fn completes_recovery_point(&mut self, packet: &Incoming, seen: &FrameInfo) -> bool {
        let belongs = packet.timestamp == self.timestamp || self.parts.is_only_sets();
        if packet.ext_seq > self.newest {
            // Parameter sets may have a timestamp of their own (`media/keyframe.rs`).
            if packet.ext_seq != self.newest + 1 || !belongs {
                (self.first, self.parts) = (packet.ext_seq, UnitParts::NONE);
            }
            (self.newest, self.timestamp) = (packet.ext_seq, packet.timestamp);
        } else if packet.timestamp != self.timestamp {
            return false;
        }
        let before = self.parts;
        self.parts = before.with(seen.parts);
        let recovers =
            |parts: UnitParts| parts.contains(UnitParts::SPS.with(UnitParts::RECOVERY_POINT));
        recovers(self.parts) && !recovers(before)
    }

    fn begins(&self) -> Option<u64> {
        let has_sequence =
            self.parts.contains(UnitParts::SPS) || self.parts.contains(UnitParts::SEQUENCE_HEADER);
        has_sequence.then_some(self.first)
    }
}

/// Frames remembered for their late packets. At the limit the oldest is forgotten. A late packet of
/// it then counts as referenced, which damages the frame for viewers that it was left out for. So
/// the limit is longer than a repair may take
/// ([`MAX_AGE`](crate::repair::nack_generator::MAX_AGE)), at 100 frames per second.
const FRAMES_MAX: usize = 64;

/// H.264 and H.265 frames that no frame refers to. A packet describes itself only, and a frame must be left
/// out as a whole. So a frame counts if its first slice, certainly the first, is such a slice: only
/// delimiters and SEI come before it.
#[derive(Debug, Default)]
struct UnreferencedFrames {
    /// Frames by timestamp, oldest first.
    frames: VecDeque<(u32, Judgement)>,
    /// Number, timestamp and marker of the newest packet.
    newest: Option<(u64, u32, bool)>,
}

/// What is known of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    /// All its packets so far, up to this number, have no slice.
    Begun(u64),
    Unreferenced,
    Referenced,
}

impl UnreferencedFrames {
    /// Whether no other frame needs this packet. A delimiter is needed by none, whatever its frame
    /// is; an SEI before the slices may be a caption of a frame that is kept.
    fn holds(&mut self, packet: &Incoming, marker: bool, reference: Reference) -> bool {
        let begins = self.newest.is_some_and(|(ext_seq, timestamp, ended)| {
            packet.ext_seq == ext_seq + 1 && (ended || timestamp != packet.timestamp)
        });
        if self.newest.is_none_or(|(ext_seq, ..)| packet.ext_seq > ext_seq) {
            self.newest = Some((packet.ext_seq, packet.timestamp, marker));
        }
        let known = self.frames.iter().rposition(|(at, _)| *at == packet.timestamp);
        let before = known.and_then(|index| self.frames.get(index)).map(|(_, judged)| *judged);
        let is_next = match before {
            None => begins,
            Some(Judgement::Begun(last)) => packet.ext_seq == last + 1,
            Some(Judgement::Unreferenced) => return true,
            Some(Judgement::Referenced) => return reference == Reference::Delimiter,
        };
        let judged = match reference {
            _ if !is_next => Judgement::Referenced,
            Reference::Delimiter | Reference::Preamble => Judgement::Begun(packet.ext_seq),
            Reference::Unreferenced => Judgement::Unreferenced,
            Reference::Referenced => Judgement::Referenced,
        };
        match known.and_then(|index| self.frames.get_mut(index)) {
            Some(frame) => frame.1 = judged,
            None => {
                if self.frames.len() == FRAMES_MAX {
                    self.frames.pop_front();
                }
                self.frames.push_back((packet.timestamp, judged));
            }
        }
        judged == Judgement::Unreferenced || reference == Reference::Delimiter
    }
}

/// Extensions that a viewer may get if it negotiated them too (whip-whep G10).
fn is_forwarded(kind: ExtKind, media: MediaKind) -> bool {
    match kind {
        ExtKind::AudioLevel => media == MediaKind::Audio,
        ExtKind::VideoOrientation | ExtKind::PlayoutDelay | ExtKind::DependencyDescriptor => {
            media == MediaKind::Video
        }
        ExtKind::AbsCaptureTime => true,
        ExtKind::Mid
        | ExtKind::Rid
        | ExtKind::RepairedRid
        | ExtKind::TransportCc
        | ExtKind::VideoLayersAllocation => false,
    }
}

fn forwarded_exts(
    plan: &PublishTrack,
    header: &RtpHeader,
    plaintext: &[u8],
) -> [Option<ForwardedExt>; FORWARDED_EXTS_MAX] {
    let mut found = [None; FORWARDED_EXTS_MAX];
    let elements = header.elements(plaintext).filter_map(|(id, data)| {
        let kind = plan.exts.kind(id).filter(|kind| is_forwarded(*kind, plan.kind))?;
        // The element lies inside the packet, so the difference of the addresses is its offset.
        let start = (data.as_ptr() as usize).checked_sub(plaintext.as_ptr() as usize)?;
        let (start, len) = (u16::try_from(start).ok()?, u8::try_from(data.len()).ok()?);
        Some(ForwardedExt { kind, start, len })
    });
    for (slot, ext) in found.iter_mut().zip(elements) {
        *slot = Some(ext);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ext_seq: u64, timestamp: u32) -> Incoming {
        Incoming { ext_seq, timestamp, start: 12, len: 100 }
    }

    const SLICE: Reference = Reference::Unreferenced;
    const OTHER: Reference = Reference::Referenced;

    #[test]
    fn frame_is_unreferenced_as_a_whole_or_not_at_all() {
        let mut frames = UnreferencedFrames::default();
        let mut holds =
            |seq, timestamp, marker, unit| frames.holds(&packet(seq, timestamp), marker, unit);
        assert!(!holds(1, 10, true, SLICE), "the frame may have begun before");
        assert!(holds(2, 20, false, SLICE) && holds(3, 20, false, SLICE));
        assert!(holds(5, 20, true, SLICE), "number 4 is missing");
        assert!(!holds(6, 30, false, OTHER), "begins with parameter sets");
        assert!(!holds(7, 30, true, SLICE), "so its slices are sent too");
        assert!(holds(8, 40, false, SLICE) && holds(9, 50, true, SLICE), "no marker in between");
        assert!(!holds(11, 60, false, SLICE), "its first packet is missing");
        assert!(!holds(10, 60, false, SLICE), "and comes late");
        assert!(holds(4, 20, false, SLICE), "late, of a frame that is known");
    }

    // OBS begins each frame with an access unit delimiter in a packet of its own.
    #[test]
    fn frame_is_judged_by_its_first_slice() {
        let mut frames = UnreferencedFrames::default();
        let mut holds =
            |seq, timestamp, marker, unit| frames.holds(&packet(seq, timestamp), marker, unit);
        let (delimiter, sei) = (Reference::Delimiter, Reference::Preamble);
        holds(1, 10, true, OTHER);
        assert!(holds(2, 20, false, delimiter) && holds(3, 20, true, SLICE));
        assert!(holds(4, 30, false, delimiter), "no decoder needs a delimiter");
        assert!(!holds(5, 30, true, OTHER));
        assert!(holds(6, 40, false, delimiter) && !holds(7, 40, false, sei));
        assert!(holds(8, 40, false, SLICE) && holds(9, 40, true, SLICE));
        assert!(holds(10, 50, false, delimiter) && !holds(12, 50, true, SLICE), "11 is missing");
        assert!(!holds(11, 50, false, SLICE), "and comes late");
    }

    // x265 with B-frames, which has them all in one sub-layer unless it is told otherwise.
    #[test]
    fn b_frames_of_h265_count_as_upper_layer_while_there_are_no_sub_layers() {
        let mut inspector = PacketInspector::default();
        let mut takes = |seq: u64, kind: u8, id: u8| {
            let payload = [kind << 1, id + 1, 0x80];
            let seen = peek(Codec::H265, &payload);
            let incoming = packet(seq, seq as u32 * 3_000);
            inspector.dispensable((Codec::H265, &payload), true, &incoming, &seen)
        };
        let (idr, trail_r, trail_n) = (19, 1, 0);
        assert_eq!(takes(1, idr, 0), (false, None));
        assert_eq!(takes(2, trail_r, 0), (false, None));
        assert_eq!(takes(3, trail_n, 0), (true, None));
        assert_eq!(takes(4, trail_n, 1), (false, Some(1)), "an upper sub-layer may refer to it");
        assert_eq!(takes(5, trail_n, 0), (false, Some(0)));
    }

    #[test]
    fn parameter_sets_and_a_recovery_point_begin_a_picture_without_an_idr() {
        let mut unit = ArrivingUnit::default();
        let mut takes = |seq, timestamp, parts| {
            let seen = FrameInfo { parts, ..FrameInfo::default() };
            let completes = unit.completes_recovery_point(&packet(seq, timestamp), &seen);
            (completes, unit.begins())
        };
        let (sps, pps) = (UnitParts::SPS, UnitParts::PPS);
        let (recovery, picture) = (UnitParts::RECOVERY_POINT, UnitParts::PICTURE);
        assert_eq!(takes(1, 10, picture), (false, None));
        assert_eq!(takes(2, 20, recovery), (false, None));
        assert_eq!(takes(3, 20, picture), (false, None), "no parameter sets");
        assert_eq!(takes(4, 29, sps), (false, Some(4)));
        assert_eq!(takes(5, 29, pps), (false, Some(4)));
        assert_eq!(takes(6, 30, recovery), (true, Some(4)), "sets with their own timestamp");
        assert_eq!(takes(7, 30, picture), (false, Some(4)), "once");
        assert_eq!(takes(8, 40, picture), (false, None));
        assert_eq!(takes(10, 50, recovery), (false, None));
        assert_eq!(takes(9, 50, sps), (true, Some(10)), "late");
        assert_eq!(takes(11, 50, picture), (false, Some(10)));
        assert_eq!(takes(12, 60, sps.with(recovery).with(picture)), (true, Some(12)), "in one");
    }

    #[test]
    fn frames_above_the_limit_are_forgotten() {
        let mut frames = UnreferencedFrames::default();
        frames.holds(&packet(1, 1), true, OTHER);
        for seq in 2..2 + FRAMES_MAX as u64 {
            assert!(frames.holds(&packet(seq, seq as u32), true, SLICE));
        }
        assert!(frames.holds(&packet(2, 2), true, SLICE));
        let next = FRAMES_MAX as u64 + 2;
        assert!(frames.holds(&packet(next, next as u32), true, SLICE));
        assert!(!frames.holds(&packet(2, 2), true, SLICE));
    }
}
