//! Goal: a read that does not wait gives what a read that waits gives: inline what is in memory,
//! from the store's threads what is not.
//! Method: the same keys cold, warm, newer than the tree, absent and rotten, with every backend.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{MemoryDisk, folder, places, rot, small, tiny, value};
use engine::world::World;
use engine::{Backend, Durability, Error, Options, Store, Tree, ValueRef};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ThreadId};
use std::time::Duration;

type Answer = Result<Option<ValueRef>, Error>;

/// Asks, and gives what will tell the answer and the thread that it came from.
fn ask(tree: &Tree, key: &[u8]) -> Receiver<(Answer, ThreadId)> {
    let (tell, told) = channel();
    tree.get_async(key, move |answer| {
        tell.send((answer, thread::current().id())).unwrap();
    });
    told
}

fn size(i: u32) -> usize {
    [10, 1000, 3000, 70_000, 400_000][i as usize % 5]
}

fn key(i: u32) -> Vec<u8> {
    format!("key {i:05}").into_bytes()
}

#[test]
fn what_is_not_in_memory_comes_from_another_thread() {
    for backend in [Backend::Auto, Backend::Threads] {
        let (_dir, path) = folder();
        let options = Options { backend, ..small() };
        let store = Store::create(&path, &options).unwrap();
        let tree = store.create_tree(b"t").unwrap();
        for i in 0..400 {
            tree.put(&key(i), &value(i, size(i % 100))).unwrap();
        }
        store.close().unwrap();
        drop(tree);
        let store = Store::open(&path, &options).unwrap();
        let tree = store.tree(b"t").unwrap();
        let me = thread::current().id();

        let (answer, from) = ask(&tree, &key(0)).recv().unwrap();
        assert_eq!(*answer.unwrap().unwrap(), value(0, 10));
        assert_ne!(from, me, "the nodes were cold");
        let (answer, from) = ask(&tree, &key(0)).recv().unwrap();
        assert_eq!(*answer.unwrap().unwrap(), value(0, 10));
        assert_eq!(from, me, "and are warm now");

        // All at once, and some keys twice.
        let asked: Vec<_> = (0..800)
            .map(|i| (i % 400, ask(&tree, &key(i % 400))))
            .collect();
        for (i, told) in asked {
            let (answer, _) = told.recv().unwrap();
            assert_eq!(
                *answer.unwrap().unwrap(),
                value(i, size(i % 100)),
                "key {i}"
            );
            assert!(told.recv().is_err(), "told once");
        }
        let (answer, from) = ask(&tree, &key(3)).recv().unwrap();
        assert_eq!(answer.unwrap().unwrap().len(), 70_000);
        assert_eq!(from, me, "the page cache has it");

        tree.put(&key(1), b"newer").unwrap();
        tree.delete(&key(2)).unwrap();
        for (asked, expected) in [
            (key(1), Some(b"newer".to_vec())),
            (key(2), None),
            (b"absent".to_vec(), None),
        ] {
            let (answer, from) = ask(&tree, &asked).recv().unwrap();
            assert_eq!(answer.unwrap().map(|bytes| bytes.to_vec()), expected);
            assert_eq!(from, me);
        }
    }
}

#[test]
fn rot_is_told_and_nothing_else_with_it() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for i in 0..20 {
        tree.put(&key(i), &value(i, size(i))).unwrap();
    }
    store.close().unwrap();
    drop(tree);
    rot(&path, &[places(&path, &value(3, 100))[0] + 60_000]);
    let store = Store::open(&path, &small()).unwrap();
    let tree = store.tree(b"t").unwrap();
    let (answer, _) = ask(&tree, &key(3)).recv().unwrap();
    assert!(matches!(answer, Err(Error::Corrupt(_))), "{answer:?}");
    let (answer, _) = ask(&tree, &key(4)).recv().unwrap();
    assert_eq!(*answer.unwrap().unwrap(), value(4, 400_000));
}

#[test]
fn a_snapshot_answers_as_of_its_moment() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"k", &value(1, 50_000)).unwrap();
    let snapshot = store.snapshot();
    tree.put(b"k", &value(2, 50_000)).unwrap();
    store.checkpoint().unwrap();
    let (tell, told) = channel();
    let entry_told = tell.clone();
    snapshot.get_async(&tree, b"k", move |answer| {
        tell.send(answer.unwrap()).unwrap();
    });
    assert_eq!(*told.recv().unwrap().unwrap(), value(1, 50_000));
    snapshot.entry_async(&tree, b"k", move |entry| {
        let entry = entry.unwrap().unwrap();
        entry.part_async(0, move |part| entry_told.send(part.unwrap()).unwrap());
    });
    assert_eq!(*told.recv().unwrap().unwrap(), value(1, 50_000));
}

/// Asks for key `i`, and from its completion for the one before, down to 0.
fn ask_down(tree: &Tree, i: u32, tell: Sender<u32>) {
    let on = tree.clone();
    tree.get_async(&key(i), move |answer| {
        assert_eq!(*answer.unwrap().unwrap(), value(i, size(i)));
        if i == 0 {
            tell.send(i).unwrap();
        } else {
            ask_down(&on, i - 1, tell);
        }
    });
}

#[test]
fn answers_may_ask_on_and_outlive_the_store() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for i in 0..200 {
        tree.put(&key(i), &value(i, size(i))).unwrap();
    }
    store.close().unwrap();
    drop(tree);
    let store = Store::open(&path, &small()).unwrap();
    let tree = store.tree(b"t").unwrap();
    let (tell, told) = channel();
    ask_down(&tree, 199, tell);
    let asked: Vec<_> = (0..200).map(|i| ask(&tree, &key(i))).collect();
    drop((tree, store));
    assert_eq!(told.recv().unwrap(), 0);
    for (i, told) in (0..).zip(asked) {
        let (answer, _) = told.recv().unwrap();
        assert_eq!(*answer.unwrap().unwrap(), value(i, size(i)));
    }
}

#[test]
fn without_threads_everything_is_answered_at_once() {
    let disk = Arc::new(MemoryDisk::default());
    Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
    let store = Store::open_on(disk.clone(), World::real(), &tiny()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for i in 0..100 {
        tree.put(&key(i), &value(i, size(i) / 20)).unwrap();
    }
    store.checkpoint().unwrap();
    drop((tree, store));
    let store = Store::open_on(disk.copy(), World::real(), &tiny()).unwrap();
    let tree = store.tree(b"t").unwrap();
    for i in 0..100 {
        let (answer, _) = ask(&tree, &key(i)).try_recv().unwrap();
        assert_eq!(*answer.unwrap().unwrap(), value(i, size(i) / 20));
    }
}

/// The store ends in the completion, on a thread that serves its disk: with a checkpoint, whose cold
/// nodes nobody else may be there to read.
#[test]
fn a_store_may_end_in_a_completion_with_work_left() {
    for backend in [Backend::Auto, Backend::Threads] {
        for io_threads in [1, 2] {
            let (_dir, path) = folder();
            let options = Options {
                backend,
                io_threads,
                ..small()
            };
            let store = Store::create(&path, &options).unwrap();
            let tree = store.create_tree(b"t").unwrap();
            for i in 0..5000 {
                let mut batch = store.batch();
                batch.put(&tree, &key(i), value(i, 100));
                store.commit(batch, Durability::Buffered).unwrap();
            }
            store.close().unwrap();
            drop(tree);

            let store = Store::open(&path, &options).unwrap();
            let tree = store.tree(b"t").unwrap();
            let mut batch = store.batch();
            for i in (0..5000).step_by(100) {
                batch.put(&tree, &key(i), b"newer");
            }
            store.commit(batch, Durability::Buffered).unwrap();
            let (tell, told) = channel();
            let last = (store, tree.clone());
            tree.get_async(&key(2501), move |answer| {
                drop(last);
                tell.send(answer.unwrap().map(|value| value.to_vec()))
                    .unwrap();
            });
            drop(tree);
            let told = told.recv_timeout(Duration::from_mins(2));
            assert_eq!(told.expect("the store ended"), Some(value(2501, 100)));
            let store = Store::open(&path, &options).unwrap();
            let tree = store.tree(b"t").unwrap();
            assert_eq!(tree.get(&key(4900)).unwrap(), Some(b"newer".to_vec()));
        }
    }
}
