//! The memtable: operations newer than the base, ordered by tree, key and LSN.
//!
//! Invariants:
//! - Inserts come in the order of their LSNs, under the commit queue's lock; readers take no lock.
//! - A key's versions are a chain, newest first, of strictly falling LSNs.
//! - A version leaves its chain only if a newer one of the same chain is visible already and no
//!   registered snapshot lies between the two. So what an unregistered reader finds below a version
//!   that is too new for it may be older than what it should see, if the visible LSN has moved
//!   since: then it reads the visible LSN again.
//! - Memory goes back when the memtable is dropped, not when a version leaves: what was mapped to
//!   those to come, and from there to the system.
//! - An extent named by a version that left is kept in `superseded`, for the checkpoint to retire.

mod chunks;
mod index;
mod list;

pub(crate) use list::Place;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use chunks::Spare;
use dmerkle::format::body::BodyRef;
use dmerkle::{Geometry, Lsn, Run, TreeId};
use list::{List, VersionRef};
use std::ptr::NonNull;
use std::sync::Arc;

/// So many keys of a batch are on their way from memory while one is inserted.
const AHEAD: usize = 8;

/// The table of keys that a memtable begins with takes at most this part of what one may take.
const TABLE_PART: u64 = 4;

/// A key of a tree; ordered by tree, then key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key<'a> {
    pub(crate) tree: TreeId,
    pub(crate) key: &'a [u8],
}

impl<'a> Key<'a> {
    pub(crate) fn new(tree: TreeId, key: &'a [u8]) -> Self {
        Self { tree, key }
    }

    /// What lies behind all keys below `high` of a tree, all of its keys if there is no `high`.
    pub(crate) fn end(tree: TreeId, high: Option<&'a [u8]>) -> Self {
        match high {
            Some(high) => Self::new(tree, high),
            None => Self::new(TreeId(tree.0 + 1), &[]),
        }
    }
}

/// What a commit did to one key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OpRef<'a> {
    /// The entry is this body now.
    Put(BodyRef<'a>),
    /// There is no entry now.
    Delete,
}

impl<'a> OpRef<'a> {
    /// The runs that the operation's body names.
    pub(crate) fn runs(self, geometry: &Geometry) -> impl Iterator<Item = Run> + use<'a, '_> {
        let body = match self {
            Self::Put(body) => Some(body),
            Self::Delete => None,
        };
        body.into_iter()
            .flat_map(|body| body.extents())
            .map(|extent| extent.run(geometry))
    }
}

/// What a probe found.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    /// The newest version at or below the LSN asked for.
    pub(crate) found: Option<OpRef<'a>>,
    /// The key has versions that are newer than that.
    pub(crate) too_new: bool,
}

/// Newer operations of all trees, of one stretch of the log.
pub(crate) struct Memtable {
    keys: List,
    spare: Arc<Spare>,
    ops: AtomicU64,
    /// Units of the extents that all operations inserted name.
    extent_units: AtomicU64,
    superseded: Mutex<Vec<Run>>,
}

impl Memtable {
    /// A first memtable, of about `bytes_max` bytes once it is full. Its successors use the memory
    /// of those that are gone again: as much of it waits for that.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self::with_spare(&Arc::new(Spare::new(bytes_max)), 0, bytes_max)
    }

    /// The one that follows this one, of about `bytes_max` bytes: with room for as many keys, if this
    /// one has filled up and has not only grown old.
    pub(crate) fn successor(&self, bytes_max: u64) -> Self {
        let is_full = 2 * self.bytes() > self.spare.bytes_max();
        let keys = if is_full { self.keys.len() } else { 0 };
        Self::with_spare(&self.spare, keys, bytes_max)
    }

    fn with_spare(spare: &Arc<Spare>, keys: usize, bytes_max: u64) -> Self {
        let table_bytes_max = bytes_max / TABLE_PART;
        Self {
            keys: List::new(spare, keys, table_bytes_max),
            spare: Arc::clone(spare),
            ops: AtomicU64::new(0),
            extent_units: AtomicU64::new(0),
            superseded: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.load(Ordering::Acquire) == 0
    }

    /// Bytes of memory in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.keys.bytes()
    }

    /// Those that operations take, whatever finds them: no less than what they take in leaves.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.keys.data_bytes()
    }

    /// Gives memory back that was kept for successors.
    pub(crate) fn give_back(&self) {
        self.spare.clear();
    }

    /// Operations inserted.
    pub(crate) fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// Runs named by versions that left.
    pub(crate) fn superseded(&self) -> Vec<Run> {
        self.superseded.lock().clone()
    }

    /// Units of the extents that the operations name.
    pub(crate) fn extent_units(&self) -> u64 {
        self.extent_units.load(Ordering::Relaxed)
    }

    /// Adds a batch's operations, each the newest version of its key.
    /// Versions that are hidden from the reader of `visible` and everyone after, and for which
    /// `needed(from, to)` finds no snapshot at an LSN in `from..to`, leave.
    pub(crate) fn insert<'a>(
        &self,
        ops: impl Iterator<Item = (Key<'a>, OpRef<'a>)>,
        lsn: Lsn,
        visible: Lsn,
        needed: &dyn Fn(Lsn, Lsn) -> bool,
        geometry: &Geometry,
    ) {
        let mut writer = self.keys.writer();
        let (mut inserted, mut extent_units) = (0, 0);
        let mut ops = ops.map(|(key, op)| (self.keys.announce(key), key, op));
        let mut announced: [Option<(u32, Key<'a>, OpRef<'a>)>; AHEAD] = [const { None }; AHEAD];
        for (slot, op) in announced.iter_mut().zip(&mut ops) {
            *slot = Some(op);
        }
        let mut at = 0;
        while let Some((hash, key, op)) = std::mem::replace(&mut announced[at % AHEAD], ops.next())
        {
            at += 1;
            extent_units += op
                .runs(geometry)
                .map(|run| u64::from(run.units))
                .sum::<u64>();
            let head = writer.seek(key, hash);
            assert!(
                head.is_none_or(|head| head.lsn() < lsn),
                "versions are inserted in the order of their LSNs"
            );
            let (older, chain) = match head {
                None => (None, 0),
                // Nothing leaves until a version is visible. Looking for one costs the chain's
                // length, so where the head is not visible it is done at doubling lengths only.
                Some(head) if head.lsn() <= visible || head.chain().is_power_of_two() => {
                    self.prune(&writer, head, lsn, visible, needed, geometry)
                }
                Some(head) => (Some(head), head.chain()),
            };
            writer.push(key, lsn, op, older, chain);
            inserted += 1;
        }
        self.extent_units.fetch_add(extent_units, Ordering::Relaxed);
        self.ops.fetch_add(inserted, Ordering::Release);
    }

    /// Takes the versions out of the chain from `head` on that nobody can see any more, once one
    /// of `newer` stands before it. Returns what is left, and how many.
    fn prune<'a>(
        &self,
        writer: &list::Writer<'a>,
        head: VersionRef<'a>,
        newer: Lsn,
        visible: Lsn,
        needed: &dyn Fn(Lsn, Lsn) -> bool,
        geometry: &Geometry,
    ) -> (Option<VersionRef<'a>>, u32) {
        let mut count = 0;
        let mut runs = Vec::new();
        let mut first = None;
        let mut kept: Option<VersionRef<'a>> = None;
        let mut above = newer; // the LSN of the next newer version
        let mut covered = false; // a newer version is visible already
        let mut left = false; // one left behind `kept`
        let mut next = Some(head);
        while let Some(version) = next {
            next = version.older();
            if covered && !needed(version.lsn(), above) {
                left = true;
                runs.extend(version.op().runs(geometry));
            } else {
                count += 1;
                first = first.or(Some(version));
                if let Some(kept) = kept.filter(|_| left) {
                    writer.bypass(kept, Some(version));
                }
                (kept, left) = (Some(version), false);
            }
            covered |= version.lsn() <= visible;
            above = version.lsn();
        }
        if let Some(kept) = kept.filter(|_| left) {
            writer.bypass(kept, None);
        }
        if !runs.is_empty() {
            self.superseded.lock().append(&mut runs);
        }
        (first, count)
    }

    /// The newest version of a key at or below `at`.
    pub(crate) fn probe(&self, key: Key<'_>, at: Lsn) -> Probe<'_> {
        visible(self.keys.find(key), at)
    }

    /// The newest version at or below `at` of the key at a place.
    pub(crate) fn at(&self, place: Place, at: Lsn) -> Probe<'_> {
        visible(Some(self.keys.newest(place)), at)
    }

    /// The LSN of a key's newest version, visible or not.
    pub(crate) fn newest(&self, key: Key<'_>) -> Option<Lsn> {
        Some(self.keys.find(key)?.lsn())
    }

    /// The first key at or above this one.
    pub(crate) fn first_from(&self, key: Key<'_>) -> Option<Place> {
        self.keys.first_from(key)
    }

    /// The last key below this one.
    pub(crate) fn last_below(&self, key: Key<'_>) -> Option<Place> {
        self.keys.last_below(key)
    }

    /// The key before, of those at least that were there when the walk began.
    pub(crate) fn before(&self, place: Place) -> Option<Place> {
        self.keys.before(place)
    }

    /// The next key, as in [`Memtable::before`].
    pub(crate) fn after(&self, place: Place) -> Option<Place> {
        self.keys.after(place)
    }

    /// The key at a place.
    pub(crate) fn key(&self, place: Place) -> Key<'_> {
        self.keys.key(place)
    }

    /// All keys from this one on.
    pub(crate) fn from(&self, key: Key<'_>) -> impl Iterator<Item = Place> + '_ {
        std::iter::successors(self.first_from(key), |place| self.after(*place))
    }

    /// All keys.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.from(Key::new(TreeId(0), &[]))
    }

    /// Every version of the key at a place, newest first; there is one at least.
    pub(crate) fn versions(&self, place: Place) -> impl Iterator<Item = OpRef<'_>> + '_ {
        let newest = self.keys.newest(place);
        std::iter::successors(Some(newest), |version| version.older()).map(VersionRef::op)
    }
}

/// The first of the versions from `newest` on at or below `at`.
fn visible(newest: Option<VersionRef<'_>>, at: Lsn) -> Probe<'_> {
    let mut too_new = false;
    let mut next = newest;
    while let Some(version) = next {
        if version.lsn() <= at {
            let found = Some(version.op());
            return Probe { found, too_new };
        }
        too_new = true;
        next = version.older();
    }
    Probe {
        found: None,
        too_new,
    }
}

/// The newest operations of one tree in a memtable that is frozen, in the order of their keys. Holds
/// the memtable.
pub(crate) struct Drain {
    table: Arc<Memtable>,
    tree: TreeId,
    next: Option<Place>,
}

/// An operation of a [`Drain`]: its place, its key, and the body that it puts, if it does.
pub(crate) type Drained = (Place, Held, Option<Held>);

impl Drain {
    pub(crate) fn new(table: &Arc<Memtable>, tree: TreeId) -> Self {
        Self {
            table: Arc::clone(table),
            tree,
            next: table.first_from(Key::new(tree, &[])),
        }
    }
}

impl Iterator for Drain {
    type Item = Drained;

    fn next(&mut self) -> Option<Drained> {
        let place = self.next?;
        let Key { tree, key } = self.table.key(place);
        if tree != self.tree {
            return None;
        }
        let put = match self.table.keys.newest(place).op() {
            OpRef::Put(body) => Some(Held::new(&self.table, body.as_bytes())),
            OpRef::Delete => None,
        };
        let key = Held::new(&self.table, key);
        self.next = self.table.after(place);
        Some((place, key, put))
    }
}

/// Bytes in a memtable, which is held.
pub(crate) struct Held {
    _table: Arc<Memtable>,
    bytes: NonNull<[u8]>,
}

// SAFETY: the bytes never change and are there for as long as the memtable, which is `Sync`.
unsafe impl Send for Held {}

impl Held {
    /// `bytes` are of this memtable: the borrow of it is the proof that this module gives.
    fn new(table: &Arc<Memtable>, bytes: &[u8]) -> Self {
        Self {
            _table: Arc::clone(table),
            bytes: NonNull::from(bytes),
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the memtable is held, and what was inserted stays where it is.
        unsafe { self.bytes.as_ref() }
    }
}

#[cfg(test)]
mod tests;
