//! A ground in memory, for tests: blocks are never given out twice, what is read was written,
//! and what is retired was there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::{Check, Named, Report};
use crate::error::{Corrupt, Structure};
use crate::fingerprint::FingerprintKey;
use crate::format::body::{BodyBuilder, BodyRef};
use crate::format::extent::encode_extent;
use crate::format::pointer::Pointer;
use crate::geometry::Geometry;
use crate::tree::branch::encode_branch;
use crate::tree::node::Label;
use crate::tree::{
    Applied, Apply, Change, Ground, Lookup, Node, Op, Progress, Root, Settings, Source, Step,
};
use crate::types::{BlockId, Generation, OpeningId, Order, Run, Summary, TreeId};

pub(crate) const TREE: TreeId = TreeId(3);
pub(crate) const KEY: FingerprintKey = FingerprintKey::PUBLIC;

pub(crate) type Model = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Ops = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Clone)]
pub(crate) struct Memory {
    pub geometry: Geometry,
    pub nodes: BTreeMap<BlockId, Arc<Vec<u8>>>,
    pub extents: BTreeMap<BlockId, u32>,
    pub next: u64,
    pub reads: usize,
    /// Blocks that somebody said to need soon, and the reads before that.
    pub named: BTreeMap<BlockId, usize>,
    /// Leaves read that were not among them, or less than three reads before.
    pub late_leaves: usize,
    pub retired_nodes: Vec<Pointer>,
    pub retired_extents: Vec<Run>,
    pub written: Vec<BlockId>,
    /// Calls that still succeed.
    pub fuse: usize,
}

/// Bytes of a node in memory.
#[derive(Debug)]
pub(crate) struct Bytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Memory {
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            nodes: BTreeMap::new(),
            extents: BTreeMap::new(),
            next: geometry.data_start().0,
            reads: 0,
            named: BTreeMap::new(),
            late_leaves: 0,
            retired_nodes: Vec::new(),
            retired_extents: Vec::new(),
            written: Vec::new(),
            fuse: usize::MAX,
        }
    }

    fn burn(&mut self) -> Result<(), Corrupt> {
        let out = Corrupt::rule(Structure::Node, "the fuse is out");
        self.fuse = self.fuse.checked_sub(1).ok_or(out)?;
        Ok(())
    }

    /// Units that no one had before.
    pub fn take(&mut self, units: u32) -> BlockId {
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

    /// A body with one extent of `length` bytes, which is allocated.
    pub fn extent_body(&mut self, length: u64) -> Vec<u8> {
        let units = u32::try_from(self.geometry.units_for(length)).unwrap();
        let start = self.take(units);
        self.extents.insert(start, units);
        let chunks = length.div_ceil(self.geometry.chunk_bytes(length));
        let mut reference = Vec::new();
        let checksums = vec![1; usize::try_from(chunks).unwrap()];
        let hash = [3; 32];
        encode_extent(
            &self.geometry,
            start,
            length,
            &hash,
            &checksums,
            &mut reference,
        );
        let mut body = BodyBuilder::new(b"");
        body.extent(&reference);
        body.finish()
    }

    pub fn settings(&self, generation: u64) -> Settings {
        Settings {
            tree: TREE,
            geometry: self.geometry,
            generation: Generation(generation),
            opening: OpeningId(1),
            key: KEY,
        }
    }

    /// Applies, gives what was retired back, and sees that what is left is what is reachable.
    pub fn apply(&mut self, generation: u64, root: Root, ops: &Ops) -> Applied {
        let ops = ops.iter().map(|(key, body)| Op {
            key,
            change: body.as_ref().map_or(Change::Delete, Change::Put),
            fingerprint: None,
        });
        let mut apply = Apply::new(self.settings(generation), root, ops);
        self.written.clear();
        let applied = loop {
            let before = self.written.len();
            match apply.step(self).unwrap() {
                Progress::More => assert!(self.written.len() - before <= 24, "a step is short"),
                Progress::Done(applied) => break applied,
            }
        };
        for pointer in core::mem::take(&mut self.retired_nodes) {
            assert!(
                !self.written.contains(&pointer.block),
                "written for nothing"
            );
            self.nodes.remove(&pointer.block).expect("retired once");
        }
        for run in core::mem::take(&mut self.retired_extents) {
            assert_eq!(self.extents.remove(&run.start), Some(run.units));
        }
        applied
    }

    /// Checks the tree, and that it names exactly what is there.
    pub fn check(&mut self, root: &Root, generation: u64) -> Report {
        let (mut nodes, mut extents) = (Vec::new(), Vec::new());
        let mut visit = |_: TreeId, named: Named| match named {
            Named::Node(run) => nodes.push(run.start),
            Named::Extent(run) => extents.push(run.start),
        };
        let mut check = Check::new(self.geometry, KEY, &mut visit);
        check.tree(self, TREE, root, Generation(generation));
        let report = check.finish();
        assert!(report.violations.is_empty(), "{}", report.violations[0]);
        nodes.sort();
        extents.sort();
        assert!(nodes.iter().eq(self.nodes.keys()), "reachable nodes");
        assert!(extents.iter().eq(self.extents.keys()), "reachable extents");
        report
    }

    /// One entry's body, by lookup.
    pub fn get(&mut self, root: &Root, key: &[u8]) -> Option<Vec<u8>> {
        let mut lookup = Lookup::new(key);
        let mut pointer = root.pointer;
        while !pointer.is_none() {
            let node = self.node(TREE, &pointer).unwrap();
            match lookup.step(&node).unwrap() {
                Step::Need(next) => pointer = next,
                Step::Found(body) => return Some(body.as_bytes().to_vec()),
                Step::Absent => return None,
            }
        }
        None
    }

    /// All entries, by walking.
    pub fn contents(&mut self, pointer: &Pointer, out: &mut Model) {
        if pointer.is_none() {
            return;
        }
        let node = self.node(TREE, pointer).unwrap();
        if node.is_leaf() {
            for (key, body) in node.entries() {
                out.insert(key.to_vec(), body.as_bytes().to_vec());
            }
            return;
        }
        for index in 0..node.count() {
            self.contents(&node.child_pointer(index), out);
        }
    }
}

/// The summary of a model's entries from `low` up to `high`.
pub(crate) fn summary(model: &Model, low: &[u8], high: Option<&[u8]>) -> Summary {
    model
        .range(low.to_vec()..)
        .take_while(|(key, _)| high.is_none_or(|high| &key[..] < high))
        .fold(Summary::EMPTY, |all, (key, body)| {
            all.plus(Summary::of(KEY.of_entry(key, BodyRef::trusted(body))))
        })
}

pub(crate) fn body(value: &[u8]) -> Vec<u8> {
    let mut body = BodyBuilder::new(b"");
    body.inline(value);
    body.finish()
}

impl Source for Memory {
    type Bytes = Bytes;
    type Error = Corrupt;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<Node<Bytes>>, Corrupt> {
        self.burn()?;
        self.reads += 1;
        let bytes = Arc::clone(self.nodes.get(&pointer.block).expect("it was written"));
        let node = Node::decode(Bytes(bytes), pointer, tree).map(Arc::new)?;
        let named = self.named.get(&pointer.block);
        let in_time = named.is_some_and(|before| before + 3 < self.reads);
        self.late_leaves += usize::from(node.is_leaf() && !in_time);
        Ok(node)
    }

    fn prefetch(&mut self, _: TreeId, pointers: &[Pointer]) {
        for pointer in pointers {
            self.named.entry(pointer.block).or_insert(self.reads);
        }
    }
}

impl Ground for Memory {
    fn place(&mut self, order: Order) -> Result<BlockId, Corrupt> {
        self.burn()?;
        Ok(self.take(order.units()))
    }

    fn write(&mut self, _: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Corrupt> {
        self.burn()?;
        self.written.push(pointer.block);
        assert!(self.nodes.insert(pointer.block, Arc::new(bytes)).is_none());
        Ok(())
    }

    fn retire_node(&mut self, pointer: &Pointer) {
        self.retired_nodes.push(*pointer);
    }

    fn retire_extent(&mut self, run: Run) {
        self.retired_extents.push(run);
    }
}

/// A root branch of `children` (low fence and child), written in generation 1.
pub(crate) fn root_branch(
    geometry: Geometry,
    block: BlockId,
    order: Order,
    level: u8,
    children: &[(Vec<u8>, Root)],
) -> (Vec<u8>, Pointer) {
    let label = Label {
        tree: TREE,
        block,
        order,
        generation: Generation(1),
        opening: OpeningId(1),
    };
    let mut bytes = vec![0; (geometry.unit_bytes as usize) << order.0];
    let pointer = encode_branch(&mut bytes, &label, level, None, children.len(), |index| {
        (&children[index].0, children[index].1)
    });
    (bytes, pointer)
}
