//! NACK, FIR and REMB, as received.
//!
//! Called by `rtcp::packets`. Never answers: retransmissions and keyframe requests are decided in
//! `worker/` and `repair/`.

#[cfg(feature = "internals")]
use super::report::read_ssrcs;
use super::{REMB_NAME, Reader};

/// Maximum pairs (first number and bitmask of the 16 behind it) read from or written to one NACK
/// (quality B2). Further ones are ignored when reading and refused when writing. 64 pairs name up
/// to 1,088 packets.
pub const MAX_NACK_PAIRS: usize = 64;

/// A generic NACK: packets that did not arrive (RFC 4585 section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nack<'a> {
    /// SSRC of the requester.
    pub sender_ssrc: u32,
    /// The source whose packets are missing.
    pub media_ssrc: u32,
    /// At most [`MAX_NACK_PAIRS`] pairs of four bytes.
    pairs: &'a [u8],
}

impl<'a> Nack<'a> {
    pub(super) fn parse(mut body: Reader<'a>) -> Option<Self> {
        let (sender_ssrc, media_ssrc) = (body.u32()?, body.u32()?);
        let len = body.0.len().min(MAX_NACK_PAIRS * 4);
        Some(Self { sender_ssrc, media_ssrc, pairs: body.take(len)? })
    }

    /// Number of sequence numbers that it names, counted without reading them one by one.
    pub fn count(&self) -> usize {
        let mut rest = Reader(self.pairs);
        let pairs = std::iter::from_fn(move || Some((rest.u16()?, rest.u16()?)));
        pairs.map(|(_, mask)| 1 + mask.count_ones() as usize).sum()
    }

    /// The missing sequence numbers in wire order, at most 17 for each of [`MAX_NACK_PAIRS`]. A
    /// hostile peer may repeat numbers.
    pub fn sequences(&self) -> impl Iterator<Item = u16> + use<'a> {
        let mut rest = Reader(self.pairs);
        std::iter::from_fn(move || Some((rest.u16()?, rest.u16()?))).flat_map(|(first, mask)| {
            let following = (0..16u16)
                .filter(move |bit| mask >> bit & 1 != 0)
                .map(move |bit| first.wrapping_add(bit + 1));
            std::iter::once(first).chain(following)
        })
    }
}

/// A full intra request (RFC 5104 section 4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fir<'a> {
    /// SSRC of the requester.
    pub sender_ssrc: u32,
    entries: &'a [u8],
}

impl<'a> Fir<'a> {
    pub(super) fn parse(mut body: Reader<'a>) -> Option<Self> {
        let sender_ssrc = body.u32()?;
        body.u32()?; // the media source field is unused
        Some(Self { sender_ssrc, entries: body.0 })
    }

    /// The sources asked, each with its command number; a repeated command keeps its number.
    pub fn entries(&self) -> impl Iterator<Item = (u32, u8)> + use<'a> {
        let mut rest = Reader(self.entries);
        std::iter::from_fn(move || {
            let ssrc = rest.u32()?;
            let [number, _, _, _] = rest.array()?;
            Some((ssrc, number))
        })
    }
}

/// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remb<'a> {
    /// SSRC of the reporter.
    pub sender_ssrc: u32,
    /// Bits per second for all listed sources together; `u64::MAX` when it is even larger.
    pub bitrate: u64,
    ssrcs: &'a [u8],
}

impl<'a> Remb<'a> {
    /// Whether an application-layer feedback packet is a REMB.
    pub(super) fn is_named(body: Reader<'a>) -> bool {
        body.0.get(8..12) == Some(&REMB_NAME)
    }

    pub(super) fn parse(mut body: Reader<'a>) -> Option<Self> {
        let sender_ssrc = body.u32()?;
        body.array::<8>()?; // media source, always 0, and the name
        let [count, m0, m1, m2] = body.array()?;
        let mantissa = u64::from(u32::from_be_bytes([0, m0 & 0x03, m1, m2]));
        let exponent = u32::from(m0 >> 2);
        let fits = exponent <= mantissa.leading_zeros();
        let bitrate = if fits { mantissa.unbounded_shl(exponent) } else { u64::MAX };
        let ssrcs = body.take(usize::from(count) * 4)?;
        Some(Self { sender_ssrc, bitrate, ssrcs })
    }

    /// The sources that the bitrate is for, at most 255.
    #[cfg(feature = "internals")]
    pub fn ssrcs(&self) -> impl Iterator<Item = u32> + use<'a> {
        read_ssrcs(self.ssrcs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rtcp, RtcpError, packets};
    use super::*;

    fn nack(pairs: &[(u16, u16)]) -> Vec<u8> {
        let words = u16::try_from(2 + pairs.len()).unwrap();
        let mut packet = vec![0x81, 205];
        packet.extend(words.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        for (first, mask) in pairs {
            packet.extend(first.to_be_bytes());
            packet.extend(mask.to_be_bytes());
        }
        packet
    }

    fn sequences(packet: &[u8]) -> Vec<u16> {
        let Some(Ok(Rtcp::Nack(nack))) = packets(packet).next() else { panic!("{packet:?}") };
        assert_eq!((nack.sender_ssrc, nack.media_ssrc), (1, 2));
        assert_eq!(nack.count(), nack.sequences().count());
        nack.sequences().collect()
    }

    #[test]
    fn nack_bitmask_wraps_with_the_sequence_number() {
        assert_eq!(sequences(&nack(&[(65_534, 0b1000_0000_0000_0101)])), [65_534, 65_535, 1, 14]);
        assert_eq!(sequences(&nack(&[(5, 0), (3, 1)])), [5, 3, 4]);
        assert!(sequences(&nack(&[])).is_empty());
    }

    #[test]
    fn nack_of_65_536_numbers_is_cut_at_the_limit() {
        // quality B4 item 9
        let all: Vec<_> = (0..65_536u32).step_by(17).map(|n| (n as u16, 0xffff)).collect();
        let asked = sequences(&nack(&all));
        assert_eq!(asked.len(), MAX_NACK_PAIRS * 17);
        assert_eq!(asked.last(), Some(&1_087));
        assert_eq!(sequences(&nack(&all[..MAX_NACK_PAIRS])).len(), MAX_NACK_PAIRS * 17);
    }

    #[test]
    fn fir_entries_are_read_whole() {
        let fir = [
            0x84, 206, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 9, 0, 0, 0, 0, 0, 0, 3, 10, 1, 1,
            1,
        ];
        let Some(Ok(Rtcp::Fir(whole))) = packets(&fir).next() else { panic!() };
        assert_eq!(whole.entries().collect::<Vec<_>>(), [(2, 9), (3, 10)]);
        let mut short = fir;
        short[3] = 5;
        let Some(Ok(Rtcp::Fir(cut))) = packets(&short[..24]).next() else { panic!() };
        assert_eq!(cut.entries().collect::<Vec<_>>(), [(2, 9)]);
    }

    #[test]
    fn remb_from_zero_to_beyond_every_number() {
        // quality B4 item 11
        for (exponent, mantissa, bitrate) in [
            (0u32, 0u32, 0),
            (63, 0, 0),
            (0, 250_000, 250_000),
            (46, 0x3ffff, 0x3ffff << 46),
            (47, 0x3ffff, u64::MAX),
            (63, 1, 1 << 63),
            (63, 2, u64::MAX),
        ] {
            let mut packet = vec![0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
            packet.extend(b"REMB");
            packet.extend((1 << 24 | exponent << 18 | mantissa).to_be_bytes());
            packet.extend([0, 0, 0, 7]);
            let Some(Ok(Rtcp::Remb(remb))) = packets(&packet).next() else { panic!() };
            assert_eq!(remb.bitrate, bitrate, "{mantissa} << {exponent}");
            assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [7]);
            packet[16] = 2; // claims one source more than there is
            assert_eq!(packets(&packet).next(), Some(Err(RtcpError::TooShort)));
        }
    }
}
