//! Goal: batches are atomic and snapshots consistent while everything happens at once. Method:
//! money moves between accounts in batches of two, on many threads, durable and buffered, over a
//! ring and a memtable so small that checkpoints never stop; every snapshot must find all of it,
//! and so must the next opening.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic is the report"
)]

use engine::{Batch, Durability, NewEntry, NewPart, Options, Store, Tree};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tempfile::TempDir;

const ACCOUNTS: u64 = 64;
const START: u64 = 1000;

fn key(account: u64) -> [u8; 8] {
    account.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// An account's entry: the balance as its first part, ballast behind it now and then.
fn account(balance: u64, ballast: usize) -> NewEntry {
    let entry = NewEntry::plain(balance.to_le_bytes());
    if ballast == 0 {
        return entry;
    }
    entry.part(NewPart::Bytes(vec![balance as u8; ballast]))
}

fn balance(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn total(store: &Store, tree: &Tree) -> (u64, u64) {
    let mut sum = 0;
    let mut count = 0;
    for entry in store.snapshot().range(tree, &[], None) {
        let entry = entry.unwrap();
        let held = balance(&entry.part(0).unwrap().unwrap());
        if let Some(ballast) = entry.part(1).unwrap() {
            assert!(ballast.iter().all(|&byte| byte == held as u8), "ballast");
        }
        sum += held;
        count += 1;
    }
    (count, sum)
}

#[test]
fn no_snapshot_ever_sees_half_a_transfer() {
    let program = std::env::current_exe().unwrap();
    let dir = TempDir::new_in(program.parent().unwrap()).unwrap();
    let path = dir.path().join("store");
    let options = Options {
        log_bytes: 1 << 20,
        memtable_bytes: 128 << 10,
        cache_bytes: 1 << 20,
        checkpoint_ms: 20,
        ..Options::default()
    };
    let store = Store::create(&path, &options).unwrap();
    let tree = store.create_tree(b"accounts").unwrap();
    let mut batch = Batch::new();
    for i in 0..ACCOUNTS {
        batch.put_entry(&tree, &key(i), account(START, 0));
    }
    store.commit(batch, Durability::Durable).unwrap();

    // Each thread moves money only within its own share of accounts, so it needs no read lock;
    // the snapshots look at all of them.
    let threads = 4;
    let stop = AtomicBool::new(false);
    let moved = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (store, tree, stop, moved) = (&store, &tree, &stop, &moved);
        let mut writers = Vec::new();
        for thread in 0..threads {
            writers.push(scope.spawn(move || {
                let mut seed = thread * 77 + 1;
                let mut random = move || {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed
                };
                let share = ACCOUNTS / threads;
                for round in 0..1500u64 {
                    let from = thread * share + random() % share;
                    let to = thread * share + random() % share;
                    if from == to {
                        continue;
                    }
                    let has = balance(&tree.get(&key(from)).unwrap().unwrap());
                    let had = balance(&tree.get(&key(to)).unwrap().unwrap());
                    let amount = random() % (has + 1);
                    let ballast = |n: u64| if n.is_multiple_of(5) { 3000 } else { 0 };
                    let mut batch = Batch::new();
                    batch.put_entry(tree, &key(from), account(has - amount, ballast(round)));
                    batch.put_entry(tree, &key(to), account(had + amount, ballast(round + 1)));
                    let durability = if random() % 4 == 0 {
                        Durability::Durable
                    } else {
                        Durability::Buffered
                    };
                    store.commit(batch, durability).unwrap();
                    let now = balance(&tree.get(&key(from)).unwrap().unwrap());
                    assert_eq!(now, has - amount, "a writer reads what it wrote");
                    moved.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let watcher = scope.spawn(move || {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(total(store, tree), (ACCOUNTS, ACCOUNTS * START));
                let summary = tree.fingerprint(&[], None).unwrap();
                assert_eq!(summary.count, ACCOUNTS);
                looks += 1;
            }
            looks
        });
        let fates: Vec<_> = writers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0);
        assert!(fates.iter().all(Result::is_ok));
    });
    assert!(moved.into_inner() > 0);
    assert!(store.stats().checkpoints > 3, "checkpoints ran meanwhile");
    drop(tree);
    drop(store);
    let store = Store::open(&path, &options).unwrap();
    let tree = store.tree(b"accounts").unwrap();
    assert_eq!(total(&store, &tree), (ACCOUNTS, ACCOUNTS * START));
}
