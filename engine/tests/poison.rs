//! Goal: after a failed flush nothing is acknowledged that it may have lost.
//! Method: the flush of a checkpoint fails between a commit's write and the end of that commit's own
//! flush, which says OK, as that of a device does.

mod common;

use common::Halting;
use engine::{Error, Store};
use std::sync::atomic::Ordering;

/// Steps until the checkpoint fails.
fn fail(store: &Store) -> Error {
    loop {
        if let Err(failed) = store.step() {
            return failed;
        }
    }
}

/// The commit's own flush had come back well, and it was acknowledged.
#[test]
fn a_commit_across_a_flush_that_failed_is_not_acknowledged() {
    let (disk, store, tree) = Halting::store();
    let (began, go_on) = disk.halt();
    let writer = std::thread::spawn(move || tree.put(b"across", b"v"));
    began.recv().unwrap();
    disk.fails.store(true, Ordering::SeqCst);
    let failed = fail(&store);
    assert!(matches!(failed, Error::Poisoned { .. }), "{failed}");
    disk.fails.store(false, Ordering::SeqCst);
    go_on.send(()).unwrap();
    let fate = writer.join().unwrap();
    assert!(matches!(fate, Err(Error::Poisoned { .. })), "{fate:?}");
}

/// The superblock was written, and named nodes that a commit's flush may have lost.
#[test]
fn a_checkpoint_across_a_flush_that_failed_writes_no_superblock() {
    let (disk, store, tree) = Halting::store();
    let (began, go_on) = disk.halt();
    let checkpoint = std::thread::spawn(move || {
        let failed = fail(&store);
        (failed, store)
    });
    began.recv().unwrap();
    disk.fails.store(true, Ordering::SeqCst);
    tree.put(b"across", b"v").unwrap_err();
    disk.fails.store(false, Ordering::SeqCst);
    let writes = disk.writes.load(Ordering::SeqCst);
    go_on.send(()).unwrap();
    let (failed, store) = checkpoint.join().unwrap();
    assert!(matches!(failed, Error::Poisoned { .. }), "{failed}");
    drop((store, tree));
    assert_eq!(disk.writes.load(Ordering::SeqCst), writes);
}
