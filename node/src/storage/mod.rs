//! The node's store: one tree per partition, in one file of the engine's.
//!
//! Calls block: the server makes them away from the network's threads. Keys are those of clients;
//! here they get their token and their tree.
//!
//! Invariants:
//! - A key lies in the tree of its partition, behind its token, and nowhere else.
//! - The trees hold entries of clients and nothing more, so that two replicas of a partition are
//!   equal when count and fingerprint are. What the node notes for itself is in a tree of its own.
//! - Once [`Storage::update`] has returned, its change is as durable as the node was told to make
//!   changes.

mod damage;
mod opening;
mod place;
mod reports;
mod upkeep;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::{
    Batch, Decision, Durability, Entry, Lsn, NewPart, Store, Summary, Tree, Writer, Written,
};
use parking_lot::Mutex;

use crate::hash::{Partition, TOKEN_BYTES, key_hash, stored_key};
use crate::version::NodeId;

use damage::{Damage, Notices, Trust};
use place::Place;

pub use damage::Teller;
pub use opening::{STORE, open, restore};
pub use reports::{BackupReport, CheckReport, DamagedValue, StoreStatus};
pub(crate) use upkeep::client_key;

/// A value no longer than this stands in its entry; a longer one has a place of its own.
pub const INLINE_BYTES: usize = 1024;

/// Why the store did not do what was asked. Each is a sentence for the client or the operator.
#[derive(Debug)]
pub enum StorageError {
    /// The engine says no.
    Engine(engine::Error),
    /// The engine takes no writes until it is opened again.
    Poisoned {
        /// What failed, and how.
        cause: Arc<str>,
        /// Where writes are acknowledged before they are durable: those above this may be lost.
        buffered_above: Option<Lsn>,
    },
    /// The bytes of a value are not what was put. A new value of the key heals it.
    Damaged {
        /// The key.
        key: Vec<u8>,
        /// What was found, and where.
        fault: String,
    },
    /// The tree that a key stands in is damaged.
    TreeDamaged {
        /// The key.
        key: Vec<u8>,
        /// What was found, and where.
        source: engine::Error,
    },
    /// No backup was made.
    Backup {
        /// Where to.
        to: PathBuf,
        /// Why, a sentence.
        why: String,
        /// Whether damage is the reason.
        damage: bool,
    },
    /// A bug of ours ended the request.
    Failed(String),
}

impl StorageError {
    /// Whether bytes on the disk are not what was put.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_damage(),
            Self::Damaged { .. } | Self::TreeDamaged { .. } => true,
            Self::Backup { damage, .. } => *damage,
            Self::Poisoned { .. } | Self::Failed(_) => false,
        }
    }
}

/// A key as people see it: as it was typed, with what cannot be printed escaped.
pub fn shown(key: &[u8]) -> String {
    let mut shown = String::with_capacity(key.len() + 2);
    shown.push('"');
    for chunk in key.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => shown.extend(['\\', c]),
                // What could move a terminal's cursor, or stand for another letter.
                _ if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => {
                    shown.extend(c.escape_default());
                }
                _ => shown.push(c),
            }
        }
        shown.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    shown.push('"');
    shown
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(engine::Error::DiskFull) => f.write_str(
                "the disk is full: the value was not stored; delete something, or give the disk \
                 room",
            ),
            Self::Poisoned {
                cause,
                buffered_above: None,
            } => write!(
                f,
                "the store takes no writes since {cause}; what was acknowledged is safe: mend the \
                 disk and start the node again"
            ),
            Self::Poisoned {
                cause,
                buffered_above: Some(durable),
            } => write!(
                f,
                "the store takes no writes since {cause}; what was acknowledged up to LSN {durable} \
                 is safe, and what came after may be lost, for the node runs with buffered_writes: \
                 mend the disk and start the node again"
            ),
            Self::Engine(error) if error.is_map_damage() => write!(
                f,
                "damaged: the store does not know any more where it has room, so nothing was \
                 changed ({error}); what it holds can be read: make a backup of it, and restore that \
                 into a new folder"
            ),
            Self::Engine(error) if error.is_damage() => write!(f, "damaged: {error}"),
            Self::Engine(error) => error.fmt(f),
            // A reply that begins with this word is known to clients: see `text`.
            Self::Damaged { key, fault } => write!(
                f,
                "damaged: the value of {} is not what was put ({fault}); put it again, or load its \
                 folder again",
                shown(key)
            ),
            Self::TreeDamaged { key, source } => write!(
                f,
                "damaged: the tree that {} belongs to cannot be read ({source}); restore a backup",
                shown(key)
            ),
            Self::Backup { to, why, .. } => {
                write!(f, "no backup was made at {}: {why}", to.display())
            }
            Self::Failed(how) => write!(f, "the node failed at this request: {how}"),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Engine(error) => std::error::Error::source(error),
            Self::TreeDamaged { source, .. } => Some(source),
            Self::Poisoned { .. }
            | Self::Damaged { .. }
            | Self::Backup { .. }
            | Self::Failed(_) => None,
        }
    }
}

impl From<engine::Error> for StorageError {
    fn from(error: engine::Error) -> Self {
        Self::Engine(error)
    }
}

/// A new value, on its way into an entry. Cheap to clone where it is long: an update that has to
/// try again does not write it again.
#[derive(Debug, Clone)]
pub enum Value {
    /// One that stands in its entry.
    Short(Vec<u8>),
    /// One that has been written to its place. Dropped before an entry names it, it gives that back.
    Written(Written),
}

impl Value {
    /// Its BLAKE3 hash.
    pub fn hash(&self) -> [u8; 32] {
        match self {
            Self::Short(bytes) => *blake3::hash(bytes).as_bytes(),
            Self::Written(part) => part.hash(),
        }
    }

    /// Bytes of the value.
    pub fn length(&self) -> u64 {
        match self {
            Self::Short(bytes) => bytes.len() as u64,
            Self::Written(part) => part.length(),
        }
    }

    /// As a part of an entry.
    pub fn part(&self) -> NewPart {
        match self {
            Self::Short(bytes) => NewPart::Bytes(bytes.clone()),
            Self::Written(part) => NewPart::Written(part.clone()),
        }
    }
}

/// How far a walk over the tombstones has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// Which of the partitions.
    partition: usize,
    /// The least key that it has not seen, as stored.
    low: Vec<u8>,
}

/// Keys and metas of tombstones, and where to go on; `None` at the end.
pub type Tombstones = (Vec<(Vec<u8>, Vec<u8>)>, Option<Walk>);

/// The store of a node.
pub struct Storage {
    store: Store,
    node: NodeId,
    q: u32,
    /// Names that the node had before: see [`Storage::knows`].
    earlier: Vec<NodeId>,
    durability: Durability,
    partitions: Vec<Tree>,
    /// What the node notes for itself.
    own: Tree,
    damage: Damage,
    /// Whether the store notes that damage is known.
    damage_noted: Mutex<bool>,
    notices: Notices,
    place: Place,
}

impl Storage {
    /// The node's name in versions.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether a node of this name has ever written here: this one, or the one of which its store
    /// is a copy.
    pub fn knows(&self, node: NodeId) -> bool {
        node == self.node || self.earlier.contains(&node)
    }

    /// Has `teller` take what the operator should know, what was found until now first.
    pub fn listen(&self, teller: Teller) {
        self.notices.listen(teller);
    }

    /// The data folder, wherever it has been moved to since; `None` where nobody can tell.
    pub fn folder(&self) -> Option<PathBuf> {
        self.place.folder()
    }

    fn tree(&self, key: &[u8]) -> &Tree {
        &self.partitions[Partition::index(key_hash(key), self.q)]
    }

    /// The entry of a key.
    pub fn entry(&self, key: &[u8]) -> Result<Option<Entry>, StorageError> {
        let entry = self.tree(key).entry(&stored_key(key));
        entry.map_err(|error| self.fault_at(key, error))
    }

    /// A fault of the tree under a key.
    fn fault_at(&self, key: &[u8], error: engine::Error) -> StorageError {
        // A write that finds no place says nothing of what the key has.
        if !error.is_damage() || error.is_map_damage() {
            return self.fault(error);
        }
        self.note_damage(key, &format!("its tree: {error}"));
        StorageError::TreeDamaged {
            key: key.to_vec(),
            source: error,
        }
    }

    /// What a fault means that reading a value of `key` met.
    pub fn fault_of_value(&self, key: &[u8], error: engine::Error) -> StorageError {
        if !error.is_damage() {
            return self.fault(error);
        }
        let fault = error.to_string();
        self.note_damage(key, &fault);
        let key = key.to_vec();
        StorageError::Damaged { key, fault }
    }

    fn note_damage(&self, key: &[u8], fault: &str) {
        if let Some(line) = self.damage.note(key, fault) {
            self.notices.tell(line);
        }
        self.remember_damage();
    }

    /// Has the store note whether damage is known, so that the next node on it believes no kept hash
    /// either. Best effort: a damaged disk may take no write.
    fn remember_damage(&self) {
        // Held until it is written: of two who note, the later one's is the word that stays.
        let mut noted = self.damage_noted.lock();
        let known = self.damage.is_any();
        if *noted == known {
            return;
        }
        let mut batch = Batch::new();
        opening::put_damaged(&mut batch, &self.own, known);
        if self.store.commit(batch, Durability::Durable).is_ok() {
            *noted = known;
        }
    }

    /// The hash of each value of a key, as they are kept; with `read`, the values are read from the
    /// disk and compared first. No hash is given for bytes that are known to be damaged.
    pub fn hashes(&self, key: &[u8], read: bool) -> Result<Option<Vec<[u8; 32]>>, StorageError> {
        let Some(entry) = self.entry(key)? else {
            return Ok(None);
        };
        let trust = self.damage.trust(key);
        if let Trust::Damaged(fault) = trust {
            let key = key.to_vec();
            return Err(StorageError::Damaged { key, fault });
        }
        if read || trust == Trust::Unknown {
            for index in 0..entry.parts_len() {
                let verified = entry.verify_part(index);
                verified.map_err(|error| self.fault_of_value(key, error))?;
            }
        }
        let hashes = (0..entry.parts_len()).filter_map(|index| entry.part_hash(index));
        Ok(Some(hashes.collect()).filter(|hashes: &Vec<_>| !hashes.is_empty()))
    }

    /// A place for a value of `length` bytes, more than [`INLINE_BYTES`].
    pub fn writer(&self, length: u64) -> Result<Writer, StorageError> {
        // Its place is the store's; the tree is known once an entry names it.
        let writer = self.partitions[0].writer(length);
        writer.map_err(|error| self.fault(error))
    }

    /// What a refusal means for what this node has acknowledged.
    fn fault(&self, error: engine::Error) -> StorageError {
        match error {
            engine::Error::Poisoned { cause, durable } => StorageError::Poisoned {
                cause,
                buffered_above: (self.durability == Durability::Buffered).then_some(durable),
            },
            other => other.into(),
        }
    }

    /// A value that has come whole.
    pub fn value(&self, bytes: Vec<u8>) -> Result<Value, StorageError> {
        if bytes.len() <= INLINE_BYTES {
            return Ok(Value::Short(bytes));
        }
        let mut writer = self.writer(bytes.len() as u64)?;
        writer.push(&bytes)?;
        Ok(Value::Written(writer.finish()?))
    }

    /// Reads an entry, lets `decide` see it, and commits what it decided, only if nobody wrote the
    /// key in between. `decide` may run more than once.
    pub fn update(
        &self,
        key: &[u8],
        mut decide: impl FnMut(Option<&Entry>) -> Decision,
    ) -> Result<(), StorageError> {
        let key_stored = stored_key(key);
        let mut replaced = false;
        let decide = |old: Option<&Entry>| {
            let decision = decide(old);
            // Of a damaged entry nothing must stay: which of its parts is damaged is not kept.
            let keeps = |part: &NewPart| matches!(part, NewPart::Keep(_));
            replaced = match &decision {
                Decision::Put(new) => !new.parts.iter().any(keeps),
                Decision::Delete => true,
                Decision::Leave => false,
            };
            Ok(decision)
        };
        self.tree(key)
            .update(&key_stored, self.durability, decide)
            .map_err(|error| self.fault_at(key, error))?;
        if replaced && self.damage.forget(key) {
            self.remember_damage();
        }
        Ok(())
    }

    /// The tombstones among the next `limit` entries of a walk.
    pub fn tombstones(&self, mut walk: Walk, limit: usize) -> Result<Tombstones, StorageError> {
        let snapshot = self.store.snapshot();
        let (mut found, mut seen) = (Vec::new(), 0);
        while let Some(tree) = self.partitions.get(walk.partition) {
            for entry in snapshot.range(tree, &walk.low, None) {
                let entry = entry?;
                if seen == limit {
                    walk.low = entry.key().to_vec();
                    return Ok((found, Some(walk)));
                }
                seen += 1;
                if entry.parts_len() == 0 {
                    let key = entry.key().get(TOKEN_BYTES..).unwrap_or_default();
                    found.push((key.to_vec(), entry.meta().to_vec()));
                }
            }
            walk = Walk {
                partition: walk.partition + 1,
                low: Vec::new(),
            };
        }
        Ok((found, None))
    }

    /// Count and fingerprint of all partitions together, as of one moment.
    pub fn summary(&self) -> Result<Summary, StorageError> {
        summary(&self.store, &self.partitions)
    }

    /// Writes what is in memory and lets go of the file. Later writes are refused.
    pub fn close(&self) -> Result<(), StorageError> {
        let closed = self.store.clone().close();
        closed.map_err(|error| self.fault(error))
    }
}

/// Count and fingerprint of some trees together, as of one moment.
fn summary(store: &Store, trees: &[Tree]) -> Result<Summary, StorageError> {
    let snapshot = store.snapshot();
    let mut sum = Summary::EMPTY;
    for tree in trees {
        sum = sum.plus(snapshot.fingerprint(tree, &[], None)?);
    }
    Ok(sum)
}
