//! Parameter sets that an offer states: `sprop-parameter-sets` of H.264 (RFC 6184 section 8.1),
//! `sprop-vps`, `sprop-sps` and `sprop-pps` of H.265 (RFC 7798 section 7.1).
//!
//! Some publishers send them nowhere else. Called by `worker/` for a publisher's tracks; what is not
//! Base64 is passed over.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

use super::matching::parameter;
use super::plan::CodecFormat;
use crate::codec::Codec;
use crate::rtp::codec::SET_BYTES_MAX;

/// Base64 (RFC 4648 section 4) without its padding. The last bits of some encoders are not 0.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, NO_PAD.with_decode_allow_trailing_bits(true));

/// The parameter sets of a format, as NAL units in the order in which they stand. One longer than
/// [`SET_BYTES_MAX`] is passed over.
pub fn stated_sets(format: &CodecFormat) -> Vec<Vec<u8>> {
    let names: &[&str] = match format.codec {
        Codec::H264 => &["sprop-parameter-sets"],
        Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
        _ => &[],
    };
    let lists = names.iter().filter_map(|name| parameter(&format.fmtp, name));
    let units = lists
        .flat_map(|list| list.split(','))
        .filter_map(|unit| BASE64.decode(unit.trim().trim_end_matches('=')).ok());
    units.filter(|unit| (1..=SET_BYTES_MAX).contains(&unit.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(codec: Codec, fmtp: &str) -> Vec<Vec<u8>> {
        stated_sets(&CodecFormat { codec, fmtp: fmtp.to_owned() })
    }

    // RFC 6184 section 8.1, RFC 7798 section 7.1
    #[test]
    fn sets_of_an_offer_are_read() {
        let h264 =
            "packetization-mode=1; Sprop-Parameter-Sets=Z0LgH5ZUCg/YCIAAAAMAgAAAGAcRBgw=,aM48gA==";
        let sps = b"\x67\x42\xe0\x1f\x96\x54\x0a\x0f\xd8\x08\x80\x00\x00\x03\x00\x80\x00\x00\x18\x07\x11\x06\x0c";
        assert_eq!(sets(Codec::H264, h264), [&sps[..], &[0x68, 0xce, 0x3c, 0x80]]);
        let h265 = "sprop-pps=RAHBcrRiQA==;sprop-vps=QAEMAQ==;sprop-sps=QgEBAQ==, QgEBAg";
        let expected: [&[u8]; 4] = [
            &[0x40, 1, 0x0c, 1],
            &[0x42, 1, 1, 1],
            &[0x42, 1, 1, 2],
            &[0x44, 1, 0xc1, 0x72, 0xb4, 0x62, 0x40],
        ];
        assert_eq!(sets(Codec::H265, h265), expected);
    }

    #[test]
    fn what_is_no_set_is_passed_over() {
        for fmtp in [
            "",
            "sprop-parameter-sets",
            "sprop-parameter-sets=",
            "sprop-parameter-sets=,,",
            "sprop-parameter-sets=Z",
            "sprop-parameter-sets=Z0*g,Z\u{e9}",
            "sprop-vps=QAEMAQ==",
        ] {
            assert_eq!(sets(Codec::H264, fmtp), Vec::<Vec<u8>>::new(), "{fmtp}");
        }
        assert_eq!(sets(Codec::H264, "sprop-parameter-sets=***,aM48gA==").len(), 1);
        assert_eq!(sets(Codec::Vp8, "sprop-parameter-sets=aM48gA==").len(), 0);
        for (bytes, count) in [(SET_BYTES_MAX, 1), (SET_BYTES_MAX + 1, 0)] {
            let digits = "A".repeat((bytes * 4).div_ceil(3));
            let fmtp = format!("sprop-parameter-sets={digits}");
            assert_eq!(sets(Codec::H264, &fmtp).len(), count, "{bytes} bytes");
        }
    }
}
