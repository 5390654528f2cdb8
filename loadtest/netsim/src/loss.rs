//! Which datagrams are lost: none, each by itself, or in bursts (Gilbert-Elliott).
//!
//! Called by `link.rs` once for each datagram that got through the queue.

use crate::Rng;

/// How a link loses datagrams. All numbers are probabilities from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// Never.
    #[default]
    None,
    /// Each datagram for itself.
    Random(f64),
    /// Two states. In the bad one everything is lost, in the good one nothing.
    Bursts {
        /// From good to bad, at each datagram.
        begin: f64,
        /// From bad to good, at each datagram.
        end: f64,
    },
}

impl Loss {
    /// Bursts of `length` datagrams in the mean (at least 1) that lose the share `mean` (below 1) of all in the long run.
    #[must_use]
    pub fn bursts(mean: f64, length: f64) -> Self {
        let end = 1.0 / length.max(1.0);
        // In the steady state the link is bad for begin / (begin + end) of the datagrams.
        let begin = (end * mean / (1.0 - mean).max(f64::EPSILON)).min(1.0);
        Self::Bursts { begin, end }
    }

    /// The fate of the next datagram. `bad` is the state that bursts keep between two calls.
    pub(crate) fn loses(self, rng: &mut Rng, bad: &mut bool) -> bool {
        match self {
            Self::None => false,
            Self::Random(share) => rng.chance(share),
            Self::Bursts { begin, end } => {
                *bad = if *bad { !rng.chance(end) } else { rng.chance(begin) };
                *bad
            }
        }
    }
}
