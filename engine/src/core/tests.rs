//! Goal: no space is promised twice, to batches that ask at once neither; nobody is called back under a
//! lock, and nobody waits for a thread that is gone.
//! Method: a store that may have one region is filled until there is room for one more batch and
//! not for two; the lock that a batch takes to join is held, so that whoever was promised space stands
//! before it.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

use super::*;
use crate::io::{FileDisk, places};
use crate::{Batch, Options, Store};
use dmerkle::format::record::{BatchWriter, Operation};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};

/// How long somebody may take to be refused: nobody is, if space is promised twice.
const REFUSED_MS_MAX: u64 = 3000;

/// Entries of a kind: how many, and the bytes of each value.
#[derive(Debug, Clone, Copy)]
struct Kind(u8, usize);

/// Batches that ask for bytes, for the extents of medium parts, and for leaves to be rewritten.
const KINDS: [Kind; 3] = [Kind(80, 1000), Kind(6, 16_000), Kind(6, 1)];

impl Kind {
    /// A batch, different from another `writer`'s.
    fn batch(self, store: &Store, writer: u8) -> Batch {
        let tree = store.tree(b"t").unwrap();
        let mut batch = Batch::new();
        for number in 0..self.0 {
            batch.put(&tree, &[number, writer], vec![number; self.1]);
        }
        batch
    }

    /// What stands for such a batch in the totals, or a little more.
    fn asks(self, core: &Core) -> Prepared {
        let staged = || Staged {
            tree: TreeId(1),
            key: 0..0,
            body: None,
        };
        let units = core.identity.geometry.units_for(self.1 as u64);
        let is_medium = self.1 > 1024;
        Prepared {
            record: vec![0; usize::from(self.0) * (self.1 + 32)],
            ops: (0..self.0).map(|_| staged()).collect(),
            owed_units: u64::from(is_medium) * u64::from(self.0) * units,
            ..Prepared::default()
        }
    }
}

/// A store of one region, whose leaves are many.
fn store(disk: Arc<FileDisk>) -> Store {
    let options = Options {
        log_bytes: 1 << 20,
        geometry: Geometry {
            region_units: 1024,
            regions_max: 1,
            ..Geometry::default()
        },
        ..Options::default()
    };
    Store::format_on(disk.as_ref(), &World::real(), &options).unwrap();
    let store = Store::open_on(disk, World::real(), &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    for number in 0..=255u8 {
        tree.put(&[number], &[number; 1000]).unwrap();
    }
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    store
}

fn free_units(core: &Core) -> u64 {
    core.space.usage().free_bytes / core.identity.geometry.unit()
}

/// Batches were each shown the same free units.
#[test]
fn two_batches_that_ask_at_once_are_not_promised_the_same_units() {
    for kind in KINDS {
        let place = places::on_disk();
        let disk = FileDisk::create(&place.path().join("store")).unwrap();
        let store = store(Arc::new(disk));
        let core = store.core();
        let asks = kind.asks(core);
        let (one, two) = {
            let _first = Joining::enter(&core.joining, &asks);
            let one = core.reserve_units();
            let _second = Joining::enter(&core.joining, &asks);
            (one, core.reserve_units())
        };
        let tree = store.tree(b"t").unwrap();
        let mut filled = 0u64;
        while free_units(core) >= two {
            // Much at first, and the last bit in steps that miss nothing.
            let spare = (free_units(core) - two).max(8);
            let value =
                vec![1; usize::try_from(spare / 2 * core.identity.geometry.unit()).unwrap()];
            tree.put(&[&b"fill"[..], &filled.to_le_bytes()].concat(), &value)
                .unwrap();
            store.checkpoint().unwrap();
            store.checkpoint().unwrap();
            filled += spare;
        }
        let free = free_units(core);
        assert!((one..two).contains(&free), "{kind:?}: {one}, {free}, {two}");

        let (tells, fates) = channel();
        let mut queue = Some(core.queue.lock());
        let accepted = thread::scope(|scope| {
            for writer in 0..2 {
                let (tells, store) = (tells.clone(), &store);
                scope.spawn(move || {
                    let fate = store.commit(kind.batch(store, writer), Durability::Buffered);
                    tells.send(fate).unwrap();
                });
            }
            drop(tells);
            let first = fates.recv_timeout(Duration::from_millis(REFUSED_MS_MAX));
            assert_ne!(first.as_ref().err(), Some(&RecvTimeoutError::Disconnected));
            queue.take();
            let fates: Vec<_> = first.into_iter().chain(fates.iter()).collect();
            assert_eq!(fates.len(), 2, "{kind:?}");
            for fate in &fates {
                assert!(
                    matches!(fate, Ok(_) | Err(Error::StoreFull)),
                    "{kind:?}: {fate:?}"
                );
            }
            fates.iter().filter(|fate| fate.is_ok()).count()
        });
        assert!(accepted < 2, "{kind:?}: both of which only one has room");
        // What was refused asks for nothing any more.
        if accepted == 0 {
            let alone = store.commit(kind.batch(&store, 0), Durability::Durable);
            alone.unwrap_or_else(|error| panic!("{kind:?}: there is room for one: {error}"));
        }
        store.checkpoint().unwrap();
    }
}

/// A checkpoint that led the log told a completion under its lock, and this one closed the store,
/// which takes a checkpoint.
#[test]
fn a_checkpoint_calls_nobody_back_under_its_lock() {
    let place = places::on_disk();
    let options = Options {
        log_bytes: 1 << 20,
        ..Options::default()
    };
    let store = Store::create(place.path().join("store"), &options).unwrap();
    let core = Arc::clone(store.core());
    let mut record = BatchWriter::new();
    let (tree, name) = (core.directory.new_id(), b"t");
    record.push(&Operation::CreateTree { tree, name });
    let prepared = Prepared {
        record: record.into_bytes(),
        trees: Some(TreeChange::Create {
            tree,
            name: name.to_vec(),
        }),
        ..Prepared::default()
    };
    let (ends, ended) = channel();
    let told = ends.clone();
    let last = store;
    let completion: Completion = Box::new(move |fate| {
        drop(last);
        told.send(fate.is_ok()).unwrap();
    });
    // Nobody is told that it waits, so that the checkpoint leads.
    let joined = core.join(prepared, Durability::Durable, Some(completion));
    assert!(joined.is_ok());
    let checkpoint = thread::spawn(move || {
        let done = core.checkpoint_now();
        ends.send(done.is_ok()).unwrap();
    });
    for _ in 0..2 {
        let fine = ended.recv_timeout(Duration::from_secs(20));
        assert_eq!(fine, Ok(true), "it waits for itself");
    }
    checkpoint.join().unwrap();
}

/// A file; who writes behind its log panics.
struct Trap(FileDisk);

impl Disk for Trap {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let geometry = Geometry::default();
        assert!(offset < geometry.ring_offset() + (1 << 20), "a trap");
        self.0.write(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.allocate(offset, bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.punch(offset, bytes)
    }

    fn alignment(&self) -> usize {
        self.0.alignment()
    }

    fn is_direct(&self) -> bool {
        self.0.is_direct()
    }
}

/// With the ring full every writer waited for a checkpoint, and there was nobody left to make one.
#[test]
fn writers_learn_that_the_thread_of_checkpoints_is_gone() {
    let place = places::on_disk();
    let path = place.path().join("store");
    let options = Options {
        log_bytes: 1 << 20,
        ..Options::default()
    };
    drop(Store::create(&path, &options).unwrap());
    let disk = Arc::new(Trap(FileDisk::open(&path).unwrap()));
    let store = Store::open_with_threads_on(disk, World::real(), &options).unwrap();
    let (tells, told) = channel();
    thread::spawn(move || {
        let tree = store.create_tree(b"t").unwrap();
        let refused = (0..4000_u32).find_map(|number| {
            let put = tree.put(&number.to_be_bytes(), &[7; 1000]);
            put.err()
        });
        tells.send(refused).unwrap();
    });
    let refused = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(
        matches!(refused, Some(Error::Poisoned { .. })),
        "{refused:?}"
    );
}
