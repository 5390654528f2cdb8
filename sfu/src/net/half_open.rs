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
    /// No entry is empty.
    by_network: HashMap<Option<IpAddr>, Waiting>,
    total: usize,
}

/// Half-open sessions of one network, with the time since which each waits. Oldest first.
#[derive(Debug, Default)]
struct Waiting {
    /// Answered, and nothing came yet.
    silent: VecDeque<(SessionId, Instant)>,
    /// A check of the client was answered: it is in the middle of its handshake. Such a session goes
    /// only where no silent one may go.
    checked: VecDeque<(SessionId, Instant)>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.silent.len() + self.checked.len()
    }

    /// The session to evict among those that wait since `by` or longer.
    fn oldest(&self, by: Option<Instant>) -> Option<SessionId> {
        let fronts = self.silent.front().into_iter().chain(self.checked.front());
        let mut old = fronts.filter(|(_, since)| by.is_none_or(|by| *since <= by));
        old.next().map(|(id, _)| *id)
    }

    fn remove(&mut self, id: SessionId) -> bool {
        [&mut self.silent, &mut self.checked].into_iter().any(|queue| {
            let index = queue.iter().position(|(waiting, _)| *waiting == id);
            index.and_then(|index| queue.remove(index)).is_some()
        })
    }
}

/// No place for one more session of this network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl HalfOpen {
    /// Adds a session. If its network has its share, or all `limit` places are taken, an older one is
    /// evicted; it is returned and must be ended.
    ///
    /// The oldest session of the network with the most sessions goes for one of another network at
    /// once, and for one of its own after [`SURE_FOR`]. Sessions without an answered check go first.
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
        let own = self.by_network.get(&network).map_or(0, Waiting::len);
        let mut evicted = None;
        if network.is_some() && own >= PER_NETWORK_MAX {
            evicted = Some((self.oldest(network, now).ok_or(Full)?, network));
        } else if self.total >= limit {
            let heaviest = self.by_network.iter().max_by_key(|(_, waiting)| waiting.len());
            let (&heaviest, waiting) = heaviest.ok_or(Full)?;
            let oldest = match waiting.len() > own {
                true => waiting.oldest(None),
                false => self.oldest(network, now),
            };
            let of = if waiting.len() > own { heaviest } else { network };
            evicted = Some((oldest.ok_or(Full)?, of));
        }
        if let Some((evicted, of)) = evicted {
            self.release(evicted, of);
        }
        self.by_network.entry(network).or_default().silent.push_back((id, now));
        self.total += 1;
        Ok(evicted.map(|(id, _)| id))
    }

    /// The oldest session of a network, if it may go for one of the same network.
    fn oldest(&self, network: Option<IpAddr>, now: Instant) -> Option<SessionId> {
        self.by_network.get(&network)?.oldest(Some(now.checked_sub(SURE_FOR)?))
    }

    /// Notes that a check of a session was answered; without effect if it is not here. From now on it
    /// has the time of its handshake.
    pub(super) fn checked(&mut self, id: SessionId, network: Option<IpAddr>, now: Instant) {
        let Some(waiting) = self.by_network.get_mut(&network) else { return };
        if waiting.remove(id) {
            waiting.checked.push_back((id, now));
        }
    }

    /// Removes a session that connected or ended; without effect if it is not here.
    pub(super) fn release(&mut self, id: SessionId, network: Option<IpAddr>) {
        let Some(waiting) = self.by_network.get_mut(&network) else { return };
        if !waiting.remove(id) {
            return;
        }
        self.total -= 1;
        if waiting.len() == 0 {
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

    #[test]
    fn session_whose_check_was_answered_goes_only_where_no_silent_one_may() {
        let (mut waiting, start) = (HalfOpen::default(), Instant::now());
        let limit = PER_NETWORK_MAX;
        for n in 0..limit as u64 {
            waiting.reserve(SessionId(n), network(1), limit, start).unwrap();
        }
        let second = |n| start + Duration::from_secs(n);
        // The user of the two oldest allows the connection late; they are in their handshakes.
        waiting.checked(SessionId(0), network(1), second(9));
        waiting.checked(SessionId(1), network(1), second(9));
        waiting.checked(SessionId(9_999), network(1), second(9));
        let mut reserve = |id, of, now| waiting.reserve(SessionId(id), of, limit, now);
        let evicted = |id| Ok(Some(SessionId(id)));
        assert_eq!(reserve(900, network(1), second(10)), evicted(2), "the oldest silent one");
        assert_eq!(reserve(901, network(2), second(10)), evicted(3), "also for another network");
        for n in 4..limit as u64 {
            waiting.release(SessionId(n), network(1));
        }
        waiting.release(SessionId(900), network(1));
        let mut reserve = |id, of, now| waiting.reserve(SessionId(id), of, 3, now);
        assert_eq!(reserve(902, network(1), second(18)), Err(Full), "both are in their handshakes");
        assert_eq!(reserve(903, network(3), second(18)), evicted(0), "one network takes no more");
        waiting.release(SessionId(1), network(1));
        waiting.release(SessionId(901), network(2));
        waiting.release(SessionId(903), network(3));
        assert!(waiting.total == 0 && waiting.by_network.is_empty());
    }
}
