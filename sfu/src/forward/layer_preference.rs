//! A viewer's layer preference for one track, and the layer that follows from it.
//!
//! Pure: a preference and the measurements of the layers give a layer and its reason. Layers are
//! ordered by measurements; a rid is only a name (field D2). Set over HTTP (whip-whep E9), carried
//! to the worker by `worker/preference_mailbox.rs`. Called by `worker/subscription.rs` whenever the
//! layers or the preference change.

use serde::Serialize;

use super::decision::Reason;
use super::selector::{LayerView, largest_live};
use crate::ids::LayerIdx;

/// A viewer's preference for one track. The default is the automatic choice. A preference applies
/// for the whole session, also to a publisher that returns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LayerPreference {
    /// Exactly this layer, by the publisher's rid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<Box<str>>,
    /// Exactly this layer by size, 0 for the smallest. `rid` takes precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spatial_layer: Option<u8>,
    /// Temporal layers up to this one, 0 for the lowest frame rate. Frames that no frame refers to
    /// count as layer 1 where the stream has no ids. A stream with neither is sent as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal_layer: Option<u8>,
    /// Maximum layer by size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_spatial_layer: Option<u8>,
    /// Temporal layers up to this one; the lower of this and `temporal_layer` applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_temporal_layer: Option<u8>,
    /// Maximum width of a layer, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_width: Option<u16>,
    /// Maximum height of a layer, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_height: Option<u16>,
}

/// A layer that should be sent, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The layer.
    pub layer: LayerIdx,
    /// Reason for this layer.
    pub reason: Reason,
}

impl LayerPreference {
    /// Whether the preference is the automatic choice.
    pub fn is_automatic(&self) -> bool {
        *self == Self::default()
    }

    /// The highest temporal layer to forward, if there is a limit.
    pub fn temporal_cap(&self) -> Option<u8> {
        self.temporal_layer.into_iter().chain(self.max_temporal_layer).min()
    }

    /// The layer to forward. `rids` and `layers` are the publisher's, in the same order. `None`
    /// while no layer is live.
    pub fn choose(&self, rids: &[String], layers: &[LayerView]) -> Option<Choice> {
        let pinned = match (&self.rid, self.spatial_layer) {
            (Some(rid), _) => position(rids, |known| **known == **rid),
            (None, Some(id)) => of_rank(layers, id),
            (None, None) => return self.choose_capped(layers),
        };
        match pinned.and_then(|index| Some((index, layers.get(usize::from(index))?))) {
            None => chosen(largest_live(layers.iter().copied()), Reason::PinnedUnknown),
            Some((layer, view)) if view.live => Some(Choice { layer, reason: Reason::Pinned }),
            Some((_, view)) => chosen(instead_of(view, layers), Reason::PinnedNotLive),
        }
    }

    fn choose_capped(&self, layers: &[LayerView]) -> Option<Choice> {
        let largest = largest_live(layers.iter().copied())?;
        let fitting = layers
            .iter()
            .map(|view| LayerView { live: view.live && self.fits(view, layers), ..*view });
        match largest_live(fitting) {
            Some(layer) if layer == largest => chosen(Some(layer), Reason::LargestLiveLayer),
            Some(layer) => chosen(Some(layer), Reason::Capped),
            None => chosen(smallest_live(layers), Reason::CapBelowAll),
        }
    }

    /// Whether a layer is within the limits. A size that is not known yet counts as small.
    fn fits(&self, view: &LayerView, layers: &[LayerView]) -> bool {
        let (width, height) = view.size.unwrap_or_default();
        self.max_width.is_none_or(|max| width <= max)
            && self.max_height.is_none_or(|max| height <= max)
            && self.max_spatial_layer.is_none_or(|max| spatial_layer(view, layers) <= max)
    }
}

/// Number of a layer by size among those that ever sent anything: 0 for the smallest.
pub fn spatial_layer(view: &LayerView, layers: &[LayerView]) -> u8 {
    let smaller = layers.iter().filter(|other| other.is_known() && other.weight() < view.weight());
    smaller.count().min(usize::from(u8::MAX)) as u8
}

fn of_rank(layers: &[LayerView], id: u8) -> Option<LayerIdx> {
    position(layers, |view| view.is_known() && spatial_layer(view, layers) == id)
}

fn position<T>(items: &[T], is: impl FnMut(&T) -> bool) -> Option<LayerIdx> {
    items.iter().position(is).and_then(|index| LayerIdx::all().nth(index))
}

/// The largest live layer below one that is not live, else the smallest above it. A layer that
/// never sent anything has no size to compare with.
fn instead_of(stopped: &LayerView, layers: &[LayerView]) -> Option<LayerIdx> {
    if !stopped.is_known() {
        return largest_live(layers.iter().copied());
    }
    let below = layers
        .iter()
        .map(|view| LayerView { live: view.live && view.weight() < stopped.weight(), ..*view });
    largest_live(below).or_else(|| smallest_live(layers))
}

fn smallest_live(layers: &[LayerView]) -> Option<LayerIdx> {
    let live = LayerIdx::all().zip(layers).filter(|(_, view)| view.live);
    live.min_by_key(|(_, view)| view.weight()).map(|(index, _)| index)
}

fn chosen(layer: Option<LayerIdx>, reason: Reason) -> Option<Choice> {
    layer.map(|layer| Choice { layer, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rids in an order without meaning; `h` is the largest, `q` the smallest.
    fn rids() -> Vec<String> {
        ["m", "h", "q"].map(str::to_owned).to_vec()
    }

    fn layer(live: bool, size: (u16, u16), bitrate: u64) -> LayerView {
        LayerView { live, size: Some(size), bitrate }
    }

    fn three(live: [bool; 3]) -> [LayerView; 3] {
        [
            layer(live[0], (640, 360), 500_000),
            layer(live[1], (1280, 720), 1_500_000),
            layer(live[2], (320, 180), 150_000),
        ]
    }

    fn preference(set: impl FnOnce(&mut LayerPreference)) -> LayerPreference {
        let mut preference = LayerPreference::default();
        set(&mut preference);
        preference
    }

    fn rid(name: &str) -> LayerPreference {
        preference(|preference| preference.rid = Some(name.into()))
    }

    /// The chosen layer, by its rid.
    fn choose(
        preference: &LayerPreference,
        layers: &[LayerView],
    ) -> Option<(&'static str, Reason)> {
        let choice = preference.choose(&rids(), layers)?;
        Some((["m", "h", "q"][usize::from(choice.layer)], choice.reason))
    }

    #[test]
    fn largest_live_layer_is_chosen_without_a_preference() {
        let automatic = LayerPreference::default();
        assert!(automatic.is_automatic());
        assert_eq!(choose(&automatic, &three([true; 3])), Some(("h", Reason::LargestLiveLayer)));
        let without_top = three([true, false, true]);
        assert_eq!(choose(&automatic, &without_top), Some(("m", Reason::LargestLiveLayer)));
        assert_eq!(choose(&automatic, &three([false; 3])), None);
    }

    // whip-whep E9
    #[test]
    fn pinned_layer_is_sent_and_the_next_smaller_one_while_it_is_not_live() {
        let all = three([true; 3]);
        for name in ["m", "h", "q"] {
            assert_eq!(choose(&rid(name), &all), Some((name, Reason::Pinned)));
        }
        let without_top = three([true, false, true]);
        assert_eq!(choose(&rid("h"), &without_top), Some(("m", Reason::PinnedNotLive)));
        let only_top = three([false, true, false]);
        assert_eq!(
            choose(&rid("m"), &only_top),
            Some(("h", Reason::PinnedNotLive)),
            "nothing below"
        );
        let only_small = three([false, false, true]);
        assert_eq!(choose(&rid("h"), &only_small), Some(("q", Reason::PinnedNotLive)));
        assert_eq!(choose(&rid("h"), &three([false; 3])), None);
    }

    #[test]
    fn unknown_pinned_layer_means_the_automatic_choice() {
        let mut ramping_up = three([true, false, true]);
        ramping_up[1] = LayerView::default();
        assert_eq!(choose(&rid("h"), &ramping_up), Some(("m", Reason::PinnedNotLive)));
        assert_eq!(choose(&rid("x"), &three([true; 3])), Some(("h", Reason::PinnedUnknown)));
        // Another publisher, without simulcast.
        let choice = rid("h").choose(&[], &[layer(true, (1920, 1080), 4_000_000)]);
        assert_eq!(choice, Some(Choice { layer: LayerIdx(0), reason: Reason::PinnedUnknown }));
    }

    #[test]
    fn spatial_layers_are_numbered_from_the_smallest_whatever_their_rids() {
        let all = three([true; 3]);
        for (id, name) in [(0, "q"), (1, "m"), (2, "h")] {
            let exact = preference(|preference| preference.spatial_layer = Some(id));
            assert_eq!(choose(&exact, &all), Some((name, Reason::Pinned)));
        }
        let beyond = preference(|preference| preference.spatial_layer = Some(3));
        assert_eq!(choose(&beyond, &all), Some(("h", Reason::PinnedUnknown)));
        // A layer that stopped keeps its number.
        let exact = preference(|preference| preference.spatial_layer = Some(2));
        assert_eq!(choose(&exact, &three([true, false, true])), Some(("m", Reason::PinnedNotLive)));
        let mut both = exact;
        both.rid = Some("q".into());
        assert_eq!(choose(&both, &all), Some(("q", Reason::Pinned)), "a rid takes precedence");
    }

    #[test]
    fn caps_choose_the_largest_layer_within_them() {
        let all = three([true; 3]);
        let height = |max| preference(|preference| preference.max_height = Some(max));
        assert_eq!(choose(&height(720), &all), Some(("h", Reason::LargestLiveLayer)));
        assert_eq!(choose(&height(719), &all), Some(("m", Reason::Capped)));
        assert_eq!(choose(&height(179), &all), Some(("q", Reason::CapBelowAll)));
        let width = preference(|preference| preference.max_width = Some(639));
        assert_eq!(choose(&width, &all), Some(("q", Reason::Capped)));
        let spatial = preference(|preference| preference.max_spatial_layer = Some(1));
        assert_eq!(choose(&spatial, &all), Some(("m", Reason::Capped)));
        assert_eq!(
            choose(&spatial, &three([false, true, false])),
            Some(("h", Reason::CapBelowAll))
        );
        let both = preference(|preference| {
            (preference.max_height, preference.max_spatial_layer) = (Some(360), Some(0))
        });
        assert_eq!(choose(&both, &all), Some(("q", Reason::Capped)));
    }

    #[test]
    fn unknown_size_does_not_exclude_a_layer() {
        let unknown = |bitrate| LayerView { live: true, size: None, bitrate };
        let layers = [unknown(500_000), unknown(1_500_000), unknown(150_000)];
        let small = preference(|preference| preference.max_height = Some(180));
        assert_eq!(choose(&small, &layers), Some(("h", Reason::LargestLiveLayer)));
        let lowest = preference(|preference| preference.max_spatial_layer = Some(0));
        assert_eq!(
            choose(&lowest, &layers),
            Some(("q", Reason::Capped)),
            "layers are ordered by rate"
        );
    }

    #[test]
    fn lower_temporal_limit_applies() {
        assert_eq!(LayerPreference::default().temporal_cap(), None);
        let preference = preference(|preference| {
            (preference.temporal_layer, preference.max_temporal_layer) = (Some(2), Some(1))
        });
        assert_eq!(preference.temporal_cap(), Some(1));
        assert!(!preference.is_automatic());
    }

    proptest! {
        /// Any preference chooses a live layer if there is one, and no other.
        #[test]
        fn chosen_layer_is_live(
            layers in prop::collection::vec(
                (any::<bool>(), prop::option::of((1..2_000u16, 1..2_000u16)), 0..3u64), 0..8),
            pin in prop::option::of(0..9usize),
            spatial in prop::option::of(0..9u8),
            caps in (prop::option::of(0..2_000u16), prop::option::of(0..2_000u16), prop::option::of(0..9u8)),
        ) {
            let layers: Vec<_> = layers
                .into_iter()
                .map(|(live, size, bitrate)| LayerView { live, size, bitrate })
                .collect();
            let rids: Vec<_> = (0..layers.len()).map(|n| n.to_string()).collect();
            let preference = LayerPreference {
                rid: pin.map(|n| n.to_string().into()),
                spatial_layer: spatial,
                max_width: caps.0,
                max_height: caps.1,
                max_spatial_layer: caps.2,
                ..LayerPreference::default()
            };
            let choice = preference.choose(&rids, &layers);
            prop_assert_eq!(choice.is_some(), layers.iter().any(|layer| layer.live));
            if let Some(choice) = choice {
                prop_assert!(layers[usize::from(choice.layer)].live);
                if let Some(pinned) = pin.and_then(|pin| layers.get(pin)).filter(|pin| pin.live) {
                    prop_assert_eq!(&layers[usize::from(choice.layer)], pinned);
                }
            }
        }
    }
}
