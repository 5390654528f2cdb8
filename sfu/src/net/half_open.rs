//! Half-open sessions (answered and not connected yet) by client network: how many may exist, and which one is
//! evicted when all places are taken.
//!
//! Pure. Called by `admission.rs`. A network is what `api` takes for one client; sessions without one came by
//! loopback: from the operator's own machine, or through a proxy that carries all clients.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::ids::SessionId;

/// Maximum half-open sessions of one client network; one more is refused (quality B2).
pub(super) const PER_NETWORK_MAX: usize = 256;

/// Half-open sessions.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    /// Oldest first; no entry is empty.
    by_network: HashMap<Option<IpAddr>, VecDeque<SessionId>>,
    total: usize,
}

/// No place for one more session of this network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl HalfOpen {
    /// Adds a session. At `limit` sessions in all, the oldest of the network with the most sessions is evicted;
    /// it is returned and must be ended.
    ///
    /// # Errors
    /// [`Full`] if this network has its share, or is itself the one with the most sessions.
    pub(super) fn reserve(
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
            self.release(evicted.ok_or(Full)?, heaviest);
        }
        self.by_network.entry(network).or_default().push_back(id);
        self.total += 1;
        Ok(evicted)
    }

    /// Removes a session that connected or ended; without effect if it is not here.
    pub(super) fn release(&mut self, id: SessionId, network: Option<IpAddr>) {
        let Some(waiting) = self.by_network.get_mut(&network) else { return };
        let Some(index) = waiting.iter().position(|waiting| *waiting == id) else { return };
        waiting.remove(index);
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
    fn network_has_its_share_and_loopback_has_no_limit() {
        let mut waiting = HalfOpen::default();
        for n in 0..PER_NETWORK_MAX as u64 {
            assert_eq!(waiting.reserve(SessionId(n), network(1), 10_000), Ok(None));
        }
        assert_eq!(waiting.reserve(SessionId(999), network(1), 10_000), Err(Full));
        assert_eq!(waiting.reserve(SessionId(999), network(2), 10_000), Ok(None));
        waiting.release(SessionId(7), network(1));
        assert_eq!(waiting.reserve(SessionId(1_000), network(1), 10_000), Ok(None));
        for n in 2_000..3_000 {
            assert_eq!(waiting.reserve(SessionId(n), None, 10_000), Ok(None));
        }
    }

    // quality B2
    #[test]
    fn when_all_places_are_taken_the_heaviest_network_loses_one() {
        let mut waiting = HalfOpen::default();
        for n in 0..10 {
            waiting.reserve(SessionId(n), network(1), 12).unwrap();
        }
        for n in 10..12 {
            waiting.reserve(SessionId(n), network(2), 12).unwrap();
        }
        assert_eq!(waiting.reserve(SessionId(12), network(3), 12), Ok(Some(SessionId(0))));
        assert_eq!(waiting.reserve(SessionId(13), network(2), 12), Ok(Some(SessionId(1))));
        assert_eq!(waiting.reserve(SessionId(14), network(1), 12), Err(Full), "it is the heaviest");
        assert_eq!(waiting.total, 12);
        for n in 0..20 {
            for net in 1..4 {
                waiting.release(SessionId(n), network(net));
            }
        }
        assert_eq!(waiting.total, 0);
        assert!(waiting.by_network.is_empty());
    }
}
