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
use crate::memtable::{Op, full_key, split_key};
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
use dmerkle::{Sum, Summary, TreeId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Operations that a walk takes from a memtable at once.
const MEMTABLE_PAGE: usize = 128;

/// Nodes that a walk asks for ahead, once it has gone on for a while.
const AHEAD: usize = 32;

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

/// Bounds of full keys.
type Bounds = (Bound<Box<[u8]>>, Bound<Box<[u8]>>);

/// The operations of one memtable in a range, a page at a time.
struct Newer {
    /// Which of the state's memtables. It is not held here: a snapshot that expires lets go of it.
    nth: usize,
    page: VecDeque<(Box<[u8]>, Op)>,
    /// What of the range is not in the page yet, as full keys; none when all was seen.
    rest: Option<Bounds>,
}

impl Newer {
    /// The next operation in `direction`, left where it is.
    fn peek(&mut self, view: &View, back: bool) -> Option<&(Box<[u8]>, Op)> {
        if self.page.is_empty()
            && let Some((low, high)) = self.rest.take()
        {
            let bounds = (
                low.as_ref().map(AsRef::as_ref),
                high.as_ref().map(AsRef::as_ref),
            );
            let table = view.state.memtables().nth(self.nth);
            let table = table.expect("a state's memtables do not change");
            self.page = table.collect(bounds, back, view.at, MEMTABLE_PAGE).into();
            if self.page.len() == MEMTABLE_PAGE {
                let last = self.page.back().expect("a full page").0.clone();
                self.rest = Some(if back {
                    (low, Bound::Excluded(last))
                } else {
                    (Bound::Excluded(last), high)
                });
            }
        }
        self.page.front()
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
    /// Leaves passed, to know a long walk.
    steps: u64,
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
        let end = match high {
            Some(high) => full_key(tree, high),
            None => full_key(TreeId(tree.0 + 1), &[]),
        };
        let newer = state
            .into_iter()
            .flat_map(|state| state.memtables().enumerate())
            .filter(|(_, table)| !table.is_empty())
            .map(|(nth, _)| Newer {
                nth,
                page: VecDeque::new(),
                rest: Some((
                    Bound::Included(full_key(tree, low).into()),
                    Bound::Excluded(end.clone().into()),
                )),
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
            steps: 0,
        }
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
        if matches!(self.base.position(), Position::Need(_)) {
            self.steps += 1;
            if self.steps > 4 {
                self.read_ahead(&core);
            }
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

    fn read_ahead(&self, core: &Core) {
        let mut pointers = Vec::new();
        let bound = if self.back {
            Some(self.low.as_slice())
        } else {
            self.high.as_deref()
        };
        self.base
            .upcoming(self.direction(), bound, AHEAD, &mut pointers);
        core.prefetch(self.tree, &pointers);
    }

    /// The nearest key that a memtable has, as a full key.
    fn nearest(&mut self, view: &View) -> Option<Box<[u8]>> {
        let back = self.back;
        let mut nearest: Option<&Box<[u8]>> = None;
        for newer in &mut self.newer {
            if let Some((key, _)) = newer.peek(view, back)
                && nearest.is_none_or(|nearest| precedes(key, nearest, back))
            {
                nearest = Some(key);
            }
        }
        nearest.cloned()
    }

    /// Takes the nearest key's operations out of the memtables' pages: the body that the newest
    /// one puts, if it does.
    fn take_newest(&mut self, view: &View, key: &[u8]) -> Option<Arc<[u8]>> {
        let mut newest = None;
        for newer in &mut self.newer {
            if newer
                .peek(view, self.back)
                .is_some_and(|(other, _)| **other == *key)
            {
                let (_, op) = newer.page.pop_front().expect("it was peeked at");
                newest.get_or_insert(op);
            }
        }
        match newest {
            Some(Op::Put { body, .. }) => Some(body),
            Some(Op::Delete) | None => None,
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
                let order = nearest
                    .as_ref()
                    .map(|full| cursor_key.cmp_key(split_key(full).1));
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
            if let Some(body) = self.take_newest(view, &key) {
                return Ok(Some(Entry::new(view, split_key(&key).1, body)));
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
        let mut key = Vec::new();
        while !self.done {
            let held = self.snapshot.held()?;
            let view = &held.view;
            let nearest = self.nearest(view);
            let newer = nearest.as_deref().map(|full| split_key(full).1);
            if self.base_stands()? {
                let (leaf, at) = self.base.leaf();
                let mut end = leaf.count();
                if let Some(high) = self.high.as_deref()
                    && leaf.high().is_none_or(|fence| high < fence)
                {
                    end = leaf.position(high).0;
                }
                let mut replaced = false;
                if let Some((position, found)) = newer.map(|newer| leaf.position(newer))
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
            let Some(full) = nearest else {
                return Ok(());
            };
            if let Some(body) = self.take_newest(view, &full) {
                let (key, body) = (split_key(&full).1, BodyRef::trusted(&body));
                if show(view.entry_ref(key, body)).is_break() {
                    return Ok(());
                }
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
        Range::new(self, tree.id(), low, high, false)
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
        Range::new(self, tree.id(), low, high, false).visit(visit)
    }

    /// The same entries, descending.
    pub fn range_back(&self, tree: &Tree, low: &[u8], high: Option<&[u8]>) -> Range {
        Range::new(self, tree.id(), low, high, true)
    }

    /// Count and fingerprint of the entries in `low..high`. Costs a few nodes for the base, and a
    /// lookup for each newer operation in the range.
    pub fn fingerprint(
        &self,
        tree: &Tree,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> Result<Summary, Error> {
        self.summary(tree.id(), low, high)
    }

    fn summary(&self, tree: TreeId, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Error> {
        let held = self.held()?;
        let view = &held.view;
        let core = &view.core;
        let root = view.state.base.root(tree);
        let range = KeyRange::new(low, high);
        if range.is_empty() {
            return Ok(Summary::EMPTY);
        }
        let key = &core.identity.key;
        let steps = RangeSummary::new(key.clone(), &root, range);
        let mut summary = steps.run(&mut Nodes(core), tree)?;
        for (key_bytes, op) in newest_ops(view, tree, low, high) {
            let old = core.find_in_base(&view.state.base, tree, &key_bytes, |body| {
                key.of_entry(&key_bytes, body)
            })?;
            if let Some(old) = old {
                summary = summary.minus(Summary::of(old));
            }
            if let Op::Put { fingerprint, .. } = op {
                summary = summary.plus(Summary::of(fingerprint));
            }
        }
        Ok(summary)
    }

    /// The tree as a diff session compares it, see [`dmerkle::diff`].
    pub fn contents(&self, tree: &Tree) -> SnapshotContents {
        SnapshotContents {
            snapshot: self.clone(),
            _exempt: self.exempt(),
            tree: tree.id(),
        }
    }
}

/// The newest operation of each key of a range that a view's memtables hold.
fn newest_ops(view: &View, tree: TreeId, low: &[u8], high: Option<&[u8]>) -> BTreeMap<Vec<u8>, Op> {
    let mut newest = BTreeMap::new();
    let low = full_key(tree, low);
    let high = match high {
        Some(high) => full_key(tree, high),
        None => full_key(TreeId(tree.0 + 1), &[]),
    };
    let bounds = (
        Bound::Included(low.as_slice()),
        Bound::Excluded(high.as_slice()),
    );
    for table in view.state.memtables().filter(|table| !table.is_empty()) {
        for (full, op) in table.collect(bounds, false, view.at, usize::MAX) {
            newest.entry(split_key(&full).1.to_vec()).or_insert(op);
        }
    }
    newest
}

/// One side of a diff: a tree of a snapshot, which does not expire while this is held.
pub struct SnapshotContents {
    snapshot: Snapshot,
    _exempt: Exempt,
    tree: TreeId,
}

impl SnapshotContents {
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
        self.snapshot.summary(self.tree, low, high)
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let held = self.snapshot.held()?;
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
            .filter(|key| key.as_slice() > low)
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
        Range::new(&self.snapshot, self.tree, low, high, false).visit(|entry| {
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
