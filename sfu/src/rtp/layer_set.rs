//! Sets of layers inside one stream: spatial by temporal, as one word.
//!
//! Owns the numbering of layers and nothing else. Filled by `dependency_descriptor.rs`, read by
//! `forward/layer_filter.rs`.

/// Maximum temporal layers of a stream (3 bits in each format that tells them).
pub const TEMPORAL_LAYERS_MAX: u8 = 8;

/// Maximum spatial layers of a descriptor (AV1 RTP specification section A.8.1).
pub const SPATIAL_LAYERS_MAX: u8 = 4;

/// Subset of the 4 × 8 layers that a stream can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerSet(u32);

impl LayerSet {
    /// Adds a layer; ids past the last are taken as the last.
    #[must_use]
    pub fn with(self, spatial_id: u8, temporal_id: u8) -> Self {
        Self(self.0 | bit(spatial_id, temporal_id))
    }

    /// Whether the layer is in the set; ids past the last are taken as the last.
    pub fn contains(self, spatial_id: u8, temporal_id: u8) -> bool {
        self.0 & bit(spatial_id, temporal_id) != 0
    }
}

fn bit(spatial_id: u8, temporal_id: u8) -> u32 {
    let spatial = spatial_id.min(SPATIAL_LAYERS_MAX - 1);
    let temporal = temporal_id.min(TEMPORAL_LAYERS_MAX - 1);
    1 << (spatial * TEMPORAL_LAYERS_MAX + temporal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_has_its_bit_and_those_past_the_end_share_the_last() {
        let mut all = LayerSet::default();
        for spatial in 0..SPATIAL_LAYERS_MAX {
            for temporal in 0..TEMPORAL_LAYERS_MAX {
                assert!(!all.contains(spatial, temporal));
                all = all.with(spatial, temporal);
                assert!(all.contains(spatial, temporal));
            }
        }
        let last = LayerSet::default().with(u8::MAX, u8::MAX);
        assert!(last.contains(3, 7) && last.contains(3, 200) && !last.contains(2, 200));
    }
}
