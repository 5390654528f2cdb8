//! Half-open sessions (answered and not connected yet) by client network: how many may exist, and which one is
//! evicted when all places are taken.
//!
//! Pure. Called by `admission.rs`. A network is what `api` takes for one client; sessions without one came by
//! loopback: from the operator's own machine, or through a proxy that carries all clients.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::ids::SessionId;

/// Maximum half-open sessions of one client network; one more is refused (quality B2).
pub(super) const PER_NETWORK_MAX: usize = 256;

/// Age from which a half-open session may be evicted for another one of its own network. Clients
/// that check at once are done long before; those that wait for their user have the rest of the ICE
/// timeout only while there is room (quality B2).
pub(super) const SURE_FOR: Duration = Duration::from_secs(10);

/// Half-open sessions.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    /// Oldest first; no entry is empty.
    by_network: HashMap<Option<IpAddr>, VecDeque<(SessionId, Instant)>>,
    total: usize,
}

/// No place for one more session of this network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl HalfOpen {
    /// Adds a session. If its network has its share, or all `limit` places are taken, an older one is
    /// evicted; it is returned and must be ended.
    ///
    /// The oldest session of the network with the most sessions goes for one of another network at
    /// once, and for one of its own after [`SURE_FOR`].
    ///
    /// # Errors
    /// [`Full`] if no session may be evicted for it.
    pub(super) fn reserve(
        &mut self,
        id: SessionId,
        network: Option<IpAddr>,
        limit: usize,
        now: Instant,
    ) -> Result<Option<SessionId>, Full> {
        let own = self.by_network.get(&network).map_or(0, VecDeque::len);
        let mut evicted = None;
        if network.is_some() && own >= PER_NETWORK_MAX {
            evicted = Some((self.oldest(network, now).ok_or(Full)?, network));
        } else if self.total >= limit {
            let heaviest = self.by_network.iter().max_by_key(|(_, waiting)| waiting.len());
            let (&heaviest, waiting) = heaviest.ok_or(Full)?;
            let oldest = match waiting.len() > own {
                true => waiting.front().map(|(id, _)| *id),
                false => self.oldest(network, now),
            };
            let of = if waiting.len() > own { heaviest } else { network };
            evicted = Some((oldest.ok_or(Full)?, of));
        }
        if let Some((evicted, of)) = evicted {
            self.release(evicted, of);
        }
        self.by_network.entry(network).or_default().push_back((id, now));
        self.total += 1;
        Ok(evicted.map(|(id, _)| id))
    }

    /// The oldest session of a network, if it may go for one of the same network.
    fn oldest(&self, network: Option<IpAddr>, now: Instant) -> Option<SessionId> {
        let &(id, since) = self.by_network.get(&network)?.front()?;
        (now.saturating_duration_since(since) >= SURE_FOR).then_some(id)
    }

    /// Removes a session that connected or ended; without effect if it is not here.
    pub(super) fn release(&mut self, id: SessionId, network: Option<IpAddr>) {
        let Some(waiting) = self.by_network.get_mut(&network) else { return };
        let Some(index) = waiting.iter().position(|(waiting, _)| *waiting == id) else { return };
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
    use crate::transport::peer::ICE_TIMEOUT;

    fn network(n: u8) -> Option<IpAddr> {
        Some([192, 0, 2, n].into())
    }

    // quality B2
    #[test]
    fn network_has_its_share_and_loopback_has_no_limit() {
        let (mut waiting, now) = (HalfOpen::default(), Instant::now());
        for n in 0..PER_NETWORK_MAX as u64 {
            assert_eq!(waiting.reserve(SessionId(n), network(1), 10_000, now), Ok(None));
        }
        assert_eq!(waiting.reserve(SessionId(999), network(1), 10_000, now), Err(Full));
        assert_eq!(waiting.reserve(SessionId(999), network(2), 10_000, now), Ok(None));
        waiting.release(SessionId(7), network(1));
        assert_eq!(waiting.reserve(SessionId(1_000), network(1), 10_000, now), Ok(None));
        for n in 2_000..3_000 {
            assert_eq!(waiting.reserve(SessionId(n), None, 10_000, now), Ok(None));
        }
    }

    // quality B2
    #[test]
    fn when_all_places_are_taken_the_heaviest_network_loses_one() {
        let (mut waiting, now) = (HalfOpen::default(), Instant::now());
        for n in 0..10 {
            waiting.reserve(SessionId(n), network(1), 12, now).unwrap();
        }
        for n in 10..12 {
            waiting.reserve(SessionId(n), network(2), 12, now).unwrap();
        }
        assert_eq!(waiting.reserve(SessionId(12), network(3), 12, now), Ok(Some(SessionId(0))));
        assert_eq!(waiting.reserve(SessionId(13), network(2), 12, now), Ok(Some(SessionId(1))));
        assert_eq!(
            waiting.reserve(SessionId(14), network(1), 12, now),
            Err(Full),
            "it is the heaviest"
        );
        assert_eq!(waiting.total, 12);
        for n in 0..20 {
            for net in 1..4 {
                waiting.release(SessionId(n), network(net));
            }
        }
        assert_eq!(waiting.total, 0);
        assert!(waiting.by_network.is_empty());
    }

    /// A flood of POSTs without a check, for a minute, by loopback and by two networks of which one
    /// is ten times as fast. Sessions leave at the ICE timeout.
    // quality B2
    #[test]
    fn flood_takes_no_more_than_its_places_and_shuts_nobody_out() {
        const LIMIT: usize = 500;
        for flooding in [None, network(1)] {
            let (mut waiting, start) = (HalfOpen::default(), Instant::now());
            let mut alive: VecDeque<(Instant, SessionId, Option<IpAddr>)> = VecDeque::new();
            let (mut refused, mut others) = (0, 0);
            for n in 0..6_000 {
                let now = start + Duration::from_millis(10 * n);
                while alive.front().is_some_and(|(since, ..)| now >= *since + ICE_TIMEOUT) {
                    let (_, id, network) = alive.pop_front().unwrap();
                    waiting.release(id, network);
                }
                let network = if n % 10 == 9 { network(2) } else { flooding };
                match waiting.reserve(SessionId(n), network, LIMIT, now) {
                    Ok(evicted) => {
                        if let Some(evicted) = evicted {
                            let at = alive.iter().position(|(_, id, _)| *id == evicted).unwrap();
                            let (since, _, of) = alive.remove(at).unwrap();
                            let age = now - since;
                            assert!(of != network || age >= SURE_FOR, "{age:?}");
                        }
                        alive.push_back((now, SessionId(n), network));
                        others += u64::from(n % 10 == 9);
                    }
                    Err(Full) if n % 10 == 9 => panic!("the slower network is shut out at {n}"),
                    Err(Full) => refused += 1,
                }
                assert!(waiting.total <= LIMIT && waiting.total == alive.len());
            }
            // 90 per second come. At most 500, or 256 of one network, each stay 10 s.
            let taken = 5_400 - refused;
            let most = if flooding.is_some() { PER_NETWORK_MAX } else { LIMIT };
            assert_eq!(others, 600);
            assert!(taken >= 5 * most / 2, "{taken} of the flood were answered");
        }
    }

    #[test]
    fn network_at_its_share_gives_up_who_waited_longest_but_nobody_in_the_first_ten_seconds() {
        let (mut waiting, start) = (HalfOpen::default(), Instant::now());
        for n in 0..PER_NETWORK_MAX as u64 {
            waiting.reserve(SessionId(n), network(1), 10_000, start).unwrap();
        }
        let early = start + SURE_FOR - Duration::from_millis(1);
        assert_eq!(waiting.reserve(SessionId(900), network(1), 10_000, early), Err(Full));
        let late = start + SURE_FOR;
        let evicted = waiting.reserve(SessionId(900), network(1), 10_000, late);
        assert_eq!(evicted, Ok(Some(SessionId(0))));
        assert_eq!(waiting.total, PER_NETWORK_MAX);
    }
}
