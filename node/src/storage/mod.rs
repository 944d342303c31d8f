//! What the node asks of its store, and no more.
//!
//! Calls block: the server makes them away from the network's threads. Keys are those of clients;
//! in which tree and behind which token they lie is the store's side of this interface.

#[cfg(test)]
pub mod memory;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::Error;
use crate::version::NodeId;

/// Why the store did not do what was asked. Each is a sentence for the client or the operator.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No space for this write; deletes still work.
    #[error("the disk is full: {0}")]
    Full(String),
    /// Anything else that the engine says.
    #[error("{0}")]
    Store(String),
}

/// One stored value.
pub trait StoredPart: Send + Sync {
    /// Bytes of the value.
    fn length(&self) -> u64;
    /// Its BLAKE3 hash.
    fn hash(&self) -> Result<[u8; 32], StorageError>;
    /// Fills `into` with the bytes from `offset`, verified.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError>;
}

/// A stored entry. Its parts stay readable as long as it is held.
#[derive(Clone)]
pub struct Entry {
    /// What the node keeps with the values: see [`crate::version::Versions`].
    pub meta: Vec<u8>,
    /// The values.
    pub parts: Vec<Arc<dyn StoredPart>>,
}

/// What an update makes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing changes.
    Leave,
    /// The entry goes, without a trace.
    Remove,
    /// The entry becomes this.
    Replace {
        /// Its meta.
        meta: Vec<u8>,
        /// Which of the old parts stay, ascending. They stand first.
        keep: Vec<usize>,
        /// Whether the new value stands behind them.
        add: bool,
    },
}

/// A new value, on its way into an entry.
pub enum NewPart {
    /// A value short enough to be held in memory.
    Bytes(Vec<u8>),
    /// A long one that a [`PartWriter`] has put into its place.
    Written(Box<dyn WrittenPart>),
}

impl NewPart {
    /// Its BLAKE3 hash.
    pub fn hash(&self) -> [u8; 32] {
        match self {
            Self::Bytes(bytes) => *blake3::hash(bytes).as_bytes(),
            Self::Written(part) => part.hash(),
        }
    }

    /// Bytes of the value.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Written(part) => part.length(),
        }
    }
}

/// A long value in its place that no entry names yet. Dropped, it gives its place back.
pub trait WrittenPart: Send {
    /// Bytes of the value.
    fn length(&self) -> u64;
    /// Its BLAKE3 hash.
    fn hash(&self) -> [u8; 32];
    /// For the store, to know its own again.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// Takes a long value as it comes. Dropped before its end, it gives its place back.
pub trait PartWriter: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError>;
    /// Ends a value that has come whole.
    fn finish(self: Box<Self>) -> Result<Box<dyn WrittenPart>, StorageError>;
}

/// What the store says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Entries, tombstones among them.
    pub entries: u64,
    /// The fingerprint of all trees together, 32 hex digits.
    pub fingerprint: String,
    /// What else the engine tells, by name.
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Entries that were read.
    pub entries: u64,
    /// Bytes that were read and verified.
    pub bytes: u64,
    /// Each broken invariant, a sentence. Empty: the store is whole.
    pub violations: Vec<String>,
}

/// What a backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Entries in it.
    pub entries: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The fingerprint of what it holds, 32 hex digits.
    pub fingerprint: String,
}

/// The store of a node.
pub trait Storage: Send + Sync + 'static {
    /// The entry of a key.
    fn entry(&self, key: &[u8]) -> Result<Option<Entry>, StorageError>;

    /// A place for a value of `length` bytes.
    fn writer(&self, length: u64) -> Result<Box<dyn PartWriter>, StorageError>;

    /// Reads an entry, lets `decide` see it, and commits what it decided, durably, only if nobody
    /// wrote the key in between. `decide` may run more than once.
    fn update(
        &self,
        key: &[u8],
        new: Option<NewPart>,
        decide: &mut dyn FnMut(Option<&Entry>) -> Decision,
    ) -> Result<(), StorageError>;

    /// The tombstones among the next `limit` entries behind the place of `after`.
    fn tombstones(&self, after: Option<&[u8]>, limit: usize) -> Result<Tombstones, StorageError>;

    /// What the store says of itself.
    fn status(&self) -> Result<StoreStatus, StorageError>;

    /// Reads and verifies everything.
    fn check(&self) -> Result<CheckReport, StorageError>;

    /// Writes a consistent copy to a new file, while the store is in use.
    fn backup(&self, to: &Path) -> Result<BackupReport, StorageError>;

    /// Writes what is in memory and lets go of the file.
    fn close(&self) -> Result<(), StorageError>;
}

/// A stretch of a walk over the tombstones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tombstones {
    /// Keys and metas.
    pub found: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// Opens the store of a node, creating it in an empty folder, and gives the node's name in it.
pub fn open(
    config: &Config,
    accept_loss: Option<u64>,
) -> Result<(Arc<dyn Storage>, NodeId), Error> {
    let _ = (config, accept_loss);
    Err(Error::Setting(
        "this build has no engine that could keep a store".to_owned(),
    ))
}

/// Makes a backup the store of a folder that has none. Gives what it holds.
pub fn restore(backup: &Path, folder: &Path) -> Result<BackupReport, Error> {
    let _ = (backup, folder);
    Err(Error::Setting(
        "this build has no engine that could keep a store".to_owned(),
    ))
}
