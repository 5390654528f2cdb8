//! Queue of DTLS datagrams of viewers that are not connected yet; one is handled per step.
//!
//! A handshake costs half a millisecond, as much as some thousand forwarded packets. So a join
//! storm must not stand between a publisher's packet and connected viewers. Sessions take turns, so that one
//! with many datagrams delays none of the others by more than one of them. Part of the worker's
//! top layer: `dispatch` queues datagrams here, and `Worker::handle_timeout` handles one after the
//! media. The shell calls it more often as time allows. A publisher's handshake does not wait here:
//! its first packets follow at once.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::Worker;
use super::keys::SessionKey;
use crate::error::DropReason;
use crate::rtp::packet::PacketClass;
use crate::transport::FiveTuple;
use crate::transport::egress::Egress;

/// Maximum queued datagrams of all sessions. At the limit a session without any takes the place of the newest
/// datagram of the session that is served last, if that has several; else it is dropped
/// (`DropReason::DtlsLimit`). The client retransmits its flight.
pub(super) const WAITING_MAX: usize = 2_048;

/// Maximum queued datagrams of one session: some flights of a client that retransmits. Above it
/// they are dropped alike.
pub(super) const WAITING_PER_SESSION_MAX: usize = 12;

/// Queued datagrams, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Sessions with datagrams, the next one first.
    turns: VecDeque<SessionKey>,
    /// Datagrams of each of them, oldest first.
    waiting: HashMap<SessionKey, VecDeque<Waiting>>,
    /// Datagrams in all.
    len: usize,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    path: FiveTuple,
    datagram: Box<[u8]>,
}

impl Handshakes {
    /// Time since which the next datagram waits.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let next = self.waiting.get(self.turns.front()?)?;
        next.front().map(|waiting| waiting.since)
    }

    fn push(&mut self, key: SessionKey, waiting: Waiting) -> Result<(), DropReason> {
        let of_session = self.waiting.get(&key).map_or(0, VecDeque::len);
        if of_session >= WAITING_PER_SESSION_MAX {
            return Err(DropReason::DtlsLimit);
        }
        if self.len >= WAITING_MAX {
            let last = self.turns.back().and_then(|last| self.waiting.get_mut(last));
            let Some(last) = last.filter(|last| of_session == 0 && last.len() > 1) else {
                return Err(DropReason::DtlsLimit);
            };
            last.pop_back();
            self.len -= 1;
        }
        if of_session == 0 {
            self.turns.push_back(key);
        }
        self.waiting.entry(key).or_default().push_back(waiting);
        self.len += 1;
        Ok(())
    }

    /// Takes the oldest datagram of the session whose turn it is.
    fn pop(&mut self) -> Option<(SessionKey, Waiting)> {
        let key = self.turns.pop_front()?;
        let of_session = self.waiting.get_mut(&key)?;
        let waiting = of_session.pop_front()?;
        self.len -= 1;
        if of_session.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        Some((key, waiting))
    }
}

impl Worker {
    /// Queues a datagram for a later turn.
    pub(super) fn postpone_handshake(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: FiveTuple,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        self.handshakes.push(key, Waiting { since: now, path, datagram: datagram.into() })
    }

    /// Handles the next datagram. A step handles one, so that a publisher's packet waits for no
    /// more than about a third of a millisecond.
    pub(super) fn work_off_handshake(&mut self, now: Instant, egress: &mut dyn Egress) {
        let Some((key, Waiting { path, mut datagram, .. })) = self.handshakes.pop() else { return };
        let class = PacketClass::Dtls;
        let mut outcome = Ok(());
        self.guarded(now, key, egress, |worker, egress| {
            outcome = worker.session_datagram(now, key, path, class, &mut datagram, egress);
        });
        if let Err(reason) = outcome {
            self.context.report.dropped.count(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> SessionKey {
        SessionKey::new(index, 0)
    }

    fn waiting(number: u8) -> Waiting {
        let path = FiveTuple::udp(None, "192.0.2.1:9".parse().unwrap());
        Waiting { since: Instant::now(), path, datagram: Box::new([number]) }
    }

    fn order(handshakes: &mut Handshakes) -> Vec<(u32, u8)> {
        let next = || handshakes.pop().map(|(key, waiting)| (key.index(), waiting.datagram[0]));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn session_with_many_datagrams_delays_another_by_one() {
        let mut handshakes = Handshakes::default();
        for number in 0..WAITING_PER_SESSION_MAX as u8 {
            assert_eq!(handshakes.push(key(1), waiting(number)), Ok(()));
        }
        assert_eq!(handshakes.push(key(1), waiting(99)), Err(DropReason::DtlsLimit));
        assert_eq!(handshakes.push(key(2), waiting(50)), Ok(()));
        assert_eq!(handshakes.push(key(2), waiting(51)), Ok(()));
        assert!(handshakes.waiting_since().is_some());
        assert_eq!(order(&mut handshakes)[..5], [(1, 0), (2, 50), (1, 1), (2, 51), (1, 2)]);
        assert_eq!((handshakes.len, handshakes.waiting.len(), handshakes.turns.len()), (0, 0, 0));
        assert_eq!(handshakes.waiting_since(), None);
    }

    #[test]
    fn full_queue_has_room_for_a_session_without_any() {
        let mut handshakes = Handshakes::default();
        let sessions = (WAITING_MAX / 2) as u32;
        for index in 0..sessions {
            assert_eq!(handshakes.push(key(index), waiting(0)), Ok(()));
            assert_eq!(handshakes.push(key(index), waiting(1)), Ok(()));
        }
        assert_eq!(handshakes.len, WAITING_MAX);
        assert_eq!(handshakes.push(key(0), waiting(2)), Err(DropReason::DtlsLimit));
        assert_eq!(handshakes.push(key(9_000), waiting(0)), Ok(()));
        assert_eq!(handshakes.len, WAITING_MAX);
        // The one that is served last has one now.
        assert_eq!(handshakes.push(key(9_001), waiting(0)), Err(DropReason::DtlsLimit));
        let served = order(&mut handshakes);
        assert_eq!(served.len(), WAITING_MAX);
        assert!(served.contains(&(9_000, 0)) && !served.contains(&(sessions - 1, 1)));
    }
}
