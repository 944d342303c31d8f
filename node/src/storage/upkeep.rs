//! Checking the store and copying it, while it is in use.

use std::path::Path;

use engine::{Options, Store, Tree};

use super::reports::{BackupReport, CheckReport, backup_report};
use super::{Storage, StorageError};
use crate::hash::Partition;

impl Storage {
    /// Reads everything and verifies it against what is kept of it elsewhere.
    pub fn check(&self) -> Result<CheckReport, StorageError> {
        Ok(self.store.verify()?.into())
    }

    /// Writes a consistent copy to a new file, while the store is in use. What it tells is read
    /// from the copy.
    pub fn backup(&self, to: &Path) -> Result<BackupReport, StorageError> {
        self.store.backup(to)?;
        let copy = Store::open_read_only(to, &Options::default())?;
        let trees: Vec<Tree> = Partition::all(self.q)
            .map(|partition| copy.tree(&partition.tree_name()))
            .collect::<Result<_, _>>()?;
        let bytes = std::fs::metadata(to).map_or(0, |metadata| metadata.len());
        backup_report(&copy, &trees, bytes)
    }
}
