//! Goal: a store that verifies itself finds nothing in a sound store, whatever it is doing, and
//! names what is broken in one that is not.
//! Method: real files, rotten at places that were searched for; and a store on a disk in memory,
//! with units of 512 bytes, that is audited after every step.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]

mod common;

use common::{Chance, MemoryDisk, folder, places, rot, small, tiny, value};
use dmerkle::format::map::{decode_map, encode_map};
use dmerkle::format::region_table::{decode_region_table, encode_region_table};
use dmerkle::format::superblock::{Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use engine::world::World;
use engine::{Batch, Durability, NewEntry, NewPart, Options, Report, Store, Violation};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn assert_sound(report: &Report) {
    let named: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(report.is_sound(), "{report}: {named:#?}");
}

/// A store with two trees, parts of all sizes, and what a checkpoint has not seen.
fn full(path: &Path) -> Store {
    let store = Store::create(path, &small()).unwrap();
    let a = store.create_tree(b"a").unwrap();
    let b = store.create_tree(b"b").unwrap();
    for i in 0..600u32 {
        let size = [10, 800, 5000, 70_000][i as usize % 4];
        let key = format!("key {i:06}");
        let mut batch = Batch::new();
        batch.put(&a, key.as_bytes(), value(i, size));
        batch.put(&b, key.as_bytes(), value(i, 40));
        store.commit(batch, Durability::Buffered).unwrap();
    }
    let entry = NewEntry::with_meta(*b"meta")
        .part(NewPart::Bytes(value(1001, 3_000_000)))
        .part(NewPart::Bytes(value(1002, 1025)));
    a.put_entry(b"parts", entry, Durability::Durable).unwrap();
    store.checkpoint().unwrap();
    store
}

#[test]
fn a_sound_store_has_no_violation() {
    let (_dir, path) = folder();
    let store = full(&path);
    let report = store.verify().unwrap();
    assert_sound(&report);
    assert_eq!((report.trees, report.entries), (2, 1201));
    assert_eq!(report.extents, 302);
    assert!(report.bytes_read > 150 * 75_000 + 3_000_000);
    let a = store.tree(b"a").unwrap();
    a.put(b"newer", &value(7, 100_000)).unwrap();
    a.delete(b"key 000003").unwrap();
    store.drop_tree(b"b").unwrap();
    let report = store.verify().unwrap();
    assert_sound(&report);
    assert_eq!((report.newer, report.extents), (2, 303));
    drop((a, store));
    for _ in 0..2 {
        let store = Store::open_read_only(&path, &small()).unwrap();
        assert_sound(&store.verify().unwrap());
        drop(store);
        let store = Store::open(&path, &small()).unwrap();
        assert_sound(&store.verify().unwrap());
        store.checkpoint().unwrap();
        assert_sound(&store.verify().unwrap());
    }
}

#[test]
fn a_store_in_use_verifies_itself() {
    let (_dir, path) = folder();
    let store = full(&path);
    let tree = store.tree(b"a").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u32 {
            let (tree, done) = (tree.clone(), &done);
            scope.spawn(move || {
                let mut chance = Chance(u64::from(thread) + 1);
                while !done.load(Ordering::Relaxed) {
                    let key = format!("key {:06}", chance.below(600));
                    if chance.below(5) == 0 {
                        tree.delete(key.as_bytes()).unwrap();
                    } else {
                        let size = chance.below(20_000) as usize;
                        tree.put(key.as_bytes(), &value(chance.next(), size))
                            .unwrap();
                    }
                }
            });
        }
        // However slow the machine: until some checkpoints have come between.
        let checkpoints = store.stats().checkpoints;
        while store.stats().checkpoints < checkpoints + 3 {
            assert_sound(&store.verify().unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_damaged_part_that_was_put_anew_is_damaged_no_more() {
    let (_dir, path) = folder();
    let store = full(&path);
    let a = store.tree(b"a").unwrap();
    // Numbers 3 and 7 have parts of 70,000 bytes.
    for number in [3, 7] {
        let spoilt = places(&path, &value(number, 70_000)[5000..5100]);
        rot(&path, &spoilt);
    }
    let named = || {
        let violations = store.verify().unwrap().violations;
        let keys = violations.into_iter().map(|violation| match violation {
            Violation::Part { key, .. } => String::from_utf8(key).unwrap(),
            other => panic!("{other}"),
        });
        keys.collect::<Vec<_>>()
    };
    assert_eq!(named(), ["key 000003", "key 000007"]);
    a.put(b"key 000003", &value(3, 70_000)).unwrap();
    assert_eq!(named(), ["key 000007"]);
    // A part that is kept beside another is read for both, and named once.
    let keep = |_: Option<&engine::Entry>| {
        let mut entry = NewEntry::with_meta(*b"m");
        entry.parts = vec![NewPart::Keep(0), NewPart::Bytes(value(1, 2000))];
        Ok(engine::Decision::Put(entry))
    };
    a.update(b"key 000007", Durability::Durable, keep).unwrap();
    assert_eq!(named(), ["key 000007"]);
    a.delete(b"key 000007").unwrap();
    assert!(named().is_empty());
    store.checkpoint().unwrap();
    assert_sound(&store.verify().unwrap());
}

#[test]
fn rot_is_named_where_it_is() {
    let (_dir, path) = folder();
    let store = full(&path);
    store
        .tree(b"a")
        .unwrap()
        .put(b"newer", &value(1009, 90_000))
        .unwrap();
    let spoil = |store: &Store, places: &[u64]| {
        assert!(!places.is_empty());
        rot(&path, places);
        let report = store.verify().unwrap();
        rot(&path, places);
        assert_sound(&store.verify().unwrap());
        report.violations
    };

    let part = places(&path, &value(3, 100));
    let found = spoil(&store, &[part[0] + 65_000]);
    assert!(
        matches!(&found[..], [Violation::Part { key, .. }] if key == b"key 000003"),
        "{found:?}"
    );
    // It came through the log, which stands before the extents.
    let padding = *places(&path, &value(1002, 64)).last().unwrap();
    let found = spoil(&store, &[padding + 1025]);
    assert!(
        matches!(&found[..], [Violation::Part { key, .. }] if key == b"parts"),
        "{found:?}"
    );
    let newer = places(&path, &value(1009, 100));
    let found = spoil(&store, &[newer[0] + 89_999]);
    assert!(
        matches!(&found[..], [Violation::Part { key, .. }] if key == b"newer"),
        "{found:?}"
    );

    // The value stands in the leaf, and in the log.
    let leaf = places(&path, &value(1, 64));
    let found = spoil(&store, &leaf);
    assert!(
        matches!(&found[0], Violation::Tree(_)) && found[0].to_string().contains("checksum"),
        "{found:?}"
    );
    let unreached = |found: &Violation| matches!(found, Violation::Unreached(_));
    assert!(found[1..].iter().all(unreached), "{found:?}");

    let maps: Vec<u64> = places(&path, b"dyn-map.")
        .iter()
        .map(|at| at + 20)
        .collect();
    let found = spoil(&store, &maps);
    let map = |found: &Violation| matches!(found, Violation::Map { region: 0, .. });
    assert!(map(&found[0]), "{found:?}");
    let tables: Vec<u64> = places(&path, b"dyn-regs")
        .iter()
        .map(|at| at + 70)
        .collect();
    let found = spoil(&store, &tables);
    assert!(
        matches!(&found[..], [Violation::RegionTable(_)]),
        "{found:?}"
    );
    let found = spoil(&store, &SUPERBLOCK_OFFSETS.map(|at| at + 100));
    assert!(
        matches!(
            &found[..],
            [Violation::Superblock { .. }, Violation::Superblock { .. }]
        ),
        "{found:?}"
    );
}

/// Writes the newest generation's first map again with other bits, soundly sealed.
fn remap(path: &Path, change: impl Fn(&mut [u8])) {
    let mut bytes = std::fs::read(path).unwrap();
    let copies = SUPERBLOCK_OFFSETS.map(|at| {
        let at = usize::try_from(at).unwrap();
        Superblock::decode(&bytes[at..at + 512]).unwrap()
    });
    let (mut superblock, slot): (Superblock, Slot) =
        copies.into_iter().max_by_key(|(one, _)| one.age()).unwrap();
    let g = superblock.geometry;
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let table = at(g.region_table_offset(superblock.region_table.copy));
    let (generation, mut rows) = decode_region_table(
        &g,
        superblock.nonce,
        superblock.region_table,
        &bytes[table..],
    )
    .unwrap();
    let row = &mut rows[0];
    let map = at(g.map_offset(0, row.copy));
    let map = map..map + at(g.map_bytes());
    let (nonce, checksum) = (superblock.nonce, row.map_checksum);
    let mut bits = decode_map(&g, nonce, 0, row.generation, checksum, &bytes[map.clone()])
        .unwrap()
        .to_vec();
    let before: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
    change(&mut bits);
    let after: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
    row.map_checksum = encode_map(&g, nonce, 0, row.generation, &bits, &mut bytes[map]);
    row.free_units = row.free_units + before - after;
    let (encoded, checksum) = encode_region_table(&g, nonce, generation, &rows);
    bytes[table..table + encoded.len()].copy_from_slice(&encoded);
    superblock.region_table.checksum = checksum;
    for copy in slot.copies() {
        let at = at(SUPERBLOCK_OFFSETS[copy]);
        bytes[at..at + 512].copy_from_slice(&superblock.encode(slot));
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_map_that_says_too_much_or_too_little_is_named() {
    let (_dir, path) = folder();
    let store = full(&path);
    store.close().unwrap();
    // The region's last unit is free and its first one behind the maps is not. The file reaches
    // to its end, so that it is not taken for one that was cut off.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(
        engine::Geometry {
            ring_bytes: small().log_bytes,
            ..engine::Geometry::default()
        }
        .file_bytes(1),
    )
    .unwrap();
    remap(&path, |bits| {
        let units = usize::try_from(engine::Geometry::default().region_units).unwrap();
        bits[(units - 1) / 8] |= 1 << ((units - 1) % 8);
        let first = 2 * 8;
        assert_eq!(bits[first / 8] & 1, 1);
        bits[first / 8] &= !1;
    });
    let store = Store::open_read_only(&path, &small()).unwrap();
    let found = store.verify().unwrap().violations;
    let is = |one: &Violation, units: &str| one.to_string().contains(units);
    assert!(
        found
            .iter()
            .any(|one| matches!(one, Violation::Unmarked(run) if run.units == 1)),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|one| matches!(one, Violation::Unreached(run) if run.units == 1)),
        "{found:?}"
    );
    assert!(
        found.iter().any(|one| is(one, "region table says")),
        "{found:?}"
    );
}

#[test]
fn no_unit_is_lost_and_none_has_two_owners() {
    let seeds = std::env::var("SEEDS").map_or(12, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let options = Options { ..tiny() };
        let mut disk = Arc::new(MemoryDisk::default());
        Store::format_on(disk.as_ref(), &World::real(), &options).unwrap();
        let mut store = Store::open_on(disk.clone(), World::real(), &options).unwrap();
        store.create_tree(b"t").unwrap();
        let mut chance = Chance(seed * 77 + 5);
        for step in 0..250 {
            let tree = store.tree_or_create(b"t").unwrap();
            let key = [b'k', u8::try_from(chance.below(40)).unwrap()];
            match chance.below(12) {
                0..=4 => {
                    let size = chance.below(6000) as usize;
                    tree.put(&key, &value(chance.next(), size)).unwrap();
                }
                5 => {
                    tree.update(&key, Durability::Buffered, |old| {
                        let mut entry = NewEntry::plain(value(step, 1500));
                        if old.is_some_and(|old| old.parts_len() > 0) {
                            entry = entry.part(NewPart::Keep(0));
                        }
                        Ok(engine::Decision::Put(entry))
                    })
                    .unwrap();
                }
                6 => drop(tree.delete(&key).unwrap()),
                7 => drop(store.step().unwrap()),
                8 => drop(store.checkpoint().unwrap()),
                9 if chance.below(6) == 0 => store.drop_tree(b"t").unwrap(),
                10 => drop(store.punch_some(4096).unwrap()),
                11 if chance.below(4) == 0 => {
                    disk = disk.copy();
                    let killed = Store::open_on(disk.clone(), World::real(), &options).unwrap();
                    drop((tree, store));
                    store = killed;
                }
                _ => drop(tree.get(&key).unwrap()),
            }
            let report = store.audit().unwrap();
            let named: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
            assert!(report.is_sound(), "seed {seed}, step {step}: {named:#?}");
        }
    }
}
