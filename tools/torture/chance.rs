//! Chance that can be repeated: splitmix64 (Steele, Lea, Flood 2014), for which every seed is good.

/// A stream of random numbers that its seed decides.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed, and of what it is for.
    pub fn new(seed: u64, purpose: &[u64]) -> Self {
        let mut chance = Self(seed);
        for &word in purpose {
            chance.0 = chance.number() ^ word;
        }
        chance
    }

    /// A number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u32) -> u32 {
        let upper = self.number() >> 32;
        u32::try_from((upper * u64::from(end)) >> 32).expect("below a u32")
    }

    /// True in so many of a hundred times.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
