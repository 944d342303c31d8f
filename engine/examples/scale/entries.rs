//! Small entries, more and more of them.

use crate::{
    Figures, device_bytes, held, mix, options, processor_ms, resident, settle, to_f64, to_u64,
};
use dmerkle::diff::{self, KeyRange, Limits};
use engine::{Batch, Durability, Snapshot, Store, Tree};
use std::path::Path;
use std::time::Instant;

const VALUE_BYTES: usize = 48;
const KEY_BYTES: usize = 20;

/// Changes of one checkpoint, and those in the log of a killed store.
const CHANGES: u64 = 10_000;
const LOGGED: u64 = 150_000;

/// Keys that are read again and again: their leaves fit into the cache.
const HOT: u64 = 4000;

/// Keys that are there: per load its number of keys.
struct Keys(Vec<u64>);

impl Keys {
    fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Key `at` of a load: they ascend, evenly apart, between those of all others.
    fn key(&self, load: usize, at: u64) -> [u8; KEY_BYTES] {
        let step = u64::MAX / self.0[load];
        let place = at * step + mix(at ^ (load as u64) << 48) % step;
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(&place.to_be_bytes());
        key[8..16].copy_from_slice(&mix(place).to_be_bytes());
        key
    }

    /// One of all keys, with other draws for each number of them: a key that an earlier size has
    /// changed would be given the value that it has.
    fn any(&self, draw: u64) -> [u8; KEY_BYTES] {
        let mut at = mix(mix(self.count()) ^ draw) % self.count();
        for (load, count) in self.0.iter().enumerate() {
            if at < *count {
                return self.key(load, at);
            }
            at -= count;
        }
        unreachable!("it is below the sum")
    }
}

fn value(draw: u64) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    for (at, word) in (0u64..).zip(value.chunks_mut(8)) {
        word.copy_from_slice(&mix(draw ^ (at << 56)).to_le_bytes());
    }
    value
}

pub(crate) fn run(path: &Path, millions: &[f64], say: &mut impl FnMut(&Figures)) {
    if millions.is_empty() {
        return;
    }
    let before = resident();
    let mut keys = Keys(Vec::new());
    let store = Store::create(path, &options()).expect("a new store");
    store.create_tree(b"entries").expect("a new tree");
    store.close().expect("closed");
    for millions in millions {
        let mut figures = Figures::default();
        let wanted = to_u64(millions * 1e6);
        let count = wanted - keys.count();
        keys.0.push(count);
        figures.push("entries", to_f64(wanted));
        load(path, &keys, &mut figures);
        read(path, &keys, before, &mut figures);
        change(path, &keys, &mut figures);
        kill(path, &keys, &mut figures);
        compare(path, &keys, &mut figures);
        say(&figures);
    }
}

fn open(path: &Path) -> (Store, Tree) {
    let store = Store::open(path, &options()).expect("opened");
    let tree = store.tree(b"entries").expect("the tree");
    (store, tree)
}

fn load(path: &Path, keys: &Keys, figures: &mut Figures) {
    let (store, tree) = open(path);
    let load = keys.0.len() - 1;
    let count = keys.0[load];
    let begin = Instant::now();
    let mut at = 0;
    while at < count {
        let mut batch = Batch::new();
        for _ in 0..1000.min(count - at) {
            batch.put(&tree, &keys.key(load, at), value(at));
            at += 1;
        }
        store
            .commit(batch, Durability::Buffered)
            .expect("committed");
    }
    store.flush().expect("flushed");
    let rate = to_f64(count) / begin.elapsed().as_secs_f64();
    figures.push("load_per_s", rate);
    settle(&store);
    let live = keys.count() * (KEY_BYTES + VALUE_BYTES) as u64;
    let over = to_f64(held(&store, path)) / to_f64(live);
    figures.push("held_over_live", over);
    let begin = Instant::now();
    let report = store.verify().expect("read");
    assert!(report.is_sound(), "{report:?}");
    figures.push("verify_s", begin.elapsed().as_secs_f64());
    store.close().expect("closed");
}

fn read(path: &Path, keys: &Keys, before: u64, figures: &mut Figures) {
    let begin = Instant::now();
    let (store, tree) = open(path);
    figures.push("open_ms", begin.elapsed().as_secs_f64() * 1e3);
    let misses = || store.stats().cache_misses;
    let get = |draw: u64| {
        assert!(tree.get(&keys.any(draw)).expect("read").is_some());
    };
    let first = misses();
    get(u64::MAX);
    figures.push("depth", to_f64(misses() - first));
    // Inner nodes first; then what is read is a leaf and seldom more.
    (0..1000).for_each(get);
    let (begin, from) = (Instant::now(), misses());
    (1000..3000).for_each(get);
    figures.push("get_cold_us", begin.elapsed().as_secs_f64() * 1e6 / 2e3);
    figures.push("get_cold_reads", to_f64(misses() - from) / 2e3);
    for _ in 0..5 {
        (0..HOT).for_each(get);
    }
    let (begin, from) = (Instant::now(), misses());
    for _ in 0..50 {
        (0..HOT).for_each(get);
    }
    let gets = to_f64(50 * HOT);
    figures.push("get_hot_us", begin.elapsed().as_secs_f64() * 1e6 / gets);
    figures.push("get_hot_reads", to_f64(misses() - from) / gets);
    // As much as the cache takes.
    (0..100_000).for_each(get);
    figures.push("resident_mib", to_f64(resident() - before) / 1_048_576.0);
    figures.push("cache_mib", to_f64(store.stats().cache_bytes) / 1_048_576.0);
    store.close().expect("closed");
}

fn overwrite(store: &Store, tree: &Tree, keys: &Keys, draws: std::ops::Range<u64>) {
    let draws: Vec<_> = draws.collect();
    for group in draws.chunks(1000) {
        let mut batch = Batch::new();
        for draw in group {
            batch.put(tree, &keys.any(*draw), value(*draw));
        }
        store
            .commit(batch, Durability::Buffered)
            .expect("committed");
    }
}

fn change(path: &Path, keys: &Keys, figures: &mut Figures) {
    let (store, tree) = open(path);
    let from = 1 << 40;
    overwrite(&store, &tree, keys, from..from + CHANGES);
    store.flush().expect("flushed");
    let (nodes, device) = (store.stats().node_written_bytes, device_bytes());
    let begin = Instant::now();
    store.checkpoint().expect("a checkpoint");
    figures.push("checkpoint_ms", begin.elapsed().as_secs_f64() * 1e3);
    let nodes = store.stats().node_written_bytes - nodes;
    figures.push("checkpoint_node_bytes", to_f64(nodes));
    figures.push("checkpoint_bytes", to_f64(device_bytes() - device));
    store.close().expect("closed");
}

fn kill(path: &Path, keys: &Keys, figures: &mut Figures) {
    let (store, tree) = open(path);
    let from = 1 << 41;
    overwrite(&store, &tree, keys, from..from + LOGGED);
    store.flush().expect("flushed");
    figures.push(
        "log_mib",
        to_f64(store.stats().log_used_bytes) / 1_048_576.0,
    );
    store.abandon();
    drop(tree);
    drop(store);
    let begin = Instant::now();
    let (store, tree) = open(path);
    assert!(tree.get(&keys.any(from)).expect("read").is_some());
    figures.push("reopen_ms", begin.elapsed().as_secs_f64() * 1e3);
    let nodes = store.stats().node_written_bytes;
    let begin = Instant::now();
    store.checkpoint().expect("a checkpoint");
    figures.push("checkpoint_many_ms", begin.elapsed().as_secs_f64() * 1e3);
    let nodes = store.stats().node_written_bytes - nodes;
    figures.push("checkpoint_many_node_bytes", to_f64(nodes));
    drop(tree);
    store.close().expect("closed");
}

fn compare(path: &Path, keys: &Keys, figures: &mut Figures) {
    let (store, tree) = open(path);
    let old = store.snapshot();
    let from = 1 << 42;
    overwrite(&store, &tree, keys, from..from + 100);
    store.checkpoint().expect("a checkpoint");
    let new = store.snapshot();
    let begin = Instant::now();
    diff_of(&old, &new, &tree);
    figures.push("diff_cold_ms", begin.elapsed().as_secs_f64() * 1e3);
    let spent = processor_ms();
    let (bytes, messages) = diff_of(&old, &new, &tree);
    // Both sides ran in this thread.
    figures.push("diff_cpu_ms", (processor_ms() - spent) / 2.0);
    figures.push("diff_bytes", to_f64(bytes));
    figures.push("diff_messages", to_f64(messages));
    drop((old, new));
    drop(tree);
    store.close().expect("closed");
}

/// Bytes both ways, and messages.
fn diff_of(old: &Snapshot, new: &Snapshot, tree: &Tree) -> (u64, u64) {
    let (mut mine, mut theirs) = (old.contents(tree), new.contents(tree));
    let mut session = diff::Session::new(KeyRange::default(), Limits::default());
    let (mut bytes, mut messages, mut found) = (0, 0, 0);
    let answer = |frame: Vec<u8>| {
        let answer = diff::respond(&mut theirs, &frame)?;
        bytes += (frame.len() + answer.len()) as u64;
        messages += 2;
        Ok(answer)
    };
    diff::run(&mut session, &mut mine, answer, |_| found += 1).expect("compared");
    assert_eq!(found, 100, "every difference is found, and no other");
    (bytes, messages)
}
