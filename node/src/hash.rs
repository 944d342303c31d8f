//! Where a key belongs: its hash, its token and its partition, as the original computed them, so
//! that a ring of old and new nodes would agree.
//!
//! The hash is 32-bit FNV-1a over the key in Erlang's external term format, as a list of bytes:
//! wire clients' keys were lists there. The store orders each partition's tree by token, then by
//! key: a partition then splits at a token without being read through.

use std::fmt;

/// Bytes of the token that stands before each key in the store.
pub const TOKEN_BYTES: usize = 4;

/// log2 of the most partitions: a partition owns at least one hash.
pub const Q_MAX: u32 = 16;

const FNV_OFFSET: u32 = 2_166_136_261;
const FNV_PRIME: u32 = 16_777_619;

const TERM_VERSION: u8 = 131;
const STRING_EXT: u8 = 107;
const LIST_EXT: u8 = 108;
const SMALL_INTEGER_EXT: u8 = 97;
const NIL_EXT: u8 = 106;

/// FNV-1a, 32 bits (Fowler, Noll, Vo).
#[derive(Debug, Clone, Copy)]
struct Fnv(u32);

impl Fnv {
    fn feed(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, &byte| {
            (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME)
        }))
    }
}

/// The hash of a wire client's key.
pub fn key_hash(key: &[u8]) -> u32 {
    let start = Fnv(FNV_OFFSET).feed(&[TERM_VERSION]);
    if key.is_empty() {
        return start.feed(&[NIL_EXT]).0;
    }
    if let Ok(length) = u16::try_from(key.len()) {
        let length = length.to_be_bytes();
        return start.feed(&[STRING_EXT]).feed(&length).feed(key).0;
    }
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes();
    let list = start.feed(&[LIST_EXT]).feed(&length);
    key.iter()
        .fold(list, |hash, &byte| hash.feed(&[SMALL_INTEGER_EXT, byte]))
        .feed(&[NIL_EXT])
        .0
}

/// A partition, named by its first hash; the first one also owns hash 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

impl Partition {
    /// The partition of a hash where there are 2^q.
    pub fn of_hash(hash: u32, q: u32) -> Self {
        let Some(place) = hash.checked_sub(1) else {
            return Self(1);
        };
        Self(Self::nth(Self::index_of(place, q), q).0)
    }

    /// All 2^q partitions in order.
    pub fn all(q: u32) -> impl Iterator<Item = Self> {
        (0..1u32 << q).map(move |index| Self::nth(index, q))
    }

    /// Which of [`Partition::all`] a hash belongs to.
    pub fn index(hash: u32, q: u32) -> usize {
        Self::index_of(hash.saturating_sub(1), q) as usize
    }

    fn index_of(place: u32, q: u32) -> u32 {
        place.checked_shr(32 - q).unwrap_or(0)
    }

    fn nth(index: u32, q: u32) -> Self {
        Self(index.checked_shl(32 - q).unwrap_or(0) + 1)
    }

    /// The name of the partition's tree: what the original called its storage server.
    pub fn tree_name(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storage_{}", self.0)
    }
}

/// The key as it stands in the store: token, big-endian so that bytes order as tokens do, then
/// the client's key.
pub fn stored_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(TOKEN_BYTES + key.len());
    stored.extend_from_slice(&key_hash(key).to_be_bytes());
    stored.extend_from_slice(key);
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/original-hashes.txt");

    /// Reads an Erlang string or list of small integers.
    fn term(text: &str) -> Vec<u8> {
        if let Some(string) = text.strip_prefix('"') {
            return string.trim_end_matches('"').as_bytes().to_vec();
        }
        let list = text.trim_start_matches('[').trim_end_matches(']');
        let numbers = list.split(',').filter(|number| !number.is_empty());
        numbers.map(|number| number.parse().unwrap()).collect()
    }

    #[test]
    fn keys_hash_and_fall_as_in_the_original() {
        let mut seen = 0;
        for line in GOLDEN.lines().filter(|line| line.starts_with("key\t")) {
            let fields: Vec<_> = line.split('\t').collect();
            let hash = key_hash(&term(fields[1]));
            assert_eq!(hash.to_string(), fields[2], "{line}");
            assert_eq!(Partition::of_hash(hash, 6).0.to_string(), fields[3]);
            seen += 1;
        }
        assert!(seen >= 8, "{seen} vectors");
    }

    #[test]
    fn partitions_are_those_of_the_originals_maps() {
        for (q, nodes) in [(6, "6"), (6, "3"), (4, "4")] {
            let start = format!("map\t{q}\t{nodes}\t");
            let lines = GOLDEN.lines().filter_map(|line| line.strip_prefix(&start));
            let golden: Vec<u32> = lines
                .map(|line| line.split('\t').next().unwrap().parse().unwrap())
                .collect();
            let ours: Vec<u32> = Partition::all(q).map(|partition| partition.0).collect();
            assert_eq!(ours, golden);
        }
    }

    #[test]
    fn the_edges_of_the_hash_space_belong_to_a_partition() {
        for q in [0, 1, 6, Q_MAX] {
            let all: Vec<_> = Partition::all(q).collect();
            assert_eq!(all.len(), 1 << q);
            for hash in [
                0,
                1,
                2,
                u32::MAX / 2,
                u32::MAX / 2 + 1,
                u32::MAX - 1,
                u32::MAX,
            ] {
                let partition = Partition::of_hash(hash, q);
                assert_eq!(
                    all[Partition::index(hash, q)],
                    partition,
                    "hash {hash}, q {q}"
                );
                assert!(hash == 0 || partition.0 <= hash);
            }
        }
    }

    #[test]
    fn a_stored_key_begins_with_its_token() {
        assert_eq!(
            stored_key(b"key"),
            [&25_110_333u32.to_be_bytes()[..], b"key"].concat()
        );
    }

    #[test]
    fn a_key_past_the_string_form_hashes_as_a_list() {
        // No client can send one; the form is fixed nevertheless.
        let long = vec![7; 65_536];
        assert_ne!(key_hash(&long), key_hash(&long[..65_535]));
    }
}
