//! Goal: bytes handed out without a copy are right, and stay so for as long as they are held.
//! Method: values are held while everything around them is overwritten, checkpointed and punched.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{folder, places, rot, small, value};
use engine::{Durability, Error, NewEntry, NewPart, Options, Store};

#[test]
fn a_value_is_shown_without_a_copy() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for (seed, size) in [(1, 0), (2, 100), (3, 1024), (4, 1025), (5, 3_000_000)] {
        tree.put(&[seed], &value(seed.into(), size)).unwrap();
    }
    let entry = NewEntry::with_meta(*b"meta")
        .part(NewPart::Bytes(value(6, 10)))
        .part(NewPart::Bytes(value(7, 70_000)));
    tree.put_entry(b"parts", entry, Durability::Durable)
        .unwrap();
    tree.put_entry(
        b"tombstone",
        NewEntry::with_meta(*b"gone"),
        Durability::Durable,
    )
    .unwrap();
    for _ in 0..2 {
        for (seed, size) in [(1, 0), (2, 100), (3, 1024), (4, 1025), (5, 3_000_000)] {
            let shown = tree.get_ref(&[seed]).unwrap().unwrap();
            assert_eq!(*shown, value(seed.into(), size), "{size} bytes");
            assert!(shown.is_zero_copy());
        }
        let entry = store.snapshot().entry(&tree, b"parts").unwrap().unwrap();
        assert_eq!(*entry.part_shared(0).unwrap().unwrap(), value(6, 10));
        assert_eq!(*entry.part_shared(1).unwrap().unwrap(), value(7, 70_000));
        assert!(entry.part_shared(2).unwrap().is_none());
        assert!(tree.get_ref(b"tombstone").unwrap().is_none());
        assert!(tree.get_ref(b"nothing").unwrap().is_none());
        store.checkpoint().unwrap();
    }
}

#[test]
fn what_is_held_does_not_change() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    let key = |i: u32| format!("key {i}").into_bytes();
    let mut held = Vec::new();
    for round in 0..6u32 {
        for i in 0..40 {
            let seed = round * 1000 + i;
            tree.put(&key(i), &value(seed, 30_000)).unwrap();
            if i % 5 == 0 {
                held.push((seed, tree.get_ref(&key(i)).unwrap().unwrap()));
            }
        }
        store.checkpoint().unwrap();
        tree.delete_range(b"", None).unwrap();
        store.checkpoint().unwrap();
        while store.punch_some().unwrap() > 0 {}
    }
    for (seed, shown) in &held {
        assert!(shown.is_zero_copy());
        assert_eq!(**shown, value(*seed, 30_000));
    }
    assert!(store.stats().pinned_bytes >= 6 * 8 * 30_000);
    drop(held);
    store.checkpoint().unwrap();
    assert_eq!(store.stats().pinned_bytes, 0);
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn the_file_stays_locked_while_a_value_is_held() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"k", &value(1, 50_000)).unwrap();
    let shown = tree.get_ref(b"k").unwrap().unwrap();
    store.close().unwrap();
    drop(tree);
    assert!(matches!(Store::open(&path, &small()), Err(Error::Locked)));
    assert_eq!(*shown, value(1, 50_000));
    drop(shown);
    Store::open(&path, &small()).unwrap();
}

#[test]
fn rot_is_met_when_a_value_is_handed_out() {
    let (_dir, path) = folder();
    let options = Options {
        punch: false,
        ..small()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"k", &value(1, 50_000)).unwrap();
    let place = places(&path, &value(1, 100))[0] + 49_000;
    rot(&path, &[place]);
    assert!(matches!(tree.get_ref(b"k"), Err(Error::Corrupt(_))));
    rot(&path, &[place]);
    assert_eq!(*tree.get_ref(b"k").unwrap().unwrap(), value(1, 50_000));
}
