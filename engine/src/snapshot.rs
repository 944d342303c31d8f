//! A read view of all trees, as of one moment.

use crate::core::Core;
use crate::entry::{Entry, EntryRef};
use crate::error::Error;
use crate::pins::{Exempt, Held, Pin};
use crate::tree::Tree;
use dmerkle::Lsn;
use std::borrow::Cow;
use std::sync::Arc;

/// All trees as they were when it was taken. While it is held, the space of what it shows is not
/// reused; dropping it (and its clones) gives that up. Held for longer, or pinning more, than the
/// options allow, it expires: reads answer [`Error::SnapshotExpired`] from then on. What it has
/// handed out stays good. A tree of another store is refused, and so is
/// one that was dropped before.
///
/// ```
/// # use engine::{Options, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let options = Options { log_bytes: 1 << 20, ..Options::default() };
/// # let store = Store::create(folder.path().join("store"), &options)?;
/// let tree = store.create_tree(b"t")?;
/// tree.put(b"key", b"old")?;
/// let before = store.snapshot();
/// tree.put(b"key", b"new")?;
/// assert_eq!(before.get(&tree, b"key")?.as_deref(), Some(&b"old"[..]));
///
/// let mut changed = Vec::new();
/// before.diff(&tree, &store.snapshot(), &tree, |difference| changed.push(difference.key))?;
/// assert_eq!(changed, [b"key"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) core: Arc<Core>,
    pin: Arc<Pin>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot(at LSN {})", self.pin.at)
    }
}

impl Snapshot {
    pub(crate) fn take(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            pin: core.pin(),
        }
    }

    /// What to read, for the time of one read.
    pub(crate) fn held(&self) -> Result<Arc<Held>, Error> {
        self.core.refuse_closed()?;
        self.pin.held()
    }

    /// What to read of a tree, for the time of one read.
    pub(crate) fn held_for(&self, tree: &Tree) -> Result<Arc<Held>, Error> {
        self.refuse(tree)?;
        self.held()
    }

    /// Refuses a tree that is not the snapshot's: of another store, or dropped before.
    pub(crate) fn refuse(&self, tree: &Tree) -> Result<(), Error> {
        tree.refuse_foreign(&self.core)?;
        tree.refuse_dropped_before(self.pin.at)
    }

    /// Keeps the snapshot from expiring.
    pub(crate) fn exempt(&self) -> Exempt {
        Exempt::new(&self.pin)
    }

    /// Everything up to here is in the snapshot.
    pub fn lsn(&self) -> Lsn {
        self.pin.at
    }

    /// The value of a key: the first part of its entry.
    pub fn get(&self, tree: &Tree, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = |entry: EntryRef<'_>| Ok(entry.value()?.map(Cow::into_owned));
        self.read(tree, key, value)?.unwrap_or(Ok(None))
    }

    /// Shows the entry of a key where it stands, if there is one: nothing is copied.
    pub fn read<R>(
        &self,
        tree: &Tree,
        key: &[u8],
        see: impl FnOnce(EntryRef<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        self.held_for(tree)?.view.read(tree.id(), key, see)
    }

    /// The entry of a key.
    pub fn entry(&self, tree: &Tree, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.held_for(tree)?.view.entry(tree.id(), key)
    }

    /// Whether there is an entry.
    pub fn has(&self, tree: &Tree, key: &[u8]) -> Result<bool, Error> {
        Ok(self.entry(tree, key)?.is_some())
    }
}
