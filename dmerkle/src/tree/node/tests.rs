//! Goal: a node says exactly what was put into it, and no bytes make an accessor panic.
//! Method: random keys against a sorted model; damage of each byte with the checksum made right
//! again, then every accessor called.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::format::body::BodyBuilder;
use crate::tree::branch::{Root, encode_branch};
use crate::tree::leaf::LeafWriter;
use crate::types::{Sum, Summary};

const TREE: TreeId = TreeId(7);

fn label(order: u8) -> Label {
    Label {
        tree: TREE,
        block: BlockId(1234),
        order: Order(order),
        generation: Generation(5),
        opening: OpeningId(99),
    }
}

fn leaf(map: &BTreeMap<Vec<u8>, Vec<u8>>, low: &[u8], high: Option<&[u8]>) -> (Vec<u8>, Pointer) {
    let entries: Vec<_> = map.iter().collect();
    let key = |index: usize| KeyRef {
        prefix: &[],
        suffix: entries[index].0,
    };
    let prefix = key(0).common_prefix(key(entries.len() - 1));
    let mut writer = LeafWriter::new(key(0), prefix, entries.len(), 16 * 1024);
    (0..entries.len()).for_each(|index| writer.head(key(index)));
    for (key, body) in &entries {
        writer.slot(key.len(), body.len());
    }
    for (index, (_, body)) in entries.iter().enumerate() {
        writer.record(key(index), body);
    }
    writer.finish(&label(5), 16 * 1024, low, high)
}

fn branch(keys: &[Vec<u8>]) -> (Vec<u8>, Pointer) {
    let mut block = vec![0; 16 * 1024];
    let pointer = encode_branch(&mut block, &label(5), 3, None, keys.len(), |index| {
        (&keys[index], child(index))
    });
    (block, pointer)
}

fn child(index: usize) -> Root {
    let number = index as u64;
    Root {
        pointer: Pointer {
            block: BlockId(number + 1),
            order: Order(1),
            checksum: 17,
            generation: Generation(2),
            logical_bytes: 900,
        },
        summary: Summary {
            count: number,
            sum: Sum(u128::from(number) << 77),
        },
    }
}

fn body(text: &[u8]) -> Vec<u8> {
    let mut body = BodyBuilder::new(b"");
    body.inline(text);
    body.finish()
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(0..3u8, 0..7),
        proptest::collection::vec(any::<u8>(), 0..9),
        proptest::collection::vec(97..99u8, 0..9).prop_map(|mut key| {
            key.splice(0..0, *b"common/");
            key
        }),
    ]
}

proptest! {
    #[test]
    fn a_leaf_finds_what_the_model_has(
        map in proptest::collection::btree_map(keys(), any::<u8>().prop_map(|b| body(&[b])), 1..60),
        probes in proptest::collection::vec(keys(), 40),
    ) {
        let (block, pointer) = leaf(&map, b"", None);
        let node = Node::decode(block, &pointer, TREE).unwrap();
        prop_assert_eq!(node.count(), map.len());
        for key in probes.iter().chain(map.keys()) {
            prop_assert_eq!(node.find(key).map(|b| b.as_bytes()), map.get(key).map(|b| &b[..]));
            prop_assert_eq!(node.position(key).0, map.range(..key.clone()).count());
        }
        for ((key, body), (own_key, own_body)) in map.iter().zip(node.entries()) {
            prop_assert_eq!(&own_key.to_vec(), key);
            prop_assert_eq!(own_body.as_bytes(), &body[..]);
        }
    }

    #[test]
    fn a_branch_leads_to_the_child_whose_range_holds_the_key(
        separators in proptest::collection::btree_set(keys(), 1..60),
        probes in proptest::collection::vec(keys(), 40),
    ) {
        let mut keys: Vec<_> = separators.into_iter().collect();
        if !keys[0].is_empty() {
            keys.insert(0, Vec::new());
        }
        let (block, pointer) = branch(&keys);
        let node = Node::decode(block, &pointer, TREE).unwrap();
        for probe in probes.iter().chain(&keys) {
            let expected = keys.iter().rposition(|low| low <= probe).unwrap();
            prop_assert_eq!(node.child_for(probe), (expected, child(expected).pointer));
        }
        for index in 0..keys.len() {
            prop_assert_eq!(node.child(index), child(index));
            let (mut low, mut high) = (Vec::new(), Vec::new());
            node.child_low(index, &mut low);
            prop_assert_eq!(&low, &keys[index]);
            prop_assert_eq!(node.child_high(index, &mut high), index + 1 < keys.len());
            if index + 1 < keys.len() {
                prop_assert_eq!(&high, &keys[index + 1]);
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_harmless_never_a_panic(
        map in proptest::collection::btree_map(keys(), any::<u8>().prop_map(|b| body(&[b])), 1..8),
        leafy in any::<bool>(),
        harms in proptest::collection::vec((0..400usize, any::<u8>()), 1..4),
    ) {
        let mut lows: Vec<_> = map.keys().cloned().collect();
        lows[0].clear();
        let (mut block, pointer) = if leafy { leaf(&map, b"", Some(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")) } else { branch(&lows) };
        for (at, byte) in harms {
            block[at] = byte;
        }
        if Node::decode(&block[..], &pointer, TREE).is_ok() {
            return Ok(()); // nothing was changed
        }
        let checksum = crc32c::crc32c(&block[layout::MAGIC..]);
        put_at(&mut block, layout::CHECKSUM, checksum.to_le_bytes());
        let Ok(node) = Node::decode_orphan(&block[..]) else { return Ok(()) };
        let _ = (node.low(), node.high(), node.tree(), node.opening(), node.covers(b"x"));
        for index in 0..node.count() {
            if node.is_leaf() {
                let _ = node.entry_key(index).to_vec();
                let _ = node.body(index).parts().count();
                let _ = node.find(b"common/ab");
            } else {
                let _ = node.child(index);
                let _ = node.child_for(b"common/ab");
                node.child_low(index, &mut Vec::new());
                node.child_high(index, &mut Vec::new());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Node::decode_orphan(bytes).is_err());
    }
}

#[test]
fn another_block_tree_or_generation_is_refused() {
    let map = BTreeMap::from([(b"key".to_vec(), body(b"value"))]);
    let (block, pointer) = leaf(&map, b"a", Some(b"z"));
    let decode = |pointer: &Pointer, tree| Node::decode(&block[..], pointer, tree).map(|_| ());
    decode(&pointer, TREE).unwrap();
    decode(&pointer, TreeId(8)).unwrap_err();
    let wrong = |change: fn(&mut Pointer)| {
        let mut pointer = pointer;
        change(&mut pointer);
        decode(&pointer, TREE).unwrap_err()
    };
    wrong(|p| p.block.0 += 1);
    wrong(|p| p.generation.0 += 1);
    wrong(|p| p.order.0 += 1);
    wrong(|p| p.checksum ^= 1);
    wrong(|p| p.logical_bytes += 1);
    let refused = wrong(|p| p.checksum ^= 1);
    assert_eq!(refused.place, Place::Block(BlockId(1234)));
}

#[test]
fn a_key_outside_the_fences_is_refused() {
    let map = BTreeMap::from([(b"key".to_vec(), body(b"value"))]);
    for (low, high) in [
        (&b"l"[..], None),
        (b"", Some(&b"key"[..])),
        (b"x", Some(b"b")),
    ] {
        let (block, pointer) = leaf(&map, low, high);
        Node::decode(block, &pointer, TREE).unwrap_err();
    }
}
