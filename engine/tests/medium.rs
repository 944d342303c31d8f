//! Goal: a part that goes through the log is in the log when it is acknowledged, in an extent after
//! the next checkpoint, and the same bytes all the way.
//! Method: the store's own counters say what was written where; after a kill the copy of the disk is
//! opened.

mod common;

use common::{MemoryDisk, folder, small, tiny, value};
use engine::io::Disk;
use engine::world::World;
use engine::{Batch, Decision, Durability, NewEntry, NewPart, Options, Store};
use std::sync::Arc;

fn extent_bytes(store: &Store) -> u64 {
    store.stats().extent_written_bytes
}

#[test]
fn a_put_writes_a_medium_value_to_the_log_alone_and_the_checkpoint_moves_it() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &Options::default()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for (seed, size) in [(1, 1024), (2, 1025), (3, 4096), (4, 16_384)] {
        tree.put(&[seed], &value(seed.into(), size)).unwrap();
    }
    assert_eq!(extent_bytes(&store), 0, "none was written twice yet");
    let before = tree.fingerprint(b"", None).unwrap();
    tree.put(b"long", &value(5, 16_385)).unwrap();
    assert_eq!(extent_bytes(&store), 20 << 10, "a long one at once");
    tree.delete(b"long").unwrap();
    store.checkpoint().unwrap();
    assert_eq!(
        extent_bytes(&store),
        (20 + 4 + 4 + 16) << 10,
        "each takes whole units, and what fits a leaf is none"
    );
    assert_eq!(tree.fingerprint(b"", None).unwrap(), before);
    for (seed, size) in [(1, 1024), (2, 1025), (3, 4096), (4, 16_384)] {
        let found = tree.get(&[seed]).unwrap().unwrap();
        assert_eq!(found, value(seed.into(), size), "{size} bytes");
    }
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn what_is_replaced_before_a_checkpoint_never_gets_an_extent() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &Options::default()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for seed in 0..100 {
        tree.put(b"k", &value(seed, 8000)).unwrap();
    }
    store.checkpoint().unwrap();
    assert_eq!(extent_bytes(&store), 8 << 10);
    assert_eq!(tree.get(b"k").unwrap().unwrap(), value(99, 8000));
}

/// A ring of 1 MiB takes 128 KiB of one batch: what an entry keeps of its parts counts, too.
#[test]
fn parts_that_are_too_much_for_the_log_together_are_extents_at_once() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for number in 0..20 {
        let update = tree.update(b"k", Durability::Durable, |old| {
            let mut entry = NewEntry::default();
            for index in 0..old.map_or(0, engine::Entry::parts_len) {
                entry = entry.part(NewPart::Keep(index));
            }
            Ok(Decision::Put(
                entry.part(NewPart::Bytes(value(number, 16_000))),
            ))
        });
        update.unwrap();
        let entry = tree.entry(b"k").unwrap().unwrap();
        for index in 0..=number {
            let part = entry.part(index as usize).unwrap().unwrap();
            assert_eq!(part, value(index, 16_000), "part {index} of {number}");
        }
    }
    assert!(extent_bytes(&store) > 0);
    let mut batch = Batch::new();
    for seed in 0..200u8 {
        batch.put(&tree, &[seed], value(seed.into(), 4000));
    }
    store.commit(batch, Durability::Durable).unwrap();
    for seed in 0..200u8 {
        let found = tree.get(&[seed]).unwrap().unwrap();
        assert_eq!(found, value(seed.into(), 4000));
    }
    store.checkpoint().unwrap();
    assert!(store.verify().unwrap().is_sound());
}

/// With an old entry that was moved meanwhile, and with a kill at each step of the checkpoint.
#[test]
fn a_kill_at_any_step_of_the_move_loses_nothing() {
    let disk = Arc::new(MemoryDisk::default());
    let world = World::real();
    Store::format_on(disk.as_ref(), &world, &tiny()).unwrap();
    let store = Store::open_on(Arc::clone(&disk) as Arc<dyn Disk>, world.clone(), &tiny()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for round in 0..3 {
        for seed in 0..4u8 {
            let value = value(u32::from(seed) + round, 1500);
            tree.put(&[seed], &value).unwrap();
        }
        loop {
            let done = store.step().unwrap();
            store.audit_owners().unwrap();
            let copy = disk.copy() as Arc<dyn Disk>;
            let killed = Store::open_on(copy, world.clone(), &tiny()).unwrap();
            killed.audit_owners().unwrap();
            let copied = killed.tree(b"t").unwrap();
            for seed in 0..4u8 {
                let found = copied.get(&[seed]).unwrap().unwrap();
                assert_eq!(found, value(u32::from(seed) + round, 1500));
            }
            assert!(killed.audit().unwrap().is_sound());
            killed.abandon();
            if done {
                break;
            }
        }
    }
    store.abandon();
}
