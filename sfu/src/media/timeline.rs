//! Media time that continues when the publisher's timestamps jump or its clock stands still.
//!
//! Owns the offset between a publisher's RTP timestamps and those that all modules behind see, for
//! one incoming SSRC. Called by `worker/layer.rs` for each packet. Never knows wall clocks: that is
//! `source_clock.rs`, which sees the continued time.
//!
//! After a silence with timestamps that did not advance, either the packets of the silence follow
//! in a burst (OBS, or a network that stood still), or the clock stood still as well (a sample
//! counter without samples). Only the packets after it tell which: a burst makes up for the time.

use std::time::{Duration, Instant};

use crate::warm::warm;

/// Distance of a timestamp from each expected one beyond which the publisher's clock was reset
/// (quality B4 item 12). Expected after a silence are the time of now and, of a sender that resumes
/// where it stopped, the time before the silence.
pub const JUMP: Duration = Duration::from_secs(10);

/// Time that timestamps may be behind before it is asked why.
const STALL: Duration = Duration::from_secs(1);

/// Time behind at which a burst has made up for a stall.
const CAUGHT_UP: Duration = Duration::from_millis(500);

/// Time without making up for a stall after which the clock stood still. Until then sender reports
/// show viewers a line that the packets do not follow, and afterwards both agree.
const STOOD_STILL_AFTER: Duration = Duration::from_secs(1);

/// What counts as making up, above the jitter of most paths.
const MADE_UP: Duration = Duration::from_millis(40);

/// Timestamps of one SSRC, continued over jumps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timeline {
    offset: u32,
    /// First packet to which `offset` applies; older ones have `before`.
    since: u64,
    before: u32,
    newest: Option<Newest>,
    stall: Option<Stall>,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    ext_seq: u64,
    /// Timestamp as the publisher wrote it.
    timestamp: u32,
    arrival: Instant,
}

/// A silence after which the timestamps are behind, while its cause is unknown.
#[derive(Debug, Clone, Copy)]
struct Stall {
    /// The last packet before it.
    last: Newest,
    /// Time since which nothing was made up, and the ticks behind at that time.
    since: Instant,
    behind: i64,
    /// Least ticks behind since then.
    least: i64,
}

/// What a timestamp says after another one.
enum Step {
    /// The clock goes on, so many ticks behind the elapsed time; negative for ahead.
    Behind(i64),
    /// The clock was reset.
    Jump,
}

impl Timeline {
    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.newest, self.stall.is_some());
    }

    /// Continued timestamp of a packet. `clock_rate` in Hz.
    pub fn on_packet(
        &mut self,
        now: Instant,
        ext_seq: u64,
        timestamp: u32,
        clock_rate: u32,
    ) -> u32 {
        let packet = Newest { ext_seq, timestamp, arrival: now };
        let Some(newest) = self.newest else {
            self.newest = Some(packet);
            return timestamp;
        };
        if ext_seq <= newest.ext_seq {
            let offset = if ext_seq < self.since { self.before } else { self.offset };
            return timestamp.wrapping_add(offset);
        }
        // Packets of one frame have one time, whatever is decided meanwhile.
        if timestamp != newest.timestamp {
            match newest.step_to(&packet, clock_rate) {
                Step::Jump => {
                    self.stall = None;
                    let passed = newest.ticks_to(now, clock_rate) as u32;
                    // At least one tick, so that it is another frame.
                    let target = newest.timestamp.wrapping_add(passed.max(1));
                    let offset = target.wrapping_add(self.offset).wrapping_sub(timestamp);
                    self.set_offset(ext_seq, offset);
                }
                Step::Behind(behind) => self.watch(newest, &packet, behind, clock_rate),
            }
        }
        self.newest = Some(packet);
        timestamp.wrapping_add(self.offset)
    }

    /// Timestamp of a packet whose own timestamp means nothing: that of the packet before it. Of a
    /// late one that is not known here, and it keeps its own; `worker/publisher.rs` replaces it.
    pub fn of_useless(&self, ext_seq: u64, timestamp: u32) -> u32 {
        let offset = if ext_seq < self.since { self.before } else { self.offset };
        let newest = self.newest.filter(|newest| newest.ext_seq < ext_seq);
        newest.map_or(timestamp, |newest| newest.timestamp).wrapping_add(offset)
    }

    /// Finds out why timestamps are behind, if they are.
    fn watch(&mut self, newest: Newest, packet: &Newest, behind: i64, clock_rate: u32) {
        let now = packet.arrival;
        let Some(stall) = &mut self.stall else {
            if behind >= span(STALL, clock_rate) {
                self.stall = Some(Stall { last: newest, since: now, behind, least: behind });
            }
            return;
        };
        let step = packet.timestamp.wrapping_sub(stall.last.timestamp) as i32;
        let behind = stall.last.ticks_to(now, clock_rate) as i64 - i64::from(step);
        stall.least = stall.least.min(behind);
        if behind < span(CAUGHT_UP, clock_rate) {
            self.stall = None;
        } else if behind + span(MADE_UP, clock_rate) < stall.behind {
            *stall = Stall { since: now, behind, least: behind, ..*stall };
        } else if now.saturating_duration_since(stall.since) >= STOOD_STILL_AFTER {
            let offset = self.offset.wrapping_add(stall.least as u32);
            self.stall = None;
            self.set_offset(packet.ext_seq, offset);
        }
    }

    fn set_offset(&mut self, since: u64, offset: u32) {
        self.before = std::mem::replace(&mut self.offset, offset);
        self.since = since;
    }

    /// RTP time of a sender report as a continued timestamp; `None` if it is from before a jump, or
    /// if it is behind and the cause is unknown. `clock_rate` in Hz.
    pub fn of_report(&self, now: Instant, timestamp: u32, clock_rate: u32) -> Option<u32> {
        let newest = self.newest.filter(|_| self.stall.is_none())?;
        let report = Newest { timestamp, arrival: now, ..newest };
        match newest.step_to(&report, clock_rate) {
            Step::Behind(behind) if behind < span(STALL, clock_rate) => {
                Some(timestamp.wrapping_add(self.offset))
            }
            _ => None,
        }
    }
}

impl Newest {
    /// What the timestamp of `next` says after this one.
    fn step_to(&self, next: &Self, clock_rate: u32) -> Step {
        let passed = self.ticks_to(next.arrival, clock_rate);
        let step = next.timestamp.wrapping_sub(self.timestamp);
        let jump = span(JUMP, clock_rate);
        // The clock may have wrapped in a long silence.
        let ahead = i64::from(step.wrapping_sub(passed as u32) as i32);
        let resumed = i64::from(step as i32);
        if ahead.abs() <= jump {
            Step::Behind(-ahead)
        } else if resumed.abs() <= jump {
            Step::Behind(passed as i64 - resumed)
        } else {
            Step::Jump
        }
    }

    /// Ticks from its arrival to `now`.
    fn ticks_to(&self, now: Instant, clock_rate: u32) -> u64 {
        let passed = now.saturating_duration_since(self.arrival);
        (passed.as_micros() * u128::from(clock_rate) / 1_000_000) as u64
    }
}

/// Ticks of a span.
fn span(span: Duration, clock_rate: u32) -> i64 {
    (span.as_millis() as i64).saturating_mul(clock_rate.into()) / 1_000
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

    /// Sound of 20 ms per packet: resumes `silence` after 100 packets, where it stopped, as
    /// `arrivals` says (ms after the silence). Returns by how much its timestamps were moved.
    fn resumed(silence: Duration, arrivals: impl Iterator<Item = u64>) -> (Timeline, Instant, u32) {
        const SOUND: u32 = 48_000;
        let start = Instant::now();
        let mut line = Timeline::default();
        for n in 0..100u32 {
            let wire = 960 * n;
            assert_eq!(line.on_packet(start + FRAME / 2 * n, n.into(), wire, SOUND), wire);
        }
        let end = start + FRAME / 2 * 99 + silence;
        let (mut moved, mut now) = (0, end);
        for (n, after_ms) in (100u32..).zip(arrivals) {
            now = end + Duration::from_millis(after_ms);
            let continued = line.on_packet(now, n.into(), 960 * n, SOUND);
            moved = continued.wrapping_sub(960 * n);
        }
        (line, now, moved)
    }

    #[test]
    fn burst_of_what_was_recorded_in_a_silence_is_no_new_clock() {
        for seconds in [2, 8, 12, 60] {
            let silence = Duration::from_secs(seconds);
            // All at once, at twice the speed, and with a tenth more than in real time.
            let at_once = (0..seconds * 50).map(|_| 0).chain((1..100).map(|n| 20 * n));
            assert_eq!(resumed(silence, at_once).2, 0, "{seconds} s");
            assert_eq!(resumed(silence, (0..seconds * 200).map(|n| n * 10)).2, 0, "{seconds} s");
            assert_eq!(resumed(silence, (0..seconds * 800).map(|n| n * 18)).2, 0, "{seconds} s");
        }
    }

    #[test]
    fn clock_that_stood_still_in_a_silence_is_moved_on() {
        for seconds in [2, 8, 12, 60, 50_000] {
            let silence = Duration::from_secs(seconds);
            let ticks = (seconds * 48_000 - 960) as u32;
            assert_eq!(resumed(silence, (0..49).map(|n| n * 20)).2, 0, "{seconds} s: too early");
            assert_eq!(resumed(silence, (0..60).map(|n| n * 20)).2, ticks, "{seconds} s");
            // The first packet is late, and the others come with jitter.
            let jitter = (0..120).map(|n: u64| n * 20 + if n == 0 { 15 } else { n * 7 % 30 });
            let off = resumed(silence, jitter).2.wrapping_sub(ticks) as i32;
            assert!(off.abs() < 48 * 20, "{seconds} s: {off} ticks");
        }
    }

    #[test]
    fn report_is_not_used_while_it_is_unknown_why_timestamps_are_behind() {
        let (line, now, _) = resumed(Duration::from_secs(12), 0..1);
        assert_eq!(line.of_report(now, 960 * 100, 48_000), None);
        let (line, now, _) = resumed(Duration::from_secs(12), (0..600).map(|_| 0));
        assert_eq!(line.of_report(now, 960 * 699, 48_000), Some(960 * 699));
        // Before the first packet: of a clock that goes on, and with the time of that packet.
        let (line, now, _) = resumed(Duration::ZERO, std::iter::empty());
        let now = now + Duration::from_secs(2);
        assert_eq!(line.of_report(now, 960 * 199, 48_000), Some(960 * 199));
        assert_eq!(line.of_report(now, 960 * 100, 48_000), None);
    }
}
