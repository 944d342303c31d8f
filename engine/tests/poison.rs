//! Goal: after a failed flush nothing is acknowledged that it may have lost.
//! Method: the flush of a checkpoint fails between a commit's write and the end of that commit's own
//! flush, which says OK, as that of a device does.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

mod common;

use common::{MemoryDisk, tiny};
use engine::io::Disk;
use engine::world::World;
use engine::{Error, Store, Tree};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// A disk of which a flush can be stopped, or fail.
struct Halting {
    disk: MemoryDisk,
    /// The next flush says that it began, and goes on when it is told.
    halt: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    fails: AtomicBool,
    writes: AtomicU64,
}

impl Disk for Halting {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.disk.write(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        let halt = self.halt.lock().unwrap().take();
        if let Some((begun, go_on)) = halt {
            begun.send(()).unwrap();
            go_on.recv().unwrap();
            return Ok(());
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the device lost its cache"));
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.size()
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.disk.allocate(offset, bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.disk.punch(offset, bytes)
    }

    fn alignment(&self) -> usize {
        self.disk.alignment()
    }

    fn is_direct(&self) -> bool {
        true
    }
}

impl Halting {
    /// A store with an entry, and a checkpoint begun: what is put from here on is not its.
    fn store() -> (Arc<Self>, Store, Tree) {
        let disk = Arc::new(Self {
            disk: MemoryDisk::default(),
            halt: Mutex::default(),
            fails: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        });
        Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
        let store = Store::open_on(disk.clone(), World::real(), &tiny()).unwrap();
        let tree = store.create_tree(b"t").unwrap();
        tree.put(b"before", b"v").unwrap();
        store.step().unwrap();
        (disk, store, tree)
    }

    /// Stops the next flush: gives what tells that it began, and what lets it go on.
    fn halt(&self) -> (Receiver<()>, Sender<()>) {
        let (begun, began) = channel();
        let (go_on, goes_on) = channel();
        *self.halt.lock().unwrap() = Some((begun, goes_on));
        (began, go_on)
    }
}

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
