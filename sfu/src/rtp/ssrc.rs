//! SSRCs that we choose for one session: random, never 0, and no two alike.
//!
//! Owns which are taken in the session. Never makes randomness: the caller passes its source. Called
//! by `sdp/subscribe.rs` for the tracks of a viewer and by `worker/lifecycle.rs` for our feedback to
//! a publisher.

/// Random numbers that are drawn for one SSRC. Afterwards the next free number is taken, so that a
/// source which repeats itself cannot hold up anything.
const DRAWS_MAX: usize = 8;

/// SSRCs of one session (RFC 3550 section 8.1).
#[derive(Debug, Default)]
pub struct SessionSsrcs(Vec<u32>);

impl SessionSsrcs {
    /// A session in which the peer uses these.
    pub fn with(taken: impl IntoIterator<Item = u32>) -> Self {
        Self(taken.into_iter().collect())
    }

    /// Chooses one that the session does not have yet.
    pub fn choose(&mut self, mut random: impl FnMut() -> u32) -> u32 {
        let mut drawn = random();
        for _ in 1..DRAWS_MAX {
            if self.is_free(drawn) {
                break;
            }
            drawn = random();
        }
        while !self.is_free(drawn) {
            drawn = drawn.wrapping_add(1);
        }
        self.0.push(drawn);
        drawn
    }

    fn is_free(&self, ssrc: u32) -> bool {
        ssrc != 0 && !self.0.contains(&ssrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn number_that_is_free_is_taken_as_drawn() {
        let mut ssrcs = SessionSsrcs::with([7]);
        let mut drawn = [7, 0, 7, 9, 9, 10].into_iter();
        let mut choose = || ssrcs.choose(|| drawn.next().unwrap());
        assert_eq!([choose(), choose()], [9, 10]);
    }

    proptest::proptest! {
        /// A source with few values, or one that repeats itself.
        #[test]
        fn ssrcs_of_a_session_differ_whatever_the_source_gives(
            peer in proptest::collection::vec(0u32..6, 0..6),
            values in proptest::collection::vec(
                proptest::prop_oneof![0u32..6, u32::MAX - 2..=u32::MAX], 1..4),
            count in 1usize..130,
        ) {
            let mut ssrcs = SessionSsrcs::with(peer.iter().copied());
            let mut source = values.iter().cycle();
            let chosen: Vec<u32> =
                (0..count).map(|_| ssrcs.choose(|| *source.next().unwrap())).collect();
            let distinct: BTreeSet<u32> = chosen.iter().copied().collect();
            assert_eq!(distinct.len(), count);
            assert!(!distinct.contains(&0) && peer.iter().all(|taken| !distinct.contains(taken)));
        }
    }
}
