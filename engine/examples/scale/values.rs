//! Large values, more and more bytes of them: regions, maps, and what of them stands in memory.

use crate::{Figures, device_bytes, held, mix, options, resident, settle, to_f64, to_u64};
use engine::{Durability, NewEntry, Store, Tree};
use std::path::Path;
use std::time::Instant;

/// The mean of what the Powerset cluster held.
const VALUE_BYTES: usize = 139 << 10;

/// Values that one checkpoint replaces.
const CHANGES: u64 = 100;

pub(crate) fn run(path: &Path, megabytes: &[f64], say: &mut impl FnMut(&Figures)) {
    if megabytes.is_empty() {
        return;
    }
    let before = resident();
    let store = Store::create(path, &options()).expect("a new store");
    store.create_tree(b"values").expect("a new tree");
    store.close().expect("closed");
    let mut count = 0;
    for megabytes in megabytes {
        let mut figures = Figures::default();
        let bytes = to_u64(megabytes * 1e6);
        figures.push("value_bytes", to_f64(bytes));
        let wanted = bytes / VALUE_BYTES as u64;
        load(path, count..wanted, &mut figures);
        count = wanted;
        measure(path, count, before, &mut figures);
        say(&figures);
    }
    std::fs::remove_file(path).expect("it is there");
}

fn open(path: &Path) -> (Store, Tree) {
    let store = Store::open(path, &options()).expect("opened");
    let tree = store.tree(b"values").expect("the tree");
    (store, tree)
}

fn put(tree: &Tree, number: u64, version: u64) {
    let mut value = vec![0; VALUE_BYTES];
    for (at, word) in (0u64..).zip(value.chunks_mut(8)) {
        word.copy_from_slice(&mix(number ^ version << 40 ^ at << 48).to_le_bytes()[..word.len()]);
    }
    let key = mix(number).to_be_bytes();
    tree.put_entry(&key, NewEntry::plain(value), Durability::Buffered)
        .expect("put");
}

fn load(path: &Path, numbers: std::ops::Range<u64>, figures: &mut Figures) {
    let (store, tree) = open(path);
    let count = numbers.end - numbers.start;
    let begin = Instant::now();
    numbers.for_each(|number| put(&tree, number, 0));
    store.flush().expect("flushed");
    let rate = to_f64(count * VALUE_BYTES as u64) / 1e6 / begin.elapsed().as_secs_f64();
    figures.push("load_mb_per_s", rate);
    settle(&store);
    drop(tree);
    store.close().expect("closed");
}

fn measure(path: &Path, count: u64, before: u64, figures: &mut Figures) {
    let begin = Instant::now();
    let (store, tree) = open(path);
    figures.push("open_ms", begin.elapsed().as_secs_f64() * 1e3);
    let live = count * (VALUE_BYTES as u64 + 8);
    figures.push("held_over_live", to_f64(held(&store, path)) / to_f64(live));
    figures.push("file_bytes", to_f64(store.stats().file_bytes));
    for draw in 0..CHANGES {
        put(&tree, mix(draw) % count, 1);
    }
    store.flush().expect("flushed");
    let device = device_bytes();
    let begin = Instant::now();
    store.checkpoint().expect("a checkpoint");
    figures.push("checkpoint_ms", begin.elapsed().as_secs_f64() * 1e3);
    figures.push("checkpoint_bytes", to_f64(device_bytes() - device));
    figures.push("resident_mib", to_f64(resident() - before) / 1_048_576.0);
    let begin = Instant::now();
    assert!(store.verify().expect("read").is_sound());
    figures.push("verify_s", begin.elapsed().as_secs_f64());
    drop(tree);
    store.close().expect("closed");
}
