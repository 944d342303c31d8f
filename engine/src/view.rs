//! Reading: the memtables of a state first, then its base.
//!
//! Invariants: a view's state and LSN belong together (see [`Core::consistent`]); the state is held
//! for as long as anything read from it is used, so no block of it is reused meanwhile.

use crate::cache::{CachedNode, read_node};
use crate::core::Core;
use crate::entry::{Entry, EntryRef};
use crate::error::Error;
use crate::memtable::{Key, OpRef};
use crate::planted::{Race, races};
use crate::state::{Base, State};
use dmerkle::format::body::BodyRef;
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Lookup, Root, Step};
use dmerkle::{Lsn, TreeId};
use std::sync::Arc;

/// A state, and the LSN to read it at.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) core: Arc<Core>,
    pub(crate) state: Arc<State>,
    pub(crate) at: Lsn,
}

/// What the memtables say of a key.
enum Newer<'a> {
    /// Nothing: ask the base.
    Nothing,
    Found(OpRef<'a>),
}

/// Where a key's entry is to be found.
pub(crate) enum Seen {
    /// Here: the memtables had it.
    Entry(Entry),
    /// Nowhere.
    Absent,
    /// In the base, if anywhere.
    Below(Root),
    /// The view is not registered and was overtaken: take a newer one.
    Overtaken,
}

impl Core {
    /// A node of a tree, from the cache or the disk.
    pub(crate) fn node(&self, tree: TreeId, pointer: &Pointer) -> Result<Arc<CachedNode>, Error> {
        if let Some(node) = self.cache.get(pointer) {
            return Ok(node);
        }
        let node = read_node(self.disk.as_ref(), &self.identity.geometry, tree, pointer)?;
        self.cache.insert(pointer, &node);
        Ok(node)
    }

    /// Calls `found` with the body of a key in a base, if there is one.
    pub(crate) fn find_in_base<R>(
        &self,
        base: &Base,
        tree: TreeId,
        key: &[u8],
        found: impl FnOnce(BodyRef<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        let mut lookup = Lookup::new(key);
        let mut pointer = base.root(tree).pointer;
        if pointer.is_none() {
            return Ok(None);
        }
        let mut is_top = true;
        if let Some(top) = base.top(tree) {
            is_top = false;
            match lookup.step(top)? {
                Step::Need(next) => pointer = next,
                Step::Found(_) | Step::Absent => unreachable!("what is kept is a branch"),
            }
        }
        loop {
            let node = self.node(tree, &pointer)?;
            if std::mem::take(&mut is_top) {
                if races(Race::TopOfNewest) {
                    self.state.load().base.keep_top(tree, &node);
                } else {
                    base.keep_top(tree, &node);
                }
            }
            match lookup.step(&node)? {
                Step::Need(next) => pointer = next,
                Step::Found(body) => return Ok(Some(found(body))),
                Step::Absent => return Ok(None),
            }
        }
    }

    /// Calls `found` with the newest visible body of a key, if there is one. The state it was
    /// read from is held while `found` runs.
    pub(crate) fn find_newest<R>(
        self: &Arc<Self>,
        tree: TreeId,
        key: &[u8],
        found: impl FnOnce(&Arc<State>, BodyRef<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        loop {
            let state = self.state.load();
            let at = self.visible();
            let (newer, too_new) = newer(&state, tree, key, at);
            if too_new && self.visible() > at {
                continue; // overtaken: the version to be seen may have left
            }
            match newer {
                Newer::Found(OpRef::Put(body)) => return Ok(Some(found(&state, body))),
                Newer::Found(OpRef::Delete) => return Ok(None),
                Newer::Nothing => {
                    return self.find_in_base(&state.base, tree, key, |body| found(&state, body));
                }
            }
        }
    }
}

/// What the memtables say, and whether they hold versions that are too new: then what is found
/// below those may be older than what a reader at `at` should see, unless a snapshot is
/// registered there or the visible LSN has not moved since.
fn newer<'a>(state: &'a State, tree: TreeId, key: &[u8], at: Lsn) -> (Newer<'a>, bool) {
    let mut too_new = false;
    for table in state.memtables().filter(|table| !table.is_empty()) {
        let probe = table.probe(Key::new(tree, key), at);
        too_new |= probe.too_new;
        if let Some(op) = probe.found {
            return (Newer::Found(op), too_new);
        }
    }
    (Newer::Nothing, too_new)
}

impl View {
    /// The newest consistent view, not registered: fit for one key, whose versions may leave.
    pub(crate) fn newest(core: &Arc<Core>) -> Self {
        let (state, at) = core.consistent(false);
        Self {
            core: Arc::clone(core),
            state,
            at,
        }
    }

    /// What the memtables say of a key's entry.
    pub(crate) fn look(&self, tree: TreeId, key: &[u8], registered: bool) -> Seen {
        let (newer, too_new) = newer(&self.state, tree, key, self.at);
        if too_new && !registered && self.core.visible() > self.at {
            return Seen::Overtaken;
        }
        match newer {
            Newer::Found(OpRef::Put(body)) => {
                Seen::Entry(Entry::new(self, key, body.as_bytes().into()))
            }
            Newer::Found(OpRef::Delete) => Seen::Absent,
            Newer::Nothing => Seen::Below(self.state.base.root(tree)),
        }
    }

    /// The entry of a key. `Err(None)` when the view is not registered and was overtaken.
    fn try_entry(
        &self,
        tree: TreeId,
        key: &[u8],
        registered: bool,
    ) -> Result<Option<Entry>, Option<Error>> {
        match self.look(tree, key, registered) {
            Seen::Overtaken => Err(None),
            Seen::Entry(entry) => Ok(Some(entry)),
            Seen::Absent => Ok(None),
            Seen::Below(_) => self
                .core
                .find_in_base(&self.state.base, tree, key, |body| {
                    Entry::new(self, key, body.as_bytes().into())
                })
                .map_err(Some),
        }
    }

    /// Shows the entry of a key where it stands, in a view that is registered.
    pub(crate) fn read<R>(
        &self,
        tree: TreeId,
        key: &[u8],
        see: impl FnOnce(EntryRef<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        match newer(&self.state, tree, key, self.at).0 {
            Newer::Found(OpRef::Put(body)) => Ok(Some(see(self.entry_ref(key, body)))),
            Newer::Found(OpRef::Delete) => Ok(None),
            Newer::Nothing => self.core.find_in_base(&self.state.base, tree, key, |body| {
                see(self.entry_ref(key, body))
            }),
        }
    }

    /// The entry of a key in a view that is registered.
    pub(crate) fn entry(&self, tree: TreeId, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.try_entry(tree, key, true)
            .map_err(|error| error.unwrap_or(Error::SnapshotExpired))
    }

    /// The newest entry of a key, and the view that shows it.
    pub(crate) fn newest_entry(
        core: &Arc<Core>,
        tree: TreeId,
        key: &[u8],
    ) -> Result<(Option<Entry>, Self), Error> {
        loop {
            let view = Self::newest(core);
            match view.try_entry(tree, key, false) {
                Ok(entry) => return Ok((entry, view)),
                Err(Some(error)) => return Err(error),
                Err(None) => {}
            }
        }
    }
}
