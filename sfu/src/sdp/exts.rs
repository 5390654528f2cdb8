//! Header extensions of one m-line: which of the offered ones are accepted, ids unchanged.
//!
//! Owns the rules of `a=extmap` (RFC 8285, whip-whep C35). Never touches RTP bytes: that is
//! `rtp/ext.rs`. Called by `publish.rs` and `subscribe.rs`; `answer.rs` prints the result.

use rtc_sdp::description::common::Attribute;

use super::plan::ExtMap;
use crate::ids::Role;
use crate::rtp::ext::ExtKind;

/// Extensions that may be forwarded to a viewer. Rid, repaired rid and layer allocation describe
/// the publisher's layers and end at this server (whip-whep G10).
pub(super) const VIEWER_EXTS: &[ExtKind] = &[
    ExtKind::Mid,
    ExtKind::TransportCc,
    ExtKind::AudioLevel,
    ExtKind::VideoOrientation,
    ExtKind::PlayoutDelay,
    ExtKind::DependencyDescriptor,
    ExtKind::AbsCaptureTime,
];

/// Longest value of a one-byte header element in bytes: a longer mid cannot be carried (RFC 8285
/// 4.2). Its extension is then not accepted and routing uses SSRC and payload type.
const ONE_BYTE_VALUE_MAX: usize = 16;

/// One `a=extmap` line with a known URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfferedExt {
    kind: ExtKind,
    id: u8,
    direction: ExtDirection,
}

/// The direction suffix of an extension id, as its sender wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtDirection {
    Both,
    SendOnly,
    RecvOnly,
    Inactive,
}

/// The known extensions of a section; session-level lines apply to every section. An id or a
/// kind that comes twice counts once, the media-level line first.
pub(super) fn parse(media: &[Attribute], session: &[Attribute]) -> Vec<OfferedExt> {
    let mut exts: Vec<OfferedExt> = Vec::new();
    let lines = media.iter().chain(session).filter(|attribute| attribute.key == "extmap");
    for ext in lines.filter_map(|line| parse_line(line.value.as_deref()?)) {
        if !exts.iter().any(|seen| seen.id == ext.id || seen.kind == ext.kind) {
            exts.push(ext);
        }
    }
    exts
}

/// `<id>[/<direction>] <uri> [<attributes>]`; None for what we do not know.
fn parse_line(value: &str) -> Option<OfferedExt> {
    let mut words = value.split_whitespace();
    let id = words.next()?;
    let (id, direction) = match id.split_once('/') {
        None => (id, ExtDirection::Both),
        Some((id, "sendrecv")) => (id, ExtDirection::Both),
        Some((id, "sendonly")) => (id, ExtDirection::SendOnly),
        Some((id, "recvonly")) => (id, ExtDirection::RecvOnly),
        Some((id, "inactive")) => (id, ExtDirection::Inactive),
        Some(_) => return None,
    };
    let kind = ExtKind::from_uri(words.next()?)?;
    Some(OfferedExt { kind, id: id.parse().ok()?, direction })
}

/// The extensions agreed on one m-line: for the worker, and as lines for the answer.
pub(super) struct AgreedExts {
    /// For the plan.
    pub(super) map: ExtMap,
    /// Values of `a=extmap` in the answer.
    pub(super) lines: Vec<String>,
}

impl AgreedExts {
    /// Whether the transport-wide sequence number was agreed.
    pub(super) fn transport_cc(&self) -> bool {
        self.map.id(ExtKind::TransportCc).is_some()
    }
}

/// Accepts what may be sent in the direction of `role`'s media. The ids stay as offered; ids above
/// 14 need two-byte headers and so `a=extmap-allow-mixed`.
pub(super) fn agree(
    offered: &[OfferedExt],
    role: Role,
    allow_mixed: bool,
    mid: &str,
) -> AgreedExts {
    let mut map = ExtMap::default();
    map.allow_mixed = allow_mixed;
    let mut lines = Vec::new();
    for ext in offered {
        let wanted = match role {
            Role::Publisher => true,
            Role::Subscriber => VIEWER_EXTS.contains(&ext.kind),
        };
        let representable = match ext.id {
            1..=14 => true,
            16..=255 => allow_mixed,
            0 | 15 => false,
        };
        // A mirrored suffix: what the peer only sends, we only receive.
        let suffix = match (ext.direction, role) {
            (ExtDirection::Both, _) => "",
            (ExtDirection::SendOnly, Role::Publisher) => "/recvonly",
            (ExtDirection::RecvOnly, Role::Subscriber) => "/sendonly",
            _ => continue,
        };
        let too_long = match ext.kind {
            ExtKind::Mid => mid.len() > ONE_BYTE_VALUE_MAX,
            // The structure that a stream announces is longer in all but the simplest, and without
            // it a viewer cannot read the descriptors that follow.
            ExtKind::DependencyDescriptor => role == Role::Subscriber && !allow_mixed,
            _ => false,
        };
        if wanted && representable && !too_long {
            map.insert(ext.kind, ext.id);
            lines.push(format!("{}{suffix} {}", ext.id, ext.kind.uri()));
        }
    }
    AgreedExts { map, lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
    const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
    const LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
    const VIDEO_ORIENTATION: &str = "urn:3gpp:video-orientation";

    fn lines(values: &[String]) -> Vec<OfferedExt> {
        let attributes: Vec<_> =
            values.iter().map(|v| Attribute::new("extmap".into(), Some(v.clone()))).collect();
        parse(&attributes, &[])
    }

    /// whip-whep C35: ids unchanged, unknown URIs left out.
    #[test]
    fn known_extensions_keep_their_ids_and_unknown_ones_are_left_out() {
        let offered = lines(&[
            format!("4 {MID}"),
            "3 urn:example:unknown".into(),
            format!("10 {RID}"),
            format!("2 {LEVEL} vad=on"),
        ]);
        let publish = agree(&offered, Role::Publisher, false, "0");
        assert_eq!(publish.lines, [format!("4 {MID}"), format!("10 {RID}"), format!("2 {LEVEL}")]);
        assert_eq!(publish.map.id(ExtKind::Rid), Some(10));
        // whip-whep G10: a viewer gets no rid.
        let watch = agree(&offered, Role::Subscriber, false, "0");
        assert_eq!(watch.lines, [format!("4 {MID}"), format!("2 {LEVEL}")]);
    }

    #[test]
    fn direction_suffixes_are_mirrored_or_refused() {
        let offered = lines(&[
            format!("1/sendonly {MID}"),
            format!("2/recvonly {LEVEL}"),
            format!("3/inactive {VIDEO_ORIENTATION}"),
        ]);
        assert_eq!(
            agree(&offered, Role::Publisher, false, "0").lines,
            [format!("1/recvonly {MID}")]
        );
        assert_eq!(
            agree(&offered, Role::Subscriber, false, "0").lines,
            [format!("2/sendonly {LEVEL}")]
        );
    }

    #[test]
    fn ids_that_need_two_byte_headers_need_allow_mixed() {
        let offered = lines(&[
            format!("15 {MID}"),
            format!("16 {LEVEL}"),
            format!("14 {VIDEO_ORIENTATION}"),
            format!("256 {RID}"),
            format!("0 {RID}"),
        ]);
        let narrow = agree(&offered, Role::Publisher, false, "0").lines;
        assert_eq!(narrow, [format!("14 {VIDEO_ORIENTATION}")]);
        let wide = agree(&offered, Role::Publisher, true, "0").lines;
        assert_eq!(wide, [format!("16 {LEVEL}"), format!("14 {VIDEO_ORIENTATION}")]);
    }

    #[test]
    fn a_mid_too_long_for_its_extension_is_not_carried() {
        let offered = lines(&[format!("1 {MID}")]);
        assert_eq!(agree(&offered, Role::Publisher, false, &"m".repeat(16)).lines.len(), 1);
        assert_eq!(agree(&offered, Role::Publisher, false, &"m".repeat(17)).lines.len(), 0);
    }

    /// whip-whep D9, G10
    #[test]
    fn layer_extensions_are_accepted_from_publishers_and_only_the_descriptor_is_forwarded() {
        let [descriptor, allocation] =
            [ExtKind::DependencyDescriptor, ExtKind::VideoLayersAllocation].map(ExtKind::uri);
        let offered = lines(&[format!("5 {descriptor}"), format!("6 {allocation}")]);
        for allow_mixed in [false, true] {
            let publish = agree(&offered, Role::Publisher, allow_mixed, "0");
            assert_eq!(publish.lines.len(), 2);
            let watch = agree(&offered, Role::Subscriber, allow_mixed, "0");
            assert_eq!(watch.map.id(ExtKind::DependencyDescriptor), allow_mixed.then_some(5));
            assert_eq!(watch.map.id(ExtKind::VideoLayersAllocation), None);
        }
    }

    #[test]
    fn a_repeated_id_or_kind_counts_once_and_session_lines_come_last() {
        let session = [Attribute::new("extmap".into(), Some(format!("9 {RID}")))];
        let media = [
            Attribute::new("extmap".into(), Some(format!("1 {MID}"))),
            Attribute::new("extmap".into(), Some(format!("1 {LEVEL}"))),
            Attribute::new("extmap".into(), Some(format!("2 {MID}"))),
        ];
        let kinds: Vec<_> = parse(&media, &session).iter().map(|e| (e.kind, e.id)).collect();
        assert_eq!(kinds, [(ExtKind::Mid, 1), (ExtKind::Rid, 9)]);
    }
}
