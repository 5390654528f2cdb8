//! Parts of an access unit that packets hold, as bits.
//!
//! Owns the kinds of parts and nothing else. An access unit is often several packets, and only
//! their parts together tell whether a decoder may begin with it. Filled by `codec/`, read by
//! `worker/packet_inspector.rs` and `media/keyframe.rs`.

/// Set of parts of an H.264, H.265 or AV1 access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitParts(u8);

impl UnitParts {
    /// No part, as in a packet without payload or of another format.
    pub const NONE: Self = Self(0);
    /// Video parameter set (H.265).
    pub const VPS: Self = Self(1);
    /// Sequence parameter set.
    pub const SPS: Self = Self(1 << 1);
    /// Picture parameter set.
    pub const PPS: Self = Self(1 << 2);
    /// Sequence header (AV1).
    pub const SEQUENCE_HEADER: Self = Self(1 << 3);
    /// Supplemental enhancement information with a recovery point: a decoder may begin here
    /// although no picture is an IDR (H.264 section D.2.8, H.265 section D.3.8).
    pub const RECOVERY_POINT: Self = Self(1 << 4);
    /// Access unit delimiter, or other supplemental enhancement information.
    pub const PREFIX: Self = Self(1 << 5);
    /// Slices, frames, and whatever else is no part above.
    pub const PICTURE: Self = Self(1 << 6);

    /// First slice of a picture, beside [`Self::PICTURE`].
    pub const FIRST_SLICE: Self = Self(1 << 7);

    const SETS: Self = Self(0b1111);

    /// The parts of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all parts of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The parameter sets and sequence headers among the parts.
    #[must_use]
    pub const fn sets(self) -> Self {
        Self(self.0 & Self::SETS.0)
    }

    /// Whether there are no parts.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether there are parameter sets, and neither a picture nor anything unknown.
    pub const fn is_only_sets(self) -> bool {
        !self.sets().is_empty() && !self.contains(Self::PICTURE)
    }

    /// Place of one kind of set in the order in which a decoder needs them.
    pub(crate) const fn order(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::UnitParts as Parts;

    #[test]
    fn packet_of_sets_may_hold_a_delimiter_but_no_picture() {
        let sets = Parts::SPS.with(Parts::PPS);
        assert!(sets.is_only_sets() && sets.with(Parts::PREFIX).is_only_sets());
        assert!(!sets.with(Parts::PICTURE).is_only_sets());
        assert!(!Parts::PREFIX.is_only_sets() && !Parts::NONE.is_only_sets());
        assert_eq!(sets.with(Parts::PICTURE).sets(), sets);
        assert!(sets.contains(Parts::PPS) && !Parts::PPS.contains(sets));
    }
}
