//! Rate limiters: a count per second, a token bucket, and a rate of bytes over a window.
//!
//! Owns the arithmetic only. Never reads a clock, never drops or counts anything: the caller passes
//! `now` and acts on the answer. Called by `repair/` for keyframe requests and by `worker/` and
//! `net/` for what one peer may send. The limits themselves stand beside their callers.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::client_network::media_network;

const SECOND: Duration = Duration::from_secs(1);

/// Limit of events in one second. The second begins with the first event after the one before.
#[derive(Debug, Clone, Copy)]
pub struct PerSecondLimit {
    per_second: u32,
    left: u32,
    second_began: Option<Instant>,
}

impl PerSecondLimit {
    /// A limiter that has counted no event yet.
    pub const fn per_second(per_second: u32) -> Self {
        Self { per_second, left: per_second, second_began: None }
    }

    fn is_over(&self, now: Instant) -> bool {
        let is_over = |began| now.saturating_duration_since(began) >= SECOND;
        self.second_began.is_none_or(is_over)
    }

    /// Whether no event of this second is left.
    pub fn is_spent(&self, now: Instant) -> bool {
        self.left == 0 && !self.is_over(now)
    }

    /// Takes one event of this second; false if none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_up_to(now, 1) == 1
    }

    /// Takes as many of `events` as are left in this second; returns their number.
    pub fn take_up_to(&mut self, now: Instant, events: u32) -> u32 {
        if self.is_over(now) {
            self.second_began = Some(now);
            self.left = self.per_second;
        }
        let taken = self.left.min(events);
        self.left -= taken;
        taken
    }
}

/// Limits of events in one second for any number of networks, in memory that is fixed: each network
/// has a slot by a keyed hash (SipHash: the low bits of `foldhash::fast` put up to 439 of 1,000
/// neighbouring networks on shared slots). Networks of one slot share its limit; an attacker cannot
/// choose one.
#[derive(Debug)]
pub struct NetworkLimits {
    slots: Box<[PerSecondLimit]>,
    seed: RandomState,
}

impl NetworkLimits {
    /// `slots` limiters that have counted no event yet.
    pub fn new(slots: usize, per_second: u32) -> Self {
        let slots = vec![PerSecondLimit::per_second(per_second); slots].into_boxed_slice();
        Self { slots, seed: RandomState::new() }
    }

    /// Takes one event of this second from the address's network; false if none is left.
    pub fn take(&mut self, now: Instant, of: IpAddr) -> bool {
        self.slot(of).take(now)
    }

    /// Whether the address's network has none left in this second.
    pub fn is_spent(&mut self, now: Instant, of: IpAddr) -> bool {
        self.slot(of).is_spent(now)
    }

    fn slot(&mut self, of: IpAddr) -> &mut PerSecondLimit {
        let index = self.seed.hash_one(media_network(of)) as usize % self.slots.len();
        self.slots.get_mut(index).expect("there are slots")
    }
}

/// Token bucket: one token per interval, and a burst after a pause.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    interval: Duration,
    burst: u32,
    /// Time at which the bucket is full again; `None` before the first token was taken.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens, which regains one each `interval`.
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full_at: None }
    }

    /// Takes a token; false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_after_one_more(now);
        let is_available = full_at <= now + self.interval * self.burst;
        if is_available {
            self.full_at = Some(full_at);
        }
        is_available
    }

    /// Takes a token even if there is none; the bucket then owes it.
    pub fn spend(&mut self, now: Instant) {
        self.full_at = Some(self.full_after_one_more(now));
    }

    /// Earliest time for the next token if the bucket held only `burst` tokens; `None` if it is
    /// available whatever the time. For callers of different weight that share one bucket.
    pub fn available_at(&self, burst: u32) -> Option<Instant> {
        self.full_at?.checked_sub(self.interval * burst.saturating_sub(1))
    }

    fn full_after_one_more(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now)) + self.interval
    }
}

/// Limit of a rate over a window: what the rate gives in one window may come at once, and after
/// that the rate itself.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimit {
    per_second: u64,
    window: Duration,
    /// Time at which all that was taken is paid off; `None` before the first.
    paid_at: Option<Instant>,
}

impl WindowLimit {
    /// A limiter that has taken nothing.
    pub const fn new(per_second: u64, window: Duration) -> Self {
        Self { per_second, window, paid_at: None }
    }

    /// Whether `amount` may be taken now if `reserved` of the window stays free for others.
    pub fn allows(&self, now: Instant, amount: u64, reserved: Duration) -> bool {
        let end = now + self.window.saturating_sub(reserved);
        self.paid_after(now, amount).is_some_and(|paid_at| paid_at <= end)
    }

    /// Takes `amount`, even if it is more than is left.
    pub fn spend(&mut self, now: Instant, amount: u64) {
        // A sum past the end of time is never paid off; a limit of 0 gives that with anything.
        if let Some(paid_at) = self.paid_after(now, amount) {
            self.paid_at = Some(paid_at);
        }
    }

    fn paid_after(&self, now: Instant, amount: u64) -> Option<Instant> {
        let nanos = (u128::from(amount) * 1_000_000_000).checked_div(self.per_second.into())?;
        let time = Duration::from_nanos(u64::try_from(nanos).ok()?);
        self.paid_at.map_or(now, |at| at.max(now)).checked_add(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_of_a_rate_may_come_at_once_and_then_the_rate() {
        let now = Instant::now();
        let mut limit = WindowLimit::new(1_000, SECOND * 5);
        let mut take = |ms, amount| {
            let at = now + Duration::from_millis(ms);
            let allowed = limit.allows(at, amount, Duration::ZERO);
            if allowed {
                limit.spend(at, amount);
            }
            allowed
        };
        assert_eq!([5_000, 1].map(|amount| take(0, amount)), [true, false], "a whole window");
        assert_eq!([101, 100, 1].map(|amount| take(100, amount)), [false, true, false]);
        assert!((1..100).all(|n| take(100 + n, 1)) && !take(200, 2), "the rate for ever");
        assert!(take(60_000, 5_000) && !take(60_000, 1), "full again, and not fuller");
        assert!(!WindowLimit::new(0, SECOND).allows(now, 1, Duration::ZERO));
        assert!(!WindowLimit::new(1, SECOND).allows(now, u64::MAX, Duration::ZERO));
    }

    #[test]
    fn reserved_part_of_a_window_is_left_to_others() {
        let now = Instant::now();
        let mut limit = WindowLimit::new(1_000, SECOND * 5);
        limit.spend(now, 4_500);
        assert!(!limit.allows(now, 1, SECOND / 2) && limit.allows(now, 500, Duration::ZERO));
    }

    #[test]
    fn second_begins_with_its_first_event() {
        let start = Instant::now();
        let mut limit = PerSecondLimit::per_second(2);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!([0, 10, 20, 999].map(|ms| limit.take(at(ms))), [true, true, false, false]);
        assert_eq!([1_500, 1_500, 2_499].map(|ms| limit.take(at(ms))), [true, true, false]);
        assert!(limit.take(at(2_500)));
        let mut limit = PerSecondLimit::per_second(5);
        assert!(!limit.is_spent(start));
        assert_eq!([3, 3, 3].map(|events| limit.take_up_to(start, events)), [3, 2, 0]);
        assert!(limit.is_spent(at(999)) && !limit.is_spent(at(1_000)));
        assert_eq!(limit.take_up_to(at(1_000), 9), 5);
        assert!(!PerSecondLimit::per_second(0).take(start));
    }

    #[test]
    fn networks_have_limits_of_their_own_in_fixed_memory() {
        let now = Instant::now();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut limits = NetworkLimits::new(4_096, 2);
        for same in [["192.0.2.1", "::ffff:192.0.2.1"], ["2001:db8::1", "2001:db8::ffff:1"]] {
            let [one, other] = same.map(ip);
            assert!(limits.take(now, one) && !limits.is_spent(now, one) && limits.take(now, other));
            assert!(limits.is_spent(now, other) && !limits.take(now, one), "{same:?}");
            assert!(limits.take(now + SECOND, one) && !limits.is_spent(now + SECOND, other));
        }
        // 10 of 1,000 networks share a slot with two others (mean); neighbours are no exception,
        // whatever the seed.
        for _ in 0..100 {
            let mut limits = NetworkLimits::new(4_096, 2);
            let others = (0..1_000u32).map(|n| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
            let refused = others.filter(|ip| !limits.take(now, *ip)).count();
            assert!(refused < 40, "{refused} of 1,000 networks share a slot with two others");
        }
    }

    #[test]
    fn bucket_has_its_burst_and_then_one_token_per_interval() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(SECOND * 3, 3);
        assert_eq!([0; 5].map(|_| bucket.take(now)), [true, true, true, false, false]);
        assert!(!bucket.take(now + SECOND * 2) && bucket.take(now + SECOND * 3));
        assert!(!bucket.take(now + SECOND * 5));
        let later = now + SECOND * 60;
        assert_eq!([0; 4].map(|_| bucket.take(later)), [true, true, true, false]);
    }

    #[test]
    fn small_burst_waits_for_what_a_large_one_took_from_the_same_bucket() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(SECOND * 2, 16);
        assert_eq!(bucket.available_at(5), None);
        (0..7).for_each(|_| bucket.spend(now));
        assert!(bucket.available_at(16).is_none_or(|at| at <= now), "nine tokens are left of 16");
        assert_eq!(bucket.available_at(8), Some(now));
        assert_eq!(bucket.available_at(5), Some(now + SECOND * 6), "three too many of five");
        (7..20).for_each(|_| bucket.spend(now));
        assert_eq!(bucket.available_at(16), Some(now + SECOND * 10), "it owes four");
        assert!(!bucket.take(now + SECOND * 9) && bucket.take(now + SECOND * 10));
    }
}
