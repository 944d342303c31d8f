use super::*;
use dmerkle::format::body::BodyBuilder;
use std::collections::BTreeMap;

fn body(text: &[u8]) -> Vec<u8> {
    let mut body = BodyBuilder::new(b"");
    body.inline(text);
    body.finish()
}

fn put(body: &[u8]) -> OpRef<'_> {
    OpRef::Put(BodyRef::trusted(body))
}

fn key(key: &[u8]) -> Key<'_> {
    Key::new(TreeId(1), key)
}

fn insert(table: &Memtable, lsn: u64, visible: u64, snapshots: &[u64]) {
    let body = body(&lsn.to_le_bytes());
    table.insert(
        std::iter::once((key(b"k"), put(&body))),
        Lsn(lsn),
        Lsn(visible),
        &|from, to| snapshots.iter().any(|&s| (from.0..to.0).contains(&s)),
        &Geometry::tiny(),
    );
}

fn versions(table: &Memtable) -> usize {
    table.places().map(|at| table.versions(at).count()).sum()
}

#[test]
fn a_reader_finds_the_newest_version_at_its_lsn() {
    let table = Memtable::new(1 << 20);
    for lsn in [10, 20, 30] {
        insert(&table, lsn, 0, &[]);
    }
    let before = table.probe(key(b"k"), Lsn(9));
    assert!(before.found.is_none() && before.too_new);
    let between = table.probe(key(b"k"), Lsn(25));
    let Some(OpRef::Put(found)) = between.found else {
        panic!("the version of LSN 20 is there");
    };
    assert_eq!(found.as_bytes(), body(&20_u64.to_le_bytes()));
    let other = table.probe(Key::new(TreeId(2), b"k"), Lsn(99));
    assert!(other.found.is_none() && !other.too_new);
}

/// What finds the keys of a memtable takes so many bytes.
fn table_bytes(table: &Memtable) -> u64 {
    table.bytes() - table.data_bytes()
}

#[test]
fn a_memtable_has_room_for_as_many_keys_as_the_one_before_it() {
    let keys: u64 = if cfg!(miri) { 100 } else { 3000 };
    let fill = |table: &Memtable| {
        let names: Vec<_> = (0..keys).map(u64::to_be_bytes).collect();
        let bodies: Vec<_> = (0..keys).map(|n| body(&n.to_le_bytes())).collect();
        let ops = names
            .iter()
            .zip(&bodies)
            .map(|(name, body)| (key(name), put(body)));
        table.insert(ops, Lsn(10), Lsn(0), &|_, _| false, &Geometry::default());
        for (name, body) in names.iter().zip(&bodies) {
            let Some(OpRef::Put(found)) = table.probe(key(name), Lsn(10)).found else {
                panic!("{name:?} was put");
            };
            assert_eq!(found.as_bytes(), *body);
        }
    };
    let first = Memtable::new(200 * keys);
    assert_eq!(table_bytes(&first), 0);
    fill(&first);
    let second = first.successor(200 * keys);
    let room = table_bytes(&second);
    assert!(0 < room && room < table_bytes(&first), "one table, not all");
    fill(&second);
    assert_eq!(table_bytes(&second), room, "it did not grow");

    // No more than would be much of all that it may take, and nothing where few keys came.
    let little = Memtable::new(1 << 10);
    fill(&little);
    assert!((1..=512).contains(&table_bytes(&little.successor(1 << 10))));
    assert_eq!(table_bytes(&little.successor(200 * keys)), room);
    let large = Memtable::new(1 << 30);
    fill(&large);
    assert_eq!(large.successor(1 << 30).bytes(), 0);
}

#[test]
fn versions_that_nobody_sees_leave_at_insertion() {
    let table = Memtable::new(1 << 20);
    insert(&table, 10, 5, &[]);
    insert(&table, 20, 10, &[]);
    assert_eq!(versions(&table), 2, "10 is what readers see");
    insert(&table, 30, 20, &[]);
    assert_eq!(versions(&table), 2, "20 hides 10");
}

#[test]
fn a_snapshot_keeps_its_version() {
    let table = Memtable::new(1 << 20);
    insert(&table, 10, 5, &[]);
    insert(&table, 20, 10, &[15]);
    insert(&table, 30, 20, &[15]);
    assert_eq!(versions(&table), 3, "the snapshot at 15 sees 10");
    insert(&table, 40, 30, &[]);
    assert_eq!(versions(&table), 2, "released, both 10 and 20 leave");
}

/// A snapshot at 5 keeps the version of 5, the one of 10 has left: a reader that had read 10 as the
/// visible LSN before must not take 5 for an answer.
#[test]
fn who_was_overtaken_is_told_although_an_older_version_is_left() {
    let table = Memtable::new(1 << 20);
    insert(&table, 5, 0, &[5]);
    insert(&table, 10, 5, &[5]);
    insert(&table, 20, 10, &[5]);
    insert(&table, 30, 20, &[5]);
    let probe = table.probe(key(b"k"), Lsn(10));
    assert!(probe.found.is_some(), "the snapshot's version is there");
    assert!(probe.too_new, "and newer ones stand before it");
    assert!(!table.probe(key(b"k"), Lsn(30)).too_new);
}

/// Batches in ascending and in any order, of new keys and old ones, with keys that are prefixes of
/// each other and trees side by side.
#[test]
fn keys_are_walked_in_order_and_found_whatever_the_order_of_insertion() {
    let rounds: u64 = if cfg!(miri) { 8 } else { 300 };
    let mut model: BTreeMap<(TreeId, Vec<u8>), u64> = BTreeMap::new();
    let table = Memtable::new(1 << 20);
    let mut chance = 7_u64;
    let mut draw = |below: u64| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (chance >> 33) % below
    };
    for round in 1..=rounds {
        let mut batch: Vec<(TreeId, Vec<u8>)> = (0..=draw(9))
            .map(|_| {
                let key = draw(2000).to_be_bytes();
                let length = if draw(2) == 0 { 7 } else { 8 };
                (TreeId(1 + draw(2)), key[..length].to_vec())
            })
            .collect();
        if draw(2) == 0 {
            batch.sort();
        }
        let mut seen = std::collections::BTreeSet::new();
        batch.retain(|key| seen.insert(key.clone()));
        let value = body(&round.to_le_bytes());
        table.insert(
            batch
                .iter()
                .map(|(tree, key)| (Key::new(*tree, key), put(&value))),
            Lsn(round),
            Lsn(round),
            &|_, _| false,
            &Geometry::tiny(),
        );
        model.extend(batch.into_iter().map(|key| (key, round)));
        if draw(8) == 0 {
            assert_eq!(table.places().count(), model.len()); // links in what came since
        }
    }
    let walked: Vec<(TreeId, Vec<u8>)> = table
        .places()
        .map(|at| (table.key(at).tree, table.key(at).key.to_vec()))
        .collect();
    assert!(walked.iter().eq(model.keys()));
    for ((tree, key), round) in &model {
        let key = Key::new(*tree, key);
        assert_eq!(table.newest(key), Some(Lsn(*round)));
        assert_eq!(table.first_from(key).map(|at| table.key(at)), Some(key));
        let below = model.range(..(*tree, key.key.to_vec())).next_back();
        let found = table.last_below(key).map(|at| table.key(at));
        assert_eq!(found, below.map(|((tree, key), _)| Key::new(*tree, key)));
    }
    let table = Arc::new(table);
    for tree in [TreeId(1), TreeId(2), TreeId(3)] {
        let drained: Vec<Vec<u8>> = Drain::new(&table, tree)
            .map(|(_, key, _)| key.as_ref().to_vec())
            .collect();
        let keys = model.keys().filter(|(of, _)| *of == tree);
        assert!(drained.iter().eq(keys.map(|(_, key)| key)));
    }
}

#[test]
fn readers_see_whole_nodes_while_a_writer_inserts() {
    let table = Memtable::new(1 << 20);
    let inserts: u64 = if cfg!(miri) { 25 } else { 20_000 };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for lsn in 1..=inserts {
                let at = (lsn * 7919 % 997).to_be_bytes();
                let body = body(&lsn.to_le_bytes());
                table.insert(
                    std::iter::once((key(&at), put(&body))),
                    Lsn(lsn),
                    Lsn(lsn - 1),
                    &|_, _| false,
                    &Geometry::tiny(),
                );
            }
        });
        scope.spawn(|| {
            while table.ops() < inserts {
                let mut last: Option<Vec<u8>> = None;
                for at in table.places() {
                    let key = table.key(at).key.to_vec();
                    assert!(last.is_none_or(|last| last < key));
                    for op in table.versions(at) {
                        let OpRef::Put(body) = op else {
                            panic!("nothing was deleted");
                        };
                        assert_eq!(body.parts_len(), 1);
                    }
                    last = Some(key);
                }
            }
        });
    });
}

#[test]
#[should_panic(expected = "a place is of one list")]
fn a_place_of_another_memtable_is_refused() {
    let (one, other) = (Memtable::new(1 << 20), Memtable::new(1 << 20));
    insert(&one, 1, 0, &[]);
    insert(&other, 1, 0, &[]);
    let place = one.places().next().expect("it was inserted");
    let _ = other.key(place);
}
