//! The store as a user meets it, on a real file: what is put is got, across closing and reopening.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic is the report"
)]

use dmerkle::diff::Contents;
use engine::{Batch, Decision, Durability, Error, NewEntry, NewPart, Options, Store};
use std::path::PathBuf;
use tempfile::TempDir;

fn small() -> Options {
    Options {
        log_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        cache_bytes: 8 << 20,
        ..Options::default()
    }
}

/// A folder beside the build, where direct I/O usually works.
fn folder() -> (TempDir, PathBuf) {
    let program = std::env::current_exe().unwrap();
    let dir = TempDir::new_in(program.parent().unwrap()).unwrap();
    let path = dir.path().join("store");
    (dir, path)
}

fn value(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn what_was_put_is_there_after_closing_and_after_dropping() {
    let (_dir, path) = folder();
    let sizes = [0, 1, 100, 1024, 1025, 4096, 70_000, 3_000_000];
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for (i, size) in sizes.iter().enumerate() {
        let key = format!("key {i}");
        tree.put(key.as_bytes(), &value(i as u32, *size)).unwrap();
    }
    let check = |store: &Store| {
        let tree = store.tree(b"t").unwrap();
        for (i, size) in sizes.iter().enumerate() {
            let got = tree.get(format!("key {i}").as_bytes()).unwrap();
            assert_eq!(got, Some(value(i as u32, *size)), "key {i}");
        }
        assert_eq!(tree.count().unwrap(), sizes.len() as u64);
        assert_eq!(tree.get(b"nothing").unwrap(), None);
    };
    check(&store);
    store.checkpoint().unwrap();
    check(&store);
    store.close().unwrap();
    drop(tree);
    let store = Store::open(&path, &small()).unwrap();
    check(&store);
    store.tree(b"t").unwrap().put(b"key 0", b"").unwrap();
    drop(store);
    let store = Store::open(&path, &small()).unwrap();
    check(&store);
}

#[test]
fn many_small_puts_survive_many_checkpoints() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for round in 0..20u32 {
        let mut batch = Batch::new();
        for i in 0..1000u32 {
            let key = format!("{:08}", i.wrapping_mul(2_654_435_761) % 10_000);
            batch.put(&tree, key.as_bytes(), value(round * 1000 + i, 50));
        }
        store.commit(batch, Durability::Buffered).unwrap();
    }
    let count = tree.count().unwrap();
    let summary = tree.fingerprint(b"", None).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(tree.count().unwrap(), count);
    assert_eq!(tree.fingerprint(b"", None).unwrap(), summary);
    let forward: Vec<_> = store
        .snapshot()
        .range(&tree, b"", None)
        .map(|entry| entry.unwrap().key().to_vec())
        .collect();
    assert_eq!(forward.len() as u64, count);
    assert!(forward.is_sorted());
    let mut back: Vec<_> = store
        .snapshot()
        .range_back(&tree, b"", None)
        .map(|entry| entry.unwrap().key().to_vec())
        .collect();
    back.reverse();
    assert_eq!(forward, back);
    assert_eq!(tree.delete_range(b"", None).unwrap(), count);
    assert_eq!(tree.count().unwrap(), 0);
}

/// A thousand deletes of long keys are more than a small log takes at once.
#[test]
fn a_range_of_long_keys_is_deleted_whatever_the_log() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for number in 0..300u32 {
        let mut key = vec![b'k'; 4096];
        key[..4].copy_from_slice(&number.to_be_bytes());
        tree.put_entry(&key, NewEntry::plain(*b"v"), Durability::Buffered)
            .unwrap();
    }
    assert_eq!(tree.delete_range(b"", None).unwrap(), 300);
    assert_eq!(tree.count().unwrap(), 0);
}

#[test]
fn an_update_adds_a_part_and_keeps_the_others_in_place() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let first = value(1, 50_000);
    tree.put(b"k", &first).unwrap();
    store.checkpoint().unwrap();
    tree.update(b"k", Durability::Durable, |old| {
        assert_eq!(old.unwrap().parts_len(), 1);
        let entry = NewEntry::with_meta(*b"two")
            .part(NewPart::Keep(0))
            .part(NewPart::Bytes(value(2, 60_000)));
        Ok(Decision::Put(entry))
    })
    .unwrap();
    for _ in 0..2 {
        let entry = tree.entry(b"k").unwrap().unwrap();
        assert_eq!(entry.meta(), b"two");
        assert_eq!(entry.part(0).unwrap().unwrap(), first);
        assert_eq!(entry.part(1).unwrap().unwrap(), value(2, 60_000));
        store.checkpoint().unwrap();
    }
    let failed = tree.put_if(b"k", b"x", |old| old.is_none());
    assert!(matches!(failed, Err(Error::ConditionFailed)));
}

#[test]
fn a_snapshot_shows_what_was_there_when_it_was_taken() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"a", &value(1, 5000)).unwrap();
    let snapshot = store.snapshot();
    for round in 0..5 {
        tree.put(b"a", &value(2 + round, 5000)).unwrap();
        tree.put(b"b", b"new").unwrap();
        store.checkpoint().unwrap();
    }
    assert_eq!(snapshot.get(&tree, b"a").unwrap(), Some(value(1, 5000)));
    assert_eq!(snapshot.get(&tree, b"b").unwrap(), None);
    assert_eq!(tree.get(b"a").unwrap(), Some(value(6, 5000)));
}

#[test]
fn a_second_opener_is_told_that_the_store_is_open() {
    let (_dir, path) = folder();
    let _store = Store::create(&path, &small()).unwrap();
    assert!(matches!(Store::open(&path, &small()), Err(Error::Locked)));
    assert!(matches!(Store::create(&path, &small()), Err(Error::Exists)));
}

#[test]
fn writers_on_many_threads_lose_nothing() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let tree = tree.clone();
            scope.spawn(move || {
                for i in 0..300u32 {
                    let key = format!("{thread} {i}");
                    let len = if i % 7 == 0 { 9000 } else { 80 };
                    tree.put(key.as_bytes(), &value(thread * 1000 + i, len))
                        .unwrap();
                    assert!(tree.has(key.as_bytes()).unwrap());
                }
            });
        }
        for _ in 0..2 {
            let tree = tree.clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    tree.update(b"counter", Durability::Buffered, |old| {
                        let old = old.map_or(0, |old| {
                            let bytes = old.part(0).unwrap().unwrap();
                            u32::from_le_bytes(bytes.try_into().unwrap())
                        });
                        Ok(Decision::Put(NewEntry::plain((old + 1).to_le_bytes())))
                    })
                    .unwrap();
                }
            });
        }
    });
    let counter = tree.get(b"counter").unwrap().unwrap();
    assert_eq!(u32::from_le_bytes(counter.try_into().unwrap()), 400);
    drop(tree);
    drop(store);
    let store = Store::open(&path, &small()).unwrap();
    let tree = store.tree(b"t").unwrap();
    assert_eq!(tree.count().unwrap(), 8 * 300 + 1);
    for thread in 0..8u32 {
        for i in 0..300u32 {
            let len = if i % 7 == 0 { 9000 } else { 80 };
            let got = tree.get(format!("{thread} {i}").as_bytes()).unwrap();
            assert_eq!(got, Some(value(thread * 1000 + i, len)));
        }
    }
}

#[test]
fn newer_operations_count_in_that_part_of_a_compared_range_which_holds_them() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let key = |n: u32| n.to_be_bytes().to_vec();
    for n in 0..600 {
        tree.put(&key(n * 2), &value(n, 150)).unwrap();
    }
    store.checkpoint().unwrap();
    // Replaced, removed and added, some at the cuts themselves.
    for n in (0..1200).step_by(50) {
        match n % 3 {
            0 => tree.put(&key(n), b"other").unwrap(),
            1 => tree.delete(&key(n)).unwrap(),
            _ => tree.put(&key(n + 1), b"new").unwrap(),
        };
    }
    let snapshot = store.snapshot();
    let mut contents = snapshot.contents(&tree);
    let cuts: Vec<_> = [50, 51, 333, 600, 601, 1150].map(key).to_vec();
    let (low, high) = (key(3), key(1199));
    let parts = contents.summaries(&low, &cuts, Some(&high)).unwrap();
    let mut lows = vec![low];
    lows.extend_from_slice(&cuts);
    let highs = cuts.iter().chain([&high]);
    for ((low, high), part) in lows.iter().zip(highs).zip(parts) {
        let mut expected = dmerkle::Summary::EMPTY;
        for entry in snapshot.range(&tree, low, Some(high)) {
            expected = expected.plus(dmerkle::Summary::of(entry.unwrap().fingerprint()));
        }
        assert_eq!(part, expected, "from {low:?} to {high:?}");
    }
}

/// The size of leaves is the store's own: it is asked for once, and openings go by what the file
/// says. Whatever fits an ordinary leaf fits a store of small ones.
#[test]
fn a_store_of_small_leaves_holds_what_any_store_holds() {
    let (_dir, path) = folder();
    let options = Options {
        leaf_bytes: Some(4096),
        ..small()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let sizes = [0, 1, 150, 1000, 1024, 1025, 4096, 16_385, 100_000];
    let key_of = |i: usize| {
        let mut key = format!("{:08x}", (i as u32).wrapping_mul(2_654_435_761)).into_bytes();
        key.resize(8 + i % 1000, b'k');
        key
    };
    for i in 0..1000 {
        let value = value(i as u32, sizes[i % sizes.len()]);
        let entry = NewEntry::plain(&value[..]);
        tree.put_entry(&key_of(i), entry, Durability::Buffered)
            .unwrap();
    }
    for i in (0..1000).step_by(3) {
        tree.delete(&key_of(i)).unwrap();
    }
    store.checkpoint().unwrap();
    drop((tree, store));
    let store = Store::open(&path, &small()).unwrap();
    let tree = store.tree(b"t").unwrap();
    for i in 0..1000 {
        let expected = (i % 3 != 0).then(|| value(i as u32, sizes[i % sizes.len()]));
        assert_eq!(tree.get(&key_of(i)).unwrap(), expected, "{i}");
    }
    assert_eq!(tree.count().unwrap(), 666);
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "{verified:?}");

    let wrong = Options {
        leaf_bytes: Some(5000),
        ..small()
    };
    let refused = Store::create(path.with_extension("wrong"), &wrong);
    assert!(matches!(refused, Err(Error::BadOption(_))));
}

/// A walk asks the disk for leaves ahead, few at first: in both directions and from any start it
/// shows each entry once, in order, and none behind the bound.
#[test]
fn a_walk_of_any_length_shows_each_entry_once() {
    let (_dir, path) = folder();
    let options = Options {
        cache_bytes: 64 << 10,
        ..small()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let count = 3000u32;
    for i in 0..count {
        let entry = NewEntry::plain(vec![i as u8; 400]);
        tree.put_entry(&i.to_be_bytes(), entry, Durability::Buffered)
            .unwrap();
    }
    store.checkpoint().unwrap();
    for (low, high) in [(0, 1), (0, count), (7, 60), (1500, 1900), (2990, count)] {
        let bounds = (u32::to_be_bytes(low), u32::to_be_bytes(high));
        let key_of = |entry: engine::Entry| entry.key().to_vec();
        let expected: Vec<_> = (low..high).map(|i| i.to_be_bytes().to_vec()).collect();
        let forward = tree.range(&bounds.0, Some(&bounds.1));
        let seen: Vec<_> = forward.map(|entry| key_of(entry.unwrap())).collect();
        assert_eq!(seen, expected, "{low} to {high}");
        let back = tree.range_back(&bounds.0, Some(&bounds.1));
        let mut seen: Vec<_> = back.map(|entry| key_of(entry.unwrap())).collect();
        seen.reverse();
        assert_eq!(seen, expected, "{high} back to {low}");
    }
}

/// It was encoded to its end before anybody looked, and one of 4 GiB was a panic.
#[test]
fn a_batch_that_is_too_large_is_refused_where_it_becomes_so() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let mut batch = Batch::new();
    for number in 0..400u32 {
        batch.put(&tree, &number.to_be_bytes(), value(number, 1000));
    }
    // Nobody comes to see that this is no part to be kept.
    let wrong = NewEntry::default().part(NewPart::Keep(0));
    batch.put_entry(&tree, b"last, which cannot be", wrong);
    let refused = store.commit(batch, Durability::Durable);
    assert!(
        matches!(refused, Err(Error::BatchTooLarge { bytes, limit }) if bytes > limit),
        "{refused:?}"
    );
    assert_eq!(tree.count().unwrap(), 0);
}
