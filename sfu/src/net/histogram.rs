//! Histogram of durations in fixed memory: exact below 64 µs, within 3 % above, up to a minute.
//!
//! Log-linear like HDR histograms: each power of two is cut into 32 equal buckets, so a record is a shift and an
//! addition. Never allocates after it was made. Used by `latency.rs`.

use std::time::Duration;

/// Bits of the bucket index within a power of two, which has `2^SUB_BITS` buckets.
const SUB_BITS: u32 = 5;

/// Bits of the longest duration with a bucket of its own. Durations from `2^MAX_BITS` µs (67 s) on are counted
/// in the last bucket; the maximum stays exact.
const MAX_BITS: u32 = 26;

const BUCKETS: usize = ((MAX_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts by duration in whole microseconds, rounded down.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum_us: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, sum_us: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts `n` durations of this length.
    pub(super) fn record(&mut self, took: Duration, n: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(us)) {
            *bucket += n;
        }
        self.count += n;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(n));
        self.max_us = self.max_us.max(if n > 0 { us } else { 0 });
    }

    /// Adds the counts of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    /// Sets all counts to zero; the memory stays allocated.
    pub(super) fn clear(&mut self) {
        self.buckets.fill(0);
        (self.count, self.sum_us, self.max_us) = (0, 0, 0);
    }

    /// Number of durations.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all durations in microseconds.
    pub(super) fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Longest duration in microseconds.
    pub(super) fn max_us(&self) -> u64 {
        self.max_us
    }

    /// Duration in microseconds that `per_100_000` of 100,000 did not exceed (the upper edge of its bucket);
    /// zero when empty.
    pub(super) fn quantile_us(&self, per_100_000: u64) -> u64 {
        let rank = u128::from(self.count) * u128::from(per_100_000);
        let rank = rank.div_ceil(100_000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|n| {
            seen += u128::from(*n);
            seen >= rank
        });
        bucket.map_or(0, |bucket| last_of(bucket).min(self.max_us))
    }

    /// Number of durations of at most `bound_us`; a bucket that the bound cuts in two is not counted.
    pub(super) fn at_most_us(&self, bound_us: u64) -> u64 {
        let within = self.buckets.iter().enumerate();
        within.take_while(|(bucket, _)| last_of(*bucket) <= bound_us).map(|(_, n)| n).sum()
    }
}

fn bucket_of(us: u64) -> usize {
    let us = us.min((1 << MAX_BITS) - 1);
    let bits = u64::BITS - us.leading_zeros();
    let shift = bits.saturating_sub(SUB_BITS + 1);
    ((u64::from(shift) << SUB_BITS) + (us >> shift)) as usize
}

/// Longest duration in microseconds that is counted in a bucket.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    ((bucket - (shift << SUB_BITS) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn each_duration_is_in_a_bucket_at_most_three_percent_wide() {
        let mut before = 0;
        for us in (0..5_000).chain((5_000..1 << MAX_BITS).step_by(997)) {
            let bucket = bucket_of(us);
            assert!(bucket >= before, "{us}");
            before = bucket;
            let last = last_of(bucket);
            assert!(last >= us && bucket_of(last) == bucket, "{us} is told as {last}");
            assert!(bucket_of(last + 1) == bucket + 1 || bucket == BUCKETS - 1, "{last}");
            assert!((last - us) * 32 <= us.max(1), "{us} is told as {last}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_sums_and_bounds_of_a_known_set() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile_us(50_000), histogram.max_us()), (0, 0));
        histogram.record(us(40), 989);
        histogram.record(us(1_000), 10);
        histogram.record(us(90_000_000), 1);
        let quantiles = [50_000, 99_000, 99_900, 100_000].map(|at| histogram.quantile_us(at));
        assert_eq!(quantiles[0], 40);
        assert_eq!((quantiles[1], quantiles[2]), (1_007, 1_007), "within its bucket of 16 µs");
        assert_eq!(histogram.max_us(), 90_000_000, "beyond the last bucket, still exact");
        assert_eq!(histogram.count(), 1_000);
        assert_eq!(histogram.sum_us(), 989 * 40 + 10_000 + 90_000_000);
        let bounds = [39, 40, 999, 1_007, 60_000_000].map(|bound| histogram.at_most_us(bound));
        assert_eq!(bounds, [0, 989, 989, 999, 999]);
    }

    #[test]
    fn two_histograms_add_up_and_a_cleared_one_is_empty() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.record(us(10), 3);
        two.record(us(20), 1);
        one.merge(&two);
        assert_eq!((one.count(), one.sum_us(), one.max_us()), (4, 50, 20));
        one.clear();
        assert_eq!(
            (one.count(), one.sum_us(), one.max_us(), one.quantile_us(99_000)),
            (0, 0, 0, 0)
        );
    }
}
