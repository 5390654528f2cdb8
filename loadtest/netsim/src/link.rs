//! One direction of a network path: takes datagrams with the time, and returns them when they
//! arrive.
//!
//! Loss and arrival time of a datagram are decided when it enters, because later datagrams cannot
//! change them. Then the link only holds it until its time. Never reads a clock. Called by the
//! relay and by the server's simulator.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use crate::{HEADER_BYTES, Policer, Profile, Rng};

/// Maximum datagrams in flight in one link. More are dropped as if the queue were full.
pub const IN_FLIGHT_MAX: usize = 65_536;

/// A link for datagrams of any type `T`. It only needs to know their size.
#[derive(Debug)]
pub struct Link<T> {
    profile: Profile,
    began: Instant,
    random: Generators,
    /// Whether the loss model is in a burst of losses.
    in_burst: bool,
    /// When the transmitter has sent every datagram that it accepted.
    free_at: Instant,
    /// Datagrams that have not left the queue: when each will leave, and its bytes.
    backlog: VecDeque<(Instant, u32)>,
    backlog_bytes: u64,
    /// Tokens in the policer's bucket, in bits times nanoseconds per second, and when it was last
    /// filled.
    tokens: u128,
    filled_at: Instant,
    /// The latest arrival so far. A datagram that keeps its order does not arrive before it.
    last_arrival: Instant,
    flights: BinaryHeap<Reverse<Flight<T>>>,
    next_flight: u64,
    counts: Counts,
}

/// Random number generators, one for each impairment, so that jitter does not change which
/// datagrams are lost.
#[derive(Debug)]
struct Generators {
    loss: Rng,
    jitter: Rng,
    reorder: Rng,
    duplicate: Rng,
}

/// Datagrams so far. `offered + duplicated` is always the sum of `delivered`, the four kinds of
/// drops, and [`Link::queued`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that entered.
    pub offered: u64,
    /// Payload bytes of these datagrams.
    pub offered_bytes: u64,
    /// Datagrams that arrived.
    pub delivered: u64,
    /// Payload bytes of these datagrams.
    pub delivered_bytes: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Dropped: larger than the MTU.
    pub too_large: u64,
    /// Dropped by the policer.
    pub policed: u64,
    /// Dropped at the tail of the queue.
    pub overflowed: u64,
    /// Dropped by random loss.
    pub lost: u64,
}

impl Counts {
    /// Datagrams that never arrive.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.too_large + self.policed + self.overflowed + self.lost
    }

    /// Adds the counts of another link.
    pub fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.offered_bytes += other.offered_bytes;
        self.delivered += other.delivered;
        self.delivered_bytes += other.delivered_bytes;
        self.duplicated += other.duplicated;
        self.too_large += other.too_large;
        self.policed += other.policed;
        self.overflowed += other.overflowed;
        self.lost += other.lost;
    }
}

#[derive(Debug)]
struct Flight<T> {
    arrives_at: Instant,
    number: u64,
    bytes: u32,
    packet: T,
}

impl<T> Flight<T> {
    fn key(&self) -> (Instant, u64) {
        (self.arrives_at, self.number)
    }
}

impl<T> PartialEq for Flight<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Flight<T> {}

impl<T> PartialOrd for Flight<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Flight<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T: Clone> Link<T> {
    /// A link that begins at `now`: its trace starts, and its bucket is full.
    #[must_use]
    pub fn new(profile: Profile, seed: u64, now: Instant) -> Self {
        let random = Generators {
            loss: Rng::new(seed, 1),
            jitter: Rng::new(seed, 2),
            reorder: Rng::new(seed, 3),
            duplicate: Rng::new(seed, 4),
        };
        let mut link = Self {
            profile,
            began: now,
            random,
            in_burst: false,
            free_at: now,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            tokens: 0,
            filled_at: now,
            last_arrival: now,
            flights: BinaryHeap::new(),
            next_flight: 0,
            counts: Counts::default(),
        };
        link.fill_bucket();
        link
    }

    /// Changes the profile. Datagrams in flight keep their arrival times; the new trace starts at
    /// `now`.
    pub fn change(&mut self, now: Instant, profile: Profile) {
        (self.profile, self.began, self.filled_at, self.in_burst) = (profile, now, now, false);
        self.fill_bucket();
    }

    /// Takes a datagram with a payload of `bytes`. `now` must never decrease.
    pub fn send(&mut self, now: Instant, bytes: usize, packet: T) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.counts.offered += 1;
        self.counts.offered_bytes += u64::from(bytes);
        let size = bytes.saturating_add(HEADER_BYTES);
        if size > self.profile.mtu {
            self.counts.too_large += 1;
            return;
        }
        if !self.passes_policer(now, size) {
            self.counts.policed += 1;
            return;
        }
        let Some(left_at) = self.transmit(now, size) else {
            self.counts.overflowed += 1;
            return;
        };
        if self.profile.loss.loses(&mut self.random.loss, &mut self.in_burst) {
            self.counts.lost += 1;
            return;
        }
        let at = self.arrival(left_at);
        if self.random.duplicate.chance(self.profile.duplicate)
            && self.flights.len() < IN_FLIGHT_MAX - 1
        {
            self.counts.duplicated += 1;
            self.schedule(at, bytes, packet.clone());
        }
        self.schedule(at, bytes, packet);
    }

    /// The next datagram that has arrived by `now`, in order of arrival.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.next_timeout()? > now {
            return None;
        }
        let Reverse(flight) = self.flights.pop()?;
        self.counts.delivered += 1;
        self.counts.delivered_bytes += u64::from(flight.bytes);
        Some(flight.packet)
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.flights.peek().map(|Reverse(flight)| flight.arrives_at)
    }

    /// Datagrams in flight.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.flights.len()
    }

    /// Bytes (with headers) that wait for the transmitter at `now`.
    #[must_use]
    pub fn backlog_bytes(&self, now: Instant) -> u64 {
        self.backlog
            .iter()
            .filter(|(left_at, _)| *left_at > now)
            .map(|(_, bytes)| u64::from(*bytes))
            .sum()
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn fill_bucket(&mut self) {
        self.tokens = self.profile.police.map_or(0, bucket);
    }

    fn passes_policer(&mut self, now: Instant, size: u32) -> bool {
        let Some(police) = self.profile.police else { return true };
        let since = now.saturating_duration_since(self.filled_at).as_nanos();
        self.filled_at = self.filled_at.max(now);
        let added = since.saturating_mul(police.bits_per_s.into());
        self.tokens = self.tokens.saturating_add(added).min(bucket(police));
        match self.tokens.checked_sub(token_cost(size)) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// When the datagram has left the queue; `None` if the queue is full.
    fn transmit(&mut self, now: Instant, size: u32) -> Option<Instant> {
        if self.flights.len() >= IN_FLIGHT_MAX {
            return None;
        }
        while let Some((left_at, bytes)) = self.backlog.front().copied()
            && left_at <= now
        {
            self.backlog.pop_front();
            self.backlog_bytes = self.backlog_bytes.saturating_sub(bytes.into());
        }
        let Some(rate) = &self.profile.rate else {
            // A queue from before a change of the profile still leaves first.
            return Some(self.free_at.max(now));
        };
        // An idle link accepts any datagram: a small queue is not a small MTU.
        let fits = self.backlog_bytes + u64::from(size) <= u64::from(self.profile.queue_bytes);
        if !fits && !self.backlog.is_empty() {
            return None;
        }
        let from = self.free_at.max(now).saturating_duration_since(self.began);
        let left_at = self.began + rate.departure(from, u64::from(size) * 8);
        self.free_at = left_at;
        self.backlog.push_back((left_at, size));
        self.backlog_bytes += u64::from(size);
        Some(left_at)
    }

    fn arrival(&mut self, left_at: Instant) -> Instant {
        let profile = &self.profile;
        let mut at = left_at + profile.delay;
        if !profile.jitter.is_zero() {
            // Six standard deviations span the range of the jitter.
            let share = (self.random.jitter.normal() + 3.0) / 6.0;
            at += profile.jitter.mul_f64(share);
        }
        if profile.reorder > 0.0 && self.random.reorder.chance(profile.reorder) {
            return at + profile.reorder_by;
        }
        if !profile.jitter_reorders || profile.jitter.is_zero() {
            at = at.max(self.last_arrival);
        }
        self.last_arrival = self.last_arrival.max(at);
        at
    }

    fn schedule(&mut self, at: Instant, bytes: u32, packet: T) {
        self.flights.push(Reverse(Flight {
            arrives_at: at,
            number: self.next_flight,
            bytes,
            packet,
        }));
        self.next_flight += 1;
    }
}

const NS_PER_S: u128 = Duration::from_secs(1).as_nanos();

fn bucket(police: Policer) -> u128 {
    token_cost(police.burst_bytes)
}

fn token_cost(bytes: u32) -> u128 {
    u128::from(bytes) * 8 * NS_PER_S
}
