//! Share of a publisher layer's bytes that its requested keyframes take.
//!
//! Owns two sums of bytes. Never requests anything. `keyframe_planner.rs` reads it before it
//! requests a keyframe for viewers that have a picture. Source: quality A2.3 "PLI discipline".

use std::time::{Duration, Instant};

/// Requested keyframes may be one part in this many of all bytes; above that they are costly.
const SHARE: u64 = 10;

/// Half of the measured time, which is 15 s at least and 30 s at most.
const HALF: Duration = Duration::from_secs(15);

/// Bytes that one layer sent, and those of its requested keyframes.
#[derive(Debug, Default)]
pub struct KeyframeCost {
    half_began: Option<Instant>,
    /// All bytes, and those of requested keyframes: in this half and in the one before.
    halves: [(u64, u64); 2],
    /// Whether a half before this one was measured.
    known: bool,
}

impl KeyframeCost {
    /// Counts one packet; `requested_keyframe` tells whether it is part of a requested keyframe.
    pub fn on_packet(&mut self, now: Instant, bytes: usize, requested_keyframe: bool) {
        let began = *self.half_began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age >= HALF {
            let [current, _] = self.halves;
            // After a long silence neither half is recent.
            self.known = age < HALF * 2;
            self.halves = [(0, 0), if self.known { current } else { (0, 0) }];
            self.half_began = Some(now);
        }
        let [current, _] = &mut self.halves;
        let bytes = bytes as u64;
        current.0 += bytes;
        current.1 += if requested_keyframe { bytes } else { 0 };
    }

    /// Whether requested keyframes took more than their share lately. False for a young layer: its
    /// first keyframe is most of what it has sent.
    pub fn is_costly(&self) -> bool {
        let [now, before] = self.halves;
        self.known && (now.1 + before.1) * SHARE > now.0 + before.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Sends 9,000 bytes each second, and every `every` seconds they are a requested keyframe.
    fn play(cost: &mut KeyframeCost, from: Instant, seconds: u32, every: u32) {
        for n in 0..seconds {
            cost.on_packet(from + S * n, 9_000, n % every == 0);
        }
    }

    #[test]
    fn a_tenth_is_the_limit() {
        let start = Instant::now();
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 30, 10);
        assert!(!cost.is_costly(), "one in ten");
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 30, 9);
        assert!(cost.is_costly(), "one in nine");
    }

    #[test]
    fn young_layer_is_not_costly() {
        let start = Instant::now();
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 15, 1);
        assert!(!cost.is_costly());
        cost.on_packet(start + 15 * S, 1, false);
        assert!(cost.is_costly());
    }

    #[test]
    fn cost_is_forgotten_after_two_halves() {
        let start = Instant::now();
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 16, 2);
        assert!(cost.is_costly());
        play(&mut cost, start + 16 * S, 29, 1_000);
        assert!(!cost.is_costly(), "two clean halves");
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 16, 2);
        cost.on_packet(start + 60 * S, 1, false);
        assert!(!cost.is_costly(), "nothing came for a while");
    }
}
