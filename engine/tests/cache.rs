//! Goal: the cache holds what readers want, whatever checkpoints do beside them.

#![expect(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{MemoryDisk, folder, small, value};
use engine::world::World;
use engine::{Durability, Options, Store, Tree};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const KEYS: u32 = 12_000;

/// A store with all keys in its tree `t`, round 0.
fn filled(path: &Path) -> (Store, Tree) {
    let store = Store::create(path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    put(&store, &tree, 0..KEYS, 0);
    (store, tree)
}

fn put(store: &Store, tree: &Tree, numbers: impl Iterator<Item = u32>, round: u32) {
    for number in numbers {
        let mut batch = store.batch();
        batch.put(tree, &key(number), value(number + round, 100));
        store.commit(batch, Durability::Buffered).unwrap();
    }
    store.checkpoint().unwrap();
}

fn key(number: u32) -> Vec<u8> {
    number.wrapping_mul(0x9e37_79b1).to_be_bytes().to_vec()
}

fn read_all(tree: &Tree, round: impl Fn(u32) -> u32) {
    for number in 0..KEYS {
        let found = tree.get(&key(number)).unwrap();
        assert_eq!(found, Some(value(number + round(number), 100)));
    }
}

#[test]
fn readers_find_after_a_checkpoint_what_they_had_in_the_cache_before_it() {
    let (_dir, path) = folder();
    let (store, tree) = filled(&path);
    read_all(&tree, |_| 0);
    let before = store.stats();
    put(&store, &tree, (0..KEYS).step_by(50), 1);
    read_all(&tree, |number| u32::from(number % 50 == 0));
    let after = store.stats();
    assert!(after.node_written_bytes > before.node_written_bytes);
    assert_eq!(after.cache_misses, before.cache_misses);
    let grown = after.cache_bytes.saturating_sub(before.cache_bytes);
    assert!(grown * 20 < before.cache_bytes, "{grown}: old leaves left");
}

#[test]
fn what_only_a_checkpoint_reads_does_not_fill_the_cache() {
    let (_dir, path) = folder();
    let (store, tree) = filled(&path);
    let all = store.stats().cache_bytes;
    store.close().unwrap();
    drop(tree);

    let store = Store::open(&path, &small()).unwrap();
    let tree = store.tree(b"t").unwrap();
    put(&store, &tree, (0..KEYS).step_by(50), 1);
    let left = store.stats().cache_bytes;
    assert!(left * 5 < all, "{left} of {all}: branches alone");
    read_all(&tree, |number| u32::from(number % 50 == 0));
    assert!(store.stats().cache_bytes > 5 * left, "readers fill it");
}

#[test]
fn what_is_read_most_stays_in_a_small_cache_whatever_checkpoints_write() {
    let (_dir, path) = folder();
    let options = Options {
        cache_bytes: 2 << 20,
        memtable_bytes: 16 << 20,
        checkpoint_ms: 600_000,
        ..small()
    };
    let options = Options {
        log_bytes: 64 << 20,
        ..options
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    put(&store, &tree, 0..5 * KEYS, 0);
    let read_hot = || {
        for number in 0..20 {
            tree.get(&key(number)).unwrap().unwrap();
        }
    };
    for _ in 0..20 {
        read_hot();
    }
    let before = store.stats();
    // Every leaf is written anew, many more than the cache holds.
    put(&store, &tree, (0..5 * KEYS).step_by(30), 1);
    let between = store.stats();
    assert_eq!(between.cache_misses, before.cache_misses, "nobody has read");
    assert_eq!(between.cache_hits, before.cache_hits, "nobody has read");
    read_hot();
    let missed = store.stats().cache_misses - between.cache_misses;
    assert!(missed <= 12, "{missed} of 20 leaves were read again");
}

/// Large logs, and memory for a small part of what comes.
fn short_of_memory() -> Options {
    Options {
        cache_bytes: 2 << 20,
        memtable_bytes: 256 << 10,
        log_bytes: 64 << 20,
        ..small()
    }
}

/// What cache and memtables may have together, and a table of a memtable's keys that has just grown.
fn both(options: &Options) -> u64 {
    options.cache_bytes + options.memtable_bytes / 4 * 9 + (150 << 10)
}

/// Whether leaves that leave the cache go back to the system: else nothing is lent.
fn lends() -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let page = maps
        .lines()
        .find(|line| line.starts_with("KernelPageSize:"));
    let kib = page.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u32>().unwrap() <= 16
}

/// Puts keys one by one; the largest that memtables were. They and the cache never have more than
/// `most`.
fn load(store: &Store, tree: &Tree, keys: impl Iterator<Item = Vec<u8>>, most: u64) -> u64 {
    let mut largest = 0;
    for key in keys {
        let mut batch = store.batch();
        batch.put(tree, &key, long_value(&key));
        store.commit(batch, Durability::Buffered).unwrap();
        let stats = store.stats();
        largest = largest.max(stats.memtable_bytes);
        let memory = stats.cache_bytes + stats.memtable_bytes;
        assert!(memory <= most, "{memory} of {most}");
    }
    largest
}

fn long_value(key: &[u8]) -> Vec<u8> {
    key.repeat(100)
}

#[test]
fn a_load_has_the_memory_until_somebody_reads() {
    let (_dir, path) = folder();
    if !lends() {
        return;
    }
    let options = short_of_memory();
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let largest = load(&store, &tree, (0..40_000).map(key), both(&options));
    assert!(store.stats().allocated_bytes > 5 * options.cache_bytes);
    assert!(
        largest > 3 * options.memtable_bytes,
        "{largest}: hardly more than they had before"
    );

    // Nothing is due any more until somebody reads.
    std::thread::sleep(Duration::from_millis(500));
    assert!(store.stats().cache_bytes * 4 < options.cache_bytes);
    for _ in 0..1000 {
        for number in 0..2000 {
            let found = tree.get(&key(number)).unwrap();
            assert_eq!(found, Some(long_value(&key(number))));
        }
        if store.stats().cache_bytes * 2 > options.cache_bytes {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the cache stays small: {:?}", store.stats());
}

/// Inserts, then deletes.
#[test]
fn a_load_in_order_leaves_the_cache_alone() {
    let (_dir, path) = folder();
    let options = short_of_memory();
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let keys = (0..40_000_u32).map(|number| number.to_be_bytes().to_vec());
    let largest = load(&store, &tree, keys, both(&options));
    assert!(store.stats().allocated_bytes > 5 * options.cache_bytes);
    assert!(largest < 3 * options.memtable_bytes, "{largest}");

    store.checkpoint().unwrap();
    for number in 0..30_000_u32 {
        let mut batch = store.batch();
        batch.delete(&tree, &number.to_be_bytes());
        store.commit(batch, Durability::Buffered).unwrap();
        let bytes = store.stats().memtable_bytes;
        assert!(bytes < 3 * options.memtable_bytes, "{bytes}");
    }
}

/// A recovery puts all that the log holds into one memtable.
#[test]
fn a_load_that_was_cut_off_has_no_more_memory_afterwards() {
    if !lends() {
        return;
    }
    let disk = Arc::new(MemoryDisk::default());
    let options = short_of_memory();
    Store::format_on(disk.as_ref(), &World::real(), &options).unwrap();
    // Without threads: whoever finds a memtable full makes the checkpoint.
    let store = Store::open_on(disk.clone(), World::real(), &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let mut loaded = 0;
    while loaded < 30_000 || store.stats().memtable_bytes < 4 * options.memtable_bytes {
        let more = (loaded..loaded + 100).map(key);
        load(&store, &tree, more, both(&options));
        loaded += 100;
        assert!(loaded < 60_000, "memtables are small: {:?}", store.stats());
    }
    store.flush().unwrap();
    store.abandon();
    drop((store, tree));

    let store = Store::open_read_only_on(disk.clone(), World::real(), &options).unwrap();
    let tree = store.tree(b"t").unwrap();
    assert!(store.stats().memtable_bytes > 3 * options.memtable_bytes);
    for number in 0..20_000 {
        assert!(tree.has(&key(number)).unwrap());
    }
    let stats = store.stats();
    let memory = stats.cache_bytes + stats.memtable_bytes;
    assert!(memory <= both(&options), "{memory}");
    drop((store, tree));

    let store = Store::open_on(disk, World::real(), &options).unwrap();
    let tree = store.tree(b"t").unwrap();
    let most = both(&options) + 2 * options.memtable_bytes;
    load(&store, &tree, (loaded..loaded + 20_000).map(key), most);
}
