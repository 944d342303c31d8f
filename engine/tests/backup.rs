//! Goal: a backup is the store as it was at one moment, whole and durable, or there is no file.
//! Method: stores in use are copied, and copies opened and compared; broken originals are copied
//! too, and nothing may be left.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{Halting, MemoryDisk, folder, places, rot, small, tiny, value};
use dmerkle::format::superblock::{SUPERBLOCK_BYTES, Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use engine::world::World;
use engine::{Batch, Durability, Error, FingerprintKey, NewEntry, NewPart, Options, Store};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

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
    let Err(Error::Damaged { tree, key, .. }) = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!((&tree[..], key.as_deref()), (&b"t"[..], Some(&b"150"[..])));
    let said = failed.unwrap_err().to_string();
    let begins = said.starts_with("tree \"t\", key \"150\": corrupt extent at unit");
    assert!(begins, "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    rot(&path, &spoilt);
    store.backup(&to).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let nowhere = dir.path().join("no such folder").join("copy");
    assert!(matches!(store.backup(nowhere), Err(Error::Io { .. })));
}

/// Bytes of the disk that a file takes.
fn taken(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_backup_takes_no_space_for_its_log() {
    const LOG_BYTES: u64 = 64 << 20;
    let (dir, path) = folder();
    let options = Options {
        log_bytes: LOG_BYTES,
        ..small()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    // Records enough that the copy's log is written, and more than once read over.
    for i in 0..3000u32 {
        let key = format!("{i}");
        let mut batch = Batch::new();
        batch.put(&tree, key.as_bytes(), value(i, 1000));
        store.commit(batch, Durability::Buffered).unwrap();
    }
    let to = dir.path().join("copy");
    store.backup(&to).unwrap();
    assert!(taken(&path) > LOG_BYTES);
    // What it holds is 3 MB in leaves, and maps.
    let copied = taken(&to);
    assert!(copied < 16 << 20, "the copy takes {copied} bytes");
    assert!(std::fs::metadata(&to).unwrap().len() > LOG_BYTES);

    // Opened for reading it takes no more; for writing its log's space comes first.
    let whole = tree.fingerprint(b"", None).unwrap();
    let copy = Store::open_read_only(&to, &small()).unwrap();
    let fingerprint = |copy: &Store| copy.tree(b"t").unwrap().fingerprint(b"", None).unwrap();
    assert_eq!(fingerprint(&copy), whole);
    drop(copy);
    assert_eq!(taken(&to), copied);
    let copy = Store::open(&to, &small()).unwrap();
    assert!(taken(&to) > LOG_BYTES);
    assert_eq!(fingerprint(&copy), whole);
    copy.tree(b"t").unwrap().put(b"more", b"1").unwrap();
    copy.clone().close().unwrap();
    drop(copy);
    let copy = Store::open(&to, &small()).unwrap();
    let more = copy.tree(b"t").unwrap().get(b"more").unwrap();
    assert_eq!(more.as_deref(), Some(&b"1"[..]));
    assert!(copy.verify().unwrap().is_sound());
}

/// The slot with the newer superblock.
fn newer_slot(path: &Path) -> Slot {
    let file = std::fs::File::open(path).unwrap();
    let decoded = SUPERBLOCK_OFFSETS.iter().map(|offset| {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        file.read_exact_at(&mut bytes, *offset).unwrap();
        Superblock::decode(&bytes).unwrap()
    });
    let newest = decoded.max_by_key(|(superblock, _)| superblock.age());
    newest.unwrap().1
}

#[test]
fn a_backup_keeps_what_tells_that_its_older_superblock_is_too_old() {
    let (dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for i in 0..500u32 {
        tree.put(format!("{i}").as_bytes(), &value(i, 5000))
            .unwrap();
    }
    let to = dir.path().join("copy");
    store.backup(&to).unwrap();
    let copies = newer_slot(&to).copies();
    let spoilt = copies.map(|copy| SUPERBLOCK_OFFSETS[copy] + 100);
    rot(&to, &spoilt);
    let opened = Store::open_read_only(&to, &small()).map(|_| ());
    assert!(matches!(opened, Err(Error::SuperblockLost)), "{opened:?}");
    rot(&to, &spoilt);
    Store::open_read_only(&to, &small()).unwrap();
}

#[test]
fn a_superblock_copy_that_was_damaged_is_told_once() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"k", b"v").unwrap();
    drop(tree);
    store.close().unwrap();
    let older = newer_slot(&path).other().copies()[1];
    rot(&path, &[SUPERBLOCK_OFFSETS[older] + 100]);
    let store = Store::open(&path, &small()).unwrap();
    let [said] = store.mended() else {
        panic!("{:?}", store.mended());
    };
    let begins = said.starts_with(&format!("superblock copy {older}, of slot"));
    assert!(begins && said.ends_with("it was written anew"), "{said}");
    drop(store);
    let store = Store::open(&path, &small()).unwrap();
    assert_eq!(store.mended(), [""; 0]);
}

#[test]
fn a_part_is_verified_on_the_disk_itself() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for (key, size) in [("short", 900), ("long", 3_000_000)] {
        tree.put(key.as_bytes(), &value(3, size)).unwrap();
    }
    let verify = |key: &str| {
        let entry = tree.entry(key.as_bytes()).unwrap().unwrap();
        entry.verify_part(0)
    };
    verify("short").unwrap();
    verify("long").unwrap();
    // Behind the first pieces of a read.
    let needle = value(3, 3_000_000)[2_900_000..2_900_100].to_vec();
    let spoilt = places(&path, &needle);
    rot(&path, &spoilt);
    let failed = verify("long").unwrap_err();
    assert!(failed.is_damage(), "{failed}");
    rot(&path, &spoilt);
    verify("long").unwrap();
}

/// How long a backup may take that does not wait.
const COPIED_MS_MAX: u64 = 1000;

/// The names of a copy that is begun while `change` is joined and its flush held back: made before
/// the flush came back, if it did not wait for it, and after.
fn names_across(change: fn(&Store)) -> (Option<Vec<Vec<u8>>>, Vec<Vec<u8>>) {
    let (disk, store, _) = Halting::store();
    store.create_tree(b"old").unwrap();
    store.tree(b"old").unwrap().put(b"k", b"v").unwrap();
    let (began, go_on) = disk.halt();
    let changing = {
        let store = store.clone();
        std::thread::spawn(move || change(&store))
    };
    began.recv().unwrap();
    let (tells, told) = channel();
    let copying = {
        let store = store.clone();
        std::thread::spawn(move || {
            let copy = Arc::new(MemoryDisk::default());
            store.backup_on(copy.clone(), World::real()).unwrap();
            let copy = Store::open_on(copy, World::real(), &tiny()).unwrap();
            let mut names: Vec<_> = copy.trees().into_iter().map(|tree| tree.name).collect();
            names.sort();
            tells.send(names).unwrap();
        })
    };
    let early = told.recv_timeout(Duration::from_millis(COPIED_MS_MAX)).ok();
    go_on.send(()).unwrap();
    changing.join().unwrap();
    let names = early.clone().unwrap_or_else(|| told.recv().unwrap());
    copying.join().unwrap();
    (early, names)
}

/// The names were those that had joined, the entries those that were visible.
#[test]
fn a_backup_lacks_no_tree_whose_drop_is_not_durable() {
    let (early, names) = names_across(|store| store.drop_tree(b"old").unwrap());
    if let Some(early) = early {
        assert_eq!(early, [b"old".to_vec(), b"t".to_vec()]);
    }
    assert_eq!(names, [b"t".to_vec()], "it waits for the drop");
}

/// A power cut would have taken the tree back.
#[test]
fn a_backup_names_no_tree_that_is_not_visible_yet() {
    let (early, names) = names_across(|store| drop(store.create_tree(b"new").unwrap()));
    if let Some(early) = early {
        assert_eq!(early, [b"old".to_vec(), b"t".to_vec()]);
    }
    let all = [b"new".to_vec(), b"old".to_vec(), b"t".to_vec()];
    assert_eq!(names, all, "it waits for the creation");
}
