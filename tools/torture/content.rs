//! The bytes of a version of a key.
//!
//! Invariant: they follow from (seed, worker, key, version) alone, so that the parent keeps eight
//! bytes for each key, whatever its value's size.

use crate::chance::Chance;
use std::fmt;

/// The trees of the store; a worker's keys alternate between them.
pub const TREES: [&[u8]; 2] = [b"even", b"odd"];

/// What stays the same over all rounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Everything random follows from it, but for the moments at which threads are interrupted.
    pub seed: u64,
    /// Threads that write, each to keys of its own.
    pub workers: u32,
    /// Keys of each.
    pub keys: u32,
    /// Bytes of the largest value.
    pub value_bytes_max: u32,
    /// Bytes of the store's log.
    pub log_bytes: u64,
}

/// Which value a key has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version(pub u64);

impl Version {
    /// The key has no entry.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ABSENT {
            return f.write_str("no entry");
        }
        let (round, step) = ((self.0 >> 32).saturating_sub(1), self.0 & 0xffff_ffff);
        write!(f, "round {round} step {step}")
    }
}

/// An entry as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its meta.
    pub meta: Vec<u8>,
    /// Its parts.
    pub parts: Vec<Vec<u8>>,
}

impl Shape {
    /// The tree that a key is in.
    pub fn tree_of(key: u32) -> usize {
        (key % 2) as usize
    }

    /// The name of a key: some are long, so that leaves differ.
    pub fn name(worker: u32, key: u32) -> Vec<u8> {
        let filler = "~".repeat(if key.is_multiple_of(97) {
            900
        } else {
            7 * (key % 9) as usize
        });
        format!("{worker:03}/{key:08}{filler}").into_bytes()
    }

    /// The worker and the key of a name.
    pub fn parse_name(name: &[u8]) -> Option<(u32, u32)> {
        let text = std::str::from_utf8(name).ok()?;
        let (worker, key) = text.trim_end_matches('~').split_once('/')?;
        let (worker, key) = (worker.parse().ok()?, key.parse().ok()?);
        (Self::name(worker, key) == name).then_some((worker, key))
    }

    /// Lengths of meta and parts of a version, and the stream that fills them.
    fn lengths(&self, worker: u32, key: u32, version: Version) -> (usize, Vec<usize>, Chance) {
        let purpose = [u64::from(worker), u64::from(key), version.0];
        let mut chance = Chance::new(self.seed, &purpose);
        let meta = if chance.percent(25) {
            chance.below(60)
        } else {
            0
        };
        let parts = if chance.percent(5) {
            chance.below(4)
        } else {
            1
        };
        let most = self.value_bytes_max.max(64);
        let lengths = (0..parts).map(|_| {
            let below = match chance.below(100) {
                0..70 => 400,
                70..85 => 5_000,
                85..97 => 65_536,
                _ => most,
            };
            chance.below(below.min(most)) as usize
        });
        let lengths = lengths.collect();
        (meta as usize, lengths, chance)
    }

    /// How many bytes a version has.
    pub fn bytes(&self, worker: u32, key: u32, version: Version) -> u64 {
        if version == Version::ABSENT {
            return 0;
        }
        let (meta, parts, _) = self.lengths(worker, key, version);
        (meta + parts.iter().sum::<usize>()) as u64
    }

    /// The entry of a version, if it has one.
    pub fn content(&self, worker: u32, key: u32, version: Version) -> Option<Content> {
        if version == Version::ABSENT {
            return None;
        }
        let (meta, parts, mut chance) = self.lengths(worker, key, version);
        Some(Content {
            meta: chance.bytes(meta),
            parts: parts
                .into_iter()
                .map(|length| chance.bytes(length))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        seed: 7,
        workers: 4,
        keys: 1000,
        value_bytes_max: 1 << 20,
        log_bytes: 1 << 20,
    };

    #[test]
    fn names_are_read_as_they_were_written_and_nothing_else_is() {
        for key in 0..1000 {
            assert_eq!(Shape::parse_name(&Shape::name(3, key)), Some((3, key)));
        }
        for foreign in [&b"003/00000001"[..], b"3/1", b"", b"\xff"] {
            assert_eq!(Shape::parse_name(foreign), None);
        }
    }

    #[test]
    fn contents_are_the_same_whoever_asks_and_differ_between_versions() {
        let (one, other) = (Version(1 << 32), Version(2 << 32));
        let mut long = 0;
        for key in 0..1000 {
            let content = SHAPE.content(1, key, one).expect("a version");
            assert_eq!(Some(&content), SHAPE.content(1, key, one).as_ref());
            let bytes = content.meta.len() + content.parts.iter().map(Vec::len).sum::<usize>();
            assert_eq!(SHAPE.bytes(1, key, one), bytes as u64);
            if bytes > 16 {
                assert_ne!(Some(&content), SHAPE.content(1, key, other).as_ref());
                assert_ne!(Some(content), SHAPE.content(2, key, one));
            }
            long += u32::from(bytes > 100_000);
        }
        assert!(long > 0, "large values are among them");
        assert_eq!(SHAPE.content(1, 1, Version::ABSENT), None);
    }
}
