//! How long forwarding took, over the last seconds: from the return of the receive call to the
//! return of the last send call of that turn, weighted by packets sent.

use std::time::{Duration, Instant};

/// Powers of two of a microsecond; the last takes everything above.
const BUCKETS: usize = 24;

/// Two halves of this length make the window.
const HALF: Duration = Duration::from_secs(5);

/// A coarse histogram of the last five to ten seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct LatencyWindow {
    started: Option<Instant>,
    current: Counts,
    previous: Counts,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    buckets: [u64; BUCKETS],
    max_us: u64,
}

impl LatencyWindow {
    /// Notes that `packets` left `took` after they had come.
    pub(super) fn record(&mut self, now: Instant, took: Duration, packets: u64) {
        self.turn(now);
        let us = took.as_micros() as u64;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        if let Some(count) = self.current.buckets.get_mut(bucket.min(BUCKETS - 1)) {
            *count += packets;
        }
        self.current.max_us = self.current.max_us.max(us);
    }

    /// Adds another worker's window.
    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in
            [(&mut self.current, &other.current), (&mut self.previous, &other.previous)]
        {
            for (sum, n) in mine.buckets.iter_mut().zip(theirs.buckets) {
                *sum += n;
            }
            mine.max_us = mine.max_us.max(theirs.max_us);
        }
    }

    /// p50, p99 and maximum in microseconds (upper bounds of their buckets); zeros when empty.
    pub(super) fn quantiles(&self) -> [u64; 3] {
        let sums: Vec<u64> =
            self.current.buckets.iter().zip(self.previous.buckets).map(|(a, b)| a + b).collect();
        let total: u64 = sums.iter().sum();
        if total == 0 {
            return [0; 3];
        }
        let max = self.current.max_us.max(self.previous.max_us);
        let at = |permille: u64| {
            let rank = (total * permille).div_ceil(1000);
            let mut seen = 0;
            let bucket = sums.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            bucket.map_or(max, |bucket| (1u64 << bucket).min(max))
        };
        [at(500), at(990), max]
    }

    /// Forgets what is older than the window.
    pub(super) fn turn(&mut self, now: Instant) {
        let started = *self.started.get_or_insert(now);
        let age = now.saturating_duration_since(started);
        if age >= HALF {
            self.previous =
                if age >= HALF * 2 { Counts::default() } else { std::mem::take(&mut self.current) };
            self.current = Counts::default();
            self.started = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_what_happened_lately() {
        let start = Instant::now();
        let mut window = LatencyWindow::default();
        assert_eq!(window.quantiles(), [0, 0, 0]);
        window.record(start, Duration::from_micros(100), 980);
        window.record(start, Duration::from_micros(3_000), 20);
        assert_eq!(window.quantiles(), [128, 3_000, 3_000]);
        let mut sum = LatencyWindow::default();
        sum.merge(&window);
        assert_eq!(sum.quantiles(), window.quantiles());
        window.turn(start + HALF);
        assert_eq!(window.quantiles()[2], 3_000, "still in the window");
        window.turn(start + HALF * 4);
        assert_eq!(window.quantiles(), [0, 0, 0]);
    }
}
