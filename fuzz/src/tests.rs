//! Goal: the targets hold on the stable toolchain, in every run of the tests. Method: inputs that
//! are good reach deep; each is then damaged thousands of times, from a fixed seed.

use super::*;
use dmerkle::diff::{KeyRange, Limits, Session};
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchWriter, Operation};
use dmerkle::format::superblock::{RegionTableRef, Slot};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::{Generation, Geometry, Incarnation, OpeningId, Summary, TreeId};

const ROUNDS: u32 = 5000;

/// xorshift64*: a failure repeats, because the seed never changes.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap() % bound
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

fn try_damaged(good: &[u8], body: fn(&[u8])) {
    body(&[]);
    body(good);
    let mut chance = Chance(20_261_122);
    for _ in 0..ROUNDS {
        let mut bytes = good.to_vec();
        for _ in 0..=chance.below(4) {
            chance.damage(&mut bytes);
        }
        body(&bytes);
    }
}

fn a_superblock() -> Superblock {
    Superblock {
        geometry: Geometry::tiny(),
        store_id: [3; 16],
        nonce: 11,
        generation: Generation(5),
        incarnation: Incarnation(2),
        opening: OpeningId(9),
        log_start: Lsn(1024),
        cut: Lsn(1024),
        durable: Lsn(1024),
        next_tree: TreeId(3),
        catalog: Pointer::NONE,
        catalog_summary: Summary::EMPTY,
        region_table: RegionTableRef::default(),
        node_units: 0,
        fingerprint_key: FingerprintKey::PUBLIC,
        created: 1,
        earlier: Vec::new(),
    }
}

#[test]
fn superblocks() {
    let good = a_superblock().encode(Slot::A);
    assert!(Superblock::decode(&good).is_ok());
    try_damaged(&good, superblock);
}

#[test]
fn batches() {
    let mut writer = BatchWriter::new();
    let (tree, name) = (TreeId(1), &b"images"[..]);
    writer.push(&Operation::CreateTree { tree, name });
    writer.push(&Operation::DropTree { tree });
    let good = writer.finish().to_vec();
    assert!(BatchRef::decode(&good).is_ok());
    try_damaged(&good, batch);
}

#[test]
fn files() {
    let mut good = vec![0; 96 * 1024];
    for (copy, offset) in SUPERBLOCK_OFFSETS.into_iter().enumerate() {
        let at = usize::try_from(offset).unwrap();
        let bytes = a_superblock().encode(Slot::of_copy(copy));
        good[at..at + SUPERBLOCK_BYTES].copy_from_slice(&bytes);
    }
    assert!(read_superblocks(&Image(&good)).is_ok());
    try_damaged(&good, recover);
}

#[test]
fn frames() {
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let step = session.start(&mut Sorted::new(7, [])).unwrap();
    let good = &step.frames[0];
    assert!(respond(&mut Sorted::new(7, []), good).is_ok());
    try_damaged(good, diff_frame);
}
