//! Sessions that were answered and have not connected yet, by client network: how many may wait, and
//! who must go when the house is full.
//!
//! Pure. Called by `control.rs` for each POST and when a session connects or ends. A network is what
//! `api` takes for one client; sessions without one came by loopback: the operator's own machine, or a
//! proxy that carries everybody.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::ids::SessionId;

/// Sessions of one client network that may wait; one more is refused (quality B2).
pub(super) const PER_NETWORK_MAX: usize = 256;

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    /// Oldest first; no entry is empty.
    by_network: HashMap<Option<IpAddr>, VecDeque<SessionId>>,
    total: usize,
}

/// No room for one more of this network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl HalfOpen {
    /// One more waits. At `limit` in all, the oldest of the network with the most waiting makes room:
    /// the one returned must be ended.
    ///
    /// # Errors
    /// [`Full`] if this network has its share, or is itself the one with the most.
    pub(super) fn enter(
        &mut self,
        id: SessionId,
        network: Option<IpAddr>,
        limit: usize,
    ) -> Result<Option<SessionId>, Full> {
        let own = self.by_network.get(&network).map_or(0, VecDeque::len);
        if network.is_some() && own >= PER_NETWORK_MAX {
            return Err(Full);
        }
        let mut evicted = None;
        if self.total >= limit {
            let heaviest = self.by_network.iter().max_by_key(|(_, waiting)| waiting.len());
            let (&heaviest, _) = heaviest.filter(|(_, waiting)| waiting.len() > own).ok_or(Full)?;
            evicted = self.by_network.get(&heaviest).and_then(|waiting| waiting.front().copied());
            self.leave(evicted.ok_or(Full)?, heaviest);
        }
        self.by_network.entry(network).or_default().push_back(id);
        self.total += 1;
        Ok(evicted)
    }

    /// It connected or ended; one that left before changes nothing.
    pub(super) fn leave(&mut self, id: SessionId, network: Option<IpAddr>) {
        let Some(waiting) = self.by_network.get_mut(&network) else { return };
        let Some(place) = waiting.iter().position(|waiting| *waiting == id) else { return };
        waiting.remove(place);
        self.total -= 1;
        if waiting.is_empty() {
            self.by_network.remove(&network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(n: u8) -> Option<IpAddr> {
        Some([192, 0, 2, n].into())
    }

    // quality B2
    #[test]
    fn a_network_has_its_share_and_loopback_has_no_share() {
        let mut waiting = HalfOpen::default();
        for n in 0..PER_NETWORK_MAX as u64 {
            assert_eq!(waiting.enter(SessionId(n), network(1), 10_000), Ok(None));
        }
        assert_eq!(waiting.enter(SessionId(999), network(1), 10_000), Err(Full));
        assert_eq!(waiting.enter(SessionId(999), network(2), 10_000), Ok(None));
        waiting.leave(SessionId(7), network(1));
        assert_eq!(waiting.enter(SessionId(1_000), network(1), 10_000), Ok(None));
        for n in 2_000..3_000 {
            assert_eq!(waiting.enter(SessionId(n), None, 10_000), Ok(None));
        }
    }

    // quality B2
    #[test]
    fn when_the_house_is_full_the_heaviest_network_makes_room() {
        let mut waiting = HalfOpen::default();
        for n in 0..10 {
            waiting.enter(SessionId(n), network(1), 12).unwrap();
        }
        for n in 10..12 {
            waiting.enter(SessionId(n), network(2), 12).unwrap();
        }
        assert_eq!(waiting.enter(SessionId(12), network(3), 12), Ok(Some(SessionId(0))));
        assert_eq!(waiting.enter(SessionId(13), network(2), 12), Ok(Some(SessionId(1))));
        assert_eq!(waiting.enter(SessionId(14), network(1), 12), Err(Full), "it is the heaviest");
        assert_eq!(waiting.total, 12);
        for n in 0..20 {
            for net in 1..4 {
                waiting.leave(SessionId(n), network(net));
            }
        }
        assert_eq!(waiting.total, 0);
        assert!(waiting.by_network.is_empty());
    }
}
