//! Goal: once nobody writes, a store keeps little of the disk beside what it holds.

#![expect(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{folder, small, value};
use engine::{Durability, Options, Store, Tree};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const KEYS: u32 = 60_000;

fn put(store: &Store, tree: &Tree, numbers: impl Iterator<Item = u32>, seed: u32) {
    let mut batch = store.batch();
    for number in numbers {
        let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        batch.put(tree, &key, value(number + seed, 150));
    }
    store.commit(batch, Durability::Buffered).unwrap();
    store.checkpoint().unwrap();
}

/// Bytes of the disk, and of what lies where values and nodes lie.
fn held(path: &Path, store: &Store) -> (u64, u64) {
    let stats = store.stats();
    let held = std::fs::metadata(path).unwrap().blocks() * 512;
    (held - stats.log_bytes, stats.allocated_bytes)
}

#[test]
fn what_rewritten_leaves_leave_behind_is_given_back_at_rest() {
    let (_dir, path) = folder();
    let options = Options {
        log_bytes: 64 << 20,
        checkpoint_ms: 600_000,
        ..Options::default()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    put(&store, &tree, 0..KEYS, 0);
    // Half of all leaves, here and there: what they were lies beside what the others still are.
    put(&store, &tree, (0..KEYS).step_by(150), 1);
    for _ in 0..2 {
        store.checkpoint().unwrap();
    }
    while store.punch_at_rest(None).unwrap() > 0 {}
    let (held, live) = held(&path, &store);
    assert!(held * 100 < live * 112, "{held} held for {live}");

    // And who writes again finds all as it was.
    put(&store, &tree, (0..KEYS).step_by(77), 2);
    for number in 0..KEYS {
        let seed = match number {
            number if number % 77 == 0 => 2,
            number if number % 150 == 0 => 1,
            _ => 0,
        };
        let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        assert_eq!(tree.get(&key).unwrap(), Some(value(number + seed, 150)));
    }
}

#[test]
fn a_dropped_tree_gives_its_space_back_when_nobody_writes() {
    let (_dir, path) = folder();
    let options = Options {
        // None is due by its time.
        checkpoint_ms: 3_600_000,
        ..small()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let empty = store.stats().allocated_bytes;
    for first in (0..20_000u32).step_by(500) {
        put(&store, &tree, first..first + 500, 0);
    }
    store.drop_tree(b"t").unwrap();
    store.checkpoint().unwrap();
    assert!(store.stats().allocated_bytes > empty + (2 << 20));
    // Two seconds until it is at rest, and then some checkpoints.
    let patience = Instant::now() + Duration::from_mins(1);
    while store.stats().allocated_bytes > empty + (1 << 20) {
        assert!(Instant::now() < patience, "{:?}", store.stats());
        std::thread::sleep(Duration::from_millis(50));
    }
    // And then it is quiet.
    std::thread::sleep(Duration::from_millis(600));
    let checkpoints = store.stats().checkpoints;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(store.stats().checkpoints, checkpoints);
}
