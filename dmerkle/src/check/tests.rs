//! Goal: whatever is broken in a tree, the check names it, and goes on behind it.
//! Method: a sound tree whose root is written again with one thing wrong.

use std::sync::Arc;

use super::*;
use crate::format::node::{CHECKSUM, MAGIC};
use crate::tree::testing::{KEY, Memory, Ops, TREE, body, root_branch};
use crate::types::Sum;

/// A child as the root names it: low fence and root.
type Children = Vec<(Vec<u8>, Root)>;

/// A tree of three levels or more, and what its root holds.
fn sound() -> (Memory, Root, u8, Children) {
    let mut memory = Memory::new(Geometry::tiny());
    let ops: Ops = (0..60u8)
        .map(|n| (vec![b'k', n], Some(body(&[n]))))
        .collect();
    let root = memory.apply(1, Root::EMPTY, &ops).root;
    let node = memory.node(TREE, &root.pointer).unwrap();
    assert!(node.level() > 1 && node.count() > 2);
    let children = (0..node.count())
        .map(|index| {
            let mut low = Vec::new();
            node.child_low(index, &mut low);
            (low, node.child(index))
        })
        .collect();
    let level = node.level();
    (memory, root, level, children)
}

/// The root written again with other children.
fn rewrite(memory: &mut Memory, root: &Root, level: u8, children: &Children) -> Root {
    rewrite_in(Order(0), memory, root, level, children)
}

fn rewrite_in(
    order: Order,
    memory: &mut Memory,
    root: &Root,
    level: u8,
    children: &Children,
) -> Root {
    let block = memory.take(order.units());
    let (bytes, pointer) = root_branch(memory.geometry, block, order, level, children);
    memory.nodes.insert(block, Arc::new(bytes));
    Root {
        pointer,
        summary: root.summary,
    }
}

fn broken(memory: &mut Memory, root: &Root) -> Vec<Broken> {
    let mut visit = |_: TreeId, _: Named| {};
    let mut check = Check::new(memory.geometry, KEY, &mut visit);
    check.tree(memory, TREE, root, Generation(1));
    let report = check.finish();
    for violation in &report.violations {
        assert!(!violation.to_string().is_empty());
    }
    report.violations.into_iter().map(|v| v.broken).collect()
}

/// What the check says when the root's children were changed so.
fn with(change: impl FnOnce(&mut Children)) -> Vec<Broken> {
    let (mut memory, root, level, mut children) = sound();
    change(&mut children);
    let root = rewrite(&mut memory, &root, level, &children);
    broken(&mut memory, &root)
}

#[test]
fn a_sound_tree_has_nothing_broken() {
    assert_eq!(with(|_| ()), []);
}

#[test]
fn a_wrong_sum_is_named_where_it_stands() {
    let found = with(|children| children[1].1.summary.sum = Sum(5));
    assert!(matches!(found[..], [Broken::Summary { .. }]), "{found:?}");
}

#[test]
fn a_wrong_count_is_named_where_it_stands() {
    let found = with(|children| children[1].1.summary.count += 1);
    assert!(matches!(found[..], [Broken::Summary { .. }]), "{found:?}");
}

#[test]
fn a_child_left_out_is_named() {
    let found = with(|children| {
        children.remove(1);
    });
    assert!(found.contains(&Broken::Fences));
    assert!(
        matches!(found[..], [_, Broken::Summary { .. }]),
        "{found:?}"
    );
}

#[test]
fn a_child_named_twice_is_walked_once() {
    let found = with(|children| children[1].1 = children[0].1);
    assert_eq!(found, [Broken::NamedTwice]);
}

#[test]
fn a_later_generation_is_named() {
    let (mut memory, root, level, mut children) = sound();
    let pointer = children[0].1.pointer;
    let mut bytes = memory.nodes[&pointer.block].to_vec();
    bytes[crate::format::node::GENERATION] = 9;
    let checksum = crc32c::crc32c(&bytes[MAGIC..]);
    bytes[CHECKSUM..MAGIC].copy_from_slice(&checksum.to_le_bytes());
    memory.nodes.insert(pointer.block, Arc::new(bytes));
    children[0].1.pointer.checksum = checksum;
    children[0].1.pointer.generation = Generation(9);
    let root = rewrite(&mut memory, &root, level, &children);
    let latest = Generation(1);
    let got = Generation(9);
    assert_eq!(
        broken(&mut memory, &root),
        [Broken::Generation { latest, got }]
    );
}

#[test]
fn a_wrong_level_is_named_and_not_followed() {
    let (mut memory, root, level, children) = sound();
    let root = rewrite(&mut memory, &root, level + 1, &children);
    let found = broken(&mut memory, &root);
    assert_eq!(found.len(), children.len());
    assert!(
        found.iter().all(|b| matches!(b, Broken::Level { .. })),
        "{found:?}"
    );
}

#[test]
fn a_block_too_large_is_named() {
    let (mut memory, root, level, children) = sound();
    let root = rewrite_in(Order(1), &mut memory, &root, level, &children);
    let (expected, got) = (Order(0), Order(1));
    assert_eq!(
        broken(&mut memory, &root),
        [Broken::Order { expected, got }]
    );
}

#[test]
fn rot_is_named_and_what_is_beside_it_still_seen() {
    let (mut memory, root, _, children) = sound();
    for child in [0, 2] {
        let block = children[child].1.pointer.block;
        let mut bytes = memory.nodes[&block].to_vec();
        bytes[100] ^= 1;
        memory.nodes.insert(block, Arc::new(bytes));
    }
    let found = broken(&mut memory, &root);
    assert!(matches!(&found[..], [Broken::Node(a), Broken::Node(_)] if a.contains("checksum")));
}

#[test]
fn extents_that_overlap_and_blocks_outside_are_named() {
    let mut memory = Memory::new(Geometry::tiny());
    let long = memory.extent_body(5000);
    memory.next -= 3;
    let ops = Ops::from([
        (b"a".to_vec(), Some(long)),
        (b"b".to_vec(), Some(memory.extent_body(2000))),
    ]);
    let root = memory.apply(1, Root::EMPTY, &ops).root;
    let found = broken(&mut memory, &root);
    assert!(matches!(found[..], [Broken::Overlap(..)]), "{found:?}");

    memory.next = memory.geometry.region_start(1).0 - 1;
    let straddling = memory.next;
    let long = memory.extent_body(1025);
    let mut bytes = long.clone();
    bytes[4..12].copy_from_slice(&straddling.to_le_bytes());
    let ops = Ops::from([(b"c".to_vec(), Some(bytes))]);
    let root = memory.apply(1, Root::EMPTY, &ops).root;
    let found = broken(&mut memory, &root);
    assert!(matches!(found[..], [Broken::Outside(_)]), "{found:?}");
}

#[test]
fn an_empty_tree_with_entries_is_named() {
    let mut memory = Memory::new(Geometry::tiny());
    let root = Root {
        pointer: Pointer::NONE,
        summary: Summary::of(Sum(1)),
    };
    assert!(matches!(
        broken(&mut memory, &root)[..],
        [Broken::Summary { .. }]
    ));
}
