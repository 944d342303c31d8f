//! Many keys at once, and two trees side by side, as single gets and a scan would show them.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

mod common;

use common::{Chance, MemoryDisk, tiny};
use engine::world::World;
use engine::{Batch, Difference, Durability, EntryRef, Options, Store, Tree};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use tempfile::TempDir;

fn store(cache_bytes: u64) -> (TempDir, Store, Tree) {
    let program = std::env::current_exe().unwrap();
    let dir = TempDir::new_in(program.parent().unwrap()).unwrap();
    let options = Options {
        log_bytes: 16 << 20,
        cache_bytes,
        ..Options::default()
    };
    let store = Store::create(dir.path().join("store"), &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    (dir, store, tree)
}

fn key(number: u32) -> [u8; 4] {
    number.wrapping_mul(2_654_435_761).to_be_bytes()
}

fn put(store: &Store, tree: &Tree, numbers: impl IntoIterator<Item = u32>, word: &str) {
    let mut batch = Batch::new();
    for number in numbers {
        batch.put(tree, &key(number), format!("{word} {number}").into_bytes());
    }
    store.commit(batch, Durability::Buffered).unwrap();
}

#[test]
fn get_many_answers_what_single_gets_do_from_memtable_cache_and_disk() {
    // A cache of a few nodes: most of them come from the disk, some in the same call again.
    for cache_bytes in [64 << 10, 64 << 20] {
        let (_dir, store, tree) = store(cache_bytes);
        put(&store, &tree, 0..20_000, "base");
        store.checkpoint().unwrap();
        put(&store, &tree, (0..20_000).step_by(7), "newer");
        let mut batch = Batch::new();
        for number in (0..20_000).step_by(11) {
            batch.delete(&tree, &key(number));
        }
        store.commit(batch, Durability::Buffered).unwrap();
        let wanted: Vec<[u8; 4]> = (0..30_000).step_by(3).chain([9, 9, 0]).map(key).collect();
        let wanted: Vec<&[u8]> = wanted.iter().map(|key| &key[..]).collect();
        let singly: Vec<_> = wanted.iter().map(|key| tree.get(key).unwrap()).collect();
        assert!(singly.iter().any(Option::is_none) && singly.iter().any(Option::is_some));
        assert_eq!(tree.get_many(&wanted).unwrap(), singly);
        let in_place = |entry: EntryRef<'_>| entry.value().unwrap().unwrap().into_owned();
        let read = wanted.iter().map(|key| tree.read(key, in_place).unwrap());
        assert_eq!(read.collect::<Vec<_>>(), singly);
        let snapshot = store.snapshot();
        tree.delete_range(&[], None).unwrap();
        assert_eq!(snapshot.get_many(&tree, &wanted).unwrap(), singly);
        for (key, value) in wanted.iter().zip(&singly) {
            assert_eq!(snapshot.get(&tree, key).unwrap(), *value);
            assert_eq!(snapshot.read(&tree, key, in_place).unwrap(), *value);
        }
        let deleted = 20_000_u64.div_ceil(11);
        assert_eq!(snapshot.count(&tree).unwrap(), 20_000 - deleted);
        assert!(tree.get_many(&wanted).unwrap().iter().all(Option::is_none));
        assert_eq!(tree.get_many(&[]).unwrap(), Vec::<Option<Vec<u8>>>::new());
    }
}

#[test]
fn a_visit_shows_what_a_range_walks_wherever_the_entries_are() {
    let (_dir, store, tree) = store(64 << 20);
    put(&store, &tree, 0..3000, "base");
    tree.put(&key(77), &[7; 5000]).unwrap();
    store.checkpoint().unwrap();
    put(&store, &tree, (0..3300).step_by(13), "newer");
    let mut batch = Batch::new();
    for number in (0..3300).step_by(17) {
        batch.delete(&tree, &key(number));
    }
    store.commit(batch, Durability::Buffered).unwrap();
    let snapshot = store.snapshot();
    put(&store, &tree, 0..500, "too new");
    let bounds: Vec<Option<[u8; 4]>> = (0..40).map(|n| Some(key(n * 97))).chain([None]).collect();
    for low in bounds.iter().map(|low| low.unwrap_or_default()) {
        for high in bounds
            .iter()
            .map(|high| high.as_ref().map(|high| &high[..]))
        {
            let walked: Vec<_> = snapshot
                .range(&tree, &low, high)
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.key().to_vec(), entry.part(0).unwrap().unwrap()))
                .collect();
            let (mut visited, mut left) = (Vec::new(), walked.len() / 2);
            let show = |entry: EntryRef<'_>| {
                let value = entry.value().unwrap().unwrap().into_owned();
                assert_eq!(entry.to_entry().key(), entry.key());
                visited.push((entry.key().to_vec(), value));
                ControlFlow::Continue(())
            };
            snapshot.visit(&tree, &low, high, show).unwrap();
            assert_eq!(visited, walked, "from {low:?} to {high:?}");
            // Who has seen enough is shown no more.
            let mut shown = 0;
            let show = |_: EntryRef<'_>| {
                shown += 1;
                left = left.saturating_sub(1);
                if left == 0 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            snapshot.visit(&tree, &low, high, show).unwrap();
            assert_eq!(shown, walked.len().min((walked.len() / 2).max(1)));
        }
    }
}

#[test]
fn the_diff_of_two_snapshots_is_what_changed_between_them() {
    let (_dir, store, tree) = store(64 << 20);
    put(&store, &tree, 0..10_000, "old");
    store.checkpoint().unwrap();
    let before = store.snapshot();
    put(&store, &tree, (0..10_000).step_by(97), "new");
    put(&store, &tree, 10_000..10_050, "added");
    tree.delete(&key(5)).unwrap();
    for in_base in [false, true] {
        if in_base {
            store.checkpoint().unwrap();
        }
        let after = store.snapshot();
        let mut found = BTreeMap::new();
        let visit = |difference: Difference| {
            let sides = (difference.mine.is_some(), difference.theirs.is_some());
            assert_eq!(found.insert(difference.key, sides), None, "told once");
        };
        before.diff(&tree, &after, &tree, visit).unwrap();
        let changed = (0..10_000).step_by(97).map(|number| (number, (true, true)));
        let added = (10_000..10_050).map(|number| (number, (false, true)));
        let expected: BTreeMap<_, _> = changed
            .chain(added)
            .chain([(5, (true, false))])
            .map(|(number, sides)| (key(number).to_vec(), sides))
            .collect();
        assert_eq!(found, expected);
        let mut none = 0;
        after.diff(&tree, &after, &tree, |_| none += 1).unwrap();
        assert_eq!(none, 0);
    }
}

/// Random operations, checkpoints that stand still between two steps, and snapshots of before.
#[test]
fn what_a_base_and_two_memtables_hold_is_shown_as_a_map_would() {
    type Model = BTreeMap<Vec<u8>, Vec<u8>>;
    for seed in 0..60 {
        let mut chance = Chance(seed);
        let disk = Arc::new(MemoryDisk::default());
        let options = Options {
            memtable_bytes: 1 << 20,
            ..tiny()
        };
        Store::format_on(disk.as_ref(), &World::real(), &options).unwrap();
        let store = Store::open_on(disk, World::real(), &options).unwrap();
        let tree = store.create_tree(b"t").unwrap();
        // Neighbours, so that a key too many or too few would show.
        store.create_tree(b"u").unwrap().put(b"", b"u").unwrap();
        let draw = |chance: &mut Chance| {
            let length = chance.below(4) as usize;
            let mut key = || b"abcd"[chance.below(4) as usize];
            (0..length).map(|_| key()).collect::<Vec<u8>>()
        };
        let mut model = Model::new();
        let mut seen = Vec::new();
        for _ in 0..150 {
            let key = draw(&mut chance);
            match chance.below(10) {
                0..6 => {
                    let long = chance.below(20) == 0;
                    let size = if long { 1500 } else { chance.below(90) };
                    let value = common::value(chance.next(), size as usize);
                    tree.put(&key, &value).unwrap();
                    model.insert(key, value);
                }
                6 | 7 => {
                    tree.delete(&key).unwrap();
                    model.remove(&key);
                }
                8 => drop(store.step().unwrap()),
                _ => seen.push((store.snapshot(), model.clone())),
            }
            if chance.below(40) == 0 {
                store.checkpoint().unwrap();
            }
        }
        seen.push((store.snapshot(), model));
        for (snapshot, model) in &seen {
            for _ in 0..8 {
                let (low, high) = (draw(&mut chance), draw(&mut chance));
                let high = (chance.below(4) > 0).then_some(high);
                let inside =
                    |key: &[u8]| key >= &low[..] && high.as_deref().is_none_or(|h| key < h);
                let mut visited = Vec::new();
                let show = |entry: EntryRef<'_>| {
                    let value = entry.value().unwrap().unwrap().into_owned();
                    visited.push((entry.key().to_vec(), value));
                    ControlFlow::Continue(())
                };
                snapshot.visit(&tree, &low, high.as_deref(), show).unwrap();
                let expected = model.iter().filter(|(key, _)| inside(key));
                let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
                assert_eq!(visited, expected, "seed {seed}, {low:?} to {high:?}");
                let wanted: Vec<Vec<u8>> = (0..10).map(|_| draw(&mut chance)).collect();
                let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
                let got = snapshot.get_many(&tree, &wanted).unwrap();
                let values: Vec<_> = wanted.iter().map(|key| model.get(*key).cloned()).collect();
                assert_eq!(got, values, "seed {seed}");
            }
        }
        let (first, last) = (&seen[0], &seen[seen.len() - 1]);
        let mut found = Vec::new();
        let visit = |difference: Difference| found.push(difference.key);
        first.0.diff(&tree, &last.0, &tree, visit).unwrap();
        let keys = first.1.keys().chain(last.1.keys());
        let mut differ: Vec<_> = keys
            .filter(|k| first.1.get(*k) != last.1.get(*k))
            .cloned()
            .collect();
        differ.sort();
        differ.dedup();
        found.sort();
        assert_eq!(found, differ, "seed {seed}");
    }
}
