//! Goal: a backup is the store as it was at one moment, whole and durable, or there is no file.
//! Method: stores in use are copied, and copies opened and compared; broken originals are copied
//! too, and nothing may be left.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{folder, places, rot, small, value};
use engine::{Batch, Durability, Error, FingerprintKey, NewEntry, NewPart, Options, Store};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_backup_has_every_tree_meta_and_part() {
    let (dir, path) = folder();
    let options = Options {
        fingerprint_key: FingerprintKey([7; 32]),
        log_bytes: 2 << 20,
        ..small()
    };
    let store = Store::create(&path, &options).unwrap();
    let names: [&[u8]; 3] = [b"one", b"empty", b"\xffthree"];
    for name in names {
        store.create_tree(name).unwrap();
    }
    store.create_tree(b"gone").unwrap();
    store.drop_tree(b"gone").unwrap();
    for name in [b"one".as_slice(), b"\xffthree"] {
        let tree = store.tree(name).unwrap();
        for i in 0..3000u32 {
            let size = [0, 300, 1024, 1025, 20_000][i as usize % 5];
            let mut entry = NewEntry::with_meta(value(i, i as usize % 50));
            for part in 0..i % 4 {
                entry = entry.part(NewPart::Bytes(value(i * 4 + part, size)));
            }
            let mut batch = Batch::new();
            batch.put_entry(&tree, format!("{i}").as_bytes(), entry);
            store.commit(batch, Durability::Buffered).unwrap();
        }
        tree.put(b"large", &value(1, 5_000_000)).unwrap();
    }
    let to = dir.path().join("copy");
    let report = store.backup(&to).unwrap();
    assert_eq!((report.trees, report.entries), (3, 6002));
    assert!(matches!(store.backup(&to), Err(Error::Exists)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

    let copy = Store::open(&to, &small()).unwrap();
    assert_eq!(copy.fingerprint_key_id(), store.fingerprint_key_id());
    assert_eq!(copy.stats().log_bytes, 2 << 20);
    let mut listed: Vec<_> = copy.trees().into_iter().map(|tree| tree.name).collect();
    listed.sort();
    assert_eq!(
        listed,
        [b"empty".to_vec(), b"one".to_vec(), b"\xffthree".to_vec()]
    );
    for name in names {
        let (tree, copied) = (store.tree(name).unwrap(), copy.tree(name).unwrap());
        let whole = tree.fingerprint(b"", None).unwrap();
        assert_eq!(copied.fingerprint(b"", None).unwrap(), whole);
        let (mine, theirs) = (store.snapshot(), copy.snapshot());
        let pairs = mine
            .range(&tree, b"", None)
            .zip(theirs.range(&copied, b"", None));
        for (a, b) in pairs {
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!((a.key(), a.meta()), (b.key(), b.meta()));
            assert_eq!(a.parts_len(), b.parts_len());
            for part in 0..a.parts_len() {
                assert_eq!(a.part(part).unwrap(), b.part(part).unwrap());
            }
        }
    }
    let report = copy.verify().unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
    assert_eq!(report.newer, 0, "its checkpoint was made");
    assert_eq!((report.trees, report.entries), (3, 6002));

    drop(copy);
    let copy = Store::open_read_only(&to, &small()).unwrap();
    let again = dir.path().join("again");
    assert_eq!(copy.backup(&again).unwrap().entries, 6002);
}

#[test]
fn a_backup_of_a_store_in_use_is_of_one_moment() {
    let (dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let (a, b) = (
        store.create_tree(b"a").unwrap(),
        store.create_tree(b"b").unwrap(),
    );
    for i in 0..2000u32 {
        a.put(format!("fill {i}").as_bytes(), &value(i, 3000))
            .unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0u32.. {
                let mut batch = Batch::new();
                batch.put(&a, b"counter", i.to_le_bytes());
                batch.put(&b, b"counter", i.to_le_bytes());
                batch.put(&a, format!("fill {}", i % 2000).as_bytes(), value(i, 2000));
                store.commit(batch, Durability::Durable).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut last = None;
        for round in 0..4 {
            let to = dir.path().join(format!("copy {round}"));
            store.backup(&to).unwrap();
            let copy = Store::open_read_only(&to, &small()).unwrap();
            let counter = |name: &[u8]| copy.tree(name).unwrap().get(b"counter").unwrap();
            assert_eq!(counter(b"a"), counter(b"b"));
            let number = counter(b"a").map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
            assert!(number >= last);
            last = number;
        }
        done.store(true, Ordering::Relaxed);
        assert!(last.is_some());
    });
}

#[test]
fn a_backup_that_fails_leaves_nothing() {
    let (dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for i in 0..200u32 {
        tree.put(format!("{i}").as_bytes(), &value(i, 9000))
            .unwrap();
    }
    store.checkpoint().unwrap();
    let to = dir.path().join("copy");
    let unfinished = dir.path().join("copy.unfinished");
    std::fs::write(&unfinished, b"somebody's").unwrap();
    assert!(matches!(store.backup(&to), Err(Error::Exists)));
    assert_eq!(std::fs::read(&unfinished).unwrap(), b"somebody's");
    // What a crash of an earlier backup leaves.
    std::fs::write(&unfinished, [0; 4096]).unwrap();
    let spoilt = places(&path, &value(150, 100));
    rot(&path, &spoilt);
    let failed = store.backup(&to);
    assert!(matches!(failed, Err(Error::Corrupt(_))), "{failed:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    rot(&path, &spoilt);
    store.backup(&to).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let nowhere = dir.path().join("no such folder").join("copy");
    assert!(matches!(store.backup(nowhere), Err(Error::Io { .. })));
}
