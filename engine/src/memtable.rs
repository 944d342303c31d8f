//! The memtable: operations newer than the base, ordered by tree, key and LSN.
//!
//! Invariants:
//! - Only the holder of the commit queue's lock inserts; readers take no lock.
//! - A key's versions are a chain, newest first, of strictly falling LSNs.
//! - A version leaves its chain only if a newer one of the same chain is visible already and no
//!   registered snapshot lies between the two. So a reader that finds a chain but no version old
//!   enough for the LSN it read has been overtaken: it reads the visible LSN again.
//! - An extent named by a version that left is kept in `superseded`, for the checkpoint to retire.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use arc_swap::ArcSwapOption;
use crossbeam_skiplist::SkipMap;
use dmerkle::format::body::BodyRef;
use dmerkle::{Geometry, Lsn, Run, Sum, TreeId};
use std::ops::Bound;
use std::sync::Arc;

/// What skip list node, chain, version and allocations cost beside the bytes they hold, and the
/// checkpoint's list of operations: measured by the example `resident`.
const OVERHEAD_BYTES: u64 = 256;

/// What a commit did to one key.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// The entry is this body now; its fingerprint was computed by the writer.
    Put { body: Arc<[u8]>, fingerprint: Sum },
    /// There is no entry now.
    Delete,
}

impl Op {
    fn body_bytes(&self) -> u64 {
        match self {
            Self::Put { body, .. } => body.len() as u64,
            Self::Delete => 0,
        }
    }

    /// The runs that the operation's body names.
    pub(crate) fn runs<'a>(&'a self, geometry: &'a Geometry) -> impl Iterator<Item = Run> + 'a {
        let body = match self {
            Self::Put { body, .. } => Some(BodyRef::trusted(body)),
            Self::Delete => None,
        };
        body.into_iter()
            .flat_map(|body| body.extents())
            .map(|extent| extent.run(geometry))
    }
}

/// One version of a key.
#[derive(Debug)]
pub(crate) struct Version {
    /// The end of the batch that made it.
    pub(crate) lsn: Lsn,
    /// What it did.
    pub(crate) op: Op,
    older: Option<Arc<Version>>,
    /// Versions in the chain from here on.
    chain: u32,
}

impl Version {
    fn new(lsn: Lsn, op: Op, older: Option<Arc<Self>>) -> Self {
        let chain = 1 + older.as_ref().map_or(0, |older| older.chain);
        Self {
            lsn,
            op,
            older,
            chain,
        }
    }
}

impl Drop for Version {
    /// A long chain must not grow the stack.
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(mut version) = next.and_then(Arc::into_inner) {
            next = version.older.take();
        }
    }
}

/// What a probe found.
pub(crate) enum Probe {
    /// The key has no version here.
    Nothing,
    /// The key has versions, all newer than asked for.
    TooNew,
    /// The newest version at or below the LSN asked for.
    Found(Op),
}

/// A tree's id and a key, as one byte string that orders like the pair.
pub(crate) fn full_key(tree: TreeId, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(8 + key.len());
    full.extend_from_slice(&tree.0.to_be_bytes());
    full.extend_from_slice(key);
    full
}

/// The two halves of a [`full_key`].
pub(crate) fn split_key(full: &[u8]) -> (TreeId, &[u8]) {
    let (tree, key) = full.split_at(8);
    let tree = u64::from_be_bytes(tree.try_into().expect("eight bytes"));
    (TreeId(tree), key)
}

/// Newer operations of all trees, of one stretch of the log.
pub(crate) struct Memtable {
    keys: SkipMap<Box<[u8]>, ArcSwapOption<Version>>,
    bytes: AtomicU64,
    ops: AtomicU64,
    /// Units of the extents that all operations inserted name.
    extent_units: AtomicU64,
    superseded: Mutex<Vec<Run>>,
}

impl Memtable {
    pub(crate) fn new() -> Self {
        Self {
            keys: SkipMap::new(),
            bytes: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            extent_units: AtomicU64::new(0),
            superseded: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.load(Ordering::Acquire) == 0
    }

    /// Bytes held, keys, bodies and overhead.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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

    /// Adds the newest version of a key. Versions that are hidden from the reader of `visible`
    /// and everyone after, and for which `needed(from, to)` finds no snapshot at an LSN in
    /// `from..to`, leave.
    pub(crate) fn insert(
        &self,
        full: Box<[u8]>,
        lsn: Lsn,
        op: Op,
        visible: Lsn,
        needed: &dyn Fn(Lsn, Lsn) -> bool,
        geometry: &Geometry,
    ) {
        let body_bytes = op.body_bytes();
        let key_bytes = full.len() as u64;
        let bytes = key_bytes + body_bytes + OVERHEAD_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let extent_units = op.runs(geometry).map(|run| u64::from(run.units)).sum();
        self.extent_units.fetch_add(extent_units, Ordering::Relaxed);
        let entry = self.keys.get_or_insert(full, ArcSwapOption::empty());
        let chain = entry.value();
        let head = chain.load_full();
        assert!(
            head.as_ref().is_none_or(|head| head.lsn < lsn),
            "versions are inserted in the order of their LSNs"
        );
        let older = head.and_then(|head| {
            // Nothing leaves until a version is visible. Looking for one costs the chain's length,
            // so where the head is not visible it is done at doubling lengths only.
            if head.lsn <= visible || head.chain.is_power_of_two() {
                self.prune(&head, lsn, visible, needed, geometry)
            } else {
                Some(head)
            }
        });
        chain.store(Some(Arc::new(Version::new(lsn, op, older))));
        self.ops.fetch_add(1, Ordering::Release);
    }

    /// The chain from `head` on without the versions that nobody can see any more, once one of
    /// `newer` stands before it.
    fn prune(
        &self,
        head: &Arc<Version>,
        newer: Lsn,
        visible: Lsn,
        needed: &dyn Fn(Lsn, Lsn) -> bool,
        geometry: &Geometry,
    ) -> Option<Arc<Version>> {
        let mut kept: Vec<&Arc<Version>> = Vec::new();
        let mut dropped = false;
        let mut above = newer; // the LSN of the next newer version
        let mut covered = false; // a newer version is visible already
        let mut next = Some(head);
        while let Some(version) = next {
            if covered && !needed(version.lsn, above) {
                dropped = true;
                let bytes = version.op.body_bytes() + OVERHEAD_BYTES;
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                let mut superseded = self.superseded.lock();
                superseded.extend(version.op.runs(geometry));
            } else {
                kept.push(version);
            }
            covered |= version.lsn <= visible;
            above = version.lsn;
            next = version.older.as_ref();
        }
        if !dropped {
            return Some(Arc::clone(head));
        }
        kept.iter().rev().fold(None, |older, version| {
            Some(Arc::new(Version::new(
                version.lsn,
                version.op.clone(),
                older,
            )))
        })
    }

    /// The newest version of a key at or below `at`.
    pub(crate) fn probe(&self, full: &[u8], at: Lsn) -> Probe {
        match self.keys.get(full) {
            None => Probe::Nothing,
            Some(entry) => probe_chain(entry.value(), at),
        }
    }

    /// The LSN of a key's newest version, visible or not.
    pub(crate) fn newest(&self, full: &[u8]) -> Option<Lsn> {
        let entry = self.keys.get(full)?;
        let head = entry.value().load();
        head.as_ref().map(|version| version.lsn)
    }

    /// Up to `limit` keys between the bounds (ascending, or descending if `back`), each with its
    /// newest version at or below `at`; keys without one are passed over.
    pub(crate) fn collect(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        back: bool,
        at: Lsn,
        limit: usize,
    ) -> Vec<(Box<[u8]>, Op)> {
        let range = self.keys.range::<[u8], _>(bounds);
        let visible = |entry: crossbeam_skiplist::map::Entry<'_, Box<[u8]>, _>| match probe_chain(
            entry.value(),
            at,
        ) {
            Probe::Found(op) => Some((entry.key().clone(), op)),
            Probe::Nothing | Probe::TooNew => None,
        };
        if back {
            range.rev().filter_map(visible).take(limit).collect()
        } else {
            range.filter_map(visible).take(limit).collect()
        }
    }

    /// Every version of every key, in key order, newest first: for the checkpoint, when the
    /// memtable is frozen.
    pub(crate) fn drain_order(&self) -> impl Iterator<Item = (Box<[u8]>, Vec<Op>)> + '_ {
        self.keys.iter().map(|entry| {
            let mut ops = Vec::with_capacity(1);
            let head = entry.value().load_full();
            let mut next = head.as_ref();
            while let Some(version) = next {
                ops.push(version.op.clone());
                next = version.older.as_ref();
            }
            (entry.key().clone(), ops)
        })
    }
}

fn probe_chain(chain: &ArcSwapOption<Version>, at: Lsn) -> Probe {
    let head = chain.load();
    let mut next = head.as_ref();
    while let Some(version) = next {
        if version.lsn <= at {
            return Probe::Found(version.op.clone());
        }
        next = version.older.as_ref();
    }
    Probe::TooNew
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmerkle::format::body::BodyBuilder;

    fn put(text: &[u8]) -> Op {
        let mut body = BodyBuilder::new(b"");
        body.inline(text);
        Op::Put {
            body: body.finish().into(),
            fingerprint: Sum(0),
        }
    }

    fn insert(table: &Memtable, lsn: u64, visible: u64, snapshots: &[u64]) {
        table.insert(
            full_key(TreeId(1), b"k").into(),
            Lsn(lsn),
            put(&lsn.to_le_bytes()),
            Lsn(visible),
            &|from, to| snapshots.iter().any(|&s| (from.0..to.0).contains(&s)),
            &Geometry::tiny(),
        );
    }

    fn versions(table: &Memtable) -> usize {
        table.drain_order().map(|(_, ops)| ops.len()).sum()
    }

    #[test]
    fn a_reader_finds_the_newest_version_at_its_lsn() {
        let table = Memtable::new();
        for lsn in [10, 20, 30] {
            insert(&table, lsn, 0, &[]);
        }
        let key = full_key(TreeId(1), b"k");
        assert!(matches!(table.probe(&key, Lsn(9)), Probe::TooNew));
        let Probe::Found(Op::Put { body, .. }) = table.probe(&key, Lsn(25)) else {
            panic!("the version of LSN 20 is there");
        };
        assert!(BodyRef::trusted(&body).parts().next().is_some());
        assert!(matches!(
            table.probe(&full_key(TreeId(2), b"k"), Lsn(99)),
            Probe::Nothing
        ));
    }

    #[test]
    fn versions_that_nobody_sees_leave_at_insertion() {
        let table = Memtable::new();
        insert(&table, 10, 5, &[]);
        insert(&table, 20, 10, &[]);
        assert_eq!(versions(&table), 2, "10 is what readers see");
        insert(&table, 30, 20, &[]);
        assert_eq!(versions(&table), 2, "20 hides 10");
    }

    #[test]
    fn a_snapshot_keeps_its_version() {
        let table = Memtable::new();
        insert(&table, 10, 5, &[]);
        insert(&table, 20, 10, &[15]);
        insert(&table, 30, 20, &[15]);
        assert_eq!(versions(&table), 3, "the snapshot at 15 sees 10");
        insert(&table, 40, 30, &[]);
        assert_eq!(versions(&table), 2, "released, both 10 and 20 leave");
    }
}
