//! RED (RFC 2198): the payload types inside a payload of redundant audio.
//!
//! Owns the block headers only. The payload type of a codec differs between publisher and viewer,
//! and RED repeats it inside the payload (whip-whep G9), so the forwarder must rewrite it there
//! too. Never touches the audio itself, timestamps or lengths.

/// Block headers in one payload; with more it is not RED we know. Browsers send up to ten.
pub const MAX_RED_BLOCKS: usize = 32;

/// Bytes of the header of a redundant block: F bit, payload type, timestamp offset, length.
const REDUNDANT_HEADER_LEN: usize = 4;

/// How many leading bytes of the payload are RED headers. 0 when they run past its end or there
/// are more than [`MAX_RED_BLOCKS`].
pub fn red_prefix_len(payload: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..MAX_RED_BLOCKS {
        match payload.get(at) {
            Some(0x80..) => at += REDUNDANT_HEADER_LEN,
            Some(_) => return at + 1, // F = 0: the last header, one byte long
            None => return 0,
        }
    }
    0
}

/// The primary block: the audio without headers and redundancy, for a viewer that takes no RED.
/// `None` if the lengths do not hold together.
pub fn red_primary(payload: &[u8]) -> Option<&[u8]> {
    let headers = payload.get(..red_prefix_len(payload)).filter(|headers| !headers.is_empty())?;
    let redundant: usize = headers
        .chunks_exact(REDUNDANT_HEADER_LEN)
        .filter_map(|header| header.last_chunk::<2>())
        // The length is the low ten bits (RFC 2198 section 3).
        .map(|low| usize::from(u16::from_be_bytes(*low) & 0x3ff))
        .sum();
    payload.get(headers.len() + redundant..)
}

/// Sets every inner payload type to `to` (7 bits). The bytes behind the headers are not needed:
/// `payload` may end after [`red_prefix_len`]. False, and nothing changed, if these are no RED
/// headers.
pub fn rewrite_red_payload_types(payload: &mut [u8], to: u8) -> bool {
    let len = red_prefix_len(payload);
    let Some(headers) = payload.get_mut(..len).filter(|headers| !headers.is_empty()) else {
        return false;
    };
    for first in headers.iter_mut().step_by(REDUNDANT_HEADER_LEN) {
        *first = (*first & 0x80) | (to & 0x7f);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chromium_red_gets_the_viewers_opus_payload_type() {
        // whip-whep G9: 63 carries 111/111; this viewer calls opus 109.
        let mut payload = vec![0x80 | 111, 0x0f, 0x00, 0x03, 111, 1, 2, 3, 4, 5];
        assert_eq!(red_prefix_len(&payload), 5);
        assert!(rewrite_red_payload_types(&mut payload, 109));
        assert_eq!(payload, [0x80 | 109, 0x0f, 0x00, 0x03, 109, 1, 2, 3, 4, 5]);
        assert!(rewrite_red_payload_types(&mut payload[..5], 0xff), "the prefix is enough");
        assert_eq!(payload[..5], [0xff, 0x0f, 0x00, 0x03, 0x7f], "only seven bits");
    }

    #[test]
    fn the_primary_block_is_what_is_left_without_redundancy() {
        let payload = [0x80 | 111, 0x0f, 0x00, 0x03, 111, 1, 2, 3, 4, 5];
        assert_eq!(red_primary(&payload), Some(&[4, 5][..]));
        assert_eq!(red_primary(&[111, 9, 8]), Some(&[9, 8][..]));
        assert_eq!(red_primary(&payload[..7]), None, "cut short");
        assert_eq!(red_primary(&[]), None);
    }

    #[test]
    fn without_redundancy_the_header_is_one_byte() {
        let mut payload = [111, 9];
        assert_eq!(red_prefix_len(&payload), 1);
        assert!(rewrite_red_payload_types(&mut payload, 96));
        assert_eq!(payload, [96, 9]);
    }

    #[test]
    fn headers_cut_short_or_too_many_stay_untouched() {
        for cut in 0..5 {
            let mut payload = [0x80 | 111, 1, 2, 3, 111];
            assert_eq!(red_prefix_len(&payload[..cut]), 0, "{cut}");
            assert!(!rewrite_red_payload_types(&mut payload[..cut], 96));
            assert_eq!(payload, [0x80 | 111, 1, 2, 3, 111]);
        }
        let headers = |redundant| [[0x80 | 111, 0, 0, 0]].repeat(redundant).concat();
        let fits = [headers(MAX_RED_BLOCKS - 1), vec![111]].concat();
        assert_eq!(red_prefix_len(&fits), fits.len());
        let too_many = [headers(MAX_RED_BLOCKS), vec![111]].concat();
        assert_eq!(red_prefix_len(&too_many), 0);
    }
}
