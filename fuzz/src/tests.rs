//! Goal: the targets hold on the stable toolchain, in every run of the tests. Method: every input
//! that is committed (`corpus`: good ones, and what fuzzing kept; `found`: what once failed) goes
//! through its target, and then thousands of damaged copies, from a fixed seed.

use super::*;
use crate::seeds::seeds;
use std::path::{Path, PathBuf};

/// Damaged copies of each target's inputs.
const ROUNDS: usize = 3000;

/// The most that the committed inputs may weigh together.
const CORPUS_BYTES_MAX: usize = 3 << 20;

/// xorshift64*: a failure repeats, because the seed never changes.
pub(crate) struct Chance(u64);

impl Chance {
    /// A sequence of this name's own.
    pub(crate) fn of(name: &str) -> Self {
        let seed = name.bytes().fold(20_261_122, |seed: u64, byte| {
            seed.wrapping_mul(31).wrapping_add(byte.into())
        });
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap() % bound
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| u8::try_from(self.below(256)).unwrap())
            .collect()
    }

    /// Flips, overwrites, cuts or doubles a piece of `bytes`.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(5) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..),
            _ => {
                let end = (at + self.below(16)).min(bytes.len());
                bytes[at..end].fill(0xFF);
            }
        }
    }
}

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target)
}

/// The files of a folder, in the order of their names; none if there is no folder.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// Says which input it was when a target panics.
struct Named<'a>(&'a str, &'a [u8]);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {:02x?}", self.0, self.1);
        }
    }
}

fn try_one(name: &str, body: fn(&[u8]), bytes: &[u8]) {
    let _named = Named(name, bytes);
    body(bytes);
}

/// Goes through a target's inputs, and damaged copies of them.
fn replay_target(target: &str) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let mut inputs = vec![Vec::new()];
    for kind in ["corpus", "found"] {
        for (path, bytes) in files(&folder(kind, target)) {
            try_one(&path.to_string_lossy(), *body, &bytes);
            inputs.push(bytes);
        }
    }
    assert!(inputs.len() > 3, "{target} has no committed inputs");
    let mut chance = Chance::of(target);
    for round in 0..ROUNDS {
        let mut bytes = inputs[chance.below(inputs.len())].clone();
        for _ in 0..=chance.below(4) {
            chance.damage(&mut bytes);
        }
        bytes.truncate(8192);
        try_one(&format!("{target}, round {round}"), *body, &bytes);
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay_target(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let tested = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|(name, _)| *name).eq(tested));
            for target in tested {
                let file = format!("fuzz_targets/{target}.rs");
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{target}");
            }
        }
    };
}

replays! {
    allocator batch body catalog config control diff_frame diff_peer diff_trees log_block
    log_scan map node recover region_table superblock superblock_choice text tree versions
}

#[test]
fn the_committed_examples_are_of_todays_format() {
    for (target, _) in TARGETS {
        for (index, seed) in seeds(target).iter().enumerate() {
            let path = folder("corpus", target).join(format!("seed-{index:02}"));
            let kept = std::fs::read(&path).unwrap_or_default();
            assert!(
                kept == *seed,
                "{} is of another format: cargo test -- --ignored write_the_examples",
                path.display()
            );
        }
    }
}

#[test]
#[ignore = "writes the examples anew, after a change of the format"]
fn write_the_examples() {
    for (target, _) in TARGETS {
        let folder = folder("corpus", target);
        std::fs::create_dir_all(&folder).unwrap();
        for (index, seed) in seeds(target).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{index:02}")), seed).unwrap();
        }
    }
}

#[test]
fn the_committed_inputs_stay_small() {
    let kinds = ["corpus", "found"];
    let targets = TARGETS.iter().map(|(target, _)| *target);
    let all = targets.flat_map(|target| kinds.map(|kind| folder(kind, target)));
    let bytes: usize = all
        .flat_map(|folder| files(&folder))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes");
}

/// A decoder whose examples are all refused would be tried on nothing.
#[test]
fn the_examples_reach_behind_the_checksums() {
    use dmerkle::format::log_block::LogBlock;
    use dmerkle::format::superblock::Superblock;
    use dmerkle::tree::Node;
    let geometry = dmerkle::Geometry::tiny();
    for seed in seeds("superblock") {
        assert!(Superblock::decode(&seed).is_ok());
    }
    for seed in seeds("log_block") {
        assert!(LogBlock::decode(&seed, decoders::NONCE, &geometry).is_ok());
    }
    let nodes = seeds("node");
    let read: Vec<_> = nodes
        .iter()
        .filter_map(|seed| {
            // Trimmed of its padding, the block's checksum is mended by the target.
            let mut bytes = seed.clone();
            let sum = crc32c::crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
            Node::decode_orphan(bytes).ok()
        })
        .collect();
    assert_eq!(read.len(), nodes.len());
    assert!(read.iter().any(Node::is_leaf) && !read.iter().all(Node::is_leaf));
}
