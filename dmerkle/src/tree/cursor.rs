//! Walking entries in key order, both ways, a node at a time: the caller brings each node that
//! the cursor asks for, from memory or from disk, blocking or not.
//!
//! Invariants: the path leads from the root to where the cursor stands, each node a child of the
//! one before, at the index kept there; a cursor on an entry has a leaf at the path's end.

use std::sync::Arc;

use crate::error::Corrupt;
use crate::format::body::BodyRef;
use crate::format::pointer::Pointer;
use crate::tree::apply::expect_fences;
use crate::tree::ground::Source;
use crate::tree::lookup::expect_level;
use crate::tree::node::{KeyRef, Node};
use crate::types::TreeId;

/// Where a cursor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Between entries until it gets this node.
    Need(Pointer),
    /// On an entry.
    Entry,
    /// Past the last entry, or before the first; only a seek leads back.
    End,
}

/// Which way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To larger keys.
    Forward,
    /// To smaller keys.
    Backward,
}

/// What the cursor is going down for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    First,
    Last,
    AtOrAfter(Vec<u8>),
    Before(Vec<u8>),
}

/// A place in a tree.
#[derive(Debug)]
pub struct Cursor<B> {
    root: Pointer,
    path: Vec<(Arc<Node<B>>, usize)>,
    goal: Goal,
    position: Position,
}

impl<B> Clone for Cursor<B> {
    fn clone(&self) -> Self {
        Self {
            root: self.root,
            path: self.path.clone(),
            goal: self.goal.clone(),
            position: self.position,
        }
    }
}

impl<B: AsRef<[u8]>> Cursor<B> {
    /// A cursor over the tree of `root`, nowhere yet: seek first.
    pub fn new(root: Pointer) -> Self {
        Self {
            root,
            path: Vec::new(),
            goal: Goal::First,
            position: Position::End,
        }
    }

    /// Goes to the first entry at or above `key`.
    pub fn seek(&mut self, key: &[u8]) -> Position {
        self.keep_path_to(key);
        self.go_down(Goal::AtOrAfter(key.to_vec()))
    }

    /// Goes to the last entry below `key`; without a key, to the last of all.
    pub fn seek_before(&mut self, key: Option<&[u8]>) -> Position {
        if let Some(key) = key {
            self.keep_path_to(key);
            return self.go_down(Goal::Before(key.to_vec()));
        }
        self.path.truncate(1);
        self.go_down(Goal::Last)
    }

    /// Goes one entry up.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator cannot say that it needs a node"
    )]
    pub fn next(&mut self) -> Position {
        self.step(Direction::Forward)
    }

    /// Goes one entry down.
    pub fn prev(&mut self) -> Position {
        self.step(Direction::Backward)
    }

    /// Goes one entry on. Where a node is needed, or at the end, it stays.
    pub fn step(&mut self, direction: Direction) -> Position {
        if self.position != Position::Entry {
            return self.position;
        }
        let (leaf, index) = self.path.last_mut().expect("on an entry");
        match direction {
            Direction::Forward if *index + 1 < leaf.count() => *index += 1,
            Direction::Backward if *index > 0 => *index -= 1,
            _ => return self.leave_leaf(direction),
        }
        Position::Entry
    }

    /// Goes `count` entries up, at most to behind the last entry of the leaf.
    ///
    /// # Panics
    /// Panics if the cursor stands on no entry, or past the leaf's end.
    pub fn skip(&mut self, count: usize) -> Position {
        let (leaf, at) = self.leaf();
        let (to, entries) = (at + count, leaf.count());
        assert!(to <= entries, "the leaf has no more entries");
        if to == entries {
            return self.leave_leaf(Direction::Forward);
        }
        self.path.last_mut().expect("on an entry").1 = to;
        self.position
    }

    /// Where the cursor stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes on with the node that was asked for.
    ///
    /// # Panics
    /// Panics if no node was asked for.
    pub fn supply(&mut self, node: Arc<Node<B>>) -> Result<Position, Corrupt> {
        assert!(matches!(self.position, Position::Need(_)), "no node is due");
        if let Some((parent, index)) = self.path.last() {
            expect_level(Some(parent.level() - 1), &node)?;
            expect_fences(parent, *index, &node)?;
        }
        self.path.push((node, 0));
        Ok(self.go_on_down())
    }

    /// Brings nodes from `source` until the cursor stands on an entry (`true`) or at the end.
    pub fn complete<S>(&mut self, source: &mut S, tree: TreeId) -> Result<bool, S::Error>
    where
        S: Source<Bytes = B>,
    {
        loop {
            match self.position {
                Position::Entry => return Ok(true),
                Position::End => return Ok(false),
                Position::Need(pointer) => {
                    let node = source.node(tree, &pointer)?;
                    self.supply(node)?;
                }
            }
        }
    }

    /// The leaf that the cursor stands in, and the entry's index there.
    ///
    /// # Panics
    /// Panics if the cursor stands on no entry; so do [`Cursor::key`] and [`Cursor::body`].
    pub fn leaf(&self) -> (&Arc<Node<B>>, usize) {
        assert!(self.position == Position::Entry, "the cursor is nowhere");
        let (leaf, index) = self.path.last().expect("on an entry");
        (leaf, *index)
    }

    /// The entry's key.
    pub fn key(&self) -> KeyRef<'_> {
        let (leaf, index) = self.leaf();
        leaf.entry_key(index)
    }

    /// The entry's body.
    pub fn body(&self) -> BodyRef<'_> {
        let (leaf, index) = self.leaf();
        leaf.body(index)
    }

    /// Appends the pointers that the cursor will ask for next if it goes on in `direction`, at
    /// most `max`: the siblings of its leaf, then of its branch. None that lies wholly at or
    /// above `bound` (going forward) or below it (going backward).
    pub fn upcoming(
        &self,
        direction: Direction,
        bound: Option<&[u8]>,
        max: usize,
        out: &mut Vec<Pointer>,
    ) {
        let most = out.len() + max;
        for (node, index) in self.path.iter().rev().filter(|(node, _)| !node.is_leaf()) {
            let mut index = *index;
            while out.len() < most {
                match direction {
                    Direction::Forward => {
                        index += 1;
                        if index == node.count() {
                            break;
                        }
                        if bound.is_some_and(|bound| node.key(index - 1).cmp_key(bound).is_ge()) {
                            return;
                        }
                    }
                    Direction::Backward => {
                        let Some(before) = index.checked_sub(1) else {
                            break;
                        };
                        index = before;
                        if bound.is_some_and(|bound| node.child_ends_by(index, bound)) {
                            return;
                        }
                    }
                }
                out.push(node.child_pointer(index));
            }
        }
    }

    /// Keeps that part of the path which also leads to `key`.
    fn keep_path_to(&mut self, key: &[u8]) {
        while self.path.last().is_some_and(|(node, _)| !node.covers(key)) {
            self.path.pop();
        }
    }

    fn go_down(&mut self, goal: Goal) -> Position {
        self.goal = goal;
        self.go_on_down()
    }

    /// From the path's end towards the goal.
    fn go_on_down(&mut self) -> Position {
        let Some((node, index)) = self.path.last_mut() else {
            self.position = if self.root.is_none() {
                Position::End
            } else {
                Position::Need(self.root)
            };
            return self.position;
        };
        if node.is_leaf() {
            let at = match &self.goal {
                Goal::First => Some(0),
                Goal::Last => Some(node.count() - 1),
                Goal::AtOrAfter(key) => Some(node.position(key).0),
                Goal::Before(key) => node.position(key).0.checked_sub(1),
            };
            match at {
                None => return self.leave_leaf(Direction::Backward),
                Some(at) if at == node.count() => return self.leave_leaf(Direction::Forward),
                Some(at) => *index = at,
            }
            self.position = Position::Entry;
            return self.position;
        }
        *index = match &self.goal {
            Goal::First => 0,
            Goal::Last => node.count() - 1,
            Goal::AtOrAfter(key) | Goal::Before(key) => node.child_index(key),
        };
        self.position = Position::Need(node.child_pointer(*index));
        self.position
    }

    /// To the neighbouring leaf.
    fn leave_leaf(&mut self, direction: Direction) -> Position {
        self.path.pop();
        while let Some((node, index)) = self.path.last_mut() {
            let (next, goal) = match direction {
                Direction::Forward => (Some(*index + 1), Goal::First),
                Direction::Backward => (index.checked_sub(1), Goal::Last),
            };
            if let Some(next) = next.filter(|&next| next < node.count()) {
                *index = next;
                self.goal = goal;
                self.position = Position::Need(node.child_pointer(next));
                return self.position;
            }
            self.path.pop();
        }
        self.position = Position::End;
        self.position
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::geometry::Geometry;
    use crate::tree::Root;
    use crate::tree::testing::{Bytes, Memory, Model, Ops, TREE, body};

    fn forest(keys: &[Vec<u8>]) -> (Memory, Root, Model) {
        let model: Model = keys
            .iter()
            .map(|key| (key.clone(), body(&key[..key.len().min(3)])))
            .collect();
        let ops: Ops = model
            .iter()
            .map(|(key, body)| (key.clone(), Some(body.clone())))
            .collect();
        let mut memory = Memory::new(Geometry {
            regions_max: 4000,
            ..Geometry::tiny()
        });
        let root = memory.apply(1, Root::EMPTY, &ops).root;
        (memory, root, model)
    }

    fn at(cursor: &mut Cursor<Bytes>, memory: &mut Memory) -> Option<(Vec<u8>, Vec<u8>)> {
        cursor
            .complete(memory, TREE)
            .unwrap()
            .then(|| (cursor.key().to_vec(), cursor.body().as_bytes().to_vec()))
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..4u8, 0..5)
    }

    #[derive(Debug, Clone)]
    enum Move {
        Seek(Vec<u8>),
        Before(Option<Vec<u8>>),
        Next(u8),
        Prev(u8),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            key().prop_map(Move::Seek),
            proptest::option::of(key()).prop_map(Move::Before),
            (0..30u8).prop_map(Move::Next),
            (0..30u8).prop_map(Move::Prev),
        ];
        proptest::collection::vec(one, 1..20)
    }

    proptest! {
        #[test]
        fn a_cursor_walks_as_a_map_does(
            keys in proptest::collection::vec(key(), 0..120),
            moves in moves(),
        ) {
            let (mut memory, root, model) = forest(&keys);
            let mut cursor = Cursor::new(root.pointer);
            let mut expected: Option<(Vec<u8>, Vec<u8>)> = None;
            let owned = |(key, body): (&Vec<u8>, &Vec<u8>)| (key.clone(), body.clone());
            for step in moves {
                let times = match &step {
                    Move::Next(n) | Move::Prev(n) => *n,
                    _ => 1,
                };
                for _ in 0..times {
                    match &step {
                        Move::Seek(key) => {
                            cursor.seek(key);
                            expected = model.range(key.clone()..).next().map(owned);
                        }
                        Move::Before(Some(key)) => {
                            cursor.seek_before(Some(key));
                            expected = model.range(..key.clone()).next_back().map(owned);
                        }
                        Move::Before(None) => {
                            cursor.seek_before(None);
                            expected = model.iter().next_back().map(owned);
                        }
                        Move::Next(_) => {
                            cursor.next();
                            expected = expected.and_then(|(key, _)| {
                                model.range(key.clone()..).find(|(k, _)| **k > key).map(owned)
                            });
                        }
                        Move::Prev(_) => {
                            cursor.prev();
                            expected = expected
                                .and_then(|(key, _)| model.range(..key).next_back().map(owned));
                        }
                    }
                    prop_assert_eq!(at(&mut cursor, &mut memory), expected.clone());
                }
            }
        }

        #[test]
        fn what_is_upcoming_is_asked_for(
            keys in proptest::collection::vec(key(), 1..120),
            from in key(),
            bound in proptest::option::of(key()),
            forward in any::<bool>(),
        ) {
            let (mut memory, root, _) = forest(&keys);
            let mut cursor = Cursor::new(root.pointer);
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            if forward { cursor.seek(&from) } else { cursor.seek_before(Some(&from)) };
            let inside = |key: &[u8]| bound.as_ref().is_none_or(|bound| {
                if forward { key < &bound[..] } else { key >= &bound[..] }
            });
            let Some((first, _)) = at(&mut cursor, &mut memory) else { return Ok(()) };
            if !inside(&first) { return Ok(()) }
            let mut upcoming = Vec::new();
            cursor.upcoming(direction, bound.as_deref(), 100, &mut upcoming);
            let mut asked = Vec::new();
            loop {
                match cursor.step(direction) {
                    Position::Entry if !inside(&cursor.key().to_vec()) => break,
                    Position::Entry => {}
                    Position::End => break,
                    Position::Need(mut pointer) => {
                        loop {
                            asked.push(pointer);
                            let node = memory.node(TREE, &pointer).unwrap();
                            match cursor.supply(node).unwrap() {
                                Position::Need(next) => pointer = next,
                                _ => break,
                            }
                        }
                        if cursor.position() == Position::Entry && !inside(&cursor.key().to_vec()) {
                            break;
                        }
                    }
                }
            }
            // The last one may hold nothing inside the bound, only a part of its range.
            let met = upcoming.iter().filter(|pointer| asked.contains(pointer)).count();
            prop_assert!(met + 1 >= upcoming.len(), "{} of {}", met, upcoming.len());
        }
    }
}
