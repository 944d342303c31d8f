//! Goal: a node that cannot be read keeps checkpoints from ending, and takes nothing else along:
//! what is acknowledged stays, what is sound is served, openings go on.
//! Method: one leaf of a tree is spoilt on a disk in memory, and written to.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

mod common;

use common::{MemoryDisk, folder, places, rot, small, tiny, value};
use dmerkle::format::node;
use engine::io::Disk;
use engine::world::World;
use engine::{Batch, Decision, Durability, Error, Geometry, NewEntry, NewPart, Store};
use std::sync::Arc;
use std::time::Duration;

/// A store with one leaf, which is spoilt.
fn spoilt() -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
    let store = open(&disk);
    store.create_tree(b"sound").unwrap();
    let tree = store.create_tree(b"spoilt").unwrap();
    tree.put(b"k", &value(1, 100)).unwrap();
    store.checkpoint().unwrap();
    drop((tree, store));
    let mut bytes = vec![0; usize::try_from(disk.size().unwrap()).unwrap()];
    disk.read(0, &mut bytes).unwrap();
    let data = usize::try_from(Geometry::tiny().file_bytes(0)).unwrap();
    let leaf = bytes[data..]
        .windows(100)
        .position(|window| window == value(1, 100));
    let at = data + leaf.unwrap();
    disk.write(at as u64, &[bytes[at] ^ 1]).unwrap();
    disk
}

fn open(disk: &Arc<MemoryDisk>) -> Store {
    Store::open_on(disk.clone(), World::real(), &tiny()).unwrap()
}

fn buffered(store: &Store, tree: &[u8], key: &[u8]) {
    let mut batch = Batch::new();
    batch.put(&store.tree(tree).unwrap(), key, b"v");
    store.commit(batch, Durability::Buffered).unwrap();
}

/// The close went back to the checkpoint that had failed, and flushed nothing newer.
#[test]
fn a_close_that_cannot_checkpoint_loses_no_buffered_commit() {
    let disk = spoilt();
    let store = open(&disk);
    buffered(&store, b"spoilt", b"k");
    assert!(store.checkpoint().unwrap_err().is_damage());
    buffered(&store, b"sound", b"k");
    assert!(store.close().unwrap_err().is_damage());
    let store = open(&disk);
    assert!(store.tree(b"spoilt").unwrap().get(b"k").unwrap().is_some());
    assert!(store.tree(b"sound").unwrap().get(b"k").unwrap().is_some());
}

/// Past some openings each one began with a checkpoint that had to end.
#[test]
fn a_store_with_a_spoilt_node_opens_as_often_as_one_likes() {
    let disk = spoilt();
    for opening in 0..16_u32 {
        let store = open(&disk);
        let (spoilt, sound) = (
            store.tree(b"spoilt").unwrap(),
            store.tree(b"sound").unwrap(),
        );
        assert_eq!(sound.count().unwrap(), u64::from(opening));
        let mut batch = Batch::new();
        batch.put(&spoilt, b"k", opening.to_le_bytes());
        batch.put(&sound, &opening.to_le_bytes(), b"v");
        store.commit(batch, Durability::Durable).unwrap();
        drop((spoilt, sound));
        store.abandon();
    }
}

/// A dropped tree that could not be emptied made every checkpoint fail, and then every write.
#[test]
fn a_dropped_tree_that_is_damaged_stops_no_checkpoint() {
    let disk = spoilt();
    let store = open(&disk);
    store.drop_tree(b"spoilt").unwrap();
    for round in 0..4_u8 {
        store.tree(b"sound").unwrap().put(&[round], b"v").unwrap();
        store.checkpoint().unwrap();
    }
    assert_eq!(store.tree(b"sound").unwrap().count().unwrap(), 4);
    store.close().unwrap();
}

/// It would have tried to empty it five times a second for ever.
#[test]
fn a_dropped_tree_that_is_damaged_lets_a_store_rest() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let spoilt = value(1, 100);
    store.create_tree(b"t").unwrap().put(b"k", &spoilt).unwrap();
    store.close().unwrap();
    let mut places = places(&path, &spoilt);
    places.retain(|place| *place > small().log_bytes);
    assert_eq!(places.len(), 1);
    rot(&path, &places);

    let store = Store::open(&path, &small()).unwrap();
    store.drop_tree(b"t").unwrap();
    store.checkpoint().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let checkpoints = store.stats().checkpoints;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(store.stats().checkpoints, checkpoints);
    store.close().unwrap();
}

/// To empty a dropped tree a little opens more of it than what is removed: the neighbour that a node
/// too small joins.
#[test]
fn a_dropped_tree_that_is_damaged_anywhere_stops_no_checkpoint() {
    let disk = Arc::new(MemoryDisk::default());
    Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
    let store = open(&disk);
    store.create_tree(b"sound").unwrap();
    let tree = store.create_tree(b"spoilt").unwrap();
    let id = tree.id();
    for key in 0..4500_u32 {
        let entry = NewEntry::plain(key.to_le_bytes());
        tree.put_entry(&key.to_be_bytes(), entry, Durability::Buffered)
            .unwrap();
    }
    store.checkpoint().unwrap();
    drop((tree, store));
    // The blocks that hold, or held, a node of the tree.
    let mut bytes = vec![0; usize::try_from(disk.size().unwrap()).unwrap()];
    disk.read(0, &mut bytes).unwrap();
    let unit = Geometry::tiny().unit_bytes as usize;
    let is_node = |at: &usize| {
        bytes[at + 4..at + 8] == node::MAGIC_VALUE.to_le_bytes()
            && bytes[at + 24..at + 32] == id.0.to_le_bytes()
    };
    let data = usize::try_from(Geometry::tiny().file_bytes(0)).unwrap();
    let nodes: Vec<_> = (data..bytes.len()).step_by(unit).filter(is_node).collect();
    assert!(nodes.len() > 1000, "{}", nodes.len());
    // They stand in the order of their keys: those about the 4096th, where the first removal ends.
    for at in &nodes[nodes.len() * 86 / 100..nodes.len() * 96 / 100] {
        let disk = disk.copy();
        disk.write(*at as u64 + 80, &[bytes[at + 80] ^ 1]).unwrap();
        let store = open(&disk);
        store.drop_tree(b"spoilt").unwrap();
        for round in 0..6_u8 {
            let sound = store.tree(b"sound").unwrap();
            sound.put(&[round], b"v").unwrap();
            if let Err(error) = store.checkpoint() {
                panic!("the node at byte {at} is spoilt, round {round}: {error}");
            }
        }
        store.close().unwrap();
    }
}

/// Who met the damage had written to the tree: with what was pending of it no checkpoint ended, dropped
/// or not.
#[test]
fn to_drop_a_damaged_tree_that_was_written_to_lets_checkpoints_end() {
    for is_frozen in [true, false] {
        let disk = spoilt();
        let store = open(&disk);
        let tree = store.tree(b"spoilt").unwrap();
        // One of each kind: in the leaf, beside it at the next checkpoint, and beside it at once.
        for (key, length) in [(b"k", 10), (b"l", 1500), (b"m", 5000), (b"m", 6000)] {
            tree.put(key, &value(length, length as usize)).unwrap();
        }
        if is_frozen {
            assert!(store.checkpoint().unwrap_err().is_damage());
            // Named by both memtables.
            let keep = || Decision::Put(NewEntry::default().part(NewPart::Keep(0)));
            tree.update(b"m", Durability::Durable, |_| Ok(keep()))
                .unwrap();
        }
        store.drop_tree(b"spoilt").unwrap();
        let taken = store.stats().allocated_bytes;
        let sound = store.tree(b"sound").unwrap();
        for round in 0..4_u8 {
            sound.put(&[round], b"v").unwrap();
            store.checkpoint().unwrap();
        }
        // What had been written beside the tree is free again.
        let left = store.stats().allocated_bytes;
        assert!(left + 10_000 < taken, "{left} of {taken}");
        // And is not given to two.
        for round in 0..8_u8 {
            sound
                .put(&[b'v', round], &value(round.into(), 6000))
                .unwrap();
            store.checkpoint().unwrap();
        }
        drop((tree, sound));
        store.close().unwrap();
        let store = open(&disk);
        assert!(matches!(store.tree(b"spoilt"), Err(Error::NoSuchTree)));
        let sound = store.tree(b"sound").unwrap();
        assert_eq!(sound.count().unwrap(), 12);
        for round in 0..8_u8 {
            let found = sound.get(&[b'v', round]).unwrap().unwrap();
            assert_eq!(found, value(round.into(), 6000));
        }
    }
}
