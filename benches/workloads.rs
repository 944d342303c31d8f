//! What is measured.

use crate::limits::{self, Kind};
use crate::{Folder, LARGE, Numbers, Pair, Runner, SMALL, Workload, key};
use engine::{Batch, Durability, Options, Store, Tree};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Small values that are read from, and large ones: they stay in memory.
const SMALL_COUNT: u64 = 200_000;
const LARGE_COUNT: u64 = 2000;

/// Large values that are written and removed to make space that was written before.
const TURNED_COUNT: u64 = 4000;

/// Everything that is measured.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "put 150 B, durable, 1 writer",
        limit_name: "4 KiB O_DIRECT write, fdatasync",
        bytes: SMALL as u64,
        aim: Some(0.7),
        make: |folder| put_small(folder, 1),
    },
    Workload {
        name: "put 150 B, durable, 8 writers",
        limit_name: "4 KiB O_DIRECT write, fdatasync",
        bytes: SMALL as u64,
        aim: None,
        make: |folder| put_small(folder, 8),
    },
    Workload {
        name: "put 150 B, durable, 32 writers",
        limit_name: "4 KiB O_DIRECT write, fdatasync",
        bytes: SMALL as u64,
        aim: None,
        make: |folder| put_small(folder, 32),
    },
    Workload {
        name: "put 140 KiB, durable, reserved space",
        limit_name: "140 KiB O_DIRECT write, fdatasync",
        bytes: LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: put_large(folder, 1, Kind::Reserved),
            limit: limits::durable_write(folder, LARGE, Kind::Reserved),
        },
    },
    Workload {
        name: "put 140 KiB, durable, written space",
        limit_name: "140 KiB O_DIRECT write, fdatasync",
        bytes: LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: put_large(folder, 1, Kind::Written),
            limit: limits::durable_write(folder, LARGE, Kind::Written),
        },
    },
    Workload {
        name: "put 16 x 140 KiB in a batch, reserved space",
        limit_name: "2.2 MiB O_DIRECT write, fdatasync",
        bytes: 16 * LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: put_large_batch(folder, Kind::Reserved),
            limit: limits::durable_write(folder, 16 * LARGE, Kind::Reserved),
        },
    },
    Workload {
        name: "put 16 x 140 KiB in a batch, written space",
        limit_name: "2.2 MiB O_DIRECT write, fdatasync",
        bytes: 16 * LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: put_large_batch(folder, Kind::Written),
            limit: limits::durable_write(folder, 16 * LARGE, Kind::Written),
        },
    },
    Workload {
        name: "put 140 KiB, durable, 16 writers, written space",
        limit_name: "140 KiB O_DIRECT write, fdatasync",
        bytes: LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: put_large(folder, 16, Kind::Written),
            limit: limits::durable_write(folder, LARGE, Kind::Written),
        },
    },
    Workload {
        name: "get 150 B, warm",
        limit_name: "copy at random",
        bytes: SMALL as u64,
        aim: None,
        make: |folder| Pair {
            store: get(folder, SMALL, SMALL_COUNT),
            limit: limits::copy(SMALL, SMALL_COUNT),
        },
    },
    Workload {
        name: "get 140 KiB, warm",
        limit_name: "copy at random",
        bytes: LARGE as u64,
        aim: None,
        make: |folder| Pair {
            store: get(folder, LARGE, LARGE_COUNT),
            limit: limits::copy(LARGE, LARGE_COUNT),
        },
    },
    Workload {
        name: "get 140 KiB, warm",
        limit_name: "pread from the page cache",
        bytes: LARGE as u64,
        aim: None,
        make: |folder| Pair {
            store: get(folder, LARGE, LARGE_COUNT),
            limit: limits::cached_read(folder, LARGE, LARGE_COUNT),
        },
    },
    Workload {
        name: "get_ref 140 KiB, warm, compared",
        limit_name: "compare mapped bytes",
        bytes: LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: get_ref(folder, LARGE, LARGE_COUNT, 1),
            limit: limits::mapped_compare(folder, LARGE, LARGE_COUNT, 1),
        },
    },
    Workload {
        name: "get_ref 140 KiB, warm, compared, 2 readers",
        limit_name: "compare mapped bytes, 2 readers",
        bytes: LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: get_ref(folder, LARGE, LARGE_COUNT, 2),
            limit: limits::mapped_compare(folder, LARGE, LARGE_COUNT, 2),
        },
    },
    Workload {
        name: "put 150 B, durable, then get it",
        limit_name: "4 KiB O_DIRECT write, fdatasync, pread",
        bytes: SMALL as u64,
        aim: None,
        make: |folder| Pair {
            store: put_then_get(folder, SMALL, Kind::Reserved),
            limit: limits::durable_write_and_read(folder, SMALL, Kind::Written),
        },
    },
    Workload {
        name: "put 140 KiB, durable, then get it, written space",
        limit_name: "O_DIRECT write, fdatasync, pread",
        bytes: LARGE as u64,
        aim: Some(0.8),
        make: |folder| Pair {
            store: put_then_get(folder, LARGE, Kind::Written),
            limit: limits::durable_write_and_read(folder, LARGE, Kind::Written),
        },
    },
];

/// A store with one tree. The log is the node's; space is kept for the workloads that want it
/// written.
fn store(folder: &Folder, kind: Kind) -> (Store, Tree) {
    let options = Options {
        log_bytes: 256 << 20,
        cache_bytes: 1 << 30,
        punch: false,
        ..Options::default()
    };
    let store = Store::create(folder.file("store"), &options).expect("a new store");
    let tree = store.create_tree(b"bench").expect("a new tree");
    if kind == Kind::Written {
        let value = Numbers::new(5).bytes(LARGE);
        for number in 0..TURNED_COUNT {
            let mut batch = Batch::new();
            batch.put(&tree, &key(number), &*value);
            store.commit(batch, Durability::Buffered).expect("put");
        }
        store.checkpoint().expect("a checkpoint");
        tree.delete_range(&[], None).expect("removed");
        // What the first one retires, the second one's stamp releases.
        store.checkpoint().expect("a checkpoint");
        store.checkpoint().expect("a checkpoint");
    }
    (store, tree)
}

fn put_small(folder: &Folder, writers: u64) -> Pair {
    Pair {
        store: writes(folder, writers, SMALL, u64::MAX, Kind::Reserved),
        limit: limits::durable_write(folder, SMALL, Kind::Written),
    }
}

fn put_large(folder: &Folder, writers: u64, kind: Kind) -> Runner {
    let among = match kind {
        Kind::Reserved => u64::MAX,
        // Replacing lets go of as much as it takes, some checkpoints later.
        Kind::Written => TURNED_COUNT / 8,
    };
    writes(folder, writers, LARGE, among, kind)
}

/// Durable puts of keys numbered up to `among`, round and round.
fn writes(folder: &Folder, writers: u64, bytes: usize, among: u64, kind: Kind) -> Runner {
    let (store, tree) = store(folder, kind);
    let next = Arc::new(AtomicU64::new(0));
    Box::new(move |count| {
        let _open = &store;
        let begin = Instant::now();
        if writers == 1 {
            put_some(&tree, &next, count, bytes, among);
            return begin.elapsed();
        }
        thread::scope(|scope| {
            for _ in 0..writers {
                scope.spawn(|| put_some(&tree, &next, count.div_ceil(writers), bytes, among));
            }
        });
        begin.elapsed()
    })
}

fn put_some(tree: &Tree, next: &AtomicU64, count: u64, bytes: usize, among: u64) {
    let mut value = Numbers::new(6).bytes(bytes);
    for _ in 0..count {
        let number = next.fetch_add(1, Ordering::Relaxed);
        value[..8].copy_from_slice(&number.to_le_bytes());
        tree.put(&key(number % among), &value).expect("put");
    }
}

fn put_large_batch(folder: &Folder, kind: Kind) -> Runner {
    let (store, tree) = store(folder, kind);
    let value = Numbers::new(6).bytes(LARGE);
    let among = if kind == Kind::Written {
        TURNED_COUNT / 8
    } else {
        u64::MAX
    };
    let mut next = 0;
    Box::new(move |count| {
        let begin = Instant::now();
        for _ in 0..count {
            let mut batch = Batch::new();
            for _ in 0..16 {
                batch.put(&tree, &key(next % among), &*value);
                next += 1;
            }
            store.commit(batch, Durability::Durable).expect("committed");
        }
        begin.elapsed()
    })
}

fn get(folder: &Folder, bytes: usize, among: u64) -> Runner {
    let (store, tree) = store(folder, Kind::Reserved);
    let mut numbers = Numbers::new(7);
    let mut next = 0;
    while next < among {
        let mut batch = Batch::new();
        for number in next..(next + 64).min(among) {
            batch.put(&tree, &key(number), numbers.bytes(bytes));
        }
        next += 64;
        store.commit(batch, Durability::Buffered).expect("put");
    }
    store.checkpoint().expect("a checkpoint");
    for number in 0..among {
        black_box(tree.get(&key(number)).expect("read"));
    }
    Box::new(move |count| {
        let _open = &store;
        let begin = Instant::now();
        for _ in 0..count {
            let value = tree.get(&key(numbers.below(among))).expect("read");
            assert_eq!(value.map(|value| value.len()), Some(bytes));
        }
        begin.elapsed()
    })
}

/// Reads without a copy; every byte is compared, as a user would at least look at it.
fn get_ref(folder: &Folder, bytes: usize, among: u64, readers: u64) -> Runner {
    let (store, tree) = store(folder, Kind::Reserved);
    let value = Numbers::new(4).bytes(bytes);
    for number in 0..among {
        let mut batch = Batch::new();
        batch.put(&tree, &key(number), &*value);
        store.commit(batch, Durability::Buffered).expect("put");
    }
    store.checkpoint().expect("a checkpoint");
    let read = move |number| {
        let shown = tree.get_ref(&key(number)).expect("read");
        assert!(*shown.expect("it was put") == *value, "other bytes");
    };
    (0..among).for_each(&read);
    Box::new(move |count| {
        let _open = &store;
        limits::by_readers(readers, count, among, &read)
    })
}

fn put_then_get(folder: &Folder, bytes: usize, kind: Kind) -> Runner {
    let (store, tree) = store(folder, kind);
    let value = Numbers::new(6).bytes(bytes);
    let among = if kind == Kind::Written {
        TURNED_COUNT / 8
    } else {
        u64::MAX
    };
    let mut next = 0;
    Box::new(move |count| {
        let _open = &store;
        let begin = Instant::now();
        for _ in 0..count {
            let key = key(next % among);
            next += 1;
            tree.put(&key, &value).expect("put");
            let back = tree.get(&key).expect("read");
            assert_eq!(back.map(|value| value.len()), Some(bytes));
        }
        begin.elapsed()
    })
}
