//! Turns a stream of entries and clean subtrees into the nodes of a new tree, level by level.
//!
//! The stream comes in key order and covers all keys. Entries gather at level 0 until they fill
//! leaves; written leaves and clean ones gather at level 1 until they fill branches; and so on.
//!
//! Invariants:
//! - What was written or kept tiles `[empty, frontier)`; what is pending comes behind it.
//! - A clean subtree of level `l` is kept only when nothing is pending at levels up to `l`, and
//!   only if it begins at the frontier.
//! - A flush is followed by a kept subtree that begins where it ended, or by the end. So where
//!   nothing is pending, the last thing before the frontier is a clean subtree, which can be
//!   opened again.

use std::sync::Arc;

use crate::error::{Corrupt, Place, Structure};
use crate::fingerprint::FingerprintKey;
use crate::format::body::BodyRef;
use crate::format::pointer::Pointer;
use crate::geometry::Geometry;
use crate::tree::branch::{Root, encode_branch};
use crate::tree::cut::Cuts;
use crate::tree::entries::Entries;
use crate::tree::ground::Ground;
use crate::tree::leaf::LeafWriter;
use crate::tree::lookup::expect_level;
use crate::tree::node::{Label, Node};
use crate::tree::pending::{Limits, Pending};
use crate::types::{Generation, OpeningId, Order, Sum, Summary, TreeId};

/// What is the same for all nodes of one `apply`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The tree.
    pub tree: TreeId,
    /// The store's sizes.
    pub geometry: Geometry,
    /// The checkpoint that writes.
    pub generation: Generation,
    /// The opening that writes.
    pub opening: OpeningId,
    /// What fingerprints are made with.
    pub key: FingerprintKey,
}

/// A child that waits for its parent.
#[derive(Debug, Clone, Copy)]
struct Child {
    root: Root,
    /// Written just now, so not to be opened again.
    fresh: bool,
}

/// The pending nodes of every level.
#[derive(Debug)]
pub(crate) struct Packer<B> {
    settings: Settings,
    entries: Entries<B>,
    /// Bytes of entries below which no leaf is ready.
    ask_at: usize,
    /// Levels 1 and up.
    children: Vec<Pending<Child>>,
    /// Where what was written or kept ends; none if it ends with the key space.
    frontier: Option<Vec<u8>>,
    /// Nodes written so far.
    pub written: usize,
}

impl<B: AsRef<[u8]>> Packer<B> {
    pub fn new(settings: Settings) -> Self {
        Self {
            entries: Entries::new(),
            ask_at: 0,
            children: Vec::new(),
            frontier: Some(Vec::new()),
            written: 0,
            settings,
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Opens an old leaf, whose entries will follow, each as it stands or forgotten.
    pub fn open_leaf(&mut self, node: Arc<Node<B>>, sum: Sum) {
        self.entries.open(node, sum);
    }

    /// The next entry of the opened leaf, whose key is `key`, is replaced or gone.
    pub fn forget(&mut self, index: usize, key: &[u8]) {
        self.entries.forget(index, &self.settings.key, key);
    }

    /// The next entries of the opened leaf, as they stand.
    pub fn old_entries<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        from: usize,
        to: usize,
    ) -> Result<(), G::Error> {
        self.entries.push_old(from, to);
        self.write_ready(ground)
    }

    /// A new entry.
    pub fn new_entry<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        key: &[u8],
        body: BodyRef<'_>,
        sum: Option<Sum>,
    ) -> Result<(), G::Error> {
        let sum = sum.unwrap_or_else(|| self.settings.key.of_entry(key, body));
        self.entries.push_new(key, body.as_bytes(), sum);
        self.write_ready(ground)
    }

    fn cuts(&self) -> Cuts<'_, B> {
        Cuts {
            entries: &self.entries,
            limits: Limits::new(&self.settings.geometry, 0),
            low_len: self.frontier.as_ref().map_or(0, Vec::len),
        }
    }

    fn write_ready<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(), G::Error> {
        let fanout = usize::from(self.settings.geometry.fanout_max);
        loop {
            let bytes = self.entries.bytes_bound();
            if bytes < self.ask_at && self.entries.len() <= 2 * fanout {
                return Ok(());
            }
            match self.cuts().ready() {
                Ok(count) => self.write_leaf(ground, count, None)?,
                Err(more) => {
                    self.ask_at = bytes + more;
                    return Ok(());
                }
            }
        }
    }

    /// Whether nothing is pending at `level`.
    fn is_empty(&self, level: u8) -> bool {
        match level {
            0 => self.entries.is_empty(),
            _ => self
                .children
                .get(usize::from(level) - 1)
                .is_none_or(Pending::is_empty),
        }
    }

    /// Whether what is pending at a branch level is too little for a node.
    fn is_underfull(&self, level: u8) -> bool {
        self.children[usize::from(level) - 1].is_underfull()
    }

    /// Makes way for a clean subtree of `level` that begins at `low`: writes what is pending
    /// below it. Says `false` if the subtree must be opened instead, because what is pending is
    /// too little for a node, or because there is a gap before it.
    pub fn make_way<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        low: &[u8],
        root: &Root,
    ) -> Result<bool, G::Error> {
        if self.entries.is_empty() {
            if self.frontier.as_deref() != Some(low) {
                return Ok(false);
            }
        } else if level == 0 && self.cuts().wants(root) {
            return Ok(false);
        } else {
            self.flush(ground, 0, Some(low))?;
        }
        for at in 1..=level {
            if self.is_empty(at) {
                continue;
            }
            if self.is_underfull(at) {
                // A neighbour that is one huge node cannot help, unless a branch would be left
                // with a single child.
                let limits = Limits::new(&self.settings.geometry, at);
                let alone = self.children[usize::from(at) - 1].len() < limits.least;
                if at < level || root.pointer.order.0 <= limits.order || alone {
                    return Ok(false);
                }
            }
            self.flush(ground, at, Some(low))?;
        }
        Ok(true)
    }

    /// Keeps a clean subtree for which way was made.
    pub fn keep<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        low: &[u8],
        high: Option<&[u8]>,
        root: Root,
    ) -> Result<(), G::Error> {
        assert!(self.entries.is_empty() && self.frontier.as_deref() == Some(low));
        self.set_frontier(high);
        self.push_child(ground, level + 1, low, Child { root, fresh: false })
    }

    fn set_frontier(&mut self, high: Option<&[u8]>) {
        match (high, &mut self.frontier) {
            (Some(high), Some(frontier)) => {
                frontier.clear();
                frontier.extend_from_slice(high);
            }
            (high, frontier) => *frontier = high.map(<[u8]>::to_vec),
        }
    }

    fn push_child<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        low: &[u8],
        child: Child,
    ) -> Result<(), G::Error> {
        let index = usize::from(level) - 1;
        while self.children.len() <= index {
            // Branches of all levels have the same limits.
            let limits = Limits::new(&self.settings.geometry, level);
            self.children.push(Pending::new(limits));
        }
        let pending = &mut self.children[index];
        let low_len = if pending.is_empty() {
            low.len()
        } else {
            pending.key(0).len()
        };
        pending.push(low, child, low_len);
        while let Some(count) = self.children[index].ready() {
            self.write_branch(ground, level, count, None)?;
        }
        Ok(())
    }

    /// Writes all that is pending at `level` as nodes, the last of which ends at `high`.
    fn flush<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        high: Option<&[u8]>,
    ) -> Result<(), G::Error> {
        if level == 0 {
            let high_len = high.map(<[u8]>::len);
            while let Some(count) = self.cuts().last(high_len) {
                self.write_leaf(ground, count, None)?;
            }
            return self.write_leaf(ground, self.entries.len(), Some(high));
        }
        let pending = &self.children[usize::from(level) - 1];
        let ends = pending.plan(pending.key(0).len(), high.map_or(0, <[u8]>::len));
        let mut from = 0;
        for (index, end) in ends.iter().enumerate() {
            let last = (index + 1 == ends.len()).then_some(high);
            self.write_branch(ground, level, end - from, last)?;
            from = *end;
        }
        Ok(())
    }

    fn label<G: Ground<Bytes = B>>(&self, ground: &mut G, bytes: usize) -> Result<Label, G::Error> {
        let units = self.settings.geometry.units_for(bytes as u64);
        let order = Order::holding(u32::try_from(units).expect("a node is under 4 GiB"));
        Ok(Label {
            tree: self.settings.tree,
            block: ground.place(order)?,
            order,
            generation: self.settings.generation,
            opening: self.settings.opening,
        })
    }

    fn block_bytes(&self, order: Order) -> usize {
        (self.settings.geometry.unit_bytes as usize) << order.0
    }

    /// Writes the first `count` entries as a leaf. `end` is its high fence if these are the last
    /// ones; otherwise the fence lies before the next.
    #[expect(
        clippy::option_option,
        reason = "an end without an upper bound is an end"
    )]
    fn write_leaf<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        count: usize,
        end: Option<Option<&[u8]>>,
    ) -> Result<(), G::Error> {
        let low = self.frontier.take().expect("entries lie before the end");
        let entries = &self.entries;
        let high: Option<Vec<u8>> = match end {
            Some(high) => high.map(<[u8]>::to_vec),
            None => Some(entries.fence(count)),
        };
        let fences = low.len() + high.as_ref().map_or(0, Vec::len);
        let size = entries.size(0, count, fences);
        let label = self.label(ground, size)?;
        let bytes = self.block_bytes(label.order);
        let first = self.entries.key(0);
        let prefix = first.common_prefix(self.entries.key(count - 1));
        let mut writer = LeafWriter::new(first, prefix, count, bytes);
        self.entries.encode(count, &mut writer);
        let (block, pointer) = writer.finish(&label, bytes, &low, high.as_deref());
        assert_eq!(pointer.logical_bytes as usize, size);
        let sum = self.entries.drop_first(count, &self.settings.key);
        self.ask_at = 0;
        ground.write(0, &pointer, block)?;
        self.written += 1;
        self.frontier = high;
        let summary = Summary {
            count: count as u64,
            sum,
        };
        self.push_fresh(ground, 1, &low, pointer, summary)
    }

    #[expect(
        clippy::option_option,
        reason = "an end without an upper bound is an end"
    )]
    fn write_branch<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        count: usize,
        end: Option<Option<&[u8]>>,
    ) -> Result<(), G::Error> {
        let index = usize::from(level) - 1;
        let pending = &self.children[index];
        let low = pending.key(0).to_vec();
        let high = end.unwrap_or_else(|| Some(pending.key(count)));
        let size = pending.size(0, count, low.len() + high.map_or(0, <[u8]>::len));
        let label = self.label(ground, size)?;
        let mut block = vec![0; self.block_bytes(label.order)];
        let pointer = encode_branch(&mut block, &label, level, high, count, |index| {
            (pending.key(index), pending.extra(index).root)
        });
        assert_eq!(pointer.logical_bytes as usize, size);
        let summary = (0..count).fold(Summary::EMPTY, |summary, index| {
            summary.plus(pending.extra(index).root.summary)
        });
        self.children[index].drop_first(count);
        ground.write(level, &pointer, block)?;
        self.written += 1;
        self.push_fresh(ground, level + 1, &low, pointer, summary)
    }

    fn push_fresh<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        low: &[u8],
        pointer: Pointer,
        summary: Summary,
    ) -> Result<(), G::Error> {
        let root = Root { pointer, summary };
        self.push_child(ground, level, low, Child { root, fresh: true })
    }

    /// Ends the stream: writes all that is pending. Gives the root and its level.
    pub fn finish<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(Root, u8), G::Error> {
        if self.entries.is_empty() && self.frontier.is_some() {
            // The last entries are gone: their range falls to the leaf before them.
            if !self.reopen_last(ground, 0)? {
                return Ok((Root::EMPTY, 0));
            }
        }
        for level in 0.. {
            let top = (usize::from(level)..self.children.len())
                .all(|index| self.children[index].is_empty());
            if level > 0 && top {
                let pending = &self.children[usize::from(level) - 1];
                if pending.len() == 1 {
                    return Ok((pending.extra(0).root, level - 1));
                }
            }
            if self.is_empty(level) {
                continue;
            }
            if level > 0 && !top && self.is_underfull(level) {
                self.reopen_last(ground, level)?;
            }
            self.flush(ground, level, None)?;
        }
        unreachable!("each level has fewer nodes than the one below it")
    }

    /// Opens the last clean node of `level` and puts its contents before what is pending there.
    /// Says `false` if there is none, or if it was just written.
    fn reopen_last<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
    ) -> Result<bool, G::Error> {
        let above = usize::from(level);
        if self.is_empty(level + 1)
            && (above + 1 >= self.children.len() || !self.reopen_last(ground, level + 1)?)
        {
            return Ok(false);
        }
        let pending = &self.children[above];
        let last = pending.len() - 1;
        let child = *pending.extra(last);
        let limits = Limits::new(&self.settings.geometry, level);
        let must = self.len(level) < limits.least;
        if child.fresh || (child.root.pointer.order.0 > limits.order && !must) {
            return Ok(false);
        }
        let node = ground.node(self.settings.tree, &child.root.pointer)?;
        expect_level(Some(level), &node)?;
        ground.retire_node(&child.root.pointer);
        let (low, _) = self.children[above].pop().expect("it was seen");
        if node.low() != low {
            return Err(Corrupt::rule(
                Structure::Node,
                "its fences are not those its parent gives it",
            )
            .at(Place::Block(child.root.pointer.block))
            .into());
        }
        if level == 0 {
            self.reopen_leaf(ground, node, low, child.root.summary.sum)?;
        } else {
            self.reopen_branch(ground, level, &node)?;
        }
        Ok(true)
    }

    fn len(&self, level: u8) -> usize {
        match level {
            0 => self.entries.len(),
            _ => self
                .children
                .get(usize::from(level) - 1)
                .map_or(0, Pending::len),
        }
    }

    fn reopen_leaf<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        node: Arc<Node<B>>,
        low: Vec<u8>,
        sum: Sum,
    ) -> Result<(), G::Error> {
        assert!(self.entries.is_empty());
        self.frontier = Some(low);
        let count = node.count();
        self.entries.open(node, sum);
        self.old_entries(ground, 0, count)
    }

    fn reopen_branch<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        level: u8,
        node: &Node<B>,
    ) -> Result<(), G::Error> {
        let index = usize::from(level) - 1;
        let limits = *self.children[index].limits();
        let behind = core::mem::replace(&mut self.children[index], Pending::new(limits));
        let mut low = Vec::new();
        for at in 0..node.count() {
            low.clear();
            node.child_low(at, &mut low);
            let root = node.child(at);
            self.push_child(ground, level, &low, Child { root, fresh: false })?;
        }
        for (low, child) in behind.into_items() {
            self.push_child(ground, level, &low, child)?;
        }
        Ok(())
    }
}
