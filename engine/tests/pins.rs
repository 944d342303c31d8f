//! Goal: a snapshot that is forgotten gives its space back, and nothing that was handed out goes
//! bad with it.
//! Method: a store on a disk in memory, under a clock that the test moves.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{MemoryDisk, tiny, value};
use dmerkle::diff::Contents;
use engine::world::{Clock, World};
use engine::{Error, Options, Store, Tree};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn open(options: &Options) -> (Store, Tree, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    let world = World {
        clock: clock.clone(),
        ..World::real()
    };
    let disk = Arc::new(MemoryDisk::default());
    Store::format_on(disk.as_ref(), &world, options).unwrap();
    let store = Store::open_on(disk, world, options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for i in 0..20u8 {
        tree.put(&[i], &value(i.into(), 600 + 100 * usize::from(i)))
            .unwrap();
    }
    (store, tree, clock)
}

#[test]
fn a_snapshot_expires_with_age_and_what_it_gave_does_not() {
    let options = Options {
        snapshot_ms_max: 1000,
        ..tiny()
    };
    let (store, tree, clock) = open(&options);
    let old = store.snapshot();
    let clone = old.clone();
    let mut walk = old.range(&tree, b"", None);
    let first = walk.next().unwrap().unwrap();
    let entry = old.entry(&tree, &[9]).unwrap().unwrap();
    let shown = entry.part_shared(0).unwrap().unwrap();
    let compared = store.snapshot();
    let mut contents = compared.contents(&tree);
    let before = contents.summary(b"", None).unwrap();
    clock.0.store(900, Ordering::Relaxed);
    let young = store.snapshot();
    tree.delete_range(b"", None).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(old.get(&tree, &[9]).unwrap(), Some(value(9, 1500)));
    let stats = store.stats();
    assert_eq!((stats.snapshots, stats.snapshots_exempt), (3, 1));
    assert_eq!(stats.snapshot_ms_oldest, 900);

    clock.0.store(1001, Ordering::Relaxed);
    tree.put(b"x", b"y").unwrap();
    store.checkpoint().unwrap();
    for snapshot in [&old, &clone] {
        let refused = snapshot.get(&tree, &[9]);
        assert!(
            matches!(refused, Err(Error::SnapshotExpired)),
            "{refused:?}"
        );
    }
    assert!(matches!(walk.next(), Some(Err(Error::SnapshotExpired))));
    assert!(walk.next().is_none());
    assert!(matches!(
        old.range(&tree, b"", None).next(),
        Some(Err(Error::SnapshotExpired))
    ));
    assert!(matches!(
        old.fingerprint(&tree, b"", None),
        Err(Error::SnapshotExpired)
    ));
    for i in 0..20u8 {
        tree.put(&[i], &value(99, 3000)).unwrap();
        store.checkpoint().unwrap();
    }
    assert_eq!(first.part(0).unwrap().unwrap(), value(0, 600));
    assert_eq!(entry.part(0).unwrap().unwrap(), value(9, 1500));
    assert_eq!(*shown, value(9, 1500));
    assert_eq!(young.get(&tree, &[9]).unwrap(), Some(value(9, 1500)));
    assert_eq!(contents.summary(b"", None).unwrap(), before);
    assert_eq!(store.stats().snapshots_expired, 1);

    drop(contents);
    store.checkpoint().unwrap();
    let refused = compared.get(&tree, &[9]);
    assert!(matches!(refused, Err(Error::SnapshotExpired)));
    assert!(store.audit().unwrap().is_sound());
}

#[test]
fn the_oldest_snapshots_expire_when_they_pin_too_much() {
    let options = Options {
        snapshot_bytes_max: 200_000,
        ..tiny()
    };
    let (store, tree, _) = open(&options);
    let old = store.snapshot();
    let mut young = None;
    let mut most = 0;
    for round in 0..40u32 {
        for i in 0..5u8 {
            tree.put(&[i], &value(round, 3000)).unwrap();
        }
        store.checkpoint().unwrap();
        most = most.max(store.stats().pinned_bytes);
        if young.is_none() && store.stats().pinned_bytes > 120_000 {
            young = Some((round, store.snapshot()));
        }
        if store.stats().snapshots_expired > 0 {
            break;
        }
    }
    assert!((180_000..260_000).contains(&most), "{most}");
    assert!(matches!(old.get(&tree, &[0]), Err(Error::SnapshotExpired)));
    let (round, young) = young.unwrap();
    assert_eq!(young.get(&tree, &[0]).unwrap(), Some(value(round, 3000)));
    store.checkpoint().unwrap();
    assert!(store.stats().pinned_bytes < 150_000);
    drop(young);
    store.checkpoint().unwrap();
    assert_eq!(store.stats().pinned_bytes, 0);
    assert!(store.audit().unwrap().is_sound());
}
