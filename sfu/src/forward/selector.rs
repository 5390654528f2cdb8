//! Order of a track's layers by quality, and its best live layer. Looks at measurements only, never
//! at rid names or arrival order (field D2), and not yet at any viewer's bandwidth.
//!
//! A viewer's own preference is in `layer_preference.rs`.

use std::time::Duration;

use crate::ids::{LAYERS_MAX, LayerIdx};

/// Measurements of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerView {
    /// Whether a packet came within [`dead_after`].
    pub live: bool,
    /// Width and height of the last keyframe that reported them.
    pub size: Option<(u16, u16)>,
    /// Bits per second over the last second.
    pub bitrate: u64,
}

/// Silence after which another layer is sent instead (quality A2.2 item 6). With the time until the
/// next check this is half a second.
const LAYER_DEAD_AFTER: Duration = Duration::from_millis(450);

/// Maximum silence of a live layer: layers of a still screen have long frame intervals.
const LAYER_DEAD_AFTER_MAX: Duration = Duration::from_secs(3);

/// The silence after which a layer with this usual frame interval is dead: three intervals.
pub fn dead_after(frame_interval: Option<Duration>) -> Duration {
    let usual = frame_interval.unwrap_or_default();
    usual.saturating_mul(3).clamp(LAYER_DEAD_AFTER, LAYER_DEAD_AFTER_MAX)
}

impl LayerView {
    /// Whether the layer ever sent anything.
    pub fn is_known(&self) -> bool {
        self.live || self.size.is_some()
    }

    /// Order of layers: measured size, then measured rate. Unknown sizes count as smaller than any
    /// known one.
    pub fn weight(&self) -> (Option<u32>, u64) {
        (self.size.map(|(width, height)| u32::from(width) * u32::from(height)), self.bitrate)
    }
}

/// Views of a track's layers, in the publisher's order. A list on the stack, because layers are
/// chosen on the packet path.
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
    fn largest_size_is_chosen_in_any_order() {
        let small = layer(true, Some((320, 180)), 900_000);
        let large = layer(true, Some((1280, 720)), 300_000);
        assert_eq!(largest_live([small, large].into_iter()), Some(LayerIdx(1)));
        assert_eq!(largest_live([large, small].into_iter()), Some(LayerIdx(0)));
    }

    #[test]
    fn dead_layer_is_not_chosen() {
        let dead = layer(false, Some((1280, 720)), 0);
        let live = layer(true, Some((640, 360)), 500_000);
        assert_eq!(largest_live([dead, live].into_iter()), Some(LayerIdx(1)));
        assert_eq!(largest_live([dead].into_iter()), None);
    }

    #[test]
    fn highest_bitrate_is_chosen_without_sizes() {
        let low = layer(true, None, 100_000);
        let high = layer(true, None, 200_000);
        assert_eq!(largest_live([low, high, low].into_iter()), Some(LayerIdx(1)));
    }
}
