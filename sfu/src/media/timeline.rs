//! Media time that continues when the publisher's timestamps jump.
//!
//! Owns the offset between a publisher's RTP timestamps and those that all modules behind see, for
//! one incoming SSRC. Called by `worker/layer.rs` for each packet. Never knows wall clocks: that is
//! `source_clock.rs`, which sees the continued time.

use std::time::{Duration, Instant};

/// Difference between a step of media time and the elapsed time beyond which it is a jump
/// (quality B4 item 12): the publisher's clock was reset. A smaller one may be a stalled uplink
/// that catches up, or a pause.
pub const JUMP: Duration = Duration::from_secs(10);

/// Timestamps of one SSRC, continued over jumps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timeline {
    offset: u32,
    /// First packet to which `offset` applies; older ones have `before`.
    since: u64,
    before: u32,
    newest: Option<Newest>,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    ext_seq: u64,
    /// Timestamp as the publisher wrote it.
    timestamp: u32,
    arrival: Instant,
}

impl Timeline {
    /// Continued timestamp of a packet. `clock_rate` in Hz.
    pub fn on_packet(
        &mut self,
        now: Instant,
        ext_seq: u64,
        timestamp: u32,
        clock_rate: u32,
    ) -> u32 {
        let Some(newest) = self.newest else {
            self.newest = Some(Newest { ext_seq, timestamp, arrival: now });
            return timestamp;
        };
        if ext_seq <= newest.ext_seq {
            let offset = if ext_seq < self.since { self.before } else { self.offset };
            return timestamp.wrapping_add(offset);
        }
        let passed = now.saturating_duration_since(newest.arrival);
        let passed = ticks(passed, clock_rate);
        let step = timestamp.wrapping_sub(newest.timestamp);
        if is_jump(step, passed, clock_rate) {
            self.before = self.offset;
            self.since = ext_seq;
            // At least one tick, so that it is another frame.
            let target = newest.timestamp.wrapping_add(self.offset).wrapping_add(passed.max(1));
            self.offset = target.wrapping_sub(timestamp);
        }
        self.newest = Some(Newest { ext_seq, timestamp, arrival: now });
        timestamp.wrapping_add(self.offset)
    }

    /// Timestamp of a packet whose own timestamp means nothing: that of the packet before it.
    pub fn of_useless(&self, ext_seq: u64, timestamp: u32) -> u32 {
        let offset = if ext_seq < self.since { self.before } else { self.offset };
        let newest = self.newest.filter(|newest| newest.ext_seq < ext_seq);
        newest.map_or(timestamp, |newest| newest.timestamp).wrapping_add(offset)
    }

    /// RTP time of a sender report as a continued timestamp; `None` if it is from before a jump.
    /// `clock_rate` in Hz.
    pub fn of_report(&self, now: Instant, timestamp: u32, clock_rate: u32) -> Option<u32> {
        let newest = self.newest?;
        let passed = ticks(now.saturating_duration_since(newest.arrival), clock_rate);
        let step = timestamp.wrapping_sub(newest.timestamp);
        (!is_jump(step, passed, clock_rate)).then(|| timestamp.wrapping_add(self.offset))
    }
}

fn ticks(span: Duration, clock_rate: u32) -> u32 {
    // Modulo 2^32 like the timestamps themselves.
    (span.as_micros() * u128::from(clock_rate) / 1_000_000) as u32
}

fn is_jump(step: u32, passed: u32, clock_rate: u32) -> bool {
    let apart = step.wrapping_sub(passed) as i32;
    u64::from(apart.unsigned_abs()) > u64::from(clock_rate) * JUMP.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 90_000;
    const FRAME: Duration = Duration::from_millis(40);

    #[test]
    fn steady_time_is_left_alone_whatever_its_base() {
        let start = Instant::now();
        for base in [0, u32::MAX - 5_000, 1 << 31] {
            let mut line = Timeline::default();
            for n in 0..100u32 {
                let wire = base.wrapping_add(n * 3_600);
                assert_eq!(line.on_packet(start + FRAME * n, n.into(), wire, RATE), wire);
            }
        }
    }

    // quality B4 item 12
    #[test]
    fn timestamps_continue_over_a_jump_and_late_packets_keep_the_old_offset() {
        let start = Instant::now();
        for jump in [1 << 31, 0x4000_0000, 0xC000_0000, RATE * 20, 0u32.wrapping_sub(RATE * 20)] {
            let mut line = Timeline::default();
            line.on_packet(start, 10, 1_000, RATE);
            let after = 1_000u32.wrapping_add(jump);
            assert_eq!(line.on_packet(start + FRAME, 12, after, RATE), 1_000 + 3_600);
            assert_eq!(line.on_packet(start + FRAME, 13, after, RATE), 1_000 + 3_600);
            assert_eq!(line.on_packet(start + FRAME, 11, 1_000, RATE), 1_000, "before the jump");
            assert_eq!(line.of_useless(14, 77), 1_000 + 3_600, "as the packet before it");
            assert_eq!(line.of_useless(11, 1_000), 1_000, "late");
            let next = after.wrapping_add(3_600);
            assert_eq!(line.on_packet(start + FRAME * 2, 14, next, RATE), 1_000 + 7_200);
            let now = start + FRAME * 2;
            assert_eq!(line.of_report(now, next, RATE), Some(1_000 + 7_200));
            assert_eq!(line.of_report(now, 1_000, RATE), None, "a report of the time before");
        }
    }

    #[test]
    fn pause_and_stalled_uplink_are_no_jumps() {
        let start = Instant::now();
        let mut line = Timeline::default();
        line.on_packet(start, 1, 0, RATE);
        let hour = Duration::from_secs(3_600);
        let wire = RATE * 3_600;
        assert_eq!(line.on_packet(start + hour, 2, wire, RATE), wire, "a muted hour");
        let stalled = hour + Duration::from_secs(8);
        assert_eq!(line.on_packet(start + stalled, 3, wire + 3_600, RATE), wire + 3_600);
        // A later packet with an earlier time: B-pictures.
        assert_eq!(line.on_packet(start + stalled, 4, wire + 1_800, RATE), wire + 1_800);
    }
}
