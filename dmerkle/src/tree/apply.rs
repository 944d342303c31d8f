//! Applies sorted operations to a tree: the pure function at the heart of a checkpoint.
//!
//! `apply(root, operations) -> new nodes, retired blocks, new root`, in steps of about a leaf, so
//! that a checkpoint can yield. The old tree is walked in key order. A leaf that an operation
//! changes is *opened*: its entries join a stream together with the new ones, and from the stream
//! `Packer` makes new nodes. What no operation changes is *kept*, as high up as possible: one
//! child of a new branch stands for the whole subtree.
//!
//! Invariants:
//! - A node is opened only when something below it really changes (an operation may say what is
//!   there already); if nothing does, the root stays the same and nothing is written.
//! - Opened frames of the walk stand above unopened ones, and every child left of an opened
//!   frame's `next` has gone to the packer.
//! - Every opened node is retired once, and every extent that an operation drops.

mod backlog;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Corrupt, Place, Structure};
use crate::format::body::{BodyRef, KEY_BYTES_MAX};
use crate::format::pointer::Pointer;
use crate::tree::branch::Root;
use crate::tree::ground::Ground;
use crate::tree::lookup::expect_level;
use crate::tree::node::Node;
use crate::tree::pack::{Packer, Settings};
use crate::tree::pending::Limits;
use crate::types::Sum;
use backlog::Backlog;

/// How many operations are looked at ahead, to name the nodes that they will need.
const AHEAD_MAX: usize = 4096;

/// How many nodes are named ahead at once.
const PREFETCH_MAX: usize = 256;

/// How many branches are named ahead, each with some hundred leaves below.
const BRANCHES_AHEAD: usize = 4;

/// The work of one step: moved entries count one, nodes read or written as much as this.
const STEP_WORK: usize = 256;

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op<K, V> {
    /// The entry's key.
    pub key: K,
    /// What becomes of it.
    pub change: Change<V>,
    /// The new entry's fingerprint, if it is known.
    pub fingerprint: Option<Sum>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<V> {
    /// This encoded body is its body.
    Put(V),
    /// It is gone, if it was there.
    Delete,
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> Op<K, V> {
    /// About what it adds to a leaf.
    fn bytes(&self) -> usize {
        match &self.change {
            Change::Put(body) => self.key.as_ref().len() + body.as_ref().len(),
            Change::Delete => 0,
        }
    }
}

/// What came of an apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The new tree. The old one, pointer and all, if no operation changed anything.
    pub root: Root,
    /// Levels of the new tree; 0 if it is empty.
    pub height: u8,
    /// Nodes written.
    pub written: usize,
}

/// Whether an apply is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call `step` again.
    More,
    /// The new tree stands.
    Done(Applied),
}

/// A node on the way from the root to where the walk is.
#[derive(Debug)]
struct Frame<B> {
    node: Arc<Node<B>>,
    sum: Sum,
    /// In a branch the child, in an opened leaf the entry, that comes next.
    next: usize,
    open: bool,
}

/// An apply under way.
///
/// After an error it must be dropped, and all that it wrote and retired forgotten.
#[derive(Debug)]
pub struct Apply<I, K, V, B> {
    old: Root,
    ops: Ops<I, K, V>,
    frames: Vec<Frame<B>>,
    /// Frames below one that was opened and is walked from its beginning, lowest first.
    stash: Vec<Frame<B>>,
    packer: Packer<B>,
    /// The branch behind the one where the walk is, some of whose children are named already.
    next_branch: Option<Arc<Node<B>>>,
    begun: bool,
    opened: bool,
    old_height: u8,
    work: usize,
    low: Vec<u8>,
    high: Vec<u8>,
}

impl<I, K, V, B> Apply<I, K, V, B>
where
    I: Iterator<Item = Op<K, V>>,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
    B: AsRef<[u8]>,
{
    /// Will apply `ops`, strictly ascending by key, to the tree of `root`.
    pub fn new(settings: Settings, root: Root, ops: impl IntoIterator<IntoIter = I>) -> Self {
        Self {
            old: root,
            ops: Ops::new(ops.into_iter()),
            frames: Vec::new(),
            stash: Vec::new(),
            packer: Packer::new(settings),
            next_branch: None,
            begun: false,
            opened: false,
            old_height: 0,
            work: 0,
            low: Vec::new(),
            high: Vec::new(),
        }
    }

    /// Goes on to the end.
    pub fn run<G: Ground<Bytes = B>>(mut self, ground: &mut G) -> Result<Applied, G::Error> {
        loop {
            if let Progress::Done(applied) = self.step(ground)? {
                return Ok(applied);
            }
        }
    }

    /// Goes on for about a leaf's worth of work.
    pub fn step<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<Progress, G::Error> {
        self.work = 0;
        let written = self.packer.written;
        if !self.begun {
            self.begun = true;
            self.begin(ground)?;
        }
        while self.work < STEP_WORK && self.packer.written == written {
            if let Some(applied) = self.advance(ground)? {
                return Ok(Progress::Done(applied));
            }
        }
        Ok(Progress::More)
    }

    fn begin<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(), G::Error> {
        if self.old.pointer.is_none() {
            return Ok(());
        }
        let node = self.load(ground, &self.old.pointer.clone())?;
        if !node.low().is_empty() || node.high().is_some() {
            return Err(broken(&node, "the root does not cover all keys").into());
        }
        self.old_height = node.level() + 1;
        if !node.is_leaf() {
            self.prefetch(ground, &node);
        }
        self.push(node, self.old.summary.sum);
        Ok(())
    }

    /// One move of the walk.
    fn advance<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
    ) -> Result<Option<Applied>, G::Error> {
        let Some(frame) = self.frames.last() else {
            return self.behind_the_tree(ground);
        };
        match (frame.node.is_leaf(), frame.open) {
            (true, false) => self.examine_leaf(ground)?,
            (true, true) => self.merge_leaf(ground)?,
            (false, _) => self.walk_branch(ground)?,
        }
        Ok(None)
    }

    /// Where no old node is left (or none ever was): the remaining operations, then the end.
    fn behind_the_tree<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
    ) -> Result<Option<Applied>, G::Error> {
        let Some(op) = self.ops.pop() else {
            return self.finish(ground).map(Some);
        };
        assert!(self.old.pointer.is_none(), "the old tree covers all keys");
        self.work += 1;
        if let Change::Put(body) = &op.change {
            self.opened = true;
            let body = BodyRef::trusted(body.as_ref());
            self.packer
                .new_entry(ground, op.key.as_ref(), body, op.fingerprint)?;
        }
        Ok(None)
    }

    fn finish<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<Applied, G::Error> {
        if !self.opened {
            return Ok(Applied {
                root: self.old,
                height: self.old_height,
                written: 0,
            });
        }
        let (root, level) = self.packer.finish(ground)?;
        Ok(Applied {
            root,
            height: if root.pointer.is_none() { 0 } else { level + 1 },
            written: self.packer.written,
        })
    }

    /// In a leaf that nothing has changed yet: passes over operations that say what is there.
    fn examine_leaf<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(), G::Error> {
        let frame = self.frames.last().expect("a leaf is being examined");
        if let Some(op) = self.ops.peek_below(frame.node.high()) {
            let old = frame.node.find(op.key.as_ref());
            let same = match (&op.change, old) {
                (Change::Put(body), Some(old)) => old.as_bytes() == body.as_ref(),
                (Change::Delete, None) => true,
                _ => false,
            };
            if same {
                self.ops.pop();
                self.work += 1;
            } else {
                self.open_next(ground);
            }
            return Ok(());
        }
        self.settle(ground)
    }

    /// Opens the highest unopened frame and walks it from its beginning; the frames below it
    /// come back when the walk reaches them.
    fn open_next<G: Ground<Bytes = B>>(&mut self, ground: &mut G) {
        assert!(self.stash.is_empty());
        let depth = self.frames.iter().take_while(|frame| frame.open).count();
        while self.frames.len() > depth + 1 {
            self.stash.extend(self.frames.pop());
        }
        self.open_last(ground);
    }

    /// Opens the last frame.
    fn open_last<G: Ground<Bytes = B>>(&mut self, ground: &mut G) {
        let frame = self.frames.last_mut().expect("a frame is being opened");
        assert!(!frame.open);
        frame.open = true;
        frame.next = 0;
        self.opened = true;
        ground.retire_node(frame.node.pointer());
        if frame.node.is_leaf() {
            self.packer.open_leaf(Arc::clone(&frame.node), frame.sum);
        }
    }

    /// The last frame holds no change and no operation is left for it.
    fn settle<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(), G::Error> {
        let depth = self.frames.len();
        let Some(parent) = depth.checked_sub(2).map(|index| &self.frames[index]) else {
            self.frames.pop();
            return Ok(());
        };
        if parent.open {
            let root = parent.node.child(parent.next);
            let node = &self.frames[depth - 1].node;
            let low = node.low();
            if !self.packer.make_way(ground, node.level(), low, &root)? {
                self.open_last(ground);
                return Ok(());
            }
            self.packer
                .keep(ground, node.level(), low, node.high(), root)?;
        }
        self.leave();
        Ok(())
    }

    /// The last frame is done: its parent goes on behind it.
    fn leave(&mut self) {
        self.frames.pop();
        self.work += 1;
        if let Some(parent) = self.frames.last_mut() {
            parent.next += 1;
        }
    }

    /// In an opened leaf: moves entries up to the next operation, and the operation.
    fn merge_leaf<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(), G::Error> {
        let frame = self.frames.last_mut().expect("a leaf is being merged");
        let node = Arc::clone(&frame.node);
        let Some(op) = self.ops.pop_below(node.high()) else {
            let from = frame.next;
            self.move_entries(ground, from, node.count())?;
            self.leave();
            return Ok(());
        };
        let key = op.key.as_ref();
        let (position, found) = node.position(key);
        let from = core::mem::replace(&mut frame.next, position + usize::from(found));
        self.work += 1;
        self.move_entries(ground, from, position)?;
        let old = found.then(|| node.body(position));
        let new = match &op.change {
            Change::Put(body) => Some(BodyRef::trusted(body.as_ref())),
            Change::Delete => None,
        };
        if let (Some(old), Some(new)) = (old, new)
            && old.as_bytes() == new.as_bytes()
        {
            return self.packer.old_entries(ground, position, position + 1);
        }
        if let Some(old) = old {
            self.packer.forget(position, key);
            let geometry = self.packer.settings().geometry;
            for extent in old.extents() {
                let kept =
                    new.is_some_and(|new| new.extents().any(|new| new.start() == extent.start()));
                if !kept {
                    ground.retire_extent(extent.run(&geometry));
                }
            }
        }
        if let Some(new) = new {
            self.packer.new_entry(ground, key, new, op.fingerprint)?;
        }
        Ok(())
    }

    fn move_entries<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        from: usize,
        to: usize,
    ) -> Result<(), G::Error> {
        self.work += to - from;
        self.packer.old_entries(ground, from, to)
    }

    /// In a branch: goes down where an operation is, and otherwise keeps or passes over a child.
    fn walk_branch<G: Ground<Bytes = B>>(&mut self, ground: &mut G) -> Result<(), G::Error> {
        let frame = self.frames.last_mut().expect("a branch is being walked");
        let node = Arc::clone(&frame.node);
        let op = self.ops.peek_below(node.high());
        if !frame.open {
            // Nothing has changed so far: straight to the child of the next operation.
            frame.next = op.map_or(node.count(), |op| node.child_index(op.key.as_ref()));
        }
        let next = frame.next;
        if next == node.count() {
            if frame.open {
                self.leave();
                return Ok(());
            }
            return self.settle(ground);
        }
        if op.is_some_and(|op| !node.child_ends_by(next, op.key.as_ref())) {
            return self.enter(ground, &node, next);
        }
        let root = node.child(next);
        self.low.clear();
        node.child_low(next, &mut self.low);
        let level = node.level() - 1;
        if self.packer.make_way(ground, level, &self.low, &root)? {
            self.high.clear();
            let bounded = node.child_high(next, &mut self.high);
            let high = bounded.then_some(&self.high[..]);
            self.packer.keep(ground, level, &self.low, high, root)?;
            frame.next += 1;
            self.work += 1;
            return Ok(());
        }
        self.enter(ground, &node, next)?;
        self.open_last(ground);
        Ok(())
    }

    /// Goes down to child `index` of `parent`, the last frame's node.
    fn enter<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        parent: &Node<B>,
        index: usize,
    ) -> Result<(), G::Error> {
        let child = parent.child(index);
        if self
            .stash
            .last()
            .is_some_and(|frame| *frame.node.pointer() == child.pointer)
        {
            self.frames.extend(self.stash.pop());
            return Ok(());
        }
        let is_next = |next: &mut Arc<Node<B>>| *next.pointer() == child.pointer;
        let node = match self.next_branch.take_if(is_next) {
            Some(node) => node,
            None => self.load(ground, &child.pointer)?,
        };
        expect_level(Some(parent.level() - 1), &node)?;
        expect_fences(parent, index, &node)?;
        if node.is_leaf() && node.count() as u64 != child.summary.count {
            return Err(broken(&node, "its parent counts other entries").into());
        }
        if !node.is_leaf() {
            // Again, if it was the next one: the view reaches further now.
            self.prefetch(ground, &node);
        }
        if node.level() == 1 {
            self.name_next(ground, parent, &node)?;
        }
        self.push(node, child.summary.sum);
        Ok(())
    }

    fn load<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        pointer: &Pointer,
    ) -> Result<Arc<Node<B>>, G::Error> {
        self.work += STEP_WORK;
        ground.node(self.packer.settings().tree, pointer)
    }

    fn push(&mut self, node: Arc<Node<B>>, sum: Sum) {
        self.frames.push(Frame {
            node,
            sum,
            next: 0,
            open: false,
        });
    }

    /// Names the branches behind `node` that operations will go to, and the leaves below the first
    /// of them, so that they come while those below `node` are worked on.
    fn name_next<G: Ground<Bytes = B>>(
        &mut self,
        ground: &mut G,
        parent: &Node<B>,
        node: &Node<B>,
    ) -> Result<(), G::Error> {
        self.ops.look_ahead();
        let ahead = &self.ops.ahead;
        let mut branches: Vec<Pointer> = Vec::new();
        let mut end = node.high().map(<[u8]>::to_vec);
        while let Some(low) = &end
            && parent.high().is_none_or(|high| low.as_slice() < high)
            && branches.len() < BRANCHES_AHEAD
        {
            let behind = ahead.partition_point(|op| op.key.as_ref() < low.as_slice());
            let key = ahead.get(behind).map(|op| op.key.as_ref());
            let Some(key) = key.filter(|key| parent.high().is_none_or(|high| *key < high)) else {
                break;
            };
            let (index, pointer) = parent.child_for(key);
            branches.push(pointer);
            let mut high = Vec::new();
            end = parent.child_high(index, &mut high).then_some(high);
        }
        let Some(next) = branches.first().copied() else {
            return Ok(());
        };
        ground.prefetch(self.packer.settings().tree, &branches);
        let next = self.load(ground, &next)?;
        expect_level(Some(1), &next)?;
        self.prefetch(ground, &next);
        self.next_branch = Some(next);
        Ok(())
    }

    /// Names the children of `node` that operations will change, and the leaves that those which
    /// overflow will be packed together with.
    fn prefetch<G: Ground<Bytes = B>>(&mut self, ground: &mut G, node: &Node<B>) {
        self.ops.look_ahead();
        let ahead = &self.ops.ahead;
        let limits = Limits::new(&self.packer.settings().geometry, 0);
        let first = ahead.partition_point(|op| op.key.as_ref() < node.low());
        let mut ops = ahead.range(first..).peekable();
        let mut pointers: Vec<Pointer> = Vec::new();
        let mut backlog = Backlog::new(limits);
        while let Some(op) = ops.next()
            && node.high().is_none_or(|high| op.key.as_ref() < high)
            && pointers.len() < PREFETCH_MAX
        {
            let (index, pointer) = node.child_for(op.key.as_ref());
            pointers.push(pointer);
            backlog.leaf(index, pointer.logical_bytes as usize);
            backlog.op(op.bytes());
            while let Some(op) = ops.next_if(|op| !node.child_ends_by(index, op.key.as_ref())) {
                backlog.op(op.bytes());
            }
            let mut neighbour = index + 1;
            while node.level() == 1
                && neighbour < node.count()
                && ops
                    .peek()
                    .is_none_or(|op| node.child_ends_by(neighbour, op.key.as_ref()))
            {
                let pointer = node.child_pointer(neighbour);
                let bytes = pointer.logical_bytes as usize;
                if !backlog.may_want(bytes) {
                    break;
                }
                pointers.push(pointer);
                backlog.leaf(neighbour, bytes);
                neighbour += 1;
            }
        }
        if !pointers.is_empty() {
            ground.prefetch(self.packer.settings().tree, &pointers);
        }
    }
}

/// The node is what its parent says: same fences.
pub(crate) fn expect_fences<B: AsRef<[u8]>>(
    parent: &Node<B>,
    index: usize,
    node: &Node<B>,
) -> Result<(), Corrupt> {
    let low = match index.checked_sub(1) {
        None => parent.low() == node.low(),
        Some(key) => parent.key(key).cmp_key(node.low()).is_eq(),
    };
    let high = match node.high() {
        Some(high) if index < parent.keys() => parent.key(index).cmp_key(high).is_eq(),
        high => index == parent.keys() && parent.high() == high,
    };
    if low && high {
        return Ok(());
    }
    Err(broken(node, "its fences are not those its parent gives it"))
}

fn broken<B: AsRef<[u8]>>(node: &Node<B>, rule: &'static str) -> Corrupt {
    Corrupt::rule(Structure::Node, rule).at(Place::Block(node.pointer().block))
}

/// The operations, with a view ahead.
#[derive(Debug)]
struct Ops<I, K, V> {
    source: I,
    ahead: VecDeque<Op<K, V>>,
}

impl<I, K, V> Ops<I, K, V>
where
    I: Iterator<Item = Op<K, V>>,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    fn new(source: I) -> Self {
        let mut ops = Self {
            source,
            ahead: VecDeque::new(),
        };
        ops.pull();
        ops
    }

    /// Takes one more operation from the source, and sees that it may stand there.
    fn pull(&mut self) -> bool {
        let Some(op) = self.source.next() else {
            return false;
        };
        assert!(op.key.as_ref().len() <= KEY_BYTES_MAX, "a key is too long");
        if let Change::Put(body) = &op.change {
            assert!(BodyRef::decode(body.as_ref()).is_ok(), "a body is broken");
        }
        if let Some(before) = self.ahead.back() {
            assert!(
                before.key.as_ref() < op.key.as_ref(),
                "operations must ascend"
            );
        }
        self.ahead.push_back(op);
        true
    }

    fn look_ahead(&mut self) {
        while self.ahead.len() < AHEAD_MAX && self.pull() {}
    }

    /// The next operation, if its key is below `high`.
    fn peek_below(&self, high: Option<&[u8]>) -> Option<&Op<K, V>> {
        self.ahead
            .front()
            .filter(|op| high.is_none_or(|high| op.key.as_ref() < high))
    }

    fn pop_below(&mut self, high: Option<&[u8]>) -> Option<Op<K, V>> {
        self.peek_below(high)?;
        self.pop()
    }

    fn pop(&mut self) -> Option<Op<K, V>> {
        if self.ahead.len() == 1 {
            self.pull(); // while the one before it is still there to compare with
        }
        self.ahead.pop_front()
    }
}

#[cfg(test)]
mod tests;
