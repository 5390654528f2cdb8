//! RTP header extensions: which we know, their ids per m-line, reading and writing them.
//!
//! Owns the two element forms of RFC 8285. Never knows which id means what: the id map of an
//! m-line is made in `sdp/` and applied by `forward/` (whip-whep G10). Called for each incoming
//! packet that carries a block (OBS sends ids 1 and 2 unasked, whip-whep C59), and for each
//! packet that leaves.

use super::reader::Reader;

/// A header extension that Weir reads, writes or forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExtKind {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143)
    Mid,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id` (RFC 8852)
    Rid,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id` (RFC 8852)
    RepairedRid,
    /// transport-wide congestion control sequence number
    /// (`http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01`)
    TransportCc,
    /// `urn:ietf:params:rtp-hdrext:ssrc-audio-level` (RFC 6464)
    AudioLevel,
    /// `urn:3gpp:video-orientation`
    VideoOrientation,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`
    PlayoutDelay,
    /// AV1 dependency descriptor
    /// (`https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension`)
    DependencyDescriptor,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00`
    VideoLayersAllocation,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`
    AbsCaptureTime,
}

impl ExtKind {
    /// Every extension that Weir knows, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::Mid,
        Self::Rid,
        Self::RepairedRid,
        Self::TransportCc,
        Self::AudioLevel,
        Self::VideoOrientation,
        Self::PlayoutDelay,
        Self::DependencyDescriptor,
        Self::VideoLayersAllocation,
        Self::AbsCaptureTime,
    ];

    /// The URI that stands in `a=extmap`.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Self::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Self::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Self::TransportCc => {
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
            }
            Self::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Self::VideoOrientation => "urn:3gpp:video-orientation",
            Self::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Self::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Self::VideoLayersAllocation => {
                "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00"
            }
            Self::AbsCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        }
    }

    /// The extension with exactly this URI, if Weir knows it.
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.uri() == uri)
    }
}

/// Profile word of the one-byte form (RFC 8285 section 4.2).
pub const PROFILE_ONE_BYTE: u16 = 0xbede;

/// Profile word of the two-byte form with application bits zero (RFC 8285 section 4.3).
pub const PROFILE_TWO_BYTE: u16 = 0x1000;

/// Elements read from one block; further ones are ignored. Padding does not count.
pub const MAX_ELEMENTS: usize = 16;

/// Reads the elements of an extension block, `block` being the bytes after its 4-byte header.
///
/// Both forms of RFC 8285 by `profile`; any other profile yields nothing. Ends silently at the
/// first element that overruns the block, at [`MAX_ELEMENTS`], and in the one-byte form at id 15
/// and at id 0 with a length (section 4.2).
pub fn elements(profile: u16, block: &[u8]) -> Elements<'_> {
    let two_byte = profile & 0xfff0 == PROFILE_TWO_BYTE;
    let known = two_byte || profile == PROFILE_ONE_BYTE;
    let left = if known { MAX_ELEMENTS } else { 0 };
    Elements { rest: Reader(block), two_byte, left }
}

/// Iterator of [`elements`]: id and data, in wire order.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: Reader<'a>,
    two_byte: bool,
    left: usize,
}

impl<'a> Elements<'a> {
    fn read(&mut self) -> Option<(u8, &'a [u8])> {
        let first = loop {
            match self.rest.u8()? {
                0 => {}
                other => break other,
            }
        };
        let (id, len) = if self.two_byte {
            (first, usize::from(self.rest.u8()?))
        } else {
            match first >> 4 {
                0 | 15 => return None,
                id => (id, usize::from(first & 0x0f) + 1),
            }
        };
        Some((id, self.rest.take(len)?))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let element = self.read();
        if element.is_none() {
            self.left = 0;
        }
        element
    }
}

/// Bytes of the block header: profile word and length in 32-bit words.
const BLOCK_HEADER_LEN: usize = 4;

/// Writes one extension block. The header's X bit is the caller's to set when
/// [`finish`](Self::finish) returned more than zero.
#[derive(Debug)]
pub struct ExtWriter<'a> {
    buf: &'a mut [u8],
    two_byte: bool,
    /// Bytes of elements written behind the block header.
    used: usize,
}

impl<'a> ExtWriter<'a> {
    /// Starts a block at `buf[0]`: pass the bytes directly behind the fixed header and CSRCs.
    /// The two-byte form needs `a=extmap-allow-mixed` or a peer that only uses it (RFC 8285
    /// section 4.1.2).
    pub fn new(buf: &'a mut [u8], two_byte: bool) -> Self {
        Self { buf, two_byte, used: 0 }
    }

    /// Appends an element. False, and nothing changed, when this form cannot say it (one-byte:
    /// id 1 to 14 and 1 to 16 bytes; two-byte: id 1 to 255 and at most 255 bytes) or the block
    /// with its final padding would not fit.
    pub fn push(&mut self, id: u8, data: &[u8]) -> bool {
        self.try_push(id, data).is_some()
    }

    fn try_push(&mut self, id: u8, data: &[u8]) -> Option<()> {
        let len = u8::try_from(data.len()).ok()?;
        let head: &[u8] = match (self.two_byte, id, len) {
            (true, 1.., _) => &[id, len],
            (false, 1..=14, 1..=16) => &[id << 4 | (len - 1)],
            _ => return None,
        };
        let used = self.used + head.len() + data.len();
        let words = u16::try_from(used.div_ceil(4)).ok()?;
        if BLOCK_HEADER_LEN + 4 * usize::from(words) > self.buf.len() {
            return None;
        }
        let room = self.buf.get_mut(BLOCK_HEADER_LEN + self.used..BLOCK_HEADER_LEN + used)?;
        let (head_room, data_room) = room.split_at_mut_checked(head.len())?;
        head_room.copy_from_slice(head);
        data_room.copy_from_slice(data);
        self.used = used;
        Some(())
    }

    /// Completes the block and returns its length in bytes: 4-byte header, elements, and zero
    /// padding to 32 bits. Returns 0 and leaves the buffer alone if nothing was pushed.
    pub fn finish(self) -> usize {
        if self.used == 0 {
            return 0;
        }
        let body = self.used.next_multiple_of(4);
        let profile = if self.two_byte { PROFILE_TWO_BYTE } else { PROFILE_ONE_BYTE };
        let words = u16::try_from(body / 4).expect("push checked the length field");
        let (header, elements) =
            self.buf.split_first_chunk_mut::<BLOCK_HEADER_LEN>().expect("push checked the room");
        let [p0, p1] = profile.to_be_bytes();
        let [w0, w1] = words.to_be_bytes();
        *header = [p0, p1, w0, w1];
        for byte in elements.iter_mut().take(body).skip(self.used) {
            *byte = 0;
        }
        BLOCK_HEADER_LEN + body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(profile: u16, block: &[u8]) -> Vec<(u8, Vec<u8>)> {
        elements(profile, block).map(|(id, data)| (id, data.to_vec())).collect()
    }

    #[test]
    fn uris_round_trip_and_are_unique() {
        for &kind in ExtKind::ALL {
            assert_eq!(ExtKind::from_uri(kind.uri()), Some(kind));
        }
        assert_eq!(ExtKind::from_uri("urn:ietf:params:rtp-hdrext:toffset"), None);
    }

    #[test]
    fn obs_mid_and_rid_are_read_whatever_was_negotiated() {
        // whip-whep C59: id 1 = mid "1", id 2 = rid "0".
        let block = [0x10, b'1', 0x20, b'0'];
        assert_eq!(read(PROFILE_ONE_BYTE, &block), [(1, b"1".to_vec()), (2, b"0".to_vec())]);
    }

    #[test]
    fn one_byte_form_ends_at_the_reserved_ids() {
        assert_eq!(read(0xbede, &[0, 0x10, 7, 0]), [(1, vec![7])], "padding before and after");
        assert_eq!(read(0xbede, &[0x10, 7, 0xf0, 0, 0x20, 9]), [(1, vec![7])], "id 15 stops");
        assert_eq!(read(0xbede, &[0x10, 7, 0x01, 0, 0, 0x20, 9]), [(1, vec![7])], "id 0 + length");
        assert_eq!(read(0xbede, &[0x10, 7, 0x22, 9, 9]), [(1, vec![7])], "overruns the block");
    }

    #[test]
    fn two_byte_form_takes_big_ids_empty_data_and_application_bits() {
        let block = [15, 1, 7, 0, 200, 0, 3, 2, 1, 2, 4, 9, 1];
        let expected = [(15, vec![7]), (200, vec![]), (3, vec![1, 2])];
        assert_eq!(read(0x1000, &block), expected);
        assert_eq!(read(0x100f, &block), expected);
    }

    #[test]
    fn other_profiles_yield_nothing() {
        for profile in [0, 0x0fff, 0x1010, 0xbedd, 0xffff] {
            assert_eq!(read(profile, &[0x10, 7]), []);
        }
    }

    #[test]
    fn elements_at_and_past_the_limit() {
        let block = [0x10, 7].repeat(MAX_ELEMENTS + 1);
        assert_eq!(read(0xbede, &block[2..]).len(), MAX_ELEMENTS);
        assert_eq!(read(0xbede, &block).len(), MAX_ELEMENTS);
    }

    #[test]
    fn writer_pads_to_words_and_refuses_what_the_form_cannot_hold() {
        let mut buf = [0xaa; 64];
        let mut writer = ExtWriter::new(&mut buf, false);
        for (id, data) in [(0, &[1][..]), (15, &[1]), (1, &[]), (1, &[0; 17])] {
            assert!(!writer.push(id, data), "id {id}, {} bytes", data.len());
        }
        assert!(writer.push(4, b"0"));
        assert!(writer.push(14, &[9; 16]));
        assert_eq!(writer.finish(), 4 + 20);
        assert_eq!(buf[..8], [0xbe, 0xde, 0, 5, 0x40, b'0', 0xef, 9]);
        assert_eq!(buf[22..25], [9, 0, 0xaa], "one byte of padding, and not more");

        let mut writer = ExtWriter::new(&mut buf, true);
        assert!(!writer.push(0, &[1]));
        assert!(!writer.push(1, &[0; 256]));
        assert!(writer.push(15, &[]) && writer.push(255, &[1, 2, 3]));
        assert_eq!(writer.finish(), 12);
        assert_eq!(buf[..12], [0x10, 0, 0, 2, 15, 0, 255, 3, 1, 2, 3, 0]);
    }

    #[test]
    fn writer_at_and_past_the_end_of_the_buffer() {
        let mut buf = [0xaa; 8];
        let mut writer = ExtWriter::new(&mut buf, false);
        assert!(writer.push(1, &[1, 2, 3]));
        assert!(!writer.push(2, &[1]));
        assert_eq!(writer.finish(), 8);
        assert!(!ExtWriter::new(&mut buf[..7], false).push(1, &[1]), "padding must fit as well");
        assert_eq!(ExtWriter::new(&mut [], false).finish(), 0);
    }
}
