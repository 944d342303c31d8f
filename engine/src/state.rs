//! What readers see, published as one `Arc`, and who still looks at older ones.
//!
//! Invariants:
//! - A state's memtables hold every operation between its base and the newest one joined while it
//!   was the published state.
//! - The base of generation G was reachable on disk when its state was published, and stays
//!   readable for as long as a base of generation G or below is held, by a state or by an entry
//!   that was read: what later generations retired is released only when
//!   [`Registry::oldest_base`] has passed it.
//! - An entry's extents are its base's, or of a newer operation; both are retired by a later
//!   generation than its base's. So who keeps an entry holds the base alone, and no memtable.

use crate::cache::CachedNode;
use crate::memtable::Memtable;
use crate::sync::{Mutex, OnceLock};
use dmerkle::tree::Root;
use dmerkle::{Generation, Lsn, TreeId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

/// The trees of one checkpoint.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) generation: Generation,
    /// The end of the newest batch that is part of the base.
    pub(crate) newest: Lsn,
    pub(crate) catalog: Root,
    pub(crate) trees: BTreeMap<TreeId, Root>,
    /// The topmost branches that were read, of the first trees: every reader passes them, and finds
    /// them here without a word to other readers.
    tops: BTreeMap<TreeId, OnceLock<Arc<CachedNode>>>,
}

/// Trees whose topmost branch is kept beside the cache: a mebibyte of nodes at most.
const TOPS_MAX: usize = 64;

impl Base {
    pub(crate) fn new(
        generation: Generation,
        newest: Lsn,
        catalog: Root,
        trees: BTreeMap<TreeId, Root>,
    ) -> Self {
        let first = trees.keys().take(TOPS_MAX);
        Self {
            generation,
            newest,
            catalog,
            tops: first.map(|tree| (*tree, OnceLock::default())).collect(),
            trees,
        }
    }

    /// The topmost node of a tree, if it is kept.
    pub(crate) fn top(&self, tree: TreeId) -> Option<&CachedNode> {
        self.tops.get(&tree)?.get().map(Arc::as_ref)
    }

    /// Keeps the topmost node of a tree, if it is a branch.
    pub(crate) fn keep_top(&self, tree: TreeId, node: &Arc<CachedNode>) {
        if let Some(top) = self.tops.get(&tree).filter(|_| !node.is_leaf()) {
            // Another reader may have been sooner.
            let _ = top.set(Arc::clone(node));
        }
    }

    /// The root of a tree; a tree that no checkpoint has seen yet is empty.
    pub(crate) fn root(&self, tree: TreeId) -> Root {
        if tree == TreeId::CATALOG {
            return self.catalog;
        }
        self.trees.get(&tree).copied().unwrap_or(Root::EMPTY)
    }
}

/// A base and the memtables of everything newer.
pub(crate) struct State {
    pub(crate) base: Arc<Base>,
    pub(crate) active: Arc<Memtable>,
    pub(crate) frozen: Option<Arc<Memtable>>,
}

impl State {
    /// The memtables, newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.frozen.as_ref())
    }
}

/// Who reads at which LSN, and which published bases are still held.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Snapshots by the LSN that they read at.
    snapshots: BTreeMap<Lsn, usize>,
    /// Published bases that may still be held, oldest first.
    bases: VecDeque<(Generation, Weak<Base>)>,
}

impl Registry {
    /// Notes a state before it is published.
    pub(crate) fn publish(&self, state: &Arc<State>) {
        let mut inner = self.inner.lock();
        inner.bases.retain(|(_, base)| base.strong_count() > 0);
        let base = Arc::downgrade(&state.base);
        if inner
            .bases
            .back()
            .is_none_or(|(_, last)| !last.ptr_eq(&base))
        {
            inner.bases.push_back((state.base.generation, base));
        }
    }

    /// The smallest generation of a base that somebody may still read.
    pub(crate) fn oldest_base(&self) -> Generation {
        let mut inner = self.inner.lock();
        inner.bases.retain(|(_, base)| base.strong_count() > 0);
        let held = inner.bases.front();
        held.map_or(Generation(u64::MAX), |(generation, _)| *generation)
    }

    /// Registers a snapshot at the LSN that `visible` gives under the registry's lock, so that
    /// no version at or below it leaves a memtable between reading and registering.
    pub(crate) fn take(&self, visible: impl FnOnce() -> Lsn) -> Lsn {
        let mut inner = self.inner.lock();
        let at = visible();
        *inner.snapshots.entry(at).or_default() += 1;
        at
    }

    /// Gives a snapshot back.
    pub(crate) fn release(&self, at: Lsn) {
        let mut inner = self.inner.lock();
        let holders = inner
            .snapshots
            .get_mut(&at)
            .expect("a snapshot is released by who has taken it");
        *holders -= 1;
        if *holders == 0 {
            inner.snapshots.remove(&at);
        }
    }

    /// Whether a snapshot reads at an LSN in `from..to`.
    pub(crate) fn needed(&self, from: Lsn, to: Lsn) -> bool {
        self.inner.lock().snapshots.range(from..to).next().is_some()
    }

    /// How many snapshots are held.
    pub(crate) fn snapshots(&self) -> usize {
        self.inner.lock().snapshots.values().sum()
    }
}
