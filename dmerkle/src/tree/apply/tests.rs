//! Goal: after any sequence of applies the tree holds what a map holds, passes every check, names
//! exactly the blocks and extents that were neither retired nor never written, and its summary
//! does not depend on how it came to be.
//! Method: random operations over few keys, small and long, in the geometry of tests.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::geometry::Geometry;
use crate::tree::ground::Source;
use crate::tree::testing::{Memory, Model, Ops, TREE, body, root_branch, summary};
use crate::types::{Order, Summary};

/// What an operation puts.
#[derive(Debug, Clone)]
enum What {
    Inline(usize, u8),
    Extent(u64),
    Gone,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0..400u16).prop_map(|n| format!("{n:04}").into_bytes()),
        3 => proptest::collection::vec(0..4u8, 0..6),
        1 => (0..12u8, 1..4096usize).prop_map(|(n, length)| {
            let mut key = vec![b'2'; length];
            key.push(n);
            key.truncate(4096);
            key
        }),
    ]
}

fn what(deletes: u32) -> impl Strategy<Value = What> {
    prop_oneof![
        6 => (0..40usize, any::<u8>()).prop_map(|(l, b)| What::Inline(l, b)),
        1 => (0..5000usize, 0..2u8).prop_map(|(l, b)| What::Inline(l, b)),
        1 => (1025..6000u64).prop_map(What::Extent),
        deletes => Just(What::Gone),
    ]
}

/// A few hundred operations, many of them, few, or a whole range of deletions.
fn round() -> impl Strategy<Value = Vec<(Vec<u8>, What)>> {
    prop_oneof![
        proptest::collection::vec((key(), what(3)), 0..6),
        proptest::collection::vec((key(), what(2)), 0..200),
        proptest::collection::vec((key(), what(60)), 0..200),
        (0..400u16, 0..300u16).prop_map(|(from, count)| {
            (from..from + count)
                .map(|n| (format!("{n:04}").into_bytes(), What::Gone))
                .collect()
        }),
    ]
}

fn geometries() -> impl Strategy<Value = Geometry> {
    prop_oneof![
        Just(Geometry {
            regions_max: 1 << 16,
            ..Geometry::tiny()
        }),
        Just(Geometry {
            regions_max: 1 << 16,
            fanout_max: 2,
            ..Geometry::tiny()
        }),
        Just(Geometry {
            regions_max: 1 << 16,
            fanout_max: 30,
            ..Geometry::tiny()
        }),
        Just(Geometry {
            regions_max: 1 << 16,
            fanout_max: 9,
            leaf_order: 1,
            ..Geometry::tiny()
        }),
    ]
}

/// Runs the rounds, checks after each, and gives the last root, its ground and the model.
fn live(geometry: Geometry, rounds: Vec<Vec<(Vec<u8>, What)>>) -> (Root, Memory, Model) {
    let mut memory = Memory::new(geometry);
    let mut model = Model::new();
    let mut root = Root::EMPTY;
    for (generation, round) in rounds.into_iter().enumerate() {
        let generation = generation as u64 + 1;
        let round: std::collections::BTreeMap<_, _> = round.into_iter().collect();
        let mut ops = Ops::new();
        for (key, what) in round {
            let new = match what {
                What::Inline(length, byte) => Some(body(&vec![byte; length])),
                What::Extent(length) => Some(memory.extent_body(length)),
                What::Gone => None,
            };
            match &new {
                Some(new) => model.insert(key.clone(), new.clone()),
                None => model.remove(&key),
            };
            ops.insert(key, new);
        }
        let applied = memory.apply(generation, root, &ops);
        root = applied.root;
        let mut contents = Model::new();
        memory.contents(&root.pointer, &mut contents);
        assert!(contents == model, "the contents differ");
        assert_eq!(root.summary, summary(&model, b"", None));
        memory.check(&root, generation);

        for key in ops.keys() {
            assert_eq!(memory.get(&root, key), model.get(key).cloned());
        }

        // What is there already changes nothing.
        let same = memory.apply(generation + 1, root, &ops);
        assert_eq!((same.root, same.written), (root, 0));
        assert_eq!(same.height, applied.height);
    }
    (root, memory, model)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_tree_is_what_a_map_is(
        geometry in geometries(),
        rounds in proptest::collection::vec(round(), 1..12),
    ) {
        let (root, mut memory, model) = live(geometry, rounds);
        // The same contents built at once, and of other sizes, have the same summary.
        let ops: Ops = model.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
        let mut other = Memory::new(Geometry { regions_max: 1 << 16, ..Geometry::default() });
        prop_assert_eq!(other.apply(1, Root::EMPTY, &ops).root.summary, root.summary);
        // And all of it can go.
        let none: Ops = model.keys().map(|k| (k.clone(), None)).collect();
        prop_assert_eq!(memory.apply(100, root, &none).root, Root::EMPTY);
        prop_assert!(memory.nodes.is_empty() && memory.extents.is_empty());
    }
}

#[test]
fn an_empty_tree_stays_empty() {
    let mut memory = Memory::new(Geometry::tiny());
    let ops = Ops::from([(b"a".to_vec(), None)]);
    let applied = memory.apply(1, Root::EMPTY, &ops);
    assert_eq!((applied.root, applied.height), (Root::EMPTY, 0));
    assert_eq!(applied.root.summary, Summary::EMPTY);
}

#[test]
fn a_change_costs_its_path() {
    let geometry = Geometry {
        regions_max: 1 << 16,
        ..Geometry::default()
    };
    let mut memory = Memory::new(geometry);
    let put = |n: u32, byte| (format!("{n:09}").into_bytes(), Some(body(&[byte; 100])));
    let ops: Ops = (0..100_000).map(|n| put(n, 0)).collect();
    let first = memory.apply(1, Root::EMPTY, &ops);
    assert_eq!(first.height, 3);
    let report = memory.check(&first.root, 1);
    assert!(
        report.used_bytes * 100 > report.node_bytes * 97,
        "packed full"
    );
    memory.reads = 0;
    let second = memory.apply(2, first.root, &Ops::from([put(50_000, 1)]));
    assert_eq!((second.written, second.height), (3, 3));
    assert_eq!(memory.reads, 3);
    memory.check(&second.root, 2);
}

#[test]
fn a_full_leaf_that_overflows_takes_the_smallest_block_more() {
    let geometry = Geometry {
        regions_max: 1 << 16,
        ..Geometry::default()
    };
    let mut memory = Memory::new(geometry);
    let put = |n: u32| (format!("{n:09}").into_bytes(), Some(body(&[7; 150])));
    let even: Ops = (0..10_000).map(|n| put(2 * n)).collect();
    let first = memory.apply(1, Root::EMPTY, &even);
    let before = memory.check(&first.root, 1).node_bytes;
    // A few leaves apart from each other, each with one entry more than it holds.
    let added: Ops = (1..20).map(|n| put(1000 * n + 1)).collect();
    let second = memory.apply(2, first.root, &added);
    let after = memory.check(&second.root, 2).node_bytes;
    let smallest = u64::from(geometry.unit_bytes);
    assert!(before < after, "some overflow");
    assert!(
        after - before <= 19 * smallest,
        "{} bytes for 19 leaves",
        after - before
    );
}

#[test]
fn an_error_anywhere_is_handed_on_and_leaves_the_old_tree_whole() {
    let mut memory = Memory::new(Geometry {
        regions_max: 1 << 16,
        ..Geometry::tiny()
    });
    let entry = |n: u32, byte| (format!("{n:05}").into_bytes(), Some(body(&[byte; 20])));
    let root = memory
        .apply(1, Root::EMPTY, &(0..200).map(|n| entry(n, 0)).collect())
        .root;
    let mut ops: Ops = (20..90).map(|n| (entry(n, 0).0, None)).collect();
    ops.extend((100..120).map(|n| entry(n, 1)));
    ops.extend((198..200).map(|n| (entry(n, 0).0, None)));
    memory.written.clear();
    let expected = memory.clone().apply(2, root, &ops);
    for fuse in 0.. {
        let mut copy = memory.clone();
        copy.fuse = fuse;
        let ops = ops.iter().map(|(key, body)| Op {
            key,
            change: body.as_ref().map_or(Change::Delete, Change::Put),
            fingerprint: None,
        });
        match Apply::new(copy.settings(2), root, ops).run(&mut copy) {
            Ok(applied) => {
                assert_eq!(applied, expected);
                assert!(fuse > 20);
                break;
            }
            Err(error) => assert!(error.to_string().contains("the fuse is out")),
        }
        for block in core::mem::take(&mut copy.written) {
            copy.nodes.remove(&block);
        }
        copy.fuse = usize::MAX;
        copy.check(&root, 1);
    }
}

#[test]
#[should_panic(expected = "operations must ascend")]
fn operations_out_of_order_are_refused() {
    let mut memory = Memory::new(Geometry::tiny());
    let value = body(b"x");
    let ops = [b"b", b"a"].map(|key| Op {
        key,
        change: Change::Put(&value),
        fingerprint: None,
    });
    let _ = Apply::new(memory.settings(1), Root::EMPTY, ops).run(&mut memory);
}

/// A parent that gives its child another range than the child has itself.
#[test]
fn fences_that_disagree_are_corrupt() {
    let mut memory = Memory::new(Geometry::tiny());
    let ops: Ops = (0..12u8).map(|n| (vec![n], Some(body(&[n])))).collect();
    let root = memory.apply(1, Root::EMPTY, &ops).root;
    let node = memory.node(TREE, &root.pointer).unwrap();
    let mut children: Vec<_> = (0..node.count())
        .map(|index| {
            let mut low = Vec::new();
            node.child_low(index, &mut low);
            (low, node.child(index))
        })
        .collect();
    children[1].0.push(0);
    let block = memory.take(1);
    let geometry = memory.geometry;
    let (bytes, pointer) = root_branch(geometry, block, Order(0), node.level(), &children);
    memory.nodes.insert(block, Arc::new(bytes));
    let summary = root.summary;
    for key in 0..12u8 {
        let op = Op {
            key: [key],
            change: Change::<Vec<u8>>::Delete,
            fingerprint: None,
        };
        let damaged = Root { pointer, summary };
        let applied = Apply::new(memory.settings(2), damaged, [op]).run(&mut memory);
        let touched = key < children[2].0[0];
        assert_eq!(applied.is_err(), touched, "key {key}");
    }
}

/// A disk answers later than memory: what an apply reads has to be on its way some reads before it
/// is needed. Leaves of four large entries overflow at nearly every insert, and then their neighbour
/// is read; where two of three leaves change, what is left of a run of them is.
#[test]
fn nearly_every_leaf_is_named_some_reads_before_its_own() {
    for (leaf_order, puts) in [(0, [1000, 100, 100, 100]), (2, [1000, 800, 800, 800])] {
        let geometry = Geometry {
            leaf_order,
            ..Geometry::default()
        };
        let mut memory = Memory::new(geometry);
        let key = |number: u32| number.wrapping_mul(0x9e37_79b1).to_be_bytes().to_vec();
        let put = |numbers: core::ops::Range<u32>| -> Ops {
            numbers
                .map(|number| (key(number), Some(body(&[7; 1000]))))
                .collect()
        };
        let mut next = 12_000;
        let mut root = memory.apply(1, Root::EMPTY, &put(0..next)).root;
        for (generation, count) in (2..).zip(puts) {
            memory.reads = 0;
            root = memory
                .apply(generation, root, &put(next..next + count))
                .root;
            next += count;
            let late = core::mem::take(&mut memory.late_leaves);
            let (reads, named) = (memory.reads, memory.named.len());
            assert!(reads > 100, "leaves and branches");
            assert!(late * 100 <= reads, "{late} of {reads}");
            assert!(
                named * 100 < reads * 115,
                "what is named is mostly read: {named}, {reads}"
            );
            memory.named.clear();
        }
    }
}
