//! Loss models: none, independent, or in bursts (Gilbert-Elliott).
//!
//! Called by `link` once for each datagram that has passed the queue.

use crate::Rng;

/// How a link loses datagrams. All numbers are probabilities from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// No loss.
    #[default]
    None,
    /// Each datagram is lost with this probability, independently.
    Random(f64),
    /// Two states: in the bad state every datagram is lost, in the good state none.
    Bursts {
        /// Probability of a change from good to bad, at each datagram.
        begin: f64,
        /// Probability of a change from bad to good, at each datagram.
        end: f64,
    },
}

impl Loss {
    /// Bursts with a mean length of `length` datagrams (at least 1). The mean loss is the share
    /// `mean` (below 1).
    #[must_use]
    pub fn bursts(mean: f64, length: f64) -> Self {
        let end = 1.0 / length.max(1.0);
        // In the steady state the link is bad for begin / (begin + end) of the datagrams.
        let begin = (end * mean / (1.0 - mean).max(f64::EPSILON)).min(1.0);
        Self::Bursts { begin, end }
    }

    /// Whether the next datagram is lost. `bad` is the state of [`Self::Bursts`] between two calls.
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
