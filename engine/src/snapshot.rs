//! A read view of all trees, as of one moment.

use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::tree::Tree;
use crate::view::View;
use dmerkle::Lsn;
use std::sync::Arc;

/// All trees as they were when it was taken. While it is held, the space of what it shows is not
/// reused; dropping it gives that up.
pub struct Snapshot {
    pub(crate) view: View,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot(at LSN {})", self.view.at)
    }
}

impl Snapshot {
    pub(crate) fn take(core: &Arc<Core>) -> Self {
        let (state, at) = core.consistent(true);
        Self {
            view: View {
                core: Arc::clone(core),
                state,
                at,
            },
        }
    }

    /// Everything up to here is in the snapshot.
    pub fn lsn(&self) -> Lsn {
        self.view.at
    }

    /// The value of a key: the first part of its entry.
    pub fn get(&self, tree: &Tree, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.entry(tree, key)? {
            Some(entry) => entry.part(0),
            None => Ok(None),
        }
    }

    /// The entry of a key.
    pub fn entry(&self, tree: &Tree, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.view.entry(tree.id(), key)
    }

    /// Whether there is an entry.
    pub fn has(&self, tree: &Tree, key: &[u8]) -> Result<bool, Error> {
        Ok(self.entry(tree, key)?.is_some())
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        self.view.core.registry.take_again(self.view.at);
        Self {
            view: self.view.clone(),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.view.core.registry.release(self.view.at);
    }
}
