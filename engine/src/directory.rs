//! The names of the trees.
//!
//! Invariants: changes happen under the commit queue's lock, in the order of the log, and are
//! handed to the checkpoint that freezes behind them; an id is never used twice; a dropped tree
//! is found by nobody from then on, while checkpoints empty it.

use crate::core::{Refused, Staged, TreeChange};
use crate::error::Error;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use dmerkle::{Lsn, TreeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The longest name of a tree, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// What changed since the last freeze.
#[derive(Debug, Default, Clone)]
pub(crate) struct Changes {
    pub(crate) created: Vec<(TreeId, Vec<u8>)>,
    pub(crate) dropped: Vec<TreeId>,
}

/// Whether a tree was dropped, and when: shared with its handles, which learn of it from here.
#[derive(Debug)]
pub(crate) struct Dropped {
    /// The end of the batch that dropped it; the largest LSN while it is there, the smallest once
    /// the store was closed: so a read looks at one place.
    at: AtomicU64,
}

impl Dropped {
    const NOT: u64 = u64::MAX;

    /// Of a tree that is there.
    pub(crate) fn not_yet() -> Self {
        Self::at(Lsn(Self::NOT))
    }

    pub(crate) fn at(end: Lsn) -> Self {
        Self {
            at: AtomicU64::new(end.0),
        }
    }

    /// Whether it was, be it visible or not, or the store was closed.
    pub(crate) fn is(&self) -> bool {
        self.at.load(Ordering::Acquire) != Self::NOT
    }

    /// Whether one who sees everything up to `lsn` sees the drop.
    pub(crate) fn is_seen_from(&self, lsn: Lsn) -> bool {
        self.at.load(Ordering::Acquire) <= lsn.0
    }
}

/// A tree that is not dropped.
struct Live {
    name: Vec<u8>,
    dropped: Arc<Dropped>,
}

impl Live {
    fn new(name: Vec<u8>) -> Self {
        Self {
            name,
            dropped: Arc::new(Dropped::not_yet()),
        }
    }
}

#[derive(Default)]
struct Names {
    by_name: BTreeMap<Vec<u8>, TreeId>,
    by_id: HashMap<TreeId, Live>,
    changes: Changes,
}

/// The trees of the store.
pub(crate) struct Directory {
    names: RwLock<Names>,
    next: AtomicU64,
    /// Trees that are not dropped.
    count: AtomicU64,
    /// The end of the batch that holds the last change.
    changed: AtomicU64,
}

impl Directory {
    /// The trees of a catalog that are not dropped.
    pub(crate) fn new(trees: impl IntoIterator<Item = (TreeId, Vec<u8>)>, next: TreeId) -> Self {
        let mut names = Names::default();
        for (tree, name) in trees {
            names.by_id.insert(tree, Live::new(name.clone()));
            names.by_name.insert(name, tree);
        }
        Self {
            count: AtomicU64::new(names.by_id.len() as u64),
            names: RwLock::new(names),
            next: AtomicU64::new(next.0),
            changed: AtomicU64::new(0),
        }
    }

    /// An id that no tree had before.
    pub(crate) fn new_id(&self) -> TreeId {
        TreeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The smallest id that no tree had yet.
    pub(crate) fn next_id(&self) -> TreeId {
        TreeId(self.next.load(Ordering::Relaxed))
    }

    /// How many trees there are.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<TreeId> {
        self.names.read().by_name.get(name).copied()
    }

    pub(crate) fn name_of(&self, tree: TreeId) -> Option<Vec<u8>> {
        let names = self.names.read();
        names.by_id.get(&tree).map(|live| live.name.clone())
    }

    /// What tells the handles of a tree that it was dropped; none if it is.
    pub(crate) fn dropped_flag(&self, tree: TreeId) -> Option<Arc<Dropped>> {
        let names = self.names.read();
        names.by_id.get(&tree).map(|live| Arc::clone(&live.dropped))
    }

    /// All trees, by name.
    pub(crate) fn list(&self) -> Vec<(Vec<u8>, TreeId)> {
        let names = self.names.read();
        names
            .by_name
            .iter()
            .map(|(name, tree)| (name.clone(), *tree))
            .collect()
    }

    /// Whether a batch's trees are there, and its own change of them is possible.
    pub(crate) fn check(&self, ops: &[Staged], change: Option<&TreeChange>) -> Result<(), Refused> {
        let names = self.names.read();
        let mut last = None;
        for Staged { tree, .. } in ops {
            if last.replace(tree) != Some(tree) && !names.by_id.contains_key(tree) {
                return Err(Error::NoSuchTree.into());
            }
        }
        match change {
            Some(TreeChange::Create { name, .. }) if names.by_name.contains_key(name) => {
                Err(Error::TreeExists.into())
            }
            Some(TreeChange::Drop { tree }) if !names.by_id.contains_key(tree) => {
                Err(Error::NoSuchTree.into())
            }
            _ => Ok(()),
        }
    }

    /// Makes a change that [`Directory::check`] allowed, of the batch that ends there.
    pub(crate) fn apply(&self, change: TreeChange, end: Lsn) {
        let mut names = self.names.write();
        match change {
            TreeChange::Create { tree, name } => {
                self.next.fetch_max(tree.0 + 1, Ordering::Relaxed);
                names.by_name.insert(name.clone(), tree);
                names.by_id.insert(tree, Live::new(name.clone()));
                names.changes.created.push((tree, name));
            }
            TreeChange::Drop { tree } => {
                if let Some(live) = names.by_id.remove(&tree) {
                    live.dropped.at.store(end.0, Ordering::Release);
                    names.by_name.remove(&live.name);
                    names.changes.dropped.push(tree);
                }
            }
        }
        self.count
            .store(names.by_id.len() as u64, Ordering::Relaxed);
    }

    /// The store was closed: no handle reads any more.
    pub(crate) fn close(&self) {
        for live in self.names.read().by_id.values() {
            live.dropped.at.store(0, Ordering::Release);
        }
    }

    /// Notes where the change stands in the log that was just made.
    pub(crate) fn note_change(&self, end: Lsn) {
        self.changed.fetch_max(end.0, Ordering::Release);
    }

    /// The end of the batch that holds the last change, of this opening.
    pub(crate) fn last_change(&self) -> Lsn {
        Lsn(self.changed.load(Ordering::Acquire))
    }

    /// Whether anything changed since the last freeze.
    pub(crate) fn has_changes(&self) -> bool {
        let names = self.names.read();
        !names.changes.created.is_empty() || !names.changes.dropped.is_empty()
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&self) -> Changes {
        std::mem::take(&mut self.names.write().changes)
    }
}
