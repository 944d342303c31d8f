//! Promises that were broken once, each test named for its promise.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

mod common;

use common::{MemoryDisk, places, rot, small, tiny, value};
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::log_block::{GroupHeader, encode_group};
use dmerkle::format::record::{BatchWriter, Operation, Replaced};
use dmerkle::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use engine::io::Disk;
use engine::world::World;
use engine::{
    Batch, Decision, Durability, Error, Geometry, Lsn, NewEntry, NewPart, Options, Store, Tree,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn options() -> Options {
    Options {
        log_bytes: 8 << 20,
        ..Options::default()
    }
}

fn folder() -> (TempDir, PathBuf) {
    let program = std::env::current_exe().unwrap();
    let dir = TempDir::new_in(program.parent().unwrap()).unwrap();
    let path = dir.path().join("store");
    (dir, path)
}

/// A checkpoint that emptied a dropped tree read back blocks that it had not written yet.
#[test]
fn a_large_dropped_tree_is_emptied_over_several_checkpoints() {
    let (_dir, path) = folder();
    // What is just being punched counts as taken.
    let options = Options {
        punch: false,
        ..options()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for round in 0..10u32 {
        let mut batch = Batch::new();
        for i in 0..1000u32 {
            let key = format!("k{:08}", round * 1000 + i);
            batch.put(&tree, key.as_bytes(), vec![7; 100]);
        }
        store.commit(batch, Durability::Buffered).unwrap();
    }
    store.checkpoint().unwrap();
    let full = store.stats().allocated_bytes;
    store.drop_tree(b"t").unwrap();
    assert!(matches!(tree.get(b"k00000001"), Err(Error::NoSuchTree)));
    let shown = tree.get_ref(b"k00000001");
    assert!(matches!(shown, Err(Error::NoSuchTree)));
    for _ in 0..5 {
        store.checkpoint().unwrap();
    }
    let left = store.stats().allocated_bytes;
    assert!(left * 10 < full, "{left} of {full} bytes are still taken");
    let report = store.verify().unwrap();
    assert!(report.violations.is_empty(), "{:?}", report.violations);
}

/// A read that found only newer versions in the active memtable went on to the frozen one.
#[test]
fn a_read_is_never_older_than_what_was_acknowledged_before_it() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &options()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let put = |i: u64| {
        let mut batch = Batch::new();
        batch.put(&tree, b"k", i.to_le_bytes());
        store.commit(batch, Durability::Buffered).unwrap();
    };
    put(0);
    let stop = AtomicBool::new(false);
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (store, tree, stop, acknowledged) = (&store, &tree, &stop, &acknowledged);
        scope.spawn(move || {
            for i in 1.. {
                put(i);
                acknowledged.store(i, Ordering::SeqCst);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                store.step().unwrap();
            }
        });
        let until = Instant::now() + Duration::from_secs(2);
        let mut stale = None;
        while Instant::now() < until && stale.is_none() {
            let floor = acknowledged.load(Ordering::SeqCst);
            let got = tree.get(b"k").unwrap().unwrap();
            let got = u64::from_le_bytes(got.try_into().unwrap());
            if got < floor {
                stale = Some((got, floor));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(stale, None, "read, acknowledged before");
    });
}

/// The log thread tried to join itself.
#[test]
fn a_completion_may_drop_the_last_handle_of_the_store() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &options()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let mut batch = Batch::new();
    batch.put(&tree, b"k", b"v");
    let (told, learns) = mpsc::channel();
    let last = store.clone();
    store
        .commit_async(batch, Durability::Durable, move |fate| {
            std::thread::sleep(Duration::from_millis(100));
            drop(last);
            told.send(fate).unwrap();
        })
        .unwrap();
    drop(tree);
    drop(store);
    learns
        .recv_timeout(Duration::from_secs(20))
        .unwrap()
        .unwrap();
    let store = Store::open(&path, &options()).unwrap();
    assert_eq!(store.tree(b"t").unwrap().get(b"k").unwrap().unwrap(), b"v");
}

/// A panic in one completion left the others waiting.
#[test]
fn a_completion_that_panics_takes_nobody_with_it() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &options()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let (told, learns) = mpsc::channel();
    for i in 0..10u8 {
        let told = told.clone();
        let mut batch = Batch::new();
        batch.put(&tree, &[i], b"v");
        store
            .commit_async(batch, Durability::Durable, move |fate| {
                assert!(i % 2 == 0, "every other completion panics");
                told.send(fate).unwrap();
            })
            .unwrap();
    }
    for _ in 0..5 {
        learns
            .recv_timeout(Duration::from_secs(20))
            .unwrap()
            .unwrap();
    }
    tree.put(b"after", b"v").unwrap();
}

/// A flush waited for the queue to be empty, which under load it never is.
#[test]
fn a_flush_covers_what_was_there_and_does_not_wait_for_more() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &options()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let (tree, stop) = (&tree, &stop);
            scope.spawn(move || {
                for i in 0u64.. {
                    let mut key = i.to_le_bytes().to_vec();
                    key.push(writer);
                    tree.put(&key, b"v").unwrap();
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        let before = store.stats().flushes;
        store.flush().unwrap();
        let took = store.stats().flushes - before;
        stop.store(true, Ordering::Relaxed);
        assert!(took < 20, "{took} flushes of the log for one");
    });
}

/// A part that an update kept was looked at as if the update had brought it: damage in it, a year old,
/// cut off the log there, with all that had been acknowledged behind.
#[test]
fn damage_in_a_part_that_was_kept_loses_no_later_commit() {
    for in_base in [true, false] {
        let disk = Arc::new(MemoryDisk::default());
        Store::format_on(disk.as_ref(), &World::real(), &options()).unwrap();
        // Without threads: nothing covers what was flushed last.
        let open = |disk: Arc<MemoryDisk>| Store::open_on(disk, World::real(), &options()).unwrap();
        let store = open(Arc::clone(&disk));
        let tree = store.create_tree(b"t").unwrap();
        let kept = value(1, 100_000);
        tree.put(b"k", &kept).unwrap();
        if in_base {
            store.checkpoint().unwrap();
        }
        // From here on it is known to be durable.
        tree.put(b"i", b"before").unwrap();
        let mut bytes = vec![0; usize::try_from(disk.size().unwrap()).unwrap()];
        disk.read(0, &mut bytes).unwrap();
        let at = bytes.windows(64).position(|window| *window == kept[..64]);
        disk.write(at.unwrap() as u64, &[kept[0] ^ 1]).unwrap();
        for second in [b"second", b"third."] {
            tree.update(b"k", Durability::Buffered, |_| {
                let parts = NewEntry::default().part(NewPart::Keep(0));
                Ok(Decision::Put(parts.part(NewPart::Bytes(second.to_vec()))))
            })
            .unwrap();
        }
        tree.put(b"j", b"behind").unwrap();

        let store = open(disk.copy());
        let tree = store.tree(b"t").unwrap();
        assert_eq!(tree.get(b"j").unwrap().unwrap(), b"behind");
        let entry = tree.entry(b"k").unwrap().unwrap();
        assert_eq!(entry.parts_len(), 2);
        assert_eq!(&*entry.part(1).unwrap().unwrap(), b"third.");
        assert!(entry.part(0).unwrap_err().is_damage());
    }
}

fn durable(store: &Store, tree: &Tree, key: &[u8], value: Vec<u8>) {
    let mut batch = Batch::new();
    batch.put(tree, key, value);
    store.commit(batch, Durability::Durable).unwrap();
}

/// A block said how far batches were durable, and an empty group holds none: when it rotted, nothing
/// spoke for it, and what was acknowledged behind it was cut off as a torn tail.
#[test]
fn what_was_acknowledged_behind_a_rotten_stamp_is_never_cut_off() {
    let disk = Arc::new(MemoryDisk::default());
    let geometry = Geometry::tiny();
    Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
    let open = || Store::open_on(disk.clone(), World::real(), &tiny());
    let store = open().unwrap();
    let tree = store.create_tree(b"t").unwrap();
    durable(&store, &tree, b"a", b"v".to_vec());
    let block = u64::from(geometry.log_block_bytes);
    let stamp = Lsn(store.stats().durable_lsn.next_multiple_of(block));
    store.checkpoint().unwrap();
    durable(&store, &tree, b"b", b"v".to_vec());
    store.abandon();
    drop((tree, store));
    let zeros = vec![0; usize::try_from(block).unwrap()];
    disk.write(geometry.log_offset(stamp), &zeros).unwrap();
    let refusal = open().err();
    assert!(
        matches!(refusal, Some(Error::AcknowledgedLoss { at, .. }) if at == stamp),
        "{refusal:?}"
    );
}

/// While checkpoints were due and failed, nobody covered the last group.
#[test]
fn the_last_group_is_covered_while_checkpoints_fail() {
    let (dir, path) = folder();
    let spoilt = value(1, 100);
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    durable(&store, &tree, b"k", spoilt.clone());
    drop(tree);
    store.close().unwrap();
    let mut leaf = places(&path, &spoilt);
    leaf.retain(|place| *place > small().log_bytes);
    assert_eq!(leaf.len(), 1);
    rot(&path, &leaf);

    let options = Options {
        checkpoint_ms: 50,
        ..small()
    };
    let store = Store::open(&path, &options).unwrap();
    let tree = store.tree(b"t").unwrap();
    let last = value(2, 100);
    durable(&store, &tree, b"k", last.clone());
    let copy = dir.path().join("copy");
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        std::fs::copy(&path, &copy).unwrap();
        rot(&copy, &places(&copy, &last));
        let refusal = Store::open(&copy, &small()).err();
        if matches!(refusal, Some(Error::AcknowledgedLoss { .. })) {
            break;
        }
        assert!(Instant::now() < patience, "{refusal:?}: it reads as torn");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The store's threads held the file, and its lock, for as long as the process lived.
#[test]
fn a_thread_that_panics_with_the_last_handle_leaves_a_store_that_opens() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &options()).unwrap();
    let panics = std::thread::spawn(move || {
        let mut batch = Batch::new();
        batch.put(&store.create_tree(b"t").unwrap(), b"k", b"v");
        store.commit(batch, Durability::Buffered).unwrap();
        panic!("on purpose");
    });
    assert!(panics.join().is_err());
    let patience = Instant::now() + Duration::from_secs(20);
    let store = loop {
        match Store::open(&path, &options()) {
            Err(Error::Locked) => assert!(Instant::now() < patience, "it stays locked"),
            opened => break opened.unwrap(),
        }
    };
    let value = store.tree(b"t").unwrap().get(b"k").unwrap();
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
}

/// Its checksums hold, and no store writes such a log: an opening panicked.
#[test]
fn a_log_that_names_a_key_twice_in_a_batch_is_refused() {
    let disk = Arc::new(MemoryDisk::default());
    let geometry = Geometry::tiny();
    Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
    let open = || Store::open_on(disk.clone(), World::real(), &tiny());
    let store = open().unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let id = tree.id();
    durable(&store, &tree, b"a", b"v".to_vec());
    let block = u64::from(geometry.log_block_bytes);
    let lsn = Lsn(store.stats().durable_lsn.next_multiple_of(block));
    store.abandon();
    drop((tree, store));

    let copies = SUPERBLOCK_OFFSETS.iter().filter_map(|offset| {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        disk.read(*offset, &mut bytes).unwrap();
        Superblock::decode(&bytes).ok()
    });
    let (newest, _) = copies.max_by_key(|(copy, _)| copy.age()).unwrap();
    let header = GroupHeader {
        lsn,
        incarnation: newest.incarnation,
        opening: newest.opening,
        incarnation_start: newest.cut,
        durable: newest.cut,
        stamp: newest.generation,
    };
    for keys in [[b"k", b"l"], [b"k", b"k"], [b"l", b"k"]] {
        let mut body = BodyBuilder::new(&[]);
        body.inline(b"v");
        let body = body.finish();
        let mut batch = BatchWriter::new();
        for key in keys {
            batch.push(&Operation::Put {
                tree: id,
                key,
                body: BodyRef::decode(&body).unwrap(),
                replaced: Replaced::Unknown,
            });
        }
        let mut group = vec![0; usize::try_from(block).unwrap()];
        encode_group(&geometry, newest.nonce, &header, batch.finish(), &mut group);
        let crafted = disk.copy();
        crafted.write(geometry.log_offset(lsn), &group).unwrap();
        let opened = Store::open_on(crafted, World::real(), &tiny());
        if keys[0] < keys[1] {
            let tree = opened.unwrap().tree(b"t").unwrap();
            assert_eq!(tree.count().unwrap(), 3, "this is how it is read");
        } else {
            assert!(opened.err().unwrap().is_damage());
        }
    }
}
