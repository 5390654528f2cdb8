//! A small generator whose numbers are the same on every machine and in every version: a committed seed stays a story.
//!
//! Used by `link.rs`, and by simulations that want their own dice from the same seed.

/// SplitMix64: 64 bits of state, every seed is good.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator of its own for each `stream` of one seed.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut seeds = Self(seed);
        let own = seeds.next_u64() ^ Self(stream).next_u64().rotate_left(32);
        Self(own)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if `end` is 0. The bias of the modulo is below 2^-32 for any 32-bit `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64().checked_rem(end).unwrap_or(0)
    }

    /// True with a probability of `share` (0 to 1).
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1, cut off at 3: the sum of twelve uniform draws, which needs no function whose
    /// last bit differs between machines.
    pub fn normal(&mut self) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        (sum - 6.0).clamp(-3.0, 3.0)
    }
}
