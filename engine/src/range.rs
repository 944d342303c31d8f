//! Walking a key range of a snapshot, summing it up, and comparing it with another copy's: the
//! base and what the memtables hold above it, merged.
//!
//! Invariants: of one key the newest operation counts, and a deleted key does not show; keys come
//! strictly ascending (or descending).

use crate::cache::CachedNode;
use crate::core::Core;
use crate::entry::{Entry, EntryRef};
use crate::error::Error;
use crate::io::AlignedBuf;
use crate::memtable::{Key, Memtable, OpRef, Place};
use crate::pins::Exempt;
use crate::snapshot::Snapshot;
use crate::tree::Tree;
use crate::view::View;
use dmerkle::diff::Contents;
use dmerkle::format::body::BodyRef;
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{
    Cursor, Direction, Position, Range as KeyRange, RangeSummary, Root, Source, Split,
};
use dmerkle::{Geometry, Sum, Summary, TreeId};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Nodes that a walk asks for at once when it needs a second leaf, and when it has gone on for long:
/// each time they are used up it asks for twice as many. A short walk reads little in vain, and a
/// long one waits for the disk once for many. Of smaller leaves than usual it asks for more.
const AHEAD_FIRST: usize = 4;
const AHEAD_MAX: usize = 32;

/// Brings nodes from the cache or the disk.
pub(crate) struct Nodes<'a>(pub(crate) &'a Core);

impl Source for Nodes<'_> {
    type Bytes = AlignedBuf;
    type Error = Error;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<CachedNode>, Error> {
        self.0.node(tree, pointer)
    }

    fn prefetch(&mut self, tree: TreeId, pointers: &[Pointer]) {
        self.0.prefetch(tree, pointers);
    }
}

/// Where a walk is in one memtable.
struct Newer {
    /// Which of the state's memtables. It is not held here: a snapshot that expires lets go of it.
    nth: usize,
    /// The nearest key that is not passed yet, visible or not; none past the last.
    place: Option<Place>,
}

impl Newer {
    fn table<'v>(&self, view: &'v View) -> &'v Arc<Memtable> {
        let table = view.state.memtables().nth(self.nth);
        table.expect("a state's memtables do not change")
    }

    /// Goes on to the next key.
    fn pass(&mut self, view: &View, back: bool) {
        let table = self.table(view);
        self.place = self.place.and_then(|place| {
            if back {
                table.before(place)
            } else {
                table.after(place)
            }
        });
    }
}

/// Walks the entries of a range. Holds the snapshot.
pub struct Range {
    snapshot: Snapshot,
    tree: TreeId,
    back: bool,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    newer: Vec<Newer>,
    base: Cursor<AlignedBuf>,
    begun: bool,
    done: bool,
    /// Said instead of the first entry.
    refused: Option<Error>,
    /// How many of the nodes asked for are still to come; none was asked for before the second leaf.
    asked: Option<usize>,
    /// How many were asked for last.
    ahead: usize,
}

impl Range {
    pub(crate) fn new(
        snapshot: &Snapshot,
        tree: TreeId,
        low: &[u8],
        high: Option<&[u8]>,
        back: bool,
    ) -> Self {
        // What has expired says so when it is asked for an entry.
        let held = snapshot.held().ok();
        let state = held.as_ref().map(|held| &held.view.state);
        let newer = state
            .into_iter()
            .flat_map(|state| state.memtables().enumerate())
            .filter(|(_, table)| !table.is_empty())
            .map(|(nth, table)| {
                let place = if back {
                    table.last_below(Key::end(tree, high))
                } else {
                    table.first_from(Key::new(tree, low))
                };
                Newer { nth, place }
            })
            .collect();
        Self {
            snapshot: snapshot.clone(),
            tree,
            back,
            low: low.to_vec(),
            high: high.map(<[u8]>::to_vec),
            newer,
            base: Cursor::new(state.map_or(Pointer::NONE, |state| state.base.root(tree).pointer)),
            begun: false,
            done: high.is_some_and(|high| high <= low),
            refused: None,
            asked: None,
            ahead: 0,
        }
    }

    /// Walks only if that is allowed: who calls learns of a refusal in place of the first entry.
    pub(crate) fn if_allowed(mut self, allowed: Result<(), Error>) -> Self {
        self.refused = self.refused.or(allowed.err());
        self
    }

    fn direction(&self) -> Direction {
        if self.back {
            Direction::Backward
        } else {
            Direction::Forward
        }
    }

    /// Brings the base's cursor to an entry of the range. `false` if there is none.
    fn base_stands(&mut self) -> Result<bool, Error> {
        let core = Arc::clone(&self.snapshot.core);
        if !self.begun {
            self.begun = true;
            if self.back {
                self.base.seek_before(self.high.as_deref());
            } else {
                self.base.seek(&self.low);
            }
        }
        if let Position::Need(pointer) = self.base.position() {
            self.asked = match self.asked {
                None => Some(0),
                Some(0) => {
                    let order = core.identity.geometry.leaf_order;
                    let smaller = Geometry::default().leaf_order.saturating_sub(order);
                    let (first, most) = (AHEAD_FIRST << smaller, AHEAD_MAX << smaller);
                    self.ahead = (2 * self.ahead).clamp(first, most);
                    self.read_ahead(&core, pointer);
                    Some(self.ahead - 1)
                }
                Some(left) => Some(left - 1),
            };
        }
        if !self.base.complete(&mut Nodes(&core), self.tree)? {
            return Ok(false);
        }
        let key = self.base.key();
        Ok(if self.back {
            key.cmp_key(&self.low).is_ge()
        } else {
            self.high
                .as_deref()
                .is_none_or(|high| key.cmp_key(high).is_lt())
        })
    }

    /// Brings the node that is needed next and those behind it.
    fn read_ahead(&self, core: &Core, next: Pointer) {
        let mut pointers = vec![next];
        let bound = if self.back {
            Some(self.low.as_slice())
        } else {
            self.high.as_deref()
        };
        self.base
            .upcoming(self.direction(), bound, self.ahead - 1, &mut pointers);
        core.prefetch(self.tree, &pointers);
    }

    /// The operation that memtable `nth` of `newer` is at.
    fn peek<'v>(&mut self, nth: usize, view: &'v View) -> Option<(&'v [u8], OpRef<'v>)> {
        let newer = &mut self.newer[nth];
        let table = newer.table(view);
        while let Some(place) = newer.place {
            let Key { tree, key } = table.key(place);
            let within = tree == self.tree
                && if self.back {
                    key >= self.low.as_slice()
                } else {
                    self.high.as_deref().is_none_or(|high| key < high)
                };
            if !within {
                newer.place = None;
            } else if let Some(op) = table.at(place, view.at).found {
                return Some((key, op));
            } else {
                newer.pass(view, self.back);
            }
        }
        None
    }

    /// The nearest key that a memtable has.
    fn nearest<'v>(&mut self, view: &'v View) -> Option<&'v [u8]> {
        let mut nearest: Option<&[u8]> = None;
        for nth in 0..self.newer.len() {
            if let Some((key, _)) = self.peek(nth, view)
                && nearest.is_none_or(|nearest| precedes(key, nearest, self.back))
            {
                nearest = Some(key);
            }
        }
        nearest
    }

    /// Passes the nearest key in all memtables: the body that its newest operation puts, if it
    /// does.
    fn take_newest<'v>(&mut self, view: &'v View, key: &[u8]) -> Option<BodyRef<'v>> {
        let mut newest = None;
        for nth in 0..self.newer.len() {
            if let Some((other, op)) = self.peek(nth, view)
                && other == key
            {
                self.newer[nth].pass(view, self.back);
                newest.get_or_insert(op);
            }
        }
        match newest {
            Some(OpRef::Put(body)) => Some(body),
            Some(OpRef::Delete) | None => None,
        }
    }

    /// The next entry: whichever of the memtables and the base has the nearest key, the newest of
    /// those that have it.
    fn advance(&mut self) -> Result<Option<Entry>, Error> {
        let held = self.snapshot.held()?;
        let (view, back) = (&held.view, self.back);
        loop {
            let nearest = self.nearest(view);
            if self.base_stands()? {
                let cursor_key = self.base.key();
                let order = nearest.map(|key| cursor_key.cmp_key(key));
                let base_first = match order {
                    None => true,
                    Some(Ordering::Less) => !back,
                    Some(Ordering::Greater) => back,
                    Some(Ordering::Equal) => false,
                };
                if base_first {
                    let entry = Entry::new(
                        view,
                        &cursor_key.to_vec(),
                        self.base.body().as_bytes().into(),
                    );
                    self.base.step(self.direction());
                    return Ok(Some(entry));
                }
                if order == Some(Ordering::Equal) {
                    self.base.step(self.direction());
                }
            }
            let Some(key) = nearest else {
                return Ok(None);
            };
            if let Some(body) = self.take_newest(view, key) {
                return Ok(Some(Entry::new(view, key, body.as_bytes().into())));
            }
        }
    }

    /// Shows all entries from here on in place, until `show` breaks off: a leaf's entries without
    /// a look at anything else, up to the next key that a memtable has.
    fn visit(
        &mut self,
        mut show: impl FnMut(EntryRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        debug_assert!(!self.back, "leaves are shown in ascending order");
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        let mut key = Vec::new();
        while !self.done {
            let held = self.snapshot.held()?;
            let view = &held.view;
            let nearest = self.nearest(view);
            if self.base_stands()? {
                let (leaf, at) = self.base.leaf();
                let mut end = leaf.count();
                if let Some(high) = self.high.as_deref()
                    && leaf.high().is_none_or(|fence| high < fence)
                {
                    end = leaf.position(high).0;
                }
                let mut replaced = false;
                if let Some((position, found)) = nearest.map(|newer| leaf.position(newer))
                    && position < end
                {
                    end = position.max(at);
                    replaced = found;
                }
                for index in at..end {
                    let entry_key = leaf.entry_key(index);
                    key.clear();
                    entry_key.append_to(&mut key);
                    let body = leaf.body(index);
                    if show(view.entry_ref(&key, body)).is_break() {
                        return Ok(());
                    }
                }
                if end > at {
                    self.base.skip(end - at);
                    continue;
                }
                if replaced {
                    self.base.skip(1);
                }
            }
            let Some(key) = nearest else {
                return Ok(());
            };
            if let Some(body) = self.take_newest(view, key)
                && show(view.entry_ref(key, body)).is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn precedes(a: &[u8], b: &[u8], back: bool) -> bool {
    if back { a > b } else { a < b }
}

impl Iterator for Range {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(refused) = self.refused.take() {
            self.done = true;
            return Some(Err(refused));
        }
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        // Past the end, and past an error: what follows could be a wrong order.
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Snapshot {
    /// The entries in `low..high` (no upper bound if `None`), ascending.
    pub fn range(&self, tree: &Tree, low: &[u8], high: Option<&[u8]>) -> Range {
        Range::new(self, tree.id(), low, high, false).if_allowed(self.refuse(tree))
    }

    /// Shows `visit` the entries in `low..high`, ascending, in place, until it breaks off.
    /// Nothing is copied, and a leaf is looked at once.
    pub fn visit(
        &self,
        tree: &Tree,
        low: &[u8],
        high: Option<&[u8]>,
        visit: impl FnMut(EntryRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.range(tree, low, high).visit(visit)
    }

    /// The same entries, descending.
    pub fn range_back(&self, tree: &Tree, low: &[u8], high: Option<&[u8]>) -> Range {
        Range::new(self, tree.id(), low, high, true).if_allowed(self.refuse(tree))
    }

    /// Count and fingerprint of the entries in `low..high`. Costs a few nodes for the base, and a
    /// lookup for each newer operation in the range.
    pub fn fingerprint(
        &self,
        tree: &Tree,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> Result<Summary, Error> {
        self.refuse(tree)?;
        let parts = self.summaries(tree.id(), low, &[], high)?;
        Ok(parts[0])
    }

    /// Of each part that `cuts` make of the range, which ascend inside it.
    fn summaries(
        &self,
        tree: TreeId,
        low: &[u8],
        cuts: &[Vec<u8>],
        high: Option<&[u8]>,
    ) -> Result<Vec<Summary>, Error> {
        let held = self.held()?;
        let view = &held.view;
        let core = &view.core;
        let root = view.state.base.root(tree);
        let range = KeyRange::new(low, high);
        if range.is_empty() {
            return Ok(vec![Summary::EMPTY; cuts.len() + 1]);
        }
        let key = &core.identity.key;
        let steps = RangeSummary::of_parts(key.clone(), &root, range, cuts);
        let mut summaries = steps.run_parts(&mut Nodes(core), tree)?;
        for (key_bytes, op) in newest_ops(view, tree, low, high) {
            let old = core.find_in_base(&view.state.base, tree, key_bytes, |body| {
                key.of_entry(key_bytes, body)
            })?;
            let part = &mut summaries[cuts.partition_point(|cut| cut.as_slice() <= key_bytes)];
            if let Some(old) = old {
                *part = part.minus(Summary::of(old));
            }
            if let OpRef::Put(body) = op {
                *part = part.plus(Summary::of(key.of_entry(key_bytes, body)));
            }
        }
        Ok(summaries)
    }

    /// The tree as a diff session compares it, see [`dmerkle::diff`].
    pub fn contents(&self, tree: &Tree) -> SnapshotContents {
        SnapshotContents {
            snapshot: self.clone(),
            _exempt: self.exempt(),
            tree: tree.id(),
            refused: self.refuse(tree).err(),
        }
    }
}

/// The newest operation of each key of a range that a view's memtables hold.
fn newest_ops<'v>(
    view: &'v View,
    tree: TreeId,
    low: &[u8],
    high: Option<&[u8]>,
) -> BTreeMap<&'v [u8], OpRef<'v>> {
    let mut newest = BTreeMap::new();
    let end = Key::end(tree, high);
    for table in view.state.memtables() {
        let places = table.from(Key::new(tree, low));
        for place in places.take_while(|place| table.key(*place) < end) {
            if let Some(op) = table.at(place, view.at).found {
                newest.entry(table.key(place).key).or_insert(op);
            }
        }
    }
    newest
}

/// One side of a diff: a tree of a snapshot, which does not expire while this is held.
pub struct SnapshotContents {
    snapshot: Snapshot,
    _exempt: Exempt,
    tree: TreeId,
    /// Said whenever something is asked.
    refused: Option<Error>,
}

impl SnapshotContents {
    /// The snapshot, if the tree is one of its own.
    fn snapshot(&self) -> Result<&Snapshot, Error> {
        self.refused.clone().map_or(Ok(&self.snapshot), Err)
    }

    fn key(&self) -> &dmerkle::fingerprint::FingerprintKey {
        &self.snapshot.core.identity.key
    }
}

impl Contents for SnapshotContents {
    type Error = Error;

    fn key_id(&self) -> u64 {
        self.key().id()
    }

    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Error> {
        Ok(self.summaries(low, &[], high)?[0])
    }

    fn summaries(
        &mut self,
        low: &[u8],
        cuts: &[Vec<u8>],
        high: Option<&[u8]>,
    ) -> Result<Vec<Summary>, Error> {
        self.snapshot()?.summaries(self.tree, low, cuts, high)
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let held = self.snapshot()?.held()?;
        let view = &held.view;
        let root = view.state.base.root(self.tree);
        let split = Split::new(&root, KeyRange::new(low, high), parts);
        let boundaries = split.run(&mut Nodes(&view.core), self.tree)?;
        if !boundaries.is_empty() {
            return Ok(boundaries);
        }
        // What is not in the base yet has no nodes: its own keys cut it.
        let keys: Vec<Vec<u8>> = newest_ops(view, self.tree, low, high)
            .into_keys()
            .filter(|key| *key > low)
            .map(<[u8]>::to_vec)
            .collect();
        let step = keys.len().div_ceil(parts.max(1)).max(1);
        Ok(keys.into_iter().skip(step - 1).step_by(step).collect())
    }

    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Sum)>, Error> {
        let mut entries = Vec::new();
        self.visit(low, high, limit, &mut |key, sum| {
            entries.push((key.to_vec(), sum));
        })?;
        Ok(entries)
    }

    fn visit(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Sum),
    ) -> Result<(), Error> {
        let mut left = limit;
        if left == 0 {
            return Ok(());
        }
        Range::new(self.snapshot()?, self.tree, low, high, false).visit(|entry| {
            visit(entry.key(), entry.fingerprint());
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    }
}

impl Core {
    /// Reads nodes that will be asked for soon, all at once, into the cache. What cannot be read
    /// is met again when it is asked for.
    pub(crate) fn prefetch(&self, tree: TreeId, pointers: &[Pointer]) {
        let missing: Vec<Pointer> = pointers
            .iter()
            .filter(|pointer| self.cache.get(pointer).is_none())
            .copied()
            .collect();
        if missing.len() < 2 {
            return;
        }
        let places: Vec<_> = missing
            .iter()
            .map(|pointer| crate::cache::place_of(&self.identity.geometry, pointer))
            .collect();
        for (pointer, bytes) in missing.iter().zip(self.pool.read_many(&places)) {
            if let Ok(bytes) = bytes
                && let Ok(node) = crate::cache::verify_node(bytes, tree, pointer)
            {
                self.cache.insert(pointer, &node);
            }
        }
    }

    /// The first keys of a base, at most `limit`.
    pub(crate) fn first_keys(
        &self,
        tree: TreeId,
        root: &Root,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys = Vec::new();
        let mut cursor = Cursor::new(root.pointer);
        cursor.seek(&[]);
        while keys.len() < limit && cursor.complete(&mut Nodes(self), tree)? {
            keys.push(cursor.key().to_vec());
            cursor.next();
        }
        Ok(keys)
    }
}
