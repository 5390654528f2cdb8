//! A random number generator whose numbers are the same on every machine and in every version, so
//! that a seed stays reproducible.
//!
//! Used by `link`, and by simulations that need random numbers from the same seed.

/// SplitMix64: 64 bits of state; any seed is suitable.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `stream` of `seed`. Each stream of a seed has its own numbers.
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

    /// A number below `end`; 0 if `end` is 0. The bias of the modulo is below 2^-32 for any 32-bit
    /// `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64().checked_rem(end).unwrap_or(0)
    }

    /// True with a probability of `share` (0 to 1).
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// A number in [0, 1), uniformly distributed.
    fn unit(&mut self) -> f64 {
        // An f64 holds 53 bits exactly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number with mean 0 and standard deviation 1, normally distributed and cut off at 3. It is
    /// the sum of twelve uniform numbers, because that needs no function whose last bit differs
    /// between machines.
    pub(crate) fn normal(&mut self) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        (sum - 6.0).clamp(-3.0, 3.0)
    }
}
