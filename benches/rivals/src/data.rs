//! The keys and values that every store is given, and the numbers that choose among them.
//!
//! - A key is 20 bytes; consecutive numbers are in no order.
//! - A value's bytes follow from its number and version, so whoever reads it can check all of them;
//!   a swapped, stale or torn value is a panic, never a figure.
//! - Values do not compress: they are windows of one pool of random bytes.

use std::sync::OnceLock;

/// A key.
pub(crate) type Key = [u8; 20];

/// Bytes of the pool that values are cut from: it stays in a core's cache, so that checking a value
/// reads little more than the value.
const POOL: usize = 128 << 10;

/// Number, version and their mixture, at the head of a value.
const HEAD: usize = 16;

/// The finalizer of `SplitMix64`: neighbours land far apart.
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The key of a number.
pub(crate) fn key(number: u64) -> Key {
    let mut key = [0; 20];
    key[..8].copy_from_slice(&mix(number).to_be_bytes());
    key[8..16].copy_from_slice(&number.to_be_bytes());
    key[16..].copy_from_slice(b".key");
    key
}

/// The number of a key.
pub(crate) fn number_of(found: &[u8]) -> u64 {
    let number = u64::from_be_bytes(found[8..16].try_into().expect("a key of 20 bytes"));
    assert_eq!(found, key(number), "a key that nobody put");
    number
}

fn pool() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes: Vec<u8> = (0..POOL as u64 / 8)
            .flat_map(|i| mix(i ^ 0x706f_6f6c_0000_0000).to_le_bytes())
            .collect();
        // Twice, so that no window wraps.
        bytes.extend_from_within(..);
        bytes
    })
}

fn window(head: u64, length: usize) -> &'static [u8] {
    let start = (head as usize) % POOL;
    &pool()[start..start + length]
}

/// Writes a value of `length` bytes.
pub(crate) fn fill(value: &mut Vec<u8>, number: u64, version: u64, length: usize) {
    assert!(length >= HEAD, "a value has a head");
    let head = mix(number ^ mix(version));
    value.clear();
    value.extend_from_slice(&version.to_le_bytes());
    value.extend_from_slice(&head.to_le_bytes());
    while value.len() < length {
        let piece = (length - value.len()).min(POOL);
        value.extend_from_slice(window(head, piece));
    }
}

/// Checks every byte of a value of this number, whatever its version, and returns the version.
///
/// # Panics
/// If the bytes are not what [`fill`] wrote.
pub(crate) fn check(number: u64, value: &[u8], length: impl FnOnce(u64) -> usize) -> u64 {
    assert!(value.len() >= HEAD, "a value without its head");
    let version = u64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
    let head = u64::from_le_bytes(value[8..HEAD].try_into().expect("eight bytes"));
    assert_eq!(head, mix(number ^ mix(version)), "another key's value");
    assert_eq!(value.len(), length(version), "a value of another length");
    for piece in value[HEAD..].chunks(POOL) {
        assert!(piece == window(head, piece.len()), "wrong bytes");
    }
    version
}

/// Sizes of the Powerset cluster's values: lognormal, median 60 KB, mean 139 KB, at most 4 MB.
pub(crate) fn powerset_length(number: u64, version: u64) -> usize {
    let mut numbers = Numbers::new(mix(number ^ 0x7365_7473).wrapping_add(version << 40));
    let (one, two) = (numbers.unit().max(1e-12), numbers.unit());
    let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos();
    let length = 60e3 * (1.296 * normal).exp();
    length.clamp(64.0, 4e6) as usize
}

/// Numbers that are the same in every run.
#[derive(Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    /// Those of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next one.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// The next one below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// The next one from 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Zipf-distributed ranks as YCSB draws them (theta 0.99; Gray et al., "Quickly generating
/// billion-record synthetic databases", 1994).
#[derive(Clone)]
pub(crate) struct Zipf {
    count: f64,
    alpha: f64,
    eta: f64,
    zeta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    /// Over `count` ranks.
    pub(crate) fn new(count: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-Self::THETA)).sum::<f64>();
        let (zeta, two) = (zeta(count), zeta(2));
        let count = count as f64;
        Self {
            count,
            alpha: 1.0 / (1.0 - Self::THETA),
            eta: (1.0 - (2.0 / count).powf(1.0 - Self::THETA)) / (1.0 - two / zeta),
            zeta,
        }
    }

    /// The next rank; 0 is the most frequent.
    pub(crate) fn rank(&self, numbers: &mut Numbers) -> u64 {
        let unit = numbers.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(Self::THETA) {
            return 1;
        }
        let rank = self.count * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count as u64 - 1)
    }

    /// The next rank, its place scattered over all numbers.
    pub(crate) fn scattered(&self, numbers: &mut Numbers) -> u64 {
        mix(self.rank(numbers)) % self.count as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_wrong_byte_anywhere_is_noticed() {
        let mut value = Vec::new();
        fill(&mut value, 7, 3, 2 * POOL + 100);
        assert_eq!(check(7, &value, |_| 2 * POOL + 100), 3);
        for at in [0, 9, HEAD, POOL, value.len() - 1] {
            let mut wrong = value.clone();
            wrong[at] ^= 1;
            let noticed = catch_unwind(|| check(7, &wrong, |_| 2 * POOL + 100));
            assert!(noticed.is_err(), "byte {at}");
        }
        assert!(catch_unwind(|| check(8, &value, |_| 2 * POOL + 100)).is_err());
        assert!(catch_unwind(|| check(7, &value[..100], |_| 2 * POOL + 100)).is_err());
    }

    #[test]
    fn powerset_values_have_their_sizes() {
        let mut lengths: Vec<usize> = (0..20_000).map(|n| powerset_length(n, 0)).collect();
        lengths.sort_unstable();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!((55_000..65_000).contains(&lengths[lengths.len() / 2]));
        assert!((125_000..150_000).contains(&mean), "{mean}");
        assert!(lengths[lengths.len() - 1] <= 4_000_000);
    }

    #[test]
    fn the_first_rank_is_drawn_as_often_as_zipf_says() {
        let zipf = Zipf::new(1000);
        let mut numbers = Numbers::new(1);
        let ranks: Vec<u64> = (0..100_000).map(|_| zipf.rank(&mut numbers)).collect();
        let first = ranks.iter().filter(|rank| **rank == 0).count() as f64 / 1e5;
        assert!((first - 1.0 / zipf.zeta).abs() < 0.01, "{first}");
        assert!(ranks.iter().all(|rank| *rank < 1000));
    }
}
