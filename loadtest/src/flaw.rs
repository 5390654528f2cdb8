//! Why a frame could not be shown, and the words for it in the report.
//!
//! Decided by `frame_checker` and `video`, counted by `receiver`.

/// Why a frame is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flaw {
    /// Packets of the frame never arrived, or it does not begin or end as its codec requires.
    Incomplete,
    /// All packets of the frame are authentic, but its bytes are not those that were sent.
    Altered,
    /// The frame is a keyframe without its parameter sets, or with other ones than were sent.
    ParameterSets,
    /// The frame was never delivered, although the sequence numbers show no gap.
    Missing,
    /// The frame is complete, but it refers to a frame that is broken.
    Reference,
    /// An audio packet is authentic, but its bytes are not those that were sent.
    AlteredAudio,
}

impl Flaw {
    /// The text in the report. It is also the key in the JSON field `flaws`.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete: some of its packets never arrived",
            Self::Altered => "altered: authentic packets, but other bytes than were sent",
            Self::ParameterSets => "keyframe without its parameter sets",
            Self::Missing => "missing: never delivered, without a gap in the sequence numbers",
            Self::Reference => "complete, but refers to a frame that could not be shown",
            Self::AlteredAudio => "audio altered: authentic packet, but other bytes than were sent",
        }
    }
}
