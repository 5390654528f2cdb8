//! The video layers allocation extension (webrtc.org experiment `video-layers-allocation00`).
//!
//! It tells what a publisher will send on each simulcast and spatial layer before it sends it. Owns
//! the layout only. Never decides which layer is taken and keeps nothing between packets. Called by
//! `worker/packet_inspector.rs` for the few packets that carry it.

use super::reader::Reader;

/// RTP streams (simulcast layers) of one allocation; the format cannot count further.
pub const STREAMS_MAX: usize = 4;

/// Spatial layers of one stream; the format cannot count further.
pub const SPATIAL_MAX: usize = 4;

/// Temporal layers of one spatial layer; the format cannot count further.
pub const TEMPORAL_MAX: usize = 4;

/// One active spatial layer of one RTP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllocatedLayer {
    /// RTP stream, from 0 in the order of the publisher's encodings.
    pub stream: u8,
    /// Spatial layer, 0 to 3.
    pub spatial_id: u8,
    /// Temporal layers, 1 to 4.
    pub temporal_layers: u8,
    /// Target in kbit/s up to each temporal layer, with everything it is built on; zero in those
    /// past the last.
    pub kbps: [u32; TEMPORAL_MAX],
    /// Width and height in pixels, if signalled.
    pub size: Option<(u16, u16)>,
    /// Highest frame rate in frames per second, if signalled.
    pub fps: Option<u8>,
}

/// Content of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayersAllocation {
    /// The RTP stream whose packet carried it.
    pub stream: u8,
    layers: [AllocatedLayer; STREAMS_MAX * SPATIAL_MAX],
    count: usize,
}

impl LayersAllocation {
    /// Reads the element's data. `None` if it ends early or has bytes left over.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let mut rest = Reader(data);
        let head = rest.u8()?;
        let mut allocation = Self { stream: head >> 6, layers: Default::default(), count: 0 };
        if data == [0] {
            return Some(allocation); // nothing is sent
        }
        let streams = (head >> 4 & 3) + 1;
        let masks = spatial_masks(head & 0x0f, streams, &mut rest)?;
        for (stream, mask) in (0..streams).zip(masks) {
            for spatial_id in (0..SPATIAL_MAX as u8).filter(|id| mask >> id & 1 != 0) {
                let layer = AllocatedLayer { stream, spatial_id, ..AllocatedLayer::default() };
                *allocation.layers.get_mut(allocation.count)? = layer;
                allocation.count += 1;
            }
        }
        let layers = allocation.layers.get_mut(..allocation.count)?;
        for four in layers.chunks_mut(4) {
            let counts = rest.u8()?;
            for (layer, shift) in four.iter_mut().zip([6, 4, 2, 0]) {
                layer.temporal_layers = (counts >> shift & 3) + 1;
            }
        }
        for layer in &mut *layers {
            for kbps in layer.kbps.iter_mut().take(layer.temporal_layers.into()) {
                *kbps = leb128(&mut rest)?;
            }
        }
        if !rest.0.is_empty() {
            for layer in &mut *layers {
                // Each side is coded less one.
                let size = (rest.u16()?.saturating_add(1), rest.u16()?.saturating_add(1));
                layer.size = Some(size);
                layer.fps = Some(rest.u8()?);
            }
        }
        rest.0.is_empty().then_some(allocation)
    }

    /// The active layers, by stream and then by spatial id.
    pub fn layers(&self) -> &[AllocatedLayer] {
        self.layers.get(..self.count).unwrap_or(&[])
    }

    /// Width and height of the largest spatial layer of the stream that carried this.
    pub fn own_size(&self) -> Option<(u16, u16)> {
        let own = self.layers().iter().filter(|layer| layer.stream == self.stream);
        own.filter_map(|layer| layer.size).next_back()
    }
}

/// The mask of active spatial layers of each stream: one for all, or four bits for each.
fn spatial_masks(shared: u8, streams: u8, rest: &mut Reader<'_>) -> Option<[u8; STREAMS_MAX]> {
    if shared != 0 {
        return Some([shared; STREAMS_MAX]);
    }
    let first = rest.u8()?;
    let second = if streams > 2 { rest.u8()? } else { 0 };
    Some([first >> 4, first & 0x0f, second >> 4, second & 0x0f])
}

/// Little-endian base 128 number below 2^32 (AV1 section 4.10.5).
fn leb128(rest: &mut Reader<'_>) -> Option<u32> {
    let mut value = 0u64;
    for group in 0..5 {
        let byte = rest.u8()?;
        value |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kbps(allocation: &LayersAllocation) -> Vec<(u8, u8, Vec<u32>)> {
        let told = |layer: &AllocatedLayer| layer.kbps[..layer.temporal_layers.into()].to_vec();
        let layers = allocation.layers().iter();
        layers.map(|layer| (layer.stream, layer.spatial_id, told(layer))).collect()
    }

    #[test]
    fn three_simulcast_layers_with_sizes() {
        // Stream 1 of 3, one spatial layer each; one temporal layer each.
        let mut data = vec![0x40 | 0x20 | 0x01, 0x00];
        data.extend([100, 0x80 | 0x74, 0x03, 0x80 | 0x44, 0x13]); // 100, 500, 2,500 kbit/s
        for (width, height) in [(320u16, 180u16), (640, 360), (1280, 720)] {
            data.extend((width - 1).to_be_bytes());
            data.extend((height - 1).to_be_bytes());
            data.push(30);
        }
        let read = LayersAllocation::parse(&data).unwrap();
        assert_eq!(read.stream, 1);
        assert_eq!(kbps(&read), [(0, 0, vec![100]), (1, 0, vec![500]), (2, 0, vec![2500])]);
        assert_eq!(read.layers()[2].size, Some((1280, 720)));
        assert_eq!((read.own_size(), read.layers()[0].fps), (Some((640, 360)), Some(30)));
        for cut in 0..data.len() {
            let short = LayersAllocation::parse(&data[..cut]);
            assert!(short.is_none_or(|short| short.own_size().is_none()), "{cut}");
        }
        data.push(0);
        assert_eq!(LayersAllocation::parse(&data), None, "bytes left over");
    }

    #[test]
    fn spatial_and_temporal_layers_of_one_stream() {
        // Three spatial layers with 1, 2 and 3 temporal ones.
        let read = LayersAllocation::parse(&[0x07, 0b0001_1000, 10, 20, 30, 40, 50, 60]).unwrap();
        assert_eq!(kbps(&read), [(0, 0, vec![10]), (0, 1, vec![20, 30]), (0, 2, vec![40, 50, 60])]);
        assert_eq!(read.own_size(), None, "no sizes told");
    }

    #[test]
    fn masks_that_differ_take_half_a_byte_for_each_stream() {
        for (streams, masks, layers) in
            [(1, &[0x10][..], 1), (2, &[0x13], 3), (3, &[0x13, 0x40], 4), (4, &[0xff, 0xff], 16)]
        {
            let mut data = [&[(streams - 1) << 4][..], masks].concat();
            data.extend(vec![0; usize::div_ceil(layers, 4)]);
            data.extend(vec![1; layers]);
            let read = LayersAllocation::parse(&data).unwrap();
            assert_eq!(read.layers().len(), layers, "{streams} streams");
        }
        let paused = LayersAllocation::parse(&[0x20, 0x00, 0x10, 0x00, 9]).unwrap();
        assert_eq!(kbps(&paused), [(2, 0, vec![9])], "only the third is sent");
    }

    #[test]
    fn nothing_sent_is_one_zero_byte() {
        let read = LayersAllocation::parse(&[0]).unwrap();
        assert!(read.layers().is_empty() && read.own_size().is_none());
        assert_eq!(LayersAllocation::parse(&[]), None);
    }

    #[test]
    fn bitrates_beyond_32_bits_are_refused() {
        let rate = |leb: &[u8]| LayersAllocation::parse(&[&[0x01, 0x00], leb].concat());
        let most = rate(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap();
        assert_eq!(most.layers()[0].kbps[0], u32::MAX);
        assert_eq!(rate(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
        assert_eq!(rate(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x00]), None);
    }
}
