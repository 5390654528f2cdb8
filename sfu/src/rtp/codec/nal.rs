//! Parts common to H.264 and H.265 payloads: aggregation packets, messages and cropped sizes.

use crate::rtp::reader::Reader;
use crate::rtp::unit_parts::UnitParts;

/// The NAL units of an aggregation packet behind its payload header: each with a 16-bit size
/// (RFC 6184 section 5.7.1, RFC 7798 section 4.4.2). Ends at the first size that overruns.
pub(super) fn aggregated(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Reader(bytes);
    std::iter::from_fn(move || {
        let size = rest.u16()?;
        rest.take(usize::from(size))
    })
}

/// A part of a NAL unit, in a fragmentation unit (RFC 6184 section 5.8, RFC 7798 section 4.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Header of the whole unit; that of H.264 is one byte long.
    header: [u8; 2],
    header_len: usize,
    /// First part.
    pub begins: bool,
    /// Last part.
    pub ends: bool,
    /// Bytes of the unit behind its header.
    pub body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// A fragment with this FU header.
    pub(super) fn new(header: [u8; 2], header_len: usize, fu: u8, body: &'a [u8]) -> Self {
        Self { header, header_len, begins: fu & 0x80 != 0, ends: fu & 0x40 != 0, body }
    }

    /// Header of the whole unit.
    pub fn header(&self) -> &[u8] {
        self.header.get(..self.header_len).unwrap_or(&self.header)
    }
}

/// What a payload of H.264 or H.265 says of the frame it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// Nothing but access unit delimiters, which no decoder needs.
    Delimiter,
    /// Nothing but units that come before the slices, such as SEI.
    Preamble,
    /// A slice that no frame (H.265: of its sub-layer) refers to, and nothing that others need.
    Unreferenced,
    /// Anything else.
    Referenced,
}

/// First header bytes of the NAL units of a payload; of a part of a unit that of the whole one.
pub(super) fn unit_headers<'a>(
    fragment: Option<Fragment<'a>>,
    units: impl Iterator<Item = &'a [u8]>,
) -> impl Iterator<Item = u8> {
    let whole = fragment.is_none().then_some(units).into_iter().flatten();
    let units = whole.filter_map(|unit| unit.first().copied());
    fragment.map(|part| part.header[0]).into_iter().chain(units)
}

/// Types of the units that come before the slices of a picture.
pub(super) struct Preamble {
    /// Access unit delimiter.
    pub(super) delimiter: u8,
    /// Whether a type is one of them, a delimiter included.
    pub(super) holds: fn(u8) -> bool,
}

impl Preamble {
    /// Judges a payload by the types of its units, which `types` tells anew each time.
    /// `is_unreferenced` judges one with slices.
    pub(super) fn judge<T: Iterator<Item = u8>>(
        &self,
        types: impl Fn() -> T,
        is_unreferenced: impl FnOnce() -> bool,
    ) -> Reference {
        let some = types().next().is_some();
        if some && types().all(|kind| kind == self.delimiter) {
            Reference::Delimiter
        } else if some && types().all(self.holds) {
            Reference::Preamble
        } else if is_unreferenced() {
            Reference::Unreferenced
        } else {
            Reference::Referenced
        }
    }
}

/// Payload type of a recovery point message (H.264 section D.1.1, H.265 section D.2.1).
const RECOVERY_POINT: u8 = 6;

/// Whether supplemental enhancement information, behind the NAL unit header, holds a recovery
/// point. Types and sizes above 254 are sums of bytes (H.264 section 7.3.2.3.1).
pub(super) fn has_recovery_point(body: &[u8]) -> bool {
    let mut rest = Reader(body);
    let mut next = || {
        let message = rest.u8()?;
        let mut unread = message;
        while unread == 0xff {
            unread = rest.u8()?; // no recovery point, and its type does not matter
        }
        let mut size = 0usize;
        loop {
            let byte = rest.u8()?;
            size += usize::from(byte);
            if byte != 0xff {
                break;
            }
        }
        rest = Reader(rest.0.get(size..).unwrap_or_default());
        Some(message)
    };
    // Emulation prevention bytes are left in: at worst, a later message is missed.
    std::iter::from_fn(&mut next).any(|message| message == RECOVERY_POINT)
}

/// Parts of a slice with this body. It is the first of its picture if `first_mb_in_slice` is 0, an
/// Exp-Golomb number (H.264 section 7.3.3), or by `first_slice_segment_in_pic_flag` (H.265 section
/// 7.3.6.1): the first bit in either.
pub(super) fn slice_parts(body: &[u8]) -> UnitParts {
    match body.first() {
        Some(0x80..) => UnitParts::PICTURE.with(UnitParts::FIRST_SLICE),
        _ => UnitParts::PICTURE,
    }
}

/// Samples of one luma column and row that a chroma sample covers, by `chroma_format_idc`
/// (H.264 table 6-1, H.265 table 6-1).
pub(super) fn chroma_subsampling(chroma_format_idc: u32) -> (u64, u64) {
    match chroma_format_idc {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    }
}

/// Size after cropping; `None` if nothing is left or it does not fit 16 bits. Each crop is a sum
/// of two offsets in `unit`s.
pub(super) fn cropped(
    (width, height): (u64, u64),
    (crop_x, crop_y): (u64, u64),
    unit: (u64, u64),
) -> Option<(u16, u16)> {
    let left = |size: u64, crop: u64, unit: u64| {
        let size = size.checked_sub(crop.checked_mul(unit)?)?;
        u16::try_from(size).ok().filter(|&size| size > 0)
    };
    Some((left(width, crop_x, unit.0)?, left(height, crop_y, unit.1)?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Bytes of a hexadecimal literal.
    pub(in crate::rtp::codec) fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().map(|c| c.to_digit(16).expect("hexadecimal") as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn cropping_to_nothing_or_beyond_16_bits_is_no_size() {
        assert_eq!(cropped((64, 64), (0, 4), (2, 2)), Some((64, 56)));
        assert_eq!(cropped((64, 64), (32, 0), (2, 2)), None);
        assert_eq!(cropped((64, 64), (u64::MAX, 0), (2, 2)), None);
        assert_eq!(cropped((65_535, 16), (0, 0), (1, 1)), Some((65_535, 16)));
        assert_eq!(cropped((65_536, 16), (0, 0), (1, 1)), None);
    }
}
