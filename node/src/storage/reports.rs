//! What the store says of itself, and what a check and a backup found.

use engine::{Store, Summary, Tree};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Storage, StorageError, summary};
use crate::control::Hex;

/// What the store says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Entries, tombstones among them.
    pub entries: u64,
    /// The fingerprint of all partitions together, 32 hex digits.
    pub fingerprint: String,
    /// What else the engine tells, by name.
    pub details: Map<String, Value>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Entries as [`StoreStatus`] counts them: tombstones among them, what is newer than the trees
    /// too, and nothing of the node's own.
    #[serde(default)]
    pub held: u64,
    /// Entries in the trees; the few of the node's own are among them.
    pub entries: u64,
    /// Changes that no checkpoint has carried into the trees yet.
    pub newer: u64,
    /// Nodes of the trees.
    pub nodes: u64,
    /// Values with a place of their own.
    pub extents: u64,
    /// Bytes that were read and verified.
    pub bytes: u64,
    /// What is broken, each a sentence. Empty: the store is whole.
    pub violations: Vec<String>,
    /// How many more there are.
    pub violations_more: u64,
    /// Those of them that are values: a new value heals each.
    pub damaged: Vec<DamagedValue>,
}

/// A value that is not what was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedValue {
    /// Its key.
    #[serde(rename = "key_hex")]
    pub key: Hex,
    /// Its key, where that is text.
    #[serde(rename = "key")]
    pub text: Option<String>,
    /// What was found, and where.
    pub fault: String,
}

/// What a backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Entries in it, tombstones among them.
    pub entries: u64,
    /// Bytes of the disk that it takes.
    pub bytes: u64,
    /// The fingerprint of what it holds, 32 hex digits.
    pub fingerprint: String,
}

/// What an operator must know, and soon, whose store has lost its name.
pub(super) const FILE_REMOVED: &str = "the store's file was removed and has no name any more: all \
    that it holds goes when the node stops; save it with `dynomite backup` before, and restore that";

/// Reads from a copy of `bytes` bytes what it holds.
pub(super) fn backup_report(
    copy: &Store,
    trees: &[Tree],
    bytes: u64,
) -> Result<BackupReport, StorageError> {
    let summary = summary(copy, trees)?;
    Ok(BackupReport {
        entries: summary.count,
        bytes,
        fingerprint: digits(summary),
    })
}

/// A fingerprint as people see it.
fn digits(summary: Summary) -> String {
    format!("{:032x}", summary.sum.0)
}

impl Storage {
    /// What the store says of itself.
    pub fn status(&self) -> Result<StoreStatus, StorageError> {
        let summary = self.summary()?;
        Ok(StoreStatus {
            entries: summary.count,
            fingerprint: digits(summary),
            details: self.details(),
        })
    }

    fn details(&self) -> Map<String, Value> {
        let stats = self.store.stats();
        let mut details = Map::new();
        for (name, value) in [
            ("generation", stats.generation),
            ("incarnation", stats.incarnation),
            ("durable_lsn", stats.durable_lsn),
            ("visible_lsn", stats.visible_lsn),
            ("log_bytes", stats.log_bytes),
            ("log_used_bytes", stats.log_used_bytes),
            ("log_written_bytes", stats.log_written_bytes),
            ("file_bytes", stats.file_bytes),
            ("allocated_bytes", stats.allocated_bytes),
            ("retired_bytes", stats.retired_bytes),
            ("free_bytes", stats.free_bytes),
            ("memtable_bytes", stats.memtable_bytes),
            ("memtable_ops", stats.memtable_ops),
            ("cache_bytes", stats.cache_bytes),
            ("cache_hits", stats.cache_hits),
            ("cache_misses", stats.cache_misses),
            ("flushes", stats.flushes),
            ("stalls", stats.stalls),
            ("checkpoints", stats.checkpoints),
            ("node_written_bytes", stats.node_written_bytes),
            ("extent_written_bytes", stats.extent_written_bytes),
            ("punched_bytes", stats.punched_bytes),
            ("snapshots", stats.snapshots),
            ("trees", stats.trees),
        ] {
            details.insert(name.to_owned(), value.into());
        }
        details.insert("direct_io".to_owned(), stats.direct_io.into());
        details.insert("backend".to_owned(), stats.backend.into());
        if let Some(cause) = stats.poisoned {
            details.insert("takes_no_writes_since".to_owned(), json!(cause));
        }
        if self.place.is_nameless() {
            details.insert("file_removed".to_owned(), json!(FILE_REMOVED));
        }
        details.insert("damaged_keys_known".to_owned(), self.damage.keys().into());
        details
    }
}
