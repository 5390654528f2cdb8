//! Relief of the packet pool when it is short: whose cached packets are evicted for the others.
//!
//! The pool counts the buffers that each publisher holds, wherever they are. A publisher above its
//! share loses its oldest packets, the one that holds most first. If there is none, the client
//! network that holds most loses them, at the publisher of it that holds most. So one publisher, or
//! one network with many, takes nothing from others; a network with many ordinary publishers is left
//! alone while the pool is not short. Decision 066. Called by `dispatch.rs` before a packet is taken;
//! a publisher is entered and left by `lifecycle.rs`. Next: `stream.rs` for what is evicted.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Worker;
use super::keys::SessionKey;
use super::session::{RoleState, Session};
use super::warning::Warning;
use crate::client_network::media_network;
use crate::media::pool::EvictionCause;
use crate::media::{BufferSize, HolderId};

/// Age below which no packet is evicted: it may still wait for viewers.
const EVICTED_AGE_MIN: Duration = Duration::from_millis(20);

/// Time until the next attempt if the last one freed too little, because other workers still read
/// what was evicted.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Publishers from which is evicted in one attempt.
const VICTIMS_MAX: usize = 4;

/// Publishers of a worker that hold buffers.
#[derive(Debug, Default)]
pub(super) struct Holders {
    all: Vec<Holder>,
    retry_at: Option<Instant>,
}

/// A publisher, and what it holds in the class that is short.
#[derive(Debug, Clone, Copy)]
struct Holder {
    session: SessionKey,
    id: HolderId,
    held: usize,
    network: Option<IpAddr>,
}

impl Holders {
    /// Adds a publisher.
    pub(super) fn enter(&mut self, session: SessionKey, id: HolderId) {
        self.all.push(Holder { session, id, held: 0, network: None });
    }

    /// Removes a publisher.
    pub(super) fn leave(&mut self, session: SessionKey) {
        self.all.retain(|holder| holder.session != session);
    }

    /// The publishers from which is evicted, the first one first. All hold at least half of what the
    /// first one holds: who holds little pays for nobody. Sorts all publishers: it is called once for
    /// many packets.
    fn victims(&mut self, share: usize) -> [Option<SessionKey>; VICTIMS_MAX] {
        // By network, and those that hold most first.
        self.all.sort_unstable_by_key(|holder| (holder.network, usize::MAX - holder.held));
        let networks = self.all.chunk_by(|a, b| a.network == b.network);
        let heaviest = networks.max_by_key(|of| of.iter().map(|holder| holder.held).sum::<usize>());
        let mut victims: Vec<Holder> =
            self.all.iter().filter(|holder| holder.held > share).copied().collect();
        if victims.is_empty() {
            victims.extend(heaviest.unwrap_or_default());
        }
        victims.sort_unstable_by_key(|holder| usize::MAX - holder.held);
        let most = victims.first().map_or(0, |first| first.held);
        let mut victims = victims.into_iter().filter(|holder| holder.held * 2 >= most.max(1));
        std::array::from_fn(|_| victims.next().map(|holder| holder.session))
    }
}

impl Worker {
    /// Evicts packets if the pool is short of buffers for a packet of so many bytes.
    #[inline]
    pub(super) fn relieve_pool(&mut self, now: Instant, bytes: usize) {
        if self.context.pool.is_short_for(bytes)
            && self.holders.retry_at.is_none_or(|at| at <= now)
            && let Some(size) = BufferSize::of(bytes)
        {
            self.evict_for(now, bytes, size);
        }
    }

    #[cold]
    fn evict_for(&mut self, now: Instant, bytes: usize, size: BufferSize) {
        self.holders.retry_at = None;
        self.context.pool.reclaim(size);
        if !self.context.pool.is_short_for(bytes) {
            return;
        }
        for holder in &mut self.holders.all {
            holder.held = self.context.pool.held_by(holder.id, size);
            let path = self.sessions.get(holder.session).and_then(|s| s.peer.selected());
            holder.network = path.map(|path| media_network(path.remote.ip()));
        }
        let most = self.holders.all.iter().map(|holder| holder.held).max();
        self.context.pool.note_most(size, most.unwrap_or(0));
        let share = self.context.pool.share();
        let victims = self.holders.victims(share).into_iter().flatten();
        // The next one only if there is nothing to evict at the one before.
        _ = victims.into_iter().any(|victim| self.evict_from(now, victim) > 0);
        self.context.pool.reclaim(size);
        if self.context.pool.is_short_for(bytes) {
            self.holders.retry_at = Some(now + RETRY_AFTER);
        }
    }

    /// Evicts the oldest packets of a publisher here and at other workers, and its kept keyframes if
    /// there are none. Returns the number of packets.
    fn evict_from(&mut self, now: Instant, victim: SessionKey) -> usize {
        let Some(Session { role, stream, .. }) = self.sessions.get_mut(victim) else { return 0 };
        let RoleState::Publisher(publisher) = role else { return 0 };
        let pool = &mut self.context.pool;
        let stream = self.streams.get_mut(stream.id);
        let epoch = publisher.source.epoch;
        let Some(stream) = stream.filter(|s| s.is_owned() && s.epoch() == Some(epoch)) else {
            return 0;
        };
        let latest = now.checked_sub(EVICTED_AGE_MIN).unwrap_or(now);
        let (mut packets, mut until) = (0, None);
        while packets < pool.relief()
            && let Some(evicted) = stream.evict_slice(now, latest, pool)
        {
            packets += evicted.packets;
            until = Some(evicted.until);
        }
        if until.is_none() {
            stream.forget_keyframes();
        }
        pool.count_evicted(EvictionCause::PoolShort, packets);
        publisher.dropped.note(now, Warning::CacheShortened);
        publisher.routing.evict(epoch, until, stream.shared.id, &mut self.context.port);
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn victims(held: &[(usize, &str)]) -> Vec<u32> {
        let mut holders = Holders::default();
        for (n, (held, addr)) in (0..).zip(held) {
            let (session, id) = (SessionKey::new(n, 0), HolderId::default());
            let network = Some(media_network(addr.parse().unwrap()));
            holders.all.push(Holder { session, id, held: *held, network });
        }
        let victims = holders.victims(100).into_iter().flatten();
        victims.map(|session| session.index()).collect()
    }

    #[test]
    fn publisher_above_its_share_goes_before_a_network_of_many() {
        let venue = [(90, "192.0.2.1"); 20];
        assert_eq!(victims(&[&venue[..], &[(101, "192.0.2.2")]].concat()), [20]);
        assert_eq!(victims(&[&venue[..], &[(99, "192.0.2.2")]].concat()).len(), VICTIMS_MAX);
        assert!(!victims(&[&venue[..], &[(99, "192.0.2.2")]].concat()).contains(&20));
    }

    #[test]
    fn who_holds_little_pays_for_nobody() {
        let (one, other) = ("192.0.2.1", "192.0.2.2");
        assert_eq!(victims(&[(300, one), (149, one), (150, other), (900, other)]), [3]);
        assert_eq!(victims(&[(300, one), (149, one), (150, other)]), [0, 2]);
        assert_eq!(victims(&[(80, one), (39, one), (40, one), (100, other)]), [0, 2]);
        assert!(victims(&[]).is_empty());
        assert!(victims(&[(0, one)]).is_empty());
    }

    #[test]
    fn ipv6_counts_by_its_64_and_mapped_ipv4_as_ipv4() {
        let net = |addr: &str| media_network(addr.parse().unwrap());
        assert_eq!(net("2001:db8:0:1::1"), net("2001:db8:0:1:ffff::2"));
        assert_ne!(net("2001:db8:0:1::1"), net("2001:db8:0:2::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
    }
}
