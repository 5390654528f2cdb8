//! What the keyframes we asked for cost a publisher layer, as a share of all it sends.
//!
//! Owns two sums of bytes. `keyframe_planner.rs` asks it before it asks for the sake of a picture that was
//! there before. Source: quality A2.3 "PLI discipline".

use std::time::{Duration, Instant};

/// Keyframes that were asked for may be this share of the bytes, one in so many; beyond it they are dear.
const SHARE: u64 = 10;

/// Half of the time that is looked back: 15 s at least, 30 s at most.
const HALF: Duration = Duration::from_secs(15);

/// Bytes of one layer.
#[derive(Debug, Default)]
pub struct KeyframeCost {
    half_began: Option<Instant>,
    /// All bytes, and those of keyframes that were asked for: in this half and in the one before.
    halves: [(u64, u64); 2],
    /// There was a half before.
    known: bool,
}

impl KeyframeCost {
    /// One packet came.
    pub fn on_packet(&mut self, now: Instant, bytes: usize, asked_keyframe: bool) {
        let began = *self.half_began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age >= HALF {
            let [current, _] = self.halves;
            // After a long silence neither half is of late.
            self.known = age < HALF * 2;
            self.halves = [(0, 0), if self.known { current } else { (0, 0) }];
            self.half_began = Some(now);
        }
        let [current, _] = &mut self.halves;
        let bytes = bytes as u64;
        current.0 += bytes;
        current.1 += if asked_keyframe { bytes } else { 0 };
    }

    /// Whether keyframes that were asked for took more than their share of late. A young layer's never do:
    /// its first keyframe is most of what it has sent.
    pub fn is_dear(&self) -> bool {
        let [now, before] = self.halves;
        self.known && (now.1 + before.1) * SHARE > now.0 + before.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Each second 9,000 bytes, and every so many seconds a keyframe of 9,000 bytes for which we asked.
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
        assert!(!cost.is_dear(), "one in ten");
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 30, 9);
        assert!(cost.is_dear(), "one in nine");
    }

    #[test]
    fn young_layer_is_not_dear() {
        let start = Instant::now();
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 15, 1);
        assert!(!cost.is_dear());
        cost.on_packet(start + 15 * S, 1, false);
        assert!(cost.is_dear());
    }

    #[test]
    fn what_was_dear_is_forgotten() {
        let start = Instant::now();
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 16, 2);
        assert!(cost.is_dear());
        play(&mut cost, start + 16 * S, 29, 1_000);
        assert!(!cost.is_dear(), "two clean halves");
        let mut cost = KeyframeCost::default();
        play(&mut cost, start, 16, 2);
        cost.on_packet(start + 60 * S, 1, false);
        assert!(!cost.is_dear(), "nothing came for a while");
    }
}
