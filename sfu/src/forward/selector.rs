//! The layers of a track in the order of what they show, and the best one alive. Looks at measurements
//! only, never at rid names or arrival order (field D2), and not yet at any viewer's bandwidth.
//!
//! What a viewer asked for itself is in `layer_preference.rs`.

use std::time::Duration;

use crate::ids::{LAYERS_MAX, LayerIdx};

/// What is known of one layer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerView {
    /// A packet came within [`dead_after`].
    pub live: bool,
    /// Width and height of the last keyframe that told them.
    pub size: Option<(u16, u16)>,
    /// Bits per second over the last second.
    pub bitrate: u64,
}

/// A layer without packets for this long is left for the next one (quality A2.2 item 6): with the time until
/// somebody looks, half a second.
const LAYER_DEAD_AFTER: Duration = Duration::from_millis(450);

/// Layers of a still screen come seldom; this long, however seldom.
const LAYER_DEAD_AFTER_MAX: Duration = Duration::from_secs(3);

/// The silence after which a layer is dead whose frames usually come this far apart: three of them.
pub fn dead_after(frame_interval: Option<Duration>) -> Duration {
    let usual = frame_interval.unwrap_or_default();
    usual.saturating_mul(3).clamp(LAYER_DEAD_AFTER, LAYER_DEAD_AFTER_MAX)
}

impl LayerView {
    /// Whether it ever sent anything, as far as this tells.
    pub fn is_known(&self) -> bool {
        self.live || self.size.is_some()
    }

    /// What layers are ordered by: measured size, then measured rate. Unknown sizes count as smaller
    /// than any known one.
    pub fn weight(&self) -> (Option<u32>, u64) {
        (self.size.map(|(width, height)| u32::from(width) * u32::from(height)), self.bitrate)
    }
}

/// The views of a track's layers, in the publisher's order. A list on the stack, because layers are chosen on the
/// packet path.
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerViews {
    views: [LayerView; LAYERS_MAX],
    len: usize,
}

impl FromIterator<LayerView> for LayerViews {
    /// Takes at most [`LAYERS_MAX`] layers; a track has no more.
    fn from_iter<T: IntoIterator<Item = LayerView>>(layers: T) -> Self {
        let mut all = Self::default();
        for (slot, view) in all.views.iter_mut().zip(layers) {
            *slot = view;
            all.len += 1;
        }
        all
    }
}

impl std::ops::Deref for LayerViews {
    type Target = [LayerView];

    fn deref(&self) -> &[LayerView] {
        self.views.get(..self.len).unwrap_or(&[])
    }
}

/// The largest live layer; the first of equals.
pub fn largest_live(layers: impl Iterator<Item = LayerView>) -> Option<LayerIdx> {
    LayerIdx::all()
        .zip(layers)
        .filter(|(_, layer)| layer.live)
        .max_by_key(|(index, layer)| (layer.weight(), u8::MAX - index.0))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(live: bool, size: Option<(u16, u16)>, bitrate: u64) -> LayerView {
        LayerView { live, size, bitrate }
    }

    #[test]
    fn size_decides_whatever_the_order() {
        let small = layer(true, Some((320, 180)), 900_000);
        let large = layer(true, Some((1280, 720)), 300_000);
        assert_eq!(largest_live([small, large].into_iter()), Some(LayerIdx(1)));
        assert_eq!(largest_live([large, small].into_iter()), Some(LayerIdx(0)));
    }

    #[test]
    fn a_dead_layer_is_passed_over() {
        let dead = layer(false, Some((1280, 720)), 0);
        let live = layer(true, Some((640, 360)), 500_000);
        assert_eq!(largest_live([dead, live].into_iter()), Some(LayerIdx(1)));
        assert_eq!(largest_live([dead].into_iter()), None);
    }

    #[test]
    fn without_sizes_the_bitrate_decides() {
        let low = layer(true, None, 100_000);
        let high = layer(true, None, 200_000);
        assert_eq!(largest_live([low, high, low].into_iter()), Some(LayerIdx(1)));
    }
}
