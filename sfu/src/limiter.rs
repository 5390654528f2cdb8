//! Rate limits: a count per second, and a token bucket. Pure: the time is an argument. The caller says what happens
//! at the limit.

use std::time::{Duration, Instant};

/// Count per fixed second: at most `per_second` in each. At zero the caller drops and counts.
#[derive(Debug, Clone, Copy)]
pub struct PerSecondLimit {
    per_second: u32,
    left: u32,
    since: Option<Instant>,
}

impl PerSecondLimit {
    /// A limit of which nothing is taken yet.
    pub fn per_second(per_second: u32) -> Self {
        Self { per_second, left: per_second, since: None }
    }

    /// Takes one; false if all of this second are taken.
    pub fn take(&mut self, now: Instant) -> bool {
        let fresh = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1));
        if fresh {
            self.since = Some(now);
            self.left = self.per_second;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

/// Token bucket: one token each `every`, at most `burst` of them.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    every: Duration,
    burst: u32,
    /// When the bucket is full again.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst, full_at: None }
    }

    /// Takes a token; false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.every;
        let some = full_at <= now + self.every * self.burst;
        if some {
            self.full_at = Some(full_at);
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_bucket_allows_its_burst_and_then_one_per_interval() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut bucket = TokenBucket::new(second * 3, 3);
        assert_eq!([0; 5].map(|_| bucket.take(now)), [true, true, true, false, false]);
        assert!(!bucket.take(now + second * 2) && bucket.take(now + second * 3));
        assert!(!bucket.take(now + second * 5));
        let later = now + second * 60;
        assert_eq!([0; 4].map(|_| bucket.take(later)), [true, true, true, false]);
    }
}
