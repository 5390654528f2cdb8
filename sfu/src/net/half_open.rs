//! Half-open sessions (answered and not connected yet) by client network: how many may exist, and which one is
//! evicted when all places are taken.
//!
//! Pure. Called by `admission.rs`. A client network is what `api` takes for one client; sessions without one
//! came by loopback: from the operator's own machine, or through a proxy that carries all clients and is not
//! named by `--trusted-proxy`. Those are told apart by the network of their media, once their first check is
//! answered.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::ids::SessionId;

/// Maximum half-open sessions of one client network; for one more, one of them is evicted (quality B2).
pub(super) const PER_NETWORK_MAX: usize = 256;

/// Time of a handshake in which its session is not evicted for another one of the same client network. A
/// handshake takes four round trips. If all places are taken by younger ones, a new session is refused: more
/// clients come than the server connects (quality B2).
pub(super) const HANDSHAKE_SURE_FOR: Duration = Duration::from_secs(2);

/// The same for media by loopback, which is never an attack from elsewhere and often a load test.
pub(super) const LOCAL_HANDSHAKE_SURE_FOR: Duration = Duration::from_secs(10);

/// Half-open sessions.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    /// Sessions by client network. No entry is empty.
    networks: HashMap<Option<IpAddr>, Waiting>,
    /// Place of each session.
    places: HashMap<SessionId, Place>,
}

/// Place of a half-open session.
#[derive(Debug, Clone, Copy)]
struct Place {
    network: Option<IpAddr>,
    stage: Stage,
}

/// How far a half-open session has come.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Answered, and nothing came yet.
    Silent,
    /// A check was answered, from this network: the session is in the middle of its handshake.
    Checked(Option<IpAddr>),
}

/// Half-open sessions of one client network.
#[derive(Debug, Default)]
struct Waiting {
    silent: Queue,
    /// Sessions whose check was answered, by the network that it came from. No entry is empty.
    checked: HashMap<Option<IpAddr>, Queue>,
    checked_len: usize,
}

/// Sessions with the time since which each waits. Oldest first.
type Queue = VecDeque<(SessionId, Instant)>;

/// For whom a session is to be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// For a session of another client network, which has fewer.
    Another,
    /// For one of the same client network.
    Itself,
}

impl Waiting {
    fn len(&self) -> usize {
        self.silent.len() + self.checked_len
    }

    /// The session to evict: the oldest without a check, unless more are in the middle of their handshakes.
    /// Of these the oldest of the heaviest network goes. So neither those that only POST nor those that only
    /// check can take all places of the others.
    fn victim(&self, whom: For, now: Instant) -> Option<SessionId> {
        let checked = || self.checked_victim(whom, now);
        let silent = self.silent.front().map(|(id, _)| *id);
        if self.checked_len > self.silent.len() { checked().or(silent) } else { silent }
    }

    fn checked_victim(&self, whom: For, now: Instant) -> Option<SessionId> {
        let weight = |(_, queue): &(&Option<IpAddr>, &Queue)| {
            (queue.len(), queue.front().map(|(_, since)| Reverse(*since)))
        };
        let (media, queue) = self.checked.iter().max_by_key(weight)?;
        let (id, since) = queue.front()?;
        let sure_for = match media {
            Some(_) => HANDSHAKE_SURE_FOR,
            None => LOCAL_HANDSHAKE_SURE_FOR,
        };
        let is_old = now.saturating_duration_since(*since) >= sure_for;
        let above_share = media.is_some() && queue.len() > PER_NETWORK_MAX;
        (whom == For::Another || is_old || above_share).then_some(*id)
    }

    fn push(&mut self, stage: Stage, id: SessionId, now: Instant) {
        match stage {
            Stage::Silent => self.silent.push_back((id, now)),
            Stage::Checked(media) => {
                self.checked.entry(media).or_default().push_back((id, now));
                self.checked_len += 1;
            }
        }
    }

    fn remove(&mut self, stage: Stage, id: SessionId) {
        let from = |queue: &mut Queue| {
            let index = queue.iter().position(|(waiting, _)| *waiting == id);
            index.and_then(|index| queue.remove(index)).is_some()
        };
        let Stage::Checked(media) = stage else {
            from(&mut self.silent);
            return;
        };
        let Some(queue) = self.checked.get_mut(&media) else { return };
        self.checked_len -= usize::from(from(queue));
        if queue.is_empty() {
            self.checked.remove(&media);
        }
    }
}

/// No place for one more session of this network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl HalfOpen {
    /// Adds a session. If its network has its share, or all `limit` places are taken, an older one is
    /// evicted; it is returned and must be ended.
    ///
    /// It is one of the network with the most sessions; [`Waiting::victim`] says which.
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
        let own = self.networks.get(&network);
        let own_len = own.map_or(0, Waiting::len);
        let own_victim = || own.and_then(|own| own.victim(For::Itself, now)).ok_or(Full);
        let mut evicted = None;
        if network.is_some() && own_len >= PER_NETWORK_MAX {
            evicted = Some(own_victim()?);
        } else if self.places.len() >= limit {
            let heaviest = self.networks.values().max_by_key(|waiting| waiting.len());
            evicted = Some(match heaviest.filter(|waiting| waiting.len() > own_len) {
                Some(heaviest) => heaviest.victim(For::Another, now).ok_or(Full)?,
                None => own_victim()?,
            });
        }
        if let Some(evicted) = evicted {
            self.release(evicted);
        }
        self.networks.entry(network).or_default().push(Stage::Silent, id, now);
        self.places.insert(id, Place { network, stage: Stage::Silent });
        Ok(evicted)
    }

    /// Notes that the first check of a session was answered, which came from the network `media`; without
    /// effect if the session is not here. From now on it has the time of its handshake.
    pub(super) fn checked(&mut self, id: SessionId, media: Option<IpAddr>, now: Instant) {
        let Some(place) = self.places.get_mut(&id) else { return };
        let Some(waiting) = self.networks.get_mut(&place.network) else { return };
        waiting.remove(place.stage, id);
        place.stage = Stage::Checked(media);
        waiting.push(place.stage, id, now);
    }

    /// Removes a session that connected or ended; without effect if it is not here.
    pub(super) fn release(&mut self, id: SessionId) {
        let Some(Place { network, stage }) = self.places.remove(&id) else { return };
        let Some(waiting) = self.networks.get_mut(&network) else { return };
        waiting.remove(stage, id);
        if waiting.len() == 0 {
            self.networks.remove(&network);
        }
    }
}

#[cfg(test)]
mod tests;
