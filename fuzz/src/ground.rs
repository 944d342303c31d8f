//! A ground in memory: blocks are never given out twice, what is read was written, and what is
//! retired was there once.

use arbitrary::{Arbitrary, Unstructured};
use dmerkle::check::{Check, Named};
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Applied, Apply, Change, Ground, Node, Op, Root, Settings, Source};
use dmerkle::{
    BlockId, Corrupt, Generation, Geometry, OpeningId, Order, Run, Sum, Summary, TreeId,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) const TREE: TreeId = TreeId(3);
pub(crate) const KEY: FingerprintKey = FingerprintKey::PUBLIC;

/// What a tree should hold.
pub(crate) type Model = BTreeMap<Vec<u8>, Body>;
/// What becomes of keys: a body, or nothing.
pub(crate) type Ops = BTreeMap<Vec<u8>, Option<Body>>;

/// An encoded body, and the fingerprint of the entry that it makes with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) fingerprint: Sum,
}

impl Body {
    pub(crate) fn new(key: &[u8], bytes: Vec<u8>) -> Self {
        Self {
            fingerprint: KEY.of_entry(key, BodyRef::trusted(&bytes)),
            bytes: bytes.into(),
        }
    }
}

/// A key near enough to others that they meet.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    One(u8),
    Two(u8, u8),
    Bytes([u8; 6]),
    /// One byte, many times, and another.
    Long(u8, u16, u8),
    Empty,
}

/// Not derived: a choice takes one byte of the input, not four.
impl Arbitrary<'_> for Key {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? % 16 {
            0..6 => Self::One(input.arbitrary()?),
            6..11 => Self::Two(input.arbitrary()?, input.arbitrary()?),
            11..13 => Self::Bytes(input.arbitrary()?),
            13..15 => Self::Long(input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
            _ => Self::Empty,
        })
    }
}

impl Key {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::One(byte) => vec![*byte],
            Self::Two(first, second) => vec![*first, *second],
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Long(byte, length, last) => {
                // Most fit a small node; one in sixteen is among the longest.
                let length = usize::from(*length);
                let most = if length.is_multiple_of(16) { 4096 } else { 160 };
                let mut key = vec![*byte; length % most];
                key.push(*last);
                key
            }
            Self::Empty => Vec::new(),
        }
    }
}

/// An encoded body.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) struct Value {
    meta: u8,
    byte: u8,
    length: u16,
}

impl Value {
    /// A short one, for keys that come in crowds.
    pub(crate) fn small(&self) -> Vec<u8> {
        let mut body = BodyBuilder::new(&[]);
        body.inline(&[self.byte; 8][..usize::from(self.length) % 8]);
        body.finish()
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let meta = vec![self.byte ^ 1; usize::from(self.meta) / 8];
        let mut body = BodyBuilder::new(&meta);
        // Most are small; one in sixteen needs a leaf of its own.
        let length = if self.length % 16 == 0 {
            usize::from(self.length) % 6000
        } else {
            usize::from(self.length) % 40
        };
        body.inline(&vec![self.byte; length]);
        if self.meta % 8 == 1 {
            body.inline(&[self.byte]);
        }
        body.finish()
    }
}

/// Shrunken geometries: which one is the input's first choice.
pub(crate) fn geometry(choice: u8) -> Geometry {
    let (fanout_max, leaf_order) = [(4, 2), (2, 2), (30, 2), (9, 1)][usize::from(choice % 4)];
    Geometry {
        regions_max: 1 << 16,
        fanout_max,
        leaf_order,
        ..Geometry::tiny()
    }
}

pub(crate) struct Memory {
    geometry: Geometry,
    nodes: BTreeMap<BlockId, Block>,
    next: u64,
    retired: Vec<Pointer>,
    generation: u64,
    /// The newest tree.
    pub(crate) root: Root,
}

/// What was written, and the node that was read from it: it is read again only by another pointer.
struct Block {
    bytes: Arc<Vec<u8>>,
    read: Option<(Pointer, Arc<Node<Bytes>>)>,
}

/// Bytes of a node in memory.
pub(crate) struct Bytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Memory {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            nodes: BTreeMap::new(),
            next: geometry.data_start().0,
            retired: Vec::new(),
            generation: 0,
            root: Root::EMPTY,
        }
    }

    fn take(&mut self, units: u32) -> BlockId {
        loop {
            let start = BlockId(self.next);
            let (_, index) = self.geometry.region_of(start).expect("room is left");
            let reserved = self.geometry.region_reserved_units();
            if index < reserved {
                self.next += u64::from(reserved - index);
            } else if index + units > self.geometry.region_units {
                self.next += u64::from(self.geometry.region_units - index);
            } else {
                self.next += u64::from(units);
                return start;
            }
        }
    }

    /// Applies, and forgets what was retired. Where `knows` says so the apply is given the
    /// fingerprints, as the engine does; else it makes them.
    pub(crate) fn apply(&mut self, ops: &Ops, knows: bool) -> Applied {
        self.generation += 1;
        let settings = Settings {
            tree: TREE,
            geometry: self.geometry,
            generation: Generation(self.generation),
            opening: OpeningId(1),
            key: KEY,
        };
        let ops = ops.iter().map(|(key, body)| Op {
            key,
            change: body
                .as_ref()
                .map_or(Change::Delete, |body| Change::Put(&body.bytes)),
            fingerprint: body.as_ref().filter(|_| knows).map(|body| body.fingerprint),
        });
        let applied = Apply::new(settings, self.root, ops)
            .run(self)
            .expect("nothing is corrupt");
        for pointer in core::mem::take(&mut self.retired) {
            let was = self.nodes.remove(&pointer.block);
            assert!(was.is_some(), "retired twice, or never written");
        }
        self.root = applied.root;
        applied
    }

    /// Checks every node, and that the tree names exactly the blocks that are there.
    pub(crate) fn check(&mut self) {
        let (root, generation) = (self.root, Generation(self.generation));
        let mut named = Vec::new();
        let mut visit = |_: TreeId, what: Named| named.push(what.run().start);
        let mut check = Check::new(self.geometry, KEY, &mut visit);
        check.tree(self, TREE, &root, generation);
        let report = check.finish();
        assert!(report.violations.is_empty(), "{}", report.violations[0]);
        named.sort();
        assert!(named.iter().eq(self.nodes.keys()), "reachable nodes");
    }
}

/// The summary of a model's entries from `low` up to `high`.
pub(crate) fn summary(model: &Model, low: &[u8], high: Option<&[u8]>) -> Summary {
    model
        .range::<[u8], _>((Bound::Included(low), Bound::Unbounded))
        .take_while(|(key, _)| high.is_none_or(|high| &key[..] < high))
        .fold(Summary::EMPTY, |all, (_, body)| {
            all.plus(Summary::of(body.fingerprint))
        })
}

impl Source for Memory {
    type Bytes = Bytes;
    type Error = Corrupt;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<Node<Bytes>>, Corrupt> {
        assert_eq!(tree, TREE);
        let block = self.nodes.get_mut(&pointer.block);
        let block = block.expect("it was written");
        if let Some((by, node)) = &block.read
            && by == pointer
        {
            return Ok(Arc::clone(node));
        }
        let bytes = Bytes(Arc::clone(&block.bytes));
        let node = Node::decode(bytes, pointer, tree).map(Arc::new)?;
        block.read = Some((*pointer, Arc::clone(&node)));
        Ok(node)
    }
}

impl Ground for Memory {
    fn place(&mut self, order: Order) -> Result<BlockId, Corrupt> {
        Ok(self.take(order.units()))
    }

    fn write(&mut self, _: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Corrupt> {
        let bytes = Arc::new(bytes);
        let before = self
            .nodes
            .insert(pointer.block, Block { bytes, read: None });
        assert!(before.is_none(), "a block is written twice");
        Ok(())
    }

    fn retire_node(&mut self, pointer: &Pointer) {
        self.retired.push(*pointer);
    }

    fn retire_extent(&mut self, run: Run) {
        panic!("no entry here has an extent, but {run:?} is retired");
    }
}
