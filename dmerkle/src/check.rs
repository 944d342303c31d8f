//! Walks whole trees and names every broken invariant.
//!
//! A check goes on behind what is broken, survives cycles and nodes named twice, and believes
//! nothing: counts and sums are made again from the entries. It holds one path of nodes, and 16
//! bytes for each block and extent, to see that none overlaps another.

use core::fmt;
use std::collections::HashSet;

use crate::fingerprint::FingerprintKey;
use crate::format::pointer::Pointer;
use crate::geometry::Geometry;
use crate::tree::{Node, Root, Source};
use crate::types::{BlockId, Generation, Order, Run, Summary, TreeId};

/// One broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The tree that was walked.
    pub tree: TreeId,
    /// The block that shows it.
    pub block: BlockId,
    /// What is broken.
    pub broken: Broken,
}

/// What is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The node did not come or is not one; nothing below it was seen.
    Node(String),
    /// The node is named by more than one parent; it was walked once.
    NamedTwice,
    /// The node's level is not one below its parent's.
    Level {
        /// What it must be.
        expected: u8,
        /// What it is.
        got: u8,
    },
    /// The node's range is not the one that its parent gives it.
    Fences,
    /// The node says to be written after its parent, or after the tree's last checkpoint.
    Generation {
        /// The latest it may be.
        latest: Generation,
        /// What it is.
        got: Generation,
    },
    /// A branch that is not the root has one child.
    OneChild,
    /// The node would fit a smaller block.
    Order {
        /// The smallest that holds it.
        expected: Order,
        /// What it has.
        got: Order,
    },
    /// The parent counts or sums other entries than are there.
    Summary {
        /// What the parent says.
        expected: Summary,
        /// What the entries give.
        got: Summary,
    },
    /// The block or extent reaches where none may be.
    Outside(Run),
    /// The block or extent shares units with another.
    Overlap(Run, Run),
}

/// What a tree names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A node's block.
    Node(Run),
    /// A part's extent.
    Extent(Run),
}

impl Named {
    /// Its units.
    pub fn run(self) -> Run {
        match self {
            Self::Node(run) | Self::Extent(run) => run,
        }
    }
}

/// What a check has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every broken invariant, as met.
    pub violations: Vec<Violation>,
    /// Nodes read.
    pub nodes: u64,
    /// Bytes of their blocks.
    pub node_bytes: u64,
    /// Bytes of them that are in use.
    pub used_bytes: u64,
    /// Entries met.
    pub entries: u64,
    /// Extents met.
    pub extents: u64,
    /// Bytes of the parts in them.
    pub extent_bytes: u64,
}

/// A check under way, over any number of trees of one store.
pub struct Check<'v> {
    geometry: Geometry,
    key: FingerprintKey,
    visit: &'v mut dyn FnMut(TreeId, Named),
    blocks: HashSet<BlockId>,
    runs: Vec<(Run, TreeId)>,
    report: Report,
}

/// What a parent says of a child.
struct Expected<'a> {
    root: Root,
    level: Option<u8>,
    low: &'a [u8],
    high: Option<&'a [u8]>,
    latest: Generation,
}

impl<'v> Check<'v> {
    /// Calls `visit` for each block and extent that a tree names.
    pub fn new(
        geometry: Geometry,
        key: FingerprintKey,
        visit: &'v mut dyn FnMut(TreeId, Named),
    ) -> Self {
        Self {
            geometry,
            key,
            visit,
            blocks: HashSet::new(),
            runs: Vec::new(),
            report: Report::default(),
        }
    }

    /// Walks one tree, of a checkpoint not after `latest`.
    pub fn tree<S>(&mut self, source: &mut S, tree: TreeId, root: &Root, latest: Generation)
    where
        S: Source<Error: fmt::Display>,
    {
        if root.pointer.is_none() {
            if *root != Root::EMPTY {
                let (expected, got) = (root.summary, Summary::EMPTY);
                self.broken(tree, BlockId::NONE, Broken::Summary { expected, got });
            }
            return;
        }
        let expected = Expected {
            root: *root,
            level: None,
            low: &[],
            high: None,
            latest,
        };
        self.node(source, tree, &expected);
    }

    /// Compares all that was met with each other, and ends.
    pub fn finish(mut self) -> Report {
        self.runs.sort_unstable();
        for pair in self.runs.windows(2) {
            let ((before, _), (run, tree)) = (pair[0], pair[1]);
            if before.end() > run.start.0 {
                self.report.violations.push(Violation {
                    tree,
                    block: run.start,
                    broken: Broken::Overlap(before, run),
                });
            }
        }
        self.report
    }

    fn broken(&mut self, tree: TreeId, block: BlockId, broken: Broken) {
        self.report.violations.push(Violation {
            tree,
            block,
            broken,
        });
    }

    fn named(&mut self, tree: TreeId, named: Named) {
        let run = named.run();
        let first = self.geometry.region_of(run.start);
        let last = self.geometry.region_of(BlockId(run.end() - 1));
        let inside = match (first, last) {
            (Some((region, index)), Some((last, _))) => {
                region == last && index >= self.geometry.region_reserved_units()
            }
            _ => false,
        };
        if !inside {
            self.broken(tree, run.start, Broken::Outside(run));
        }
        self.runs.push((run, tree));
        (self.visit)(tree, named);
    }

    /// Walks a node and all below it. Gives what the entries really sum up to, if all were seen.
    fn node<S>(&mut self, source: &mut S, tree: TreeId, expected: &Expected<'_>) -> Option<Summary>
    where
        S: Source<Error: fmt::Display>,
    {
        let pointer = expected.root.pointer;
        if !self.blocks.insert(pointer.block) {
            self.broken(tree, pointer.block, Broken::NamedTwice);
            return None;
        }
        let run = Run {
            start: pointer.block,
            units: pointer.order.units(),
        };
        self.named(tree, Named::Node(run));
        let node = match source.node(tree, &pointer) {
            Ok(node) => node,
            Err(error) => {
                self.broken(tree, pointer.block, Broken::Node(error.to_string()));
                return None;
            }
        };
        self.report.nodes += 1;
        self.report.node_bytes += u64::from(run.units) * self.geometry.unit();
        self.report.used_bytes += u64::from(pointer.logical_bytes);
        self.judge(tree, &pointer, &node, expected);
        if expected.level.is_some_and(|level| level != node.level()) {
            return None; // going on might never end
        }
        let got = if node.is_leaf() {
            Some(self.leaf(tree, &node))
        } else {
            self.branch(source, tree, &node)
        };
        if let Some(got) = got
            && got != expected.root.summary
        {
            let expected = expected.root.summary;
            self.broken(tree, pointer.block, Broken::Summary { expected, got });
        }
        got
    }

    /// The node against what its parent says of it.
    fn judge<B: AsRef<[u8]>>(
        &mut self,
        tree: TreeId,
        pointer: &Pointer,
        node: &Node<B>,
        expected: &Expected<'_>,
    ) {
        let block = pointer.block;
        if let Some(level) = expected.level {
            if level != node.level() {
                let (expected, got) = (level, node.level());
                self.broken(tree, block, Broken::Level { expected, got });
            }
            if !node.is_leaf() && node.count() < 2 {
                self.broken(tree, block, Broken::OneChild);
            }
        }
        if node.low() != expected.low || node.high() != expected.high {
            self.broken(tree, block, Broken::Fences);
        }
        if pointer.generation > expected.latest {
            let (latest, got) = (expected.latest, pointer.generation);
            self.broken(tree, block, Broken::Generation { latest, got });
        }
        let units = self.geometry.units_for(pointer.logical_bytes.into());
        let smallest = Order::holding(u32::try_from(units).unwrap_or(u32::MAX));
        if pointer.order != smallest {
            let (expected, got) = (smallest, pointer.order);
            self.broken(tree, block, Broken::Order { expected, got });
        }
    }

    fn leaf<B: AsRef<[u8]>>(&mut self, tree: TreeId, node: &Node<B>) -> Summary {
        let mut summary = Summary::EMPTY;
        let mut whole = Vec::new();
        for (key, body) in node.entries() {
            whole.clear();
            key.append_to(&mut whole);
            summary = summary.plus(Summary::of(self.key.of_entry(&whole, body)));
            for extent in body.extents() {
                self.report.extents += 1;
                self.report.extent_bytes += extent.length();
                self.named(tree, Named::Extent(extent.run(&self.geometry)));
            }
        }
        self.report.entries += summary.count;
        summary
    }

    fn branch<S>(&mut self, source: &mut S, tree: TreeId, node: &Node<S::Bytes>) -> Option<Summary>
    where
        S: Source<Error: fmt::Display>,
    {
        let mut summary = Some(Summary::EMPTY);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        if node.level() == 1 {
            let leaves: Vec<_> = (0..node.count()).map(|at| node.child_pointer(at)).collect();
            source.prefetch(tree, &leaves);
        }
        for index in 0..node.count() {
            low.clear();
            high.clear();
            node.child_low(index, &mut low);
            let bounded = node.child_high(index, &mut high);
            let child = Expected {
                root: node.child(index),
                level: Some(node.level() - 1),
                low: &low,
                high: bounded.then_some(&high),
                latest: node.pointer().generation,
            };
            let below = self.node(source, tree, &child);
            summary = summary.zip(below).map(|(all, below)| all.plus(below));
        }
        summary
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tree {}, unit {}: {}",
            self.tree, self.block, self.broken
        )
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = |run: &Run| format!("units {} to {}", run.start, run.end() - 1);
        match self {
            Self::Node(reason) => write!(f, "the node cannot be used: {reason}"),
            Self::NamedTwice => f.write_str("the node has more than one parent"),
            Self::Level { expected, got } => write!(f, "the level is {got}, not {expected}"),
            Self::Fences => f.write_str("the range is not the one that the parent gives"),
            Self::Generation { latest, got } => write!(
                f,
                "the node is of generation {got}, its parent of generation {latest}"
            ),
            Self::OneChild => f.write_str("a branch below the root has one child"),
            Self::Order { expected, got } => {
                write!(f, "the block is of order {got}, order {expected} holds it")
            }
            Self::Summary { expected, got } => write!(
                f,
                "the parent says {} entries with sum {:032x}, there are {} with sum {:032x}",
                expected.count, expected.sum.0, got.count, got.sum.0
            ),
            Self::Outside(run) => write!(f, "{} are no data units of one region", units(run)),
            Self::Overlap(a, b) => write!(f, "{} and {} overlap", units(a), units(b)),
        }
    }
}

#[cfg(test)]
mod tests;
