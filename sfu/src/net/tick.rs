//! Time that a worker lets packets gather before it serves them: none while its core has time, up to a
//! millisecond when it has not.
//!
//! Waiting makes longer messages (limits section 7: about half the CPU for 0.6 ms on average), so it lowers the
//! load that caused it. A switch at some load would go on and off for ever. This is an integrator: it holds the
//! load at two thirds of a core with the shortest wait that does so. Pure: `shell.rs` gives it the time and the
//! load.

use std::time::{Duration, Instant};

/// Longest wait. Beyond it the sizes of packets limit a message, not the time.
pub(super) const TICK_MAX: Duration = Duration::from_millis(1);

/// Shortest wait that pays: going to sleep and waking up costs about as much as a shorter one gains.
const TICK_MIN: Duration = Duration::from_micros(50);

/// Interval at which the load is measured.
const WINDOW: Duration = Duration::from_millis(50);

/// Load to hold, in thousandths of a core. Not half: at half a core no packet should wait, and with many streams
/// of few viewers each a wait of a millisecond costs more than it saves.
const TARGET_PERMILLE: i64 = 650;

/// Distance from the target within which the wait stays as it is.
const DEAD_BAND_PERMILLE: i64 = 30;

/// Microseconds that the wait grows per window for a load that is a whole core too high: from none to the
/// longest in a fifth of a second when the core is full.
const GAIN_US: i64 = 700;

/// Maximum windows that one measurement counts for: a worker that slept a second comes back without a wait.
const WINDOWS_MAX: i64 = 20;

/// Wait, and the load that it follows.
#[derive(Debug, Clone)]
pub(super) struct Tick {
    since: Option<Instant>,
    wait_us: i64,
    load_permille: u32,
}

impl Tick {
    /// No wait, no load.
    pub(super) fn new() -> Self {
        Self { since: None, wait_us: 0, load_permille: 0 }
    }

    /// Whether the load is to be measured now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW)
    }

    /// Follows a load: the core was busy for `busy` since the last call.
    pub(super) fn observe(&mut self, now: Instant, busy: Duration) {
        let Some(since) = self.since.replace(now) else { return };
        let span = now.saturating_duration_since(since).as_micros().max(1);
        let permille = (busy.as_micros() * 1_000 / span).min(1_000) as u32;
        self.load_permille = permille;
        let excess = i64::from(permille) - TARGET_PERMILLE;
        if excess.abs() <= DEAD_BAND_PERMILLE {
            return;
        }
        let windows = (span / WINDOW.as_micros()).clamp(1, WINDOWS_MAX as u128) as i64;
        let change = excess * GAIN_US * windows / 1_000;
        self.wait_us = (self.wait_us + change).clamp(0, TICK_MAX.as_micros() as i64);
    }

    /// Shortest time between the beginnings of two turns; zero for no wait.
    pub(super) fn interval(&self) -> Duration {
        let wait = Duration::from_micros(self.wait_us.unsigned_abs());
        if wait < TICK_MIN { Duration::ZERO } else { wait }
    }

    /// Load over the last window in thousandths of a core.
    pub(super) fn load_permille(&self) -> u32 {
        self.load_permille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a core, whose load depends on the wait, for `windows` windows. Returns the waits in µs.
    fn run(
        tick: &mut Tick,
        now: &mut Instant,
        windows: usize,
        load: impl Fn(u64) -> u64,
    ) -> Vec<u64> {
        let mut waits = Vec::new();
        for _ in 0..windows {
            let wait = tick.interval().as_micros() as u64;
            *now += WINDOW;
            assert!(tick.is_due(*now));
            tick.observe(*now, WINDOW * load(wait) as u32 / 1_000);
            waits.push(tick.interval().as_micros() as u64);
        }
        waits
    }

    fn start() -> (Tick, Instant) {
        let now = Instant::now();
        let mut tick = Tick::new();
        assert!(tick.is_due(now));
        tick.observe(now, Duration::ZERO);
        assert!(!tick.is_due(now + WINDOW / 2));
        (tick, now)
    }

    #[test]
    fn packets_do_not_wait_below_half_a_core() {
        let (mut tick, mut now) = start();
        for load in [0, 100, 300, 550, 670] {
            assert!(
                run(&mut tick, &mut now, 100, |_| load).iter().all(|wait| *wait == 0),
                "{load}"
            );
        }
    }

    #[test]
    fn full_core_gets_the_longest_wait_within_a_quarter_of_a_second_and_never_more() {
        let (mut tick, mut now) = start();
        let waits = run(&mut tick, &mut now, 100, |_| 1_000);
        let reached = waits.iter().position(|wait| *wait == 1_000).expect("it gets there");
        assert!((reached + 1) * 50 <= 250, "after {} ms", (reached + 1) * 50);
        assert!(waits[reached..].iter().all(|wait| *wait == 1_000));
        assert_eq!(tick.load_permille(), 1_000);
    }

    /// limits section 6: 95 % of a core without a wait, 41 % with 1 ms. A switch at one load
    /// would go on and off for ever.
    #[test]
    fn wait_settles_where_it_lowers_the_load_to_two_thirds_of_a_core() {
        let (mut tick, mut now) = start();
        let load = |wait: u64| 950 - wait * 540 / 1_000;
        run(&mut tick, &mut now, 200, load);
        let settled = run(&mut tick, &mut now, 200, load);
        let (low, high) = (settled.iter().min().unwrap(), settled.iter().max().unwrap());
        assert!(high - low <= 20, "{low} to {high} µs");
        assert!(load(*low).abs_diff(650) <= 35, "load {}", load(*low));
    }

    #[test]
    fn wait_ends_when_the_load_falls() {
        let (mut tick, mut now) = start();
        run(&mut tick, &mut now, 20, |_| 1_000);
        let waits = run(&mut tick, &mut now, 20, |_| 100);
        assert!(waits.is_sorted_by(|a, b| a >= b));
        assert_eq!(waits.last(), Some(&0));
        // A worker without work for a second did not measure its load either.
        run(&mut tick, &mut now, 20, |_| 1_000);
        tick.observe(now + Duration::from_secs(1), Duration::from_millis(1));
        assert_eq!(tick.interval(), Duration::ZERO);
    }

    #[test]
    fn wait_too_short_to_pay_is_none() {
        let (mut tick, mut now) = start();
        let waits = run(&mut tick, &mut now, 40, |_| 690);
        assert_eq!(waits.first(), Some(&0));
        assert!(waits.iter().all(|wait| *wait == 0 || *wait >= 50), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait >= 50));
    }
}
