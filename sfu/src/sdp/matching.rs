//! Match of a viewer's offered format with what the publisher sends, with a rank.
//!
//! Owns the comparison of `fmtp` parameters (whip-whep G2 to G4). Never compares them as text.
//! Called by `subscribe.rs`, and by the worker when a publisher arrives after the viewer.

use super::plan::CodecFormat;
use crate::codec::Codec;

/// Rank of `offered` for `source`: `None` is no match, 0 the best rank.
///
/// H264 (whip-whep G3): 0 same profile and packetization mode, 1 both within baseline, constrained
/// baseline and main with the same mode, 2 the same mode, 3 any H264. H265: 1 when the source is of
/// a higher level or tier than the viewer declared. All other codecs have rank 0 only.
pub fn codec_matches(source: &CodecFormat, offered: &CodecFormat) -> Option<u8> {
    if source.codec != offered.codec {
        return None;
    }
    let codec = source.codec;
    let (source, offered) = (source.fmtp.as_str(), offered.fmtp.as_str());
    match codec {
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::Vp8 => Some(0),
        Codec::Vp9 => {
            let profile = |fmtp| number(fmtp, "profile-id").unwrap_or(0);
            (profile(source) == profile(offered)).then_some(0)
        }
        Codec::Av1 => {
            // Early implementations wrote `profile-id`.
            let profile =
                |fmtp| number(fmtp, "profile").or_else(|| number(fmtp, "profile-id")).unwrap_or(0);
            (profile(source) == profile(offered)).then_some(0)
        }
        Codec::H264 => Some(h264_rank(source, offered)),
        Codec::H265 => h265_rank(source, offered),
    }
}

/// The value of one parameter in a `key=value;key=value` list; the key ignores case.
pub(super) fn parameter<'a>(fmtp: &'a str, key: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|item| {
        let (name, value) = item.split_once('=')?;
        name.trim().eq_ignore_ascii_case(key).then(|| value.trim())
    })
}

fn number(fmtp: &str, key: &str) -> Option<u32> {
    parameter(fmtp, key)?.parse().ok()
}

/// Profiles of H264 in RFC 6184 section 8.1 table 5, by `profile_idc` and the constraint flags. The
/// level is left out: every offer we saw allows level asymmetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum H264Profile {
    Baseline,
    ConstrainedBaseline,
    Main,
    Other { idc: u8, constraints: u8 },
}

impl H264Profile {
    fn of(fmtp: &str) -> Option<Self> {
        let id = parameter(fmtp, "profile-level-id").filter(|id| id.len() == 6)?;
        let [_, idc, constraints, _level] = u32::from_str_radix(id, 16).ok()?.to_be_bytes();
        let set = |bit: u8| constraints & (0x80 >> bit) != 0;
        Some(match idc {
            0x42 if set(1) => Self::ConstrainedBaseline,
            0x42 => Self::Baseline,
            0x4d if set(0) => Self::ConstrainedBaseline,
            0x4d => Self::Main,
            0x58 if set(0) && set(1) => Self::ConstrainedBaseline,
            0x58 if set(0) => Self::Baseline,
            _ => Self::Other { idc, constraints },
        })
    }

    fn in_base_family(self) -> bool {
        !matches!(self, Self::Other { .. })
    }
}

fn h264_rank(source: &str, offered: &str) -> u8 {
    let mode = |fmtp| number(fmtp, "packetization-mode").unwrap_or(0);
    if mode(source) != mode(offered) {
        return 3;
    }
    match (H264Profile::of(source), H264Profile::of(offered)) {
        (Some(a), Some(b)) if a == b => 0,
        (Some(a), Some(b)) if a.in_base_family() && b.in_base_family() => 1,
        _ => 2,
    }
}

/// RFC 7798 section 7.1: profile and transmission mode must agree.
fn h265_rank(source: &str, offered: &str) -> Option<u8> {
    let profile = |fmtp| number(fmtp, "profile-id").unwrap_or(1);
    let mode = |fmtp| parameter(fmtp, "tx-mode").unwrap_or("SRST").to_ascii_uppercase();
    if profile(source) != profile(offered) || mode(source) != mode(offered) {
        return None;
    }
    let tier = |fmtp| number(fmtp, "tier-flag").unwrap_or(0);
    let above_level = match (number(source, "level-id"), number(offered, "level-id")) {
        (Some(source), Some(offered)) => source > offered,
        _ => false,
    };
    Some(u8::from(above_level || tier(source) > tier(offered)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(codec: Codec, source: &str, offered: &str) -> Option<u8> {
        let format = |fmtp: &str| CodecFormat { codec, fmtp: fmtp.into() };
        codec_matches(&format(source), &format(offered))
    }

    /// whip-whep G3
    #[test]
    fn h264_ranks_profile_before_mode_before_name() {
        let fmtp = |profile: &str, mode: &str| {
            format!(
                "level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"
            )
        };
        for (source, offered, expected) in [
            (fmtp("42e01f", "1"), fmtp("42e01f", "1"), 0),
            (fmtp("42e01f", "1"), fmtp("42e034", "1"), 0), // level is no reason
            (fmtp("42c015", "0"), fmtp("42e01f", "0"), 0), // both constrained baseline
            (fmtp("4de01f", "1"), fmtp("42e01f", "1"), 0), // main with set0 is one, too
            (fmtp("42000d", "1"), fmtp("42001f", "1"), 0), // FFmpeg baseline to Chromium
            (fmtp("42e01f", "1"), fmtp("42001f", "1"), 1),
            (fmtp("42e01f", "1"), fmtp("4d001f", "1"), 1),
            (fmtp("64000d", "1"), fmtp("640c1f", "1"), 2), // high is not constrained high
            (fmtp("64000d", "1"), fmtp("42e01f", "1"), 2), // FFmpeg high to Chromium
            (fmtp("42e01f", "1"), fmtp("42e01f", "0"), 3),
            (fmtp("42e01f", "1"), String::new(), 3), // GStreamer offers neither
            (String::new(), String::new(), 2),
            (fmtp("42e01f", "1"), fmtp("zzzzzz", "1"), 2),
        ] {
            assert_eq!(rank(Codec::H264, &source, &offered), Some(expected), "{source} {offered}");
        }
    }

    /// whip-whep G2: order, spaces and case of keys do not matter.
    #[test]
    fn parameters_are_compared_as_a_set() {
        let a = "profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1";
        let b = " Level-Asymmetry-Allowed=1; PROFILE-LEVEL-ID=42E01F ; packetization-mode=1;";
        assert_eq!(rank(Codec::H264, a, b), Some(0));
    }

    /// whip-whep G4
    #[test]
    fn vp9_av1_and_h265_match_by_profile_with_defaults() {
        for (codec, source, offered, expected) in [
            (Codec::Vp9, "", "profile-id=0", Some(0)),
            (Codec::Vp9, "profile-id=2", "", None),
            (Codec::Av1, "", "level-idx=5;profile=0;tier=0", Some(0)),
            (Codec::Av1, "profile-id=1", "profile=1", Some(0)),
            (Codec::Av1, "profile=1", "", None),
            (Codec::H265, "", "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST", Some(0)),
            (Codec::H265, "profile-id=2", "", None),
            (Codec::H265, "tx-mode=MRST", "", None),
            (Codec::H265, "level-id=120", "level-id=93", Some(1)),
            (Codec::H265, "tier-flag=1", "", Some(1)),
        ] {
            assert_eq!(rank(codec, source, offered), expected, "{codec:?} {source} {offered}");
        }
    }

    #[test]
    fn different_codecs_never_match_and_simple_ones_always_do() {
        let format = |codec| CodecFormat { codec, fmtp: "stereo=1".into() };
        assert_eq!(codec_matches(&format(Codec::Vp8), &format(Codec::Vp9)), None);
        for codec in [Codec::Opus, Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Vp8] {
            assert_eq!(rank(codec, "a=1", "b=2"), Some(0));
        }
    }
}
