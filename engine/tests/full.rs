//! Goal: on a full disk what a batch was promised is there when its checkpoint wants it.
//! Method: the disk gives no space from some moment on, and a punch or a batch is stopped where
//! another could take the same units.

mod common;

use common::{Halting, value};
use engine::world::World;
use engine::{Durability, Error, NewEntry, Options, Store};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The punch asked what was promised before it looked for something to take, and another batch was
/// promised that meanwhile.
#[test]
fn a_punch_never_takes_what_was_just_promised() {
    let (disk, store, tree) = Halting::store();
    store.checkpoint().unwrap();
    // Space that is free and backed, in one run.
    drop(tree.writer(60_000).unwrap());
    let (asked, go_on) = disk.halt_size();
    let punching = {
        let store = store.clone();
        std::thread::spawn(move || store.punch_some(512))
    };
    asked.recv().unwrap();
    disk.full.store(true, Ordering::SeqCst);
    // As many as the ring holds without a checkpoint.
    for key in 0..8u8 {
        tree.put(&[b'n', key], &value(key.into(), 1000)).unwrap();
    }
    go_on.send(()).unwrap();
    let mut punched = punching.join().unwrap().unwrap();
    while let bytes @ 1.. = store.punch_some(512).unwrap() {
        punched += bytes;
    }
    assert!(punched > 0, "there was more than was promised");
    store.checkpoint().unwrap();
    for key in 0..8u8 {
        let found = tree.get(&[b'n', key]).unwrap().unwrap();
        assert_eq!(found, value(key.into(), 1000));
    }
}

/// A part in the log had been promised units, and they lay in pieces that were too short for it.
#[test]
fn a_medium_part_that_a_full_disk_acknowledges_finds_its_run() {
    let (disk, store, tree) = Halting::store();
    // Every other run of three units is free.
    for key in 0..60u8 {
        tree.put(&[key], &value(key.into(), 1500)).unwrap();
        store.checkpoint().unwrap();
    }
    disk.full.store(true, Ordering::SeqCst);
    let full = tree.put(b"long", &vec![1; 60_000]);
    assert!(matches!(full, Err(Error::DiskFull)), "{full:?}");
    for key in (0..60u8).step_by(2) {
        tree.delete(&[key]).unwrap();
    }
    for _ in 0..3 {
        store.checkpoint().unwrap();
    }
    let mut taken = 0u8;
    let refused = loop {
        match tree.put(&[b'n', taken], &value(taken.into(), 1900)) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::DiskFull), "{refused}");
    assert!(taken > 0);
    store.checkpoint().unwrap();
    for key in 0..taken {
        let found = tree.get(&[b'n', key]).unwrap().unwrap();
        assert_eq!(found, value(key.into(), 1900));
    }
}

/// It was given units that were backed, whoever they had been promised to.
#[test]
fn a_long_part_takes_nothing_of_what_a_checkpoint_was_promised() {
    let (disk, store, tree) = Halting::store();
    store.checkpoint().unwrap();
    // Space that is free and backed, in one run.
    drop(tree.writer(60_000).unwrap());
    for key in 0..8u8 {
        tree.put(&[b'n', key], &value(key.into(), 1000)).unwrap();
    }
    disk.full.store(true, Ordering::SeqCst);
    let longest = || {
        let mut lengths = (1..=100).rev().map(|units| units * 512);
        lengths.find_map(|length| tree.writer(length).ok())
    };
    let held: Vec<_> = std::iter::from_fn(longest).collect();
    assert!(!held.is_empty());
    store.checkpoint().unwrap();
    for key in 0..8u8 {
        let found = tree.get(&[b'n', key]).unwrap().unwrap();
        assert_eq!(found, value(key.into(), 1000));
    }
}

/// A small entry more, and a packed leaf becomes two or three.
#[test]
fn inserts_here_and_there_that_a_full_disk_acknowledges_are_checkpointed() {
    // Entries, the bytes of each, of so many one gets a neighbour, and tenths of a unit that are there for
    // each of those: five and eight are needed.
    for (entries, length, step, tenths) in [(60_000u32, 100, 300, 47), (20_000, 950, 45, 60)] {
        let disk = Arc::new(Halting::default());
        let options = Options {
            log_bytes: 16 << 20,
            ..Options::default()
        };
        Store::format_on(disk.as_ref(), &World::real(), &options).unwrap();
        let store = Store::open_on(disk.clone(), World::real(), &options).unwrap();
        let tree = store.create_tree(b"t").unwrap();
        let key = |number: u32, behind: &str| format!("{number:08}{behind}").into_bytes();
        for first in (0..entries).step_by(1000) {
            let mut batch = store.batch();
            for number in first..first + 1000 {
                batch.put(&tree, &key(number, ""), value(number, length));
            }
            store.commit(batch, Durability::Buffered).unwrap();
        }
        for _ in 0..3 {
            store.checkpoint().unwrap();
        }
        // What the load was promised is forgotten by an opening: nothing is backed.
        drop(tree);
        store.close().unwrap();
        let store = Store::open_on(disk.clone(), World::real(), &options).unwrap();
        let tree = store.tree(b"t").unwrap();
        let inserts = u64::from(entries / step);
        drop(tree.writer(inserts * tenths * 4096 / 10).unwrap());
        disk.full.store(true, Ordering::SeqCst);
        let (mut taken, mut refused) = (Vec::new(), 0);
        for number in (0..entries).step_by(step as usize) {
            let entry = NewEntry::plain(value(number, length));
            match tree.put_entry(&key(number, "x"), entry, Durability::Buffered) {
                Ok(_) => taken.push(number),
                Err(Error::DiskFull) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(taken.len() > 20, "{} of {refused}", taken.len());
        store.checkpoint().unwrap();
        for number in taken {
            let found = tree.get(&key(number, "x")).unwrap();
            assert_eq!(found, Some(value(number, length)));
        }
    }
}
