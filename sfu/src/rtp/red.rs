//! RED (RFC 2198): the blocks of a payload of redundant audio, and the payload types inside.
//!
//! Owns the block headers only. The payload type of a codec differs between publisher and viewer,
//! and RED repeats it inside the payload (whip-whep G9), so the forwarder must rewrite it there
//! too. Never touches the audio itself, timestamps or lengths. A payload whose lengths do not fit
//! is dropped on arrival ([`is_sound`]), before it has a number.

/// Maximum block headers in one payload; with more it is not RED as we know it. Browsers send up to
/// ten.
pub const MAX_RED_BLOCKS: usize = 32;

/// Bytes of the header of a redundant block: F bit, payload type, timestamp offset, length.
const REDUNDANT_HEADER_LEN: usize = 4;

/// Leading bytes of the payload that are RED headers. 0 when they run past its end or there are
/// more than [`MAX_RED_BLOCKS`].
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

/// One block of audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedBlock<'a> {
    /// Payload type of its codec.
    pub payload_type: u8,
    /// Timestamp ticks by which the block is older than its packet; 0 for the primary block.
    pub age: u32,
    /// The audio; may be empty.
    pub data: &'a [u8],
}

/// Iterator over the blocks of a payload: the redundant ones in order, then the primary one.
#[derive(Debug, Clone)]
pub struct RedBlocks<'a> {
    headers: &'a [u8],
    data: &'a [u8],
}

impl<'a> Iterator for RedBlocks<'a> {
    type Item = RedBlock<'a>;

    fn next(&mut self) -> Option<RedBlock<'a>> {
        if let Some((header, headers)) = self.headers.split_first_chunk::<REDUNDANT_HEADER_LEN>() {
            // F bit and payload type, 14 bits of timestamp offset, 10 of length (RFC 2198 section
            // 3).
            let [first, rest @ ..] = *header;
            let [a, b, c] = rest.map(u32::from);
            let offset_and_len = a << 16 | b << 8 | c;
            let (data, behind) = self.data.split_at_checked((offset_and_len & 0x3ff) as usize)?;
            (self.headers, self.data) = (headers, behind);
            return Some(RedBlock { payload_type: first & 0x7f, age: offset_and_len >> 10, data });
        }
        let (first, _) = self.headers.split_first()?;
        self.headers = &[];
        Some(RedBlock { payload_type: first & 0x7f, age: 0, data: std::mem::take(&mut self.data) })
    }
}

/// Blocks of a payload; `None` if the lengths do not fit.
pub fn red_blocks(payload: &[u8]) -> Option<RedBlocks<'_>> {
    let (headers, data) = payload.split_at_checked(red_prefix_len(payload))?;
    let redundant = headers.len() / REDUNDANT_HEADER_LEN;
    let blocks = RedBlocks { headers, data };
    // The last block, behind all others, is only reached if there is room for them.
    (!headers.is_empty() && blocks.clone().count() == redundant + 1).then_some(blocks)
}

/// Whether all lengths lie within the payload and all blocks are of this payload type. Others could
/// neither be rewritten for a viewer nor left out.
pub fn is_sound(payload: &[u8], payload_type: u8) -> bool {
    red_blocks(payload)
        .is_some_and(|mut blocks| blocks.all(|block| block.payload_type == payload_type))
}

/// Primary block: the audio without headers and redundancy, for a viewer without RED. `None` if the
/// lengths do not fit.
pub fn red_primary(payload: &[u8]) -> Option<&[u8]> {
    red_blocks(payload)?.last().map(|block| block.data)
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

    fn block(payload_type: u8, age: u32, data: &[u8]) -> RedBlock<'_> {
        RedBlock { payload_type, age, data }
    }

    #[test]
    fn blocks_come_with_their_age_and_the_primary_one_last() {
        // Ages of 1920 and 960 ticks, of 2 and 1 bytes.
        let payload = [0xef, 0x1e, 0x00, 2, 0xef, 0x0f, 0x00, 1, 111, 1, 2, 3, 4, 5];
        let blocks: Vec<_> = red_blocks(&payload).unwrap().collect();
        let wanted = [block(111, 1_920, &[1, 2]), block(111, 960, &[3]), block(111, 0, &[4, 5])];
        assert_eq!(blocks, wanted);
        assert!(is_sound(&payload, 111) && !is_sound(&payload, 109));
        let mut comfort_noise = payload;
        comfort_noise[4] = 0x80 | 13;
        assert!(!is_sound(&comfort_noise, 111), "another codec inside");
    }

    #[test]
    fn primary_block_may_be_empty_and_none_may_be_longer_than_the_payload() {
        let silent = [0xef, 0x0f, 0x00, 3, 111, 1, 2, 3];
        assert!(is_sound(&silent, 111));
        assert_eq!(red_primary(&silent), Some(&[][..]));
        for cut in 0..silent.len() {
            assert!(!is_sound(&silent[..cut], 111), "{cut}");
            assert_eq!(red_primary(&silent[..cut]), None, "{cut}");
        }
        // Two lengths that fit each but not together; the largest there is.
        let both = [0xef, 0, 0, 2, 0xef, 0, 0, 2, 111, 1, 2, 3];
        assert!(!is_sound(&both, 111));
        assert!(!is_sound(&[0xef, 0xff, 0xff, 0xff, 111, 1, 2, 3], 111));
    }

    proptest::proptest! {
        /// Hostile bytes: blocks lie within the payload, in order, and end with it. A payload that
        /// is not sound has no primary block or another codec inside. Rewriting changes payload
        /// types only.
        #[test]
        fn red_blocks_stay_within_the_payload_whatever_came(
            headers in proptest::collection::vec((proptest::bool::weighted(0.8), 0u8..=255, 0u32..1 << 24), 0..40),
            audio in proptest::collection::vec(0u8..=255, 0..1_200),
            small in proptest::bool::ANY,
            to in 0u8..=255,
        ) {
            let mut payload = Vec::new();
            for (redundant, first, rest) in headers {
                // Lengths that mostly fit, or any.
                let rest = if small { rest & 0xff_fc1f } else { rest };
                let [_, a, b, c] = rest.to_be_bytes();
                match redundant {
                    true => payload.extend([first | 0x80, a, b, c]),
                    false => payload.push(first & 0x7f),
                }
            }
            payload.extend(&audio);
            let prefix = red_prefix_len(&payload);
            match red_blocks(&payload) {
                None => proptest::prop_assert!(red_primary(&payload).is_none()),
                Some(blocks) => {
                    let blocks: Vec<_> = blocks.collect();
                    let joined: Vec<u8> = blocks.iter().flat_map(|block| block.data).copied().collect();
                    proptest::prop_assert_eq!(&joined[..], &payload[prefix..]);
                    proptest::prop_assert_eq!(red_primary(&payload), blocks.last().map(|last| last.data));
                    proptest::prop_assert!(blocks.iter().all(|block| block.age < 1 << 14));
                }
            }
            let mut rewritten = payload.clone();
            let changed = rewrite_red_payload_types(&mut rewritten[..prefix], to);
            proptest::prop_assert_eq!(changed, prefix > 0);
            proptest::prop_assert_eq!(&rewritten[prefix..], &payload[prefix..]);
            if let Some(blocks) = red_blocks(&rewritten) {
                proptest::prop_assert!(is_sound(&rewritten, to & 0x7f));
                let before: Vec<_> = red_blocks(&payload).unwrap().map(|b| (b.age, b.data)).collect();
                proptest::prop_assert_eq!(blocks.map(|b| (b.age, b.data)).collect::<Vec<_>>(), before);
            }
        }
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
