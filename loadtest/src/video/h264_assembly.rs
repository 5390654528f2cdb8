//! One received H.264 frame: depacketizer (RFC 6184, packetization mode 1) and check of its NAL
//! units.
//!
//! Called by `assembly`. The publisher's side is `h264`.

use super::frame_content::FrameContent;
use super::h264;
use super::size::SIZES;
use crate::flaw::Flaw;
use crate::stamp::{self, Stamp};

/// The NAL units of one frame.
#[derive(Debug, Default)]
pub(crate) struct H264Assembly {
    /// NAL units, each after a start code.
    pub(super) data: Vec<u8>,
    /// Offsets in `data` at which NAL units begin.
    nals: Vec<usize>,
    /// Whether the last payload began or continued a fragmented NAL unit that has not ended.
    fragment_open: bool,
}

impl H264Assembly {
    /// Adds a single NAL unit, a STAP-A or a FU-A. `false` for any other payload, and for a
    /// fragment out of place.
    pub(super) fn push(&mut self, payload: &[u8]) -> bool {
        let Some((header, body)) = payload.split_first() else { return false };
        match header & 0x1f {
            1..=23 if !self.fragment_open => {
                self.begin_nal(&[], payload);
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
                    self.begin_nal(&[], nal);
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
                    self.begin_nal(&[(header & 0xe0) | (fu & 0x1f)], piece);
                } else {
                    self.data.extend_from_slice(piece);
                }
                self.fragment_open = !end;
                true
            }
            _ => false,
        }
    }

    fn begin_nal(&mut self, header: &[u8], body: &[u8]) {
        self.data.extend_from_slice(&[0, 0, 0, 1]);
        self.nals.push(self.data.len());
        self.data.extend_from_slice(header);
        self.data.extend_from_slice(body);
    }

    pub(super) fn inspect(&self) -> Result<FrameContent, Flaw> {
        if self.fragment_open {
            return Err(Flaw::Incomplete);
        }
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
            return Ok(FrameContent { key, stamp: None });
        };
        let mut crc = crc32fast::Hasher::new();
        nals.iter().for_each(|nal| h264::crc_of_nal(&mut crc, nal));
        if crc.finalize() != sent_crc || stamp.key != key {
            return Err(Flaw::Altered);
        }
        let is_ours = |sps: &[u8]| SIZES.iter().any(|size| sps == h264::sps(*size));
        if key
            && !(sps.is_some_and(|sps| is_ours(sps)) && pps.is_some_and(|pps| *pps == h264::pps()))
        {
            return Err(Flaw::ParameterSets);
        }
        Ok(FrameContent { key, stamp: Some(stamp) })
    }
}
